"""What the control socket's answers look like. Nothing in them is personal."""

from typing import Literal, NotRequired, TypedDict


class DoorView(TypedDict):
    """A leaf as `status` tells it. `open`: what the contacts say, None where they cannot; `requested`: what we ask."""

    open: bool | None
    requested: bool


class AlarmView(TypedDict):
    """One of the last alarms. `utc`: ISO 8601."""

    utc: str
    code: str
    detail: str


class PolicyView(TypedDict):
    """Which policy is in force, and which will be from the next passenger on (`next`).

    `refused`: the code of what is wrong with the one that HQ's server has now, or ""; `lacks`: the lane is closed,
    because the policy that it had is no longer to be had."""

    version: str
    edition: int
    next: str | None
    refused: str
    lacks: bool


class WayView(TypedDict):
    """Whom the lane serves now: `way` is entry, exit or both, `by` says why: configuration, schedule, order.

    `until`: when the schedule changes that, ISO 8601, and to what (`then`); None: it does not."""

    way: str
    by: str
    until: str | None
    then: str | None


class Snapshot(TypedDict):
    """The answer to `status`, and each line of `watch`. Nothing in it is personal."""

    lane: str
    site: str
    topology: str
    direction: WayView
    boot: str
    state: str
    prompt: str
    since_s: float
    deadline_s: float | None
    ticket: int | None
    doors: dict[str, DoorView]
    persons: int
    thing: bool
    faults: list[str]
    devices: dict[str, str]
    uplink: str
    outbox: dict[str, int]
    cache: dict[str, str]
    """fresh, late, stale or expired, by partition."""
    policy: PolicyView
    versions: dict[str, str]
    """Of what the lane is made of, and how far its cache has come: `gated.daemon.versions`."""
    counters: dict[str, int]
    last_alarms: list[AlarmView]
    service: str | None
    closed_by: str | None


class PrintView(TypedDict):
    """What one placement was worth: numbers about a picture, never the picture or a minutia.

    `quality` (0 to 100) and `usable`: by the lane's engine; None where nobody judged the picture. `advice`: a value of
    `gated.lane.events.Touch`. `minutiae`: how many, where the lane itself compares fingers and the picture is usable.
    `picture_ms`: from the touch to the whole picture; `look_ms`, `extract_ms`: what judging it took."""

    quality: int | None
    usable: bool | None
    advice: str | None
    minutiae: int | None
    width: int | None
    height: int | None
    ppi: float
    picture_ms: int
    look_ms: int | None
    extract_ms: int | None


class FingerLine(TypedDict):
    """A line of the answer to `test_fingers`; `end` is the last one. `at_s`: since the test began.

    `why`: of a `fault` (a code of the reader, or `not_a_picture`), and of the `end`: `time`, `service_over`,
    `reader_lost`, `passenger`, `stopping`, `failed`."""

    what: Literal["waiting", "finger", "lifted", "fault", "end"]
    at_s: float
    print: NotRequired[PrintView]
    why: NotRequired[str]
