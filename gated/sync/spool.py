"""Where fetched files wait until they are applied, and whether the disk has room for more of them."""

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gated.sync.refused import SyncRefused, Why

SPARE_BYTES: Final = 64 << 20
"""So much of the disk is left to the lane, whose records must never lack room for what sync fetches."""


class Spool:
    """The folder of what was fetched. Whole files are proven; what ends in `.part` is gone on with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with on_disk(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def place(self, path: str) -> Path:
        """Where a file of HQ's server waits."""
        return self._folder / path.replace("/", ".")

    def has(self, path: str) -> bool:
        return self.place(path).exists()

    def drop(self, path: str) -> None:
        """It was applied, or is not wanted."""
        with on_disk(self._folder):
            self.place(path).unlink(missing_ok=True)

    def keep(self, below: str, wanted: Collection[str] = ()) -> None:
        """Drop what was fetched from below a folder of HQ's, but `wanted`, whole or in part."""
        start, names = below.strip("/").replace("/", ".") + ".", {self.place(path).name for path in wanted}
        with on_disk(self._folder):
            for file in self._folder.iterdir():
                if file.name.startswith(start) and file.name.removesuffix(".part") not in names:
                    file.unlink(missing_ok=True)

    def lacks(self, needed: int) -> int:
        """How many bytes the disk lacks to take `needed` more; 0: there is room."""
        with on_disk(self._folder):
            return max(0, needed + SPARE_BYTES - shutil.disk_usage(self._folder).free)

    def room(self, needed: int, what: str) -> None:
        """Raises `SyncRefused` (disk_full) where there is no room for so many bytes."""
        if lacking := self.lacks(needed):
            raise SyncRefused(
                Why.DISK_FULL, what, f"{-(-lacking >> 20)} MiB more are needed below {self._folder.parent}"
            )


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Turns errors of the file system into `SyncRefused`: disk_full, store."""
    try:
        yield
    except OSError as bad:
        said = f"the system says {os.strerror(bad.errno or 0).lower()}"
        if bad.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SyncRefused(Why.DISK_FULL, path.name, f"{said}: free space where {path.parent} is") from bad
        raise SyncRefused(Why.STORE, path.name, f"{said}: look at {path.parent} and at the kernel's log") from bad


def write_whole(path: Path, data: bytes, mode: int = 0o640) -> None:
    """A small file, whole and durable or not there. Raises `SyncRefused`: disk_full, store."""
    part = path.with_name(path.name + ".part")
    with on_disk(path):
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_names(path.parent)


def sync_names(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
