"""Must show 8: what can go wrong with a lane's data from outside. It is told by its name, with the file and what to do;
what is here goes on serving passengers, of an age that the policy judges; and once the cause is gone it heals alone.

A real HQ, served over HTTP; the real sync; the lane's own look-up, which asks the files all the while."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gated.daemon.lookup import LookUp
from gated.hq import epochs
from gated.hq.published import PublisherState
from gated.hq.repository import Repository
from gated.lane import commands as cmd
from gated.lane.events import DeviceLost, DeviceReady, Event, LookUpFailed, RecordFound
from gated.lane.freshness import Ages, Freshness, of_stand
from gated.store.cachefile import audited, generations
from gated.sync import spool
from gated.sync.fetch import Fetcher, Server
from gated.sync.refused import SyncRefused, Why
from gated.sync.rounds import Sync, Trouble
from gated.sync.trust import Trust
from gated.wire import bundle
from gated.wire.bundle import Head
from gated.wire.codec import encode
from gated.wire.rows import CONTROL, PARTITIONS, PEOPLE
from gated.wire.seal import public_of
from tests.hw_sim import stages, victim, virtual
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.simlane import Inline
from tests.hw_sim.stages import BOTH, LANE_KEY, MODEL, NAME, Stage, Stages, number_of
from tests.hw_sim.website import Website
from tests.play import DOCUMENT, RULES

AGES = dict.fromkeys(PARTITIONS, Ages(3600, 86400, 7 * 86400))
YEARS = timedelta(days=5 * 365)
TOLD = ("cache cannot be used", "cache generation passed over")
"""How the lane's log begins where the look-up cannot use a file."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return stages.made(tmp_path_factory.mktemp("hq"), 400)


@pytest.fixture
def hq(whole: Stages, tmp_path: Path) -> Stages:
    """HQ's life once more, of which a test may change what it likes: HQ's files are never changed in place."""
    folder = tmp_path / "hq"
    shutil.copytree(whole.folder, folder, copy_function=os.link)
    (folder / "hq" / "publish.db").unlink()
    shutil.copy(whole.folder / "hq" / "publish.db", folder / "hq" / "publish.db")
    return replace(whole, folder=folder)


@dataclass
class Lane:
    """Sync and look-up of one lane. `off`: by how much its clock is wrong."""

    folder: Path
    hq: Stages
    site: Website
    stage: Stage
    key: bytes = LANE_KEY
    off: timedelta = timedelta()
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sync = self.begin()
        self.asked = 0
        self.look_up = self.opened()

    def now(self) -> datetime:
        return victim.utc() + self.off

    def begin(self) -> Sync:
        fetcher = Fetcher(Server(f"{self.site.url}/now", connect_s_max=5.0, read_s_max=5.0))
        trust = Trust(self.folder / "sync" / "trust", self.hq.root, fetcher, self.now)
        return Sync(self.folder, NAME, trust, fetcher, self.now)

    def restart(self) -> None:
        """The sync, as the service manager does it."""
        self.sync.close()
        self.sync = self.begin()

    def goes_to(self, stage: str) -> None:
        """HQ comes to another stage, and the lane does not know it yet."""
        self.stage = self.hq.named(stage)
        now = self.hq.folder / "now"
        now.unlink(missing_ok=True)
        now.symlink_to(self.stage.path)

    @property
    def repository(self) -> Repository:
        """HQ's, as it stands now."""
        return Repository(self.hq.folder / self.stage.path)

    def opened(self) -> LookUp:
        return LookUp(
            self.folder, self.key, NAME, MODEL, Inline(RecordedFaces(1)), self.events.append, rules=lambda: RULES
        )

    def refused(self, why: Why, name: str = "") -> Trouble:
        """A round in which HQ's or the lane's own trouble is called so, with what to do."""
        assert not self.sync.once()
        assert set(self.sync.trouble) >= {name}, self.sync.trouble
        trouble = self.sync.trouble[name]
        assert trouble.why is why, trouble
        assert trouble.what and len(trouble.advice) > 20
        return trouble

    # -- what the lane meets

    async def looked_up(self) -> Event:
        """Somebody who is enrolled shows their passport."""
        self.asked += 1
        self.events.clear()
        document = replace(DOCUMENT, number=number_of(3))
        self.look_up.look_up(cmd.LookUp(self.asked, 1, document), self.now())
        await asyncio.sleep(0.2)
        (answer,) = [event for event in self.events if not isinstance(event, DeviceReady | DeviceLost)]
        self.look_up.forget(self.asked)
        return answer

    async def serves(self, people: str, control: str = "") -> Freshness:
        """They are found as HQ had them at these stages; how old the policy calls that by the lane's clock."""
        answer = await self.looked_up()
        assert isinstance(answer, RecordFound), answer
        assert answer.traveller.usable_from is not None
        assert answer.cache is not None
        expected = (self.hq.named(people).heads[PEOPLE][1], self.hq.named(control or people).heads[CONTROL][1])
        assert (answer.cache.people_serial, answer.cache.control_serial) == expected
        return of_stand(AGES, answer.cache, self.now())

    async def heals(self) -> None:
        """One round and everything is as HQ has it, for the sync and for the lane."""
        assert self.sync.once(), self.sync.trouble
        assert self.sync.trouble == {}
        for partition in PARTITIONS:
            note, _ = audited(self.newest(partition))
            assert (note.epoch, note.serial) == self.stage.heads[partition]
        await asyncio.sleep(3.0)
        assert await self.serves(self.stage.name) is Freshness.FRESH

    def newest(self, partition: str = PEOPLE) -> Path:
        return max(generations(self.folder, partition).items())[1]

    def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            running = asyncio.create_task(self.look_up.run())
            await asyncio.sleep(1.0)
            await scenario()
            assert not running.done()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

        try:
            with capture_logs() as self.logs:
                virtual.run(main())
        finally:
            self.look_up.close()
            self.sync.close()


@pytest.fixture
def site(hq: Stages) -> Iterator[Website]:
    with Website(hq.folder) as site:
        yield site


def come_to(folder: Path, hq: Stages, site: Website, *names: str) -> Lane:
    """A lane that was told each of these stages."""
    folder.mkdir(exist_ok=True)
    lane = Lane(folder, hq, site, hq.named(names[0]))
    for name in dict.fromkeys(names):
        lane.goes_to(name)
        assert lane.sync.once(), lane.sync.trouble
    return lane


@pytest.fixture
def lane(hq: Stages, site: Website, tmp_path: Path) -> Lane:
    """One that has come as far as the stage "day"."""
    return come_to(tmp_path / "store", hq, site, "first", "day")


# -- a damaged database ------------------------------------------------------------------------------------------------


def flipped(path: Path) -> None:
    """Bytes of pages that hold rows, in place: the first three are the head, what the file says of itself, the root."""
    with path.open("r+b") as file:
        page = int.from_bytes(file.read(18)[16:18], "big")
        for start in range(3 * page, path.stat().st_size, page):
            file.seek(start)
            file.write(b"\xff" * 8)
            file.seek(start + page // 2)
            file.write(os.urandom(64))


def headless(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(100))


def shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("damage", [flipped, headless, shorter])
def test_a_damaged_database_is_named_the_one_before_serves_and_a_new_one_is_fetched(
    lane: Lane, damage: Callable[[Path], None], partition: str
) -> None:
    async def scenario() -> None:
        assert await lane.serves("day") is Freshness.FRESH
        lane.goes_to("epoch")
        await lane.heals()
        damaged = lane.newest(partition)
        before = {PEOPLE: "epoch", CONTROL: "epoch"} | {partition: "day"}
        damage(damaged)
        lane.look_up._close()  # what SQLite holds in memory would serve for a while yet
        first = await lane.looked_up()
        assert isinstance(first, RecordFound) or (isinstance(first, LookUpFailed) and first.why == "corrupt")
        told = [log["what"] for log in lane.logs if log["event"] in TOLD]
        assert any(damaged.name in what and ("damaged" in what or "fetch it again" in what) for what in told), told
        assert await lane.serves(before[PEOPLE], before[CONTROL]) is Freshness.FRESH
        lane.off += timedelta(days=2)
        assert await lane.serves(before[PEOPLE], before[CONTROL]) is Freshness.STALE, "and nobody calls it current"
        lane.off -= timedelta(days=2)
        lane.restart()
        assert lane.sync.refresh(), lane.sync.trouble
        if damage is flipped:  # a look at the head of the file does not show it: the comparison at night does
            with pytest.raises(SyncRefused) as found:
                lane.sync.audit(partition, repair=True)
            assert found.value.why is Why.STORE and damaged.name in str(found.value)
        await lane.heals()
        assert lane.newest(partition).name == f"cache-{partition}-3.db"
        assert (lane.folder / f"{damaged.name}.bad").exists(), "kept for a person to look at"

    lane.play(scenario)
    assert any(log["event"] == "cache set aside" and log["log_level"] == "error" for log in lane.logs)


def test_damage_that_the_next_segment_meets_is_named_and_a_new_generation_is_fetched(
    hq: Stages, site: Website, tmp_path: Path
) -> None:
    """The sync was not started anew, and there is no generation before this one."""
    lane = come_to(tmp_path / "store", hq, site, "first")

    async def scenario() -> None:
        assert await lane.serves("first") is Freshness.FRESH
        flipped(lane.newest())
        lane.goes_to("segments")
        trouble = lane.refused(Why.STORE, PEOPLE)
        assert trouble.what == "cache-people-1.db" and "damaged" in trouble.advice
        answer = await lane.looked_up()
        assert isinstance(answer, LookUpFailed) and answer.why == "no_cache"
        await lane.heals()
        assert lane.newest().name == "cache-people-2.db"

    lane.play(scenario)


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partition", PARTITIONS)
def test_where_hq_wraps_no_key_for_the_lane_the_old_epoch_serves(lane: Lane, partition: str) -> None:
    async def scenario() -> None:
        lane.goes_to("epoch")
        key = lane.hq.folder / lane.stage.path / bundle.key_path(partition, 2, NAME)
        kept = key.read_bytes()
        key.unlink()
        trouble = lane.refused(Why.NO_KEY, partition)
        assert trouble.what == bundle.key_path(partition, 2, NAME)
        assert "gated cache key" in trouble.advice and "gated-hq lane add" in trouble.advice and NAME in trouble.advice
        other = "epoch"
        assert await lane.serves(*(("day", other) if partition == PEOPLE else (other, "day"))) is Freshness.FRESH
        assert list(generations(lane.folder, partition)) == [1]
        key.write_bytes(kept)
        await lane.heals()

    lane.play(scenario)


def test_a_lane_with_another_key_is_told_so_and_serves_once_hq_has_wrapped_for_it(lane: Lane) -> None:
    """The key was lost with the TPM, and the technician makes another."""

    async def scenario() -> None:
        lane.goes_to("another epoch")
        await lane.heals()
        lane.key = bytes(range(1, 33))
        lane.look_up._key = lane.key
        lane.look_up._close()
        answer = await lane.looked_up()
        assert isinstance(answer, LookUpFailed) and answer.why == "wrong_key"
        told = next(log for log in lane.logs if log["event"] == "cache cannot be used")
        assert lane.newest().name.rpartition("-")[0] in told["what"] and "gated cache key" in told["what"]
        lane.restart()
        assert lane.sync.once(), "for the sync nothing is wrong: it opens nothing"
        state = PublisherState(lane.hq.folder / "hq" / "publish.db")
        epochs.add_lane(
            state, lane.hq.folder / "hq" / "keys", lane.hq.folder / lane.stage.path, NAME, public_of(lane.key)
        )
        state.close()
        lane.restart()
        await lane.heals()

    lane.play(scenario)


# -- another edition ---------------------------------------------------------------------------------------------------


def test_a_head_of_another_edition_is_named_and_the_old_data_serve(lane: Lane) -> None:
    async def scenario() -> None:
        lane.goes_to("epoch")
        path = bundle.target_path(PEOPLE, "head")
        data = lane.repository.target(path)
        assert data is not None
        head: Head = bundle.load(Head, data)
        lane.repository.put({path: encode(replace(head, schema=head.schema + 1))}, BOTH, victim.utc())
        trouble = lane.refused(Why.WRONG_SCHEMA)
        assert trouble.what == path and "edition" in trouble.advice
        assert await lane.serves("day") is Freshness.FRESH
        lane.repository.put({path: encode(replace(head, built=victim.utc()))}, BOTH, victim.utc())
        await lane.heals()

    lane.play(scenario)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_file_of_another_edition_is_not_read_the_one_before_serves_and_a_new_one_is_fetched(
    lane: Lane, partition: str
) -> None:
    async def scenario() -> None:
        assert await lane.serves("day") is Freshness.FRESH
        lane.goes_to("epoch")
        await lane.heals()
        other = lane.newest(partition)
        lane.sync.close()
        lane.look_up._close()  # with what SQLite holds in memory
        with closing(sqlite3.connect(other)) as sql:
            sql.execute("PRAGMA user_version = 99")
        assert await lane.serves(*(("day", "epoch") if partition == PEOPLE else ("epoch", "day"))) is Freshness.FRESH
        lane.restart()
        await lane.heals()
        assert lane.newest(partition).name == f"cache-{partition}-3.db"

    lane.play(scenario)
    (passed,) = [log for log in lane.logs if log["event"] == "cache generation passed over"]
    assert f"cache-{partition}-2.db" in passed["what"] and "edition 99" in passed["what"]
    (told,) = [log for log in lane.logs if log["event"] == "cache set aside"]
    assert (told["file"], told["why"]) == (f"cache-{partition}-2.db", "wrong_edition")


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB for the lane's store."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a full disk needs a small tmpfs, and mounting one is not permitted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def filled(folder: Path, left: int) -> Path:
    """So many bytes are free from now on."""
    filler = folder / "filler"
    free = shutil.disk_usage(folder).free
    with filler.open("wb") as file:
        for _ in range((free - left) >> 12):
            file.write(bytes(4096))
    return filler


def test_a_disk_that_has_no_room_is_told_before_anything_is_fetched(
    small_disk: Path, hq: Stages, site: Website
) -> None:
    lane = Lane(small_disk, hq, site, hq.named("first"))
    lane.goes_to("first")

    async def scenario() -> None:
        trouble = lane.refused(Why.DISK_FULL, PEOPLE)
        assert "MiB more are needed" in trouble.advice and str(small_disk) in trouble.advice
        assert not list(small_disk.glob("sync/spool/*.chunk*")), "records must never lack the room"

    lane.play(scenario)


NAMED = {
    "proving": ("trust", "small"),
    "fetching": ("data.people.", "spool"),
    "building": ("people: generation 2", "cache-people-2.db"),
    "applying": ("data/people/1/segments/", "cache-people-1.db"),
}
"""Which file it is about."""


@pytest.mark.parametrize(
    ("from_", "to", "left_kib", "where"),
    [
        ("day", "epoch", 60, "fetching"),
        ("day", "epoch", 420, "building"),
        ("first", "segments", 100, "fetching"),
        ("first", "segments", 400, "applying"),
        ("first", "segments", 16, "proving"),
    ],
)
def test_a_disk_that_is_full_in_the_middle_keeps_the_old_state_and_goes_on_when_there_is_room(
    small_disk: Path,
    hq: Stages,
    site: Website,
    monkeypatch: pytest.MonkeyPatch,
    from_: str,
    to: str,
    left_kib: int,
    where: str,
) -> None:
    """Another program fills it after the room was looked at."""
    monkeypatch.setattr(spool, "SPARE_BYTES", -(1 << 40))
    lane = come_to(small_disk, hq, site, "first", from_)

    async def scenario() -> None:
        assert await lane.serves(from_) is Freshness.FRESH
        lane.goes_to(to)
        filler = filled(small_disk, left_kib << 10)
        for _ in range(2):
            trouble = lane.refused(Why.DISK_FULL, "" if where == "proving" else PEOPLE)
            assert "free space" in trouble.advice
            assert all(each in trouble.what + trouble.advice for each in NAMED[where])
            assert await lane.serves(from_) is Freshness.FRESH
            assert [view.wrong for view in victim.seen(small_disk, hq)] == ["", ""]
        filler.unlink()
        await lane.heals()

    lane.play(scenario)


# -- a clock that is wrong by years ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("off", "why", "says"), [(-YEARS, Why.CLOCK, "NTP"), (YEARS, Why.FROZEN, "clock is ahead")])
def test_a_clock_that_is_wrong_by_years_is_told_nothing_is_taken_and_nothing_is_lost(
    lane: Lane, off: timedelta, why: Why, says: str
) -> None:
    async def scenario() -> None:
        assert await lane.serves("day") is Freshness.FRESH
        lane.goes_to("epoch")
        lane.off = off
        for _ in range(2):
            assert says in lane.refused(why).advice
        assert await lane.serves("day") is Freshness.EXPIRED, "no age can be told: the policy decides, and it alarms"
        lane.restart()
        lane.refused(why)
        lane.off = timedelta()
        assert await lane.serves("day") is Freshness.FRESH
        await lane.heals()

    lane.play(scenario)
