"""Every reader that libfprint takes pictures with, by way of a helper process (`drivers/links/fprint_helper.py`).

Sources: libfprint 1.94 reference manual (FpContext, FpDevice, FpImage) and its behaviour, tried on 1.94.5. libfprint
normalises pictures (ridges dark, fingertip up) by what each of its drivers states. Readers that keep prints on their
chip and give no picture are refused: they compare what was enrolled on themselves, never HQ's enrolments.
"""

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from drivers.base import DeviceFault, Emit, Print
from drivers.fingerprint import Wish, Wishes, numbers
from drivers.links import ByteLink
from drivers.links.fprint_helper import PROTOCOL, Codec, Frame, encode
from gated.lane.events import Device as Part
from gated.lane.events import DeviceReady, Door, Touch

PPI_ASSUMED = 500.0
"""Where libfprint says 0: "assumed to be fixed to 500 points per inch for most drivers" (fp_image_get_ppmm)."""
SIDE_MAX = 4096
"""Pixels; no reader's picture is wider or higher."""

ADVICE = {
    "too-short": Touch.HOLD_FINGER,
    "too-fast": Touch.HOLD_FINGER,
    "center-finger": Touch.CENTRE_FINGER,
    "remove-finger": Touch.LIFT_FINGER,
    "general": Touch.LIFT_FINGER,
}
"""FpDeviceRetry (too-fast since 1.94.9). GENERAL: "due to poor scan quality or other general user scanning problem"."""


@dataclass(frozen=True, slots=True)
class Settings:
    """[fingerprint]. Where libfprint finds one reader, nothing need be said."""

    link: ClassVar[str] = "fprint"
    reader: str = ""
    """libfprint's own driver of the reader that was ordered, like "uru4000"; "": any."""
    device: str = ""
    """Its device id or, where there are two of a kind, its USB port, like "usb:01:00:02"; "": the only one."""
    python: str = "/usr/bin/python3"
    """The interpreter for which gi is installed."""
    ppi: float = 0.0
    """0: what libfprint says, and 500 where it says nothing. U.are.U 4000 and 4500 have 512."""
    width: int = 0
    height: int = 0
    """0: any."""
    upside_down: bool = False
    """The reader is mounted with its cable towards the fingertip."""
    scan_type: str = "press"
    """"press"; "any" allows swipe sensors too, whose pictures are put together from strips and are never quite true."""
    libfprint_min: str = ""
    """The oldest libfprint that will do, like "1.94.5"; "": any."""
    firmware_min: str = ""
    """The oldest firmware of the reader that will do (USB's bcdDevice, like "1.03"); "": any."""
    start_s_max: float = 15.0
    """For the helper to start and libfprint to claim the reader, each; some readers are given their firmware first."""
    alive_every_s: float = 2.0
    answer_s_max: float = 3.0
    """How often the helper is asked whether it is there, and how long it may take to say so."""
    cool_s: float = 60.0
    """libfprint switches a reader off after three minutes of uninterrupted use; it then rests for so long."""

    def __post_init__(self) -> None:
        if self.scan_type not in ("press", "any"):
            raise ValueError(f'scan_type is "press" or "any", not "{self.scan_type}"')
        if min(self.start_s_max, self.alive_every_s, self.answer_s_max) <= 0:
            raise ValueError("start_s_max, alive_every_s and answer_s_max are above 0")
        if min(self.width, self.height, self.ppi, self.cool_s) < 0:
            raise ValueError("width, height, ppi and cool_s are 0 or above")
        for name in ("libfprint_min", "firmware_min"):
            if not re.fullmatch(r"(\d+(\.\d+)*)?", getattr(self, name)):
                raise ValueError(f'{name} is numbers with dots, like "1.94", or "" for any')
        if not self.python.startswith("/"):
            raise ValueError(f"python is the whole path of the system's Python, not {self.python!r}")


@dataclass(frozen=True, slots=True)
class Reader:
    """What the helper says of a reader. `pictures`: it has the features CAPTURE and IDENTIFY."""

    number: int
    driver: str
    device: str
    port: str
    firmware: str
    scan: str
    pictures: bool


def readers(hello: Frame) -> list[Reader]:
    """The readers that libfprint found. Raises `DeviceFault` for a hello that is none of ours."""
    said = hello.header
    if said.get("protocol") != PROTOCOL:
        raise DeviceFault("wrong_helper", f"protocol {PROTOCOL} is ours")
    try:
        return [
            Reader(
                number=number,
                pictures=bool(each["pictures"]),
                **{name: str(each[name]) for name in ("driver", "device", "port", "firmware", "scan")},
            )
            for number, each in enumerate(said["readers"])
        ]
    except (KeyError, TypeError) as error:
        raise DeviceFault("wrong_helper", "hello is incomplete") from error


def choose(settings: Settings, found: list[Reader]) -> Reader:
    """The reader that was ordered. Raises `DeviceFault`."""
    if not found:
        raise DeviceFault("no_reader", "libfprint knows none of what is plugged in")
    listed = ", ".join(f"{each.driver} {each.port or each.device}" for each in found)
    fitting = [
        each
        for each in found
        if settings.reader in ("", each.driver) and settings.device in ("", each.device, each.port)
    ]
    if not fitting:
        ordered = " ".join(filter(None, (settings.reader, settings.device)))
        raise DeviceFault("wrong_model", f"no {ordered}, but {listed}")
    if len(fitting) > 1:
        raise DeviceFault("several_readers", f"{listed}: say which with reader and device")
    reader = fitting[0]
    if not reader.pictures:
        raise DeviceFault(
            "wrong_model",
            f"{reader.driver} gives no pictures: it compares prints enrolled on its own chip, never HQ's enrolments",
        )
    if reader.scan != "press" and settings.scan_type != "any":
        raise DeviceFault("wrong_model", f'{reader.driver} is a swipe sensor: scan_type = "any" would allow it')
    if settings.firmware_min and numbers(reader.firmware) < numbers(settings.firmware_min):
        raise DeviceFault("stale_firmware", f"{reader.driver}: {reader.firmware or 'none'} < {settings.firmware_min}")
    return reader


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """The wish that the helper serves. What it says to any other number was given up."""

    number: int
    wish: Wish


class Device:
    """The reader. One question at a time goes to the helper."""

    compares = ""
    threshold = 0.0
    fmr = 1.0

    def __init__(self, settings: Settings, link: ByteLink, side: Door = Door.A) -> None:
        self._settings = settings
        self._link = link
        self._wishes = Wishes()
        self._codec = Codec()
        self._writing = asyncio.Lock()
        self._number = 0
        self._asked: _Asked | None = None
        self._heard_mono = 0.0
        self._ponged: Any = 0
        self._cool_mono = 0.0

    async def scan(self, template: bytes | None = None) -> Print:
        """See `drivers.base.FingerReader`."""
        assert template is None, "libfprint is asked for pictures alone"
        return await self._wishes.scan()

    async def lifted(self) -> None:
        """See `drivers.base.FingerReader`. The sensor looks for a third of a second where no scan has gone before."""
        await self._wishes.lifted()

    async def run(self, emit: Emit) -> None:
        """See `drivers.base.Driver`."""
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._cool_mono - loop.time())
            await self._link.open()
            self._codec, self._asked = Codec(), None
            await self._start()
            self._heard_mono = loop.time()
            self._wishes.open()
            emit(DeviceReady(Part.FINGERPRINT))
            await _together(self._serve(), self._listen(), self._watch())
        finally:
            self._wishes.close()
            await self._link.close()

    # -- before it is ready

    async def _start(self) -> None:
        settings = self._settings
        hello = await self._await("hello")
        found = readers(hello)
        if not found and hello.header.get("usb") is False:
            raise DeviceFault("no_libusb", "USB does not start: the unit needs gated-lane.service.d/usb-reader.conf")
        version = str(hello.header.get("libfprint", ""))
        if settings.libfprint_min and numbers(version) < numbers(settings.libfprint_min):
            raise DeviceFault("stale_firmware", f"libfprint {version or '?'} is below {settings.libfprint_min}")
        reader = choose(settings, found)
        await self._say("open", reader=reader.number)
        await self._await("opened")

    async def _await(self, say: str) -> Frame:
        """The next frame that says so. Raises `DeviceFault` for `no_answer` and for what else may come instead."""
        try:
            async with asyncio.timeout(self._settings.start_s_max):
                while True:
                    for frame in self._feed(await self._link.read()):
                        self._judge(frame)
                        if frame.header.get("say") == say:
                            return frame
        except TimeoutError as error:
            raise DeviceFault("no_answer", f"no {say} within {self._settings.start_s_max:g} s") from error

    # -- while it runs

    async def _say(self, do: str, **more: int) -> int:
        """Ask the helper; the number of the question. One at a time, or their bytes would mingle."""
        self._number += 1
        number = self._number
        async with self._writing:
            await self._link.write(encode(Frame({"do": do, "id": number, **more})))
        return number

    async def _serve(self) -> None:
        while True:
            wish = await self._wishes.next()
            assert wish is not None, "next waits for ever"
            self._asked = _Asked(self._number + 1, wish)
            await self._say("scan" if wish.scan else "lifted")
            await asyncio.wait((wish.answer,))
            self._asked = None
            if wish.answer.cancelled():
                await self._say("cancel")
            del wish  # it holds the picture

    async def _listen(self) -> None:
        while True:
            self._take(await self._link.read())

    def _take(self, data: bytes) -> None:
        self._heard_mono = asyncio.get_running_loop().time()
        for frame in self._feed(data):
            self._heard(frame)

    async def _watch(self) -> None:
        """A helper that hangs answers no ping. Any bytes at all are a sign of life: a picture may take its time."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.alive_every_s)
            pinged, number = loop.time(), await self._say("ping")
            while self._ponged != number:
                if loop.time() >= max(pinged, self._heard_mono) + self._settings.answer_s_max:
                    raise DeviceFault("no_answer", f"the helper is mute for {self._settings.answer_s_max:g} s")
                await asyncio.sleep(self._settings.answer_s_max / 10)

    def _feed(self, data: bytes) -> list[Frame]:
        frames = self._codec.feed(data)
        if self._codec.skipped:
            raise DeviceFault("garbled", "the helper says what is no frame")
        return frames

    def _heard(self, frame: Frame) -> None:
        self._judge(frame)
        said, asked = frame.header, self._asked
        if said.get("say") == "pong":
            self._ponged = said.get("id")
        elif asked is not None and said.get("id") == asked.number:
            if (said.get("say") in ("picture", "retry")) is not asked.wish.scan:
                raise DeviceFault("garbled", "an answer to another question")
            asked.wish.grant(self._print(frame) if asked.wish.scan else None)

    def _print(self, frame: Frame) -> Print:
        said = frame.header
        mono = min(said["mono"], asyncio.get_running_loop().time())  # one clock: the helper's monotonic time is ours
        if said["say"] == "retry":
            return Print(None, self._ppi(0.0), mono, ADVICE.get(str(said.get("why")), Touch.LIFT_FINGER).value)
        image = np.frombuffer(frame.body, np.uint8).reshape(said["height"], said["width"])
        turned = image[::-1, ::-1] if self._settings.upside_down else image
        return Print(turned, self._ppi(said["ppmm"]), mono)

    def _judge(self, frame: Frame) -> None:
        """Raises `DeviceFault` where the helper tells of one."""
        said = frame.header
        if said.get("say") == "gone":
            raise DeviceFault("gone", "the reader was pulled out")
        if said.get("say") == "failed":
            why = str(said.get("why"))
            if why == "too_hot":
                self._cool_mono = asyncio.get_running_loop().time() + self._settings.cool_s
            raise DeviceFault(why, str(said.get("text", ""))[:200])
        if said.get("say") == "picture":
            self._measure(frame)
        if said.get("say") in ("picture", "retry") and not isinstance(said.get("mono"), float):
            raise DeviceFault("garbled", "a picture of no time")

    def _measure(self, frame: Frame) -> None:
        """Raises `DeviceFault` for a picture that is not of the size that it says, or of the size that was ordered."""
        width, height, ppmm = (frame.header.get(name) for name in ("width", "height", "ppmm"))
        if not (isinstance(width, int) and isinstance(height, int) and isinstance(ppmm, float)):
            raise DeviceFault("garbled", "a picture of no size")
        wanted = self._settings
        if not 0 < width <= SIDE_MAX or not 0 < height <= SIDE_MAX:
            raise DeviceFault("wrong_size", f"{width} x {height}")
        if width * height != len(frame.body):
            raise DeviceFault("garbled", "a picture of another size than it says")
        if wanted.width not in (0, width) or wanted.height not in (0, height):
            ordered = f"{wanted.width or 'any'} x {wanted.height or 'any'}"
            raise DeviceFault("wrong_size", f"{width} x {height} instead of {ordered}")

    def _ppi(self, ppmm: float) -> float:
        return self._settings.ppi or round(ppmm * 25.4, 1) or PPI_ASSUMED


async def _together(*work: Coroutine[Any, Any, None]) -> None:
    """Until the first of them raises; the others end with it."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
