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


def as_if_the_last_failed(evidence: Evidence) -> Evidence:
    """The same evidence, had the last answer been somebody else's (L8). The answers before it stay as they are: by what
    was asked for next the passenger has seen them."""
    if evidence.fingers:
        *before, last = evidence.fingers
        return replace(evidence, fingers=(*before, as_if_failed(last)))
    if evidence.face is None:
        return evidence
    return replace(evidence, face=replace(evidence.face, result=Check.FAILED, score=0.0, weak_threshold=None))


def as_if_failed(finger: FingerCompared) -> FingerCompared:
    """The same answer, had the finger been somebody else's. One that was not compared was nobody's."""
    return replace(finger, result=Check.FAILED, score=0.0) if finger.result is Check.SUCCESSFUL else finger
