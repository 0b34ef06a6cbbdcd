"""What else HQ signed: policy, thresholds, models, CSCA certificates, CRLs, as files below `signed/` of the store.

Each is whole and proven, or the one before is still there. Who uses which of them is not decided here."""

import os
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog

from gated.sync.refused import SyncRefused, Why
from gated.sync.spool import on_disk, sync_names, write_whole
from gated.sync.trust import Trust, Trusted

log = structlog.get_logger()

FILE_BYTES_MAX: Final = 512 << 20
FILES_MAX: Final = 1024
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){0,4}", re.ASCII)


class SignedFiles:
    """The folder of signed files. One thread at a time."""

    def __init__(self, folder: Path, trust: Trust) -> None:
        self._folder, self._trust = folder, trust
        self._known: dict[str, tuple[os.stat_result, bytes]] = {}
        """What was hashed, as it lay there then."""
        with on_disk(folder):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)

    def here(self) -> Mapping[str, tuple[int, bytes]]:
        """Path -> (bytes, sha256) of what lies here. Raises `SyncRefused`."""
        found = {}
        with on_disk(self._folder):
            for file in sorted(self._folder.rglob("*")):
                if file.is_file() and not file.is_symlink() and not file.name.endswith(".part"):
                    name = file.relative_to(self._folder).as_posix()
                    found[name] = (file.stat().st_size, self._hash(name, file))
        return found

    def _hash(self, name: str, file: Path) -> bytes:
        status = file.stat()
        known = self._known.get(name)
        if known is None or _identity(known[0]) != _identity(status):
            with file.open("rb") as source:
                digest = sha256()
                while block := source.read(1 << 20):
                    digest.update(block)
            self._known[name] = known = (status, digest.digest())
        return known[1]

    def take(self, state: Trusted) -> bool:
        """Fetch what is new, remove what HQ removed; whether anything changed. Raises `SyncRefused`."""
        here, changed = self.here(), False
        if len(state.files) > FILES_MAX:
            raise SyncRefused(Why.ENDLESS, "signed files", f"{len(state.files)} of them")
        for path, (size, digest) in sorted(state.files.items()):
            if not _NAME.fullmatch(path) or path.endswith(".part"):
                raise SyncRefused(Why.MALFORMED, path[:100], "no name for a file of HQ's")
            if here.get(path) == (size, digest):
                continue
            if size > FILE_BYTES_MAX:
                raise SyncRefused(Why.ENDLESS, path, "longer than any file of HQ's")
            data = self._trust.target(path, size)
            if len(data) != size or sha256(data).digest() != digest:
                raise SyncRefused(Why.ALTERED, path)
            write_whole(self._folder / path, data)
            log.info("signed file", path=path, bytes=size, sha256=digest.hex()[:16])
            changed = True
        for path in here.keys() - state.files.keys():
            with on_disk(self._folder):
                (self._folder / path).unlink(missing_ok=True)
                sync_names((self._folder / path).parent)
            self._known.pop(path, None)
            log.info("signed file removed by HQ", path=path)
            changed = True
        return changed


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
