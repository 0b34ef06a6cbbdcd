"""Keeps the best frames of a passenger while they walk up. No clock: the caller says when a frame was taken.

Nothing is copied and nothing leaves: `clear` drops the last reference to every picture.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from gated.biometrics.face import Look

LOOKS_MAX = 256
"""How many looks are remembered for advice and for counting persons: ten seconds at 25 frames a second."""
RECENT = 5
"""Advice is what most of the last looks say: a single odd frame does not change what the passenger is told."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A usable frame. `mono`: when it was taken, in seconds."""

    mono: float
    image: Any = field(repr=False)
    look: Look


class Best:
    """For any moment of the past: the best usable frame taken since. Holds at most `n` frames.

    A frame matters only while no later one is at least as good, so the kept frames fall in quality as they get newer,
    and the first one that is new enough is the best. (By quality alone, old frames would push out those taken after
    the entry door shut, which decide.)"""

    def __init__(self, n: int = 8) -> None:
        if n < 2:
            raise ValueError(f"at least two frames must be kept, the best and the newest, not {n}")
        self._n = n
        self._kept: list[Candidate] = []
        self._looks: deque[tuple[float, Look]] = deque(maxlen=LOOKS_MAX)

    def offer(self, mono: float, image: Any, look: Look) -> None:
        """Take note of a frame, in the order of time. Raises `ValueError` for one older than the last."""
        if self._looks and mono < self._looks[-1][0]:
            raise ValueError("frames are offered in the order in which they were taken")
        # Only what advice needs is remembered of most frames: no face, no picture.
        self._looks.append((mono, Look(look.persons, look.quality, look.usable, look.advice)))
        if not look.usable:
            return
        while self._kept and self._kept[-1].look.quality <= look.quality:
            self._kept.pop()
        self._kept.append(Candidate(mono, image, look))
        if len(self._kept) > self._n:
            self._thin()

    def best(self, since_mono: float) -> Candidate | None:
        """The best usable frame taken at or after `since_mono`; None where there is none."""
        return next((candidate for candidate in self._kept if candidate.mono >= since_mono), None)

    def advice(self, since_mono: float) -> str | None:
        """What the last looks at or after `since_mono` mostly advise; None where the newest of them was usable."""
        recent = [look for mono, look in list(self._looks)[-RECENT:] if mono >= since_mono]
        if not recent or recent[-1].usable:
            return None
        said = Counter(look.advice for look in reversed(recent) if look.advice is not None)
        return said.most_common(1)[0][0] if said else None

    def persons(self, since_mono: float) -> int:
        """The most faces near in any frame at or after `since_mono`: a second person may hide in the best one."""
        return max((look.persons for mono, look in self._looks if mono >= since_mono), default=0)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._looks.clear()

    def _thin(self) -> None:
        """Drop the frame whose successor is nearly as good; never the newest, which alone answers the latest moment."""
        losses = [now.look.quality - after.look.quality for now, after in zip(self._kept, self._kept[1:], strict=False)]
        del self._kept[losses.index(min(losses))]
