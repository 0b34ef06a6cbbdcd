"""3M (Rochford Thompson) readers that speak RTE Native, such as the RTE6701. They talk unasked and take no commands.

Source: "RTE6701-OEM Integration Manual VC27U V1.03", 9.1. Two things were not on the pages seen and are settings
or tolerated here: how BCC is computed (`check`), and from which byte the length counts (three are accepted).
The reader cannot tell that a document was taken out, and a mute reader looks like one that nobody uses.
"""

import asyncio
from dataclasses import dataclass, field

from drivers.base import Emit
from drivers.links import ByteLink
from drivers.passport import Residue, hear, judge
from gated.lane.events import Device as Part
from gated.lane.events import DeviceReady, DocumentUnreadable, Door

SOH, STX, ETX, CR = 0x01, 0x02, 0x03, 0x0D
_HEADER = ((3, ord("O")), (4, ord("U")), (5, STX))
"""Device byte: "The value is always: O: Optical reader"; type byte: "always: U: unsolicited data" (9.1.1.1)."""
_TEXT_AT = 7
_TEXT_MAX = 160
"""Three lines of at most 44 characters and their CRs, with room for a reader that is generous."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`check`: how the BCC is made, "xor" of all bytes after SOH up to ETX, or "none" to leave it unchecked."""

    port: str
    baud_rate: int = 9600
    check: str = "xor"
    frame_gap_s: float = 0.3
    """A frame that stops for so long is dropped."""

    def __post_init__(self) -> None:
        if self.check not in ("xor", "none"):
            raise ValueError(f'check is "xor" or "none", not "{self.check}"')
        if self.baud_rate <= 0 or self.frame_gap_s <= 0:
            raise ValueError("baud_rate and frame_gap_s are above 0")


@dataclass(frozen=True, slots=True)
class Frame:
    """What a document said: the lines that are present, top to bottom, as the reader padded them."""

    flag: int
    lines: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Damaged:
    """A document was read, but not its frame. Told once until the line falls silent."""

    why: str


def encode(frame: Frame) -> bytes:
    """The bytes of a frame: always three lines, the missing ones on top ("the bottom line ... is always line 3")."""
    lines = ("",) * (3 - len(frame.lines)) + frame.lines
    text = "".join(line + "\r" for line in lines).encode("ascii")
    length = len(text) + 6  # device, type, STX, flag, ETX, BCC
    after_soh = bytes((length & 0x7F, length >> 7)) + b"OU" + bytes((STX, frame.flag)) + text + bytes((ETX,))
    return bytes((SOH,)) + after_soh + bytes((_xor(after_soh),))


def mrz_lines(frame: Frame) -> tuple[str, ...]:
    """The lines as printed: padding taken off, and fillers back where the reader pads a short document to 44."""
    bare = [line.rstrip("_") for line in frame.lines]
    longest = max(map(len, bare), default=0)
    width = next((width for width in (30, 36, 44) if longest <= width), longest)
    if len(frame.lines) == 2:
        width = max(width, 36)
    return tuple(line.replace("_", "<").ljust(width, "<") for line in bare)


class Codec:
    """Bytes -> frames. Never raises; holds at most one frame, and resyncs on the next SOH after anything wrong."""

    def __init__(self, check: str = "xor") -> None:
        self._check = check
        self._held = bytearray()
        self._residue = Residue()
        self._told = False

    @property
    def pending(self) -> bool:
        """Whether silence would mean anything."""
        return bool(self._held) or self._told

    @property
    def held(self) -> int:
        """Bytes kept for later."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Frame | Damaged]:
        """Everything that `data` completes."""
        self._held += data
        found: list[Frame | Damaged] = []
        while self._held:
            start = self._held.find(SOH)
            if start != 0:
                found += self._discard(len(self._held) if start < 0 else start, "garbled")
                continue
            size = self._size()
            if size is None:
                break
            if size == 0:  # not a frame after all: look for the next SOH inside of it
                found += self._discard(1, "garbled")
                continue
            frame = self._frame(bytes(self._held[:size]))
            if isinstance(frame, str):
                found += self._damaged(frame)
                found += self._discard(1, frame)
            else:
                found.append(frame)
                del self._held[:size]
                self._residue.clear()
        return found

    def silence(self) -> list[Frame | Damaged]:
        """The line said nothing for the frame gap: what is half is given up."""
        found = self._discard(len(self._held), "half_frame")
        self._residue.clear()
        self._told = False
        return found

    def _size(self) -> int | None:
        """Length of the frame at the front; None while it is incomplete, 0 when it cannot become one."""
        held = self._held
        if any(len(held) > at and held[at] != value for at, value in _HEADER):
            return 0
        end = held.find(ETX, _TEXT_AT)
        text = held[_TEXT_AT : end if end >= 0 else len(held)]
        if len(text) > _TEXT_MAX or any(byte != CR and not 0x20 <= byte < 0x7F for byte in text):
            return 0
        return end + 2 if 0 <= end < len(held) - 1 else None

    def _frame(self, raw: bytes) -> Frame | str:
        """The frame in `raw`, or the code of what is wrong with it."""
        counted = raw[1] & 0x7F | (raw[2] & 0x7F) << 7
        plain = raw[1] | raw[2] << 8
        if not {counted, plain} & {len(raw), len(raw) - 1, len(raw) - 3}:
            return "bad_length"
        if self._check == "xor" and _xor(raw[1:-1]) != raw[-1]:
            return "bad_check"
        lines = raw[_TEXT_AT:-2].decode("ascii").split("\r")
        if len(lines) != 4 or lines[-1]:  # "If a line is not present the associated <CR> is always transmitted"
            return "bad_lines"
        return Frame(raw[6], tuple(line for line in lines[:3] if line))

    def _discard(self, count: int, why: str) -> list[Frame | Damaged]:
        dropped = bytes(self._held[:count])
        del self._held[:count]
        return self._damaged(why) if self._residue.drop(dropped) else []

    def _damaged(self, why: str) -> list[Frame | Damaged]:
        told, self._told = self._told, True
        return [] if told else [Damaged(why)]


def _xor(data: bytes) -> int:
    check = 0
    for byte in data:
        check ^= byte
    return check


class Device:
    """The reader. Ready when its line is open, for it answers nothing."""

    def __init__(self, settings: Settings, link: ByteLink, side: Door = Door.A) -> None:
        self._settings = settings
        self._link = link
        self._side = side

    async def run(self, emit: Emit) -> None:
        """See `drivers.base.Driver`."""
        try:
            await self._link.open()
            emit(DeviceReady(Part.PASSPORT))
            codec = Codec(self._settings.check)
            while True:
                gap_ends = asyncio.get_running_loop().time() + self._settings.frame_gap_s
                data = await hear(self._link, gap_ends if codec.pending else None)
                for found in codec.feed(data) if data else codec.silence():
                    if isinstance(found, Damaged):
                        emit(DocumentUnreadable(f"frame:{found.why}", self._side))
                    else:
                        emit(judge(mrz_lines(found), self._side))
        finally:
            await self._link.close()
