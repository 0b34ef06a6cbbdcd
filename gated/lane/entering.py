"""Rows of a passenger coming in: document, check, entry, alone behind a shut leaf. No I/O, no clock."""

from typing import Any

from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane import policy
from gated.lane.commands import AlarmCode, Outcome, PromptCode
from gated.lane.core import Core, State
from gated.lane.events import Device, Door, Now
from gated.lane.gate import Severity
from gated.lane.moves import (
    against_the_way,
    clear,
    finish,
    record_referral,
    refer,
    refuse,
    rest,
    send_back,
    stuck,
)
from gated.lane.proving import match, someone_passed_inside
from gated.lane.settings import BOTH, WAYS
from gated.lane.trouble import obstacle


def start(lane: Core, event: ev.Started, now: Now) -> None:
    lane._next_ticket = event.next_ticket
    lane.reset_needed = event.reset_needed
    lane.closed_by = "before_restart" if event.closed else None
    lane.gate.stranger_from = event.came_from
    # What was ordered before somebody made it a one-way lane, or by another release, would serve nobody for ever.
    lane.ordered_way = event.direction if event.direction in WAYS and lane.ways.direction == BOTH else None
    lane.turn(now)
    for ticket in event.unsettled:
        lane.alarm(AlarmCode.UNSETTLED, str(ticket))
        near = event.came_from or Door.A
        lane.say(cmd.Settle(ticket, Outcome.UNRESOLVED, None, 0, near, lane.ways.of(near)), cmd.Forget(ticket))
    if lane.gate.persons:
        lane.alarm(AlarmCode.OCCUPIED_AT_START)
    rest(lane, now)


def busy(lane: Core, event: ev.DocumentPresented, now: Now) -> None:
    """A second document while one passenger is served; the same one, read twice, is nothing."""
    if lane.passage is None:
        lane.say(cmd.Prompt(PromptCode.LANE_CLOSED, event.side))
    elif event.document != lane.passage.document:
        served = event.side in lane.serving
        lane.say(cmd.Prompt(PromptCode.ONE_AT_A_TIME if served else PromptCode.LANE_CLOSED, event.side))
        lane.waiting = (event, now.mono) if served else lane.waiting


def removed(lane: Core, event: ev.DocumentRemoved, now: Now) -> None:
    """Whoever waited with a document took it away."""
    if lane.waiting is not None and lane.waiting[0].side is event.side:
        lane.waiting = None


def unreadable(lane: Core, event: ev.DocumentUnreadable, now: Now) -> None:
    served = event.side in lane.serving
    lane.say(cmd.Prompt(PromptCode.DOCUMENT_UNREADABLE if served else PromptCode.LANE_CLOSED, event.side))
    lane.alarm(AlarmCode.DOCUMENT_MISREAD, event.why)


def check_chip(lane: Core, event: ev.ChipRead, now: Now) -> None:
    lane.note(chip=event)
    _checked(lane, now)


def check_found(lane: Core, event: ev.RecordFound, now: Now) -> None:
    reader = Device.FINGERPRINT in lane.devices - lane.gate.lost
    lane.note(traveller=event.traveller, document_flags=event.document_flags, cache=event.cache, finger_reader=reader)
    _checked(lane, now)


def check_no_record(lane: Core, event: ev.NoRecord, now: Now) -> None:
    lane.note(document_flags=event.document_flags, cache=event.cache)
    refuse(lane, "holder_is_enrolled", now)


def check_failed(lane: Core, event: ev.LookUpFailed, now: Now) -> None:
    refuse(lane, "look_up_failed", now)


def _checked(lane: Core, now: Now) -> None:
    """Both answers are there: the entry opens the same way for everybody who may try."""
    evidence = lane.guest.evidence
    if evidence.chip is None or evidence.traveller is None:
        return
    broken = policy.refusal(evidence, lane.rules)
    if broken is not None:
        refuse(lane, broken, now)
    elif not lane.gate.shut() or lane.gate.persons or lane.gate.severity() >= Severity.BLOCKS_ENTRY:
        refuse(lane, "lane_not_ready", now)
    elif not lane.enclosed:
        match(lane, now)
    else:
        lane.goto(State.ADMITTING, now)
        lane.request(lane.guest.near)


def check_removed(lane: Core, event: ev.DocumentRemoved, now: Now) -> None:
    """Taken away while it is still being read: the passenger begins again."""
    removed(lane, event, now)
    if event.side is lane.guest.near:
        lane.say(cmd.Prompt(PromptCode.LEAVE_DOCUMENT, event.side))
        finish(lane, now)


def check_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    refuse(lane, "check_overdue", now)


def refused_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    finish(lane, now)


def admit_passed(lane: Core, event: ev.PersonPassed, now: Now) -> None:
    guest = lane.guest
    if event.door is guest.near and event.inward:
        guest.entered += 1
        lane.withdraw(now)
        lane.goto(State.ENCLOSING, now)
    elif event.door is not guest.near:
        against_the_way(lane, event, now)
        clear(lane, now)
    if lane.state is State.ENCLOSING:
        _came_in(lane, now)


def admit_presence(lane: Core, event: ev.PresenceChanged, now: Now) -> None:
    if event.persons > 1:
        _two_persons(lane, now)


def _came_in(lane: Core, now: Now) -> None:
    """Two abreast are one for the barriers, and a leaf that was not seen to open does not shut behind anybody."""
    near = lane.gate.leaves[lane.guest.near]
    if near.open is False:
        if not near.stuck:
            stuck(lane, lane.guest.near)
        refer(lane, "not_enclosed", now)
    elif lane.gate.persons > 1:
        _two_persons(lane, now)


def admit_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    """Nobody came in, or the leaf never moved, or somebody came in unseen by the barriers."""
    near = lane.gate.leaves[lane.guest.near]
    if near.open is False:
        stuck(lane, lane.guest.near)
    lane.withdraw(now)
    if lane.gate.persons:
        lane.goto(State.ENCLOSING, now)
        _came_in(lane, now)
    else:
        clear(lane, now)


def enclose_passed(lane: Core, event: ev.PersonPassed, now: Now) -> None:
    guest = lane.guest
    if event.door is not guest.near:
        someone_passed_inside(lane, event, now)
    elif event.inward:
        guest.entered += 1
        if guest.entered - guest.left > 1:
            _two_persons(lane, now)
    else:
        guest.left += 1
        if guest.left >= guest.entered:
            clear(lane, now)


def _two_persons(lane: Core, now: Now) -> None:
    """L4: nobody passes together; everybody goes back out and begins again."""
    lane.alarm(AlarmCode.TWO_PERSONS)
    lane.say(cmd.Prompt(PromptCode.ONE_PERSON_ONLY))
    record_referral(lane, "two_persons")
    lane.call_officer("two_persons")
    send_back(lane, now)


def enclose_presence(lane: Core, event: ev.PresenceChanged, now: Now) -> None:
    if event.persons > 1:
        _two_persons(lane, now)
    else:
        _enclosed(lane, now)


def enclose_blocked(lane: Core, event: Any, now: Now) -> None:
    """Somebody stands in the doorway as it shuts: ask for it again; the dwell bounds how often."""
    near = lane.guest.near
    if event.door is near and not lane.shut(near) and not lane.gate.leaves[near].requested:
        lane.say(cmd.Prompt(PromptCode.CLEAR_DOORWAY))
        if lane.shut(near.other):
            lane.request(near)


def enclose_cleared(lane: Core, event: ev.DoorwayCleared, now: Now) -> None:
    if event.door is lane.guest.near:
        lane.withdraw(now, lane.guest.near)


def enclose_obstacle(lane: Core, event: ev.ObstacleHit, now: Now) -> None:
    obstacle(lane, event, now)
    enclose_blocked(lane, event, now)


def enclose_closed(lane: Core, _: ev.DoorClosed, now: Now) -> None:
    _enclosed(lane, now)


def _enclosed(lane: Core, now: Now) -> None:
    """One person, and the leaf behind them shut: from this moment on a face counts."""
    if not lane.gate.shut() or lane.gate.persons != 1:
        return
    if lane.gate.severity() >= Severity.FINISH_THEN_CLOSE:
        refer(lane, "lane_fault", now)
    else:
        match(lane, now)


def enclose_overdue(lane: Core, _: ev.Deadline, now: Now) -> None:
    """The leaf does not shut; or it did while it was asked for again, and then nothing else happened."""
    guest = lane.guest
    lane.withdraw(now)
    if lane.gate.leaves[guest.near].open:
        stuck(lane, guest.near)
    if lane.gate.shut() and lane.gate.persons == 1:
        _enclosed(lane, now)
    elif lane.gate.persons or guest.entered > guest.left:
        refer(lane, "not_enclosed", now)
    else:
        clear(lane, now)
