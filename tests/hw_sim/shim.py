"""The shim that kills a process, or fails one of its calls, at the n-th call to files (crash_shim.c)."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("crash_shim.c")


class How(IntEnum):
    """As in the shim."""

    COUNT = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2
    KILL_HALF = 3
    """Half of the bytes are written."""
    FAIL = 4
    HALF_THEN_FAIL = 5
    """A write says that it wrote half, and the next one fails."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What happens at call `at` of those that are labelled `during`. `for_ever`: every later call fails as well."""

    how: How = How.COUNT
    during: str = ""
    at: int = -1
    errno: int = 0
    for_ever: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as the shim told it. `nth`: of those with its label; `label`: what the process was doing; `file`: below
    the folder."""

    nth: int
    call: str
    label: str
    file: str
    size: int


class NoCompiler(Exception):
    """The shim cannot be made here."""


def made(folder: Path) -> Path:
    """The shim, compiled into a folder. Raises `NoCompiler`."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler("a C compiler is needed to reach SQLite's own writes: apt-get install gcc libc6-dev")
    shim = folder / "crash_shim.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-o", str(shim), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoCompiler(f"{compiler} cannot make {SOURCE.name}: {done.stderr.strip()[:500]}")
    return shim


def again_with(shim: Path, arguments: Sequence[str]) -> int:
    """This program once more, with the shim before the C library; its exit code."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=os.environ | {"LD_PRELOAD": str(shim)}, check=False).returncode


class Shim:
    """The shim in this process. Raises `AttributeError` where it is not loaded."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._arm, self._disarm = library.shim_arm, library.shim_disarm
        self._label, self._broken = library.shim_label, library.shim_broken
        self._now = "-"

    def arm(self, below: Path, log: Path, arm: Arm) -> None:
        """From now on calls to files below a folder are counted and told to `log`."""
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        what = (arm.during.encode(), ctypes.c_long(arm.at), int(arm.how), arm.errno, int(arm.for_ever))
        self._arm(os.fsencode(below.resolve()), fd, *what)

    def disarm(self) -> None:
        self._disarm()

    @property
    def broken(self) -> bool:
        """Whether a call was made to fail."""
        return bool(self._broken())

    @contextmanager
    def labelled(self, text: str) -> Iterator[None]:
        """What the process does now."""
        before, self._now = self._now, text
        self._label(text.encode())
        try:
            yield
        finally:
            self._now = before
            self._label(before.encode())


def told(log: Path) -> list[Call]:
    """What the shim wrote into a log."""
    if not log.exists():
        return []
    counted = Counter[str]()
    found = []
    for line in log.read_text().splitlines():
        _, call, label, file, size = line.split("\t")
        counted[label] += 1
        found.append(Call(counted[label], call, label, file, int(size)))
    return found
