"""What every test is held to: whoever started a thread or a process ends it. One that goes on would write its log
lines, and take its processor time, in the tests that come after."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

_ENDING_S_MAX: Final = 5.0
"""How long something that was told to end may take, on a busy machine."""


def _running() -> dict[str, str]:
    """Threads and child processes, by an identity that is not used again while a test runs."""
    found = {
        f"thread {each.ident}": f"thread {each.name}"
        for each in threading.enumerate()
        # What answers a client of a module's web server stays as long as the client's connection; lgpio has one thread
        # from its first use on.
        if "(process_request_thread)" not in each.name and type(each).__module__ != "lgpio"
    }
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended; or a kernel without this file
            for pid in (task / "children").read_text().split():
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                # A module's PostgreSQL that a test kills is started again for the next; Python itself ends its tracker.
                if "postgres" not in command and "resource_tracker" not in command:
                    found[f"process {pid}"] = f"process {pid}: {command[:80]}"
    return found


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """Fail a test that leaves something of its own running."""
    before = _running()
    yield
    until = time.monotonic() + _ENDING_S_MAX
    while left := {key: name for key, name in _running().items() if key not in before}:
        if time.monotonic() > until:
            raise AssertionError(f"still running: {', '.join(sorted(left.values()))}")
        time.sleep(0.02)
