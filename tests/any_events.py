"""Every class of event, as a lane could be told it at this moment: for tests that tell it anything at any time."""

from collections.abc import Sequence
from dataclasses import replace

from gated.icao.check import Check
from gated.lane import events as ev
from gated.lane.events import Advice, Device, Door, Event, Touch
from gated.lane.machine import Lane
from tests.play import DOCUMENT, OTHER, TRAVELLER

FLAGGED = frozenset({"wanted"})
SUPPORTED = replace(TRAVELLER, category="supported", fingers=("right_index", "left_index"))


def any_events(lane: Lane, mono: float) -> list[Event]:
    """Every class of event, with fields that concern this lane at this moment and some that do not."""
    guest = lane.passage
    ticket = guest.ticket if guest else 1
    asks = [*guest.asks.values()] if guest else []
    keys = [(t, a) for t in {ticket, ticket + 1} for a in {*asks, 999}]
    found: list[Event] = [
        ev.Started(500),
        ev.Deadline(), ev.EventsLost(3), ev.ClockStepped(90.0), ev.UplinkLost(), ev.UplinkReady(),
        ev.DocumentPresented(DOCUMENT), ev.DocumentPresented(OTHER, Door.B), ev.DocumentUnreadable("check_digit"),
        ev.DocumentRemoved(), ev.HelpPressed(), ev.FireStarted(), ev.FireEnded(), ev.MainsLost(), ev.MainsBack(),
        ev.CloseLane("c", "hq"), ev.OpenLane("o", "hq"), ev.Reset("r", "wu"), ev.ServiceOn("s", "lin"),
        ev.ServiceOff("f", "lin"), ev.PolicyReady("test-1", 1), ev.PolicyReady("test-2", 2),
        *(ev.SetDirection("w", "wu", way) for way in ("entry", "exit", "both", "schedule")),
    ]  # fmt: skip
    found += [event for device in Device for event in (ev.DeviceLost(device, "x"), ev.DeviceReady(device))]
    for door in Door:
        found += [ev.DoorOpened(door), ev.DoorClosed(door), ev.DoorwayBlocked(door), ev.DoorwayCleared(door)]
        found += [ev.ObstacleHit(door), ev.PersonPassed(door, True), ev.PersonPassed(door, False)]
        found += [ev.ServiceDoor("d", "lin", door, True), ev.ServiceDoor("d", "lin", door, False)]
    found += [ev.PresenceChanged(n, thing) for n in (0, 1, 2) for thing in (False, True)]
    found += [kind("x", "wu", t) for kind in ORDERS for t in (ticket, 99)]
    none, good = Check.NOT_SUPPORTED, Check.SUCCESSFUL
    for t, a in keys:
        found += [ev.ChipRead(t, a, none, none, none), ev.ChipRead(t, a, good, Check.ABORTED, good)]
        found += [
            *(ev.RecordFound(t, a, each) for each in (TRAVELLER, SUPPORTED)),
            ev.NoRecord(t, a, FLAGGED),
            ev.LookUpFailed(t, a, "io"),
        ]
        found += [ev.FlagsRead(t, a, frozenset()), ev.FlagsRead(t, a, FLAGGED), ev.FaceAdvice(t, a, Advice.HOLD_STILL)]
        found += [ev.FaceCompared(t, a, good, 0.8, 0.4, 1e-3, mono, n) for n in (1, 2)]
        found += [ev.FaceCompared(t, a, Check.FAILED, 0.1, 0.4, 1e-3, mono, 1)]
        found += [ev.FaceCompared(t, a, good, 0.8, 0.4, 1e-3, 0.0, 1)]
        found += [ev.FaceCompared(t, a, Check.FAILED, 0.35, 0.4, 1e-3, mono, 1, weak_threshold=0.3, weak_fmr=1e-2)]
        found += [ev.FingerCompared(t, a, each, 0.5, 0.5, 1e-3, "right_index") for each in Check]
        found += [ev.FingerCompared(t, a, good, 0.5, 0.5, 1e-3, "left_index"), ev.FingerAdvice(t, a, Touch.LIFT_FINGER)]
        found += [ev.Recorded(t, a), ev.NotRecorded(t, a, "disk_full")]
    return found


ORDERS: Sequence[type[ev.TicketOrder]] = (ev.OfficerOpens, ev.OfficerRefuses, ev.OfficerRetries)
