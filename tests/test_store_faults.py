"""What a lane's disk can do to it: death at any point, no room, no permission, damage, a second writer.

The children are real processes: a kill is SIGKILL, a foreign user is another user id, a full disk is a small tmpfs.
"""

import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import pytest

from gated.lane import events as e
from gated.store.aside import SET_ASIDE_MAX
from gated.store.db import LaneDb
from gated.store.journal import Journal, JournalReader
from gated.store.outbox import Outbox, OutboxReader
from gated.store.sql import StoreCorrupt, StoreError
from gated.wire.codec import WireError, family
from gated.wire.facts import AlarmRaised, Holder, LaneChanged, TicketSettled, VerdictReached
from gated.wire.record import Head, Record, follow
from gated.wire.seal import public_of

HQ_PRIVATE = b"\x41" * 32
HQ_PUBLIC = public_of(HQ_PRIVATE)
KEY = bytes(range(32))
DAY = datetime(2025, 3, 1, 8, 0, tzinfo=UTC)
NOBODY = 65534

WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tests.test_store_faults import lane_life
lane_life(Path(sys.argv[1]), sys.argv[2])
"""


def lane_life(path: Path, boot: str) -> None:
    """A lane that does nothing but record; says on its output what is durable, after it is."""
    db = LaneDb(path)
    outbox = Outbox(db, "lane-1", boot, HQ_PUBLIC)
    journal = Journal(db, KEY, boot)
    print("open", db.next_ticket, *db.unsettled(), flush=True)
    with db.transaction():
        for ticket in db.unsettled():
            outbox.append(TicketSettled(ticket, "unresolved"), DAY)
    for ticket in range(db.next_ticket, db.next_ticket + 1_000_000):
        print("ticket", ticket, flush=True)
        for fact in (
            VerdictReached(ticket, "grant", "ok", "p1", "exit", "A", holder=Holder(surname="CHEN")),
            TicketSettled(ticket, "crossed", 1, "grant"),
        ):
            journal.append(e.Now(float(ticket), DAY), e.FlagsRead(ticket, 1, frozenset()), ())
            with db.transaction():
                record = outbox.append(fact, DAY)
                outbox.append(LaneChanged("x"), DAY)
                journal.flush()
            print("durable", type(fact).__name__, ticket, record.seq, flush=True)


def forked(life: Callable[[], None]) -> tuple[int, TextIO]:
    """A child that lives `life`, and what it prints. Forked, not started anew: a process in 5 ms instead of 300."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        sys.stdout = os.fdopen(1, "w")
        try:
            life()
        finally:
            os._exit(1)
    os.close(write)
    return pid, os.fdopen(read)


def test_nothing_that_was_durable_is_lost_in_many_kills(tmp_path: Path) -> None:
    """SIGKILL at random points of a writer's life; then every promise is held against what is on the disk."""
    path = tmp_path / "lane.db"
    dice = random.Random(2)
    promised: dict[tuple[str, int], int] = {}
    opened: set[int] = set()
    doubted: set[tuple[str, int]] = set()
    for life in range(60):
        pid, output = forked(lambda boot=f"boot-{life}": lane_life(path, boot))  # type: ignore[misc]
        first = output.readline().split()
        assert first[:1] == ["open"], first
        # each ticket left open was promised to be: its verdict is durable (or was being made so), its end is not
        for ticket in map(int, first[2:]):
            assert ("TicketSettled", ticket) not in promised
            assert ("VerdictReached", ticket) in promised.keys() | doubted
        assert all(t < int(first[1]) for t in opened)
        time.sleep(dice.uniform(0.0, 0.06))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with output:
            lines = [line.split() for line in output if line.endswith("\n")]
        tickets = [int(words[1]) for words in lines if words[0] == "ticket"]
        opened.update(tickets)
        if tickets:
            doubted |= {("VerdictReached", tickets[-1]), ("TicketSettled", tickets[-1])}
        promised.update({(w[1], int(w[2])): int(w[3]) for w in lines if w[0] == "durable"})
    assert len(promised) > 100
    db = LaneDb(path)
    db.check()
    assert db.next_ticket > max(opened)
    heads: dict[str, Head] = {}
    found: dict[tuple[str, int], int] = {}
    for queued in Outbox(db, "lane-1", "last", HQ_PUBLIC).pending({}, 10**6):
        record = Record.decode(queued.payload)
        heads[record.stream_id] = follow(heads.get(record.stream_id, Head.start("lane-1", record.stream_id)), record)
        if record.stream == "crossing":
            fact = record.fact(HQ_PRIVATE)
            assert (record.kind, fact.ticket) not in found, "recorded twice"
            found[record.kind, fact.ticket] = record.seq
    assert promised.items() <= found.items()
    verdicts = {t for kind, t in found if kind == "VerdictReached"}
    settled = {t for kind, t in found if kind == "TicketSettled"}
    assert verdicts - settled == set(db.unsettled())
    db.close()
    reader = JournalReader(path, family(vars(e), e.Event), {}, KEY)
    for boot in reader.boots():
        assert [entry.n for entry in reader.read(boot.boot)] == list(range(1, boot.last + 1))
    reader.close()


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "lane.db"
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(path), "boot-1"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline().startswith("open")
        with pytest.raises(StoreError) as second:
            LaneDb(path)
        assert second.value.why == "second_writer"
        assert str(child.pid) in str(second.value)
    finally:
        child.kill()
        child.communicate()
    LaneDb(path).close()


# -- no room -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a full disk needs a small tmpfs, and mounting one is not permitted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_the_verdict_and_keeps_what_was(small_disk: Path) -> None:
    somebody_else = small_disk / "messages.log"
    somebody_else.write_bytes(b"x" * (256 << 10))
    db = LaneDb(small_disk / "lane.db")
    outbox = Outbox(db, "lane-1", "boot-1", HQ_PUBLIC)
    durable = refused = 0
    while refused < 3 and durable < 5000:
        try:
            with db.transaction():
                outbox.append(TicketSettled(durable + 1, "crossed"), DAY)
            durable, refused = durable + 1, 0
        except StoreError as full:
            assert full.why == "disk_full"
            assert "free space" in str(full)
            refused += 1
    assert refused == 3
    assert durable > 20
    assert [q.seq for q in outbox.pending({}, 10**6)] == list(range(1, durable + 1))
    assert reopened(db) in ("", "disk_full")  # with luck the WAL found room; if not, it lies there until there is some
    somebody_else.unlink()
    again = LaneDb(small_disk / "lane.db")
    again.check()
    outbox = Outbox(again, "lane-1", "boot-2", HQ_PUBLIC)
    assert [q.seq for q in outbox.pending({}, 10**6)] == list(range(1, durable + 1))
    with again.transaction():
        assert outbox.append(TicketSettled(9999, "crossed"), DAY).seq == durable + 1
    again.close()


def reopened(db: LaneDb) -> str:
    """Closes and opens it again: why that failed, or nothing."""
    db.close()
    try:
        LaneDb(db.path).close()
    except StoreError as error:
        return error.why
    return ""


def test_no_room_even_for_a_new_database_is_told(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * (1 << 20))
    with pytest.raises(StoreError) as full:
        LaneDb(small_disk / "lane.db")
    assert full.value.why == "disk_full"
    (small_disk / "ballast").unlink()
    LaneDb(small_disk / "lane.db").close()


# -- no permission -------------------------------------------------------------------------------------------


def as_nobody(work: Callable[[], str]) -> str:
    """What `work` returns in a child of another user. Root may write anywhere: a test as root proves nothing."""
    if os.geteuid() != 0:
        pytest.skip("to become another user this test has to run as root")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            answer = work()
        except BaseException as error:  # noqa: BLE001 - the child must end here, whatever happened
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as answers:
        return answers.read()


@pytest.fixture
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that other users can walk to."""
    folder = tmp_path_factory.mktemp("open")
    for part in (folder, *folder.parents):
        if part.stat().st_uid == os.geteuid() and part != Path("/"):
            part.chmod(part.stat().st_mode | 0o011)
    return folder


def test_a_database_of_another_user_is_refused(open_folder: Path) -> None:
    path = open_folder / "lane.db"
    LaneDb(path).close()
    answer = as_nobody(lambda: str(LaneDb(path)))
    assert answer.startswith("StoreError: lane.db"), answer
    assert "read_only" in answer
    assert "permission" in answer


def test_a_database_that_may_be_read_but_not_written(open_folder: Path) -> None:
    path = open_folder / "lane.db"
    LaneDb(path).close()
    path.chmod(0o444)
    lock = path.with_name("lane.db.lock")
    lock.chmod(0o666)
    open_folder.chmod(0o755)
    answer = as_nobody(lambda: str(LaneDb(path)))
    assert answer.startswith("StoreError: lane.db: read_only"), answer


def test_files_are_for_the_lane_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        db = LaneDb(tmp_path / "lane.db")
        with db.transaction():
            Outbox(db, "lane-1", "b", HQ_PUBLIC).append(AlarmRaised("help"), DAY)
        names = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
        db.close()
    finally:
        os.umask(before)
    assert names == {"lane.db": 0o600, "lane.db-wal": 0o600, "lane.db-shm": 0o600, "lane.db.lock": 0o600}


def test_the_uplink_may_be_another_user_of_the_group(open_folder: Path) -> None:
    """Read while the lane writes: yes. Once it has closed, a reader who may not write the folder is told to wait."""
    path = open_folder / "lane.db"
    db = LaneDb(path, mode=0o644)  # "group" stands for everybody here: the child has no group of ours
    with db.transaction():
        Outbox(db, "lane-1", "b", HQ_PUBLIC).append(AlarmRaised("help"), DAY)
    open_folder.chmod(0o755)

    def read() -> str:
        return str([q.seq for q in OutboxReader(path).pending({}, 10)])

    assert as_nobody(read) == "[1]"
    db.close()
    assert as_nobody(read).startswith("StoreError: lane.db")


def test_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as missing:
        LaneDb(tmp_path / "nowhere" / "lane.db")
    assert missing.value.why == "cannot_open"
    assert "make it" in str(missing.value)


# -- damage --------------------------------------------------------------------------------------------------


def filled(path: Path, records: int = 200) -> None:
    db = LaneDb(path)
    outbox = Outbox(db, "lane-1", "boot-1", HQ_PUBLIC)
    with db.transaction():
        for ticket in range(1, records + 1):
            outbox.append(VerdictReached(ticket, "grant", "ok", "p", "exit", "A"), DAY)
    db.close()


def damage(path: Path, start: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(random.Random(start).randbytes(length))


@pytest.mark.parametrize("start", [0, 4096 + 8, 10 * 4096])
def test_a_damaged_database_is_put_aside_and_new_streams_begin(tmp_path: Path, start: int) -> None:
    path = tmp_path / "lane.db"
    filled(path)
    old = {s.stream_id for s in OutboxReader(path).spans()}
    damage(path, start, 6000)
    broken = path.read_bytes()
    with pytest.raises(StoreCorrupt) as corrupt:
        LaneDb(path)
    assert corrupt.value.why == "corrupt"
    assert path.read_bytes() == broken
    db = LaneDb.opened(path, DAY)
    assert db.new
    assert db.set_aside == tmp_path / "lane.db.corrupt-20250301T080000Z"
    assert db.set_aside.read_bytes() == broken
    outbox = Outbox(db, "lane-1", "boot-2", HQ_PUBLIC)
    assert old.isdisjoint(s.stream_id for s in outbox.spans())
    with db.transaction():
        assert outbox.append(AlarmRaised("unsettled"), DAY).seq == 1
    if start > 4096 + 8:  # the old ticket mark could still be read
        assert db.next_ticket > 200
    db.close()


def test_a_flipped_byte_is_found_at_open_or_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "lane.db"
    filled(path, 30)
    whole = path.read_bytes()
    dice = random.Random(5)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        data[dice.randrange(len(data))] ^= dice.randrange(1, 256)
        path.write_bytes(data)
        try:
            db = LaneDb(path)
        except StoreError:
            refused += 1
            continue
        outbox = Outbox(db, "lane-1", "b", HQ_PUBLIC)
        try:
            # what HQ would receive: whole records, of which it checks the chain, or our own words
            for queued in outbox.pending({}, 100):
                Record.decode(queued.payload)
            with db.transaction():
                outbox.append(AlarmRaised("help"), DAY)
        except (StoreError, WireError):
            refused += 1
        db.close()
    assert refused > 0


def test_a_text_file_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "lane.db"
    path.write_text("I am a text file\n" * 300)
    with pytest.raises(StoreCorrupt):
        LaneDb(path)


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lane.db"
    sqlite3.connect(path).execute("CREATE TABLE holidays (a)").connection.close()
    content = path.read_bytes()
    with pytest.raises(StoreError) as foreign:
        LaneDb.opened(path, DAY)
    assert foreign.value.why == "not_ours"
    assert path.read_bytes() == content


def test_a_database_of_a_later_edition_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lane.db"
    LaneDb(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreError) as newer:
        LaneDb.opened(path, DAY)
    assert newer.value.why == "too_new"


def test_damaged_files_do_not_pile_up_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "lane.db"
    for _ in range(SET_ASIDE_MAX):
        path.write_bytes(b"rubbish" * 1000)
        LaneDb.opened(path, DAY).close()
    path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(StoreError) as enough:
        LaneDb.opened(path, DAY)
    assert enough.value.why == "set_aside_full"
    assert path.exists()


def test_a_wal_left_by_a_deleted_database_is_not_replayed(tmp_path: Path) -> None:
    path = tmp_path / "lane.db"
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(path), "boot-1"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    select.select([child.stdout], [], [], 10)
    time.sleep(0.05)
    child.kill()
    child.communicate()
    assert path.with_name("lane.db-wal").exists()
    path.unlink()
    db = LaneDb(path)
    assert db.new
    assert Outbox(db, "lane-1", "b", HQ_PUBLIC).pending({}, 10) == ()
    db.check()
    db.close()


def test_a_head_that_does_not_fit_its_last_record_is_found_at_open(tmp_path: Path) -> None:
    """Large databases are not read in full at open; this much is checked in each."""
    path = tmp_path / "lane.db"
    for change in (
        "UPDATE streams SET head = zeroblob(32) WHERE stream = 'crossing'",
        "UPDATE streams SET seq = seq + 1 WHERE stream = 'crossing'",
        "DELETE FROM outbox WHERE seq = 30",
        "UPDATE outbox SET payload = cast(replace(cast(payload AS TEXT), 'grant', 'refer') AS BLOB) WHERE seq = 30",
        "DELETE FROM streams WHERE stream = 'alarm'",
    ):
        path.unlink(missing_ok=True)
        filled(path, 30)
        with sqlite3.connect(path) as connection:
            assert connection.execute(change).rowcount == 1
        connection.close()
        with pytest.raises(StoreCorrupt):
            LaneDb(path)
