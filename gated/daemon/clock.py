"""The two clocks of the shell, and the watch over the one that may step."""

import asyncio
from datetime import UTC, datetime
from typing import NoReturn, Protocol

from drivers.base import Emit
from gated.lane.events import ClockStepped, Now

STEP_S_MIN = 2.0
"""A wall clock that moves less than this between two looks is being slewed, not stepped."""
LOOK_EVERY_S = 1.0


class Clock(Protocol):
    """Where `Now` comes from."""

    def now(self) -> Now:
        """Monotonic seconds are the running loop's; the wall clock is UTC and may step."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Now:
        return Now(asyncio.get_running_loop().time(), datetime.now(UTC))


async def watch_steps(clock: Clock, emit: Emit) -> NoReturn:
    """Emit `ClockStepped` whenever the wall clock left the monotonic one by a step."""
    last = clock.now()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = clock.now()
        step_s = (now.utc - last.utc).total_seconds() - (now.mono - last.mono)
        if abs(step_s) >= STEP_S_MIN:
            emit(ClockStepped(step_s))
        last = now
