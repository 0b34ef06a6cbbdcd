"""Pictures over OpenCV's capture, which is imported here alone: V4L2, HTTP MJPEG, RTSP, and files in a laboratory.

The capture lives in one hidden thread that keeps the newest picture only. OpenCV cannot be interrupted, so the
loop's own guard reports a silent source, and the thread ends when OpenCV's time-outs let it.
"""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import structlog

from drivers.base import Frame
from drivers.links import LinkLost
from drivers.links.sources import Kind, kind_of, redacted

_log = structlog.get_logger()

OPEN_GUARD_S = 0.3
"""How much longer than OpenCV's own open time-out the loop waits before it gives the thread up."""

FILE_FPS = 25.0
"""The pace of a file that does not tell its own."""

END_S_MAX = 3.0
"""How long `close` waits for the thread beyond the time-outs that OpenCV was given."""


class OpenCvLink:
    """The newest picture of `source`. `width`, `height`, `fps` 0: as the source gives them.

    V4L2 is asked for `width`, `height`, `fps`; a network stream gives its own size, and pictures beyond `fps` are
    not converted; a file is paced at its own rate (or `fps`) and starts again at its end unless `repeat` is false.
    """

    def __init__(
        self,
        source: str | int,
        open_timeout_s: float = 5.0,
        read_timeout_s: float = 2.0,
        width: int = 0,
        height: int = 0,
        fps: float = 0.0,
        *,
        repeat: bool = True,
    ) -> None:
        if open_timeout_s <= 0 or read_timeout_s <= 0 or min(width, height, fps) < 0:
            raise ValueError("open_timeout_s and read_timeout_s must be above 0; width, height, fps not below")
        self._source = str(source)
        self._open_timeout_s = open_timeout_s
        self._read_timeout_s = read_timeout_s
        self._size = (width, height)
        self._fps = fps
        self._repeat = repeat
        self._capture: _Capture | None = None

    async def open(self) -> None:
        """Connect. Raises `LinkLost`: cannot_open, open_timeout, capture_stuck (the last thread still hangs)."""
        await self.close()
        if self._capture is not None:
            raise LinkLost("capture_stuck", redacted(self._source))
        self._capture = capture = _Capture(self._open, asyncio.get_running_loop())
        asked = capture.loop.time()
        capture.start()
        try:
            async with asyncio.timeout(self._open_timeout_s + OPEN_GUARD_S):
                await capture.opened()
        except (TimeoutError, LinkLost) as error:
            capture.stop()
            late = capture.loop.time() - asked >= self._open_timeout_s
            why = "open_timeout" if late or isinstance(error, TimeoutError) else error.why
            raise LinkLost(why, redacted(self._source)) from None

    async def read(self) -> Frame:
        """The newest picture that was not returned yet, within the read time-out. Safe to cancel. Raises `LinkLost`."""
        capture = self._capture
        if capture is None:
            raise LinkLost("not_open", redacted(self._source))
        try:
            async with asyncio.timeout(self._read_timeout_s):
                return await capture.frame()
        except TimeoutError:
            raise LinkLost("read_timeout", redacted(self._source)) from None
        except LinkLost as lost:
            raise LinkLost(lost.why, redacted(self._source)) from None

    async def close(self) -> None:
        """Idempotent; never raises. Waits for the thread as long as OpenCV's time-outs say it can take."""
        capture = self._capture
        if capture is None:
            return
        capture.stop()
        if await capture.ended(max(self._open_timeout_s, self._read_timeout_s) + END_S_MAX):
            self._capture = None
        else:
            _log.error("video capture hangs", source=redacted(self._source))

    def _open(self) -> "_Source":
        """In the thread: connect. Raises `LinkLost`."""
        kind = kind_of(self._source)
        if kind is Kind.V4L2:
            where: str | int = int(self._source) if self._source.isdigit() else self._source
            video = cv2.VideoCapture(where, cv2.CAP_V4L2)
        else:
            limits = (
                *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(self._open_timeout_s * 1000)),
                *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(self._read_timeout_s * 1000)),
                # more decoding threads would each hold a picture back
                *(cv2.CAP_PROP_N_THREADS, 1),
            )
            video = cv2.VideoCapture(self._source, cv2.CAP_FFMPEG, limits)
        if not video.isOpened():
            video.release()
            raise LinkLost("cannot_open")
        if kind is Kind.V4L2:
            for option, value in (
                (cv2.CAP_PROP_FRAME_WIDTH, self._size[0]),
                (cv2.CAP_PROP_FRAME_HEIGHT, self._size[1]),
                (cv2.CAP_PROP_FPS, self._fps),
                (cv2.CAP_PROP_BUFFERSIZE, 1),
            ):
                if value:
                    video.set(option, value)
            return _Source(video, self._read_timeout_s)
        if kind is Kind.FILE:
            own = float(video.get(cv2.CAP_PROP_FPS))
            interval_s = 1.0 / (self._fps or (own if own > 0 else FILE_FPS))
            return _Source(video, self._read_timeout_s, interval_s, paced=True, repeat=self._repeat)
        return _Source(video, self._read_timeout_s, 1.0 / self._fps if self._fps else 0.0)


@dataclass(frozen=True, slots=True)
class _Source:
    """An open `cv2.VideoCapture`, the seconds between two pictures, and whether we have to keep that pace ourselves."""

    video: Any
    read_timeout_s: float
    interval_s: float = 0.0
    paced: bool = False
    repeat: bool = False


class _Capture(threading.Thread):
    """The thread that owns the capture, and what the loop knows of it. One reader."""

    def __init__(
        self,
        make: Callable[[], _Source],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(name="video-capture", daemon=True)
        self._make, self.loop = make, loop
        self._halt = threading.Event()
        # the rest belongs to the loop
        self._up = False
        self._over = False
        self._newest: Frame | None = None
        self._lost: LinkLost | None = None
        self._news = asyncio.Event()

    # -- in the loop

    async def opened(self) -> None:
        while not self._up:
            await self._hear()

    async def frame(self) -> Frame:
        while self._newest is None:
            await self._hear()
        frame, self._newest = self._newest, None
        return frame

    async def ended(self, within_s: float) -> bool:
        """Whether the thread is gone, waiting for it."""
        try:
            async with asyncio.timeout(within_s):
                while not self._over:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        self.join()  # its last act was to say so
        return True

    def stop(self) -> None:
        self._halt.set()

    async def _hear(self) -> None:
        if self._lost is not None:
            raise self._lost
        self._news.clear()
        await self._news.wait()

    def _note(
        self, up: bool = False, frame: Frame | None = None, lost: LinkLost | None = None, over: bool = False
    ) -> None:
        self._up |= up
        self._newest = frame or self._newest
        self._lost = lost or self._lost
        self._over |= over
        if over:
            self._lost = self._lost or LinkLost("capture_ended")
        self._news.set()

    # -- in the thread

    def run(self) -> None:
        try:
            source = self._make()
            try:
                self._tell(up=True)
                self._pump(source)
            finally:
                source.video.release()
        except LinkLost as lost:
            self._tell(lost=lost)
        except cv2.error as error:
            self._tell(lost=LinkLost("capture_failed", str(error)))
        finally:
            self._tell(over=True)

    def _pump(self, source: _Source) -> None:
        video = source.video
        due = self.loop.time()
        while not self._halt.is_set():
            if source.paced and self._halt.wait(max(0.0, due - self.loop.time())):
                return
            asked = self.loop.time()
            if not video.grab():
                if self.loop.time() - asked >= source.read_timeout_s:
                    raise LinkLost("read_timeout")
                again = source.repeat and video.set(cv2.CAP_PROP_POS_FRAMES, 0) and video.grab()
                if not again:
                    raise LinkLost("end_of_file" if source.paced else "no_picture")
            now = self.loop.time()
            if now < due and not source.paced:
                continue
            due = max(due, now - source.interval_s) + source.interval_s
            good, image = video.retrieve()
            if not good or image is None:
                raise LinkLost("no_picture")
            self._tell(frame=Frame(image, self.loop.time()))

    def _tell(self, **news: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(lambda: self._note(**news))
        except RuntimeError:  # the loop is closed: nobody is left to tell, so nothing is left to do
            self._halt.set()
