"""The outbox: numbers without gaps, a chain that both ends can follow, a bound that says what it drops."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gated.store.acks import AckedHeads, AckedHeadsReader
from gated.store.db import LaneDb
from gated.store.outbox import Outbox, OutboxFull, OutboxReader, Queued
from gated.store.sql import StoreError
from gated.wire.facts import (
    AlarmRaised,
    DeviceChanged,
    Fact,
    Holder,
    LaneChanged,
    RecordsDropped,
    TicketSettled,
    VerdictReached,
)
from gated.wire.record import ChainBroken, ChainMissing, Head, Record, follow
from gated.wire.seal import public_of

HQ_PRIVATE = b"\x41" * 32
HQ_PUBLIC = public_of(HQ_PRIVATE)
DAY = datetime(2025, 3, 1, 8, 0, tzinfo=UTC)


def verdict(ticket: int, surname: str = "CHEN") -> VerdictReached:
    holder = Holder(surname=surname, number="X1234567", flags=frozenset({"exit_ban"}))
    return VerdictReached(ticket, "refer", "control_flag", "p1", "exit", "A", holder=holder)


def settled(ticket: int) -> TicketSettled:
    return TicketSettled(ticket, "crossed", 1, "grant")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[LaneDb]:
    opened = LaneDb(tmp_path / "lane.db")
    yield opened
    opened.close()


def outbox_of(db: LaneDb, bytes_max: int = 10_000_000) -> Outbox:
    return Outbox(db, "lane-1", "boot-1", HQ_PUBLIC, bytes_max=bytes_max)


def put(db: LaneDb, outbox: Outbox, *facts: Fact) -> list[Record]:
    with db.transaction():
        return [outbox.append(fact, DAY) for fact in facts]


def chains(queued: tuple[Queued, ...], lane: str = "lane-1") -> dict[str, Head]:
    """The head of each stream after all of these, verified link by link from the stream's start."""
    heads: dict[str, Head] = {}
    for q in queued:
        record = Record.decode(q.payload)
        assert (record.stream_id, record.stream, record.seq) == (q.stream_id, q.stream, q.seq)
        before = heads.get(q.stream_id, Head.start(lane, q.stream_id))
        after = follow(before, record)
        assert after.seq == q.seq
        heads[q.stream_id] = after
    return heads


def test_each_stream_counts_for_itself_and_its_chain_holds(db: LaneDb) -> None:
    outbox = outbox_of(db)
    facts = [verdict(1), AlarmRaised("help"), settled(1), LaneChanged("idle"), verdict(2), AlarmRaised("fire")]
    records = put(db, outbox, *facts)
    assert [(r.stream, r.seq) for r in records] == [
        ("crossing", 1),
        ("alarm", 1),
        ("crossing", 2),
        ("state", 1),
        ("crossing", 3),
        ("alarm", 2),
    ]
    assert [r.fact(HQ_PRIVATE) for r in records] == facts
    heads = chains(outbox.pending({}, 100))
    assert {h.seq for h in heads.values()} == {3, 2, 1}


def test_a_new_process_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    for boot in ("a", "b", "c"):
        db = LaneDb(tmp_path / "lane.db")
        box = Outbox(db, "lane-1", boot, HQ_PUBLIC)
        put(db, box, LaneChanged(boot), settled(1))
        queued = box.pending({}, 100)
        db.close()
    heads = chains(queued)
    assert sorted(h.seq for h in heads.values()) == [3, 3]
    assert {Record.decode(q.payload).boot for q in queued} == {"a", "b", "c"}


def test_what_is_rolled_back_leaves_no_gap(db: LaneDb) -> None:
    outbox = outbox_of(db)
    put(db, outbox, AlarmRaised("help"))
    with pytest.raises(RuntimeError, match="on purpose"), db.transaction():
        outbox.append(AlarmRaised("fire"), DAY)
        raise RuntimeError("on purpose")
    put(db, outbox, AlarmRaised("tailgate"))
    queued = outbox.pending({}, 10)
    assert [q.seq for q in queued] == [1, 2]
    chains(queued)


def test_a_changed_missing_or_foreign_record_is_found(db: LaneDb) -> None:
    outbox = outbox_of(db)
    one, two, three = put(db, outbox, AlarmRaised("help"), AlarmRaised("fire"), AlarmRaised("tailgate"))
    start = Head.start("lane-1", one.stream_id)
    with pytest.raises(ChainMissing):
        follow(follow(start, one), three)
    forged = Record.decode(one.encode().replace(b"help", b"hope"))
    with pytest.raises(ChainBroken):
        follow(follow(start, forged), two)
    with pytest.raises(ChainBroken):
        follow(Head.start("lane-2", one.stream_id), one)
    head = follow(follow(start, one), two)
    assert follow(head, one) is head


def test_appending_outside_a_transaction_is_our_mistake(db: LaneDb) -> None:
    with pytest.raises(AssertionError):
        outbox_of(db).append(AlarmRaised("help"), DAY)


def test_only_what_is_acknowledged_is_trimmed(db: LaneDb) -> None:
    outbox = outbox_of(db)
    records = put(db, outbox, *(AlarmRaised("help") for _ in range(5)), verdict(1))
    alarms, crossings = records[0].stream_id, records[-1].stream_id
    with db.transaction():
        assert outbox.trim({alarms: 3, "other-alarm": 99}) == 3
    assert [(q.stream_id, q.seq) for q in outbox.pending({}, 10)] == [(alarms, 4), (alarms, 5), (crossings, 1)]
    assert [q.seq for q in outbox.pending({alarms: 4}, 1)] == [5]
    with db.transaction():
        assert outbox.trim({alarms: 10**9}) == 2  # an acknowledgement of what was never sent harms nothing later
    (later,) = put(db, outbox, AlarmRaised("fire"))
    assert later.seq == 6
    assert next(s for s in outbox.spans() if s.stream == "alarm").first == 6
    with db.transaction():
        assert outbox.trim({crossings: 1}) == 1
        assert outbox.trim({crossings: 1}) == 0


def test_alarms_first_but_nobody_starves(db: LaneDb) -> None:
    outbox = outbox_of(db)
    put(db, outbox, *(LaneChanged("s") for _ in range(50)), *(verdict(n) for n in range(1, 51)))
    put(db, outbox, *(AlarmRaised("a") for _ in range(50)))
    streams = [q.stream for q in outbox.pending({}, 20)]
    assert (streams.count("alarm"), streams.count("crossing"), streams.count("state")) == (12, 5, 3), (
        "half, a quarter, three sixteenths; what attachments leave over goes to the alarms"
    )
    assert streams[0] == "alarm"
    ids = {q.stream: q.stream_id for q in outbox.pending({}, 20)}
    rest = [q.stream for q in outbox.pending({ids["alarm"]: 50}, 20)]
    assert (rest.count("crossing"), rest.count("state")) == (17, 3)
    assert [q.stream for q in outbox.pending({}, 1)] == ["alarm"]


# -- tickets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lives", [(1, 1, 1), (2, 1, 51), (49, 50, 51), (99, 100, 101), (105, 105), (130, 250, 1)])
def test_ticket_numbers_are_never_used_twice(tmp_path: Path, lives: tuple[int, ...]) -> None:
    used: set[int] = set()
    for count in lives:
        db = LaneDb(tmp_path / "lane.db")
        tickets = range(db.next_ticket, db.next_ticket + count)
        assert used.isdisjoint(tickets)
        used.update(tickets)
        outbox = outbox_of(db)
        with db.transaction():
            for ticket in tickets[:-1]:
                outbox.append(verdict(ticket), DAY)
                outbox.append(settled(ticket), DAY)
        # the last one was opened in memory alone, when the process ended
        db.close()


def test_unsettled_are_those_with_a_verdict_and_no_end(tmp_path: Path) -> None:
    db = LaneDb(tmp_path / "lane.db")
    outbox = outbox_of(db)
    put(db, outbox, verdict(1), settled(1), verdict(2), verdict(3), verdict(3), settled(3), settled(4))
    db.close()
    again = LaneDb(tmp_path / "lane.db")
    assert again.unsettled() == (2,)
    assert again.next_ticket > 4
    put(again, outbox_of(again), TicketSettled(2, "unresolved"))
    assert again.unsettled() == ()
    again.close()


def test_a_commit_is_a_commit(db: LaneDb) -> None:
    """A kill cannot show this, a power cut would: WAL with `synchronous=FULL` (sqlite.org/pragma.html)."""
    assert db.sql.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db.sql.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert db.sql.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_notes_are_kept(tmp_path: Path) -> None:
    db = LaneDb(tmp_path / "lane.db")
    assert db.note("reset_needed") is None
    with db.transaction():
        db.set_note("reset_needed", "yes")
    db.close()
    again = LaneDb(tmp_path / "lane.db")
    assert again.note("reset_needed") == "yes"
    again.close()


# -- the bound ---------------------------------------------------------------------------------------------


def kinds_of(outbox: Outbox, stream: str) -> list[str]:
    return [Record.decode(q.payload).kind for q in outbox.pending({}, 10**6) if q.stream == stream]


def test_state_makes_room_first_then_alarms_and_crossings_never(db: LaneDb) -> None:
    outbox = outbox_of(db, 120_000)
    put(db, outbox, *(LaneChanged(f"state-{n}") for n in range(60)), *(AlarmRaised("help") for _ in range(60)))
    ticket = 0
    crossings: list[Record] = []
    stages: list[tuple[bool, bool]] = []
    with pytest.raises(OutboxFull) as full:
        for ticket in itertools.count(1):
            crossings += put(db, outbox, verdict(ticket))
            stages.append(
                ("RecordsDropped" in kinds_of(outbox, "state"), "RecordsDropped" in kinds_of(outbox, "alarm"))
            )
            chains(outbox.pending({}, 10**6))
    assert full.value.why == "outbox_full"
    assert "uplink" in str(full.value)
    assert stages == sorted(stages)
    assert list(dict.fromkeys(stages)) == [(False, False), (True, False), (True, True)]
    state = kinds_of(outbox, "state")
    assert state == ["RecordsDropped"] or state[:2] == ["RecordsDropped", "LaneChanged"]
    assert kinds_of(outbox, "crossing") == ["VerdictReached"] * len(crossings)
    assert sum(s.bytes for s in outbox.spans()) <= 120_000
    for late in range(ticket - 20, ticket):  # who is already on the way still gets an end
        put(db, outbox, settled(late))
    assert db.unsettled() == tuple(range(1, ticket - 20))
    with pytest.raises(OutboxFull):
        put(db, outbox, verdict(ticket))
    ids = {s.stream: s.stream_id for s in outbox.spans()}
    with db.transaction():
        outbox.trim({ids["crossing"]: 80})
    put(db, outbox, verdict(ticket))
    heads = chains(tuple(q for q in outbox.pending({}, 10**6) if q.stream != "crossing"))
    assert {h.stream_id: h.seq for h in heads.values()} == {ids["state"]: 60, ids["alarm"]: 60}


def test_the_newest_state_is_what_stays(db: LaneDb) -> None:
    outbox = outbox_of(db, 40_000)
    for n in range(400):
        put(db, outbox, DeviceChanged("camera", "lost", f"why-{n}"))
    held = [Record.decode(q.payload) for q in outbox.pending({}, 10**6)]
    dropped = held[0].fact(None)
    assert isinstance(dropped, RecordsDropped)
    assert (dropped.first, dropped.last) == (1, held[1].seq - 1)
    assert [r.fact(None).why for r in held[1:]] == [f"why-{n}" for n in range(dropped.last, 400)]
    (span,) = (s for s in outbox.spans() if s.stream == "state")
    assert span.dropped == dropped.last
    assert len(held) > 40


def test_hq_follows_over_records_that_were_dropped_while_it_read(db: LaneDb) -> None:
    outbox = outbox_of(db, 40_000)
    put(db, outbox, *(LaneChanged(f"{n}") for n in range(30)))
    queued = outbox.pending({}, 10)
    head = chains(queued)[queued[0].stream_id]
    assert head.seq == 10
    put(db, outbox, *(LaneChanged(f"{n}") for n in range(200)))
    for q in outbox.pending({}, 10**6):
        head = follow(head, Record.decode(q.payload))
    assert head.seq == 230


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from(["state", "alarm", "verdict", "settle"]), st.integers(1, 30)),
            st.tuples(st.just("ack"), st.sampled_from(["state", "alarm", "crossing"]), st.integers(1, 30)),
        ),
        max_size=25,
    )
)
def test_any_history_can_be_followed(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, str, int]]
) -> None:
    """HQ reads now and then; whatever was dropped or trimmed meanwhile, its chains hold and its heads never go back."""
    db = LaneDb(tmp_path_factory.mktemp("h") / "lane.db")
    outbox = outbox_of(db, 30_000)
    ids = {s.stream: s.stream_id for s in outbox.spans()}
    heads = {i: Head.start("lane-1", i) for i in ids.values()}
    made = dict.fromkeys(ids.values(), 0)
    makers = {"state": LaneChanged("x"), "alarm": AlarmRaised("help"), "verdict": verdict(1), "settle": settled(1)}
    for verb, what, count in history:
        if verb == "put":
            for _ in range(count):
                try:
                    (record,) = put(db, outbox, makers[what])
                except OutboxFull:
                    break
                made[record.stream_id] += 1
                assert record.seq == made[record.stream_id]
        else:
            stream_id = ids[what]
            for q in outbox.pending({i: h.seq for i, h in heads.items()}, count):
                heads[q.stream_id] = follow(heads[q.stream_id], Record.decode(q.payload))
            with db.transaction():
                outbox.trim({stream_id: heads[stream_id].seq})
    for q in outbox.pending({i: h.seq for i, h in heads.items()}, 10**6):
        heads[q.stream_id] = follow(heads[q.stream_id], Record.decode(q.payload))
    assert {i: h.seq for i, h in heads.items()} == made
    spans = {s.stream_id: s for s in outbox.spans()}
    rows = db.sql.execute("SELECT stream, count(*), sum(length(payload) + 64) FROM outbox GROUP BY stream").fetchall()
    counted = db.sql.execute("SELECT stream, rows, bytes FROM streams WHERE rows > 0").fetchall()
    assert sorted(rows) == sorted(counted)
    assert all(s.last == made[i] for i, s in spans.items())
    db.close()


# -- readers -----------------------------------------------------------------------------------------------


def test_the_uplink_reads_while_the_lane_writes_and_after_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "lane.db"
    reader = OutboxReader(path)
    with pytest.raises(StoreError, match="cannot_open"):
        reader.pending({}, 10)
    db = LaneDb(path)
    outbox = outbox_of(db)
    put(db, outbox, AlarmRaised("help"))
    assert [q.seq for q in reader.pending({}, 10)] == [1]
    put(db, outbox, AlarmRaised("fire"))
    assert reader.pending({}, 10) == outbox.pending({}, 10)
    assert reader.spans() == outbox.spans()
    first = reader.spans()[0].stream_id
    db.close()
    assert len(reader.pending({}, 10)) == 2
    path.rename(tmp_path / "old")
    new = LaneDb(path)
    assert new.new
    assert reader.spans()[0].stream_id != first
    assert reader.pending({}, 10) == ()
    new.close()
    reader.close()


def test_the_reader_cannot_write(db: LaneDb) -> None:
    reader = OutboxReader(db.path)
    with pytest.raises(StoreError, match="read_only"), reader._file.connection() as connection:
        connection.execute("DELETE FROM outbox")
    reader.close()


def test_acknowledgements_never_go_back(tmp_path: Path) -> None:
    path = tmp_path / "uplink.db"
    lane = AckedHeadsReader(path)
    assert lane.heads() == {}
    acks = AckedHeads(path)
    assert acks.advance("g-alarm", 5)
    assert not acks.advance("g-alarm", 5)
    assert not acks.advance("g-alarm", 4)
    assert acks.advance("g-state", 1)
    assert lane.heads() == {"g-alarm": 5, "g-state": 1}
    with pytest.raises(StoreError, match="second_writer"):
        AckedHeads(path)
    acks.close()
    again = AckedHeads(path)
    assert again.heads() == {"g-alarm": 5, "g-state": 1}
    again.forget(frozenset({"g-state"}))
    assert lane.heads() == {"g-state": 1}
    again.close()
    lane.close()


def test_order_is_by_number_not_by_the_wall_clock(db: LaneDb) -> None:
    outbox = outbox_of(db)
    with db.transaction():
        outbox.append(AlarmRaised("one"), DAY)
        outbox.append(AlarmRaised("two"), DAY - timedelta(days=400))
    assert [Record.decode(q.payload).fact(None).code for q in outbox.pending({}, 9)] == ["one", "two"]
