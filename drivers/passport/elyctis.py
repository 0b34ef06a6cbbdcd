"""Elyctis IDBOX One (USB-CDC or UART). Reads by itself in Continuous Reading mode; Inquire proves it alive.

Source: "IDBOX One Scanner Command Set v1.7", 14 Sep 2020. The line carries no check of its own and names no check
digit, so a document is believed when `readings` of them agree. Removal is what Inquire finds: the command byte of
Presence Detection mode was not on the pages seen. That an absent document is answered by CRs alone is taken from
the vendor's web page, which takes three of them for "card absent".
"""

import asyncio
import re
from dataclasses import dataclass, field

from drivers.base import DeviceFault, Emit
from drivers.links import ByteLink
from drivers.passport import Slot, hear, judge
from gated.icao.mrz import Document
from gated.lane.events import Device as Part
from gated.lane.events import DeviceReady, DocumentPresented, DocumentUnreadable, Door

INQUIRE = ord("I")
CONTINUOUS = ord("C")
VERSION = ord("V")
_TEXTS = b"VWRT"
"""Version, OCR version, serial number, product: answered with text."""
_TEXT_MAX = 64
_MRZ_MIN, _MRZ_MAX = 30, 160
_GARBLED_MAX = 20
_MRZ = re.compile(rb"[A-Z0-9<_?* \r\n]*\Z")
_TEXT = re.compile(rb"[\x20-\x7e\r\n\t\x00]*\Z")


@dataclass(frozen=True, slots=True)
class Settings:
    """`readings` equal ones are believed; after `tries` without that, the document is reported unreadable."""

    port: str
    baud_rate: int = 115200
    answer_s_max: float = 1.5
    inquire_every_s: float = 1.0
    frame_gap_s: float = 0.3
    """A frame that stops for so long is dropped."""
    readings: int = 2
    tries: int = 4

    def __post_init__(self) -> None:
        if min(self.baud_rate, self.answer_s_max, self.inquire_every_s, self.frame_gap_s) <= 0:
            raise ValueError("baud_rate, answer_s_max, inquire_every_s and frame_gap_s are above 0")
        if not 1 <= self.readings <= self.tries:
            raise ValueError("readings is at least 1 and tries is not below it")


@dataclass(frozen=True, slots=True)
class Frame:
    """`command` LEN(2, MSB first) `data`, the same in both directions."""

    command: int
    data: bytes = field(default=b"", repr=False)


def encode(frame: Frame) -> bytes:
    """The bytes of a frame."""
    return bytes((frame.command, *divmod(len(frame.data), 256))) + frame.data


class Codec:
    """Bytes -> frames of the reader. Never raises; what cannot become a frame is skipped byte by byte."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def pending(self) -> bool:
        """Whether silence would mean anything."""
        return bool(self._held)

    @property
    def held(self) -> int:
        """Bytes kept for later."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Frame]:
        """Every frame that `data` completes."""
        self._held += data
        held, at = self._held, 0
        found: list[Frame] = []
        while at < len(held):
            size = _size(held, at)
            if size is None:
                break
            if size:
                found.append(Frame(held[at], bytes(held[at + 3 : at + size])))
            at += size or 1
        del held[:at]
        return found

    def silence(self) -> list[Frame]:
        """The line said nothing for the frame gap: what is half was none, but a frame may lie inside of it."""
        found: list[Frame] = []
        while self._held:
            rest = bytes(self._held[1:])
            self._held.clear()
            found += self.feed(rest)
        return found


def _size(held: bytearray, at: int) -> int | None:
    """Length of the frame at `at`; None while it is incomplete, 0 when it cannot become one."""
    command = held[at]
    if command not in (INQUIRE, CONTINUOUS) and command not in _TEXTS:
        return 0
    if len(held) < at + 3:
        return None
    length = held[at + 1] << 8 | held[at + 2]
    data = bytes(held[at + 3 : at + 3 + length])
    if command == CONTINUOUS:
        fits = length == 1 and data in (b"", b"\x00", b"\x01")
    elif command == INQUIRE:
        empty = length < _MRZ_MIN and not data.strip(b"\r\n")
        fits = empty or (_MRZ_MIN <= length <= _MRZ_MAX and _MRZ.match(data) is not None)
    else:
        fits = length <= _TEXT_MAX and _TEXT.match(data) is not None
    if not fits:
        return 0
    return length + 3 if len(data) == length else None


class Device:
    """The reader. Ready when it has answered; lost when it stops answering Inquire."""

    def __init__(self, settings: Settings, link: ByteLink, side: Door = Door.A) -> None:
        self._settings = settings
        self._link = link
        self._side = side

    async def run(self, emit: Emit) -> None:
        """See `drivers.base.Driver`."""
        try:
            await self._link.open()
            await _Session(self._settings, self._link, self._side, emit).run()
        finally:
            await self._link.close()


class _Session:
    """One opening of the line: what was asked and not answered yet, and what lies in the slot."""

    def __init__(self, settings: Settings, link: ByteLink, side: Door, emit: Emit) -> None:
        self._settings = settings
        self._link = link
        self._side = side
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._codec = Codec()
        self._heard_at = self._loop.time()
        self._stirred = False
        """Bytes came that have made no frame yet."""
        self._garbled = 0
        self._due: dict[int, float] = {}
        """Command -> when it is asked (again)."""
        self._unanswered: dict[int, int] = {}
        """Command -> how often it was asked in vain."""
        self._slot = Slot(side)
        self._candidate: Document | None = None
        self._agreeing = 0
        self._tried = 0

    async def run(self) -> None:
        """Until the reader or the line is lost."""
        self._ask(VERSION)
        ready = False
        while True:
            await self._ask_due()
            data = await hear(self._link, self._wake_at())
            if data:
                self._heard_at, self._stirred = self._loop.time(), True
                frames = self._codec.feed(data)
            elif self._stirred and self._loop.time() >= self._heard_at + self._settings.frame_gap_s:
                frames = self._codec.silence()
                self._stirred = False
                if not frames:
                    self._garble()
            else:
                frames = []
            for frame in frames:
                self._stirred, self._garbled = self._codec.pending, 0
                if frame.command == VERSION and not ready:
                    ready = True
                    self._emit(DeviceReady(Part.PASSPORT))
                    self._ask(CONTINUOUS)
                    self._ask(INQUIRE)
                self._answered(frame)

    def _ask(self, command: int, after_s: float = 0.0) -> None:
        self._due[command] = self._loop.time() + after_s
        self._unanswered[command] = 0

    async def _ask_due(self) -> None:
        """Send every question whose time has come, and come back to it when no answer does."""
        for command, due in list(self._due.items()):
            if self._loop.time() < due:
                continue
            if self._unanswered[command] >= self._settings.tries:
                raise DeviceFault("no_answer", f"command {chr(command)} asked {self._settings.tries} times")
            self._unanswered[command] += 1
            self._due[command] = self._loop.time() + self._settings.answer_s_max
            await self._link.write(encode(Frame(command, b"\x01" if command == CONTINUOUS else b"")))

    def _wake_at(self) -> float:
        gap_ends = [self._heard_at + self._settings.frame_gap_s] if self._stirred else []
        return min([*self._due.values(), *gap_ends])

    def _garble(self) -> None:
        """Something was said and not understood: ask again at once. A reader that only babbles is lost all the same."""
        self._garbled += 1
        if self._garbled > _GARBLED_MAX:
            raise DeviceFault("garbled", f"{self._garbled} answers in a row made no frame")
        for command, times in self._unanswered.items():
            if times and command in self._due:
                self._ask(command)

    def _answered(self, frame: Frame) -> None:
        if frame.command == INQUIRE:
            again_s = self._read(frame.data)
            self._ask(INQUIRE, again_s)
        elif frame.command != CONTINUOUS or frame.data == b"\x01":
            self._due.pop(frame.command, None)

    def _read(self, data: bytes) -> float:
        """Take one reading. Returns after how many seconds to inquire again."""
        lines = data.decode("ascii").split()
        if not lines:
            self._gone()
            return self._settings.inquire_every_s
        event = judge(lines, self._side)
        if isinstance(event, DocumentPresented):
            if self._slot.holds(event.document):
                self._forget_readings()
                return self._settings.inquire_every_s
            self._agreeing = self._agreeing + 1 if event.document == self._candidate else 1
            self._candidate = event.document
        else:
            self._candidate, self._agreeing = None, 0
        self._tried += 1
        if self._agreeing < self._settings.readings:
            if self._tried < self._settings.tries:
                return 0.0
            if isinstance(event, DocumentPresented):
                event = DocumentUnreadable("unsteady", self._side)
        self._forget_readings()
        self._tell(event)
        return self._settings.inquire_every_s

    def _tell(self, event: DocumentPresented | DocumentUnreadable) -> None:
        for news in self._slot.read(event):
            self._emit(news)
        # "After a successful reading this mode is automatically deactivated"; the same document is not read twice.
        self._ask(CONTINUOUS)

    def _gone(self) -> None:
        """The slot is empty. Somebody who was too quick to be read is told so."""
        if self._tried and not self._slot.occupied:
            self._tell(DocumentUnreadable("taken_early", self._side))
        self._forget_readings()
        for news in self._slot.empty():
            self._emit(news)
            self._ask(CONTINUOUS)

    def _forget_readings(self) -> None:
        self._candidate, self._agreeing, self._tried = None, 0, 0
