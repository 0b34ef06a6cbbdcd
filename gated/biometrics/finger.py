"""The finger as a question: how good is the picture, is it the enrolled finger. No I/O but models.

Pictures are uint8 (height, width), ridges dark on light ground, fingertip up. Nothing here keeps one, or a template.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from gated.biometrics import fingerquality, template
from gated.biometrics.face import Threshold
from gated.biometrics.fingermatch import compare
from gated.biometrics.minutiae import BIFURCATION, ENDING, PPI, Minutiae
from models.leader import Leader
from models.loader import CACHE
from models.manifest import ModelError, model

Picture = npt.NDArray[np.uint8]

SIDE_MIN, SIDE_MAX = 96, 1500
"""Pixels of a side at 500 an inch: 5 mm, and more than any reader's glass."""
PPI_MIN, PPI_MAX = 250.0, 1200.0
USABLE_MIN = 5
"""Below this quality a print is not compared: nobody touches, or nothing of a finger is seen. TR-03121-3 asks for no
more at verification, and many a print that is hardly better still matches (docs/fingers.md)."""
STEPS = 256
"""A template holds whole pixels and so many directions; what is extracted is rounded alike, and compares alike."""


class FingerError(ValueError):
    """What was given cannot be a finger's picture or template. The text never says what it holds."""


@dataclass(frozen=True, slots=True)
class PrintLook:
    """What one picture is worth. `quality`: 0 to 100. `usable`: good enough to be compared at the gate. `advice`: a
    value of `gated.lane.events.Touch` where it is not and the passenger can do something about it."""

    quality: int
    usable: bool
    advice: str | None = None


class FingerEngine(Protocol):
    """Extractor and comparator of fingers. One thread at a time."""

    model: str
    """Names network and comparator, for records and reports. Templates are ISO/IEC 19794-2 and outlive both."""
    threshold: Threshold

    def look(self, image: Any, ppi: float, /) -> PrintLook:
        """Judge a picture; milliseconds. Raises `FingerError` for what is no picture."""

    def extract(self, image: Any, ppi: float, /) -> Minutiae:
        """The minutiae of a picture. Raises `FingerError`."""

    def score(self, minutiae: Minutiae, template: bytes, /) -> float:
        """Similarity to an ISO/IEC 19794-2 template, 0..1. Raises `FingerError` for what is no template."""


class OnnxFingerEngine:
    """LEADER and our own comparator on the CPU."""

    def __init__(self, models_dir: Path = CACHE, threshold_name: str = "fmr_1e-3", threads: int = 1) -> None:
        """Raises `ModelError` for a network that is missing or not the manifest's, or a threshold that the manifest
        does not name."""
        entry = model("leader")
        if threshold_name not in entry.thresholds:
            raise ModelError(
                f"no threshold called {threshold_name!r} for leader; there are {', '.join(sorted(entry.thresholds))}"
            )
        point = entry.thresholds[threshold_name]
        self.threshold = Threshold(threshold_name, point.score, point.fmr)
        self.model = f"leader-{entry.published_sha256[:12]}"
        self._network = Leader(models_dir, threads)

    def look(self, image: Any, ppi: float) -> PrintLook:
        judged = fingerquality.judge(fingerquality.measure(_scaled(image, ppi)))
        usable = judged.value >= USABLE_MIN
        return PrintLook(judged.value, usable, None if usable else judged.advice)

    def extract(self, image: Any, ppi: float) -> Minutiae:
        picture = _scaled(image, ppi)
        height, width = picture.shape
        rows = self._network.find(picture)
        turn = np.rint(rows[:, 2] / (2 * np.pi) * STEPS) % STEPS
        return Minutiae(
            x=np.clip(np.rint(rows[:, 0]), 0, width - 1).astype(np.float32),
            y=np.clip(np.rint(rows[:, 1]), 0, height - 1).astype(np.float32),
            angle=(turn * (2 * np.pi / STEPS)).astype(np.float32),
            kind=np.where(rows[:, 3] > 0, ENDING, BIFURCATION).astype(np.uint8),
            quality=np.clip(np.rint(100 * rows[:, 4]), 1, 100).astype(np.uint8),
            width=width,
            height=height,
        )

    def score(self, minutiae: Minutiae, enrolled: bytes) -> float:
        return compare(minutiae, minutiae_of(enrolled))


def minutiae_of(data: bytes) -> Minutiae:
    """The first view of a template. Raises `FingerError` for what is none."""
    try:
        return template.decode(data).views[0].minutiae
    except (template.TemplateError, IndexError) as bad:
        raise FingerError(f"no finger template: {bad}") from None


def _scaled(image: Any, ppi: float) -> Picture:
    """The picture at 500 pixels an inch. Raises `FingerError` for what is none."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 2:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise FingerError(f"a finger's picture is a uint8 array (height, width), not {found}")
    if not PPI_MIN <= ppi <= PPI_MAX:
        raise FingerError(f"a finger's picture has {PPI_MIN:g} to {PPI_MAX:g} pixels an inch, not {ppi:g}")
    height, width = (round(side * PPI / ppi) for side in image.shape)
    if not (SIDE_MIN <= height <= SIDE_MAX and SIDE_MIN <= width <= SIDE_MAX):
        raise FingerError(f"a side of a finger's picture has {SIDE_MIN} to {SIDE_MAX} pixels at {PPI} an inch")
    if (height, width) == image.shape:
        return image
    shrinks = ppi > PPI
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return scaled.astype(np.uint8)
