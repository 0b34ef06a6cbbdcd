"""How far the witness has followed a lane's journal and outbox, a slice at a time, and what does not fit.

Each trail belongs to one generation of the database. `glance` looks at the ends, at every look; `step` follows the next
rows. Both read inside one transaction of the caller's, so that a writer who goes on meanwhile changes nothing.
"""

import struct
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from sqlite3 import Connection
from typing import Any, Final

from gated.store.chain import BASE_NOTE, ROW, UNLINKED_NOTE, Base, link_of, start_of
from gated.store.db import head_of
from gated.wire import link
from gated.wire.codec import WireError
from gated.wire.facts import RecordsDropped
from gated.wire.record import Head, Record

Found = Callable[[str, str], None]
"""Takes a `link.Finding`'s code and detail."""
MARK_ROWS: Final = 256
"""The time of every so many-th row is remembered: a row that was young may not be trimmed."""
_DROPPED: Final = f'"kind":"{RecordsDropped.__name__}"'.encode()
_PREV: Final = b'"prev":"'


class JournalTrail:
    """The journal. `days`, `rows_max`: what the lane may trim (`Journal.trim`)."""

    def __init__(self, generation: str, days: int, rows_max: int, found: Found) -> None:
        self._generation, self._days, self._rows_max, self._found = generation, days, rows_max, found
        self.head: link.JournalHead | None = None
        self.anchor: link.JournalHead | None = None
        """HQ's, until it was compared."""
        self.rows = 0
        self._base: Base | None = None
        self._unlinked = 0
        self._seen: tuple[int, bytes | None] | None = None
        """Number and link of the newest row at the last look."""
        self._utc = ""
        self._first: tuple[int, str] | None = None
        self._marks: dict[int, str] = {}
        self._at: tuple[int, bytes | None] | None = None
        """Number and link of the last row that was followed; no link where that is not known."""

    def glance(self, connection: Connection) -> None:
        """Look at both ends, and whether what was seen before is still there."""
        run = connection.execute
        base = self._read_base(connection)
        first = run("SELECT id, utc FROM journal ORDER BY id LIMIT 1").fetchone()
        row = run("SELECT id, utc, link FROM journal ORDER BY id DESC LIMIT 1").fetchone()
        last, utc, newest = (base.id, base.utc, base.link or None) if row is None else row
        self.rows = 0 if first is None else last - first[0] + 1
        self._utc = max(self._utc, utc)
        self._look_back(connection, base, last)
        self._check_trimmed(base, last)
        if first is not None and first[0] > base.id + 1:
            self._found("journal_cut", f"rows {base.id + 1} to {first[0] - 1} were taken out, not trimmed")
        elif first is not None and first[0] <= base.id:
            self._found("journal_altered", f"row {first[0]} stands where all had been trimmed")
        self._base, self._first, self._seen = base, first, (last, newest)
        if newest is not None and first is not None:
            self.head = link.JournalHead(self._generation, first[0], last, newest)
        if self.anchor is not None:
            anchor, self.anchor = self.anchor, None
            self._compare(connection, anchor, base, last)

    def _read_base(self, connection: Connection) -> Base:
        notes = dict(
            connection.execute("SELECT name, value FROM notes WHERE name IN (?, ?)", (BASE_NOTE, UNLINKED_NOTE))
        )
        try:
            base, unlinked = Base.of(notes.get(BASE_NOTE)), int(notes.get(UNLINKED_NOTE, "0"))
        except ValueError:
            self._found("journal_altered", "the note of what was trimmed cannot be read")
            return self._base or Base(0)
        if self._base is not None and unlinked != self._unlinked:
            self._found("journal_altered", "the note of the rows of edition 1 was changed")
        elif base.id > unlinked and not base.link:
            self._found("journal_altered", "the note of what was trimmed has lost its link")
        self._unlinked = unlinked
        return base

    def _look_back(self, connection: Connection, base: Base, last: int) -> None:
        if self._seen is None:
            return
        number, before = self._seen
        if last < number:
            self._found("journal_back", f"it ends at row {last} and had come to row {number}")
            self._at, self._marks = None, {}
            return
        row = connection.execute("SELECT link FROM journal WHERE id = ?", (number,)).fetchone()
        if row is not None and row[0] != before:
            self._found("journal_altered", f"row {number} is another one than it was")
            self._at = None
        elif row is None and number > base.id:
            self._found("journal_cut", f"row {number} was taken out")

    def _check_trimmed(self, base: Base, last: int) -> None:
        """Only what is too old, or too much, may be trimmed (`Journal.trim`)."""
        gone = [*self._marks.items(), *([self._first] if self._first is not None else [])]
        if base.utc:
            gone.append((base.id, base.utc))
        for number, utc in gone:
            if number <= base.id and not self._lawful(number, utc, last):
                self._found("journal_cut", f"rows up to {base.id} are gone, though row {number} was young")
                break
        if self._base is not None and base.id < self._base.id:
            self._found("journal_back", f"rows up to {self._base.id} had been trimmed, now up to {base.id}")
        self._marks = {number: utc for number, utc in self._marks.items() if number > base.id}

    def _lawful(self, number: int, utc: str, last: int) -> bool:
        if number <= last - self._rows_max:
            return True
        try:
            oldest = datetime.fromisoformat(self._utc) - timedelta(days=self._days)
        except ValueError:
            return False
        return utc < oldest.isoformat(timespec="microseconds")

    def _compare(self, connection: Connection, anchor: link.JournalHead, base: Base, last: int) -> None:
        if anchor.generation != self._generation:
            return
        row = connection.execute("SELECT link FROM journal WHERE id = ?", (anchor.last,)).fetchone()
        if anchor.last > last:
            self._found("journal_back", f"it ends at row {last}, and HQ was told of row {anchor.last}")
        elif anchor.last > base.id and row is None:
            self._found("journal_cut", f"row {anchor.last}, of which HQ was told, was taken out")
        elif row is not None and row[0] != anchor.link:
            self._found("journal_altered", f"row {anchor.last} is not the one of which HQ was told")

    def step(self, connection: Connection, count: int) -> int:
        """Follow up to `count` rows further; returns how many there were: fewer than `count` is the end of a pass."""
        assert self._base is not None
        if self._at is None or self._at[0] < self._base.id:
            self._at = (self._base.id, self._base.link or None)
        at, before = self._at
        rows = connection.execute(f"SELECT {ROW} FROM journal WHERE id > ? ORDER BY id LIMIT ?", (at, count)).fetchall()
        for number, *values, stored in rows:
            if number != at + 1:
                self._found("journal_cut", f"rows {at + 1} to {number - 1} were taken out")
                before = None
            elif number == self._unlinked + 1:
                before = start_of(self._generation)
            if stored is None and number > self._unlinked:
                self._found("journal_altered", f"row {number} has lost its link")
            elif before is not None and _linked(before, values) != stored:
                self._found("journal_altered", f"row {number} is not the one that was written there")
            at, before = number, stored
            if number % MARK_ROWS == 0:
                self._marks[number] = values[3]
        self._at = None if len(rows) < count else (at, before)
        return len(rows)


def _linked(before: bytes, values: list[Any]) -> bytes | None:
    try:
        return link_of(before, *values)
    except (TypeError, AttributeError, OverflowError, struct.error):
        return None


@dataclass
class _Stream:
    """One chapter as it was at the last look."""

    key: str
    stream_id: str
    seq: int
    head: bytes
    rows: int
    first: int | None
    """The number of its oldest row; None where it has none."""
    last: int | None
    begin: int = 0
    """From which number on it has everything: the first number of a `RecordsDropped`, where one is the oldest row."""
    at: tuple[int, bytes | None] | None = None
    gaps: dict[int, int] = field(default_factory=dict)
    """Missing numbers inside: first to last."""


class OutboxTrail:
    """The outbox: streams of one generation, each in one chapter or more."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._streams: dict[str, _Stream] = {}
        self._turn: list[str] = []
        """Stream ids that this pass has still to follow."""
        self._acked: dict[str, int] = {}
        self._whole: set[str] = set()
        """Streams that had everything above what was acknowledged."""
        self.rows = 0

    def glance(self, connection: Connection) -> None:
        """Look at the ends of every stream."""
        streams = {}
        for values in connection.execute(
            """SELECT stream, stream_id, seq, head, rows, (SELECT min(seq) FROM outbox WHERE stream = s.stream),
               (SELECT max(seq) FROM outbox WHERE stream = s.stream) FROM streams AS s ORDER BY class, chapter"""
        ).fetchall():
            now = _Stream(*values)
            before = self._streams.get(now.stream_id)
            streams[now.stream_id] = now
            if before is not None:
                now.at, now.gaps = before.at, before.gaps
                self._check_grown(connection, before, now)
            same = before is not None and before.first == now.first
            now.begin = before.begin if before is not None and same else self._begin(connection, now)
            self._check_count(connection, now)
        self._streams = streams
        self.rows = sum(each.rows for each in streams.values())

    def _check_grown(self, connection: Connection, before: _Stream, now: _Stream) -> None:
        if now.seq < before.seq:
            self._found("outbox_gap", f"{now.stream_id} ends at {now.seq} and had come to {before.seq}")
            now.at = None
        elif before.seq:
            payload = _payload(connection, now.key, before.seq)
            head = before.head if now.seq == before.seq and payload is None else payload and _head(payload)
            if head not in (None, before.head) or (now.seq == before.seq and now.head != before.head):
                self._found("outbox_altered", f"{now.stream_id}: record {before.seq} is another one than it was")
                now.at = None

    def _begin(self, connection: Connection, now: _Stream) -> int:
        if now.first is None:
            return now.seq + 1
        dropped = _dropped(_payload(connection, now.key, now.first) or b"")
        return dropped.first if dropped is not None else now.first

    def _check_count(self, connection: Connection, now: _Stream) -> None:
        """A row that somebody takes out of either end is still counted."""
        wanted = 0
        if now.first is not None:
            second = connection.execute(
                "SELECT min(seq) FROM outbox WHERE stream = ? AND seq > ?", (now.key, now.first)
            ).fetchone()[0]
            wanted = 1 if second is None else now.seq - second + 2
        if now.rows > wanted or (now.last or now.seq) < now.seq:
            self._found("outbox_gap", f"{now.stream_id}: records were taken out at an end")
        elif now.rows < wanted:
            self._found("outbox_gap", f"{now.stream_id}: fewer records are counted than there should be")

    def step(self, connection: Connection, count: int) -> int:
        """Follow up to `count` records further; returns how many there were: fewer than `count` ends a pass."""
        done = 0
        if not self._turn:
            self._turn = list(self._streams)
        while self._turn and done < count:
            stream = self._streams.get(self._turn[0])
            more = 0 if stream is None else self._follow(connection, stream, count - done)
            done += more
            if done < count:
                del self._turn[0]
                if stream is not None:
                    stream.at = None
        return done

    def _follow(self, connection: Connection, stream: _Stream, count: int) -> int:
        if stream.first is None:
            stream.gaps = {}
            return 0
        if stream.at is None or stream.at[0] < stream.first - 1:
            stream.at, stream.gaps = (stream.first - 1, None), {}
        at, before = stream.at
        if at == 0:
            before = self._start(connection, stream)
        rows = connection.execute(
            "SELECT seq, payload FROM outbox WHERE stream = ? AND seq > ? ORDER BY seq LIMIT ?", (stream.key, at, count)
        ).fetchall()
        for seq, payload in rows:
            dropped = _dropped(payload)
            begin = seq if dropped is None else dropped.first
            if begin > at + 1:
                stream.gaps[at + 1] = begin - 1
                self._found("outbox_gap", f"{stream.stream_id}: records {at + 1} to {begin - 1} were taken out")
            elif begin == at + 1 and before is not None and not _follows(payload, before):
                self._found("outbox_altered", f"{stream.stream_id}: record {seq} does not follow the one before it")
            at, before = seq, _head(payload)
            if before is None or (seq == stream.seq and before != stream.head):
                self._found("outbox_altered", f"{stream.stream_id}: record {seq} is not the one that was written there")
        stream.at = (at, before)
        return len(rows)

    def _start(self, connection: Connection, stream: _Stream) -> bytes | None:
        try:
            record = Record.decode(_payload(connection, stream.key, 1) or b"")
        except WireError:
            return None
        return Head.start(record.lane, stream.stream_id).hash

    def gaps(self, acked: Mapping[str, int]) -> tuple[link.Gap, ...]:
        """See `Witness.gaps`."""
        found = []
        for stream_id, stream in self._streams.items():
            if stream_id not in acked:
                continue
            known = self._acked[stream_id] = max(acked[stream_id], self._acked.get(stream_id, 0))
            if stream.begin <= known + 1:
                self._whole.add(stream_id)
            elif stream_id in self._whole:
                self._found("outbox_gap", f"{stream_id}: records {known + 1} to {stream.begin - 1} were taken out")
            end = stream.seq if stream.last is None else stream.last
            missing = [(1, stream.begin - 1), *sorted(stream.gaps.items()), (end + 1, stream.seq)]
            for first, last in missing:
                if last >= max(first, acked[stream_id] + 1):
                    found.append(link.Gap(stream_id, max(first, acked[stream_id] + 1), last))
        return tuple(found)


def _payload(connection: Connection, key: str, seq: int) -> bytes | None:
    row = connection.execute("SELECT payload FROM outbox WHERE stream = ? AND seq = ?", (key, seq)).fetchone()
    return None if row is None else row[0]


def _dropped(payload: bytes) -> RecordsDropped | None:
    """What the marker says, where this is one."""
    if _DROPPED not in payload:
        return None
    try:
        record = Record.decode(payload)
        fact = record.fact(None) if record.kind == RecordsDropped.__name__ else None
    except WireError:
        return None
    return fact if isinstance(fact, RecordsDropped) else None


def _head(payload: bytes) -> bytes | None:
    """`db.head_of` without reading the record, where that is not needed; None where it cannot be read."""
    if _DROPPED not in payload:
        return sha256(b"gated record v1\n" + payload).digest()
    try:
        return head_of(payload)
    except WireError:
        return None


def _follows(payload: bytes, before: bytes) -> bool:
    """Whether the record refers to `before`."""
    at = payload.rfind(_PREV) + len(_PREV)
    if payload[at : at + 44] == b64encode(before):  # canonical JSON: the last key of this name is the envelope's
        return True
    try:
        return Record.decode(payload).prev == before
    except WireError:
        return False
