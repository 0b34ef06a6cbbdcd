"""The other side of a camera: an HTTP server of MJPEG on the loopback, and a video link for virtual time."""

import asyncio
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from drivers.base import Frame
from drivers.links import LinkLost

BOUNDARY = b"frame"
GRAINS = 3
"""So many noisy versions of each picture take turns: a real sensor never gives the same picture twice."""


class Fault(Enum):
    """What a camera can do wrong."""

    FREEZE = "freeze"
    """The same picture again and again."""
    BLACK = "black"
    WRONG_SIZE = "wrong_size"
    STALL = "stall"
    """The connection stays, no more pictures come."""
    DISCONNECT = "disconnect"
    """The connection ends, and new ones are refused."""
    BLACK_HOLE = "black_hole"
    """Connections are taken and never answered."""
    GARBAGE = "garbage"
    """Every second picture is cut short."""


@lru_cache(maxsize=16)
def _noise(shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.int16)


def noisy(image: np.ndarray[Any, Any], seed: int = 0) -> np.ndarray[Any, Any]:
    """`image` with the noise of a sensor, standard deviation 3; one of `GRAINS` patterns."""
    return cv2.add(image.astype(np.int16), _noise(image.shape, seed % GRAINS), dtype=cv2.CV_8U)


class MjpegServer:
    """A camera at `url`. Shows grey until `show` is called. `async with`, or `start` and `stop`."""

    def __init__(self, port: int = 0, fps: float = 15.0, size: tuple[int, int] = (640, 480)) -> None:
        self._port, self._fps = port, fps
        self._pictures: dict[int, bytes] = {}
        self._fault: Fault | None = None
        self._server: asyncio.Server | None = None
        self._streams: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.served = 0
        """Pictures sent so far, to all."""
        self.show(np.full((size[1], size[0], 3), 128, np.uint8))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/stream.mjpg"

    def show(self, image: np.ndarray[Any, Any] | bytes) -> None:
        """From the next picture on show `image`: BGR uint8, or the bytes of a picture file."""
        if isinstance(image, bytes):
            decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
            if decoded is None:
                raise ValueError("these bytes are no picture")
            image = decoded
        self._image = image
        self._pictures = {}

    async def fault(self, fault: Fault | None) -> None:
        """Go wrong from now on; None: work again."""
        before, self._fault = self._fault, fault
        if fault is Fault.DISCONNECT:
            await self.stop()
        elif before is Fault.DISCONNECT:
            await self.start()

    async def start(self) -> None:
        """Listen; the port stays the same over a `Fault.DISCONNECT`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and end the old ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in self._streams.values():
            writer.transport.abort()
        await asyncio.gather(*self._streams)

    async def __aenter__(self) -> "MjpegServer":
        await self.start()
        return self

    async def __aexit__(self, *why: object) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._streams[task] = writer
        try:
            await reader.readuntil(b"\r\n\r\n")
            while self._fault is Fault.BLACK_HOLE and not writer.is_closing():
                await asyncio.sleep(0.05)
            writer.write(
                b"HTTP/1.0 200 OK\r\nCache-Control: no-store\r\n"
                b"Content-Type: multipart/x-mixed-replace; boundary=" + BOUNDARY + b"\r\n\r\n"
            )
            number = 0
            while not writer.is_closing():
                if self._fault not in (Fault.STALL, Fault.BLACK_HOLE):
                    picture = self._picture(number)
                    head = b"--%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (BOUNDARY, len(picture))
                    writer.write(head + picture + b"\r\n")
                    await writer.drain()
                    self.served += 1
                    number += 1
                await asyncio.sleep(1 / self._fps)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the lane hung up
        finally:
            del self._streams[task]
            writer.close()

    def _picture(self, number: int) -> bytes:
        match self._fault:
            case Fault.FREEZE:
                return self._shown(0)
            case Fault.BLACK:
                return _jpeg(noisy(np.zeros_like(self._image), number))
            case Fault.WRONG_SIZE:
                return _jpeg(noisy(self._image[: self._image.shape[0] // 2, : self._image.shape[1] // 2], number))
            case Fault.GARBAGE if number % 2:
                return self._shown(0)[: len(self._shown(0)) // 3]
            case _:
                return self._shown(number % GRAINS)

    def _shown(self, grain: int) -> bytes:
        if grain not in self._pictures:
            self._pictures[grain] = _jpeg(noisy(self._image, grain))
        return self._pictures[grain]


def _jpeg(image: np.ndarray[Any, Any]) -> bytes:
    good, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert good
    return data.tobytes()


class MemoryVideo:
    """A `VideoLink` for virtual time: `look` gives what the camera sees now (a token, or an array).

    Where a fault shows pictures (freeze, black, wrong size) they are arrays of `size` (width, height): whoever looks
    at tokens sees nobody in an array, and the camera's driver judges arrays as it does on a gate.
    """

    def __init__(
        self,
        look: Callable[[], Any],
        fps: float = 10.0,
        read_timeout_s: float = 2.0,
        size: tuple[int, int] = (32, 32),
    ) -> None:
        self.fault: Fault | None = None
        """What goes wrong from now on."""
        self._look, self._fps, self._read_timeout_s = look, fps, read_timeout_s
        self._blank = np.full((size[1], size[0], 3), 128, np.uint8)
        self._open = False
        self._number = 0

    async def open(self) -> None:
        if self.fault is Fault.BLACK_HOLE:
            await asyncio.sleep(self._read_timeout_s)
            raise LinkLost("open_timeout")
        if self.fault is Fault.DISCONNECT:
            raise LinkLost("cannot_open")
        self._open = True

    async def read(self) -> Frame:
        if not self._open:
            raise LinkLost("not_open")
        await asyncio.sleep(1 / self._fps)
        if self.fault in (Fault.STALL, Fault.BLACK_HOLE):
            await asyncio.sleep(self._read_timeout_s)
            raise LinkLost("read_timeout")
        if self.fault is Fault.DISCONNECT:
            raise LinkLost("no_picture")
        self._number += 1
        return Frame(self._picture(), asyncio.get_running_loop().time())

    async def close(self) -> None:
        self._open = False

    def _picture(self) -> Any:
        match self.fault:
            case Fault.FREEZE:
                return self._blank
            case Fault.BLACK:
                return noisy(np.zeros_like(self._blank), self._number)
            case Fault.WRONG_SIZE:
                return noisy(self._blank[::2, ::2], self._number)
            case _:
                return self._look()
