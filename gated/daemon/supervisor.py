"""Keeps drivers running: any end is `DeviceLost`, the next try comes after a pause that grows to a bound."""

import asyncio
from typing import NoReturn

import structlog

from drivers.base import DeviceFault, Driver, Emit
from gated.lane.events import Device, DeviceLost, DeviceReady, Event
from gated.logs import told

log = structlog.get_logger()

PAUSE_S_MIN = 0.5
PAUSE_S_MAX = 15.0
STEADY_S = 30.0
"""A driver that was ready for so long starts again after the shortest pause."""


class Supervised:
    """One driver under supervision. `state` is `lost` until the driver says it is ready."""

    def __init__(self, device: Device, driver: Driver, emit: Emit) -> None:
        self.device, self.driver = device, driver
        self.state = "lost"
        self._emit = emit
        self._why: str | None = None
        self._ready_mono: float | None = None
        self._running: asyncio.Task[None] | None = None

    def _heard(self, event: Event) -> None:
        if isinstance(event, DeviceReady):
            self.state = "ready"
            self._ready_mono = asyncio.get_running_loop().time()
            log.info("device ready", device=self.device.value)
        self._emit(event)

    async def run(self) -> NoReturn:
        """Run the driver, again and again."""
        loop = asyncio.get_running_loop()
        pause = PAUSE_S_MIN
        while True:
            self._ready_mono = None
            why, what = await self._once()
            if self.state == "ready" or why != self._why:
                self._emit(DeviceLost(self.device, why))
            self.state, self._why = "lost", why
            steady = self._ready_mono is not None and loop.time() - self._ready_mono >= STEADY_S
            pause = PAUSE_S_MIN if steady or why == "again" else min(pause * 2, PAUSE_S_MAX)
            log.warning("device lost", device=self.device.value, why=why, what=what, next_try_s=pause)
            await asyncio.sleep(pause)

    async def _once(self) -> tuple[str, str]:
        """One run of the driver; returns why it ended, and in words for the log. Where we are to end, it ends first."""
        running = self._running = asyncio.ensure_future(self.driver.run(self._heard))
        try:
            await asyncio.wait({running})
        finally:
            if not running.done():
                running.cancel()
                await asyncio.wait({running})
            error = None if running.cancelled() else running.exception()
        if running.cancelled():
            return "again", ""
        if error is None:
            return "ended", ""
        if isinstance(error, DeviceFault):
            return error.why, str(error)
        log.error("driver crashed", device=self.device.value, what=told(error))
        return "crashed", ""

    def again(self) -> None:
        """Have the driver start afresh: it then tells the present state of everything it sees."""
        if self._running is not None:
            self._running.cancel()
