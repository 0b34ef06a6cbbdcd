"""Mirrors of passport readers: what the manuals say that a reader does, at the other end of a byte link.

Nothing is imported from the drivers under test, so that a constant which is wrong there is not wrong here too.
What no manual seen says, and a mirror must decide all the same, is marked ASSUMED.
"""

import asyncio
from collections.abc import Sequence
from enum import Enum, auto
from random import Random

from drivers.links import ByteLink, LinkLost


class Fault(Enum):
    """What befalls the next message about a document."""

    GARBLE = auto()
    """A few bytes of it come out wrong."""
    HALF = auto()
    """The second half never comes."""
    WRONG_CHECK = auto()
    """The frame's check byte is wrong; on a line without one, the last letter."""


class Reader:
    """A reader with one slot. `run` listens to the host; the other verbs are what people and mishaps do to it."""

    scan_s = 0.1
    """From a document lying still to its text on the line."""

    def __init__(self, link: ByteLink, random: Random) -> None:
        self._link = link
        self._random = random
        self._lines: tuple[str, ...] | None = None
        self._legible = True
        self._fault: Fault | None = None
        self._stalled = False
        self._line = asyncio.Lock()

    async def run(self) -> None:
        """Listen and answer until the cable is pulled."""
        await self._link.open()
        try:
            while True:
                data = await self._link.read()
                if not self._stalled:
                    await self.answer(data)
        except LinkLost:
            return
        finally:
            await self._link.close()

    async def insert(self, lines: Sequence[str], legible: bool = True) -> None:
        """A document is put in; an illegible one has no letters that the optics find."""
        self._lines, self._legible = tuple(lines), legible

    async def remove(self) -> None:
        """The slot is empty again."""
        self._lines = None

    async def answer(self, data: bytes) -> None:
        """What the reader does with bytes from the host."""

    def spoil_next(self, fault: Fault) -> None:
        """The next message about a document suffers `fault`."""
        self._fault = fault

    def stall(self) -> None:
        """The firmware hangs: nothing is heard, nothing is said."""
        self._stalled = True

    def resume(self) -> None:
        """It comes back."""
        self._stalled = False

    async def babble(self, data: bytes) -> None:
        """Bytes that no manual knows."""
        await self._link.write(data)

    async def _say(self, message: bytes, document: bool = False) -> None:
        if self._stalled:
            return
        if document and self._fault is not None:
            message, self._fault = self._spoil(message, self._fault), None
        async with self._line:  # one message after the other, also on a slow line
            await self._link.write(message)

    def _spoil(self, message: bytes, fault: Fault) -> bytes:
        spoilt = bytearray(message)
        if fault is Fault.HALF:
            return message[: len(message) // 2]
        if fault is Fault.WRONG_CHECK:
            spoilt[-1] ^= 0x01
            return bytes(spoilt)
        for at in self._random.sample(range(8, len(spoilt)), 3):
            spoilt[at] ^= 1 << self._random.randrange(7)
        return bytes(spoilt)


class ElyctisReader(Reader):
    """IDBOX One ("Scanner Command Set v1.7"). Presence Detection is left out: its command byte was not seen."""

    command_gap_s = 0.2
    """ASSUMED: a command that stops for so long is forgotten."""

    def __init__(self, link: ByteLink, random: Random) -> None:
        super().__init__(link, random)
        self._heard = bytearray()
        self._heard_at = 0.0
        self._continuous = False
        self._read_already = False
        self.commands: list[int] = []

    async def insert(self, lines: Sequence[str], legible: bool = True) -> None:
        await super().insert(lines, legible)
        self._read_already = False
        await self._read_by_itself()

    async def answer(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if now > self._heard_at + self.command_gap_s:
            self._heard.clear()
        self._heard_at = now
        self._heard += data
        while self._heard:
            if self._heard[0] not in b"ILCVWRT":
                del self._heard[0]
                continue
            if len(self._heard) < 3 or len(self._heard) < 3 + int.from_bytes(self._heard[1:3], "big"):
                return
            end = 3 + int.from_bytes(self._heard[1:3], "big")
            command, payload = self._heard[0], bytes(self._heard[3:end])
            del self._heard[:end]
            self.commands.append(command)
            await self._obey(command, payload)

    async def _obey(self, command: int, payload: bytes) -> None:
        if command == 0x49:
            await self._say_mrz()
        elif command == 0x43 and len(payload) == 1:
            # "0x43 | 0x00 | 0x01 | State": the response is the command
            await self._say(b"\x43\x00\x01" + payload)
            self._continuous = payload == b"\x01"
            if not self._continuous:  # "To process again the inserted document, a reset ... is required"
                self._read_already = False
            await self._read_by_itself()
        elif command in b"VWRT":
            await self._say(bytes((command, 0, 6)) + b"1.7.00")

    async def _read_by_itself(self) -> None:
        """ "The scanner automatically detects a new document ... If the current document remains in the slot, it will
        not be read twice." """
        if self._continuous and self._lines and self._legible and not self._read_already:
            self._read_already = True
            self._continuous = False  # "After a successful reading this mode is automatically deactivated"
            await asyncio.sleep(self.scan_s)
            if self._lines:
                await self._say_mrz()

    async def _say_mrz(self) -> None:
        """`49 L1 L2 MRZ`, "L1 is the MSB". Three line ends whatever the format, all alone without a document."""
        lines = self._lines if self._lines and self._legible else ()
        text = "\r".join([*lines, *[""] * (3 - len(lines))]) + "\r"
        data = text.encode() if lines else b"\r\r\r"
        await self._say(b"\x49" + len(data).to_bytes(2, "big") + data, document=bool(lines))


class RteReader(Reader):
    """RTE6701 with RTE Native: "only has one data message sent after a document read", takes no command."""

    async def insert(self, lines: Sequence[str], legible: bool = True) -> None:
        await super().insert(lines, legible)
        await asyncio.sleep(self.scan_s)
        if not legible:
            return
        # "limited to 30 characters per line" for three lines, to 44 for two; "padded with the underscore"
        width = 30 if len(lines) == 3 else 44
        text = b"\r" * (3 - len(lines)) + b"".join(line.ljust(width, "_").encode() + b"\r" for line in lines)
        body = b"OU\x02" + b"\x20" + text + b"\x03"
        block = (len(body) + 1).to_bytes(2, "little") + body
        check = 0
        for byte in block:  # ASSUMED: exclusive or of everything after SOH
            check ^= byte
        await self._say(b"\x01" + block + bytes([check]), document=True)


class LinesReader(Reader):
    """A reader that sends text, in the dialect of `family` (plain, access_is, honeywell, newland)."""

    def __init__(
        self,
        link: ByteLink,
        random: Random,
        family: str = "plain",
        ending: bytes = b"\r",
        framed: bool = False,
        one_run: bool = False,
    ) -> None:
        super().__init__(link, random)
        self._family = family
        self._ending = ending
        self._framed = framed
        self._one_run = one_run
        self._heard = b""
        self._triggered = self._scanning = False
        self._enabled = family in ("plain", "access_is")

    async def insert(self, lines: Sequence[str], legible: bool = True) -> None:
        await super().insert(lines, legible)
        if self._family in ("plain", "access_is") or self._triggered:
            await self._read()

    async def answer(self, data: bytes) -> None:
        self._heard = (self._heard + data)[-64:]
        if self._family in ("honeywell", "access_is"):
            await self._answer_menu()
        elif self._family == "newland":
            await self._answer_newland()

    async def _answer_menu(self) -> None:
        """ "The device echoes back the command sequence with the status" before the storage character."""
        while (start := self._heard.find(b"\x16")) >= 0:
            kind, rest = self._heard[start + 1 : start + 3], self._heard[start + 3 :]
            if kind == b"T\r" and self._family == "honeywell":
                self._heard, self._triggered = rest, True
                await self._read()
                continue
            end = next((at for at, byte in enumerate(rest) if byte in b"!."), -1)
            if b"\x16" in self._heard[start + 1 : start + 3 + max(end, 0)] or (len(kind) == 2 and kind != b"M\r"):
                self._heard = self._heard[start + 1 :]  # half a command, and another begins
                continue
            if end < 0:
                return
            command, self._heard = rest[: end + 1], rest[end + 1 :]
            known = (b"AISFWV?",) if self._family == "access_is" else (b"ocrena1", b"ocrats2")
            self._enabled |= command[:-1] == b"ocrena1"
            status = b"\x06" if command[:-1] in known else b"\x05"  # ENQ: "an invalid Tag or SubTag command"
            await self._say(command[:-1].replace(b"?", b"2.01") + status + command[-1:])

    async def _answer_newland(self) -> None:
        """`<STX><SOH>0000` command `<ACK>;<ETX>`."""
        while (end := self._heard.find(b";\x03")) >= 0:
            start = self._heard.rfind(b"~\x010000", 0, end)
            command, self._heard = self._heard[start + 6 : end], self._heard[end + 2 :]
            if start < 0:
                continue
            known = command in (b"@SCNTCE1", b"@SCNTRG1")
            await self._say(b"\x02\x010000" + command + (b"\x06" if known else b"\x15") + b";\x03")
            self._enabled |= command == b"@SCNTCE1"
            if command == b"@SCNTRG1":
                self._triggered = True
                await self._read()

    async def _read(self) -> None:
        """A reading ends the trigger, and absorbs one that comes meanwhile. ASSUMED: a trigger without a document
        stays until there is one."""
        if self._scanning or not (self._lines and self._legible and self._enabled):
            return
        self._scanning = True
        try:
            await asyncio.sleep(self.scan_s)
            self._triggered = False
            if self._lines is not None:
                between = b"" if self._one_run else self._ending
                text = between.join(line.encode() for line in self._lines) + self._ending
                await self._say(b"\x02" + text + b"\x03" if self._framed else text, document=True)
        finally:
            self._scanning = False
