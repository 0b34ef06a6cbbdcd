"""One whole lane in virtual time: it serves, recovers from every upset, restarts, stops, names bad configuration."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gated.config import ConfigError, load
from gated.daemon import app as daemon
from gated.daemon.writer import TRIM_EVERY_S
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.core import STAYS, State
from gated.lane.events import Device, Door, Event, Now
from gated.store.acks import AckedHeads
from gated.store.db import LaneDb
from gated.store.sql import StoreError
from gated.wire import facts
from tests.canaries import Canary, found, needles
from tests.hw_sim import virtual
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.happenings import Topology
from tests.hw_sim.report import Report
from tests.hw_sim.simlane import VirtualLane, sim_folder
from tests.hw_sim.upsets import Planned, Upset, befall

Script = Callable[["Watched"], Coroutine[Any, Any, None]]


@dataclass
class Watched(VirtualLane):
    """A virtual lane that remembers what went through it, and how it was just before it was stopped."""

    log: list[tuple[Event, Now, tuple[cmd.Command, ...]]] = field(default_factory=list)
    last_state: State | None = None
    last_devices: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.watchers.append(lambda *step: self.log.append(step))

    async def _end(self) -> None:
        self.last_state, self.last_devices = self.app.lane.state, dict(self.app.device_states())
        await super()._end()

    async def until(self, true: Callable[[], bool], seconds: float = 120.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.05)

    def commands(self, kind: type[cmd.Command]) -> list[Any]:
        return [each for _, _, commands in self.log for each in commands if type(each) is kind]

    def facts(self, kind: type[facts.Fact]) -> list[Any]:
        return [fact for _, _, fact in self.told if type(fact) is kind]


@pytest.fixture
def folder() -> Iterator[Path]:
    with sim_folder() as made:
        yield made


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield
    structlog.reset_defaults()


def run(
    folder: Path,
    *scripts: Script,
    topology: Topology = Topology.MANTRAP,
    passengers: int = 4,
    seed: int = 5,
    **how: Any,
) -> tuple[Watched, Report]:
    lane = Watched(seed, topology, folder, passengers=passengers, **how)
    lane.upsets = lambda _: [script(lane) for script in scripts]
    return lane, virtual.run(lane.run())


@pytest.mark.parametrize("topology", list(Topology))
def test_passengers_pass_and_the_lane_stops_in_order(topology: Topology, folder: Path) -> None:
    lane, report = run(folder, topology=topology, passengers=8, seed=1)
    assert report.clean
    assert lane.last_state is State.IDLE
    assert set(lane.last_devices.values()) == {"ready"}
    assert {each.outcome for each in lane.facts(facts.TicketSettled)} >= {"crossed"}
    assert lane.app.lane.state is State.CLOSED, "it stopped as it is told to: nobody new, then the end"
    (booted,) = lane.facts(facts.LaneBooted)
    assert booted.new_database
    assert {part.name for part in booted.parts} == {"gated", "policy", "policy_sha256", "face"}


@pytest.mark.parametrize("kind", list(Upset))
def test_every_upset_is_recovered_from(kind: Upset, folder: Path) -> None:
    async def suffer(lane: Watched) -> None:
        await befall(Planned(25.0, kind, 12.0), lane)
        # A lane without fingerprint reader serves on, so the day may end before the reader is tried again.
        await lane.until(lambda: set(lane.app.device_states().values()) == {"ready"}, 60.0)

    lane, report = run(folder, suffer)
    assert report.clean, report.explanations
    assert lane.last_state is State.IDLE
    assert set(lane.last_devices.values()) == {"ready"}


def test_the_same_seed_gives_the_same_journal_again(folder: Path) -> None:
    hashes = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        lane, _ = run(folder / name, lambda it: befall(Planned(25.0, Upset.DISK_FULL, 12.0), it))
        hashes.append(lane.hash)
    assert hashes[0] == hashes[1]


# -- stopping and starting ---------------------------------------------------------------------------------------


def test_a_stop_waits_for_whoever_is_inside(folder: Path) -> None:
    stopped: dict[str, Any] = {}

    async def stop(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state in STAYS)
        stopped["ticket"] = lane.app.lane.guest.ticket
        lane.app.stop()
        await lane.lane_up
        stopped["persons"] = lane.app.lane.gate.persons
        stopped["settled"] = [each.ticket for each in lane.commands(cmd.Settle)]
        lane.revive()

    lane, report = run(folder, stop)
    assert stopped["persons"] == 0
    assert stopped["ticket"] in stopped["settled"]
    assert report.clean
    second = lane.facts(facts.LaneBooted)[1]
    assert second.unsettled == (), "what was settled before the end is durable"
    assert not second.new_database


class Never(asyncio.Event):
    """Somebody is inside, whatever happens."""

    def set(self) -> None:
        pass


def test_a_stop_does_not_wait_for_ever(folder: Path) -> None:
    """Whoever stays inside beyond all times does not keep the process: the service manager would kill it anyway."""
    took: list[float] = []

    async def stop(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state in STAYS)
        app = lane.app
        app._empty = Never()
        began = asyncio.get_running_loop().time()
        app.stop()
        await lane.lane_up
        took.append(asyncio.get_running_loop().time() - began)
        lane.revive()

    lane, _ = run(folder, stop)
    timing = lane.app.lane.timing
    assert took[0] == pytest.approx(timing.stay_s_max + timing.return_s, abs=1.0)


def test_killed_with_somebody_inside_it_lets_them_out_and_settles_the_ticket(folder: Path) -> None:
    seen: dict[str, Any] = {}

    async def kill(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state is State.MATCHING)
        seen["ticket"] = lane.app.lane.guest.ticket
        await lane.crash()
        lane.revive()
        seen["mark"] = len(lane.log)

    lane, report = run(folder, kill)
    assert report.clean, report.explanations
    booted = lane.facts(facts.LaneBooted)[1]
    assert booted.unsettled == (seen["ticket"],)
    assert booted.next_ticket > seen["ticket"], "no ticket number is used twice"
    ends = [each for each in lane.facts(facts.TicketSettled) if each.ticket == seen["ticket"]]
    assert [each.outcome for each in ends] == ["unresolved"]
    released = [c for c in lane.commands(cmd.Record) if c.verdict.decision.value == "release"]
    assert released, "whoever was inside came out on a record of their own"
    assert released[0].came_from is Door.A, "and to where they came from"


def test_killed_before_any_verdict_the_ticket_is_unsettled_at_the_next_start(folder: Path) -> None:
    seen: dict[str, Any] = {}

    async def kill(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state is State.ADMITTING)
        await asyncio.sleep(0.02)  # the disk's time; the leaf needs thirty times as long to let anybody in
        seen["ticket"] = lane.app.lane.guest.ticket
        await lane.crash()
        db = LaneDb(lane.folder / "lane.db")
        seen["open"], seen["from"] = db.unsettled(), db.note("came_from")
        db.close()
        lane.revive()

    _, report = run(folder, kill)
    assert seen["open"] == (seen["ticket"],)
    assert seen["from"] == "A"
    assert report.clean


def test_a_stranger_from_the_far_side_is_remembered_as_one_from_there(folder: Path) -> None:
    """Else the next start would let them out to the side that they must not reach."""
    noted: list[str | None] = []

    async def intrude(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state is State.IDLE)
        app = lane.app
        forced = (ev.DoorOpened(Door.B), ev.PersonPassed(Door.B, True), ev.PresenceChanged(1), ev.DoorClosed(Door.B))
        for event in forced:
            app.emit(event)
        await asyncio.sleep(0.5)
        noted.append(app.writer.db.note("came_from"))
        app.emit(ev.PresenceChanged(0))

    run(folder, intrude, passengers=1)
    assert noted == ["B"]


def test_an_emergency_outlives_the_process(folder: Path) -> None:
    states: list[State] = []

    async def burn(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state is State.IDLE)
        lane.app.emit(ev.FireStarted())
        await asyncio.sleep(1.0)
        lane.app.emit(ev.FireEnded())
        await asyncio.sleep(1.0)
        states.append(lane.app.lane.state)
        await lane.crash()
        lane.revive()
        await asyncio.sleep(8.0)
        states.append(lane.app.lane.state)
        lane.app.emit(ev.Reset("reset-1", "technician"))
        await asyncio.sleep(2.0)
        states.append(lane.app.lane.state)
        await lane.crash()
        lane.revive()
        await asyncio.sleep(8.0)
        states.append(lane.app.lane.state)

    run(folder, burn, passengers=1)
    assert states == [State.AFTER_FIRE, State.AFTER_FIRE, State.IDLE, State.IDLE]


def test_a_damaged_database_is_set_aside_and_the_lane_serves(folder: Path) -> None:
    damaged = folder / "lane.db"
    damaged.write_bytes(b"SQLite format 3\0" + b"\xa5" * 8192)

    @dataclass
    class Real(Watched):
        """Opens lane.db as a real start does."""

        def _generation(self) -> str:
            raise AssertionError("a simulated generation is not asked for here")

    build = daemon.build

    def building(*args: Any, **how: Any) -> daemon.App:
        del how["open_db"]
        return build(*args, **how)

    lane = Real(5, Topology.MANTRAP, folder, passengers=4)
    with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
        patch.setattr(daemon, "build", building)
        report = virtual.run(lane.run())
    assert report.clean
    assert [each.outcome for each in lane.facts(facts.TicketSettled)].count("crossed") > 0
    (aside,) = folder.glob("lane.db.corrupt-*Z")
    assert aside.read_bytes()[:32] == b"SQLite format 3\0" + b"\xa5" * 16
    assert lane.facts(facts.LaneBooted)[0].new_database
    assert any("set aside" in entry["event"] and entry["file"] == aside.name for entry in logs)


def test_two_starts_cannot_write_one_database(folder: Path) -> None:
    async def second(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state is State.IDLE)
        with pytest.raises(StoreError, match="only ever one writer"):
            daemon.build(load(lane.config_path), lane.clock, lane._links, lane.workers, serve_control=False)

    _, report = run(folder, second, passengers=1)
    assert report.clean


# -- parts that fail --------------------------------------------------------------------------------------------------


def test_a_part_that_fails_ends_the_process_with_its_last_steps_in_the_journal(folder: Path) -> None:
    """The journal of a fault of ours is what it is found by: it may not end before the fault."""
    ended: list[BaseException | None] = []

    async def fault(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state in STAYS)
        inside = lane.app.lane.gate.persons
        last = lane.log[-1]

        def broken(*_: Any) -> None:
            raise KeyError("K99887766")  # what a careless look-up in a dictionary would quote

        lane.app.lane.handle = broken  # type: ignore[method-assign, assignment]
        lane.world.monitor.lane_died()
        (fault,) = (await asyncio.gather(lane.lane_up, return_exceptions=True),)
        ended.append(fault[0])
        assert inside == 1
        assert not lane.board.effective("a_request"), "its outputs fell"
        assert not lane.board.effective("b_request")
        db = LaneDb(lane.folder / "lane.db")
        rows = db.sql.execute("SELECT count(*) FROM journal").fetchone()[0]
        db.close()
        assert rows == len(lane.log), f"the journal ends before {last}"
        lane.revive()

    with capture_logs() as logs:
        lane, report = run(folder, fault)
    assert isinstance(ended[0], ExceptionGroup)
    assert ended[0].subgroup(KeyError) is not None
    assert report.clean, report.explanations
    assert lane.last_state is State.IDLE, "the next start let whoever was inside out, and serves"
    (entry,) = [each for each in logs if each["event"] == "a part of the lane failed"]
    assert entry["what"][0].startswith("KeyError at ")
    assert "K99887766" not in str(logs)


def test_the_door_and_every_device_tell_again_what_a_full_queue_dropped(folder: Path) -> None:
    """`DeviceReady` was among what was dropped: the lane would wait for it for ever."""
    seen: dict[str, Any] = {}

    async def flood(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state is State.IDLE)
        for _ in range(2000):
            lane.app.queue.emit(ev.DocumentUnreadable("flood"))
        lane.app.emit(ev.DeviceLost(Device.CAMERA, "gone"))  # does not fit
        await asyncio.sleep(0.1)
        seen["lost"] = set(lane.app.lane.gate.lost)
        for _ in range(2000):
            lane.app.queue.emit(ev.DocumentUnreadable("flood"))
        lane.app.emit(ev.DeviceReady(Device.CAMERA))  # nor does this
        await asyncio.sleep(8.0)
        seen["later"] = set(lane.app.lane.gate.lost)
        seen["mark"] = [type(event) for event, _, _ in lane.log].count(ev.EventsLost)

    lane, _ = run(folder, flood, passengers=1)
    assert seen["lost"] >= {Device.DOOR, Device.CAMERA}
    assert seen["later"] == set()
    assert seen["mark"] == 2
    at = next(k for k, (event, _, _) in enumerate(lane.log) if isinstance(event, ev.EventsLost))
    again = [event for event, _, _ in lane.log[at:] if isinstance(event, ev.DoorClosed)]
    assert {event.door for event in again} == {Door.A, Door.B}, "the door told everything again"


def test_a_hanging_disk_is_not_stroked_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, tuple[str, ...]]] = []

    def note(*assignments: str) -> bool:
        told.append((asyncio.get_running_loop().time(), assignments))
        return True

    monkeypatch.setattr(daemon, "notify", note)
    seen: dict[str, float] = {}

    async def hang(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state is State.IDLE)
        work = lane.workers.run

        async def stuck(kind: str, *work_and_args: Any) -> Any:
            if kind == "store" and asyncio.get_running_loop().time() < seen["until"]:
                await asyncio.sleep(seen["until"] - asyncio.get_running_loop().time())
            return await work(kind, *work_and_args)

        seen["from"] = asyncio.get_running_loop().time()
        seen["until"] = seen["from"] + 60.0
        lane.workers.run = stuck  # type: ignore[method-assign, assignment]
        await asyncio.sleep(70.0)

    run(folder, hang, passengers=1)
    strokes = [at for at, what in told if "WATCHDOG=1" in what]
    ready = [at for at, what in told if "READY=1" in what]
    assert len(ready) == 1
    assert ready[0] < 5.0
    hanging = [at for at in strokes if seen["from"] + daemon.WORK_S_MAX + 1.0 < at < seen["until"]]
    assert hanging == []
    assert [at for at in strokes if seen["until"] < at < seen["until"] + 10.0], "and it is stroked again"


def test_a_bidirectional_lane_is_ready_only_with_both_readers(folder: Path) -> None:
    seen: list[tuple[str, bool]] = []

    def ready(lane: Watched) -> tuple[str, bool]:
        return lane.app.device_states()["passport"], Device.PASSPORT not in lane.app.lane.gate.lost

    async def unplug(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state is State.IDLE)
        seen.append(ready(lane))
        for section in ("passport", "passport_b"):
            for end in lane.cables[section]:
                end.unplug()
        await asyncio.sleep(5.0)
        seen.append(ready(lane))
        for section in ("passport_b", "passport"):
            for end in lane.cables[section]:
                end.plug()
            lane.mirror(section)
            await asyncio.sleep(40.0)
            seen.append(ready(lane))

    run(folder, unplug, topology=Topology.BIDIRECTIONAL, passengers=1)
    assert seen == [("ready", True), ("lost", False), ("lost", False), ("ready", True)]


def test_a_full_outbox_is_open_again_once_hq_has_acknowledged(folder: Path) -> None:
    """Nobody passes without room for the record; and what HQ then acknowledges makes room without a restart."""
    seen: dict[str, Any] = {}

    async def fill(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state is State.IDLE)
        app = lane.app
        app.writer.outbox._bytes_max = 1
        await lane.until(lambda: Device.STORE in app.lane.gate.lost, 400.0)
        await asyncio.sleep(30.0)
        seen["closed"] = Device.STORE in app.lane.gate.lost
        heads = AckedHeads(lane.folder / "uplink.db")
        for span in app.writer.outbox.spans():
            heads.advance(span.stream_id, span.last)
        heads.close()
        app.writer.outbox._bytes_max = 2_000_000_000
        began = asyncio.get_running_loop().time()
        await lane.until(lambda: Device.STORE not in app.lane.gate.lost)
        seen["took_s"] = asyncio.get_running_loop().time() - began

    lane, _ = run(folder, fill, passengers=8)
    assert seen["closed"], "it stays closed while there is no room"
    assert seen["took_s"] < 10.0 < TRIM_EVERY_S
    assert lane.last_state is State.IDLE


# -- nothing personal -------------------------------------------------------------------------------------------------


def test_status_logs_and_files_hold_nobody(folder: Path) -> None:
    snapshots: list[str] = []

    async def look(lane: Watched) -> None:
        while not lane.lane_up.done():
            await asyncio.sleep(0.5)
            snapshots.append(repr(lane.app.status.snapshot()))
            if len(snapshots) > 400:
                return

    with capture_logs() as logs:
        lane, _ = run(folder, look, lambda it: befall(Planned(25.0, Upset.MATCHER_FAILS, 12.0), it), passengers=10)
    canaries = []
    faces = RecordedFaces(lane.seed)
    for enrolment in lane.world.cast.enrolments:
        person = enrolment.person
        canaries.append(Canary(f"number {person}", enrolment.paper.number))
        canaries.append(Canary(f"name {person}", enrolment.paper.surname))
        canaries.append(Canary(f"template {person}", faces.template(person)[:256]))  # the rest is zeros
        for name in enrolment.fingers:
            template = lane._finger(person, name).template.rstrip(b"\0")
            canaries.append(Canary(f"{name} {person}", template))
    canaries = [each for each in canaries if len(each.plain) >= 6]
    assert len(canaries) > len(lane.world.cast.enrolments), "documents and templates are among them"
    assert any("index" in each.name for each in canaries), "so are fingers"
    assert lane.commands(cmd.CompareFinger)
    said = ("\n".join(snapshots) + "\n".join(map(str, logs))).encode()
    assert len(snapshots) > 50
    for canary in canaries:
        for needle, name in needles(canary).items():
            assert needle not in said, f"{canary.name} as {name}"
    assert found(canaries, folder) == []
    (folder / "control").write_bytes(b"x" + next(iter(needles(canaries[0]))))
    assert found(canaries, folder), "the scan finds what is there"


# -- the configuration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("latency_s = 0.02", "latency = 0.02", r"lane\.toml:\d+: \[camera\] latency: is not a known option"),
        ("latency_s = 0.02", 'latency_s = "x"', r"lane\.toml:\d+: \[camera\] latency_s: "),
        ('driver = "opencv"', 'driver = "opencw"', r"lane\.toml:\d+: \[camera\] driver: there is no driver"),
        ("a_request = {pin = 2}\n", "", r"lane\.toml:\d+: \[door\] .*a_request"),
        ("[camera]", "[camera_two]", r"lane\.toml: \[camera\]: is missing"),
        ("[face]", "[faces]", r"lane\.toml:\d+: .*face"),
        ("[timing]", "[timing]\nmatch_s = 1.0", r"lane\.toml:\d+: \[timing\] match_s: "),
        ('direction = "exit"', 'direction = "both"', r"lane\.toml:\d+: \[lane\] direction"),
        (
            'topology = "mantrap"',
            'topology = "single"',
            r"lane\.toml:\d+: \[door\]: has the pins of leaf B and A|A and B",
        ),
        ("[camera]", '[passport_b]\ndriver = "elyctis"\nport = "b"\n[camera]', r"lane\.toml:\d+: \[passport_b\]"),
        ('cache = "cache.key"', 'cache = "gone.key"', r"lane\.toml:\d+: \[keys\] cache: .*cannot be read"),
        ('file = "policy.toml"', 'file = "gone.toml"', r"lane\.toml:\d+: \[policy\] file: .*cannot be read"),
    ],
)
def test_configuration_errors_name_file_and_line(was: str, becomes: str, says: str, folder: Path) -> None:
    lane = Watched(1, Topology.MANTRAP, folder)
    path = lane._files()
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, becomes, 1))

    def links(section: str, settings: Any) -> Any:
        return object()

    async def build() -> None:
        with pytest.raises(ConfigError, match=says):
            daemon.build(load(path), lane.clock, links, lane.workers, serve_control=False)

    virtual.run(build())
    assert not (folder / "lane.db").exists(), "nothing was begun with a configuration that cannot be used"


def test_a_lane_whose_folder_is_gone_says_so(folder: Path) -> None:
    lane = Watched(1, Topology.MANTRAP, folder)
    path = lane._files()
    path.write_text(path.read_text().replace('dir = "."\n[keys]', 'dir = "nowhere"\n[keys]'))

    async def build() -> None:
        with pytest.raises(StoreError, match="there is no folder"):
            daemon.build(load(path), lane.clock, lambda *_: object(), lane.workers, serve_control=False)

    virtual.run(build())


def test_a_folder_that_vanishes_while_it_runs_is_a_lost_cache_and_no_end(folder: Path) -> None:
    lost: list[bool] = []

    async def vanish(lane: Watched) -> None:
        await lane.until(lambda: lane.app.lane.state is State.IDLE)
        away = lane.app.look_up._folder
        lane.app.look_up._folder = away / "gone"
        await lane.until(lambda: Device.CACHE in lane.app.lane.gate.lost, 300.0)
        lost.append(True)
        lane.app.look_up._folder = away

    lane, report = run(folder, vanish)
    assert lost == [True]
    assert report.clean
    assert lane.last_state is State.IDLE


def test_a_lane_that_was_closed_does_not_reopen_by_dying(folder: Path) -> None:
    states: list[State] = []

    async def close(lane: Watched) -> None:
        for order in (ev.CloseLane("close-1", "hq"), ev.OpenLane("open-1", "hq")):
            await lane.until(lambda: lane.app.lane.passage is None)
            lane.app.emit(order)
            await asyncio.sleep(1.0)
            await lane.crash()
            lane.revive()
            await asyncio.sleep(8.0)
            states.append(lane.app.lane.state)

    run(folder, close, passengers=0)
    assert states == [State.CLOSED, State.IDLE]
