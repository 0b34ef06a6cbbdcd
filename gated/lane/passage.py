"""Everything that the lane holds of one passenger, in one place so that `Forget` forgets it. No I/O, no clock."""

from dataclasses import dataclass, field
from enum import Enum

from gated.icao.mrz import Document
from gated.lane.commands import Command
from gated.lane.events import Door, Now
from gated.lane.evidence import Evidence, Verdict


class Kind(Enum):
    """Why the ticket was opened."""

    PASSENGER = "passenger"
    STRANGER = "stranger"
    """Somebody came in against the direction and is let out to where they came from."""
    SERVICE = "service"
    """A technician moves a leaf."""


@dataclass(slots=True)
class Passage:
    """One ticket from its opening to its settling. `near`: where the passenger came from, `far`: where they go."""

    ticket: int
    kind: Kind
    near: Door
    opened: Now
    evidence: Evidence = field(repr=False)
    asks: dict[type[Command], int] = field(default_factory=dict)
    """The last request of each kind: answers to any other are stale."""
    verdict: Verdict | None = field(default=None, repr=False)
    entered: int = 0
    passed: int = 0
    """Persons seen leaving through the far door."""
    strangers: int = 0
    """Persons seen coming in through the far door, and not yet seen to go again."""
    crowded: bool = False
    """Two were seen behind shut doors: if there is one now, the other hides."""
    tries: int = 0
    finger: str | None = None
    """Which finger is being asked for."""
    left: int = 0
    """Persons seen leaving through the near door."""
    released: bool = False
    """The far door was asked to open."""
    granted: bool = False
    """A grant is durable, and no other verdict was recorded since."""
    exit_open: bool = False
    """The far leaf left its closed position: somebody may have come in by it."""
    let_out: bool = False
    """A stranger's release is durable."""
    blind: bool = False
    """It was released, and the sensors cannot tell whether the passenger crossed: they were lost, or somebody stood in
    the far doorway, or the lane was suddenly empty, and nobody was seen to pass."""
    doubted: bool = False
    """Somebody was seen to pass, and yet as many are inside as before: hands in the barriers, or one who hid."""
    pretended: Evidence | None = field(default=None, repr=False)
    """Referred, and the officer is called, but the passenger not told yet: what they are to believe was found (L8)."""
    proof_state: Enum | None = None
    proof_due: float | None = None
    """The state in which the last proof was asked for, and its deadline."""
    look_until: float = 0.0
    """When a face that does not match would be answered, on the monotonic clock; 0: it was."""
    order: str | None = None
    """An officer's order that is answered once it is durable."""

    @property
    def far(self) -> Door:
        return self.near.other

    @property
    def document(self) -> Document | None:
        return self.evidence.document
