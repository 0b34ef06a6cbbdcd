"""Minutiae: what is left of a finger's picture. Numbers alone; nothing here keeps a picture.

Coordinates are pixels of a picture at 500 pixels an inch, from the top left corner, y downwards, whatever the reader's
own resolution was. Angles follow ISO/IEC 19794-2: radians, counter-clockwise from the positive x axis.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PPI = 500
ENDING, BIFURCATION, OTHER = 1, 2, 0
"""Kinds as ISO/IEC 19794-2 codes them."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Minutiae:
    """`x`, `y`: float32 (n). `angle`: float32 (n), 0 <= angle < 2 pi. `kind`: uint8 (n). `quality`: uint8 (n), 0 to
    100 (0: not told). `width`, `height`: of the picture at 500 pixels an inch. Biometric: never in `repr`."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    angle: npt.NDArray[np.float32]
    kind: npt.NDArray[np.uint8]
    quality: npt.NDArray[np.uint8]
    width: int
    height: int

    def __post_init__(self) -> None:
        columns = (self.x, self.y, self.angle, self.kind, self.quality)
        if any(column.ndim != 1 or len(column) != len(self.x) for column in columns):
            raise ValueError("the columns of minutiae are one-dimensional and equally long")
        if self.width < 1 or self.height < 1:
            raise ValueError("a picture has a width and a height")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Minutiae({len(self)} in {self.width} x {self.height})"
