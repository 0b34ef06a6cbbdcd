"""Everything that can happen to a lane: frozen events that cannot be invalid. No I/O, no clock.

Drivers and outlets emit these; `gated.lane.machine` is the only reader that acts on them. A field that
carries or could carry personal data is made with `personal()`: it is left out of `repr` (so out of logs
and exceptions) and is sealed when the event is journalled. No event carries biometrics: faces and fingers
stay with the shell, which knows them by `subject`.
"""

from dataclasses import MISSING, dataclass, field
from datetime import date, datetime
from enum import Enum
from typing import Any

from gated.icao.check import Check
from gated.icao.mrz import Document


def personal(default: Any = MISSING) -> Any:
    """A dataclass field with personal data: not in repr, sealed in the journal."""
    return field(default=default, repr=False, metadata={"personal": True})


class Door(Enum):
    """A leaf, and the side it leads to. Passengers of a one-way lane come in through A and leave through B.

    A `single` lane has the leaf B alone; A then only names the side where the passenger stands."""

    A = "A"
    B = "B"

    @property
    def other(self) -> "Door":
        return Door.B if self is Door.A else Door.A


class Device(Enum):
    """What a lane is made of and can lose. The last three are parts of the shell rather than hardware."""

    PASSPORT = "passport"
    CHIP = "chip"
    CAMERA = "camera"
    FINGERPRINT = "fingerprint"
    DOOR = "door"
    INDICATOR = "indicator"
    SPEAKER = "speaker"
    DISPLAY = "display"
    MATCHER = "matcher"
    CACHE = "cache"
    STORE = "store"


class Advice(Enum):
    """What the camera's quality measures would tell the passenger (BSI TR-03121-3, UI-FI-BSJ; rule L5)."""

    COME_CLOSER = "come_closer"
    STEP_BACK = "step_back"
    LOOK_AT_CAMERA = "look_at_camera"
    UNCOVER_FACE = "uncover_face"
    HOLD_STILL = "hold_still"
    ONE_PERSON_ONLY = "one_person_only"
    NOBODY = "nobody"


class Touch(Enum):
    """What a finger's picture would tell the passenger (rule L5)."""

    CENTRE_FINGER = "centre_finger"
    PRESS_HARDER = "press_harder"
    PRESS_LIGHTER = "press_lighter"
    HOLD_FINGER = "hold_finger"
    """It moved, or was taken away too soon."""
    LIFT_FINGER = "lift_finger"
    """Take it off and place it again."""
    PLACE_AGAIN = "place_again"
    """It is off now: the finger that is asked for may be placed."""
    CLEAN_FINGER = "clean_finger"
    """Dirty, too wet or too dry: nothing that pressing changes."""


@dataclass(frozen=True, slots=True)
class Now:
    """The two clocks. `mono`: seconds, never steps, for deadlines. `utc`: aware, may step, for validity."""

    mono: float
    utc: datetime

    def __post_init__(self) -> None:
        if self.utc.tzinfo is None:
            raise ValueError("Now.utc must be timezone-aware")


@dataclass(frozen=True, slots=True)
class Permit:
    """A permit of the cache (O1, O2): valid while `start <= day <= end` and entries are left (None: any number)."""

    kind: str
    start: date
    end: date
    entries_left: int | None = None


@dataclass(frozen=True, slots=True)
class Crossed:
    """The last time that somebody went one way across the border, at any gate or counter that HQ or this lane knows.

    `this_document`: with the document that is presented now (O8)."""

    utc: datetime
    this_document: bool = True


@dataclass(frozen=True, slots=True)
class Traveller:
    """What the enrolment cache knows of a person, less the biometrics. `subject` is the shell's handle to those."""

    subject: int
    category: str
    birth: date = personal()
    flags: frozenset[str] = personal()
    permits: tuple[Permit, ...] = personal()
    """With the entries that are left after this lane's own crossings."""
    face: bool = True
    fingers: tuple[str, ...] = ()
    usable_from: date | None = None
    """First day on which HQ lets the enrolment be used; None: as the policy says of its origin (E7)."""
    origin: str = "counter"
    """Where they were enrolled: counter, office, gate, entry."""
    enrolled_on: date | None = None
    received_on: date | None = personal(None)
    """When the passport that an office's enrolment waits for was received (E6, E7)."""
    height_cm: int | None = personal(None)
    """As it was stated or measured (W2)."""
    entered: Crossed | None = personal(None)
    """The last entry, HQ's knowledge and this lane's own together."""
    left: Crossed | None = personal(None)
    """The last exit."""
    expected: bool = personal(False)
    """Advance passenger information names this document for today (W9): no rule reads it."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. Subclasses validate themselves: an event that exists can be believed in form."""


@dataclass(frozen=True, slots=True)
class Ticketed(Event):
    """An answer to a request of one passenger: `ticket` and `ask` are the request's own.

    An answer to anything but the last request of its kind is stale and is dropped before any handler sees it."""

    ticket: int
    ask: int

    def __post_init__(self) -> None:
        if self.ticket < 1 or self.ask < 1:
            raise ValueError("ticket and ask are positive numbers")


# -- the shell ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The process runs. `next_ticket` was never used before; `unsettled` tickets were open when the last one died.

    `reset_needed`: it died between a fire alarm and the reset by a person. `closed`: a person had closed the lane."""

    next_ticket: int
    unsettled: tuple[int, ...] = ()
    reset_needed: bool = False
    closed: bool = False
    came_from: Door | None = None
    """Where the last unsettled passenger came from, if anybody did."""
    direction: str | None = None
    """Which way a person had set the lane to go (L7): entry, exit, both; None: as its configuration says."""

    def __post_init__(self) -> None:
        if self.next_ticket < 1 or any(not 0 < t < self.next_ticket for t in self.unsettled):
            raise ValueError("unsettled tickets must be positive and below next_ticket")


@dataclass(frozen=True, slots=True)
class Deadline(Event):
    """The time that the lane itself asked for has come."""


@dataclass(frozen=True, slots=True)
class EventsLost(Event):
    """The bounded queue was full and `count` events were dropped: the world must be observed afresh."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("EventsLost needs a positive count")


@dataclass(frozen=True, slots=True)
class ClockStepped(Event):
    """The wall clock moved by `step_s` seconds against the monotonic one (positive: forward)."""

    step_s: float


@dataclass(frozen=True, slots=True)
class DeviceReady(Event):
    """A device works (again). The door's driver first emits the state of every leaf, barrier and input."""

    device: Device


@dataclass(frozen=True, slots=True)
class DeviceLost(Event):
    """A device stopped working. `why` is a short code in lower case without personal data."""

    device: Device
    why: str


@dataclass(frozen=True, slots=True)
class PolicyReady(Event):
    """The shell has offered this version of the policy (`Core.offer`): it holds from the next passenger on."""

    version: str
    edition: int


@dataclass(frozen=True, slots=True)
class UplinkLost(Event):
    """HQ cannot be reached: neither can an officer's remote order."""


@dataclass(frozen=True, slots=True)
class UplinkReady(Event):
    """HQ acknowledges again."""


# -- documents and look-ups ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DocumentPresented(Event):
    """A document was read at the reader of `side`; all its check digits hold."""

    document: Document = personal()
    side: Door = Door.A


@dataclass(frozen=True, slots=True)
class DocumentUnreadable(Event):
    """A document lies in the reader of `side` but cannot be read; `why` names the fault, never the content."""

    why: str
    side: Door = Door.A


@dataclass(frozen=True, slots=True)
class DocumentRemoved(Event):
    """The document was taken out of the reader of `side`. Not every reader can tell."""

    side: Door = Door.A


@dataclass(frozen=True, slots=True)
class ChipRead(Ticketed):
    """The document's chip was tried: access, passive authentication, clone detection."""

    access: Check
    authentic: Check
    not_cloned: Check


@dataclass(frozen=True, slots=True)
class CacheStand:
    """How far the cache had come when it answered: the last change of each partition, and when HQ last said that
    this was all."""

    people_serial: int
    people_as_of: datetime
    control_serial: int
    control_as_of: datetime


@dataclass(frozen=True, slots=True)
class RecordFound(Ticketed):
    """The cache knows the holder. `document_flags` are what it knows of the document (W8)."""

    traveller: Traveller = personal()
    document_flags: frozenset[str] = personal(frozenset())
    cache: CacheStand | None = None


@dataclass(frozen=True, slots=True)
class NoRecord(Ticketed):
    """The cache does not know the holder. `document_flags` are what it knows of the document (W8)."""

    document_flags: frozenset[str] = personal()
    cache: CacheStand | None = None


@dataclass(frozen=True, slots=True)
class LookUpFailed(Ticketed):
    """The cache could not answer; that is not the same as not knowing."""

    why: str


@dataclass(frozen=True, slots=True)
class FlagsRead(Ticketed):
    """Control flags as they stand at this moment, read again just before an exit is granted."""

    flags: frozenset[str] = personal()
    document_flags: frozenset[str] = personal(frozenset())
    cache: CacheStand | None = None


# -- biometrics: conclusions only -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FaceCompared(Ticketed):
    """The best frame taken at `captured_mono` against the enrolled face. `fmr` is what `threshold` stands for.

    `persons` counts the faces near the camera in that frame. `result` FAILED means compared and below the
    threshold; UNDETERMINED means no usable frame in time. `weak_threshold`: from here up to `threshold` a face is weak
    and not wrong, at the false match rate `weak_fmr`; None: the lane does not ask for that."""

    result: Check
    score: float = 0.0
    threshold: float = 0.0
    fmr: float = 1.0
    captured_mono: float = 0.0
    persons: int = 0
    pad: Check = Check.NOT_SUPPORTED
    weak_threshold: float | None = None
    weak_fmr: float = 1.0


@dataclass(frozen=True, slots=True)
class FaceAdvice(Ticketed):
    """No usable frame yet, and this is what the passenger could do about it."""

    advice: Advice


@dataclass(frozen=True, slots=True)
class FingerCompared(Ticketed):
    """One finger against its enrolled template. `fmr` is what `threshold` stands for.

    FAILED: compared and below the threshold. UNDETERMINED: no usable print in time. ABORTED: the reader was lost over
    it. NOT_SUPPORTED: the lane has no reader, or none for this enrolment."""

    result: Check
    score: float = 0.0
    threshold: float = 0.0
    fmr: float = 1.0
    finger: str = ""
    """Which finger was asked for."""
    pad: Check = Check.NOT_SUPPORTED
    sensor: str = ""
    """Where the sensor compared by itself, the format of its templates: its word for it is all there is."""


@dataclass(frozen=True, slots=True)
class FingerAdvice(Ticketed):
    """No usable print yet, and this is what the passenger could do about it."""

    advice: Touch


# -- records ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded(Ticketed):
    """The record that was asked for is durable: it will survive a power cut."""


@dataclass(frozen=True, slots=True)
class NotRecorded(Ticketed):
    """The record that was asked for could not be made durable."""

    why: str


# -- the gate: what is observed, never what was asked for --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DoorOpened(Event):
    """The leaf left its closed position."""

    door: Door


@dataclass(frozen=True, slots=True)
class DoorClosed(Event):
    """The leaf reached its closed position."""

    door: Door


@dataclass(frozen=True, slots=True)
class PersonPassed(Event):
    """Somebody crossed the light barriers of `door`; `inward` means into the lane."""

    door: Door
    inward: bool


@dataclass(frozen=True, slots=True)
class DoorwayBlocked(Event):
    """Somebody or something stands in the doorway."""

    door: Door


@dataclass(frozen=True, slots=True)
class DoorwayCleared(Event):
    """The doorway is free again."""

    door: Door


@dataclass(frozen=True, slots=True)
class ObstacleHit(Event):
    """The gate's own controller reports that the leaf met an obstacle and gave way."""

    door: Door


@dataclass(frozen=True, slots=True)
class PresenceChanged(Event):
    """What the presence sensors see between the doors: persons 0, 1 or 2 (two or more), and a left object."""

    persons: int
    thing: bool = False

    def __post_init__(self) -> None:
        if self.persons not in (0, 1, 2):
            raise ValueError(f"persons is 0, 1 or 2 (two or more), not {self.persons}")


@dataclass(frozen=True, slots=True)
class HelpPressed(Event):
    """Somebody pressed the help button."""


@dataclass(frozen=True, slots=True)
class FireStarted(Event):
    """The fire alarm's input is active: the hard-wired chain opens the leaves."""


@dataclass(frozen=True, slots=True)
class FireEnded(Event):
    """The fire alarm's input is quiet again. Only a person's `Reset` ends the emergency."""


@dataclass(frozen=True, slots=True)
class MainsLost(Event):
    """The lane runs on its battery."""


@dataclass(frozen=True, slots=True)
class MainsBack(Event):
    """The mains are back."""


# -- people in charge: verified before they become events ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order(Event):
    """An order of a named person. `order` is its unique identifier, answered by `commands.Answer`."""

    order: str
    by: str

    def __post_init__(self) -> None:
        if not self.order or not self.by:
            raise ValueError("an order names itself and who gives it")


@dataclass(frozen=True, slots=True)
class TicketOrder(Order):
    """An order about one passenger."""

    ticket: int


@dataclass(frozen=True, slots=True)
class OfficerOpens(TicketOrder):
    """Let this passenger through; recorded before the exit opens."""


@dataclass(frozen=True, slots=True)
class OfficerRefuses(TicketOrder):
    """Send this passenger back the way they came."""


@dataclass(frozen=True, slots=True)
class OfficerRetries(TicketOrder):
    """Let this passenger try the face once more."""


@dataclass(frozen=True, slots=True)
class CloseLane(Order):
    """Finish whoever is inside, then take nobody in."""


@dataclass(frozen=True, slots=True)
class OpenLane(Order):
    """Take passengers again."""


@dataclass(frozen=True, slots=True)
class SetDirection(Order):
    """Which way a bidirectional lane goes from the next passenger on (L7)."""

    direction: str
    """entry, exit, both, or schedule: as its configuration says."""

    def __post_init__(self) -> None:
        Order.__post_init__(self)
        if self.direction not in ("entry", "exit", "both", "schedule"):
            raise ValueError("direction is entry, exit, both or schedule")


@dataclass(frozen=True, slots=True)
class Reset(Order):
    """A person has looked at the lane after an emergency or alarm and says it may go on."""


@dataclass(frozen=True, slots=True)
class ServiceOn(Order):
    """A named technician takes the lane; refused while a passenger is in it."""


@dataclass(frozen=True, slots=True)
class ServiceOff(Order):
    """The technician gives the lane back."""


@dataclass(frozen=True, slots=True)
class ServiceDoor(Order):
    """Move one leaf; service mode only."""

    door: Door
    open: bool


EVENTS: frozenset[type[Event]] = frozenset(
    each
    for each in list(globals().values())
    if isinstance(each, type) and issubclass(each, Event) and each not in (Event, Ticketed, Order, TicketOrder)
)
"""Every event that can happen: the columns of the machine's table."""
