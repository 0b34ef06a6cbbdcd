"""Chapters: after an outage what happens now is not behind what lay there; and an older copy put back is noticed."""

import contextlib
import itertools
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.daemon import app as daemon
from gated.store.acks import AckedHeads
from gated.store.db import LaneDb
from gated.store.flight import Flights
from gated.store.journal import Journal, JournalReader
from gated.store.outbox import BACKLOG_MIN, CHAPTERS_MAX, Outbox, OutboxFull, OutboxReader, Queued
from gated.store.sql import StoreError
from gated.wire import link
from gated.wire.facts import (
    STREAMS,
    AlarmRaised,
    AttachmentPart,
    Fact,
    LaneBooted,
    LaneChanged,
    StreamContinued,
    TicketSettled,
)
from gated.wire.record import Head, Record, follow, generation_of
from tests.hw_sim import virtual
from tests.hw_sim.happenings import Topology
from tests.test_daemon_app import Watched
from tests.test_journal import COMMANDS, EVENTS, HISTORY, KEY, moments
from tests.test_outbox import DAY, HQ_PRIVATE, chains, outbox_of, put, settled, verdict

EDITION_1 = Path(__file__).parent / "golden" / "lane_edition1.sql"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[LaneDb]:
    opened = LaneDb(tmp_path / "lane.db", generation=lambda: "abcd1234")
    yield opened
    opened.close()


def part(ticket: int, number: int, of: int, size: int = 2000) -> AttachmentPart:
    name = f"{ticket}-case_picture"
    return AttachmentPart(ticket, name, "case_picture", "image/jpeg", number, of, size, 30, b"p" * (size // of))


def begin(db: LaneDb, outbox: Outbox, backlog_min: int = 2, acked: Mapping[str, int] | None = None) -> list[str]:
    with db.transaction():
        return outbox.begin_chapters(DAY, backlog_min, acked)


def drained(outbox: Outbox) -> tuple[Queued, ...]:
    return outbox.pending({}, 10**6)


def kinds_of(outbox: Outbox, stream_id: str) -> list[str]:
    return [Record.decode(q.payload).kind for q in drained(outbox) if q.stream_id == stream_id]


# -- the edition before --------------------------------------------------------------------------------------------


def test_a_database_of_edition_1_goes_on(tmp_path: Path) -> None:
    """Made by the program of edition 1: three tickets, one of them open, three alarms, three rows of journal."""
    path = tmp_path / "lane.db"
    with sqlite3.connect(path) as old:
        old.executescript(EDITION_1.read_text(encoding="utf-8"))
    old.close()
    db = LaneDb(path)
    assert (db.generation, db.unsettled(), db.note("closed"), db.new) == ("0123456789abcdef", (3,), "yes", False)
    outbox = outbox_of(db)
    assert [(s.stream_id, s.first, s.last) for s in outbox.spans()] == [
        ("0123456789abcdef-alarm", 1, 3),
        ("0123456789abcdef-attachment", 1, 0),
        ("0123456789abcdef-crossing", 3, 5),
        ("0123456789abcdef-state", 1, 0),
    ]
    journal = Journal(db, KEY, "boot-2")
    for now, (event, commands) in zip(moments(), HISTORY, strict=False):
        journal.append(now, event, commands)
    with db.transaction():
        assert outbox.append(settled(3), DAY).seq == 6
        outbox.append(part(3, 1, 1), DAY)
        journal.flush()
    links = db.sql.execute("SELECT link IS NULL FROM journal ORDER BY id").fetchall()
    assert links == [(1,)] * 3 + [(0,)] * 4
    db.close()
    reader = JournalReader(path, EVENTS, COMMANDS, KEY)
    assert [len(list(reader.read(boot.boot))) for boot in reader.boots()] == [3, 4]
    reader.close()


# -- chapters ------------------------------------------------------------------------------------------------------


def test_a_chapter_says_where_the_one_before_it_ends(db: LaneDb) -> None:
    outbox = outbox_of(db)
    put(db, outbox, *(AlarmRaised("help") for _ in range(5)), LaneChanged("idle"))
    assert begin(db, outbox) == ["abcd1234.2-alarm"], "one state is no backlog"
    (record,) = put(db, outbox, AlarmRaised("fire"))
    assert (record.stream_id, record.stream, record.seq) == ("abcd1234.2-alarm", "alarm", 2)
    queued = drained(outbox)
    heads = chains(queued)
    first = next(Record.decode(q.payload) for q in queued if q.stream_id == "abcd1234.2-alarm")
    continued = first.fact(None)
    assert isinstance(continued, StreamContinued)
    ended = heads["abcd1234-alarm"]
    assert (continued.before, continued.seq, continued.head) == (ended.stream_id, ended.seq, ended.hash)
    assert generation_of("abcd1234.2-alarm") == "abcd1234"


def test_nothing_begins_while_a_ticket_is_open(db: LaneDb) -> None:
    """A ticket's records are in one chapter, also after a restart in the middle of it."""
    outbox = outbox_of(db)
    put(db, outbox, *(fact for n in range(1, 4) for fact in (verdict(n), settled(n))), verdict(4))
    assert begin(db, outbox) == []
    put(db, outbox, settled(4))
    assert begin(db, outbox) == ["abcd1234.2-crossing"]
    put(db, outbox, verdict(5))
    db.close()
    again = LaneDb(db.path)
    box = outbox_of(again)
    assert begin(again, box, 0) == []
    assert put(again, box, settled(5))[0].stream_id == "abcd1234.2-crossing"
    again.close()


def test_what_hq_has_is_no_backlog(db: LaneDb) -> None:
    outbox = outbox_of(db)
    put(db, outbox, *(AlarmRaised("help") for _ in range(BACKLOG_MIN + 5)))
    assert begin(db, outbox, BACKLOG_MIN, {"abcd1234-alarm": 5}) == []
    assert begin(db, outbox, BACKLOG_MIN, {"abcd1234-alarm": 4}) == ["abcd1234.2-alarm"]


def test_numbers_of_chapters_are_never_used_twice(db: LaneDb) -> None:
    outbox = outbox_of(db)
    seen: list[str] = []
    for _ in range(CHAPTERS_MAX + 5):
        put(db, outbox, *(AlarmRaised("help") for _ in range(3)))
        seen += begin(db, outbox)
    assert seen == [f"abcd1234.{n}-alarm" for n in range(2, CHAPTERS_MAX + 1)], "so many at once, and no more"
    with db.transaction():
        outbox.trim({span.stream_id: span.last for span in outbox.spans()})
    assert [s.stream_id for s in outbox.spans() if s.stream == "alarm"] == [seen[-1]], "the former ones are gone"
    db.close()
    again = LaneDb(db.path)
    box = outbox_of(again)
    put(again, box, *(AlarmRaised("help") for _ in range(3)))
    assert begin(again, box) == [f"abcd1234.{CHAPTERS_MAX + 1}-alarm"]
    again.close()


def test_a_former_chapter_stays_until_hq_has_all_of_it(db: LaneDb) -> None:
    outbox = outbox_of(db)
    put(db, outbox, *(AlarmRaised("help") for _ in range(5)))
    begin(db, outbox)
    with db.transaction():
        assert outbox.trim({"abcd1234-alarm": 4, "abcd1234.2-alarm": 1}) == 5
    assert [(s.stream_id, s.first, s.last) for s in outbox.spans() if s.stream == "alarm"] == [
        ("abcd1234-alarm", 5, 5),
        ("abcd1234.2-alarm", 2, 1),
    ]
    db.close()
    again = LaneDb(db.path)  # the heads of both are checked
    with again.transaction():
        outbox_of(again).trim({"abcd1234-alarm": 5})
    assert [s.stream_id for s in outbox_of(again).spans() if s.stream == "alarm"] == ["abcd1234.2-alarm"]
    again.close()


# -- who goes first ------------------------------------------------------------------------------------------------


def backlog(db: LaneDb, outbox: Outbox, count: int) -> None:
    makers: dict[str, Fact] = {
        "alarm": AlarmRaised("old"),
        "crossing": settled(1),
        "state": LaneChanged("old"),
        "attachment": part(1, 1, 1),
    }
    put(db, outbox, *(makers[each] for each in STREAMS for _ in range(count)))


def test_what_happens_now_goes_first_and_nobody_starves(db: LaneDb) -> None:
    """However few places come free at a time: a class, or what lay there, is never put off for ever."""
    outbox = outbox_of(db)
    backlog(db, outbox, 300)
    assert len(begin(db, outbox)) == 4
    put(db, outbox, AlarmRaised("now"), settled(2), LaneChanged("now"), part(2, 1, 1))
    reader = OutboxReader(db.path)
    for freed in (1, 3, 64):
        sent: dict[str, int] = {}
        under_way: list[Queued] = []
        order: list[str] = []
        while len(order) < 600:
            flying = Counter(q.stream_id for q in under_way)
            found = reader.pending(sent, 64 - len(under_way), flying)
            sent.update({q.stream_id: q.seq for q in found})
            order += [q.stream_id for q in found]
            under_way = [*under_way, *found][freed:]
        for each in STREAMS:
            assert order.index(f"abcd1234.2-{each}") < 64, "within one window"
            assert order[:64].count(f"abcd1234.2-{each}") == 2, "its beginning, and what happens now"
            assert f"abcd1234-{each}" in order[:80]
        counts = Counter(order[128:600])
        assert counts["abcd1234-alarm"] >= 130 and counts["abcd1234-crossing"] >= 90
        assert counts["abcd1234-state"] >= 60 and counts["abcd1234-attachment"] >= 10
    reader.close()


def test_a_lane_that_is_busy_again_does_not_starve_what_lay_there(db: LaneDb) -> None:
    outbox = outbox_of(db)
    for _ in range(3):
        put(db, outbox, *(AlarmRaised("help") for _ in range(100)))
        begin(db, outbox)
    put(db, outbox, *(AlarmRaised("now") for _ in range(100)))
    found = Counter(q.stream_id for q in outbox.pending({}, 40))
    assert found == {"abcd1234.4-alarm": 30, "abcd1234-alarm": 10}, "half of the alarms' part, then what is free"
    reader = OutboxReader(db.path)
    assert (reader.oldest({}) or found) == outbox.pending({"abcd1234.4-alarm": 10**9}, 1)[0]
    reader.close()


def test_flights_carry_all_chapters_and_know_how_old_the_oldest_is(db: LaneDb, tmp_path: Path) -> None:
    outbox = outbox_of(db)
    with db.transaction():
        for n in range(300):
            outbox.append(AlarmRaised("help"), DAY + timedelta(days=n / 10))
        outbox.begin_chapters(DAY + timedelta(days=30))
    flights = Flights(OutboxReader(db.path), AckedHeads(tmp_path / "uplink.db"), 64)
    flights.refresh()
    assert flights.waiting() == (301, DAY)
    sent: list[Queued] = []
    mono = 0.0
    while more := flights.next(mono):
        sent += more
        heads = chains(tuple(sorted(sent, key=lambda q: (q.stream_id, q.seq))))
        for stream_id, head in heads.items():
            flights.answered(link.Head(stream_id, head.seq, head.hash), mono)
    assert Counter(q.stream_id for q in sent) == {"abcd1234.2-alarm": 1, "abcd1234-alarm": 300}
    assert [q.stream_id for q in sent].index("abcd1234.2-alarm") == 0
    assert flights.waiting() == (0, None)
    flights.close()


# -- the bound -----------------------------------------------------------------------------------------------------


def test_pictures_go_first_and_whole_then_the_oldest_states_then_alarms(db: LaneDb) -> None:
    outbox = outbox_of(db, 90_000)
    put(db, outbox, *(part(n, p, 3, 9000) for n in range(1, 6) for p in range(1, 4)))
    for each in (LaneChanged("idle"), AlarmRaised("help")):
        put(db, outbox, *(each for _ in range(40)))
        begin(db, outbox, 30)
        put(db, outbox, *(each for _ in range(40)))
    before = {s.stream_id: s for s in outbox.spans()}
    order: list[str] = []
    with pytest.raises(OutboxFull):
        for ticket in itertools.count(1):
            put(db, outbox, verdict(ticket))
            for span in outbox.spans():
                if span.dropped and span.stream_id not in order:
                    order.append(span.stream_id)
            pictures = [Record.decode(q.payload) for q in drained(outbox) if q.stream == "attachment"]
            whole = Counter(r.fact(HQ_PRIVATE).name for r in pictures if r.kind == "AttachmentPart")
            assert set(whole.values()) <= {3}, "never a part of one"
            chains(tuple(q for q in drained(outbox)))
            assert sum(s.bytes for s in outbox.spans()) <= 90_000
    states, alarms = ["abcd1234-state", "abcd1234.2-state"], ["abcd1234-alarm", "abcd1234.2-alarm"]
    assert order == ["abcd1234-attachment", *states, *alarms]
    assert {i: s.last for i, s in before.items() if s.stream != "crossing"} == {
        s.stream_id: s.last for s in outbox.spans() if s.stream != "crossing"
    }
    for later in (states[1], alarms[1]):
        assert kinds_of(outbox, later)[:2] == ["StreamContinued", "RecordsDropped"], "HQ still knows where one ends"
    assert "RecordsDropped" not in kinds_of(outbox, "abcd1234-crossing")


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from(STREAMS), st.integers(1, 25)),
            st.tuples(st.just("ack"), st.sampled_from(STREAMS), st.integers(1, 25)),
            st.tuples(st.just("begin"), st.just("alarm"), st.integers(0, 20)),
        ),
        max_size=30,
    )
)
def test_any_history_of_chapters_can_be_followed(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, str, int]]
) -> None:
    """Whatever was dropped, trimmed or begun: chains hold, chapters end where the next says, and all that was written
    is received or named as dropped."""
    db = LaneDb(tmp_path_factory.mktemp("h") / "lane.db")
    outbox = outbox_of(db, 30_000)
    heads: dict[str, Head] = {}
    ends: dict[str, tuple[int, bytes]] = {}
    made: Counter[str] = Counter()
    makers: dict[str, Fact] = {
        "state": LaneChanged("x"),
        "alarm": AlarmRaised("help"),
        "crossing": settled(1),
        "attachment": part(1, 1, 1, 1000),
    }

    def receive(count: int) -> None:
        for q in outbox.pending({i: h.seq for i, h in heads.items()}, count):
            record = Record.decode(q.payload)
            heads[q.stream_id] = follow(heads.get(q.stream_id, Head.start("lane-1", q.stream_id)), record)
            if record.kind == StreamContinued.__name__:
                fact = record.fact(None)
                ends[fact.before] = (fact.seq, fact.head)

    for verb, what, count in history:
        if verb == "put":
            for _ in range(count):
                try:
                    (record,) = put(db, outbox, makers[what])
                except OutboxFull:
                    break
                made[record.stream_id] = record.seq
        elif verb == "begin":
            with contextlib.suppress(OutboxFull):
                made.update(dict.fromkeys(begin(db, outbox, count), 1))
        else:
            receive(count)
            with db.transaction():
                outbox.trim({i: h.seq for i, h in heads.items() if i.endswith(what)})
    receive(10**6)
    assert {i: h.seq for i, h in heads.items()} == dict(made)
    assert {i: (heads[i].seq, heads[i].hash) for i in ends} == ends
    counted = db.sql.execute("SELECT stream, rows, bytes FROM streams WHERE rows > 0").fetchall()
    rows = db.sql.execute("SELECT stream, count(*), sum(length(payload) + 64) FROM outbox GROUP BY stream").fetchall()
    assert sorted(rows) == sorted(counted)
    db.close()


def test_the_file_does_not_grow_when_it_fills_again(tmp_path: Path) -> None:
    """Free pages are used again: the file stays below twice what the outbox may hold."""
    bytes_max = 600_000
    db = LaneDb(tmp_path / "lane.db")
    outbox = outbox_of(db, bytes_max)
    sizes = []
    for _ in range(3):
        with db.transaction(), pytest.raises(OutboxFull):
            for n in itertools.count(1):
                outbox.append(part(n, 1, 1, 9000) if n % 7 == 0 else TicketSettled(n, "crossed"), DAY)
        db.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sizes.append(db.path.stat().st_size)
        with db.transaction():
            outbox.trim({s.stream_id: s.last for s in outbox.spans()}, 10**6)
    db.close()
    assert bytes_max < sizes[0] < 2 * bytes_max
    assert max(sizes) <= sizes[0] * 1.05


# -- an older copy -------------------------------------------------------------------------------------------------


def aged(tmp_path: Path) -> tuple[Path, dict[str, int]]:
    """A lane.db that was put back by two records, and what HQ acknowledged meanwhile."""
    path = tmp_path / "lane.db"
    db = LaneDb(path)
    outbox = outbox_of(db)
    put(db, outbox, *(AlarmRaised("help") for _ in range(3)), settled(250))
    db.close()
    shutil.copy(path, tmp_path / "copy.db")
    db = LaneDb(path)
    (last, *_) = put(db, outbox_of(db), AlarmRaised("fire"), AlarmRaised("fire"))
    db.close()
    shutil.move(tmp_path / "copy.db", path)
    return path, {last.stream_id: last.seq}


def test_a_database_that_went_back_is_set_aside(tmp_path: Path) -> None:
    path, acked = aged(tmp_path)
    db = LaneDb.opened(path, DAY, acked)
    assert db.set_aside == tmp_path / "lane.db.rolled-back-20250301T080000Z"
    old = LaneDb(db.set_aside)
    assert [q.seq for q in drained(outbox_of(old))] == [1, 2, 3, 1], "what it holds is kept for a person"
    old.close()
    assert db.new and not {s.stream_id for s in outbox_of(db).spans()} & acked.keys()
    assert db.next_ticket > 250, "ticket numbers go on"
    db.close()
    again = LaneDb.opened(path, DAY, acked)
    assert again.set_aside is None
    again.close()


def test_one_that_hq_has_all_of_goes_on(tmp_path: Path) -> None:
    path, acked = aged(tmp_path)
    (stream_id,) = acked
    for seq, others in ((3, {}), (2, {"ffff-alarm": 99, "ffff.7-alarm": 1, "odd": 5})):
        db = LaneDb.opened(path, DAY, {stream_id: seq, **others})
        assert db.set_aside is None
        db.close()


def test_a_chapter_that_hq_knows_and_the_lane_does_not(tmp_path: Path) -> None:
    path, acked = aged(tmp_path)
    generation = generation_of(next(iter(acked)))
    db = LaneDb.opened(path, DAY, {f"{generation}.3-state": 1})
    assert db.set_aside is not None
    db.close()


def test_the_uplink_keeps_what_tells_that_a_database_went_back(tmp_path: Path) -> None:
    """It may see the older copy before the lane does, and forgets what earlier generations and chapters had."""
    heads = AckedHeads(tmp_path / "uplink.db")
    for stream_id in ("old1-alarm", "new1-alarm", "new1.2-alarm", "new1.3-alarm", "new1.3-state"):
        heads.advance(stream_id, 5)
    heads.forget(frozenset({"new1.2-alarm", "new1.4-state"}))
    assert heads.heads().keys() == {"new1.2-alarm", "new1.3-alarm"}
    heads.close()


def test_a_file_that_took_the_name_of_an_open_one_stops_the_writer(db: LaneDb, tmp_path: Path) -> None:
    """Records would go into a file without a name, and be gone with the process."""
    outbox = outbox_of(db)
    put(db, outbox, AlarmRaised("help"))
    shutil.copy(db.path, tmp_path / "copy.db")
    (tmp_path / "copy.db").rename(db.path)
    with pytest.raises(StoreError) as replaced:
        put(db, outbox, AlarmRaised("fire"))
    assert replaced.value.why == "replaced"


def test_a_lane_whose_database_went_back_says_so_and_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, acked = aged(tmp_path)
    heads = AckedHeads(tmp_path / "uplink.db")
    for stream_id, seq in acked.items():
        heads.advance(stream_id, seq)
    heads.close()
    build = daemon.build

    def as_a_real_start_does(*args: Any, **how: Any) -> daemon.App:
        del how["open_db"]
        return build(*args, **how)

    monkeypatch.setattr(daemon, "build", as_a_real_start_does)
    lane = Watched(5, Topology.MANTRAP, tmp_path, passengers=2)
    report = virtual.run(lane.run())
    assert report.clean
    (aside,) = tmp_path.glob("lane.db.rolled-back-*Z")
    (alarm,) = [each for each in lane.facts(AlarmRaised) if each.code == "database_replaced"]
    assert alarm.detail == aside.name
    (booted,) = lane.facts(LaneBooted)
    assert booted.new_database and booted.next_ticket > 250
    assert path.exists()
