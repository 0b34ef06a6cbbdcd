"""The outbox: records that HQ has not acknowledged yet. The lane writes it, the uplink reads it.

A record is durable when its transaction is, and leaves the outbox only when HQ itself has acknowledged it (a broker's
receipt is none). Its size is bounded, and what happens at the bound is said here and tested:

1. attachments make room first (whole ones, the oldest first), then the oldest records of `state`, then of `alarm`.
   What they were is lost; that they were is not: one `RecordsDropped` stands in the chain for each such row of records;
2. `crossing` is never dropped. When nothing else is left to drop, a verdict is refused with `OutboxFull` and nobody
   passes; the end of a ticket that was already recorded still finds room (`SETTLE_RESERVE_BYTES`).
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gated.store.db import LaneDb, add_stream, check_edition, head_of
from gated.store.sql import ReadOnly, StoreError, in_words
from gated.wire.codec import WireError, split
from gated.wire.facts import (
    ALARM,
    ATTACHMENT,
    CROSSING,
    STATE,
    STREAMS,
    AttachmentPart,
    Fact,
    RecordsDropped,
    StreamContinued,
    TicketSettled,
    VerdictReached,
)
from gated.wire.record import Head, Record

BACKLOG_MIN: Final = 200
"""So many records that wait are no reason for a new chapter: they are at HQ within a second or two."""
CHAPTERS_MAX: Final = 16
"""Of a class at once: after so many outages without an end to the backlog, no further one begins."""
PARTS: Final = {ALARM: 8, CROSSING: 4, STATE: 3, ATTACHMENT: 1}
"""Sixteenths of what may be under way, where everybody has that much."""
DROPPED: Final = (ATTACHMENT, STATE, ALARM)
"""What makes room, in this order."""
TRIM_ROWS: Final = 1000
"""Of each stream in one transaction at most."""
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
        reserve = SETTLE_RESERVE_BYTES if isinstance(fact, TicketSettled) else 0
        record = self._put(self._current(fact.stream), fact.stream, fact, utc, reserve)
        if isinstance(fact, VerdictReached):
            self._db.ticket_recorded(fact.ticket)
        elif isinstance(fact, TicketSettled):
            self._db.ticket_settled(fact.ticket)
        return record

    def _current(self, each: str) -> str:
        """The chapter of a class that is being written."""
        rows = self._db.sql.execute("SELECT stream FROM streams WHERE class = ? ORDER BY chapter DESC LIMIT 1", (each,))
        return str(rows.fetchone()[0])

    def _put(self, key: str, each: str, fact: Any, utc: datetime, reserve: int) -> Record:
        stream_id, seq, head = self._db.sql.execute(
            "SELECT stream_id, seq, head FROM streams WHERE stream = ?", (key,)
        ).fetchone()
        before = Head(self._lane, stream_id, seq, head) if seq else Head.start(self._lane, stream_id)
        record = before.next(fact, utc, self._boot, self._hq_public)
        payload = record.encode()
        self._make_room(each, len(payload) + ROW_BYTES, utc, reserve)
        self._db.sql.execute("INSERT INTO outbox VALUES (?, ?, ?)", (key, record.seq, payload))
        self._db.sql.execute(
            "UPDATE streams SET seq = ?, head = ?, rows = rows + 1, bytes = bytes + ? WHERE stream = ?",
            (record.seq, record.hash(), len(payload) + ROW_BYTES, key),
        )
        return record

    def begin_chapters(
        self, utc: datetime, backlog_min: int = BACKLOG_MIN, acked: Mapping[str, int] | None = None
    ) -> list[str]:
        """Go on in a new chapter of each class that has more than `backlog_min` records waiting in the present one.

        For the moment when HQ can be reached again: what happens from now on need not wait behind them. Inside a
        transaction; nothing while a ticket is open, whose records stay in one chapter. `acked`: stream_id -> number,
        of what waits no longer, but is not trimmed yet. Returns the new stream ids. Raises `OutboxFull` (to be
        tried again), other `StoreError`."""
        assert self._db.in_transaction, "a chapter begins inside a transaction"
        if self._db.unsettled():
            return []
        begun = []
        for each in STREAMS:
            key, stream_id, seq, head, rows, chapter, chapters = self._db.sql.execute(
                """SELECT stream, stream_id, seq, head, rows, chapter, count(*) OVER () FROM streams WHERE class = ?
                   ORDER BY chapter DESC LIMIT 1""",
                (each,),
            ).fetchone()
            waiting = min(rows, seq - (acked or {}).get(stream_id, 0))
            if waiting <= backlog_min or chapters >= CHAPTERS_MAX:
                continue
            key = add_stream(self._db.sql, self._db.generation, each, chapter + 1)
            try:
                record = self._put(key, each, StreamContinued(stream_id, seq, head), utc, SETTLE_RESERVE_BYTES)
            except OutboxFull:
                self._db.sql.execute("DELETE FROM streams WHERE stream = ?", (key,))
                raise
            begun.append(record.stream_id)
        return begun

    def pending(self, acked: Mapping[str, int], limit: int) -> tuple[Queued, ...]:
        """See `OutboxReader.pending`."""
        with in_words(self._db.path):
            return _pending(self._db.sql.conn, acked, limit, {})

    def spans(self) -> tuple[Span, ...]:
        """What is held of each stream."""
        return tuple(span for _, span in self._held())

    def trim(self, acked: Mapping[str, int], rows_max: int = TRIM_ROWS) -> int:
        """Delete what HQ has acknowledged, at most `rows_max` of each stream, inside a transaction. A former chapter
        of which nothing is left goes as a whole.

        `acked`: stream_id -> highest acknowledged number. Streams of other generations are ignored."""
        assert self._db.in_transaction, "the outbox is trimmed inside a transaction"
        trimmed = 0
        for key, span in self._held():
            upto = min(acked.get(span.stream_id, 0), span.last, span.first + rows_max - 1)
            if upto >= span.first:
                trimmed += self._remove(key, span.first, upto)
        self._db.sql.execute(
            """DELETE FROM streams WHERE rows = 0 AND NOT EXISTS (SELECT 1 FROM outbox WHERE stream = streams.stream)
               AND chapter < (SELECT max(chapter) FROM streams AS s WHERE s.class = streams.class)"""
        )
        return trimmed

    def _held(self) -> list[tuple[str, Span]]:
        with in_words(self._db.path):
            return _held(self._db.sql.conn)

    def _remove(self, key: str, first: int, last: int) -> int:
        rows, size = self._db.sql.execute(
            "SELECT count(*), coalesce(sum(length(payload)), 0) FROM outbox WHERE stream = ? AND seq BETWEEN ? AND ?",
            (key, first, last),
        ).fetchone()
        self._db.sql.execute("DELETE FROM outbox WHERE stream = ? AND seq BETWEEN ? AND ?", (key, first, last))
        self._db.sql.execute(
            "UPDATE streams SET rows = rows - ?, bytes = bytes - ? WHERE stream = ?",
            (rows, size + rows * ROW_BYTES, key),
        )
        return int(rows)

    # -- the bound -----------------------------------------------------------------------------------------------

    def _make_room(self, each: str, needed: int, utc: datetime, reserve: int) -> None:
        while True:
            used = self._db.sql.execute("SELECT sum(bytes) FROM streams").fetchone()[0]
            over = used + needed - self._bytes_max
            if over <= 0 or not any(self._drop(key, over, utc) for key in self._lesser(each)):
                break
        if over > reserve:
            raise OutboxFull(
                "outbox_full",
                self._db.path,
                "HQ has acknowledged nothing for too long: restore the uplink, or enlarge [store]",
            )

    def _lesser(self, each: str) -> list[str]:
        """What makes room for a record of this class: the chapters of what weighs no more, in the order they go."""
        classes = DROPPED[: DROPPED.index(each) + 1] if each in DROPPED else DROPPED
        rows = self._db.sql.execute("SELECT class, stream FROM streams ORDER BY chapter").fetchall()
        return [key for lesser in classes for of, key in rows if of == lesser]

    def _drop(self, key: str, over: int, utc: datetime) -> bool:
        """Put one `RecordsDropped` in the place of the chapter's oldest records. False: nothing worth it is left.

        What says how the chapter goes on from the one before stays; an attachment goes with all of its parts."""
        goal = max(over, self._bytes_max // DROP_PART) + 2 * 1024
        taken, freed = 0, 0
        first: Record | None = None
        last: Record | None = None
        rows = self._db.sql.execute("SELECT payload FROM outbox WHERE stream = ? ORDER BY seq", (key,))
        for (payload,) in rows:
            try:
                record = Record.decode(payload)
            except WireError:
                break  # nothing can stand for it: HQ has to set it aside
            if first is None and record.kind == StreamContinued.__name__:
                continue
            first, last = first or record, record
            taken, freed = taken + 1, freed + len(payload) + ROW_BYTES
            if freed >= goal and _whole(record):
                break
        rows.close()
        if first is None or last is None:
            return False
        marker = self._marker(first, last, utc)
        payload = marker.encode()
        if taken == 1 or freed <= len(payload) + ROW_BYTES:
            return False  # a lone record is about as large as what would stand for it
        lost = taken - (1 if first.kind == marker.kind else 0)
        self._remove(key, first.seq, marker.seq)
        self._db.sql.execute("INSERT INTO outbox VALUES (?, ?, ?)", (key, marker.seq, payload))
        self._db.sql.execute(
            "UPDATE streams SET rows = rows + 1, bytes = bytes + ?, dropped = dropped + ? WHERE stream = ?",
            (len(payload) + ROW_BYTES, lost, key),
        )
        return True

    def _marker(self, first: Record, last: Record, utc: datetime) -> Record:
        kind = RecordsDropped.__name__
        begin = first.fact(None).first if first.kind == kind else first.seq
        clear, _ = split(RecordsDropped(begin, last.seq, head_of(last.encode())))
        return Record(
            last.lane, last.stream_id, last.stream, last.seq, first.prev, utc, self._boot, kind, clear, sealed=None
        )


class OutboxReader:
    """The uplink's side: read-only, follows lane.db when it is replaced. One thread at a time.

    Raises `StoreError` while there is no readable database: the lane has not started yet, or was replaced just now."""

    def __init__(self, path: Path) -> None:
        self._file = ReadOnly(path, lambda connection: check_edition(path, connection))

    def pending(
        self, acked: Mapping[str, int], limit: int, flying: Mapping[str, int] | None = None
    ) -> tuple[Queued, ...]:
        """Up to `limit` records above `acked` (stream_id -> number), in order within each stream.

        Alarms come first, then crossings, states, attachments, but no class that has something waits for another: each
        has its part (`PARTS` of 16) of all that may be under way, and what it does not use goes to the others, the most
        urgent first. In a class the newest chapter, which is what happens now, comes before what lay there; the oldest
        of the rest gets at least every second place. `flying`: how many of each stream are under way already."""
        with self._file.connection() as connection:
            return _pending(connection, acked, limit, flying or {})

    def oldest(self, acked: Mapping[str, int]) -> Queued | None:
        """The record above `acked` that happened first, by its own time; one that cannot be read counts as first."""
        with self._file.connection() as connection:
            firsts = [
                each
                for key, span in _held(connection)
                for each in _rows(connection, key, span, acked.get(span.stream_id, 0), 1)
            ]
        return min(firsts, key=_utc_of, default=None)

    def spans(self) -> tuple[Span, ...]:
        """What is held of each stream."""
        with self._file.connection() as connection:
            return tuple(span for _, span in _held(connection))

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


def _pending(
    connection: sqlite3.Connection, acked: Mapping[str, int], limit: int, flying: Mapping[str, int]
) -> tuple[Queued, ...]:
    held = _held(connection)
    after = {key: acked.get(span.stream_id, 0) for key, span in held}
    window = limit + sum(flying.values())
    queues: list[tuple[str, Span, int]] = []
    for each in STREAMS:
        chapters = [(key, span) for key, span in held if span.stream == each]
        newest = chapters[-1:]
        part = max(1, window * PARTS[each] // 16)
        waiting = [(key, span) for key, span in [*newest, *chapters[:-1]] if after[key] < span.last]
        for at, (key, span) in enumerate(waiting):
            share = part if len(waiting) == 1 else (part + 1) // 2 if at < 2 else 0
            queues.append((key, span, max(0, share - flying.get(span.stream_id, 0))))
    found: dict[str, list[Queued]] = {key: [] for key, _, _ in queues}
    for everything in (False, True):  # what one leaves over goes to the others, the most urgent first
        for key, span, share in queues:
            room = limit if everything else min(limit, share)
            last = found[key][-1].seq if found[key] else after[key]
            if room > 0 and last < span.last:
                more = _rows(connection, key, span, last, room)
                found[key] += more
                limit -= len(more)
    return tuple(queued for key, _, _ in queues for queued in found[key])


def _rows(connection: sqlite3.Connection, key: str, span: Span, after: int, limit: int) -> list[Queued]:
    rows = connection.execute(
        "SELECT seq, payload FROM outbox WHERE stream = ? AND seq > ? ORDER BY seq LIMIT ?", (key, after, limit)
    )
    return [Queued(span.stream_id, span.stream, seq, payload) for seq, payload in rows.fetchall()]


def _utc_of(queued: Queued) -> datetime:
    try:
        return Record.decode(queued.payload).utc
    except WireError:
        return datetime.min.replace(tzinfo=UTC)


def _whole(record: Record) -> bool:
    """Nothing is cut in two behind this record."""
    return record.kind != AttachmentPart.__name__ or record.clear.get("part") == record.clear.get("parts")


def _held(connection: sqlite3.Connection) -> list[tuple[str, Span]]:
    """Key and span of each chapter, the chapters of a class in their order."""
    rows: list[Any] = connection.execute(
        """SELECT stream, stream_id, class, seq, bytes, dropped,
           (SELECT min(seq) FROM outbox WHERE outbox.stream = streams.stream) FROM streams ORDER BY class, chapter"""
    ).fetchall()
    return [
        (key, Span(i, each, seq + 1 if first is None else first, seq, size, dropped))
        for key, i, each, seq, size, dropped, first in rows
    ]
