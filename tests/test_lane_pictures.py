"""When the lane asks for a picture to be kept: of a durable verdict, as the policy says, and seen by nobody (L8)."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.core import PROVING, State
from gated.lane.events import Door, PersonPassed, PresenceChanged
from gated.lane.rules import Rules
from gated.lane.settings import Topology, Ways
from tests.play import RULES, THRESHOLD, TRAVELLER, UNSEEN_S, Play

WANTED = frozenset({"wanted"})
ENTRY = Ways("entry")


def kept(play: Play) -> list[tuple[int, str, int]]:
    return [(each.ticket, each.what, each.keep_days) for each in play.all(cmd.KeepPicture)]


@pytest.mark.parametrize("topology", Topology)
def test_the_face_of_who_enters_is_kept_and_of_who_leaves_is_not(topology: Topology) -> None:
    play = Play(topology, ways=Ways("both" if topology is Topology.BIDIRECTIONAL else "entry"))
    side = Door.B if topology is Topology.BIDIRECTIONAL else Door.A
    play.present(side=side)
    if play.lane.enclosed:
        play.enter(side)
    assert kept(play) == [(1, "entry_face", 5)]
    (command,) = play.all(cmd.KeepPicture)
    assert command.since_mono == play.all(cmd.CompareFace)[-1].since_mono > 0
    play.leave(side.other)
    assert play.settled() == [(1, "crossed")]
    kinds = [type(each) for each in play.log]
    assert kinds.index(cmd.Record) < kinds.index(cmd.KeepPicture) < kinds.index(cmd.Forget)

    leaving = Play(topology, ways=Ways("both" if topology is Topology.BIDIRECTIONAL else "exit"))
    leaving.inside()
    leaving.leave()
    assert leaving.settled() == [(1, "crossed")] and kept(leaving) == []


def test_the_case_of_a_referral_is_kept_whichever_way() -> None:
    for way in ("entry", "exit"):
        play = Play(ways=Ways(way))
        play.inside(score=0.1)
        play.wait(UNSEEN_S)
        assert play.at(State.REFERRED) and kept(play) == [(1, "case_picture", 3)]


def test_somebody_who_is_refused_in_front_of_the_lane_is_a_case_of_no_moment() -> None:
    play = Play(traveller=None)
    play.present()
    assert play.at(State.REFUSED)
    (command,) = play.all(cmd.KeepPicture)
    assert (command.what, command.since_mono) == ("case_picture", 0.0)


def test_a_control_s_picture_is_kept_while_the_lane_goes_on_as_if_nothing_had_matched() -> None:
    play = Play()
    play.answers[cmd.ReadFlags] = lambda c: ev.FlagsRead(c.ticket, c.ask, WANTED)
    play.inside()
    assert play.state in PROVING and play.lane.guest.pretended is not None
    assert kept(play) == [(1, "case_picture", 3)]
    play.wait(UNSEEN_S)
    assert play.at(State.REFERRED) and kept(play) == [(1, "case_picture", 3)], "told late, kept once"


def _grant(play: Play) -> None:
    play.inside()


def _refusal(play: Play) -> None:
    play.inside(score=0.1)
    play.wait(UNSEEN_S)


@pytest.mark.parametrize("story", [_grant, _refusal])
def test_nothing_is_kept_of_what_is_not_durable(story: Callable[[Play], None]) -> None:
    silent, refused = Play(ways=ENTRY), Play(ways=ENTRY)
    silent.answers[cmd.Record] = None
    refused.answers[cmd.Record] = lambda c: ev.NotRecorded(c.ticket, c.ask, "disk_full")
    for play in (silent, refused):
        story(play)
        assert play.all(cmd.Record) and kept(play) == []


def test_a_grant_that_lets_nobody_through_keeps_no_entry_face() -> None:
    def recorded_at(event: ev.Event) -> list[tuple[int, str, int]]:
        play = Play(ways=ENTRY)
        play.answers[cmd.Record] = None
        play.inside()
        grant = play.all(cmd.Record)[-1]
        play.do(event)
        play.do(ev.Recorded(grant.ticket, grant.ask))
        assert not play.lane.guest.released
        return kept(play)

    assert recorded_at(ev.DoorOpened(Door.B)) == []
    assert recorded_at(PresenceChanged(2)) == []
    assert recorded_at(PersonPassed(Door.B, True)) == []


def test_whoever_an_officer_lets_in_after_a_referral_has_both() -> None:
    play = Play(ways=ENTRY)
    play.inside(score=0.1)
    play.wait(UNSEEN_S)
    play.do(ev.OfficerOpens("o1", "wu", 1))
    assert kept(play) == [(1, "case_picture", 3), (1, "entry_face", 5)]


def test_of_a_stranger_who_is_let_out_nothing_is_kept() -> None:
    play = Play(ways=ENTRY)
    play.do(ev.PresenceChanged(1))
    assert [record.verdict.decision.value for record in play.all(cmd.Record)] == ["release"]
    assert kept(play) == []


def test_the_category_is_the_holder_s_and_nobody_s_is_none() -> None:
    entry_face = replace(RULES.attachments["entry_face"], categories=frozenset({"spouse"}))
    case = replace(RULES.attachments["case_picture"], categories=frozenset({"national"}))
    rules = replace(RULES, attachments={"entry_face": entry_face, "case_picture": case})
    assert TRAVELLER.category == "national"
    for traveller, score, expected in (
        (TRAVELLER, 0.7, []),
        (TRAVELLER, 0.1, [(1, "case_picture", 3)]),
        (None, 0.7, []),
    ):
        play = Play(ways=ENTRY, rules=rules, traveller=traveller)
        play.score = score
        play.present()
        if not play.at(State.REFUSED):
            play.enter()
            play.wait(UNSEEN_S)
        assert kept(play) == expected


@pytest.mark.parametrize("score", [0.7, THRESHOLD - 0.001])
@pytest.mark.parametrize("flags", [frozenset[str](), WANTED])
def test_nothing_else_is_another_with_pictures_or_without(score: float, flags: frozenset[str]) -> None:
    """L8: whether pictures are kept changes no command, and none is asked for because of them."""

    def played(rules: Rules) -> list[str]:
        play = Play(ways=ENTRY, rules=rules)
        play.answers[cmd.ReadFlags] = lambda c: ev.FlagsRead(c.ticket, c.ask, flags)
        play.inside(score)
        play.wait(UNSEEN_S)
        return [str(each) for each in play.log if not isinstance(each, cmd.KeepPicture)]

    assert played(RULES) == played(replace(RULES, attachments={}))
