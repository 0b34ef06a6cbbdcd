"""LEADER: minutiae of a finger's picture (R. Cappelli, "LEADER: lightweight end-to-end attention-gated dual
autoencoder for robust minutiae extraction", 2025).

Cropping, padding and decoding around the patched graph of the manifest. Not thread-safe: one object, one thread."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models.loader import CACHE, load

STEP = 32
"""Sides of what the network takes are multiples of this."""
BLOCK, GREY_SPREAD_MIN, MARGIN = 16, 4.0, 2
"""A block of 16 x 16 pixels whose greys spread less (standard deviation) shows nothing; two blocks around those that
show something go to the network with them."""
HEIGHT_MAX, WIDTH_MAX = 768, 640
"""39 x 32 mm: no fingertip is larger. Of what shows more (a hand, noise) the middle is looked at: memory has an end."""

Rows = npt.NDArray[np.float32]


class Leader:
    """The extractor."""

    def __init__(self, folder: Path = CACHE, threads: int = 1) -> None:
        """Raises `models.manifest.ModelError` where the network is missing or not the manifest's."""
        self._session = load("leader", folder, threads)

    def find(self, picture: npt.NDArray[np.uint8]) -> Rows:
        """Minutiae of a grey picture, uint8 (height, width), at 500 pixels an inch, ridges dark; the surest first.

        float32 (n, 5): x, y, direction (radians, counter-clockwise, 0 to 2 pi, along the ridge that ends or between
        the two that part), 1 for an ending and 0 for a bifurcation, score (0.6 to 1). 255 at most."""
        down, across = contact(picture)
        shown = picture[down, across]
        if not shown.size:
            return np.zeros((0, 5), np.float32)
        padded, top, left = _padded(shown)
        place, score, direction, ending = self._session.run(None, {"picture": padded[None, None].astype(np.float32)})
        y, x = place[:, 2] - top, place[:, 3] - left
        # The network tells of all four pixels of a place at half size; y and x even or odd say which was meant.
        each, pixel = np.arange(len(place)), place[:, 2] % 2 * 2 + place[:, 3] % 2
        cosine, sine = direction.reshape(-1, 4, 2)[each, pixel].T
        angle = np.mod(np.arctan2(sine, cosine), 2 * np.pi)
        rows = np.column_stack(
            (x + across.start, y + down.start, angle, ending[each, pixel] >= 0, np.minimum(score, 1))
        )
        inside = (y >= 0) & (y < shown.shape[0]) & (x >= 0) & (x < shown.shape[1])
        found: Rows = rows[inside].astype(np.float32)
        return found


def contact(picture: npt.NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns of the part of a picture that shows anything, with a margin; empty where nothing does."""
    rows, columns = (max(side // BLOCK, 1) for side in picture.shape)
    grey = picture[: rows * BLOCK, : columns * BLOCK].astype(np.float32)
    mean = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA)
    square = cv2.resize(grey * grey, (columns, rows), interpolation=cv2.INTER_AREA)
    shows: npt.NDArray[np.bool_] = np.asarray(square - mean * mean > GREY_SPREAD_MIN**2)
    return (
        _range(np.any(shows, axis=1), picture.shape[0], HEIGHT_MAX),
        _range(np.any(shows, axis=0), picture.shape[1], WIDTH_MAX),
    )


def _range(shows: npt.NDArray[np.bool_], side: int, most: int) -> slice:
    """From the first to the last block that shows something, in pixels, with the margin."""
    found = np.flatnonzero(shows)
    if not len(found):
        return slice(0, 0)
    first = max(int(found[0]) - MARGIN, 0) * BLOCK
    last = min((int(found[-1]) + 1 + MARGIN) * BLOCK, side)
    beyond = max(last - first - most, 0)
    return slice(first + beyond // 2, last - (beyond - beyond // 2))


def _padded(picture: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], int, int]:
    """The picture in the middle of one that the network takes, and its top and left; its border's grey around."""
    down, across = (-side % STEP for side in picture.shape)
    top, left = down // 2, across // 2
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    ground = int(np.median(border))
    filled = cv2.copyMakeBorder(
        picture, top, down - top, left, across - left, cv2.BORDER_CONSTANT, value=(ground, ground, ground)
    )
    return filled.astype(np.uint8), top, left
