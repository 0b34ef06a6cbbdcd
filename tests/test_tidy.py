"""The house's rules as tests: who may import whom, what stays pure, how files look. See docs/architecture.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("gated", "drivers", "models")

# The import rule. A module may import its own package and what its row names (a package stands for all in it);
# the longest fitting row counts. `drivers` has a rule of its own below.
_SHARED = (
    "gated.wire",
    "gated.store",
    "gated.config",
    "gated.control",
    "gated.control_peer",
    "gated.mqtt",
    "gated.notify",
    "gated.logs",
    "gated.metrics",
)
_BELOW_DAEMON = (
    "gated.biometrics", "gated.config", "gated.control", "gated.control_peer", "gated.control_socket",
    "gated.control_views",
    "gated.guidance", "gated.icao", "gated.lane", "gated.logs", "gated.metrics", "gated.notify", "gated.policyfile",
    "gated.store", "gated.toml",
    "gated.wire", "drivers", "models",
)  # fmt: skip
RULE: dict[str, tuple[str, ...]] = {
    "gated": (),
    "gated.toml": (),
    "gated.sections": (),
    "gated.config": ("gated.sections", "gated.toml"),
    "gated.policyfile": ("gated.config", "gated.lane", "gated.toml"),
    "gated.control": ("gated.control_peer",),
    "gated.control_peer": (),
    "gated.control_views": (),
    "gated.control_socket": ("gated.control", "gated.control_peer"),
    "gated.lazy": (),
    "gated.logs": (),
    "gated.metrics": ("gated.config",),
    "gated.mqtt": (),
    "gated.notify": (),
    "gated.wire": (),
    "gated.icao": (),
    "gated.guidance": (),
    "models": (),
    "gated.lane": ("gated.wire", "gated.icao"),
    "gated.biometrics": ("models", "gated.icao"),
    "gated.store": ("gated.wire",),
    "gated.uplink": (*_SHARED, "gated.sync.control"),  # what it may ask the sync for; nothing else of it
    "gated.sync": (*_SHARED, "gated.control_socket"),
    "gated.daemon": _BELOW_DAEMON,
    "gated.cli": (*_BELOW_DAEMON, "gated.lazy", "gated.daemon", "gated.uplink", "gated.sync", "gated.mqtt"),
    "gated.hq": (
        "gated.wire",
        "gated.icao",
        "gated.config",
        "gated.lane",
        "gated.policyfile",
        "gated.biometrics",
        "models",
        "gated.lazy",
        "gated.logs",
        "gated.metrics",
        "gated.mqtt",
        "gated.notify",
    ),
}
DRIVERS = ("gated.lane.events", "gated.lane.commands", "gated.icao", "drivers.base", "drivers.links")

PURE = ("gated.wire", "gated.icao", "gated.lane")
IMPURE = {
    "asyncio", "concurrent", "http", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets",
    "select", "selectors", "shutil", "signal", "socket", "sqlite3", "structlog", "subprocess", "tempfile",
    "threading", "time", "urllib", "uuid",
}  # fmt: skip
IMPURE_CALLS = {"now", "utcnow", "today", "open", "print", "input", "getLogger"}

KERNEL = {"serial", "gpiozero", "lgpio", "usb", "smartcard", "gi"}
"""Libraries that talk to devices: below `drivers.links` alone."""
NOT_IN_DRIVERS = {"threading", "time", "socket", "subprocess", "concurrent", "multiprocessing"}
"""Drivers take time from the event loop alone and start no threads."""

LINES_MAX = 400
LONGER = {"gated/lane/events.py": "everything that can happen to a lane is read in one piece"}


def modules(*packages: str) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of everything in `packages`."""
    for package in packages:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def imports(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[tuple[str, int]]:
    """(imported module, line), wherever it stands: at the top, inside of functions, under TYPE_CHECKING, by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                keep = len(parts) - node.level + is_package
                base = ".".join([*parts[:keep], *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if is_module(inner) else base, node.lineno
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            for name in node.args[:1]:
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield name.value, node.lineno


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def may_import(importer: str, imported: str) -> bool:
    """The import rule for two modules of the project."""
    if within(importer, "drivers"):
        kind = ".".join(importer.split(".")[:2])
        return imported == kind or any(within(imported, ok) for ok in DRIVERS)
    if imported == "gated":  # the version
        return True
    row = max((row for row in RULE if within(importer, row)), key=len)
    own = () if row == "gated" else (row,)
    return any(within(imported, ok) for ok in (*own, *RULE[row]))


def breaches(source: str, module: str, is_package: bool = False) -> list[str]:
    """What `module` breaks of the import rule and of purity."""
    tree = ast.parse(source)
    found = []
    pure = any(within(module, package) for package in PURE)
    driver = within(module, "drivers") and not within(module, "drivers.links")
    for name, line in imports(tree, module, is_package):
        top = name.split(".")[0]
        if top in (*PRODUCT, "tests", "benchmarks"):
            if not may_import(module, name):
                found.append(f"{module}:{line} may not import {name}")
        elif pure and top in IMPURE:
            found.append(f"{module}:{line} is pure and may not import {name}")
        elif driver and top in NOT_IN_DRIVERS:
            found.append(f"{module}:{line} is a driver and may not import {name}")
        elif top in KERNEL and not within(module, "drivers.links"):
            found.append(f"{module}:{line} may not import {name}: that is for links")
    if pure:
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or (isinstance(node.func, ast.Attribute) and node.func.attr == "open"):
                continue  # seals are opened by that name; files have no way in, since pathlib and io are not imported
            if _called(node) in IMPURE_CALLS:
                found.append(f"{module}:{node.lineno} is pure and may not call {_called(node)}()")
    return found


def silences(source: str) -> list[int]:
    """Lines of bare and silent excepts. A narrow one that does nothing must say why, in a comment beside it."""
    lines = []
    text = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            kinds = _names(node.type)
            broad = node.type is None or {"Exception", "BaseException"} & kinds
            again = kinds <= {"BlockingIOError", "InterruptedError", "TimeoutError"}
            said = any("#" in line for line in text[node.lineno - 1 : node.body[-1].end_lineno])
            if node.type is None or (_does_nothing(node.body) and (broad or not (again or said))):
                lines.append(node.lineno)
        elif isinstance(node, ast.Call) and _called(node) == "suppress":
            lines += [node.lineno for kind in node.args if {"Exception", "BaseException"} & _names(kind)]
    return lines


def _names(kind: ast.expr | None) -> set[str]:
    return {part.id for part in ast.walk(kind) if isinstance(part, ast.Name)} if kind else set()


def _does_nothing(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(each, ast.Pass | ast.Continue)
        or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        for each in body
    )


def test_everybody_imports_what_they_may() -> None:
    found = []
    for module, file in modules(*PRODUCT):
        found += breaches(file.read_text(), module, file.name == "__init__.py")
    assert not found, "\n".join(found)


def test_every_module_has_a_row() -> None:
    """A new package or file must be thought about, not fall under the row of `gated`."""
    for module, _ in modules("gated", "models"):
        assert module == "gated" or any(within(module, row) for row in RULE if row != "gated"), (
            f"{module}: no row in RULE"
        )


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        ("gated.lane.machine", "from gated.store import outbox", "may not import gated.store"),
        ("gated.lane.machine", "def f():\n    import gated.daemon.loop", ":2 may not import gated.daemon.loop"),
        ("gated.lane.machine", "from ..config import load", "may not import gated.config"),
        ("gated.daemon.app", "from gated.uplink import main", "may not import gated.uplink"),
        ("gated.daemon.app", "from gated.cli import here", "may not import gated.cli.here"),
        ("gated.daemon.app", "import_module('tests.hw_sim')", "may not import tests.hw_sim"),
        ("gated.store.db", "if TYPE_CHECKING:\n  import gated.lane", "may not import gated.lane"),
        ("gated.cli.run", "import gated.hq.ingest", "may not import gated.hq.ingest"),
        ("gated.config", "from gated.control import Client", "may not import gated.control"),
        ("gated.hq.ingest", "from gated.store.db import LaneDb", "may not import gated.store.db"),
        ("gated.odd", "import gated.config", "may not import gated.config"),
        ("drivers.passport.lines", "from drivers.passport import elyctis", "may not import drivers.passport.elyctis"),
        ("drivers.passport.lines", "from drivers.door import x", "may not import drivers.door"),
        ("drivers.door.gpio", "from gated.lane.policy import Verdict", "may not import gated.lane.policy"),
        ("drivers.door.gpio", "import gpiozero", "that is for links"),
        ("drivers.door.gpio", "from time import monotonic", "is a driver and may not import time"),
        ("gated.icao.mrz", "import os.path", "is pure and may not import os.path"),
        ("gated.wire.seal", "def f():\n from secrets import token_bytes", "is pure and may not import secrets"),
        ("gated.lane.policy", "x = datetime.now()", "is pure and may not call now()"),
        ("gated.icao.mrz", "open('x')", "is pure and may not call open()"),
    ],
)  # fmt: skip
def test_planted_breaches_are_found(module: str, source: str, says: str) -> None:
    found = breaches(source, module)
    assert len(found) == 1 and says in found[0], found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "gated.lane.machine",
            "from gated.lane.events import Door\nfrom gated.icao.check import Check\nfrom . import events",
        ),
        ("gated.cli.run", "from gated.daemon.app import main\nfrom gated import __version__"),
        (
            "drivers.passport.lines",
            "from drivers.passport import Slot\nfrom drivers.links import ByteLink\nimport asyncio",
        ),
        ("drivers.links.serial", "import serial, threading\nfrom drivers.base import DeviceFault"),
        ("gated.daemon.app", "import os\nimport drivers.door.gpio\nfrom gated.lane import machine"),
    ],
)
def test_what_is_allowed_is_not_a_breach(module: str, source: str) -> None:
    assert breaches(source, module) == []


def test_no_except_is_bare_or_silent() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for _, file in modules(*PRODUCT, "tests", "benchmarks")
        for line in silences(file.read_text())
    ]
    assert not found, found


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("try:\n  f()\nexcept:\n  raise", [3]),
        ("try:\n  f()\nexcept OSError:\n  pass", [3]),
        ("try:\n  f()\nexcept (KeyError, Exception):\n  pass  # whatever", [3]),
        ("try:\n  f()\nexcept FileExistsError:\n  pass  # the usual case: it is opened below", []),
        ("while True:\n  try:\n    f()\n  except BlockingIOError:\n    continue", []),
        ("for x in y:\n  try:\n    f()\n  except OSError:\n    'why'\n    continue", [4]),
        ("with contextlib.suppress(Exception):\n  f()", [1]),
        ("try:\n  f()\nexcept OSError as bad:\n  log.warning('it broke', why=str(bad))", []),
        ("with contextlib.suppress(FileNotFoundError):\n  f()", []),
    ],
)
def test_planted_silences_are_found(source: str, lines: list[int]) -> None:
    assert silences(source) == lines


def test_every_module_says_what_it_is() -> None:
    for _, file in modules(*PRODUCT, "tests", "benchmarks", "docs"):
        source = file.read_text()
        assert not source.strip() or ast.get_docstring(ast.parse(source)), f"{file}: the first line says what it is"


def test_files_stay_short() -> None:
    for _, file in modules(*PRODUCT, "tests/hw_sim"):
        name = str(file.relative_to(ROOT))
        length = len(file.read_text().splitlines())
        assert length <= LINES_MAX or name in LONGER, f"{name} has {length} lines: which two nouns is it?"
    for name in LONGER:
        assert (ROOT / name).is_file() and len((ROOT / name).read_text().splitlines()) > LINES_MAX, (
            f"{name} needs no exception"
        )
