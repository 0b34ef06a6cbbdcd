"""HQ's database of records: the only SQL behind `ingest`. What it holds of persons stays sealed, as it came.

A record is kept exactly as the lane made it, in columns that give its bytes back: so the hash chain can be proved
again at any time, and whoever holds the file without HQ's key reads no name and no number. Nothing is ever
overwritten: bytes that cannot be what they say are set aside in `refused`, with the reason.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from gated.wire import link
from gated.wire.codec import WireError
from gated.wire.facts import FACTS, SCHEMA, RecordsDropped
from gated.wire.record import ChainBroken, ChainMissing, Head, Record, follow
from gated.wire.seal import SealError

SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS records (
    lane TEXT NOT NULL, stream_id TEXT NOT NULL, seq INTEGER NOT NULL,
    site TEXT NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL, ticket INTEGER, utc TEXT NOT NULL, boot TEXT NOT NULL,
    schema INTEGER NOT NULL, clear TEXT NOT NULL, sealed BLOB, prev BLOB NOT NULL, received TEXT NOT NULL,
    PRIMARY KEY (lane, stream_id, seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_by_time ON records (lane, utc);
CREATE INDEX IF NOT EXISTS records_by_receipt ON records (received);
CREATE INDEX IF NOT EXISTS records_by_kind ON records (kind, utc);
CREATE TABLE IF NOT EXISTS streams (
    lane TEXT NOT NULL, stream_id TEXT NOT NULL, site TEXT NOT NULL, seq INTEGER NOT NULL, hash BLOB NOT NULL,
    PRIMARY KEY (lane, stream_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused (
    id INTEGER PRIMARY KEY, site TEXT NOT NULL, lane TEXT NOT NULL, stream_id TEXT NOT NULL, seq INTEGER NOT NULL,
    why TEXT NOT NULL, bytes BLOB NOT NULL, received TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS holes (
    lane TEXT NOT NULL, stream_id TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    why TEXT NOT NULL, noticed TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS lanes (
    site TEXT NOT NULL, lane TEXT NOT NULL, session TEXT, up INTEGER NOT NULL DEFAULT 0, boot TEXT, version TEXT,
    seen TEXT, ended TEXT, spans TEXT NOT NULL DEFAULT '[]', telemetry TEXT,
    PRIMARY KEY (site, lane)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""

LOST = "acknowledged once, missing here, and no longer held by the lane"


class Fate(Enum):
    """What became of the bytes of one event."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    """Stored before: acknowledged again."""
    MISSING = "missing"
    """Records before it have not come: not stored, asked for again."""
    REFUSED = "refused"
    """Not what it says it is: not stored, may be sent again."""
    SET_ASIDE = "set_aside"
    """Refused so often with the same bytes that it stands in `refused` and its stream goes on without it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The fate of one event, the stream's head after it, and why where it was not stored."""

    fate: Fate
    stream_id: str
    seq: int
    chain: bytes
    head: Head | None
    why: str = ""


class Archive:
    """HQ's records. One writer at a time (SQLite's own lock); any number of readers."""

    REFUSALS_MAX = 3
    """The same bytes refused this often are set aside: what harmed them is not the way here."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Raises `sqlite3.Error`."""
        if read_only:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        else:
            connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA busy_timeout = 10000")
        self.db = Database(connection)
        self._refusals: dict[bytes, int] = {}
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA_SQL}COMMIT;")

    def close(self) -> None:
        """Idempotent."""
        self.db.close()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Everything inside is durable when the block ends, or nothing is. Raises `sqlite3.Error`."""
        self.db.conn.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.conn.execute("ROLLBACK")
            raise
        self.db.conn.execute("COMMIT")

    # -- events

    def take(self, site: str, lane: str, payload: bytes, named: tuple[str, int], private: bytes) -> Taken:
        """Judge and keep the bytes of one event, inside a `batch`.

        `named`: the stream id and number that the message's properties give, for bytes that cannot be read."""
        try:
            record = Record.decode(payload)
        except WireError as bad:
            return self._refuse(site, lane, payload, named, f"malformed: {bad}")
        identity = (record.stream_id, record.seq)
        if record.lane != lane:
            return self._refuse(site, lane, payload, identity, "wrong_lane: made by another lane than the topic's")
        head = self.head(lane, record.stream_id)
        if record.seq <= head.seq:
            return self._again(site, record, payload, head)
        try:
            head = self._over_hole(site, head, record)
            head_after = follow(head, record)
            self._open(record, private)
        except ChainMissing:
            return Taken(Fate.MISSING, *identity, record.hash(), head, "records before it are missing")
        except ChainBroken as bad:
            return self._refuse(site, lane, payload, identity, f"chain_broken: {bad}")
        except SealError:
            return self._refuse(site, lane, payload, identity, "altered: its sealed half does not open in this record")
        except WireError as bad:
            return self._refuse(site, lane, payload, identity, f"malformed: {bad}")
        if record.seq > head.seq + 1 and record.kind == RecordsDropped.__name__:
            self._hole(head, head.seq + 1, record.seq - 1, "dropped by the lane for want of room")
        self._insert(site, record)
        self._advance(site, head_after)
        return Taken(Fate.STORED, *identity, record.hash(), head_after)

    def head(self, lane: str, stream_id: str) -> Head:
        """How far HQ has this stream."""
        found = self.db.conn.execute(
            "SELECT seq, hash FROM streams WHERE lane = ? AND stream_id = ?", (lane, stream_id)
        ).fetchone()
        return Head(lane, stream_id, *found) if found else Head.start(lane, stream_id)

    def record(self, lane: str, stream_id: str, seq: int) -> Record | None:
        """One record, as it came."""
        found = self._rows("WHERE lane = ? AND stream_id = ? AND seq = ?", (lane, stream_id, seq))
        return next(map(_record, found), None)

    def after(self, lane: str, stream_id: str, seq: int, limit: int) -> list[Record]:
        """The first records of a stream after number `seq`, in order."""
        where = "WHERE lane = ? AND stream_id = ? AND seq > ? ORDER BY seq LIMIT ?"
        return [_record(row) for row in self._rows(where, (lane, stream_id, seq, limit))]

    def before(self, record: Record) -> Iterator[Record]:
        """The records of its stream before this one, newest first, read as they are asked for."""
        where = "WHERE lane = ? AND stream_id = ? AND seq < ? ORDER BY seq DESC"
        yield from map(_record, self._rows(where, (record.lane, record.stream_id, record.seq)))

    def _open(self, record: Record, private: bytes) -> None:
        """Raises where this is not a fact that its lane sealed for us. What a newer lane says is kept unread."""
        if record.kind in FACTS:
            try:
                record.fact(private)
            except WireError:
                if record.schema <= SCHEMA:
                    raise
        elif record.schema <= SCHEMA:
            raise WireError("unknown kind")

    def _again(self, site: str, record: Record, payload: bytes, head: Head) -> Taken:
        """A number that HQ has already: the same record, or another one under its name."""
        chain = record.hash()
        stored = self.record(record.lane, record.stream_id, record.seq)
        if stored == record or (stored is None and self._in_hole(record)):
            self.count("duplicates", 1)
            return Taken(Fate.DUPLICATE, record.stream_id, record.seq, chain, head)
        why = "conflict: HQ has another record of this number, or set it aside"
        return self._refuse(site, record.lane, payload, (record.stream_id, record.seq), why)

    def _is_aside(self, lane: str, stream_id: str, seq: int, payload: bytes) -> bool:
        rows = self.db.conn.execute(
            "SELECT bytes FROM refused WHERE lane = ? AND stream_id = ? AND seq = ?", (lane, stream_id, seq)
        )
        return any(row[0] == payload for row in rows)

    def _in_hole(self, record: Record) -> bool:
        """Numbers that HQ goes without: the lane dropped them, or had them no more when HQ asked."""
        where = (record.lane, record.stream_id, record.seq)
        found = self.db.conn.execute(
            "SELECT 1 FROM holes WHERE lane = ? AND stream_id = ? AND ? BETWEEN first AND last", where
        ).fetchone()
        return found is not None

    def _over_hole(self, site: str, head: Head, record: Record) -> Head:
        """The head to go on from. Where the lane says that it no longer holds what we miss (HQ went back to an older
        copy of its database, say), the hole is written down and the stream goes on behind it."""
        begin = record.fact(None).first if record.kind == RecordsDropped.__name__ else record.seq
        if begin <= head.seq + 1:
            return head
        spans = self.db.conn.execute(
            "SELECT spans FROM lanes WHERE site = ? AND lane = ?", (site, record.lane)
        ).fetchone()
        firsts = {span["stream_id"]: span["first"] for span in json.loads(spans[0])} if spans else {}
        if firsts.get(record.stream_id) != record.seq:
            return head
        self._hole(head, head.seq + 1, begin - 1, LOST)
        return Head(head.lane, head.stream_id, begin - 1, record.prev)

    def _hole(self, head: Head, first: int, last: int, why: str) -> None:
        self.db.conn.execute(
            "INSERT INTO holes VALUES (?, ?, ?, ?, ?, ?)", (head.lane, head.stream_id, first, last, why, _now())
        )

    def _refuse(self, site: str, lane: str, payload: bytes, named: tuple[str, int], why: str) -> Taken:
        """Refuse; for good, and kept, once the same bytes came often enough."""
        stream_id, seq = named
        chain = _hash(payload)
        if self._is_aside(lane, stream_id, seq, payload):  # the lane was told, and did not hear it
            return Taken(Fate.SET_ASIDE, stream_id, seq, chain, self.head(lane, stream_id), why)
        mark = sha256(b"\0".join((lane.encode(), stream_id.encode(), str(seq).encode(), chain))).digest()
        times = self._refusals.pop(mark, 0) + 1
        if not stream_id or seq < 1 or times < self.REFUSALS_MAX:
            self._refusals[mark] = times
            while len(self._refusals) > 10_000:
                self._refusals.pop(next(iter(self._refusals)))
            self.count("refusals", 1)
            return Taken(Fate.REFUSED, stream_id, seq, chain, None, why)
        self.db.conn.execute(
            "INSERT INTO refused (site, lane, stream_id, seq, why, bytes, received) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (site, lane, stream_id, seq, why, payload, _now()),
        )
        head = self.head(lane, stream_id)
        if seq in (head.seq, head.seq + 1):  # the lane's next record refers to these bytes
            head = Head(lane, stream_id, seq, chain)
            self._advance(site, head)
        self.count("set_aside", 1)
        return Taken(Fate.SET_ASIDE, stream_id, seq, chain, head, why)

    def _insert(self, site: str, record: Record) -> None:
        ticket = record.clear.get("ticket")
        self.db.conn.execute(
            "INSERT INTO records (lane, stream_id, seq, site, stream, kind, ticket, utc, boot, schema, clear, sealed,"
            " prev, received) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(record.lane, record.stream_id, record.seq, site, record.stream, record.kind),
                *(ticket if isinstance(ticket, int) else None, record.utc.isoformat(), record.boot, record.schema),
                *(json.dumps(record.clear, ensure_ascii=False), record.sealed, record.prev, _now()),
            ),
        )
        self.count("stored", 1)

    def _advance(self, site: str, head: Head) -> None:
        self.db.conn.execute(
            "INSERT INTO streams (lane, stream_id, site, seq, hash) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET seq = excluded.seq, hash = excluded.hash",
            (head.lane, head.stream_id, site, head.seq, head.hash),
        )

    def count(self, name: str, by: int) -> None:
        """Add to a counter, inside a `batch`."""
        self.db.conn.execute(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value", (name, by)
        )

    # -- lanes

    def born(self, site: str, lane: str, birth: link.Birth, retained: bool) -> None:
        """A lane's uplink came up, or tells anew what it holds. `retained`: it said so some time ago."""
        seen = birth.utc.isoformat(timespec="milliseconds") if retained else _now()
        spans = [{"stream_id": s.stream_id, "first": s.first, "last": s.last, "acked": s.acked} for s in birth.spans]
        self.db.conn.execute(
            "INSERT INTO lanes (site, lane, session, up, boot, version, seen, spans) VALUES (?, ?, ?, 1, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET session = excluded.session, up = 1, boot = excluded.boot,"
            " version = excluded.version, seen = excluded.seen, spans = excluded.spans, ended = NULL",
            (site, lane, birth.session, birth.boot, birth.version, seen, json.dumps(spans)),
        )

    def died(self, site: str, lane: str, death: link.Death) -> bool:
        """A session ended. False where it is not the lane's present one: an old will says nothing."""
        done = self.db.conn.execute(
            "UPDATE lanes SET up = 0, ended = ? WHERE site = ? AND lane = ? AND session = ? AND up = 1",
            (death.why, site, lane, death.session),
        )
        return done.rowcount == 1

    def told(self, site: str, lane: str, telemetry: link.Telemetry) -> None:
        """How a lane is."""
        told = {
            "store": telemetry.store,
            "lane_up": telemetry.lane_up,
            "pending": telemetry.pending,
            "oldest_s": telemetry.oldest_s,
            "refused": telemetry.refused,
            "resent": telemetry.resent,
        }
        self.db.conn.execute(
            "INSERT INTO lanes (site, lane, session, up, boot, seen, telemetry) VALUES (?, ?, ?, 1, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET session = excluded.session, up = 1, boot = excluded.boot, seen = excluded.seen,"
            " telemetry = excluded.telemetry, ended = NULL",
            (site, lane, telemetry.session, telemetry.boot, _now(), json.dumps(told)),
        )

    # -- looking

    def lanes(self) -> list[dict[str, Any]]:
        """Every lane, with its telemetry opened."""
        rows = self.db.query("SELECT * FROM lanes ORDER BY site, lane")
        return [{**r, "up": bool(r["up"]), "telemetry": json.loads(r["telemetry"] or "{}")} for r in rows]

    def counters(self) -> dict[str, int]:
        """Stored, duplicates, refusals, set_aside since the database began."""
        return {row["name"]: row["value"] for row in self.db.query("SELECT name, value FROM counters")}

    def find(self, where: Mapping[str, Any], limit: int) -> list[tuple[str, Record]]:
        """(received, record) of the newest records whose columns equal `where`, newest first."""
        columns = [name for name, value in where.items() if value is not None]
        assert set(columns) <= {"lane", "site", "stream", "kind", "ticket", "stream_id", "seq"}
        condition = " AND ".join(f"{name} = ?" for name in columns)
        rows = self._rows(
            f"{'WHERE ' if condition else ''}{condition} ORDER BY received DESC, stream_id, seq DESC LIMIT ?",
            (*(where[name] for name in columns), limit),
        )
        return [(row["received"], _record(row)) for row in rows]

    def each(self, kinds: Sequence[str], since: datetime | None, until: datetime | None) -> Iterator[Record]:
        """The records of these kinds, made from `since` on and before `until` (UTC); each stream's in its order."""
        low = since.replace(tzinfo=UTC).isoformat() if since else ""
        high = until.replace(tzinfo=UTC).isoformat() if until else "~"
        marks = ", ".join("?" * len(kinds))
        rest = f"WHERE kind IN ({marks}) AND utc >= ? AND utc < ? ORDER BY lane, stream_id, seq"
        return (_record(row) for row in self._rows(rest, (*kinds, low, high)))

    def streams(self) -> list[dict[str, Any]]:
        """Every stream and how far it came."""
        return list(self.db.query("SELECT site, lane, stream_id, seq FROM streams ORDER BY site, lane, stream_id"))

    def refused(self) -> list[dict[str, Any]]:
        """What was set aside."""
        return list(self.db.query("SELECT id, site, lane, stream_id, seq, why, received FROM refused ORDER BY id"))

    def holes(self) -> list[dict[str, Any]]:
        """Numbers that HQ goes without."""
        return list(self.db.query("SELECT * FROM holes ORDER BY noticed"))

    def broken(self) -> list[str]:
        """Prove every chain again from the stored columns. One line for each place where it does not hold."""
        found = []
        gaps = {(h["lane"], h["stream_id"], h["last"] + 1) for h in self.holes() if h["why"] == LOST}
        gaps |= {(r["lane"], r["stream_id"], r["seq"] + 1) for r in self.refused()}
        head: Head | None = None
        for row in self._rows("ORDER BY lane, stream_id, seq", ()):
            record = _record(row)
            if head is None or (head.lane, head.stream_id) != (record.lane, record.stream_id):
                head = Head.start(record.lane, record.stream_id)
            if (record.lane, record.stream_id, record.seq) in gaps:
                head = Head(record.lane, record.stream_id, record.seq - 1, record.prev)
            try:
                head = follow(head, record)
            except WireError as bad:
                found.append(f"{record.lane} {record.stream_id} {record.seq}: {bad.why}")
                head = head.after(record)
        return found

    def _rows(self, rest: str, values: Iterable[Any]) -> Iterable[dict[str, Any]]:
        return self.db.query(f"SELECT * FROM records {rest}", tuple(values))


def _record(row: Mapping[str, Any]) -> Record:
    clear = json.loads(row["clear"])
    names = ("lane", "stream_id", "stream", "seq", "prev", "boot", "kind", "sealed", "schema")
    return Record(**{name: row[name] for name in names}, utc=datetime.fromisoformat(row["utc"]), clear=clear)


def _hash(payload: bytes) -> bytes:
    """What `Record.hash` is for a record of these bytes, readable or not."""
    return sha256(b"gated record v1\n" + payload).digest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
