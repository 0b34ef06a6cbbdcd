"""Mirrors of a libfprint reader: `VirtualSensor` plays pictures into libfprint's own virtual_image reader, below the
real helper process; `MemoryHelper` is helper, libfprint and reader in one, for virtual time.

Nothing is imported from the helper, whose frames are written here once more. virtual_image's socket takes pairs of
int32 in the machine's order: width and height before a picture; -1 and a retry code; -3 and whether fingers come and go
by themselves; -4 and whether one lies on; -5 for "pulled out".
"""

import asyncio
import json
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

from drivers.links import ByteLink, LinkLost
from drivers.links.fprint import FprintProcess
from tests.hw_sim.links import MemoryByteLink
from tests.hw_sim.touch import Fault, Glass, Picture

LIBFPRINT = "1.94.5"
LOOK_S = 0.02
EXPOSURE_S = 0.15
PROBE_S = 0.3


def pack(header: dict[str, Any], body: bytes = b"") -> bytes:
    """A frame of the helper's protocol."""
    text = json.dumps(header).encode()
    return b"GFP1" + struct.pack(">III", len(text), len(body), zlib.crc32(text + body)) + text + body


class Unpacker:
    """Bytes -> headers and bodies. What is no frame is an error."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """Raises `ValueError`."""
        self._held += data
        found = []
        while len(self._held) >= 16:
            magic, head, body, check = struct.unpack(">4sIII", self._held[:16])
            if magic != b"GFP1" or head > 65536:
                raise ValueError("no frame")
            if len(self._held) < 16 + head + body:
                break
            text, rest = self._held[16 : 16 + head], self._held[16 + head : 16 + head + body]
            if zlib.crc32(text + rest) != check:
                raise ValueError("bad check")
            found.append((json.loads(text), rest))
            self._held = self._held[16 + head + body :]
        return found


class MemoryHelper(Glass):
    """The helper process, libfprint and a press sensor. `link` is what the driver opens: each `open` is a new process.

    Also the USB cable between reader and machine."""

    def __init__(self, **reader: Any) -> None:
        super().__init__()
        self.found = [
            {
                "driver": "uru4000",
                "device": "0",
                "name": "a mirror",
                "port": "usb:01:00:02",
                "firmware": "1.03",
                "scan": "press",
                "pictures": True,
                "ppmm": 0.0,
                **reader,
            }
        ]
        """What libfprint finds. `ppmm` is told with pictures."""
        self.link: ByteLink = _MemoryProcess(self)
        self.fail: str | None = None
        """The next scan ends in this failure."""
        self.plugged = True
        self._process: MemoryByteLink | None = None
        self._action: asyncio.Task[None] | None = None
        self._lying = False
        """The action has brought its picture and waits for the finger to go."""
        self._pulled = asyncio.Event()

    async def run(self) -> None:
        """The reader has power; everything else is the process's."""
        await asyncio.Event().wait()

    def plug(self) -> None:
        self.plugged = True

    def unplug(self) -> None:
        self.plugged = False
        self._pulled.set()

    async def live(self, far: MemoryByteLink) -> None:
        """One life of the process. Ends when it cannot understand what it is told."""
        self._process, self._action = far, None
        self._pulled.clear()
        pulled = asyncio.ensure_future(self._gone())
        unpacker = Unpacker()
        try:
            version = "1.90.1" if self.has(Fault.STALE_FIRMWARE) else LIBFPRINT
            await self._say({"say": "hello", "protocol": 1, "libfprint": version, "readers": self._readers()})
            while True:
                data = await far.read()
                for said, _ in [] if self.stalled else unpacker.feed(data):
                    await self._obey(said)
        except (ValueError, LinkLost):
            return
        finally:
            pulled.cancel()
            self._dark()
            self._process = None

    def _readers(self) -> list[dict[str, Any]]:
        changed = {"driver": "synaptics", "pictures": False} if self.has(Fault.WRONG_MODEL) else {}
        return [{**each, **changed} for each in self.found] if self.plugged else []

    async def _gone(self) -> None:
        await self._pulled.wait()
        self._dark()
        await self._say({"say": "gone"})

    async def _say(self, header: dict[str, Any], body: bytes = b"") -> None:
        await self._bytes(pack(header, body))

    async def _bytes(self, data: bytes) -> None:
        if self._process is not None and not self.stalled:
            await self._process.write(data)

    async def _obey(self, said: dict[str, Any]) -> None:
        do, id = said["do"], said["id"]
        if do == "ping":
            await self._say({"say": "pong", "id": id})
        elif do == "open":
            await asyncio.sleep(0.1)
            await self._say({"say": "opened", "id": id})
        elif do == "scan":
            self._dark()
            self._action = asyncio.ensure_future(self._scan(id))
        elif do == "lifted":
            if not self._lying:
                self._dark()
            before = self._action
            self._action = asyncio.ensure_future(self._watch(id, before))
        elif do == "cancel":
            self._dark()
        else:
            raise ValueError(f"{do} is no request")

    def _dark(self) -> None:
        self._lying = False
        if self._action is not None:
            self._action.cancel()
            self._action = None

    async def _look(self) -> Picture | None:
        await asyncio.sleep(LOOK_S)
        self.captures += 1
        return self.picture

    async def _scan(self, id: int) -> None:
        if self.fail is not None:
            why, self.fail = self.fail, None
            await self._say({"say": "failed", "why": why, "text": "as libfprint puts it"})
            return
        while True:
            if await self._look() is None:
                continue
            mono = asyncio.get_running_loop().time()
            await asyncio.sleep(EXPOSURE_S)
            picture = self.picture
            if picture is not None:
                break
        self._lying = True
        if self.take(Fault.MESSY):
            await self._say({"say": "retry", "id": id, "mono": mono, "why": "center-finger"})
        else:
            await self._show(id, mono, picture)
        await self._until_off()

    async def _show(self, id: int, mono: float, picture: Picture) -> None:
        height, width = picture.shape
        if self.has(Fault.WRONG_SIZE):
            height -= 1
        size = {"width": width, "height": height, "ppmm": self.found[0]["ppmm"]}
        data = bytearray(pack({"say": "picture", "id": id, "mono": mono, **size}, picture[:height].tobytes()))
        if self.take(Fault.GARBLE):
            data[len(data) // 2] ^= 0x10
        if self.take(Fault.HALF):
            del data[len(data) // 2 :]
        await self._bytes(bytes(data))

    async def _watch(self, id: int, before: "asyncio.Task[None] | None") -> None:
        """libfprint's own wait for the finger to go, or a look of our own."""
        if before is not None:
            before.cancel()
        elif not await self._probe():
            await self._say({"say": "lifted", "id": id})
            return
        await self._until_off()
        await self._say({"say": "lifted", "id": id})

    async def _probe(self) -> bool:
        end = asyncio.get_running_loop().time() + PROBE_S
        while asyncio.get_running_loop().time() < end:
            if await self._look() is not None:
                return True
        return False

    async def _until_off(self) -> None:
        while await self._look() is not None:
            continue
        self._lying = False
        self._action = None


class _MemoryProcess:
    """The pipes of `MemoryHelper`."""

    def __init__(self, helper: MemoryHelper) -> None:
        self._helper = helper
        self._near, self._far = MemoryByteLink.pair()
        self._life: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.close()
        self._near, self._far = MemoryByteLink.pair()
        await self._near.open()
        await self._far.open()
        self._life = asyncio.ensure_future(self._helper.live(self._far))
        self._life.add_done_callback(lambda _, near=self._near: near.unplug())  # type: ignore[misc]

    async def read(self) -> bytes:
        try:
            return await self._near.read()
        except LinkLost:
            raise LinkLost("gone") from None

    async def write(self, data: bytes) -> None:
        try:
            await self._near.write(data)
        except LinkLost:
            raise LinkLost("gone") from None

    async def close(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
        await self._near.close()


class VirtualSensor(Glass):
    """A finger on libfprint's virtual_image. `link` starts the real helper with the environment that this takes.

    The socket tells nobody whether the reader looks, so the requests that pass through `link` are listened to: a finger
    shows when a picture or its being lifted is asked for, again until there is an answer."""

    SHOW_AFTER_S = 0.03

    def __init__(self, python: str = "/usr/bin/python3") -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="fprint-")
        self._path = Path(self._folder.name) / "reader"
        self.env = {"FP_VIRTUAL_IMAGE": str(self._path), "FP_DRIVERS_WHITELIST": "virtual_image"}
        self.process = FprintProcess(python, extra_env=self.env)
        self.link: ByteLink = _Tapped(self.process, self)
        self.opened = asyncio.Event()
        self._shows = 0
        """So many times more the finger is shown; libfprint loses what it is shown before it looks."""
        self._show_mono = 0.0
        self._out: asyncio.StreamWriter | None = None
        self._shown = False

    # -- what passes through the link

    def heard(self, said: dict[str, Any]) -> None:
        """A frame in either direction."""
        what = said.get("do") or said.get("say")
        if what == "opened":
            self.opened.set()
        elif what == "scan" or (what == "lifted" and "do" in said and not self._shown):
            self.captures += 1
            self._shows = 3 if what == "lifted" else 100
            self._show_mono = asyncio.get_running_loop().time() + self.SHOW_AFTER_S
        elif what in ("picture", "retry", "cancel", "lifted"):
            self._shows = 0
            self._shown = self._shown and what not in ("retry", "cancel")

    def ended(self) -> None:
        """The process is gone."""
        self.opened.clear()
        self._shows = 0
        self._shown = False

    # -- the glass

    async def lift(self) -> None:
        await super().lift()
        await self._off()

    def unplug(self) -> None:
        self.env["FP_DRIVERS_WHITELIST"] = "none"
        if self._out is not None:
            self._out.write(struct.pack("=ii", -5, 0))

    def plug(self) -> None:
        self.env["FP_DRIVERS_WHITELIST"] = "virtual_image"

    async def run(self) -> None:
        """Connect whenever the reader is open, and show the finger that lies there whenever it is asked for."""
        while True:
            await self.opened.wait()
            try:
                _, self._out = await asyncio.open_unix_connection(self._path)
                await self._send(struct.pack("=ii", -3, 0))
                await self._play()
            except OSError:
                await asyncio.sleep(LOOK_S)  # the process ended; the next one opens anew
            finally:
                if self._out is not None:
                    self._out.close()
                self._out = None

    async def _play(self) -> None:
        while self.opened.is_set():
            await asyncio.sleep(self.SHOW_AFTER_S)
            now = asyncio.get_running_loop().time()
            if self._shows and now >= self._show_mono and self.picture is not None:
                self._shows -= 1
                self._show_mono = now + PROBE_S / 3
                await self._show(self.picture)

    async def _show(self, picture: Picture) -> None:
        height, width = picture.shape
        self._shown = True
        on = struct.pack("=ii", -4, 1)
        if self.take(Fault.MESSY):
            await self._send(on + struct.pack("=ii", -1, 2))
        else:
            await self._send(on + struct.pack("=ii", width, height) + picture.tobytes())

    async def _off(self) -> None:
        if self._shown:
            self._shown = False
            await self._send(struct.pack("=ii", -4, 0))

    async def _send(self, data: bytes) -> None:
        if self._out is not None:
            self._out.write(data)
            await self._out.drain()


class _Tapped:
    """A link whose frames are listened to."""

    def __init__(self, link: ByteLink, sensor: VirtualSensor) -> None:
        self._link = link
        self._sensor = sensor

    async def open(self) -> None:
        self._sensor.ended()
        self._ears = Unpacker(), Unpacker()
        await self._link.open()

    async def read(self) -> bytes:
        data = await self._link.read()
        for said, _ in self._ears[0].feed(data):
            self._sensor.heard(said)
        return data

    async def write(self, data: bytes) -> None:
        for said, _ in self._ears[1].feed(data):
            self._sensor.heard(said)
        await self._link.write(data)

    async def close(self) -> None:
        self._sensor.ended()
        await self._link.close()
