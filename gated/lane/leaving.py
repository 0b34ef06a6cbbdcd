"""Rows of a passenger going out: the record, then the door, then a shut and empty lane. No I/O, no clock."""

from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import AlarmCode, PromptCode
from gated.lane.core import Core, State
from gated.lane.events import Device, Event, Now
from gated.lane.evidence import Decision
from gated.lane.moves import against_the_way, clear, cleared, finish, from_far, record_release, refer, send_back, stuck
from gated.lane.passage import Kind


def recorded(lane: Core, _: ev.Recorded, now: Now) -> None:
    """The verdict will survive a power cut: now, and not before, the leaf may open."""
    guest = lane.guest
    if guest.kind is Kind.STRANGER:
        guest.let_out = True
        send_back(lane, now)
    elif not lane.gate.shut():
        lane.answer(guest.order, False, "door_open")
        guest.order = None
        refer(lane, "door_open", now)
    else:
        lane.answer(guest.order, True)
        guest.order, guest.released, guest.granted = None, True, True
        keep_pictures(lane)
        guest.blind = lane.gate.leaves[guest.far].blocked
        if guest.blind and lane.enclosed:
            lane.alarm(AlarmCode.OBSTACLE, guest.far.value)  # nobody will be seen to pass there
        lane.goto(State.RELEASING, now)
        lane.request(guest.far)


def keep_pictures(lane: Core) -> None:
    """What the policy says of the verdict that is durable now."""
    guest = lane.guest
    evidence, traveller = guest.evidence, guest.evidence.traveller
    assert guest.verdict is not None, "something was recorded"
    category = traveller.category if traveller is not None else None
    kept = lane.rules.pictures(guest.verdict.decision.value, evidence.direction, category)
    for what, days in kept.items():
        lane.say(cmd.KeepPicture(guest.ticket, what, days, evidence.since_mono))


def referral_recorded(lane: Core, _: ev.Recorded, now: Now) -> None:
    """Whatever the passenger is told meanwhile (L8). A grant that the lane did not wait for opened nothing."""
    verdict = lane.guest.verdict
    if verdict is not None and verdict.decision is Decision.REFER:
        keep_pictures(lane)


def not_recorded(lane: Core, event: Event, now: Now) -> None:
    """No record, no door. A stranger is still let out to the entry side; to the exit side only once it is recorded."""
    guest = lane.guest
    lane.alarm(AlarmCode.NOT_RECORDED)
    lane.gate.lost.add(Device.STORE)
    if guest.kind is Kind.PASSENGER:
        lane.answer(guest.order, False, "not_recorded")
        guest.order = None
        refer(lane, "not_recorded", now)
    elif guest.near in lane.entries():
        send_back(lane, now)
    else:
        lane.call_officer("not_recorded")
        lane.wait(lane.timing.record_s, now)


def record_overdue(lane: Core, event: ev.Deadline, now: Now) -> None:
    guest = lane.guest
    if guest.kind is Kind.STRANGER and guest.near not in lane.entries():
        record_release(lane)
    not_recorded(lane, event, now)


def release_passed(lane: Core, event: ev.PersonPassed, now: Now) -> None:
    guest = lane.guest
    if event.door is guest.far and not event.inward:
        guest.passed += 1
        if lane.gate.leaves[guest.far].open is False:
            stuck(lane, guest.far)  # its contact lies
        clear(lane, now)
    else:
        against_the_way(lane, event, now)


def release_doorway(lane: Core, event: ev.DoorwayBlocked, now: Now) -> None:
    """Somebody stands in the far doorway: unless they are seen to pass, it stays open whether they did."""
    if event.door is lane.guest.far:
        lane.guest.blind = True


def release_presence(lane: Core, event: ev.PresenceChanged, now: Now) -> None:
    """An empty lane and nobody seen to pass: the same. Two before the leaf moved: one of them hid."""
    guest = lane.guest
    if event.persons > 1:
        lane.alarm(AlarmCode.TWO_PERSONS)
        if not guest.exit_open:
            guest.crowded = True
            refer(lane, "two_persons", now)
            return
    guest.blind = guest.blind or event.persons != 1


def release_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    """The leaf never moved, or the passenger did not leave: shut the exit, and out the way they came; unless somebody
    may have come in by it, who is not let through to the entry side: then it stays open until they go."""
    guest = lane.guest
    if lane.gate.leaves[guest.far].open is False:
        stuck(lane, guest.far)
    lane.call_officer("did_not_leave")
    if guest.exit_open and not lane.gate.persons:
        clear(lane, now)
    elif lane.enclosed and from_far(lane) and lane.gate.leaves[guest.far].requested:
        lane.alarm(AlarmCode.STAYED_TOO_LONG, "releasing")
        lane.goto(State.RELEASING, now)
    else:
        send_back(lane, now)


def clear_look_again(lane: Core, _: Event, now: Now) -> None:
    cleared(lane, now)


def clear_passed(lane: Core, event: ev.PersonPassed, now: Now) -> None:
    guest = lane.guest
    if event.door is guest.far and not event.inward and guest.released:
        if guest.passed and guest.strangers:
            guest.strangers -= 1
            if not guest.strangers:
                lane.gate.stranger_from = guest.near
            return
        guest.passed += 1
        if guest.passed > 1:
            lane.alarm(AlarmCode.TAILGATE, str(guest.passed))
            lane.call_officer("tailgate")
    elif event.inward or event.door is guest.far:
        against_the_way(lane, event, now)
    else:
        guest.left += 1


def clear_presence(lane: Core, event: ev.PresenceChanged, now: Now) -> None:
    if event.thing and not event.persons:
        lane.say(cmd.Prompt(PromptCode.TAKE_BELONGINGS))
    cleared(lane, now)


def clear_blocked(lane: Core, event: ev.DoorwayBlocked, now: Now) -> None:
    """The gate's own chain never shuts a leaf on a person; the lane only asks them to step aside."""
    lane.say(cmd.Prompt(PromptCode.CLEAR_DOORWAY))


def clear_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    """Something is left inside, or a leaf did not shut. The passage itself is settled; the rest is an officer's."""
    for door, leaf in lane.gate.leaves.items():
        if leaf.open is not False:
            stuck(lane, door)
    if lane.gate.persons or lane.gate.thing:
        lane.guest.doubted = bool(lane.gate.persons) and not lane.guest.strangers
        lane.alarm(AlarmCode.LEFT_INSIDE, "person" if lane.gate.persons else "thing")
        lane.call_officer("left_inside")
    finish(lane, now)
