"""Moves that more than one row makes: rest, refuse, refer, send back, clear. No I/O, no clock."""

from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import AlarmCode, PromptCode
from gated.lane.core import Core, State
from gated.lane.events import Door, Event, Now
from gated.lane.evidence import Decision
from gated.lane.gate import Severity
from gated.lane.passage import Kind, Passage
from gated.lane.policy import document_is_not_flagged, holder_is_not_flagged

_CONTROLS = frozenset({document_is_not_flagged.__name__, holder_is_not_flagged.__name__})


def rest(lane: Core, now: Now) -> None:
    """Go where a lane without passenger belongs, by all that is observed."""
    assert lane.passage is None, "a passage is settled before the lane rests"
    gate = lane.gate
    if gate.fire:
        lane.reset_needed = True
        lane.goto(State.EMERGENCY, now)
    elif lane.reset_needed and not (gate.persons and gate.shut() and gate.severity() < Severity.STOP_NOW):
        if lane.state is not State.AFTER_FIRE:
            lane.goto(State.AFTER_FIRE, now)
    elif lane.service_by is not None:
        lane.goto(State.SERVICE, now)
    elif gate.severity() is Severity.STOP_NOW:
        lane.goto(State.STOPPED, now)
    elif gate.persons:
        let_out_stranger(lane, now)
    elif lane.closed_by is not None or gate.severity() > Severity.TOLERATED or not gate.shut():
        lane.goto(State.CLOSED, now)
    else:
        lane.goto(State.IDLE, now)
        _take_up(lane, now)


def _take_up(lane: Core, now: Now) -> None:
    """Serve the passenger who laid a document down meanwhile, if that was not too long ago."""
    waiting, lane.waiting = lane.waiting, None
    if waiting is not None and now.mono - waiting[1] <= lane.timing.waiting_s_max:
        present(lane, waiting[0], now)


def present(lane: Core, event: ev.DocumentPresented, now: Now) -> None:
    """A passenger begins: chip, look-up and camera start together."""
    lane.turn(now)
    if event.side not in lane.serving:
        lane.say(cmd.Prompt(PromptCode.LANE_CLOSED, event.side))
        return
    guest = lane.open_ticket(Kind.PASSENGER, event.side, now, event.document)
    lane.goto(State.CHECKING, now)
    lane.ask(cmd.ReadChip, event.document)
    lane.ask(cmd.LookUp, event.document)
    lane.say(cmd.Watch(guest.ticket, guest.near))


def let_out_stranger(lane: Core, now: Now) -> None:
    """Somebody is inside without a ticket: out the way they came, on a record of its own."""
    near = lane.gate.stranger_from or Door.A
    lane.alarm(AlarmCode.STRANGER_INSIDE, near.value)
    lane.open_ticket(Kind.STRANGER, near, now)
    record_release(lane)
    lane.call_officer("stranger_inside")
    lane.goto(State.RECORDING, now)


def record_release(lane: Core) -> None:
    lane.record(lane.verdict(Decision.RELEASE, "stranger_inside"))


def look_again(lane: Core, _: Event, now: Now) -> None:
    rest(lane, now)


def finish(lane: Core, now: Now) -> None:
    """Settle and rest. If all who came in were seen to go, the next stranger did not come with them."""
    lane.withdraw(now)
    guest = lane.guest
    gone = guest.left + guest.passed
    if lane.gate.stranger_from is guest.near and not guest.strangers and 0 < gone >= guest.entered:
        lane.gate.stranger_from = None
    lane.settle()
    rest(lane, now)


def refuse(lane: Core, reason: str, now: Now) -> None:
    """Not through this lane; the passenger in front of it is shown the way to an officer and not told why."""
    record_referral(lane, reason)
    lane.call_officer(reason)
    lane.goto(State.REFUSED, now)


def record_referral(lane: Core, reason: str) -> None:
    """Whoever was referred for a control stays so, whatever happens in the lane until they are gone; and while the lane
    only seems to go on, the record is made."""
    guest = lane.guest
    told = guest.verdict is not None and guest.verdict.reason in _CONTROLS
    if not told and guest.pretended is None:
        lane.record(lane.verdict(Decision.REFER, reason))


def refer(lane: Core, reason: str, now: Now) -> None:
    """To an officer; the passenger sees and hears what every referred passenger does."""
    guest = lane.guest
    lane.withdraw(now)
    lane.answer(guest.order, False, "overtaken")
    guest.order = None
    if guest.pretended is None:  # or the officer was called already, for what matters more than how it ended
        record_referral(lane, reason)
        lane.call_officer(reason)
        lane.alarm(AlarmCode.REFERRED)
    lane.goto(State.REFERRED, now)
    if not lane.gate.uplink:
        officer_offline(lane, now)


def officer_offline(lane: Core, now: Now) -> None:
    lane.alarm(AlarmCode.OFFICER_UNREACHABLE)
    due = now.mono + lane.timing.officer_offline_s
    lane._due = due if lane._due is None else min(lane._due, due)


def send_back(lane: Core, now: Now) -> None:
    """Out to where they came from. The far leaf is shut first: never both."""
    lane.withdraw(now)
    if not lane.enclosed:
        clear(lane, now)
        return
    guest = lane.guest
    if guest.kind is Kind.STRANGER and guest.near not in lane.entries() and not guest.let_out:
        # To the exit side nobody goes without a durable record, not even somebody who came from there.
        record_release(lane)
        lane.goto(State.RECORDING, now)
        return
    if lane.state is not State.REFERRED and from_far(lane):
        out_by_far(lane, now)
    else:
        go_back(lane, now)


def go_back(lane: Core, now: Now) -> None:
    """Out by the near leaf, whoever is inside."""
    lane.withdraw(now)
    lane.goto(State.RETURNING, now)
    open_near(lane)


def from_far(lane: Core) -> bool:
    """Whether somebody inside with a passenger may have come in by the far leaf: seen to, or in their place unseen."""
    guest = lane.guest
    if guest.kind is not Kind.PASSENGER:
        return False
    swapped = guest.exit_open and guest.blind
    return bool(guest.strangers) or swapped or lane.gate.stranger_from is guest.far


def out_by_far(lane: Core, now: Now) -> None:
    """Not to the entry side with somebody from behind the border: who was granted, and who came from there, go out
    by the far leaf. Where not all inside may, an officer says what becomes of them, for as long as anybody may stay."""
    guest = lane.guest
    if guest.granted and guest.entered - guest.left <= 1:
        lane.goto(State.RELEASING, now)
        if lane.shut(guest.near):
            lane.request(guest.far)
    else:
        refer(lane, "stranger_inside", now)


def open_near(lane: Core) -> None:
    near = lane.guest.near
    if lane.shut(near.other) and not lane.gate.leaves[near].requested:
        lane.request(near)


def clear(lane: Core, now: Now) -> None:
    """Everything is asked to shut; the ticket is settled once the lane is shut and empty."""
    lane.withdraw(now)
    lane.goto(State.CLEARING, now)
    cleared(lane, now)


def cleared(lane: Core, now: Now) -> None:
    if lane.gate.shut() and not lane.gate.persons and not lane.gate.thing:
        finish(lane, now)


def stuck(lane: Core, door: Door) -> None:
    lane.gate.leaves[door].stuck = True
    lane.alarm(AlarmCode.DOOR_STUCK, door.value)


def against_the_way(lane: Core, event: ev.PersonPassed, now: Now) -> None:
    """Somebody moved through a door where nobody should: officers look; the sensors say who is inside now."""
    code = AlarmCode.WRONG_WAY if event.door not in lane.entries() or lane.passage else AlarmCode.STRANGER_INSIDE
    lane.alarm(code, event.door.value)
    if lane.passage is not None:
        count(lane, event)
    lane.call_officer(code.value)


def count(lane: Core, event: ev.PersonPassed) -> None:
    """Note on the ticket who went through which leaf. Nobody passes a shut one, and where the passenger was not let
    out and is not known to be inside it may have been anybody: then it is open whether they crossed."""
    guest = lane.guest
    if event.door is guest.near:
        guest.entered += event.inward
        guest.left += not event.inward
    elif event.inward:
        guest.strangers += 1
    elif lane.gate.leaves[guest.far].open is not False and (_is_inside(guest) or guest.released):
        guest.passed += 1
    elif guest.entered or not lane.enclosed:
        guest.blind = True


def _is_inside(guest: Passage) -> bool:
    return guest.kind is Kind.STRANGER or guest.entered > guest.left


def nothing(lane: Core, event: Event, now: Now) -> None:
    """Observed, and nothing follows."""
