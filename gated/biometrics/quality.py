"""How good a face is for comparison, from its landmarks and its aligned crop. Pure numbers: no I/O, no clock.

Every measure is mapped to 0..1 by a ramp between a value that is useless and one that is good; the quality is their
product, so one useless measure makes a useless face. What the numbers were set on is in docs/faces.md.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models.sface import TEMPLATE
from models.yunet import Face

_EYES_TO_MOUTH = float(
    np.linalg.norm(TEMPLATE[:2].mean(axis=0) - TEMPLATE[3:].mean(axis=0)) / np.linalg.norm(TEMPLATE[0] - TEMPLATE[1])
)
"""Eye line to mouth line of a frontal face, in eye distances (1.155)."""
_NOSE_DEPTH = 0.4
"""How far the nose tip stands out of the plane of eyes and mouth, in eye distances."""
_NOSE_HEIGHT = 0.55
"""Where the nose tip of a level face lies between eye line (0) and mouth line (1)."""

# The part of the crop that is skin, whatever the hair and the background: from the brows to the mouth.
_ROWS, _COLUMNS = slice(36, 100), slice(24, 88)


@dataclass(frozen=True, slots=True)
class Pose:
    """Head rotation in degrees, estimated from five points: good for ranking frames, not for measuring heads.

    `yaw`: positive when the face turns to the picture's right; `pitch`: positive when it looks down; `roll`: positive
    when the head leans clockwise in the picture."""

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured; `Quality` is made of it."""

    eye_px: float
    """Eye distance, or what it would be if the face were frontal, in pixels of the full picture."""
    fill: float
    """Part of the picture's width that the face takes."""
    cut: float
    """Part of the face's box that lies outside the picture."""
    sharpness: float
    """Second difference over contrast, along the blurrier of the two axes: 0 (flat) to about 0.2."""
    brightness: float
    """Mean grey of the skin region, 0..255."""
    clipped: float
    """Part of the skin region that is black or white."""
    confidence: float
    """The detector's score."""
    pose: Pose


@dataclass(frozen=True, slots=True)
class Quality:
    """`value`: 0..1. `advice`: what the passenger could do about the weakest measure; a value of `Advice`, or None."""

    value: float
    advice: str | None


def eye_px(face: Face) -> float:
    """The face's size as an eye distance in pixels. A face turned away is measured from eyes to mouth instead."""
    eyes, mouth = face.landmarks[:2], face.landmarks[3:]
    across = math.dist(eyes[0], eyes[1])
    down = math.dist(eyes.mean(axis=0), mouth.mean(axis=0))
    return max(across, down / _EYES_TO_MOUTH)


def pose(landmarks: npt.NDArray[np.floating]) -> Pose:
    """Rotation of a head from its five landmarks (5, 2), see `models.yunet.Face` for their order."""
    eye_a, eye_b, nose, mouth_a, mouth_b = (complex(float(x), float(y)) for x, y in landmarks)
    eyes, mouth = (eye_a + eye_b) / 2, (mouth_a + mouth_b) / 2
    axis = (eye_b - eye_a) + (mouth_b - mouth_a)
    if abs(axis) == 0:
        return Pose(90.0, 0.0, 0.0)
    upright = axis.conjugate() / abs(axis)
    across = max(((eye_b - eye_a) * upright).real, 1e-6)
    down = ((mouth - eyes) * upright).imag
    size = max(across, down / _EYES_TO_MOUTH, 1e-6)
    tip = (nose - eyes) * upright
    middle = ((mouth - eyes) * upright).real * (tip.imag / down if down > 0 else 0.0)
    height = tip.imag / down if down > 0 else 1.0
    return Pose(
        yaw=math.degrees(math.atan2(tip.real - middle, _NOSE_DEPTH * across)),
        pitch=math.degrees(math.atan2((height - _NOSE_HEIGHT) * down, _NOSE_DEPTH * size)),
        roll=math.degrees(math.atan2(axis.imag, axis.real)),
    )


def measure(face: Face, crop: npt.NDArray[np.uint8], height: int, width: int) -> Measures:
    """Measure one face of a picture of `height` x `width`, given its aligned BGR crop (112, 112, 3)."""
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)[_ROWS, _COLUMNS]
    contrast = float(grey.std())
    # Across and down by themselves: a moving head is blurred in one direction and stays sharp in the other.
    across_edges = float(np.abs(cv2.Sobel(grey, cv2.CV_16S, 2, 0, ksize=1)).mean())
    down_edges = float(np.abs(cv2.Sobel(grey, cv2.CV_16S, 0, 2, ksize=1)).mean())
    left, top, across, down = (float(value) for value in face.box)
    seen_across = min(left + across, width) - max(left, 0.0)
    seen_down = min(top + down, height) - max(top, 0.0)
    return Measures(
        eye_px=eye_px(face),
        fill=across / width,
        cut=1 - max(seen_across, 0.0) * max(seen_down, 0.0) / (across * down),
        sharpness=min(across_edges, down_edges) / (contrast + 4.0),
        brightness=float(grey.mean()),
        clipped=float(np.count_nonzero((grey < 8) | (grey > 247))) / grey.size,
        confidence=face.score,
        pose=pose(face.landmarks),
    )


def judge(found: Measures) -> Quality:
    """One number and one piece of advice from the measures."""
    turned = max(abs(found.pose.yaw), abs(found.pose.pitch), abs(found.pose.roll))
    parts: tuple[tuple[float, str | None], ...] = (
        (_ramp(found.eye_px, 16, 60), "come_closer"),
        (_ramp(found.fill, 1.0, 0.7), "step_back"),
        (_ramp(found.cut, 0.4, 0.05), "step_back"),
        (_ramp(turned, 60, 20), "look_at_camera"),
        (_ramp(found.sharpness, 0.02, 0.1), "hold_still"),
        (_ramp(found.brightness, 15, 60), None),
        (_ramp(found.brightness, 250, 210), None),
        (_ramp(found.clipped, 0.6, 0.1), None),
        (_ramp(found.confidence, 0.4, 0.85), "uncover_face"),
    )
    value = math.prod(part for part, _ in parts)
    return Quality(value, min(parts, key=lambda part: part[0])[1])


def _ramp(value: float, useless: float, good: float) -> float:
    return min(max((value - useless) / (good - useless), 0.0), 1.0)
