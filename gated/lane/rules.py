"""One version of the policy, as data: who may pass with what, where, which way, and by when. No I/O, no clock.

`gated.lane.policy` has the named rules that read it, `gated.policyfile` reads it from TOML. A `Rules` that exists is
whole: no cell of the matrix is missing, no name is unknown, nothing contradicts itself."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, tzinfo
from enum import Enum
from itertools import combinations, pairwise, product
from typing import Final

from gated.icao.mrz import Document
from gated.lane.calendar import Calendar
from gated.lane.freshness import Ages, Freshness

ENTRY: Final = "entry"
EXIT: Final = "exit"
DIRECTIONS: Final = (ENTRY, EXIT)
PARTITIONS: Final = frozenset({"people", "control"})
EVIDENCE_THAT_MAY_BE_MISSING: Final = frozenset({"chip", "face_pad", "finger_pad", "height"})
PICTURES: Final = frozenset({"case_picture", "entry_face"})
"""The frame that a verdict stands on, and the face alone."""
PICTURED: Final = frozenset({"grant", "refer"})
"""Decisions of which a picture may be kept: of who is let out without being a passenger there is none."""
KEEP_DAYS_MAX: Final = 366
NAME_MAX: Final = 64
"""Characters of a version and of every other name: records carry them, and take no longer ones."""
EDITION_MAX: Final = 999_999_999
KINDS_KEPT: Final = 1024
_VERSION: Final = re.compile(r"[A-Za-z0-9._-]+")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


class Urgency(Enum):
    """How much a referral matters to the officer who is called."""

    ROUTINE = "routine"
    ATTENTION = "attention"
    URGENT = "urgent"


class History(Enum):
    """What a contradiction between this crossing and the last ones does."""

    NOTE = "note"
    """It is written in the record."""
    REFER = "refer"
    """It goes to an officer."""


@dataclass(frozen=True, slots=True)
class Size:
    """W2: how old and how tall somebody must be, from the day `since` on."""

    since: date
    age_years_min: int
    height_cm_min: int

    def __post_init__(self) -> None:
        if not 0 <= self.age_years_min <= 120:
            raise ValueError(f"age_years_min is 0 to 120, not {self.age_years_min}")
        if not 0 <= self.height_cm_min <= 250:
            raise ValueError(f"height_cm_min is 0 to 250, not {self.height_cm_min}")


@dataclass(frozen=True, slots=True)
class DocumentKind:
    """A kind of document, as the machine readable zone tells it: by code and issuer."""

    codes: frozenset[str]
    """P stands for every two-letter passport code as well."""
    issuers: frozenset[str] = frozenset()
    """Three-letter codes; none: whoever issued it."""
    other_than: frozenset[str] = frozenset()
    """Every issuer but these."""

    def __post_init__(self) -> None:
        if not self.codes:
            raise ValueError("codes is empty: no document would be of this kind")
        if self.issuers and self.other_than:
            raise ValueError("issuers and other_than contradict each other: give one of them")

    def fits(self, code: str, issuer: str) -> bool:
        """Whether a document of this code and issuer is of this kind."""
        if code not in self.codes and not (code.startswith("P") and "P" in self.codes):
            return False
        return issuer in self.issuers if self.issuers else issuer not in self.other_than

    def overlaps(self, other: "DocumentKind") -> bool:
        """Whether one document could be of both kinds."""
        passports = any(c.startswith("P") for c in self.codes) and any(c.startswith("P") for c in other.codes)
        passports = passports and ("P" in self.codes or "P" in other.codes)
        if not (self.codes & other.codes or passports):
            return False
        if self.issuers and other.issuers:
            return bool(self.issuers & other.issuers)
        if self.issuers or other.issuers:
            named, rest = (self, other) if self.issuers else (other, self)
            return bool(named.issuers - rest.other_than)
        return True


@dataclass(frozen=True, slots=True)
class Where:
    """A cell of the matrix: the places at which somebody may enter, and leave, with a document."""

    entry: frozenset[str] = frozenset()
    exit: frozenset[str] = frozenset()

    def at(self, direction: str) -> frozenset[str]:
        """The places for one direction."""
        return self.entry if direction == ENTRY else self.exit


@dataclass(frozen=True, slots=True)
class Category:
    """What the policy asks of one category of traveller."""

    since: date = date.min
    """The first day on which this category may use lanes (W3, W4)."""
    until: date = date.max
    """The last one."""
    finger: bool = False
    """Face and finger are both demanded (W4, W5)."""
    weak_face: bool = False
    """A weak face counts where a finger matches (L3): one between the two thresholds, never a wrong one."""
    fingers_alone: bool = False
    """Fingers replace a face that could not be enrolled (L3, E4)."""
    may_miss: frozenset[str] = frozenset()
    """Evidence that may be missing for a grant: chip, face_pad, finger_pad, height."""
    cache_until: Freshness = Freshness.EXPIRED
    """The oldest cache by which this category passes: EXPIRED says by any."""
    entry_permits: frozenset[str] = frozenset()
    """Kinds of permit that are all demanded on entry, each valid that day and with entries left."""
    exit_permits: frozenset[str] = frozenset()
    """Kinds of permit that are all demanded on exit, each valid that day."""
    stay: str = ""
    """The kind of permit whose last day is the last day of the stay (W6): whoever leaves later has overstayed."""
    history: History = History.NOTE
    abroad_years_max: int | None = None
    """Whoever left so many years ago is for an officer (W7); None: however long."""

    def __post_init__(self) -> None:
        if self.until < self.since:
            raise ValueError(f"until is {self.until}, before since, {self.since}")
        if unknown := sorted(self.may_miss - EVIDENCE_THAT_MAY_BE_MISSING):
            raise ValueError(f"may_miss knows {_names(EVIDENCE_THAT_MAY_BE_MISSING)}, not {', '.join(unknown)}")
        if self.finger and self.weak_face:
            raise ValueError("weak_face contradicts finger: where both are demanded, one cannot support the other")
        if self.finger and self.fingers_alone:
            raise ValueError("fingers_alone contradicts finger: where both are demanded, none replaces the other")
        if self.abroad_years_max is not None and not 1 <= self.abroad_years_max <= 100:
            raise ValueError(f"abroad_years_max is 1 to 100, not {self.abroad_years_max}")

    def permits(self, direction: str) -> frozenset[str]:
        """Kinds of permit that are all demanded."""
        return self.entry_permits if direction == ENTRY else self.exit_permits


@dataclass(frozen=True, slots=True)
class ControlRule:
    """What a control flag on a holder does (W7, O2, O5, O9)."""

    directions: frozenset[str] = frozenset(DIRECTIONS)
    places: frozenset[str] = frozenset()
    """Where it counts; none: everywhere."""
    unless_permit: str = ""
    """A kind of permit that lifts it while it is valid, however often it is used."""
    urgency: Urgency = Urgency.URGENT

    def __post_init__(self) -> None:
        if not self.directions:
            raise ValueError("directions is empty: the control would never count")
        if unknown := sorted(self.directions - set(DIRECTIONS)):
            raise ValueError(f"directions knows entry, exit, not {', '.join(unknown)}")


@dataclass(frozen=True, slots=True)
class Origin:
    """What is asked of enrolments that were taken at one sort of place: counter, office, gate, entry."""

    categories: frozenset[str]
    """Who may be enrolled there (E2)."""
    usable_after_workdays: int | None = None
    """Working days from the day on which the passport was received (E7); None: at once."""
    bound_within_days: int | None = None
    """The enrolment lapses where no passport was received within so many days (E6); None: it needs none."""
    age_years_min: int | None = None
    """How old somebody must be to be enrolled there (E2); None: of any age. Of use at a lane `Size` speaks."""
    height_cm_min: int | None = None
    """And how tall, as they say (E2)."""

    def __post_init__(self) -> None:
        most = {"usable_after_workdays": 366, "bound_within_days": 366, "age_years_min": 120, "height_cm_min": 250}
        for name, highest in most.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value <= highest:
                raise ValueError(f"{name} is 0 to {highest}, not {value}")
        if not self.categories:
            raise ValueError("categories is empty: nobody could be enrolled there")
        if self.usable_after_workdays is not None and self.bound_within_days is None:
            raise ValueError(
                "usable_after_workdays counts from a passport that nobody waits for: say bound_within_days"
            )


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that HQ is given of a verdict, and for how long HQ keeps it (P2)."""

    on: frozenset[str]
    """Decisions: grant, refer."""
    keep_days: int
    directions: frozenset[str] = frozenset(DIRECTIONS)
    categories: frozenset[str] = frozenset()
    """Of whom; none: of everybody, also of who is of no category."""

    def __post_init__(self) -> None:
        for name, known in (("on", PICTURED), ("directions", frozenset(DIRECTIONS))):
            given = getattr(self, name)
            if not given:
                raise ValueError(f"{name} is empty: the picture would never be kept")
            if unknown := sorted(given - known):
                raise ValueError(f"{name} knows {_names(known)}, not {', '.join(unknown)}")
        if not 1 <= self.keep_days <= KEEP_DAYS_MAX:
            raise ValueError(f"keep_days is 1 to {KEEP_DAYS_MAX}, not {self.keep_days}")


@dataclass(frozen=True, slots=True)
class Rules:
    """One version of the policy. Raises `ValueError`, whose first word is the option, where it is not whole."""

    version: str
    """The name that every record carries."""
    edition: int
    """Counts up: a lane never goes back to a lower one."""
    zone: tzinfo
    """The country's time: the day of use is a day there."""
    places: frozenset[str]
    sizes: tuple[Size, ...]
    """By their days, oldest first."""
    documents: Mapping[str, DocumentKind]
    categories: Mapping[str, Category]
    matrix: Mapping[str, Mapping[str, Where]]
    """Category -> kind of document -> where."""
    permits: frozenset[str]
    """Every kind of permit there is."""
    controls: Mapping[str, ControlRule]
    """Control flag of a holder -> what it does. A flag that is not named here counts everywhere."""
    document_controls: Mapping[str, Urgency]
    """Flag of a document (W8) -> how much it matters."""
    origins: Mapping[str, Origin]
    calendar: Calendar
    reasons: Mapping[str, Urgency]
    """Every reason for which the lane refers anybody -> how much it matters."""
    fingers_alone: int = 2
    """So many different fingers must match where no face could be enrolled (L3, E4)."""
    freshness: Mapping[str, Ages] = field(default_factory=dict)
    """What the age of each partition of the cache is called; of one that is not named no age is asked."""
    attachments: Mapping[str, Picture] = field(default_factory=dict)
    """Of `PICTURES`, those that are kept; of one that is not named none is made."""
    _kinds: dict[tuple[str, str], str | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `kind_of` found: four rules ask it of each passenger."""

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(problem)

    def day(self, moment: datetime) -> date:
        """The day there."""
        return moment.astimezone(self.zone).date()

    def kind_of(self, document: Document) -> str | None:
        """The kind of a document; None: of none that the policy knows."""
        what = document.code, document.issuer
        if what not in self._kinds:
            if len(self._kinds) >= KINDS_KEPT:
                self._kinds.clear()
            self._kinds[what] = next((name for name, kind in self.documents.items() if kind.fits(*what)), None)
        return self._kinds[what]

    def size(self, day: date) -> Size:
        """How old and tall somebody must be on a day: before the first of the rules, as by the first."""
        return next((size for size in reversed(self.sizes) if size.since <= day), self.sizes[0])

    def pictures(self, decision: str, direction: str, category: str | None) -> dict[str, int]:
        """Which pictures of a verdict are kept -> for how many days. `category`: None where it is not known."""
        return {
            what: each.keep_days
            for what, each in self.attachments.items()
            if decision in each.on
            and direction in each.directions
            and (not each.categories or category in each.categories)
        }


def _names(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _problems(rules: Rules) -> Iterator[str]:
    yield from _forms(rules)
    yield from _gaps(rules)
    yield from _unknown(rules)
    yield from _forgotten(rules)
    for (one, first), (other, second) in combinations(rules.documents.items(), 2):
        if first.overlaps(second):
            yield f"documents.{other}: one document could be of this kind and {one}: give them other codes or issuers"


def _forms(rules: Rules) -> Iterator[str]:
    if not _VERSION.fullmatch(rules.version) or len(rules.version) > NAME_MAX:
        yield f"version has 1 to {NAME_MAX} letters, digits, '.', '_' and '-': every record carries it"
    if not 1 <= rules.edition <= EDITION_MAX:
        yield f"edition is 1 or more, up to {EDITION_MAX}, not {rules.edition}"
    yield from _misnamed("places", rules.places)
    yield from _misnamed("permits", rules.permits)
    for where in ("documents", "categories", "controls", "document_controls", "origins"):
        yield from _misnamed(where, getattr(rules, where))
    if not 1 <= rules.fingers_alone <= 10:
        yield f"fingers_alone is 1 to 10, not {rules.fingers_alone}"
    if not rules.places:
        yield "places is empty: there would be no lane"
    if not rules.sizes:
        yield "sizes is empty: how old somebody must be is not said"
    days = [size.since for size in rules.sizes]
    if any(first >= second for first, second in pairwise(days)):
        yield "sizes contradict each other: they are in the order of their days, one a day"
    if not rules.categories:
        yield "categories is empty: nobody would pass"


def _misnamed(where: str, names: Iterable[str]) -> Iterator[str]:
    for name in sorted(names):
        if not _NAME.fullmatch(name) or len(name) > NAME_MAX:
            yield f"{where} has {name!r}: a name is of lower-case letters, digits and '_', at most {NAME_MAX}"


def _gaps(rules: Rules) -> Iterator[str]:
    """Every category says of every kind of document where it counts, also that it counts nowhere."""
    for category, kind in product(rules.categories, rules.documents):
        if kind not in rules.matrix.get(category, {}):
            yield f"matrix.{category} has a gap: it says nothing of {kind}; say where it may be used, or nowhere"
    for category in rules.categories:
        if not any(cell.entry | cell.exit for cell in rules.matrix.get(category, {}).values()):
            yield f"matrix.{category} lets nobody pass anywhere: leave the category out"


def _unknown(rules: Rules) -> Iterator[str]:
    def strange(where: str, names: frozenset[str], known: frozenset[str], noun: str) -> Iterator[str]:
        for name in sorted(names - known):
            yield f"{where}: {name} is no {noun} of this policy"

    categories, kinds = frozenset(rules.categories), frozenset(rules.documents)
    yield from strange("freshness", frozenset(rules.freshness), PARTITIONS, "partition")
    yield from strange("attachments", frozenset(rules.attachments), PICTURES, "picture")
    for name, picture in rules.attachments.items():
        yield from strange(f"attachments.{name}", picture.categories, categories, "category")
    yield from strange("matrix", frozenset(rules.matrix), categories, "category")
    for category, row in rules.matrix.items():
        yield from strange(f"matrix.{category}", frozenset(row), kinds, "kind of document")
        for kind, cell in row.items():
            yield from strange(f"matrix.{category}.{kind}", cell.entry | cell.exit, rules.places, "place")
    for name, each in rules.categories.items():
        demanded = each.entry_permits | each.exit_permits | (frozenset({each.stay}) if each.stay else frozenset())
        yield from strange(f"categories.{name}", demanded, rules.permits, "kind of permit")
    for name, control in rules.controls.items():
        yield from strange(f"controls.{name}", control.places, rules.places, "place")
        if control.unless_permit:
            yield from strange(f"controls.{name}", frozenset({control.unless_permit}), rules.permits, "kind of permit")
    for name, origin in rules.origins.items():
        yield from strange(f"origins.{name}", origin.categories, categories, "category")


def _forgotten(rules: Rules) -> Iterator[str]:
    """What is asked for and could never be found, or never be asked."""
    for name, each in rules.categories.items():
        if each.cache_until is not Freshness.EXPIRED and (unaged := sorted(PARTITIONS - rules.freshness.keys())):
            until = each.cache_until.value
            yield f"freshness has a gap: {name} passes until the cache is {until}, and {unaged[0]} is of no age"
    enrolled = frozenset[str]().union(*(origin.categories for origin in rules.origins.values()))
    for name in sorted(rules.categories.keys() - enrolled):
        yield f"categories.{name} is enrolled nowhere: name it in one of origins, or leave it out"
