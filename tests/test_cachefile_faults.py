"""What a disk can do to the cache's files: death at any point, no room, another user's hands.

The children are real processes: a kill is SIGKILL, a foreign user is another user id, a full disk is a small tmpfs.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from gated.store import cachefile, cachetable
from gated.store.cachefile import CacheFile, generations, path_of, remove
from gated.store.sql import ReadOnly, StoreError
from gated.wire.rows import PEOPLE
from tests.test_cachefile import LATER, apply, held, made, place, row, table

SYNC, LANE, STRANGER, GROUP = 64101, 64102, 64103, 64100
"""Users, and the group that the first two share."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return made(path_of(tmp_path, PEOPLE, 1), table())


# -- death at any point --------------------------------------------------------------------------------------


def forked(life: Callable[[IO[str]], None]) -> tuple[int, IO[str]]:
    """A child that lives `life`, and what it tells."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            life(os.fdopen(write, "w", buffering=1))
        finally:
            os._exit(1)
    os.close(write)
    return pid, os.fdopen(read)


def test_kill_in_the_middle_of_a_segment_leaves_old_or_new(path: Path) -> None:
    """SIGKILL at random points of a writer that does nothing but apply; each state shows in every row."""

    def life(say: IO[str]) -> None:
        with CacheFile(path) as file:
            file._sql.execute("PRAGMA cache_size=8")  # spilled into the WAL all the time
            say.write("open\n")
            while True:
                serial = file.note.serial + 1
                file.apply(sorted(table(serial).items()), serial, b"\x02" * 32, LATER, may_lift=True)
                say.write(f"{serial}\n")

    start = time.monotonic()
    with CacheFile(path) as file:
        apply(file, dict(table()))
    took_s = time.monotonic() - start
    dice = random.Random(3)
    promised, killed_inside = 101, 0
    for _ in range(40):
        pid, output = forked(life)
        with output:
            assert output.readline() == "open\n"
            time.sleep(dice.uniform(0.0, 6 * took_s))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            told = [int(line) for line in output if line.endswith("\n")]
        promised = max([promised, *told])
        with CacheFile(path) as file:
            serial = file.note.serial
            assert serial in (promised, promised + 1)
            assert held(path) == table(serial if serial > 101 else 0)
            killed_inside += serial == promised
        promised = serial
    assert promised > 120
    assert killed_inside


def test_kill_in_the_middle_of_a_build_leaves_all_or_nothing(tmp_path: Path) -> None:
    path = path_of(tmp_path, PEOPLE, 1)
    rows = table(0, 5000)

    def life(say: IO[str]) -> None:
        say.write("now\n")
        made(path, rows)

    start = time.monotonic()
    remove(made(path, rows))
    took_s = time.monotonic() - start
    dice = random.Random(3)
    whole = 0
    for _ in range(40):
        pid, output = forked(life)
        with output:
            output.readline()
            time.sleep(dice.uniform(0.0, 2 * took_s))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if generations(tmp_path, PEOPLE):
            assert held(path) == rows
            whole += 1
            remove(path)
    assert 0 < whole < 40
    assert held(made(path, rows)) == rows


# -- no room -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a full disk needs a small tmpfs, and mounting one is not permitted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_in_the_middle_of_a_segment_keeps_the_old_state(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cachefile, "CACHE_KIB", 64)
    monkeypatch.setattr(cachefile, "WAL_BYTES_KEPT", 1 << 16)
    path = made(path_of(small_disk, PEOPLE, 1), table())
    with CacheFile(path) as file:
        apply(file, {place(1): b"x"})
        note, before = file.note, held(path)
        with pytest.raises(StoreError) as full:
            apply(file, {place(number): row(number, 1) for number in range(4000)})
        assert full.value.why == "disk_full"
        assert "free space" in str(full.value)
        assert (file.note, held(path)) == (note, before)
        wal = path.with_name(path.name + "-wal")
        assert wal.stat().st_size <= 1 << 16, "what was not kept still takes the room"
        assert apply(file, {place(2): b"y"}) == 1
    with CacheFile(path) as file:
        assert file.note.serial == note.serial + 1


def test_a_full_disk_in_the_middle_of_a_build_leaves_nothing_behind(small_disk: Path) -> None:
    made(path_of(small_disk, PEOPLE, 1), table())
    with pytest.raises(StoreError) as full:
        made(path_of(small_disk, PEOPLE, 2), table(1, 4000))
    assert full.value.why == "disk_full"
    assert list(generations(small_disk, PEOPLE)) == [1]
    assert not list(small_disk.glob("*.part*"))
    assert held(path_of(small_disk, PEOPLE, 1)) == table()


# -- two users -----------------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store's folder as the units make it: the lane's, of a group that sync is in too, sticky."""
    if os.geteuid() != 0:
        pytest.skip("to become other users this test has to run as root")
    folder = tmp_path_factory.mktemp("shared")
    for part in folder.parents:
        if part.stat().st_uid == 0 and part != Path("/"):
            part.chmod(part.stat().st_mode | 0o011)
    os.chown(folder, LANE, GROUP)
    folder.chmod(0o1770)
    return folder


class User:
    """A process of another user that does what it is told, one work after the other."""

    def __init__(self, uid: int, group: int, groups: tuple[int, ...] = (GROUP,)) -> None:
        self._works: list[Callable[[], str]] = []
        self._uid, self._group, self._groups = uid, group, groups

    def does(self, *works: Callable[[], str]) -> "User":
        """Starts it; each `next` has it do one more of `works`."""
        ask_read, self._ask = os.pipe()
        answer_read, answer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._ask)
                os.umask(0o027)
                os.setgroups(self._groups)
                os.setgid(self._group)
                os.setuid(self._uid)
                for work in works:
                    if not os.read(ask_read, 1):
                        break
                    try:
                        said = work()
                    except Exception as error:  # noqa: BLE001  # the parent compares it
                        said = f"{type(error).__name__}: {error}"
                    os.write(answer, said.encode() + b"\n")
                os.read(ask_read, 1)
            finally:
                os._exit(0)
        os.close(ask_read)
        os.close(answer)
        self._answers = os.fdopen(answer_read)
        return self

    def next(self) -> str:
        os.write(self._ask, b".")
        return self._answers.readline().rstrip("\n")

    def end(self) -> None:
        os.close(self._ask)
        self._answers.close()
        os.waitpid(self._pid, 0)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self.end()


class Hands:
    """What either user does to one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def build(self) -> str:
        made(self.path, table())
        return "built"

    def open(self) -> str:
        self.file = CacheFile(self.path)
        return "open"

    def apply(self) -> str:
        apply(self.file, dict(table(self.file.note.serial)))
        return str(self.file.note.serial)

    def close(self) -> str:
        self.file.close()
        return "closed"

    def look(self) -> str:
        self.reader = ReadOnly(self.path, lambda connection: cachetable.check_header(self.path, connection))
        return self.read()

    def read(self) -> str:
        with self.reader.connection() as connection:
            note = cachefile.read_note(self.path, connection)
            assert connection.execute("SELECT count(*) FROM rows").fetchone()[0] == note.rows
            return str(note.serial)

    def look_away(self) -> str:
        self.reader.close()
        return "closed"

    def sync(self, *names: str) -> User:
        return User(SYNC, SYNC).does(*(getattr(self, name) for name in names))

    def lane(self, *names: str) -> User:
        return User(LANE, GROUP, (SYNC,)).does(*(getattr(self, name) for name in names))


def test_the_lane_reads_what_sync_has_built_and_closed_and_sync_goes_on(shared: Path) -> None:
    """The trap of WAL: nobody has the file open, so the reader makes -wal and -shm, and the writer has to use them."""
    path = path_of(shared, PEOPLE, 1)
    hands = Hands(path)
    sync = hands.sync("build")
    assert sync.next() == "built"
    sync.end()
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (SYNC, SYNC, 0o660)
    lane = hands.lane("look", "read", "read")
    assert lane.next() == "100"
    assert path.with_name(path.name + "-shm").stat().st_uid == LANE
    sync = hands.sync("open", "apply", "apply", "close")
    assert [sync.next(), sync.next()] == ["open", "101"]
    assert lane.next() == "101"
    assert [sync.next(), sync.next()] == ["102", "closed"]
    assert lane.next() == "102"
    sync.end()
    lane.end()


def test_the_uplink_can_neither_read_nor_write_a_cache_file(shared: Path) -> None:
    """It is in the lane's group, for the outbox and for the folder; not in sync's."""
    hands = Hands(path_of(shared, PEOPLE, 1))
    sync = hands.sync("build")
    assert sync.next() == "built"
    sync.end()
    uplink = User(SYNC + 1, SYNC + 1).does(hands.look, hands.open, lambda: str(hands.path.write_bytes(b"mine")))
    for _ in range(3):
        said = uplink.next()
        assert "read_only" in said or "cannot_open" in said or "PermissionError" in said, said
    uplink.end()
    assert held(hands.path) == table()


def test_sync_takes_up_what_a_lane_left_that_was_killed(shared: Path) -> None:
    hands = Hands(path_of(shared, PEOPLE, 1))
    sync = hands.sync("build")
    assert sync.next() == "built"
    sync.end()
    lane = hands.lane("look")
    assert lane.next() == "100"
    lane.kill()
    sync = hands.sync("open", "apply", "close")
    assert [sync.next(), sync.next(), sync.next()] == ["open", "101", "closed"]
    sync.end()
    lane = hands.lane("look", "look_away")
    assert [lane.next(), lane.next()] == ["101", "closed"]
    lane.end()
    sync = hands.sync("open", "apply")
    assert [sync.next(), sync.next()] == ["open", "102"]
    sync.end()


def test_the_lane_reads_what_a_killed_sync_left(shared: Path) -> None:
    hands = Hands(path_of(shared, PEOPLE, 1))
    sync = hands.sync("build", "open", "apply")
    assert [sync.next(), sync.next(), sync.next()] == ["built", "open", "101"]
    sync.kill()
    lane = hands.lane("look", "read")
    assert lane.next() == "101"
    sync = hands.sync("open", "apply", "close")
    assert [sync.next(), sync.next(), sync.next()] == ["open", "102", "closed"]
    assert lane.next() == "102"
    sync.end()
    lane.end()


def test_a_stranger_reads_nothing(shared: Path) -> None:
    hands = Hands(path_of(shared, PEOPLE, 1))
    sync = hands.sync("build")
    assert sync.next() == "built"
    sync.end()
    shared.chmod(0o777)
    stranger = User(STRANGER, STRANGER, ()).does(hands.look)
    assert stranger.next().startswith("StoreError: cache-people-1.db: ")
    stranger.end()
