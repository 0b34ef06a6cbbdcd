"""Samples a square out of a picture through an affine matrix, without aliasing. Pure numbers."""

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]


def sample(image: Image, matrix: Matrix, side: int) -> Image:
    """The (side, side, 3) square that `matrix` (2, 3: picture to square) cuts out; black where the picture ends.

    Where the square is less than half as large as what it shows, the picture is first averaged down by a whole
    factor: bilinear sampling alone would skip pixels and alias."""
    factor = int(1 / max(float(np.hypot(matrix[0, 0], matrix[1, 0])), 1e-6))
    if factor >= 2:
        image, matrix = _reduced(image, matrix, side, factor)
    return cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)  # type: ignore[return-value]


def _reduced(image: Image, matrix: Matrix, side: int, factor: int) -> tuple[Image, Matrix]:
    """The region that the square needs, `factor` times smaller, and the matrix from there to the square."""
    back = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]]) @ back[:, :2].T + back[:, 2]
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - factor, 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + factor, (image.shape[1], image.shape[0]))
    size = (high - low) // factor
    if (size < 1).any():
        return image, matrix
    high = low + size * factor
    region = image[low[1] : high[1], low[0] : high[0]]
    small = cv2.resize(region, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
    # The centre of small pixel u lies at factor * u + (factor - 1) / 2 + low in the picture.
    origin = low + (factor - 1) / 2
    shift = matrix[:, :2] @ origin + matrix[:, 2]
    return small, np.column_stack((matrix[:, :2] * factor, shift))  # type: ignore[return-value]
