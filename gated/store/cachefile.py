"""One generation of one partition as `gated.sync` writes it: opaque rows, and how far it has come.

`cache-<partition>-<generation>.db`: rows at their places, a note in clear (`CacheNote`), HQ's proof of the epoch's key
and the key itself wrapped for this lane. Made in key order beside its place, checked, fsynced, and named only then;
changed a segment at a time, each in one transaction together with its serial. No key is known here.

The file is in WAL mode: the lane reads the last whole state while a segment is applied. SQLite gives `-wal` and `-shm`
the mode of the file, and either side may have to make them (the lane, when it opens a file that nobody has open). So
they are 0660, group `gated`, in a folder that both may write: with 0640 whoever came first would lock the other out.
"""

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from gated.store.cachetable import (
    AGAIN,
    CACHE_KIB,
    Progress,
    beside,
    check_header,
    connected,
    digests,
    fill,
    in_words_of_sql,
    prove,
    read_about,
)
from gated.store.sql import BUSY_S, StoreCorrupt, StoreError, WriterLock, in_words, sync_folder, uri
from gated.wire.bundle import PLACE_BYTES, bucket_range
from gated.wire.codec import WireError, decode, encode, kinds
from gated.wire.segment import Change

MODE: Final = 0o660
CODE = {"limit": 64}

WAL_BYTES_KEPT: Final = 64 << 20
"""A longer WAL is cut once its rows are in the file."""
CHECKPOINT_S: Final = 0.2
"""How long the cutting of the WAL waits for readers: it can be done after the next segment as well."""


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

    def __init__(self, path: Path) -> None:
        super().__init__(
            "lift_not_signed", path, "a segment takes a row away or replaces one, and the second key has not signed it"
        )


# -- files -----------------------------------------------------------------------------------------------------


def path_of(folder: Path, partition: str, generation: int) -> Path:
    """Where a generation lies."""
    return folder / f"cache-{partition}-{generation}.db"


def generations(folder: Path, partition: str) -> dict[int, Path]:
    """The generations that lie in a folder, the oldest first. Raises `StoreError`."""
    name = re.compile(rf"cache-{re.escape(partition)}-([1-9][0-9]{{0,17}})\.db", re.ASCII)
    with in_words(folder / f"cache-{partition}"):
        found = {int(match[1]): path for path in folder.iterdir() if (match := name.fullmatch(path.name))}
    return dict(sorted(found.items()))


def remove(path: Path) -> None:
    """Take a generation off the disk, which no lane uses any more. Raises `StoreError`."""
    with in_words(path):
        for name in (path, beside(path, ".lock"), beside(path, ".part")):
            name.unlink(missing_ok=True)
        for name in (beside(path, "-wal"), beside(path, "-shm")):
            with suppress(PermissionError):  # the lane's where it made them; empty, and never used again
                name.unlink(missing_ok=True)


# -- reading, for either side ----------------------------------------------------------------------------------


def read_note(path: Path, connection: sqlite3.Connection) -> CacheNote:
    """The note of an open cache. Raises `StoreError`."""
    try:
        note = decode(kinds(CacheNote), read_about(path, connection, "note"))
    except WireError as error:
        raise StoreCorrupt("corrupt", path, f"its note cannot be read: {AGAIN}") from error
    assert isinstance(note, CacheNote)
    return note


def read_checked(path: Path, connection: sqlite3.Connection) -> datetime:
    """When HQ's head last said that this is all there is. Raises `StoreError`."""
    try:
        return datetime.fromisoformat(read_about(path, connection, "checked").decode())
    except ValueError as error:
        raise StoreCorrupt("corrupt", path, f"its age cannot be read: {AGAIN}") from error


def audited(path: Path, progress: Progress | None = None) -> tuple[CacheNote, bytes]:
    """The digests of every bucket, and the note of the very state that they were read from. Minutes for millions.

    It has a connection of its own: in another thread it goes on beside a writer, which it does not hold up."""
    with in_words(path), closing(sqlite3.connect(uri(path, "mode=ro"), uri=True, isolation_level=None)) as sql:
        sql.execute("BEGIN")
        check_header(path, sql)
        return read_note(path, sql), digests(path, sql, progress)


# -- building --------------------------------------------------------------------------------------------------


def build(
    path: Path,
    note: CacheNote,
    proof: bytes,
    wrapped: bytes,
    rows: Iterable[tuple[bytes, bytes]],
    *,
    checked: datetime,
    mode: int = MODE,
    progress: Progress | None = None,
) -> CacheNote:
    """A new generation from rows in order of place; `note.rows` is counted here. Whole and durable, or not there.

    `progress` is told how many rows are in it so far. Raises `StoreError`: `out_of_order`, `exists`, or what the disk
    did; and whatever `rows` raises."""

    def about(count: int) -> dict[str, bytes]:
        whole = encode(replace(note, rows=count))
        return {"note": whole, "proof": proof, "key": wrapped, "checked": _stamp(checked), "floor": b""}

    part = beside(path, ".part")
    lock = WriterLock(path, mode)
    try:
        with in_words(path):
            if path.exists():
                raise StoreError("exists", path, "a generation is built once: give the new one the next number")
            # a WAL that outlived another file of this name would be replayed into the new one
            for stale in (part, *(beside(name, end) for name in (part, path) for end in ("-wal", "-shm", "-journal"))):
                stale.unlink(missing_ok=True)
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
            part.chmod(mode)
        try:
            with in_words_of_sql(path):
                count = fill(path, part, rows, about, progress)
                prove(path, part, count)
            with in_words(path):
                _sync_file(part)
                part.rename(path)
                sync_folder(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
    finally:
        lock.release()
    return replace(note, rows=count)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _stamp(at: datetime) -> bytes:
    if at.tzinfo is None:
        raise ValueError("a time without a zone")
    return at.isoformat().encode()


# -- changing --------------------------------------------------------------------------------------------------


class CacheFile:
    """The writer of one generation; one a file. One thread at a time. Raises `StoreError`.

    A transaction that failed leaves everything as it was, and the file open."""

    def __init__(self, path: Path) -> None:
        """Opens it, and checks its head."""
        self.path = path
        self._lock: WriterLock | None = WriterLock(path, MODE)
        try:
            with in_words(path):
                self._sql = connected(path)
                try:
                    check_header(path, self._sql)
                    for setting in (
                        "journal_mode=WAL",
                        "synchronous=FULL",
                        f"cache_size=-{CACHE_KIB}",
                        f"journal_size_limit={WAL_BYTES_KEPT}",
                        "trusted_schema=0",
                    ):
                        self._sql.execute(f"PRAGMA {setting}")
                    read_note(path, self._sql)
                    read_checked(path, self._sql)
                    self._cut_wal()  # what a killed writer left
                except BaseException:
                    self._sql.close()
                    raise
        except BaseException:
            self._lock.release()
            raise

    @property
    def note(self) -> CacheNote:
        return read_note(self.path, self._sql)

    @property
    def checked(self) -> datetime:
        """When HQ's head last said that this is all there is."""
        return read_checked(self.path, self._sql)

    @property
    def floor(self) -> bytes:
        """What `confirm` was last told; b"" before."""
        return read_about(self.path, self._sql, "floor")

    @property
    def proof(self) -> bytes:
        """HQ's proof of the epoch's key."""
        return read_about(self.path, self._sql, "proof")

    @property
    def wrapped(self) -> bytes:
        """The epoch's key, wrapped for this lane."""
        return read_about(self.path, self._sql, "key")

    def rewrap(self, wrapped: bytes) -> None:
        """The epoch's key as HQ wraps it now: the lane has a new key of its own, or what lay here does not open."""
        with self._transaction():
            self._say("key", wrapped)

    def apply(self, changes: Iterable[Change], serial: int, chain: bytes, built: datetime, *, may_lift: bool) -> int:
        """One segment (or day) and its serial, in one transaction; how many rows changed. Whatever `changes` raises
        leaves everything as it was. Not `may_lift`: raises `LiftNotSigned` for a tombstone of a row that is there, and
        for another row where one is; the very same row may come again.

        Rows in order of place are applied fastest: each page is then touched once."""
        with self._transaction():
            note = self.note
            if serial <= note.serial:
                raise ValueError(f"segment {serial} was applied before: this is {note.serial}")
            added, replaced, removed = self._put(changes, may_lift)
            self._say_note(replace(note, serial=serial, chain=chain, built=built, rows=note.rows + added - removed))
        self._cut_wal()
        return added + replaced + removed

    def _put(self, changes: Iterable[Change], may_lift: bool) -> tuple[int, int, int]:
        run = self._sql.execute
        added = replaced = removed = 0
        for place, blob in changes:
            found = run("SELECT value FROM rows WHERE key = ?", (place,)).fetchone()
            if (found[0] if found else None) == blob:
                continue
            if found and not may_lift:
                raise LiftNotSigned(self.path)
            if blob is None:
                run("DELETE FROM rows WHERE key = ?", (place,))
                removed += 1
            elif found:  # UPDATE writes a row of the same length in place; INSERT OR REPLACE would not
                run("UPDATE rows SET value = ? WHERE key = ?", (blob, place))
                replaced += 1
            else:
                run("INSERT INTO rows VALUES (?, ?)", (place, blob))
                added += 1
        return added, replaced, removed

    def confirm(self, at: datetime, floor: bytes) -> None:
        """HQ's head of `at` says that this is all there is. `floor`: what must not be forgotten of the metadata."""
        with self._transaction():
            self._say("checked", _stamp(at))
            self._say("floor", floor)

    def repair(self, bucket: int, rows: Iterable[tuple[bytes, bytes]]) -> int:
        """Put exactly these rows (in order of place) into a bucket, in one transaction; how many differed."""
        start, end = bucket_range(bucket)
        wanted = dict(rows)
        if any(len(place) != PLACE_BYTES or not start <= place < end for place in wanted):
            raise ValueError("a row of another bucket")
        with self._transaction():
            gone = self._sql.execute("SELECT key FROM rows WHERE key >= ? AND key < ?", (start, end)).fetchall()
            changes: list[Change] = [(place, None) for (place,) in gone if place not in wanted]
            added, replaced, removed = self._put([*changes, *wanted.items()], may_lift=True)
            note = self.note
            self._say_note(replace(note, rows=note.rows + added - removed))
        return added + replaced + removed

    def digests(self, progress: Progress | None = None) -> bytes:
        """`bundle.bucket_digest` of every bucket, by reading all rows: one state, however long it takes."""
        return audited(self.path, progress)[1]

    def close(self) -> None:
        """Idempotent."""
        if self._lock is not None:
            self._sql.close()
            self._lock.release()
            self._lock = None

    def __enter__(self) -> "CacheFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with in_words_of_sql(self.path):
                self._sql.execute("BEGIN IMMEDIATE")
                yield
                self._sql.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
            self._cut_wal()  # what was spilled into it would fill the disk for nothing
            raise

    def _say(self, name: str, value: bytes) -> None:
        self._sql.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))

    def _say_note(self, note: CacheNote) -> None:
        self._say("note", encode(note))

    def _cut_wal(self) -> None:
        """Move a long WAL's rows into the file and cut it. What is committed is safe in the WAL too: it may fail."""
        with suppress(OSError, sqlite3.Error):
            if beside(self.path, "-wal").stat().st_size > WAL_BYTES_KEPT:
                self._sql.execute(f"PRAGMA busy_timeout={int(CHECKPOINT_S * 1000)}")
                try:
                    self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    self._sql.execute(f"PRAGMA busy_timeout={int(BUSY_S * 1000)}")
