"""The passport drivers keep the contract of their kind."""

from types import MappingProxyType as frozen

from drivers.passport import elyctis, lines, rte
from tests.contract.passport import PassportContract
from tests.hw_sim.readers import ElyctisReader, LinesReader, RteReader


class TestElyctis(PassportContract):
    driver, reader = elyctis, ElyctisReader
    tells_removal = asks = True


class TestRte(PassportContract):
    driver, reader = rte, RteReader


class TestPlainLines(PassportContract):
    driver, reader = lines, LinesReader
    guards_names = False


class TestAccessIs(PassportContract):
    driver, reader, guards_names = lines, LinesReader, False
    options = frozen({"preset": "access_is"})
    dialect = frozen({"family": "access_is", "ending": b"\r\n", "framed": True})


class TestHoneywell(PassportContract):
    driver, reader, guards_names, tells_removal = lines, LinesReader, False, True
    options = frozen({"preset": "honeywell"})
    dialect = frozen({"family": "honeywell", "one_run": True})


class TestNewland(PassportContract):
    driver, reader, guards_names, tells_removal = lines, LinesReader, False, True
    options = frozen({"preset": "newland"})
    dialect = frozen({"family": "newland", "one_run": True, "ending": b""})
