"""What a camera is shown: tokens of the simulated world, in place of pictures where time is virtual."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeenFace:
    """One face: whose, how far away (metres), turned how far from the camera (degrees), how well visible (0..1).

    `take` numbers the passage: one person's looks on one day are alike, on two passages less so."""

    person: int
    distance_m: float
    yaw_deg: float
    quality: float
    take: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything in front of the camera at `mono`, nearest first."""

    faces: tuple[SeenFace, ...]
    mono: float
