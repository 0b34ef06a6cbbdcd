"""Crossings out of HQ's records into its register and from there to a lane; stays that end; documents expected."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from gated.hq import keys
from gated.hq.archive import Archive, Fate
from gated.hq.cli import gated_hq
from gated.hq.history import PAGE, History
from gated.hq.registers import Counted, Paper, Permit, Person, Register, RegisterFault
from gated.lane.rules import Rules
from gated.policyfile import load_rules
from gated.store.cache import Cache
from gated.store.crossings import Crossing, Crossings
from gated.store.db import LaneDb
from gated.store.outbox import Outbox
from gated.wire.facts import Fact, Holder, StreamContinued, TicketSettled, VerdictReached
from gated.wire.record import Head as RecordHead
from gated.wire.record import Record
from gated.wire.record import stream_id as record_stream_id
from gated.wire.rows import CROSSINGS_MAX, PEOPLE, CrossingRow, DocumentRow, of_document, of_subject
from tests.hq_rig import DATA_KEY, NOW, person
from tests.sync_rig import NAME
from tests.test_hq_publisher import until
from tests.test_hq_to_lane import PRIVATE, Both, found, rig, same

__all__ = ["rig"]

POLICY = Path(__file__).resolve().parents[1] / "config" / "policy" / "tw.toml"
FIRST = datetime(2026, 11, 20, 3, 4, 5, 678901, tzinfo=UTC)
"""The time of a record that is the same in no fewer than six digits."""
HOUR = timedelta(hours=1)
PAPER = Paper("TWN", "300000001")
VISIT = Permit("entry_permit", date(2026, 11, 1), date(2027, 1, 31), 2)
VISITOR: dict[str, Any] = {"category": "hong_kong_macau_visitor", "permits": (VISIT,)}
STAY: dict[str, Any] = {"category": "foreign_visitor", "origin": "entry", "personal_number": None}


@pytest.fixture(scope="module")
def rules() -> Rules:
    return load_rules(POLICY)


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    made = Register(tmp_path / "registers.db", DATA_KEY)
    yield made
    made.close()


# -- counting ------------------------------------------------------------------------------------------------------


def entries(person: Person) -> list[int | None]:
    return [permit.entries_left for permit in person.permits]


def test_an_entry_is_taken_off_the_permit_that_the_lane_would_use(register: Register, rules: Rules) -> None:
    """O1: the first that is valid that day and has any left; others, exits and other kinds stay as they are."""
    later = Permit("entry_permit", date(2027, 1, 1), date(2027, 3, 1), 2)
    permits = (
        Permit("stay", VISIT.start, VISIT.end, 7),
        Permit("entry_permit", VISIT.start, VISIT.end, 0),
        VISIT,
        later,
    )
    register.enrol(person(category="hong_kong_macau_visitor", permits=permits))
    told = [
        register.crossed(1, way, FIRST + n * HOUR, PAPER, rules) for n, way in enumerate(("entry", "exit", "entry"))
    ]
    assert told == [Counted.ADDED] * 3 and entries(register.person(1)) == [7, 0, 0, 2]
    register.crossed(1, "entry", FIRST + 3 * HOUR, PAPER, rules)  # an officer let them in: there is none to take
    assert entries(register.person(1)) == [7, 0, 0, 2]
    register.crossed(1, "entry", datetime(2027, 2, 1, tzinfo=UTC), PAPER, rules)
    assert entries(register.person(1)) == [7, 0, 0, 1]


def test_the_day_of_an_entry_is_a_day_there(register: Register, rules: Rules) -> None:
    """Late in the evening by UTC it is the next morning in Taipei, on which the permit begins."""
    register.enrol(person(**{**VISITOR, "permits": (Permit("entry_permit", date(2026, 11, 21), VISIT.end, 2),)}))
    register.crossed(1, "entry", datetime(2026, 11, 20, 15, 59, 59, tzinfo=UTC), PAPER, rules)
    assert entries(register.person(1)) == [2]
    register.crossed(1, "entry", datetime(2026, 11, 20, 16, tzinfo=UTC), PAPER, rules)
    assert entries(register.person(1)) == [1]


def test_what_comes_twice_counts_once_and_what_comes_late_stands_in_its_place(register: Register, rules: Rules) -> None:
    register.enrol(person(**VISITOR))
    assert register.crossed(1, "entry", FIRST, PAPER, rules) is Counted.ADDED
    before = register.newest()
    assert register.crossed(1, "entry", FIRST, PAPER, rules) is Counted.TWICE
    assert entries(register.person(1)) == [1] and register.newest() == before
    assert register.crossed(1, "entry", FIRST + timedelta(microseconds=1), PAPER, rules) is Counted.ADDED
    for n in range(2, CROSSINGS_MAX + 3):
        register.crossed(1, "exit" if n % 2 else "entry", FIRST + n * HOUR, PAPER, rules)
    register.crossed(1, "exit", FIRST + 5 * HOUR / 2, PAPER, rules)
    kept = [crossing.utc for crossing in register.person(1).crossings]
    assert len(kept) == CROSSINGS_MAX and kept == sorted(kept) and kept[-1] == FIRST + (CROSSINGS_MAX + 2) * HOUR
    assert register.person(1).crossings[0] == CrossingRow("exit", FIRST + 3 * HOUR, "TWN", "300000001")


def test_a_renewed_passport_keeps_what_was_counted(register: Register, rules: Rules) -> None:
    """E9, O8: the crossings are the person's, each with the document that was shown."""
    register.enrol(person(**VISITOR))
    register.crossed(1, "entry", FIRST, PAPER, rules)
    renewed = register.enrol(person(category="hong_kong_macau_visitor", papers=(Paper("TWN", "9"),), face=None))
    assert [crossing.number for crossing in renewed.crossings] == ["300000001"] and entries(renewed) == [1]


def test_whose_category_the_policy_does_not_know_loses_no_entry(register: Register, rules: Rules) -> None:
    register.enrol(person(category="astronaut", permits=(VISIT,)))
    assert register.crossed(1, "entry", FIRST, PAPER, rules) is Counted.ADDED
    assert entries(register.person(1)) == [2]
    assert register.crossed(9, "entry", FIRST, PAPER, rules) is Counted.NOBODY
    with pytest.raises(RegisterFault, match="not by up"):
        register.crossed(1, "up", FIRST, PAPER, rules)


# -- stays that end (W6) -------------------------------------------------------------------------------------------


def tables(register: Register) -> dict[str, int]:
    names = ("persons", "finding", "expected", "awaited")
    return {name: register.db.conn.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}


def test_an_exit_ends_the_stay_and_nobody_gets_the_number_again(register: Register, rules: Rules) -> None:
    register.enrol(person(**STAY))
    register.expect([(PAPER, NOW.date())], NOW.date())
    assert register.crossed(1, "entry", FIRST, PAPER, rules) is Counted.ADDED
    assert register.crossed(1, "exit", FIRST + HOUR, PAPER, rules) is Counted.ENDED
    assert register.find(1) is None and list(register.people()) == [] and set(tables(register).values()) == {0}
    assert register.crossed(1, "exit", FIRST + HOUR, PAPER, rules) is Counted.NOBODY
    assert [change.what for change in register.changes(0, 9)] == [1]
    assert register.enrol(person(**STAY)).subject == 2


def test_a_late_record_of_an_earlier_stay_does_not_end_this_one(register: Register, rules: Rules) -> None:
    register.enrol(person(**STAY, enrolled_on=FIRST.date()))
    assert register.crossed(1, "exit", FIRST - timedelta(days=3), PAPER, rules) is Counted.ADDED
    register.crossed(1, "entry", FIRST + HOUR, PAPER, rules)
    assert register.crossed(1, "exit", FIRST, PAPER, rules) is Counted.ADDED  # it happened before the last entry
    assert register.person(1).face is not None
    assert register.crossed(1, "exit", FIRST + 2 * HOUR, PAPER, rules) is Counted.ENDED


@pytest.mark.parametrize("origin", ["counter", "gate", "office"])
def test_who_is_enrolled_for_good_stays_so(register: Register, rules: Rules, origin: str) -> None:
    register.enrol(person(origin=origin))
    assert register.crossed(1, "exit", FIRST, PAPER, rules) is Counted.ADDED and register.person(1).face is not None


def test_a_control_outlives_the_stay(register: Register, rules: Rules) -> None:
    """Whoever is wanted is wanted after the next entry too (W7); the face is gone all the same."""
    register.enrol(person(**STAY, flags=frozenset({"wanted"})))
    assert register.crossed(1, "exit", FIRST, PAPER, rules) is Counted.ENDED
    left = register.person(1)
    assert left.flags == {"wanted"} and (left.face, left.crossings) == (None, ())
    again = register.enrol(person(**STAY, face=b"\1" * 512))
    assert again.flags == {"wanted"} and (again.subject, again.face) == (1, b"\1" * 512)
    register.crossed(1, "exit", FIRST + HOUR, PAPER, rules)
    register.lift_flags(1)
    assert register.find(1) is None and tables(register)["finding"] == 0


def test_the_face_of_an_entry_takes_no_enrolment_s_place(register: Register) -> None:
    register.enrol(person(category="resident"))
    with pytest.raises(RegisterFault, match="enrolled for good"):
        register.enrol(person(**{**STAY, "face": b"\1" * 512}))
    assert register.person(1).category == "resident" and register.person(1).origin == "counter"
    register.enrol(person(2, **STAY))
    assert register.enrol(person(2, category="resident")).origin == "counter"


# -- out of the records --------------------------------------------------------------------------------------------


class Lane:
    """A lane's database as its writer fills it, and HQ's archive that takes its records in."""

    def __init__(self, folder: Path, name: str = "lane-07") -> None:
        self.folder, self.name = folder, name
        if not (folder / "keys").exists():
            keys.make(folder / "keys")
        self.private = (folder / "keys" / "hq.key").read_bytes()
        self.db = LaneDb(folder / f"{name}.db")
        public = (folder / "keys" / "hq.pub").read_bytes()
        self.outbox = Outbox(self.db, name, "boot-1", public, bytes_max=1 << 30)
        self.own = Crossings(self.db, bytes(32))
        self.archive = Archive(folder / "hq.db")
        self.ticket = 0

    def say(self, fact: Fact, utc: datetime, crossing: Crossing | None = None, *, sent: bool = True) -> Record:
        """As `Writer._write` does it: the record and the lane's own crossing have one time."""
        with self.db.transaction():
            record = self.outbox.append(fact, utc)
            if crossing is not None:
                self.own.add(crossing)
        if sent:
            self.take(record)
        return record

    def take(self, record: Record) -> None:
        with self.archive.batch() as intake:
            assert intake.take("tpe-t1", self.name, record.encode(), ("", 0), self.private).fate is Fate.STORED

    def passes(self, subject: int | None, direction: str, utc: datetime, **also: Any) -> list[Record]:
        """A verdict, and the end of its ticket a while later."""
        self.ticket += 1
        holder = Holder(issuer=PAPER.issuer, number=PAPER.number, surname="CHENCANARY", subject=subject)
        verdict = VerdictReached(self.ticket, "grant", "matched", "tw-1", direction, "A", holder=holder)
        outcome = also.pop("outcome", "crossed")
        crossing = None
        if subject is not None and outcome == "crossed":
            crossing = Crossing(direction, utc, (of_subject(subject),))
        end = TicketSettled(self.ticket, outcome, 1, "grant", "matched", direction, "A")
        return [self.say(verdict, utc - timedelta(seconds=9), **also), self.say(end, utc, crossing, **also)]

    def close(self) -> None:
        self.archive.close()
        self.db.close()


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    made = Lane(tmp_path)
    yield made
    made.close()


def counting(lane: Lane, register: Register, rules: Rules) -> History:
    return History(lane.archive, lane.private, register, rules)


def test_a_crossing_has_the_lanes_own_time_to_the_microsecond(lane: Lane, register: Register, rules: Rules) -> None:
    register.enrol(person(**VISITOR))
    lane.passes(1, "entry", FIRST)
    done = counting(lane, register, rules).update()
    assert (done.records, done.counts, done.stuck) == (2, {"added": 1}, [])
    [crossing] = register.person(1).crossings
    assert crossing == CrossingRow("entry", FIRST, PAPER.issuer, PAPER.number)
    [own] = lane.own.of(of_subject(1))
    assert {(crossing.direction, crossing.utc)} == {(each.direction, each.utc) for each in own}
    assert entries(register.person(1)) == [1]


def test_only_who_crossed_and_is_enrolled_is_counted(lane: Lane, register: Register, rules: Rules) -> None:
    register.enrol(person())
    lane.passes(None, "entry", FIRST)
    lane.passes(1, "entry", FIRST + HOUR, outcome="not_crossed")
    lane.passes(1, "entry", FIRST + 2 * HOUR, outcome="unresolved")
    lane.passes(7, "entry", FIRST + 3 * HOUR)
    lane.ticket += 1
    lane.say(TicketSettled(lane.ticket, "crossed", 1), FIRST + 4 * HOUR)  # without any verdict, after one of a person
    done = counting(lane, register, rules).update()
    assert done.counts == {"nameless": 2, "nobody": 1} and register.person(1).crossings == ()


def test_the_last_verdict_that_names_somebody_counts(lane: Lane, register: Register, rules: Rules) -> None:
    """A referral of somebody enrolled, and an officer's order without a document: one crossing, of the one that was
    shown, in the direction in which the ticket ended."""
    register.enrol(person())
    lane.ticket = 1
    holder = Holder(issuer="UTO", number="SECOND", subject=1)
    lane.say(VerdictReached(1, "refer", "face_matches", "tw-1", "entry", "A", holder=holder), FIRST)
    lane.say(VerdictReached(1, "grant", "officer", "tw-1", "entry", "A", by="chen.w"), FIRST)
    lane.say(TicketSettled(1, "crossed", 1, "grant", "officer", "exit", "A"), FIRST + HOUR)
    counting(lane, register, rules).update()
    assert register.person(1).crossings == (CrossingRow("exit", FIRST + HOUR, "UTO", "SECOND"),)


def test_it_goes_on_where_it_ended_and_nothing_counts_twice(lane: Lane, register: Register, rules: Rules) -> None:
    """Also with a verdict on one side of the end and its crossing on the other, and over many pages."""
    many = Permit("entry_permit", VISIT.start, VISIT.end, 1000)
    register.enrol(person(category="hong_kong_macau_visitor", permits=(many,)))
    verdict, end = lane.passes(1, "entry", FIRST, sent=False)
    lane.take(verdict)
    history = counting(lane, register, rules)
    assert (history.update().counts, register.read_to(lane.name, verdict.stream_id)) == ({}, 1)
    lane.take(end)
    assert history.update().counts == {"added": 1} and history.update().records == 0
    for n in range(1, PAGE):
        lane.passes(1, "entry", FIRST + n * HOUR)
    assert counting(lane, register, rules).update().counts == {"added": PAGE - 1}
    assert entries(register.person(1)) == [1000 - PAGE]


def test_a_run_that_is_cut_short_leaves_nothing_half_done(
    lane: Lane, register: Register, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    register.enrol(person(**VISITOR))
    lane.passes(1, "entry", FIRST)
    monkeypatch.setattr(Register, "has_read", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("disk full")))
    with pytest.raises(sqlite3.OperationalError):
        counting(lane, register, rules).update()
    assert entries(register.person(1)) == [2] and register.person(1).crossings == ()
    monkeypatch.undo()
    assert counting(lane, register, rules).update().counts == {"added": 1} and entries(register.person(1)) == [1]


def spoil(archive: Archive, sealed: bytes | None) -> None:
    """Put something else in the place of a sealed half."""
    with archive.engine.connect().execution_options(writes=True) as sql, sql.begin():
        sql.execute(text("UPDATE records SET sealed = :sealed WHERE lane = 'lane-07' AND seq = 4"), {"sealed": sealed})


def test_a_record_that_cannot_be_read_stops_its_lane_alone(
    tmp_path: Path, lane: Lane, register: Register, rules: Rules
) -> None:
    other = Lane(tmp_path, "lane-08")
    register.enrol(person())
    register.enrol(person(2))
    lane.passes(1, "entry", FIRST)
    [_, end] = lane.passes(1, "exit", FIRST + HOUR)
    other.passes(2, "exit", FIRST + 2 * HOUR)
    wrong = History(lane.archive, bytes(32), register, rules).update()  # another key: nothing is lost by it
    assert [name for name, _, _ in wrong.stuck] == ["lane-07", "lane-08"] and register.person(1).crossings == ()
    spoil(lane.archive, b"\0")
    done = counting(lane, register, rules).update()
    assert [stuck[:2] for stuck in done.stuck] == [("lane-07", end.stream_id)] and done.counts == {"added": 1}
    assert register.person(2).crossings and register.read_to("lane-07", end.stream_id) == 0
    spoil(lane.archive, end.sealed)
    assert counting(lane, register, rules).update().counts == {"added": 2} and len(register.person(1).crossings) == 2
    other.close()


def test_a_damaged_person_keeps_nobody_else_from_being_counted(lane: Lane, register: Register, rules: Rules) -> None:
    register.enrol(person())
    register.enrol(person(2))
    register.db.execute("UPDATE persons SET sealed = x'00' WHERE subject = 1")
    lane.passes(1, "entry", FIRST)
    lane.passes(2, "entry", FIRST + HOUR)
    done = counting(lane, register, rules).update()
    assert done.counts == {"damaged": 1, "added": 1} and len(register.person(2).crossings) == 1


def chapter(lane: Lane, subject: int, number: int, *crossings: tuple[str, datetime]) -> list[Record]:
    """The records of one chapter of a lane's crossings, with tickets of its own."""
    stream_id, public = record_stream_id("gen1", "crossing", number), (lane.folder / "keys" / "hq.pub").read_bytes()
    head, made = RecordHead.start(lane.name, stream_id), []
    holder = Holder(issuer=PAPER.issuer, number=PAPER.number, subject=subject)
    told: list[tuple[Any, datetime]] = []
    if number > 1:
        told.append((StreamContinued(record_stream_id("gen1", "crossing", number - 1), 4, bytes(32)), FIRST))
    for n, (direction, utc) in enumerate(crossings, 100 * number):
        told.append((VerdictReached(n, "grant", "matched", "tw-1", direction, "A", holder=holder), utc))
        told.append((TicketSettled(n, "crossed", 1, "grant", "matched", direction, "A"), utc))
    for fact, utc in told:
        made.append(head.next(fact, utc, "boot-1", public))
        head = head.after(made[-1])
    return made


@pytest.mark.parametrize("late", [False, True])
def test_a_chapter_that_comes_before_the_rest_of_an_earlier_one_counts_the_same(
    lane: Lane, register: Register, rules: Rules, late: bool
) -> None:
    """Whatever comes first, the same entries are taken off, the crossings stand in the order of their times, and none
    is counted twice."""
    permit = Permit("entry_permit", VISIT.start, VISIT.end, 5)
    register.enrol(person(category="hong_kong_macau_visitor", permits=(permit,)))
    first = chapter(lane, 1, 1, ("entry", FIRST), ("exit", FIRST + HOUR))
    second = chapter(lane, 1, 2, ("entry", FIRST + 2 * HOUR), ("exit", FIRST + 3 * HOUR))
    history = counting(lane, register, rules)
    order = [first[:2], second, first[2:]] if late else [first, second]
    counts = []
    for records in order:
        for record in records:
            lane.take(record)
        counts.append(history.update().counts["added"])
    assert sum(counts) == 4 and history.update().records == 0
    kept = register.person(1)
    assert [(each.direction, each.utc) for each in kept.crossings] == [
        (way, FIRST + n * HOUR) for n, way in enumerate(("entry", "exit", "entry", "exit"))
    ]
    assert entries(kept) == [3]


@pytest.mark.parametrize("late", [False, True])
def test_an_exit_in_a_later_chapter_ends_the_stay_whichever_comes_first(
    lane: Lane, register: Register, rules: Rules, late: bool
) -> None:
    """W6: the entry of the chapter before comes after the face is deleted, and brings nobody back."""
    register.enrol(person(**STAY))
    first, second = chapter(lane, 1, 1, ("entry", FIRST)), chapter(lane, 1, 2, ("exit", FIRST + HOUR))
    counts: Counter[str] = Counter()
    for records in (second, first) if late else (first, second):
        for record in records:
            lane.take(record)
        counts += counting(lane, register, rules).update().counts
    assert counts == ({"ended": 1, "nobody": 1} if late else {"added": 1, "ended": 1})
    assert register.find(1) is None and set(tables(register).values()) == {0}


# -- documents that are expected (W9) ------------------------------------------------------------------------------

TODAY = NOW.date()
TOMORROW, YESTERDAY = TODAY + timedelta(days=1), TODAY - timedelta(days=1)


def test_expected_documents_and_days_gone_by(register: Register) -> None:
    register.enrol(person())
    unknown = Paper("UTO", "L898902C3")
    assert register.expect([(PAPER, TOMORROW), (PAPER, TODAY), (unknown, TODAY)], TODAY) == (2, 0)
    assert (register.expected_on(PAPER), register.expected_on(unknown)) == (TODAY, TODAY)
    newest = register.newest()
    assert register.expect([(PAPER, TODAY)], TODAY) == (1, 0) and register.newest() == newest  # as it was
    assert register.expect([], TOMORROW) == (0, 1) and register.newest() == newest + 1
    assert (register.expected_on(PAPER), register.expected_on(unknown)) == (TOMORROW, None)
    assert register.expect([(PAPER, YESTERDAY)], TOMORROW + timedelta(days=1)) == (1, 1)
    assert register.expected_on(PAPER) is None and tables(register)["expected"] == 0


# -- to the lane ---------------------------------------------------------------------------------------------------


def test_from_records_to_the_lanes_cache(rig: Both, tmp_path: Path, rules: Rules) -> None:
    """The real archive, register, publisher, sync and cache files: counted, expected, lapsed, gone."""
    at, record = rig.lane(tmp_path / "lane"), Lane(tmp_path)
    register = rig.hq.register
    received = date(2026, 11, 19)
    visitor = register.enrol(person(1, **VISITOR, height_cm=171))
    register.enrol(person(2, **STAY))
    register.enrol(person(3, origin="office", papers=(), enrolled_on=received - timedelta(days=9)))
    register.received(3, Paper("TWN", "300000003"), received, 30)
    register.expect([(PAPER, TODAY)], TODAY)
    rig.publish()
    at.sync.once()
    row = found(at, lambda cache: cache.by_document("TWN", "300000001"))
    assert (row.origin, row.height_cm, row.crossings, row.permits[0].entries_left) == ("counter", 171, (), 2)
    office = found(at, lambda cache: cache.by_document("TWN", "300000003"))
    assert (office.origin, office.received_on, office.enrolled_on) == ("office", received, received - timedelta(days=9))
    assert found(at, lambda cache: cache.by_document("TWN", "300000002")).origin == "entry"
    assert expected_on(at, "300000001") == TODAY and expected_on(at, "300000002") is None

    record.passes(1, "entry", FIRST)
    record.passes(2, "exit", FIRST + HOUR)
    assert counting(record, register, rules).update().counts == {"added": 1, "ended": 1}
    register.expect([], TOMORROW)
    rig.publish()
    at.sync.once()
    assert at.sync.trouble == {} and same(rig, at)
    row = found(at, lambda cache: cache.by_document("TWN", "300000001"))
    assert row.crossings == (CrossingRow("entry", FIRST, "TWN", "300000001"),) and row.permits[0].entries_left == 1
    assert found(at, lambda cache: cache.by_document("TWN", "300000002")) is None
    assert expected_on(at, "300000001") is None
    assert len(at.rows("people")) == 3 + 3  # each of the two: person, document, personal number
    new = rig.lane(tmp_path / "new")  # from a snapshot too nobody learns of who is gone
    rig.publish(rig.both, snapshot=True)
    new.sync.once()
    assert same(rig, new) and found(new, lambda cache: cache.by_document("TWN", "300000002")) is None
    assert found(new, lambda cache: cache.by_person("A000000001")).subject == visitor.subject
    record.close()


def expected_on(at: Any, number: str) -> date | None:
    """As the row that leads from the document says."""

    cache = Cache(at.newest(PEOPLE), PRIVATE, NAME)
    try:
        link = cache.row(DocumentRow, *of_document("TWN", number))
        assert isinstance(link, DocumentRow)
        return link.expected_on
    finally:
        cache.close()


def test_the_flags_of_somebody_who_is_gone_wait_for_the_lift_key(rig: Both, tmp_path: Path) -> None:
    at, register = rig.lane(tmp_path / "lane"), rig.hq.register
    register.enrol(person(1, **STAY, flags=frozenset({"wanted"})))
    rig.publish(rig.both)
    register.forget(1)
    rig.publish()
    at.sync.once()
    assert found(at, lambda cache: cache.by_document("TWN", "300000001")).face is None
    assert found(at, lambda cache: cache.flags(1)) == {"wanted"}
    register.lift_flags(1)
    assert register.find(1) is None
    done = rig.online.round(rig.clock())
    assert {each.partition: dict(each.waiting) for each in done.done} == {"control": {"lift": 1}, "people": {}}
    at.sync.once()
    assert found(at, lambda cache: cache.by_document("TWN", "300000001")) is None
    assert found(at, lambda cache: cache.flags(1)) == {"wanted"}  # of nobody any more
    rig.publish(rig.both)
    at.sync.once()
    assert found(at, lambda cache: cache.flags(1)) == frozenset() and same(rig, at)


def test_a_link_that_two_had_is_the_other_one_s_when_one_is_gone(rig: Both, tmp_path: Path) -> None:
    """Two rows with one document (a register that was repaired by hand) lead to nobody; then to the one who is left,
    of whom it is expected."""
    at, register = rig.lane(tmp_path / "lane"), rig.hq.register
    register.enrol(person(1))
    register.enrol(person(2))
    both = register.person(2)
    register._keep(Person(**{**{n: getattr(both, n) for n in both.__slots__}, "papers": (PAPER,)}), False)
    register.expect([(PAPER, TODAY)], TODAY)
    rig.publish()
    at.sync.once()
    assert found(at, lambda cache: cache.by_document("TWN", "300000001")) is None
    register.set_papers(2, ())
    rig.publish()
    at.sync.once()
    assert found(at, lambda cache: cache.by_document("TWN", "300000001")).subject == 1
    assert expected_on(at, "300000001") == TODAY and same(rig, at)


# -- the commands --------------------------------------------------------------------------------------------------


class Desk:
    """`gated-hq` in one folder."""

    def __init__(self, lane: Lane, register: Register) -> None:
        folder = lane.folder
        (folder / "data.key").write_bytes(DATA_KEY)
        (folder / "data.key").chmod(0o600)
        self.where = ["--registers", str(folder / "registers.db"), "--key", str(folder / "data.key")]
        self.where += ["--policy", str(POLICY)]
        self.records = ["--archive", str(folder / "hq.db"), "--hq-key", str(folder / "keys" / "hq.key")]

    def run(self, *words: str, **also: Any) -> Result:
        return CliRunner().invoke(gated_hq, [*words, *self.where], **also)


@pytest.fixture
def desk(lane: Lane, register: Register) -> Desk:
    return Desk(lane, register)


def test_history_by_command(desk: Desk, lane: Lane, register: Register) -> None:
    register.enrol(person(**VISITOR))
    lane.passes(1, "entry", FIRST)
    lane.passes(None, "exit", FIRST + HOUR)
    done = desk.run("history", "update", *desk.records, "--json")
    assert done.exit_code == 0, done.output
    counts = {"added": 1, "ended": 0, "twice": 0, "nobody": 0, "nameless": 1, "damaged": 0}
    assert json.loads(done.output) == {"records": 4, **counts, "stuck": []}
    done = desk.run("history", "update", *desk.records)
    assert (
        done.exit_code == 0 and done.output.startswith("0 records: 0 crossings counted") and "CANARY" not in done.output
    )
    lane.passes(1, "exit", FIRST + 2 * HOUR)
    desk.records[-1] = str(lane.folder / "data.key")
    done = desk.run("history", "update", *desk.records)
    assert done.exit_code == 1 and "lane-07" in done.output and "NOT READ ON" in done.output
    done = desk.run("history", "update", "--archive", str(lane.folder / "none.db"), *desk.records[2:])
    assert done.exit_code == 1 and "gated-hq ingest makes it" in done.output
    assert len(register.person(1).crossings) == 1


def test_the_service_counts_what_comes_and_ends_when_told(desk: Desk, lane: Lane, register: Register) -> None:
    register.enrol(person(**VISITOR))
    lane.passes(1, "entry", FIRST)
    words = ["history", "update", *desk.records, "--every", "1", "--log-format", "json", *desk.where]
    service = subprocess.Popen([sys.executable, "-m", "gated.hq.cli", *words], stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(register.person(1).crossings) == 1 or service.poll() is not None)
        lane.passes(1, "exit", FIRST + HOUR)
        until(lambda: len(register.person(1).crossings) == 2 or service.poll() is not None)
        service.send_signal(signal.SIGTERM)
        _, said = service.communicate(timeout=60)
    finally:
        service.kill()
    assert service.returncode == 0 and len(register.person(1).crossings) == 2, said
    assert entries(register.person(1)) == [1] and "CANARY" not in said


def test_expect_by_command(desk: Desk, lane: Lane, register: Register) -> None:
    register.enrol(person())
    day = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
    lines = [
        {"issuer": "twn", "number": "300000001", "day": day},
        {"issuer": "TWN", "number": "3", "day": "2020-01-01"},
        {"issuer": "TWN", "number": "NUMBERCANARY"},
        {"issuer": "TWN", "number": 3, "day": day},
        {"issuer": "TWN", "number": "3", "day": "soon"},
        {"issuer": "TWN", "number": "3" * 65, "day": day},
        [],
    ]
    (lane.folder / "apis.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{\n\n" + "[" * 100_000 + "\n")
    done = desk.run("expect", str(lane.folder / "apis.jsonl"), "--json")
    assert done.exit_code == 1 and "CANARY" not in done.output
    told = json.loads(done.stdout)
    assert (told["expected"], told["known"], told["refused"]) == (1, 1, 8)
    assert [line.split(":")[0] for line in told["wrong"]] == [f"line {n}" for n in (2, 3, 4, 5, 6, 7, 8, 10)]
    assert "has gone by" in told["wrong"][0] and "1 to 64 characters" in told["wrong"][4]
    assert register.expected_on(PAPER) == date.fromisoformat(day)
    done = desk.run("expect", "-", input=json.dumps(lines[0]))
    assert (
        done.exit_code == 0 and done.output == "1 expected, 1 of them enrolled people's; 0 of days gone by forgotten\n"
    )


def test_flags_are_the_policys_own(desk: Desk, register: Register) -> None:
    register.enrol(person())
    done = desk.run("control", "ban", "1", "watned")
    assert done.exit_code == 2 and "'watned' is no flag of a person" in done.output and "wanted" in done.output
    done = desk.run("control", "ban", "--document", "TWN", "1", "wanted")
    assert done.exit_code == 2 and "no flag of a document; the policy knows invalid, lost," in " ".join(
        done.output.split()
    )
    assert register.person(1).flags == frozenset() and list(register.statuses()) == []
    assert desk.run("control", "ban", "1", "wanted").output == "flags: wanted\n"
    assert desk.run("control", "ban", "--document", "TWN", "1", "stolen").output == "flags: stolen\n"
    register.add_flags(1, {"of_an_older_policy"})
    done = desk.run("control", "ban", "1", "exit_ban", "--json")
    assert json.loads(done.output) == {"flags": ["exit_ban", "of_an_older_policy", "wanted"]}
    desk.where[-1] = str(POLICY.with_name("none.toml"))
    done = desk.run("control", "ban", "1", "exit_ban")
    assert done.exit_code == 1 and "none.toml" in done.output
