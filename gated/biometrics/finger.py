"""The finger as a question: how good is the picture, is it the enrolled finger. No I/O but models.

Pictures are uint8 (height, width), ridges dark on light ground, fingertip up. Nothing here keeps one, or a template.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from gated.biometrics.face import Threshold
from gated.biometrics.minutiae import Minutiae


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
