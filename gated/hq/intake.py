"""Judges what comes and keeps it: the write side of HQ's archive, inside one transaction (`Archive.batch`).

Any number of workers take in one lane's records, so a record may come before those before it: it is *held* until they
are there. Who takes in records of a stream has its row in `streams` locked (PostgreSQL; SQLite has one writer). What is
judged stays in memory until `flush`, so that a batch of many records costs few statements.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Final

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from gated.hq.database import Key
from gated.hq.fates import Fate, Taken
from gated.hq.keeping import Keeping, Stream, Waiting, hash_of, last_of
from gated.hq.sessions import GONE, Sessions, Told
from gated.logs import told
from gated.wire import link
from gated.wire.codec import WireError
from gated.wire.facts import FACTS, SCHEMA, RecordsDropped, StreamContinued
from gated.wire.record import ChainBroken, ChainMissing, Head, Record, first_of, follow
from gated.wire.seal import SealError

log = structlog.get_logger()

DROPPED: Final = "dropped by the lane for want of room"

HELD_MAX: Final = 1000
"""Held records of a stream: many times what a lane has under way."""
_STREAM_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EDITS: Final = frozenset({"conflict", "altered", "chain_broken"})


class _Refused(Exception):
    """Bytes are not what they say. `named`: what they say they are, where that can be read."""

    def __init__(self, why: str, named: tuple[str, int] | None = None) -> None:
        super().__init__(why)
        self.why, self.named = why, named


class Intake:
    """One batch. Every method may raise `ArchiveError`; then nothing of the batch is kept."""

    REFUSALS_MAX = 3
    """The same bytes refused this often, by whichever worker, are set aside: what harmed them is not the way here."""

    def __init__(self, sql: Connection, poison: dict[bytes, str], part: int) -> None:
        self._sql = sql
        self._kept = Keeping(sql, poison, part)
        self._sessions = Sessions(sql, self._kept.look, self._kept.head, self._kept.finding)

    @property
    def found(self) -> Sequence[tuple[str, str, str, str]]:
        """(site, lane, code, detail) of the findings that are new in this batch."""
        return self._kept.found

    def lock(self, keys: Iterable[Key], lanes: Iterable[Key] = ()) -> None:
        """Lock what the batch is about, once and before anything else, so that workers never wait for each other in a
        circle: streams (lane, stream id) of its events, and lanes (site, lane) of its other messages."""
        self._kept.lock(key for key in keys if _STREAM_ID.fullmatch(key[1]))
        self._sessions.lock(lanes)
        self._kept.look(self._sessions.streams())

    # -- events

    def take(self, site: str, lane: str, payload: bytes, named: tuple[str, int], private: bytes) -> Taken:
        """Judge and keep the bytes of one event. Whatever they are, others are not harmed by them.

        `named`: the stream id and number that the message's properties give, for bytes that cannot be read."""
        if not _STREAM_ID.fullmatch(named[0]):
            named = ("", 0)
        chain = hash_of(payload)
        try:
            record = self._read(lane, payload)
            named = (record.stream_id, record.seq)
            if chain in self._kept.poison:
                raise _Refused(f"failed: {self._kept.poison[chain]}")
            return self._judge(site, record, payload, chain, private)
        except _Refused as no:
            return self._refuse(site, lane, payload, chain, no.named or named, no.why)
        except SQLAlchemyError:
            raise
        except Exception as bug:  # noqa: BLE001 whatever it is, it harms this record alone
            return self._refuse(site, lane, payload, chain, named, _mistake(bug, lane, named))

    def _read(self, lane: str, payload: bytes) -> Record:
        try:
            record = Record.decode(payload)
        except WireError as bad:
            raise _Refused(f"malformed: {bad}") from None
        if record.lane != lane:
            why = "wrong_lane: made by another lane than the topic's"
            raise _Refused(why, (record.stream_id, record.seq))
        return record

    def _judge(self, site: str, record: Record, payload: bytes, chain: bytes, private: bytes) -> Taken:
        lane, identity = record.lane, (record.stream_id, record.seq)
        stream = self._kept.stream(lane, record.stream_id)
        if stream is None or not self._former(record):
            return Taken(Fate.MISSING, *identity, chain, self.head(lane, record.stream_id), "another worker is at it")
        if record.seq <= stream.head.seq:
            return self._again(record, chain, stream.head)
        try:
            before, why = self._over_hole(site, stream, record)
            if record.seq <= before.seq:
                return self._again(record, chain, before)
            after = follow(before, record)
        except ChainMissing:
            self._open(record, private)
            return self._hold(stream, site, record, payload, chain)
        except ChainBroken as bad:
            raise _Refused(f"chain_broken: {bad}") from None
        except WireError as bad:
            raise _Refused(f"malformed: {bad}") from None
        self._open(record, private)
        if why:
            self._skip(site, stream, before.seq, before.hash, why)
        self._store(stream, site, record, chain, before, after)
        self._drain(stream, site)
        return Taken(Fate.STORED, *identity, chain, stream.head)

    def _open(self, record: Record, private: bytes) -> None:
        """Refuse what is no fact that its lane sealed for us. What a newer lane says is kept unread."""
        try:
            if record.kind in FACTS:
                record.fact(private)
            elif record.schema <= SCHEMA:
                raise WireError("unknown kind")
        except SealError:
            raise _Refused("altered: its sealed half does not open in this record") from None
        except WireError as bad:
            if record.schema <= SCHEMA:
                raise _Refused(f"malformed: {bad}") from None

    def _again(self, record: Record, chain: bytes, head: Head) -> Taken:
        """A number that HQ has already: the same record, or another one under its name."""
        if self._kept.has(record, chain):
            self.count("duplicates", 1)
            chain = last_of(record.kind, record.clear) or chain  # as the next record refers to it
            return Taken(Fate.DUPLICATE, record.stream_id, record.seq, chain, head)
        raise _Refused("conflict: HQ has another record of this number, or set it aside")

    def _over_hole(self, site: str, stream: Stream, record: Record) -> tuple[Head, str]:
        """The head to go on from, and why the numbers up to it are missing. What waits before it is taken in first."""
        begin = first_of(record)
        if why := self._sessions.missing(site, stream.head, begin):
            self._bridge(site, stream, begin, why)
        head = stream.head
        if not why or begin <= head.seq + 1:
            return head, ""
        return Head(head.lane, head.stream_id, begin - 1, record.prev), why

    def _bridge(self, site: str, stream: Stream, begin: int, why: str) -> None:
        """Take in what waits below number `begin`, though numbers before it are missing and do not come any more."""
        waiting = self._kept.waiting(stream)
        for at in sorted(each for each in waiting if each < begin):
            for first in waiting.get(at, ())[:1]:
                if at > stream.head.seq + 1:
                    prev = (first.record or Record.decode(first.payload)).prev
                    self._skip(site, stream, at - 1, prev, why)
                self._drain(stream, site)

    def _skip(self, site: str, stream: Stream, last: int, chain: bytes, why: str) -> None:
        """HQ goes without the numbers up to `last`, and the stream goes on behind it."""
        head = stream.head
        self._hole(site, head, head.seq + 1, last, why)
        self._kept.advance(stream, site, Head(head.lane, head.stream_id, last, chain))

    def _hole(self, site: str, head: Head, first: int, last: int, why: str) -> None:
        self._kept.hole(head, first, last, why)
        if why != DROPPED:
            self.finding(site, head.lane, "gap", f"{head.stream_id} {first} to {last}: {why}")

    def _store(self, stream: Stream, site: str, record: Record, chain: bytes, before: Head, after: Head) -> None:
        if record.seq > before.seq + 1 and record.kind == RecordsDropped.__name__:
            self._hole(site, before, before.seq + 1, record.seq - 1, DROPPED)
        self._kept.store(stream, site, record, chain, after)
        self._past_end(stream, site)
        if record.kind == StreamContinued.__name__:
            self._chapter(site, record)

    # -- chapters

    def _former(self, record: Record) -> bool:
        """Can the chapter before be looked at, if this record begins one? False: another worker is at it."""
        if record.kind != StreamContinued.__name__ or record.schema > SCHEMA:
            return True
        try:
            before = record.fact(None).before
        except WireError:
            return True  # `_open` says so
        if record.seq != 1 or not _STREAM_ID.fullmatch(before) or before == record.stream_id:
            raise _Refused("malformed: a chapter begins with what goes before it")
        return self._kept.stream(record.lane, before) is not None

    def _chapter(self, site: str, record: Record) -> None:
        """A chapter began: the one before must end where it says."""
        told = record.fact(None)
        former = self._kept.stream(record.lane, told.before)
        assert former is not None, "locked by _former"
        end = (told.seq, told.head)
        if former.end is not None and former.end != end:
            self.finding(site, record.lane, "chapter_cut", f"{told.before}: two chapters go on from it")
            return
        former.end, former.changed, former.site = end, True, former.site or site
        self._past_end(former, site)
        self._let_go(former, site)

    def _let_go(self, stream: Stream, site: str) -> None:
        """A former chapter of which the lane holds nothing any more, since HQ had it all: what HQ lacks is gone."""
        lane, stream_id = stream.head.lane, stream.head.stream_id
        if not self._sessions.let_go(site, lane, stream_id):
            return
        self._bridge(site, stream, 1 << 62 if stream.end is None else stream.end[0] + 1, GONE)
        if stream.end is not None and stream.head.seq < stream.end[0]:
            self._skip(site, stream, *stream.end, GONE)
        after = self._sessions.next_let_go(site, lane, stream_id) if stream.end is None else ""
        if after and (not self.head(lane, after).seq or self._kept.in_hole(lane, after, 1)):
            why = "where it ended was acknowledged once, and is missing here"
            self.finding(site, lane, "gap", f"{stream_id} behind {stream.head.seq}: {why}")

    def _past_end(self, stream: Stream, site: str) -> None:
        if stream.end is None or stream.head.seq < stream.end[0]:
            return
        where = f"{stream.head.stream_id}: the next chapter says that it ends at {stream.end[0]}"
        if stream.head.seq > stream.end[0]:
            self.finding(site, stream.head.lane, "chapter_cut", f"{where}, it goes on")
        elif stream.head.hash != stream.end[1]:
            self.finding(site, stream.head.lane, "chapter_cut", f"{where} with another record")

    # -- records that wait

    def _hold(self, stream: Stream, site: str, record: Record, payload: bytes, chain: bytes) -> Taken:
        identity = (record.stream_id, record.seq)
        begin, waiting = first_of(record), self._kept.waiting(stream)
        if any(each.chain == chain for each in waiting.get(begin, ())):
            self.count("duplicates", 1)
            return Taken(Fate.DUPLICATE, *identity, chain, stream.head, "it waits for those before it")
        if stream.held >= HELD_MAX:
            return Taken(Fate.MISSING, *identity, chain, stream.head, "records before it are missing")
        waiting.setdefault(begin, []).append(Waiting(record.seq, begin, chain, payload, self._kept.now, record))
        stream.held, stream.changed, stream.site = stream.held + 1, True, stream.site or site
        self.count("held", 1)
        return Taken(Fate.HELD, *identity, chain, stream.head, "records before it are missing")

    def _drain(self, stream: Stream, site: str) -> None:
        """Take in what waited for the stream to come so far."""
        waiting = self._kept.waiting(stream) if stream.held else {}
        while waiting and (begin := min(waiting)) <= stream.head.seq + 1:
            for each in sorted(waiting.pop(begin), key=lambda each: (each.seq, each.chain)):
                self._kept.drained(stream, each)
                self._drained(stream, site, each)

    def _drained(self, stream: Stream, site: str, waited: Waiting) -> None:
        lane, identity = stream.head.lane, (stream.head.stream_id, waited.seq)
        try:
            record = waited.record or Record.decode(waited.payload)
            if record.seq <= stream.head.seq:
                self._again(record, waited.chain, stream.head)
                return
            after = follow(stream.head, record)
            self._store(stream, site, record, waited.chain, stream.head, after)
        except ChainBroken as bad:
            self._refuse(site, lane, waited.payload, waited.chain, identity, f"chain_broken: {bad}")
        except _Refused as no:
            self._refuse(site, lane, waited.payload, waited.chain, identity, no.why)
        except SQLAlchemyError:
            raise
        except Exception as bug:  # noqa: BLE001 whatever it is, it harms this record alone
            self._refuse(site, lane, waited.payload, waited.chain, identity, _mistake(bug, lane, identity))

    def stalled(self, held_s: float) -> list[tuple[str, str, Head]]:
        """See `Keeping.stalled`; of what the lane can still send."""
        found = self._kept.stalled(held_s)
        return [(site, lane, head) for site, lane, head in found if self._sessions.may_hold(site, lane, head.stream_id)]

    # -- refusals

    def _refuse(
        self, site: str, lane: str, payload: bytes, chain: bytes, named: tuple[str, int], why: str
    ) -> Taken:  # fmt: skip
        """Refuse; for good, and kept, once the same bytes came often enough."""
        stream_id, seq = named
        addressed = bool(stream_id) and 0 < seq < 1 << 63
        if addressed and self._kept.is_aside(lane, stream_id, seq, chain):  # the lane was told, and did not hear it
            return Taken(Fate.SET_ASIDE, stream_id, seq, chain, self.head(lane, stream_id), why)
        if why.partition(":")[0] in _EDITS:
            self.finding(site, lane, "edited", f"{stream_id} {seq}: {why.partition(':')[0]}")
        mark = sha256(b"\0".join((lane.encode(), stream_id.encode(), str(seq).encode(), chain))).digest()
        often = addressed and self._kept.refused_before(lane, mark) + 1 >= self.REFUSALS_MAX
        stream = self._kept.stream(lane, stream_id) if often else None
        begin, after = _stands_for(payload, seq, chain)
        if stream is None or not self._reached(site, stream, begin):
            self.count("refusals", 1)
            return Taken(Fate.REFUSED, stream_id, seq, chain, None, why)
        self._kept.set_aside(site, (lane, stream_id, seq, chain), why, payload)
        if seq > stream.head.seq + 1:
            self._hole(site, stream.head, stream.head.seq + 1, seq - 1, DROPPED)
        if seq >= stream.head.seq:  # the lane's next record refers to these bytes
            self._kept.advance(stream, site, Head(lane, stream_id, seq, after))
            self._drain(stream, site)
        return Taken(Fate.SET_ASIDE, stream_id, seq, chain, stream.head, why)

    def _reached(self, site: str, stream: Stream, begin: int) -> bool:
        """Has the stream come to this number? What lies behind its head is not set aside: the lane would go on behind
        it, and HQ wait for what is before it."""
        if why := self._sessions.missing(site, stream.head, begin):
            self._bridge(site, stream, begin, why)
        if why and begin > stream.head.seq + 1:
            self._skip(site, stream, begin - 1, stream.head.hash, why)
        return begin <= stream.head.seq + 1

    # -- what else there is

    def head(self, lane: str, stream_id: str) -> Head:
        """How far HQ has this stream, with what this batch has taken of it."""
        return self._kept.head(lane, stream_id)

    def born(self, site: str, lane: str, birth: link.Birth, retained: bool) -> None:
        """See `Sessions.born`."""
        self._sessions.born(site, lane, birth, retained)
        for stream_id in self._kept.unended(lane):
            if self._sessions.let_go(site, lane, stream_id) and (stream := self._kept.stream(lane, stream_id)):
                self._let_go(stream, site)

    def died(self, site: str, lane: str, death: link.Death) -> bool:
        """See `Sessions.died`."""
        return self._sessions.died(site, lane, death)

    def told(self, site: str, lane: str, telemetry: link.Telemetry) -> Told:
        """See `Sessions.told`."""
        return self._sessions.told(site, lane, telemetry)

    def reported(self, site: str, lane: str, reported: link.Reported) -> None:
        """See `Sessions.reported`."""
        self._sessions.reported(site, lane, reported)

    def finding(self, site: str, lane: str, code: str, detail: str) -> bool:
        """Write down what somebody must look at, once for each lane, code and detail. True where it is new."""
        return self._kept.finding(site, lane, code, detail)

    def count(self, name: str, by: int) -> None:
        """Add to a counter."""
        self._kept.count(name, by)

    def purge(self, keys: Sequence[tuple[str, str, int]]) -> int:
        """See `Keeping.purge`."""
        return self._kept.purge(keys)

    def flush(self) -> None:
        """Write down what was judged. `Archive.batch` does this last."""
        self._kept.flush()
        self._sessions.flush()


def _mistake(bug: Exception, lane: str, named: tuple[str, int]) -> str:
    """Why a record is refused that we cannot judge. The log gets the place, and no values: they may be secrets."""
    log.error("a record cannot be judged", lane=lane, stream=named[0], seq=named[1], what=told(bug))
    return f"failed: {type(bug).__name__}"


def _stands_for(payload: bytes, seq: int, chain: bytes) -> tuple[int, bytes]:
    """The first number that refused bytes stand for, and the hash to which the lane's next record refers."""
    told = None
    with suppress(WireError):
        record = Record.decode(payload)
        told = record.fact(None) if record.kind == RecordsDropped.__name__ else None
    return (told.first, told.head) if told is not None and told.last == seq else (seq, chain)
