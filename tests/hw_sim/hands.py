"""Hands at a fingerprint reader: which finger a passenger lays on when the display asks for one, and how.

A passenger perceives what the display says and nothing else of the lane."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from drivers.links import LinkLost
from tests.hw_sim.touch import Picture, Sensor

LOOK_S = 0.2
"""How often people look at the display."""
ASKS = "place_"
"""The display asks for a finger by a code that begins so and ends with its name."""


@dataclass(frozen=True)
class Touching:
    """One placement. `hand`: whose fingers these are, as a number of a person. `care`: 0 (badly) to 1 (well)."""

    hand: int
    finger: str
    take: int
    care: float = 1.0


class Hand:
    """What hands do to a device takes them no time, whatever the device's cable does."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(self._patiently(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _patiently(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except LinkLost:
            return  # the cable is out: hands do not notice, and the lane has to


class Glass(Hand):
    """The fingerprint reader as hands use it."""

    def __init__(self, sensor: Sensor, picture: Callable[[Touching], Picture]) -> None:
        super().__init__()
        self._sensor, self._picture = sensor, picture

    def lay(self, touching: Touching) -> None:
        self._do(self._sensor.touch(self._picture(touching)))

    def lift(self) -> None:
        self._do(self._sensor.lift())


async def use(
    glass: Glass,
    display: Callable[[], str],
    hand: int,
    take: int,
    bandaged: frozenset[str],
    rng: random.Random,
    pace: float,
    there: Callable[[], bool] = lambda: True,
) -> None:
    """Lay on what the display asks for, as long as it asks and the reader is in reach (`there`); for ever.

    The finger is off when this ends."""

    async def pause(low_s: float, high_s: float) -> None:
        await asyncio.sleep(rng.uniform(low_s, high_s) / pace)

    placed = 0
    try:
        while True:
            asked = display()
            finger = asked.removeprefix(ASKS)
            if not asked.startswith(ASKS) or "_" not in finger or finger in bandaged or not there():
                await asyncio.sleep(LOOK_S)
                continue
            await pause(0.5, 1.2)
            placed += 1
            care = 0.3 if rng.random() < 0.08 else rng.uniform(0.75, 1.0)
            glass.lay(Touching(hand, finger, 100 * take + placed, care))
            for _ in range(rng.randint(6, 12)):
                await asyncio.sleep(LOOK_S / pace)
                if display() not in (asked, "hold_finger"):
                    break
            glass.lift()
            await pause(0.4, 0.9)
    finally:
        glass.lift()
