"""HQ's publisher: the register's changes -> sealed segments, days and snapshots, and a signed head that names them.

What is on the disk before what: a segment's file, then its row in the publisher's database, then the signed head, then
the announcement. So it may be killed anywhere: what was signed or announced has the same bytes ever after, and what was
neither is made anew. A segment that lifts something is pinned in the base, which a second key signs, before it enters
the chain: with the online key alone bans are added and never lifted, and what is to be lifted waits.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from gated.hq import bundles, epochs
from gated.hq.announcer import Tips
from gated.hq.heads import Heads
from gated.hq.keys import KeyFault
from gated.hq.metadata import make_folder
from gated.hq.partition import Partition, Prepared, Segment
from gated.hq.published import Epoch, PublisherState, State, StateFault
from gated.hq.registers import Register, RegisterFault
from gated.hq.repository import Repository, RepositoryFault, Signers
from gated.hq.sealing import FOR_LIFT_KEY, Draft, Sealer, add_control, rewrite_control, seal_people
from gated.hq.upkeep import Progress, Upkeep
from gated.wire.bundle import (
    GUARDED,
    BundleError,
    Pinned,
    segment_path,
    target_path,
)
from gated.wire.codec import encode
from gated.wire.rows import CONTROL, PEOPLE

log = structlog.get_logger()

ORDER: Final = (CONTROL, PEOPLE)
"""Bans first."""
BATCH: Final = 5000
"""People or documents in one segment."""
SLICE: Final = 2000
"""With a background: so many people or documents before somebody looks whether anything is urgent."""

Faults = (StateFault, KeyFault, RegisterFault, RepositoryFault, BundleError, bundles.TooLong, sqlite3.Error, OSError)
"""What may go wrong with one partition and does not keep the other from being published."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a round did for one partition."""

    partition: str
    epoch: int
    """0: there is none that lanes could use."""
    serial: int
    rows: int
    made: tuple[Segment, ...] = ()
    waiting: tuple[tuple[str, int], ...] = ()
    """(why, how many people and documents)."""
    opened: bool = False
    needs_lift_key: bool = False
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One round. `version`: of the timestamp that was signed."""

    built: datetime
    version: int
    done: tuple[Done, ...]


class Publisher:
    """Publishes into the folder of `repository`. `background`: no round takes long, for something urgent may come:
    snapshots are taken beside the segments, a new epoch is filled by `work`, and where much has changed at once a round
    ends while there is more (`behind`). Raises `RepositoryFault` where nothing can be signed."""

    def __init__(
        self,
        register: Register,
        state: PublisherState,
        keys: Path,
        repository: Repository,
        signers: Signers,
        *,
        background: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.register, self.state, self.repository, self.signers = register, state, repository, signers
        self.folder = repository.folder
        self._keys, self._progress = keys, progress or (lambda *_: None)
        self._sealers: dict[tuple[str, int], Sealer] = {}
        self._paged: dict[tuple[str, int], int] = {}
        self._background = background
        self._heads = Heads(repository, signers)
        self._upkeep = Upkeep(self.folder, background, self._progress)
        self._tips = Tips(repository, signers)
        make_folder(self.folder / "data")

    def close(self) -> None:
        """Waits for a snapshot that is being taken."""
        self._upkeep.close()

    # -- rounds

    def round(self, now: datetime, *, snapshot: bool = False, consolidate: bool = False) -> Round:
        """Everything that the register has, and whatever is due. `now`: utc."""
        return self._round(now, lambda part: self._ordinary(part, now, snapshot, consolidate))

    def urgent(self, now: datetime) -> Round:
        """What is urgent, and nothing else."""
        return self._round(now, lambda part: self._changes(part, now, urgent=True))

    def announcement(self, done: Round) -> bytes:
        """What lanes are told of a round, over MQTT."""
        return self._tips.announcement(self.open_partitions(), done.version, done.built)

    @property
    def is_urgent(self) -> bool:
        """Whether the register has an urgent change that is not published."""
        newest = self.register.newest(urgent=True)
        return newest > 0 and any(part.note.taken_urgent < newest for part in self.open_partitions())

    @property
    def behind(self) -> bool:
        """Whether the last round ended while there was more."""
        newest = self.register.newest()
        return any(part.note.taken < newest for part in self.open_partitions())

    def work(self) -> bool:
        """Go on filling a new epoch, for a moment. False: there is nothing to fill."""
        for name in ORDER:
            for epoch in self.state.epochs(name):
                if epoch.state is State.FILLING:
                    self._fill(epoch, SLICE)
                    return True
        return False

    def open_partitions(self) -> Iterator[Partition]:
        """The epochs that lanes use."""
        for name in ORDER:
            for epoch in self.state.epochs(name):
                if epoch.state is State.OPEN:
                    yield Partition(self.state, name, epoch.epoch)

    def _round(self, now: datetime, make: Callable[[Partition], list[Segment]]) -> Round:
        done, targets = [], {}
        for name in ORDER:
            try:
                opened = self._begin(name, now)
                part = next((each for each in self.open_partitions() if each.name == name), None)
                if part is None or self._heads.forked(part):
                    done.append(self._told(name, None, opened=opened))
                    continue
                made = make(part)
                self._upkeep.audit(part)
                bundles.write_pages(self.folder, part, self._paged.get((name, part.epoch), 0), part.note.serial)
                self._paged[name, part.epoch] = part.note.serial
                targets.update(self._heads.targets(part, now))
                done.append(self._told(name, part, made, opened))
            except Faults as bad:
                log.error("partition not published", partition=name, why=str(bad))
                done.append(self._told(name, None, fault=str(bad)))
        version = self.repository.put(targets, self.signers, now)
        self._upkeep.tidy()
        return Round(now, version, tuple(done))

    def _told(
        self,
        name: str,
        part: Partition | None,
        made: list[Segment] | None = None,
        opened: bool = False,
        fault: str | None = None,
    ) -> Done:
        filled = any(each.state is State.FILLED for each in self.state.epochs(name))
        if part is None:
            return Done(name, 0, 0, 0, needs_lift_key=filled and not self._heads.can_lift(name), fault=fault)
        note, waiting = part.note, Counter(why for _, why in part.waiting())
        stuck = filled or any(waiting[why] for why in FOR_LIFT_KEY)
        needs = stuck and not self._heads.can_lift(name)
        return Done(
            name, note.epoch, note.serial, note.rows, tuple(made or ()), tuple(waiting.items()), opened, needs, fault
        )

    def _sealer(self, epoch: Epoch) -> Sealer:
        at = (epoch.partition, epoch.epoch)
        if at not in self._sealers:
            self._sealers[at] = epochs.sealer(self._keys, epoch.partition, epoch.epoch, epoch.proof)
        return self._sealers[at]

    # -- epochs

    def _begin(self, name: str, now: datetime) -> bool:
        """The first epoch begins by itself; one that is filled opens. Whether one did."""
        if not self.state.epochs(name):
            epochs.begin(self.state, self._keys, name, now, self._heads.epoch(name))
        for epoch in self.state.epochs(name):
            if epoch.state is State.FILLING and not self._background:
                while self._fill(epoch, BATCH):
                    pass
        for epoch in self.state.epochs(name):
            if epoch.state is State.FILLED:
                return self._open(Partition(self.state, name, epoch.epoch), now)
        return False

    def _fill(self, epoch: Epoch, limit: int) -> bool:
        """Seal some more of the register. False: it is filled."""
        part, newest_urgent = Partition(self.state, epoch.partition, epoch.epoch), self.register.newest(urgent=True)
        with self.state.transaction():
            note = part.note
            if note.taken == 0:
                part.came_to(urgent=newest_urgent)  # all that is urgent by now is among what will be sealed
            changes = self.register.changes(note.taken, limit)
            if changes:
                draft = Draft(part, self._sealer(note))
                seal = seal_people if part.name == PEOPLE else rewrite_control
                seal(draft, self.register, [change.what for change in changes])
                draft.put_in()
                part.came_to(taken=changes[-1].n)
                self._progress(f"sealing {part.name}", changes[-1].n, self.register.newest())
            else:
                part.become(State.FILLED)
        return bool(changes)

    def _open(self, part: Partition, now: datetime) -> bool:
        signed = self._heads.base_signed(part) is not None  # it was killed before it could say so here
        if not signed and not self._heads.can_lift(part.name):
            return False
        if part.note.rows and not self._upkeep.snapshot(part, now):
            return False
        epochs.give_all(self.state, self._keys, self.folder, part.name, part.epoch)
        self._upkeep.audit(part, forced=True)
        self.repository.put(self._heads.targets(part, now), self.signers, now)
        with self.state.transaction():
            part.become(State.OPEN)
        log.info("epoch opened", partition=part.name, epoch=part.epoch, rows=part.note.rows)
        return True

    # -- segments

    def _ordinary(self, part: Partition, now: datetime, snapshot: bool, consolidate: bool) -> list[Segment]:
        made = self._changes(part, now, urgent=True)
        made += self._changes(part, now, urgent=False)
        can_lift = self._heads.can_lift(part.name)
        self._upkeep.due(part, now, snapshot=snapshot, consolidate=consolidate, can_lift=can_lift)
        return made

    def _changes(self, part: Partition, now: datetime, *, urgent: bool) -> list[Segment]:
        """A segment of all that is new, several where it is much; then one that lifts, where that can be signed."""
        made = [segment for segment in (self._finish_lift(part, now),) if segment]
        waiting = dict(part.waiting())
        again = [] if urgent else [what for what, why in waiting.items() if why not in FOR_LIFT_KEY]
        while True:
            note = part.note
            limit = SLICE if self._background else BATCH
            batch = self.register.changes(note.taken_urgent if urgent else note.taken, limit, urgent=urgent)
            if not batch and not again:
                break
            with self.state.transaction():
                draft = Draft(part, self._sealer(note))
                whats = list(dict.fromkeys([*again, *(change.what for change in batch)]))
                for what in whats:
                    if what in waiting:
                        part.wait(what, None)
                seal = seal_people if part.name == PEOPLE else add_control
                seal(draft, self.register, whats)
                if draft.changes:
                    made.append(self._extend(part, draft, now))
                if batch and urgent:
                    part.came_to(urgent=batch[-1].urgent)
                elif batch:
                    part.came_to(taken=batch[-1].n)
                    self._progress(f"publishing {part.name}", batch[-1].n, self.register.newest())
            again = []
            if self._background and not urgent:
                break
        if part.name in GUARDED:
            made += self._lift(part, now)
        return made

    def _extend(self, part: Partition, draft: Draft, now: datetime) -> Segment:
        serial = part.note.serial + 1
        path = self.folder / segment_path(part.name, part.epoch, serial)
        file = bundles.write_segment(path, part, serial, draft.ordered, len(draft.changes))
        draft.put_in()
        return part.extend(file, draft.changes, False, now)

    # -- lifting

    def _lift(self, part: Partition, now: datetime) -> list[Segment]:
        """What waits for the second key, if it is at hand."""
        made: list[Segment] = []
        while True:
            whats = [what for what, why in part.waiting() if why in FOR_LIFT_KEY][:BATCH]
            if not whats or not self._heads.can_lift(part.name):
                return made
            draft = Draft(part, self._sealer(part.note))
            rewrite_control(draft, self.register, whats)
            if not draft.changes:  # it is as the register has it by now
                with self.state.transaction():
                    for what in whats:
                        part.wait(what, None)
                continue
            serial = part.note.serial + 1
            path = self.folder / segment_path(part.name, part.epoch, serial)
            file = bundles.write_segment(path, part, serial, draft.ordered, len(draft.changes))
            with self.state.transaction():
                part.prepare(Prepared(serial, file, len(draft.changes), now))
            made += [segment for segment in (self._finish_lift(part, now),) if segment]

    def _finish_lift(self, part: Partition, now: datetime) -> Segment | None:
        """A segment that lifts enters the chain when it is pinned in the signed base, and never before."""
        prepared = part.prepared
        if prepared is None:
            return None
        pin = Pinned(prepared.serial, prepared.file.sha256)
        signed = self._heads.base_signed(part)
        path = self.folder / segment_path(part.name, part.epoch, prepared.serial)
        as_it_was = path.exists() and bundles.written(path) == prepared.file
        if as_it_was and (signed is None or pin not in signed.lifts) and self._heads.can_lift(part.name):
            base = encode(self._heads.base(part, now, pin))
            self.repository.put({target_path(part.name, "base"): base}, self.signers, now)
            signed = self._heads.base_signed(part)
        with self.state.transaction():
            part.prepare(None)
            if not as_it_was or signed is None or pin not in signed.lifts:
                return None  # its number goes to another segment; it is lifted when the key is there again
            changes = bundles.read_segment(path, part, prepared.serial)
            part.put(changes, {})
            return part.extend(prepared.file, changes, True, prepared.built)
