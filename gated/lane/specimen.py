"""Somebody made up, as a policy's examples, `gated policy explain` and tests describe them. No I/O, no clock.

Everything that is not said is in order: enrolled at a counter, grown up, document in force, recognised, no control."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from gated.icao.check import Check
from gated.icao.mrz import Document
from gated.lane.events import CacheStand, ChipRead, Crossed, FaceCompared, FingerCompared, Permit, Traveller
from gated.lane.evidence import Evidence
from gated.lane.rules import Rules

NOON = time(12)


@dataclass(frozen=True, slots=True)
class Pass:
    """A permit."""

    kind: str
    start: date = date.min
    end: date = date.max
    entries_left: int | None = None


@dataclass(frozen=True, slots=True)
class Specimen:
    """One traveller who comes to a lane of `place` in `direction` on the day `on`."""

    category: str
    document: str
    """Kind of document."""
    direction: str
    place: str
    on: date
    born: date = date(1990, 1, 1)
    height_cm: int | None = None
    origin: str = "counter"
    enrolled_on: date | None = None
    received_on: date | None = None
    usable_from: date | None = None
    permits: tuple[Pass, ...] = ()
    controls: tuple[str, ...] = ()
    document_controls: tuple[str, ...] = ()
    entered: date | None = None
    """The last entry, at noon."""
    left: date | None = None
    """The last exit, at noon."""
    other_document: bool = False
    """The last entry was with another document."""
    document_expires: date | None = None
    face_enrolled: bool = True
    fingers_enrolled: int = 2
    face: bool = True
    """Whether the face is the enrolled one."""
    fingers: int = 2
    """How many fingers are the enrolled ones, where any are asked for."""
    chip: Check = Check.NOT_SUPPORTED
    finger_reader: bool = True
    cache_age_s: int = 0
    """How long ago HQ last said that the lane's cache is complete."""


def document_of(specimen: Specimen, rules: Rules) -> Document:
    """A document of its kind. Raises `ValueError` for a kind that the policy does not know."""
    kind = rules.documents.get(specimen.document)
    if kind is None:
        raise ValueError(f"document {specimen.document} is no kind of the policy: {', '.join(rules.documents)}")
    issuer = min(kind.issuers or {"UTO", "XXA"} - kind.other_than, default=None)
    if issuer is None:
        raise ValueError(f"document {specimen.document} is of no issuer that a specimen can have: UTO, XXA")
    code = min(kind.codes)
    expires = specimen.document_expires or specimen.on + timedelta(days=365)
    return Document(
        format="TD3" if code.startswith("P") else "TD1",
        code=code,
        issuer=issuer,
        number="X00000000",
        nationality=issuer,
        birth=specimen.born.strftime("%y%m%d"),
        sex="X",
        expiry=expires.strftime("%y%m%d"),
        surname="SPECIMEN",
        given_names="",
        names_truncated=False,
        optional="",
        lines=(),
    )


def _crossed(day: date | None, rules: Rules, this_document: bool = True) -> Crossed | None:
    if day is None:
        return None
    return Crossed(datetime.combine(day, NOON, rules.zone).astimezone(UTC), this_document)


_FINGERS = ("right_index", "left_index", "right_thumb", "left_thumb")


def evidence_of(specimen: Specimen, rules: Rules) -> Evidence:
    """Everything that a lane would know of them before the verdict. Raises `ValueError`."""
    enrolled = _FINGERS[: specimen.fingers_enrolled]
    traveller = Traveller(
        subject=1,
        category=specimen.category,
        birth=specimen.born,
        flags=frozenset(specimen.controls),
        permits=tuple(Permit(p.kind, p.start, p.end, p.entries_left) for p in specimen.permits),
        face=specimen.face_enrolled,
        fingers=enrolled,
        usable_from=specimen.usable_from,
        origin=specimen.origin,
        enrolled_on=specimen.enrolled_on,
        received_on=specimen.received_on,
        height_cm=specimen.height_cm,
        entered=_crossed(specimen.entered, rules, not specimen.other_document),
        left=_crossed(specimen.left, rules),
    )
    found = (Check.SUCCESSFUL, 1.0) if specimen.face else (Check.FAILED, 0.0)
    matches = (
        FingerCompared(1, 4, Check.SUCCESSFUL, 1.0, 0.5, 1e-3, finger) for finger in enrolled[: specimen.fingers]
    )
    opened = datetime.combine(specimen.on, NOON, rules.zone).astimezone(UTC)
    told = opened - timedelta(seconds=specimen.cache_age_s)
    return Evidence(
        opened=opened,
        cache=CacheStand(1, told, 1, told),
        day=specimen.on,
        direction=specimen.direction,
        place=specimen.place,
        document=document_of(specimen, rules),
        traveller=traveller,
        document_flags=frozenset(specimen.document_controls),
        chip=ChipRead(1, 1, specimen.chip, specimen.chip, specimen.chip),
        face=FaceCompared(1, 3, *found, 0.5, 1e-4, 0.0, 1) if specimen.face_enrolled else None,
        finger_reader=specimen.finger_reader,
        fingers=tuple(matches),
    )
