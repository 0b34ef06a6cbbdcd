"""Photographs of people for the demonstration: a folder a person, the first enrolled, the others shown to the camera.

The file that was enrolled is never shown. People with one photograph are never enrolled: they come as impostors or as
strangers. Nothing is copied anywhere; pictures are read from where they lie.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from tests.hw_sim.cast import INDEX_FINGERS, Cast, Enrolment, Manner, Passenger, Proof, Truth
from tests.hw_sim.papers import Paper, passport, residence_card

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
IMPOSTORS = 0.3
"""Share of impostors where nothing else is asked for; everybody else who may not pass comes besides."""
OTHERS = 0.06
"""Share of the banned, of the unknown and of those with an expired document, together; the rest is genuine."""
MANNERS = {
    Manner.PLAIN: 80,
    Manner.HESITATES: 10,
    Manner.WRONG_DOCUMENT_FIRST: 3,
    Manner.UNREADABLE_FIRST: 3,
    Manner.LOOKS_AWAY: 4,
}
"""What genuine passengers of the demonstration do: nothing that a good lane would not forgive."""

PROOFS = {Proof.FACE: 10, Proof.EITHER: 35, Proof.BOTH: 45, Proof.FINGERS: 10}
"""At a lane with a fingerprint reader."""
FINGERED_MAX = 24
"""So many people have fingers enrolled at most: making and extracting them takes a second each."""
LOOKALIKES = 0.5
"""Of the impostors who show a resident's document: so many have their face, as twins do, and fingers of their own."""
NOBODYS_HAND = 1_000_000
BANDAGED = 0.15
"""So many of those with fingers have a plaster on the first one that is asked for."""


class GalleryError(Exception):
    """The folder of people cannot be used. The text says what is needed."""


@dataclass(frozen=True)
class Person:
    """One person's photographs, in the order of their names. `enrolled` is None for whoever has but one."""

    name: str = field(repr=False)
    enrolled: Path | None = field(repr=False)
    shown: tuple[Path, ...] = field(repr=False)


def people(folder: Path) -> list[Person]:
    """Everybody in `folder`: one sub-folder with pictures each. Raises `GalleryError`."""
    if not folder.is_dir():
        raise GalleryError(f"{folder} is not a folder; it must hold a folder of photographs for each person")
    found = []
    for each in sorted(path for path in folder.iterdir() if path.is_dir()):
        pictures = sorted(p for p in each.iterdir() if p.suffix.lower() in SUFFIXES)
        if len(pictures) > 1:
            found.append(Person(each.name, pictures[0], tuple(pictures[1:])))
        elif pictures:
            found.append(Person(each.name, None, (pictures[0],)))
    enrolled = sum(person.enrolled is not None for person in found)
    if not enrolled or len(found) < 2:
        raise GalleryError(
            f"{folder} holds {len(found)} people, {enrolled} of them with two photographs or more; at least two"
            " people are needed, and one with two photographs: one to enrol, another to show to the camera"
        )
    return found


@dataclass
class Show:
    """The demonstration's cast, and which photograph each visit shows. `photos` by `Passenger.take`."""

    cast: Cast
    photos: dict[int, Path]
    strangers: list[Path]
    """Faces of people who come along and are in no register."""


def candidates(everybody: Sequence[Person], seed: int) -> list[int]:
    """Whoever can be enrolled, in the order in which they come to the counter."""
    enrolled = [k for k, person in enumerate(everybody) if person.enrolled is not None]
    return random.Random(f"counter {seed}").sample(enrolled, len(enrolled))


def paper_of(person: int, seed: int, today: date, proof: Proof = Proof.FACE) -> Paper:
    """The document with which a person was enrolled."""
    make = residence_card if proof is Proof.BOTH else passport
    return make(random.Random(f"paper {seed} {person}"), person, today)


def proofs_of(people_known: Sequence[int], seed: int) -> dict[int, Proof]:
    """How each of them proves themselves at a lane with a fingerprint reader; the first few have fingers enrolled."""
    rng = random.Random(f"proofs {seed}")
    # The first of them needs a finger, however few people there are: a demonstration shows the reader at work.
    drawn = [Proof.BOTH, *rng.choices(list(PROOFS), list(PROOFS.values()), k=len(people_known))][: len(people_known)]
    return {
        person: proof if k < FINGERED_MAX else Proof.FACE
        for k, (person, proof) in enumerate(zip(people_known, drawn, strict=True))
    }


def enrolment_of(person: int, seed: int, today: date, proof: Proof) -> Enrolment:
    """As HQ's counter knows them."""
    paper = paper_of(person, seed, today, proof)
    category = "resident" if proof is Proof.BOTH else "national"
    fingers = () if proof is Proof.FACE else INDEX_FINGERS
    return Enrolment(person, paper, frozenset(), category, proof is not Proof.FINGERS, fingers)


def show(
    everybody: Sequence[Person],
    known: Sequence[int],
    seed: int,
    count: int,
    today: date,
    share: float = IMPOSTORS,
    fingers: bool = False,
) -> Show:
    """Who comes: seeded, a `share` of them (at least a quarter) impostors who show the document of somebody enrolled.

    `known`: whom the counter enrolled; `fingers`: some of them with fingers. The same arguments give the same show, in
    whichever process."""
    rng = random.Random(f"show {seed}")
    proofs = proofs_of(known, seed) if fingers else dict.fromkeys(known, Proof.FACE)
    enrolments = {k: enrolment_of(k, seed, today, proofs[k]) for k in known}
    impostors = max(math.ceil(count / 4), round(count * share)) if count > 1 else 0
    others = round(count * OTHERS)
    truths = [Truth.IMPOSTOR] * impostors + [rng.choice(_OTHERS) for _ in range(others)]
    truths += [Truth.GENUINE] * (count - len(truths))
    rng.shuffle(truths)
    made = Show(Cast([], list(enrolments.values()), len(everybody), today), {}, [])
    deck: list[int] = []
    for take, truth in enumerate(truths):
        deck = deck or rng.sample(sorted(known), len(known))
        made.cast.passengers.append(_passenger(rng, made, everybody, enrolments, take, truth, deck.pop()))
    singles = [person.shown[0] for person in everybody if person.enrolled is None]
    made.strangers = rng.sample(singles, min(8, len(singles))) or [everybody[known[-1]].shown[0]]
    return made


_OTHERS = (Truth.BANNED, Truth.NOT_ENROLLED, Truth.EXPIRED)


def _passenger(
    rng: random.Random,
    made: Show,
    everybody: Sequence[Person],
    enrolments: dict[int, Enrolment],
    take: int,
    truth: Truth,
    owner: int,
) -> Passenger:
    """`owner`: whose turn it is to come, or to have their document abused."""
    enrolled = enrolments[owner]
    person, paper, flags, hand = owner, enrolled.paper, frozenset[str](), None
    if truth is Truth.IMPOSTOR and enrolled.category == "resident" and rng.random() < LOOKALIKES:
        truth, hand = Truth.LOOKALIKE, NOBODYS_HAND + take
    elif truth is Truth.IMPOSTOR:
        person = rng.choice([k for k in range(len(everybody)) if k != owner])
    elif truth is not Truth.GENUINE:
        # Somebody of whom HQ knows something else: a document of their own, so that nobody else is troubled by it.
        paper = passport(rng, owner, made.cast.today, expired=truth is Truth.EXPIRED)
        flags = frozenset({"exit_ban"}) if truth is Truth.BANNED else flags
        if truth is not Truth.NOT_ENROLLED:
            made.cast.enrolments.append(Enrolment(owner, paper, flags))
    manner = rng.choices(list(MANNERS), list(MANNERS.values()))[0] if truth is Truth.GENUINE else Manner.PLAIN
    other = passport(rng, -1, made.cast.today) if manner is Manner.WRONG_DOCUMENT_FIRST else None
    made.photos[take] = rng.choice(everybody[person].shown)
    name = f"p{take + 1:03}"
    made_up = Passenger(
        name, person, paper, truth, manner, rng.randrange(2**32), other_paper=other, take=take, hand=hand
    )
    if enrolled.fingers and truth is Truth.GENUINE and rng.random() < BANDAGED:
        made_up.bandaged = frozenset(INDEX_FINGERS[:1])
        made_up.sure = enrolled.face
    return made_up
