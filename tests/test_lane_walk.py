"""A passenger's walk through the lane, and what passengers do instead. One test a row of the issue."""

from dataclasses import replace
from datetime import date

import pytest

from gated.icao.check import Check
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import AlarmCode, PromptCode
from gated.lane.core import State
from gated.lane.events import Door
from gated.lane.evidence import Decision
from gated.lane.settings import Topology
from tests.play import DOCUMENT, OTHER, START, TRAVELLER, UNSEEN_S, Play


@pytest.mark.parametrize("topology", Topology)
def test_plain_passage(topology: Topology) -> None:
    play = Play(topology)
    play.inside()
    assert play.at(State.RELEASING) and play.requested() == {Door.B}
    play.leave()
    assert play.at(State.IDLE)
    assert play.settled() == [(1, "crossed")]
    assert play.alarms() == []


def test_chip_look_up_and_camera_start_together() -> None:
    play = Play()
    kinds = [type(c) for c in play.present() if isinstance(c, (cmd.ReadChip, cmd.LookUp, cmd.Watch))]
    assert kinds == [cmd.ReadChip, cmd.LookUp, cmd.Watch]


def test_bidirectional_direction_is_the_side_of_the_document() -> None:
    play = Play(Topology.BIDIRECTIONAL)
    play.present(side=Door.B)
    assert play.requested() == {Door.B}
    play.enter(Door.B)
    assert play.requested() == {Door.A}
    play.leave(Door.A)
    settle = play.all(cmd.Settle)[0]
    assert (settle.outcome.value, settle.came_from) == ("crossed", Door.B)


def test_one_way_lane_takes_no_document_on_the_far_side() -> None:
    play = Play()
    play.present(side=Door.B)
    assert play.at(State.IDLE) and play.all(cmd.LookUp) == []


def test_the_exit_waits_for_the_durable_record() -> None:
    play = Play()
    play.answers[cmd.Record] = None
    play.inside()
    assert play.at(State.RECORDING) and play.requested() == set()
    record = play.all(cmd.Record)[-1]
    play.do(ev.Recorded(record.ticket, record.ask))
    assert play.requested() == {Door.B}


def test_a_late_record_of_the_referral_does_not_open_for_the_officers_order() -> None:
    play = Play()
    play.inside(score=0.1)
    play.answers[cmd.Record] = None
    refer = play.all(cmd.Record)[-1]
    play.do(ev.OfficerOpens("o1", "wu", 1))
    play.do(ev.Recorded(refer.ticket, refer.ask))
    assert play.at(State.RECORDING) and play.requested() == set()


def test_not_recorded_refers_and_closes() -> None:
    play = Play()
    play.answers[cmd.Record] = lambda c: ev.NotRecorded(c.ticket, c.ask, "disk_full")
    play.inside()
    assert play.at(State.REFERRED) and Door.B not in play.requested()
    assert AlarmCode.NOT_RECORDED in play.alarms()
    play.do(ev.OfficerRefuses("o1", "wu", 1))
    play.leave(Door.A)
    assert play.at(State.CLOSED)
    play.do(ev.DeviceReady(ev.Device.STORE))
    assert play.at(State.IDLE)


def test_a_record_that_never_answers_refers() -> None:
    play = Play()
    play.answers[cmd.Record] = None
    play.inside()
    play.wait(play.lane.timing.record_s)
    assert play.at(State.REFERRED) and play.requested() == set()


def test_a_face_from_before_the_entry_shut_does_not_count() -> None:
    play = Play()
    play.answers[cmd.CompareFace] = lambda c: ev.FaceCompared(
        c.ticket, c.ask, Check.SUCCESSFUL, 0.9, 0.4, 1e-4, c.since_mono - 0.1, 1
    )
    play.inside()
    assert play.at(State.REFERRED)
    assert play.all(cmd.Record)[-1].verdict.reason == "face_is_fresh"


def test_two_faces_in_the_frame_refer() -> None:
    play = Play()
    play.answers[cmd.CompareFace] = lambda c: ev.FaceCompared(
        c.ticket, c.ask, Check.SUCCESSFUL, 0.9, 0.4, 1e-4, play.mono, 2
    )
    play.inside()
    assert play.at(State.REFERRED)
    assert play.all(cmd.Record)[-1].verdict.reason == "face_is_alone"


def test_a_ban_between_entry_and_exit_stops_the_passenger() -> None:
    play = Play()
    play.answers[cmd.ReadFlags] = lambda c: ev.FlagsRead(c.ticket, c.ask, frozenset({"exit_ban"}))
    play.inside()
    assert play.all(cmd.Record)[-1].verdict.reason == "holder_is_not_flagged"
    play.wait(UNSEEN_S)
    assert play.at(State.REFERRED) and play.requested() == set()


def test_a_control_changes_nothing_the_passenger_can_see() -> None:
    """L8: the same doors, prompts and times as a referral for a weak face."""

    def seen(play: Play) -> list[object]:
        kinds = (cmd.Prompt, cmd.Indicate, cmd.RequestOpen, cmd.WithdrawOpen)
        return [c for c in play.log if isinstance(c, kinds)]

    weak, banned = Play(), Play(traveller=replace(TRAVELLER, flags=frozenset({"wanted"})))
    weak.answers[cmd.ReadFlags] = lambda c: ev.LookUpFailed(c.ticket, c.ask, "io_error")
    weak.inside()
    banned.inside()
    weak.wait(UNSEEN_S)
    banned.wait(UNSEEN_S)
    assert weak.at(State.REFERRED) and banned.at(State.REFERRED)
    assert seen(weak) == seen(banned)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"birth": date(2017, 1, 1)}, "old_enough"),
        ({"category": "unheard_of"}, "category_is_known"),
        ({"usable_from": date(2026, 11, 21)}, "enrolment_is_usable"),
    ],
)
def test_refused_outside(change: dict[str, object], reason: str) -> None:
    play = Play(traveller=replace(TRAVELLER, **change))  # type: ignore[arg-type]
    play.present()
    assert play.at(State.REFUSED) and play.requested() == set()
    assert play.all(cmd.CallOfficer)[-1].reason == reason
    play.wait(play.lane.timing.refused_s)
    assert play.at(State.IDLE) and play.settled() == [(1, "not_crossed")]


def test_expired_document_is_refused_on_the_day_after_its_last() -> None:
    today = START.date()
    for expiry, state in ((today, State.ADMITTING), (date(2026, 11, 19), State.REFUSED)):
        play = Play()
        play.present(replace(DOCUMENT, expiry=f"{expiry:%y%m%d}"))
        assert play.at(state)


def test_unknown_holder_and_failed_look_up_are_refused_outside() -> None:
    play = Play(traveller=None)
    play.present()
    assert play.at(State.REFUSED)
    play = Play()
    play.answers[cmd.LookUp] = lambda c: ev.LookUpFailed(c.ticket, c.ask, "io_error")
    play.present()
    assert play.at(State.REFUSED)


def test_missing_chip_is_evidence() -> None:
    play = Play(traveller=replace(TRAVELLER, category="strict"))
    play.inside()
    assert play.all(cmd.Record)[-1].verdict.reason == "chip_is_genuine"


@pytest.mark.parametrize("result", [Check.FAILED, Check.UNDETERMINED, Check.ABORTED])
def test_a_chip_that_is_not_proven_is_never_taken_for_one_that_cannot_be_read(result: Check) -> None:
    play = Play()
    play.answers[cmd.ReadChip] = lambda c: ev.ChipRead(c.ticket, c.ask, Check.SUCCESSFUL, result, Check.NOT_SUPPORTED)
    play.inside()
    assert play.all(cmd.Record)[-1].verdict.reason == "chip_is_genuine"


def test_a_weak_face_has_its_tries_then_an_officer() -> None:
    play = Play()
    play.inside(score=0.2)
    assert len(play.all(cmd.CompareFace)) == play.lane.timing.face_tries
    assert play.at(State.REFERRED)


def test_guidance_reaches_the_passenger() -> None:
    play = Play()
    play.answers[cmd.CompareFace] = lambda c: ev.FaceAdvice(c.ticket, c.ask, ev.Advice.UNCOVER_FACE)
    play.inside()
    assert PromptCode.UNCOVER_FACE in [p.code for p in play.all(cmd.Prompt)]


def test_face_that_never_comes_is_referred() -> None:
    play = Play()
    play.answers[cmd.CompareFace] = None
    play.inside()
    play.wait(play.lane.timing.match_s)
    assert play.at(State.REFERRED)


# -- what passengers do instead --------------------------------------------------------------------------------


def test_document_removed_early() -> None:
    play = Play()
    play.answers[cmd.ReadChip] = None
    play.present()
    play.do(ev.DocumentRemoved())
    assert play.at(State.IDLE) and play.settled() == [(1, "not_crossed")]
    assert PromptCode.LEAVE_DOCUMENT in [p.code for p in play.all(cmd.Prompt)]


def test_second_document_while_busy_waits_its_turn() -> None:
    play = Play()
    play.present()
    play.present(OTHER)
    assert [p.code for p in play.all(cmd.Prompt)][-1] is PromptCode.ONE_AT_A_TIME
    assert len(play.all(cmd.LookUp)) == 1
    play.wait(1.0)
    play.enter()
    play.leave()
    assert play.all(cmd.LookUp)[-1].document == OTHER


def test_second_document_that_was_taken_away_or_is_old_is_forgotten() -> None:
    play = Play()
    play.inside()
    play.present(OTHER)
    play.do(ev.DocumentRemoved())
    play.leave()
    assert play.at(State.IDLE) and play.lane.waiting is None
    play.inside(score=0.1)
    play.present(OTHER)
    play.wait(play.lane.timing.waiting_s_max + 1)
    play.do(ev.OfficerRefuses("o", "wu", 2))
    play.leave(Door.A)
    assert play.at(State.IDLE) and play.lane.waiting is None


def test_the_same_document_read_twice_is_nothing() -> None:
    play = Play()
    play.present()
    assert play.do(ev.DocumentPresented(DOCUMENT)) == []


def test_nobody_enters() -> None:
    play = Play()
    play.present()
    play.do(ev.DoorOpened(Door.A))
    play.wait(play.lane.timing.admit_s)
    assert play.at(State.CLEARING) and play.requested() == set()
    play.do(ev.DoorClosed(Door.A))
    assert play.at(State.IDLE) and play.settled() == [(1, "not_crossed")]


def test_passenger_walks_back() -> None:
    play = Play()
    play.present()
    play.do(ev.DoorOpened(Door.A), ev.PersonPassed(Door.A, True), ev.PresenceChanged(1))
    play.do(ev.PersonPassed(Door.A, False), ev.PresenceChanged(0), ev.DoorClosed(Door.A))
    assert play.at(State.IDLE) and play.settled() == [(1, "not_crossed")]


@pytest.mark.parametrize("seen_by", ["barriers", "presence"])
def test_two_people_go_back_out(seen_by: str) -> None:
    play = Play()
    play.present()
    play.do(ev.DoorOpened(Door.A), ev.PersonPassed(Door.A, True), ev.PresenceChanged(1))
    play.do(ev.PersonPassed(Door.A, True) if seen_by == "barriers" else ev.PresenceChanged(2))
    assert play.at(State.RETURNING) and play.requested() == {Door.A}
    assert AlarmCode.TWO_PERSONS in play.alarms()
    play.do(ev.PersonPassed(Door.A, False), ev.PersonPassed(Door.A, False), ev.PresenceChanged(0))
    play.do(ev.DoorClosed(Door.A))
    assert play.at(State.IDLE) and play.settled() == [(1, "not_crossed")]


def test_second_person_behind_the_shut_door_is_referred() -> None:
    play = Play()
    play.answers[cmd.CompareFace] = None
    play.inside()
    play.do(ev.PresenceChanged(2))
    assert play.at(State.REFERRED) and AlarmCode.TWO_PERSONS in play.alarms()


def test_tail_gater_at_the_exit() -> None:
    play = Play()
    play.inside()
    play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, False), ev.PersonPassed(Door.B, False))
    play.do(ev.PresenceChanged(0), ev.DoorClosed(Door.B))
    assert AlarmCode.TAILGATE in play.alarms()
    assert play.all(cmd.Settle)[0].persons == 2


def test_person_in_the_doorway_as_it_shuts() -> None:
    play = Play()
    play.present()
    play.do(ev.DoorOpened(Door.A), ev.PersonPassed(Door.A, True), ev.PresenceChanged(1))
    assert play.requested() == set()
    play.do(ev.DoorwayBlocked(Door.A))
    assert play.requested() == {Door.A}
    play.do(ev.DoorwayCleared(Door.A))
    assert play.requested() == set()
    play.do(ev.DoorClosed(Door.A))
    assert play.at(State.RELEASING)


def test_obstacle_is_told_and_the_leaf_asked_for_again() -> None:
    play = Play()
    play.present()
    play.do(ev.DoorOpened(Door.A), ev.PersonPassed(Door.A, True), ev.PresenceChanged(1), ev.ObstacleHit(Door.A))
    assert AlarmCode.OBSTACLE in play.alarms() and play.requested() == {Door.A}


def test_doorway_that_never_clears_is_referred() -> None:
    play = Play()
    play.present()
    play.do(ev.DoorOpened(Door.A), ev.PersonPassed(Door.A, True), ev.PresenceChanged(1), ev.DoorwayBlocked(Door.A))
    play.wait(play.lane.timing.enclose_s)
    assert play.at(State.REFERRED) and play.requested() == set()


def test_wrong_way_while_the_exit_is_open() -> None:
    play = Play()
    play.inside()
    play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, True))
    assert AlarmCode.WRONG_WAY in play.alarms()
    play.do(ev.PresenceChanged(2))
    play.wait(play.lane.timing.release_s)
    assert play.at(State.RELEASING), "a stranger is not let through to the entry side"


def test_stranger_left_inside_goes_out_the_way_they_came() -> None:
    play = Play()
    play.inside()
    play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, False), ev.PersonPassed(Door.B, True), ev.DoorClosed(Door.B))
    play.wait(play.lane.timing.clear_s)
    assert play.settled() == [(1, "crossed")]
    assert AlarmCode.STRANGER_INSIDE in play.alarms()
    assert play.requested() == {Door.B}, "on a record of its own"
    assert play.all(cmd.Record)[-1].verdict.decision is Decision.RELEASE
    play.leave(Door.B)
    assert play.at(State.IDLE) and play.settled()[-1] == (2, "not_crossed")


@pytest.mark.parametrize(("persons", "thing", "detail"), [(0, True, "thing"), (1, False, "person")])
def test_object_or_child_left_inside(persons: int, thing: bool, detail: str) -> None:
    play = Play()
    play.inside()
    play.do(ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, False), ev.PresenceChanged(persons, thing))
    play.do(ev.DoorClosed(Door.B))
    assert play.at(State.CLEARING)
    play.wait(play.lane.timing.clear_s)
    assert play.settled()[0] == (1, "crossed" if thing else "unresolved"), "one was inside and one still is"
    assert [a.detail for a in play.all(cmd.Alarm) if a.code is AlarmCode.LEFT_INSIDE] == [detail]
    assert play.at(State.CLOSED if thing else State.RETURNING)
    if thing:
        play.do(ev.PresenceChanged(0, False))
        assert play.at(State.IDLE)
    else:
        play.leave(Door.A)
        assert play.at(State.IDLE)


def test_passenger_faints_inside() -> None:
    play = Play()
    play.inside()
    play.do(ev.DoorOpened(Door.B))
    play.wait(play.lane.timing.release_s)
    assert play.at(State.RETURNING) and play.requested() == set(), "not both leaves"
    play.do(ev.DoorClosed(Door.B))
    assert play.requested() == {Door.A}
    play.wait(3 * play.lane.timing.return_s)
    assert play.alarms().count(AlarmCode.STAYED_TOO_LONG) == 3
    assert play.settled() == []
    play.leave(Door.A)
    assert play.settled() == [(1, "not_crossed")]


def test_empty_lane_after_the_exit_was_open_and_nobody_seen_is_unresolved() -> None:
    play = Play()
    play.inside()
    play.do(ev.DoorOpened(Door.B), ev.DoorwayBlocked(Door.B), ev.DoorwayCleared(Door.B), ev.PresenceChanged(0))
    play.wait(play.lane.timing.release_s)
    play.do(ev.DoorClosed(Door.B), ev.DoorOpened(Door.A), ev.PersonPassed(Door.A, False), ev.DoorClosed(Door.A))
    play.wait(60)
    assert play.settled() == [(1, "unresolved")]
