"""USB links of the simulator: to a device in memory, and what a bus may do to transfers. Asyncio's time alone."""

import asyncio
from random import Random

from drivers.links import LinkLost
from tests.hw_sim.uru_reader import Pulled, Refused, UruReader


class MemoryUsb:
    """A `UsbLink` to a reader in memory."""

    def __init__(self, reader: UruReader, control_s_max: float = 2.0) -> None:
        self._reader = reader
        self._control_s_max = control_s_max
        self._open = False

    async def open(self) -> None:
        if not self._reader.plugged:
            raise LinkLost("no_such_device")
        self._open = True

    async def control_in(self, request: int, value: int, size: int) -> bytes:
        return await self._control(0xC0, request, value, b"", size)

    async def control_out(self, request: int, value: int, data: bytes) -> None:
        await self._control(0x40, request, value, data, 0)

    async def read(self, endpoint: int, size: int, within_s: float) -> bytes | None:
        self._check()
        try:
            return await self._reader.read(endpoint, size, within_s)
        except Pulled:
            raise LinkLost("gone") from None
        except Refused:
            raise LinkLost("stalled") from None

    async def close(self) -> None:
        self._open = False

    async def _control(self, kind: int, request: int, value: int, data: bytes, size: int) -> bytes:
        self._check()
        try:
            async with asyncio.timeout(self._control_s_max):
                return await self._reader.control(kind, request, value, data, size)
        except TimeoutError:
            raise LinkLost("no_answer") from None
        except Pulled:
            raise LinkLost("gone") from None
        except Refused:
            raise LinkLost("stalled") from None

    def _check(self) -> None:
        if not self._open:
            raise LinkLost("not_open")


class RoughUsb(MemoryUsb):
    """Every transfer comes late; pictures come in pieces of any size, and a piece is lost with probability `loss`."""

    def __init__(self, reader: UruReader, random: Random, loss: float = 0.0) -> None:
        super().__init__(reader)
        self._random, self._loss = random, loss

    async def read(self, endpoint: int, size: int, within_s: float) -> bytes | None:
        end = asyncio.get_running_loop().time() + within_s
        if endpoint == 0x82:
            size = min(size, 64 * self._random.randint(1, 64))
        while (data := await super().read(endpoint, size, within_s)) and self._lost(endpoint):
            within_s = max(0.0, end - asyncio.get_running_loop().time())
        return data

    async def _control(self, kind: int, request: int, value: int, data: bytes, size: int) -> bytes:
        await asyncio.sleep(self._random.uniform(0.0, 0.03))
        return await super()._control(kind, request, value, data, size)

    def _lost(self, endpoint: int) -> bool:
        return endpoint == 0x82 and self._random.random() < self._loss
