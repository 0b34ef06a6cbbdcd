"""Which finger: positions as ISO/IEC 19794-2 numbers them, and their order at enrolment and at the gate (E4)."""

from collections.abc import Iterable
from enum import Enum


class Finger(Enum):
    """A finger by its name in records and templates; `code` is its number in ISO/IEC 19794-2, table 5."""

    RIGHT_THUMB = "right_thumb"
    RIGHT_INDEX = "right_index"
    RIGHT_MIDDLE = "right_middle"
    RIGHT_RING = "right_ring"
    RIGHT_LITTLE = "right_little"
    LEFT_THUMB = "left_thumb"
    LEFT_INDEX = "left_index"
    LEFT_MIDDLE = "left_middle"
    LEFT_RING = "left_ring"
    LEFT_LITTLE = "left_little"

    @property
    def code(self) -> int:
        """1 (right thumb) to 10 (left little); 0 in a template stands for an unknown finger."""
        return list(Finger).index(self) + 1


def finger_of(code: int) -> Finger | None:
    """The finger of an ISO/IEC 19794-2 position code; None for 0 and for what is no finger."""
    return list(Finger)[code - 1] if 1 <= code <= 10 else None


_RANKS = ("index", "thumb", "middle", "ring", "little")
ORDER: tuple[Finger, ...] = tuple(Finger(f"{hand}_{rank}") for rank in _RANKS for hand in ("right", "left"))
"""E4: both index fingers; where one is hurt or unclear, of that hand the thumb, middle, ring, little."""


def in_order(fingers: Iterable[str]) -> tuple[str, ...]:
    """Names of fingers in the order of E4, each once; what is no finger's name is left out."""
    named = set(fingers)
    return tuple(finger.value for finger in ORDER if finger.value in named)
