"""What Taiwan's policy must say, stated anew from its sources and nowhere computed from the policy file.

Three sorts: the policy's own examples, the passengers of `tests.policy_table`, and sweeps over every cell of the
matrix, every day of the calendar, every control, permit and reason. tests/test_lane_rules.py asks each of
config/policy/tw.toml as it is; `tests.hw_sim.mutants_policy` of every mutant of it. The evidence is of the policy as it
is: a mutant must not make the document that it then refuses."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from gated.icao.check import Check
from gated.lane import policy
from gated.lane.calendar import CalendarEnded
from gated.lane.evidence import Evidence
from gated.lane.freshness import Freshness, freshness
from gated.lane.rules import ENTRY, EXIT, Rules
from gated.lane.specimen import Pass, Specimen, evidence_of
from gated.policyfile import load_policy
from tests.policy_table import DOCUMENT, PERMITS, PLACES, TABLE, URGENCY, WITH_FINGERS, Row
from tests.rule_claims import Claim

PATH = Path(__file__).resolve().parents[1] / "config" / "policy" / "tw.toml"
POLICY = load_policy(PATH)
LAW = POLICY.rules
DAY = date(2026, 11, 20)
ONE_DAY = timedelta(days=1)
BOTH_WAYS = (ENTRY, EXIT)


def _said(e: Evidence, rules: Rules) -> str:
    verdict = policy.judge(e, rules)
    return "pass" if verdict.reason == "all_rules_kept" else verdict.reason


def _examples() -> Iterator[Claim]:
    for number, example in enumerate(POLICY.examples, 1):
        e = evidence_of(example, LAW)
        yield Claim(f"example {number}: {example.says}", partial(_said, e), example.expect)


def _whole(e: Evidence, rules: Rules) -> tuple[object, ...]:
    verdict = policy.judge(e, rules)
    return verdict.decision.value, verdict.reason, verdict.urgency, verdict.notes


def _of_specimen(row: Row) -> bool:
    """Whether a specimen alone says all of them, under the law as it is."""
    return not row.law and row.enrolled and row.is_known_kind and not row.weak_face and row.renewed != "alone"


def _table() -> Iterator[Claim]:
    for row in TABLE:
        if _of_specimen(row):
            reason = "all_rules_kept" if row.passes else row.expect
            told = ("grant" if row.passes else "refer", reason, row.urgency, row.notes)
            yield Claim(f"table: {row.name}", partial(_whole, evidence_of(row, LAW)), told)


# -- the matrix: who may show what, where, which way (W1, W3, W5, W6, L7, L11) --------------------------------------

MAY_SHOW = {(category, document): frozenset(PLACES) for category, document in DOCUMENT.items()}
MAY_SHOW |= {("national", "kinmen_permit"): frozenset({"kinmen_shuitou"})}
MAY_SHOW |= {("diplomat", "residence_certificate"): frozenset(PLACES)}
LEAVES_ONLY = frozenset({"foreign_visitor"})


def somebody(category: str, direction: str, **said: Any) -> Specimen:
    """Of this category, with all that it needs."""
    given: dict[str, Any] = {
        "document": DOCUMENT[category],
        "place": "taoyuan_t1",
        "on": DAY,
        "origin": "entry" if category == "foreign_visitor" else "counter",
        "permits": PERMITS.get(category, ()),
        "fingers_enrolled": 2 if category in WITH_FINGERS else 0,
        "chip": Check.SUCCESSFUL,
        "entered" if direction == EXIT else "left": DAY - 30 * ONE_DAY,
    }
    return Specimen(**{"category": category, "direction": direction, **given, **said})


def _matrix() -> Iterator[Claim]:
    for category, document, direction in product(DOCUMENT, LAW.documents, BOTH_WAYS):
        may = MAY_SHOW.get((category, document), frozenset())
        here = frozenset() if category in LEAVES_ONLY and direction == ENTRY else may
        base = evidence_of(somebody(category, direction, document=document), LAW)
        wrong = "document_fits_place" if here else "document_fits_direction" if may else "document_fits_category"
        expected = {place: "pass" if place in here else wrong for place in PLACES}
        yield Claim(f"matrix: {category}, {document}, {direction}", partial(_by_place, base), expected)


def _by_place(e: Evidence, rules: Rules) -> dict[str, str]:
    return {place: _said(replace(e, place=place), rules) for place in PLACES}


# -- documents: codes and issuers ----------------------------------------------------------------------------------

KINDS = {
    ("P", "TWN"): "passport_tw",
    ("PD", "TWN"): "passport_tw",
    ("PP", "TWN"): "passport_tw",
    ("P", "UTO"): "passport_foreign",
    ("PP", "USA"): "passport_foreign",
    ("P", "CHN"): "passport_foreign",
    ("IK", "TWN"): "kinmen_permit",
    ("I", "TWN"): "residence_certificate",
    ("AR", "TWN"): "residence_certificate",
    ("IR", "TWN"): "residence_certificate",
    ("ID", "TWN"): "diplomatic_card",
    ("IP", "TWN"): "exit_entry_permit",
    ("C", "TWN"): "exit_entry_permit",
}
CODES = ("P", "PD", "PP", "IK", "I", "AR", "IR", "ID", "IP", "C", "V", "AC", "A")
ISSUERS = ("TWN", "USA", "CHN", "UTO")


def _kind(code: str, issuer: str, rules: Rules) -> str | None:
    document = evidence_of(somebody("national", EXIT), LAW).document
    assert document is not None
    return rules.kind_of(replace(document, code=code, issuer=issuer))


def _documents() -> Iterator[Claim]:
    for code, issuer in product(CODES, ISSUERS):
        foreign = "passport_foreign" if code.startswith("P") and issuer != "TWN" else None
        yield Claim(f"document {code} {issuer}", partial(_kind, code, issuer), KINDS.get((code, issuer), foreign))


# -- working days, as announced: each span from its first to its last day off ---------------------------------------

SPANS_OFF = (
    *(("2026-01-01", "2026-01-01"), ("2026-02-14", "2026-02-22"), ("2026-02-27", "2026-03-01")),
    *(("2026-04-03", "2026-04-06"), ("2026-05-01", "2026-05-03"), ("2026-06-19", "2026-06-21")),
    *(("2026-09-25", "2026-09-28"), ("2026-10-09", "2026-10-11"), ("2026-10-24", "2026-10-26")),
    *(("2026-12-25", "2026-12-27"), ("2027-01-01", "2027-01-03"), ("2027-02-04", "2027-02-10")),
    *(("2027-02-27", "2027-03-01"), ("2027-04-03", "2027-04-06"), ("2027-04-30", "2027-05-02")),
    *(("2027-06-09", "2027-06-09"), ("2027-09-15", "2027-09-15"), ("2027-09-28", "2027-09-28")),
    *(("2027-10-09", "2027-10-11"), ("2027-10-23", "2027-10-25"), ("2027-12-24", "2027-12-26")),
)
LAST_KNOWN = date(2027, 12, 31)


def _days(first: date, last: date) -> Iterator[date]:
    return (date.fromordinal(each) for each in range(first.toordinal(), last.toordinal() + 1))


def _is_worked(day: date) -> bool:
    off = any(date.fromisoformat(first) <= day <= date.fromisoformat(last) for first, last in SPANS_OFF)
    return not off and day.isoweekday() <= 5


def _calendar() -> Iterator[Claim]:
    for year, month in product((2026, 2027), range(1, 13)):
        first = date(year, month, 1)
        days = [day for day in _days(first, first + 30 * ONE_DAY) if day.month == month]
        expected = [_is_worked(day) for day in days]
        yield Claim(f"working days of {year}-{month:02}", partial(_worked, days), expected)
    yield Claim("the last day that is known", lambda rules: _known(rules, LAST_KNOWN), True)
    yield Claim("the first day that is not", lambda rules: _known(rules, LAST_KNOWN + ONE_DAY), False)


def _worked(days: Iterable[date], rules: Rules) -> list[bool]:
    return [rules.calendar.is_workday(day) for day in days]


def _known(rules: Rules, day: date) -> bool:
    try:
        rules.calendar.is_workday(day)
    except CalendarEnded:
        return False
    return True


# -- controls (W7, W8, O2, O3, O5, O9) -----------------------------------------------------------------------------

COUNTS = {
    "wanted": (BOTH_WAYS, PLACES, "", "urgent"),
    "exit_ban": ((EXIT,), PLACES, "", "urgent"),
    "entry_ban": ((ENTRY,), PLACES, "", "urgent"),
    "abroad_over_two_years": ((ENTRY,), PLACES, "", "attention"),
    "cannot_operate": (BOTH_WAYS, PLACES, "", "routine"),
    "security_cleared": ((EXIT,), PLACES, "security_approval", "attention"),
    "conscript": ((EXIT,), PLACES, "military_leave", "attention"),
    "public_office": ((EXIT,), ("kinmen_shuitou",), "mainland_travel", "attention"),
}
"""Which way and where each counts, what lifts it, and how much it matters."""
KINDS_OF_PERMIT = frozenset(
    {"residence", "reentry", "multiple_entry", "entry_permit", "stay"}
    | {"military_leave", "security_approval", "mainland_travel"}
)
DOCUMENT_FLAGS = {"lost": "attention", "stolen": "urgent", "invalid": "attention", "unheard_of": "urgent"}


def _controls() -> Iterator[Claim]:
    for flag, (ways, places, _, how) in COUNTS.items():
        for direction in BOTH_WAYS:
            base = evidence_of(somebody("national", direction, controls=(flag,)), LAW)
            counts = {p: "holder_is_not_flagged" if direction in ways and p in places else "pass" for p in PLACES}
            yield Claim(f"control {flag}, {direction}", partial(_by_place, base), counts)
        yield Claim(f"urgency of {flag}", partial(_urgency, evidence_of(_flagged(flag), LAW)), how)
    for flag in COUNTS:
        for permit in sorted(KINDS_OF_PERMIT):
            e = evidence_of(replace(_flagged(flag), permits=(Pass(permit, DAY, DAY, 0),)), LAW)
            says = "pass" if permit == COUNTS[flag][2] else "holder_is_not_flagged"
            yield Claim(f"control {flag} and {permit}", partial(_said, e), says)
    for flag, how in DOCUMENT_FLAGS.items():
        e = evidence_of(somebody("national", EXIT, document_controls=(flag,)), LAW)
        told = ("refer", "document_is_not_flagged", how, ())
        yield Claim(f"document {flag}", partial(_whole, e), told)


def _flagged(flag: str) -> Specimen:
    ways, places, _, _ = COUNTS[flag]
    return somebody("national", ways[-1], controls=(flag,), place=places[0])


def _urgency(e: Evidence, rules: Rules) -> str:
    return policy.judge(e, rules).urgency


# -- permits, what may be missing, how old a cache may be (W3, W4, O1, L9) ------------------------------------------

ON_ENTRY = {
    **dict.fromkeys(("national_abroad", "hong_kong_macau"), ("residence", "multiple_entry")),
    **dict.fromkeys(("mainland_resident", "mainland_spouse"), ("residence", "multiple_entry")),
    "resident": ("residence", "reentry"),
    "hong_kong_macau_visitor": ("entry_permit",),
}
ON_EXIT = {
    **dict.fromkeys(("national_abroad", "resident", "hong_kong_macau"), ("residence",)),
    **dict.fromkeys(("mainland_resident", "mainland_spouse"), ("residence",)),
}
STAYS = ("hong_kong_macau_visitor", "foreign_visitor")


def _permits() -> Iterator[Claim]:
    for category in DOCUMENT:
        for direction, asked in ((ENTRY, ON_ENTRY), (EXIT, ON_EXIT)):
            if category in LEAVES_ONLY and direction == ENTRY:
                continue
            for gone in ("", *sorted(KINDS_OF_PERMIT)):
                held = tuple(Pass(kind, DAY, DAY, 1) for kind in sorted(KINDS_OF_PERMIT) if kind != gone)
                e = evidence_of(somebody(category, direction, permits=held), LAW)
                says = "permits_are_valid" if gone in asked.get(category, ()) else "pass"
                if category in STAYS and direction == EXIT and gone == "stay":
                    says = "stay_not_exceeded"
                yield Claim(f"{category}, {direction}, without {gone or 'nothing'}", partial(_said, e), says)


def _missing() -> Iterator[Claim]:
    for category in DOCUMENT:
        chip = "chip_is_genuine" if category == "foreign_visitor" else "pass"
        e = evidence_of(somebody(category, EXIT, chip=Check.NOT_SUPPORTED), LAW)
        yield Claim(f"{category} without a chip", partial(_said, e), chip)
        whole = evidence_of(somebody(category, EXIT), LAW)
        assert whole.face is not None and whole.traveller is not None
        live = replace(whole, face=replace(whole.face, pad=Check.SUCCESSFUL))
        yield Claim(f"{category} without detection of attacks on the face", partial(_said, whole), "pass")
        yield Claim(f"{category} with it", partial(_said, live), "pass")
        unread = evidence_of(somebody(category, EXIT, fingers=0), LAW)
        finger = "finger_matches_where_demanded" if category in WITH_FINGERS else "pass"
        yield Claim(f"{category} without a finger", partial(_said, unread), finger)
        weak = replace(
            evidence_of(somebody(category, EXIT, fingers_enrolled=2), LAW),
            face=replace(whole.face, result=Check.FAILED, score=0.4, weak_threshold=0.4),
        )
        says = "pass" if category == "national" else "face_matches"
        yield Claim(f"{category} with a weak face and a finger", partial(_said, weak), says)
        faceless = evidence_of(somebody(category, EXIT, face_enrolled=False, fingers_enrolled=2), LAW)
        says = "pass" if category == "national" else "enrolled_as_demanded"
        yield Claim(f"{category} without an enrolled face", partial(_said, faceless), says)
        for cm, tall in ((119, False), (120, True), (None, True)):
            e = evidence_of(somebody(category, EXIT, height_cm=cm), LAW)
            yield Claim(f"{category}, {cm} cm", partial(_said, e), "pass" if tall else "tall_enough")
    one = evidence_of(somebody("national", EXIT, face_enrolled=False, fingers_enrolled=1), LAW)
    yield Claim("one finger and no face", partial(_said, one), "fingers_can_be_taken")
    both = evidence_of(somebody("national", EXIT, face_enrolled=False, fingers_enrolled=2, fingers=1), LAW)
    yield Claim("one finger of two and no face", partial(_said, both), "face_matches")


PEOPLE_AND_CONTROL_S = ((900, 86_400, 2_592_000), (300, 86_400, 1_209_600))
"""From which second on people and controls are late, stale, expired."""


def _ages() -> Iterator[Claim]:
    for partition, limits in zip(("people", "control"), PEOPLE_AND_CONTROL_S, strict=True):
        called = (Freshness.FRESH, Freshness.LATE, Freshness.STALE, Freshness.EXPIRED)
        for limit, before, after in zip(limits, called, called[1:], strict=False):
            for age_s, what in ((limit - 1, before), (limit, after)):
                yield Claim(f"{partition} after {age_s} s", partial(_called, partition, age_s), what)
    for category in DOCUMENT:
        for age_s, passes in ((86_399, True), (86_400, category != "foreign_visitor"), (1_209_600, False)):
            e = evidence_of(somebody(category, EXIT, cache_age_s=age_s), LAW)
            says = "pass" if passes else "cache_is_recent_enough"
            yield Claim(f"{category} by a cache of {age_s} s", partial(_said, e), says)


def _called(partition: str, age_s: int, rules: Rules) -> Freshness:
    now = datetime(2026, 11, 20, 4, 0, tzinfo=UTC)
    return freshness(rules.freshness[partition], now - timedelta(seconds=age_s), now)


# -- enrolment and days (E1, E2, E6, E7, E10, W2, W3, W6, W7) ------------------------------------------------------

ENROLLED_AT = {
    "counter": frozenset(DOCUMENT) - {"foreign_visitor"},
    "office": {"national"},
    "gate": {"national", "resident"},
    "entry": {"foreign_visitor"},
}
FIRST_DAY = {
    **dict.fromkeys(("national_abroad", "resident", "diplomat", "hong_kong_macau"), date(2012, 9, 3)),
    "mainland_resident": date(2012, 9, 3),
    "mainland_spouse": date(2013, 1, 1),
    "foreign_visitor": date(2025, 1, 1),
}
SIZES = (
    (date(2012, 1, 1), 14, 140),
    (date(2022, 7, 21), 14, 140),
    (date(2022, 7, 22), 12, 140),
    (date(2024, 12, 31), 12, 140),
    (date(2025, 1, 1), 10, 120),
    (date(2040, 1, 1), 10, 120),
)
"""On a day, how old and tall."""


def _enrolments() -> Iterator[Claim]:
    for origin, category in product(ENROLLED_AT, DOCUMENT):
        passport = {"enrolled_on": DAY - 30 * ONE_DAY, "received_on": DAY - ONE_DAY}
        e = evidence_of(somebody(category, EXIT, origin=origin, **passport), LAW)
        says = "pass" if category in ENROLLED_AT[origin] else "enrolment_fits_category"
        yield Claim(f"{category} enrolled at {origin}", partial(_said, e), says)
        late = {"enrolled_on": DAY - 31 * ONE_DAY, "received_on": DAY}
        if category in ENROLLED_AT[origin]:
            says = "enrolment_is_bound" if origin == "office" else "pass"
            e = evidence_of(somebody(category, EXIT, origin=origin, **late), LAW)
            yield Claim(f"{category} enrolled at {origin}, passport late", partial(_said, e), says)
            says = "enrolment_is_usable" if origin == "office" else "pass"
            e = evidence_of(somebody(category, EXIT, origin=origin, enrolled_on=DAY, received_on=DAY), LAW)
            yield Claim(f"{category} enrolled at {origin}, passport of today", partial(_said, e), says)


def _sizes_and_days() -> Iterator[Claim]:
    for day, years, cm in SIZES:
        yield Claim(f"size on {day}", partial(_size, day), (years, cm))
    for category in DOCUMENT:
        first = FIRST_DAY.get(category, date(2012, 1, 1))
        for day, in_force in ((first, True), (first - ONE_DAY, category not in FIRST_DAY), (date(2039, 1, 2), True)):
            e = evidence_of(somebody(category, EXIT, on=day, entered=day), LAW)
            yield Claim(f"{category} on {day}", partial(_said, e), "pass" if in_force else "category_is_in_force")
        if category not in LEAVES_ONLY:
            abroad = evidence_of(somebody(category, ENTRY, left=date(2024, 11, 19)), LAW)
            says = "not_abroad_too_long" if category == "national" else "pass"
            yield Claim(f"{category} two years and a day abroad", partial(_said, abroad), says)
    just = evidence_of(somebody("national", ENTRY, left=date(2024, 11, 20)), LAW)
    yield Claim("two years abroad to the day", partial(_said, just), "pass")
    for hour, day in ((15, DAY), (16, DAY + ONE_DAY)):
        moment = datetime(2026, 11, 20, hour, 30, tzinfo=UTC)
        yield Claim(f"day at {hour}:30 UTC", partial(lambda rules, m: rules.day(m), m=moment), day)
    last, first = datetime(2026, 11, 20, 15, 59, 59, tzinfo=UTC), datetime(2026, 11, 20, 16, 0, tzinfo=UTC)
    yield Claim("midnight in Taipei", lambda rules: (rules.day(last), rules.day(first)), (DAY, DAY + ONE_DAY))


def _size(day: date, rules: Rules) -> tuple[int, int]:
    size = rules.size(day)
    return size.age_years_min, size.height_cm_min


AT_ENROLMENT = {"counter": (None, None), "office": (12, 140), "gate": (None, None), "entry": (None, None)}
"""E2: how old and tall somebody must be on the day on which they are enrolled; HQ asks it, a lane does not."""


def _at_enrolment(rules: Rules) -> dict[str, tuple[int | None, int | None]]:
    return {name: (each.age_years_min, each.height_cm_min) for name, each in rules.origins.items()}


REFER_ODDITIES = ("hong_kong_macau_visitor", "foreign_visitor")


def _history() -> Iterator[Claim]:
    for category in DOCUMENT:
        strict = category in REFER_ODDITIES
        odd = {
            "entered_before": somebody(category, EXIT, entered=None),
            "document_is_of_the_entry": somebody(category, EXIT, other_document=True),
        }
        if category not in LEAVES_ONLY:
            odd["not_inside_already"] = somebody(category, ENTRY, left=None, entered=DAY - ONE_DAY)
        for reason, each in odd.items():
            e = evidence_of(each, LAW)
            yield Claim(f"{category}, {reason}", partial(_said, e), reason if strict else "pass")


# -- pictures (L8, W6, O1, P2) ---------------------------------------------------------------------------------------

CASE_DAYS, ENTRY_FACE_DAYS = 7, 14


def _pictures() -> Iterator[Claim]:
    for category, direction in product((*DOCUMENT, None), BOTH_WAYS):
        entry_face = direction == ENTRY and category == "hong_kong_macau_visitor"
        kept = {
            "refer": {"case_picture": CASE_DAYS},
            "grant": {"entry_face": ENTRY_FACE_DAYS} if entry_face else {},
            "release": {},
        }
        yield Claim(f"pictures of {category}, {direction}", partial(_kept, direction, category), kept)


def _kept(direction: str, category: str | None, rules: Rules) -> dict[str, dict[str, int]]:
    decisions = ("refer", "grant", "release")
    return {each: rules.pictures(each, direction, category) for each in decisions}


# -- names and reasons ---------------------------------------------------------------------------------------------

IN_LANE = {
    "routine": (
        *("check_overdue", "confirming_overdue", "fingering_overdue", "lane_not_ready", "look_up_failed"),
        *("matching_overdue", "not_enclosed", "presence_lost", "clock_is_trusted", "face_is_alone", "face_is_fresh"),
        *("document_is_not_flagged", "holder_is_not_flagged", "enrolled_as_demanded", "fingers_can_be_taken"),
        *("category_is_known", "document_is_known", "holder_is_enrolled"),
    ),
    "attention": (
        *("after_fire", "did_not_leave", "flags_unread", "help", "lane_fault", "lane_stopped", "left_inside"),
        *("no_verdict", "not_recorded", "stayed_too_long", "stranger_inside", "tailgate", "two_persons"),
        *("unexpected_movement", "wrong_way"),
    ),
    "urgent": ("door_forced", "chip_is_genuine", "face_is_live", "finger_is_live"),
}


def _names() -> Iterator[Claim]:
    known = {reason: how for how, reasons in IN_LANE.items() for reason in reasons}
    for reason, how in (URGENCY | known).items():
        yield Claim(f"urgency of {reason}", partial(lambda rules, r: rules.reasons[r].value, r=reason), how)
    yield Claim("enrolled at what age", _at_enrolment, AT_ENROLMENT)
    yield Claim("every reason", lambda rules: frozenset(rules.reasons), policy.REASONS)
    yield Claim("every place (L11)", lambda rules: rules.places, frozenset(PLACES))
    yield Claim("every kind of permit", lambda rules: rules.permits, KINDS_OF_PERMIT)
    yield Claim("every category", lambda rules: frozenset(rules.categories), frozenset(DOCUMENT))


EXAMPLES = tuple(_examples())
LAW_CLAIMS = (
    *_table(),
    *_matrix(),
    *_documents(),
    *_calendar(),
    *_controls(),
    *_permits(),
    *_missing(),
    *_ages(),
    *_enrolments(),
    *_sizes_and_days(),
    *_history(),
    *_pictures(),
    *_names(),
)
