"""Readers that send MRZ text: CR, LF or CRLF lines, or all in one run, with or without STX/ETX. Tolerant by design.

Any byte that is no MRZ letter separates, so terminators, framing, command echoes and most noise need no rules. Only
check digits guard the text: names have none, so put such a reader on USB or on a short line.

Presets (what is sent at the start, what triggers a reading):
* `plain`: nothing is sent; the reader talks unasked.
* `access_is`: the LSR/ATR command layer, `SYN M CR` command `.`; the firmware is asked for (LSR116 manual p.17).
* `honeywell`: `SYN M CR` command `!`, trigger `SYN T CR` (N431X manual p. 9-2, 1900 manual p.7).
* `newland`: `~ SOH 0000` command `; ETX`, echoed with ACK (NLS-HR52 manual p.35 and p.234).
"""

import asyncio
import re
from dataclasses import dataclass, field

from drivers.base import DeviceFault, Emit
from drivers.links import ByteLink
from drivers.passport import Slot, hear, judge
from gated.lane.events import Device as Part
from gated.lane.events import DeviceReady, DocumentPresented, DocumentUnreadable, Door

ENQ, ACK, NAK = 0x05, 0x06, 0x15
_LINE_MIN = 20
"""A shorter run of letters is no MRZ line: an echo, a bar code, noise."""
_RUN_MAX = 90
_SHAPES = ((44, 44), (36, 36), (30, 30, 30))
"""TD3 and MRV-A; TD2 and MRV-B; TD1 (ICAO Doc 9303 parts 4-7)."""
_ONE_RUN = {sum(shape): shape for shape in _SHAPES}
_TOKEN = re.compile(rb"([A-Z0-9<_]+)|([^A-Z0-9<_]+)")


@dataclass(frozen=True, slots=True)
class Preset:
    """A family's commands. A family that is asked something at the start must answer it."""

    opening: tuple[bytes, ...] = ()
    trigger: bytes | None = None


def menu(command: str) -> bytes:
    """`command` in the menu syntax of Honeywell engines and Access-IS readers; it ends in `!` (volatile) or `.`."""
    return b"\x16M\r" + command.encode("ascii")


def newland(command: str) -> bytes:
    """`command` in Newland's syntax: prefix `~<SOH>0000`, suffix `;<ETX>`."""
    return b"~\x010000" + command.encode("ascii") + b";\x03"


PRESETS = {
    "plain": Preset(),
    "access_is": Preset(opening=(menu("AISFWV?."),)),
    "honeywell": Preset(opening=(menu("ocrena1!"), menu("ocrats2!")), trigger=b"\x16T\r"),
    "newland": Preset(opening=(newland("@SCNTCE1"),), trigger=newland("@SCNTRG1")),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """`preset`: one of `PRESETS`. A triggered reader is triggered every `trigger_every_s`."""

    port: str
    preset: str = "plain"
    baud_rate: int = 9600
    answer_s_max: float = 2.0
    tries: int = 3
    trigger_every_s: float = 1.0
    gone_after: int = 3
    """So many triggers in a row that brought nothing: the slot is empty."""
    frame_gap_s: float = 0.3
    """Text that stops for so long is complete, or dropped."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f'preset is one of {", ".join(sorted(PRESETS))}, not "{self.preset}"')
        if min(self.baud_rate, self.answer_s_max, self.tries, self.trigger_every_s, self.frame_gap_s) <= 0:
            raise ValueError("baud_rate, answer_s_max, tries, trigger_every_s and frame_gap_s are above 0")
        if self.gone_after < 1:
            raise ValueError("gone_after is at least 1")


@dataclass(frozen=True, slots=True)
class Text:
    """The lines of one MRZ."""

    lines: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Damaged:
    """MRZ lines that make up no document."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a command. ACK: done; ENQ: no such command; NAK: parameter out of range (N431X manual p. 9-2)."""

    accepted: bool


class Codec:
    """Bytes -> MRZ text. Never raises; holds three lines at most."""

    def __init__(self) -> None:
        self._run = bytearray()
        self._lines: list[str] = []

    @property
    def pending(self) -> bool:
        """Whether silence would mean anything."""
        return bool(self._run or self._lines)

    @property
    def held(self) -> int:
        """Bytes kept for later."""
        return len(self._run) + sum(map(len, self._lines))

    def feed(self, data: bytes) -> list[Text | Damaged | Reply]:
        """Everything that `data` completes."""
        found: list[Text | Damaged | Reply] = []
        for match in _TOKEN.finditer(data):
            letters, others = match.groups()
            if letters:
                self._run += letters[: _RUN_MAX + 1 - len(self._run)]  # one too many marks the run as too long
            else:
                found += self._end_run()
                found += [Reply(byte == ACK) for byte in others if byte in (ACK, NAK, ENQ)]
        return found

    def silence(self) -> list[Text | Damaged | Reply]:
        """The line said nothing for the frame gap: text without a terminator is complete, other lines are damaged."""
        found: list[Text | Damaged | Reply] = [*self._end_run()]
        if self._lines:
            self._lines.clear()
            found.append(Damaged())
        return found

    def _end_run(self) -> list[Text]:
        run = self._run.decode("ascii").replace("_", "<")
        self._run.clear()
        if len(run) < _LINE_MIN:
            return []
        if len(run) in _ONE_RUN:
            self._lines.clear()
            return [Text(_cut(run, _ONE_RUN[len(run)]))]
        self._lines = [*self._lines[-2:], run]
        for shape in _SHAPES:
            if tuple(map(len, self._lines[-len(shape) :])) == shape:
                lines = tuple(self._lines[-len(shape) :])
                self._lines.clear()
                return [Text(lines)]
        return []


def _cut(run: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(run[at * width : (at + 1) * width] for at, width in enumerate(shape))


class Device:
    """The reader. Ready when it has answered its opening commands, or at once where there are none."""

    def __init__(self, settings: Settings, link: ByteLink, side: Door = Door.A) -> None:
        self._settings = settings
        self._preset = PRESETS[settings.preset]
        self._link = link
        self._side = side

    async def run(self, emit: Emit) -> None:
        """See `drivers.base.Driver`."""
        codec = Codec()
        try:
            await self._link.open()
            for command in self._preset.opening:
                await self._instruct(codec, command)
            emit(DeviceReady(Part.PASSPORT))
            if self._preset.trigger is None:
                await self._listen(codec, emit)
            else:
                await self._watch(codec, self._preset.trigger, emit)
        finally:
            await self._link.close()

    async def _instruct(self, codec: Codec, command: bytes) -> None:
        """Send an opening command until it is accepted. Raises `DeviceFault`: `no_answer`, `refused`."""
        why = ""
        for _ in range(self._settings.tries):
            await self._link.write(command)
            why = await self._why_not(codec)
            if not why:
                return
        raise DeviceFault(why, f"preset {self._settings.preset}, asked {self._settings.tries} times")

    async def _why_not(self, codec: Codec) -> str:
        until = asyncio.get_running_loop().time() + self._settings.answer_s_max
        heard = False
        while data := await hear(self._link, until):
            heard = True
            for found in codec.feed(data):
                if isinstance(found, Reply):
                    return "" if found.accepted else "refused"
        return "" if heard else "no_answer"  # some models answer a query without ACK: that is alive enough

    async def _listen(self, codec: Codec, emit: Emit) -> None:
        """A reader that talks unasked: every text is a new document."""
        while True:
            gap_ends = asyncio.get_running_loop().time() + self._settings.frame_gap_s
            data = await hear(self._link, gap_ends if codec.pending else None)
            for found in codec.feed(data) if data else codec.silence():
                if not isinstance(found, Reply):
                    emit(self._judge(found))

    async def _watch(self, codec: Codec, trigger: bytes, emit: Emit) -> None:
        """A reader that is triggered again and again: it repeats a document for as long as it lies there."""
        loop = asyncio.get_running_loop()
        slot = Slot(self._side)
        trigger_at = heard_at = loop.time()
        missed = 0
        while True:
            gap_ends = heard_at + self._settings.frame_gap_s
            data = await hear(self._link, gap_ends if codec.pending else trigger_at)
            if data:
                heard_at = loop.time()
            for found in codec.feed(data) if data else codec.silence():
                if not isinstance(found, Reply):
                    missed = 0
                    for event in slot.read(self._judge(found)):
                        emit(event)
            if data or loop.time() < trigger_at:
                continue
            if missed >= self._settings.gone_after:
                for event in slot.empty():
                    emit(event)
            missed += 1
            trigger_at = loop.time() + self._settings.trigger_every_s
            await self._link.write(trigger)

    def _judge(self, found: Text | Damaged) -> DocumentPresented | DocumentUnreadable:
        if isinstance(found, Damaged):
            return DocumentUnreadable("frame:lines", self._side)
        return judge(found.lines, self._side)
