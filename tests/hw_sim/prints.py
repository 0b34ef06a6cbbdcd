"""Recorded fingers for virtual time: pictures that say whose finger they are, and a module that compares those.

Genuine comparisons miss with `MISS`, impostors never score: the matchers' real figures are in docs/fingers.md. A gate
that only works when every finger matches at once is found out."""

import random

import numpy as np

from gated.icao.fingers import Finger
from tests.hw_sim.hands import Touching
from tests.hw_sim.touch import Picture

MISS = 0.03
"""Part of the careful genuine placements that do not match."""
SCORE, MISSED = 180, 20
FINGERS = tuple(finger.value for finger in Finger)


def picture(touching: Touching, shape: tuple[int, int]) -> Picture:
    """A picture that carries hand, finger, take and care in its first four-byte words."""
    told = (touching.hand, FINGERS.index(touching.finger), touching.take, round(100 * touching.care))
    drawn = np.zeros(shape, np.uint8)
    drawn[0, :16] = np.frombuffer(np.array(told, "<i4").tobytes(), np.uint8)
    return drawn


def features(drawn: Picture) -> bytes:
    """What the module makes of a picture."""
    return drawn[0, :16].tobytes()


def compare(one: bytes, other: bytes) -> int:
    """The module's score of two such features, whichever of them is the enrolled one."""
    (hand, finger, take, care), (hand_2, finger_2, take_2, care_2) = (
        np.frombuffer(each, "<i4") for each in (one, other)
    )
    if (hand, finger) != (hand_2, finger_2):
        return 0
    drawn = random.Random(f"{hand} {finger} {take} {take_2}")
    misses = 1.0 if min(care, care_2) < 50 else MISS
    return MISSED if drawn.random() < misses else SCORE
