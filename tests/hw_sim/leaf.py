"""One leaf of the simulated gate: a motor, end contacts and a safety chain of its own. Knows nothing of the lane."""

import asyncio
import math
from collections.abc import Callable
from enum import Enum

CLOSED = 0.02
"""At or below this position the closed contact is made."""
PASSABLE = 0.7
"""From this position on a person fits through."""
OPEN = 0.95
"""From this position on the open contact is made."""
_MARKS = (0.0, CLOSED, PASSABLE, OPEN, 1.0)


class Cause(Enum):
    """Why a leaf left its closed position."""

    REQUEST = "request"
    FIRE = "fire"
    FORCE = "force"
    KEY = "key"


class Leaf:
    """Position 0 (shut) to 1 (open), piecewise linear in the running loop's time; wakes up at five marks only.

    `changed(leaf)` is called whenever a mark is passed or the direction changes. `obstructed()` says whether
    somebody stands in its way: a closing leaf then stops and opens again (unless its safety chain is broken)."""

    def __init__(
        self,
        door: str,
        obstructed: Callable[[], bool],
        changed: Callable[["Leaf"], None],
        *,
        open_s: float = 0.6,
        close_s: float = 0.9,
    ) -> None:
        self.door = door
        self.open_s = open_s
        self.close_s = close_s
        self.stuck = False
        self.chain_works = True
        """False: the planted fault that lets a leaf run into a person."""
        self.speed = 0.0
        """Positions a second; positive opens."""
        self.cause: Cause | None = None
        """What opened it, until it is closed again."""
        self.asked = False
        """Whether an effective request was there at any time since it was last closed."""
        self._obstructed = obstructed
        self._changed = changed
        self._position = 0.0
        self._since = 0.0
        self._wants: Cause | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def position(self) -> float:
        if not self.speed:
            return self._position
        elapsed = asyncio.get_running_loop().time() - self._since
        return min(1.0, max(0.0, self._position + self.speed * elapsed))

    @property
    def closed(self) -> bool:
        return self.position <= CLOSED

    @property
    def open(self) -> bool:
        return self.position >= OPEN

    @property
    def passable(self) -> bool:
        return self.position >= PASSABLE

    def want(self, cause: Cause | None, asked: bool) -> None:
        """What the gate's control wants of the leaf now: open because of `cause`, or shut (None)."""
        self._wants = cause
        self.asked = asked or (self.asked and not self.closed)
        self.cause = cause if self.cause is None or self.closed or cause is Cause.FIRE else self.cause
        self.plan()

    def plan(self) -> None:
        """Choose the direction afresh; called whenever a wish, an obstacle or a fault changes."""
        here = self.position
        speed = self._direction(here)
        if speed == self.speed and (self._timer is not None or not speed):
            return
        self._set(here, speed)
        self._changed(self)

    def _direction(self, here: float) -> float:
        if self.stuck:
            return 0.0
        if self._wants is not None or (here > CLOSED and self.chain_works and self._obstructed()):
            return 0.0 if here >= 1.0 else 1.0 / self.open_s
        return 0.0 if here <= 0.0 else -1.0 / self.close_s

    def _set(self, here: float, speed: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._position, self._since, self.speed = here, loop.time(), speed
        if not speed:
            return
        ahead = [mark for mark in _MARKS if (mark - here) * speed > 1e-9]
        if not ahead:
            self._position, self.speed = round(here), 0.0
            return
        mark = min(ahead, key=lambda mark: abs(mark - here))
        self._timer = loop.call_later(abs(mark - here) / abs(speed), self._reached, mark)

    def _reached(self, mark: float) -> None:
        self._timer = None
        closing = self.speed < 0
        # A contact makes just past its mark, so that at the mark itself both directions read alike.
        here = mark if mark in (0.0, 1.0, CLOSED) and closing else math.nextafter(mark, 2.0)
        here = min(1.0, here)
        if mark == CLOSED and closing:
            self._shut()
        if mark in (PASSABLE, OPEN) and closing:
            here = math.nextafter(mark, -1.0)
        self._set(here, 0.0)
        self._set(here, self._direction(here))
        self._changed(self)

    def _shut(self) -> None:
        self.cause = self._wants
        self.asked = False
