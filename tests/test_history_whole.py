"""What the lane remembers of its own crossings, through the whole lane in virtual time: the cache is days behind.

Real machine, policy, outlets, writer, lane.db and cache files; what each visit ends with is read from the sealed
record. Who comes by side B of this lane enters the country, who comes by side A leaves it (L7)."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from gated.daemon.outlets import Outlets
from gated.daemon.records import Facts
from gated.icao.mrz import Document
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.core import State
from gated.lane.events import Door, Event, Now, Traveller
from gated.lane.evidence import Decision, Evidence, Verdict
from gated.store.crossings import Crossing
from gated.wire import facts
from gated.wire.record import Record
from gated.wire.rows import PEOPLE, CrossingRow, PermitRow, PersonRow, of_document, of_subject
from tests.hw_sim.cachefiles import CacheFiles, newest
from tests.hw_sim.cast import FOR_EVER, INDEX_FINGERS, Enrolment, Manner, Passenger, Truth
from tests.hw_sim.happenings import Topology
from tests.hw_sim.papers import Paper, document
from tests.hw_sim.simlane import LANE, NOON, sim_folder
from tests.play import DOCUMENT, RULES, TRAVELLER
from tests.test_daemon_writer import Rig
from tests.test_fingers_whole import Script, Story, Visit, told

VISITOR, NATIONAL = "hong_kong_macau_visitor", "national"
IN, OUT = "ba", "ab"
STAY = PermitRow("stay", *FOR_EVER)
DAYS = (date(2026, 2, 1), date(2026, 5, 1))


def entries(left: int) -> tuple[PermitRow, ...]:
    """A visitor's permit with so many entries left, and the right to be here."""
    return PermitRow("entry_permit", *DAYS, left), STAY


def paper(category: str, number: int = 0) -> Paper:
    """One of the documents of the one person of these stories."""
    kind = "passport_tw" if category == NATIONAL else "exit_entry_permit"
    return document(Random(f"{kind} {number}"), kind, 0, birth=date(1990, 1, 1), expiry=date(2030, 1, 1))


def come(*ways: str, category: str = VISITOR, permits: tuple[PermitRow, ...] = ()) -> tuple[Visit, ...]:
    """The same person again and again. A way with ! is one on which no lane may let them: "ba!". With a number it is
    with another of their documents: "ab2"."""
    fingers = INDEX_FINGERS if category == VISITOR else ()
    return tuple(
        Visit(
            Passenger(
                name=f"visit{k}",
                person=0,
                paper=(shown := paper(category, int(way[2:].strip("!") or 0))),
                truth=Truth.UNENTITLED if way.endswith("!") else Truth.GENUINE,
                manner=Manner.PLAIN,
                seed=2000 + k,
                way=way[:2],
                take=k,
            ),
            Enrolment(0, shown, category=category, fingers=fingers, permits=permits),
        )
        for k, way in enumerate(ways)
    )


@dataclass
class Days(Story):
    """A lane of both directions to which somebody comes again."""

    found: list[Traveller] = field(default_factory=list)
    """What each look-up gave."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gap_s = (20.0, 25.0)

    def _note(self, event: Event, now: Now, commands: tuple[cmd.Command, ...]) -> None:
        super()._note(event, now, commands)
        if isinstance(event, ev.RecordFound):
            self.found.append(event.traveller)

    @property
    def said(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Direction, reason and notes of each verdict."""
        verdicts = [fact for _, _, fact in self.told if isinstance(fact, facts.VerdictReached)]
        return [(each.direction, each.reason, each.notes) for each in verdicts]

    @property
    def entries_left(self) -> list[int | None]:
        """Of the entry permit, as each look-up gave it."""
        return [p.entries_left for each in self.found for p in each.permits if p.kind == "entry_permit"]

    async def crossed(self, times: int) -> None:
        """Until so many visits are over, and nobody is being served."""
        await self.until(lambda: self.world.came >= times and not self.world.scripts)
        await self.until(lambda: self.app.lane.state is State.IDLE)

    def settled_utc(self) -> list[datetime]:
        """When HQ would say that each of the crossings so far was: as their records have it."""
        rows = self.app.writer.db.sql.execute("SELECT payload FROM outbox ORDER BY rowid").fetchall()
        records = [Record.decode(payload) for (payload,) in rows]
        ends = [(each.utc, each.fact(self.hq_private)) for each in records if each.kind == "TicketSettled"]
        return [utc for utc, end in ends if end.outcome == "crossed"]

    @property
    def row(self) -> PersonRow:
        """What the cache says of them."""
        cache = newest(self.folder, PEOPLE, (self.folder / "cache.key").read_bytes(), LANE)
        row = cache.row(PersonRow, *of_subject(1))
        cache.close()
        assert isinstance(row, PersonRow)
        return row

    def publish(self, row: PersonRow) -> None:
        with CacheFiles.changing(self.folder, (self.folder / "cache.key").read_bytes(), LANE) as cache:
            cache.put_person(row)


def days(*visits: Visit, script: Script | None = None) -> Days:
    lane = told(*visits, kind=Days, topology=Topology.BIDIRECTIONAL, script=script)
    assert isinstance(lane, Days)
    return lane


PASSED = "all_rules_kept"


def test_two_entries_are_two_though_the_cache_still_says_so() -> None:
    """O1: HQ hears of none of it."""
    rows: list[PersonRow] = []

    async def look(lane: Days) -> None:
        await lane.crossed(4)
        rows.append(lane.row)

    lane = days(*come(IN, OUT, IN, OUT, "ba!", permits=entries(2)), script=look)
    assert [reason for _, reason, _ in lane.said[:4]] == [PASSED] * 4
    assert {reason for _, reason, _ in lane.said[4:]} == {"entries_are_left"}
    assert lane.entries_left[:5] == [2, 1, 1, 0, 0]
    assert rows[0].permits == entries(2) and rows[0].crossings == ()


def test_nobody_enters_twice_where_the_law_says_so() -> None:
    lane = days(*come(IN, "ba!", permits=entries(2)))
    assert lane.said[0] == ("entry", PASSED, ())
    assert set(lane.said[1:]) == {("entry", "not_inside_already", ("double_entry",))}


def test_a_national_who_enters_twice_is_noted() -> None:
    lane = days(*come(IN, IN, OUT, OUT, category=NATIONAL))
    assert lane.said == [
        ("entry", PASSED, ()),
        ("entry", PASSED, ("double_entry",)),
        ("exit", PASSED, ()),
        ("exit", PASSED, ("exit_without_entry",)),
    ]


def test_out_with_another_document_than_in() -> None:
    """O8: certified per document; the visitor then goes out with the right one."""
    lane = days(*come(IN, "ab2!", OUT, permits=entries(1)))
    assert lane.said[0] == ("entry", PASSED, ())
    assert set(lane.said[1:-1]) == {("exit", "document_is_of_the_entry", ("other_document",))}
    assert lane.said[-1] == ("exit", PASSED, ())


def test_a_national_with_two_passports_is_noted() -> None:
    lane = days(*come(IN, "ab2", "ba2", "ab2", category=NATIONAL))
    assert lane.said == [
        ("entry", PASSED, ()),
        ("exit", PASSED, ("other_document",)),
        ("entry", PASSED, ()),
        ("exit", PASSED, ()),
    ]


@pytest.mark.parametrize("killed", [True, False])
def test_a_new_process_remembers(killed: bool) -> None:
    async def restart(lane: Days) -> None:
        await lane.crossed(2)
        lane.world.monitor.disturb("restart", 10.0)
        if killed:
            await lane.crash()
        else:
            lane.app.stop()
            await lane.lane_up
        lane.revive()

    lane = days(*come(IN, OUT, "ba!", permits=entries(1)), script=restart)
    assert lane.boots == 2
    assert [reason for _, reason, _ in lane.said[:2]] == [PASSED] * 2
    assert {reason for _, reason, _ in lane.said[2:]} == {"entries_are_left"}
    before, after = lane.found[1], lane.found[2]
    assert after.entered == before.entered and after.left is not None


def test_what_hq_has_counted_is_not_counted_twice() -> None:
    """Its row comes after the first entry; of the second it knows nothing."""

    async def count(lane: Days) -> None:
        await lane.crossed(1)
        [utc] = lane.settled_utc()
        shown = paper(VISITOR)
        counted = CrossingRow("entry", utc, shown.issuer, shown.number)
        lane.publish(replace(lane.row, permits=entries(1), crossings=(counted,)))

    lane = days(*come(IN, OUT, IN, OUT, "ba!", permits=entries(2)), script=count)
    assert [reason for _, reason, _ in lane.said[:4]] == [PASSED] * 4
    assert {reason for _, reason, _ in lane.said[4:]} == {"entries_are_left"}
    assert lane.entries_left[:5] == [2, 1, 1, 0, 0]
    assert lane.found[1].entered is not None and lane.found[1].entered.this_document


def test_what_other_lanes_told_hq_counts_with_what_this_one_knows() -> None:
    """They left elsewhere with another document, and came back here."""
    elsewhere = CrossingRow("exit", NOON - timedelta(days=3), "TWN", "E99999999")

    async def count(lane: Days) -> None:
        await lane.until(lambda: lane.app.lane.state is State.IDLE)
        lane.publish(replace(lane.row, crossings=(elsewhere,)))

    lane = days(*come(IN, OUT, permits=entries(2)), script=count)
    assert [reason for _, reason, _ in lane.said] == [PASSED] * 2
    assert [each.left for each in lane.found] == [ev.Crossed(elsewhere.utc, False)] * 2
    [entered] = [each.entered for each in lane.found if each.entered is not None]
    assert entered.this_document and entered.utc > NOON


# -- the outlet ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rig() -> Iterator[Rig]:
    with sim_folder() as folder:
        made = Rig(Path(folder))
        yield made
        made.writer.close()


CARD, CHIP_CARD = replace(DOCUMENT, number="300000003"), of_document("TWN", "300000003")


@pytest.mark.parametrize(
    ("document", "traveller", "outcome", "kept"),
    [
        (DOCUMENT, TRAVELLER, cmd.Outcome.CROSSED, {of_subject(7), of_document("TWN", DOCUMENT.number)}),
        (CARD, None, cmd.Outcome.CROSSED, {CHIP_CARD}),
        (None, None, cmd.Outcome.CROSSED, set()),
        (DOCUMENT, TRAVELLER, cmd.Outcome.NOT_CROSSED, set()),
        (DOCUMENT, TRAVELLER, cmd.Outcome.UNRESOLVED, set()),
    ],
)
def test_whose_crossing_is_kept(
    document: Document | None,
    traveller: Traveller | None,
    outcome: cmd.Outcome,
    kept: set[tuple[str, ...]],
    rig: Rig,
) -> None:
    """Of somebody whom the cache does not know, the document; its time is the record's own."""
    nobody = cast(Any, None)
    outlets = Outlets(
        emit=rig.events.append,
        door=nobody,
        indicator=nobody,
        pictures=nobody,
        look_up=nobody,
        matcher=nobody,
        fingers=nobody,
        writer=rig.writer,
        facts=Facts(lambda: RULES),
        heard=lambda command, now: None,
    )
    opened = NOON + timedelta(microseconds=123_456)
    evidence = Evidence(opened, opened.date(), "entry", "here", document=document, traveller=traveller)
    verdict = Verdict(Decision.GRANT, "officer", "test-1")

    async def scenario() -> None:
        outlets.dispatch(cmd.Record(1, 1, verdict, Door.B, evidence, "wu"), Now(1.0, opened))
        end = Now(9.0, opened + timedelta(seconds=8))
        outlets.dispatch(cmd.Settle(1, outcome, verdict, 1, Door.B, "entry"), end)
        assert {parts for parts in everybody if rig.writer.crossings.awaiting(parts)} == kept, "at once"
        await asyncio.sleep(0.1)
        assert not any(rig.writer.crossings.awaiting(parts) for parts in everybody)

    everybody = (of_subject(7), of_document("TWN", DOCUMENT.number), CHIP_CARD)
    rig.play(scenario)
    of_all = dict(zip(everybody, rig.writer.crossings.of(*everybody), strict=True))
    assert {parts for parts, found in of_all.items() if found} == kept
    (payload,) = rig.db.sql.execute("SELECT payload FROM outbox ORDER BY rowid DESC LIMIT 1").fetchone()
    record = Record.decode(payload)
    assert record.kind == "TicketSettled"
    for found in filter(None, of_all.values()):
        assert found == {Crossing("entry", record.utc)}
