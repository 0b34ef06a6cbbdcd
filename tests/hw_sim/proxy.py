"""A TCP line that can be made bad while it runs: late, slow, cut, reset, or dead without saying so.

Its event loop runs in a thread of its own, so tests, threads and asyncio programs use it alike."""

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

CHUNK: Final = 16 * 1024
"""Bytes read at once. A throttled line passes on a tenth of a second's worth at a time."""
CHUNKS_MAX: Final = 64
"""So much is under way in a direction before its sender has to wait."""
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: closing sends RST, and throws away what was not sent."""
Ends = tuple[asyncio.StreamWriter, asyncio.StreamWriter]
Waiting = asyncio.Queue[tuple[float, bytes]]
"""(when it may go on, bytes), the end as no bytes."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong at present. `lost`: directions whose bytes vanish: `up`, towards the port behind, and `down`."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    lost: frozenset[str] = frozenset()
    bytes_per_s: float | None = None


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and forwards to `target` there. Each fault replaces the one before; `normal`
    ends it. Every method may be called from any thread but the proxy's own."""

    def __init__(self, target: int) -> None:
        self._target, self._faults = target, Faults()
        self._lines: dict[Ends, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self.port = 0
        """Where to connect to; it stays the same while connections are refused."""
        self.connections = 0
        """How many were taken so far."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self.normal()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def normal(self) -> None:
        """Bytes pass at once and connections are taken. A connection that bytes are missing of stays dead."""
        self._do(self._set(Faults()))

    def delay(self, seconds: float, jitter_s: float = 0.0) -> None:
        """What comes from now on arrives later by `seconds` and up to `jitter_s` more, in its order."""
        self._do(self._set(Faults(delay_s=seconds, jitter_s=jitter_s)))

    def throttle(self, bytes_per_s: float) -> None:
        """Each direction of each connection passes on so many bytes a second."""
        self._do(self._set(Faults(bytes_per_s=bytes_per_s)))

    def half_open(self, *, up: bool = True, down: bool = True) -> None:
        """Bytes, and ends of connections, vanish in the directions named; nobody is told. New connections too."""
        ways = {"up": up, "down": down}
        self._do(self._set(Faults(lost=frozenset(way for way in ways if ways[way]))))

    def drop(self) -> None:
        """Every connection is closed, and new ones are refused until `normal` or another fault."""
        self._do(self._refuse())

    def reset(self) -> None:
        """Every connection ends with an RST at both its ends. New ones are taken and pass as before."""
        self._do(self._end_all(RESET))

    # -- in the loop's thread

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _set(self, faults: Faults) -> None:
        self._faults = faults
        if self._server is None:
            self._server = await asyncio.start_server(self._taken, "127.0.0.1", self.port, limit=CHUNK, backlog=1024)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server, self._faults = None, Faults()
        await self._end_all()

    async def _end_all(self, linger: bytes | None = None) -> None:
        tasks = list(self._lines.values())
        for ends in list(self._lines):
            _end(ends, linger)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _taken(self, up: asyncio.StreamReader, here: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            down, there = await asyncio.open_connection("127.0.0.1", self._target, limit=CHUNK)
        except OSError:
            here.transport.abort()  # nobody listens behind: the caller sees its connection end
            return
        if self._server is None:  # dropped while we called
            _end((here, there))
            return
        self._lines[here, there] = asyncio.create_task(self._line(up, down, (here, there)))

    async def _line(self, up: asyncio.StreamReader, down: asyncio.StreamReader, ends: Ends) -> None:
        try:
            async with asyncio.TaskGroup() as ways:
                for way, source, sink in (("up", up, ends[1]), ("down", down, ends[0])):
                    waiting = Waiting(CHUNKS_MAX)
                    ways.create_task(self._read(source, waiting))
                    ways.create_task(self._write(way, waiting, sink))
        finally:
            _end(ends)
            self._lines.pop(ends, None)

    async def _read(self, source: asyncio.StreamReader, waiting: Waiting) -> None:
        due, data = 0.0, b"-"
        while data:
            try:
                data = await source.read(CHUNK)
            except OSError:
                data = b""
            due = max(due, time.monotonic() + self._faults.delay_s + random.uniform(0, self._faults.jitter_s))
            await waiting.put((due, data))

    async def _write(self, way: str, waiting: Waiting, sink: asyncio.StreamWriter) -> None:
        """Until the end of the source, which ends the sink too. Where bytes vanished nothing follows, not even the end:
        TCP never goes on behind a gap."""
        data, dead = b"-", False
        while data:
            due, data = await waiting.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            dead = dead or way in self._faults.lost
            if not dead:
                await self._put(sink, data)

    async def _put(self, sink: asyncio.StreamWriter, data: bytes) -> None:
        try:
            if not data:
                sink.close()
            while data and not sink.is_closing():
                rate = self._faults.bytes_per_s
                part = data if rate is None else data[: max(1, int(rate / 10))]
                if rate is not None:
                    await asyncio.sleep(len(part) / rate)
                sink.write(part)
                await sink.drain()
                data = data[len(part) :]
        except OSError:
            sink.transport.abort()  # gone meanwhile: its own direction ends by itself


def _end(ends: Ends, linger: bytes | None = None) -> None:
    for writer in ends:
        if linger is not None and not writer.is_closing():
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
