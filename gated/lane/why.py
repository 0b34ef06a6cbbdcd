"""The facts that each rule compared, in words. No I/O, no clock.

For officers, technicians and the policy's authors, never for the passenger (L8). `gated.lane.explain` asks for them."""

from collections.abc import Callable, Iterable
from datetime import date
from typing import Final

from gated.icao.check import Check
from gated.lane.calendar import CalendarEnded
from gated.lane.entitlement import (
    OTHER_DOCUMENT,
    age_years,
    category_of,
    first_day,
    is_inside,
    oddities,
    places_of,
    valid_permit,
)
from gated.lane.events import Traveller
from gated.lane.evidence import Evidence
from gated.lane.freshness import Freshness, freshness
from gated.lane.policy import counts
from gated.lane.proof import (
    face_is_weak,
    face_stands,
    fingers_needed,
    fingers_needed_at_most,
    has_no_face,
    proven_fingers,
)
from gated.lane.rules import DIRECTIONS, ENTRY, EXIT, History, Rules

NOBODY: Final = "nobody is enrolled"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed(names: Iterable[str], none: str = "none") -> str:
    return ", ".join(sorted(names)) or none


def _said(check: Check) -> str:
    return check.value.replace("_", " ")


def _may_miss(e: Evidence, rules: Rules, what: str) -> str:
    """Whether the holder's category passes without this evidence."""
    assert e.traveller is not None, "asked of somebody"
    return f"{e.traveller.category} {'may' if what in category_of(e, rules).may_miss else 'may not'} go without"


def _of_holder(why: Callable[[Evidence, Rules, Traveller], str]) -> Callable[[Evidence, Rules], str]:
    """What is said of a holder whom the cache knows."""
    return lambda e, rules: NOBODY if e.traveller is None else why(e, rules, e.traveller)


# -- document and holder -------------------------------------------------------------------------------------------


def _clock(e: Evidence, _: Rules) -> str:
    return f"the lane's clock is {'trusted' if e.clock_trusted else 'not trusted, so no day can be believed'}"


def _in_force(e: Evidence, _: Rules) -> str:
    return "no document" if e.document is None else f"expires on {e.document.expires_on(e.day)}; used on {e.day}"


def _enrolled(e: Evidence, _: Rules) -> str:
    return "the cache knows the holder" if e.traveller is not None else NOBODY


def _category(_: Evidence, rules: Rules, holder: Traveller) -> str:
    if holder.category in rules.categories:
        return f"{holder.category} is a category of {rules.version}"
    return f"{holder.category} is none of {_listed(rules.categories)}"


def _category_in_force(e: Evidence, rules: Rules, holder: Traveller) -> str:
    category = category_of(e, rules)
    since = "" if category.since == date.min else f" from {category.since} on"
    return f"{holder.category} may use lanes{since}, {_until(category.until)}; used on {e.day}"


def _until(last: date) -> str:
    return "for ever" if last == date.max else f"to {last}"


def _cache(e: Evidence, rules: Rules, holder: Traveller) -> str:
    stands = []
    for partition, ages in sorted(rules.freshness.items()):
        as_of = None if e.cache is None else e.cache.people_as_of if partition == "people" else e.cache.control_as_of
        age = "of no known age" if as_of is None else f"{(e.opened - as_of).total_seconds():.0f} s"
        stands.append(f"{partition} {age}, {freshness(ages, as_of, e.opened).value}")
    until = category_of(e, rules).cache_until.value
    by = "any" if category_of(e, rules).cache_until is Freshness.EXPIRED else f"one that is {until} or better"
    return f"{'; '.join(stands) or 'no age is asked'}; {holder.category} passes by {by}"


def _kind(e: Evidence, rules: Rules) -> str:
    if e.document is None:
        return "no document"
    kind = rules.kind_of(e.document)
    return f"code {e.document.code} of {e.document.issuer} is {kind or 'of no kind that the policy names'}"


def _fits_category(e: Evidence, rules: Rules, holder: Traveller) -> str:
    row = rules.matrix.get(holder.category, {})
    kinds = [kind for kind, cell in row.items() if any(cell.at(way) for way in DIRECTIONS)]
    return f"{holder.category} may use {_listed(kinds)}; this is {_kind_name(e, rules)}"


def _kind_name(e: Evidence, rules: Rules) -> str:
    return (rules.kind_of(e.document) if e.document is not None else None) or "of no kind"


def _fits_direction(e: Evidence, rules: Rules, holder: Traveller) -> str:
    ways = [way for way in DIRECTIONS if places_of(e, rules, way)]
    return f"{_kind_name(e, rules)} of {holder.category} counts for {_listed(ways)}; this is {e.direction or 'neither'}"


def _fits_place(e: Evidence, rules: Rules, holder: Traveller) -> str:
    places = places_of(e, rules, e.direction)
    where = "everywhere" if places == rules.places else f"at {_listed(places)}" if places else "nowhere"
    here = e.place or "a lane without a place"
    kept = f"counts {where}" if e.place in places else f"counts {where}, not at {here}"
    return f"{_kind_name(e, rules)} of {holder.category} {kept}"


def _age(e: Evidence, rules: Rules, holder: Traveller) -> str:
    size = rules.size(e.day)
    return f"{_count(age_years(holder.birth, e.day), 'year')} on {e.day}; {size.age_years_min} from {size.since} on"


def _height(e: Evidence, rules: Rules, holder: Traveller) -> str:
    size = rules.size(e.day)
    if holder.height_cm is None:
        return f"no height on record; {_may_miss(e, rules, 'height')}"
    return f"{holder.height_cm} cm; {size.height_cm_min} from {size.since} on"


# -- enrolment -----------------------------------------------------------------------------------------------------


def _enrolled_where(_: Evidence, rules: Rules, holder: Traveller) -> str:
    origin = rules.origins.get(holder.origin)
    if origin is None:
        return f"enrolled at {holder.origin}, which is none of {_listed(rules.origins)}"
    return f"{holder.category}, enrolled at {holder.origin}, which is for {_listed(origin.categories)}"


def _bound(_: Evidence, rules: Rules, holder: Traveller) -> str:
    origin = rules.origins.get(holder.origin)
    if origin is None or origin.bound_within_days is None:
        return f"an enrolment at {holder.origin} waits for no passport"
    if holder.enrolled_on is None or holder.received_on is None:
        missing = "the day of enrolment" if holder.enrolled_on is None else "a passport received"
        return f"{missing} is not on record; within {_count(origin.bound_within_days, 'day')}"
    days = (holder.received_on - holder.enrolled_on).days
    return (
        f"enrolled on {holder.enrolled_on}, passport received on {holder.received_on}, {_count(days, 'day')} after; "
        f"0 to {origin.bound_within_days}"
    )


def _usable(e: Evidence, rules: Rules, holder: Traveller) -> str:
    origin = rules.origins.get(holder.origin)
    if origin is None:
        return f"of enrolments at {holder.origin} the policy says nothing"
    try:
        first = first_day(e, rules)
    except CalendarEnded as ended:
        return f"received on {holder.received_on}, and {ended}"
    if first is None:
        return "usable at once"
    found = f"usable from {first}"
    if origin.usable_after_workdays is not None and holder.received_on is not None:
        found += f": {_count(origin.usable_after_workdays, 'working day')} after {holder.received_on}"
    return f"{found}, not before HQ's day" if first == holder.usable_from else found


def _enrolled_what(e: Evidence, rules: Rules, holder: Traveller) -> str:
    category = category_of(e, rules)
    face = "face" if holder.face else "no face"
    wanted = "face and finger" if category.finger else "face, or fingers alone" if category.fingers_alone else "face"
    return f"{face} and {_count(len(holder.fingers), 'finger')} enrolled; {holder.category} needs {wanted}"


def _fingers_possible(e: Evidence, rules: Rules, holder: Traveller) -> str:
    reader = "a reader" if e.finger_reader else "no reader"
    needed = fingers_needed_at_most(e, rules)
    return f"needs {_count(needed, 'finger')}; {len(holder.fingers)} enrolled; the lane has {reader}"


# -- permits and history -------------------------------------------------------------------------------------------


def _permits(e: Evidence, rules: Rules) -> str:
    found = [_permit(e, kind) for kind in sorted(category_of(e, rules).permits(e.direction))]
    return "; ".join(found) or f"none is needed for {e.direction}"


def _permit(e: Evidence, kind: str) -> str:
    if (permit := valid_permit(e, kind)) is not None:
        return f"{kind} holds {_until(permit.end)}"
    held = [each for each in (e.traveller.permits if e.traveller is not None else ()) if each.kind == kind]
    days = ", ".join(f"{each.start} to {each.end}" for each in held)
    return f"no {kind} on {e.day}" + (f", but from {days}" if days else "")


def _entries(e: Evidence, rules: Rules) -> str:
    if e.direction != ENTRY:
        return "asked on entry alone"
    found = []
    for kind in sorted(category_of(e, rules).entry_permits):
        permit = valid_permit(e, kind, entries=True)
        left = "none" if permit is None else "any number" if permit.entries_left is None else permit.entries_left
        found.append(f"{kind}: {left} left")
    return "; ".join(found) or "no permit is needed"


def _stay(e: Evidence, rules: Rules) -> str:
    stay = category_of(e, rules).stay
    if not stay or e.direction != EXIT:
        return "no stay is limited" if not stay else "asked on exit alone"
    return _permit(e, stay)


def _history(e: Evidence, rules: Rules) -> str:
    assert e.traveller is not None, "asked of somebody"
    inside = {True: "inside", False: "outside", None: "where is not known"}[is_inside(e)]
    told = [
        f"last {noun} {rules.day(crossed.utc)}"
        for noun, crossed in (("entry", e.traveller.entered), ("exit", e.traveller.left))
        if crossed is not None
    ]
    does = "refers" if category_of(e, rules).history is History.REFER else "is noted"
    odd = _listed((oddity.replace("_", " ") for oddity in oddities(e)), "no contradiction")
    return f"{', '.join(told) or 'no crossing is known'}: {inside}; {odd}; of {e.traveller.category} one {does}"


def _document_of_entry(e: Evidence, rules: Rules, _: Traveller) -> str:
    if e.direction != EXIT:
        return "asked on exit alone"
    with_what = "another document" if OTHER_DOCUMENT in oddities(e) else "this document, as far as is known"
    return f"entered with {with_what}; {_history(e, rules)}"


def _abroad(e: Evidence, rules: Rules, holder: Traveller) -> str:
    years = category_of(e, rules).abroad_years_max
    if years is None or e.direction != ENTRY:
        return f"{holder.category} may be abroad however long" if years is None else "asked on entry alone"
    if holder.left is None or is_inside(e):
        return "not known to be abroad"
    return f"left on {rules.day(holder.left.utc)}, back on {e.day}; {_count(years, 'year')} at most"


# -- proof ---------------------------------------------------------------------------------------------------------


def _chip(e: Evidence, rules: Rules, _: Traveller) -> str:
    if e.chip is None:
        return "the chip was not asked"
    told = f"access {_said(e.chip.access)}, authentic {_said(e.chip.authentic)}, original {_said(e.chip.not_cloned)}"
    missing = {e.chip.access, e.chip.authentic} == {Check.NOT_SUPPORTED}
    return f"{told}; {_may_miss(e, rules, 'chip')}" if missing else told


def _of_face(why: Callable[[Evidence, Rules], str]) -> Callable[[Evidence, Rules], str]:
    """What is said of a face that was looked at."""

    def found(e: Evidence, rules: Rules) -> str:
        if has_no_face(e):
            return "no face could be enrolled: fingers stand for it"
        return "no face was seen" if e.face is None else why(e, rules)

    return found


def _alone(e: Evidence, _: Rules) -> str:
    assert e.face is not None, "a face was looked at"
    return f"{_count(e.face.persons, 'person')} in the frame"


def _fresh(e: Evidence, _: Rules) -> str:
    assert e.face is not None, "a face was looked at"
    after_s = e.face.captured_mono - e.since_mono
    return f"taken {abs(after_s):.1f} s {'after' if after_s >= 0 else 'before'} the person was shut in alone"


def _matches(e: Evidence, rules: Rules) -> str:
    fingers = f"{_count(len(proven_fingers(e)), 'finger')} matched"
    if has_no_face(e):
        return f"no face could be enrolled; {fingers}, {rules.fingers_alone} needed"
    if e.face is None:
        return "no face was seen"
    if face_stands(e):
        return "the face is the enrolled one"
    return (
        f"the face is weak; {fingers}" if face_is_weak(e, rules) else f"the face is not matched: {_said(e.face.result)}"
    )


def _live(e: Evidence, rules: Rules) -> str:
    assert e.face is not None, "a face was looked at"
    told = f"attack detection {_said(e.face.pad)}"
    missing = e.face.pad is Check.NOT_SUPPORTED and e.traveller is not None
    return f"{told}; {_may_miss(e, rules, 'face_pad')}" if missing else told


def _finger_demanded(e: Evidence, rules: Rules, holder: Traveller) -> str:
    demand = "demands one" if category_of(e, rules).finger else "demands none"
    return f"{_count(len(proven_fingers(e)), 'finger')} matched; {holder.category} {demand} beside the face"


def _finger_live(e: Evidence, rules: Rules, _: Traveller) -> str:
    if not fingers_needed(e, rules):
        return "no finger is needed"
    proven = proven_fingers(e)
    found = {_said(f.pad) for f in e.fingers if f.finger in proven and f.result is Check.SUCCESSFUL}
    told = f"attack detection {_listed(found, 'of no finger')}"
    return f"{told}; {_may_miss(e, rules, 'finger_pad')}" if _said(Check.NOT_SUPPORTED) in found else told


# -- controls ------------------------------------------------------------------------------------------------------


def _document_flags(e: Evidence, _: Rules) -> str:
    return _listed(e.document_flags, "nothing against the document")


def _flags(e: Evidence, rules: Rules, holder: Traveller) -> str:
    return "; ".join(_flag(e, rules, flag) for flag in sorted(e.flags | holder.flags)) or "no control"


def _flag(e: Evidence, rules: Rules, flag: str) -> str:
    control = rules.controls.get(flag)
    if control is None:
        return f"{flag} counts: the policy does not name it"
    if counts(e, rules, flag):
        return f"{flag} counts" + (f": {_permit(e, control.unless_permit)}" if control.unless_permit else "")
    if e.direction not in control.directions:
        return f"{flag} counts for {_listed(control.directions)} alone"
    if control.places and e.place not in control.places:
        return f"{flag} counts at {_listed(control.places)} alone"
    return f"{flag} is lifted: {_permit(e, control.unless_permit)}"


WHY: Final[dict[str, Callable[[Evidence, Rules], str]]] = {
    "clock_is_trusted": _clock,
    "document_in_force": _in_force,
    "holder_is_enrolled": _enrolled,
    "category_is_known": _of_holder(_category),
    "category_is_in_force": _of_holder(_category_in_force),
    "cache_is_recent_enough": _of_holder(_cache),
    "document_is_known": _kind,
    "document_fits_category": _of_holder(_fits_category),
    "document_fits_direction": _of_holder(_fits_direction),
    "document_fits_place": _of_holder(_fits_place),
    "old_enough": _of_holder(_age),
    "tall_enough": _of_holder(_height),
    "enrolment_fits_category": _of_holder(_enrolled_where),
    "enrolment_is_bound": _of_holder(_bound),
    "enrolment_is_usable": _of_holder(_usable),
    "enrolled_as_demanded": _of_holder(_enrolled_what),
    "permits_are_valid": _permits,
    "entries_are_left": _entries,
    "stay_not_exceeded": _stay,
    "not_inside_already": _of_holder(lambda e, rules, _: _history(e, rules)),
    "entered_before": _of_holder(lambda e, rules, _: _history(e, rules)),
    "document_is_of_the_entry": _of_holder(_document_of_entry),
    "not_abroad_too_long": _of_holder(_abroad),
    "fingers_can_be_taken": _of_holder(_fingers_possible),
    "chip_is_genuine": _of_holder(_chip),
    "face_is_alone": _of_face(_alone),
    "face_is_fresh": _of_face(_fresh),
    "face_matches": _matches,
    "face_is_live": _of_face(_live),
    "finger_matches_where_demanded": _of_holder(_finger_demanded),
    "finger_is_live": _of_holder(_finger_live),
    "document_is_not_flagged": _document_flags,
    "holder_is_not_flagged": _of_holder(_flags),
}
"""Rule -> the facts that it compared, in words."""
