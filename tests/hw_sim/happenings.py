"""The nouns of the simulated world: which leaves there are, bodies, and physical facts about them."""

from dataclasses import dataclass
from enum import Enum

LANE_M = 2.6
LINES = {"a": 0.0, "b": LANE_M}
"""Where the leaves stand."""


class Topology(Enum):
    """Which leaves there are and which ways people may go."""

    MANTRAP = "mantrap"
    SINGLE = "single"
    BIDIRECTIONAL = "bidirectional"

    @property
    def doors(self) -> tuple[str, ...]:
        return ("b",) if self is Topology.SINGLE else ("a", "b")


class Kind(Enum):
    """What a body is to the sensors."""

    PERSON = "person"
    CHILD = "child"
    THING = "thing"


@dataclass(eq=False)
class Body:
    """Something that takes up room. `x` is exact when it stands and `at()` while it walks."""

    name: str
    kind: Kind = Kind.PERSON
    x: float = -4.0
    helpless: bool = False
    """Cannot leave by itself."""
    speed: float = 0.0
    since: float = 0.0

    def at(self, time: float) -> float:
        return self.x + self.speed * (time - self.since)

    @property
    def inside(self) -> bool:
        return 0.0 < self.x < LANE_M


class What(Enum):
    """Kinds of physical happenings."""

    REQUEST_ON = "request_on"
    REQUEST_OFF = "request_off"
    LEAF = "leaf"
    CROSSED = "crossed"
    TOUCHED = "touched"
    ADDED = "added"
    REMOVED = "removed"
    FIRE_ON = "fire_on"
    FIRE_OFF = "fire_off"


@dataclass(frozen=True, slots=True)
class Happening:
    """One physical fact at loop time `at`. `inward`: into the lane."""

    at: float
    what: What
    door: str = ""
    body: Body | None = None
    inward: bool = False
