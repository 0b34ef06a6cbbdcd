"""The lane's facts as the monitor's report wants them: one `Settled` for each ticket, in the monitor's clock."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from gated.wire.facts import Fact, TicketSettled, VerdictReached
from tests.hw_sim.report import Settled


@dataclass
class _Ticket:
    verdicts: list[tuple[datetime, VerdictReached]] = field(default_factory=list)
    settlements: list[tuple[datetime, TicketSettled]] = field(default_factory=list)


def settled(told: Iterable[tuple[datetime, str, Fact]], seconds: Callable[[datetime], float]) -> list[Settled]:
    """`told`: (utc, database generation, fact) of every record of one lane, in the order in which they were made.

    `seconds` turns a wall clock's time into the monitor's. A ticket that was settled twice comes twice. One that was
    never settled does not come: what passed on it is lost, and the report says so."""
    tickets: dict[tuple[str, int], _Ticket] = {}
    for utc, generation, fact in told:
        if isinstance(fact, VerdictReached):
            tickets.setdefault((generation, fact.ticket), _Ticket()).verdicts.append((utc, fact))
        elif isinstance(fact, TicketSettled):
            tickets.setdefault((generation, fact.ticket), _Ticket()).settlements.append((utc, fact))
    return [
        _settled(generation, ticket, utc, settlement, seconds)
        for (generation, _), ticket in tickets.items()
        for utc, settlement in ticket.settlements
    ]


def _settled(
    generation: str, ticket: _Ticket, utc: datetime, end: TicketSettled, seconds: Callable[[datetime], float]
) -> Settled:
    at = seconds(utc)
    if not ticket.verdicts:
        return Settled(
            end.ticket, at, at, end.outcome, end.persons, end.decision, end.reason or "", generation=generation
        )
    first, (recorded, last) = ticket.verdicts[0][1], ticket.verdicts[-1]
    scores = [verdict.face_score for _, verdict in ticket.verdicts if verdict.face in ("successful", "failed")]
    holder = next((verdict.holder for _, verdict in ticket.verdicts if verdict.holder is not None), None)
    return Settled(
        ticket=end.ticket,
        opened=seconds(first.opened) if first.opened is not None else at,
        settled=at,
        outcome=end.outcome,
        persons=end.persons,
        decision=last.decision,
        reason=first.reason,
        recorded=seconds(recorded),
        number=holder.number if holder is not None and holder.number else None,
        by=last.by,
        score=scores[-1] if scores else None,
        generation=generation,
    )
