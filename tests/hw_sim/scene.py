"""What a camera is shown: tokens of the simulated world, in place of pictures where time is virtual."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PICTURE_PX = (480, 640)
"""Rows and columns of what a token looks like."""


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
        """For who wants a picture after all: BGR, of the colour of the nearest person."""
        person = self.faces[0].person if self.faces else 0
        colour = np.array([64 + person * 37 % 192, 64 + person * 101 % 192, 64 + person * 151 % 192], np.uint8)
        return np.broadcast_to(colour, (*PICTURE_PX, 3)).copy()
