"""Recorded faces for virtual time: tokens of the scene in, scores out, as the real networks gave them on LFW.

Genuine scores are drawn from N(0.62, 0.10), impostors' from about N(0.05, 0.08), both clipped. That is what YuNet and
SFace fp32 measured on LFW (docs/faces.md; FNMR 2.6 % at FMR 1e-3, threshold 0.359): a gate that only works
with perfect scores is found out. The draws are real vectors with real cosines: 64 dimensions say who somebody is, the
other 64 how they look today; so templates may be sealed, stored and compared like any.
"""

import hashlib
import math
from functools import cache

import numpy as np
import numpy.typing as npt

from gated.biometrics.face import Embedding, Look, Threshold
from models.yunet import Face
from tests.hw_sim.scene import Seen, SeenFace

NEAR_M = 2.5
"""A face nearer than this counts as a person near."""
YAW_DEG_MAX = 30.0
GENUINE_MEAN, GENUINE_SD = 0.62, 0.10
IMPOSTOR_MEAN, IMPOSTOR_SD = 0.05, 0.08
IMPOSTOR_MAX = 0.33
_WHO, _TODAY = 64, 64


def _rng(*key: object) -> np.random.Generator:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _unit(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


@cache
def _identity(seed: int, person: int) -> npt.NDArray[np.float64]:
    """The unit vector that is a person: a common face, plus their own."""
    common = math.sqrt(IMPOSTOR_MEAN / GENUINE_MEAN)
    shared = _unit(_rng(seed, "everybody").normal(size=_WHO))
    own = _unit(_rng(seed, "person", person).normal(size=_WHO))
    return np.concatenate([_unit(common * shared + math.sqrt(1 - common**2) * own), np.zeros(_TODAY)])


class RecordedFaces:
    """A `gated.biometrics.face.FaceEngine` that looks at `Seen` tokens. A seed gives the same scores again."""

    model = "recorded-1"

    def __init__(self, seed: int, threshold: Threshold | None = None) -> None:
        self.seed = seed
        self.threshold = threshold or Threshold("fmr_1e-3", 0.359, 1e-3)
        self.weak: Threshold | None = Threshold("fmr_1e-2", 0.3, 1e-2)

    def template(self, person: int) -> bytes:
        """What enrolment stored of `person`: 128 little-endian float32, a unit vector."""
        return _identity(self.seed, person).astype("<f4").tobytes()

    def look(self, image: object) -> Look:
        if not isinstance(image, Seen):
            raise ValueError(f"the simulated camera shows Seen tokens, not {type(image).__name__}")
        near = [face for face in image.faces if face.distance_m < NEAR_M]
        if not near:
            return Look(0, 0.0, False, "come_closer" if image.faces else "nobody")
        face = near[0]
        turned = abs(face.yaw_deg) > YAW_DEG_MAX
        quality = max(0.0, face.quality * math.cos(math.radians(face.yaw_deg)) * min(1.0, 1.6 / face.distance_m))
        usable = len(near) == 1 and not turned and quality >= 0.25
        advice = None
        if not usable:
            advice = "one_person_only" if len(near) > 1 else "look_at_camera" if turned else "come_closer"
        return Look(len(near), quality, usable, advice, _where(face))

    def embed(self, image: object, look: Look) -> Embedding:
        if look.face is None or not isinstance(image, Seen):
            raise ValueError("there is no face near in this picture")
        face = next(face for face in image.faces if face.distance_m < NEAR_M)
        today = _rng(self.seed, "take", face.person, face.take)
        moment = _rng(self.seed, "frame", face.person, face.take, round(image.mono * 1000))
        worse = 0.25 * (1 - face.quality) + 0.002 * abs(face.yaw_deg)
        likeness = today.normal(GENUINE_MEAN, GENUINE_SD) + moment.normal(0.0, 0.02) - 0.1 * worse
        likeness = min(0.95, max(0.1, likeness))
        noise = np.concatenate([np.zeros(_WHO), _unit(moment.normal(size=_TODAY))])
        vector = likeness * _identity(self.seed, face.person) + math.sqrt(1 - likeness**2) * noise
        return vector.astype(np.float32)

    def score(self, embedding: Embedding, template: bytes) -> float:
        if len(template) != 4 * (_WHO + _TODAY):
            raise ValueError(f"a template of {self.model} has {4 * (_WHO + _TODAY)} bytes, not {len(template)}")
        enrolled = np.frombuffer(template, "<f4")
        score = float(embedding @ enrolled)
        alike = score / max(float(np.linalg.norm(embedding[:_WHO])), 1e-6)
        return score if alike > 0.99 else min(score, IMPOSTOR_MAX)


def _where(face: SeenFace) -> Face:
    """A face of the token's size somewhere in the middle of a 640 x 480 picture."""
    size = 110.0 / face.distance_m
    left, top = 320 - size / 2, 240 - size / 2
    eyes = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    return Face(
        np.array([left, top, size, size], np.float32),
        eyes * np.float32(size) + np.array([left, top], np.float32),
        0.9,
    )
