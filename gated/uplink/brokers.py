"""Which broker is tried next, and when: the first site's, then the others in the order of lane.toml (L9)."""

import time
from collections.abc import Sequence

from gated.mqtt import Backoff, Broker

SILENT_S_MAX = 45.0
"""A broker that is there while HQ is not, for so long, is left for another one, where there is another."""


class Brokers:
    """`among`: at least one. A broker that led to HQ is tried again first; any other is followed by the next one.

    The pause grows once round: with two brokers a dead first one costs no waiting before the second."""

    def __init__(self, among: Sequence[Broker], pause_s_min: float, pause_s_max: float) -> None:
        self._among, self._at = tuple(among), 0
        self._backoff = Backoff(pause_s_min, pause_s_max)
        self._tried = 0
        self._dial_mono = time.monotonic()
        self._useful = False
        self._since_mono = 0.0

    @property
    def present(self) -> Broker:
        """The one that is tried or connected."""
        return self._among[self._at]

    @property
    def place(self) -> int:
        """Which of them that is: 0 the first."""
        return self._at

    @property
    def due(self) -> bool:
        """May it be tried now?"""
        return time.monotonic() >= self._dial_mono

    def connected(self) -> None:
        """It lets us in. HQ has not answered yet."""
        self._useful, self._since_mono = False, time.monotonic()

    def useful(self) -> None:
        """HQ answered over it."""
        self._useful, self._tried, self._since_mono = True, 0, time.monotonic()
        self._backoff.reset()

    @property
    def fruitless(self) -> bool:
        """It has led to no HQ for so long that another one, which there is, should be tried."""
        return len(self._among) > 1 and time.monotonic() - self._since_mono > SILENT_S_MAX

    def lost(self) -> float:
        """The connection ended, or never came about. Returns the pause before the next attempt, in seconds."""
        if self._useful:
            self._at, self._useful = 0, False  # the first site's, which may be back by now
            self._tried = 0
        else:
            self._at = (self._at + 1) % len(self._among)
            self._tried += 1
        pause_s = self._backoff.pause_s() if self._tried % len(self._among) == 0 else self._backoff.least_s()
        self._dial_mono = time.monotonic() + pause_s
        return pause_s
