"""A camera over any video link: hands out the newest picture, and notices one that is frozen, black or of wrong size.

A picture equal to the one before is never handed out: a frozen stream must not pass off the last passenger as
present. OpenCV's capture is in drivers/links/video.py; this file needs pictures alone and imports none of it.
"""

import asyncio
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from drivers.base import DeviceFault, Emit, Frame
from drivers.links import VideoLink
from drivers.links.sources import Kind, kind_of
from gated.lane.events import Device as LaneDevice
from gated.lane.events import DeviceReady, Door

STEP = 8
"""Every so many rows and columns are looked at: 0.05 ms for 1280x720, and sensor noise reaches all of them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """[camera]."""

    source: str = field(repr=False)
    """/dev/video0, http://... (MJPEG), rtsp://...; may hold a password, so it is never shown."""
    allow_file: bool = False
    """A file instead of a camera, for a laboratory. Never on a gate: anybody's film would be a face."""
    width: int = 0
    height: int = 0
    """0: as the source gives it; else any other size is a fault."""
    fps: float = 0.0
    open_timeout_s: float = 5.0
    read_timeout_s: float = 2.0
    latency_s: float = 0.1
    """From exposure to here, at most: pictures count as taken so much earlier than they came."""
    freeze_s_max: float = 5.0
    """Longer than the stream's key frame interval: an encoder may repeat a still scene exactly."""
    black_s_max: float = 3.0
    black_mean_max: float = 12.0
    black_std_max: float = 6.0
    """Mean and standard deviation of all samples, 0 to 255, below which a picture is black."""

    def __post_init__(self) -> None:
        if kind_of(self.source) is Kind.FILE and not self.allow_file:
            raise ValueError("source names a file and allow_file is false: a gate needs a camera")
        for name in ("open_timeout_s", "read_timeout_s", "freeze_s_max", "black_s_max"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("width", "height", "fps", "latency_s", "black_mean_max", "black_std_max"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be below 0")


@dataclass(frozen=True, slots=True)
class Sample:
    """What is looked at of a picture: a digest of every `STEP`th row and column, their mean and standard deviation."""

    digest: int
    mean: float
    std: float


def sample(image: Any) -> Sample | None:
    """The sample of a BGR uint8 array (height, width, 3); None for a token of the simulated world."""
    if not isinstance(image, np.ndarray):
        return None
    points = np.ascontiguousarray(image[::STEP, ::STEP])
    return Sample(zlib.crc32(points.tobytes()), float(points.mean()), float(points.std()))


class Watchman:
    """Says of each picture whether it is news, and raises `DeviceFault` when there was none for too long. No I/O."""

    def __init__(self, settings: Settings, mono: float) -> None:
        self._settings = settings
        self._digest: int | None = None
        self._changed_mono = mono
        self._lit_mono = mono

    def good(self, frame: Frame) -> tuple[bool, bool]:
        """(new, lit): differs from the picture before; is not black. Raises `DeviceFault` frozen, black, wrong_size."""
        seen = sample(frame.image)
        if seen is None:
            return True, True
        s = self._settings
        height, width = frame.image.shape[:2]
        if (s.width and width != s.width) or (s.height and height != s.height):
            raise DeviceFault("wrong_size", f"{width}x{height} instead of {s.width or 'any'}x{s.height or 'any'}")
        new = seen.digest != self._digest
        lit = seen.mean >= s.black_mean_max or seen.std >= s.black_std_max
        if new:
            self._digest, self._changed_mono = seen.digest, frame.mono
        if lit:
            self._lit_mono = frame.mono
        if frame.mono - self._lit_mono > s.black_s_max:
            raise DeviceFault("black", f"no light for {s.black_s_max:g} s")
        if frame.mono - self._changed_mono > s.freeze_s_max:
            raise DeviceFault("frozen", f"the same picture for {s.freeze_s_max:g} s")
        return new, lit


class Device:
    """A latest-frame source. `side` is not used: a lane has one camera, between its doors."""

    def __init__(self, settings: Settings, link: VideoLink, side: Door = Door.A) -> None:
        self._settings = settings
        self._link = link
        self._frame: Frame | None = None
        self._lost: DeviceFault | None = DeviceFault("not_started")
        self._waiting: set[asyncio.Future[None]] = set()

    async def run(self, emit: Emit) -> None:
        """`DeviceReady` after the first picture with light in it, then pictures for `next`. Ends by `DeviceFault`."""
        self._lost = None
        try:
            await self._link.open()
            watchman = Watchman(self._settings, asyncio.get_running_loop().time())
            ready = False
            while True:
                frame = await self._link.read()
                new, lit = watchman.good(frame)
                if lit and not ready:
                    ready = True
                    emit(DeviceReady(LaneDevice.CAMERA))
                if new and ready:
                    self._frame = Frame(frame.image, frame.mono - self._settings.latency_s)
                    self._wake()
        except DeviceFault as fault:
            self._lost = fault
            raise
        finally:
            self._lost = self._lost or DeviceFault("stopped")
            self._frame = None
            self._wake()
            await self._link.close()

    async def next(self, after_mono: float) -> Frame:
        """The newest picture taken after `after_mono`, waiting for it. Raises `DeviceFault` when the camera is lost."""
        while True:
            if self._lost is not None:
                raise DeviceFault(self._lost.why)
            if self._frame is not None and self._frame.mono > after_mono:
                return self._frame
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
