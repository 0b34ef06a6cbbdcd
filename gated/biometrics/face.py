"""The face as a question: who is near, how good is the picture, is it the enrolled person. No I/O but models.

Pictures are BGR uint8 (height, width, 3). Nothing here keeps a picture, an embedding or a template.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from gated.biometrics import quality
from models.loader import CACHE
from models.manifest import ModelError, model
from models.sface import DIMENSIONS, SFace, align
from models.yunet import Face, YuNet

Image = npt.NDArray[np.uint8]
Embedding = npt.NDArray[np.float32]

UNIT_ERROR_MAX = 1e-3
"""How far the length of a template may be from one: float32 rounding is a thousandth of this."""
NEAR_EYE_PX_MIN = 30.0
"""Below an eye distance of 30 pixels the crop is enlarged: less of the face is there than the network reads."""
DETECTION_WIDTH_PX = 640
QUALITY_MIN = 0.01


@dataclass(frozen=True, slots=True)
class Threshold:
    """Accept at `score` and above. `fmr`: the false match rate that was measured there (docs/faces.md)."""

    name: str
    score: float
    fmr: float


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one picture shows. `persons`: how many faces are near. `quality`: 0..1, of the nearest.

    `usable`: exactly one person near, and good enough. `advice`: a value of `gated.lane.events.Advice` where it is not
    usable and the passenger can do something about it. `face`, `crop`: the nearest near face and its aligned BGR
    uint8 (112, 112, 3) picture; None where nobody is near."""

    persons: int
    quality: float
    usable: bool
    advice: str | None
    face: Face | None = field(repr=False, default=None)
    crop: Image | None = field(repr=False, default=None)


class FaceEngine(Protocol):
    """A face comparator, with what the lane needs to know about it. One thread at a time."""

    model: str
    """Names the network: an embedding means nothing to another."""
    threshold: Threshold
    weak: Threshold | None
    """From here up to `threshold` a face is weak and not wrong; None: every one below the threshold is wrong."""

    def look(self, image: Any, /) -> Look:
        """Find and judge the faces of one picture. Raises `ValueError` for what is not a picture."""

    def embed(self, image: Any, look: Look, /) -> Embedding:
        """The unit embedding of the nearest face. Raises `ValueError` where `look` has none."""

    def score(self, embedding: Embedding, template: bytes, /) -> float:
        """Similarity, -1..1. Raises `TemplateUnusable` for a template that cannot be one of this model."""


class TemplateUnusable(ValueError):
    """What is enrolled is no template: a longer vector, say, would be like everybody."""


class OnnxFaceEngine:
    """YuNet and SFace on the CPU."""

    def __init__(
        self,
        models_dir: Path = CACHE,
        threshold_name: str = "fmr_1e-3",
        threads: int = 1,
        *,
        near_eye_px_min: float = NEAR_EYE_PX_MIN,
        detection_width_px: int = DETECTION_WIDTH_PX,
        quality_min: float = QUALITY_MIN,
        weak_name: str | None = None,
    ) -> None:
        """`near_eye_px_min`: a face with this eye distance or more is a person near. `detection_width_px`: wider
        pictures are scaled down to it for detection alone. Raises `ModelError` for a network that is missing or
        not the manifest's, or a threshold that the manifest does not name."""
        entry = model("sface")
        for name in (threshold_name, weak_name):
            if name is not None and name not in entry.thresholds:
                raise ModelError(
                    f"no threshold called {name!r} for sface; there are {', '.join(sorted(entry.thresholds))}"
                )
        if near_eye_px_min <= 0 or detection_width_px < 64 or not 0 <= quality_min <= 1:
            raise ValueError("near_eye_px_min > 0, detection_width_px >= 64 and 0 <= quality_min <= 1 are needed")
        named = {name: Threshold(name, point.score, point.fmr) for name, point in entry.thresholds.items()}
        self.threshold, self.weak = named[threshold_name], named[weak_name] if weak_name else None
        self.model = f"sface-{entry.published_sha256[:12]}"
        self._near_eye_px_min = near_eye_px_min
        self._detection_width_px = detection_width_px
        self._quality_min = quality_min
        self._detector = YuNet(models_dir, threads)
        self._embedder = SFace(models_dir, threads)

    def faces(self, image: Image) -> list[Face]:
        """All faces, the largest first, in pixels of the full picture."""
        _check(image)
        height, width = image.shape[:2]
        if width <= self._detection_width_px:
            found = self._detector.detect(image)
        else:
            factor = width / self._detection_width_px
            size = (self._detection_width_px, max(round(height / factor), 1))
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            scale = np.array([width / size[0], height / size[1]], np.float32)
            found = [_scaled(face, scale) for face in self._detector.detect(small)]  # type: ignore[arg-type]
        return sorted(found, key=quality.eye_px, reverse=True)

    def look(self, image: Image) -> Look:
        return self.judge(image, self.faces(image))

    def judge(self, image: Image, found: list[Face]) -> Look:
        """What `look` says, given what `faces` found in the picture."""
        near = [face for face in found if quality.eye_px(face) >= self._near_eye_px_min]
        if not near:
            return Look(0, 0.0, False, "come_closer" if found else "nobody")
        face = replace(near[0], landmarks=self._detector.landmarks(image, near[0]))
        crop = align(image, face.landmarks)
        judged = quality.judge(quality.measure(face, crop, *image.shape[:2]))
        usable = len(near) == 1 and judged.value >= self._quality_min
        if usable:
            advice = None
        else:
            advice = judged.advice if len(near) == 1 else "one_person_only"
        return Look(len(near), judged.value, usable, advice, face, crop)

    def embed(self, image: Image, look: Look) -> Embedding:
        if look.face is None:
            raise ValueError("there is no face near in this picture")
        crop = look.crop if look.crop is not None else align(image, look.face.landmarks)
        return self._embedder.embed(crop)

    def score(self, embedding: Embedding, template: bytes) -> float:
        if len(template) != 4 * DIMENSIONS:
            raise TemplateUnusable(f"a template of {self.model} has {4 * DIMENSIONS} bytes, not {len(template)}")
        enrolled = np.frombuffer(template, "<f4")
        with np.errstate(all="ignore"):  # any bytes at all may be in it
            length = float(np.linalg.norm(enrolled.astype(np.float64)))
        if not abs(length - 1.0) <= UNIT_ERROR_MAX:  # also what is no number
            raise TemplateUnusable(f"a template of {self.model} is a unit vector, and this one is not")
        return float(embedding @ enrolled)


def template_of(embedding: Embedding) -> bytes:
    """An embedding as it is stored and compared: little-endian float32."""
    return embedding.astype("<f4").tobytes()


def _check(image: Image) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"a picture is a uint8 array (height, width, 3), not {found}")
    if 0 in image.shape:
        raise ValueError("a picture without pixels")


def _scaled(face: Face, scale: npt.NDArray[np.float32]) -> Face:
    """A face found in the small picture, in pixels of the full one."""
    return Face(face.box * np.tile(scale, 2), face.landmarks * scale, face.score)
