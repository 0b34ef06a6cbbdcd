"""Byte links of the simulator: two ends in memory, and wrappers that spoil any link.

They use asyncio's time alone, so it may be virtual. A wrapper takes its chances from the `random.Random` that it is
given: a seed repeats a run. Both directions are spoiled. All reads may be cancelled without losing a byte.
"""

import asyncio
from random import Random

from drivers.links import ByteLink, LinkLost


class MemoryByteLink:
    """One end of a cable in memory; `pair` makes two. Like a serial port it hears nothing while it is closed."""

    def __init__(self) -> None:
        self._peer: MemoryByteLink | None = None
        self._heard = bytearray()
        self._open = False
        self._plugged = True
        self._news = asyncio.Event()

    @classmethod
    def pair(cls) -> "tuple[MemoryByteLink, MemoryByteLink]":
        """Two ends: what is written into one is read from the other."""
        one, other = cls(), cls()
        one._peer, other._peer = other, one
        return one, other

    async def open(self) -> None:
        """Raises `LinkLost` while the cable is out."""
        if not self._plugged:
            raise LinkLost("no_such_port")
        self._heard.clear()
        self._open = True

    async def read(self) -> bytes:
        """At least one byte."""
        while True:
            self._check()
            if self._heard:
                data = bytes(self._heard)
                self._heard.clear()
                return data
            self._news.clear()
            await self._news.wait()

    async def write(self, data: bytes) -> None:
        """All of `data`; lost where nobody has opened the other end."""
        self._check()
        if self._peer is not None and self._peer._open:
            self._peer._heard += data
            self._peer._news.set()
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Idempotent."""
        self._open = False
        self._news.set()

    def unplug(self) -> None:
        """Pull the cable: every use of this end fails until `plug`."""
        self._plugged = self._open = False
        self._news.set()

    def plug(self) -> None:
        """Put the cable back."""
        self._plugged = True

    def _check(self) -> None:
        if not self._plugged:
            raise LinkLost("unplugged")
        if not self._open:
            raise LinkLost("not_open")


class _Wrapper:
    """A link that passes everything on."""

    def __init__(self, link: ByteLink) -> None:
        self._link = link

    async def open(self) -> None:
        await self._link.open()

    async def read(self) -> bytes:
        return await self._link.read()

    async def write(self, data: bytes) -> None:
        await self._link.write(data)

    async def close(self) -> None:
        await self._link.close()


class Lossy(_Wrapper):
    """Loses each byte with probability `rate`."""

    def __init__(self, link: ByteLink, random: Random, rate: float) -> None:
        super().__init__(link)
        self._random = random
        self._rate = rate
        self.lost = 0

    async def read(self) -> bytes:
        while True:
            if data := self._thin(await self._link.read()):
                return data

    async def write(self, data: bytes) -> None:
        if kept := self._thin(data):
            await self._link.write(kept)

    def _thin(self, data: bytes) -> bytes:
        kept = bytes(byte for byte in data if self._random.random() >= self._rate)
        self.lost += len(data) - len(kept)
        return kept


class Noisy(_Wrapper):
    """Flips one bit of each byte with probability `rate`."""

    def __init__(self, link: ByteLink, random: Random, rate: float) -> None:
        super().__init__(link)
        self._random = random
        self._rate = rate
        self.flipped = 0

    async def read(self) -> bytes:
        return self._spoil(await self._link.read())

    async def write(self, data: bytes) -> None:
        await self._link.write(self._spoil(data))

    def _spoil(self, data: bytes) -> bytes:
        spoilt = bytearray(data)
        for at in range(len(spoilt)):
            if self._random.random() < self._rate:
                spoilt[at] ^= 1 << self._random.randrange(8)
                self.flipped += 1
        return bytes(spoilt)


class OneByte(_Wrapper):
    """Hands on one byte at a time."""

    def __init__(self, link: ByteLink) -> None:
        super().__init__(link)
        self._held = b""

    async def open(self) -> None:
        self._held = b""
        await self._link.open()

    async def read(self) -> bytes:
        if not self._held:
            self._held = await self._link.read()
        first, self._held = self._held[:1], self._held[1:]
        return first

    async def write(self, data: bytes) -> None:
        for at in range(len(data)):
            await self._link.write(data[at : at + 1])


class Delayed(_Wrapper):
    """Holds each piece back for up to `delay_s_max`; the order stays."""

    def __init__(self, link: ByteLink, random: Random, delay_s_max: float) -> None:
        super().__init__(link)
        self._random = random
        self._delay_s_max = delay_s_max
        self._held = b""
        self._free_at = 0.0

    async def open(self) -> None:
        self._held = b""
        await self._link.open()

    async def read(self) -> bytes:
        loop = asyncio.get_running_loop()
        if not self._held:
            self._held = await self._link.read()
            self._free_at = loop.time() + self._random.uniform(0.0, self._delay_s_max)
        await asyncio.sleep(self._free_at - loop.time())
        data, self._held = self._held, b""
        return data

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(self._random.uniform(0.0, self._delay_s_max))
        await self._link.write(data)


class Throttled(_Wrapper):
    """Writes no faster than a line of `baud_rate` would (ten bits a byte)."""

    _PIECE = 8

    def __init__(self, link: ByteLink, baud_rate: int) -> None:
        super().__init__(link)
        self._baud_rate = baud_rate

    async def write(self, data: bytes) -> None:
        for at in range(0, len(data), self._PIECE):
            piece = data[at : at + self._PIECE]
            await asyncio.sleep(len(piece) * 10 / self._baud_rate)
            await self._link.write(piece)


class Unpluggable(_Wrapper):
    """A link whose cable can be pulled at any moment, also in the middle of a read."""

    def __init__(self, link: ByteLink) -> None:
        super().__init__(link)
        self._pulled = asyncio.Event()
        self._reading: asyncio.Future[bytes] | None = None

    def unplug(self) -> None:
        """From now on everything fails."""
        self._pulled.set()

    def plug(self) -> None:
        """The next `open` works again."""
        self._pulled = asyncio.Event()

    async def open(self) -> None:
        if self._pulled.is_set():
            raise LinkLost("no_such_port")
        await self._link.open()

    async def read(self) -> bytes:
        self._reading = self._reading or asyncio.ensure_future(self._link.read())
        pulled = asyncio.ensure_future(self._pulled.wait())
        try:
            await asyncio.wait((self._reading, pulled), return_when=asyncio.FIRST_COMPLETED)
        finally:
            pulled.cancel()
        if self._pulled.is_set():
            await self._give_up()
            raise LinkLost("unplugged")
        done, self._reading = self._reading, None
        return done.result()

    async def write(self, data: bytes) -> None:
        if self._pulled.is_set():
            raise LinkLost("unplugged")
        await self._link.write(data)

    async def close(self) -> None:
        await self._give_up()
        await self._link.close()

    async def _give_up(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))
            self._reading = None
