"""What a passenger of a demonstration sees of the lane, and the fingers that they bring along."""

import threading
from collections.abc import Iterable
from pathlib import Path

from gated.control import Client, Refused, Unavailable
from gated.icao.fingers import Finger
from tests.hw_sim.cast import INDEX_FINGERS, Passenger
from tests.hw_sim.fingers import FingerBook
from tests.hw_sim.hands import Touching
from tests.hw_sim.touch import Picture

AGAIN_S = 0.3
TAKES = 3
"""So many placements of each finger are drawn beforehand; a further one is drawn when it is needed."""


class Display:
    """The lane's display: `says` is the code of the present prompt."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._ended = threading.Event()
        self.says = ""

    def start(self) -> None:
        """Look at it from now on."""
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """Look away."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                for snapshot in Client(self._control).watch():
                    self.says = str(snapshot["prompt"])
                    if self._ended.is_set():
                        return
            except (Unavailable, Refused):
                self._ended.wait(AGAIN_S)


class Drawn:
    """A picture for each placement; those that are sure to be needed are drawn ahead, away from the event loop."""

    def __init__(self, seed: int, size: tuple[int, int]) -> None:
        self._book, self._size = FingerBook(seed), size
        self._ahead: dict[Touching, Picture] = {}

    def draw(self, passengers: Iterable[Passenger]) -> None:
        """Draw these people's fingers, in the order in which they come."""
        hands = [(p.person if p.hand is None else p.hand, p.take) for p in passengers]
        threading.Thread(target=self._draw, args=(hands,), daemon=True).start()

    def _draw(self, hands: list[tuple[int, int]]) -> None:
        for hand, take in hands:
            for name in INDEX_FINGERS:
                for placed in range(1, TAKES + 1):
                    plain = Touching(hand, name, 100 * take + placed)
                    self._ahead[plain] = self._picture(plain)

    def __call__(self, touching: Touching) -> Picture:
        if touching.care < 0.5:
            return self._picture(touching)
        found = self._ahead.get(Touching(touching.hand, touching.finger, touching.take))
        return found if found is not None else self._picture(touching)

    def _picture(self, touching: Touching) -> Picture:
        return self._book.impression(
            touching.hand, Finger(touching.finger), touching.take, self._size, care=touching.care
        )
