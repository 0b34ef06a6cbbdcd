"""NIST's mindtct and bozorth3 over `nbis-py`: the comparator beside which ours is measured. For the laboratory alone.

The package is optional (extra `nbis`, x86-64) and runs C code of the nineties in this process: a picture that is too
small ends it (seen with 8 x 8 pixels), so no lane ever imports this. NIST IR 7392, User's Guide to NBIS.
"""

from typing import Any

import cv2
import numpy as np

from gated.biometrics.finger import FingerError
from gated.biometrics.minutiae import PPI

SIDE_PX_MIN, SIDE_PX_MAX = 64, 2000
"""Of a picture at 500 pixels an inch: 3 to 100 mm. Below it mindtct reads outside of its memory."""


class NbisMissing(Exception):
    """`nbis-py` is not installed here, or is not built for this machine."""


class Nbis:
    """Extractor and comparator in one. Scores are whole numbers from 0 on; NIST's guide calls 40 and more a match."""

    model = "mindtct + bozorth3 (nbis-py)"

    def __init__(self) -> None:
        """Raises `NbisMissing`."""
        try:
            import nbis
        except (ImportError, OSError) as error:  # OSError: built for a newer C library than this one
            raise NbisMissing(f"nbis-py cannot be used here ({error}): install the extra, gated[nbis]") from error
        self._errors = (nbis.NbisError, nbis.InternalError)
        settings = nbis.NbisExtractorSettings(
            min_quality=0.0, get_center=False, check_fingerprint=False, compute_nfiq2=False, ppi=float(PPI)
        )
        self._extractor = nbis.new_nbis_extractor(settings)

    def extract(self, image: Any, ppi: float) -> Any:
        """The minutiae of a grey picture, uint8 (height, width), as an object of the package. Raises `FingerError`.

        mindtct is made for 500 pixels an inch and does not scale, whatever it is told: we do."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 2 or not ppi > 0:
            raise FingerError("a finger's picture is a uint8 array (height, width) with a resolution above 0")
        size = tuple(max(round(side * PPI / ppi), 1) for side in reversed(image.shape))
        if not all(SIDE_PX_MIN <= side <= SIDE_PX_MAX for side in size):
            raise FingerError(f"a picture of {size[0]} x {size[1]} pixels at {PPI} ppi is no finger's")
        if size != image.shape[::-1]:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ppi > PPI else cv2.INTER_CUBIC)
        written, png = cv2.imencode(".png", image)
        if not written:
            raise FingerError("the picture cannot be handed to mindtct")
        try:
            return self._extractor.extract_minutiae(png.tobytes())
        except self._errors as error:
            raise FingerError(f"mindtct refuses the picture ({type(error).__name__})") from error

    def compare(self, a: Any, b: Any) -> float:
        """bozorth3's score of what `extract` gave for two pictures; it depends a little on which comes first."""
        return float(a.compare(b))
