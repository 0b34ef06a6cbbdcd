"""What one batch keeps: its streams are locked, and all is in memory until it is written at once."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, and_, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError

from gated.hq import tables
from gated.hq.database import ArchiveError, Key, among, claim, insert_new
from gated.wire.codec import WireError, dumps, join, loads
from gated.wire.facts import RecordsDropped
from gated.wire.record import Head, Record

REFUSALS_KEPT: Final = 1000
"""Refusals that are remembered of a lane: the oldest are forgotten."""
HELD_DAYS_MAX: Final = 1
"""Held records are forgotten after this. They were never acknowledged, so the lane still has them."""
FINDINGS_MAX: Final = 1000
"""Findings that are kept of a lane: it could invent any number."""


_R, _S, _H = tables.records.c, tables.streams.c, tables.holes.c
_LANE: Final[BindParameter[str]] = bindparam("key_lane")
_ID: Final[BindParameter[str]] = bindparam("key_id")
_SEQ: Final[BindParameter[int]] = bindparam("key_seq")
_THIS: Final = select(_R.hash, _R.kind, _R.clear).where((_R.lane == _LANE) & (_R.stream_id == _ID) & (_R.seq == _SEQ))
_HOLE: Final = (
    select(_H.id).where((_H.lane == _LANE) & (_H.stream_id == _ID) & (_H.first <= _SEQ) & (_H.last >= _SEQ)).limit(1)
)
_THIS_STREAM: Final = (_S.lane == _LANE) & (_S.stream_id == _ID)
_HEADS: Final = select(_S.lane, _S.stream_id, _S.seq, _S.hash).where(among(_S.lane, _S.stream_id, _S.lane))
_ADVANCE: Final = update(tables.streams).where(_THIS_STREAM)
_UNUSED: Final = delete(tables.streams).where(_THIS_STREAM)
_INSERT: Final = insert(tables.records)
"""Statements of every batch: to make them anew each time takes longer than to run them."""


def _adding(dialect: Any) -> Any:
    made = dialect.insert(tables.counters)
    more = tables.counters.c.value + made.excluded.value
    return made.on_conflict_do_update(index_elements=["name", "part"], set_={"value": more})


_ADD: Final = {"sqlite": _adding(sqlite), "postgresql": _adding(postgresql)}


@dataclass(slots=True)
class Waiting:
    """A record that came before those before it. `begin`: the first number that it stands for."""

    seq: int
    begin: int
    chain: bytes
    payload: bytes = field(repr=False)
    received: datetime
    record: Record | None = None
    stored: bool = False


@dataclass(slots=True)
class Stream:
    """A stream whose row this batch has locked. `end`: number and hash where the next chapter says that it ends."""

    head: Head
    site: str
    end: tuple[int, bytes] | None = None
    held: int = 0
    changed: bool = False
    waiting: dict[int, list[Waiting]] | None = None
    """By `begin`; None: not read yet."""


class Keeping:
    """Of one transaction. `poison`: hashes of what the database would not take, found when a batch is written."""

    def __init__(self, sql: Connection, poison: dict[bytes, str], part: int) -> None:
        self._sql, self.poison, self._part = sql, poison, part
        self.now = datetime.now(UTC)
        self._streams: dict[Key, Stream] = {}
        self._looked: dict[Key, Head] = {}
        self._rows: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._holes: list[dict[str, Any]] = []
        self._aside: dict[tuple[str, str, int, bytes], dict[str, Any]] = {}
        self._refusals: list[dict[str, Any]] = []
        self._drained: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()
        self._known_findings: set[tuple[str, str, str]] = set()
        self.found: list[tuple[str, str, str, str]] = []
        """(site, lane, code, detail) of findings that are new in this batch."""

    # -- streams

    def lock(self, keys: Iterable[Key], *, wait: bool = True) -> None:
        """Lock these streams (lane, stream id)."""
        new = set(keys) - self._streams.keys()
        for key, row in claim(self._sql, tables.streams, new, _fresh, wait=wait).items():
            end = None if row["end_seq"] is None else (row["end_seq"], row["end_hash"])
            self._streams[key] = Stream(Head(*key, row["seq"], row["hash"]), row["site"], end, row["held"])

    def look(self, keys: Iterable[Key]) -> None:
        """Read the heads of streams that need not be locked."""
        new = sorted(set(keys) - self._streams.keys() - self._looked.keys())
        for at in range(0, len(new), 1000):
            part = new[at : at + 1000]
            rows = self._sql.execute(_HEADS, {"keys": part, "lanes": sorted({lane for lane, _ in part})})
            self._looked.update({key: Head.start(*key) for key in part})
            self._looked.update({(row[0], row[1]): Head(*row) for row in rows})

    def head(self, lane: str, stream_id: str) -> Head:
        """How far HQ has this stream."""
        if (stream := self._streams.get((lane, stream_id))) is not None:
            return stream.head
        self.look([(lane, stream_id)])
        return self._looked[lane, stream_id]

    def stream(self, lane: str, stream_id: str) -> Stream | None:
        """The locked stream. None: nobody said before that this batch is about it, and another worker has it now."""
        key = (lane, stream_id)
        if key not in self._streams:
            self.lock([key], wait=False)
        return self._streams.get(key)

    def unended(self, lane: str) -> list[str]:
        """The lane's streams that have not come to an end that is known, or have held records."""
        lacks = _S.end_seq.is_(None) | (_S.end_seq > _S.seq) | (_S.held > 0)
        found = select(_S.stream_id).where((_S.lane == lane) & lacks).order_by(_S.stream_id)
        return list(self._sql.execute(found).scalars())

    def waiting(self, stream: Stream) -> dict[int, list[Waiting]]:
        """The stream's held records, by the first number that each stands for."""
        if stream.waiting is None:
            stream.waiting = {}
            if stream.held:
                c = tables.held.c
                where = (c.lane == stream.head.lane) & (c.stream_id == stream.head.stream_id)
                for row in self._sql.execute(select(c.seq, c.begin, c.chain, c.payload, c.received).where(where)):
                    stream.waiting.setdefault(row.begin, []).append(Waiting(*row, stored=True))
        return stream.waiting

    def drained(self, stream: Stream, waiting: Waiting) -> None:
        """This one waits no more."""
        stream.held, stream.changed = stream.held - 1, True
        if waiting.stored:
            self._drained.append(_names(stream.head) | {"seq": waiting.seq, "chain": waiting.chain})

    # -- records

    def store(self, stream: Stream, site: str, record: Record, chain: bytes, after: Head) -> None:
        """Keep a record; the stream's head is then `after`."""
        ticket = record.clear.get("ticket")
        names = ("lane", "stream_id", "seq", "stream", "kind", "utc", "boot", "schema", "sealed", "prev")
        self._rows[record.lane, record.stream_id, record.seq] = {
            **{name: getattr(record, name) for name in names},
            "site": site,
            "ticket": ticket if type(ticket) is int and 0 < ticket < 1 << 63 else None,
            "clear": dumps(record.clear).decode(),
            "hash": chain,
            "received": self.now,
        }
        self.advance(stream, site, after)
        self._counts["stored"] += 1

    def advance(self, stream: Stream, site: str, after: Head) -> None:
        """The stream goes on from here."""
        stream.head, stream.site, stream.changed = after, site, True

    def has(self, record: Record, chain: bytes) -> bool:
        """Whether HQ has this record, goes without it, or has the `RecordsDropped` that took its place or it took."""
        key = (record.lane, record.stream_id, record.seq)
        if (row := self._rows.get(key)) is not None:
            stored, kind, clear = row["hash"], row["kind"], row["clear"]
        else:
            found = self._sql.execute(_THIS, dict(zip(("key_lane", "key_id", "key_seq"), key, strict=True))).first()
            if found is None:
                return self.in_hole(*key)
            stored, kind, clear = found
        return bool(
            chain == stored
            or stored == last_of(record.kind, record.clear)
            or chain == last_of(kind, loads(clear.encode()))
        )

    def purge(self, keys: Sequence[tuple[str, str, int]]) -> int:
        """Delete the sealed halves of these records (lane, stream id, number), whose time is over; how many. Their
        hashes stay, so every chain can still be proved."""
        if not keys:
            return 0
        c = tables.records.c
        where = (
            (c.lane == bindparam("key_lane")) & (c.stream_id == bindparam("key_id")) & (c.seq == bindparam("key_seq"))
        )
        blank = update(tables.records).where(where & c.purged.is_(None)).values(sealed=None, purged=self.now)
        rows = [{"key_lane": lane, "key_id": stream_id, "key_seq": seq} for lane, stream_id, seq in sorted(keys)]
        return int(self._sql.execute(blank, rows).rowcount)

    def hole(self, head: Head, first: int, last: int, why: str) -> None:
        """HQ goes without these numbers."""
        self._holes.append(_names(head) | {"first": first, "last": last, "why": why, "noticed": self.now})

    def in_hole(self, lane: str, stream_id: str, seq: int) -> bool:
        """Does HQ go without this number?"""
        here = [hole for hole in self._holes if (hole["lane"], hole["stream_id"]) == (lane, stream_id)]
        if any(hole["first"] <= seq <= hole["last"] for hole in here):
            return True
        where = {"key_lane": lane, "key_id": stream_id, "key_seq": seq}
        return self._sql.execute(_HOLE, where).first() is not None

    def stalled(self, held_s: float) -> list[tuple[str, str, Head]]:
        """(site, lane, head) of the streams whose held records wait longer than this: something was lost on the way,
        or never made. What waits for a day is forgotten."""
        c, s = tables.held.c, tables.streams.c
        old = c.received < self.now - timedelta(days=HELD_DAYS_MAX)
        for row in self._sql.execute(select(c.lane, c.stream_id).where(old).distinct().limit(100)).all():
            stream = self.stream(row.lane, row.stream_id)
            if stream is None:
                continue
            for begin, each in [(b, w) for b, all_ in self.waiting(stream).items() for w in all_]:
                if each.received < self.now - timedelta(days=HELD_DAYS_MAX):
                    self.waiting(stream)[begin].remove(each)
                    self.drained(stream, each)
        waits = (
            select(c.lane, c.stream_id, func.max(c.site).label("site"))
            .group_by(c.lane, c.stream_id)
            .having(func.min(c.received) < self.now - timedelta(seconds=held_s))
            .subquery()
        )
        both = (s.lane == waits.c.lane) & (s.stream_id == waits.c.stream_id)
        found = select(waits.c.site, s.lane, s.stream_id, s.seq, s.hash).join_from(waits, tables.streams, both)
        return [
            (row.site, row.lane, Head(row.lane, row.stream_id, row.seq, row.hash)) for row in self._sql.execute(found)
        ]

    # -- refusals

    def refused_before(self, lane: str, mark: bytes) -> int:
        """How often these bytes were refused; now once more."""
        here = sum(refusal["mark"] == mark for refusal in self._refusals)
        c = tables.refusals.c
        times = self._sql.execute(select(func.count()).where(c.mark == mark)).scalar_one() + here
        self._refusals.append({"lane": lane, "mark": mark})
        return int(times)

    def is_aside(self, lane: str, stream_id: str, seq: int, chain: bytes) -> bool:
        """Were these bytes set aside?"""
        if (lane, stream_id, seq, chain) in self._aside:
            return True
        c = tables.refused.c
        where = (c.lane == lane) & (c.stream_id == stream_id) & (c.seq == seq) & (c.chain == chain)
        return self._sql.execute(select(c.id).where(where)).first() is not None

    def set_aside(self, site: str, key: tuple[str, str, int, bytes], why: str, payload: bytes) -> None:
        """Keep bytes that cannot be what they say."""
        names = dict(zip(("lane", "stream_id", "seq", "chain"), key, strict=True))
        self._aside[key] = {**names, "site": site, "why": why, "bytes": payload, "received": self.now}
        self._counts["set_aside"] += 1

    # -- findings and counters

    def finding(self, site: str, lane: str, code: str, detail: str) -> bool:
        """Write down what somebody must look at, once. True where it is new."""
        key = (lane, code[:64], detail[:256])
        if key in self._known_findings:
            return False
        self._known_findings.add(key)
        c = tables.findings.c
        where = (c.lane == lane) & (c.code == key[1]) & (c.detail == key[2])
        if self._sql.execute(select(c.id).where(where)).first() is not None:
            return False
        number = self._sql.execute(select(func.count()).where(c.lane == lane)).scalar_one()
        if number >= FINDINGS_MAX:
            return False
        if number == FINDINGS_MAX - 1:
            key = (lane, "too_many", "further findings of this lane are not written down")
        row = {"noticed": self.now, "site": site, "lane": lane, "code": key[1], "detail": key[2]}
        if self._sql.execute(insert_new(self._sql, tables.findings).returning(c.id), row).first() is None:
            return False
        self.found.append((site, *key))
        self._counts["findings"] += 1
        return True

    def count(self, name: str, by: int) -> None:
        """Add to a counter."""
        self._counts[name] += by

    # -- writing

    def flush(self) -> None:
        """Write everything. Raises `SQLAlchemyError`, or `ArchiveError` for a value that the database does not take;
        whose it is is then known, and refused the next time."""
        sql = self._sql
        if self._rows:
            self._write_records([self._rows[key] for key in sorted(self._rows)])
        changed = [key for key in sorted(self._streams) if self._streams[key].changed]
        if changed:
            sql.execute(_ADVANCE, [_stream_row(self._streams[key]) for key in changed])
        unused = [key for key, stream in self._streams.items() if _is_unused(stream)]
        if unused:  # made to be locked, and nothing came of it
            sql.execute(_UNUSED, [{"key_lane": lane, "key_id": stream_id} for lane, stream_id in unused])
        self._write_held()
        for table, rows in ((tables.holes, self._holes), (tables.refusals, self._refusals)):
            if rows:
                sql.execute(insert(table), rows)
        if self._aside:
            sql.execute(insert_new(sql, tables.refused), [self._aside[key] for key in sorted(self._aside)])
        for lane in sorted({refusal["lane"] for refusal in self._refusals}):
            c = tables.refusals.c
            newest = select(c.id).where(c.lane == lane).order_by(c.id.desc()).offset(REFUSALS_KEPT).limit(1)
            sql.execute(delete(tables.refusals).where((c.lane == lane) & (c.id <= newest.scalar_subquery())))
        if self._counts:
            self._write_counts()

    def _write_records(self, rows: list[dict[str, Any]]) -> None:
        bad = self._attempt(rows)
        if bad is None:
            return
        for row in rows:  # which of them does the database not take?
            if (its := self._attempt([row])) is not None:
                if len(self.poison) >= 10_000:
                    self.poison.clear()
                self.poison[row["hash"]] = type(its).__name__
        why = "the database does not take what a record holds; that record is refused from now on"
        raise ArchiveError(f"{type(bad).__name__}: {why}") from None

    def _attempt(self, rows: list[dict[str, Any]]) -> Exception | None:
        """Insert records, or none of them; why not, where that lies in their values. Raises `SQLAlchemyError` for any
        trouble of the database's own, which undoes the whole transaction."""
        point = self._sql.begin_nested()
        try:
            self._sql.execute(_INSERT, rows)
        except (DataError, ValueError, OverflowError, TypeError) as bad:
            point.rollback()
            return bad
        point.commit()
        return None

    def _write_held(self) -> None:
        c = tables.held.c
        if self._drained:
            names = ("lane", "stream_id", "seq", "chain")
            where = and_(*(c[name] == bindparam(f"key_{name}") for name in names))
            rows = [{f"key_{name}": row[name] for name in names} for row in self._drained]
            self._sql.execute(delete(tables.held).where(where), rows)
        new = []
        for stream in self._streams.values():
            for waiting in (w for all_ in (stream.waiting or {}).values() for w in all_ if not w.stored):
                row = {name: getattr(waiting, name) for name in ("seq", "begin", "chain", "payload", "received")}
                new.append(_names(stream.head) | row | {"site": stream.site})
        if new:
            self._sql.execute(insert(tables.held), new)

    def _write_counts(self) -> None:
        rows = [{"name": name, "part": self._part, "value": by} for name, by in sorted(self._counts.items())]
        self._sql.execute(_ADD[self._sql.dialect.name], rows)


def hash_of(payload: bytes) -> bytes:
    """What `Record.hash` is for a record of these bytes, readable or not."""
    return sha256(b"gated record v1\n" + payload).digest()


def last_of(kind: str, clear: Any) -> bytes | None:
    """The hash of the last record that a `RecordsDropped` stands for; None for any other record."""
    try:
        return join(RecordsDropped, clear, {}).head if kind == RecordsDropped.__name__ else None
    except WireError:
        return None


def _fresh(key: Key) -> dict[str, Any]:
    start = Head.start(*key)
    return _names(start) | {"site": "", "seq": 0, "hash": start.hash, "held": 0}


def _names(head: Head) -> dict[str, Any]:
    return {"lane": head.lane, "stream_id": head.stream_id}


def _stream_row(stream: Stream) -> dict[str, Any]:
    head, end = stream.head, stream.end or (None, None)
    told = {"site": stream.site, "seq": head.seq, "hash": head.hash, "held": stream.held}
    return {"key_lane": head.lane, "key_id": head.stream_id, "end_seq": end[0], "end_hash": end[1]} | told


def _is_unused(stream: Stream) -> bool:
    return stream.head.seq == 0 and not stream.held and stream.end is None
