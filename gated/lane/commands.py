"""Everything a lane can ask for: frozen commands, carried out by drivers and outlets. No I/O, no clock."""

from dataclasses import dataclass
from enum import Enum

from gated.icao.mrz import Document
from gated.lane.events import Door, personal
from gated.lane.evidence import Evidence, Verdict


class PromptCode(Enum):
    """What is shown and spoken to the passenger; the words are in `gated.guidance`. None of them says why (L8)."""

    PLACE_DOCUMENT = "place_document"
    DOCUMENT_UNREADABLE = "document_unreadable"
    LEAVE_DOCUMENT = "leave_document"
    ONE_AT_A_TIME = "one_at_a_time"
    PLEASE_WAIT = "please_wait"
    WALK_IN = "walk_in"
    ONE_PERSON_ONLY = "one_person_only"
    CLEAR_DOORWAY = "clear_doorway"
    LOOK_AT_CAMERA = "look_at_camera"
    COME_CLOSER = "come_closer"
    STEP_BACK = "step_back"
    UNCOVER_FACE = "uncover_face"
    HOLD_STILL = "hold_still"
    PLACE_RIGHT_THUMB = "place_right_thumb"
    PLACE_RIGHT_INDEX = "place_right_index"
    PLACE_RIGHT_MIDDLE = "place_right_middle"
    PLACE_RIGHT_RING = "place_right_ring"
    PLACE_RIGHT_LITTLE = "place_right_little"
    PLACE_LEFT_THUMB = "place_left_thumb"
    PLACE_LEFT_INDEX = "place_left_index"
    PLACE_LEFT_MIDDLE = "place_left_middle"
    PLACE_LEFT_RING = "place_left_ring"
    PLACE_LEFT_LITTLE = "place_left_little"
    CENTRE_FINGER = "centre_finger"
    PRESS_HARDER = "press_harder"
    PRESS_LIGHTER = "press_lighter"
    HOLD_FINGER = "hold_finger"
    LIFT_FINGER = "lift_finger"
    CLEAN_FINGER = "clean_finger"
    WALK_THROUGH = "walk_through"
    TAKE_BELONGINGS = "take_belongings"
    SEE_OFFICER = "see_officer"
    GO_BACK = "go_back"
    LANE_CLOSED = "lane_closed"
    SERVICE = "service"
    EVACUATE = "evacuate"


class Light(Enum):
    """The end displays of a lane."""

    GREEN = "green"
    RED = "red"
    OFF = "off"


class AlarmCode(Enum):
    """What HQ and the officers are told at once. The passenger is told none of it."""

    DOCUMENT_MISREAD = "document_misread"
    REFERRED = "referred"
    HELP = "help"
    TWO_PERSONS = "two_persons"
    TAILGATE = "tailgate"
    WRONG_WAY = "wrong_way"
    DOOR_FORCED = "door_forced"
    DOOR_STUCK = "door_stuck"
    OBSTACLE = "obstacle"
    LEFT_INSIDE = "left_inside"
    STAYED_TOO_LONG = "stayed_too_long"
    OCCUPIED_AT_START = "occupied_at_start"
    OFFICER_UNREACHABLE = "officer_unreachable"
    FIRE = "fire"
    LEAF_SHUT_IN_FIRE = "leaf_shut_in_fire"
    MAINS_LOST = "mains_lost"
    DEVICE_LOST = "device_lost"
    NOT_RECORDED = "not_recorded"
    EVENTS_LOST = "events_lost"
    CLOCK_STEPPED = "clock_stepped"
    UNSETTLED = "unsettled"
    STRANGER_INSIDE = "stranger_inside"
    CACHE_AGED = "cache_aged"
    """The shell's: a partition of the cache is late, stale or expired."""
    SYNC_REFUSED = "sync_refused"
    """The shell's: something that was fetched for the cache is not what HQ signed, or cannot be used."""
    POLICY_REFUSED = "policy_refused"
    """The shell's: a policy came that is not HQ's, not whole, older than the one in force, or fails its examples."""
    DATABASE_REPLACED = "database_replaced"
    """The shell's: the lane's database was damaged, or an older copy; it is set aside, and a new one begun."""


class Outcome(Enum):
    """How a ticket ended. UNRESOLVED: the lane was not there to see it (a restart)."""

    CROSSED = "crossed"
    NOT_CROSSED = "not_crossed"
    UNRESOLVED = "unresolved"


@dataclass(frozen=True, slots=True)
class Command:
    """Something the lane wants done. Dispatch never waits; a result comes back as an event."""


@dataclass(frozen=True, slots=True)
class RequestOpen(Command):
    """Ask the gate to open `door` and keep asking until `WithdrawOpen` (a level, or a pulse re-armed)."""

    door: Door


@dataclass(frozen=True, slots=True)
class WithdrawOpen(Command):
    """Stop asking: the gate shuts `door` by its own safety rules."""

    door: Door


@dataclass(frozen=True, slots=True)
class Request(Command):
    """Something that is answered: the answer carries the same `ticket` and `ask` (see `events.Ticketed`)."""

    ticket: int
    ask: int


@dataclass(frozen=True, slots=True)
class ReadChip(Request):
    """Answered by `ChipRead`."""

    document: Document = personal()


@dataclass(frozen=True, slots=True)
class LookUp(Request):
    """Answered by `RecordFound`, `NoRecord` or `LookUpFailed`."""

    document: Document = personal()


@dataclass(frozen=True, slots=True)
class ReadFlags(Request):
    """Read this ticket's control flags again. Answered by `FlagsRead` or `LookUpFailed`."""


@dataclass(frozen=True, slots=True)
class Watch(Command):
    """A passenger begins at this side: start collecting the best frames of whoever walks up."""

    ticket: int
    side: Door


@dataclass(frozen=True, slots=True)
class CompareFace(Request):
    """Compare `subject`'s face with the best frame taken since `since_mono`; `FaceAdvice` while there is none.

    Answered by one `FaceCompared`, at the latest `within_s` after it was asked."""

    subject: int
    since_mono: float
    within_s: float
    whole: bool = False
    """Take all of `within_s`, whatever is found meanwhile (L8)."""


@dataclass(frozen=True, slots=True)
class CompareFinger(Request):
    """Compare one placement of `subject`'s enrolled `finger`; `FingerAdvice` while there is no usable print.

    Answered by one `FingerCompared`, at the latest `within_s` after it was asked."""

    subject: int
    finger: str
    within_s: float


@dataclass(frozen=True, slots=True)
class Record(Request):
    """Make this verdict durable. Answered by `Recorded` or `NotRecorded`; a grant opens nothing before that."""

    verdict: Verdict
    came_from: Door
    evidence: Evidence = personal()
    by: str | None = None
    """Who ordered it, where an officer or technician did."""


@dataclass(frozen=True, slots=True)
class EndFinger(Command):
    """Nobody waits for this ticket's finger any more, and `CompareFinger` is not answered: the reader goes dark."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Settle(Command):
    """The one last record of a ticket: how it ended, under which verdict, how many persons really passed."""

    ticket: int
    outcome: Outcome
    verdict: Verdict | None
    persons: int
    came_from: Door = Door.A
    direction: str = ""


@dataclass(frozen=True, slots=True)
class KeepPicture(Command):
    """Give HQ the frame that the durable verdict stands on, sealed, to be kept for so long; nothing where there is
    none. Of frames that were taken already: nobody is looked at longer for it (L8)."""

    ticket: int
    what: str
    """case_picture or entry_face (`gated.lane.rules.PICTURES`)."""
    keep_days: int
    since_mono: float
    """The entry was shut behind one person: an entry face is of a frame after that."""


@dataclass(frozen=True, slots=True)
class Forget(Command):
    """Wipe everything that is held for this ticket: frames, templates, document, traveller."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Prompt(Command):
    """Tell the passenger on `side`."""

    code: PromptCode
    side: Door | None = None
    """None: inside the lane."""


@dataclass(frozen=True, slots=True)
class Indicate(Command):
    """Set the light of one side."""

    side: Door
    light: Light


@dataclass(frozen=True, slots=True)
class CallOfficer(Command):
    """An officer is needed at the lane. `reason` is for the officer's eyes."""

    ticket: int | None
    reason: str = personal()
    urgency: str = personal("")
    """routine, attention or urgent: as the policy says of the reason."""


@dataclass(frozen=True, slots=True)
class Alarm(Command):
    """Tell HQ at once."""

    code: AlarmCode
    detail: str = ""
    """A device, door or short code; never personal."""


@dataclass(frozen=True, slots=True)
class Answer(Command):
    """The answer to an order: an ordinary record."""

    order: str
    accepted: bool
    why: str = ""
