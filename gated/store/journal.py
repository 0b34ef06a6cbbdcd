"""The journal: what happened to the lane and what it asked for, so that a bad day replays exactly.

Personal fields are sealed with the journal key before anything is kept, even in memory: who holds the disk reads which
doors opened when, and nothing of whom. The registries of events and commands come in as arguments.

Every entry holds a keyed hash over all before it in its boot: two runs of one seed that end in the same hash did the
same, and an entry that was changed or taken out is found. Keyed, because a plain hash over a name can be guessed. Over
the rows as they are stored, over all boots, goes an open chain beside it (`gated.store.chain`), for who has no key.
"""

import hmac
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, Final, Protocol

from gated.store.chain import BASE_NOTE, ROW, Base, link_of, start_of
from gated.store.db import APPLICATION_ID, LaneDb
from gated.store.sql import ReadOnly, StoreCorrupt, StoreError, in_words
from gated.wire.codec import Json, WireError, dumps, has_personal, join, loads, split
from gated.wire.seal import NONCE_BYTES, SealError, SealKey, derived, padded, unpadded

CHAIN_BYTES: Final = 32
BUFFER_MAX: Final = 20_000
"""Entries that wait for the disk. Beyond it the oldest are lost, and their numbers are missing."""
TRIM_ROWS: Final = 5_000
"""Rows deleted in one transaction at most."""


class Moment(Protocol):
    """`gated.lane.events.Now`, which store may not import."""

    @property
    def mono(self) -> float: ...
    @property
    def utc(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class _Row:
    n: int
    mono: float
    utc: str
    clear: bytes
    sealed: bytes | None = field(repr=False)
    chain: bytes

    def place(self, boot: str) -> bytes:
        """What the sealed half is bound to."""
        return dumps([boot, self.n, self.mono, self.utc]) + sha256(self.clear).digest()


def _half(value: Any) -> tuple[dict[str, Json], dict[str, Json]]:
    """(`{"Kind": clear}`, personal)."""
    try:
        clear, hidden = split(value)
    except WireError as error:
        raise error.inside(type(value).__name__) from None
    return {type(value).__name__: clear}, hidden


class Journal:
    """The writer's side. `key`: 32 bytes. `append` may be called by one thread while another one flushes."""

    def __init__(
        self,
        db: LaneDb,
        key: bytes,
        boot: str,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        buffer_max: int = BUFFER_MAX,
    ) -> None:
        self._db = db
        self._boot = boot
        self._key = SealKey(derived(key, "journal rows"))
        self._hash_key = derived(key, "journal chain")
        self._entropy = entropy
        self._buffer: deque[_Row] = deque()
        self._buffer_max = buffer_max
        self._lock = Lock()
        self._n = 0
        self._chain = bytes(CHAIN_BYTES)
        self.lost = 0
        """Entries that never reached the disk."""
        with in_words(db.path):
            used = db.sql.execute("SELECT 1 FROM journal WHERE boot = ? LIMIT 1", (boot,)).fetchone()
            self._head = self._last()
        if used is not None:
            raise StoreError(
                "boot_used", db.path, "a journal of this boot exists: every start of the process names a new one"
            )

    @property
    def hash(self) -> str:
        """The running hash over every entry of this boot, in hexadecimal: equal for two equal runs under one key."""
        return self._chain.hex()

    def append(self, now: Moment, event: Any, commands: tuple[Any, ...]) -> None:
        """Take an entry into memory, sealed; never waits for the disk.

        Raises `WireError` for a value that breaks its own form: our mistake."""
        clear_event, hidden_event = _half(event)
        halves = [_half(command) for command in commands]
        clear = dumps([clear_event, [c for c, _ in halves]])
        hidden: bytes | None = None
        if has_personal(type(event)) or any(has_personal(type(c)) for c in commands):
            hidden = dumps([hidden_event, [h for _, h in halves]])
        self._n += 1
        mono = float(now.mono)
        utc = now.utc.astimezone(UTC).isoformat(timespec="microseconds")
        self._chain = _linked(self._hash_key, self._chain, (self._n, mono, utc), clear, hidden)
        row = _Row(self._n, mono, utc, clear, None, self._chain)
        if hidden is not None:
            blob = self._key.seal(padded(hidden), row.place(self._boot), self._entropy(NONCE_BYTES))
            row = _Row(self._n, mono, utc, clear, blob, self._chain)
        with self._lock:
            self._buffer.append(row)
            if len(self._buffer) > self._buffer_max:
                self._buffer.popleft()
                self.lost += 1

    def flush(self) -> int:
        """Write what was taken, inside the writer's transaction. It stays in memory until that is durable."""
        assert self._db.in_transaction, "the journal is flushed inside a transaction"
        with self._lock:
            rows = list(self._buffer)
        if not rows:
            return 0
        run, (at, link) = self._db.sql.execute, self._head
        (there,) = run("SELECT max(n) FROM journal WHERE boot = ?", (self._boot,)).fetchone()
        if there is not None and there >= rows[0].n:  # a commit that failed after it was durable, or a second flush
            at, link = self._last("AND boot = ? AND n = ?", (self._boot, there))
        (highest,) = run("SELECT max(id) FROM journal").fetchone()
        at = max(at, highest or 0)
        written = []
        for row in rows:
            if there is None or row.n > there:
                at += 1
                values = (self._boot, row.n, row.mono, row.utc, row.clear, row.sealed, row.chain)
                link = link_of(link, *values)
                written.append((at, *values, link))
        self._db.sql.conn.executemany(f"INSERT INTO journal ({ROW}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", written)
        last = rows[-1].n
        self._db.on_commit(lambda: self._written(last, (at, link)))
        return len(written)

    def _last(self, where: str = "", values: tuple[Any, ...] = ()) -> tuple[int, bytes]:
        """Number and link of the newest row: what the next one refers to. Kept in memory from then on, so that a row
        which somebody takes out of the end is missed by the next one."""
        rows = self._db.sql.execute(f"SELECT id, link FROM journal WHERE 1 {where} ORDER BY id DESC LIMIT 1", values)
        row = rows.fetchone()
        if row is None:
            base = self._base()
            row = base.id, base.link
        return row[0], row[1] or start_of(self._db.generation)

    def _base(self) -> Base:
        try:
            return Base.of(self._db.note(BASE_NOTE))
        except ValueError as error:
            raise StoreCorrupt(
                "corrupt", self._db.path, "it does not say which row of the journal was trimmed last"
            ) from error

    def _written(self, last: int, head: tuple[int, bytes]) -> None:
        self._head = head
        with self._lock:
            while self._buffer and self._buffer[0].n <= last:
                self._buffer.popleft()

    def trim(self, utc: datetime, days_max: int, rows_max: int) -> int:
        """Delete entries older than `days_max` days and all but the newest `rows_max`, at most `TRIM_ROWS` at a time.

        Inside a transaction. A wall clock that stepped back leaves entries longer, never shorter."""
        assert self._db.in_transaction, "the journal is trimmed inside a transaction"
        oldest = (utc.astimezone(UTC) - timedelta(days=days_max)).isoformat(timespec="microseconds")
        run = self._db.sql.execute
        first, last = run("SELECT min(id), max(id) FROM journal").fetchone()
        if first is None:
            return 0
        fresh = run("SELECT id FROM journal WHERE utc >= ? ORDER BY id LIMIT 1", (oldest,)).fetchone()
        upto = min(max(last - rows_max, last if fresh is None else fresh[0] - 1), first + TRIM_ROWS - 1)
        gone = run("SELECT id, utc, link FROM journal WHERE id <= ? ORDER BY id DESC LIMIT 1", (upto,)).fetchone()
        if gone is None:
            return 0
        self._db.set_note(BASE_NOTE, Base(gone[0], gone[1], gone[2] or b"").text())
        return run("DELETE FROM journal WHERE id <= ?", (upto,)).rowcount


def _linked(key: bytes, before: bytes, stamp: tuple[int, float, str], clear: bytes, hidden: bytes | None) -> bytes:
    parts = (before, dumps(list(stamp)), clear, hidden or b"")
    return hmac.digest(key, b"".join(len(p).to_bytes(8, "big") + p for p in parts), "sha256")


@dataclass(frozen=True, slots=True)
class Entry:
    """One step of the lane. `clear` is what may be shown: `[{"Kind": fields}, [{"Kind": fields}, ...]]`."""

    boot: str
    n: int
    mono: float
    utc: datetime
    clear: Json
    _steps: Callable[[], tuple[Any, tuple[Any, ...]]] = field(repr=False, compare=False)

    def replayed(self) -> tuple[Any, tuple[Any, ...]]:
        """(event, commands), exactly as they were.

        Raises `StoreError` `sealed` where personal fields are sealed and the journal was opened without its key."""
        return self._steps()


@dataclass(frozen=True, slots=True)
class Boot:
    """One run of the lane's process in the journal. `first` is 1 unless its beginning was trimmed."""

    boot: str
    first: int
    last: int
    since: datetime
    until: datetime


class JournalReader:
    """Reads lane.db, also while the lane writes it. Without `key` personal fields stay sealed."""

    def __init__(
        self, path: Path, events: Mapping[str, type[Any]], commands: Mapping[str, type[Any]], key: bytes | None = None
    ) -> None:
        self.path = path
        self._events = events
        self._commands = commands
        self._key = None if key is None else SealKey(derived(key, "journal rows"))
        self._hash_key = None if key is None else derived(key, "journal chain")
        self._file = ReadOnly(path, self._known)

    def _known(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise StoreError("not_ours", self.path, "this is no database of a lane")

    def boots(self) -> tuple[Boot, ...]:
        """Every run that the journal still holds something of, in the order they were written."""
        with self._file.connection() as connection:
            rows = connection.execute(
                "SELECT boot, min(n), max(n), min(utc), max(utc) FROM journal GROUP BY boot ORDER BY min(id)"
            ).fetchall()
        return tuple(Boot(b, f, n, datetime.fromisoformat(s), datetime.fromisoformat(u)) for b, f, n, s, u in rows)

    def read(self, boot: str, first: int = 1) -> Iterator[Entry]:
        """The entries of one boot from number `first` on. With the key each is checked against the one before it.

        Raises `StoreError`: `journal_gap` for numbers that are missing, `journal_altered` for a broken chain,
        `wrong_key` where a sealed half does not open."""
        before: _Row | None = None
        with self._file.connection() as connection:
            rows = connection.execute(
                "SELECT n, mono, utc, clear, sealed, chain FROM journal WHERE boot = ? AND n >= ? ORDER BY n",
                (boot, first),
            )
            for columns in rows:
                row = _Row(*columns)
                if before is not None and row.n != before.n + 1:
                    raise StoreError(
                        "journal_gap",
                        self.path,
                        f"after entry {before.n} comes {row.n}: those between were lost or taken out",
                    )
                hidden = self._opened(boot, row)
                self._check(before, row, hidden)
                before = row
                yield Entry(
                    boot,
                    row.n,
                    row.mono,
                    datetime.fromisoformat(row.utc),
                    self._tree(row.clear),
                    self._stepper(row, hidden),
                )

    def _tree(self, data: bytes) -> Json:
        try:
            return loads(data)
        except WireError as error:
            raise StoreCorrupt("corrupt", self.path, "an entry of the journal cannot be read") from error

    def _opened(self, boot: str, row: _Row) -> bytes | None:
        if row.sealed is None or self._key is None:
            return None
        try:
            return unpadded(self._key.open(row.sealed, row.place(boot)))
        except SealError as error:
            raise StoreError("wrong_key", self.path, f"entry {row.n} does not open: another key, or altered") from error

    def _check(self, before: _Row | None, row: _Row, hidden: bytes | None) -> None:
        if self._hash_key is None or (before is None and row.n != 1):
            return  # the link to what was trimmed cannot be checked
        last = bytes(CHAIN_BYTES) if before is None else before.chain
        if _linked(self._hash_key, last, (row.n, row.mono, row.utc), row.clear, hidden) != row.chain:
            raise StoreError(
                "journal_altered", self.path, f"entry {row.n} is not what was written (or this is another key)"
            )

    def _stepper(self, row: _Row, hidden: bytes | None) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
        def steps() -> tuple[Any, tuple[Any, ...]]:
            if row.sealed is not None and hidden is None:
                raise StoreError(
                    "sealed", self.path, f"entry {row.n} has personal fields: give the journal key to replay it"
                )
            clear_event, clear_commands = self._tree(row.clear)
            event, commands = self._tree(hidden) if hidden is not None else ({}, [{}] * len(clear_commands))
            try:
                return (
                    _whole(self._events, clear_event, event),
                    tuple(_whole(self._commands, c, h) for c, h in zip(clear_commands, commands, strict=True)),
                )
            except WireError as error:
                raise StoreError(
                    "other_edition", self.path, f"entry {row.n} was written by another edition of the lane ({error})"
                ) from error

        return steps

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


def _whole(kinds: Mapping[str, type[Any]], clear: dict[str, Json], hidden: dict[str, Json]) -> Any:
    ((kind, fields),) = clear.items()
    cls = kinds.get(kind)
    if cls is None:
        raise WireError("unknown kind")
    return join(cls, fields, hidden)
