"""Optical readers over USB that send pictures: U.are.U 4000, 4000B and 4500 (DigitalPersona) and others like them.

No manual is public. Sources: libfprint's driver "uru4000", the recording of a reader in its tests ("uru4000-msv2",
pinned in tests/golden), the driver of an access terminal with the same sensor (ZKSoftware, "dewarp"); what none of them
says is marked as assumed. The host sets a mode, the reader says by an interrupt that a finger came or went, and sends
one picture in a bulk transfer, mostly scrambled.
"""

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from drivers.base import DeviceFault, Emit, Print
from drivers.fingerprint import Wish, Wishes
from drivers.links import UsbLink
from gated.lane.events import Device as Part
from gated.lane.events import DeviceReady, Door, Touch

Grey = NDArray[np.uint8]

REQUEST = 0x04
"""The vendor request that reads and writes registers: wValue is the first of them."""
HWSTAT, KEY_INDEX, KEY, MODE, INFO = 0x07, 0x33, 0x34, 0x4E, 0xF0
LOW_POWER, CONFUSED, AWAKE = 0x80, 0x84, 0x01
"""Bits of HWSTAT: all but off; both set, "something went wrong"; set once that is over."""
AWAIT_ON, AWAIT_OFF, CAPTURE, OFF = 0x10, 0x12, 0x20, 0x70
"""Modes. The light is on in the first three."""
SCAN_POWER, FINGER_ON, FINGER_OFF, DEATH = 0x56AA, 0x0101, 0x0200, 0x0800
"""Interrupts: the first two bytes of 64, high byte first. DEATH announces that the next scan will bring nothing."""
INTERRUPTS, PICTURES = 0x81, 0x82

HEADER, BLOCKS = 64, 15
CHANGE_KEY, NO_KEY_UPDATE, SCRAMBLED, MISSING = 0x80, 0x04, 0x02, 0x01
"""Flags of a block of lines."""
TAPS = tuple(bit for bit in range(32) if 0x9248144D >> bit & 1)
PICKED = (4, 8, 11, 14, 18, 21, 24, 29)
"""Bits of the shift register that are summed into its next one, and that make the byte which hides a grey."""

_BLANK = 8.0
"""Deviation of greys below which nothing lay on the glass."""
_MISSING_MAX = 3
"""So many lines may be taken from their neighbours (a recorded reader leaves out 1 of 290)."""
_TRIES = 3
"""Powering up, and pictures in a row that were cut short."""
_POLLS, _POLL_S, _SCAN_POWER_S = 100, 0.01, 0.3
_LISTEN_S, _QUIET_S, _GAP_S, _LEFT_MAX = 0.25, 0.02, 0.5, 20
_EMPTY_MAX = 3
"""Packets of no length before a picture; a 4500 was seen to send one."""

MODELS = {(0x05BA, 0x0007), (0x05BA, 0x0008), (0x05BA, 0x000A), (0x045E, 0x00BB), (0x045E, 0x00BC), (0x045E, 0x00BD)}
"""Readers that ask for no authentication. 05ba:000a, the 4000B and 4500, sends its pictures upside down."""

# The sensor looks at the glass aslant. Camera of the 4000B after ZKSoftware's "dewarp": focal lengths and centre in
# pixels, place of the glass in units of 55.95 pixels at 700 an inch, and its tilt. This makes the glass 14.4 mm wide at
# its centre and 18.0 mm long; the maker says 14.6 and 18.1.
_FOCAL, _CENTRE, _AWAY, _TILT = (1544.64, 2474.46), (202.33, 121.01), (-1.8104, -0.8060, 32.3534), (0.38949, -0.92103)
_MARK, _MARK_OFF_MAX = (204, 137), 60
"""Where the header's bytes 8 and 9 see a mark of the optics in a reader that is not off centre at all."""
_FIRST_X, _FIRST_Y, _WIDTH, _HEIGHT = -99.0, -90.0, 328, 355
"""The corner and size of the glass at 500 pixels an inch."""


@dataclass(frozen=True, slots=True)
class Settings:
    """[fingerprint]. The default is the 4000B and the 4500, which look alike on the bus."""

    link: ClassVar[str] = "usb"
    vendor_id: int = 0x05BA
    product_id: int = 0x000A
    serial: str = ""
    """Which of several equal readers; "": the only one."""
    width: int = 384
    height: int = 290
    """Of the picture as it is sent, with the lines that are left out."""
    straighten: bool = True
    """Undo perspective and unequal scales: a raw picture has about 650 pixels an inch across and 420 along."""
    upside_down: bool = False
    """The reader is mounted with its cable towards the fingertip."""
    firmware_min: int = 0
    """Assumed: bytes 4 and 5 of the device information, high byte first. 0: any."""
    image_s_max: float = 3.0
    """From asking for a picture to its first bytes."""
    alive_every_s: float = 2.0
    """How often a silent reader is asked whether it still is awake."""

    def __post_init__(self) -> None:
        if (self.vendor_id, self.product_id) not in MODELS:
            known = ", ".join(f"{vendor:04x}:{product:04x}" for vendor, product in sorted(MODELS))
            raise ValueError(f"vendor_id and product_id name one of {known} (045e:00ca asks for authentication)")
        if not (8 <= self.width <= 1024 and 8 <= self.height <= 1024):
            raise ValueError("width and height are from 8 to 1024")
        if self.straighten and (self.product_id, self.width, self.height) != (0x000A, 384, 290):
            raise ValueError("straighten is known for pictures of 384 x 290 of 05ba:000a alone: set it to false")
        if not 0 <= self.firmware_min <= 0xFFFF or min(self.image_s_max, self.alive_every_s) <= 0:
            raise ValueError("firmware_min has 16 bits; image_s_max and alive_every_s are above 0")


@dataclass(frozen=True, slots=True)
class Raw:
    """A picture as it came. `blocks`: (flags, lines). `grey`: (lines present, width), hidden where a block says so."""

    key_number: int
    mark: tuple[int, int]
    blocks: tuple[tuple[int, int], ...]
    grey: Grey = field(repr=False)

    @property
    def keys(self) -> list[int]:
        """Numbers of the keys that it needs, in their order."""
        return [(self.key_number + at) & 0xFF for at in range(1 + sum(flags >> 7 for flags, _ in self.blocks))]


def wanted_bytes(held: bytes, width: int) -> int:
    """How long the picture in `held` will be; that of its header while that is not whole."""
    return HEADER + int.from_bytes(held[4:6], "little") * width if len(held) >= HEADER else HEADER


def parse(held: bytes, width: int, height: int) -> Raw | str:
    """The picture in the bytes of a transfer, or what is wrong: "empty", "half", "wrong_size"."""
    if len(held) < HEADER:
        return "half" if held else "empty"
    present = int.from_bytes(held[4:6], "little")
    blocks, place = [], 0
    for flags, lines in zip(held[16 : 16 + 2 * BLOCKS : 2], held[17 : 17 + 2 * BLOCKS : 2], strict=True):
        if not lines:
            break
        blocks.append((flags, lines))
        place += 0 if flags & MISSING else lines
    if place != present or sum(lines for _, lines in blocks) != height:
        return "wrong_size"
    if present < height - _MISSING_MAX:
        return "half"
    body = len(held) - HEADER
    if body > present * width or (body and not body % present and body < present * width):
        return "wrong_size"  # lines of another length
    if body < present * width:
        return "half"
    grey = np.frombuffer(held, np.uint8, present * width, HEADER).reshape(present, width)
    return Raw(held[6], (held[8], held[9]), tuple(blocks), grey)


def looks_scrambled(grey: Grey) -> bool:
    """Whether neighbours are independent and yet spread as by chance. The flag alone does not say it: some readers set
    it and send the picture as it is (libfprint asks the contrast of two lines, which a finger on them may exceed)."""
    flat = grey.astype(np.float32).ravel()
    flat -= flat.mean()
    power = float(flat @ flat)
    return power > 45.0**2 * len(flat) and float(flat[1:] @ flat[:-1]) < 0.25 * power


def key_stream(key: int, count: int) -> Grey:
    """`count` bits that leave a shift register of 32 bits, lowest first, which begins as `key`.

    Its next bit is the sum of TAPS. The same holds with all distances doubled, for squaring is linear over GF(2); so
    the longer the stream, the longer the pieces that are made at once."""
    bits = np.zeros(max(count, 32), np.uint8)
    bits[:32] = [key >> at & 1 for at in range(32)]
    done, step = 32, 1
    while done < len(bits):
        step *= 2 if 64 * step <= done else 1
        size = min(step, len(bits) - done)
        for tap in TAPS:
            start = done + (tap - 32) * step
            bits[done : done + size] ^= bits[start : start + size]
        done += size
    return bits[:count]


def unscramble(raw: Raw, keys: list[int]) -> Grey:
    """The greys of `raw`, with the registers' starts for `raw.keys`. Each block says whether its greys are hidden and
    whether they turn the register on. A hidden block loses its last grey, which is then the one before."""
    grey = raw.grey.copy()
    flat, width = grey.reshape(-1), raw.grey.shape[1]
    following, at, key = iter(keys[1:]), 0, keys[0]
    for flags, lines in raw.blocks:
        if flags & CHANGE_KEY:
            key = next(following)
        size = lines * width
        if not flags & NO_KEY_UPDATE:
            bits = key_stream(key, size + 32)
            if flags & SCRAMBLED and not flags & MISSING:
                hiding = sum((bits[pick : pick + size - 1] << turn for turn, pick in enumerate(PICKED)), np.uint8(0))
                flat[at : at + size - 1] = raw.grey.reshape(-1)[at + 1 : at + size] ^ hiding
                flat[at + size - 1] = flat[at + size - 2]
            key = int.from_bytes(np.packbits(bits[size:], bitorder="little").tobytes(), "little")
        at += 0 if flags & MISSING else size
    return grey


def whole(raw: Raw, grey: Grey) -> Grey:
    """All lines, those that are left out like the one before them."""
    rows, at = [], 0
    for flags, lines in raw.blocks:
        rows += [max(at - 1, 0)] * lines if flags & MISSING else list(range(at, at + lines))
        at += 0 if flags & MISSING else lines
    return grey[rows]


def straight(grey: Grey, mark: tuple[int, int]) -> Grey:
    """The glass seen from above at 500 pixels an inch, of a raw picture; what was not in it is 0."""
    off = (mark[0] - _MARK[0], mark[1] - _MARK[1])
    off_x, off_y = off if max(map(abs, off)) <= _MARK_OFF_MAX else (0, 0)
    x, y = _CENTRE[0] + off_x, _CENTRE[1] + off_y
    across = (_FOCAL[0], x * _TILT[1], _FOCAL[0] * _AWAY[0] + x * _AWAY[2])
    along = (0.0, _FOCAL[1] * _TILT[0] + y * _TILT[1], _FOCAL[1] * _AWAY[1] + y * _AWAY[2])
    seen = np.array((across, along, (0.0, _TILT[1], _AWAY[2])))
    glass = np.array(((1.0, 0.0, _FIRST_X), (0.0, 1.0, _FIRST_Y), (0.0, 0.0, 55.95 / 700 * 500)))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpPerspective(grey, seen @ glass, (_WIDTH, _HEIGHT), flags=flags), np.uint8)


class Device:
    """The reader. `run` alone speaks to it; `scan` and `lifted` leave a wish with it."""

    compares = ""
    threshold = 0.0
    fmr = 1.0

    def __init__(self, settings: Settings, link: UsbLink, side: Door = Door.A) -> None:
        self._settings = settings
        self._link = link
        self._wishes = Wishes()
        self._size_max = HEADER + settings.width * settings.height
        self._cut_short = 0

    async def scan(self, template: bytes | None = None) -> Print:
        """See `drivers.base.FingerReader`."""
        assert template is None, "this reader compares nothing"
        return await self._wishes.scan()

    async def lifted(self) -> None:
        """See `drivers.base.FingerReader`. Assumed: the reader also says so where no finger was on at all."""
        await self._wishes.lifted()

    async def run(self, emit: Emit) -> None:
        """See `drivers.base.Driver`. Raises `DeviceFault`: no_answer, wrong_model, stale_firmware, wrong_size,
        no_image, half_image, death, lost_power, garbled; `LinkLost`."""
        try:
            await self._link.open()
            await self._wake()
            if (found := int.from_bytes((await self._read(INFO, 16))[4:6], "big")) < self._settings.firmware_min:
                raise DeviceFault("stale_firmware", f"{found:#06x}, wanted {self._settings.firmware_min:#06x}")
            await self._darken()
            self._cut_short = 0
            self._wishes.open()
            emit(DeviceReady(Part.FINGERPRINT))
            while True:
                if (wish := await self._wishes.next(self._settings.alive_every_s)) is None:
                    await self._check_power()
                else:
                    await self._serve(wish)
                del wish  # it holds the picture
        finally:
            self._wishes.close()
            await self._link.close()

    async def _serve(self, wish: Wish) -> None:
        """Light up until `wish` is granted or given up."""
        try:
            await self._write(MODE, AWAIT_ON if wish.scan else AWAIT_OFF)
            while not wish.over:
                heard = await self._hear(wish)
                if heard == DEATH:
                    raise DeviceFault("death", "the reader says that it will fail")
                if heard == (FINGER_ON if wish.scan else FINGER_OFF) and not wish.over:
                    wish.grant(await self._capture() if wish.scan else None)
            await self._darken()
        except asyncio.CancelledError:
            with suppress(DeviceFault):  # a reader that is gone is dark
                await self._write(MODE, OFF)
            raise

    async def _hear(self, wish: Wish) -> int:
        """The kind of the next message; 0 when the wish is over, or when a reader that is awake says nothing."""
        message = asyncio.ensure_future(self._link.read(INTERRUPTS, 64, _LISTEN_S))
        try:
            await asyncio.wait((message, wish.answer), return_when=asyncio.FIRST_COMPLETED)
            data = message.result() if message.done() else b""
        finally:
            message.cancel()
        if data is None:
            await self._check_power()
        return int.from_bytes((data or b"")[:2], "big")

    async def _darken(self) -> None:
        """Off, and what it had to say until then is forgotten: a finger that came or went then is none of the next."""
        await self._write(MODE, OFF)
        await self._quiet(INTERRUPTS)

    async def _capture(self) -> Print:
        settings, mono = self._settings, asyncio.get_running_loop().time()
        ppi = 500.0 if settings.straighten else 512.0
        await self._quiet(PICTURES)  # what is left there may be of the passenger before
        await self._write(MODE, CAPTURE)
        raw = parse(await self._receive(), settings.width, settings.height)
        if isinstance(raw, str):
            await self._give_up(raw)
            return Print(None, ppi, mono, Touch.HOLD_FINGER.value)
        self._cut_short = 0
        grey = raw.grey
        if looks_scrambled(grey):
            grey = unscramble(raw, [await self._key(number) for number in raw.keys])
        if looks_scrambled(grey):
            raise DeviceFault("wrong_model", "its pictures are encrypted in a way that is not public")
        if float(grey.std()) < _BLANK:
            return Print(None, ppi, mono, Touch.HOLD_FINGER.value)
        grey = whole(raw, grey)
        if settings.straighten:
            grey = straight(grey, raw.mark)
        if (settings.product_id == 0x000A) is not settings.upside_down:
            grey = grey[::-1, ::-1]
        return Print(np.subtract(255, grey, dtype=np.uint8), ppi, mono)

    async def _receive(self) -> bytes:
        """The bytes of one picture, in one transfer or in pieces; fewer where no more came in time."""
        loop, width = asyncio.get_running_loop(), self._settings.width
        end, held, empty = loop.time() + self._settings.image_s_max, b"", 0
        while len(held) < wanted_bytes(held, width) and empty <= _EMPTY_MAX:
            within_s = _GAP_S if held else max(end - loop.time(), _QUIET_S)
            if (piece := await self._link.read(PICTURES, self._size_max - len(held), within_s)) is None:
                break
            held += piece
            empty += not piece
        return held

    async def _give_up(self, why: str) -> None:
        """A picture that is none. Returns where the next try may do better."""
        await self._write(MODE, OFF)
        await self._quiet(PICTURES)
        if why == "wrong_size":
            raise DeviceFault(why, f"its pictures are not {self._settings.width} x {self._settings.height}")
        self._cut_short += 1
        if why == "empty" or self._cut_short >= _TRIES:
            raise DeviceFault("no_image" if why == "empty" else "half_image")

    async def _quiet(self, endpoint: int) -> None:
        """Until the endpoint is silent: what is left over must not be taken for something new."""
        for _ in range(_LEFT_MAX):
            if await self._link.read(endpoint, self._size_max, _QUIET_S) is None:
                return
        raise DeviceFault("garbled", "it does not stop to send what nobody asked for")

    async def _key(self, number: int) -> int:
        """Where the register starts for that key. The mask keeps it off the bus; it protects nothing."""
        mask = secrets.randbits(32).to_bytes(4, "little")
        await self._link.control_out(REQUEST, KEY_INDEX, bytes((number,)) + mask)
        masked = await self._read(KEY, 4)
        return int.from_bytes(masked, "little") ^ int.from_bytes(mask, "little")

    # -- waking it up, as libfprint found out that it works

    async def _wake(self) -> None:
        for _ in range(_TRIES):
            status = await self._status()
            if status & CONFUSED == CONFUSED:
                await self._write(HWSTAT, status & 0x0F)
                status = await self._poll(AWAKE, AWAKE)
            if not status & LOW_POWER:
                await self._write(HWSTAT, status | LOW_POWER)
            if await self._poll(LOW_POWER, 0, status & 0x0F) & LOW_POWER:
                raise DeviceFault("wrong_model", "it stays in low power: it asks for authentication, or is broken")
            for _ in range(_LEFT_MAX):
                message = await self._link.read(INTERRUPTS, 64, _SCAN_POWER_S)
                if message is None:
                    break
                if int.from_bytes(message[:2], "big") == SCAN_POWER:
                    return
        raise DeviceFault("no_answer", "it does not say that it is awake")

    async def _poll(self, bit: int, wanted: int, write: int | None = None) -> int:
        """The status once `bit` is as `wanted`, or as it is after a second; `write` is written before each look."""
        for _ in range(_POLLS):
            if write is not None:
                await self._write(HWSTAT, write)
            if (status := await self._status()) & bit == wanted:
                break
            await asyncio.sleep(_POLL_S)
        return status

    async def _check_power(self) -> None:
        if await self._status() & LOW_POWER:
            raise DeviceFault("lost_power", "it was without power for a moment")

    async def _status(self) -> int:
        return (await self._read(HWSTAT, 1))[0]

    async def _read(self, register: int, size: int) -> bytes:
        data = await self._link.control_in(REQUEST, register, size)
        if len(data) != size:
            raise DeviceFault("garbled", f"register {register:#x}: {len(data)} bytes in place of {size}")
        return data

    async def _write(self, register: int, value: int) -> None:
        await self._link.control_out(REQUEST, register, bytes((value,)))
