"""What became of the bytes of one event."""

from dataclasses import dataclass
from enum import Enum

from gated.wire.record import Head


class Fate(Enum):
    """What became of the bytes of one event."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    """Stored or held before: acknowledged again as far as the stream has come."""
    HELD = "held"
    """Records before it have not come: kept, and taken in when they are there."""
    MISSING = "missing"
    """Records before it have not come, and no room to wait: not stored, asked for again."""
    REFUSED = "refused"
    """Not what it says it is: not stored, may be sent again."""
    SET_ASIDE = "set_aside"
    """Refused so often with the same bytes that it stands in `refused` and its stream goes on without it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The fate of one event, the stream's head after it, and why where it was not stored."""

    fate: Fate
    stream_id: str
    seq: int
    chain: bytes
    head: Head | None
    why: str = ""
