"""The writer: the one part of the lane that touches lane.db. Facts become durable, then the lane hears of it.

Several facts share one commit when they wait for the disk together. While the disk refuses, nothing is thrown away
but a grant that could not be made durable (the lane was told, and refers); everything else is tried again."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn

import structlog

from drivers.base import Emit
from gated.daemon.workers import Workers
from gated.lane.commands import Command
from gated.lane.events import Device, DeviceLost, DeviceReady, Event, NotRecorded, Now, Recorded
from gated.store.crossings import Crossings
from gated.store.db import LaneDb
from gated.store.journal import Journal
from gated.store.outbox import Outbox, OutboxFull
from gated.store.sql import StoreError
from gated.wire.facts import Fact

log = structlog.get_logger()

JOURNAL_EVERY_S = 0.5
"""Steps of the lane wait at most so long for the disk; a fact takes them along at once."""
RETRY_S = 1.0
TRIM_EVERY_S = 60.0
WAITING_MAX = 10_000
"""Facts that wait while the disk refuses. Nobody passes then, so they are alarms and states: the oldest go first."""


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
    crossing: tuple[str, tuple[str, ...]] | None = field(default=None, repr=False)
    """Direction, and whose."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How long things are kept."""

    journal_days: int
    journal_rows_max: int
    crossings_days: int = 2


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
        self.pending: dict[str, int] = {}
        self.dropped = 0
        self.flushed_mono = 0.0
        """When the disk last answered, well or badly."""

    # -- from the loop -----------------------------------------------------------------------------------------

    def step(self, now: Now, event: Event, commands: tuple[Command, ...]) -> None:
        """Take a step of the lane into memory, sealed."""
        self.journal.append(now, event, commands)

    def add(self, job: Job) -> None:
        """Have a job done; a fact goes to the disk at once."""
        self._waiting.append(job)
        if len(self._waiting) > WAITING_MAX:
            self._waiting.popleft()
            self.dropped += 1
        self._urgent.set()

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
            elif loop.time() - trimmed >= TRIM_EVERY_S:
                trimmed = loop.time()
                await self._trim()

    async def flush(self) -> None:
        """Write everything that waits. Never raises for what the disk does."""
        jobs = list(self._waiting)
        self._waiting.clear()
        try:
            failed = await self._workers.run("store", self._commit, jobs)
        except StoreError as error:
            self._not_written(jobs, error)
            return
        finally:
            self.flushed_mono = asyncio.get_running_loop().time()
        for job in jobs:
            if job.answer is not None and id(job) not in failed:
                self._emit(Recorded(*job.answer))
        full = [job for job in jobs if isinstance(failed.get(id(job)), OutboxFull)]
        if full:
            self._not_written(full, failed[id(full[0])])
        elif self._refused is not None:
            self._refused = None
            log.info("store writes again")
            self._emit(DeviceReady(Device.STORE))

    def _not_written(self, jobs: list[Job], error: StoreError) -> None:
        for job in jobs:
            if job.answer is not None:
                self._emit(NotRecorded(*job.answer, error.why))
                job.answer = None
        self._waiting.extendleft(reversed([job for job in jobs if job.keep]))
        if self._refused is None:
            log.error("store refuses", why=error.why, what=str(error))
            self._emit(DeviceLost(Device.STORE, error.why))
        self._refused = error.why

    def _commit(self, jobs: list[Job]) -> dict[int, OutboxFull]:
        """One transaction for all of them; returns for which of them there was no room, by id(job)."""
        failed: dict[int, OutboxFull] = {}
        with self.db.transaction():
            for job in jobs:
                try:
                    self._write(job)
                except OutboxFull as full:
                    failed[id(job)] = full
            self.journal.flush()
        self.pending = {span.stream: span.last - span.first + 1 for span in self.outbox.spans()}
        return failed

    def _write(self, job: Job) -> None:
        if job.ticket is not None:
            self.db.ticket_recorded(job.ticket)
        if job.note is not None:
            self.db.set_note(*job.note)
        if job.fact is not None:
            self.outbox.append(job.fact, job.utc)
        if job.crossing is not None:
            self.crossings.add(job.crossing[0], job.utc, *job.crossing[1])

    async def _trim(self) -> None:
        try:
            await self._workers.run("store", self._trim_all)
        except StoreError as error:
            log.warning("store could not be trimmed", why=error.why, what=str(error))

    def _trim_all(self) -> None:
        acked = self._acked()
        row = self.db.sql.execute("SELECT utc FROM journal ORDER BY id DESC LIMIT 1").fetchone()
        with self.db.transaction():
            self.outbox.trim(acked)
            if row and row[0]:
                self.journal.trim(datetime.fromisoformat(row[0]), self._kept.journal_days, self._kept.journal_rows_max)

    def close(self) -> None:
        """Close the database. Everything that should be kept was flushed before."""
        self.db.close()
