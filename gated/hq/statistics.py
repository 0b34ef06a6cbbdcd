"""Outcomes by group of traveller, from HQ's records (P3): how many were granted, referred and crossed, and why not.

Counts and nothing else: no name, number or day of birth leaves this module."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from gated.lane.entitlement import age_years
from gated.wire.facts import Fact, Holder, TicketSettled, VerdictReached

UNKNOWN: Final = "unknown"
GROUPS: Final = ("category", "direction", "document_kind", "nationality", "age_band", "place", "rules")
"""What travellers can be grouped by."""
BAND_YEARS: Final = 10


@dataclass(frozen=True, slots=True)
class Ticket:
    """How one ticket ended, and of which groups its passenger was."""

    groups: tuple[str, ...]
    """In the order of `GROUPS`."""
    decision: str
    """The policy's own: grant, refer; what an officer ordered afterwards is `by_officer`."""
    reason: str
    crossed: bool
    by_officer: bool


def tickets(told: Iterable[tuple[str, Fact]]) -> list[Ticket]:
    """`told`: (lane and database generation, fact) of records, each stream's in its order. Passengers alone: tickets
    that never had a verdict, and those of strangers and technicians, are left out."""
    first: dict[tuple[str, int], VerdictReached] = {}
    last: dict[tuple[str, int], VerdictReached] = {}
    found: list[Ticket] = []
    for source, fact in told:
        if isinstance(fact, VerdictReached):
            first.setdefault((source, fact.ticket), fact)
            last[source, fact.ticket] = fact
        elif isinstance(fact, TicketSettled) and (source, fact.ticket) in first:
            key = (source, fact.ticket)
            verdict, ended = first.pop(key), last.pop(key)
            if verdict.decision != "release":
                found.append(_ticket(verdict, ended, fact))
    return found


def _ticket(verdict: VerdictReached, ended: VerdictReached, settled: TicketSettled) -> Ticket:
    holder = verdict.holder or Holder()
    groups = (
        verdict.category or UNKNOWN,
        verdict.direction,
        verdict.document_kind or UNKNOWN,
        holder.nationality or UNKNOWN,
        _band(holder.birth_on, verdict.opened),
        verdict.place or UNKNOWN,
        verdict.rules,
    )
    return Ticket(
        groups,
        verdict.decision,
        verdict.reason,
        settled.outcome == "crossed",
        ended.by is not None and ended.decision == "grant",
    )


def _band(born: date | None, opened: datetime | None) -> str:
    """`30-39`: the age in whole years on the day of use, in tens."""
    if born is None or opened is None:
        return UNKNOWN
    low = age_years(born, opened.date()) // BAND_YEARS * BAND_YEARS
    return f"{low}-{low + BAND_YEARS - 1}"


@dataclass(frozen=True, slots=True)
class Row:
    """The counts of one group."""

    group: tuple[str, ...]
    tickets: int
    granted: int
    """By the lane alone."""
    referred: int
    by_officer: int
    """Of the referred: let through by an officer."""
    crossed: int
    reasons: tuple[tuple[str, int], ...]
    """Why they were referred, the commonest first."""


def counted(found: Iterable[Ticket], by: tuple[str, ...] = ("category", "direction")) -> list[Row]:
    """One row for each group that came. Raises `ValueError` for a group that there is not."""
    if unknown := [name for name in by if name not in GROUPS]:
        raise ValueError(f"{unknown[0]} is no group; there are {', '.join(GROUPS)}")
    at = [GROUPS.index(name) for name in by]
    rows: dict[tuple[str, ...], list[Ticket]] = {}
    for ticket in found:
        rows.setdefault(tuple(ticket.groups[k] for k in at), []).append(ticket)
    return [_row(group, rows[group]) for group in sorted(rows)]


def _row(group: tuple[str, ...], mine: list[Ticket]) -> Row:
    reasons = Counter(ticket.reason for ticket in mine if ticket.decision == "refer")
    return Row(
        group,
        len(mine),
        sum(ticket.decision == "grant" and not ticket.by_officer for ticket in mine),
        sum(ticket.decision == "refer" for ticket in mine),
        sum(ticket.by_officer for ticket in mine),
        sum(ticket.crossed for ticket in mine),
        tuple(sorted(reasons.items(), key=lambda each: (-each[1], each[0]))),
    )
