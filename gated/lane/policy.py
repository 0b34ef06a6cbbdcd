"""Evidence -> Verdict: may this traveller pass? Every rule is a named predicate, in the order they are asked.

No I/O, no clock: the day of use comes with the evidence. A predicate answers whether its rule is kept; the first
one that is not gives the verdict its reason, which is for the officer and the record and never for the passenger."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import Enum
from itertools import combinations
from math import prod
from typing import Any

from gated.icao.check import Check
from gated.icao.mrz import Document
from gated.lane.events import CacheStand, ChipRead, FaceCompared, FingerCompared, Traveller, personal
from gated.lane.freshness import Ages, Freshness, of_stand


class Decision(Enum):
    """What becomes of a passenger. RELEASE lets somebody out without being a passage (a stranger, a service door)."""

    GRANT = "grant"
    REFER = "refer"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and the name of the rule that made it. `rules` is the version of the policy."""

    decision: Decision
    reason: str = personal()
    rules: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known when a verdict is asked for; what is missing is None or says so itself.

    `since_mono`: only a face captured after this moment counts (the entry door was shut behind one person)."""

    opened: datetime
    since_mono: float = 0.0
    clock_trusted: bool = True
    document: Document | None = personal(None)
    traveller: Traveller | None = personal(None)
    document_flags: frozenset[str] = personal(frozenset())
    flags: frozenset[str] = personal(frozenset())
    cache: CacheStand | None = None
    """How far the cache had come that traveller and flags were read from."""
    chip: ChipRead | None = None
    face: FaceCompared | None = None
    finger_reader: bool = False
    """Whether the lane had a working fingerprint reader when the document was checked."""
    fingers: tuple[FingerCompared, ...] = ()
    """Every answer of the reader, in order."""
    faces: int = 0
    """How often a face was compared in this passage, before an officer's retry too."""
    earlier: tuple[FingerCompared, ...] = ()
    """What the reader answered before an officer's retry: it proves nothing any more, but it was tried."""

    @property
    def day(self) -> date:
        """The day of use, UTC; `clock_trusted` says whether it can be believed."""
        return self.opened.date()


def with_found(evidence: Evidence, **found: Any) -> Evidence:
    """The same evidence with more known."""
    return replace(evidence, **found)


@dataclass(frozen=True, slots=True)
class Category:
    """What the policy asks of one category of traveller."""

    documents: frozenset[str]
    """Document codes that this category presents: P and every two-letter passport code stand for each other."""
    finger: bool = False
    """Face and finger are both demanded (W4, W5)."""
    weak_face: bool = False
    """A weak face counts where a finger matches (L3): one between the two thresholds, never a wrong one."""
    may_miss: frozenset[str] = frozenset()
    """Evidence that may be missing for a grant: chip, face_pad, finger_pad."""
    cache_until: Freshness = Freshness.EXPIRED
    """The oldest cache by which this category passes: EXPIRED says by any."""


@dataclass(frozen=True, slots=True)
class Rules:
    """One version of the policy."""

    version: str
    age_years_min: int
    categories: Mapping[str, Category]
    fingers_alone: int = 2
    """So many different fingers must match where no face could be enrolled (L3, E4)."""
    freshness: Mapping[str, Ages] = field(default_factory=dict)
    """What the age of each partition of the cache is called; of one that is not named no age is asked."""

    def __post_init__(self) -> None:
        if not 1 <= self.fingers_alone <= 10:
            raise ValueError(f"fingers_alone is 1 to 10, not {self.fingers_alone}")
        unknown = {m for c in self.categories.values() for m in c.may_miss} - EVIDENCE_THAT_MAY_BE_MISSING
        if foreign := self.freshness.keys() - PARTITIONS:
            raise ValueError(f"freshness knows {sorted(PARTITIONS)}, not {sorted(foreign)}")
        if unknown:
            raise ValueError(f"may_miss knows {sorted(EVIDENCE_THAT_MAY_BE_MISSING)}, not {sorted(unknown)}")
        if self.age_years_min < 0:
            raise ValueError("age_years_min cannot be below zero")
        if not self.categories:
            raise ValueError("a policy without categories lets nobody pass")


PARTITIONS = frozenset({"people", "control"})
EVIDENCE_THAT_MAY_BE_MISSING = frozenset({"chip", "face_pad", "finger_pad"})
TRIES_A_FINGER = 2
"""A finger that did not match twice is another one; more tries would only help somebody who guesses."""
Rule = Callable[[Evidence, Rules], bool]


def _has_no_face(e: Evidence) -> bool:
    """No face could be enrolled (E4): the finger stands alone, and the presence sensors alone count the persons."""
    return e.traveller is not None and not e.traveller.face


def clock_is_trusted(e: Evidence, _: Rules) -> bool:
    """A day that cannot be believed makes every validity undetermined (TR-03135-1, 5.6.4.3.4)."""
    return e.clock_trusted


def document_in_force(e: Evidence, _: Rules) -> bool:
    """W8: not expired on the day of use."""
    return e.document is not None and e.document.expires_on(e.day) >= e.day


def holder_is_enrolled(e: Evidence, _: Rules) -> bool:
    """W1, W3: the cache knows the holder."""
    return e.traveller is not None


def category_is_known(e: Evidence, rules: Rules) -> bool:
    """W1-W5: the policy names this category of traveller."""
    return e.traveller is not None and e.traveller.category in rules.categories


def cache_is_recent_enough(e: Evidence, rules: Rules) -> bool:
    """L9, W7: offline the lane goes on, with each category as long as the policy lets the cache's age be."""
    if e.traveller is None:
        return False
    return of_stand(rules.freshness, e.cache, e.opened).rank <= rules.categories[e.traveller.category].cache_until.rank


def document_fits_category(e: Evidence, rules: Rules) -> bool:
    """W1, W5: this category presents this kind of document."""
    if e.document is None or e.traveller is None:
        return False
    code = e.document.code
    accepted = rules.categories[e.traveller.category].documents
    return code in accepted or (code.startswith("P") and "P" in accepted)


def old_enough(e: Evidence, rules: Rules) -> bool:
    """W2: by the birth date on record, on the day of use. A child of 29 February has its birthday on 1 March."""
    if e.traveller is None:
        return False
    born = e.traveller.birth
    return e.day.year - born.year - ((e.day.month, e.day.day) < (born.month, born.day)) >= rules.age_years_min


def enrolment_is_usable(e: Evidence, _: Rules) -> bool:
    """E7: not before the first day of use."""
    return e.traveller is not None and (e.traveller.usable_from is None or e.traveller.usable_from <= e.day)


_NO_CLONE = frozenset({Check.SUCCESSFUL, Check.NOT_SUPPORTED})
"""Many chips cannot prove that they are the original; one that can and then does not is a copy."""


def chip_is_genuine(e: Evidence, rules: Rules) -> bool:
    """Access and authenticity proven; where the chip could not be read the category says whether that may be."""
    if e.chip is None or e.traveller is None:
        return False
    results = {e.chip.access, e.chip.authentic}
    if results == {Check.SUCCESSFUL} and e.chip.not_cloned in _NO_CLONE:
        return True
    may_miss = "chip" in rules.categories[e.traveller.category].may_miss
    return results == {Check.NOT_SUPPORTED} and may_miss


def face_is_alone(e: Evidence, _: Rules) -> bool:
    """L4: one person, and no other face, in the frame that was compared."""
    return _has_no_face(e) or (e.face is not None and e.face.persons == 1)


def face_is_fresh(e: Evidence, _: Rules) -> bool:
    """No substitution: the frame was taken after the entry door shut behind one person."""
    return _has_no_face(e) or (e.face is not None and e.face.captured_mono >= e.since_mono)


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


def face_matches(e: Evidence, rules: Rules) -> bool:
    """L1, L3: the face is the enrolled one. A finger supports a weak face, and replaces one that was never enrolled."""
    if _has_no_face(e):
        return len(proven_fingers(e)) >= rules.fingers_alone
    return face_stands(e) or (face_is_weak(e, rules) and bool(proven_fingers(e)))


def face_is_live(e: Evidence, rules: Rules) -> bool:
    """Presentation attack detection; where the lane has none the category says whether that may be."""
    if _has_no_face(e):
        return True
    if e.face is None or e.traveller is None:
        return False
    if e.face.pad is Check.NOT_SUPPORTED:
        return "face_pad" in rules.categories[e.traveller.category].may_miss
    return e.face.pad is Check.SUCCESSFUL


def proven_fingers(e: Evidence) -> frozenset[str]:
    """The fingers that were compared and are the enrolled ones."""
    matched = (f for f in e.fingers if f.result is Check.SUCCESSFUL and f.score >= f.threshold)
    return frozenset(f.finger for f in matched)


def finger_matches_where_demanded(e: Evidence, rules: Rules) -> bool:
    """W4, W5: both, where the category demands both."""
    if e.traveller is None:
        return False
    return not rules.categories[e.traveller.category].finger or bool(proven_fingers(e))


def finger_is_live(e: Evidence, rules: Rules) -> bool:
    """Presentation attack detection of every finger that counts; where there is none the category says what then."""
    if e.traveller is None:
        return False
    proven = proven_fingers(e) if fingers_needed(e, rules) else frozenset()
    found = {f.pad for f in e.fingers if f.finger in proven and f.result is Check.SUCCESSFUL}
    may_miss = "finger_pad" in rules.categories[e.traveller.category].may_miss
    return found <= ({Check.SUCCESSFUL, Check.NOT_SUPPORTED} if may_miss else {Check.SUCCESSFUL})


def fingers_can_be_taken(e: Evidence, rules: Rules) -> bool:
    """Whoever cannot pass without a finger is not let in to a lane that takes none, or none of theirs."""
    needed = fingers_needed(with_found(e, face=None), rules)  # whatever the face will turn out to be
    return needed == 0 or (e.finger_reader and e.traveller is not None and len(e.traveller.fingers) >= needed)


def document_is_not_flagged(e: Evidence, _: Rules) -> bool:
    """W8: not lost, stolen or invalid."""
    return not e.document_flags


def holder_is_not_flagged(e: Evidence, _: Rules) -> bool:
    """W7: no control on the holder. Asked last, so that a control changes nothing before the verdict (L8)."""
    return e.traveller is not None and not e.traveller.flags and not e.flags


BEFORE_ENTRY: tuple[Rule, ...] = (
    clock_is_trusted,
    document_in_force,
    holder_is_enrolled,
    category_is_known,
    cache_is_recent_enough,
    document_fits_category,
    old_enough,
    enrolment_is_usable,
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


def _first_broken(rules: Rules, order: tuple[Rule, ...], evidence: Evidence) -> str | None:
    return next((rule.__name__ for rule in order if not rule(evidence, rules)), None)


def refusal(evidence: Evidence, rules: Rules) -> str | None:
    """The rule that keeps this traveller from trying the lane, or None."""
    return _first_broken(rules, BEFORE_ENTRY, evidence)


def fingers_needed(e: Evidence, rules: Rules) -> int:
    """How many different fingers must match for a grant, by what is known so far."""
    category = rules.categories.get(e.traveller.category) if e.traveller is not None else None
    if category is None:
        return 0
    if _has_no_face(e):
        return rules.fingers_alone
    return int(category.finger or face_is_weak(e, rules))


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
    if e.face is not None and (face_stands(e) or face_is_weak(e, rules)):
        fmr = e.face.fmr if face_stands(e) else e.face.weak_fmr
        rate *= min(1.0, max(1, e.faces) * fmr)
    return rate


def judge(evidence: Evidence, rules: Rules) -> Verdict:
    """The verdict before the exit: a grant only where every rule is kept."""
    broken = _first_broken(rules, BEFORE_EXIT, evidence)
    if broken is None:
        return Verdict(Decision.GRANT, "all_rules_kept", rules.version)
    return Verdict(Decision.REFER, broken, rules.version)
