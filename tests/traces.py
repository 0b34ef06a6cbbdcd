"""Every byte that processes write, as the kernel was given it: also what is in no file any more when somebody looks.

By strace, which is not on every machine: `can_trace` says. A process that is traced runs as it would, a little slower.
"""

import functools
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CALLS = "write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg"
OPENING = "openat,creat,memfd_create"
OPTIONS = ("-D", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "16777216", "-e", f"trace={CALLS},{OPENING}")
"""-D: the process stays the child of whoever starts it. -y: which file a descriptor is. -xx: bytes as hex."""

_CALL = re.compile(rb"(?:\d+ +)?(\w+)\((.*)")
_TEXT = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"')
_FILE = re.compile(rb"\d+<([^>]*)>")
_TO_WRITE = re.compile(rb"O_(WRONLY|RDWR|CREAT)")


@functools.cache
def can_trace() -> bool:
    """Whether strace is here and may trace."""
    strace = shutil.which("strace")
    return strace is not None and _runs(strace)


def _runs(strace: str) -> bool:
    return subprocess.run([strace, *OPTIONS, "true"], check=False, capture_output=True).returncode == 0


def wrapper(path: Path, traces: Path) -> Path:
    """A program that is Python; what each of its processes writes is written down in a file of `traces`."""
    traces.mkdir(exist_ok=True)
    options = " ".join(OPTIONS)
    path.write_text(f'#!/bin/sh\nexec {shutil.which("strace")} {options} -o {traces}/$$.trace {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


@dataclass(frozen=True)
class Written:
    """What was seen. `folder`: for each file that was written to all bytes, in the order of writing, in a file of its
    own; `opened`: the path of each file that was opened to be written, or made."""

    folder: Path
    opened: frozenset[str]
    size: int

    @classmethod
    def of(cls, traces: Path, folder: Path) -> "Written":
        opened: set[str] = set()
        files: dict[bytes, bytearray] = {}
        for trace in traces.glob("*.trace"):
            with trace.open("rb") as lines:
                for line in lines:
                    if (call := _CALL.match(line)) is None:
                        continue
                    texts = [bytes.fromhex(text.replace(rb"\x", b"").decode()) for text in _TEXT.findall(call[2])]
                    if call[1].decode() not in OPENING.split(","):
                        file = _FILE.match(call[2])
                        files.setdefault(file[1] if file else b"", bytearray()).extend(b"".join(texts))
                    elif call[1] != b"openat" or _TO_WRITE.search(call[2]):
                        opened.update(text.decode(errors="replace") for text in texts)
        folder.mkdir(exist_ok=True)
        for number, data in enumerate(files.values()):
            (folder / f"{number}.bytes").write_bytes(data)
        return cls(folder, frozenset(opened), sum(map(len, files.values())))
