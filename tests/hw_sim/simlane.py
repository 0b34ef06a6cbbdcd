"""The real lane over the simulated world in virtual time: the same drivers, machine, store and outlets; other links.

A seed gives the same run again, to the journal's hash."""

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gated.biometrics.face import FaceEngine
from gated.biometrics.finger import FingerEngine
from gated.config import load
from gated.daemon import app as daemon
from gated.lane import commands as cmd
from gated.lane.commands import Command
from gated.lane.events import Event, Now
from gated.store.db import LaneDb
from gated.store.sql import StoreError
from gated.wire.facts import Fact
from gated.wire.record import Record
from gated.wire.rows import PARTITIONS, FingerRow, PersonRow
from gated.wire.seal import public_of
from tests.hw_sim import prints
from tests.hw_sim.cachefiles import CacheFiles
from tests.hw_sim.cast import Cast
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.hands import Glass, Touching
from tests.hw_sim.happenings import Topology
from tests.hw_sim.links import MemoryByteLink
from tests.hw_sim.mishaps import Mishap
from tests.hw_sim.officer import Officer, as_event
from tests.hw_sim.pins import MemoryPins, PinBoard
from tests.hw_sim.readers import ElyctisReader, Reader
from tests.hw_sim.records import settled
from tests.hw_sim.report import Report, Settled, compare
from tests.hw_sim.simtoml import CONFIG, PINS
from tests.hw_sim.touch import Sensor
from tests.hw_sim.video import MemoryVideo
from tests.hw_sim.world import World
from tests.hw_sim.zfm_sensor import ZfmSensor

T = TypeVar("T")

NOON = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
"""When every simulated day begins, for the lane's wall clock."""
LANE = "sim/sim"
"""Site and lane, as in `simtoml.CONFIG`."""
COST_S = {"store": 0.004, "cache": 0.0005, "face": 0.03, "finger": 0.1, "picture": 0.02}
"""What inference and disk take of virtual time."""
POLICY = Path(__file__).resolve().parents[2] / "config" / "policy" / "tw.toml"


@dataclass
class SimClock:
    """Virtual time, and a wall clock beside it that may step (by more than a run is long)."""

    start: datetime = NOON
    """What it shows when virtual time begins."""
    offset: timedelta = timedelta(0)
    offsets: set[timedelta] = field(default_factory=lambda: {timedelta(0)})

    def step(self, seconds: float) -> None:
        """The wall clock jumps."""
        self.offset += timedelta(seconds=seconds)
        self.offsets.add(self.offset)

    def now(self) -> Now:
        mono = asyncio.get_running_loop().time()
        return Now(mono, self.start + timedelta(seconds=mono) + self.offset)

    def seconds(self, utc: datetime) -> float:
        """A wall clock's time in the monitor's: under the one offset that puts it into the run."""
        found = [(utc - self.start - offset).total_seconds() for offset in self.offsets]
        return min(found, key=lambda seconds: (seconds < 0, seconds))


@dataclass
class Inline:
    """Workers of virtual time: work is done at once and charged. `refuse`: the disk does not; `broken`: inference."""

    faces: FaceEngine
    fingers: FingerEngine | None = None
    refuse: bool = False
    broken: bool = False

    async def run(self, kind: str, work: Callable[..., T], *args: Any) -> T:
        await asyncio.sleep(COST_S[kind])
        if self.refuse and kind == "store":
            raise StoreError("disk_full", Path("lane.db"), "the simulated disk is full")
        if self.broken and kind in ("face", "finger"):
            raise RuntimeError("the simulated network runtime fails")
        return work(*args)

    def close(self) -> None:
        pass


@dataclass
class VirtualLane:
    """One lane and its world. `await run()`; then `report` and `hash`."""

    seed: int
    topology: Topology
    folder: Path
    passengers: int | Cast = 25
    mishaps: tuple[Mishap, ...] = ()
    timing: str = ""
    upsets: Callable[["VirtualLane"], list[Coroutine[Any, Any, None]]] = lambda lane: []
    law: str = ""
    """The policy; "" for Taiwan's."""
    watchers: list[Callable[[Event, Now, tuple[Command, ...]], None]] = field(default_factory=list)
    fingerprint: str = 'driver = "zfm"\nport = "memory"\nmode = "sensor"'
    """[fingerprint] of lane.toml; "": the lane has none."""
    at: datetime = NOON
    """When the day begins, for the lane's wall clock."""
    place: str = "taoyuan_t1"
    direction: str = ""
    """entry, exit or both; "": both where there are two readers, else exit."""
    cache_age: timedelta = timedelta(0)
    """How long before that HQ last said that the cache is all there is."""
    gap_s: tuple[float, float] = (1.0, 6.0)
    """Between two passengers."""

    def __post_init__(self) -> None:
        self.rng = random.Random(f"lane {self.seed}")
        self.clock = SimClock(self.at)
        self.hq_private = self.rng.randbytes(32)
        self.workers = Inline(RecordedFaces(self.seed))
        self.generations = 0
        self.boots = 0
        self.mirrors: list[asyncio.Task[None]] = []
        self.display = ""
        """What the lane told the passenger last."""
        self.told: list[tuple[datetime, str, Fact]] = []

    # -- set-up ------------------------------------------------------------------------------------------------

    def _files(self) -> Path:
        keys = {
            "cache.key": self.rng.randbytes(32),
            "journal.key": self.rng.randbytes(32),
            "hq.pub": public_of(self.hq_private),
            "orders.pub": Ed25519PrivateKey.from_private_bytes(self.rng.randbytes(32)).public_key().public_bytes_raw(),
            "receipts.pub": bytes(32),  # the simulated lane has no uplink
        }
        for name, key in keys.items():
            (self.folder / name).write_bytes(key)
        both = self.topology is Topology.BIDIRECTIONAL
        text = CONFIG.format(
            topology=self.topology.value,
            direction=self.direction or ("both" if both else "exit"),
            place=self.place,
            timing=self.timing,
            policy="policy.toml",
            pins=PINS[self.topology.value],
            fingerprint=f"[fingerprint]\n{self.fingerprint}" if self.fingerprint else "",
            passport_b='[passport_b]\ndriver = "elyctis"\nport = "memory"' if both else "",
        )
        (self.folder / "policy.toml").write_text(self.law or POLICY.read_text())
        path = self.folder / "lane.toml"
        path.write_text(text)
        return path

    def _cache(self, world: World) -> None:
        faces = self.workers.faces
        assert isinstance(faces, RecordedFaces)
        lane_private = (self.folder / "cache.key").read_bytes()
        dice = random.Random(f"epoch keys {self.seed}")
        epoch_keys = {partition: dice.randbytes(32) for partition in PARTITIONS}
        built = self.at - self.cache_age
        with CacheFiles(self.folder, lane_private, LANE, built=built, epoch_keys=epoch_keys) as writer:
            for enrolment in world.cast.enrolments:
                subject, paper = enrolment.person + 1, enrolment.paper
                writer.put_person(
                    PersonRow(
                        subject,
                        enrolment.category,
                        paper.birth,
                        "F",
                        face=faces.template(enrolment.person) if enrolment.face else None,
                        face_model=faces.model if enrolment.face else "",
                        fingers=tuple(self._finger(enrolment.person, finger) for finger in enrolment.fingers),
                        permits=enrolment.permits_held,
                        usable_from=enrolment.usable_from,
                        enrolled_on=enrolment.enrolled_on,
                        origin=enrolment.origin,
                        received_on=enrolment.received_on,
                        height_cm=enrolment.height_cm,
                        crossings=enrolment.crossings,
                    )
                )
                if enrolment.by_number:
                    writer.put_personal_number(paper.personal_number, subject)
                else:
                    writer.put_document(paper.issuer, paper.number, subject, enrolment.expected_on)
                writer.put_flags(subject, enrolment.flags)
                writer.put_document_flags(paper.issuer, paper.number, enrolment.document_flags)

    def _sensor(self) -> Any:
        """The mirror of the fingerprint reader; `shape` is that of the pictures that touch it."""
        far = self.cables["fingerprint"][1]
        return ZfmSensor(far, self.rng, features=prints.features, compare=prints.compare)

    def _finger(self, person: int, finger: str) -> FingerRow:
        drawn = prints.picture(Touching(person, finger, 0), self.sensor.shape)
        return FingerRow(finger, "zfm", self.sensor.template(drawn))

    def _links(self, section: str, settings: Any) -> Any:
        kind = section.split("_")[0]
        if kind == "fingerprint":
            return self.cables[section][0]
        if kind == "passport":
            return self.cables[section][0]
        if kind == "camera":
            return self.video
        self.pins[section] = MemoryPins(self.board)
        return self.pins[section]

    # -- running -----------------------------------------------------------------------------------------------

    async def run(self) -> Report:
        """Everybody comes and goes; returns the monitor's sentence."""
        config_path = self._files()
        self.board = PinBoard()
        sides = {"a": "passport"} | ({"b": "passport_b"} if self.topology is Topology.BIDIRECTIONAL else {})
        self.cables = {section: MemoryByteLink.pair() for section in (*sides.values(), "fingerprint")}
        self.readers = {side: ElyctisReader(self.cables[s][1], self.rng) for side, s in sides.items()}
        self.sensor = self._sensor()
        self.pins: dict[str, MemoryPins] = {}
        self.world = World(
            self.seed,
            self.topology,
            self.board,
            self.readers,
            passengers=self.passengers,
            faults=self.mishaps,
            today=self.at.date(),
            glass=Glass(self.sensor, lambda touching: prints.picture(touching, self.sensor.shape)),
            display=lambda: self.display,
            gap_s=self.gap_s,
        )
        self._cache(self.world)
        self.video = MemoryVideo(self.world.view)
        self.config_path = config_path
        self.lane_up = self._boot()
        self.sections: dict[str, Reader | Sensor] = {
            "fingerprint": self.sensor,
            **{section: self.readers[side] for side, section in sides.items()},
        }
        for section in self.sections:
            self.mirror(section)
        self.officer = Officer(self.world, self._order)
        await self.until_idle(30.0)
        befallen = [asyncio.create_task(each) for each in self.upsets(self)]
        await self.world.run()
        await asyncio.gather(*befallen)
        await self.until_idle(240.0)
        self.officer.stop()
        await self._end()
        for mirror in self.mirrors:
            mirror.cancel()
        await asyncio.gather(*self.mirrors, return_exceptions=True)
        return compare(self.world.monitor, self.records())

    def records(self) -> list[Settled]:
        """Every ticket, as what the lane made durable says."""
        return settled(self.told, self.clock.seconds)

    async def until_idle(self, seconds: float) -> None:
        """Wait until the lane has nobody; not longer than `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.app.lane.passage is not None or not self.app.lane.gate.shut():
                    await asyncio.sleep(0.5)

    def mirror(self, section: str) -> None:
        """The reader at the far end of this cable listens (again)."""
        self.mirrors.append(asyncio.ensure_future(self.sections[section].run()))

    def _boot(self) -> "asyncio.Task[None]":
        self.boots += 1
        self.app = daemon.build(
            load(self.config_path),
            self.clock,
            self._links,
            self.workers,
            boot=f"boot{self.boots:04}",
            open_db=lambda path: LaneDb(path, generation=self._generation),
            serve_control=False,
        )
        self.app.writer.journal._entropy = self.rng.randbytes
        step = self.app.step

        def stepped(now: Now, event: Event, commands: tuple[Command, ...]) -> None:
            step(now, event, commands)
            self._look(event, now, commands)

        self.app.step = stepped  # type: ignore[method-assign]
        return asyncio.ensure_future(self.app.run())

    def _generation(self) -> str:
        self.generations += 1
        return f"gen{self.generations:05}"

    def _look(self, event: Event, now: Now, commands: tuple[Command, ...]) -> None:
        for watcher in self.watchers:
            watcher(event, now, commands)
        for command in commands:
            if isinstance(command, cmd.Prompt):
                self.display = command.code.value
            elif isinstance(command, cmd.CallOfficer):
                self.officer.called(command.ticket)
            elif isinstance(command, cmd.Alarm):
                self.officer.alarmed(command.code.value)

    def _order(self, action: Any, ticket: int | None) -> None:
        self.app.emit(as_event(action, ticket, f"o{self.rng.randrange(1 << 48):012x}"))

    async def _end(self) -> None:
        self.hash = self.app.writer.journal.hash
        self.app.stop()
        await self.lane_up
        self._collect()

    async def crash(self) -> None:
        """The process is killed this moment: nothing that only it knew survives. It comes back with `revive`."""
        self.world.monitor.lane_died()
        self.lane_up.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.lane_up
        self.app.writer.close()

    def revive(self) -> None:
        """The service manager starts the process again."""
        self.world.monitor.lane_started()
        self.lane_up = self._boot()

    def _collect(self) -> None:
        """What HQ would have: every record of the outbox, opened."""
        db = LaneDb(self.folder / "lane.db")
        for (payload,) in db.sql.execute("SELECT payload FROM outbox ORDER BY rowid").fetchall():
            record = Record.decode(payload)
            self.told.append((record.utc, record.generation, record.fact(self.hq_private)))
        db.close()


@contextlib.contextmanager
def sim_folder() -> Iterator[Path]:
    """A folder in memory where there is one: virtual time should not wait for a disk."""
    base = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="gated-sim-", dir=base if base.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
