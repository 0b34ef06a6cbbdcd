"""Whether the system's Python has libfprint; tests of the real helper skip, saying so, where it has not."""

import subprocess
from functools import cache

import pytest

PYTHON = "/usr/bin/python3"


@cache
def _missing() -> str:
    probe = "import gi; gi.require_version('FPrint', '2.0'); from gi.repository import FPrint"
    try:
        done = subprocess.run([PYTHON, "-I", "-c", probe], check=False, capture_output=True, text=True, timeout=60)
    except OSError as error:
        return str(error)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def needs_libfprint() -> None:
    """Skips the test where there is no libfprint for `PYTHON`."""
    if missing := _missing():
        pytest.skip(f"no libfprint for {PYTHON} ({missing}): make fprint installs it on Debian")
