"""The lane's own crossings over those that HQ had counted when it made the row (DESIGN 4): last entry, last exit, and
the entries that permits have left. No I/O, no clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from gated.lane.events import Crossed, Permit
from gated.lane.rules import ENTRY, Rules


@dataclass(frozen=True, slots=True)
class Crossing:
    """One crossing of somebody, at whatever gate. `direction`: entry or exit."""

    direction: str
    crossed: Crossed = field(repr=False)


def uncounted(counted: Sequence[Crossing], own: Iterable[Crossing], *, full: bool) -> tuple[Crossing, ...]:
    """The lane's own crossings that HQ had not counted, oldest first.

    Lane and HQ know a crossing by its record's time. `full`: the row of `counted` has no room for older ones, so what
    happened before the oldest of them was counted and has left the row."""
    known = {(each.direction, each.crossed.utc) for each in counted}
    begins = min((each.crossed.utc for each in counted), default=None) if full else None
    new = [
        each
        for each in own
        if (each.direction, each.crossed.utc) not in known and (begins is None or each.crossed.utc >= begins)
    ]
    return tuple(sorted(new, key=lambda each: each.crossed.utc))


def last(crossings: Iterable[Crossing], direction: str) -> Crossed | None:
    """The newest crossing in this direction (O7, O8)."""
    return max(
        (each.crossed for each in crossings if each.direction == direction),
        key=lambda crossed: (crossed.utc, crossed.this_document),
        default=None,
    )


def entries_left(permits: Iterable[Permit], new: Iterable[Crossing], category: str, rules: Rules) -> tuple[Permit, ...]:
    """The permits less the entries among `new`, which HQ has not counted (O1).

    Each entry is taken off one permit of each kind that the category needs to enter: of those that were valid that
    day, the first that has any left, as `entitlement.valid_permit` would have chosen."""
    found = list(permits)
    demanded = rules.categories[category].entry_permits if category in rules.categories else frozenset[str]()
    for crossing in new:
        if crossing.direction != ENTRY:
            continue
        day = rules.day(crossing.crossed.utc)
        for kind in demanded:
            for at, permit in enumerate(found):
                if permit.kind == kind and permit.start <= day <= permit.end and permit.entries_left != 0:
                    if permit.entries_left is not None:
                        found[at] = replace(permit, entries_left=permit.entries_left - 1)
                    break
    return tuple(found)
