"""The libfprint helper, libfprint and a reader in one, in memory: for virtual time.

Nothing is imported from the helper, whose frames are written here once more.
"""

import asyncio
import json
import struct
import zlib
from typing import Any

from drivers.links import ByteLink, LinkLost
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
        self.plugged = self.usb = True
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
            hello = {"say": "hello", "protocol": 1, "libfprint": version, "usb": self.usb}
            await self._say({**hello, "readers": self._readers()})
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
