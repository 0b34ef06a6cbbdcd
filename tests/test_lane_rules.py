"""Every rule of the policy at its boundary: evidence that grants, and the one change that does not any more."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from gated.icao.check import Check
from gated.lane.events import ChipRead, FaceCompared, FingerCompared
from gated.lane.policy import Decision, Evidence, judge, refusal, wants_finger
from tests.play import DOCUMENT, RULES, START, THRESHOLD, TRAVELLER

GOOD, NONE = Check.SUCCESSFUL, Check.NOT_SUPPORTED
NOT_PROVEN = (Check.FAILED, Check.ABORTED, Check.UNDETERMINED)
SHUT_MONO = 100.0
FACE = FaceCompared(1, 3, GOOD, THRESHOLD, THRESHOLD, 1e-4, SHUT_MONO, 1, GOOD)
FINGER = FingerCompared(1, 4, GOOD, 0.5, 0.5, 1e-4)
STRICT = Evidence(
    opened=START,
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
BOTH = replace(
    LENIENT, traveller=replace(TRAVELLER, category="spouse", fingers=("right_index",)), finger=replace(FINGER)
)
FINGER_ALONE = replace(BOTH, traveller=replace(TRAVELLER, face=False, fingers=("right_index",)), face=None)


def of(evidence: Evidence, **change: Any) -> Evidence:
    """The same evidence with another traveller."""
    assert evidence.traveller is not None
    return replace(evidence, traveller=replace(evidence.traveller, **change))


def chip(access: Check, authentic: Check, not_cloned: Check = GOOD) -> ChipRead:
    return ChipRead(1, 1, access, authentic, not_cloned)


@pytest.mark.parametrize("evidence", [STRICT, LENIENT, BOTH, FINGER_ALONE], ids=["strict", "lenient", "both", "finger"])
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
    "document_fits_category": [("identity card", replace(STRICT, document=replace(DOCUMENT, code="I")))],
    "old_enough": [
        ("the eve of the birthday", of(STRICT, birth=date(2016, 11, 21))),
        ("born later in the year", of(STRICT, birth=date(2016, 12, 1))),
    ],
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
        ("finger alone, not given", replace(FINGER_ALONE, finger=None)),
        ("finger alone, below", replace(FINGER_ALONE, finger=replace(FINGER, score=0.499))),
    ],
    "face_is_live": [
        *((each.value, replace(LENIENT, face=replace(FACE, pad=each))) for each in NOT_PROVEN),
        ("none on a lane that needs it", replace(STRICT, face=replace(FACE, pad=NONE))),
    ],
    "finger_matches_where_demanded": [
        ("not given", replace(BOTH, finger=None)),
        *((each.value, replace(BOTH, finger=replace(FINGER, result=each))) for each in (*NOT_PROVEN, NONE)),
        ("below the threshold", replace(BOTH, finger=replace(FINGER, score=0.499))),
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
    opened = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    assert (refusal(of(replace(STRICT, opened=opened), birth=birth), RULES) is None) is old_enough


def test_controls_are_not_asked_for_before_the_exit() -> None:
    """L8: who is sought walks in like anybody."""
    sought = of(replace(STRICT, document_flags=frozenset({"stolen"})), flags=frozenset({"wanted"}))
    assert refusal(sought, RULES) is None


@pytest.mark.parametrize("code", ["P", "PP", "PD", "PS"])
def test_every_passport_is_a_passport(code: str) -> None:
    assert judge(replace(STRICT, document=replace(DOCUMENT, code=code)), RULES).decision is Decision.GRANT


def test_a_finger_is_asked_for_once_and_only_where_it_can_change_the_verdict() -> None:
    assert wants_finger(replace(BOTH, finger=None), RULES)
    assert wants_finger(replace(FINGER_ALONE, finger=None), RULES)
    assert not wants_finger(BOTH, RULES)
    assert not wants_finger(of(replace(LENIENT, finger=None), fingers=("right_index",)), RULES)
    assert not wants_finger(of(replace(BOTH, finger=None), fingers=()), RULES)
