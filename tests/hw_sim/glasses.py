"""The fingerprint readers of a demonstration: lane.toml's section, the link in the lane, the mirror in the world.

The real chains are: a pseudo terminal for zfm; pyusb over a back end that leads to a socket for usb_image; the helper
process and libfprint's own virtual_image for libfprint, whose mirror listens to the helper and so lives beside it, in
the lane's process, and is told by the world through a socket when a finger is laid on."""

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from drivers.links import LinkLost
from gated.biometrics.finger import FingerEngine
from gated.biometrics.fingermatch import compare
from gated.biometrics.minutiae import Minutiae
from gated.biometrics.template import FingerTemplate, decode, encode
from tests.hw_sim.fprint_sensor import VirtualSensor
from tests.hw_sim.pty import Pty
from tests.hw_sim.touch import Picture
from tests.hw_sim.uru_reader import UruReader
from tests.hw_sim.usb_backend import SocketBackend, UsbPort
from tests.hw_sim.zfm_sensor import ZfmSensor

BAUD_RATE = 115200
"""At the modules' own 57600 a picture takes more than seven seconds."""
MINUTIAE_MAX = 75
"""As many as go into the 512 bytes of a module's template."""
_HEAD = struct.Struct("=HH")
"""Height and width of the picture that follows; nothing follows, and both are zero, where a finger is lifted."""


@dataclass(frozen=True)
class Model:
    """A reader to choose for a demonstration. `size`: (width, height) of the pictures that touch its mirror."""

    driver: str
    size: tuple[int, int]
    options: str = ""
    finger_s: float = 8.0
    """One placement, with the picture's way to the lane."""


READERS: dict[str, Model | None] = {
    "usb_image": Model("usb_image", (328, 355)),
    "libfprint": Model("libfprint", (256, 288), 'scan_type = "any"'),
    "zfm": Model("zfm", (256, 288), finger_s=12.0),
    "zfm-sensor": Model("zfm", (256, 288), 'mode = "sensor"'),
    "none": None,
}
"""By what `--finger-reader` calls them. The last but one compares in the module itself."""


def section(reader: str, folder: Path) -> str:
    """What lane.toml says of it. `folder`: for sockets and terminals."""
    model = READERS[reader]
    if model is None:
        return ""
    port = f'port = "{_terminal(folder)}"\nbaud_rate = {BAUD_RATE}\n' if model.driver == "zfm" else ""
    return f'[fingerprint]\ndriver = "{model.driver}"\n{port}{model.options}\n\n[finger]\nthreshold = "fmr_1e-3"\n'


def _terminal(folder: Path) -> Path:
    return folder / "fingerprint"


def _bus(folder: Path) -> Path:
    return folder / "usb"


def _hand(folder: Path) -> Path:
    return folder / "hand.sock"


# -- in the lane's process ------------------------------------------------------------------------------------


def link(settings: Any, folder: Path) -> Any:
    """The link below the driver in place of a real device; None where a real one leads to the mirror by itself.

    Within the running loop."""
    if settings.link == "usb":
        from drivers.links.usb import UsbDevice

        return UsbDevice(settings.vendor_id, settings.product_id, backend=SocketBackend(_bus(folder)))
    if settings.link == "fprint":
        return _Beside(VirtualSensor(settings.python), _hand(folder)).link
    return None


class _Beside:
    """libfprint's mirror, and the ear by which it hears of fingers."""

    def __init__(self, sensor: VirtualSensor, path: Path) -> None:
        self.sensor = sensor
        self.link = sensor.link
        self._path = path
        self._tasks = [asyncio.ensure_future(sensor.run()), asyncio.ensure_future(self._listen())]

    async def _listen(self) -> None:
        self._path.unlink(missing_ok=True)
        await asyncio.start_unix_server(self._hear, self._path)

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        height, width = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        if height:
            pixels = np.frombuffer(await reader.readexactly(height * width), np.uint8)
            await self.sensor.touch(pixels.reshape(height, width))
        else:
            await self.sensor.lift()
        writer.close()


# -- in the world ------------------------------------------------------------------------------------------------


class Remote:
    """The glass of a mirror that lives in the lane's process."""

    captures = 0

    def __init__(self, path: Path) -> None:
        self._path = path

    async def touch(self, picture: Picture) -> None:
        await self._tell(_HEAD.pack(*picture.shape) + picture.tobytes())

    async def lift(self) -> None:
        await self._tell(_HEAD.pack(0, 0))

    async def _tell(self, what: bytes) -> None:
        try:
            _, writer = await asyncio.open_unix_connection(self._path)
        except OSError:
            raise LinkLost("gone") from None
        writer.write(what)
        await writer.drain()
        writer.close()


class Glassware:
    """The reader on the world's side: `sensor` is what hands touch."""

    def __init__(self, reader: str, folder: Path, random: Random, engine: Callable[[], FingerEngine]) -> None:
        """`engine`: what a module that compares by itself does it with."""
        model = READERS[reader]
        assert model is not None
        self.model = model
        self.sensor: Any
        self._ends: list[Callable[[], Any]] = []
        self._mirror: asyncio.Task[None] | None = None
        if model.driver == "usb_image":
            self.sensor = UruReader(random, aslant=True)
            _bus(folder).mkdir()
            port = UsbPort(self.sensor, _bus(folder) / "1")
            port.plug()
            self._ends.append(port.unplug)
        elif model.driver == "zfm":
            pty = Pty(link=_terminal(folder))
            self.sensor = module(reader, pty, random, engine)
            self._ends.append(pty.unplug)
        else:
            self.sensor = Remote(_hand(folder))

    def start(self) -> None:
        """The mirror lives from now on."""
        if not isinstance(self.sensor, Remote):
            self._mirror = asyncio.ensure_future(self.sensor.run())

    async def stop(self) -> None:
        """Idempotent."""
        for end in self._ends:
            end()
        self._ends.clear()
        if self._mirror is not None:
            self._mirror.cancel()
            await asyncio.gather(self._mirror, return_exceptions=True)


def module(reader: str, link: Any, random: Random, engine: Callable[[], FingerEngine]) -> ZfmSensor:
    """A serial module; one that compares does so with the real network and the real comparator."""
    if reader == "zfm":
        return ZfmSensor(link, random, baud_rate=BAUD_RATE)
    inner = engine()

    def features(picture: Picture) -> bytes:
        found = inner.extract(picture, 500)
        best = np.argsort(-found.quality.astype(int), kind="stable")[:MINUTIAE_MAX]
        x, y, angle, kind, quality = found.x, found.y, found.angle, found.kind, found.quality
        kept = Minutiae(x[best], y[best], angle[best], kind[best], quality[best], found.width, found.height)
        return encode(FingerTemplate.of(kept, None, 0))

    def score(one: bytes, other: bytes) -> int:
        a, b = (decode(each).views[0].minutiae for each in (one, other))
        return round(150 * compare(a, b))

    return ZfmSensor(link, random, baud_rate=BAUD_RATE, features=features, compare=score)
