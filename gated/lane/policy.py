"""Evidence -> Verdict: may this traveller pass? Every rule is a named predicate with its requirement. No I/O, no clock."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from gated.icao.check import Check
from gated.icao.mrz import Document
from gated.lane.events import ChipRead, FaceCompared, FingerCompared, Traveller, personal


class Decision(Enum):
    """What becomes of a passenger. RELEASE lets somebody out without being a passage (an intruder, a service door)."""

    GRANT = "grant"
    REFER = "refer"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and the name of the rule that made it. `rules` is the version of the policy."""

    decision: Decision
    reason: str = field(repr=False)
    rules: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known when a verdict is asked for; what is missing is None or says so itself."""

    opened: datetime
    clock_trusted: bool = True
    document: Document | None = personal(None)
    traveller: Traveller | None = personal(None)
    document_flags: frozenset[str] = personal(frozenset())
    chip: ChipRead | None = None
    face: FaceCompared | None = None
    finger: FingerCompared | None = None
