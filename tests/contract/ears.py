"""Listens to a driver in tests: what it emitted, in order, and waiting for what it will."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from drivers.base import DeviceFault, Driver
from gated.lane.events import DeviceReady, Event


class Ears:
    """An `Emit` that keeps everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.run: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, wanted: Event | type[Event], within_s: float = 3.0) -> Event:
        """The first kept event that is (a) `wanted`, waiting for it; it and everything before it are dropped."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    for place, event in enumerate(self.events):
                        if event == wanted or (isinstance(wanted, type) and isinstance(event, wanted)):
                            del self.events[: place + 1]
                            return event
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {wanted} within {within_s} s, but {self.events}") from None

    async def fault(self, within_s: float = 3.0) -> DeviceFault:
        """The fault by which `run` ends, waiting for it."""
        assert self.run is not None
        try:
            async with asyncio.timeout(within_s):
                await self.run
        except DeviceFault as fault:
            return fault
        raise AssertionError("run returned")


@asynccontextmanager
async def running(driver: Driver, ready: bool = True) -> AsyncIterator[Ears]:
    """`driver.run` in a task for as long as the block lasts; `ready`: the block starts after `DeviceReady`."""
    ears = Ears()
    ears.run = asyncio.create_task(driver.run(ears))
    try:
        if ready:
            await ears.until(DeviceReady)
        yield ears
    finally:
        ears.run.cancel()
        await asyncio.gather(ears.run, return_exceptions=True)
