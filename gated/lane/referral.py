"""Rows of a referred passenger: an officer decides, or they come back out to where they came from. No I/O, no clock."""

from gated.lane import events as ev
from gated.lane.charge import not_now
from gated.lane.commands import AlarmCode
from gated.lane.core import Core, Handler, State
from gated.lane.events import Now
from gated.lane.evidence import Decision
from gated.lane.gate import Severity
from gated.lane.moves import (
    against_the_way,
    clear,
    count,
    from_far,
    go_back,
    officer_offline,
    open_near,
    send_back,
    stuck,
)
from gated.lane.passage import Kind
from gated.lane.proving import match


def officer_lost(lane: Core, _: ev.UplinkLost, now: Now) -> None:
    officer_offline(lane, now)


def officer_opens(lane: Core, event: ev.OfficerOpens, now: Now) -> None:
    if not _orders_this(lane, event):
        return
    if not lane.gate.shut():
        lane.answer(event.order, False, "door_open")
        return
    lane.guest.order = event.order
    lane.record(lane.verdict(Decision.GRANT, "officer"), event.by)
    lane.goto(State.RECORDING, now)


def officer_refuses(lane: Core, event: ev.OfficerRefuses, now: Now) -> None:
    if _orders_this(lane, event):
        lane.answer(event.order, True)
        lane.guest.pretended = None
        send_back(lane, now)


def officer_retries(lane: Core, event: ev.OfficerRetries, now: Now) -> None:
    if not _orders_this(lane, event):
        return
    traveller = lane.guest.evidence.traveller
    able = traveller is not None and lane.gate.severity() < Severity.FINISH_THEN_CLOSE and lane.gate.shut()
    alone = not lane.enclosed or (lane.gate.persons == 1 and not lane.guest.crowded and not from_far(lane))
    lane.answer(event.order, able and alone, "" if able and alone else "lane_cannot")
    if able and alone:
        lane.guest.tries, lane.guest.pretended = 0, None
        evidence = lane.guest.evidence
        earlier = (*evidence.earlier, *evidence.fingers)
        lane.note(face=None, fingers=(), earlier=earlier, flags=frozenset())
        match(lane, now)


def _orders_this(lane: Core, event: ev.TicketOrder) -> bool:
    if event.ticket == lane.guest.ticket:
        return True
    lane.answer(event.order, False, "other_ticket")
    return False


def if_called(order: Handler) -> Handler:
    """An officer who was called while the lane seems to go on (L8) need not wait for its end."""

    def either(lane: Core, event: ev.TicketOrder, now: Now) -> None:
        (not_now if lane.guest.pretended is None else order)(lane, event, now)

    return either


def referred_passed(lane: Core, event: ev.PersonPassed, now: Now) -> None:
    """Whoever the officer was called for may not be who is inside now: everybody goes out again."""
    against_the_way(lane, event, now)
    far = lane.gate.leaves[lane.guest.far]
    if event.door is lane.guest.near or (far.open and not event.inward):
        send_back(lane, now)


def referred_presence(lane: Core, event: ev.PresenceChanged, now: Now) -> None:
    if event.persons > 1:
        lane.guest.crowded = True
        lane.alarm(AlarmCode.TWO_PERSONS)


def officer_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    lane.alarm(AlarmCode.OFFICER_UNREACHABLE)
    send_back(lane, now)


def return_door_closed(lane: Core, event: ev.DoorClosed, now: Now) -> None:
    if event.door is lane.guest.far:
        open_near(lane)


def return_passed(lane: Core, event: ev.PersonPassed, now: Now) -> None:
    guest = lane.guest
    if event.door is guest.far and event.inward:
        against_the_way(lane, event, now)
        send_back(lane, now)
    elif event.door is guest.far:
        against_the_way(lane, event, now) if not guest.exit_open else count(lane, event)
        _returned(lane, now)
    elif event.inward:
        guest.entered += 1
    else:
        guest.left += 1
        _returned(lane, now)


def return_presence(lane: Core, _: ev.PresenceChanged, now: Now) -> None:
    _returned(lane, now)


def _returned(lane: Core, now: Now) -> None:
    guest = lane.guest
    leaf = lane.gate.leaves[guest.near]
    gone = not lane.gate.persons and guest.left + guest.passed >= guest.entered
    if gone and (guest.passed or (leaf.open and not leaf.blocked)):
        clear(lane, now)


def return_blocked(lane: Core, event: ev.DoorwayBlocked, now: Now) -> None:
    """Somebody is in the far doorway before its leaf shut: the passenger after all, or one from behind the border."""
    guest = lane.guest
    if event.door is guest.far and guest.exit_open and not lane.shut(guest.far):
        guest.blind = True
        send_back(lane, now)


def return_cleared(lane: Core, _: ev.DoorwayCleared, now: Now) -> None:
    _returned(lane, now)


def return_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    """Still inside: call again, and again. By all sensors empty: the count of heads was wrong."""
    near = lane.gate.leaves[lane.guest.near]
    if near.open and not near.blocked and not lane.gate.persons:
        clear(lane, now)
        return
    if near.requested and near.open is False:
        stuck(lane, lane.guest.near)
    lane.alarm(AlarmCode.STAYED_TOO_LONG, "returning")
    lane.call_officer("did_not_leave")
    lane.goto(State.RETURNING, now)
    open_near(lane)


def unless_stayed(overdue: Handler) -> Handler:
    """The longest stay comes before the state's own dwell: whoever is held that long comes out."""

    def either(lane: Core, event: ev.Deadline, now: Now) -> None:
        if not lane.stayed_too_long(now):
            overdue(lane, event, now)
            return
        lane.alarm(AlarmCode.STAYED_TOO_LONG, lane.state.value)
        lane.call_officer("stayed_too_long")
        if lane.guest.kind is Kind.PASSENGER or lane.guest.near in lane.entries():
            go_back(lane, now)
        else:
            lane.gate.inside_since = now.mono  # or the deadline stays in the past, and nothing else is heard again
            overdue(lane, event, now)

    return either
