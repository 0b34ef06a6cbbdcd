"""The dictionary of facts that a lane tells HQ, in one place for both ends. No I/O, no clock.

A fact is what happened, in the words of the border, as strings and numbers: HQ can read it without the lane's code.
Each belongs to one stream, which is its class of priority; each field with personal data is made with `personal()`
and travels sealed to HQ's key (`gated.wire.record`). Codes are lower case and hold no personal data.

The dictionary only grows: a field is never renamed or given another meaning; a changed fact gets a new name, and
`SCHEMA` counts the editions. A lane may be older or newer than HQ: HQ keeps what it does not know, as it came.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, ClassVar, Final

from gated.wire.codec import added, kinds, limited, personal

SCHEMA: Final = 1
"""The edition of this dictionary."""

CROSSING: Final = "crossing"
"""Verdicts and how their tickets ended. Never dropped: without room for it nobody passes."""
ALARM: Final = "alarm"
"""What people must know at once."""
STATE: Final = "state"
"""How lane and devices are."""
ATTACHMENT: Final = "attachment"
"""Pictures, in parts. The first to go where there is no room."""
STREAMS: Final = (ALARM, CROSSING, STATE, ATTACHMENT)
"""In the order of urgency."""

CODE_MAX: Final = 64
"""Characters of a code, a name of a person in charge, an order's identifier."""
CODE: Final = {"limit": CODE_MAX}


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that HQ must know."""

    stream: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Ticketed(Fact):
    """A fact about one passenger. At HQ a ticket is (lane, database generation, number): see `record.Record`."""

    ticket: int

    def __post_init__(self) -> None:
        if self.ticket < 1:
            raise ValueError("a ticket is a positive number")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who presented which document: what the machine readable zone says. Empty where it says nothing."""

    document_type: str = personal("", limit=8)
    """TD1, TD2, TD3, MRV-A, MRV-B."""
    document_code: str = personal("", limit=8)
    issuer: str = personal("", limit=8)
    number: str = personal("", limit=CODE_MAX)
    nationality: str = personal("", limit=8)
    birth: str = personal("", limit=10)
    """YYMMDD as printed, unknown parts '<'; the whole date is `birth_on` where it is known."""
    birth_on: date | None = personal(None)
    sex: str = personal("", limit=1)
    expiry: str = personal("", limit=10)
    surname: str = personal("", limit=CODE_MAX)
    given_names: str = personal("", limit=CODE_MAX)
    personal_number: str | None = personal(None, limit=CODE_MAX)
    subject: int | None = personal(None)
    """The person of the enrolment that was compared, where there was one."""
    flags: frozenset[str] = personal(frozenset(), limit=64)
    """Control flags of the person that the lane saw (W7)."""
    document_flags: frozenset[str] = personal(frozenset(), limit=64)
    """What the lane knew of the document (W8)."""
    permits: tuple[str, ...] = personal((), limit=64)
    """Kinds of the permits that the lane saw (O1, O2, O3, O5, O9)."""
    expected: bool = added(False, is_personal=True)
    """Advance passenger information named this document for this day (W9)."""


@dataclass(frozen=True, slots=True)
class VerdictReached(Ticketed):
    """The decision about one passenger, with all that it stands on. Durable before any exit opens.

    Checks are `successful`, `failed`, `undetermined`, `not_supported`, `aborted` (BSI TR-03135-1, 3.5.2) or None:
    not asked for. A ticket can have more than one: an officer's order after a referral is a verdict of its own."""

    stream = CROSSING

    decision: str = field(metadata=CODE)
    """grant, refer or release."""
    reason: str = field(repr=False, metadata={**CODE, "personal": True})
    """The name of the rule that decided: that a control met somebody is nobody's business on the way (L8)."""
    rules: str = field(metadata=CODE)
    """The edition of the policy."""
    direction: str = field(metadata=CODE)
    """entry or exit."""
    came_from: str = field(metadata=CODE)
    """The side of the lane, A or B."""
    opened: datetime | None = None
    """When the ticket was opened, by the lane's wall clock."""
    clock_trusted: bool = True
    by: str | None = limited(CODE_MAX, None)
    """The officer or technician who ordered it; None: the policy."""
    category: str | None = limited(CODE_MAX, None)
    """The category of traveller that the policy worked with (W1, W3)."""
    enrolled: bool | None = None
    """Whether the cache knew the person; None: not asked or not answered."""
    chip_access: str | None = limited(CODE_MAX, None)
    chip_authentic: str | None = limited(CODE_MAX, None)
    chip_not_cloned: str | None = limited(CODE_MAX, None)
    face: str | None = limited(CODE_MAX, None)
    face_score: float | None = None
    face_threshold: float | None = None
    face_fmr: float | None = None
    """The false match rate that the threshold stands for."""
    face_persons: int | None = None
    face_pad: str | None = limited(CODE_MAX, None)
    """Presentation attack detection."""
    face_weak_threshold: float | None = None
    face_weak_fmr: float | None = None
    """Of the threshold from which a face counts where a finger supports it; None: not used."""
    finger: str | None = limited(CODE_MAX, None)
    """Of the finger that matched, else of the last that was asked for; None: none was."""
    finger_position: str | None = limited(CODE_MAX, None)
    finger_score: float | None = None
    finger_threshold: float | None = None
    finger_fmr: float | None = None
    finger_pad: str | None = limited(CODE_MAX, None)
    finger_sensor: str | None = limited(CODE_MAX, None)
    """Where the sensor compared by itself, the format of its templates: score, threshold and rate are then its word,
    and `fmr` leans on it. None: the lane compared, or nobody did."""
    finger_tries: int = 0
    """How many comparisons of fingers there were, before an officer's retry too."""
    fingers_matched: int = 0
    """How many different fingers matched."""
    fmr: float | None = None
    """The rate at which somebody else would have matched alike, all tries counted; None: nothing matched."""
    holder: Holder | None = personal(None)
    people_serial: int | None = None
    """The last change of the cache's people that the decision knew of; None: the cache was not asked."""
    control_serial: int | None = None
    """And of its controls."""
    cache: str | None = limited(CODE_MAX, None)
    """fresh, late, stale or expired: the cache's age by the policy."""
    place: str | None = added(None, limit=CODE_MAX)
    """Where the lane stands, as the policy names it."""
    document_kind: str | None = added(None, limit=CODE_MAX)
    """The policy's kind of document; None: none was presented, or of no kind."""
    urgency: str = added("", limit=CODE_MAX, is_personal=True)
    """Of a referral: routine, attention or urgent."""
    notes: tuple[str, ...] = added((), limit=16, is_personal=True)
    """What was odd and decided nothing: double_entry, exit_without_entry, other_document (O8)."""


@dataclass(frozen=True, slots=True)
class TicketSettled(Ticketed):
    """How a ticket ended: exactly one for every ticket, and its last fact."""

    stream = CROSSING

    outcome: str = field(metadata=CODE)
    """crossed, not_crossed, or unresolved: the lane was not there to see it."""
    persons: int = 0
    """How many persons were seen to pass, whatever was decided."""
    decision: str | None = limited(CODE_MAX, None)
    """The verdict under which it ended; None: it ended before one."""
    reason: str | None = personal(None, limit=CODE_MAX)
    direction: str | None = limited(CODE_MAX, None)
    came_from: str | None = limited(CODE_MAX, None)


@dataclass(frozen=True, slots=True)
class AlarmRaised(Fact):
    """Something that people must know at once. `detail` is a device, a door or a short code."""

    stream = ALARM

    code: str = field(metadata=CODE)
    detail: str = limited(256, "")
    ticket: int | None = None


@dataclass(frozen=True, slots=True)
class OfficerCalled(Fact):
    """An officer is needed at the lane. Why is for the officer's eyes (L8)."""

    stream = ALARM

    ticket: int | None = None
    reason: str = personal("", limit=CODE_MAX)
    urgency: str = added("", limit=CODE_MAX, is_personal=True)
    """routine, attention or urgent."""


@dataclass(frozen=True, slots=True)
class OrderAnswered(Fact):
    """What became of an order: the answer to it, and an ordinary record."""

    stream = ALARM

    order: str = field(metadata=CODE)
    accepted: bool = False
    why: str = limited(CODE_MAX, "")


@dataclass(frozen=True, slots=True)
class LaneChanged(Fact):
    """The lane went into another state of its machine."""

    stream = STATE

    state: str = field(metadata=CODE)


@dataclass(frozen=True, slots=True)
class DirectionChanged(Fact):
    """Whom a lane of both directions serves from now on (L7). Told at each start too."""

    stream = STATE

    direction: str = field(metadata=CODE)
    """entry, exit or both."""
    cause: str = field(metadata=CODE)
    """configuration, schedule or order."""
    by: str | None = limited(CODE_MAX, None)
    """Whose order it is; None also where one from before the last start still holds."""


@dataclass(frozen=True, slots=True)
class DeviceChanged(Fact):
    """A device works or is lost (`ready`, `lost`); `why` is the fault's code."""

    stream = STATE

    device: str = field(metadata=CODE)
    state: str = field(metadata=CODE)
    why: str = limited(256, "")


@dataclass(frozen=True, slots=True)
class CacheMoved(Fact):
    """A partition of the lane's cache: how far it has come, and what its age is called now. Told when a generation,
    an epoch or the name of its age changes, and every hour."""

    stream = STATE

    partition: str = field(metadata=CODE)
    generation: int
    epoch: int
    serial: int
    as_of: datetime
    """When HQ last said that this is all."""
    freshness: str = field(metadata=CODE)
    """fresh, late, stale, expired."""


@dataclass(frozen=True, slots=True)
class PolicyChanged(Fact):
    """Another policy is in force, from the next passenger on. Verdicts name it as `rules`."""

    stream = STATE

    version: str = field(metadata=CODE)
    edition: int
    previous: str = field(metadata=CODE)
    """The version that was in force before."""
    sha256: str = added("", limit=64)
    """Of its text, hexadecimal: two lanes may have been installed with two texts of one name. See `LaneBooted.parts`
    for the policy that a lane starts with."""


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that has a version: the daemon, the policy, a model, the configuration, the cache."""

    name: str = field(metadata=CODE)
    version: str = field(metadata={"limit": 2 * CODE_MAX})


@dataclass(frozen=True, slots=True)
class LaneBooted(Fact):
    """The lane's process started, and what it is made of."""

    stream = STATE

    boot: str = field(metadata=CODE)
    topology: str = field(metadata=CODE)
    next_ticket: int = 1
    unsettled: tuple[int, ...] = ()
    """Tickets that were open when the last process died."""
    new_database: bool = False
    """No earlier record of this lane is on its disk: first start, or the old database was set aside."""
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordsDropped(Fact):
    """Stands in a chain for the records `first` to `last` that had to make room, and for their link to the next.

    Made by the outbox alone (see docs/records.md). `head` is the hash of the record `last`, to which the record
    after it refers. Its own record has the number `last` and refers to the record before `first`."""

    first: int
    last: int
    head: bytes = field(metadata={"limit": 32})

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last or len(self.head) != 32:
            raise ValueError("first to last is a range from 1 on, and the head a SHA-256")


@dataclass(frozen=True, slots=True)
class StreamContinued(Fact):
    """The first record of a further chapter of a stream: what is new does not wait behind a long backlog.

    Made by the outbox alone. `seq` and `head` are number and hash of the last record of the chapter before: HQ knows
    by them where that one must end, whenever the rest of it comes. No ticket has records in two chapters."""

    before: str = field(metadata=CODE)
    """The stream id of the chapter before."""
    seq: int
    head: bytes = field(metadata={"limit": 32})


PART_BYTES_MAX: Final = 12 << 10
"""Bytes of an attachment in one record."""
ATTACHMENT_BYTES_MAX: Final = 256 << 10
"""Bytes of a whole attachment."""


@dataclass(frozen=True, slots=True)
class AttachmentPart(Ticketed):
    """A part of a picture that the policy says is kept: `part` of `parts`, from 1 on, each sealed to HQ."""

    stream = ATTACHMENT

    name: str = field(metadata=CODE)
    """Of the attachment, once in a database generation: `<ticket>-<what>`."""
    what: str = field(metadata=CODE)
    """case_picture or entry_face."""
    media: str = field(metadata=CODE)
    part: int
    parts: int
    size: int
    """Bytes of the whole."""
    keep_days: int
    """HQ deletes it so many days after the record's time."""
    data: bytes = personal(b"", limit=PART_BYTES_MAX)

    def __post_init__(self) -> None:
        Ticketed.__post_init__(self)
        if not 1 <= self.part <= self.parts or not 1 <= self.size <= ATTACHMENT_BYTES_MAX or self.keep_days < 1:
            raise ValueError("a part of 1 to parts, of at most 256 KiB, kept for a day or longer")


FACTS: Final[Mapping[str, type[Any]]] = kinds(
    VerdictReached,
    TicketSettled,
    AlarmRaised,
    OfficerCalled,
    OrderAnswered,
    LaneChanged,
    DirectionChanged,
    DeviceChanged,
    CacheMoved,
    PolicyChanged,
    LaneBooted,
    RecordsDropped,
    StreamContinued,
    AttachmentPart,
)
"""Every fact by its name."""
