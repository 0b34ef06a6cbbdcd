"""Doors, and what their drivers share: levels that hold, who walked through two light barriers. No I/O, no clock."""

from dataclasses import dataclass
from enum import Enum

from gated.lane.events import Door, DoorwayBlocked, DoorwayCleared, Event, PersonPassed


class Debounce:
    """One input: a level counts once it held for `hold_s`, and then from the moment it began.

    Works on the times of the edges, not of their delivery: a short level that a busy loop hears of late, when it is
    already over, still counts."""

    def __init__(self, active: bool, hold_s: float) -> None:
        self.active = active
        self._raw = active
        self._since = float("-inf")
        self._hold_s = hold_s

    @property
    def due(self) -> float | None:
        """When the level that is being waited for will have held; None: nothing is being waited for."""
        return self._since + self._hold_s if self._raw != self.active else None

    def feed(self, active: bool, mono: float) -> None:
        """A raw change. Call `settle(mono)` first, or the level before it is lost."""
        if active != self._raw:
            self._raw, self._since = active, mono

    def settle(self, mono: float) -> float | None:
        """If another level held by `mono`, it is now `active`: returns when it began."""
        due = self.due
        if due is None or mono < due:
            return None
        self.active = self._raw
        return self._since


class Beam(Enum):
    """The two light barriers of a doorway: outside the lane, and inside of it."""

    OUTER = "outer"
    INNER = "inner"


@dataclass(slots=True)
class _Visit:
    """The time from a free doorway to a free doorway. `None` sides are not known: both beams moved at one instant."""

    start: Beam | None
    start_mono: float
    side: Beam | None
    """The beam that alone was broken last."""
    side_mono: float
    both: bool = False
    runs: int = 0
    """How often somebody came from the start side to the other with both beams broken in between."""
    void: bool = False
    """It cannot be told who went where: a beam is stuck, or nobody saw how it began."""


class Doorway:
    """The order of two beams -> `PersonPassed`, `DoorwayBlocked`, `DoorwayCleared`.

    A passage is counted when the doorway is free again and the beam broken last is not the one broken first:
    whoever hesitates is counted once and whoever turns round is not counted. Two people so close that the
    doorway is never free between them look like one who went through, stepped back by a whole body and went
    through again; both count as two, because overlooking a tail-gater is the worse mistake. A body thinner than
    the distance of the beams breaks one after the other; that counts where the second follows within `gap_s`.
    Beams broken for longer than `stuck_s` at a stretch tell nothing: `void`, and `stuck` names them.
    """

    def __init__(self, door: Door, outer: bool, inner: bool, mono: float, *, gap_s: float, stuck_s: float) -> None:
        self._door, self._gap_s, self._stuck_s = door, gap_s, stuck_s
        self._broken: dict[Beam, float] = {}
        self._told: set[Beam] = set()
        self._lone: tuple[Beam, float] | None = None
        self._visit: _Visit | None = None
        for beam, broken in ((Beam.OUTER, outer), (Beam.INNER, inner)):
            if broken:
                self._broken[beam] = mono
                self._visit = _Visit(None, mono, None, mono, void=True)

    @property
    def blocked(self) -> bool:
        return bool(self._broken)

    def stuck(self, mono: float) -> list[Beam]:
        """Beams that have just been broken for too long; each stretch is told once."""
        new = [b for b, since in self._broken.items() if mono - since > self._stuck_s and b not in self._told]
        self._told.update(new)
        return new

    def feed(self, beam: Beam, broken: bool, mono: float) -> list[Event]:
        """One debounced change of one beam, in the order of their times."""
        if broken == (beam in self._broken):
            return []
        visit = self._visit
        if visit is not None and any(mono - since > self._stuck_s for since in self._broken.values()):
            visit.void = True
        if broken:
            self._broken[beam] = mono
        else:
            del self._broken[beam]
            self._told.discard(beam)
        if visit is None:
            self._visit = _Visit(beam, mono, beam, mono)
            return [DoorwayBlocked(self._door)]
        if not self._broken:
            self._visit = None
            return [*self._end(visit, mono), DoorwayCleared(self._door)]
        if len(self._broken) == 2:
            visit.both = True
            if mono == visit.start_mono:
                visit.start = visit.side = None
        else:
            (alone,) = self._broken
            if visit.side is not None and alone is not visit.side and alone is not visit.start:
                visit.runs += 1
            visit.side, visit.side_mono = alone, mono
        return []

    def _end(self, visit: _Visit, mono: float) -> list[Event]:
        if visit.void:
            return []
        end = None if visit.both and mono == visit.side_mono else visit.side
        if not visit.both:
            assert end is not None
            before, self._lone = self._lone, (end, mono)
            if before is None or before[0] is end or visit.start_mono - before[1] > self._gap_s:
                return []
            self._lone = None
            return self._passed(before[0], end, 1)
        self._lone = None
        return self._passed(visit.start, end, max(1, visit.runs) if visit.start is not None else 1)

    def _passed(self, start: Beam | None, end: Beam | None, persons: int) -> list[Event]:
        if start is end:
            return []
        inward = end is Beam.INNER or start is Beam.OUTER
        return [PersonPassed(self._door, inward)] * persons
