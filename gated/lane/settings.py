"""What configuration tells the lane: shape and times. No I/O, no clock."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import Enum
from itertools import pairwise, product

from gated.lane.events import Door
from gated.lane.rules import DIRECTIONS, ENTRY, EXIT


class Topology(Enum):
    """Shapes of one machine. `mantrap`: in through A, out through B. `single`: leaf B alone, nobody is ever locked in.

    `bidirectional`: two leaves, and the side where the document is presented decides the direction (L7)."""

    MANTRAP = "mantrap"
    SINGLE = "single"
    BIDIRECTIONAL = "bidirectional"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the lane waits, in seconds. Every state but the resting ones has one of these as its dwell."""

    check_s: float = 12.0
    """Chip and look-up."""
    refused_s: float = 6.0
    """How long the passenger in front of the lane is shown the way to an officer."""
    admit_s: float = 15.0
    """From the request to open until somebody is inside."""
    enclose_s: float = 10.0
    """From somebody inside until the leaf behind them is shut."""
    match_s: float = 12.0
    """All tries of the face together."""
    face_s: float = 5.0
    """One try of the face."""
    fingers_s: float = 30.0
    """All placements of fingers together."""
    finger_s: float = 8.0
    """One placement of a finger."""
    finger_tries: int = 4
    """Comparisons of fingers in one passage."""
    confirm_s: float = 2.0
    """Reading the control flags again."""
    record_s: float = 3.0
    """Making a record durable."""
    release_s: float = 15.0
    """From the request to open until the passenger is out."""
    clear_s: float = 10.0
    """From the passage until the lane is shut and empty."""
    officer_s: float = 60.0
    """How long a referred passenger waits inside for an officer before they are let out to where they came from."""
    officer_offline_s: float = 20.0
    """The same while HQ cannot be reached."""
    return_s: float = 20.0
    """How often the lane calls again while somebody whom it lets out does not leave."""
    evacuate_s: float = 5.0
    """How long a leaf may take to open in a fire before the lane raises an alarm for it."""
    stopped_s: float = 30.0
    """How often a stopped lane with somebody inside calls again."""
    stay_s_max: float = 90.0
    """Longest stay between the doors before release and alarm, whatever the state."""
    forced_grace_s: float = 1.5
    """A leaf that leaves its closed position this soon after a request was withdrawn was not forced."""
    face_tries: int = 2
    waiting_s_max: float = 15.0
    """A document that was laid down while another passenger was served is taken up this long afterwards."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) <= 0:
                raise ValueError(f"{each.name} must be above zero, not {getattr(self, each.name)}")
        if self.face_s * self.face_tries >= self.match_s:
            raise ValueError("match_s is for all tries of the face: it must be above face_s times face_tries")
        if self.finger_s >= self.fingers_s:
            raise ValueError("fingers_s is for all placements of fingers: it must be above finger_s")


BOTH = "both"
WAYS = (*DIRECTIONS, BOTH)
DAYS_ROUND = 2
"""So many days before and after hold the shift that holds now, and the next: countries have left out a whole day."""


@dataclass(frozen=True, slots=True)
class Shift:
    """From `start` on, by the country's time, the lane goes this way: entry, exit or both."""

    start: time
    way: str

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise ValueError(f"a shift goes {', '.join(WAYS)}, not {self.way}")
        if self.start.tzinfo is not None or self.start.microsecond:
            raise ValueError("a shift starts at a whole second")


@dataclass(frozen=True, slots=True)
class Ways:
    """What crossing the lane means (L7). `direction`: entry or exit of a one-way lane; both: who comes by side A
    leaves the country, who comes by side B enters it. `shifts`: when a lane of both serves which; none: always both.

    Each day has the same shifts, in order; before the first one the last of the day before goes on."""

    direction: str = EXIT
    shifts: tuple[Shift, ...] = ()

    def __post_init__(self) -> None:
        if self.direction not in WAYS:
            raise ValueError(f"direction is {', '.join(WAYS)}, not {self.direction}")
        if self.shifts and self.direction != BOTH:
            raise ValueError("shifts are for a lane whose direction is both")
        if any(one.start >= other.start for one, other in pairwise(self.shifts)):
            raise ValueError("shifts are in the order of their start, and no two start together")

    def of(self, near: Door) -> str:
        """entry or exit, for who comes by this side."""
        if self.direction != BOTH:
            return self.direction
        return EXIT if near is Door.A else ENTRY

    def at(self, utc: datetime, zone: tzinfo) -> str:
        """The way at this moment, by the schedule."""
        return self._around(utc, zone)[0]

    def next(self, utc: datetime, zone: tzinfo) -> tuple[datetime, str] | None:
        """When the schedule changes the way (UTC), and to which; None: it never does."""
        way, later = self._around(utc, zone)
        return next(((start, other) for start, other in later if other != way), None)

    def _around(self, utc: datetime, zone: tzinfo) -> tuple[str, list[tuple[datetime, str]]]:
        """The way at this moment, and each shift that starts in the days after it.

        A time of day that the clocks repeat counts the first time. One that they leave out is put off by as much as
        they leave out; a shift that the next one of its day overtakes then does not happen."""
        later: list[tuple[datetime, str]] = []
        if not self.shifts:
            return self.direction, later
        today = utc.astimezone(zone).date()
        days = (today + timedelta(days=n) for n in range(DAYS_ROUND, -DAYS_ROUND - 1, -1))
        for day, shift in product(days, self.shifts[::-1]):
            start = datetime.combine(day, shift.start, zone).astimezone(UTC)
            if start <= utc:
                return shift.way, later
            if not later or start < later[0][0]:
                later.insert(0, (start, shift.way))
        raise AssertionError(f"of {DAYS_ROUND} days ago every shift has started")
