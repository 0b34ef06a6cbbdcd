"""What each step of the lane leaves behind: how the lane is now, for HQ, and what the next start must know."""

from collections.abc import Callable

from gated.daemon.policywatch import CLOSED_BY
from gated.daemon.status import way_by
from gated.daemon.writer import Job
from gated.lane import events as ev
from gated.lane.core import State
from gated.lane.events import Event, Now
from gated.lane.machine import Lane
from gated.lane.settings import BOTH
from gated.wire.facts import DirectionChanged, LaneChanged


class Remembered:
    """Follows one lane; `add` writes. `stopping`: whether what closes it now is its own end."""

    def __init__(self, lane: Lane, add: Callable[[Job], None], stopping: Callable[[], bool]) -> None:
        self._lane, self._add, self._stopping = lane, add, stopping
        self._state = lane.state
        self._way: tuple[str, str] | None = None

    def stepped(self, now: Now, event: Event) -> None:
        """Call after every step of the lane."""
        lane = self._lane
        if lane.state is State.STARTING:
            return  # it has not been told yet what was kept: nothing may overwrite that
        if isinstance(event, (ev.OpenLane, ev.CloseLane)) and not self._stopping():
            # A lane that HQ closed does not reopen by dying.
            self._add(Job(now.utc, note=("closed", "1" if lane.closed_by not in (None, CLOSED_BY) else "")))
        if isinstance(event, ev.SetDirection):
            self._add(Job(now.utc, note=("direction", lane.ordered_way or "")))
        if lane.ways.direction == BOTH and self._way != (lane.way, way_by(lane)):
            self._way = (lane.way, way_by(lane))
            by = event.by if isinstance(event, ev.SetDirection) else None
            self._add(Job(now.utc, DirectionChanged(*self._way, by)))
        if lane.state is not self._state:
            self._state = lane.state
            note = ("reset_needed", "1" if lane.reset_needed else "")
            self._add(Job(now.utc, LaneChanged(self._state.value), note=note))
