"""What every mirror of a fingerprint reader is to a passenger: a glass that a finger is laid on and taken off.

Pictures are uint8 (height, width), ridges dark on light ground, fingertip up, whatever the device makes of them on its
line. Mirrors import nothing from the drivers under test.
"""

from enum import Enum, auto
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


class Fault(Enum):
    """What can be wrong with a reader. The first three last; the others befall the next picture alone."""

    STALE_FIRMWARE = auto()
    """Its firmware is older than the driver was told to accept."""
    WRONG_MODEL = auto()
    """It is another product than the one that was ordered."""
    WRONG_SIZE = auto()
    """Its pictures have another size than they should."""
    MESSY = auto()
    """The reader itself finds the picture useless and says so."""
    HALF = auto()
    """The second half never comes."""
    GARBLE = auto()
    """A few bytes come out wrong."""


LASTING = (Fault.STALE_FIRMWARE, Fault.WRONG_MODEL, Fault.WRONG_SIZE)


class Sensor(Protocol):
    """A mirror."""

    captures: int
    """How often the sensor looked at its glass, with or without a finger on it. A dark sensor does not count on."""

    async def run(self) -> None:
        """The device's side of the line, until the cable is pulled; may be run again then."""

    async def touch(self, picture: Picture) -> None:
        """A finger that looks like `picture` is laid on."""

    async def lift(self) -> None:
        """The finger is taken off; nothing happens where none is on."""

    def suffer(self, fault: Fault) -> None:
        """From now on (`LASTING`), or for the next picture."""

    def stall(self) -> None:
        """The firmware hangs: nothing is heard, nothing is said."""

    def resume(self) -> None:
        """It comes back."""


class Glass:
    """What lies on the glass and what is wrong. A mirror derives from it and adds `run`."""

    def __init__(self) -> None:
        self.captures = 0
        self.picture: Picture | None = None
        self.stalled = False
        self._lasting: set[Fault] = set()
        self._next: Fault | None = None

    async def touch(self, picture: Picture) -> None:
        self.picture = np.array(picture, np.uint8)

    async def lift(self) -> None:
        self.picture = None

    def suffer(self, fault: Fault) -> None:
        if fault in LASTING:
            self._lasting.add(fault)
        else:
            self._next = fault

    def has(self, fault: Fault) -> bool:
        """Whether a lasting fault is there."""
        return fault in self._lasting

    def take(self, fault: Fault) -> bool:
        """Whether this picture suffers `fault`; the next one does not."""
        found = self._next is fault
        if found:
            self._next = None
        return found

    def stall(self) -> None:
        self.stalled = True

    def resume(self) -> None:
        self.stalled = False


class Cable(Protocol):
    """What can be pulled out between driver and mirror."""

    def unplug(self) -> Any:
        """Everything that goes through it fails."""

    def plug(self) -> Any:
        """It is back."""
