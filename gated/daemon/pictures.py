"""Pictures that HQ is given of a verdict, as the policy says: JPEG in parts, each a record that is sealed to HQ.

A picture is made of a frame that the matcher holds already, on a worker of its own, so that nobody is looked at for
longer, and no comparison waits (L8). Nothing of it is logged or written anywhere but as sealed records."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import structlog

from gated.biometrics.capture import Candidate
from gated.daemon.workers import Workers
from gated.daemon.writer import Job
from gated.lane.commands import KeepPicture
from gated.lane.events import Now
from gated.logs import told
from gated.wire.facts import ATTACHMENT_BYTES_MAX, PART_BYTES_MAX, AttachmentPart

log = structlog.get_logger()

CASE: Final = "case_picture"
MEDIA: Final = "image/jpeg"
FACE_MARGIN: Final = 0.5
"""Of the face's box, left on each side of it."""
TRIES: Final = ((1600, 90), (1280, 85), (960, 75), (640, 60), (320, 40))
"""Pixels of the longer side at most, and JPEG's quality: the first whose bytes fit."""
WAITING_MAX: Final = 4
"""Pictures that are not encoded yet. More are not made: their frames would fill the memory."""

Image = npt.NDArray[np.uint8]


class TooLarge(Exception):
    """A picture that does not fit, however coarse."""


class Pictures:
    """`best`: the matcher's frame of a ticket, of after a moment. `add`: the writer's."""

    def __init__(
        self, best: Callable[[int, float], Candidate | None], workers: Workers, add: Callable[[Job], None]
    ) -> None:
        self._best, self._workers, self._add = best, workers, add
        self._kept: dict[str, int] = {}
        """Names of this ticket's pictures, and the ticket."""
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, command: KeepPicture, now: Now) -> None:
        """Take the frame now, before it is forgotten; encode and hand it to the writer by and by. The first of its kind
        for a ticket is the one: its name is given once."""
        ticket, what = command.ticket, command.what
        name = f"{ticket}-{what}"
        if name in self._kept:
            return
        found = self._best(ticket, command.since_mono)
        if found is None and what == CASE:
            found = self._best(ticket, 0.0)  # of while they walked up: better than nothing of whom an officer looks for
        if found is None or len(self._tasks) >= WAITING_MAX:
            log.warning("no picture is kept", what=what, why="no_frame" if found is None else "busy")
            return
        self._kept[name] = ticket
        task = asyncio.ensure_future(self._hand_over(command, name, found, now))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self, ticket: int) -> None:
        """The ticket has ended. What was taken for it is still handed over."""
        self._kept = {name: whose for name, whose in self._kept.items() if whose != ticket}

    async def finish(self) -> None:
        """Until everything that was taken is the writer's."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _hand_over(self, command: KeepPicture, name: str, found: Candidate, now: Now) -> None:
        try:
            picture = await self._workers.run("picture", jpeg, found, command.what)
        except Exception as error:  # noqa: BLE001  # whatever OpenCV raises: a passage does not depend on a picture
            log.error("no picture is kept", what=command.what, why=told(error))
            return
        for fact in _parts(command, name, picture):
            self._add(Job(now.utc, fact))


def _parts(command: KeepPicture, name: str, picture: bytes) -> Iterator[AttachmentPart]:
    size = len(picture)
    count = -(-size // PART_BYTES_MAX)
    for number in range(count):
        data = picture[number * PART_BYTES_MAX : (number + 1) * PART_BYTES_MAX]
        yield AttachmentPart(
            command.ticket, name, command.what, MEDIA, number + 1, count, size, command.keep_days, data
        )


def jpeg(found: Candidate, what: str) -> bytes:
    """The whole frame of a case, the face alone of an entry, as JPEG without metadata.

    Raises `TooLarge`; `ValueError` where a face is wanted and there is none."""
    frame: Image = np.asarray(found.image)
    image = frame if what == CASE else face_of(frame, found)
    try:
        return next(picture for side, quality in TRIES if (picture := _coded(image, side, quality)))
    except StopIteration:
        raise TooLarge from None
    finally:
        if image is not frame:
            image.fill(0)


def _coded(image: Image, side: int, quality: int) -> bytes:
    """Empty where it does not fit. What is made on the way is overwritten."""
    pixels = _shrunk(image, side)
    done, coded = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1))
    picture = coded.tobytes() if done and coded.size <= ATTACHMENT_BYTES_MAX else b""
    coded.fill(0)
    if pixels is not image:
        pixels.fill(0)
    return picture


def face_of(image: Image, found: Candidate) -> Image:
    """A copy of what shows the nearest face, with a margin. Raises `ValueError` where there is none."""
    if found.look.face is None:
        raise ValueError("there is no face near in this picture")
    left, top, width, height = found.look.face.box
    rows, columns = image.shape[:2]
    x0, x1 = (int(np.clip(at, 0, columns)) for at in (left - FACE_MARGIN * width, left + (1 + FACE_MARGIN) * width))
    y0, y1 = (int(np.clip(at, 0, rows)) for at in (top - FACE_MARGIN * height, top + (1 + FACE_MARGIN) * height))
    return image[y0:y1, x0:x1].copy()


def _shrunk(image: Any, side: int) -> Image:
    """The same picture, its longer side of at most so many pixels."""
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image  # type: ignore[no-any-return]
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
