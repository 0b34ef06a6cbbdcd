"""What a camera is shown: tokens of the simulated world, in place of pictures where time is virtual."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PICTURE_PX = (480, 640)
"""Rows and columns of what a token looks like."""
TILE_PX = 8


@dataclass(frozen=True, slots=True)
class SeenFace:
    """One face: whose, how far away (metres), turned how far from the camera (degrees), how well visible (0..1).

    `take` numbers the passage: one person's looks on one day are alike, on two passages less so."""

    person: int
    distance_m: float
    yaw_deg: float
    quality: float
    take: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything in front of the camera at `mono`, nearest first."""

    faces: tuple[SeenFace, ...]
    mono: float

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[np.uint8]:
        """For who wants a picture after all: BGR, in tiles about the colour of the nearest person."""
        person = self.faces[0].person if self.faces else 0
        tiles = np.random.default_rng(person).integers(-20, 21, (*(side // TILE_PX for side in PICTURE_PX), 3))
        return (tiles + colour_of(person)).astype(np.uint8).repeat(TILE_PX, axis=0).repeat(TILE_PX, axis=1)


def colour_of(person: int) -> npt.NDArray[np.int64]:
    """Blue, green and red of what a person's token looks like, in the mean."""
    return np.array([64 + person * prime % 160 for prime in (37, 101, 151)])
