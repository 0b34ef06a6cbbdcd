"""Every rule of the policy at its boundary: evidence that grants, and the one change that does not any more."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from gated.icao.check import Check
from gated.lane.events import CacheStand, ChipRead, FaceCompared, FingerCompared
from gated.lane.evidence import Decision, Evidence
from gated.lane.policy import judge, refusal
from gated.lane.proof import next_finger, stated_fmr
from gated.lane.rules import ENTRY
from tests.play import DOCUMENT, RULES, START, THRESHOLD, TRAVELLER, WEAK

GOOD, NONE = Check.SUCCESSFUL, Check.NOT_SUPPORTED
NOT_GOOD = (Check.FAILED, Check.ABORTED, Check.UNDETERMINED, Check.NOT_SUPPORTED)
NOT_PROVEN = (Check.FAILED, Check.ABORTED, Check.UNDETERMINED)
SHUT_MONO = 100.0
FACE = FaceCompared(1, 3, GOOD, THRESHOLD, THRESHOLD, 1e-4, SHUT_MONO, 1, GOOD)
FINGER = FingerCompared(1, 4, GOOD, 0.5, 0.5, 1e-3, "right_index", GOOD)
LEFT = replace(FINGER, finger="left_index")
THUMB = replace(FINGER, finger="left_thumb")
NO_PAD = replace(FINGER, pad=NONE)
WEAK_FACE = replace(FACE, result=Check.FAILED, score=WEAK, weak_threshold=WEAK, weak_fmr=1e-2)
STRICT = Evidence(
    opened=START,
    day=START.date(),
    direction=ENTRY,
    place="here",
    since_mono=SHUT_MONO,
    document=DOCUMENT,
    traveller=replace(TRAVELLER, category="strict"),
    chip=ChipRead(1, 1, GOOD, GOOD, GOOD),
    face=FACE,
)
"""Everything is proven, and every measure stands exactly at its limit."""
LENIENT = replace(
    STRICT, traveller=TRAVELLER, chip=ChipRead(1, 1, NONE, NONE, NONE), face=replace(FACE, pad=Check.NOT_SUPPORTED)
)
"""A category that may miss chip and attack detection, and misses both."""
INDEX = ("right_index", "left_index")
BOTH = replace(
    LENIENT, traveller=replace(TRAVELLER, category="spouse", fingers=INDEX), finger_reader=True, fingers=(FINGER,)
)
"""A category that demands face and finger."""
SUPPORTED = replace(BOTH, traveller=replace(TRAVELLER, category="supported", fingers=INDEX), face=WEAK_FACE)
"""A weak face that a finger supports."""
CURRENT = replace(
    STRICT,
    traveller=replace(TRAVELLER, category="current"),
    cache=CacheStand(7, START - timedelta(seconds=3599), 8, START - timedelta(seconds=1799)),
)
"""A category that a stale cache does not let pass, at the last second before it is stale."""
FINGERS_ALONE = replace(
    BOTH, traveller=replace(TRAVELLER, face=False, fingers=INDEX), face=None, fingers=(FINGER, LEFT)
)
"""No face could be enrolled: both fingers stand for it."""


def of(evidence: Evidence, **change: Any) -> Evidence:
    """The same evidence with another traveller."""
    assert evidence.traveller is not None
    return replace(evidence, traveller=replace(evidence.traveller, **change))


def stood(**change: Any) -> CacheStand:
    """The stand of `CURRENT` with another one."""
    assert CURRENT.cache is not None
    return replace(CURRENT.cache, **change)


def chip(access: Check, authentic: Check, not_cloned: Check = GOOD) -> ChipRead:
    return ChipRead(1, 1, access, authentic, not_cloned)


@pytest.mark.parametrize(
    "evidence",
    [STRICT, LENIENT, BOTH, SUPPORTED, FINGERS_ALONE, CURRENT],
    ids=["strict", "lenient", "both", "supported", "fingers", "current"],
)
def test_a_grant_at_every_limit(evidence: Evidence) -> None:
    assert judge(evidence, RULES).decision is Decision.GRANT


REFERRED: dict[str, list[tuple[str, Evidence]]] = {
    "clock_is_trusted": [("stepped", replace(STRICT, clock_trusted=False))],
    "document_in_force": [
        ("none", replace(STRICT, document=None)),
        ("expired yesterday", replace(STRICT, document=replace(DOCUMENT, expiry="261119"))),
    ],
    "holder_is_enrolled": [("nobody", replace(STRICT, traveller=None))],
    "category_is_known": [("unheard of", of(STRICT, category="unheard_of"))],
    "cache_is_recent_enough": [
        ("people an hour old", replace(CURRENT, cache=stood(people_as_of=START - timedelta(seconds=3600)))),
        ("controls half an hour old", replace(CURRENT, cache=stood(control_as_of=START - timedelta(seconds=1800)))),
        ("expired", replace(CURRENT, cache=stood(people_as_of=START - timedelta(days=40)))),
        ("from a day to come", replace(CURRENT, cache=stood(control_as_of=START + timedelta(days=1)))),
        ("of no known age", replace(CURRENT, cache=None)),
    ],
    "document_is_known": [("identity card", replace(STRICT, document=replace(DOCUMENT, code="I")))],
    "old_enough": [
        ("the eve of the birthday", of(STRICT, birth=date(2016, 11, 21))),
        ("born later in the year", of(STRICT, birth=date(2016, 12, 1))),
    ],
    "enrolled_as_demanded": [("no finger", of(BOTH, fingers=())), ("no face", of(STRICT, face=False))],
    "enrolment_is_usable": [("from tomorrow", of(STRICT, usable_from=date(2026, 11, 21)))],
    "chip_is_genuine": [
        ("not asked", replace(STRICT, chip=None)),
        ("a copy", replace(STRICT, chip=chip(GOOD, GOOD, Check.FAILED))),
        ("cannot be read", replace(STRICT, chip=chip(NONE, NONE, NONE))),
        ("cannot be proven", replace(LENIENT, chip=chip(GOOD, NONE))),
        ("proven without access", replace(LENIENT, chip=chip(NONE, GOOD))),
        *((f"access {each.value}", replace(LENIENT, chip=chip(each, GOOD))) for each in NOT_PROVEN),
        *((f"authentic {each.value}", replace(LENIENT, chip=chip(GOOD, each))) for each in NOT_PROVEN),
    ],
    "face_is_alone": [
        *((f"{n} persons", replace(STRICT, face=replace(FACE, persons=n))) for n in (0, 2, 3)),
        ("no face", replace(STRICT, face=None)),
    ],
    "face_is_fresh": [("a moment before", replace(STRICT, face=replace(FACE, captured_mono=SHUT_MONO - 0.001)))],
    "face_matches": [
        *((each.value, replace(STRICT, face=replace(FACE, result=each))) for each in (*NOT_PROVEN, NONE)),
        ("below the threshold", replace(STRICT, face=replace(FACE, score=THRESHOLD - 0.001))),
        ("no frame", replace(STRICT, face=FaceCompared(1, 3, Check.UNDETERMINED, captured_mono=SHUT_MONO, persons=1))),
        ("a finger instead", replace(BOTH, face=replace(FACE, result=Check.FAILED, score=0.1))),
        ("fingers alone, none given", replace(FINGERS_ALONE, fingers=())),
        ("fingers alone, one of two", replace(FINGERS_ALONE, fingers=(FINGER,))),
        ("fingers alone, one twice", replace(FINGERS_ALONE, fingers=(FINGER, FINGER))),
        ("fingers alone, one below", replace(FINGERS_ALONE, fingers=(FINGER, replace(LEFT, score=0.499)))),
        ("weak, no finger given", replace(SUPPORTED, fingers=())),
        ("weak, finger below", replace(SUPPORTED, fingers=(replace(FINGER, score=0.499),))),
        *((f"weak, {each.value}", replace(SUPPORTED, fingers=(replace(FINGER, result=each),))) for each in NOT_GOOD),
        ("below weak", replace(SUPPORTED, face=replace(WEAK_FACE, score=WEAK - 0.001))),
        ("weak and not compared", replace(SUPPORTED, face=replace(WEAK_FACE, result=Check.UNDETERMINED))),
        ("a lane that knows no weak face", replace(SUPPORTED, face=replace(WEAK_FACE, weak_threshold=None))),
        ("a category that knows no weak face", replace(BOTH, face=WEAK_FACE)),
    ],
    "face_is_live": [
        *((each.value, replace(LENIENT, face=replace(FACE, pad=each))) for each in NOT_PROVEN),
        ("none on a lane that needs it", replace(STRICT, face=replace(FACE, pad=NONE))),
    ],
    "finger_matches_where_demanded": [
        ("not given", replace(BOTH, fingers=())),
        *((each.value, replace(BOTH, fingers=(replace(FINGER, result=each),))) for each in NOT_GOOD),
        ("below the threshold", replace(BOTH, fingers=(replace(FINGER, score=0.499),))),
        ("below on both", replace(BOTH, fingers=(replace(FINGER, score=0.499), replace(LEFT, score=0.0)))),
    ],
    "finger_is_live": [
        *((each.value, replace(BOTH, fingers=(replace(FINGER, pad=each),))) for each in NOT_PROVEN),
        ("none on a lane that needs it", replace(of(BOTH, category="strict_spouse"), fingers=(NO_PAD,))),
        ("one of two", replace(FINGERS_ALONE, fingers=(FINGER, replace(LEFT, pad=Check.FAILED)))),
    ],
    "fingers_can_be_taken": [
        ("no reader", replace(BOTH, finger_reader=False)),
        ("one enrolled of the two that replace a face", of(FINGERS_ALONE, fingers=("right_index",))),
    ],
    "document_is_not_flagged": [("stolen", replace(STRICT, document_flags=frozenset({"stolen"})))],
    "holder_is_not_flagged": [
        ("when it was looked up", of(STRICT, flags=frozenset({"wanted"}))),
        ("since then", replace(STRICT, flags=frozenset({"exit_ban"}))),
    ],
}
CASES = [(reason, evidence) for reason, cases in REFERRED.items() for _, evidence in cases]
NAMES = [f"{reason}-{name}" for reason, cases in REFERRED.items() for name, _ in cases]


@pytest.mark.parametrize(("reason", "evidence"), CASES, ids=NAMES)
def test_one_change_refers_and_names_its_rule(reason: str, evidence: Evidence) -> None:
    verdict = judge(evidence, RULES)
    assert (verdict.decision, verdict.reason, verdict.rules) == (Decision.REFER, reason, RULES.version)


@pytest.mark.parametrize(
    ("birth", "day", "old_enough"),
    [
        (date(2016, 11, 20), date(2026, 11, 20), True),
        (date(2016, 2, 29), date(2026, 2, 28), False),
        (date(2016, 2, 29), date(2026, 3, 1), True),
        (date(2016, 12, 31), date(2026, 1, 1), False),
        (date(2017, 1, 1), date(2026, 12, 31), False),
    ],
)
def test_ten_years_to_the_day(birth: date, day: date, old_enough: bool) -> None:
    """W2. A child of 29 February is ten on 1 March."""
    assert (refusal(of(replace(STRICT, day=day), birth=birth), RULES) is None) is old_enough


def test_controls_are_not_asked_for_before_the_exit() -> None:
    """L8: who is sought walks in like anybody."""
    sought = of(replace(STRICT, document_flags=frozenset({"stolen"})), flags=frozenset({"wanted"}))
    assert refusal(sought, RULES) is None


@pytest.mark.parametrize("code", ["P", "PP", "PD", "PS"])
def test_every_passport_is_a_passport(code: str) -> None:
    assert judge(replace(STRICT, document=replace(DOCUMENT, code=code)), RULES).decision is Decision.GRANT


def misses(finger: FingerCompared, result: Check = Check.FAILED) -> FingerCompared:
    return replace(finger, result=result, score=0.1 if result is Check.FAILED else 0.0)


@pytest.mark.parametrize(
    ("evidence", "finger"),
    [
        (replace(BOTH, fingers=()), "right_index"),
        (BOTH, None),
        (replace(BOTH, fingers=(misses(FINGER),)), "right_index"),
        (replace(BOTH, fingers=(misses(FINGER),) * 2), "left_index"),
        (replace(BOTH, fingers=(misses(FINGER, Check.UNDETERMINED),)), "left_index"),
        (replace(BOTH, fingers=(misses(FINGER, Check.UNDETERMINED), misses(LEFT))), "left_index"),
        (replace(BOTH, fingers=(misses(FINGER, Check.UNDETERMINED), misses(LEFT, Check.UNDETERMINED))), None),
        (replace(BOTH, fingers=(misses(FINGER), misses(FINGER), misses(LEFT), misses(LEFT))), None),
        (replace(BOTH, fingers=(misses(FINGER, Check.ABORTED),)), None),
        (replace(BOTH, fingers=(misses(FINGER, NONE),)), None),
        (replace(BOTH, fingers=(), finger_reader=False), None),
        (replace(BOTH, fingers=(), face=replace(FACE, result=Check.FAILED, score=0.1)), "right_index"),
        (replace(SUPPORTED, fingers=()), "right_index"),
        (replace(SUPPORTED, fingers=(), face=FACE), None),
        (replace(SUPPORTED, fingers=(), face=replace(WEAK_FACE, score=0.1)), None),
        (of(replace(SUPPORTED, fingers=()), fingers=()), None),
        (replace(FINGERS_ALONE, fingers=()), "right_index"),
        (replace(FINGERS_ALONE, fingers=(FINGER,)), "left_index"),
        (FINGERS_ALONE, None),
        (of(replace(LENIENT, finger_reader=True), fingers=INDEX), None),
        (replace(BOTH, traveller=None), None),
    ],
)
def test_which_finger_is_placed_next(evidence: Evidence, finger: str | None) -> None:
    """E4; and none where no finger could change the verdict."""
    assert next_finger(evidence, RULES, tries=4) == finger


def test_comparisons_of_a_passage_are_counted_over_all_fingers() -> None:
    evidence = replace(BOTH, fingers=(misses(FINGER), misses(FINGER), misses(LEFT)))
    assert next_finger(evidence, RULES, tries=4) == "left_index"
    assert next_finger(evidence, RULES, tries=3) is None


@pytest.mark.parametrize(
    ("evidence", "fmr"),
    [
        (STRICT, 1e-4),
        (BOTH, 1e-4 * 1e-3),
        (replace(BOTH, fingers=(misses(FINGER), FINGER)), 1e-4 * 2e-3),
        (replace(BOTH, fingers=(misses(LEFT), FINGER)), 1e-4 * 2e-3),
        (replace(BOTH, fingers=(replace(LEFT, result=Check.UNDETERMINED, fmr=1.0), FINGER)), 1e-4 * 1e-3),
        (replace(BOTH, earlier=(misses(LEFT), misses(LEFT), misses(FINGER))), 1e-4 * 4e-3),
        (replace(BOTH, faces=3), 3e-4 * 1e-3),
        (replace(FINGERS_ALONE, fingers=(misses(LEFT), LEFT, FINGER)), 2e-3 * 1e-3),
        (replace(FINGERS_ALONE, fingers=(misses(THUMB), LEFT, FINGER)), 3e-6),
        (SUPPORTED, 1e-2 * 1e-3),
        (FINGERS_ALONE, 1e-3 * 1e-3),
        (replace(SUPPORTED, fingers=()), None),
        (replace(STRICT, face=None), None),
        (replace(BOTH, face=replace(FACE, result=Check.FAILED, score=0.1)), 1e-3),
    ],
)
def test_the_rate_that_a_grant_stands_for(evidence: Evidence, fmr: float | None) -> None:
    assert stated_fmr(evidence, RULES) == (None if fmr is None else pytest.approx(fmr))
