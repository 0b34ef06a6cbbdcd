"""Rows of people in charge: closing, resetting, service. No I/O, no clock."""

from gated.lane import events as ev
from gated.lane.commands import AlarmCode
from gated.lane.core import Core, State
from gated.lane.events import Device, Event, Now
from gated.lane.evidence import Decision
from gated.lane.moves import rest
from gated.lane.passage import Kind
from gated.lane.settings import BOTH
from gated.lane.trouble import stopped_look_again


def not_now(lane: Core, event: ev.Order, now: Now) -> None:
    lane.answer(event.order, False, f"not_while_{lane.state.value}")


def close_lane(lane: Core, event: ev.CloseLane, now: Now) -> None:
    lane.closed_by = event.by
    lane.answer(event.order, True)
    if lane.state is State.IDLE:
        rest(lane, now)


def open_lane(lane: Core, event: ev.OpenLane, now: Now) -> None:
    lane.closed_by = None
    lane.answer(event.order, True)
    if lane.state is State.CLOSED:
        rest(lane, now)


def set_direction(lane: Core, event: ev.SetDirection, now: Now) -> None:
    """L7: from the next passenger on; who is in the lane goes on their way."""
    if lane.ways.direction != BOTH:
        lane.answer(event.order, False, "one_way")
        return
    lane.ordered_way = None if event.direction == "schedule" else event.direction
    lane.answer(event.order, True)
    lane.turn(now)


def policy_ready(lane: Core, event: ev.PolicyReady, now: Now) -> None:
    lane.adopt(event.version)
    lane.turn(now)


def reset(lane: Core, event: ev.Reset, now: Now) -> None:
    """A person looked: forced and stuck leaves are believed again, an emergency is over."""
    lane.answer(event.order, True)
    lane.reset_needed = False
    for leaf in lane.gate.leaves.values():
        leaf.forced = leaf.stuck = False
    if lane.state is State.STOPPED:
        stopped_look_again(lane, event, now)
    else:
        rest(lane, now)


def service_on(lane: Core, event: ev.ServiceOn, now: Now) -> None:
    """Not while a passenger's ticket is open; a stopped lane is what technicians come for."""
    if lane.passage is not None:
        not_now(lane, event, now)
        return
    lane.service_by = event.by
    lane.answer(event.order, True)
    rest(lane, now)


def service_off(lane: Core, event: ev.ServiceOff, now: Now) -> None:
    lane.answer(event.order, True)
    lane.service_by = None
    lane.withdraw(now)
    if lane.passage is not None:
        lane.settle()
    rest(lane, now)


def service_door(lane: Core, event: ev.ServiceDoor, now: Now) -> None:
    """A technician moves a leaf: recorded like any other opening, one leaf at a time, settled when it is shut."""
    door = event.door
    if door not in lane.gate.leaves:
        lane.answer(event.order, False, "no_such_door")
    elif not event.open:
        lane.answer(event.order, True)
        lane.withdraw(now, door)
        if lane.passage is not None and lane.passage.far is door:
            _end_service_door(lane)
    elif Device.DOOR in lane.gate.lost:
        lane.answer(event.order, False, "gate_unseen")
    elif lane.passage is not None or not lane.shut(door.other):
        lane.answer(event.order, False, "other_door_first")
    else:
        lane.open_ticket(Kind.SERVICE, door.other, now).order = event.order
        lane.record(lane.verdict(Decision.RELEASE, "service_door"), event.by)
        lane.wait(lane.timing.record_s, now)


def service_recorded(lane: Core, _: ev.Recorded, now: Now) -> None:
    guest = lane.guest
    lane._due = None
    if not lane.shut(guest.near):
        lane.answer(guest.order, False, "other_door_first")
        guest.order = None
        _end_service_door(lane)
        return
    lane.answer(guest.order, True)
    guest.order, guest.released = None, True
    lane.request(guest.far)


def service_not_recorded(lane: Core, _: Event, now: Now) -> None:
    lane.alarm(AlarmCode.NOT_RECORDED)
    _end_service_door(lane)


def _end_service_door(lane: Core) -> None:
    lane.settle()
    lane._due = None


def service_passed(lane: Core, event: ev.PersonPassed, now: Now) -> None:
    """Counted for the record of the leaf; whoever came in is let out there when service ends with them inside."""
    if lane.passage is not None and event.door is lane.passage.far and not event.inward:
        lane.passage.passed += 1


def service_opened(lane: Core, event: ev.DoorOpened, now: Now) -> None:
    """A leaf that was opened by hand beside the one that is asked for: never both."""
    if lane.passage is not None and event.door is lane.passage.near and lane.passage.released:
        lane.withdraw(now)
        _end_service_door(lane)


def service_device_lost(lane: Core, event: ev.DeviceLost, now: Now) -> None:
    """A technician may unplug what they like; without the gate's sensors no leaf stays asked for."""
    lane.alarm(AlarmCode.DEVICE_LOST, f"{event.device.value}:{event.why}")
    if event.device is Device.DOOR:
        lane.withdraw(now)
        if lane.passage is not None:
            _end_service_door(lane)
