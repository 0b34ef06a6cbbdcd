"""Serial fingerprint modules whose packets begin with EF01: R30x and ZFM (optical), R503 (capacitive).

Sources: "R503 Fingerprint Module User Manual" V1.2.2 (Grow, 2022-10) and "ZFM-70 Series User Manual" (Zhiantec), which
agree but where a constant here says otherwise. All is a command of the host and its acknowledgement, so the sensor is
dark until it is told to look. Image mode brings the picture over the line, which takes `picture_s`; in sensor mode the
template goes to the module, which compares. It keeps both in its RAM until the next ones come.
"""

import asyncio
from collections.abc import Container
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from drivers.base import DeviceFault, Emit, Print
from drivers.fingerprint import Wish, Wishes, numbers
from drivers.links import ByteLink
from gated.lane.events import Device as Part
from gated.lane.events import DeviceReady, Door, Touch

COMMAND, DATA, ACK, END = 0x01, 0x02, 0x07, 0x08
"""Package identifiers; END is the last of a run of DATA."""
GEN_IMG, IMG2TZ, MATCH, UP_CHAR, DOWN_CHAR, UP_IMAGE = 0x01, 0x02, 0x03, 0x08, 0x09, 0x0A
SET_SYS_PARA, READ_SYS_PARA, VFY_PWD, GET_IMAGE_EX = 0x0E, 0x0F, 0x13, 0x28
GET_FW_VER, READ_PROD_INFO = 0x3A, 0x3C

OK, PACKET_ERROR, NO_FINGER, NO_MATCH, WRONG_PASSWORD = 0x00, 0x01, 0x02, 0x08, 0x13
CAPTURE_ADVICE = {0x03: Touch.HOLD_FINGER, 0x07: Touch.PRESS_HARDER}
"""03 "fail to collect finger", 07 (GetImageEx alone) "poor image quality"."""
FEATURE_ADVICE = {0x06: Touch.CLEAN_FINGER, 0x07: Touch.CENTRE_FINGER, 0x15: Touch.LIFT_FINGER}
"""06 "over-disorderly fingerprint image", 07 "lackness of character point or over-smallness", 15 "lackness of valid
primary image"."""

_HEADER = b"\xef\x01"
_CONTENT_MAX = 256
_FETCH_MAX = 1 << 17
"""No picture or template is longer than so many bytes."""
_LIVE, _ENROLLED = 1, 2
"""CharBuffers. An R503 has only the latest features and its ModelBuffer, and takes either number."""


@dataclass(frozen=True, slots=True)
class Model:
    """What the manual says of a family. `informs`: it knows GetImageEx, GetFwVer and ReadProdInfo."""

    width: int
    height: int
    ppi: float
    informs: bool


MODELS = {"r30x": Model(256, 288, 500.0, False), "r503": Model(192, 192, 508.0, True)}


@dataclass(frozen=True, slots=True)
class Settings:
    """[fingerprint]. `mode`: "image" brings the picture, "sensor" lets the module compare templates of its own kind."""

    link: ClassVar[str] = "serial"
    port: str
    baud_rate: int = 57600
    """The module keeps its own rate in its flash (9600 times N, N = 1 to 12); this is that rate."""
    model: str = "r30x"
    mode: str = "image"
    address: int = 0xFFFFFFFF
    password: int = field(default=0, repr=False)
    product: str = ""
    """How the module type must begin (r503 alone); "": any."""
    firmware_min: str = ""
    """The oldest firmware that will do, like "1.2" (r503 alone); "": any."""
    width: int = 0  # 0: the model's own
    height: int = 0
    upside_down: bool = False
    """The module is mounted with its cable towards the fingertip."""
    poll_s: float = 0.15
    alive_every_s: float = 2.0
    """How often an idle module is spoken to, so that one that hangs is found."""
    answer_s_max: float = 2.0
    frame_gap_s: float = 0.25
    """After trouble the line must have been silent for so long before it is used again."""
    tries: int = 3
    security_level: int = 3
    """1 to 5, the module's own threshold; written into the module where it has another (sensor mode alone)."""
    sensor_score_min: float = 1.0
    """1: the module's own verdict counts. Above: a match must also score so much."""
    sensor_fmr: float = 1e-5
    """The manual's "FAR < 0.001 %" for security level 3."""

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f'model "{self.model}" is r30x or r503')
        if self.mode not in ("image", "sensor"):
            raise ValueError(f'mode "{self.mode}" is image or sensor')
        if (self.firmware_min or self.product) and not MODELS[self.model].informs:
            raise ValueError(f"a module of model {self.model} does not tell product and firmware: leave them out")
        if self.firmware_min and not numbers(self.firmware_min):
            raise ValueError('firmware_min is numbers with dots, like "1.2", or "" for any')
        if not 0 <= self.address <= 0xFFFFFFFF or not 0 <= self.password <= 0xFFFFFFFF:
            raise ValueError("address and password are 0 to 0xFFFFFFFF")
        seconds = (self.poll_s, self.alive_every_s, self.answer_s_max, self.frame_gap_s)
        if self.baud_rate <= 0 or self.tries < 1 or min(seconds) <= 0:
            raise ValueError("baud_rate, tries, poll_s, alive_every_s, answer_s_max and frame_gap_s are above 0")
        if min(self.width, self.height) < 0 or (self.width or self.size[1]) % 2 or not 1 <= self.security_level <= 5:
            raise ValueError("width and height are 0 or more, width is even, security_level is 1 to 5")
        if self.sensor_score_min < 1 or not 0 < self.sensor_fmr < 1:
            raise ValueError("sensor_score_min is 1 or more, sensor_fmr between 0 and 1")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture."""
        model = MODELS[self.model]
        return self.height or model.height, self.width or model.width

    @property
    def picture_s(self) -> float:
        """Seconds that a picture takes over the line (4 bits a pixel, 128 bytes a package); 0 in sensor mode."""
        height, width = self.size
        return 0.0 if self.mode == "sensor" else height * width / 2 * (139 / 128) * 10 / self.baud_rate


@dataclass(frozen=True, slots=True)
class Packet:
    """One package; `content` is what stands between length and checksum."""

    kind: int
    content: bytes = field(repr=False)


def encode(packet: Packet, address: int = 0xFFFFFFFF) -> bytes:
    """The bytes of a package. "Package length" counts content and checksum; the checksum is "the arithmetic sum of
    package identifier, package length and all package contents", carry omitted; "high byte transferred first"."""
    counted = bytes((packet.kind,)) + (len(packet.content) + 2).to_bytes(2, "big") + packet.content
    return _HEADER + address.to_bytes(4, "big") + counted + (sum(counted) & 0xFFFF).to_bytes(2, "big")


class Codec:
    """Bytes -> packages of one address. Never raises; holds at most one package; resyncs on the next header."""

    def __init__(self, address: int = 0xFFFFFFFF) -> None:
        self._start = _HEADER + address.to_bytes(4, "big")
        self._held = bytearray()
        self.skipped = 0
        """Bytes that belonged to no package, so far."""

    @property
    def held(self) -> int:
        """Bytes kept for later."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Packet]:
        """Every package that `data` completes."""
        self._held += data
        found: list[Packet] = []
        while self._held:
            at = self._held.find(self._start[0])
            if at != 0:
                self._skip(len(self._held) if at < 0 else at)
                continue
            size = self._size()
            if size is None:
                break
            packet = self._packet(bytes(self._held[:size])) if size else None
            if packet is None:  # not a package after all: look for the next header inside of it
                self._skip(1)
            else:
                found.append(packet)
                del self._held[:size]
        return found

    def silence(self) -> None:
        """The line fell silent: what is half is given up."""
        self._skip(len(self._held))

    def _size(self) -> int | None:
        """Length of the package at the front; None while that is not known, 0 when it cannot become one."""
        held = bytes(self._held[:9])
        if not self._start.startswith(held[:6]) or (len(held) > 6 and held[6] not in (COMMAND, DATA, ACK, END)):
            return 0
        if len(held) < 9:
            return None
        length = int.from_bytes(held[7:9], "big")
        if not 3 <= length <= _CONTENT_MAX + 2:
            return 0
        return 9 + length if len(self._held) >= 9 + length else None

    @staticmethod
    def _packet(raw: bytes) -> Packet | None:
        good = sum(raw[6:-2]) & 0xFFFF == int.from_bytes(raw[-2:], "big")
        return Packet(raw[6], raw[9:-2]) if good else None

    def _skip(self, count: int) -> None:
        self.skipped += count
        del self._held[:count]


def unpack(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The picture in what UpImage brought, (height, width). "Only the upper 4 bits of the pixel is transferred ... two
    adjacent pixels of the same row will form a byte": left pixel in the high nibble, 15 becomes 255."""
    packed = np.frombuffer(data, np.uint8).reshape(height, width // 2)
    picture = np.empty((height, width), np.uint8)
    picture[:, 0::2] = packed >> 4
    picture[:, 1::2] = packed & 0x0F
    return picture * np.uint8(17)


def parameters(told: bytes) -> tuple[int, int]:
    """Security level and greatest package content out of the eight words of ReadSysPara."""
    return told[7], 32 << (told[13] & 3)


class Device:
    """The module. `run` alone uses the line; `scan` and `lifted` leave a wish with it, which may be given up any time.

    A picture that is on its way when its wish is given up is heard to its end and thrown away: a module cannot be
    stopped in the middle of one, and the next wish is served after it."""

    def __init__(self, settings: Settings, link: ByteLink, side: Door = Door.A) -> None:
        sensor = settings.mode == "sensor"
        self.compares = "zfm" if sensor else ""
        self.threshold, self.fmr = settings.sensor_score_min, settings.sensor_fmr if sensor else 1.0
        self._settings, self._link = settings, link
        self._model = MODELS[settings.model]
        self._codec = Codec(settings.address)
        self._packets: list[Packet] = []
        self._packet_max, self._heard = 128, 0
        self._wishes = Wishes()

    async def scan(self, template: bytes | None = None) -> Print:
        """See `drivers.base.FingerReader`. Without a template: a picture, in either mode."""
        assert template is None or (self.compares and template), "a reader in image mode compares nothing"
        return await self._wishes.scan(template)

    async def lifted(self) -> None:
        """See `drivers.base.FingerReader`."""
        await self._wishes.lifted()

    async def run(self, emit: Emit) -> None:
        """See `drivers.base.Driver`."""
        try:
            await self._link.open()
            await self._settle()
            await self._start()
            self._wishes.open()
            emit(DeviceReady(Part.FINGERPRINT))
            while True:
                wish = await self._wishes.next(self._settings.alive_every_s)
                if wish is None:
                    await self._verify()
                else:
                    wish.grant(await (self._scan(wish) if wish.scan else self._until_off(wish)))
                del wish  # it holds template and picture
        finally:
            self._wishes.close()
            await self._link.close()

    # -- what is done with the module

    async def _start(self) -> None:
        await self._verify()
        _, told = await self._ask(READ_SYS_PARA, size=16)
        level, self._packet_max = parameters(told)
        if self.compares and level != self._settings.security_level:
            await self._ask(SET_SYS_PARA, bytes((5, self._settings.security_level)))
        if self._model.informs:
            await self._identify()

    async def _identify(self) -> None:
        """ReadProdInfo: type 16, batch 4, serial 8, hardware 2, sensor 8, width 2, height 2, template 2, database 2."""
        wanted = self._settings
        code, known = await self._ask(READ_PROD_INFO, size=46, may=range(0x02, 0x100))
        product = known[:16].rstrip(b"\0 ").decode("ascii", "replace")
        if code != OK or not product.startswith(wanted.product):
            raise DeviceFault("wrong_model", f"{wanted.port}: not a {wanted.model} {wanted.product}".rstrip())
        width, height = int.from_bytes(known[38:40], "big"), int.from_bytes(known[40:42], "big")
        if (height, width) != wanted.size:
            raise DeviceFault("wrong_size", f"{wanted.port}: {width} x {height}")
        if wanted.firmware_min:
            _, version = await self._ask(GET_FW_VER, size=32)
            if numbers(version.decode("ascii", "replace")) < numbers(wanted.firmware_min):
                raise DeviceFault("stale_firmware", f"{wanted.port}: below {wanted.firmware_min}")

    async def _verify(self) -> None:
        code, _ = await self._ask(VFY_PWD, self._settings.password.to_bytes(4, "big"), may=(WRONG_PASSWORD,))
        if code == WRONG_PASSWORD:
            raise DeviceFault("wrong_password", self._settings.port)

    async def _capture(self) -> int:
        """Look once. OK, NO_FINGER, or a code of CAPTURE_ADVICE."""
        instruction = GET_IMAGE_EX if self._model.informs else GEN_IMG
        code, _ = await self._ask(instruction, may=(NO_FINGER, *CAPTURE_ADVICE))
        return code

    async def _until_off(self, wish: Wish) -> None:
        while not wish.over and await self._capture() != NO_FINGER:
            await wish.pause(self._settings.poll_s)

    async def _scan(self, wish: Wish) -> Print | None:
        loop = asyncio.get_running_loop()
        while not wish.over:
            mono = loop.time()  # before it looks, so that a print is never older than it says
            code = await self._capture()
            if wish.over:
                break
            if code in CAPTURE_ADVICE:
                return Print(None, self._model.ppi, mono, CAPTURE_ADVICE[code].value)
            if code == OK:
                return await (self._picture(mono) if wish.template is None else self._compare(wish.template, mono))
            await wish.pause(self._settings.poll_s)
        return None

    async def _picture(self, mono: float) -> Print:
        height, width = self._settings.size
        image = unpack(await self._fetch(UP_IMAGE, b"", height * width // 2), height, width)
        return Print(image[::-1, ::-1] if self._settings.upside_down else image, self._model.ppi, mono)

    async def _compare(self, template: bytes, mono: float) -> Print:
        code, _ = await self._ask(IMG2TZ, bytes((_LIVE,)), may=FEATURE_ADVICE)
        if code != OK:
            return Print(None, self._model.ppi, mono, FEATURE_ADVICE[code].value)
        await self._put(template)
        code, score = await self._ask(MATCH, size=2, may=(NO_MATCH,))
        return Print(None, self._model.ppi, mono, score=float(int.from_bytes(score, "big")) if code == OK else 0.0)

    async def _put(self, template: bytes) -> None:
        """Template -> module. Data packages are not acknowledged, so it is read back: a lost one must not leave the
        template of the passenger before in place."""
        pieces = [template[at : at + self._packet_max] for at in range(0, len(template), self._packet_max)]
        for _ in range(self._settings.tries):
            await self._ask(DOWN_CHAR, bytes((_ENROLLED,)))
            for piece in pieces[:-1]:
                await self._link.write(encode(Packet(DATA, piece), self._settings.address))
            await self._link.write(encode(Packet(END, pieces[-1]), self._settings.address))
            if await self._fetch(UP_CHAR, bytes((_ENROLLED,)), None) == template:
                return
            await self._settle()
        raise DeviceFault("garbled", f"{self._settings.port}: the template does not arrive")

    # -- the line

    async def _ask(
        self, instruction: int, parameters: bytes = b"", size: int = 0, may: Container[int] = ()
    ) -> tuple[int, bytes]:
        """One command until it is acknowledged: its code (OK or one of `may`) and the `size` bytes behind OK."""
        heard = self._heard
        for _ in range(self._settings.tries):
            await self._link.write(encode(Packet(COMMAND, bytes((instruction,)) + parameters), self._settings.address))
            packet = await self._hear()
            if packet is not None and packet.kind == ACK:
                code, rest = packet.content[0], packet.content[1:]
                if code in may or (code == OK and len(rest) == size):
                    return code, rest
                if code not in (OK, PACKET_ERROR):
                    raise DeviceFault("refused", f"{self._settings.port}: {instruction:02X}h answered {code:02X}h")
            await self._settle()
        raise DeviceFault("no_answer" if self._heard == heard else "garbled", self._settings.port)

    async def _fetch(self, instruction: int, parameters: bytes, size: int | None) -> bytes:
        """What the module sends behind its acknowledgement. Sent again whole where a package was lost or damaged."""
        for _ in range(self._settings.tries):
            await self._ask(instruction, parameters)
            skipped, data, kind = self._codec.skipped, bytearray(), DATA
            while kind == DATA and len(data) <= _FETCH_MAX and (packet := await self._hear()) is not None:
                kind = packet.kind
                data += packet.content
            if kind == END and self._codec.skipped == skipped:
                if size is not None and len(data) != size:
                    raise DeviceFault("wrong_size", f"{self._settings.port}: {len(data)} bytes, not {size}")
                return bytes(data)
            await self._settle()
        raise DeviceFault("garbled", f"{self._settings.port}: no whole picture or template in {self._settings.tries}")

    async def _hear(self) -> Packet | None:
        """The next package, or None where none is complete in time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.answer_s_max
        while not self._packets and loop.time() < end:
            try:
                async with asyncio.timeout_at(end):
                    data = await self._link.read()
            except TimeoutError:
                break
            self._heard += len(data)
            self._packets += self._codec.feed(data)
        return self._packets.pop(0) if self._packets else None

    async def _settle(self) -> None:
        """After trouble: hear the line out, so that what is late is not taken for the next answer."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.answer_s_max + _FETCH_MAX * 10 / self._settings.baud_rate
        while loop.time() < end:
            try:
                async with asyncio.timeout(self._settings.frame_gap_s):
                    self._heard += len(await self._link.read())
            except TimeoutError:
                self._codec.silence()
                self._packets.clear()
                return
        raise DeviceFault("garbled", f"{self._settings.port}: the line is never silent")
