"""What is known of one passenger when a verdict is asked for, and the verdict. No I/O, no clock."""

from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import Enum
from typing import Any

from gated.icao.check import Check
from gated.icao.mrz import Document
from gated.lane.events import CacheStand, ChipRead, FaceCompared, FingerCompared, Traveller, personal


class Decision(Enum):
    """What becomes of a passenger. RELEASE lets somebody out without being a passage (a stranger, a service door)."""

    GRANT = "grant"
    REFER = "refer"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and the name of the rule that made it. `rules` is the version of the policy.

    `urgency`: routine, attention or urgent; empty for a grant. `notes`: what was odd and decided nothing."""

    decision: Decision
    reason: str = personal()
    rules: str = ""
    urgency: str = personal("")
    notes: tuple[str, ...] = personal(())


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known when a verdict is asked for; what is missing is None or says so itself.

    `since_mono`: only a face captured after this moment counts (the entry door was shut behind one person)."""

    opened: datetime
    day: date = date.min
    """The day of use, by the country's time; `clock_trusted` says whether it can be believed."""
    direction: str = ""
    """entry or exit."""
    place: str = ""
    since_mono: float = 0.0
    clock_trusted: bool = True
    document: Document | None = personal(None)
    traveller: Traveller | None = personal(None)
    document_flags: frozenset[str] = personal(frozenset())
    flags: frozenset[str] = personal(frozenset())
    cache: CacheStand | None = None
    """How far the cache had come that traveller and flags were read from."""
    chip: ChipRead | None = None
    face: FaceCompared | None = None
    finger_reader: bool = False
    """Whether the lane had a working fingerprint reader when the document was checked."""
    fingers: tuple[FingerCompared, ...] = ()
    """Every answer of the reader, in order."""
    faces: int = 0
    """How often a face was compared in this passage, before an officer's retry too."""
    earlier: tuple[FingerCompared, ...] = ()
    """What the reader answered before an officer's retry: it proves nothing any more, but it was tried."""


def with_found(evidence: Evidence, **found: Any) -> Evidence:
    """The same evidence with more known."""
    return replace(evidence, **found)


def as_if_nothing_matched(evidence: Evidence) -> Evidence:
    """The same evidence, had the last proof been somebody else's (L8). What the passenger already saw stays: a face, or
    a finger, after which another finger was asked for is as it was."""
    last = evidence.fingers[-1].finger if evidence.fingers else ""
    fingers = tuple(
        replace(each, result=Check.FAILED, score=0.0)
        if each.finger == last and each.result is Check.SUCCESSFUL
        else each
        for each in evidence.fingers
    )
    face = evidence.face
    if face is not None and not fingers:
        face = replace(face, result=Check.FAILED, score=0.0, weak_threshold=None)
    return replace(evidence, face=face, fingers=fingers)
