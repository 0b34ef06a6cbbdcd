"""What HQ's register knows of people and documents, and how one enrolment becomes the next. No I/O, no clock."""

from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final

from gated.lane import history
from gated.lane.events import Crossed, Permit
from gated.lane.rules import EXIT, Rules
from gated.wire.codec import added, kinds, personal
from gated.wire.rows import CROSSINGS_MAX, CrossingRow

STAY: Final = "entry"
OFFICE: Final = "office"
COUNTER: Final = "counter"
ORIGINS: Final = (STAY, OFFICE, "gate", COUNTER)
"""Where somebody is enrolled, what binds least first: a face taken on entry for one stay (W6), at an office of
household registration (E2), at a lane (E10), at the agency's counter (E1)."""

DAYS_MAX: Final = 64


class RegisterFault(Exception):
    """The register cannot do this. The text says why, without anybody's data."""


@dataclass(frozen=True, slots=True)
class Paper:
    """A travel document of a person."""

    issuer: str = personal(limit=8)
    number: str = personal(limit=64)


@dataclass(frozen=True, slots=True)
class EnrolledFinger:
    """A finger as it was taken; its picture is not kept. `position`: `right_index`. `format`: `iso19794-2`, or the name
    of a sensor's own (`zfm`). `quality`: 0 to 100; None: not told, as of a sensor's own template."""

    position: str
    format: str
    template: bytes = personal(limit=8192)
    quality: int | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """One enrolment. `face`: template, little-endian float32, made by the network `face_model`."""

    subject: int
    category: str
    birth: date = personal()
    sex: str = personal(limit=1)
    surname: str = personal("", limit=64)
    given_names: str = personal("", limit=64)
    personal_number: str | None = personal(None, limit=64)
    papers: tuple[Paper, ...] = personal((), limit=64)
    permits: tuple[Permit, ...] = personal((), limit=64)
    """With the entries that are left after `crossings`, and after those that have left it."""
    flags: frozenset[str] = personal(frozenset(), limit=64)
    face: bytes | None = personal(None, limit=8192)
    face_model: str = ""
    fingers: tuple[EnrolledFinger, ...] = personal((), limit=10)
    """In the order of E4."""
    usable_from: date | None = None
    enrolled_on: date | None = None
    origin: str = added(COUNTER, limit=64)
    """One of `ORIGINS`."""
    received_on: date | None = added(None, is_personal=True)
    """When the passport that an office's enrolment waits for was received (E6, E7)."""
    height_cm: int | None = added(None, is_personal=True)
    """As stated or measured (W2)."""
    crossings: tuple[CrossingRow, ...] = added((), limit=CROSSINGS_MAX, is_personal=True)
    """The last ones that were counted, newest last (O7, O8)."""

    @property
    def has_biometrics(self) -> bool:
        return self.face is not None or bool(self.fingers)

    @property
    def awaits_passport(self) -> bool:
        """An office's enrolment, whose data are deleted where no passport comes (E6)."""
        return self.origin == OFFICE and self.received_on is None and self.has_biometrics

    @property
    def is_remainder(self) -> bool:
        """What is left of somebody who was deleted, for the sake of their control flags."""
        return self.origin in (OFFICE, STAY) and not self.has_biometrics


@dataclass(frozen=True, slots=True)
class PaperStatus:
    """What is known of a document (W8): `lost`, `stolen`, `invalid`."""

    paper: Paper = personal()
    flags: frozenset[str] = field(default=frozenset(), repr=False, metadata={"personal": True})


@dataclass(frozen=True, slots=True)
class Expectation:
    """Advance passenger information names this document for these days, first one first (W9)."""

    paper: Paper = personal()
    days: tuple[date, ...] = personal((), limit=DAYS_MAX)


KINDS: Final = kinds(Person, PaperStatus, Expectation)


def merged(known: Person, new: Person) -> Person:
    """One enrolment for life (E9): what is new is added, a new face and new fingers replace the old ones.

    Without either it is a document more, and changes nothing of where and when the person was enrolled: so a passport
    that is merely added makes no counter's enrolment of an office's. Raises `RegisterFault`."""
    if new.origin == STAY and known.origin != STAY:
        raise RegisterFault("is enrolled for good: the face of one entry does not take its place")
    if new.origin == OFFICE and known.papers:
        raise RegisterFault("holds a passport: offices enrol for the first one alone, counters everybody (E2)")
    taken = new.has_biometrics
    origin = max(known.origin, new.origin, key=ORIGINS.index) if taken else known.origin
    anew = taken and (origin != known.origin or origin in (OFFICE, STAY))
    return replace(
        new,
        subject=known.subject,
        papers=tuple(dict.fromkeys((*known.papers, *new.papers))),
        personal_number=new.personal_number or known.personal_number,
        face=new.face or known.face,
        face_model=new.face_model if new.face else known.face_model,
        fingers=new.fingers or known.fingers,
        permits=new.permits or known.permits,
        flags=new.flags | known.flags,
        usable_from=new.usable_from if taken else known.usable_from,
        enrolled_on=new.enrolled_on if anew else known.enrolled_on,
        origin=origin,
        received_on=None if anew else known.received_on,
        height_cm=new.height_cm or known.height_cm,
        crossings=known.crossings,
    )


def has_counted(person: Person, crossing: CrossingRow) -> bool:
    """Whether it is among the last crossings. Lane and HQ know one by its direction and its record's time."""
    return any((each.direction, each.utc) == (crossing.direction, crossing.utc) for each in person.crossings)


def counted(person: Person, crossing: CrossingRow, rules: Rules) -> Person:
    """The person with one crossing more: an entry is taken off the permits that the category needs to enter (O1), the
    same ones that the lane takes it off."""
    crossings = tuple(sorted((*person.crossings, crossing), key=lambda each: each.utc))[-CROSSINGS_MAX:]
    new = [history.Crossing(crossing.direction, Crossed(crossing.utc))]
    permits = history.entries_left(person.permits, new, person.category, rules)
    return replace(person, crossings=crossings, permits=permits)


def ends_stay(person: Person, crossing: CrossingRow, rules: Rules) -> bool:
    """Whether this exit is the end of the stay for which the face was taken (W6): of one before it a record may come
    late. `person`: with the crossing counted."""
    if person.origin != STAY or crossing.direction != EXIT or person.crossings[-1] != crossing:
        return False
    return person.enrolled_on is None or rules.day(crossing.utc) >= person.enrolled_on
