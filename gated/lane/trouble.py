"""Rows of trouble: lost devices, forced leaves, fire, help, movement where nobody should move. No I/O, no clock."""

from gated.lane import events as ev
from gated.lane.commands import AlarmCode, Outcome
from gated.lane.core import UNDECIDED, Core, State
from gated.lane.events import Device, Event, Now
from gated.lane.gate import Severity
from gated.lane.moves import clear, finish, from_far, record_referral, refer, refuse, rest, send_back
from gated.lane.passage import Kind


def device_lost(lane: Core, event: ev.DeviceLost, now: Now) -> None:
    lane.alarm(AlarmCode.DEVICE_LOST, f"{event.device.value}:{event.why}")
    _weigh(lane, now)


def events_lost(lane: Core, event: ev.EventsLost, now: Now) -> None:
    """What was missed is unknown, so the gate counts as lost until its driver has told everything again."""
    lane.alarm(AlarmCode.EVENTS_LOST, str(event.count))
    lane.gate.observe(ev.DeviceLost(Device.DOOR, "events_lost"), now)
    _weigh(lane, now)


def mains_lost(lane: Core, _: ev.MainsLost, now: Now) -> None:
    lane.alarm(AlarmCode.MAINS_LOST)
    _weigh(lane, now)


def door_opened(lane: Core, event: ev.DoorOpened, now: Now) -> None:
    leaf = lane.gate.leaves[event.door]
    if lane.passage is not None and event.door is lane.guest.far:
        lane.guest.exit_open = True
    if leaf.forced:
        lane.alarm(AlarmCode.DOOR_FORCED, event.door.value)
        lane.call_officer("door_forced")
        _weigh(lane, now)
    elif not leaf.requested:
        _moved_late(lane, now)


def _moved_late(lane: Core, now: Now) -> None:
    """A request was withdrawn and the leaf moves after all: nobody is enclosed now."""
    if lane.state is State.IDLE:
        rest(lane, now)
    elif lane.state in UNDECIDED and lane.state is not State.ENCLOSING and lane.guest.kind is Kind.PASSENGER:
        refer(lane, "door_open", now)


def _weigh(lane: Core, now: Now) -> None:
    """Do what the worst class of trouble asks for in the present state."""
    severity = lane.gate.severity()
    if severity is Severity.STOP_NOW:
        _stop(lane, now)
    elif lane.state in (State.IDLE, State.CLOSED):
        rest(lane, now)
    elif lane.state is State.CHECKING and severity >= Severity.BLOCKS_ENTRY:
        refuse(lane, "lane_fault", now)
    elif lane.state is State.ADMITTING and severity >= Severity.BLOCKS_ENTRY:
        clear(lane, now)
    elif lane.state in UNDECIDED and severity >= Severity.FINISH_THEN_CLOSE and _is_undecided(lane):
        refer(lane, "lane_fault", now)


def _is_undecided(lane: Core) -> bool:
    """A record that an officer ordered, or that lets a stranger out, is not taken back by a lost camera."""
    return lane.guest.kind is Kind.PASSENGER and lane.guest.order is None


def _stop(lane: Core, now: Now) -> None:
    lane.withdraw(now)
    guest = lane.passage
    if guest is not None:
        guest.blind = guest.blind or guest.released
        lane.call_officer("lane_stopped")
    if lane.state is not State.STOPPED:
        lane.goto(State.STOPPED, now)


def stopped_look_again(lane: Core, _: Event, now: Now) -> None:
    """The gate can be seen again: whoever is inside comes out, whoever was on the way is settled."""
    if lane.gate.severity() is Severity.STOP_NOW:
        return
    if lane.passage is None:
        rest(lane, now)
    elif lane.enclosed and lane.gate.persons and lane.guest.kind is not Kind.SERVICE:
        send_back(lane, now)
    else:
        guest = lane.guest
        guest.blind = guest.blind or (guest.kind is Kind.PASSENGER and guest.entered > guest.left + guest.passed)
        finish(lane, now)


def stopped_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    if lane.passage is not None or lane.gate.persons:
        lane.alarm(AlarmCode.STAYED_TOO_LONG, "stopped")
        lane.call_officer("lane_stopped")
    lane.goto(State.STOPPED, now)


def fire(lane: Core, _: ev.FireStarted, now: Now) -> None:
    """The hard-wired chain opens the leaves; the lane takes its hands off and waits for a person."""
    lane.withdraw(now)
    lane.alarm(AlarmCode.FIRE)
    lane.reset_needed = True
    guest = lane.passage
    if guest is not None:
        unseen = lane.gate.persons or guest.entered > guest.left or guest.released
        lane.settle(None if guest.passed or not unseen else Outcome.UNRESOLVED)
    lane.goto(State.EMERGENCY, now)


def fire_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    for door, leaf in lane.gate.leaves.items():
        if not leaf.open:
            lane.alarm(AlarmCode.LEAF_SHUT_IN_FIRE, door.value)
    lane.goto(State.EMERGENCY, now)


def after_fire_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    """Somebody is inside who cannot be let out: the gate cannot be seen, or a leaf stands open and they do not go."""
    if lane.gate.persons:
        lane.alarm(AlarmCode.STAYED_TOO_LONG, "after_fire")
        lane.call_officer("after_fire")
    lane.wait(lane.timing.stopped_s, now)


def fire_ended(lane: Core, _: ev.FireEnded, now: Now) -> None:
    """Only a person's reset ends it; but whoever the leaves have shut in already comes out."""
    rest(lane, now)


def help_pressed(lane: Core, _: ev.HelpPressed, now: Now) -> None:
    lane.alarm(AlarmCode.HELP)
    lane.call_officer("help")


def help_inside(lane: Core, event: ev.HelpPressed, now: Now) -> None:
    """Whoever is held and asks for help comes out at once, on the side they came from."""
    help_pressed(lane, event, now)
    if lane.enclosed and lane.guest.kind is Kind.PASSENGER and not from_far(lane):
        record_referral(lane, "help")
        send_back(lane, now)


def clock_stepped(lane: Core, event: ev.ClockStepped, now: Now) -> None:
    lane.alarm(AlarmCode.CLOCK_STEPPED, f"{event.step_s:.1f}")
    if lane.passage is not None:
        lane.note(clock_trusted=False)
    lane.turn(now)


def obstacle(lane: Core, event: ev.ObstacleHit, now: Now) -> None:
    lane.alarm(AlarmCode.OBSTACLE, event.door.value)
