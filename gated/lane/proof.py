"""What face and fingers prove together, what is still missing, and the rate that it stands for. No I/O, no clock."""

from itertools import combinations
from math import prod

from gated.icao.check import Check
from gated.lane.events import FingerCompared
from gated.lane.evidence import Evidence
from gated.lane.rules import Rules

TRIES_A_FINGER = 2
"""A finger that did not match twice is another one; more tries would only help somebody who guesses."""


def has_no_face(e: Evidence) -> bool:
    """No face could be enrolled (E4): fingers stand alone, and the presence sensors alone count the persons."""
    return e.traveller is not None and not e.traveller.face


def face_stands(e: Evidence) -> bool:
    """The face alone is enough: compared, and at or above the threshold."""
    return e.face is not None and e.face.result is Check.SUCCESSFUL and e.face.score >= e.face.threshold


def face_is_weak(e: Evidence, rules: Rules) -> bool:
    """L3: not enough alone, not wrong either, and of a category where a finger may support it."""
    if e.face is None or e.face.weak_threshold is None or e.traveller is None:
        return False
    category = rules.categories.get(e.traveller.category)
    compared = e.face.result is Check.FAILED and e.face.score >= e.face.weak_threshold
    return compared and category is not None and category.weak_face


def proven_fingers(e: Evidence) -> frozenset[str]:
    """The fingers that were compared and are the enrolled ones."""
    matched = (f for f in e.fingers if f.result is Check.SUCCESSFUL and f.score >= f.threshold)
    return frozenset(f.finger for f in matched)


def fingers_needed(e: Evidence, rules: Rules) -> int:
    """How many different fingers must match for a grant, by what is known so far."""
    category = rules.categories.get(e.traveller.category) if e.traveller is not None else None
    if category is None:
        return 0
    if has_no_face(e):
        return rules.fingers_alone
    return int(category.finger or face_is_weak(e, rules))


def fingers_needed_at_most(e: Evidence, rules: Rules) -> int:
    """The same before there is a face, whatever it will turn out to be: a weak one may do without."""
    category = rules.categories.get(e.traveller.category) if e.traveller is not None else None
    if category is None:
        return 0
    return rules.fingers_alone if has_no_face(e) else int(category.finger)


def next_finger(e: Evidence, rules: Rules, tries: int) -> str | None:
    """The finger to be placed next, in the order of E4; None where no (further) finger could change the verdict.

    `tries`: comparisons of one passage. A finger of which no print could be had (bandaged, hurt) is left out, and so
    is every finger once the reader is gone."""
    if e.traveller is None or not e.finger_reader or len(proven_fingers(e)) >= fingers_needed(e, rules):
        return None
    if any(f.result in (Check.NOT_SUPPORTED, Check.ABORTED) for f in e.fingers):
        return None
    compared = [f.finger for f in e.fingers if f.result in (Check.SUCCESSFUL, Check.FAILED)]
    given_up = {f.finger for f in e.fingers if f.result is Check.UNDETERMINED}
    if len(compared) >= tries:
        return None
    left = (f for f in e.traveller.fingers if f not in proven_fingers(e) | given_up)
    return next((f for f in left if compared.count(f) < TRIES_A_FINGER), None)


def finger_comparisons(e: Evidence) -> tuple[FingerCompared, ...]:
    """Every comparison of a finger in this passage, before an officer's retry too."""
    return tuple(f for f in (*e.earlier, *e.fingers) if f.result in (Check.SUCCESSFUL, Check.FAILED))


def stated_fmr(e: Evidence, rules: Rules) -> float | None:
    """The rate at which somebody else would have been granted on as many tries, by the thresholds that were met.

    Face and finger are taken as independent, and so are two fingers. Every comparison of the passage could have been
    the false one, so each adds its rate: of a face, of a finger, of whichever finger where several were tried. None
    where nothing was proven."""
    proven = proven_fingers(e)
    if not face_stands(e) and not proven:
        return None
    rates: dict[str, float] = {}
    for each in finger_comparisons(e):
        rates[each.finger] = min(1.0, rates.get(each.finger, 0.0) + each.fmr)
    rate = min(1.0, sum(prod(some) for some in combinations(rates.values(), len(proven))))
    if face_stands(e) or face_is_weak(e, rules):
        assert e.face is not None, "a face was compared"
        fmr = e.face.fmr if face_stands(e) else e.face.weak_fmr
        rate *= min(1.0, max(1, e.faces) * fmr)
    return rate
