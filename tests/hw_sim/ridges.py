"""Fingers that nobody has: seeded ridge pictures of the whole fingertip, from which `impressions.py` takes prints.

After the ideas of R. Cappelli, "SFinGe: an approach to synthetic fingerprint generation" (2004), in an own
implementation: a class has loops and deltas, they give the direction of the ridges (B. Sherlock and D. Monro, "A model
for interpreting fingerprint topology", 1993, bent as P. Vizcaya and L. Gerhardt did in 1996), and ridges grow out of
noise under filters that follow that direction. Where growing ridges meet out of step, minutiae arise: nobody places
them.

Lengths are pixels at 500 pixels an inch, from the top left corner, y downwards, fingertip up. Angles are radians,
counter-clockwise from the positive x axis.
"""

from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Points = tuple[tuple[float, float], ...]

WIDTH, HEIGHT = 352, 480
"""Of a master: 18 x 24 mm."""
STEP = 2
"""Ridges grow on a grid of 250 pixels an inch, which still has four samples a ridge and is sixteen times cheaper."""
DIRECTIONS, PERIODS = 64, 7
"""How finely the filters follow the finger."""
NARROW = 0.8
"""How far the sides of a loop are turned to its legs, in radians of the doubled angle."""
ALONG, ACROSS = 0.8, 0.42
"""Deviations of the filters' windows in periods: the longer, the fewer minutiae."""
ROUNDS = 24
"""After fewer the ridges are broken; more do not change them."""


class Pattern(Enum):
    """Classes of Galton and Henry; a left loop's ridges come from the left and go back there."""

    ARCH = "arch"
    TENTED_ARCH = "tented arch"
    LEFT_LOOP = "left loop"
    RIGHT_LOOP = "right loop"
    WHORL = "whorl"


NATURAL = {
    Pattern.ARCH: 0.037,
    Pattern.TENTED_ARCH: 0.029,
    Pattern.LEFT_LOOP: 0.338,
    Pattern.RIGHT_LOOP: 0.317,
    Pattern.WHORL: 0.279,
}
"""How often each is met. Source: Maltoni, Maio, Jain, Prabhakar, "Handbook of Fingerprint Recognition", 2009, 5.2."""


@dataclass(frozen=True, eq=False)
class Flow:
    """Where the ridges run. `direction`, `period` (height, width): modulo pi, and in pixels. `loops`, `deltas`: the
    singular points."""

    direction: Field
    period: Field
    loops: Points
    deltas: Points


@dataclass(frozen=True, eq=False)
class Master:
    """A fingertip. `ridges` (height, width): -1 in the middle of a valley, 1 on a ridge. `pores`, `creases`: 0..1, dots
    and lines without ink that stay with the finger. `half_width`, `tip`: of the skin that can touch, see `outline`."""

    pattern: Pattern
    ridges: Field = field(repr=False)
    pores: Field = field(repr=False)
    creases: Field = field(repr=False)
    half_width: float
    tip: float

    def outline(self, x: Field, y: Field) -> Field:
        """How far inside the fingertip's outline points lie: 1 on its axis, 0 on the edge, negative outside."""
        across = np.abs(x - WIDTH / 2) / self.half_width
        round_height = 1.15 * self.half_width
        up = np.clip((self.tip + round_height - y) / round_height, 0.0, None)
        return np.asarray(1.0 - np.power(across**2.4 + up**2.4, 1 / 2.4), np.float32)


@lru_cache(maxsize=32)
def master(seed: int, pattern: Pattern | None = None, breadth: float = 1.0) -> Master:
    """The finger of a seed, in a fifth of a second; always the same for the same arguments.

    `pattern`: None draws one by natural frequency. `breadth`: 1 is an index finger."""
    rng = np.random.default_rng([0x51D6E, seed])
    drawn = rng.choice(len(NATURAL), p=np.array(list(NATURAL.values())))
    pattern = pattern or list(NATURAL)[drawn]
    found = flow(pattern, rng)
    ridges = _grow(found, rng)
    half_width = float(breadth * rng.normal(126, 6))
    return Master(pattern, ridges, _pores(ridges, rng), _creases(rng), half_width, float(rng.uniform(8, 24)))


def flow(pattern: Pattern, rng: np.random.Generator) -> Flow:
    """The direction and the period of the ridges of one finger of a class."""
    loops, deltas = _singular_points(pattern, rng)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    double = 2.0 * _ground(pattern, x, y, rng)
    seen = [
        (at, sign, np.arctan2(at[1] - y, x - at[0])) for points, sign in ((loops, 1), (deltas, -1)) for at in points
    ]
    for _, sign, around in seen:
        double += sign * around
    plain = double.copy()
    for at, sign, around in seen:
        double += sign * _bend(around, rng)
        if sign > 0:  # the legs of a loop are narrow; they leave where all but itself turns the ridges
            legs = (plain - around)[int(at[1]), int(at[0])]
            far = np.hypot(x - at[0], y - at[1])
            double += NARROW * np.exp(-((far / 130.0) ** 2)) * np.sin(around - legs - np.pi)
    double += 2.0 * 0.12 * smooth_noise(rng, (HEIGHT, WIDTH), 70.0)
    direction = np.asarray(np.mod(double / 2.0, np.pi), np.float32)
    return Flow(direction, _period(loops, deltas, y, rng), loops, deltas)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Field:
    """Seeded noise of standard deviation 1 that changes over about `scale` pixels."""
    height, width = shape
    coarse = (max(round(3 * height / scale), 2) + 4, max(round(3 * width / scale), 2) + 4)
    noise = cv2.GaussianBlur(rng.standard_normal(coarse).astype(np.float32), (0, 0), 1.0)
    noise = cv2.resize(
        noise, (round(coarse[1] * scale / 3) + 1, round(coarse[0] * scale / 3) + 1), interpolation=cv2.INTER_CUBIC
    )
    top, left = (noise.shape[0] - height) // 2, (noise.shape[1] - width) // 2
    noise = noise[top : top + height, left : left + width]
    return np.asarray(noise * 3.545, np.float32)  # 2 sqrt(pi): what the blur took from the deviation


def _singular_points(pattern: Pattern, rng: np.random.Generator) -> tuple[Points, Points]:
    """Loops (upper first) and deltas of a finger of this class."""
    x, y = WIDTH / 2 + rng.normal(0, 6), rng.uniform(195, 225)

    def beside(across: float, down: float, spread: float = 9.0) -> tuple[float, float]:
        return x + across + float(rng.normal(0, spread)), y + down + float(rng.normal(0, spread))

    if pattern is Pattern.ARCH:
        return (), ()
    if pattern is Pattern.TENTED_ARCH:
        return ((x, y + 25),), (beside(0, 100 + rng.uniform(-15, 30), 3),)
    if pattern is Pattern.WHORL:
        apart, skew = rng.uniform(14, 70), rng.normal(0, 14)
        left, right = beside(-rng.uniform(85, 125), 105, 14), beside(rng.uniform(85, 125), 105, 14)
        return ((x - skew / 2, y), (x + skew / 2, y + apart)), (left, right)
    side = 1 if pattern is Pattern.LEFT_LOOP else -1
    return ((x, y),), (beside(side * rng.uniform(60, 95), rng.uniform(95, 135)),)


def _ground(pattern: Pattern, x: Field, y: Field, rng: np.random.Generator) -> Field:
    """The direction without singular points: ridges follow the rounding of the tip, and lie flat at the joint."""
    across = (x - WIDTH / 2) / (WIDTH / 2)
    above = (215.0 - y) / 200.0
    rounding = rng.uniform(0.75, 0.95) / (1.0 + np.exp(-4.0 * (above + 0.15)))
    ground = -rounding * across
    if pattern is Pattern.ARCH:
        height = rng.uniform(0.75, 1.15) * np.exp(-(((y - rng.uniform(235, 275)) / 95.0) ** 2))
        ground = ground - height * np.sin(np.pi * np.clip(across * 1.15, -1, 1))
    return np.asarray(ground, np.float32)


def _bend(around: Field, rng: np.random.Generator) -> Field:
    """What makes the surroundings of one singular point differ from finger to finger; it keeps the point's index."""
    bent = np.zeros_like(around)
    for order, strength in ((1, 0.16), (2, 0.10)):
        bent += rng.normal(0, strength) * np.sin(order * around + rng.uniform(0, 2 * np.pi))
    return bent


def _period(loops: Points, deltas: Points, y: Field, rng: np.random.Generator) -> Field:
    """Distance of two ridges: wider above the loops and below the deltas, and never quite even."""
    period = rng.normal(9.0, 0.35) * (1.0 + 0.07 * smooth_noise(rng, (HEIGHT, WIDTH), 80.0))
    upper = min((py for _, py in loops), default=HEIGHT * 0.4)
    lower = max((py for _, py in deltas), default=HEIGHT * 0.65)
    period = period * (1.0 + 0.10 * np.clip((upper - 40 - y) / 100, 0, 1) + 0.10 * np.clip((y - lower) / 80, 0, 1))
    return np.asarray(np.clip(period, 7.4, 11.5), np.float32)


def _filters(direction: Field, period: Field) -> tuple[list[npt.NDArray[np.intp]], Field, int]:
    """Points of the growing grid that take the same filter, flattened; their filters, one a row; and these' radius."""
    turn = np.round(direction / np.pi * DIRECTIONS).astype(np.intp) % DIRECTIONS
    low, high = float(period.min()), float(period.max())
    pitch = np.round((period - low) / max(high - low, 1e-6) * (PERIODS - 1)).astype(np.intp)
    chosen = (turn * PERIODS + pitch).ravel()
    order = np.argsort(chosen, kind="stable")
    kinds, starts = np.unique(chosen[order], return_index=True)
    radius = int(np.ceil(1.5 * high))
    v, u = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    filters = []
    for kind in kinds:
        angle, t = kind // PERIODS * np.pi / DIRECTIONS, low + kind % PERIODS * (high - low) / (PERIODS - 1)
        across = u * np.sin(angle) + v * np.cos(angle)  # y downwards: a ridge at angle a runs along (cos a, -sin a)
        along = u * np.cos(angle) - v * np.sin(angle)
        window = np.exp(-((along / ALONG) ** 2 + (across / ACROSS) ** 2) / (2 * t**2))
        wave = window * np.cos(2 * np.pi * across / t)
        wave -= window * wave.sum() / window.sum()
        filters.append((wave / np.abs(wave).sum()).ravel())
    return np.split(order, starts[1:]), np.asarray(filters, np.float32), radius


def _grow(found: Flow, rng: np.random.Generator) -> Field:
    """Ridges out of noise: each point again and again filtered along the direction and at the period it has."""
    half = (WIDTH // STEP, HEIGHT // STEP)
    angle = cv2.resize(np.dstack([np.cos(2 * found.direction), np.sin(2 * found.direction)]), half)
    direction = np.asarray(np.mod(np.arctan2(angle[..., 1], angle[..., 0]) / 2, np.pi), np.float32)
    period = np.asarray(cv2.resize(found.period, half) / STEP, np.float32)
    groups, filters, radius = _filters(direction, period)
    ridges = rng.standard_normal(direction.shape).astype(np.float32)
    for _ in range(ROUNDS):
        padded = cv2.copyMakeBorder(ridges, radius, radius, radius, radius, cv2.BORDER_REFLECT)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1))
        grown = np.empty(ridges.size, np.float32)
        for points, weights in zip(groups, filters, strict=True):
            rows, columns = np.divmod(points, ridges.shape[1])
            grown[points] = windows[rows, columns].reshape(len(points), -1) @ weights
        ridges = np.tanh(2.1 * grown.reshape(ridges.shape) / max(float(np.std(grown)), 1e-6))
    full = cv2.resize(ridges, (WIDTH, HEIGHT), interpolation=cv2.INTER_LANCZOS4)
    return np.asarray(np.clip(full, -1, 1), np.float32)


def _pores(ridges: Field, rng: np.random.Generator) -> Field:
    """Sweat pores: dots on the ridges, two or three a millimetre."""
    y, x = np.nonzero(ridges > 0.75)
    picked = rng.random(len(x)) < 0.012
    dots = np.zeros_like(ridges)
    dots[y[picked], x[picked]] = rng.uniform(0.4, 1.0, int(picked.sum()))
    return np.asarray(np.clip(cv2.GaussianBlur(dots, (0, 0), 1.1) * 7.0, 0, 1), np.float32)


def _creases(rng: np.random.Generator) -> Field:
    """White lines of the skin: most fingers have a few short ones, some have many."""
    lines = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(int(rng.poisson(rng.choice([1.5, 3.0, 9.0], p=[0.6, 0.3, 0.1])))):
        x, y = rng.uniform(40, WIDTH - 40), rng.uniform(60, HEIGHT - 40)
        angle, length = rng.normal(0, 0.7), rng.uniform(20, 90)
        bow = rng.normal(0, 5, 3)
        along = np.linspace(-length / 2, length / 2, 12)
        off = bow[0] * np.sin(along / 30) + bow[1] * np.cos(along / 25)
        xs, ys = x + along * np.cos(angle) - off * np.sin(angle), y + along * np.sin(angle) + off * np.cos(angle)
        points = np.round(np.stack([xs, ys], 1) * 8).astype(np.int32)
        cv2.polylines(lines, [points], False, int(rng.uniform(120, 255)), int(rng.integers(1, 3)), cv2.LINE_AA, 3)
    return np.asarray(cv2.GaussianBlur(lines, (0, 0), 0.8).astype(np.float32) / 255.0, np.float32)
