"""Pictures as the lane's camera would take them: photographs of faces, larger the nearer somebody comes.

A photograph is cut out around its largest face, scaled so that the eyes are as far apart as they would be at that
distance, and laid onto a neutral background with a sensor's noise. No I/O but reading photographs.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from models.yunet import YuNet

Image = npt.NDArray[np.uint8]

WIDTH, HEIGHT = 640, 480
EYE_PX_M = 98.0
"""Distance of the eyes in pixels, times metres: 68 px where one stands to be recognised, 27 px at the reader."""
CUT_EYES = 4.6
"""Width of the cut in distances of the eyes: the head with its hair, and little of whoever stands beside."""
NEAREST_M = 1.1
NOISES = 12
SENSOR_SD = 3.0


class NoFace(Exception):
    """A photograph in which no face is found, so it can neither be enrolled nor shown."""


@dataclass(frozen=True)
class Cut:
    """A head cut out of a photograph: `image` (n, n, 3), `alpha` (n, n) 0..1, eyes `n / CUT_EYES` pixels apart."""

    image: Image = field(repr=False)
    alpha: npt.NDArray[np.float32] = field(repr=False)


class Cutter:
    """Finds faces and cuts them out; keeps the last few cuts."""

    def __init__(self, models_dir: Path) -> None:
        self._detector = YuNet(models_dir, 1)
        self.cut = lru_cache(maxsize=16)(self._cut)

    def _cut(self, path: Path) -> Cut:
        """Raises `NoFace`."""
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if image is None:
            raise NoFace(f"{path.name} is no picture")
        longest = max(image.shape[:2])
        if longest > 800:
            image = cv2.resize(image, None, fx=800 / longest, fy=800 / longest, interpolation=cv2.INTER_AREA)
        picture: Any = image
        faces = self._detector.detect(picture)
        if not faces:
            raise NoFace(f"no face is found in {path.name}")
        face = max(faces, key=lambda found: float(found.box[2] * found.box[3]))
        eyes = float(np.linalg.norm(face.landmarks[0] - face.landmarks[1]))
        # A head turned aside shows its eyes closer together: the height of the box keeps the cut wide enough.
        eyes = max(eyes, 0.33 * float(face.box[3]), 4.0)
        x, y = face.box[0] + face.box[2] / 2, face.box[1] + face.box[3] / 2
        half = CUT_EYES * eyes / 2
        side = max(int(2 * half), 8)
        matrix = np.array([[1, 0, half - x], [0, 1, half - y]], np.float32)
        cut = cv2.warpAffine(picture, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
        return Cut(cut.astype(np.uint8), _oval(side))


def _oval(side: int) -> npt.NDArray[np.float32]:
    """1 in the middle, falling softly to 0 at the edge."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    distance = np.sqrt(x * x + y * y)
    alpha: npt.NDArray[np.float32] = np.clip((1.0 - distance) / 0.12, 0.0, 1.0).astype(np.float32)
    return alpha


class Canvas:
    """Composes pictures. One a camera: the noise goes on from picture to picture."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shade = np.linspace(150, 118, HEIGHT)[:, None, None] + np.linspace(-6, 6, WIDTH)[None, :, None]
        self._wall = np.broadcast_to(shade, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        noise = rng.normal(0, SENSOR_SD, (NOISES, HEIGHT, WIDTH, 3))
        self._noise = np.round(noise).astype(np.int8)
        self._number = 0

    def compose(self, heads: list[tuple[Cut, float, float]]) -> Image:
        """`heads`: (cut, distance in metres, place from -1 at the left to 1 at the right), farthest first."""
        picture = self._wall.copy()
        for cut, distance_m, place in heads:
            self._lay(picture, cut, distance_m, place)
        self._number = (self._number + 1) % NOISES
        # Another offset each time round: a sensor never gives the same picture twice.
        noise = np.roll(self._noise[self._number], 7 * self._number + int(picture[0, 0, 0]), axis=1)
        seen: Image = np.clip(picture.astype(np.int16) + noise, 0, 255).astype(np.uint8)
        return seen

    @staticmethod
    def _lay(picture: Image, cut: Cut, distance_m: float, place: float) -> None:
        side = int(CUT_EYES * EYE_PX_M / max(distance_m, NEAREST_M))
        small = side < cut.image.shape[0]
        how = cv2.INTER_AREA if small else cv2.INTER_CUBIC
        head = cv2.resize(cut.image, (side, side), interpolation=how)
        alpha = cv2.resize(cut.alpha, (side, side), interpolation=cv2.INTER_LINEAR)[:, :, None]
        left = int(WIDTH / 2 + place * WIDTH / 2 - side / 2)
        top = int(HEIGHT * 0.48 - side / 2)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, WIDTH), min(top + side, HEIGHT)
        if x0 >= x1 or y0 >= y1:
            return
        part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        under = picture[y0:y1, x0:x1].astype(np.float32)
        mixed = under + alpha[part] * (head[part].astype(np.float32) - under)
        picture[y0:y1, x0:x1] = np.clip(mixed, 0, 255).astype(np.uint8)
