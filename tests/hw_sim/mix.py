"""`demo --mix taiwan`: everybody of whom the policy speaks, both ways through one lane, and who may not pass.

What is counted is the physical truth: who came, from which side, and who went out at the other one."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from gated.wire.rows import CrossingRow, PermitRow
from tests.hw_sim.cast import FOR_EVER, INDEX_FINGERS, Cast, Enrolment, Manner, Passenger, Truth, permits_of
from tests.hw_sim.gallery import Person, Show
from tests.hw_sim.monitor import Monitor
from tests.hw_sim.papers import Paper, document

TAIWAN: Final = "taiwan"
PLACE: Final = "kinmen_shuitou"
"""Where the Kinmen-Matsu permit counts too."""
OUT, IN = "ab", "ba"
DIRECTION: Final = {OUT: "exit", IN: "entry"}
IMPOSTORS: Final = 6
LEFT_ALONE: Final = frozenset({"national", "foreign_visitor"})
"""Who is recognised by the face alone."""


@dataclass(frozen=True, slots=True)
class Sort:
    """One passenger of the mix. `reason`: why they are referred; empty: they are not."""

    says: str
    category: str
    kind: str
    way: str
    reason: str = ""
    truth: Truth = Truth.GENUINE
    flags: tuple[str, ...] = ()
    document_flags: tuple[str, ...] = ()
    permits: tuple[tuple[str, int, int], ...] | None = None
    """(kind, first and last day from today on); None: all that the category needs, for ever."""
    age: int = 35
    office_days: int | None = None
    """Enrolled at an office, and the passport received so many days ago; None: at the counter."""
    inside: bool = False
    """They entered with this document three days ago."""


def _both(says: str, category: str, kind: str, inside: bool = False) -> list[Sort]:
    """Somebody of a category, out and in; `inside`: who leaves was seen to enter."""
    return [Sort(f"{says}, leaves", category, kind, OUT, inside=inside), Sort(f"{says}, enters", category, kind, IN)]


_UNENTITLED: Final = Truth.UNENTITLED
SORTS: Final[tuple[Sort, ...]] = (
    *_both("national with a passport", "national", "passport_tw"),
    *_both("national with the Kinmen permit", "national", "kinmen_permit"),
    *_both("national without household registration", "national_abroad", "residence_certificate"),
    *_both("foreign resident", "resident", "residence_certificate"),
    *_both("foreign diplomat", "diplomat", "diplomatic_card"),
    *_both("resident of Hong Kong or Macau", "hong_kong_macau", "exit_entry_permit"),
    *_both("visitor from Hong Kong or Macau", "hong_kong_macau_visitor", "exit_entry_permit", inside=True),
    *_both("resident from the mainland", "mainland_resident", "exit_entry_permit"),
    *_both("mainland spouse", "mainland_spouse", "exit_entry_permit"),
    Sort("foreigner who leaves: this lane reads no chips", "foreign_visitor", "passport_foreign", OUT,
         "chip_is_genuine", _UNENTITLED, inside=True),
    Sort("foreigner who enters", "foreign_visitor", "passport_foreign", IN, "document_fits_direction", _UNENTITLED),
    Sort("under an exit ban", "national", "passport_tw", OUT, "holder_is_not_flagged", Truth.BANNED, ("exit_ban",)),
    Sort("under an exit ban, comes home", "national", "passport_tw", IN, flags=("exit_ban",)),
    Sort("under an entry ban", "resident", "residence_certificate", IN, "holder_is_not_flagged", Truth.BANNED,
         ("entry_ban",)),
    Sort("conscript without permission", "national", "passport_tw", OUT, "holder_is_not_flagged", _UNENTITLED,
         ("conscript",)),
    Sort("conscript with permission", "national", "passport_tw", OUT, flags=("conscript",),
         permits=(("military_leave", -10, 50),)),
    Sort("resident whose permit to return is over", "resident", "residence_certificate", IN, "permits_are_valid",
         _UNENTITLED, permits=(("residence", -400, 400), ("reentry", -400, -1))),
    Sort("lost passport", "national", "passport_tw", OUT, "document_is_not_flagged", Truth.LOST,
         document_flags=("lost",)),
    Sort("nine years old", "national", "passport_tw", OUT, "old_enough", Truth.UNDER_AGE, age=9),
    Sort("enrolled at an office, passport of today", "national", "passport_tw", OUT, "enrolment_is_usable",
         _UNENTITLED, office_days=0),
    Sort("enrolled at an office, passport of two weeks ago", "national", "passport_tw", OUT, office_days=14),
    Sort("visitor who stayed too long", "hong_kong_macau_visitor", "exit_entry_permit", OUT, "stay_not_exceeded",
         _UNENTITLED, permits=(("entry_permit", -80, 10), ("stay", -20, -1)), inside=True),
    Sort("visitor who has entered already", "hong_kong_macau_visitor", "exit_entry_permit", IN, "not_inside_already",
         _UNENTITLED, inside=True),
)  # fmt: skip
COUNT: Final = len(SORTS) + IMPOSTORS


def show(everybody: Sequence[Person], known: Sequence[int], seed: int, today: date) -> Show:
    """Who comes: one of each sort, and impostors who show the document of somebody else of a sort that passes. The same
    arguments give the same show, in whichever process."""
    rng = random.Random(f"mix {seed}")
    good = [sort for sort in SORTS if not sort.reason]
    roster: list[tuple[Sort, bool]] = [(sort, False) for sort in SORTS]
    roster += [(sort, True) for sort in rng.sample(good, IMPOSTORS)]
    rng.shuffle(roster)
    made = Show(Cast([], [], len(everybody), today), {}, [])
    for take, (sort, impostor) in enumerate(roster):
        _add(rng, made, everybody, known[take % len(known)], take, sort, impostor)
    made.strangers = [everybody[known[-1]].shown[0]]
    return made


def _add(
    rng: random.Random, made: Show, everybody: Sequence[Person], owner: int, take: int, sort: Sort, impostor: bool
) -> None:
    today = made.cast.today
    paper = _paper(rng, owner, today, sort)
    made.cast.enrolments.append(_enrolment(owner, paper, today, sort))
    person, truth = owner, sort.truth
    if impostor:
        person, truth = rng.choice([k for k in range(len(everybody)) if k != owner]), Truth.IMPOSTOR
    made.photos[take] = rng.choice(everybody[person].shown)
    made.cast.passengers.append(
        Passenger(f"p{take + 1:03}", person, paper, truth, Manner.PLAIN, rng.randrange(2**32), sort.way, take=take)
    )


def _paper(rng: random.Random, person: int, today: date, sort: Sort) -> Paper:
    birth = today - timedelta(days=int(365.25 * sort.age) + rng.randint(40, 300))
    return document(rng, sort.kind, person, birth=birth, expiry=today + timedelta(days=rng.randint(200, 1500)))


def _enrolment(person: int, paper: Paper, today: date, sort: Sort) -> Enrolment:
    office = sort.office_days is not None
    received = today - timedelta(days=sort.office_days) if sort.office_days is not None else None
    entered = datetime.combine(today - timedelta(days=3), datetime.min.time(), UTC)
    return Enrolment(
        person,
        paper,
        frozenset(sort.flags),
        sort.category,
        fingers=() if sort.category in LEFT_ALONE else INDEX_FINGERS,
        permits=_permits(sort, today),
        origin="entry" if sort.category == "foreign_visitor" else "office" if office else "counter",
        enrolled_on=received - timedelta(days=10) if received is not None else None,
        received_on=received,
        crossings=(CrossingRow("entry", entered, paper.issuer, paper.number),) if sort.inside else (),
        document_flags=frozenset(sort.document_flags),
    )


def _permits(sort: Sort, today: date) -> tuple[PermitRow, ...]:
    if sort.permits is None:
        return permits_of(sort.category)
    days = ((kind, today + timedelta(days=first), today + timedelta(days=last)) for kind, first, last in sort.permits)
    named = {kind for kind, _, _ in sort.permits}
    rest = (PermitRow(each.kind, *FOR_EVER) for each in permits_of(sort.category) if each.kind not in named)
    return (*(PermitRow(*each) for each in days), *rest)


# -- counting ------------------------------------------------------------------------------------------------------


def seen(made: Show, monitor: Monitor) -> list[dict[str, Any]]:
    """By category and direction: how often somebody showed a document, and who went through, in body."""
    category = {each.paper.number: each.category for each in made.cast.enrolments}
    groups = {p.name: (category[p.paper.number], DIRECTION[p.way]) for p in made.cast.passengers}
    way = {p.name: p.way for p in made.cast.passengers}
    came = Counter(groups[attempt.name] for attempt in monitor.attempts)
    through = {p.body.name for p in monitor.passages if p.body.name in way and p.way == way[p.body.name]}
    went = Counter(groups[name] for name in through)
    return [{"category": c, "direction": d, "came": came[c, d], "crossed": went[c, d]} for c, d in sorted(came)]


def beside(world: Iterable[Mapping[str, Any]], hq: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The simulator's counts and HQ's (`gated-hq statistics --json`), group by group, and whether they are the same."""
    ours = {(row["category"], row["direction"]): row for row in world}
    theirs = {(row["category"], row["direction"]): row for row in hq}
    found = []
    for group in sorted(ours.keys() | theirs.keys()):
        mine, its = ours.get(group, {}), theirs.get(group, {})
        row = {
            "category": group[0],
            "direction": group[1],
            "came": mine.get("came", 0),
            "crossed": mine.get("crossed", 0),
            "hq_tickets": its.get("tickets", 0),
            "hq_granted": its.get("granted", 0),
            "hq_referred": its.get("referred", 0),
            "hq_crossed": its.get("crossed", 0),
            "reasons": its.get("reasons", {}),
        }
        row["same"] = (row["came"], row["crossed"]) == (row["hq_tickets"], row["hq_crossed"])
        found.append(row)
    return found
