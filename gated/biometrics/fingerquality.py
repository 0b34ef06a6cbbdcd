"""How good a print is, from its picture alone: 0 to 100 like NFIQ 2's, but not NFIQ 2. Pure numbers: no I/O, no clock.

The measures are of the kind that ISO/IEC 29794-4 describes: area in contact, certainty of the ridges' direction, ridges
at a believable distance, contrast. Each becomes 0..1 by a ramp from useless to good; the quality is their product, so
one useless measure makes a useless print. Ramps and weights were fitted so that it predicts the score against other
prints of the finger; how well it does is told in docs/fingers.md. A few milliseconds a picture.
"""

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
import numpy.typing as npt

from gated.icao.fingers import Finger

BLOCK = 16
"""Pixels at 500 an inch: about two ridges."""
BLOCK_MM2 = (BLOCK / 500 * 25.4) ** 2
ENROL_MIN = {"thumb": 30, "index": 30, "middle": 20, "ring": 10, "little": 10}
"""BSI TR-03121-3: least quality for enrolment."""
SPREAD_MIN, SPREAD_PART = 6.0, 0.3
"""Standard deviation of greys in a block below which nobody touches there: at least so much, and so much of what the
picture's liveliest blocks have, since glass keeps the traces of earlier fingers."""
TOUCHED_CERTAINTY, CLEAR_CERTAINTY = 0.15, 0.5
"""Of the direction of a block's ridges: noise has less than the first; ridges that can be followed, the second."""
GOOD = 70
"""At this quality and above there is nothing to advise."""
SMALL_MM2 = 110.0
LIGHT, DARK = 190.0, 75.0
ASIDE = 0.3


def enrolment_floor(finger: Finger) -> int:
    """The least quality of this finger for enrolment (TR-03121-3)."""
    return ENROL_MIN[finger.value.split("_")[1]]


class Weak(Enum):
    """What a passenger could do about the weakest measure; the values are those of `gated.lane.events.Touch`."""

    CENTRE = "centre_finger"
    HARDER = "press_harder"
    LIGHTER = "press_lighter"
    CLEAN = "clean_finger"


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured of a picture at 500 pixels an inch."""

    area_mm2: float
    """Skin on the glass."""
    clear_mm2: float
    """The part of it where ridges can be followed."""
    aside: float
    """How far the contact's middle lies from the picture's, as a part of the way to the picture's edge."""
    certainty: float
    """Mean orientation certainty of the contact: 0 noise, 1 parallel lines."""
    periodic: float
    """Part of the contact where ridges follow each other at a believable distance."""
    contrast: float
    """Mean standard deviation of greys within the contact's blocks."""
    brightness: float
    """Mean grey of the contact."""


@dataclass(frozen=True, slots=True)
class Quality:
    """`value`: 0 to 100. `advice`: a value of `Touch`, or None for a print that leaves nothing to wish for."""

    value: int
    advice: str | None


def measure(picture: npt.NDArray[np.uint8]) -> Measures:
    """Measure a grey picture, uint8 (height, width), at 500 pixels an inch."""
    grey = picture.astype(np.float32)
    mean = _blocks(grey)
    spread = np.sqrt(np.maximum(_blocks(grey * grey) - mean * mean, 0))
    certainty = _certainty(grey)
    least = max(SPREAD_MIN, SPREAD_PART * float(np.percentile(spread, 90)))
    touched = (spread > least) & (certainty > TOUCHED_CERTAINTY)
    touched = cv2.morphologyEx(touched.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)).astype(bool)
    if not touched.any():
        return Measures(0.0, 0.0, 0.0, 0.0, 0.0, float(spread.mean()), float(mean.mean()))
    rows, columns = np.nonzero(touched)
    away = (2 * (rows.mean() + 0.5) / touched.shape[0] - 1, 2 * (columns.mean() + 0.5) / touched.shape[1] - 1)
    return Measures(
        area_mm2=len(rows) * BLOCK_MM2,
        clear_mm2=np.count_nonzero(certainty[touched] > CLEAR_CERTAINTY) * BLOCK_MM2,
        aside=float(np.hypot(*away)),
        certainty=float(certainty[touched].mean()),
        periodic=_periodic(grey, touched),
        contrast=float(spread[touched].mean()),
        brightness=float(mean[touched].mean()),
    )


def judge(found: Measures) -> Quality:
    """One number and one piece of advice from the measures."""
    value = round(
        100
        * _ramp(found.clear_mm2, 3, 150) ** 0.6
        * _ramp(found.certainty, 0.15, 0.35) ** 0.5
        * _ramp(found.periodic, 0.0, 0.8) ** 0.3
        * _ramp(found.contrast, 2, 36) ** 0.2
    )
    return Quality(value, None if value >= GOOD else _advice(found).value)


def _advice(found: Measures) -> Weak:
    if found.aside > ASIDE and found.area_mm2 < 2 * SMALL_MM2:
        return Weak.CENTRE
    if found.brightness < DARK:
        return Weak.LIGHTER
    if found.brightness > LIGHT or found.area_mm2 < SMALL_MM2:
        return Weak.HARDER
    return Weak.CLEAN


def _ramp(value: float, useless: float, good: float) -> float:
    return float(np.clip((value - useless) / (good - useless), 0, 1))


def _blocks(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Means of blocks; what is left at the right and below belongs to none."""
    rows, columns = values.shape[0] // BLOCK, values.shape[1] // BLOCK
    whole = values[: rows * BLOCK, : columns * BLOCK]
    return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)


def _certainty(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """How sure the direction of each block's ridges is, by the structure tensor: 0 noise, 1 parallel lines."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.5)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    xx, yy, xy = _blocks(across * across), _blocks(down * down), _blocks(across * down)
    certainty: npt.NDArray[np.float32] = np.sqrt((xx - yy) ** 2 + 4 * xy * xy) / (xx + yy + 1e-3)
    return certainty


def _periodic(grey: npt.NDArray[np.float32], touched: npt.NDArray[np.bool_]) -> float:
    """Part of the touched blocks whose spectrum has a peak at a ridge distance of 5 to 16 pixels, across the ridges."""
    side = 2 * BLOCK
    window = np.outer(np.hanning(side), np.hanning(side)).astype(np.float32)
    rows, columns = np.nonzero(touched)
    top = np.clip(rows * BLOCK - BLOCK // 2, 0, grey.shape[0] - side)
    left = np.clip(columns * BLOCK - BLOCK // 2, 0, grey.shape[1] - side)
    reach = np.arange(side)
    patches = grey[(top[:, None] + reach)[:, :, None], (left[:, None] + reach)[:, None, :]]
    patches = (patches - patches.mean(axis=(1, 2), keepdims=True)) * window
    power = np.abs(np.fft.rfft2(patches)) ** 2
    down, across = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    frequency = np.hypot(down, across)
    band = (frequency >= 1 / 16) & (frequency <= 1 / 5)
    total = power.sum(axis=(1, 2)) + 1e-3
    peak = np.where(band, power, 0).reshape(len(power), -1)
    strongest = np.sort(peak, axis=1)[:, -6:].sum(axis=1)
    return float(np.mean(strongest / total > 0.45))
