"""The writer: the one part of the lane that touches lane.db. Facts become durable, then the lane hears of it.

Several facts share one commit when they wait for the disk together. While the disk refuses, nothing is thrown away
but a grant that could not be made durable (the lane was told, and refers); everything else is tried again."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

import structlog

from drivers.base import Emit
from gated.config import Config
from gated.daemon.cachememory import Memory
from gated.daemon.workers import Workers
from gated.lane.commands import Command
from gated.lane.events import Device, DeviceLost, DeviceReady, Event, NotRecorded, Now, Recorded
from gated.store.acks import AckedHeadsReader
from gated.store.crossings import Crossing, Crossings
from gated.store.db import LaneDb
from gated.store.journal import Journal
from gated.store.outbox import TRIM_ROWS, Outbox, OutboxFull
from gated.store.sql import StoreError
from gated.wire.codec import WireError
from gated.wire.facts import ATTACHMENT, CROSSING, Fact, TicketSettled, VerdictReached
from gated.wire.rows import PEOPLE

log = structlog.get_logger()

JOURNAL_EVERY_S = 0.5
"""Steps of the lane wait at most so long for the disk; a fact takes them along at once."""
RETRY_S = 1.0
TRIM_EVERY_S = 60.0
WAITING_MAX = 10_000
"""Facts that wait while the disk refuses. Nobody passes then, so they are alarms and states: the oldest of these go."""
OUTBOX_FULL = "outbox_full"
UNWRITABLE = "unwritable"


@dataclass(slots=True)
class Job:
    """Something to make durable. `answer`: (ticket, ask) of who waits for it. `keep`: tried again where it failed."""

    utc: datetime
    fact: Fact | None = field(default=None, repr=False)
    answer: tuple[int, int] | None = None
    keep: bool = True
    note: tuple[str, str] | None = None
    ticket: int | None = None
    """A ticket that is open from now on."""
    crossing: Crossing | None = field(default=None, repr=False)
    """What the fact says of a person and their document; its time is the record's."""

    @property
    def news(self) -> bool:
        """An alarm or state and nothing else: what may go where too much waits."""
        fact = self.fact
        return fact is not None and fact.stream != CROSSING and self.note is None and self.ticket is None


@dataclass(frozen=True, slots=True)
class Kept:
    """How long things are kept."""

    journal_days: int
    journal_rows_max: int
    crossings_days: int = 30
    """Before the time up to which the lane has heard from HQ: so long a record may wait in the outbox, and HQ with the
    row that counts it. While the lane is offline that time stands still and nothing is forgotten, or a permit's
    entries would come back; where the policy lets a category pass by any cache, `crossings_rows_max` is the end."""
    crossings_rows_max: int = 200_000
    """Two rows a crossing: 3,333 a day for 30 days. Beyond that the oldest go."""


class Writer:
    """Owns the database connection; everything runs on the worker "store"."""

    def __init__(
        self,
        db: LaneDb,
        outbox: Outbox,
        journal: Journal,
        crossings: Crossings,
        workers: Workers,
        emit: Emit,
        kept: Kept,
        acked: Callable[[], Mapping[str, int]],
    ) -> None:
        self.db, self.outbox, self.journal, self.crossings = db, outbox, journal, crossings
        self._workers, self._emit, self._kept, self._acked = workers, emit, kept, acked
        self._waiting: deque[Job] = deque()
        self._urgent = asyncio.Event()
        self._refused: str | None = None
        self._round: asyncio.Task[None] | None = None
        """What the disk is at."""
        self._room = False
        """There is room again after `OutboxFull`."""
        self._ended = 0
        """The highest ticket whose end is durable."""
        self._more_to_trim = False
        """HQ takes in a backlog: what it has is not kept for another minute."""
        self._hq_up = False
        self._catch_up = False
        """HQ can be reached again, and no chapter was begun for it yet."""
        self.pending: dict[str, int] = {}
        """Records in the outbox, by stream."""
        self.dropped = 0
        """Facts that were lost because too many waited."""

    # -- from the loop -----------------------------------------------------------------------------------------

    def step(self, now: Now, event: Event, commands: tuple[Command, ...]) -> None:
        """Take a step of the lane into memory, sealed."""
        self.journal.append(now, event, commands)

    def add(self, job: Job) -> None:
        """Have a job done; a fact goes to the disk at once."""
        if job.crossing is not None:
            self.crossings.await_disk(job.crossing)
        self._waiting.append(job)
        self._bound()
        self._urgent.set()

    def hq_reachable(self, up: bool) -> None:
        """HQ can be reached again, or no longer. After an outage new chapters begin as soon as no ticket is open."""
        self._catch_up = up and (self._catch_up or not self._hq_up)
        self._hq_up = up

    def _bound(self) -> None:
        while len(self._waiting) > WAITING_MAX:
            del self._waiting[next((at for at, job in enumerate(self._waiting) if job.news), 0)]
            self.dropped += 1
            if self.dropped % 1000 == 1:
                log.error("facts are lost: too many wait for the disk", lost=self.dropped)

    # -- on its own ------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Write, for ever."""
        loop = asyncio.get_running_loop()
        self._emit(DeviceReady(Device.STORE))
        trimmed = loop.time()
        while True:
            try:
                async with asyncio.timeout(JOURNAL_EVERY_S):
                    await self._urgent.wait()
            except TimeoutError:
                pass  # nothing urgent: the journal goes alone
            self._urgent.clear()
            await self.flush()
            if self._refused is not None:
                await asyncio.sleep(RETRY_S)
                self._urgent.set()
            if self._refused == OUTBOX_FULL or self._more_to_trim or loop.time() - trimmed >= TRIM_EVERY_S:
                trimmed = loop.time()
                await self._trim()

    async def flush(self) -> None:
        """Write everything that waits. Never raises for what the disk does.

        The disk does not stop where the caller is cancelled: the next flush first hears what became of it."""
        while self._round is not None:
            await asyncio.shield(self._round)
        jobs = list(self._waiting)
        self._waiting.clear()
        self._round = asyncio.ensure_future(self._write_all(jobs))
        await asyncio.shield(self._round)

    async def _write_all(self, jobs: list[Job]) -> None:
        try:
            failed = await self._workers.run("store", self._commit, jobs)
        except StoreError as error:
            self._not_written(jobs, error)
        except BaseException:
            self._waiting.extendleft(reversed(jobs))
            raise
        else:
            self._written(jobs, failed)
        finally:
            self._round = None

    def _written(self, jobs: list[Job], failed: dict[int, StoreError]) -> None:
        for job in jobs:
            if id(job) in failed:
                continue
            if isinstance(job.fact, TicketSettled):
                self._ended = max(self._ended, job.fact.ticket)
            if job.crossing is not None:
                self.crossings.written(job.crossing)
            if job.answer is not None:
                self._room = True
                self._emit(Recorded(*job.answer))
        if failed:
            self._not_written([job for job in jobs if id(job) in failed], next(iter(failed.values())))
        elif self._refused is not None and (self._room or self._refused != OUTBOX_FULL):
            self._refused = None
            log.info("store writes again")
            self._emit(DeviceReady(Device.STORE))

    def _not_written(self, jobs: list[Job], error: StoreError) -> None:
        for job in jobs:
            if job.answer is not None:
                self._emit(NotRecorded(*job.answer, error.why))
                job.answer = None
        self._waiting.extendleft(reversed([job for job in jobs if job.keep]))
        self._bound()
        if self._refused is None:
            log.error("store refuses", why=error.why, what=str(error))
            self._emit(DeviceLost(Device.STORE, error.why))
        self._refused, self._room = error.why, False

    def _commit(self, jobs: list[Job]) -> dict[int, StoreError]:
        """One transaction for all of them; returns which of them had to stay out of it, by id(job)."""
        failed: dict[int, StoreError] = {}
        with self.db.transaction():
            if self._catch_up and jobs and not self.db.unsettled():
                self._begin_chapters(jobs[0].utc)
            for job in jobs:
                try:
                    self._write(job)
                except OutboxFull as full:
                    self._no_room(job, full, failed)
                except WireError as wrong:  # a bug of ours, which is no reason to lose the others' facts
                    log.error("fact cannot be written", fact=type(job.fact).__name__, what=str(wrong))
                    job.keep = False
                    if job.answer is not None:
                        failed[id(job)] = StoreError(UNWRITABLE, self.db.path, "a fact breaks its own form")
            self.journal.flush()
            pending: Counter[str] = Counter()
            for span in self.outbox.spans():
                pending[span.stream] += span.last - span.first + 1
        self.pending = dict(pending)
        return failed

    def _begin_chapters(self, utc: datetime) -> None:
        try:
            begun = self.outbox.begin_chapters(utc, acked=self._heads())
        except OutboxFull:
            return  # what HQ takes now makes room; then again
        self.db.on_commit(self._caught_up)
        if begun:
            log.info("new chapters: what happens now does not wait for what HQ has missed", streams=begun)

    def _caught_up(self) -> None:
        self._catch_up = False

    def _no_room(self, job: Job, full: OutboxFull, failed: dict[int, StoreError]) -> None:
        """A picture that finds no room is lost, and nothing else is: the lane goes on."""
        if job.fact is None or job.fact.stream != ATTACHMENT:
            failed[id(job)] = full
            return
        self.dropped += 1
        log.warning("a picture finds no room in the outbox", lost=self.dropped)

    def _write(self, job: Job) -> None:
        fact = job.fact
        if isinstance(fact, VerdictReached) and fact.ticket <= self._ended:
            return  # it found no room, and the end of its ticket, which did, says what it said
        if job.ticket is not None:
            self.db.ticket_recorded(job.ticket)
        if job.note is not None:
            self.db.set_note(*job.note)
        if fact is not None:
            self.outbox.append(fact, job.utc)
        if job.crossing is not None:
            self.crossings.add(job.crossing)

    async def _trim(self) -> None:
        try:
            freed = await self._workers.run("store", self._trim_all)
        except StoreError as error:
            log.warning("store could not be trimmed", why=error.why, what=str(error))
            self._more_to_trim = False
        else:
            self._room = self._room or freed > 0
            self._more_to_trim = freed >= TRIM_ROWS

    def _trim_all(self) -> int:
        """Delete what HQ has acknowledged and what is too old; returns how many records there are fewer."""
        acked = self._heads()
        with self.db.transaction():
            freed = self.outbox.trim(acked)
            row = self.db.sql.execute("SELECT utc FROM journal ORDER BY id DESC LIMIT 1").fetchone()
            if row is not None:
                utc = datetime.fromisoformat(row[0])
                self.journal.trim(utc, self._kept.journal_days, self._kept.journal_rows_max)
                heard = min(utc, Memory(self.db.note(f"cache_{PEOPLE}") or "").as_of or utc)
                kept = self._kept
                self.crossings.forget(heard - timedelta(days=kept.crossings_days), kept.crossings_rows_max)
        return freed

    def _heads(self) -> Mapping[str, int]:
        """What HQ has acknowledged; nothing, where that cannot be read."""
        try:
            return self._acked()
        except StoreError as error:
            log.warning("acknowledgements cannot be read", why=error.why, what=str(error))
            return {}

    def close(self) -> None:
        """Close the database. Everything that should be kept was flushed before."""
        if self._round is not None:
            self._round.cancel()
        self.db.close()


def acknowledged(path: Path) -> Mapping[str, int]:
    """What HQ has acknowledged, by an uplink.db; nothing, where that cannot be read."""
    reader = AckedHeadsReader(path)
    try:
        return reader.heads()
    except StoreError as error:
        log.warning("acknowledgements cannot be read", why=error.why, what=str(error))
        return {}
    finally:
        reader.close()


def writer_of(config: Config, db: LaneDb, boot: str, keys: tuple[bytes, bytes], workers: Workers, emit: Emit) -> Writer:
    """The writer of a lane on its database. `keys`: the journal's, and HQ's public one."""
    store, (journal_key, hq_public) = config.store, keys
    return Writer(
        db,
        Outbox(db, config.identity.id, boot, hq_public, bytes_max=store.outbox_bytes_max),
        Journal(db, journal_key, boot),
        Crossings(db, journal_key),
        workers,
        emit,
        Kept(store.journal_days, store.journal_rows_max),
        AckedHeadsReader(db.path.with_name("uplink.db")).heads,
    )
