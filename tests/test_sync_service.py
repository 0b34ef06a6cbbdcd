"""The sync as a process among processes: start, announcements, nights, kills, floods, bad configuration."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gated import control
from gated.control import Client, SyncTold, Unavailable
from gated.control_peer import Peer, Right
from gated.store.cachefile import generations
from gated.sync.control import REQUESTS, Announced, SyncNow, SyncStatus, Verify
from gated.sync.refused import Why
from gated.sync.service import Asks, Pace, Service
from gated.wire import bundle
from gated.wire.rows import CONTROL, PEOPLE
from tests.hw_sim.website import Drip, Stall, Status, Website
from tests.sync_rig import LANE, SITE, Clock, Hq, LaneRig, announcement, place, row, rows_of
from tests.test_sync_apply import spoil_row
from tests.uplink_rig import ROOT, ControlDouble, eventually


class Process:
    """HQ's server, the sync as systemd starts it, and a lane that is told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.store.mkdir()
        self.clock = Clock(datetime.now(UTC))
        self.hq = Hq(folder / "hq", self.clock)
        self.hq.add(PEOPLE, *range(300))
        self.hq.add(CONTROL, *range(1000, 1020))
        self.hq.sign()
        self.site = Website(self.hq.folder)
        self.site.__enter__()
        (folder / "root.json").write_bytes(self.hq.repository.root)
        self.lane = ControlDouble(folder / "control.sock", bytes(32))
        self.client = Client(folder / "sync.sock", 20.0)
        self.options: dict[str, Any] = {"interval_s": 0.3, "retry_s_max": 0.5, "read_s_max": 5.0}
        self.toml = folder / "lane.toml"
        self.log = folder / "sync.log"
        self.child: subprocess.Popen[bytes] | None = None
        self.configure()

    def configure(self) -> None:
        options = "".join(f"{name} = {value}\n" for name, value in self.options.items())
        self.toml.write_text(
            f'[lane]\nid = "{LANE}"\nsite = "{SITE}"\n[store]\ndir = "store"\n'
            '[keys]\ncache = "c"\njournal = "j"\nhq_public = "h"\norders_public = "o"\nreceipts_public = "o"\n'
            '[uplink]\nhost = "x"\n'
            f'[control]\nsocket = "{self.folder}/control.sock"\n'
            f'[sync]\nurl = "{self.site.url}"\nroot = "root.json"\nsocket = "{self.folder}/sync.sock"\n{options}'
        )

    def start(self, **environment: str) -> None:
        command = [sys.executable, "-m", "gated.sync", "--config", str(self.toml)]
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.child is not None
        child, self.child = self.child, None
        child.send_signal(number)
        return child.wait(20)

    def metadata(self) -> str:
        """What is wrong with the metadata; also where nobody answers yet."""
        try:
            return str(self.client.ask(SyncStatus())["metadata"]["trouble"].get("why", ""))
        except Unavailable:
            return ""

    def rows(self, name: str) -> dict[bytes, bytes]:
        found = generations(self.store, name)
        return rows_of(found[max(found)]) if found else {}

    def current(self) -> bool:
        return all(self.rows(name) == part.rows for name, part in self.hq.parts.items())

    def told(self) -> list[tuple[str, str]]:
        return [(each.partition, each.why) for each in list(self.lane.asked) if isinstance(each, SyncTold)]

    def close(self) -> None:
        if self.child is not None:
            self.end(signal.SIGKILL)
        self.lane.close()
        self.site.__exit__()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    made.close()


def test_ready_watchdog_current_and_a_clean_end(process: Process) -> None:
    address = process.folder / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(10)
        process.start(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="600000")
        assert manager.recv(500).startswith(b"READY=1")
        strokes = 0
        while strokes < 3:
            strokes += manager.recv(500) == b"WATCHDOG=1"
        eventually(process.current, 20)
    eventually(lambda: {(PEOPLE, ""), (CONTROL, "")} <= set(process.told()))
    assert process.end() == 0
    assert not (process.folder / "sync.sock").exists()


def test_an_announced_ban_is_applied_while_a_snapshot_comes_byte_by_byte(process: Process) -> None:
    process.hq.snap(PEOPLE)
    process.hq.sign(base=True)
    process.site.fault("*/0.chunk", Drip(pause_s=0.5))
    process.options["read_s_max"] = 30.0
    process.configure()
    process.start()
    eventually(lambda: process.rows(CONTROL) == process.hq.parts[CONTROL].rows, 20)
    eventually(lambda: (CONTROL, "") in process.told())
    told = len(process.told())
    data = process.hq.add(CONTROL, 2000)
    assert process.client.ask(Announced.of(announcement(process.hq.tip(CONTROL, data)))) == {"asked": False}
    assert process.rows(CONTROL)[place(2000)] == row(2000)
    assert process.told()[told:] == [(CONTROL, "")]
    assert process.rows(PEOPLE) == {}, "the snapshot is still under way"
    process.site.well()
    process.end(signal.SIGKILL)
    process.start()
    eventually(process.current, 20)


def test_a_gap_in_announcements_asks_hq_at_once(process: Process) -> None:
    process.options["interval_s"] = 3600.0
    process.configure()
    process.start()
    eventually(process.current, 20)
    process.hq.add(CONTROL, 2000)
    data = process.hq.add(CONTROL, 2001)
    process.hq.sign()
    assert process.client.ask(Announced.of(announcement(process.hq.tip(CONTROL, data)))) == {"asked": True}
    eventually(process.current)
    assert process.client.ask(SyncStatus())["refused"] == {}


def test_a_flood_of_forged_announcements_neither_stops_nor_makes_many_questions(process: Process) -> None:
    process.options["interval_s"] = 3600.0
    process.configure()
    process.start()
    eventually(process.current, 20)
    asked = len(process.site.asked)
    tip = process.hq.tip(CONTROL, process.hq.add(CONTROL, 2000))
    forged = replace(tip, signature=bytes(64))
    for number in range(60):
        process.client.ask(Announced.of(announcement(forged, version=10_000 + number)))
        process.client.ask(Announced.of(b"garbage"))
    status = process.client.ask(SyncStatus())
    assert status["refused"]["wrong_signature"] == 60 and status["refused"]["malformed"] == 60
    assert sum(each.path.endswith("timestamp.json") for each in process.site.asked[asked:]) <= 5
    process.client.ask(Announced.of(announcement(tip)))
    assert process.rows(CONTROL) == process.hq.parts[CONTROL].rows


def test_killed_anywhere_in_a_snapshot_it_goes_on_and_catches_up(process: Process) -> None:
    process.hq.add(PEOPLE, *range(1000, 3000))
    process.hq.snap(PEOPLE, chunk_rows=200)
    process.hq.add(PEOPLE, 5)
    process.hq.sign(base=True)
    for number in (1, 4, 8):
        process.site.fault(f"*/{number}.chunk", Stall(300))
        process.start()
        wanted = f"/{number}.chunk"
        eventually(lambda end=wanted: any(each.path.endswith(end) for each in process.site.asked), 20)  # type: ignore[misc]
        process.end(signal.SIGKILL)
        assert generations(process.store, PEOPLE) == {}
        process.site.well()
    process.start()
    eventually(process.current, 20)
    chunks = [each for each in process.site.asked if each.path.endswith("/0.chunk")]
    assert len(chunks) == 1, "what was fetched was not fetched again"


def test_without_a_server_it_waits_and_catches_up_by_itself(process: Process) -> None:
    process.site.fault("*", Status(503))
    process.start()
    eventually(lambda: process.metadata() == "unreachable", 20)
    assert process.told() == []
    process.site.well()
    eventually(process.current, 20)


def test_what_a_technician_asks_for(process: Process) -> None:
    process.options["interval_s"] = 3600.0
    process.configure()
    process.start()
    eventually(process.current, 20)
    process.hq.add(PEOPLE, 7, edition=1)
    process.hq.table(PEOPLE)
    process.hq.sign()
    *_, last = process.client.stream(SyncNow())
    assert last["end"] and last["partitions"][PEOPLE]["serial"] == 2 and process.current()
    *_, last = process.client.stream(Verify(repair=False))
    people, flags = last["audits"]
    assert last["end"] and people["compared"] == bundle.BUCKETS and people["differing"] == []
    assert flags["compared"] == 0 and flags["note"] == "HQ has made no table yet"
    spoil_row(generations(process.store, PEOPLE)[1], 9, row(9, 9))
    *_, last = process.client.stream(Verify(repair=True))
    assert last["audits"][0]["differing"] == [bundle.bucket_of(place(9))] and process.current()


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (("[sync]", "[none]"), 78, "there is no section [sync]"),
        (('root = "root.json"', 'root = "none.json"'), 78, "root: cannot be read"),
        (('root = "root.json"', 'root = "lane.toml"'), 78, "root"),
        (("interval_s", "intervall_s"), 78, "did you mean 'interval_s'"),
    ],
)
def test_a_configuration_that_cannot_be_used(process: Process, change: tuple[str, str], code: int, says: str) -> None:
    process.toml.write_text(process.toml.read_text().replace(*change, 1))
    command = [sys.executable, "-m", "gated.sync", "--config", str(process.toml)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code and says in done.stderr, done.stderr


def test_a_second_sync_is_refused(process: Process) -> None:
    process.start()
    eventually(process.current, 20)
    command = [sys.executable, "-m", "gated.sync", "--config", str(process.toml)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1 and "second_writer" in done.stderr


def test_no_log_names_a_row_or_a_key(process: Process) -> None:
    process.start()
    eventually(process.current, 20)
    process.end()
    said = process.log.read_bytes()
    assert b"cache generation" in said
    assert not any(place(number).hex().encode() in said for number in range(300)) and b"people key" not in said


# -- in this process, where the clock is ours ------------------------------------------------------------------------


def in_loop(lane: LaneRig, pace: Pace, work: Callable[[Service], Awaitable[None]]) -> None:
    """Run a service without its socket for as long as `work` lasts."""

    async def main() -> None:
        service = Service(lane.sync, pace, lane.clock)
        tasks = [asyncio.create_task(each()) for each in (service._rounds, service._nights)]
        try:
            await work(service)
        finally:
            lane.sync.stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


async def until(truth: Callable[[], bool]) -> None:
    for _ in range(600):
        if truth():
            return
        await asyncio.sleep(0.03)
    raise AssertionError("it did not come true")


@pytest.fixture
def lane(process: Process, tmp_path: Path) -> Iterator[LaneRig]:
    rig = LaneRig(tmp_path / "lane", process.site.url, process.hq.repository.root, process.clock)
    yield rig
    rig.sync.close()


def test_at_night_the_whole_is_compared_and_put_right(process: Process, lane: LaneRig) -> None:
    hq = process.hq
    process.clock.now = process.clock.now.replace(hour=2, minute=50) + timedelta(days=1)
    hq.table(PEOPLE)
    hq.table(CONTROL)
    hq.sign()
    lane.sync.once()
    spoil_row(lane.newest(CONTROL), 1003, None)

    async def night(_: Service) -> None:
        await asyncio.sleep(0.3)
        assert lane.why(CONTROL) is None and place(1003) not in lane.rows(CONTROL)
        process.clock.on(minutes=20)
        await until(lambda: lane.rows(CONTROL) == hq.parts[CONTROL].rows)

    in_loop(lane, Pace(interval_s=0.1, audit_hour=3), night)
    assert (CONTROL, "differs") in lane.told and lane.told[-1] == (CONTROL, "")


def test_refusals_are_tried_again_later_and_later(process: Process, lane: LaneRig) -> None:
    process.site.fault("metadata/timestamp.json", Status(500))

    async def down(_: Service) -> None:
        await until(lambda: lane.sync.refused[Why.UNREACHABLE] >= 3)
        process.site.well()
        await until(lambda: lane.serial(CONTROL) == 1)

    in_loop(lane, Pace(interval_s=60, retry_s_min=0.05, retry_s_max=0.2), down)
    assert lane.same_as(process.hq)


def test_months_without_hq_and_back(process: Process, lane: LaneRig) -> None:
    """The clock that TUF reads is the lane's: HQ's old signatures are refused as frozen, and new ones are taken."""
    lane.sync.once()
    process.clock.on(days=30)
    assert not lane.sync.once() and lane.sync.trouble[""].why is Why.FROZEN
    assert lane.told[-2:] == [(PEOPLE, "frozen"), (CONTROL, "frozen")]
    process.hq.add(PEOPLE, 1, edition=2)
    process.hq.sign(base=True)
    assert lane.sync.once() and lane.same_as(process.hq)
    assert lane.told[-2:] == [(PEOPLE, ""), (CONTROL, "")]


@pytest.mark.parametrize("years", [-3, 5])
def test_a_clock_that_is_wrong_by_years_is_named_and_what_is_here_stays(
    process: Process, lane: LaneRig, years: int
) -> None:
    lane.sync.once()
    before, now = lane.rows(PEOPLE), process.clock.now
    process.hq.add(PEOPLE, 1, edition=2)
    process.hq.sign()
    process.clock.now = now + timedelta(days=365 * years)
    assert not lane.sync.once()
    assert lane.sync.trouble[""].why in ((Why.CLOCK,) if years < 0 else (Why.FROZEN, Why.CLOCK))
    assert lane.rows(PEOPLE) == before
    process.clock.now = now
    assert lane.sync.once() and lane.same_as(process.hq)


def test_two_threads_at_one_partition_lose_nothing(process: Process, lane: LaneRig) -> None:
    """Announcements arrive while rounds apply the same segments from HQ's server."""
    lane.sync.once()
    hq = process.hq

    async def race(_: Service) -> None:
        for number in range(40):
            data = hq.add(CONTROL, 3000 + number)
            tip = announcement(hq.tip(CONTROL, data))
            if number % 3 == 0:
                await asyncio.to_thread(hq.sign)
            if number % 4:
                await asyncio.to_thread(lane.sync.announced, tip)
        await asyncio.to_thread(hq.sign)
        await until(lambda: lane.serial(CONTROL) == hq.parts[CONTROL].serial)

    in_loop(lane, Pace(interval_s=0.02), race)
    assert lane.same_as(hq)
    assert set(lane.sync.refused) <= {Why.REPLAYED, Why.SKIPPED, Why.ROLLED_BACK}
    assert not (set(lane.told) - {(PEOPLE, ""), (CONTROL, "")})


# -- who may ask what -------------------------------------------------------------------------------------------------


def test_who_may_ask_what() -> None:
    needs = {op: kind.needs for op, kind in REQUESTS.items()}
    assert needs == {
        "status": Right.LOOK,
        "sync": Right.OPERATE,
        "verify": Right.OPERATE,
        "announced": Right.RELAY,
    }
    uplink = Peer(991, 991, 1, "gated-uplink", frozenset({"gated-tech"}))
    technician = Peer(1001, 1001, 1, "mei", frozenset({"gated-tech"}))
    groups = ("gated-tech", "gated-uplink", "gated-sync")
    assert uplink.rights(*groups) == {Right.LOOK, Right.RELAY}
    assert technician.rights(*groups) == {Right.LOOK, Right.OPERATE}


def test_announcements_travel_as_base64() -> None:
    request = Announced.of(b"\x00\xff")
    assert control.decode(control.encode(request), REQUESTS) == request and request.announcement == b"\x00\xff"
    with pytest.raises(control.Refused, match="base64"):
        control.decode(b'{"op":"announced","payload":"?"}', REQUESTS)


def test_questions_because_of_announcements_are_rationed() -> None:
    now = 100.0
    pace = Pace(ask_s_min=2.0, asks_max=3, ask_refill_s=15.0)
    asks = Asks(pace, lambda: now)
    waits: list[float | None] = []
    for _ in range(8):
        waits.append(asks.wait_s())
        now += 2.5
    assert waits[:3] == [0.0, 0.0, 0.0] and waits[3:] == [None, None, None, None, 0.0]
    now += 1000
    assert asks.wait_s() == 0.0 and asks.wait_s() == 2.0
    assert asks.wait_s() is None, "one that waits already serves this one too"
