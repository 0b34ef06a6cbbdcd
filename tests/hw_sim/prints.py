"""Recorded fingers for virtual time: pictures that say whose finger they are, and a module that compares those.

Genuine comparisons miss with `MISS`, impostors never score: the matchers' real figures are in docs/fingers.md. A gate
that only works when every finger matches at once is found out."""

import random
from typing import Any

import numpy as np

from gated.biometrics.face import Threshold
from gated.biometrics.finger import FingerError, PrintLook
from gated.icao.fingers import Finger
from tests.hw_sim.hands import Touching
from tests.hw_sim.touch import Picture

MISS = 0.03
"""Part of the careful genuine placements that do not match."""
CARE_MIN = 50
"""Percent; a placement with less never matches."""
SCORE, MISSED = 180, 20
FINGERS = tuple(finger.value for finger in Finger)


CELLS = (8, 16)
"""A picture is so many cells down and across, white or black: what a reader does to single lines does not matter."""


def picture(touching: Touching, shape: tuple[int, int]) -> Picture:
    """A picture that carries hand, finger, take and care, four-byte words, in cells."""
    told = (touching.hand, FINGERS.index(touching.finger), touching.take, round(100 * touching.care))
    bits = np.unpackbits(np.frombuffer(np.array(told, "<i4").tobytes(), np.uint8)).reshape(CELLS)
    down, across = (np.arange(side) * cells // side for side, cells in zip(shape, CELLS, strict=True))
    return 255 * bits[down][:, across]


def features(drawn: Picture) -> bytes:
    """What is in a picture, by the middle of each cell."""
    down, across = ((2 * np.arange(n) + 1) * side // (2 * n) for side, n in zip(drawn.shape, CELLS, strict=True))
    return np.packbits(drawn[down][:, across] > 127).tobytes()


def compare(one: bytes, other: bytes) -> int:
    """The module's score of two such features, whichever of them is the enrolled one."""
    (hand, finger, take, care), (hand_2, finger_2, take_2, care_2) = (
        np.frombuffer(each, "<i4") for each in (one, other)
    )
    if (hand, finger) != (hand_2, finger_2):
        return 0
    drawn = random.Random(f"{hand} {finger} {take} {take_2}")
    misses = 1.0 if min(care, care_2) < CARE_MIN else MISS
    return MISSED if drawn.random() < misses else SCORE


class RecordedFingers:
    """A `gated.biometrics.finger.FingerEngine` that reads these pictures; a template is what is in one."""

    model = "recorded-1"
    threshold = Threshold("fmr_1e-3", 0.3, 1e-3)

    def look(self, image: Picture, ppi: float) -> PrintLook:
        care = int.from_bytes(features(image)[12:], "little")
        return PrintLook(care, care >= CARE_MIN, None if care >= CARE_MIN else "press_harder")

    def extract(self, image: Picture, ppi: float) -> Any:
        return features(image)

    def score(self, minutiae: Any, template: bytes) -> float:
        if len(template) != len(minutiae):
            raise FingerError("no finger template")
        return compare(minutiae, template) / 200
