"""What every rule says at its boundary: claims of small policies and made-up evidence, each of one thing.

tests/test_lane_rules.py asks each claim of the code as it is; `tests.hw_sim.mutants_policy` of every mutant of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from typing import Any

from gated.icao.check import Check
from gated.lane import entitlement, policy, proof
from gated.lane.calendar import Calendar
from gated.lane.events import CacheStand, ChipRead, Crossed, FaceCompared, FingerCompared, Permit
from gated.lane.evidence import Evidence, as_if_failed, as_if_the_last_failed
from gated.lane.freshness import Ages, Freshness, freshness, of_stand
from gated.lane.rules import (
    ENTRY,
    EXIT,
    Category,
    ControlRule,
    DocumentKind,
    History,
    Origin,
    Picture,
    Rules,
    Size,
    Urgency,
    Where,
)
from tests.play import DOCUMENT, MAY_MISS, RULES, START, THRESHOLD, TRAVELLER, WEAK
from tests.play import rules as policy_of


@dataclass(frozen=True, slots=True)
class Claim:
    """What is asked, and what must be answered. `ask` is given the policy that is in question, where one is."""

    name: str
    ask: Callable[[Rules], Any]
    expected: Any

    def holds(self, rules: Rules) -> bool:
        """Whether it is answered so. A mutant may raise anything."""
        try:
            return bool(self.ask(rules) == self.expected)
        except Exception:  # noqa: BLE001
            return False


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


def misses(finger: FingerCompared, result: Check = Check.FAILED) -> FingerCompared:
    return replace(finger, result=result, score=0.1 if result is Check.FAILED else 0.0)


NEXT_FINGER: list[tuple[Evidence, str | None]] = [
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
]

HALF = replace(FINGER, fmr=0.7)
STATED_FMR: list[tuple[Evidence, float | None]] = [
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
    (replace(BOTH, fingers=(replace(misses(FINGER), fmr=0.7), replace(FINGER, fmr=0.7))), 1e-4),
    (replace(BOTH, fingers=(replace(misses(LEFT), fmr=0.7), replace(FINGER, fmr=0.7))), 1e-4),
    (replace(FINGERS_ALONE, fingers=(misses(HALF), HALF, replace(LEFT, fmr=0.5))), 0.5),
    (replace(STRICT, face=replace(FACE, fmr=0.6), faces=2), 1.0),
    (replace(BOTH, face=replace(WEAK_FACE, score=0.1)), 1e-3),
    (replace(BOTH, face=replace(FACE, result=Check.FAILED, score=0.1)), 1e-3),
]


# -- every rule, in its place --------------------------------------------------------------------------------------

TODAY = START.date()
ONE_DAY = timedelta(days=1)


def at(day: date) -> Crossed:
    """A crossing at noon."""
    return Crossed(datetime(day.year, day.month, day.day, 12, tzinfo=UTC))


_HERE, _THERE = frozenset({"here"}), frozenset({"there"})
_ASKED = Category(
    finger=True,
    cache_until=Freshness.LATE,
    entry_permits=frozenset({"residence", "entry_permit"}),
    exit_permits=frozenset({"residence"}),
    stay="stay",
    history=History.REFER,
    abroad_years_max=2,
)
_CELLS = {
    "passport": Where(_HERE, _HERE),
    "card": Where(),
    "exit_only": Where(frozenset(), _HERE),
    "entry_only": Where(_HERE, frozenset()),
    "elsewhere": Where(_THERE, _THERE),
}
HARD = policy_of(
    {"asked": _ASKED, "over": replace(_ASKED, until=TODAY - ONE_DAY), "ending": replace(_ASKED, until=TODAY)},
    places=_HERE | _THERE,
    documents={
        "passport": DocumentKind(frozenset({"P"})),
        "card": DocumentKind(frozenset({"I"})),
        "exit_only": DocumentKind(frozenset({"E"})),
        "entry_only": DocumentKind(frozenset({"N"})),
        "elsewhere": DocumentKind(frozenset({"T"})),
    },
    matrix={"asked": _CELLS, "over": _CELLS, "ending": _CELLS},
    origins={
        "counter": Origin(frozenset({"asked", "over"})),
        "office": Origin(frozenset({"asked", "ending"}), usable_after_workdays=1, bound_within_days=30),
    },
)
"""A policy that asks for all there is to be asked."""
RESIDENCE = Permit("residence", TODAY, TODAY)
ENTRIES = Permit("entry_permit", TODAY, TODAY, 1)
_CROSSING_ON_FRIDAY = {"origin": "office", "enrolled_on": TODAY - 31 * ONE_DAY, "received_on": TODAY - ONE_DAY}
NOBODY = Evidence(opened=START, day=TODAY, direction=ENTRY, place="here", since_mono=SHUT_MONO, clock_trusted=False)
SOMEBODY = replace(
    TRAVELLER, category="unheard_of", birth=date(2020, 1, 1), height_cm=100, origin="unheard_of", fingers=()
)
"""Everything that a traveller can lack."""
_BAD_FACE = replace(FACE, persons=1, captured_mono=SHUT_MONO - 1, result=Check.FAILED, pad=Check.FAILED)
LADDER: tuple[tuple[str, Callable[[Evidence], Evidence]], ...] = (
    ("clock_is_trusted", lambda e: replace(e, clock_trusted=True)),
    ("document_in_force", lambda e: replace(e, document=replace(DOCUMENT, code="X"))),
    ("holder_is_enrolled", lambda e: replace(e, traveller=SOMEBODY)),
    ("category_is_known", lambda e: of(e, category="over")),
    ("category_is_in_force", lambda e: of(e, category="asked")),
    ("cache_is_recent_enough", lambda e: replace(e, cache=CURRENT.cache)),
    ("document_is_known", lambda e: replace(e, document=replace(DOCUMENT, code="I"))),
    ("document_fits_category", lambda e: replace(e, document=replace(DOCUMENT, code="E"))),
    ("document_fits_direction", lambda e: replace(e, document=replace(DOCUMENT, code="T"))),
    ("document_fits_place", lambda e: replace(e, document=DOCUMENT)),
    ("old_enough", lambda e: of(e, birth=date(2016, 11, 20))),
    ("tall_enough", lambda e: of(e, height_cm=120)),
    ("enrolment_fits_category", lambda e: of(e, origin="office", usable_from=TODAY + ONE_DAY)),
    ("enrolment_is_bound", lambda e: of(e, **{**_CROSSING_ON_FRIDAY, "enrolled_on": TODAY - 31 * ONE_DAY})),
    ("enrolment_is_usable", lambda e: of(e, usable_from=TODAY)),
    ("enrolled_as_demanded", lambda e: of(e, fingers=("right_index",))),
    ("permits_are_valid", lambda e: of(e, permits=(RESIDENCE, replace(ENTRIES, entries_left=0)))),
    ("entries_are_left", lambda e: of(e, permits=(RESIDENCE, ENTRIES), entered=at(TODAY - ONE_DAY))),
    ("not_inside_already", lambda e: of(e, entered=None, left=at(date(2023, 11, 20)))),
    ("not_abroad_too_long", lambda e: of(e, left=at(date(2024, 11, 20)))),
    ("fingers_can_be_taken", lambda e: replace(e, finger_reader=True)),
    ("chip_is_genuine", lambda e: replace(e, chip=chip(GOOD, GOOD))),
    ("face_is_alone", lambda e: replace(e, face=_BAD_FACE)),
    ("face_is_fresh", lambda e: _face(e, captured_mono=SHUT_MONO)),
    ("face_matches", lambda e: _face(e, result=GOOD)),
    ("face_is_live", lambda e: _face(e, pad=GOOD)),
    ("finger_matches_where_demanded", lambda e: replace(e, fingers=(replace(FINGER, pad=Check.FAILED),))),
    ("finger_is_live", lambda e: replace(e, fingers=(FINGER,))),
    ("document_is_not_flagged", lambda e: replace(e, document_flags=frozenset())),
    ("holder_is_not_flagged", lambda e: replace(e, flags=frozenset())),
)
"""Each rule, and what mends it. Whoever breaks this rule and every later one that can be broken is referred by this
one: so the rules are asked in this order. What is asked on exit alone is on `OUTWARD`."""


def _face(e: Evidence, **change: Any) -> Evidence:
    assert e.face is not None
    return replace(e, face=replace(e.face, **change))


def ladder() -> Iterator[tuple[str, Evidence]]:
    """What somebody looks like who is refused by each rule in turn; at last, one who passes."""
    e = replace(NOBODY, document_flags=frozenset({"stolen"}), flags=frozenset({"wanted"}))
    for rule, mend in LADDER:
        yield rule, e
        e = mend(e)
    yield "all_rules_kept", e


INWARD = dict(ladder())["all_rules_kept"]
"""Somebody who enters, and of whom everything was asked."""
OUTWARD = replace(
    of(INWARD, permits=(RESIDENCE, Permit("stay", TODAY, TODAY)), entered=at(TODAY), left=at(TODAY - ONE_DAY)),
    direction=EXIT,
)
"""Somebody who leaves."""
IN_HASTE = replace(OUTWARD, finger_reader=False)
"""Who leaves, and breaks what is asked after the history."""
LEAVING: list[tuple[str, Evidence]] = [
    ("all_rules_kept", OUTWARD),
    ("fingers_can_be_taken", IN_HASTE),
    ("permits_are_valid", of(IN_HASTE, permits=(Permit("stay", TODAY, TODAY),))),
    ("permits_are_valid", of(IN_HASTE, permits=(), entered=None)),
    ("stay_not_exceeded", of(IN_HASTE, permits=(RESIDENCE,), entered=None)),
    ("stay_not_exceeded", of(IN_HASTE, permits=(RESIDENCE, Permit("stay", TODAY, TODAY - ONE_DAY)))),
    ("entered_before", of(IN_HASTE, entered=None)),
    ("entered_before", of(IN_HASTE, entered=None, left=None)),
    ("entered_before", of(IN_HASTE, entered=at(TODAY - ONE_DAY))),
    ("entered_before", of(IN_HASTE, entered=at(TODAY - 2 * ONE_DAY))),
    ("document_is_of_the_entry", of(IN_HASTE, entered=replace(at(TODAY), this_document=False))),
    ("document_fits_direction", replace(OUTWARD, document=replace(DOCUMENT, code="N"))),
    ("all_rules_kept", replace(OUTWARD, document=replace(DOCUMENT, code="E"))),
    ("all_rules_kept", of(OUTWARD, left=None)),
    ("holder_is_not_flagged", replace(OUTWARD, flags=frozenset({"wanted"}))),
]
ENTERING: list[tuple[str, Evidence]] = [
    ("all_rules_kept", replace(INWARD, document=replace(DOCUMENT, code="N"))),
    ("document_fits_direction", replace(INWARD, document=replace(DOCUMENT, code="E"))),
    ("all_rules_kept", of(INWARD, permits=(RESIDENCE, replace(ENTRIES, entries_left=None)))),
    ("all_rules_kept", of(INWARD, permits=(replace(RESIDENCE, end=TODAY - ONE_DAY), RESIDENCE, ENTRIES))),
    ("permits_are_valid", of(INWARD, permits=(ENTRIES,))),
    ("permits_are_valid", of(INWARD, permits=(RESIDENCE, replace(ENTRIES, start=TODAY + ONE_DAY)))),
    ("permits_are_valid", of(INWARD, permits=(RESIDENCE, replace(ENTRIES, end=TODAY - ONE_DAY)))),
    ("entries_are_left", of(INWARD, permits=(RESIDENCE, replace(ENTRIES, entries_left=0)))),
    ("not_inside_already", of(INWARD, left=None, entered=at(date(2026, 11, 1)))),
    ("not_inside_already", of(INWARD, left=at(date(2020, 1, 1)), entered=at(date(2026, 11, 1)))),
    ("not_abroad_too_long", of(INWARD, left=at(date(2024, 11, 19)))),
    ("not_abroad_too_long", of(INWARD, left=at(date(2024, 10, 21)))),
    ("not_abroad_too_long", of(INWARD, left=at(date(2023, 12, 31)))),
    ("not_abroad_too_long", of(INWARD, left=at(date(2024, 11, 19)), entered=at(date(2024, 11, 1)))),
    ("all_rules_kept", of(INWARD, left=at(date(2024, 12, 1)))),
    ("all_rules_kept", of(INWARD, left=None)),
    ("enrolment_is_bound", of(INWARD, enrolled_on=TODAY - 32 * ONE_DAY)),
    ("enrolment_is_bound", of(INWARD, enrolled_on=TODAY)),
    ("all_rules_kept", of(INWARD, enrolled_on=TODAY - ONE_DAY)),
    ("enrolment_is_bound", of(INWARD, enrolled_on=None)),
    ("enrolment_is_bound", of(INWARD, received_on=None)),
    ("enrolment_is_usable", of(INWARD, enrolled_on=TODAY, received_on=TODAY)),
    ("enrolment_is_usable", of(INWARD, usable_from=TODAY + ONE_DAY)),
    ("all_rules_kept", of(INWARD, usable_from=None)),
    ("all_rules_kept", of(INWARD, usable_from=TODAY - 9 * ONE_DAY)),
    ("all_rules_kept", of(INWARD, origin="counter", enrolled_on=None, received_on=None, usable_from=None)),
    ("all_rules_kept", of(INWARD, origin="counter", received_on=TODAY, usable_from=None)),
    ("enrolment_is_usable", of(INWARD, origin="counter", usable_from=TODAY + ONE_DAY)),
    ("tall_enough", of(INWARD, height_cm=119)),
    ("tall_enough", of(INWARD, height_cm=None)),
    ("enrolled_as_demanded", of(INWARD, face=False)),
    ("all_rules_kept", of(INWARD, category="ending")),
    ("category_is_in_force", replace(of(INWARD, category="ending"), day=TODAY + ONE_DAY)),
]


def _reason(e: Evidence, hard: Rules) -> tuple[str, str, str]:
    verdict = policy.judge(e, hard)
    return verdict.decision.value, verdict.reason, verdict.rules


def _judged(name: str, e: Evidence, by: Rules, reason: str) -> Claim:
    decision = "grant" if reason == "all_rules_kept" else "refer"
    return Claim(name, lambda _: _reason(e, by), (decision, reason, "test-1"))


def _refused(name: str, e: Evidence, by: Rules, reason: str | None) -> Claim:
    return Claim(name, lambda _: policy.refusal(e, by), reason)


GRANTED = {
    "strict": STRICT,
    "lenient": LENIENT,
    "both": BOTH,
    "supported": SUPPORTED,
    "fingers": FINGERS_ALONE,
    "current": CURRENT,
}


def _verdicts() -> Iterator[Claim]:
    for name, e in GRANTED.items():
        yield _judged(f"grant: {name}", e, RULES, "all_rules_kept")
    for reason, cases in REFERRED.items():
        for name, e in cases:
            yield _judged(f"{reason}: {name}", e, RULES, reason)
    for reason, e in ladder():
        yield _judged(f"order: {reason}", e, HARD, reason)
    for number, (reason, e) in enumerate(LEAVING):
        yield _judged(f"leaving {number}: {reason}", e, HARD, reason)
    for number, (reason, e) in enumerate(ENTERING):
        yield _judged(f"entering {number}: {reason}", e, HARD, reason)
    entry = [rule for rule, _ in LADDER[: [rule for rule, _ in LADDER].index("chip_is_genuine")]]
    for reason, e in ladder():
        yield _refused(f"before entry: {reason}", e, HARD, reason if reason in entry else None)


# -- rules alone, and what they are made of ------------------------------------------------------------------------

NOTHING = Evidence(opened=START)
"""Nothing is known: what a rule says of it, asked alone, as `gated policy explain` does."""
KEPT_BY_NOTHING = frozenset(
    {
        "category_is_in_force",
        "clock_is_trusted",
        "document_is_not_flagged",
        "document_is_of_the_entry",
        "entered_before",
        "entries_are_left",
        "fingers_can_be_taken",
        "not_abroad_too_long",
        "not_inside_already",
        "permits_are_valid",
        "stay_not_exceeded",
    }
)
BORN_ON_29_FEBRUARY = date(2016, 2, 29)


def _alone() -> Iterator[Claim]:
    names = [rule.__name__ for rule in policy.BEFORE_EXIT]
    found = {name: getattr(policy, name) for name in names}
    for by, which in ((RULES, "small"), (HARD, "hard")):
        for name, rule in found.items():
            at_all = name != "cache_is_recent_enough"  # of nobody's category any age will do
            kept = name in KEPT_BY_NOTHING or not at_all
            yield Claim(
                f"alone: {name} of nothing ({which})", partial(lambda _, r, b: r(NOTHING, b), r=rule, b=by), kept
            )
    ways = {"entered_before": INWARD, "not_inside_already": OUTWARD, "not_abroad_too_long": OUTWARD}
    ways |= {"document_is_of_the_entry": INWARD, "entries_are_left": OUTWARD, "stay_not_exceeded": INWARD}
    for name, e in ways.items():
        bad = of(e, permits=(), left=at(date(2000, 1, 1)), entered=None)
        yield Claim(f"alone: {name} the other way", partial(lambda _, r, e: r(e, HARD), r=found[name], e=bad), True)
    lone: tuple[tuple[str, Evidence, Rules, bool], ...] = (
        ("document_is_known", replace(STRICT, document=None), RULES, False),
        ("document_fits_category", replace(STRICT, document=None), RULES, False),
        ("document_fits_category", of(STRICT, category="unheard_of"), RULES, False),
        ("document_fits_category", replace(STRICT, traveller=None), RULES, False),
        ("old_enough", replace(STRICT, traveller=None), RULES, False),
        ("tall_enough", replace(STRICT, traveller=None), RULES, False),
        ("enrolment_is_bound", replace(INWARD, traveller=None), HARD, False),
        ("enrolment_is_bound", of(INWARD, origin="unheard_of"), HARD, False),
        ("enrolment_is_usable", replace(INWARD, traveller=None), HARD, False),
        ("enrolment_is_usable", of(INWARD, origin="unheard_of"), HARD, False),
        ("enrolment_is_usable", of(INWARD, received_on=date(2027, 12, 31), usable_from=None), HARD, False),
        ("enrolment_is_usable", of(INWARD, received_on=None, usable_from=None), HARD, True),
        ("enrolment_is_usable", of(INWARD, received_on=None, usable_from=TODAY + ONE_DAY), HARD, False),
        ("enrolled_as_demanded", replace(INWARD, traveller=None), HARD, False),
        ("enrolled_as_demanded", of(STRICT, face=False), RULES, False),
        ("enrolled_as_demanded", of(LENIENT, face=False), RULES, True),
        ("fingers_can_be_taken", replace(BOTH, finger_reader=False), RULES, False),
        ("fingers_can_be_taken", replace(LENIENT, finger_reader=False), RULES, True),
        ("fingers_can_be_taken", replace(SUPPORTED, finger_reader=False), RULES, True),
        ("fingers_can_be_taken", replace(FINGERS_ALONE, finger_reader=False), RULES, False),
        ("permits_are_valid", replace(INWARD, traveller=None), HARD, True),
        ("chip_is_genuine", replace(STRICT, traveller=None), RULES, False),
        ("chip_is_genuine", replace(STRICT, chip=None), RULES, False),
        ("chip_is_genuine", replace(STRICT, chip=chip(GOOD, GOOD, NONE)), RULES, True),
        ("chip_is_genuine", replace(LENIENT, chip=chip(GOOD, GOOD, Check.FAILED)), RULES, False),
        ("chip_is_genuine", replace(STRICT, chip=chip(GOOD, GOOD, Check.UNDETERMINED)), RULES, False),
        ("face_is_alone", replace(FINGERS_ALONE, face=None), RULES, True),
        ("face_is_alone", replace(STRICT, face=None), RULES, False),
        ("face_is_fresh", replace(FINGERS_ALONE, face=None), RULES, True),
        ("face_is_fresh", replace(STRICT, face=None), RULES, False),
        ("face_is_fresh", replace(STRICT, since_mono=SHUT_MONO + 0.001), RULES, False),
        ("face_matches", replace(STRICT, face=None), RULES, False),
        ("face_matches", replace(STRICT, traveller=None, face=WEAK_FACE), RULES, False),
        ("face_is_live", replace(STRICT, traveller=None), RULES, False),
        ("face_is_live", replace(STRICT, face=None), RULES, False),
        ("face_is_live", replace(FINGERS_ALONE, face=None), RULES, True),
        ("finger_matches_where_demanded", replace(BOTH, traveller=None), RULES, False),
        ("finger_matches_where_demanded", replace(STRICT, fingers=()), RULES, True),
        ("finger_is_live", replace(BOTH, traveller=None), RULES, False),
        ("finger_is_live", replace(of(BOTH, category="strict_spouse"), fingers=(FINGER,)), RULES, True),
        ("finger_is_live", replace(of(BOTH, category="strict_spouse"), fingers=(misses(NO_PAD),)), RULES, True),
        ("finger_is_live", replace(STRICT, fingers=(NO_PAD,)), RULES, True),
        ("finger_is_live", replace(of(BOTH, category="strict_spouse"), fingers=(misses(NO_PAD), FINGER)), RULES, True),
        ("finger_is_live", replace(of(BOTH, category="strict_spouse"), fingers=(NO_PAD, FINGER)), RULES, False),
        ("holder_is_not_flagged", replace(STRICT, traveller=None), RULES, False),
        ("holder_is_not_flagged", STRICT, RULES, True),
        ("document_is_not_flagged", replace(STRICT, document_flags=frozenset({"lost"})), RULES, False),
    )
    for number, (name, e, by, kept) in enumerate(lone):
        yield Claim(f"alone {number}: {name}", partial(lambda _, r, e, b: r(e, b), r=found[name], e=e, b=by), kept)
    for born, day, years in (
        (date(2016, 11, 20), date(2026, 11, 20), 10),
        (date(2016, 11, 21), date(2026, 11, 20), 9),
        (date(2016, 12, 1), date(2026, 11, 30), 9),
        (BORN_ON_29_FEBRUARY, date(2026, 2, 28), 9),
        (BORN_ON_29_FEBRUARY, date(2026, 3, 1), 10),
        (date(2016, 12, 31), date(2026, 1, 1), 9),
        (date(2017, 1, 1), date(2026, 12, 31), 9),
    ):
        e = replace(of(STRICT, birth=born), day=day)
        told = f"ten years: born {born}, on {day}"
        yield Claim(told, partial(lambda _, e: found["old_enough"](e, RULES), e=e), years >= 10)


CALENDAR = Calendar(
    date(2026, 12, 31), days_off=frozenset({date(2026, 11, 23)}), workdays=frozenset({date(2026, 11, 29)})
)
"""Monday 23 November is off, Sunday 29 is worked."""
CROSSINGS: list[tuple[str, tuple[Any, ...], tuple[str, ...]]] = [
    (ENTRY, (None, None), ()),
    (ENTRY, (at(TODAY), None), ("double_entry",)),
    (ENTRY, (None, at(TODAY)), ()),
    (ENTRY, (at(TODAY), at(TODAY - ONE_DAY)), ("double_entry",)),
    (ENTRY, (at(TODAY), at(TODAY)), ()),
    (ENTRY, (replace(at(TODAY), this_document=False), None), ("double_entry",)),
    (ENTRY, (at(TODAY - ONE_DAY), at(TODAY)), ()),
    (EXIT, (None, None), ("exit_without_entry",)),
    (EXIT, (at(TODAY), None), ()),
    (EXIT, (None, at(TODAY)), ("exit_without_entry",)),
    (EXIT, (at(TODAY), at(TODAY - ONE_DAY)), ()),
    (EXIT, (at(TODAY), at(TODAY)), ("exit_without_entry",)),
    (EXIT, (replace(at(TODAY), this_document=False), None), ("other_document",)),
    (EXIT, (replace(at(TODAY - ONE_DAY), this_document=False), at(TODAY)), ("exit_without_entry",)),
]
AGES = Ages(600, 3600, 86400)
AS_OF: list[tuple[float | None, Freshness]] = [
    (0, Freshness.FRESH),
    (599, Freshness.FRESH),
    (600, Freshness.LATE),
    (3599, Freshness.LATE),
    (3600, Freshness.STALE),
    (86399, Freshness.STALE),
    (86400, Freshness.EXPIRED),
    (-1, Freshness.FRESH),
    (-300, Freshness.FRESH),
    (-300.5, Freshness.EXPIRED),
    (None, Freshness.EXPIRED),
]
CONTROLLED = policy_of(
    {"national": RULES.categories["national"]},
    places=frozenset({"here", "there"}),
    controls={
        "exit_ban": ControlRule(frozenset({EXIT}), urgency=Urgency.ATTENTION),
        "local": ControlRule(places=frozenset({"there"}), urgency=Urgency.ATTENTION),
        "conscript": ControlRule(unless_permit="leave", urgency=Urgency.ATTENTION),
        "wanted": ControlRule(),
        "slow": ControlRule(urgency=Urgency.ROUTINE),
    },
    document_controls={"lost": Urgency.ATTENTION, "torn": Urgency.ROUTINE},
)
LEAVE = Permit("leave", TODAY, TODAY, 0)
"""Used up, were it of the kind that is (O2: usable many times)."""


NAMELESS = Permit("", TODAY, TODAY)
"""Of no kind: it lifts nothing, also not where no kind of permit is named."""


def _controls() -> Iterator[Claim]:
    cases: tuple[tuple[str, Evidence, tuple[str, ...], str], ...] = (
        ("none", LENIENT, (), ""),
        ("of the look-up", of(LENIENT, flags=frozenset({"wanted"})), ("wanted",), "urgent"),
        ("read again", replace(LENIENT, flags=frozenset({"wanted"})), ("wanted",), "urgent"),
        ("both", replace(of(LENIENT, flags=frozenset({"slow"})), flags=frozenset({"wanted"})), ("slow", "wanted"), ""),
        ("unknown", of(LENIENT, flags=frozenset({"unheard_of"})), ("unheard_of",), "urgent"),
        ("the other way", of(LENIENT, flags=frozenset({"exit_ban"})), (), ""),
        ("this way", of(replace(LENIENT, direction=EXIT), flags=frozenset({"exit_ban"})), ("exit_ban",), "attention"),
        ("elsewhere", of(LENIENT, flags=frozenset({"local"})), (), ""),
        ("there", of(replace(LENIENT, place="there"), flags=frozenset({"local"})), ("local",), ""),
        ("lifted", of(LENIENT, flags=frozenset({"conscript"}), permits=(LEAVE,)), (), ""),
        ("not lifted", of(LENIENT, flags=frozenset({"conscript"})), ("conscript",), "attention"),
        ("slow", of(LENIENT, flags=frozenset({"slow"})), ("slow",), "routine"),
        ("wrong permit", of(LENIENT, flags=frozenset({"conscript"}), permits=(RESIDENCE,)), ("conscript",), ""),
        ("of nobody, liftable", replace(NOTHING, flags=frozenset({"conscript"}), direction=ENTRY), ("conscript",), ""),
        ("nameless permit", of(LENIENT, flags=frozenset({"wanted"}), permits=(NAMELESS,)), ("wanted",), ""),
        ("of nobody", replace(NOTHING, direction=ENTRY, flags=frozenset({"wanted"})), ("wanted",), ""),
    )
    for name, e, counting, urgency in cases:
        yield Claim(f"controls: {name}", partial(lambda _, e: policy.controls_that_count(e, CONTROLLED), e=e), counting)
        if urgency:
            yield Claim(
                f"controls, urgency: {name}", partial(lambda _, e: policy.judge(e, CONTROLLED).urgency, e=e), urgency
            )
    mixed = replace(LENIENT, document_flags=frozenset({"torn", "lost"}))
    flagged = of(mixed, flags=frozenset({"wanted"}))
    asked = (
        ("document_is_not_flagged", mixed, Urgency.ATTENTION),
        ("document_is_not_flagged", replace(LENIENT, document_flags=frozenset({"torn"})), Urgency.ROUTINE),
        ("document_is_not_flagged", replace(LENIENT, document_flags=frozenset({"unheard_of"})), Urgency.URGENT),
        ("document_is_not_flagged", flagged, Urgency.URGENT),
        ("tailgate", flagged, Urgency.URGENT),
        ("tailgate", mixed, Urgency.ATTENTION),
        ("tailgate", of(LENIENT, flags=frozenset({"exit_ban"})), Urgency.ROUTINE),
        ("holder_is_enrolled", replace(mixed, traveller=None), Urgency.ATTENTION),
        ("unheard_of", LENIENT, Urgency.ATTENTION),
    )
    for number, (reason, e, how) in enumerate(asked):
        told = f"urgency {number}: {reason}"
        yield Claim(told, partial(lambda _, e, r: policy.urgency(e, CONTROLLED, r), e=e, r=reason), how)
    outside = replace(of(LENIENT, left=at(TODAY)), direction=EXIT)
    inside = replace(of(LENIENT, entered=at(TODAY)), direction=EXIT)
    whole = (
        (LENIENT, ("grant", "all_rules_kept", "test-1", "", ())),
        (outside, ("grant", "all_rules_kept", "test-1", "", ("exit_without_entry",))),
        (inside, ("grant", "all_rules_kept", "test-1", "", ())),
        (replace(outside, chip=None), ("refer", "chip_is_genuine", "test-1", "routine", ("exit_without_entry",))),
    )
    for number, (e, told_whole) in enumerate(whole):
        yield Claim(f"verdict {number}", partial(lambda _, e: _whole(policy.judge(e, CONTROLLED)), e=e), told_whole)
    told_late = ("refer", "tailgate", "test-1", "routine", ("exit_without_entry",))
    yield Claim("referred", lambda _: _whole(policy.referred(outside, CONTROLLED, "tailgate")), told_late)


def _whole(verdict: Any) -> tuple[Any, ...]:
    return verdict.decision.value, verdict.reason, verdict.rules, verdict.urgency, verdict.notes


def _parts() -> Iterator[Claim]:
    """Arithmetic under the rules."""
    for number, (e, finger) in enumerate(NEXT_FINGER):
        yield Claim(f"next finger {number}", partial(lambda _, e: proof.next_finger(e, RULES, 4), e=e), finger)
    three = replace(BOTH, fingers=(misses(FINGER), misses(FINGER), misses(LEFT)))
    yield Claim("three of four tries", lambda _: proof.next_finger(three, RULES, 4), "left_index")
    yield Claim("three of three tries", lambda _: proof.next_finger(three, RULES, 3), None)
    for number, (e, fmr) in enumerate(STATED_FMR):
        yield Claim(
            f"stated FMR {number}", partial(lambda _, e: _rounded(proof.stated_fmr(e, RULES)), e=e), _rounded(fmr)
        )
    needed = (("nothing", NOTHING, 0, 0), ("face", LENIENT, 0, 0), ("both", BOTH, 1, 1), ("weak", SUPPORTED, 1, 0))
    for name, e, now, at_most in (*needed, ("no face", FINGERS_ALONE, 2, 2), ("unknown", SOMEBODY_UNKNOWN, 0, 0)):
        yield Claim(f"fingers needed: {name}", partial(lambda _, e: proof.fingers_needed(e, RULES), e=e), now)
        yield Claim(
            f"fingers at most: {name}", partial(lambda _, e: proof.fingers_needed_at_most(e, RULES), e=e), at_most
        )
    for number, (direction, (entered, left), found) in enumerate(CROSSINGS):
        e = replace(of(STRICT, entered=entered, left=left), direction=direction)
        yield Claim(f"oddities {number}", partial(lambda _, e: entitlement.oddities(e), e=e), found)
    for crossed, inside in (
        ((None, None), None),
        ((at(TODAY), None), True),
        ((None, at(TODAY)), False),
        ((at(TODAY), at(TODAY - ONE_DAY)), True),
        ((at(TODAY), at(TODAY)), False),
    ):
        e = of(STRICT, entered=crossed[0], left=crossed[1])
        yield Claim(f"inside: {crossed}", partial(lambda _, e: entitlement.is_inside(e), e=e), inside)
    yield Claim("inside: nobody", lambda _: entitlement.is_inside(NOTHING), None)
    unheard = of(SUPPORTED, category="unheard_of")
    yield Claim("weak face of no category", lambda _: proof.face_is_weak(unheard, RULES), False)
    held_up = replace(SUPPORTED, fingers=(misses(FINGER, Check.UNDETERMINED), misses(LEFT)))
    yield Claim("no print is no try", lambda _: proof.next_finger(held_up, RULES, 2), "left_index")
    yield Claim("oddities of nobody", lambda _: entitlement.oddities(replace(NOTHING, direction=EXIT)), ())
    for age_s, called in AS_OF:
        as_of = None if age_s is None else START - timedelta(seconds=age_s)
        yield Claim(f"age {age_s}", partial(lambda _, a: freshness(AGES, a, START), a=as_of), called)
    yield Claim("no age asked", lambda _: freshness(None, None, START), Freshness.FRESH)
    ages = {"people": AGES, "control": AGES}
    stands = ((0, 0, Freshness.FRESH), (700, 0, Freshness.LATE), (0, 700, Freshness.LATE), (4000, 700, Freshness.STALE))
    for people_s, control_s, called in stands:
        stand = CacheStand(1, START - timedelta(seconds=people_s), 1, START - timedelta(seconds=control_s))
        yield Claim(f"stand {people_s}, {control_s}", partial(lambda _, s: of_stand(ages, s, START), s=stand), called)
    yield Claim("no stand", lambda _: of_stand(ages, None, START), Freshness.EXPIRED)
    yield Claim("no stand, none asked", lambda _: of_stand({}, None, START), Freshness.FRESH)
    yield Claim("ranks", lambda _: [each.rank for each in Freshness], [0, 1, 2, 3])
    for days, workdays in ((20, 0), (24, 1), (25, 2), (26, 3), (27, 4), (29, 5), (30, 6)):
        day = date(2026, 11, days)
        yield Claim(f"{workdays} working days", partial(lambda _, n: CALENDAR.after(TODAY, n), n=workdays), day)
    yield Claim("last day", lambda _: CALENDAR.is_workday(date(2026, 12, 31)), True)
    yield Claim("after the last day", lambda _: _raises(lambda: CALENDAR.is_workday(date(2027, 1, 1))), "CalendarEnded")
    yield from (Claim(f"no match: {name}", ask, what) for name, ask, what in _unmatched())


SOMEBODY_UNKNOWN = of(replace(BOTH, face=None), category="unheard_of", face=False)


def _unmatched() -> Iterator[tuple[str, Callable[[Rules], Any], Any]]:
    failed = replace(FINGER, result=Check.FAILED, score=0.0)
    lost = replace(LEFT, result=Check.ABORTED, score=0.7)
    no_face = replace(FACE, result=Check.FAILED, score=0.0, weak_threshold=None)
    yield "a finger", lambda _: as_if_failed(FINGER), failed
    yield "no finger", lambda _: as_if_failed(lost), lost
    cases = (
        ("last finger", replace(SUPPORTED, fingers=(LEFT, FINGER)), replace(SUPPORTED, fingers=(LEFT, failed))),
        ("nothing", NOTHING, NOTHING),
        ("face", replace(STRICT, face=replace(FACE, weak_threshold=WEAK)), replace(STRICT, face=no_face)),
    )
    for name, e, changed in cases:
        yield name, partial(lambda _, e: as_if_the_last_failed(e), e=e), changed


def _rounded(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:.6e}"


def _raises(do: Callable[[], Any]) -> str:
    """The name of what is raised, and what it says of a value."""
    try:
        do()
    except ValueError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001
        return type(error).__name__
    return ""


# -- policies that are not whole -----------------------------------------------------------------------------------

_REFER = frozenset({"refer"})
P, TWN, USA = frozenset({"P"}), frozenset({"TWN"}), frozenset({"USA"})
ALL = Category()
OVERLAPS: list[tuple[DocumentKind, DocumentKind, bool]] = [
    (DocumentKind(P), DocumentKind(frozenset({"PP"})), True),
    (DocumentKind(frozenset({"PP"})), DocumentKind(P), True),
    (DocumentKind(frozenset({"I", "P"})), DocumentKind(frozenset({"PD"})), True),
    (DocumentKind(frozenset({"PD"})), DocumentKind(frozenset({"I", "P"})), True),
    (DocumentKind(frozenset({"PD"})), DocumentKind(frozenset({"PP"})), False),
    (DocumentKind(P), DocumentKind(frozenset({"I"})), False),
    (DocumentKind(frozenset({"I"})), DocumentKind(P), False),
    (DocumentKind(frozenset({"I", "A"})), DocumentKind(frozenset({"A"})), True),
    (DocumentKind(P, TWN), DocumentKind(P, USA), False),
    (DocumentKind(P, TWN), DocumentKind(P, TWN | USA), True),
    (DocumentKind(P, TWN), DocumentKind(P, other_than=TWN), False),
    (DocumentKind(P, other_than=TWN), DocumentKind(P, TWN), False),
    (DocumentKind(P, TWN), DocumentKind(P, other_than=USA), True),
    (DocumentKind(P, other_than=USA), DocumentKind(P, TWN), True),
    (DocumentKind(P, TWN), DocumentKind(P), True),
    (DocumentKind(P), DocumentKind(P, TWN), True),
    (DocumentKind(P, other_than=TWN), DocumentKind(P, other_than=USA), True),
]
FITS: list[tuple[DocumentKind, str, str, bool]] = [
    (DocumentKind(P), "P", "TWN", True),
    (DocumentKind(P), "PD", "UTO", True),
    (DocumentKind(frozenset({"PD"})), "PP", "TWN", False),
    (DocumentKind(frozenset({"I"})), "P", "TWN", False),
    (DocumentKind(P), "I", "TWN", False),
    (DocumentKind(P, TWN), "P", "TWN", True),
    (DocumentKind(P, TWN), "P", "USA", False),
    (DocumentKind(P, other_than=TWN), "P", "TWN", False),
    (DocumentKind(P, other_than=TWN), "P", "USA", True),
]
REFUSED: list[tuple[str, Callable[[], Any], str]] = [
    ("age -1", lambda: Size(TODAY, -1, 0), "age_years_min is 0 to 120, not -1"),
    ("age 0", lambda: Size(TODAY, 0, 0), ""),
    ("age 120", lambda: Size(TODAY, 120, 250), ""),
    ("age 121", lambda: Size(TODAY, 121, 0), "age_years_min is 0 to 120, not 121"),
    ("height -1", lambda: Size(TODAY, 10, -1), "height_cm_min is 0 to 250, not -1"),
    ("height 251", lambda: Size(TODAY, 10, 251), "height_cm_min is 0 to 250, not 251"),
    ("no codes", lambda: DocumentKind(frozenset()), "codes is empty: no document would be of this kind"),
    (
        "issuers and others",
        lambda: DocumentKind(P, TWN, USA),
        "issuers and other_than contradict each other: give one of them",
    ),
    ("issuers", lambda: DocumentKind(P, TWN), ""),
    ("others", lambda: DocumentKind(P, other_than=TWN), ""),
    ("finger", lambda: Category(finger=True), ""),
    ("enrolled at 120, 250 cm", lambda: Origin(P, age_years_min=120, height_cm_min=250), ""),
    ("enrolled at 121", lambda: Origin(P, age_years_min=121), "age_years_min is 0 to 120, not 121"),
    ("enrolled at 251 cm", lambda: Origin(P, height_cm_min=251), "height_cm_min is 0 to 250, not 251"),
    (
        "over before it began",
        lambda: Category(since=TODAY, until=TODAY - ONE_DAY),
        "until is 2026-11-19, before since, 2026-11-20",
    ),
    ("one day long", lambda: Category(since=TODAY, until=TODAY), ""),
    (
        "may miss anything",
        lambda: Category(may_miss=frozenset({"face"})),
        "may_miss knows chip, face_pad, finger_pad, height, not face",
    ),
    ("may miss all", lambda: Category(may_miss=MAY_MISS), ""),
    (
        "weak face and finger",
        lambda: Category(finger=True, weak_face=True),
        "weak_face contradicts finger: where both are demanded, one cannot support the other",
    ),
    (
        "finger and fingers alone",
        lambda: Category(finger=True, fingers_alone=True),
        "fingers_alone contradicts finger: where both are demanded, none replaces the other",
    ),
    ("weak face and fingers alone", lambda: Category(weak_face=True, fingers_alone=True), ""),
    ("0 years", lambda: Category(abroad_years_max=0), "abroad_years_max is 1 to 100, not 0"),
    ("1 year", lambda: Category(abroad_years_max=1), ""),
    ("100 years", lambda: Category(abroad_years_max=100), ""),
    ("101 years", lambda: Category(abroad_years_max=101), "abroad_years_max is 1 to 100, not 101"),
    ("no direction", lambda: ControlRule(frozenset()), "directions is empty: the control would never count"),
    ("up", lambda: ControlRule(frozenset({"up", ENTRY})), "directions knows entry, exit, not up"),
    ("one direction", lambda: ControlRule(frozenset({ENTRY})), ""),
    ("-1 workdays", lambda: Origin(P, -1), "usable_after_workdays is 0 to 366, not -1"),
    ("0 workdays", lambda: Origin(P, 0, 0), ""),
    ("366 workdays", lambda: Origin(P, 366, 366), ""),
    ("367 workdays", lambda: Origin(P, 367), "usable_after_workdays is 0 to 366, not 367"),
    ("367 days", lambda: Origin(P, 1, 367), "bound_within_days is 0 to 366, not 367"),
    ("nobody is enrolled there", lambda: Origin(frozenset()), "categories is empty: nobody could be enrolled there"),
    ("workdays after what", lambda: Origin(P, 0), "usable_after_workdays counts from a passport that nobody waits for"),
    ("bound, and usable at once", lambda: Origin(P, None, 0), ""),
    ("a picture of nothing", lambda: Picture(frozenset(), 1), "on is empty: the picture would never be kept"),
    ("a picture of a release", lambda: Picture(frozenset({"release"}), 1), "on knows grant, refer, not release"),
    ("a picture of both", lambda: Picture(frozenset({"grant", "refer"}), 1), ""),
    (
        "a picture of no direction",
        lambda: Picture(_REFER, 1, frozenset()),
        "directions is empty: the picture would never be kept",
    ),
    ("a picture on the way up", lambda: Picture(_REFER, 1, frozenset({"up"})), "directions knows entry, exit, not up"),
    ("a picture on both ways", lambda: Picture(_REFER, 1, frozenset({ENTRY, EXIT})), ""),
    ("kept for 0 days", lambda: Picture(_REFER, 0), "keep_days is 1 to 366, not 0"),
    ("kept for 366 days", lambda: Picture(_REFER, 366), ""),
    ("kept for 367 days", lambda: Picture(_REFER, 367), "keep_days is 1 to 366, not 367"),
    ("late at 0", lambda: Ages(0, 1, 2), "late_s, stale_s and expired_s are above 0 and in this order"),
    ("late after stale", lambda: Ages(3, 2, 4), "late_s, stale_s and expired_s are above 0 and in this order"),
    ("stale after expired", lambda: Ages(1, 3, 2), "late_s, stale_s and expired_s are above 0 and in this order"),
    ("all at once", lambda: Ages(1, 1, 1), ""),
    (
        "a day off after the end",
        lambda: Calendar(TODAY, frozenset({TODAY + 3 * ONE_DAY})),
        "through is 2026-11-20, and 2026-11-23 is after it",
    ),
    (
        "a worked day after the end",
        lambda: Calendar(TODAY, workdays=frozenset({TODAY + ONE_DAY})),
        "through is 2026-11-20, and 2026-11-21 is after it",
    ),
    ("a day off on the last day", lambda: Calendar(TODAY, frozenset({TODAY})), ""),
    (
        "a weekend off",
        lambda: Calendar(TODAY, frozenset({date(2026, 11, 14)})),
        "days_off names 2026-11-14, which is off anyway: it is a weekend day",
    ),
    (
        "a weekday worked",
        lambda: Calendar(TODAY, workdays=frozenset({date(2026, 11, 13)})),
        "workdays names 2026-11-13, which is worked anyway: it is no weekend day",
    ),
    ("a Saturday worked", lambda: Calendar(TODAY, workdays=frozenset({date(2026, 11, 14)})), ""),
]


def _policy(**change: Any) -> Callable[[], Rules]:
    return lambda: replace(policy_of({"all": ALL}), **change)


_SIZE = Size(date(2000, 1, 1), 10, 120)
_VERSION = "version has 1 to 64 letters, digits, '.', '_' and '-': every record carries it"
_NAMED: dict[str, Any] = {
    "places": frozenset({"here"}),
    "permits": frozenset({"stay"}),
    "documents": {"passport": DocumentKind(P)},
    "categories": {"all": ALL},
    "controls": {"wanted": ControlRule()},
    "document_controls": {"lost": Urgency.ROUTINE},
    "origins": {"counter": Origin(frozenset({"all"}))},
}


def _with(known: Any, name: str) -> Any:
    """One more of a kind, of this name."""
    return known | ({name: next(iter(known.values()))} if isinstance(known, dict) else {name})


WHOLE: list[tuple[str, Callable[[], Any], str]] = [
    ("whole", _policy(), ""),
    ("no version", _policy(version=""), _VERSION),
    ("short version", _policy(version="1"), ""),
    ("longest version", _policy(version="v" * 64), ""),
    ("version too long", _policy(version="v" * 65), _VERSION),
    *((f"version {bad!r}", _policy(version=bad), _VERSION) for bad in ("v ", "v\n", "v\0", "\u7248")),
    ("version of every sort", _policy(version="aZ09._-"), ""),
    ("edition 0", _policy(edition=0), "edition is 1 or more, up to 999999999, not 0"),
    ("highest edition", _policy(edition=999_999_999), ""),
    ("edition too high", _policy(edition=1_000_000_000), "edition is 1 or more, up to 999999999, not 1000000000"),
    *(
        (f"{where}, {kind} name", _policy(**{where: _with(known, bad)}), f"{where} has {bad!r}: a name is of")
        for where, known in _NAMED.items()
        for kind, bad in (("too long a", "n" * 65), ("a capital", "Name"), ("a blank in a", "a name"), ("no", ""))
    ),
    ("longest name", _policy(places=frozenset({"here", "n_4" + "n" * 61})), ""),
    ("no fingers", _policy(fingers_alone=0), "fingers_alone is 1 to 10, not 0"),
    ("one finger", _policy(fingers_alone=1), ""),
    ("ten fingers", _policy(fingers_alone=10), ""),
    ("eleven fingers", _policy(fingers_alone=11), "fingers_alone is 1 to 10, not 11"),
    ("no place", _policy(places=frozenset()), "places is empty: there would be no lane"),
    ("no size", _policy(sizes=()), "sizes is empty: how old somebody must be is not said"),
    (
        "two sizes of a day",
        _policy(sizes=(_SIZE, _SIZE)),
        "sizes contradict each other: they are in the order of their days, one a day",
    ),
    (
        "sizes in no order",
        _policy(sizes=(replace(_SIZE, since=TODAY), _SIZE)),
        "sizes contradict each other: they are in the order of their days, one a day",
    ),
    ("sizes in order", _policy(sizes=(_SIZE, replace(_SIZE, since=TODAY))), ""),
    ("nobody", _policy(categories={}), "categories is empty: nobody would pass"),
    (
        "gap",
        _policy(matrix={"all": {}}),
        "matrix.all has a gap: it says nothing of passport; say where it may be used, or nowhere",
    ),
    (
        "no row",
        _policy(matrix={}),
        "matrix.all has a gap: it says nothing of passport; say where it may be used, or nowhere",
    ),
    (
        "nowhere",
        _policy(matrix={"all": {"passport": Where()}}),
        "matrix.all lets nobody pass anywhere: leave the category out",
    ),
    ("entry alone", _policy(matrix={"all": {"passport": Where(_HERE)}}), ""),
    ("exit alone", _policy(matrix={"all": {"passport": Where(exit=_HERE)}}), ""),
    (
        "one document of two kinds",
        _policy(
            documents={"a": DocumentKind(P), "b": DocumentKind(P)}, matrix={"all": dict.fromkeys("ab", Where(_HERE))}
        ),
        "documents.b: one document could be of this kind and a: give them other codes or issuers",
    ),
    ("partition", _policy(freshness={"fingers": AGES}), "freshness: fingers is no partition of this policy"),
    ("no ages, by any cache", _policy(freshness={}), ""),
    *(
        (
            f"no age of {partition}",
            partial(
                lambda partition: policy_of(
                    {"all": replace(ALL, cache_until=Freshness.STALE)}, freshness={partition: AGES}
                ),
                partition={"people": "control", "control": "people"}[partition],
            ),
            f"freshness has a gap: all passes until the cache is stale, and {partition} is of no age",
        )
        for partition in ("people", "control")
    ),
    ("enrolled nowhere", _policy(origins={}), "categories.all is enrolled nowhere: name it in one of origins, or"),
    (
        "category",
        _policy(matrix={"all": {"passport": Where(_HERE)}, "none": {"passport": Where(_HERE)}}),
        "matrix: none is no category of this policy",
    ),
    (
        "kind",
        _policy(matrix={"all": {"passport": Where(_HERE), "card": Where()}}),
        "matrix.all: card is no kind of document of this policy",
    ),
    (
        "place of entry",
        _policy(matrix={"all": {"passport": Where(_THERE, _HERE)}}),
        "matrix.all.passport: there is no place of this policy",
    ),
    (
        "place of exit",
        _policy(matrix={"all": {"passport": Where(_HERE, _THERE)}}),
        "matrix.all.passport: there is no place of this policy",
    ),
    *(
        (
            f"permit of {name}",
            partial(lambda change: policy_of({"all": replace(ALL, **change)}), change=change),
            "categories.all: visa is no kind of permit of this policy",
        )
        for name, change in (
            ("entry", {"entry_permits": frozenset({"visa"})}),
            ("exit", {"exit_permits": frozenset({"visa"})}),
            ("the stay", {"stay": "visa"}),
        )
    ),
    (
        "permits that are known",
        lambda: policy_of({"all": replace(ALL, stay="stay", entry_permits=frozenset({"residence"}))}),
        "",
    ),
    (
        "place of a control",
        _policy(controls={"ban": ControlRule(places=_THERE)}),
        "controls.ban: there is no place of this policy",
    ),
    (
        "permit of a control",
        _policy(controls={"ban": ControlRule(unless_permit="visa")}),
        "controls.ban: visa is no kind of permit of this policy",
    ),
    ("control of all", _policy(controls={"ban": ControlRule()}), ""),
    (
        "two kinds",
        _policy(
            documents={"a": DocumentKind(P), "b": DocumentKind(frozenset({"I"}))},
            matrix={"all": dict.fromkeys("ab", Where(_HERE))},
        ),
        "",
    ),
    ("control", _policy(controls={"ban": ControlRule(places=_HERE, unless_permit="leave")}), ""),
    ("pictures", _policy(attachments={"case_picture": Picture(_REFER, 1), "entry_face": Picture(_REFER, 1)}), ""),
    (
        "picture",
        _policy(attachments={"exit_face": Picture(_REFER, 1)}),
        "attachments: exit_face is no picture of this policy",
    ),
    (
        "category of a picture",
        _policy(attachments={"entry_face": Picture(_REFER, 1, categories=frozenset({"nobody"}))}),
        "attachments.entry_face: nobody is no category of this policy",
    ),
    ("picture of all", _policy(attachments={"entry_face": Picture(_REFER, 1, categories=frozenset({"all"}))}), ""),
    (
        "category of an origin",
        _policy(origins={"counter": Origin(frozenset({"nobody"}))}),
        "origins.counter: nobody is no category of this policy",
    ),
]
EAST = timezone(timedelta(hours=8))
SIZED = policy_of(
    {"all": ALL},
    zone=EAST,
    sizes=(Size(date(2012, 1, 1), 14, 140), Size(date(2022, 7, 22), 12, 130), Size(date(2025, 1, 1), 10, 120)),
)


PICTURED = policy_of(
    {"all": ALL, "some": ALL},
    attachments={
        "case_picture": Picture(frozenset({"refer"}), 3),
        "entry_face": Picture(frozenset({"grant", "refer"}), 5, frozenset({ENTRY}), frozenset({"some"})),
    },
)
KEPT: list[tuple[str, str, str | None, dict[str, int]]] = [
    ("refer", EXIT, None, {"case_picture": 3}),
    ("refer", ENTRY, None, {"case_picture": 3}),
    ("refer", ENTRY, "all", {"case_picture": 3}),
    ("refer", ENTRY, "some", {"case_picture": 3, "entry_face": 5}),
    ("refer", EXIT, "some", {"case_picture": 3}),
    ("grant", ENTRY, "some", {"entry_face": 5}),
    ("grant", EXIT, "some", {}),
    ("grant", ENTRY, "all", {}),
    ("grant", ENTRY, None, {}),
    ("release", ENTRY, "some", {}),
]
"""Decision, direction, category; and which pictures are kept for how many days."""


def _policies() -> Iterator[Claim]:
    for number, (one, other, overlap) in enumerate(OVERLAPS):
        yield Claim(f"overlap {number}", partial(lambda _, a, b: a.overlaps(b), a=one, b=other), overlap)
    for number, (kind, code, issuer, fits) in enumerate(FITS):
        yield Claim(f"fits {number}", partial(lambda _, k, c, i: k.fits(c, i), k=kind, c=code, i=issuer), fits)
    for name, make, told in (*REFUSED, *WHOLE):
        yield Claim(
            f"a policy that is not whole: {name}",
            partial(lambda _, m, t: _raises(m)[: len(t) or None], m=make, t=told),
            told,
        )
    for number, (decision, direction, category, kept) in enumerate(KEPT):
        yield Claim(f"pictures {number}", partial(_kept, decision, direction, category), kept)
    for day, age in (
        (date(2000, 1, 1), 14),
        (date(2012, 1, 1), 14),
        (date(2022, 7, 21), 14),
        (date(2022, 7, 22), 12),
        (date(2024, 12, 31), 12),
        (date(2025, 1, 1), 10),
    ):
        yield Claim(f"size on {day}", partial(lambda _, d: SIZED.size(d).age_years_min, d=day), age)
    evening = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)
    yield Claim("midnight there", lambda _: SIZED.day(evening), date(2026, 11, 21))
    yield Claim("before midnight there", lambda _: SIZED.day(evening - ONE_DAY / 86400), date(2026, 11, 20))
    where = Where(_HERE, _THERE)
    yield Claim("where to enter and leave", lambda _: (where.at(ENTRY), where.at(EXIT)), (_HERE, _THERE))
    permits = _ASKED
    asked = frozenset({"residence", "entry_permit"}), frozenset({"residence"})
    yield Claim("permits to enter and leave", lambda _: (permits.permits(ENTRY), permits.permits(EXIT)), asked)
    yield Claim("a kind is looked for once", lambda _: _looked_for(), 1)
    yield Claim("kinds remembered", lambda _: _remembered(), (1024, "passport", None, "passport"))
    yield Claim("what is left out: category", lambda _: Category(), _LEFT_OUT)
    given: tuple[Any, ...] = (
        DocumentKind(P, frozenset(), frozenset()),
        Where(frozenset(), frozenset()),
        ControlRule(frozenset({ENTRY, EXIT}), frozenset(), "", Urgency.URGENT),
        Origin(P, None, None, None, None),
    )
    for other in given:
        yield Claim(f"what is left out: {type(other).__name__}", partial(lambda _, o: _fresh(type(o)), o=other), other)
    yield Claim("what is left out: pictures", lambda _: policy_of({"all": ALL}).attachments, {})
    left_out = Picture(_REFER, 1, frozenset({ENTRY, EXIT}), frozenset())
    yield Claim("what is left out: Picture", lambda _: Picture(_REFER, 1), left_out)
    yield Claim("what is left out: fingers alone", lambda _: policy_of({"all": ALL}).fingers_alone, 2)


def _kept(decision: str, direction: str, category: str | None, _: Rules) -> dict[str, int]:
    return PICTURED.pictures(decision, direction, category)


_LEFT_OUT = Category(
    *(date.min, date.max, False, False, False, frozenset(), Freshness.EXPIRED),
    *(frozenset(), frozenset(), "", History.NOTE, None),
)


def _fresh(kind: type) -> Any:
    """With all left out that may be."""
    return kind(P) if kind in (DocumentKind, Origin) else kind()


class _Counted(dict[str, DocumentKind]):
    """Kinds of document, and how often somebody went through them."""

    looked = 0

    def items(self) -> Any:
        self.looked += 1
        return super().items()


def _looked_for() -> int:
    """How often the kinds are gone through for two passengers with documents of one code and issuer."""
    kinds = _Counted(passport=DocumentKind(P))
    known = policy_of({"all": ALL}, documents=kinds)
    kinds.looked = 0
    for number in ("300000001", "300000002"):
        known.kind_of(replace(DOCUMENT, number=number))
    return kinds.looked


def _remembered() -> tuple[int, str | None, str | None, str | None]:
    """What is remembered of documents is bounded, and right before and after it is forgotten."""
    known = policy_of({"all": ALL})
    codes = [chr(65 + a) + chr(65 + b) for a in range(26) for b in range(26)]
    first, most = known.kind_of(replace(DOCUMENT, code="PA")), 0
    for issuer in ("AAA", "BBB"):
        for code in codes:
            known.kind_of(replace(DOCUMENT, code=code, issuer=issuer))
            most = max(most, len(known._kinds))
    return most, first, known.kind_of(replace(DOCUMENT, code="I")), known.kind_of(replace(DOCUMENT, code="PA"))


CLAIMS = (*_verdicts(), *_alone(), *_controls(), *_parts(), *_policies())
RULE_SETS = (RULES, HARD, CONTROLLED, SIZED)
