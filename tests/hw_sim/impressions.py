"""Prints of a seeded fingertip, as a reader takes them: placed, pressed, stretched, dry or wet, never twice the same.

The order of what befalls the skin, and the skin's plasticity (R. Cappelli, D. Maio, D. Maltoni, "Modelling plastic
distortion in fingerprint images", 2001), are those of SFinGe; see `ridges.py`. All is seeded.
"""

import math
from dataclasses import dataclass
from enum import Enum, auto

import cv2
import numpy as np
import numpy.typing as npt

from tests.hw_sim.ridges import HEIGHT, WIDTH, Field, Master, smooth_noise

Picture = npt.NDArray[np.uint8]

PPI = 500
"""Of a master, and of all lengths here."""


class Fault(Enum):
    """What careless people do."""

    FAINT = auto()
    """They hardly touch."""
    ASIDE = auto()
    """Half of the finger lies beside the reader."""
    TIP = auto()
    """They put the mere tip there."""
    SMEARED = auto()
    """The finger is wet, and it slides."""


@dataclass(frozen=True)
class Manner:
    """How a finger is put down. `shift` (right, down) and `turn_deg`: from where it should lie. `pressure`: 0 touches
    nowhere, 1 is firm. `wet`: -1 is dry skin, 1 wet. `slide`: how far it smears, in pixels."""

    shift: tuple[float, float]
    turn_deg: float
    pressure: float
    wet: float
    slide: float = 0.0


def impression(
    master: Master, seed: int, size: tuple[int, int] = (256, 288), ppi: float = PPI, care: float = 1.0
) -> Picture:
    """A print: uint8 (height, width), ridges dark on light ground, fingertip up, much less than 0.1 s.

    `size`: (width, height) of the reader's picture. `care`: 1 places the finger well; of prints with 0.25
    the engine finds half usable, with 0 none. Seeds differ in what goes wrong, see `Fault`."""
    rng = np.random.default_rng([0x1A9E55, seed])
    manner = _manner(rng, care)
    x, y = _skin(size, ppi, manner, rng)
    pressure = _pressure(master, x, y, manner, rng)
    ridges, pores, creases = (_seen(of, x, y) for of in (master.ridges, master.pores, master.creases))
    ink = _ink(ridges, pores, creases, pressure, manner, rng)
    if manner.slide:
        ink = np.asarray(cv2.blur(ink, (1 + round(manner.slide / 3), 1 + round(manner.slide))), np.float32)
    return _exposed(ink, pressure, rng)


def _seen(of: Field, x: Field, y: Field) -> Field:
    return np.asarray(cv2.remap(of, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT), np.float32)


def bandaged(seed: int, size: tuple[int, int] = (256, 288), ppi: float = PPI) -> Picture:
    """A finger with a plaster on it: a picture of the same kind that has a weave and no ridges."""
    rng = np.random.default_rng([0xBA9DA6E, seed])
    width, height = size
    v, u = np.mgrid[0:height, 0:width].astype(np.float32) * (PPI / ppi)
    angle, pitch = rng.normal(0.2, 0.1), rng.uniform(4.2, 5.0)
    along, across = u * math.cos(angle) + v * math.sin(angle), v * math.cos(angle) - u * math.sin(angle)
    weave = 0.25 * (np.sin(2 * np.pi * along / pitch) + np.sin(2 * np.pi * across / pitch))
    patches = 0.4 + 0.25 * smooth_noise(rng, (height, width), 40 * ppi / PPI)
    centre = np.hypot(u - u.mean(), 0.8 * (v - v.mean()))
    pressure = np.clip((120 - centre) / 40, 0, 1)
    ink = np.clip(0.25 * patches * (1 + weave), 0, 1) * pressure
    return _exposed(np.asarray(ink, np.float32), np.asarray(pressure, np.float32), rng)


def _manner(rng: np.random.Generator, care: float) -> Manner:
    """How this person puts the finger down this time."""
    shift = (float(rng.normal(0, 9)), float(rng.normal(0, 12)))
    turn, pressure, wet = float(rng.normal(0, 5)), float(rng.normal(0.75, 0.1)), float(rng.normal(0, 0.45))
    fault, side = Fault(int(rng.integers(1, 5))), float(rng.choice([-1, 1]))
    bad = 1.0 - care
    slide = 0.0
    if fault is Fault.FAINT:
        pressure -= 0.85 * bad
    elif fault is Fault.ASIDE:
        shift = (shift[0] + side * 225 * bad, shift[1])
    elif fault is Fault.TIP:
        shift = (shift[0], shift[1] + 285 * bad)
    else:
        wet, slide = wet + 2.5 * bad, 30 * bad
    return Manner(shift, turn + 15 * side * bad, pressure, max(min(wet, 2.5), -1.0), slide)


def _skin(size: tuple[int, int], ppi: float, manner: Manner, rng: np.random.Generator) -> tuple[Field, Field]:
    """Which point of the master lies on each point of the reader: moved, turned, and stretched as skin is.

    What is pressed sticks; the skin around it is pulled along as the finger settles."""
    width, height = size
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    scale = PPI / ppi
    right = (u - (width - 1) / 2) * scale - manner.shift[0]
    down = (v - (height - 1) / 2) * scale - manner.shift[1]
    turn = math.radians(manner.turn_deg)
    x = WIDTH / 2 + right * math.cos(turn) - down * math.sin(turn)
    y = CENTRE + right * math.sin(turn) + down * math.cos(turn)
    away = np.hypot((x - WIDTH / 2) / 65.0, (y - CENTRE) / 85.0)
    give = np.clip(away - 0.6, 0.0, 1.2)  # none in the middle, which is pressed most
    give = give * give
    pulled, twisted = rng.normal(0, 3.5, 2), rng.normal(0, 0.03)
    wavy = [1.6 * smooth_noise(rng, (height, width), 90.0 / scale) for _ in range(2)]
    dx = give * (pulled[0] - twisted * (y - CENTRE)) + wavy[0]
    dy = give * (pulled[1] + twisted * (x - WIDTH / 2)) + wavy[1]
    return np.asarray(x + dx, np.float32), np.asarray(y + dy, np.float32)


CENTRE = 0.45 * HEIGHT
"""What a well placed finger has in the middle of the picture: a little below its loop."""


def _pressure(master: Master, x: Field, y: Field, manner: Manner, rng: np.random.Generator) -> Field:
    """How firmly the skin lies on the reader, 0 to about 1: a rounded pad, less towards its rim, with gaps."""
    inside = master.outline(x, y)
    firm = max(manner.pressure, 0.0)
    reach = 1.0 - np.hypot((x - WIDTH / 2) / 175.0, (y - CENTRE - 15) / 235.0) / (0.62 + 0.4 * firm)
    rim = 0.035 * smooth_noise(rng, x.shape, 12.0) + 0.04 * smooth_noise(rng, x.shape, 45.0)
    contact = np.clip((np.minimum(inside * 1.3, reach) + rim) / 0.16, 0, 1)
    return np.asarray(contact * firm * (1 + 0.12 * smooth_noise(rng, x.shape, 60.0)), np.float32)


def _ink(
    ridges: Field, pores: Field, creases: Field, pressure: Field, manner: Manner, rng: np.random.Generator
) -> Field:
    """How dark each point is, 0..1: thicker ridges where it is wet or pressed, broken ones where it is dry."""
    shape = ridges.shape
    dry = max(-manner.wet, 0.0)
    thick = 0.30 * manner.wet - 0.2 + 0.55 * (pressure - 0.75) + 0.12 * smooth_noise(rng, shape, 50.0) - 1.5 * creases
    grain = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), 0.9) * 3.2
    clumps = smooth_noise(rng, shape, 6.0)
    rough = (0.20 + 0.35 * dry) * grain + (0.14 + 0.25 * dry) * clumps
    holes = pores * (0.9 - 0.5 * min(max(manner.wet, 0.0), 1.0))
    ink = 1.0 / (1.0 + np.exp(-5.0 * (ridges + thick + rough - holes)))
    faint = np.clip(pressure / 0.6, 0, 1)
    return np.asarray(np.clip(ink, 0, 1) * faint, np.float32)


def _exposed(ink: Field, pressure: Field, rng: np.random.Generator) -> Picture:
    """The reader's picture of what lies on it: its ground, its contrast, its noise."""
    ground = rng.uniform(215, 240) + 3.0 * smooth_noise(rng, ink.shape, 120.0)
    valley = 12.0 * np.clip(pressure, 0, 1)
    dark = rng.uniform(135, 200) * (1 + 0.10 * smooth_noise(rng, ink.shape, 70.0))
    picture = np.asarray(ground - valley * (1 - ink) - dark * ink, np.float32)
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.55), np.float32)
    picture += rng.normal(0, 3.0, ink.shape).astype(np.float32)
    return np.asarray(np.clip(np.round(picture), 0, 255), np.uint8)
