"""Evidence -> Verdict: may this traveller pass? Every rule is a named predicate, in the order they are asked.

No I/O, no clock: the day of use comes with the evidence, the numbers with `gated.lane.rules`. A predicate answers
whether its rule is kept; the first one that is not gives the verdict its reason, which is for the officer and the
record and never for the passenger. What a rule was told, in words, is in `gated.lane.explain`."""

from gated.icao.check import Check
from gated.lane.entitlement import (
    Rule,
    cache_is_recent_enough,
    category_is_in_force,
    category_is_known,
    category_of,
    cites,
    clock_is_trusted,
    document_fits_category,
    document_fits_direction,
    document_fits_place,
    document_in_force,
    document_is_known,
    document_is_of_the_entry,
    enrolled_as_demanded,
    enrolment_fits_category,
    enrolment_is_bound,
    enrolment_is_usable,
    entered_before,
    entries_are_left,
    fingers_can_be_taken,
    holder_is_enrolled,
    not_abroad_too_long,
    not_inside_already,
    oddities,
    old_enough,
    permits_are_valid,
    stay_not_exceeded,
    tall_enough,
    valid_permit,
)
from gated.lane.evidence import Decision, Evidence, Verdict
from gated.lane.proof import face_is_weak, face_stands, fingers_needed, has_no_face, proven_fingers
from gated.lane.rules import Rules, Urgency

# -- proof ---------------------------------------------------------------------------------------------------------

_NO_CLONE = frozenset({Check.SUCCESSFUL, Check.NOT_SUPPORTED})
"""Many chips cannot prove that they are the original; one that can and then does not is a copy."""


@cites("W6", "W8")
def chip_is_genuine(e: Evidence, rules: Rules) -> bool:
    """Access and authenticity proven; where the chip could not be read the category says whether that may be."""
    if e.chip is None or e.traveller is None:
        return False
    results = {e.chip.access, e.chip.authentic}
    if results == {Check.SUCCESSFUL} and e.chip.not_cloned in _NO_CLONE:
        return True
    return results == {Check.NOT_SUPPORTED} and "chip" in category_of(e, rules).may_miss


@cites("L4")
def face_is_alone(e: Evidence, _: Rules) -> bool:
    """One person, and no other face, in the frame that was compared."""
    return has_no_face(e) or (e.face is not None and e.face.persons == 1)


@cites("L1")
def face_is_fresh(e: Evidence, _: Rules) -> bool:
    """No substitution: the frame was taken after the entry door shut behind one person."""
    return has_no_face(e) or (e.face is not None and e.face.captured_mono >= e.since_mono)


@cites("L1", "L3")
def face_matches(e: Evidence, rules: Rules) -> bool:
    """The face is the enrolled one. A finger supports a weak face, and replaces one that was never enrolled."""
    if has_no_face(e):
        return len(proven_fingers(e)) >= rules.fingers_alone
    return face_stands(e) or (face_is_weak(e, rules) and bool(proven_fingers(e)))


@cites("L1")
def face_is_live(e: Evidence, rules: Rules) -> bool:
    """Presentation attack detection; where the lane has none the category says whether that may be."""
    if has_no_face(e):
        return True
    if e.face is None or e.traveller is None:
        return False
    if e.face.pad is Check.NOT_SUPPORTED:
        return "face_pad" in category_of(e, rules).may_miss
    return e.face.pad is Check.SUCCESSFUL


@cites("W4", "W5")
def finger_matches_where_demanded(e: Evidence, rules: Rules) -> bool:
    """Both, where the category demands both."""
    return e.traveller is not None and (not category_of(e, rules).finger or bool(proven_fingers(e)))


@cites("L3")
def finger_is_live(e: Evidence, rules: Rules) -> bool:
    """Presentation attack detection of every finger that counts; where there is none the category says what then."""
    if e.traveller is None:
        return False
    proven = proven_fingers(e) if fingers_needed(e, rules) else frozenset()
    found = {f.pad for f in e.fingers if f.finger in proven and f.result is Check.SUCCESSFUL}
    may_miss = "finger_pad" in category_of(e, rules).may_miss
    return found <= ({Check.SUCCESSFUL, Check.NOT_SUPPORTED} if may_miss else {Check.SUCCESSFUL})


# -- controls ------------------------------------------------------------------------------------------------------


def controls_that_count(e: Evidence, rules: Rules) -> tuple[str, ...]:
    """The control flags of the holder that count here and now. One that the policy does not name always counts."""
    known = e.flags | (e.traveller.flags if e.traveller is not None else frozenset())
    return tuple(sorted(flag for flag in known if counts(e, rules, flag)))


def counts(e: Evidence, rules: Rules, flag: str) -> bool:
    """Whether a control flag of the holder counts in this direction, here, on this day."""
    control = rules.controls.get(flag)
    if control is None:
        return True
    if e.direction not in control.directions or (control.places and e.place not in control.places):
        return False
    return not control.unless_permit or valid_permit(e, control.unless_permit) is None


@cites("W8", "L8")
def document_is_not_flagged(e: Evidence, _: Rules) -> bool:
    """Not lost, stolen or invalid."""
    return not e.document_flags


@cites("W7", "L8", "O2", "O3", "O5", "O9")
def holder_is_not_flagged(e: Evidence, rules: Rules) -> bool:
    """No control on the holder that counts. Asked last, so that a control changes nothing before the verdict."""
    return e.traveller is not None and not controls_that_count(e, rules)


BEFORE_ENTRY: tuple[Rule, ...] = (
    clock_is_trusted,
    document_in_force,
    holder_is_enrolled,
    category_is_known,
    category_is_in_force,
    cache_is_recent_enough,
    document_is_known,
    document_fits_category,
    document_fits_direction,
    document_fits_place,
    old_enough,
    tall_enough,
    enrolment_fits_category,
    enrolment_is_bound,
    enrolment_is_usable,
    enrolled_as_demanded,
    permits_are_valid,
    entries_are_left,
    stay_not_exceeded,
    not_inside_already,
    entered_before,
    document_is_of_the_entry,
    not_abroad_too_long,
    fingers_can_be_taken,
)
"""May this document try the lane at all? Controls are not among them: who is sought walks in like anybody (L8)."""

BEFORE_EXIT: tuple[Rule, ...] = (
    *BEFORE_ENTRY,
    chip_is_genuine,
    face_is_alone,
    face_is_fresh,
    face_matches,
    face_is_live,
    finger_matches_where_demanded,
    finger_is_live,
    document_is_not_flagged,
    holder_is_not_flagged,
)

IN_THE_LANE = frozenset(
    {
        "after_fire",
        "check_overdue",
        "confirming_overdue",
        "did_not_leave",
        "door_forced",
        "fingering_overdue",
        "flags_unread",
        "help",
        "lane_fault",
        "lane_not_ready",
        "lane_stopped",
        "left_inside",
        "look_up_failed",
        "matching_overdue",
        "no_verdict",
        "not_enclosed",
        "not_recorded",
        "presence_lost",
        "stayed_too_long",
        "stranger_inside",
        "tailgate",
        "two_persons",
        "unexpected_movement",
        "wrong_way",
    }
)
"""Reasons that are no rule's: what happened in the lane."""

REASONS = frozenset(rule.__name__ for rule in BEFORE_EXIT) | IN_THE_LANE
"""Every reason for which a passenger is referred: the policy says of each how much it matters."""


def _first_broken(rules: Rules, order: tuple[Rule, ...], evidence: Evidence) -> str | None:
    return next((rule.__name__ for rule in order if not rule(evidence, rules)), None)


def refusal(evidence: Evidence, rules: Rules) -> str | None:
    """The rule that keeps this traveller from trying the lane, or None."""
    return _first_broken(rules, BEFORE_ENTRY, evidence)


def urgency(evidence: Evidence, rules: Rules, reason: str) -> Urgency:
    """How much a referral matters, whatever the reason: a control that counts and a document's flag may say more (L8).
    Who is sought is sought with an expired passport too."""
    found = [rules.reasons.get(reason, Urgency.ATTENTION)]
    counting = (rules.controls.get(flag) for flag in controls_that_count(evidence, rules))
    found += [Urgency.URGENT if control is None else control.urgency for control in counting]
    found += [rules.document_controls.get(flag, Urgency.URGENT) for flag in evidence.document_flags]
    return max(found, key=list(Urgency).index)


def judge(evidence: Evidence, rules: Rules) -> Verdict:
    """The verdict before the exit: a grant only where every rule is kept."""
    broken = _first_broken(rules, BEFORE_EXIT, evidence)
    if broken is None:
        return Verdict(Decision.GRANT, "all_rules_kept", rules.version, "", oddities(evidence))
    return referred(evidence, rules, broken)


def referred(evidence: Evidence, rules: Rules, reason: str) -> Verdict:
    """To an officer, for this reason."""
    how = urgency(evidence, rules, reason).value
    return Verdict(Decision.REFER, reason, rules.version, how, oddities(evidence))
