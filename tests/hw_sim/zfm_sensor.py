"""Mirror of a serial fingerprint module (R30x/ZFM, R503): what the manuals say that it does, behind a byte link.

Constants are its own. What no manual seen says, and a mirror must decide all the same, is marked ASSUMED. Its templates
are in a form of its own and are compared by whatever features and comparison it is given.
"""

import asyncio
from collections.abc import Callable
from random import Random

import numpy as np

from drivers.links import ByteLink, LinkLost
from tests.hw_sim.touch import Fault, Glass, Picture

TEMPLATE_BYTES = 512
_MARK = b"\x03\x01ZF"
_GEOMETRY = {"r30x": (288, 256), "r503": (192, 192)}


class ZfmSensor(Glass):
    """`baud_rate`: paces what it sends (0: at once). `features` and `compare`: its algorithm; without, it has none."""

    capture_s = 0.15
    """"Image acquiring time < 0.2 s"."""
    features_s = 0.2
    """"Generate feature point time < 500 ms"."""
    match_score_min = 50
    """ASSUMED: the score that security level 3 stands for."""

    def __init__(
        self,
        link: ByteLink,
        random: Random,
        model: str = "r30x",
        baud_rate: int = 0,
        password: int = 0,
        features: Callable[[Picture], bytes] | None = None,
        compare: Callable[[bytes, bytes], int] | None = None,
    ) -> None:
        super().__init__()
        self.shape = _GEOMETRY[model]
        self.next_features_code = 0
        """What the next Img2Tz answers in place of 00."""
        self.lose_next_template = False
        """Nothing of the next template that the host sends is kept."""
        self.security_level = 3
        self._link = link
        self._random = random
        self._new = model == "r503"
        self._baud_rate = baud_rate
        self._password = password
        self._verified = password == 0
        self._features = features
        self._compare = compare
        self._heard = b""
        self._image = b""
        self._buffers = {1: b"", 2: b""}
        self._receiving: int | None = None
        self._received = b""
        self.commands: list[int] = []

    def template(self, picture: Picture) -> bytes:
        """A template of the module's own kind, as an enrolment with it would have brought."""
        assert self._features is not None
        inner = self._features(picture)
        assert len(inner) <= TEMPLATE_BYTES - 6, "no room for so many features"
        return (_MARK + len(inner).to_bytes(2, "big") + inner).ljust(TEMPLATE_BYTES, b"\0")

    async def run(self) -> None:
        """Listen and answer until the cable is pulled."""
        self._heard, self._receiving = b"", None
        await self._link.open()
        try:
            while True:
                data = await self._link.read()
                if self.stalled:
                    self._heard = b""
                else:
                    await self._hear(data)
        except LinkLost:
            return
        finally:
            await self._link.close()

    def lose_power(self) -> None:
        """It is back at once, but knows nothing of before."""
        self._verified = self._password == 0
        self._heard, self._image, self._receiving = b"", b"", None
        self._buffers = {1: b"", 2: b""}

    async def babble(self, data: bytes) -> None:
        """Bytes that no manual knows."""
        await self._link.write(data)

    async def _hear(self, data: bytes) -> None:
        self._heard += data
        while (at := self._heard.find(b"\xef\x01\xff\xff\xff\xff")) >= 0:
            self._heard = self._heard[at:]
            if len(self._heard) < 9:
                return
            length = self._heard[7] << 8 | self._heard[8]
            if length > 258:
                self._heard = self._heard[2:]
                continue
            if len(self._heard) < 9 + length:
                return
            counted, check = self._heard[6 : 7 + length], self._heard[7 + length : 9 + length]
            if sum(counted) % 65536 != check[0] << 8 | check[1]:
                self._heard = self._heard[2:]
                await self._answer(0x01)  # "error when receiving package"
                continue
            self._heard = self._heard[9 + length :]
            await self._take(counted[0], counted[3:])
        self._heard = self._heard[-5:]

    async def _take(self, kind: int, content: bytes) -> None:
        if kind == 1 and content:
            self._receiving = None  # ASSUMED: a command ends a download that did not come to its end
            self.commands.append(content[0])
            await self._obey(content[0], content[1:])
        elif kind in (2, 8) and self._receiving is not None:
            self._received += content
            if kind == 8:
                if not self.lose_next_template:
                    self._buffers[self._receiving] = self._received
                self._receiving, self.lose_next_template = None, False

    async def _obey(self, command: int, rest: bytes) -> None:
        if command == 0x13:  # VfyPwd
            self._verified = int.from_bytes(rest, "big") == self._password
            await self._answer(0x00 if self._verified else 0x13)
        elif not self._verified:
            await self._answer(0x21)  # "password must be verified"
        elif command == 0x01 or (command == 0x28 and self._new):
            await self._look(command)
        elif command == 0x02 and len(rest) == 1:
            await self._make_features(rest[0])
        elif command == 0x03:
            score = self._score()
            await self._answer(0x00 if score >= self.match_score_min else 0x08, score.to_bytes(2, "big"))
        elif command == 0x08 and len(rest) == 1:
            await self._answer(0x00)
            await self._upload(self._buffers[1 if rest[0] == 1 else 2])
        elif command == 0x09 and len(rest) == 1:
            self._receiving, self._received = (1 if rest[0] == 1 else 2), b""
            await self._answer(0x00)
        elif command == 0x0A:
            await self._answer(0x00 if self._image else 0x0F)
            await self._upload(self._image, picture=True)
        elif command == 0x0E and len(rest) == 2:
            if rest[0] == 5:
                self.security_level = rest[1]
            await self._answer(0x00)
        elif command == 0x0F:
            words = (0, 0 if self._new else 9, 200, self.security_level, 0xFFFF, 0xFFFF, 2, 6)
            await self._answer(0x00, b"".join(word.to_bytes(2, "big") for word in words))
        elif command == 0x1D:
            await self._answer(0x00, b"\0\0")
        else:
            await self._inform(command)

    async def _inform(self, command: int) -> None:
        """What only the newer modules know."""
        if command == 0x40 and self._new:
            await self._answer(0x00)
        elif command == 0x3A and self._new:
            version = b"V1.0.2" if self.has(Fault.STALE_FIRMWARE) else b"V1.4.0"
            await self._answer(0x00, version.ljust(32, b"\0"))
        elif command == 0x3C and self._new:
            name = b"R999" if self.has(Fault.WRONG_MODEL) else b"R503"
            height, width = (160, 160) if self.has(Fault.WRONG_SIZE) else self.shape
            numbers = b"".join(number.to_bytes(2, "big") for number in (width, height, 1536, 200))
            text = name.ljust(16, b"\0") + b"A001" + b"00000001" + b"\1\0" + b"GROW".ljust(8)
            await self._answer(0x00, text + numbers)
        else:
            await self._answer(0xFC)  # "unsupported command"

    async def _look(self, command: int) -> None:
        self.captures += 1
        await asyncio.sleep(self.capture_s)
        if self.picture is None:
            await self._answer(0x02)
        elif self._features is None and self.take(Fault.MESSY):
            await self._answer(0x07 if command == 0x28 else 0x03)
        else:
            assert self.picture.shape == self.shape, f"this glass shows pictures of {self.shape}"
            grey = self.picture >> 4
            self._image = (grey[:, 0::2] << 4 | grey[:, 1::2]).astype(np.uint8).tobytes()
            self._live = self.picture
            await self._answer(0x00)

    async def _make_features(self, buffer: int) -> None:
        await asyncio.sleep(self.features_s)
        code, self.next_features_code = self.next_features_code, 0
        if self._features is None:
            code = 0xFC
        elif not self._image:
            code = 0x15
        elif self.take(Fault.MESSY):
            code = 0x06
        if code == 0:
            self._buffers[1 if buffer == 1 else 2] = self.template(self._live)
        await self._answer(code)

    def _score(self) -> int:
        inner = []
        for buffer in self._buffers.values():
            if self._compare is None or buffer[:4] != _MARK:
                return 0
            inner.append(buffer[6 : 6 + int.from_bytes(buffer[4:6], "big")])
        assert self._compare is not None
        return self._compare(inner[0], inner[1])

    async def _answer(self, code: int, rest: bytes = b"") -> None:
        await self._say(7, bytes((code,)) + rest)

    async def _upload(self, data: bytes, picture: bool = False) -> None:
        if picture and self.has(Fault.WRONG_SIZE):
            data = data[: len(data) // 4 * 3]
        pieces = [data[at : at + 128] for at in range(0, len(data), 128)]
        half, garble = self.take(Fault.HALF), self.take(Fault.GARBLE)
        for place, piece in enumerate(pieces):
            if half and place == len(pieces) // 2:
                return
            await self._say(2 if place < len(pieces) - 1 else 8, piece, spoilt=garble and place % 5 == 1)

    async def _say(self, kind: int, content: bytes, spoilt: bool = False) -> None:
        if self.stalled:
            return
        size = len(content) + 2
        check = (kind + (size >> 8) + (size & 255) + sum(content)) % 65536
        raw = bytearray(b"\xef\x01\xff\xff\xff\xff" + bytes((kind, size >> 8, size & 255)) + content)
        raw += bytes((check >> 8, check & 255))
        if spoilt:
            raw[self._random.randrange(9, len(raw))] ^= 1 << self._random.randrange(8)
        if self._baud_rate:
            await asyncio.sleep(len(raw) * 10 / self._baud_rate)
        await self._link.write(bytes(raw))
