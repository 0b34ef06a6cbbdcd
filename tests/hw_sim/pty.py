"""A pseudo terminal: a driver opens its path as a serial port, a mirror talks at the other end. Linux only."""

import asyncio
import os
import tty
from pathlib import Path
from typing import Any

from drivers.links import LinkLost


class Pty:
    """Both ends of a cable: `path` is the port, `Pty` itself is the byte link of the mirror's end.

    With `link` the port is reached through that symbolic link, which stays the same over `unplug` and `plug`."""

    def __init__(self, link: Path | None = None) -> None:
        self._link = link
        self._master = self._slave = -1
        self._news = asyncio.Event()
        self._writing = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.plug()

    @property
    def path(self) -> str:
        """What the driver opens."""
        return str(self._link) if self._link else self._port

    def plug(self) -> None:
        """Make a new pair of descriptors. The slave is kept open: without any opener the master would read errors."""
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._port = os.ttyname(self._slave)
        if self._link:
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(self._port)
        self._news.set()

    def unplug(self) -> None:
        """Close both descriptors: whoever has the port open sees it hang up. Idempotent."""
        if self._master < 0:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._master)
            self._loop.remove_writer(self._master)
        os.close(self._master)
        os.close(self._slave)
        self._master = self._slave = -1
        if self._link:
            self._link.unlink(missing_ok=True)
        self._news.set()

    async def open(self) -> None:
        """Raises `LinkLost` while unplugged."""
        self._descriptor()

    async def read(self) -> bytes:
        """At least one byte from the driver."""
        loop = asyncio.get_running_loop()
        while True:
            fd = self._descriptor()
            try:
                if data := os.read(fd, 4096):
                    return data
            except BlockingIOError:
                await self._ready(fd, loop.add_reader, loop.remove_reader)

    async def write(self, data: bytes) -> None:
        """All of `data` towards the driver, after whatever is being written: a loop knows one writer a descriptor."""
        loop = asyncio.get_running_loop()
        left = memoryview(data)
        async with self._writing:
            while left:
                fd = self._descriptor()
                try:
                    left = left[os.write(fd, left) :]
                except BlockingIOError:
                    await self._ready(fd, loop.add_writer, loop.remove_writer)

    async def close(self) -> None:
        """Nothing to do: the cable outlives its mirror; `unplug` ends it."""

    async def _ready(self, fd: int, add: Any, remove: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._news.clear()
        add(fd, self._news.set)
        try:
            await self._news.wait()
        finally:
            if self._master == fd:
                remove(fd)

    def _descriptor(self) -> int:
        if self._master < 0:
            raise LinkLost("unplugged")
        return self._master
