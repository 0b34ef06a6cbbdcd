"""The witness: whoever edits, deletes, cuts, swaps or puts back at a running lane's database is seen; nobody else is.

A thread writes as a lane does (journal, facts, trimming), the witness reads beside it, the attacker writes with a
connection of their own."""

import itertools
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from gated.lane import commands as c
from gated.lane import events as e
from gated.store.db import LaneDb
from gated.store.journal import Journal
from gated.store.outbox import Outbox
from gated.store.sql import StoreError
from gated.store.witness import Witness
from gated.wire import link
from gated.wire.facts import AlarmRaised, Fact, LaneChanged
from tests.test_journal import KEY
from tests.test_outbox import DAY, HQ_PUBLIC, settled, verdict

DAYS, ROWS_MAX = 30, 4000
PASS_S = 1.0
"""Of the witness's clock, which the tests turn."""
STEP: tuple[e.Event, tuple[c.Command, ...]] = (e.DoorOpened(e.Door.A), (c.RequestOpen(e.Door.A),))


class Lane:
    """What a lane does to its database, in a thread that never waits long."""

    def __init__(self, path: Path, boot: str = "boot-1", bytes_max: int = 10_000_000, rows_max: int = ROWS_MAX) -> None:
        self.path, self.rows_max = path, rows_max
        self.db = LaneDb(path)
        self.outbox = Outbox(self.db, "lane-1", boot, HQ_PUBLIC, bytes_max=bytes_max)
        self.journal = Journal(self.db, KEY, boot)
        self.acked: dict[str, int] = {}
        self.lock = threading.Lock()
        self._n = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def live(self, steps: int = 1) -> None:
        """Some steps, a passenger's records among them; then what may go, goes."""
        with self.lock, self.db.transaction():
            for _ in range(steps):
                self._n += 1
                self.journal.append(e.Now(self._n * 0.5, DAY + timedelta(seconds=self._n)), *STEP)
                facts: list[Fact] = [LaneChanged("idle"), AlarmRaised("help"), verdict(self._n), settled(self._n)]
                for fact in (facts[self._n % 2], *(facts[2:] if self._n % 5 == 0 else ())):
                    self.outbox.append(fact, DAY)
            self.journal.flush()
            self.journal.trim(DAY + timedelta(seconds=self._n), DAYS, self.rows_max)
            self.outbox.trim(self.acked)

    def start(self) -> None:
        def run() -> None:
            while not self._stop.is_set():
                try:
                    self.live(2)
                except StoreError:
                    return
                time.sleep(0.002)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self.stop()
        self.db.close()


class Watch:
    """A witness and its clock."""

    def __init__(self, path: Path, rows_max: int = ROWS_MAX) -> None:
        self.witness = Witness(path, journal_days=DAYS, journal_rows_max=rows_max, pass_s=PASS_S)
        self.mono = 0.0

    def look(self) -> None:
        self.mono += 0.2
        self.witness.look(self.mono)

    def a_pass(self) -> None:
        """Until everything was read once more, from its beginning; ends by itself."""
        wanted = self.witness.passes + 2
        for _ in range(2000):
            self.look()
            if self.witness.passes >= wanted or self.witness.passes < wanted - 2:
                return
        raise AssertionError(f"no pass ends: {self.witness.trouble}")

    def codes(self) -> set[str]:
        return {finding.code for finding in self.witness.findings}


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    made = Lane(tmp_path / "lane.db")
    made.live(60)
    yield made
    made.close()


@pytest.fixture
def watch(lane: Lane) -> Iterator[Watch]:
    made = Watch(lane.path)
    made.a_pass()
    assert made.witness.findings == () and made.witness.passes >= 1
    yield made
    made.witness.close()


def attack(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, timeout=10.0, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        changed = sum(max(0, connection.execute(statement).rowcount) for statement in statements)
        connection.execute("COMMIT")
    assert changed > 0, "the attack did nothing"


def test_a_busy_lane_that_nobody_touches_gives_no_finding(tmp_path: Path) -> None:
    """It records, trims, is acknowledged, drops for want of room, and begins chapters all the while."""
    lane = Lane(tmp_path / "lane.db", bytes_max=110_000, rows_max=200)
    watch = Watch(lane.path, 200)
    lane.live(150)
    watch.look()
    lane.start()
    anchor, dropped = watch.witness.head, False
    for turn in itertools.count():
        assert turn < 2000, "it does not do all that it should"
        for _ in range(5):
            watch.look()
            time.sleep(0.002)
        if turn == 3:
            assert anchor is not None
            watch.witness.compare(anchor)
        with lane.lock:
            spans = lane.outbox.spans()
            dropped = dropped or any(s.dropped for s in spans)
            if turn % 4 == 3:
                lane.acked = {s.stream_id: max(0, s.last - 15) for s in spans}
            if turn % 10 == 9:
                with lane.db.transaction():
                    lane.outbox.begin_chapters(DAY, 20)
            trimmed = lane.db.sql.execute("SELECT min(id) FROM journal").fetchone()[0] > 1
        assert watch.witness.gaps(dict(lane.acked)) == ()
        if turn > 40 and dropped and trimmed and any("." in s.stream_id for s in spans):
            break
    lane.stop()
    watch.a_pass()
    assert watch.witness.findings == ()
    assert watch.witness.trouble == "" and watch.witness.lasted_s is not None
    watch.witness.close()
    lane.close()


JOURNAL = {
    "edit": (["UPDATE journal SET clear = cast('[]' AS BLOB) WHERE id = 30"], "journal_altered"),
    "edit of a time": (
        ["UPDATE journal SET utc = replace(utc, '2025', '2024') WHERE id = 30"],
        "journal_altered",
    ),
    "edit of the oldest": (["UPDATE journal SET mono = 9 WHERE id = (SELECT min(id) FROM journal)"], "journal_altered"),
    "edit of the newest": (["UPDATE journal SET mono = 9 WHERE id = (SELECT max(id) FROM journal)"], "journal_altered"),
    "no link": (["UPDATE journal SET link = NULL WHERE id = 30"], "journal_altered"),
    "deletion": (["DELETE FROM journal WHERE id = 30"], "journal_cut"),
    "truncation": (["DELETE FROM journal WHERE id > (SELECT max(id) - 3 FROM journal)"], "journal_back"),
    "all of it": (["DELETE FROM journal"], "journal_back"),
    "cut head": (["DELETE FROM journal WHERE id < (SELECT min(id) + 3 FROM journal)"], "journal_cut"),
    "swap of two rows": (
        [
            "UPDATE journal SET id = -1 WHERE id = 30",
            "UPDATE journal SET id = 30 WHERE id = 31",
            "UPDATE journal SET id = 31 WHERE id = -1",
        ],
        "journal_altered",
    ),
    "row put in at the end": (
        [
            "INSERT INTO journal SELECT id + 1, 'boot-x', 1, mono, utc, clear, sealed, chain, link FROM journal"
            " ORDER BY id DESC LIMIT 1"
        ],
        "journal_altered",
    ),
}


@pytest.mark.parametrize("name", JOURNAL)
def test_who_was_at_the_journal_is_seen(name: str, lane: Lane, watch: Watch) -> None:
    statements, code = JOURNAL[name]
    lane.start()
    watch.look()
    with lane.lock:  # an attack takes effect between two looks; the lane writes on
        watch.look()
        attack(lane.path, *statements)
    time.sleep(0.05)
    watch.a_pass()
    lane.stop()
    later = {"journal_back": "journal_cut"}  # the lane may have written on behind it before anybody looked
    assert watch.codes() & {code, later.get(code)}, watch.witness.findings
    before = watch.witness.findings
    watch.a_pass()
    assert set(before) <= set(watch.witness.findings), "it stays"


def rechained(path: Path, change: str) -> None:
    """Changes a row and makes the open chain fit again from there on, as who knows this program can."""
    from gated.store.chain import ROW, link_of

    attack(path, change)
    with closing(sqlite3.connect(path, timeout=10.0, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        before: bytes | None = None
        for number, *values, stored in connection.execute(f"SELECT {ROW} FROM journal ORDER BY id").fetchall():
            before = stored if before is None else link_of(before, *values)
            connection.execute("UPDATE journal SET link = ? WHERE id = ?", (before, number))
        connection.execute("COMMIT")


def test_a_chain_made_anew_does_not_end_where_hq_was_told(lane: Lane, watch: Watch) -> None:
    told = watch.witness.head
    assert told is not None
    lane.live(5)
    rechained(lane.path, "UPDATE journal SET mono = 9 WHERE id = 30")
    later = Watch(lane.path)  # the uplink was not there when it happened
    later.a_pass()
    assert later.witness.findings == (), "nothing in the file itself shows it"
    later.witness.compare(told)
    later.look()
    assert later.codes() == {"journal_altered"}
    later.witness.close()
    watch.look()
    assert watch.codes() == {"journal_altered"}, "who was there sees it at once"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("DELETE FROM journal WHERE id > 20", "journal_back"),
        ("DELETE FROM journal WHERE id = 50", "journal_cut"),
        ("UPDATE journal SET link = x'00' WHERE id = 50", "journal_altered"),
    ],
)
def test_what_hq_was_told_of_must_be_there(change: str, code: str, lane: Lane) -> None:
    (row,) = lane.db.sql.execute("SELECT link FROM journal WHERE id = 50").fetchall()
    attack(lane.path, change)
    later = Watch(lane.path)
    later.witness.compare(link.JournalHead(lane.db.generation, 1, 50, row[0]))
    later.look()
    assert code in later.codes()
    later.witness.close()


def test_of_another_generation_or_trimmed_hq_hears_nothing_bad(tmp_path: Path) -> None:
    lane = Lane(tmp_path / "lane.db", rows_max=50)
    watch = Watch(lane.path, 50)
    lane.live(40)
    watch.a_pass()
    told = watch.witness.head
    assert told is not None
    watch.witness.compare(link.JournalHead("ffff0000", 1, 10**6, bytes(32)))
    watch.a_pass()
    for _ in range(3):
        lane.live(30)
    watch.witness.compare(link.JournalHead(told.generation, 1, 2, bytes(32)))
    watch.a_pass()
    assert watch.witness.head is not None and watch.witness.head.first > 2
    assert watch.witness.findings == ()
    watch.witness.close()
    lane.close()


def test_a_forged_note_of_trimming_is_seen_by_the_age_of_what_went(lane: Lane, watch: Watch) -> None:
    (cut,) = lane.db.sql.execute("SELECT id, link FROM journal WHERE id = 40").fetchall()
    old = (DAY - timedelta(days=99)).isoformat(timespec="microseconds")
    attack(
        lane.path,
        "DELETE FROM journal WHERE id <= 40",
        f"INSERT OR REPLACE INTO notes VALUES ('journal_base', '40 {old} {cut[1].hex()}')",
    )
    watch.look()
    assert watch.codes() == {"journal_cut"}


OTHER_WORD = "UPDATE outbox SET payload = cast(replace(cast(payload AS TEXT), '{}', '{}') AS BLOB)"
OUTBOX = {
    "edit": (
        [OTHER_WORD.format("idle", "open") + " WHERE stream = 'state' AND seq = 9"],
        {"outbox_altered"},
    ),
    "edit of the newest": (
        [
            OTHER_WORD.format("help", "hope") + " WHERE stream = 'alarm' AND seq ="
            " (SELECT seq FROM streams WHERE stream = 'alarm')"
        ],
        {"outbox_altered"},
    ),
    "deletion": (["DELETE FROM outbox WHERE stream = 'alarm' AND seq IN (9, 10)"], {"outbox_gap"}),
    "truncation": (["DELETE FROM outbox WHERE stream = 'crossing' AND seq > 10"], {"outbox_gap"}),
    "cut head": (["DELETE FROM outbox WHERE stream = 'crossing' AND seq < 5"], {"outbox_gap"}),
    "swap of two records": (
        [
            "UPDATE outbox SET seq = -1 WHERE stream = 'state' AND seq = 9",
            "UPDATE outbox SET seq = 9 WHERE stream = 'state' AND seq = 10",
            "UPDATE outbox SET seq = 10 WHERE stream = 'state' AND seq = -1",
        ],
        {"outbox_altered"},
    ),
    "truncation that is counted": (
        [
            "DELETE FROM outbox WHERE stream = 'alarm' AND seq > 10",
            "UPDATE streams SET rows = 10, seq = 10 WHERE stream = 'alarm'",
        ],
        {"outbox_gap"},
    ),
}


@pytest.mark.parametrize("name", OUTBOX)
def test_who_was_at_the_outbox_is_seen(name: str, lane: Lane, watch: Watch) -> None:
    statements, codes = OUTBOX[name]
    lane.start()
    watch.look()
    with lane.lock:
        watch.look()
        attack(lane.path, *statements)
        if name == "deletion":
            watch.a_pass()
            ids = {s.stream: s.stream_id for s in lane.outbox.spans()}
            everything = dict.fromkeys(ids.values(), 0)
            assert watch.witness.gaps(everything) == (link.Gap(ids["alarm"], 9, 10),)
            assert watch.witness.gaps({**everything, ids["alarm"]: 9}) == (link.Gap(ids["alarm"], 10, 10),)
            assert watch.witness.gaps({**everything, ids["alarm"]: 10}) == ()
    watch.a_pass()
    lane.stop()
    assert codes <= watch.codes(), watch.witness.findings


def test_a_head_that_is_cut_and_counted_is_a_gap_above_what_hq_has(lane: Lane, watch: Watch) -> None:
    """Whoever keeps the counts right too is found by what HQ has not acknowledged."""
    ids = {s.stream: s.stream_id for s in lane.outbox.spans()}
    acked = dict.fromkeys(ids.values(), 2)
    assert watch.witness.gaps(acked) == ()
    attack(
        lane.path,
        "DELETE FROM outbox WHERE stream = 'crossing' AND seq < 8",
        "UPDATE streams SET rows = rows - 7 WHERE stream = 'crossing'",
    )
    watch.look()
    assert watch.codes() == set()
    assert watch.witness.gaps(acked) == (link.Gap(ids["crossing"], 3, 7),)
    assert watch.codes() == {"outbox_gap"}


def test_what_hq_lost_itself_is_a_gap_and_no_finding(lane: Lane, watch: Watch) -> None:
    (stream_id,) = [s.stream_id for s in lane.outbox.spans() if s.stream == "crossing"]
    watch.witness.gaps({stream_id: 9})
    with lane.db.transaction():
        lane.outbox.trim({stream_id: 9})
    watch.look()
    assert watch.witness.gaps({stream_id: 4}) == (link.Gap(stream_id, 5, 9),)
    assert watch.witness.findings == ()


def test_an_older_copy_of_the_database_is_seen_and_stops_the_writer(lane: Lane, watch: Watch, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with lane.lock, closing(sqlite3.connect(lane.path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    lane.start()
    time.sleep(0.1)
    watch.a_pass()
    with lane.lock:
        for tail in ("-wal", "-shm"):
            lane.path.with_name(lane.path.name + tail).unlink()
        shutil.move(copy, lane.path)
    watch.a_pass()
    lane.stop()
    with pytest.raises(StoreError, match="replaced"):
        lane.live()  # its records would be gone with the process
    assert {"journal_back", "outbox_gap"} <= watch.codes()


def test_a_new_generation_starts_over_and_an_old_one_again_is_found(lane: Lane, watch: Watch, tmp_path: Path) -> None:
    watch.witness.close()  # or the file's end would stay in its WAL
    lane.close()
    lane.path.rename(tmp_path / "old.db")
    watch.look()
    assert (watch.witness.trouble, watch.witness.head) == ("cannot_open", None)
    new = Lane(lane.path)
    new.live(3)
    watch.a_pass()
    assert watch.witness.findings == ()
    head = watch.witness.head
    assert head is not None and (head.generation, head.first, head.last) == (new.db.generation, 1, 3)
    watch.witness.close()
    new.close()
    (tmp_path / "old.db").rename(lane.path)
    watch.look()
    assert watch.witness.trouble == ""
    assert watch.codes() == {"database_back"}


def test_rows_of_edition_1_have_no_link_and_the_chain_begins_behind_them(tmp_path: Path) -> None:
    path = tmp_path / "lane.db"
    edition_1 = (Path(__file__).parent / "golden" / "lane_edition1.sql").read_text(encoding="utf-8")
    with closing(sqlite3.connect(path)) as old:
        old.executescript(edition_1)
    watch = Watch(path, 6)
    watch.look()
    assert watch.witness.trouble == "wrong_edition", "until the lane was started"
    lane = Lane(path, "boot-2")
    watch.a_pass()
    assert watch.witness.head is None
    lane.live(5)
    watch.a_pass()
    assert watch.witness.findings == () and watch.witness.head is not None
    lane.rows_max = 6
    for _ in range(4):
        lane.live(2)
        watch.a_pass()
    assert lane.db.sql.execute("SELECT min(id) FROM journal").fetchone()[0] > 3
    assert watch.witness.findings == ()
    attack(path, "UPDATE journal SET link = NULL WHERE id = (SELECT max(id) - 2 FROM journal)")
    watch.a_pass()
    assert watch.codes() == {"journal_altered"}
    watch.witness.close()
    lane.close()


def test_a_look_is_bounded_however_much_there_is(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time runs out: a slice is read, the rest at the next looks; and it is said how long a pass takes."""
    from gated.store import witness as the_witness

    ticks = iter(range(10**9))
    monkeypatch.setattr(the_witness, "perf_counter", lambda: next(ticks) * 0.015)
    monkeypatch.setattr(the_witness, "CHUNK_ROWS", 8)
    monkeypatch.setattr(the_witness, "OUTBOX_ROWS", 1)
    watch = Watch(lane.path)
    while watch.witness.lasted_s is None:
        watch.look()
    rows = lane.db.sql.execute("SELECT (SELECT count(*) FROM journal) + (SELECT count(*) FROM outbox)").fetchone()[0]
    assert watch.witness.lasted_s >= rows / 8 * 0.2 - 1.0 > PASS_S
    watch.witness.close()
