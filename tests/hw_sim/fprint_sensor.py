"""A finger for libfprint's own virtual_image reader, below the real helper process.

virtual_image's socket takes pairs of int32 in the machine's order: width and height before a picture; -1 and a retry
code; -3 and whether fingers come and go by themselves; -4 and whether one lies on; -5 for "pulled out".
"""

import asyncio
import os
import signal
import struct
import tempfile
from pathlib import Path
from typing import Any

from drivers.links import ByteLink
from drivers.links.fprint import FprintProcess
from tests.hw_sim.fprint_memory import Unpacker
from tests.hw_sim.touch import Fault, Glass, Picture


class VirtualSensor(Glass):
    """A finger on libfprint's virtual_image. `link` starts the real helper with the environment that this takes.

    The socket tells nobody whether the reader looks, so the requests that pass through `link` are listened to: a finger
    shows when a picture or its being lifted is asked for, again until there is an answer."""

    SHOW_AFTER_S = 0.03
    AGAIN_S = 0.1

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
        self._shown = self._looked = False

    # -- what passes through the link

    def heard(self, said: dict[str, Any]) -> None:
        """A frame in either direction."""
        what = said.get("do") or said.get("say")
        if what == "opened":
            self.opened.set()
        elif what == "scan" or (what == "lifted" and "do" in said and not self._shown):
            self.captures += 1
            self._looked = True
            self._shows = 3 if what == "lifted" else 100
            self._show_mono = asyncio.get_running_loop().time() + self.SHOW_AFTER_S
        elif what in ("picture", "retry", "cancel", "lifted"):
            self._shows = 0
            self._shown = self._shown and what not in ("retry", "cancel")

    def ended(self) -> None:
        """The process is gone."""
        self.opened.clear()
        self._shows = 0
        self._shown = self._looked = False

    # -- the glass

    async def lift(self) -> None:
        await super().lift()
        await self._off()

    def stall(self) -> None:
        super().stall()
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        super().resume()
        self._signal(signal.SIGCONT)

    def started(self) -> None:
        """A new process."""
        if self.stalled:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        if self.process.pid is not None:
            os.kill(self.process.pid, number)

    def unplug(self) -> None:
        self.env["FP_DRIVERS_WHITELIST"] = "none"
        if self._out is not None and self._looked:
            self._out.write(struct.pack("=ii", -5, 0))
        else:  # virtual_image reads nothing before it was switched on for the first time
            self._signal(signal.SIGKILL)

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
                await asyncio.sleep(0.02)  # the process ended; the next one opens anew
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
                self._show_mono = now + self.AGAIN_S
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
        self._sensor.started()

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
