"""What the lane believes of its gate and its own parts, and what it must not conclude from it."""

import pytest

from gated.icao.check import Check
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import AlarmCode
from gated.lane.core import State
from gated.lane.events import Device, Door
from gated.lane.gate import SEVERITY, Fault, Severity
from gated.lane.settings import Topology
from tests.play import DEVICES, OTHER, TRAVELLER, UNSEEN_S, Play
from tests.reach import gate_again, reach


def test_how_bad_each_fault_is() -> None:
    """Written down a second time: to make one milder is a decision, not an edit."""
    assert {fault.value: severity.name for fault, severity in SEVERITY.items()} == {
        **dict.fromkeys(("chip", "fingerprint", "speaker", "display"), "TOLERATED"),
        **dict.fromkeys(("passport", "indicator", "mains", "stuck", "thing"), "BLOCKS_ENTRY"),
        **dict.fromkeys(("camera", "matcher", "cache", "store"), "FINISH_THEN_CLOSE"),
        **dict.fromkeys(("door", "forced"), "STOP_NOW"),
    }
    assert Severity.TOLERATED < Severity.BLOCKS_ENTRY < Severity.FINISH_THEN_CLOSE < Severity.STOP_NOW
    assert {fault.value for fault in Fault} >= {device.value for device in Device}


# -- leaves ----------------------------------------------------------------------------------------------------


def test_a_leaf_of_which_nothing_is_known_is_not_shut() -> None:
    play = Play(start=False)
    play.do(ev.Started(1), ev.DoorClosed(Door.A), *(ev.DeviceReady(device) for device in DEVICES))
    assert play.at(State.CLOSED)
    play.do(ev.DoorClosed(Door.B))
    assert play.at(State.IDLE)


def test_leaves_are_believed_afresh_after_the_gate_was_lost() -> None:
    play = Play()
    play.do(ev.DeviceLost(Device.DOOR, "pins_gone"), ev.DeviceReady(Device.DOOR))
    assert not play.at(State.IDLE), "it did not say where its leaves are"
    gate_again(play)
    assert play.at(State.IDLE)


def test_the_exit_does_not_open_while_the_entry_stands_open() -> None:
    """The entry was asked for once more as it shut, and follows late: it was not forced, but it is open."""
    play = Play()
    play.answers[cmd.Record] = None
    play.present()
    play.do(ev.DoorOpened(Door.A), ev.PersonPassed(Door.A, True), ev.DoorwayBlocked(Door.A), ev.DoorClosed(Door.A))
    play.do(ev.DoorwayCleared(Door.A), ev.PresenceChanged(1))
    assert play.at(State.RECORDING)
    record = play.all(cmd.Record)[-1]
    play.do(ev.DoorOpened(Door.A), ev.Recorded(record.ticket, record.ask))
    assert AlarmCode.DOOR_FORCED not in play.alarms()
    assert play.at(State.REFERRED) and play.requested() == set()


def test_who_stood_in_the_exit_before_it_opened_may_have_crossed() -> None:
    """A single lane has no presence sensors: the doorway alone tells."""
    play = Play(Topology.SINGLE)
    play.answers[cmd.Record] = None
    play.inside()
    play.do(ev.DoorwayBlocked(Door.B))
    record = play.all(cmd.Record)[-1]
    play.do(ev.Recorded(record.ticket, record.ask), ev.DoorOpened(Door.B), ev.DoorwayCleared(Door.B))
    play.wait(play.lane.timing.release_s)
    play.do(ev.DoorClosed(Door.B))
    assert play.settled() == [(1, "unresolved")]


def test_service_that_ends_leaves_no_leaf_asked_for() -> None:
    play = reach(State.SERVICE)
    play.do(ev.ServiceDoor("d1", "lin", Door.B, True))
    play.do(ev.DoorOpened(Door.B))
    assert play.requested() == {Door.B}
    play.do(ev.ServiceOff("s1", "lin"))
    assert play.requested() == set() and play.at(State.CLOSED)
    play.do(ev.DoorClosed(Door.B))
    assert play.at(State.IDLE) and play.settled() == [(1, "not_crossed")]


def test_no_service_while_a_passenger_is_in_a_stopped_lane() -> None:
    play = reach(State.MATCHING)
    play.do(ev.DeviceLost(Device.DOOR, "pins_gone"), ev.ServiceOn("s1", "lin"))
    assert play.at(State.STOPPED) and not play.accepted("s1")


def late_exit() -> Play:
    """A lane that takes passengers, a moment after its exit was asked for in vain."""
    play = reach(State.SERVICE)
    play.do(ev.ServiceDoor("d1", "lin", Door.B, True))
    assert play.requested() == {Door.B}
    play.do(ev.ServiceDoor("d2", "lin", Door.B, False), ev.ServiceOff("s1", "lin"))
    assert play.at(State.IDLE) and play.requested() == set()
    return play


def test_the_entry_is_not_opened_beside_an_exit_that_moved_late() -> None:
    play = late_exit()
    play.answers[cmd.ReadChip] = None
    play.present()
    play.do(ev.DoorOpened(Door.B))
    assert AlarmCode.DOOR_FORCED not in play.alarms(), "it was asked for a moment ago"
    ask = play.all(cmd.ReadChip)[-1]
    play.do(ev.ChipRead(ask.ticket, ask.ask, *[Check.NOT_SUPPORTED] * 3))
    assert play.at(State.REFUSED) and play.requested() == set()


def test_a_leaf_that_moves_late_beside_one_that_is_asked_for_stops_the_lane() -> None:
    play = late_exit()
    play.present()
    assert play.requested() == {Door.A}
    play.do(ev.DoorOpened(Door.B))
    assert play.at(State.STOPPED) and play.requested() == set()


def test_too_late_is_forced() -> None:
    play = late_exit()
    play.wait(play.lane.timing.forced_grace_s + 0.1)
    play.do(ev.DoorOpened(Door.B))
    assert play.at(State.STOPPED) and AlarmCode.DOOR_FORCED in play.alarms()


# -- people inside -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.MATCHING, State.FINGERING, State.CONFIRMING, State.RECORDING])
def test_nobody_behind_the_shut_doors_is_referred(state: State) -> None:
    play = reach(state)
    play.do(ev.PresenceChanged(0))
    assert play.at(State.REFERRED) and play.all(cmd.Record)[-1].verdict.reason == "presence_lost"


@pytest.mark.parametrize(("door", "inward"), [(door, inward) for door in Door for inward in (False, True)], ids=str)
def test_movement_behind_the_shut_doors_is_referred(door: Door, inward: bool) -> None:
    play = reach(State.MATCHING)
    play.do(ev.PersonPassed(door, inward))
    assert play.at(State.REFERRED) and AlarmCode.WRONG_WAY in play.alarms()
    assert play.all(cmd.Record)[-1].verdict.reason == "unexpected_movement"


def test_the_longest_stay_counts_from_the_first_moment() -> None:
    """However often the sensors speak, and however often an officer lets the passenger try again."""
    play = reach(State.REFERRED)
    play.score = 0.1
    began = play.mono - 1.0  # when the passenger had come in
    for turn in range(100):
        if play.at(State.RETURNING):
            break
        play.wait(3.0)
        play.do(ev.PresenceChanged(1), ev.OfficerRetries(f"o{turn}", "wu", 1))
    assert play.at(State.RETURNING) and AlarmCode.STAYED_TOO_LONG in play.alarms()
    assert play.mono - began <= play.lane.timing.stay_s_max + 3.0


@pytest.mark.parametrize("topology", [Topology.MANTRAP, Topology.BIDIRECTIONAL])
def test_frames_from_before_the_entry_shut_are_not_even_asked_for(topology: Topology) -> None:
    play = Play(topology)
    play.answers[cmd.CompareFace] = None
    play.inside()
    ask = play.all(cmd.CompareFace)[-1]
    assert ask.since_mono == play.mono
    play.do(ev.FaceCompared(1, ask.ask, Check.SUCCESSFUL, 0.9, 0.4, 1e-4, play.mono - 0.5, 1))
    assert play.at(State.MATCHING), "another try"


# -- answers -----------------------------------------------------------------------------------------------------


def test_a_stolen_document_stays_stolen() -> None:
    """What the look-up said is not wiped by a second reading that finds nothing."""
    play = Play()
    play.answers[cmd.LookUp] = lambda c: ev.RecordFound(c.ticket, c.ask, TRAVELLER, frozenset({"stolen"}))
    play.inside()
    assert play.all(cmd.Record)[-1].verdict.reason == "document_is_not_flagged"
    play.wait(UNSEEN_S)
    assert play.at(State.REFERRED)


def test_a_document_reported_stolen_a_moment_ago() -> None:
    play = Play()
    play.answers[cmd.ReadFlags] = lambda c: ev.FlagsRead(c.ticket, c.ask, frozenset(), frozenset({"stolen"}))
    play.inside()
    assert play.all(cmd.Record)[-1].verdict.reason == "document_is_not_flagged"


def test_advice_does_not_end_the_comparison() -> None:
    play = Play()
    play.answers[cmd.CompareFace] = None
    play.inside()
    ask = play.all(cmd.CompareFace)[-1]
    play.do(ev.FaceAdvice(1, ask.ask, ev.Advice.COME_CLOSER), ev.FaceAdvice(1, ask.ask, ev.Advice.HOLD_STILL))
    play.score = 0.8
    play.do(play._face(ask))
    assert play.at(State.RELEASING)


def test_an_answer_about_another_ticket_is_nothing() -> None:
    play = Play()
    play.answers[cmd.Record] = None
    play.inside()
    record = play.all(cmd.Record)[-1]
    play.do(ev.Recorded(record.ticket + 1, record.ask))
    assert play.at(State.RECORDING) and play.requested() == set()


# -- fire ----------------------------------------------------------------------------------------------------------


def test_a_lane_that_starts_while_it_burns() -> None:
    play = Play(start=False)
    play.do(*(ev.DoorClosed(door) for door in Door), ev.FireStarted(), ev.Started(1))
    assert play.at(State.EMERGENCY)
    play.do(*(ev.DeviceReady(device) for device in DEVICES))
    assert play.at(State.EMERGENCY), "no device ends it"
    play.do(ev.FireEnded())
    assert play.at(State.AFTER_FIRE)


# -- found by the invariants ---------------------------------------------------------------------------------------


def test_the_entry_does_not_open_while_the_exit_sprang_open_again() -> None:
    """Within the grace after a withdrawal a leaf was not forced, but it is open all the same."""
    play = Play()
    play.inside()
    play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, False), ev.PresenceChanged(0))
    play.wait(0.6)
    play.do(ev.DoorClosed(Door.B))
    play.wait(0.3)
    play.do(ev.DoorOpened(Door.B))
    play.present(OTHER)
    assert play.requested() == set()


def test_the_exit_is_withdrawn_when_the_entry_springs_open_again() -> None:
    play = Play()
    play.present()
    play.do(ev.DoorOpened(Door.A), ev.PersonPassed(Door.A, True), ev.PresenceChanged(1), ev.DoorClosed(Door.A))
    assert play.requested() == {Door.B}
    play.do(ev.DoorOpened(Door.A))
    assert play.requested() == set()


def test_a_stranger_whom_nothing_can_record_does_not_make_the_lane_wake_itself_without_end() -> None:
    """From the exit side, with a disk that does not answer: longer than the longest stay."""
    play = Play(start=False)
    play.answers[cmd.Record] = None
    play.do(ev.Started(8, (7,), came_from=Door.B))
    gate_again(play, persons=1)
    play.wait(2 * play.lane.timing.stay_s_max)
    assert AlarmCode.STAYED_TOO_LONG in play.alarms()


def test_a_waiting_document_is_not_kept_by_a_lane_that_closes() -> None:
    play = Play()
    play.inside()
    play.present(OTHER)
    play.do(ev.CloseLane("c", "hq"))
    play.leave()
    assert play.at(State.CLOSED)
    play.wait(10 * play.lane.timing.waiting_s_max)
    assert play.lane.waiting is None
