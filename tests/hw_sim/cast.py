"""Who comes to the lane: seeded passengers with documents, faces and manners, and whom HQ has enrolled."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import Enum

from tests.hw_sim.happenings import Topology
from tests.hw_sim.papers import Paper, passport


class Truth(Enum):
    """Why this person with this document should pass, or should not."""

    GENUINE = "genuine"
    IMPOSTOR = "impostor"
    """Shows the document of somebody else who is enrolled."""
    NOT_ENROLLED = "not enrolled"
    BANNED = "banned"
    UNDER_AGE = "under age"
    EXPIRED = "expired document"


class Manner(Enum):
    """What a passenger does besides walking through."""

    PLAIN = "plain"
    HESITATES = "hesitates"
    TAILGATED = "somebody follows"
    TWO_TOGETHER = "two together"
    WALKS_BACK = "walks back"
    FORGETS_BAG = "forgets the bag"
    LEAVES_CHILD = "leaves a child"
    WRONG_DOCUMENT_FIRST = "wrong document first"
    UNREADABLE_FIRST = "unreadable first"
    REMOVES_EARLY = "removes the document early"
    FAINTS = "faints inside"
    DOES_NOT_ENTER = "does not enter"
    STANDS_IN_DOORWAY = "stands in the doorway"
    WRONG_WAY = "somebody comes the wrong way"
    TROLLEY = "pushes a trolley"
    PRESSES_HELP = "presses help"
    LOOKS_AWAY = "looks away"
    SECOND_DOCUMENT = "a bystander's document"


UNTROUBLED = frozenset(
    {
        Manner.PLAIN,
        Manner.HESITATES,
        Manner.WRONG_DOCUMENT_FIRST,
        Manner.UNREADABLE_FIRST,
        Manner.LOOKS_AWAY,
        Manner.SECOND_DOCUMENT,
    }
)
"""Manners that a good lane forgives: a genuine passenger with one of these is to be granted."""


@dataclass(frozen=True)
class Enrolment:
    """What the cache is to hold of one person: the register's side of the world."""

    person: int
    paper: Paper
    flags: frozenset[str] = frozenset()
    category: str = "national"


@dataclass(eq=False)
class Passenger:
    """One person who comes to the lane once. `person` numbers the face, `paper` is what they show."""

    name: str
    person: int
    paper: Paper
    truth: Truth
    manner: Manner
    seed: int
    way: str = "ab"
    other_paper: Paper | None = None
    """A second document: shown first by mistake, or by a bystander."""
    quality: float = 1.0
    yaw_deg: float = 0.0
    take: int = 0

    @property
    def entitled(self) -> bool:
        return self.truth is Truth.GENUINE

    @property
    def expected(self) -> bool:
        return self.entitled and self.manner in UNTROUBLED

    @property
    def note(self) -> str:
        return f"{self.truth.value}, {self.manner.value}"


@dataclass
class Cast:
    """The passengers in the order in which they come, and the enrolments of the register."""

    passengers: list[Passenger]
    enrolments: list[Enrolment]
    persons: int = 0
    """How many faces there are; they are numbered from 0."""
    today: date = field(default_factory=date.today)


TRUTHS = {
    Truth.GENUINE: 66,
    Truth.IMPOSTOR: 16,
    Truth.NOT_ENROLLED: 6,
    Truth.BANNED: 4,
    Truth.UNDER_AGE: 4,
    Truth.EXPIRED: 4,
}
"""Weights; a third of the passengers are not to be granted."""


def manners(topology: Topology) -> dict[Manner, int]:
    """Weights of manners in a lane of this shape; what needs two leaves is left out of a single lane."""
    weights = dict.fromkeys(Manner, 3) | {Manner.PLAIN: 45, Manner.HESITATES: 8, Manner.FAINTS: 1}
    if topology is Topology.SINGLE:
        for manner in (Manner.DOES_NOT_ENTER, Manner.LEAVES_CHILD):
            del weights[manner]
    return weights


def cast(
    seed: int,
    count: int,
    topology: Topology,
    today: date,
    *,
    only: Sequence[Manner] = (),
    truths: dict[Truth, int] | None = None,
) -> Cast:
    """`count` seeded passengers. `only`: nothing but these manners; `truths`: weights in place of `TRUTHS`."""
    rng = random.Random(f"cast {seed}")
    made = Cast([], [], today=today)
    weights = dict.fromkeys(only, 1) if only else manners(topology)
    kinds = truths or TRUTHS
    for k in range(count):
        truth = rng.choices(list(kinds), list(kinds.values()))[0]
        manner = rng.choices(list(weights), list(weights.values()))[0]
        way = rng.choice(("ab", "ba")) if topology is Topology.BIDIRECTIONAL else "ab"
        made.passengers.append(_passenger(rng, made, k, truth, manner, way))
    return made


def _passenger(rng: random.Random, made: Cast, k: int, truth: Truth, manner: Manner, way: str) -> Passenger:
    person, made.persons = made.persons, made.persons + 1
    own = passport(
        rng,
        person,
        made.today,
        age=rng.randint(4, 8) if truth is Truth.UNDER_AGE else None,
        expired=truth is Truth.EXPIRED,
    )
    paper = own
    if truth is Truth.IMPOSTOR:
        # The person whose document it is never comes: both could otherwise not be told apart by the records.
        owner, made.persons = made.persons, made.persons + 1
        paper = passport(rng, owner, made.today)
        made.enrolments.append(Enrolment(owner, paper))
    elif truth is not Truth.NOT_ENROLLED:
        flags = frozenset({"exit_ban"}) if truth is Truth.BANNED else frozenset[str]()
        made.enrolments.append(Enrolment(person, own, flags))
    other = None
    if manner in (Manner.WRONG_DOCUMENT_FIRST, Manner.SECOND_DOCUMENT):
        stranger, made.persons = made.persons, made.persons + 1
        other = passport(rng, stranger, made.today)
    return Passenger(
        name=f"p{k + 1:03}",
        person=person,
        paper=paper,
        truth=truth,
        manner=manner,
        seed=rng.randrange(2**32),
        way=way,
        other_paper=other,
        quality=min(1.0, max(0.4, rng.gauss(0.85, 0.1))),
        take=k,
    )
