"""Crossings out of HQ's records into its register: what the certificates of O7 and O8 and every lane's history rest on.

A crossing is a ticket that was settled as crossed, by somebody whom one of its verdicts names. Its time is that of the
record that settled it, which is the time that the lane itself keeps: by that the lane knows what HQ has counted. How
far each stream was read stands in the register, in the transaction in which its crossings were counted; so this may be
killed and run again at any moment.

A later chapter of a stream can come before the rest of an earlier one (`facts.StreamContinued`). No ticket is in two of
them, so each is counted by itself; what then comes late stands in its place by its time (`Register.crossed`).
"""

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import structlog

from gated.hq.archive import Archive, ArchiveError
from gated.hq.people import Paper, RegisterFault
from gated.hq.registers import Register
from gated.lane.rules import DIRECTIONS, Rules
from gated.notify import notify, watchdog_s
from gated.wire.codec import WireError
from gated.wire.facts import CROSSING, Holder, TicketSettled, VerdictReached
from gated.wire.record import Record
from gated.wire.seal import SealError

log = structlog.get_logger()

CROSSED: Final = "crossed"
NAMELESS: Final = "nameless"
"""Nobody who is enrolled crossed, or not said which way."""
DAMAGED: Final = "damaged"
"""The person's row in the register cannot be read: it is as it was, and a register that is restored counts anew."""
PAGE: Final = 500
"""Records that are read, counted and committed together."""
POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Crossing:
    """Somebody's crossing, as a lane's records tell it."""

    subject: int = field(repr=False)
    direction: str
    utc: datetime
    paper: Paper


@dataclass(slots=True)
class Update:
    """What one run did. `counts`: by `registers.Counted`, `nameless`, `damaged`. `stuck`: (lane, stream, why)
    of what cannot be read."""

    records: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    stuck: list[tuple[str, str, str]] = field(default_factory=list)


class History:
    """`archive` may be read-only. `private`: HQ's key, which opens what lanes sealed. `rules`: which permits entries
    are taken off."""

    def __init__(self, archive: Archive, private: bytes, register: Register, rules: Rules) -> None:
        self._archive, self._private, self._register, self._rules = archive, private, register, rules

    def update(self) -> Update:
        """Everything that has come since the last time. A stream with a record that cannot be read stays where it is,
        and is told; the others go on. Raises `ArchiveError`, and `sqlite3.Error` where the register fails."""
        done = Update()
        for stream in self._archive.streams():
            lane, stream_id = stream["lane"], stream["stream_id"]
            if not stream_id.endswith(f"-{CROSSING}") or stream["seq"] <= self._register.read_to(lane, stream_id):
                continue
            try:
                while self._page(lane, stream_id, done):
                    pass
            except (SealError, WireError) as bad:
                done.stuck.append((lane, stream_id, str(bad)))
        return done

    def _page(self, lane: str, stream_id: str, done: Update) -> bool:
        """Count some more of a stream. False: there is no more."""
        register, counts = self._register, Counter[str]()
        with register.writing():  # before the cursor is read: another one may be at work
            records = self._archive.after(lane, stream_id, register.read_to(lane, stream_id), PAGE)
            if not records:
                return False
            for record in records:
                if record.kind == TicketSettled.__name__ and record.clear.get("outcome") == CROSSED:
                    counts[self._count(record)] += 1
            register.has_read(lane, stream_id, records[-1].seq)
        done.records += len(records)
        done.counts += counts
        return True

    def _count(self, record: Record) -> str:
        found = self.crossing(record)
        if found is None:
            return NAMELESS
        try:
            return self._register.crossed(found.subject, found.direction, found.utc, found.paper, self._rules)
        except RegisterFault:
            return DAMAGED

    def crossing(self, settled: Record) -> Crossing | None:
        """The crossing that this record settled; None: of nobody who is enrolled. Raises `SealError`, `WireError`."""
        end = settled.fact(self._private)
        for verdict in self._verdicts(settled):
            holder: Holder | None = verdict.holder
            direction = end.direction or verdict.direction
            if holder is not None and holder.subject is not None and direction in DIRECTIONS:
                return Crossing(holder.subject, direction, settled.utc, Paper(holder.issuer, holder.number))
        return None

    def _verdicts(self, settled: Record) -> Iterator[VerdictReached]:
        """Of the same ticket, newest first: a lane has one ticket at a time, so behind another's end there are none."""
        ticket = settled.clear.get("ticket")
        for record in self._archive.before(settled):
            if record.clear.get("ticket") == ticket and record.kind == VerdictReached.__name__:
                yield record.fact(self._private)
            elif record.kind == TicketSettled.__name__ and record.clear.get("ticket") != ticket:
                return


def keep_counting(history: History, every_s: float, stop: threading.Event) -> None:
    """Until `stop`. Never raises for what may be over in a while: a lock, a full disk."""
    next_mono, stroke_s = time.monotonic(), watchdog_s()
    notify("READY=1", "STATUS=counting crossings")
    while not stop.is_set():
        if stroke_s is not None:
            notify("WATCHDOG=1")
        if time.monotonic() >= next_mono:
            next_mono = time.monotonic() + every_s
            try:
                done = history.update()
            except (ArchiveError, sqlite3.Error) as bad:
                log.error("crossings not counted", why=str(bad))
            else:
                if done.counts:
                    log.info("crossings counted", **done.counts)
                for lane, stream_id, why in done.stuck:
                    log.error("a stream cannot be read", lane=lane, stream_id=stream_id, why=why)
        stop.wait(POLL_S)
