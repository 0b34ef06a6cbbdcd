"""What every test is held to: whoever started a thread or a process ends it. One that goes on would write its log
lines, and take its processor time, in the tests that come after."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

NUL: Final = b"\0"
_ENDING_S_MAX: Final = 5.0
"""How long something that was told to end may take, on a busy machine."""


def _running() -> Counter[str]:
    """Threads, and child processes by their programs: what a module has running may be killed and started again."""
    found = Counter(
        f"thread {each.ident} {each.name}"
        for each in threading.enumerate()
        # What answers a client of a module's web server stays as long as the client's connection; lgpio has one thread
        # from its first use on.
        if "(process_request_thread)" not in each.name and type(each).__module__ != "lgpio"
    )
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended; or a kernel without this file
            for pid in (task / "children").read_text().split():
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                # Python ends its own tracker, and a module its PostgreSQL, which the first test that wants it begins.
                if b"resource_tracker" not in command and b"postgres" not in command:
                    found[f"process {Path(command.partition(NUL)[0].decode(errors='replace')).name}"] += 1
    return found


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """Fail a test that leaves something of its own running."""
    before = _running()
    yield
    until = time.monotonic() + _ENDING_S_MAX
    while left := _running() - before:
        if time.monotonic() > until:
            raise AssertionError(f"still running: {', '.join(sorted(left))}")
        time.sleep(0.02)
