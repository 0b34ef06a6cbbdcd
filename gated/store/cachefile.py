"""One generation of one partition as `gated.sync` writes it: opaque rows, and how far it has come.

`cache-<partition>-<generation>.db`: rows at their places, a note in clear (`CacheNote`), HQ's proof of the epoch's key
and the key itself wrapped for this lane. Made in key order beside its place, checked, fsynced, and named only then;
changed a segment at a time, each in one transaction together with its serial. No key is known here."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from gated.store.sql import StoreError
from gated.wire.segment import Change

CODE = {"limit": 64}


@dataclass(frozen=True, slots=True)
class CacheNote:
    """What a generation says of itself in clear."""

    partition: str = field(metadata=CODE)
    generation: int
    """Counted on this lane: a snapshot begins a new one."""
    epoch: int
    serial: int
    """The last segment that was applied; the snapshot's own at first."""
    chain: bytes = field(metadata={"limit": 32})
    """The chain there."""
    built: datetime
    """HQ's time of what was applied last."""
    rows: int


class LiftNotSigned(StoreError):
    """A change that may only add rows would take one away or replace it."""


def path_of(folder: Path, partition: str, generation: int) -> Path:
    """Where a generation lies."""
    return folder / f"cache-{partition}-{generation}.db"


def generations(folder: Path, partition: str) -> dict[int, Path]:
    """The generations that lie in a folder. Raises `StoreError`."""
    raise NotImplementedError


def build(
    path: Path,
    note: CacheNote,
    proof: bytes,
    wrapped: bytes,
    rows: Iterable[tuple[bytes, bytes]],
    *,
    checked: datetime,
    mode: int = 0o640,
    progress: Callable[[int], None] | None = None,
) -> CacheNote:
    """A new generation from rows in order of place; `note.rows` is counted here. Whole and durable, or not there."""
    raise NotImplementedError


class CacheFile:
    """The writer of one generation; one a file. Raises `StoreError`."""

    def __init__(self, path: Path) -> None:
        """Opens it, and checks its head."""
        raise NotImplementedError

    @property
    def note(self) -> CacheNote:
        raise NotImplementedError

    @property
    def checked(self) -> datetime:
        """When HQ's head last said that this is all there is."""
        raise NotImplementedError

    def apply(self, changes: Iterable[Change], serial: int, chain: bytes, built: datetime, *, may_lift: bool) -> int:
        """One segment (or day) and its serial, in one transaction; how many rows changed. Whatever `changes` raises
        leaves everything as it was. Not `may_lift`: raises `LiftNotSigned` for a tombstone of a row that is there, and
        for another row where one is; the very same row may come again."""
        raise NotImplementedError

    def confirm(self, at: datetime, floor: bytes) -> None:
        """HQ's head of `at` says that this is all there is. `floor`: what must not be forgotten of the metadata."""
        raise NotImplementedError

    @property
    def floor(self) -> bytes:
        """What `confirm` was last told; b"" before."""
        raise NotImplementedError

    def digests(self, progress: Callable[[int], None] | None = None) -> bytes:
        """`bundle.bucket_digest` of every bucket, by reading all rows: one state, however long it takes."""
        raise NotImplementedError

    def repair(self, bucket: int, rows: Iterable[tuple[bytes, bytes]]) -> int:
        """Put exactly these rows (in order of place) into a bucket, in one transaction; how many differed."""
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent."""
        raise NotImplementedError
