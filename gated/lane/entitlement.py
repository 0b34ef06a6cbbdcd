"""Rules of who may use the lane at all: document, holder, enrolment, permits, history. No I/O, no clock.

Each is a named predicate of evidence and policy; the order in which they are asked is in `gated.lane.policy`."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Final

from gated.lane.calendar import CalendarEnded
from gated.lane.events import Permit
from gated.lane.evidence import Evidence
from gated.lane.freshness import of_stand
from gated.lane.proof import fingers_needed_at_most
from gated.lane.rules import ENTRY, EXIT, Category, History, Rules

Rule = Callable[[Evidence, Rules], bool]
CITES: Final[dict[str, tuple[str, ...]]] = {}
"""Rule -> the requirements that it keeps."""
_NOBODY: Final = Category()


def cites(*requirements: str) -> Callable[[Rule], Rule]:
    """Names the requirements that a rule keeps."""

    def named(rule: Rule) -> Rule:
        CITES[rule.__name__] = requirements
        return rule

    return named


def category_of(e: Evidence, rules: Rules) -> Category:
    """What the policy asks of the holder's category; of one that it does not know, nothing: another rule refers it."""
    return rules.categories.get(e.traveller.category, _NOBODY) if e.traveller is not None else _NOBODY


# -- document and holder -------------------------------------------------------------------------------------------


@cites("W8")
def clock_is_trusted(e: Evidence, _: Rules) -> bool:
    """A day that cannot be believed makes every validity undetermined (TR-03135-1, 5.6.4.3.4)."""
    return e.clock_trusted


@cites("W8")
def document_in_force(e: Evidence, _: Rules) -> bool:
    """Not expired on the day of use."""
    return e.document is not None and e.document.expires_on(e.day) >= e.day


@cites("W1", "W3")
def holder_is_enrolled(e: Evidence, _: Rules) -> bool:
    """The cache knows the holder."""
    return e.traveller is not None


@cites("W1", "W3", "W4")
def category_is_known(e: Evidence, rules: Rules) -> bool:
    """The policy names this category of traveller."""
    return e.traveller is not None and e.traveller.category in rules.categories


@cites("W3", "W4")
def category_is_in_force(e: Evidence, rules: Rules) -> bool:
    """From its first day on, and to its last."""
    category = category_of(e, rules)
    return category.since <= e.day <= category.until


@cites("L9", "W7")
def cache_is_recent_enough(e: Evidence, rules: Rules) -> bool:
    """Offline the lane goes on, with each category as long as the policy lets the cache's age be."""
    return of_stand(rules.freshness, e.cache, e.opened).rank <= category_of(e, rules).cache_until.rank


@cites("W1", "W5")
def document_is_known(e: Evidence, rules: Rules) -> bool:
    """The document is of a kind that the policy names."""
    return e.document is not None and rules.kind_of(e.document) is not None


def places_of(e: Evidence, rules: Rules, direction: str) -> frozenset[str]:
    """Where this category may cross with this document."""
    kind = rules.kind_of(e.document) if e.document is not None else None
    row = rules.matrix.get(e.traveller.category) if e.traveller is not None else None
    return row[kind].at(direction) if row is not None and kind is not None else frozenset()


@cites("W1", "W5")
def document_fits_category(e: Evidence, rules: Rules) -> bool:
    """This category may use lanes with this kind of document, somewhere."""
    return bool(places_of(e, rules, ENTRY) or places_of(e, rules, EXIT))


@cites("W6", "L7")
def document_fits_direction(e: Evidence, rules: Rules) -> bool:
    """And in this direction."""
    return bool(places_of(e, rules, e.direction))


@cites("W1", "L11")
def document_fits_place(e: Evidence, rules: Rules) -> bool:
    """And here: the Kinmen-Matsu permit at Kinmen alone."""
    return e.place in places_of(e, rules, e.direction)


def age_years(born: date, day: date) -> int:
    """Whole years on a day. A child of 29 February has its birthday on 1 March."""
    return day.year - born.year - ((day.month, day.day) < (born.month, born.day))


@cites("W2")
def old_enough(e: Evidence, rules: Rules) -> bool:
    """By the birth date on record, on the day of use."""
    if e.traveller is None:
        return False
    return age_years(e.traveller.birth, e.day) >= rules.size(e.day).age_years_min


@cites("W2")
def tall_enough(e: Evidence, rules: Rules) -> bool:
    """By the height on record; where none is, the category says whether that may be."""
    if e.traveller is None:
        return False
    if e.traveller.height_cm is None:
        return "height" in category_of(e, rules).may_miss
    return e.traveller.height_cm >= rules.size(e.day).height_cm_min


# -- enrolment -----------------------------------------------------------------------------------------------------


@cites("E1", "E2", "W6")
def enrolment_fits_category(e: Evidence, rules: Rules) -> bool:
    """People of this category are enrolled where this one was."""
    if e.traveller is None or (origin := rules.origins.get(e.traveller.origin)) is None:
        return False
    return e.traveller.category in origin.categories


@cites("E6")
def enrolment_is_bound(e: Evidence, rules: Rules) -> bool:
    """An office's enrolment lapses unless a passport was received in time."""
    if e.traveller is None or (origin := rules.origins.get(e.traveller.origin)) is None:
        return False
    if origin.bound_within_days is None:
        return True
    enrolled, received = e.traveller.enrolled_on, e.traveller.received_on
    if enrolled is None or received is None:
        return False
    return enrolled <= received <= enrolled + timedelta(days=origin.bound_within_days)


def first_day(e: Evidence, rules: Rules) -> date | None:
    """The first day on which the enrolment may be used (E7). None: at once. Raises `CalendarEnded`."""
    assert e.traveller is not None, "somebody is enrolled"
    workdays = rules.origins[e.traveller.origin].usable_after_workdays
    if workdays is None or e.traveller.received_on is None:
        return e.traveller.usable_from
    first = rules.calendar.after(e.traveller.received_on, workdays)
    return max(first, e.traveller.usable_from or first)


@cites("E1", "E7")
def enrolment_is_usable(e: Evidence, rules: Rules) -> bool:
    """A counter's at once, an office's from the working day on that the policy says, none before HQ's first day."""
    if e.traveller is None or e.traveller.origin not in rules.origins:
        return False
    try:
        first = first_day(e, rules)
    except CalendarEnded:
        return False
    return first is None or first <= e.day


@cites("W4", "E3")
def enrolled_as_demanded(e: Evidence, rules: Rules) -> bool:
    """Face and fingers are both enrolled where both are demanded; without a face, only where fingers replace it."""
    if e.traveller is None:
        return False
    category = category_of(e, rules)
    if category.finger and not e.traveller.fingers:
        return False
    return e.traveller.face or category.fingers_alone


@cites("L3", "E4")
def fingers_can_be_taken(e: Evidence, rules: Rules) -> bool:
    """Whoever cannot pass without a finger is not let in to a lane that takes none, or none of theirs."""
    needed = fingers_needed_at_most(e, rules)
    enrolled = e.traveller.fingers if e.traveller is not None else ()
    return needed == 0 or (e.finger_reader and len(enrolled) >= needed)


# -- permits and history -------------------------------------------------------------------------------------------


def valid_permit(e: Evidence, kind: str, entries: bool = False) -> Permit | None:
    """A permit of this kind that holds on the day of use. `entries`: one that still has any."""
    if e.traveller is None:
        return None
    for permit in e.traveller.permits:
        left = not entries or permit.entries_left is None or permit.entries_left > 0
        if permit.kind == kind and permit.start <= e.day <= permit.end and left:
            return permit
    return None


@cites("W3", "W4")
def permits_are_valid(e: Evidence, rules: Rules) -> bool:
    """Every permit that the category needs in this direction holds on the day of use."""
    return all(valid_permit(e, kind) is not None for kind in category_of(e, rules).permits(e.direction))


@cites("O1")
def entries_are_left(e: Evidence, rules: Rules) -> bool:
    """And on entry has an entry left, this lane's own crossings counted."""
    if e.direction != ENTRY:
        return True
    return all(valid_permit(e, kind, entries=True) is not None for kind in category_of(e, rules).entry_permits)


@cites("W6")
def stay_not_exceeded(e: Evidence, rules: Rules) -> bool:
    """Whoever leaves after the last day of the stay goes to an officer."""
    stay = category_of(e, rules).stay
    return not stay or e.direction != EXIT or valid_permit(e, stay) is not None


def is_inside(e: Evidence) -> bool | None:
    """Whether the holder is in the country by their last crossing; None: none is known."""
    if e.traveller is None or (e.traveller.entered is None and e.traveller.left is None):
        return None
    entered, left = e.traveller.entered, e.traveller.left
    return left is None or (entered is not None and entered.utc > left.utc)


DOUBLE_ENTRY: Final = "double_entry"
EXIT_WITHOUT_ENTRY: Final = "exit_without_entry"
OTHER_DOCUMENT: Final = "other_document"


def oddities(e: Evidence) -> tuple[str, ...]:
    """What contradicts the last crossings; what is not known contradicts nothing, but an exit wants an entry."""
    if e.traveller is None:
        return ()
    inside, entered = is_inside(e), e.traveller.entered
    if e.direction == ENTRY:
        return (DOUBLE_ENTRY,) if inside else ()
    if not inside:
        return (EXIT_WITHOUT_ENTRY,)
    assert entered is not None, "who is inside entered"
    return () if entered.this_document else (OTHER_DOCUMENT,)


def _history_allows(e: Evidence, rules: Rules, oddity: str) -> bool:
    return category_of(e, rules).history is History.NOTE or oddity not in oddities(e)


@cites("O7", "O8")
def not_inside_already(e: Evidence, rules: Rules) -> bool:
    """Nobody enters twice without leaving."""
    return _history_allows(e, rules, DOUBLE_ENTRY)


@cites("O7", "W6")
def entered_before(e: Evidence, rules: Rules) -> bool:
    """Nobody leaves who did not enter."""
    return _history_allows(e, rules, EXIT_WITHOUT_ENTRY)


@cites("O8")
def document_is_of_the_entry(e: Evidence, rules: Rules) -> bool:
    """Crossings are certified per document: out with the one that was shown on the way in."""
    return _history_allows(e, rules, OTHER_DOCUMENT)


@cites("W7")
def not_abroad_too_long(e: Evidence, rules: Rules) -> bool:
    """Whoever has been abroad for more years than the policy says goes to an officer."""
    years = category_of(e, rules).abroad_years_max
    left = e.traveller.left if e.traveller is not None else None
    if years is None or e.direction != ENTRY or left is None or is_inside(e):
        return True
    day = rules.day(left.utc)
    return (e.day.year - years, e.day.month, e.day.day) <= (day.year, day.month, day.day)
