"""LEADER: minutiae of a finger's picture (R. Cappelli, "LEADER: lightweight end-to-end attention-gated dual
autoencoder for robust minutiae extraction", 2025).

Padding and decoding around the graph of the manifest. Not thread-safe: one object, one thread."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models.loader import CACHE, load

STEP = 32
"""Sides of what the network takes are multiples of this."""
SCORE_MIN = 0.6
"""Below this a peak is no minutia: the network's own post-processing, as published."""

Rows = npt.NDArray[np.float32]


class Leader:
    """The extractor."""

    def __init__(self, folder: Path = CACHE, threads: int = 1) -> None:
        """Raises `models.manifest.ModelError` where the network is missing or not the manifest's."""
        self._session = load("leader", folder, threads)

    def find(self, picture: npt.NDArray[np.uint8]) -> Rows:
        """Minutiae of a grey picture, uint8 (height, width), at 500 pixels an inch, ridges dark; the surest first.

        float32 (n, 5): x, y, direction (radians, counter-clockwise, 0 to 2 pi), 1 for an ending and 0 for a
        bifurcation, score (0.6 to 1)."""
        height, width = picture.shape
        down, across = -height % STEP, -width % STEP
        top, left = down // 2, across // 2
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        ground = int(np.median(border))
        padded = cv2.copyMakeBorder(
            picture, top, down - top, left, across - left, cv2.BORDER_CONSTANT, value=(ground, ground, ground)
        )
        told = self._session.run(None, {"input": padded[None, :, :, None].astype(np.float32)})[0][0]
        told = told[top : top + height, left : left + width]
        y, x = np.nonzero(told[..., 3] >= SCORE_MIN)
        found = told[y, x]
        rows = np.column_stack((x, y, np.mod(found[:, 1], 2 * np.pi), found[:, 2] >= 0.5, np.clip(found[:, 3], 0, 1)))
        return rows[np.argsort(-rows[:, 4], kind="stable")].astype(np.float32)
