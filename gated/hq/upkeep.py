"""What is made of a whole partition: days, snapshots and tables of digests, and what of them goes away again.

Each only reads, on a connection of its own; with a background the segments go on beside it.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from gated.hq import bundles
from gated.hq.partition import Partition
from gated.wire.bundle import BUCKETS, LIFTS_MAX, audit_path, manifest_path

log = structlog.get_logger()

Progress = Callable[[str, int, int], None]
"""(what is done, how much of it, of how much)."""
DAY_TOUCHED_MAX: Final = 400_000
"""A day is closed early where more rows than this have changed."""
SNAPSHOT_EVERY: Final = timedelta(days=7)
LIFTS_BEFORE_SNAPSHOT: Final = LIFTS_MAX // 2
AUDIT_ROWS_MAX: Final = 200_000
"""A table of digests is made with each head where no more rows must be read for it; else with each day and snapshot."""
_T = TypeVar("_T")


class Upkeep:
    """Of all partitions of one publisher. Raises `OSError`, `sqlite3.Error`, `TooLong`."""

    def __init__(self, folder: Path, background: bool, progress: Progress) -> None:
        self.folder, self._progress = folder, progress
        self._pool = ThreadPoolExecutor(1, "upkeep") if background else None
        self._jobs: dict[tuple[str, int, str], Future[Any]] = {}
        self._rubbish: list[Path] = []

    def close(self) -> None:
        """Waits for what is being made."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def tidy(self) -> None:
        """Take away what no signed head names any more. Call it when the heads are signed."""
        while self._rubbish:
            bundles.drop(self._rubbish.pop())

    def due(self, part: Partition, now: datetime, *, snapshot: bool, consolidate: bool, can_lift: bool) -> None:
        """Whatever the clock, the sizes or somebody asks for. `can_lift`: a base can be signed."""
        end, closed = part.day_end
        early = part.note.serial > end and part.touched > DAY_TOUCHED_MAX
        day = consolidate or now.date() > closed.date() or early or self._under_way(part, "day")
        newest = part.snapshot
        lifts = len(part.lifting(newest[0].serial if newest else 0, now))
        old = now - (newest[1] if newest else part.note.began) >= SNAPSHOT_EVERY
        whole = snapshot or old or lifts > LIFTS_BEFORE_SNAPSHOT or self._under_way(part, "snapshot")
        if day:
            self.day(part, now)
        if whole and can_lift:
            self.snapshot(part, now)
        self.audit(part, forced=day or whole or self._under_way(part, "audit"))

    def _beside(self, part: Partition, what: str, take: Callable[[], _T]) -> _T | None:
        """Something that only reads, beside the segments where there is a background. None: it is not ready."""
        if self._pool is None:
            return take()
        at = (part.name, part.epoch, what)
        job = self._jobs.setdefault(at, self._pool.submit(take)) if at not in self._jobs else self._jobs[at]
        return self._jobs.pop(at).result() if job.done() else None

    def _under_way(self, part: Partition, what: str) -> bool:
        return (part.name, part.epoch, what) in self._jobs

    def day(self, part: Partition, now: datetime) -> bool:
        """The segments since the last day in one. False: not yet."""
        if part.note.serial <= part.day_end[0] + 1:
            return True
        where = (part.state.path, self.folder, part.name, part.epoch)
        taken = self._beside(part, "day", lambda: bundles.take_day(*where))
        if taken is None:
            return False
        if taken.first != part.day_end[0] + 1:
            return True  # another publisher was quicker
        with part.state.transaction():
            part.add_day(taken, now)
        log.info("day", partition=part.name, epoch=part.epoch, first=taken.first, last=taken.last, bytes=taken.size)
        return True

    def snapshot(self, part: Partition, now: datetime) -> bool:
        """The whole partition. False: not yet."""
        newest = part.snapshot
        if newest is not None and newest[0].serial == part.note.serial:
            return True
        where = (part.state.path, self.folder, part.name, part.epoch)

        def say(done: int, total: int) -> None:
            self._progress(f"snapshot of {part.name}", done, total)

        taken = self._beside(part, "snapshot", lambda: bundles.take_snapshot(*where, say))
        if taken is None:
            return False
        with part.state.transaction():
            old = part.add_snapshot(taken, now)
        self._rubbish += [(self.folder / manifest_path(part.name, part.epoch, serial)).parent for serial in old]
        log.info("snapshot", partition=part.name, epoch=part.epoch, serial=taken.serial, rows=taken.rows)
        return True

    def audit(self, part: Partition, *, forced: bool = False) -> bool:
        """The digests of every bucket, where that is little work or `forced`. False: not yet."""
        note, known = part.note, part.audit
        if known is not None and known.serial == note.serial:
            return True
        little = note.rows * part.dirty_buckets // BUCKETS <= AUDIT_ROWS_MAX
        if little:
            with part.state.transaction():
                part.refresh_digests()
        elif not forced:
            return True
        where = (part.state.path, self.folder, part.name, part.epoch)
        taken = (
            bundles.take_audit(*where) if little else self._beside(part, "audit", lambda: bundles.take_audit(*where))
        )
        if taken is None:
            return False
        with part.state.transaction():
            old = part.add_audit(taken)
        self._rubbish += [self.folder / audit_path(part.name, part.epoch, serial) for serial in old]
        return True
