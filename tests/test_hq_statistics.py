"""Outcomes by group (P3): counted from records as lanes make them, and nobody can be read from the counts."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from gated.hq.cli import gated_hq
from gated.hq.statistics import counted, tickets
from gated.wire.facts import Fact, Holder, TicketSettled, VerdictReached
from tests.test_hq_records import Hq

OPENED = datetime(2026, 11, 20, 8, tzinfo=UTC)
CANARY = "CANARYNAME"


def verdict(ticket: int, decision: str = "grant", reason: str = "all_rules_kept", **change: object) -> VerdictReached:
    holder = Holder(nationality="TWN", birth_on=date(1990, 11, 21), surname=CANARY, number="300000001")
    made = VerdictReached(
        ticket, decision, reason, "tw-1", "exit", "A", opened=OPENED, category="national", holder=holder
    )
    return replace(made, document_kind="passport_tw", place="taoyuan_t1", **change)  # type: ignore[arg-type]


def settled(ticket: int, outcome: str = "crossed") -> TicketSettled:
    return TicketSettled(ticket, outcome, int(outcome == "crossed"))


FACTS: tuple[Fact, ...] = (
    verdict(1),
    settled(1),
    verdict(2, "refer", "face_matches"),
    settled(2, "not_crossed"),
    verdict(3, "refer", "face_matches"),
    verdict(3, "grant", "officer", by="chen"),
    settled(3),
    verdict(4, "refer", "old_enough", category="resident", direction="entry"),
    settled(4, "not_crossed"),
    settled(5, "not_crossed"),
    verdict(6, "release", "stranger_inside"),
    settled(6, "not_crossed"),
    verdict(7),
)
"""5 ended before a verdict, 6 is a stranger's, 7 has not ended."""


def test_tickets_are_counted_once_by_what_the_policy_said_first() -> None:
    by_name = {row.group: row for row in counted(tickets(("a", fact) for fact in FACTS))}
    row = by_name["national", "exit"]
    assert (row.tickets, row.granted, row.referred, row.by_officer, row.crossed) == (3, 1, 2, 1, 2)
    assert row.reasons == (("face_matches", 2),)
    other = by_name["resident", "entry"]
    assert (other.tickets, other.granted, other.referred, other.crossed) == (1, 0, 1, 0)


def test_two_lanes_have_the_same_ticket_numbers() -> None:
    both = [*(("a", fact) for fact in FACTS), *(("b", fact) for fact in FACTS)]
    assert sum(row.tickets for row in counted(tickets(both))) == 8


@pytest.mark.parametrize(
    ("born", "band"),
    [
        (date(1996, 11, 20), "30-39"),
        (date(1996, 11, 21), "20-29"),
        (date(2016, 11, 20), "10-19"),
        (None, "unknown"),
    ],
)
def test_bands_of_age_are_of_the_day_of_use(born: date | None, band: str) -> None:
    fact = verdict(1, holder=Holder(birth_on=born))
    [row] = counted(tickets([("a", fact), ("a", settled(1))]), ("age_band", "nationality"))
    assert row.group == (band, "unknown")


def test_a_group_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="surname is no group; there are category"):
        counted([], ("surname",))


def test_the_command_counts_what_lanes_sealed_and_shows_nobody(tmp_path: Path) -> None:
    hq = Hq(tmp_path)
    for record in hq.chain("crossing", *FACTS):
        hq.take(record)
    ask = ["statistics", "--db", hq.path, "--key", str(hq.key)]
    done = CliRunner().invoke(gated_hq, [*ask, "--json"])
    assert done.exit_code == 0, done.output
    found = {(row["category"], row["direction"]): row for row in json.loads(done.output)}
    assert found["national", "exit"] == {
        "category": "national",
        "direction": "exit",
        "tickets": 3,
        "granted": 1,
        "referred": 2,
        "by_officer": 1,
        "crossed": 2,
        "reasons": {"face_matches": 2},
    }
    table = CliRunner().invoke(gated_hq, [*ask, "--by", "nationality", "--by", "age_band"])
    assert "TWN" in table.output and "30-39" in table.output
    for output in (done.output, table.output):
        assert CANARY not in output and "300000001" not in output and "1990" not in output
    assert json.loads(CliRunner().invoke(gated_hq, [*ask, "--json", "--until", "2026-11-19"]).output) == []
    assert CliRunner().invoke(gated_hq, [*ask, "--by", "surname"]).exit_code == 2
    hq.archive.close()
