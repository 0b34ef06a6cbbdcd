"""The outbox: records that HQ has not acknowledged yet. The lane writes it, the uplink reads it.

A record is durable when its transaction is, and leaves the outbox only when HQ itself has acknowledged it (a broker's
receipt is none). Its size is bounded, and what happens at the bound is said here and tested:

1. the oldest records of `state` make room first, then the oldest of `alarm`. What they were is lost; that they
   were is not: one `RecordsDropped` stands in the chain for each such row of records;
2. `crossing` is never dropped. When nothing else is left to drop, a verdict is refused with `OutboxFull` and nobody
   passes; the end of a ticket that was already recorded still finds room (`SETTLE_RESERVE_BYTES`).
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from gated.store.db import APPLICATION_ID, VERSION, LaneDb, head_of
from gated.store.sql import ReadOnly, StoreCorrupt, StoreError, in_words
from gated.wire.codec import WireError, split
from gated.wire.facts import ALARM, CROSSING, STATE, STREAMS, Fact, RecordsDropped, TicketSettled, VerdictReached
from gated.wire.record import Head, Record

ROW_BYTES: Final = 64
"""What a row takes beside its payload."""
SETTLE_RESERVE_BYTES: Final = 64 << 10
DROP_PART: Final = 64
"""At least this part (1/64) of the outbox is dropped at a time, so that a full outbox does not pay at every record."""


class OutboxFull(StoreError):
    """There is no room for this record, and nothing of lesser weight to drop."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A record as it lies in the outbox: `payload` is what `Record.decode` reads."""

    stream_id: str
    stream: str
    seq: int
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Span:
    """What the outbox holds of one stream: `first` to `last` (`first` > `last`: nothing), and how many were dropped."""

    stream_id: str
    stream: str
    first: int
    last: int
    bytes: int
    dropped: int


class Outbox:
    """The writer's side. `lane`: its name; `boot`: this run of the process; `hq_public`: X25519, 32 bytes raw."""

    def __init__(self, db: LaneDb, lane: str, boot: str, hq_public: bytes, *, bytes_max: int = 2_000_000_000) -> None:
        self._db = db
        self._lane = lane
        self._boot = boot
        self._hq_public = hq_public
        self._bytes_max = bytes_max

    def append(self, fact: Fact, utc: datetime) -> Record:
        """Add a fact to its stream, inside `db.transaction()`: it is durable once that is left.

        Raises `OutboxFull`, other `StoreError`, or `WireError` for a fact that breaks its own form."""
        assert self._db.in_transaction, "a fact is appended inside a transaction"
        stream = fact.stream
        stream_id, seq, head = self._db.sql.execute(
            "SELECT stream_id, seq, head FROM streams WHERE stream = ?", (stream,)
        ).fetchone()
        before = Head(self._lane, stream_id, seq, head) if seq else Head.start(self._lane, stream_id)
        record = before.next(fact, utc, self._boot, self._hq_public)
        payload = record.encode()
        self._make_room(fact, len(payload) + ROW_BYTES, utc)
        self._db.sql.execute("INSERT INTO outbox VALUES (?, ?, ?)", (stream, record.seq, payload))
        self._db.sql.execute(
            "UPDATE streams SET seq = ?, head = ?, rows = rows + 1, bytes = bytes + ? WHERE stream = ?",
            (record.seq, record.hash(), len(payload) + ROW_BYTES, stream),
        )
        if isinstance(fact, VerdictReached):
            self._db.ticket_recorded(fact.ticket)
        elif isinstance(fact, TicketSettled):
            self._db.ticket_settled(fact.ticket)
        return record

    def pending(self, acked: Mapping[str, int], limit: int) -> tuple[Queued, ...]:
        """See `OutboxReader.pending`."""
        with in_words(self._db.path):
            return _pending(self._db.sql.conn, acked, limit)

    def spans(self) -> tuple[Span, ...]:
        """What is held of each stream."""
        with in_words(self._db.path):
            return _spans(self._db.sql.conn)

    def trim(self, acked: Mapping[str, int], rows_max: int = 1000) -> int:
        """Delete what HQ has acknowledged, at most `rows_max` of each stream, inside a transaction.

        `acked`: stream_id -> highest acknowledged number. Streams of other generations are ignored."""
        assert self._db.in_transaction, "the outbox is trimmed inside a transaction"
        trimmed = 0
        for span in self.spans():
            upto = min(acked.get(span.stream_id, 0), span.last, span.first + rows_max - 1)
            if upto >= span.first:
                trimmed += self._remove(span.stream, upto)
        return trimmed

    def _remove(self, stream: str, upto: int) -> int:
        rows, size = self._db.sql.execute(
            "SELECT count(*), coalesce(sum(length(payload)), 0) FROM outbox WHERE stream = ? AND seq <= ?",
            (stream, upto),
        ).fetchone()
        self._db.sql.execute("DELETE FROM outbox WHERE stream = ? AND seq <= ?", (stream, upto))
        self._db.sql.execute(
            "UPDATE streams SET rows = rows - ?, bytes = bytes - ? WHERE stream = ?",
            (rows, size + rows * ROW_BYTES, stream),
        )
        return int(rows)

    # -- the bound -----------------------------------------------------------------------------------------------

    def _make_room(self, fact: Fact, needed: int, utc: datetime) -> None:
        reserve = SETTLE_RESERVE_BYTES if isinstance(fact, TicketSettled) else 0
        lesser = {CROSSING: (STATE, ALARM), ALARM: (STATE, ALARM), STATE: (STATE,)}[fact.stream]
        while True:
            used = self._db.sql.execute("SELECT sum(bytes) FROM streams").fetchone()[0]
            over = used + needed - self._bytes_max
            if over <= 0 or not any(self._drop(stream, over, utc) for stream in lesser):
                break
        if over > reserve:
            raise OutboxFull(
                "outbox_full",
                self._db.path,
                "HQ has acknowledged nothing for too long: restore the uplink, or enlarge [store]",
            )

    def _drop(self, stream: str, over: int, utc: datetime) -> bool:
        """Put one `RecordsDropped` in the place of the stream's oldest records. False: nothing worth it is left."""
        goal = max(over, self._bytes_max // DROP_PART) + 2 * 1024
        taken, freed = 0, 0
        first: Record | None = None
        last: Record | None = None
        rows = self._db.sql.execute("SELECT payload FROM outbox WHERE stream = ? ORDER BY seq", (stream,))
        for (payload,) in rows:
            last = self._decoded(payload)
            first = first or last
            taken, freed = taken + 1, freed + len(payload) + ROW_BYTES
            if freed >= goal:
                break
        rows.close()
        if first is None or last is None:
            return False
        marker = self._marker(first, last, utc)
        payload = marker.encode()
        if taken == 1 or freed <= len(payload) + ROW_BYTES:
            return False  # a lone record is about as large as what would stand for it
        lost = taken - (1 if first.kind == marker.kind else 0)
        self._remove(stream, marker.seq)
        self._db.sql.execute("INSERT INTO outbox VALUES (?, ?, ?)", (stream, marker.seq, payload))
        self._db.sql.execute(
            "UPDATE streams SET rows = rows + 1, bytes = bytes + ?, dropped = dropped + ? WHERE stream = ?",
            (len(payload) + ROW_BYTES, lost, stream),
        )
        return True

    def _marker(self, first: Record, last: Record, utc: datetime) -> Record:
        kind = RecordsDropped.__name__
        begin = first.fact(None).first if first.kind == kind else first.seq
        clear, _ = split(RecordsDropped(begin, last.seq, head_of(last.encode())))
        return Record(
            last.lane, last.stream_id, last.stream, last.seq, first.prev, utc, self._boot, kind, clear, sealed=None
        )

    def _decoded(self, payload: bytes) -> Record:
        try:
            return Record.decode(payload)
        except WireError as error:
            raise StoreCorrupt("corrupt", self._db.path, "a record in the outbox cannot be read") from error


class OutboxReader:
    """The uplink's side: read-only, follows lane.db when it is replaced. One thread at a time.

    Raises `StoreError` while there is no readable database: the lane has not started yet, or was replaced just now."""

    def __init__(self, path: Path) -> None:
        self._file = ReadOnly(path, self._known)

    def _known(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise StoreError("not_ours", self._file.path, "this is no database of a lane (yet)")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise StoreError(
                "wrong_edition", self._file.path, f"edition {version}, the uplink knows {VERSION}: install both alike"
            )

    def pending(self, acked: Mapping[str, int], limit: int) -> tuple[Queued, ...]:
        """Up to `limit` records above `acked` (stream_id -> number), in order within each stream.

        Alarms come first, but no stream that has something waits for another: alarms take at most half of `limit`
        and the rest a quarter each, where all three have that much."""
        with self._file.connection() as connection:
            return _pending(connection, acked, limit)

    def spans(self) -> tuple[Span, ...]:
        """What is held of each stream."""
        with self._file.connection() as connection:
            return _spans(connection)

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


def _pending(connection: sqlite3.Connection, acked: Mapping[str, int], limit: int) -> tuple[Queued, ...]:
    ids: dict[str, str] = dict(connection.execute("SELECT stream, stream_id FROM streams").fetchall())
    found: dict[str, list[Queued]] = {}
    for stream in STREAMS:
        rows = connection.execute(
            "SELECT seq, payload FROM outbox WHERE stream = ? AND seq > ? ORDER BY seq LIMIT ?",
            (stream, acked.get(ids[stream], 0), limit),
        )
        found[stream] = [Queued(ids[stream], stream, seq, payload) for seq, payload in rows.fetchall()]
    share = {ALARM: limit // 2, CROSSING: limit // 4, STATE: limit // 4}
    taken = {stream: min(len(found[stream]), share[stream]) for stream in STREAMS}
    for stream in STREAMS:  # what one leaves over goes to the others, the most urgent first
        taken[stream] = min(len(found[stream]), taken[stream] + limit - sum(taken.values()))
    return tuple(queued for stream in STREAMS for queued in found[stream][: taken[stream]])


def _spans(connection: sqlite3.Connection) -> tuple[Span, ...]:
    rows: list[Any] = connection.execute(
        """SELECT stream_id, stream, seq, bytes, dropped,
           (SELECT min(seq) FROM outbox WHERE outbox.stream = streams.stream) FROM streams ORDER BY stream"""
    ).fetchall()
    return tuple(
        Span(i, s, seq + 1 if first is None else first, seq, size, dropped) for i, s, seq, size, dropped, first in rows
    )
