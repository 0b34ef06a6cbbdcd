"""How good a print is, from its picture alone: 0 to 100 like NFIQ 2's, but not NFIQ 2. Pure numbers: no I/O, no clock.

The measures are those that ISO/IEC 29794-4 describes: contact area, orientation certainty, ridges of a believable
period, contrast. Each is mapped to 0..1 by a ramp between useless and good; the quality is their product, so one
useless measure makes a useless print. What it predicts was measured in docs/fingers.md. A few milliseconds a picture.
"""

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
import numpy.typing as npt

from gated.icao.fingers import Finger

BLOCK = 16
"""Pixels at 500 an inch: about two ridges."""
ENROL_MIN = {"thumb": 30, "index": 30, "middle": 20, "ring": 10, "little": 10}
"""BSI TR-03121-3: least quality for enrolment."""
AREA_GOOD_MM2 = 160.0
CONTRAST_MIN = 12.0
"""Standard deviation of greys in a block below which nobody touches there."""


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
    certainty, direction = _orientation(grey)
    touched = (spread > CONTRAST_MIN) & (certainty > 0.15)
    touched = cv2.morphologyEx(touched.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)).astype(bool)
    count = int(np.count_nonzero(touched))
    if not count:
        return Measures(0.0, 0.0, 0.0, 0.0, float(spread.mean()), float(mean.mean()))
    rows, columns = np.nonzero(touched)
    away = (2 * (rows.mean() + 0.5) / touched.shape[0] - 1, 2 * (columns.mean() + 0.5) / touched.shape[1] - 1)
    return Measures(
        area_mm2=count * (BLOCK / 500 * 25.4) ** 2,
        aside=float(np.hypot(*away)),
        certainty=float(certainty[touched].mean()),
        periodic=_periodic(grey, direction, touched),
        contrast=float(spread[touched].mean()),
        brightness=float(mean[touched].mean()),
    )


def judge(found: Measures) -> Quality:
    """One number and one piece of advice from the measures."""
    light, dark = found.brightness > 190, found.brightness < 70
    press = Weak.HARDER if light else Weak.LIGHTER if dark else Weak.CLEAN
    parts = (
        (_ramp(found.area_mm2, 10, AREA_GOOD_MM2), Weak.HARDER if found.aside < 0.2 else Weak.CENTRE),
        (_ramp(found.aside, 0.9, 0.4), Weak.CENTRE),
        (_ramp(found.certainty, 0.2, 0.75), press),
        (_ramp(found.periodic, 0.1, 0.75), press),
        (_ramp(found.contrast, 10, 35), press),
    )
    value = float(np.prod([part for part, _ in parts]))
    worst = min(parts, key=lambda part: part[0])
    return Quality(round(100 * value), worst[1].value if worst[0] < 1 else None)


def _ramp(value: float, useless: float, good: float) -> float:
    return float(np.clip((value - useless) / (good - useless), 0, 1))


def _blocks(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Means of blocks; what is left at the right and below belongs to none."""
    rows, columns = values.shape[0] // BLOCK, values.shape[1] // BLOCK
    whole = values[: rows * BLOCK, : columns * BLOCK]
    return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)


def _orientation(grey: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(certainty, ridge direction in radians) of each block, by the structure tensor."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    xx, yy, xy = _blocks(across * across), _blocks(down * down), _blocks(across * down)
    certainty = np.sqrt((xx - yy) ** 2 + 4 * xy * xy) / (xx + yy + 1e-3)
    direction = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
    return certainty.astype(np.float32), direction.astype(np.float32)


def _periodic(
    grey: npt.NDArray[np.float32], direction: npt.NDArray[np.float32], touched: npt.NDArray[np.bool_]
) -> float:
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
