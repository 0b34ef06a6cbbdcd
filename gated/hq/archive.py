"""HQ's records, in SQLite or PostgreSQL: opened here and read; what comes is judged and kept in `intake`.

A record is kept exactly as the lane made it, in columns that give its bytes back: so the hash chain can be proved
again at any time, and whoever holds the database without HQ's key reads no name and no number. Nothing is ever
overwritten: bytes that cannot be what they say are set aside in `refused`, with the reason.
"""

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, func, select, true
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gated.hq import database, tables
from gated.hq.database import ArchiveError, in_words
from gated.hq.fates import Fate, Taken
from gated.hq.intake import Intake
from gated.hq.sessions import LOST, Told
from gated.hq.tables import anchors, counters, findings, held, holes, lanes, records, streams
from gated.wire import link
from gated.wire.codec import WireError
from gated.wire.record import Head, Record, first_of, follow

__all__ = ["Archive", "ArchiveError", "Fate", "Intake", "Taken", "Told"]

PARTITIONS_S: Final = 3600.0
"""How often a worker looks whether there are partitions for the months ahead (PostgreSQL)."""
PAGE: Final = 1000
"""Rows that are read at once where there may be many."""
COUNTER_PARTS: Final = 64


class Archive:
    """HQ's records. Any number of processes may write and read; an `Archive` may be used by several threads."""

    def __init__(self, where: str | Path, *, read_only: bool = False) -> None:
        """`where`: a file of SQLite, or a URL (`sqlite:///FILE`, `postgresql+psycopg://...`). Raises `ArchiveError`."""
        self.engine = database.engine_of(where, read_only)
        self._poison: dict[bytes, str] = {}
        """Hashes of what the database would not take, and why: the next time it is refused."""
        self._counter_part = secrets.randbelow(COUNTER_PARTS)
        self._partitions_mono = time.monotonic()
        with self._words():
            if not read_only:
                database.set_up(self.engine, datetime.now(UTC))
            with self.engine.connect() as sql:
                for table in tables.metadata.sorted_tables:
                    sql.execute(select(table).limit(0))

    def close(self) -> None:
        """Idempotent."""
        self.engine.dispose()

    @contextlib.contextmanager
    def batch(self) -> Iterator[Intake]:
        """Everything inside is durable when the block ends, or nothing is. Raises `ArchiveError`."""
        if time.monotonic() >= self._partitions_mono + PARTITIONS_S and self.engine.dialect.name == "postgresql":
            self._partitions_mono = time.monotonic()
            with self._words():
                database.partitions(self.engine, datetime.now(UTC))
        with self._words(), self.engine.connect().execution_options(writes=True) as sql, sql.begin():
            intake = Intake(sql, self._poison, self._counter_part)
            yield intake
            intake.flush()

    @contextlib.contextmanager
    def _words(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as bad:
            lost = isinstance(bad, DBAPIError) and bad.connection_invalidated
            raise ArchiveError(in_words(bad) + (" (the connection is lost)" if lost else "")) from None

    # -- records

    def head(self, lane: str, stream_id: str) -> Head:
        """How far HQ has this stream."""
        where = (streams.c.lane == lane) & (streams.c.stream_id == stream_id)
        found = self._all(select(streams.c.seq, streams.c.hash).where(where))
        return Head(lane, stream_id, found[0]["seq"], found[0]["hash"]) if found else Head.start(lane, stream_id)

    def record(self, lane: str, stream_id: str, seq: int) -> Record | None:
        """One record, as it came; without its sealed half where that was deleted (`purged`)."""
        return next((record_of(row) for row in self._all(select(records).where(_at(lane, stream_id, seq)))), None)

    def after(self, lane: str, stream_id: str, seq: int, limit: int) -> list[Record]:
        """The first records of a stream after number `seq`, in order."""
        where = (records.c.lane == lane) & (records.c.stream_id == stream_id) & (records.c.seq > seq)
        return [record_of(row) for row in self._all(select(records).where(where).order_by(records.c.seq).limit(limit))]

    def before(self, record: Record) -> Iterator[Record]:
        """The records of its stream before this one, newest first, read as they are asked for."""
        c, number = records.c, record.seq
        while True:
            where = (c.lane == record.lane) & (c.stream_id == record.stream_id) & (c.seq < number)
            page = self._all(select(records).where(where).order_by(c.seq.desc()).limit(16))
            yield from map(record_of, page)
            if len(page) < 16:
                return
            number = page[-1]["seq"]

    def find(self, where: Mapping[str, Any], limit: int) -> list[tuple[str, Record]]:
        """(received, record) of the newest records whose columns equal `where`, newest first."""
        columns = {name: value for name, value in where.items() if value is not None}
        assert set(columns) <= {"lane", "site", "stream", "kind", "ticket", "stream_id", "seq"}
        fits: ColumnElement[bool] = true()
        for name, value in columns.items():
            fits &= records.c[name] == value
        c = records.c
        rows = self._all(
            select(records).where(fits).order_by(c.received.desc(), c.stream_id, c.seq.desc()).limit(limit)
        )
        return [(_text(row["received"]), record_of(row)) for row in rows]

    def each(self, kinds: Sequence[str], since: datetime | None, until: datetime | None) -> Iterator[Record]:
        """The records of these kinds, made from `since` on and before `until` (UTC); each stream's in its order."""
        c = records.c
        fits = c.kind.in_(kinds)
        if since is not None:
            fits &= c.utc >= since.replace(tzinfo=UTC)
        if until is not None:
            fits &= c.utc < until.replace(tzinfo=UTC)
        with self._words(), self.engine.connect() as sql:
            yield from map(record_of, _pages(sql, select(records).where(fits).order_by(c.lane, c.stream_id, c.seq)))

    # -- how things are

    def lanes(self) -> list[dict[str, Any]]:
        """Every lane, with what its births, telemetry and reports say opened."""
        rows = [_plain(row) for row in self._all(select(lanes).order_by(lanes.c.site, lanes.c.lane))]
        opened = ("spans", "gaps", "parts", "dead", "generations", "telemetry", "reported")
        return [{**row, "up": bool(row["up"]), **{name: json.loads(row[name]) for name in opened}} for row in rows]

    def counters(self) -> dict[str, int]:
        """stored, duplicates, held, refusals, set_aside, findings since the database began."""
        rows = self._all(select(counters.c.name, func.sum(counters.c.value).label("value")).group_by(counters.c.name))
        return {row["name"]: int(row["value"]) for row in rows}

    def streams(self) -> list[dict[str, Any]]:
        """Every stream and how far it came."""
        c = streams.c
        found = select(c.site, c.lane, c.stream_id, c.seq).where(c.seq > 0).order_by(c.site, c.lane, c.stream_id)
        return [dict(row) for row in self._all(found)]

    def refused(self) -> list[dict[str, Any]]:
        """What was set aside."""
        c = tables.refused.c
        found = select(c.id, c.site, c.lane, c.stream_id, c.seq, c.why, c.received).order_by(c.id)
        return [_plain(row) for row in self._all(found)]

    def holes(self) -> list[dict[str, Any]]:
        """Numbers that HQ goes without."""
        return [_plain(row) for row in self._all(select(holes).order_by(holes.c.id))]

    def held(self) -> list[dict[str, Any]]:
        """Records that wait for those before them."""
        c = held.c
        found = select(c.site, c.lane, c.stream_id, c.seq, c.received).order_by(c.lane, c.stream_id, c.seq)
        return [_plain(row) for row in self._all(found)]

    def findings(self) -> list[dict[str, Any]]:
        """What somebody must look at, the oldest first."""
        return [_plain(row) for row in self._all(select(findings).order_by(findings.c.id))]

    def arrivals(self, after: datetime, until: datetime, limit: int) -> list[tuple[str, datetime, datetime]]:
        """(class, when it was made, when HQ had it) of the newest records that came after `after` and up to `until`."""
        c = records.c
        came = select(c.stream, c.utc, c.received).where((c.received > after) & (c.received <= until))
        rows = self._all(came.order_by(c.received.desc()).limit(limit))
        return [(row["stream"], row["utc"], row["received"]) for row in rows]

    def anchors(self) -> dict[tuple[str, str, str], link.JournalHead]:
        """The newest head of each lane's journal: by site, lane and generation."""
        c = anchors.c
        return {
            (row["site"], row["lane"], row["generation"]): link.JournalHead(
                row["generation"], row["first"], row["last"], row["link"]
            )
            for row in self._all(select(c.site, c.lane, c.generation, c.first, c.last, c.link))
        }

    def broken(self) -> list[str]:
        """Prove every chain again from the stored columns. One line for each place where it does not hold. Where a
        sealed half was deleted, the stored hash stands for the record: the next one's link proves it."""
        with self._words(), self._snapshot() as sql:
            gaps = {(row.lane, row.stream_id, row.last + 1) for row in sql.execute(select(holes)) if row.why in LOST}
            c = tables.refused.c
            gaps |= {(row.lane, row.stream_id, row.seq + 1) for row in sql.execute(select(c.lane, c.stream_id, c.seq))}
            ends = {
                (row.lane, row.stream_id): Head(row.lane, row.stream_id, row.seq, row.hash)
                for row in sql.execute(select(streams).where(streams.c.seq > 0))
            }
            ordered = select(records).order_by(records.c.lane, records.c.stream_id, records.c.seq)
            return list(_proved(_pages(sql, ordered), gaps, ends))

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        """A connection whose statements see one state of the database."""
        with self.engine.connect() as sql:
            if self.engine.dialect.name == "postgresql":
                sql = sql.execution_options(isolation_level="REPEATABLE READ")
            yield sql

    def _all(self, statement: Select[Any]) -> Sequence[RowMapping]:
        with self._words(), self.engine.connect() as sql:
            return sql.execute(statement).mappings().all()


def _proved(
    rows: Iterator[RowMapping], gaps: set[tuple[str, str, int]], ends: dict[tuple[str, str], Head]
) -> Iterator[str]:
    head: Head | None = None

    def ended() -> Iterator[str]:
        if head is not None:
            end = ends.pop((head.lane, head.stream_id), None)
            set_aside = end is not None and (end.lane, end.stream_id, end.seq + 1) in gaps
            if end != head and not set_aside:
                yield f"{head.lane} {head.stream_id} {head.seq}: not where the stream ended when it was taken in"

    for row in rows:
        record = record_of(row)
        if head is None or (head.lane, head.stream_id) != (record.lane, record.stream_id):
            yield from ended()
            head = Head.start(record.lane, record.stream_id)
        where = f"{record.lane} {record.stream_id} {record.seq}"
        begin = first_of(record)
        if (record.lane, record.stream_id, begin) in gaps:
            head = Head(record.lane, record.stream_id, begin - 1, record.prev)
        try:
            after = follow(head, record)
        except WireError as bad:
            yield f"{where}: {bad.why}"
            after = head.after(record)
        if row["purged"] is not None:
            after = Head(record.lane, record.stream_id, record.seq, row["hash"])
        elif record.hash() != row["hash"]:
            yield f"{where}: not the record that was taken in"
        head = after
    yield from ended()
    for lane, stream_id in ends:
        if not any(gap[:2] == (lane, stream_id) for gap in gaps):
            yield f"{lane} {stream_id}: its records are gone"


def _at(lane: str, stream_id: str, seq: int) -> ColumnElement[bool]:
    return and_(records.c.lane == lane, records.c.stream_id == stream_id, records.c.seq == seq)


def _pages(sql: Connection, statement: Select[Any]) -> Iterator[RowMapping]:
    """The rows, read as they are asked for."""
    for page in sql.execution_options(yield_per=PAGE).execute(statement).mappings().partitions():
        yield from page


def record_of(row: RowMapping) -> Record:
    """The record of a row of `records`."""
    names = ("lane", "stream_id", "stream", "seq", "prev", "utc", "boot", "kind", "sealed", "schema")
    return Record(**{name: row[name] for name in names}, clear=json.loads(row["clear"]))


def _plain(row: RowMapping) -> dict[str, Any]:
    return {str(name): _text(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
