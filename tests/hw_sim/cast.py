"""Who comes to the lane: seeded passengers with documents, faces and manners, and whom HQ has enrolled."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import Enum

from gated.wire.rows import CrossingRow, PermitRow
from tests.hw_sim.happenings import Topology
from tests.hw_sim.papers import Paper, passport, residence_card


class Truth(Enum):
    """Why this person with this document should pass, or should not."""

    GENUINE = "genuine"
    IMPOSTOR = "impostor"
    """Shows the document of somebody else who is enrolled."""
    LOOKALIKE = "lookalike"
    """The same, of somebody with the same face and, as always, other fingers."""
    NOT_ENROLLED = "not enrolled"
    BANNED = "banned"
    UNDER_AGE = "under age"
    EXPIRED = "expired document"
    UNENTITLED = "not entitled"
    """Themselves, with their own document, and the policy says no for another reason."""
    LOST = "lost document"
    """Their own, which somebody has said is lost."""


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


FOR_EVER = (date(2000, 1, 1), date(2099, 12, 31))
PERMITS = {
    "resident": ("residence", "reentry"),
    "national_abroad": ("residence", "multiple_entry"),
    "hong_kong_macau": ("residence", "multiple_entry"),
    "hong_kong_macau_visitor": ("entry_permit", "stay"),
    "mainland_resident": ("residence", "multiple_entry"),
    "mainland_spouse": ("residence", "multiple_entry"),
    "foreign_visitor": ("stay",),
}
"""Kinds of permit without which nobody of a category passes."""


def permits_of(category: str) -> tuple[PermitRow, ...]:
    """All that somebody of this category needs, for as long as anybody lives."""
    return tuple(PermitRow(kind, *FOR_EVER) for kind in PERMITS.get(category, ()))


@dataclass(frozen=True)
class Enrolment:
    """What the cache is to hold of one person: the register's side of the world."""

    person: int
    paper: Paper
    flags: frozenset[str] = frozenset()
    category: str = "national"
    face: bool = True
    fingers: tuple[str, ...] = ()
    """Enrolled positions, of the person's own hands."""
    permits: tuple[PermitRow, ...] | None = None
    """None: all that somebody of this category needs."""
    height_cm: int | None = None
    origin: str = "counter"
    enrolled_on: date | None = None
    received_on: date | None = None
    usable_from: date | None = None
    crossings: tuple[CrossingRow, ...] = ()
    document_flags: frozenset[str] = frozenset()
    """What HQ knows of the document."""
    expected_on: date | None = None
    """For which day the document is announced (W9)."""
    by_number: bool = False
    """Only the personal number leads to them: they were enrolled with an earlier passport (E9)."""

    @property
    def permits_held(self) -> tuple[PermitRow, ...]:
        return permits_of(self.category) if self.permits is None else self.permits


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
    hand: int | None = None
    """Whose fingers these are; None: the person's own."""
    bandaged: frozenset[str] = frozenset()
    sure: bool = True
    """Whether, if they are entitled, a good lane grants: nobody can who has no finger to show and needs one."""
    quality: float = 1.0
    yaw_deg: float = 0.0
    take: int = 0

    @property
    def entitled(self) -> bool:
        return self.truth is Truth.GENUINE

    @property
    def expected(self) -> bool:
        return self.entitled and self.manner in UNTROUBLED and self.sure

    @property
    def impostor(self) -> bool:
        return self.truth in (Truth.IMPOSTOR, Truth.LOOKALIKE)

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


INDEX_FINGERS = ("right_index", "left_index")
LOOKALIKES = 0.06


class Proof(Enum):
    """How somebody who is enrolled proves themselves at a lane with a fingerprint reader."""

    FACE = "face"
    EITHER = "face, and a finger where it is weak"
    BOTH = "face and finger"
    """A foreigner with a residence certificate (W5)."""
    FINGERS = "two fingers"
    """No face could be enrolled (E4)."""


PROOFS = {Proof.FACE: 45, Proof.EITHER: 20, Proof.BOTH: 30, Proof.FINGERS: 5}


def cast(
    seed: int,
    count: int,
    topology: Topology,
    today: date,
    *,
    only: Sequence[Manner] = (),
    truths: dict[Truth, int] | None = None,
    fingers: bool = False,
) -> Cast:
    """`count` seeded passengers. `only`: nothing but these manners; `truths`: weights in place of `TRUTHS`.

    `fingers`: the lane has a fingerprint reader, and people who need one come too."""
    rng, hands = random.Random(f"cast {seed}"), random.Random(f"hands {seed}")
    made = Cast([], [], today=today)
    weights = dict.fromkeys(only, 1) if only else manners(topology)
    kinds = truths or TRUTHS
    for k in range(count):
        truth = rng.choices(list(kinds), list(kinds.values()))[0]
        manner = rng.choices(list(weights), list(weights.values()))[0]
        way = rng.choice(("ab", "ba")) if topology is Topology.BIDIRECTIONAL else "ab"
        proof = hands.choices(list(PROOFS), list(PROOFS.values()))[0] if fingers else Proof.FACE
        if proof is Proof.BOTH and truth is Truth.IMPOSTOR and hands.random() < LOOKALIKES / 0.16:
            truth = Truth.LOOKALIKE
        passenger = _passenger(rng, made, k, truth, manner, way, proof)
        if proof is not Proof.FACE:
            _bandage(hands, passenger, proof)
        made.passengers.append(passenger)
    return made


def _bandage(rng: random.Random, passenger: Passenger, proof: Proof) -> None:
    """One index finger of some is hurt, both of a few."""
    hurt = rng.choices((0, 1, 2), (85, 11, 4))[0]
    passenger.bandaged = frozenset(rng.sample(INDEX_FINGERS, hurt))
    needed = {Proof.BOTH: 1, Proof.FINGERS: 2}.get(proof, 0)
    passenger.sure = len(INDEX_FINGERS) - hurt >= needed


def _passenger(
    rng: random.Random, made: Cast, k: int, truth: Truth, manner: Manner, way: str, proof: Proof
) -> Passenger:
    person, made.persons = made.persons, made.persons + 1
    own = _paper(rng, person, made.today, truth, proof)
    paper, hand = own, None
    if truth in (Truth.IMPOSTOR, Truth.LOOKALIKE):
        # The person whose document it is never comes: both could otherwise not be told apart by the records.
        owner, made.persons = made.persons, made.persons + 1
        paper = _paper(rng, owner, made.today, Truth.GENUINE, proof)
        made.enrolments.append(_enrolled(owner, paper, proof))
        if truth is Truth.LOOKALIKE:
            person, hand = owner, person
    elif truth is not Truth.NOT_ENROLLED:
        ban = {"ab": "exit_ban", "ba": "entry_ban"}[way]
        flags = frozenset({ban}) if truth is Truth.BANNED else frozenset[str]()
        made.enrolments.append(_enrolled(person, own, proof, flags))
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
        hand=hand,
    )


def _paper(rng: random.Random, person: int, today: date, truth: Truth, proof: Proof) -> Paper:
    expired = truth is Truth.EXPIRED
    if proof is Proof.BOTH and truth is not Truth.UNDER_AGE:
        return residence_card(rng, person, today, expired=expired)
    age = rng.randint(4, 8) if truth is Truth.UNDER_AGE else None
    return passport(rng, person, today, age=age, expired=expired)


def _enrolled(person: int, paper: Paper, proof: Proof, flags: frozenset[str] = frozenset()) -> Enrolment:
    category = "resident" if len(paper.lines) == 3 else "national"
    fingers = () if proof is Proof.FACE else INDEX_FINGERS
    return Enrolment(person, paper, flags, category, proof is not Proof.FINGERS, fingers)
