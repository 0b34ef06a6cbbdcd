"""A U.are.U 4500 from the inside: registers, interrupts, pictures and what can be wrong with them. No driver's code.

It is spoken to by `control` and `read`: through `usb_links.MemoryUsb` in virtual time, through `usb_backend.UsbPort`
over a socket. After libfprint's recording "uru4000-msv2"; what that does not show is marked as assumed.
"""

import asyncio
from random import Random

import numpy as np

from tests.hw_sim.touch import Fault, Glass, Picture

SCAN_POWER, ON, OFF, DEATH = 0x56AA, 0x0101, 0x0200, 0x0800
LIT = (0x10, 0x12, 0x20)


class Pulled(Exception):
    """The cable is out."""


class Refused(Exception):
    """The endpoint stalls."""


class UruReader(Glass):
    """One reader. `width`, `height`: of what it sends, with the line it leaves out. `aslant`: touched by pictures of
    the glass from above (355 x 328), which its optics distort; otherwise by pictures of its own size."""

    look_s = 0.03
    expose_s = 0.1
    piece, piece_s = 4096, 0.004
    """A full-speed bus brings about a megabyte in a second."""

    def __init__(
        self, random: Random, width: int = 384, height: int = 290, *, aslant: bool = False, scrambled: bool = True
    ) -> None:
        super().__init__()
        self.random = random
        self.size = (height, width)
        self.aslant = aslant
        self.scrambled = scrambled
        self.encrypted = False
        """Firmware with a cipher that nobody knows."""
        self.confused = False
        """As a reader wakes whose program died."""
        self.refuses = False
        """The next picture is a stall."""
        self.repeats = False
        """It sends each picture twice."""
        self.product_id = 0x000A
        self.serial = "{6E0BF1F8-0000-4500-B001-0123456789AB}"
        self.mark = (197, 141)
        self.plugged = False
        self.written: list[tuple[int, bytes]] = []
        self._news = asyncio.Event()
        self._keys: dict[int, int] = {}
        self.unplug()

    # -- power

    def plug(self) -> None:
        """Power comes."""
        self.plugged = True

    def unplug(self) -> None:
        """Power goes, and all that was in its memory."""
        self.plugged = False
        self._status = 0x01
        self._mode = 0x00
        self._told = False
        self._messages: list[bytes] = []
        self._bulk = bytearray()
        self._ends: list[int] = []
        self._index = bytes(5)
        self._frames = 0
        self._sending: asyncio.Future[None] | None = None
        self._tell()

    async def run(self) -> None:
        """Look at the glass while it is lit, until the cable is pulled."""
        if self.confused:
            self._status = 0x85
        while self.plugged:
            if self._mode in LIT and not self.stalled:
                order = self._frames
                await asyncio.sleep(self.expose_s if self._mode == 0x20 else self.look_s)
                if order == self._frames:
                    self._look()
            else:
                await self._wait()

    def _look(self) -> None:
        mode = self._mode
        if not self.plugged or self.stalled or mode not in LIT:
            return
        self.captures += 1
        if mode == 0x20:
            self._mode = 0x00  # ASSUMED: one picture for each time the mode is written
            self._sending = asyncio.ensure_future(self._send(self._frame(), self._frames))
        elif (self.picture is not None) == (mode == 0x10) and not self._told:
            self._told = True
            self.say(ON if mode == 0x10 else OFF)

    def say(self, kind: int) -> None:
        """An interrupt: two bytes, and 62 of what lay in its memory."""
        self._messages.append(kind.to_bytes(2, "big") + self.random.randbytes(62))
        self._tell()

    def stall(self) -> None:
        super().stall()
        self._tell()

    def resume(self) -> None:
        super().resume()
        self._tell()

    # -- what the host does

    async def control(self, kind: int, request: int, value: int, data: bytes, size: int) -> bytes:
        """A control transfer. Raises `Pulled`, `Refused`; never returns while it hangs."""
        await self._awake()
        if (kind, request) == (0x80, 6):
            return self._string(value & 0xFF)[:size] if value >> 8 == 3 else self._refuse()
        if request != 4:
            return self._refuse()
        if kind == 0xC0:
            return self._register(value)[:size]
        self.written.append((value, data))
        self._write(value, data)
        return b""

    async def read(self, endpoint: int, size: int, within_s: float) -> bytes | None:
        """One transfer from 0x81 or 0x82. Raises `Pulled`, `Refused`."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    if not self.plugged:
                        raise Pulled
                    if not self.stalled:
                        if endpoint == 0x82 and self.refuses and self._bulk:
                            self.refuses = False
                            self._refuse()
                        if endpoint == 0x81 and self._messages:
                            return self._messages.pop(0)
                        if endpoint == 0x82 and self._ready(size):
                            return self._take(size)
                    await self._wait()
        except TimeoutError:
            return self._take(size) if endpoint == 0x82 and self._bulk and not self.stalled else None

    def _ready(self, size: int) -> bool:
        """A transfer ends when it is full, or with a packet that is not."""
        return len(self._bulk) >= size or bool(self._ends)

    def _take(self, size: int) -> bytes:
        if self._ends:
            size = min(size, self._ends[0])
        data = bytes(self._bulk[:size])
        del self._bulk[:size]
        self._ends = [end - len(data) for end in self._ends]
        if self._ends and self._ends[0] == 0:
            self._ends.pop(0)
        return data

    async def _awake(self) -> None:
        while self.stalled and self.plugged:
            await self._wait()
        if not self.plugged:
            raise Pulled

    async def _wait(self) -> None:
        news = self._news
        await news.wait()

    def _tell(self) -> None:
        """Everybody who waits looks again."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    @staticmethod
    def _refuse() -> bytes:
        raise Refused

    def _string(self, index: int) -> bytes:
        text = {1: "DigitalPersona, Inc.", 2: "U.are.U® 4500 Fingerprint Reader", 3: self.serial}.get(index)
        body = text.encode("utf-16-le") if text else b"\x09\x04"
        return bytes((len(body) + 2, 3)) + body

    @property
    def descriptors(self) -> bytes:
        """Device, configuration, interface and two endpoints, as recorded."""
        product = self.product_id.to_bytes(2, "little")
        return (
            bytes.fromhex("12010002000000 40ba05")
            + product
            + bytes.fromhex("00010102030109022000010100 8082 09 040000 02 ffffff 00 07058103400008 07058202400000")
        )

    # -- registers

    def _register(self, number: int) -> bytes:
        if number == 0x07:
            if self.confused and not self._status & 0x80:  # it takes a while to collect itself
                self._status = (self._status + 2) & 0x0F
                self.confused = not self._status & 0x08
                return bytes((self._status & 0x0E if self.confused else 0x01,))
            return bytes((self._status,))
        if number == 0xF0:
            firmware = 0x0012 if self.has(Fault.STALE_FIRMWARE) else 0x0034
            return bytes.fromhex("50255025") + firmware.to_bytes(2, "big") + bytes.fromhex("00000013005967191800")
        if number == 0x34:
            key = self._keys.get(self._index[0], self.random.getrandbits(32))
            return (key ^ int.from_bytes(self._index[1:], "little")).to_bytes(4, "little")
        return self._refuse()

    def _write(self, number: int, data: bytes) -> None:
        if number == 0x07:
            self._power(data[0])
        elif number == 0x4E:
            self._mode, self._told = data[0], False
            self._frames += 1
            if data[0] == 0x20:
                self._end()  # a packet of no length comes first
        elif number == 0x33:
            self._index = data
        else:
            self._refuse()
        self._tell()

    def _power(self, status: int) -> None:
        if status & 0x80:
            self._status, self._mode = status, 0x00
        elif self.confused:
            self._status = 0x04
        elif self._status & 0x80 and not self.has(Fault.WRONG_MODEL):  # that one wants to be authenticated first
            loop = asyncio.get_running_loop()
            loop.call_later(0.015, self._wake, status)

    def _wake(self, status: int) -> None:
        if self.plugged and self._status & 0x80:
            self._status = status
            self.say(SCAN_POWER)

    # -- pictures

    async def _send(self, frame: bytes, order: int) -> None:
        """In pieces, as the sensor reads its lines, until another mode is written."""
        if self.take(Fault.HALF):
            frame = frame[: len(frame) // 128 * 64]
        for at in range(0, len(frame), self.piece):
            await asyncio.sleep(self.piece_s)
            if not self.plugged or self.stalled or order != self._frames:
                break
            self._bulk += frame[at : at + self.piece]
            self._tell()
        self._end()
        if self.repeats:
            self._bulk += frame
            self._end()

    def _end(self) -> None:
        self._ends.append(len(self._bulk))
        self._tell()

    def _frame(self) -> bytes:
        height, width = self.size
        if self.has(Fault.WRONG_SIZE):
            height = height * 2 // 3
        grey = self._seen(height, width)
        blocks = self._blocks(height)
        number = self.random.randrange(256)
        self._keys = {}
        body, at, key = b"", 0, self._new_key(number)
        for flags, lines in blocks:
            if flags & 0x80:
                number = (number + 1) & 0xFF
                key = self._new_key(number)
            block = b"" if flags & 1 else grey[at : at + lines].tobytes()
            at += lines
            if not flags & 4:
                shifted, key = stream(key, lines * width)
                if self.scrambled and flags & 2:
                    block = self.random.randbytes(1) + bytes(a ^ b for a, b in zip(block, shifted, strict=True))[:-1]
            body += block
        if self.encrypted:
            body = self.random.randbytes(len(body))
        first = (number - sum(flags >> 7 for flags, _ in blocks)) & 0xFF
        head = self.random.randbytes(4) + (len(body) // width).to_bytes(2, "little") + bytes((first, 2, *self.mark))
        head += self.random.randbytes(6) + b"".join(bytes(block) for block in blocks)
        return head.ljust(46, b"\0") + self.random.randbytes(18) + body

    def _new_key(self, number: int) -> int:
        self._keys[number] = self.random.getrandbits(32)
        return self._keys[number]

    @staticmethod
    def _blocks(height: int) -> list[tuple[int, int]]:
        """As recorded, with a change of keys and a line that does not turn the register on."""
        first, second = height // 4, height // 6
        head = [(2, first), (0, 1), (0x82, second), (1, 1), (4, 1), (2, second), (0, 1)]
        return [*head, (2, height - sum(lines for _, lines in head))]

    def _seen(self, height: int, width: int) -> Picture:
        """The sensor's lines: upside down, ridges bright."""
        if self.picture is None:
            return np.random.default_rng(self.random.getrandbits(32)).integers(0, 7, (height, width), np.uint8)
        upside_down = 255 - self.picture[::-1, ::-1]
        return aslant(upside_down, height, width, self.mark) if self.aslant else upside_down[:height]


_TAPS = sum(1 << position - 1 for position in (1, 3, 4, 7, 11, 13, 20, 23, 26, 29, 32))


def stream(start: int, count: int) -> tuple[bytes, int]:
    """`count` bytes that hide greys, and the register then: "taps at bit positions 1 3 4 7 11 13 20 23 26 29 32"."""
    register, out = start & 0xFFFFFFFF, bytearray()  # its lowest bit is bit position 1
    for _ in range(count):
        byte = 0
        for bit in (29, 24, 21, 18, 14, 11, 8, 4):
            byte = byte << 1 | register >> bit & 1
        out.append(byte)
        register = register >> 1 | ((register & _TAPS).bit_count() & 1) << 31
    return bytes(out), register


def aslant(glass: Picture, height: int, width: int, mark: tuple[int, int]) -> Picture:
    """What a camera beside the glass sees of it: for each of its pixels the place where its ray meets the glass."""
    v, u = np.mgrid[:height, :width].astype(float)
    u -= 191.33 + 11 + mark[0] - 204  # eleven black columns come first
    v -= 121.01 + mark[1] - 137
    y = (32.3534 * v + 2474.46 * 0.8060) / (2474.46 * 0.38949 + 0.92103 * v)
    x = u * (32.3534 - 0.92103 * y) / 1544.64 + 1.8104
    column, row = np.rint(x * 39.964 + 99).astype(int), np.rint(y * 39.964 + 90).astype(int)
    inside = (column >= 0) & (column < glass.shape[1]) & (row >= 0) & (row < glass.shape[0])
    seen = np.where(inside, glass[row.clip(0, glass.shape[0] - 1), column.clip(0, glass.shape[1] - 1)], 0)
    seen[:, :11] = seen[:, width - 6 :] = 0
    return seen.astype(np.uint8)
