"""Attacks on a lane, each by its name: what somebody with a screwdriver, an accomplice and a quiet night would try."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gated.icao.check import Check
from gated.icao.mrz import Document
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import AlarmCode, Command, PromptCode
from gated.lane.core import State
from gated.lane.events import Device, Door
from gated.lane.evidence import Decision
from gated.lane.settings import Topology
from tests.invariants import reach as find
from tests.play import DOCUMENT, OTHER, TRAVELLER, UNSEEN_S, Play
from tests.reach import gate_again, reach

IN, OUT = True, False


def bounded_wait(play: Play, seconds: float, deadlines_max: int = 200) -> None:
    """As `Play.wait`, but a lane that wants its deadline again and again at one moment fails instead of hanging."""
    end = play.mono + seconds
    for _ in range(deadlines_max):
        due = play.lane.deadline
        if due is None or due > end:
            break
        step = max(0.0, due - play.mono)
        play.mono += step
        play.utc += timedelta(seconds=step)
        play.do(ev.Deadline())
    else:
        raise AssertionError(f"{deadlines_max} deadlines within {seconds} s: the lane spins in {play.state}")
    play.wait(end - play.mono)


def exit_opens(play: Play) -> None:
    assert play.at(State.RELEASING) and play.requested() == {Door.B}
    play.wait(0.5)
    play.do(ev.DoorOpened(Door.B))


# -- the far side: whoever comes in by the exit never leaves by the entry --------------------------------------


def test_an_accomplice_who_slips_in_as_the_exit_shuts_is_not_let_out_to_the_entry_side() -> None:
    """The passenger stays until the exit is given up; somebody runs in from behind the border as it shuts."""
    play = Play()
    play.inside()
    exit_opens(play)
    play.wait(play.lane.timing.release_s)
    assert play.at(State.RETURNING)
    play.do(ev.DoorwayBlocked(Door.B), ev.PersonPassed(Door.B, IN), ev.DoorwayCleared(Door.B), ev.PresenceChanged(2))
    play.wait(1.0)
    play.do(ev.DoorClosed(Door.B))
    play.wait(60.0)
    assert play.log.count(RequestA) == 1, "for the passenger at the beginning, and never again"
    assert play.requested() == {Door.B}, "and they are not locked in"


RequestA = cmd.RequestOpen(Door.A)


@pytest.mark.parametrize("seen_by", ["beams", "presence"])
def test_a_swap_in_the_exits_doorway_is_not_let_out_to_the_entry_side(seen_by: str) -> None:
    """The passenger and somebody from behind the border change places; the barriers cannot tell who went where."""
    play = Play()
    play.inside()
    exit_opens(play)
    entry_opened = play.log.count(RequestA)
    if seen_by == "beams":
        play.do(ev.DoorwayBlocked(Door.B), ev.DoorwayCleared(Door.B))
    else:
        play.do(ev.PresenceChanged(0), ev.PresenceChanged(1))
    play.wait(3 * play.lane.timing.release_s)
    assert play.log.count(RequestA) == entry_opened, "whoever is inside may have come from behind the border"
    assert play.requested() == {Door.B} and play.all(cmd.CallOfficer)
    play.leave(Door.B)
    assert play.settled() == [(1, "crossed")]


def test_somebody_who_came_in_by_the_exit_and_hides_is_not_taken_for_one_from_the_entry_side() -> None:
    """In by the exit behind the passenger's back, crouch until the lane thinks itself empty, stand up."""
    play = Play()
    play.inside()
    exit_opens(play)
    play.do(ev.PersonPassed(Door.B, OUT), ev.PresenceChanged(0))
    play.do(ev.PersonPassed(Door.B, IN), ev.PresenceChanged(1), ev.PresenceChanged(0), ev.DoorClosed(Door.B))
    assert play.at(State.IDLE)
    play.wait(30.0)
    play.do(ev.PresenceChanged(1))
    assert play.requested() == {Door.B}


def test_somebody_whom_the_barriers_missed_came_by_the_only_open_leaf() -> None:
    play = Play()
    play.inside()
    exit_opens(play)
    play.do(ev.PersonPassed(Door.B, OUT), ev.PresenceChanged(0))
    play.do(ev.DoorwayBlocked(Door.B), ev.PresenceChanged(1), ev.DoorwayCleared(Door.B), ev.DoorClosed(Door.B))
    play.wait(play.lane.timing.clear_s)
    assert play.at(State.RETURNING) and play.requested() == {Door.B}


def test_in_a_bidirectional_lane_a_hidden_person_is_let_out_to_where_they_came_from() -> None:
    """From B with a document that is not theirs, hide until it is given up, stand up: side A would be a crossing."""
    play = Play(Topology.BIDIRECTIONAL)
    play.present(side=Door.B)
    play.do(ev.DoorOpened(Door.B), ev.PresenceChanged(1), ev.PersonPassed(Door.B, IN), ev.PresenceChanged(0))
    play.do(ev.DoorClosed(Door.B))
    play.wait(play.lane.timing.enclose_s + play.lane.timing.officer_s)
    play.do(ev.DoorOpened(Door.B))
    play.wait(play.lane.timing.return_s)
    play.do(ev.DoorClosed(Door.B))
    assert play.at(State.IDLE)
    play.do(ev.PresenceChanged(1))
    assert play.requested() == {Door.B}


def test_nobody_is_let_out_to_where_the_passenger_before_them_came_from() -> None:
    """Found by the soak (seed 3023): a contact that lied, somebody walked in, and left by the other side."""
    play = Play(Topology.BIDIRECTIONAL)
    play.present(side=Door.B)
    play.enter(Door.B)
    play.leave(Door.A)
    assert play.settled() == [(1, "crossed")]
    play.do(ev.PresenceChanged(1))
    assert play.requested() == {Door.A}


@pytest.mark.parametrize("door", Door)
def test_a_stranger_whom_the_barriers_saw_after_the_presence_sensors_goes_back_that_way(door: Door) -> None:
    """Presence tells first, and the barriers only once the doorway is free: by then the ticket has another side."""
    play = Play(Topology.BIDIRECTIONAL)
    play.answers[cmd.Record] = None
    play.do(ev.CloseLane("c", "hq"), ev.DeviceLost(Device.DOOR, "pins_gone"))
    play.do(*(ev.DoorOpened(door) if each is door else ev.DoorClosed(each) for each in Door))
    play.do(ev.DeviceReady(Device.DOOR), ev.PresenceChanged(1), ev.PersonPassed(door, IN), ev.DoorClosed(door))
    record = play.all(cmd.Record)[-1]
    assert record.came_from is door
    play.do(ev.Recorded(record.ticket, record.ask))
    assert play.requested() == {door}


@pytest.mark.parametrize("before", [True, False])
def test_hands_in_the_barriers_of_a_shut_exit_do_not_open_it_for_a_stranger(before: bool) -> None:
    """One is inside without a ticket; an accomplice behind the border plays somebody who comes in there."""
    play = Play()
    hands = ev.PersonPassed(Door.B, IN)
    play.do(*([hands, ev.PresenceChanged(1)] if before else [ev.PresenceChanged(1), hands]))
    assert play.requested() == {Door.A}
    slow = Play()
    slow.answers[cmd.Record] = None
    slow.do(ev.PresenceChanged(1), hands)
    record = slow.all(cmd.Record)[-1]
    slow.do(ev.Recorded(record.ticket, record.ask))
    assert slow.requested() == {Door.A}


@pytest.mark.parametrize("state", [State.MATCHING, State.REFERRED])
def test_an_intruder_by_the_forced_exit_waits_for_an_officer(state: State) -> None:
    """Break in by the exit, and the lane would politely open the entry. An officer has his time first, also when
    somebody presses the help button; nobody is kept for longer than the longest stay."""
    play = reach(state)
    play.wait(2.0)
    play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, IN), ev.PresenceChanged(2), ev.DoorClosed(Door.B))
    assert AlarmCode.DOOR_FORCED in play.alarms()
    assert play.at(State.REFERRED) and play.requested() == set()
    play.do(ev.HelpPressed())
    assert play.at(State.REFERRED) and AlarmCode.HELP in play.alarms()
    play.wait(play.lane.timing.stay_s_max)
    assert play.at(State.RETURNING) and play.requested() == {Door.A}


def test_sensors_cut_while_the_exit_is_open_do_not_open_the_entry_for_whoever_is_inside_afterwards() -> None:
    play = Play()
    play.inside()
    exit_opens(play)
    entry_opened = play.log.count(RequestA)
    play.do(ev.DeviceLost(Device.DOOR, "pins_gone"))
    play.wait(5.0)
    gate_again(play, persons=1)
    play.wait(60.0)
    assert play.log.count(RequestA) == entry_opened
    assert play.requested() == {Door.B}


# -- substitution ----------------------------------------------------------------------------------------------


def test_two_abreast_whom_the_barriers_count_as_one_are_two() -> None:
    """Arm in arm through the barriers; behind them one crouches, and presence sees one person."""
    play = Play()
    play.present()
    play.do(ev.DoorOpened(Door.A), ev.DoorwayBlocked(Door.A), ev.PresenceChanged(1), ev.PresenceChanged(2))
    play.do(ev.PersonPassed(Door.A, IN), ev.DoorwayCleared(Door.A), ev.PresenceChanged(1), ev.DoorClosed(Door.A))
    assert AlarmCode.TWO_PERSONS in play.alarms()
    assert play.at(State.RETURNING) and play.requested() == {Door.A}


def test_whoever_hid_and_stands_up_before_the_exit_moved_keeps_it_shut() -> None:
    play = Play()
    play.inside()
    assert play.requested() == {Door.B}
    play.do(ev.PresenceChanged(2))
    assert play.at(State.REFERRED) and play.requested() == set()
    assert AlarmCode.TWO_PERSONS in play.alarms()


def test_no_other_try_for_two_of_whom_one_hides() -> None:
    """Both leaves were shut all the time: the second person did not dissolve."""
    play = Play()
    play.answers[cmd.CompareFace] = None
    play.inside()
    play.do(ev.PresenceChanged(2), ev.PresenceChanged(1))
    play.do(ev.OfficerRetries("o", "wu", 1))
    assert not play.accepted("o") and play.at(State.REFERRED)
    later = reach(State.REFERRED)
    later.do(ev.PresenceChanged(2), ev.PresenceChanged(1), ev.OfficerRetries("o", "wu", 1))
    assert not later.accepted("o") and AlarmCode.TWO_PERSONS in later.alarms()


def test_nobody_takes_a_referred_passengers_place_before_the_officers_order() -> None:
    """An accomplice holds the entry open; the passenger the officer saw goes out and another comes in."""
    play = reach(State.ENCLOSING)
    play.wait(play.lane.timing.enclose_s)
    assert play.at(State.REFERRED)
    play.do(ev.PersonPassed(Door.A, OUT), ev.PersonPassed(Door.A, IN), ev.DoorClosed(Door.A))
    play.do(ev.OfficerOpens("o", "wu", 1))
    assert not play.accepted("o") and Door.B not in play.requested()


def test_a_magnet_on_the_entrys_contact_is_not_a_shut_door() -> None:
    """The contact says closed all the time while the leaf stands open: nobody is enclosed behind it."""
    play = Play()
    play.present()
    play.do(ev.PersonPassed(Door.A, IN), ev.PresenceChanged(1))
    assert play.at(State.REFERRED) and play.all(cmd.CompareFace) == []
    assert AlarmCode.DOOR_STUCK in play.alarms()
    unseen = Play()
    unseen.present()
    unseen.do(ev.PresenceChanged(1))
    unseen.wait(unseen.lane.timing.admit_s)
    unseen.do(ev.PresenceChanged(1, True))
    assert unseen.at(State.REFERRED) and unseen.all(cmd.CompareFace) == []


def test_a_magnet_on_the_exits_contact_closes_the_lane() -> None:
    play = Play()
    play.inside()
    play.do(ev.PersonPassed(Door.B, OUT), ev.PresenceChanged(0))
    assert AlarmCode.DOOR_STUCK in play.alarms()
    assert play.settled() == [(1, "crossed")] and play.at(State.CLOSED)


def test_the_exit_of_a_single_lane_does_not_stand_open_for_ever() -> None:
    """Somebody walks in against the way while it is open for the passenger, who then goes away."""
    play = Play(Topology.SINGLE)
    play.inside()
    exit_opens(play)
    play.do(ev.PersonPassed(Door.B, IN))
    play.wait(play.lane.timing.release_s)
    assert play.requested() == set()


def test_an_aborted_clone_detection_is_not_one_that_does_not_exist() -> None:
    """A copied chip that falls silent when it is to prove that it is the original."""
    for result, state in ((Check.ABORTED, State.REFERRED), (Check.UNDETERMINED, State.REFERRED)):
        play = Play()
        play.answers[cmd.ReadChip] = lambda c, r=result: ev.ChipRead(  # type: ignore[misc]
            c.ticket, c.ask, Check.SUCCESSFUL, Check.SUCCESSFUL, r
        )
        play.inside()
        assert play.all(cmd.Record)[-1].verdict.reason == "chip_is_genuine"
        play.wait(UNSEEN_S)
        assert play.at(state)


# -- both leaves -----------------------------------------------------------------------------------------------


def test_the_exit_pulled_open_again_just_after_it_shut_is_forced() -> None:
    """Within the grace of a withdrawn request, and with the next passenger's document already down."""
    play = Play()
    play.inside()
    play.answers[cmd.ReadChip] = None
    play.present(OTHER)
    exit_opens(play)
    play.do(ev.PersonPassed(Door.B, OUT), ev.PresenceChanged(0))
    play.wait(1.0)
    play.do(ev.DoorClosed(Door.B))
    assert play.at(State.CHECKING)
    play.wait(0.1)
    play.do(ev.DoorOpened(Door.B))
    ask = play.all(cmd.ReadChip)[-1]
    play.do(ev.ChipRead(ask.ticket, ask.ask, *[Check.NOT_SUPPORTED] * 3))
    assert AlarmCode.DOOR_FORCED in play.alarms()
    assert Door.A not in play.requested(), "both leaves would be open"


def test_the_entry_pulled_open_just_after_it_shut_is_forced() -> None:
    play = reach(State.ENCLOSING)
    play.answers[cmd.CompareFace] = None
    play.wait(0.8)
    play.do(ev.DoorClosed(Door.A))
    assert play.at(State.MATCHING)
    play.wait(0.2)
    play.do(ev.DoorOpened(Door.A))
    assert play.at(State.STOPPED) and AlarmCode.DOOR_FORCED in play.alarms()


def test_an_exit_that_was_held_shut_and_let_go_does_not_open_beside_the_entry() -> None:
    """Lean against the exit until the entry is asked for instead, then pull: never within any grace."""
    play = Play()
    play.inside()
    play.wait(play.lane.timing.release_s)
    assert play.at(State.RETURNING) and play.requested() == {Door.A}
    play.wait(0.3)
    play.do(ev.DoorOpened(Door.B))
    assert play.requested() == set() and AlarmCode.DOOR_FORCED in play.alarms()


@pytest.mark.parametrize("event", [ev.PresenceChanged(1), ev.PresenceChanged(0, True)])
def test_the_entry_does_not_open_onto_a_lane_that_is_not_empty(event: ev.Event) -> None:
    play = Play()
    play.answers[cmd.ReadChip] = None
    play.present()
    ask = play.all(cmd.ReadChip)[-1]
    play.do(event, ev.ChipRead(ask.ticket, ask.ask, *[Check.NOT_SUPPORTED] * 3))
    assert play.at(State.REFUSED) and play.requested() == set()


def test_a_service_door_does_not_open_beside_one_that_was_opened_by_hand() -> None:
    play = reach(State.SERVICE)
    play.answers[cmd.Record] = None
    play.do(ev.ServiceDoor("d1", "lin", Door.B, True), ev.DoorOpened(Door.A))
    record = play.all(cmd.Record)[-1]
    play.do(ev.Recorded(record.ticket, record.ask))
    assert play.requested() == set() and not play.accepted("d1")
    beside = reach(State.SERVICE)
    beside.do(ev.ServiceDoor("d1", "lin", Door.B, True), ev.DoorOpened(Door.B), ev.DoorOpened(Door.A))
    assert beside.requested() == set()


# -- people come out -------------------------------------------------------------------------------------------


def test_a_stranger_from_the_far_side_on_a_dead_disk_does_not_make_the_lane_spin() -> None:
    """Beyond the longest stay the deadline lay in the past for ever: no other event was heard again."""
    play = Play(start=False)
    play.answers[cmd.Record] = None
    play.do(ev.Started(8, (7,), came_from=Door.B))
    gate_again(play, persons=1)
    bounded_wait(play, play.lane.timing.stay_s_max * 2 + 1)
    assert play.alarms().count(AlarmCode.STAYED_TOO_LONG) == 2
    record = play.all(cmd.Record)[-1]
    play.do(ev.Recorded(record.ticket, record.ask))
    assert play.requested() == {Door.B}


def test_a_technician_who_worked_inside_comes_out_after_service() -> None:
    """In by the exit, a long while inside, service off: the record's answer must find somebody who listens."""
    play = reach(State.SERVICE)
    play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, IN), ev.PresenceChanged(1), ev.DoorClosed(Door.B))
    play.wait(play.lane.timing.stay_s_max * 5)
    play.answers[cmd.Record] = None
    play.do(ev.ServiceOff("s1", "lin"))
    bounded_wait(play, 0.0)
    record = play.all(cmd.Record)[-1]
    play.do(ev.Recorded(record.ticket, record.ask))
    assert play.requested() == {Door.B}


def test_somebody_inside_after_a_fire_with_the_sensors_gone_is_called_for_again_and_again() -> None:
    play = reach(State.MATCHING)
    play.do(ev.FireStarted(), ev.DoorOpened(Door.A), ev.FireEnded(), ev.DeviceLost(Device.DOOR, "burnt"))
    calls = len(play.all(cmd.CallOfficer))
    play.wait(300.0)
    assert len(play.all(cmd.CallOfficer)) > calls + 5
    assert AlarmCode.STAYED_TOO_LONG in play.alarms()


def test_somebody_whom_the_leaves_shut_in_before_the_fire_was_over_comes_out() -> None:
    """The chain lets the leaves go a moment before its input falls: no leaf moves any more afterwards."""
    play = reach(State.MATCHING)
    play.do(ev.FireStarted(), ev.DoorOpened(Door.A), ev.DoorOpened(Door.B))
    play.do(ev.DoorClosed(Door.A), ev.DoorClosed(Door.B), ev.FireEnded())
    assert play.at(State.RETURNING) and play.requested() == {Door.A}


def test_movement_behind_the_exit_does_not_take_the_entry_from_somebody_in_its_doorway() -> None:
    play = reach(State.ENCLOSING)
    play.do(ev.DoorwayBlocked(Door.A))
    assert play.requested() == {Door.A}
    play.do(ev.DoorwayBlocked(Door.B), ev.DoorwayCleared(Door.B))
    assert play.requested() == {Door.A}


def test_whoever_walks_out_of_an_entry_that_did_not_shut_is_not_waited_for() -> None:
    play = reach(State.ENCLOSING)
    play.wait(play.lane.timing.enclose_s)
    play.do(ev.PersonPassed(Door.A, OUT), ev.PresenceChanged(0))
    play.wait(1.0)
    play.do(ev.DoorClosed(Door.A))
    play.wait(5.0)
    assert play.settled() == [(1, "not_crossed")] and play.lane.passage is None


def test_the_entry_is_not_called_stuck_while_it_was_not_asked_to_open() -> None:
    """Somebody stands in the exit's doorway: its leaf does not shut, and that is not the entry's fault."""
    play = Play()
    play.inside()
    exit_opens(play)
    play.wait(play.lane.timing.release_s + play.lane.timing.return_s)
    assert not play.lane.gate.leaves[Door.A].stuck


# -- records say what was seen ---------------------------------------------------------------------------------


def test_whoever_leaves_by_a_forced_exit_has_crossed() -> None:
    play = reach(State.MATCHING)
    play.wait(2.0)
    play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, OUT), ev.PresenceChanged(0), ev.DoorClosed(Door.B))
    assert play.settled() == [(1, "crossed")]


@pytest.mark.parametrize("how", ["forced", "fire", "lost"])
def test_whoever_crosses_without_a_verdict_is_known_by_name(how: str) -> None:
    """Break out before the gate has made up its mind: the record that says who it was must exist all the same."""
    play = reach(State.MATCHING)
    play.wait(2.0)
    if how == "fire":
        play.do(ev.FireStarted())
    elif how == "forced":
        play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, OUT), ev.PresenceChanged(0), ev.DoorClosed(Door.B))
    else:
        play.do(ev.DeviceLost(Device.DOOR, "pins_gone"))
        gate_again(play, persons=0)
    (record,) = play.all(cmd.Record)
    assert (record.ticket, record.verdict.decision) == (1, Decision.REFER)
    assert record.evidence.document == DOCUMENT
    assert play.log.index(record) < play.log.index(play.all(cmd.Settle)[0])


def test_somebody_out_by_the_forced_exit_is_not_said_to_be_the_passenger_outside() -> None:
    """Nobody knows who it was: in front of a single lane anybody may stand, into a mantrap nobody had come yet."""
    for topology, outcome in ((Topology.SINGLE, "unresolved"), (Topology.MANTRAP, "not_crossed")):
        play = reach(State.CHECKING, topology)
        play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, OUT), ev.DoorClosed(Door.B))
        assert play.settled() == [(1, outcome)]


def test_whoever_is_seen_to_leave_while_the_entry_is_forced_has_crossed() -> None:
    play = Play()
    play.inside()
    exit_opens(play)
    play.wait(2.0)
    play.do(ev.DoorOpened(Door.A), ev.PersonPassed(Door.B, OUT), ev.PresenceChanged(0))
    play.do(ev.DoorClosed(Door.A), ev.DoorClosed(Door.B))
    assert play.settled() == [(1, "crossed")]


def test_whoever_vanished_while_nobody_could_look_is_unresolved() -> None:
    play = reach(State.MATCHING)
    play.do(ev.DeviceLost(Device.DOOR, "pins_gone"))
    gate_again(play, persons=0)
    assert play.settled() == [(1, "unresolved")]


@pytest.mark.parametrize("topology", Topology)
def test_whoever_was_let_out_while_nobody_could_look_is_unresolved(topology: Topology) -> None:
    play = Play(topology)
    play.inside()
    exit_opens(play)
    play.do(ev.DeviceLost(Device.DOOR, "pins_gone"))
    gate_again(play, persons=0)
    assert play.settled() == [(1, "unresolved")]


@pytest.mark.parametrize("state", [State.MATCHING, State.RECORDING])
def test_hands_in_the_barriers_of_a_shut_exit_are_no_crossing(state: State) -> None:
    """The passenger reaches into the inner barrier, an accomplice outside into the outer: a record of leaving the
    country for somebody who stays."""
    play = reach(state)
    play.do(ev.PersonPassed(Door.B, OUT))
    assert play.at(State.REFERRED)
    play.do(ev.OfficerRefuses("o", "wu", 1))
    play.leave(Door.A)
    assert [outcome for _, outcome in play.settled()] != ["crossed"]


def test_hands_in_the_barriers_of_the_open_exit_are_no_proof_of_a_crossing() -> None:
    """One was inside and one still is: the count and the barriers contradict each other."""
    play = Play()
    play.inside()
    exit_opens(play)
    play.do(ev.PersonPassed(Door.B, OUT), ev.DoorClosed(Door.B))
    play.wait(play.lane.timing.clear_s)
    assert play.settled()[0] == (1, "unresolved")
    assert AlarmCode.LEFT_INSIDE in play.alarms()


def test_a_stranger_who_breaks_through_is_not_said_to_have_stayed() -> None:
    play = Play()
    play.do(ev.PresenceChanged(1))
    assert play.requested() == {Door.A}
    play.wait(2.0)
    play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, OUT), ev.PresenceChanged(0), ev.DoorClosed(Door.B))
    assert play.settled() == [(1, "unresolved")]


def test_whoever_came_in_by_the_exit_and_goes_again_is_no_second_passenger() -> None:
    play = Play()
    play.inside()
    exit_opens(play)
    play.do(ev.PersonPassed(Door.B, IN), ev.PresenceChanged(2), ev.PersonPassed(Door.B, OUT))
    play.do(ev.PersonPassed(Door.B, OUT), ev.PresenceChanged(0), ev.DoorClosed(Door.B))
    assert AlarmCode.TAILGATE not in play.alarms()
    assert [(s.outcome.value, s.persons) for s in play.all(cmd.Settle)] == [("crossed", 1)]


def test_an_order_that_was_overtaken_is_answered_and_never_taken_for_carried_out() -> None:
    play = reach(State.REFERRED)
    play.answers[cmd.Record] = None
    play.do(ev.OfficerOpens("o1", "wu", 1), ev.PresenceChanged(2))
    assert play.at(State.REFERRED)
    assert [(a.order, a.accepted) for a in play.all(cmd.Answer)] == [("o1", False)]
    play.do(ev.OfficerOpens("o2", "wu", 1))
    record = play.all(cmd.Record)[-1]
    play.do(ev.Recorded(record.ticket, record.ask))
    assert [(a.order, a.accepted) for a in play.all(cmd.Answer)] == [("o1", False), ("o2", True)]


def test_a_taped_barrier_at_the_exit_is_told() -> None:
    """Every passage would end unresolved, and nobody would know why."""
    play = Play()
    play.do(ev.DoorwayBlocked(Door.B))
    play.inside()
    assert play.at(State.RELEASING) and AlarmCode.OBSTACLE in play.alarms()


# -- silence ---------------------------------------------------------------------------------------------------


def seen_and_when(
    play: Play, traveller: ev.Traveller, score: float, flags: frozenset[str]
) -> list[tuple[float, Command]]:
    """What a passenger can see, hear and time: from the entry shut behind them until they are out again."""
    kinds = (cmd.Prompt, cmd.Indicate, cmd.RequestOpen, cmd.WithdrawOpen)
    play.traveller, play.score = traveller, score
    asked: list[tuple[float, cmd.CompareFace]] = []

    def ask(command: cmd.CompareFace) -> None:
        # A matching face answers at once, a weak one when its time is over: the matcher waits for a better frame.
        asked.append((play.mono + (command.within_s if command.whole or score <= 0.4 else 0.0), command))

    play.answers[cmd.CompareFace] = ask
    play.answers[cmd.ReadFlags] = lambda c: ev.FlagsRead(c.ticket, c.ask, flags)
    play.present()
    if play.lane.enclosed:
        play.enter()
    mark, began = len(play.log), play.mono
    found: list[tuple[float, Command]] = []
    for _ in range(900):
        if asked and play.mono >= asked[0][0] - 0.01:
            play.do(play._face(asked.pop(0)[1]))
        found += [(round(play.mono - began, 1), c) for c in play.log[mark:] if isinstance(c, kinds)]
        mark = len(play.log)
        play.wait(0.1)
    return found


@pytest.mark.parametrize("uplink", [True, False])
@pytest.mark.parametrize("topology", Topology)
def test_a_control_cannot_be_told_from_a_weak_face_by_a_watch(topology: Topology, uplink: bool) -> None:
    """L8: whoever is sought is not referred at once after their face was found, but when a weak face is; and where no
    officer comes they go out again when a weak face does."""
    weak, sought = Play(topology), Play(topology)
    if not uplink:
        weak.do(ev.UplinkLost())
        sought.do(ev.UplinkLost())
    found = seen_and_when(weak, TRAVELLER, 0.1, frozenset())
    assert seen_and_when(sought, TRAVELLER, 0.7, frozenset({"wanted"})) == found
    assert PromptCode.SEE_OFFICER in [c.code for _, c in found if isinstance(c, cmd.Prompt)]
    assert found[-1][0] > 20.0


def test_the_officer_hears_of_a_control_at_once_and_can_act_before_the_passenger_knows() -> None:
    play = Play()
    play.answers[cmd.ReadFlags] = lambda c: ev.FlagsRead(c.ticket, c.ask, frozenset({"wanted"}))
    play.inside()
    assert play.all(cmd.CallOfficer)[-1].reason == "holder_is_not_flagged"
    assert play.all(cmd.Record)[-1].verdict.decision is Decision.REFER
    assert PromptCode.SEE_OFFICER not in [p.code for p in play.all(cmd.Prompt)]
    play.do(ev.OfficerOpens("o", "wu", 1))
    assert play.accepted("o") and play.at(State.RELEASING)
    play.wait(12.0)
    assert PromptCode.SEE_OFFICER not in [p.code for p in play.all(cmd.Prompt)]


# -- nothing stays ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["closed", "stopped", "fire", "service", "long"])
def test_a_document_that_waited_does_not_outlive_its_turn(end: str) -> None:
    play = Play()
    play.inside()
    if end == "closed":
        play.do(ev.CloseLane("c", "hq"))
    play.present(OTHER)
    if end == "long":
        play.wait(3 * play.lane.timing.waiting_s_max)
    elif end == "stopped":
        play.do(ev.DeviceLost(Device.DOOR, "pins_gone"))
        play.wait(play.lane.timing.waiting_s_max)
        gate_again(play)
    elif end == "fire":
        play.do(ev.FireStarted(), ev.FireEnded())
    else:
        play.leave()
    if end == "service":
        play.do(ev.ServiceOn("s", "lin"))
    kept = find(vars(play.lane), (Document,))
    served = play.lane.passage is not None and play.lane.passage.document is not None
    assert kept == (["Document"] if served else []), kept
    assert play.lane.waiting is None or play.at(State.CHECKING)


# -- nothing needs a person where nothing is wrong -------------------------------------------------------------


def test_a_disk_that_was_only_slow_does_not_close_the_lane_for_the_night() -> None:
    play = Play(Topology.SINGLE)
    play.answers[cmd.Record] = None
    play.inside()
    play.wait(play.lane.timing.record_s)
    play.do(ev.OfficerRefuses("o", "wu", 1))
    assert play.at(State.CLOSED)
    record = play.all(cmd.Record)[-1]
    play.do(ev.Recorded(record.ticket, record.ask))
    assert play.at(State.IDLE)


def test_the_entry_whose_doorway_cleared_after_it_shut_is_shut() -> None:
    play = reach(State.ENCLOSING)
    play.do(ev.DoorwayBlocked(Door.A), ev.DoorClosed(Door.A), ev.DoorwayCleared(Door.A))
    play.wait(play.lane.timing.enclose_s)
    assert play.at(State.RELEASING)


def test_an_empty_lane_does_not_hold_its_exit_open_for_a_stranger_who_left_unseen() -> None:
    play = Play()
    play.inside()
    exit_opens(play)
    play.do(ev.PersonPassed(Door.B, IN), ev.PresenceChanged(2), ev.DoorwayBlocked(Door.B), ev.PresenceChanged(0))
    play.wait(play.lane.timing.release_s)
    play.do(ev.DoorwayCleared(Door.B), ev.DoorClosed(Door.B))
    play.wait(60.0)
    assert play.at(State.IDLE) and play.settled() == [(1, "unresolved")]


def test_a_passenger_who_leaves_late_is_not_waited_for() -> None:
    """Out by the exit as it was already given up: nobody is inside for whom the entry should open."""
    play = Play()
    play.inside()
    exit_opens(play)
    play.wait(play.lane.timing.release_s)
    opened = play.log.count(RequestA)
    play.do(ev.PresenceChanged(0), ev.PersonPassed(Door.B, OUT), ev.DoorClosed(Door.B))
    assert play.at(State.IDLE) and play.settled() == [(1, "crossed")]
    assert play.log.count(RequestA) == opened


def test_replayed_and_stale_answers_open_nothing() -> None:
    play = Play()
    play.answers[cmd.Record] = None
    play.inside()
    record = play.all(cmd.Record)[-1]
    play.do(ev.HelpPressed(), ev.Recorded(record.ticket, record.ask), ev.Recorded(record.ticket, record.ask))
    assert Door.B not in play.requested()


def test_document_of_one_and_face_of_another_across_two_tickets() -> None:
    """The answer to the first ticket's comparison is no answer to the second's."""
    play = Play()
    play.answers[cmd.CompareFace] = None
    play.inside()
    first = play.all(cmd.CompareFace)[-1]
    play.do(ev.HelpPressed())
    play.leave(Door.A)
    play.present(replace(DOCUMENT, number="300000009"))
    play.enter()
    assert play.at(State.MATCHING)
    play.do(play._face(first))
    assert play.at(State.MATCHING) and play.lane.guest.evidence.face is None
