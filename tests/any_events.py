"""Every class of event, as a lane could be told it at this moment: for tests that tell it anything at any time."""

from collections.abc import Sequence

from gated.icao.check import Check
from gated.lane import events as ev
from gated.lane.events import Advice, Device, Door, Event
from gated.lane.machine import Lane
from tests.play import DOCUMENT, OTHER, TRAVELLER

FLAGGED = frozenset({"wanted"})


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
        ev.ServiceOff("f", "lin"),
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
        found += [ev.RecordFound(t, a, TRAVELLER), ev.NoRecord(t, a, FLAGGED), ev.LookUpFailed(t, a, "io")]
        found += [ev.FlagsRead(t, a, frozenset()), ev.FlagsRead(t, a, FLAGGED), ev.FaceAdvice(t, a, Advice.HOLD_STILL)]
        found += [ev.FaceCompared(t, a, good, 0.8, 0.4, 1e-3, mono, n) for n in (1, 2)]
        found += [ev.FaceCompared(t, a, Check.FAILED, 0.1, 0.4, 1e-3, mono, 1)]
        found += [ev.FaceCompared(t, a, good, 0.8, 0.4, 1e-3, 0.0, 1), ev.FingerCompared(t, a, good, 1.0, 0.5)]
        found += [ev.Recorded(t, a), ev.NotRecorded(t, a, "disk_full")]
    return found


ORDERS: Sequence[type[ev.TicketOrder]] = (ev.OfficerOpens, ev.OfficerRefuses, ev.OfficerRetries)
