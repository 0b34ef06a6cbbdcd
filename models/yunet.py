"""YuNet: faces with five landmarks in a picture (Wu et al., "YuNet: a tiny millisecond-level face detector", 2023).

Pre- and post-processing around the patched graph of the manifest. Not thread-safe: one object, one thread."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.loader import CACHE, load
from models.warp import sample

STRIDES = (8, 16, 32)
MULTIPLE = 32
OVERLAP_MAX = 0.3
"""Intersection over union above which the weaker of two boxes is the same face (the published setting)."""
CANDIDATES_MAX = 500
VIEW_SIDE = 256
VIEW_FACE = 192
"""A closer view is 256 x 256 pixels with a face of 192 pixels in its middle: below about 130 pixels the points follow
the shape of an average upright face rather than the face (measured: docs/faces.md)."""
VIEW_SCORE_MIN = 0.3
UPRIGHT_MAX_DEG = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face. `box`: float32 (4,) x, y, width, height in pixels of the picture; it may reach over the edge.

    `landmarks`: float32 (5, 2) in pixels: the eye at the picture's left, the other eye, nose tip, the mouth corner at
    the picture's left, the other corner. `score`: 0..1."""

    box: npt.NDArray[np.float32]
    landmarks: npt.NDArray[np.float32]
    score: float


class YuNet:
    """The detector. `score_min`: weaker faces are not reported."""

    def __init__(self, folder: Path = CACHE, threads: int = 1, score_min: float = 0.6) -> None:
        """Raises `models.manifest.ModelError` where the network is missing or not the manifest's."""
        self._session = load("yunet", folder, threads)
        if not 0 < score_min < 1:
            raise ValueError(f"score_min lies between 0 and 1, not at {score_min}")
        self._score_min = score_min
        self._input = np.zeros((1, 3, 0, 0), np.float32)
        self._size = (0, 0)
        self._view = np.zeros((1, 3, VIEW_SIDE, VIEW_SIDE), np.float32)

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        """The faces in a BGR picture, uint8 (height, width, 3), best score first, one per person."""
        height, width = image.shape[:2]
        self._fit(height, width)
        self._input[0, :, :height, :width] = image.transpose(2, 0, 1)
        maps = self._session.run(None, {"input": self._input})
        return _decode(maps, self._score_min)

    def landmarks(self, image: npt.NDArray[np.uint8], face: Face) -> npt.NDArray[np.float32]:
        """The five points of a face that `detect` found, (5, 2) in pixels of the picture, from a second, closer look.

        Found at any size, points scatter by several per cent of the face and hang back when the head leans. So the
        face is looked at again at the size where they are best, and once more turned upright if it leans. Returns the
        face's own points where the closer view loses the face."""
        points = self._closer(image, face, 0.0)
        if points is None:
            return face.landmarks
        axis = points[1] - points[0] + points[4] - points[3]
        lean = float(np.arctan2(axis[1], axis[0]))
        if abs(lean) > np.radians(UPRIGHT_MAX_DEG):
            upright = self._closer(image, face, -lean)
            points = points if upright is None else upright
        return points.astype(np.float32)

    def _closer(self, image: npt.NDArray[np.uint8], face: Face, turn: float) -> npt.NDArray[np.float64] | None:
        """The points in a view of the face turned by `turn` (radians, clockwise); None where no face is in it."""
        scale = VIEW_FACE / max(float(np.sqrt(face.box[2] * face.box[3])), 1.0)
        cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
        spin = np.array([[cosine, -sine], [sine, cosine]])
        shift = (VIEW_SIDE - 1) / 2 - spin @ (face.box[:2] + face.box[2:] / 2)
        view = sample(image, np.column_stack((spin, shift)), VIEW_SIDE)
        self._view[0] = view.transpose(2, 0, 1)
        found = _decode(self._session.run(None, {"input": self._view}), VIEW_SCORE_MIN)
        if not found:
            return None
        points: npt.NDArray[np.float64] = (min(found, key=_off_centre).landmarks - shift) @ spin / scale**2
        return points

    def _fit(self, height: int, width: int) -> None:
        """Keep one input array as long as the pictures keep their size; the padding to a multiple of 32 stays black."""
        if self._size == (height, width):
            return
        padded = [-(-side // MULTIPLE) * MULTIPLE for side in (height, width)]
        self._input = np.zeros((1, 3, *padded), np.float32)
        self._size = (height, width)


def _off_centre(face: Face) -> float:
    return float(np.abs(face.box[:2] + face.box[2:] / 2 - VIEW_SIDE / 2).sum())


def _decode(maps: list[npt.NDArray[np.float32]], score_min: float) -> list[Face]:
    """Faces from the network's three outputs, best score first."""
    found = np.concatenate(
        [_candidates(cells[0], stride, score_min) for cells, stride in zip(maps, STRIDES, strict=True)]
    )
    order = np.argsort(-found[:, 14], kind="stable")[:CANDIDATES_MAX]
    return [
        Face(box=row[:4].copy(), landmarks=row[4:14].reshape(5, 2).copy(), score=float(row[14]))
        for row in _apart(found[order])
    ]


def _candidates(cells: npt.NDArray[np.float32], stride: int, score_min: float) -> npt.NDArray[np.float32]:
    """Rows of box, landmarks and score. `cells`: (16, rows, columns): class and object logit, box, landmarks.

    The score is the root of two probabilities, so each of them alone must reach the square of the least score: nearly
    every cell is dropped on its logits."""
    columns = cells.shape[2]
    flat = cells.reshape(16, -1)
    square = score_min * score_min
    kept = np.flatnonzero(np.minimum(flat[0], flat[1]) >= np.log(square / (1 - square)))
    values = flat[:, kept]
    score = np.sqrt(_sigmoid(values[0]) * _sigmoid(values[1]))
    strong = score >= score_min
    kept, values, score = kept[strong], values[:, strong], score[strong]
    origin = np.stack((kept % columns, kept // columns)).astype(np.float32)
    rows = np.empty((len(kept), 15), np.float32)
    size = np.exp(values[4:6]) * stride
    rows[:, 0:2] = ((origin + values[2:4]) * stride - size / 2).T
    rows[:, 2:4] = size.T
    rows[:, 4:14] = ((np.tile(origin, (5, 1)) + values[6:16]) * stride).T
    rows[:, 14] = score
    return rows[np.isfinite(rows).all(axis=1)]


def _sigmoid(values: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    return 1 / (1 + np.exp(-values))


def _apart(rows: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """Non-maximum suppression of rows sorted by score."""
    kept: list[npt.NDArray[np.float32]] = []
    left, top, width, height = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3]
    alive = np.ones(len(rows), bool)
    for index in range(len(rows)):
        if not alive[index]:
            continue
        kept.append(rows[index])
        across = np.minimum(left + width, left[index] + width[index]) - np.maximum(left, left[index])
        down = np.minimum(top + height, top[index] + height[index]) - np.maximum(top, top[index])
        shared = np.clip(across, 0, None) * np.clip(down, 0, None)
        union = width * height + width[index] * height[index] - shared
        alive &= shared <= OVERLAP_MAX * union
    return kept
