"""The second proof: which finger is asked for when, and how each story ends (L3, E4, W4, W5)."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gated.icao.check import Check
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import PromptCode
from gated.lane.core import State
from gated.lane.events import Device, Event, Touch, Traveller
from gated.lane.evidence import Decision
from gated.lane.proof import finger_comparisons, stated_fmr
from gated.lane.settings import Timing, Topology
from tests.play import DEVICES, RULES, TRAVELLER, WEAK, Play

INDEX = ("right_index", "left_index")
SPOUSE = replace(TRAVELLER, category="spouse", fingers=INDEX)
SUPPORTED = replace(TRAVELLER, category="supported", fingers=INDEX)
NO_FACE = replace(TRAVELLER, face=False, fingers=INDEX)
FMR = 1e-3
RIGHT = (PromptCode.PLACE_RIGHT_INDEX, "right_index")
PLACE_RIGHT = PromptCode.PLACE_RIGHT_INDEX
LEFT = (PromptCode.PLACE_LEFT_INDEX, "left_index")


def played(traveller: Traveller, *results: Check, score: float = 0.7, topology: Topology = Topology.MANTRAP) -> Play:
    """A passenger whose fingers, as they are asked for, give these results one after the other."""
    play = Play(topology, traveller=traveller)
    left = iter(results)
    play.answers[cmd.CompareFinger] = lambda c: _answer(c, left)
    play.inside(score)
    return play


def _answer(asked: cmd.CompareFinger, results: Iterator[Check]) -> Event:
    result = next(results)
    compared = result in (Check.SUCCESSFUL, Check.FAILED)
    score = 0.8 if result is Check.SUCCESSFUL else 0.1 if compared else 0.0
    return ev.FingerCompared(asked.ticket, asked.ask, result, score, 0.3, FMR if compared else 1.0, asked.finger)


def verdict(play: Play) -> tuple[Decision, str]:
    record = play.all(cmd.Record)[-1].verdict
    return record.decision, record.reason


def asked(play: Play) -> list[tuple[PromptCode, str]]:
    """What the passenger was told to place, beside what was compared."""
    prompts = [
        each.code
        for each in play.all(cmd.Prompt)
        if each.code.value.startswith("place_") and "document" not in each.code.value
    ]
    return list(zip(prompts, [each.finger for each in play.all(cmd.CompareFinger)], strict=True))


GRANTED = (Decision.GRANT, "all_rules_kept")
GOOD, BAD, NO_PRINT = Check.SUCCESSFUL, Check.FAILED, Check.UNDETERMINED


@pytest.mark.parametrize("topology", Topology)
def test_face_and_finger_where_both_are_demanded(topology: Topology) -> None:
    play = played(SPOUSE, GOOD, topology=topology)
    assert verdict(play) == GRANTED
    assert asked(play) == [RIGHT]
    evidence = play.all(cmd.Record)[-1].evidence
    assert stated_fmr(evidence, RULES) == pytest.approx(1e-4 * FMR)


def test_good_face_and_wrong_finger_refer() -> None:
    play = played(SPOUSE, BAD, BAD, BAD, BAD)
    assert verdict(play) == (Decision.REFER, "finger_matches_where_demanded")
    assert asked(play) == [RIGHT, RIGHT, LEFT, LEFT]
    assert play.at(State.REFERRED)
    evidence = play.all(cmd.Record)[-1].evidence
    assert [each.finger for each in evidence.fingers] == ["right_index", "right_index", "left_index", "left_index"]
    play.wait(Timing().face_s * Timing().face_tries)
    assert PromptCode.SEE_OFFICER in [each.code for each in play.all(cmd.Prompt)]


def test_wrong_face_and_good_finger_refer() -> None:
    """Asked for all the same: who fails is not told which of the two it was."""
    play = played(SPOUSE, GOOD, *[NO_PRINT] * 2, score=0.1)
    assert verdict(play) == (Decision.REFER, "face_matches")
    assert asked(play) == [RIGHT, RIGHT, LEFT], "as if it had not matched"


def test_weak_face_and_good_finger_pass_where_the_policy_says_so() -> None:
    play = played(SUPPORTED, GOOD, score=WEAK)
    assert verdict(play) == GRANTED
    assert len(play.all(cmd.CompareFace)) == 1, "a finger tells sooner than another look"
    assert stated_fmr(play.all(cmd.Record)[-1].evidence, RULES) == pytest.approx(1e-2 * FMR)


def test_weak_face_and_good_finger_refer_where_both_are_demanded() -> None:
    play = played(SPOUSE, GOOD, *[NO_PRINT] * 2, score=WEAK)
    assert verdict(play) == (Decision.REFER, "face_matches")
    assert len(play.all(cmd.CompareFace)) == 2


def test_weak_face_and_wrong_finger_refer() -> None:
    play = played(SUPPORTED, BAD, BAD, BAD, BAD, score=WEAK)
    assert verdict(play) == (Decision.REFER, "face_matches")
    assert len(play.all(cmd.CompareFace)) == 1


def test_a_wrong_face_is_never_supported() -> None:
    play = played(SUPPORTED, score=WEAK - 0.01)
    assert verdict(play) == (Decision.REFER, "face_matches")
    assert asked(play) == []


def test_a_good_face_needs_no_finger_where_none_is_demanded() -> None:
    play = played(SUPPORTED)
    assert verdict(play) == GRANTED
    assert asked(play) == []


def test_a_bandaged_finger_is_followed_by_the_next_in_order() -> None:
    play = played(SPOUSE, NO_PRINT, GOOD)
    assert verdict(play) == GRANTED
    assert asked(play) == [RIGHT, LEFT]


def test_whoever_cannot_present_a_finger_is_referred() -> None:
    play = played(SPOUSE, NO_PRINT, NO_PRINT)
    assert verdict(play) == (Decision.REFER, "finger_matches_where_demanded")
    assert asked(play) == [RIGHT, LEFT]


def test_the_second_placement_counts() -> None:
    play = played(SPOUSE, BAD, GOOD)
    assert verdict(play) == GRANTED
    assert stated_fmr(play.all(cmd.Record)[-1].evidence, RULES) == pytest.approx(1e-4 * 2 * FMR)


def test_two_fingers_replace_a_face_that_was_never_enrolled() -> None:
    play = played(NO_FACE, GOOD, GOOD)
    assert verdict(play) == GRANTED
    assert asked(play) == [RIGHT, LEFT]
    assert not play.all(cmd.CompareFace)
    assert stated_fmr(play.all(cmd.Record)[-1].evidence, RULES) == pytest.approx(FMR**2)


def test_one_finger_does_not_replace_a_face() -> None:
    play = played(NO_FACE, GOOD, NO_PRINT)
    assert verdict(play) == (Decision.REFER, "face_matches")


def test_a_reader_lost_over_it_refers_and_the_lane_goes_on() -> None:
    play = played(SPOUSE, Check.ABORTED)
    assert verdict(play) == (Decision.REFER, "finger_matches_where_demanded")
    assert [each.result for each in play.all(cmd.Record)[-1].evidence.fingers] == [Check.ABORTED]
    play = Play(traveller=SPOUSE)
    play.do(ev.DeviceLost(Device.FINGERPRINT, "gone"))
    play.traveller = TRAVELLER
    play.inside()
    assert verdict(play) == GRANTED, "who needs no finger passes"


def test_without_a_reader_whoever_needs_a_finger_is_not_let_in() -> None:
    """Both a lane that never had one and a lane that lost it; nobody walks in to be referred."""
    never = Play(traveller=SPOUSE, devices=DEVICES - {Device.FINGERPRINT})
    lost = Play(traveller=SPOUSE)
    lost.do(ev.DeviceLost(Device.FINGERPRINT, "gone"))
    for play in (never, lost):
        play.present()
        assert play.at(State.REFUSED)
        assert play.all(cmd.Record)[-1].verdict.reason == "fingers_can_be_taken"
    lost.wait(Timing().refused_s)
    lost.do(ev.DeviceReady(Device.FINGERPRINT))
    lost.answers[cmd.CompareFinger] = lambda c: _answer(c, iter([GOOD]))
    lost.inside()
    assert verdict(lost) == GRANTED


def test_advice_about_the_finger_is_told_in_its_words() -> None:
    play = Play(traveller=SPOUSE)
    play.answers[cmd.CompareFinger] = None
    play.inside()
    assert play.at(State.FINGERING)
    ask = play.all(cmd.CompareFinger)[-1]
    for advice in Touch:
        said = play.do(ev.FingerAdvice(ask.ticket, ask.ask, advice))
        words = "place_right_index" if advice is Touch.PLACE_AGAIN else advice.value
        assert [each.code.value for each in said if isinstance(each, cmd.Prompt)] == [words]
    assert not play.do(ev.FingerAdvice(ask.ticket, ask.ask + 1, Touch.HOLD_FINGER)), "advice for another request"
    play.do(ev.FingerCompared(ask.ticket, ask.ask, GOOD, 0.8, 0.3, FMR, ask.finger))
    assert play.at(State.RELEASING)


def test_a_reader_that_never_answers_does_not_hold_anybody() -> None:
    play = Play(traveller=SPOUSE)
    play.answers[cmd.CompareFinger] = None
    play.inside()
    play.wait(Timing().fingers_s)
    assert verdict(play) == (Decision.REFER, "fingering_overdue")


def test_an_officer_may_have_everything_tried_again() -> None:
    play = played(SPOUSE, BAD, BAD, BAD, BAD)
    ticket = play.all(cmd.Record)[-1].ticket
    play.answers[cmd.CompareFinger] = lambda c: _answer(c, iter([GOOD]))
    play.do(ev.OfficerRetries("r", "wu", ticket))
    assert verdict(play) == GRANTED
    evidence = play.all(cmd.Record)[-1].evidence
    assert len(evidence.fingers) == 1, "what was tried before proves nothing"
    assert len(finger_comparisons(evidence)) == 5
    assert stated_fmr(evidence, RULES) == pytest.approx(2e-4 * 5 * FMR), "but it was tried, and so was the face"


def seen(traveller: Traveller, score: float, flags: frozenset[str], *results: Check) -> list[tuple[float, cmd.Command]]:
    """What a passenger can see and time, from the first prompt for a finger on. A print comes after three seconds, and
    where none does the desk says so in its time."""
    play = Play(traveller=traveller)
    left, kinds = iter(results), (cmd.Prompt, cmd.Indicate, cmd.RequestOpen, cmd.WithdrawOpen)
    play.answers[cmd.CompareFinger] = None
    play.answers[cmd.ReadFlags] = lambda c: ev.FlagsRead(c.ticket, c.ask, flags)
    play.inside(score)
    assert play.at(State.FINGERING)
    mark = next(at for at, c in enumerate(play.log) if isinstance(c, cmd.Prompt) and c.code is PLACE_RIGHT)
    began, found, answered = play.mono, list[tuple[float, cmd.Command]](), 0
    due, result = began + 3.0, next(left)
    for _ in range(600):
        if play.mono >= due and answered < len(play.all(cmd.CompareFinger)):
            answered += 1
            play.do(_answer(play.all(cmd.CompareFinger)[-1], iter([result])))
            result = next(left, GOOD)
            due = play.mono + (Timing().finger_s if result is NO_PRINT else 3.0)
        found += [(round(play.mono - began, 1), c) for c in play.log[mark:] if isinstance(c, kinds)]
        mark = len(play.log)
        play.wait(0.1)
    return found


@pytest.mark.parametrize("traveller", [SPOUSE, SUPPORTED, NO_FACE], ids=lambda each: each.category)
def test_a_control_cannot_be_told_from_a_finger_that_did_not_match(traveller: Traveller) -> None:
    """L8: a sought passenger whose finger matched sees what they do whose finger did not and who then gave up."""
    one = replace(traveller, fingers=INDEX if not traveller.face else INDEX[:1])
    score = WEAK if traveller is SUPPORTED else 0.7
    before = (GOOD,) if not traveller.face else ()
    wrong = seen(one, score, frozenset(), *before, BAD, NO_PRINT)
    sought = seen(one, score, frozenset({"wanted"}), *before, GOOD, NO_PRINT)
    assert sought == wrong
    assert PromptCode.SEE_OFFICER in [c.code for _, c in wrong if isinstance(c, cmd.Prompt)]
