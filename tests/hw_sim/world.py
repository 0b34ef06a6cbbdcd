"""The whole simulated world of one seed: gate, readers, what the camera sees, passengers, mishaps and an officer.

In virtual time and in real time alike::

    world = World(seed, Topology.MANTRAP, board, {"a": reader}, passengers=20, faults=plan(seed, 4, Topology.MANTRAP))
    # fill the register from world.cast.enrolments, start the lane on the other side of board, readers and world.view()
    await world.run()
    report = compare(world.monitor, settled_records)

`board` is a `tests.hw_sim.pins.PinBoard`, a reader one of `tests.hw_sim.readers`, `world.view()` the picture of this
moment as a `Seen` token. `green` says whether a side's lamp is green: `lambda side: board.output(f"{side}_green")`.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Protocol

from tests.hw_sim.cast import Cast, Manner, Truth, cast
from tests.hw_sim.hands import Glass, Hand
from tests.hw_sim.happenings import LANE_M, Body, Kind, Topology
from tests.hw_sim.mishaps import Mishap, befall
from tests.hw_sim.monitor import Monitor
from tests.hw_sim.people import QUEUE_M, Script, Stage
from tests.hw_sim.physics import Board, Gate
from tests.hw_sim.scene import Seen, SeenFace

CAMERA_M = LANE_M + 0.2
"""Where the camera looks from: the far end of whichever way somebody walks."""
SEEN_M = 5.0


class AnyReader(Protocol):
    """A mirror of `tests.hw_sim.readers`, or a stand-in."""

    async def insert(self, lines: Sequence[str], legible: bool = True) -> None: ...

    async def remove(self) -> None: ...


class Slot(Hand):
    """A document reader as hands use it."""

    def __init__(self, reader: AnyReader) -> None:
        super().__init__()
        self._reader = reader

    def insert(self, lines: tuple[str, ...]) -> None:
        self._do(self._reader.insert(lines))

    def remove(self) -> None:
        self._do(self._reader.remove())


class World:
    """One seed's world. `passengers` is a number or a ready `Cast`; `gap_s` the seconds between two of them."""

    def __init__(
        self,
        seed: int,
        topology: Topology,
        board: Board,
        readers: Mapping[str, AnyReader],
        *,
        passengers: int | Cast = 20,
        faults: Sequence[Mishap] = (),
        only: Sequence[Manner] = (),
        truths: dict[Truth, int] | None = None,
        today: date | None = None,
        now: Callable[[], float] | None = None,
        stay_s_max: float = 100.0,
        gap_s: tuple[float, float] = (1.0, 6.0),
        pace: float = 1.0,
        bounce_s: float = 0.006,
        green: Callable[[str], bool] = lambda side: True,
        glass: Glass | None = None,
        display: Callable[[], str] = lambda: "",
    ) -> None:
        self.seed = seed
        self.topology = topology
        self.rng = random.Random(f"world {seed}")
        if isinstance(passengers, int):
            passengers = cast(
                seed, passengers, topology, today or date.today(), only=only, truths=truths, fingers=glass is not None
            )
        self.cast = passengers
        self.gate = Gate(
            board, topology, random.Random(f"gate {seed}"), bounce_s, open_s=0.6 / pace, close_s=0.9 / pace
        )
        self.monitor = Monitor(self.gate, topology, now=now, stay_s_max=stay_s_max)
        slots = {side: Slot(reader) for side, reader in readers.items()}
        self.stage = Stage(self.gate, topology, slots, self.monitor, pace, green, glass, display)
        self.faults = faults
        self.scripts: list[Script] = []
        """Who is in the world now."""
        self.came = 0
        self.enough = False
        """Set it, and nobody else comes: `run` returns once those who are here have left."""
        self._gap_s = gap_s

    async def run(self) -> None:
        """All passengers come and go; mishaps befall meanwhile. Returns once everybody has left."""
        mishaps = [asyncio.create_task(befall(mishap, self.gate, self.monitor)) for mishap in self.faults]
        visits: list[asyncio.Task[None]] = []
        try:
            for passenger in self.cast.passengers:
                if self.enough:
                    break
                await asyncio.sleep(self.rng.uniform(*self._gap_s) / self.stage.pace)
                script = Script(passenger, self.stage)
                visit = asyncio.create_task(self.visit(script))
                visits.append(visit)
                waits = [visit, asyncio.create_task(script.approached.wait())]
                alone = self.topology is Topology.BIDIRECTIONAL
                # In a one-way lane the next one walks up while this one is still inside, and waits at the reader.
                await asyncio.wait(waits[:1] if alone else waits, return_when=asyncio.FIRST_COMPLETED)
                waits[1].cancel()
            await asyncio.gather(*visits)
        finally:
            for task in (*mishaps, *visits):
                task.cancel()
            await asyncio.gather(*mishaps, return_exceptions=True)

    async def visit(self, script: Script) -> None:
        """One passenger comes and goes."""
        self.scripts.append(script)
        self.came += 1
        try:
            await script.play()
        finally:
            self.scripts.remove(script)

    def view(self) -> Seen:
        """What the camera sees at this moment: everybody who walks towards it or stands before it, nearest first."""
        now = asyncio.get_running_loop().time()
        faces = [face for script in self.scripts for face in self._faces(script, now)]
        return Seen(tuple(sorted(faces, key=lambda face: face.distance_m)), now)

    def _faces(self, script: Script, now: float) -> list[SeenFace]:
        found = []
        passenger = script.passenger
        for k, body in enumerate([script.body, *script.company]):
            if body.kind is not Kind.PERSON or body.helpless or body not in self.gate.bodies:
                continue
            distance = self._distance(body, passenger.way, now)
            if not 0.2 < distance < SEEN_M:
                continue
            own = body is script.body
            yaw = passenger.yaw_deg if script.looking or not own else 55.0
            # Companions are strangers to every register: their faces have numbers of their own.
            person = passenger.person if own else -1000 * (passenger.take + 1) - k
            found.append(SeenFace(person, distance, yaw, passenger.quality, passenger.take))
        return found

    @staticmethod
    def _distance(body: Body, way: str, now: float) -> float:
        """From the camera that this body walks towards; infinite for a back."""
        speed = body.speed if way == "ab" else -body.speed
        if speed < 0:
            return float("inf")
        x = body.at(now) if way == "ab" else LANE_M - body.at(now)
        return CAMERA_M - x if x > QUEUE_M - 2 else float("inf")
