"""What is signed of a partition: its base and its head."""

from datetime import datetime, timedelta
from typing import Final

from gated.hq.partition import Partition
from gated.hq.published import State, StateFault
from gated.hq.repository import Repository, Signers
from gated.wire.bundle import (
    DAYS_MAX,
    GUARDED,
    LIFTS_MAX,
    SCHEMA,
    Base,
    Head,
    Pinned,
    load,
    target_path,
)
from gated.wire.codec import encode

LIFTS_KEPT: Final = timedelta(days=30)
"""So long a lane may have been away and still follow segment by segment."""


class Heads:
    """Bases and heads in one repository, signed with the keys at hand. Raises `RepositoryFault`."""

    def __init__(self, repository: Repository, signers: Signers) -> None:
        self.repository, self.signers = repository, signers

    def can_lift(self, partition: str) -> bool:
        """Whether the keys at hand are enough for a partition's base."""
        return self.repository.can(target_path(partition, "base"), self.signers)

    def epoch(self, partition: str) -> int:
        """The epoch that the signed head is of; 0: there is none."""
        data = self.repository.target(target_path(partition, "head"))
        return load(Head, data).epoch if data else 0

    def forked(self, part: Partition) -> bool:
        """Whether this database is an older copy of what was signed: nothing may be built on it. Raises `StateFault`
        where no newer epoch has begun."""
        data = self.repository.target(target_path(part.name, "head"))
        head = load(Head, data) if data else None
        if head is None or head.epoch < part.epoch:
            return False
        note = part.note
        known = (
            note.chain
            if head.serial == note.serial
            else next((segment.chain for segment in part.segments(head.serial, head.serial)), None)
        )
        if head.epoch == part.epoch and (known == head.chain or head.serial == 0):
            return False
        if any(each.state in (State.FILLING, State.FILLED) for each in part.state.epochs(part.name)):
            return True
        raise StateFault(
            f"{part.state.path} is an older copy: it does not know segment {head.serial} of epoch {head.epoch} of"
            f" {part.name}, which was signed. Put the newest copy back, or: gated-hq epoch new {part.name}"
        )

    def base(self, part: Partition, now: datetime, also: Pinned | None = None) -> Base:
        """The base as it should be. `also`: a segment that is to lift something."""
        newest = part.snapshot
        pins = part.lifting(newest[0].serial if newest else 0, now - LIFTS_KEPT) if part.name in GUARDED else []
        lifts = [*(Pinned(*pin) for pin in pins), *([also] if also else [])]
        return Base(
            SCHEMA, part.name, part.epoch, part.note.proof, newest[0] if newest else None, tuple(lifts[-LIFTS_MAX:])
        )

    def base_signed(self, part: Partition) -> Base | None:
        """The signed base of this very epoch."""
        data = self.repository.target(target_path(part.name, "base"))
        base: Base | None = load(Base, data) if data else None
        return base if base is not None and base.epoch == part.epoch else None

    def targets(self, part: Partition, now: datetime) -> dict[str, bytes | None]:
        """Head, and base where it is another than the signed one and can be signed."""
        found: dict[str, bytes | None] = {}
        base, signed = self.base(part, now), self.base_signed(part)
        if base != signed and (signed is None or self.can_lift(part.name)):
            found[target_path(part.name, "base")] = encode(base)
            signed = base
        assert signed is not None
        note = part.note
        days = [day for day, lifts in part.days() if not lifts or Pinned(day.last, day.sha256) in signed.lifts]
        head = Head(SCHEMA, part.name, part.epoch, note.serial, note.chain, now, tuple(days[-DAYS_MAX:]), part.audit)
        found[target_path(part.name, "head")] = encode(head)
        return found
