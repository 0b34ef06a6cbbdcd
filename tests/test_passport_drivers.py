"""The passport drivers keep the contract of their kind."""

import asyncio
from types import MappingProxyType as frozen

from drivers.passport import elyctis, lines, rte
from gated.icao.mrz import parse
from gated.lane.events import DocumentPresented, DocumentRemoved, DocumentUnreadable, Door
from tests.contract.passport import PassportContract, documents
from tests.hw_sim import virtual
from tests.hw_sim.readers import ElyctisReader, LinesReader, RteReader


class TestElyctis(PassportContract):
    driver, reader = elyctis, ElyctisReader
    tells_removal = asks = True

    def test_the_reader_is_armed_again_and_finds_a_swapped_document_by_itself(self) -> None:
        """ "After a successful reading this mode is automatically deactivated, so a new command need to be send"."""

        async def walk() -> None:
            self.options = frozen({"inquire_every_s": 1000.0})
            rig, _ = self.in_memory()
            first, second = documents()[:2]
            async with rig:
                await rig.ready()
                await asyncio.sleep(1.0)
                await rig.reader.insert(first)
                await asyncio.sleep(1.0)
                await rig.reader.remove()
                await rig.reader.insert(second)
                await asyncio.sleep(1.0)
                presented = [DocumentPresented(parse(mrz), Door.B) for mrz in (first, second)]
                assert rig.events == [presented[0], DocumentRemoved(Door.B), presented[1]]

        virtual.run(walk())

    def test_the_same_document_is_not_told_twice_however_often_it_is_read(self) -> None:
        async def walk() -> None:
            rig, _ = self.in_memory()
            async with rig:
                await rig.ready()
                await rig.reader.insert(documents()[0])
                await asyncio.sleep(60.0)
                assert len(rig.events) == 1
                assert isinstance(rig.reader, ElyctisReader)
                assert rig.reader.commands.count(ord("I")) > 50

        virtual.run(walk())

    def test_a_reader_that_only_babbles_is_lost(self) -> None:
        async def walk() -> None:
            rig, _ = self.in_memory()
            async with rig:
                await rig.ready()
                rig.reader.stall()
                while rig.running is not None and not rig.running.done():
                    await rig.reader.babble(b"\x00\xff")
                    await asyncio.sleep(0.5)
                assert await rig.fault(0.1) == "garbled"

        virtual.run(walk())

    def test_a_document_that_is_taken_too_early_is_told_as_unreadable(self) -> None:
        async def walk() -> None:
            rig, _ = self.in_memory("delayed")
            async with rig:
                await rig.ready()
                await asyncio.sleep(0.5)  # between two polls
                await rig.reader.insert(documents()[0])  # its first text is under way ...
                await rig.reader.remove()  # ... and the second reading finds nothing
                await asyncio.sleep(5.0)
                assert rig.events == [DocumentUnreadable("taken_early", Door.B), DocumentRemoved(Door.B)]

        virtual.run(walk())


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
