"""SFace: an embedding of one aligned face (Zhong et al., "SFace: sigmoid-constrained hypersphere loss", 2021).

Alignment and pre-processing around the patched graph of the manifest. Not thread-safe: one object, one thread."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.loader import CACHE, load
from models.warp import sample

SIDE = 112
DIMENSIONS = 128
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float64
)
"""Where the five landmarks lie in the 112 x 112 crop that the network was trained on (order as in `yunet.Face`)."""

_CENTRE = TEMPLATE.mean(axis=0)
_TEMPLATE_COMPLEX = (TEMPLATE - _CENTRE) @ np.array([1, 1j])


def similarity(landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The (2, 3) matrix of rotation, scale and shift that brings `landmarks` (5, 2) nearest to `TEMPLATE`.

    Least squares over the five points (Umeyama 1991), in complex numbers: with both sets about their means, the best
    factor is sum(conj(source) * target) / sum(|source|^2). Raises `ValueError` where the five points coincide."""
    points = np.asarray(landmarks, np.float64)
    mean = points.mean(axis=0)
    source = (points - mean) @ np.array([1, 1j])
    spread = float((source.real**2 + source.imag**2).sum())
    if not spread > 0:
        raise ValueError("the five landmarks of a face cannot be one point")
    factor = complex(np.vdot(source, _TEMPLATE_COMPLEX)) / spread
    turn = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack((turn, _CENTRE - turn @ mean))


def align(image: npt.NDArray[np.uint8], landmarks: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """The face of a BGR picture as a BGR uint8 (112, 112, 3) crop; black where the picture ends."""
    return sample(image, similarity(landmarks), SIDE)


class SFace:
    """The embedder."""

    def __init__(self, folder: Path = CACHE, threads: int = 1) -> None:
        """Raises `models.manifest.ModelError` where the network is missing or not the manifest's."""
        self._session = load("sface", folder, threads)
        self._input = np.empty((1, 3, SIDE, SIDE), np.float32)

    def embed(self, crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The unit embedding, float32 (128,), of an aligned BGR crop, uint8 (112, 112, 3)."""
        self._input[0] = crop[:, :, ::-1].transpose(2, 0, 1)
        raw: npt.NDArray[np.float32] = self._session.run(None, {"data": self._input})[0][0]
        return raw / np.linalg.norm(raw)
