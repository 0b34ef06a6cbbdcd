"""How old a cache may be, and what it is called then. No I/O, no clock.

The age of a partition is the time since HQ last said that the lane has all there is of it, not since its last change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from math import inf

from gated.lane.events import CacheStand

AHEAD_S_MAX = 300.0
"""HQ's word cannot come from the future; beyond this the lane's clock is wrong, and no age can be told."""


class Freshness(Enum):
    """What the age of a cache is called; from best to worst."""

    FRESH = "fresh"
    LATE = "late"
    """Later than ever in ordinary life: people are told."""
    STALE = "stale"
    """What changed meanwhile matters: the policy says who may still pass by it."""
    EXPIRED = "expired"
    """Older than anybody vouches for, or of no known age."""

    @property
    def rank(self) -> int:
        return _RANKS[self]


_RANKS = {each: rank for rank, each in enumerate(Freshness)}


@dataclass(frozen=True, slots=True)
class Ages:
    """From which age on, in seconds, a partition is late, stale, expired."""

    late_s: float
    stale_s: float
    expired_s: float

    def __post_init__(self) -> None:
        if not 0 < self.late_s <= self.stale_s <= self.expired_s:
            raise ValueError("late_s, stale_s and expired_s are above 0 and in this order")


def freshness(ages: Ages | None, as_of: datetime | None, now: datetime) -> Freshness:
    """What a partition confirmed at `as_of` is called. No `ages`: the policy does not ask."""
    if ages is None:
        return Freshness.FRESH
    age_s = (now - as_of).total_seconds() if as_of is not None else -inf
    if age_s < -AHEAD_S_MAX:
        return Freshness.EXPIRED
    if age_s < ages.late_s:
        return Freshness.FRESH
    if age_s >= ages.expired_s:
        return Freshness.EXPIRED
    if age_s >= ages.stale_s:
        return Freshness.STALE
    return Freshness.LATE


def of_stand(ages: Mapping[str, Ages], stand: CacheStand | None, now: datetime) -> Freshness:
    """Of both partitions together: the worse."""
    worst = Freshness.FRESH
    for partition, each in ages.items():
        as_of = None if stand is None else stand.people_as_of if partition == "people" else stand.control_as_of
        found = freshness(each, as_of, now)
        worst = found if found.rank > worst.rank else worst
    return worst
