"""HQ's server over HTTPS: small files whole, large ones by Range with resume, every byte counted and proven.

One server, no proxy, no redirect, no compression on the way. Whatever goes wrong is a `SyncRefused` by name."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from gated.sync.line import READ_BYTES, Body, Cut, Line
from gated.sync.refused import SyncRefused, Why
from gated.sync.spool import on_disk, sync_names

Progress = Callable[[int, int], None]
"""(bytes so far, bytes in all)."""

CUTS_MAX: Final = 4
"""So often a transfer that was cut is gone on with before it is given up until the next time."""
_CUT_BYTES: Final = 1 << 20
"""Who sends more than this before the cut is only on a bad line."""
_CUT_S: Final = 0.1
"""Pause after the first cut, doubled with each."""
_PATH: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%-]*(/[A-Za-z0-9][A-Za-z0-9._%-]*)*")
_LATER: Final = "the connection breaks again and again: look at the line to HQ; what has come is gone on with"


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is and how it is spoken to. `ca`, `certificate`, `key`: PEM files (mutual TLS)."""

    url: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    connect_s_max: float = 10.0
    read_s_max: float = 30.0
    bytes_per_s_min: float = 1024.0
    """Slower than this over `read_s_max` counts as `slow`."""


class Fetcher:
    """Fetches below `server.url`. Raises `SyncRefused`: unreachable, missing, slow, endless, truncated, altered,
    malformed (an answer that no server of files gives), disk_full, store."""

    def __init__(self, server: Server) -> None:
        """Raises `SyncRefused` where a certificate or key cannot be used."""
        self._line = Line(
            server.url,
            (server.ca, server.certificate, server.key),
            server.connect_s_max,
            server.read_s_max,
            server.bytes_per_s_min,
        )

    def small(self, path: str, size_max: int) -> bytes:
        """A file of at most so many bytes, unproven."""
        cuts = 0
        while True:
            data = bytearray()
            try:
                with self._opened(path, 0) as body:
                    if body.total is not None and body.total > size_max:
                        raise SyncRefused(Why.ENDLESS, path, f"it has {body.total} bytes, more than {size_max}")
                    while piece := body.read(min(READ_BYTES, size_max + 1 - len(data))):
                        data += piece
                        if len(data) > size_max:
                            raise SyncRefused(Why.ENDLESS, path, f"it has more than {size_max} bytes")
                return bytes(data)
            except Cut:
                cuts = _again(path, cuts, came=bool(data))

    def file(self, path: str, to: Path, size: int, sha256: bytes, progress: Progress | None = None) -> None:
        """A file of exactly `size` bytes with this hash, to `to`. What lies in `to`.part is gone on with (Range); `to`
        exists only when it is proven and fsynced. A `to` that exists and is right is not fetched again.

        A part that was found here and does not lead to the right hash is thrown away and fetched anew once: what the
        lane's own disk altered is no attack of the server's."""
        part = to.with_name(to.name + ".part")
        with on_disk(to):
            if to.exists():
                with open(to, "rb") as there:
                    if _proven(there, size, sha256):
                        return
                to.unlink()
            for _ in range(2):
                with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+b") as out:
                    found = self._fill(path, out, size, progress)
                    out.flush()
                    if _proven(out, size, sha256):
                        os.fsync(out.fileno())
                        part.replace(to)
                        sync_names(to.parent)
                        return
                part.unlink()
                if not found:
                    break
        raise SyncRefused(
            Why.ALTERED, path, "its bytes are not those that HQ signed: look at the server and what is between"
        )

    def close(self) -> None:
        """Idempotent."""
        self._line.close()

    def _fill(self, path: str, out: IO[bytes], size: int, progress: Progress | None) -> bool:
        """Fill a part up to `size` bytes. Whether some of them were there before."""
        have = out.seek(0, os.SEEK_END)
        if have > size:
            have = 0
        found, cuts, came = have > 0, 0, False
        while have < size:
            before = have
            try:
                with self._opened(path, have, size) as body:
                    if body.start != have:  # a server that knows no Range begins anew
                        have, found = 0, False
                    out.seek(have)
                    out.truncate()
                    # where no length was announced, the end must be seen
                    while (have < size or body.total is None) and (
                        piece := body.read(min(READ_BYTES, size + 1 - have))
                    ):
                        if have + len(piece) > size:
                            raise SyncRefused(Why.ENDLESS, path, f"it has more than the {size} bytes that HQ signed")
                        out.write(piece)
                        have, came = have + len(piece), True
                        if progress is not None:
                            progress(have, size)
            except Cut:
                out.flush()
            if have < size:
                cuts = _again(path, 0 if have - before > _CUT_BYTES else cuts, came)
        out.truncate(size)
        return found

    @contextmanager
    def _opened(self, path: str, start: int, size: int | None = None) -> Iterator[Body]:
        """The body of an answer, from `start` or from 0 on. `size`: what the file must have in all."""
        if not _PATH.fullmatch(path) or ".." in path:
            raise SyncRefused(Why.MALFORMED, path[:80], "this is no path on HQ's server")
        body = self._line.get(path, start)
        try:
            if size is not None and body.total is not None and body.total != size:
                why = Why.TRUNCATED if body.total < size else Why.ENDLESS
                raise SyncRefused(why, path, f"it has {body.total} bytes on the server, and HQ signed {size}")
            yield body
        finally:
            body.close()


def _again(path: str, cuts: int, came: bool) -> int:
    if cuts == CUTS_MAX:
        raise SyncRefused(Why.TRUNCATED if came else Why.UNREACHABLE, path, _LATER)
    time.sleep(_CUT_S * 2**cuts)
    return cuts + 1


def _proven(file: IO[bytes], size: int, sha256: bytes) -> bool:
    if file.seek(0, os.SEEK_END) != size:
        return False
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.digest() == sha256
