"""`python -m tests.hw_sim crash`: kill -9 of lane, uplink, sync, broker, ingest and publisher while passengers pass.

Afterwards every physical passage must be at HQ exactly once, or as one record marked unresolved, and the outputs must
have been safe half a second after each death of the lane.
"""

import argparse
import random
import subprocess
import time
from collections.abc import Sequence

from tests.hw_sim import demo
from tests.hw_sim.crew import Crew

VICTIMS = ("lane", "uplink", "sync", "broker", "ingest", "publisher")
FIRST_S = 8.0
"""The lane has to open before it can be killed at something."""


class Killer:
    """Kills one process at a time, and starts it again after a pause, for `seconds`; then lets everybody finish."""

    def __init__(self, seed: int, seconds: float) -> None:
        self._rng = random.Random(f"killer {seed}")
        self._seconds = seconds
        self._begin: float | None = None
        self._next = 0.0
        self._dead: str | None = None
        self._told_enough = False
        self.killed: list[str] = []

    def __call__(self, crew: Crew, simulator: "subprocess.Popen[str]") -> None:
        now = time.monotonic()
        if self._begin is None:
            self._begin, self._next = now, now + FIRST_S
        if now < self._next:
            return
        if self._dead is not None:
            crew.again(self._dead)
            self._tell(simulator, f"started {self._dead}")
            self._dead = None
            self._next = now + self._rng.uniform(2.0, 9.0)
        elif now < self._begin + FIRST_S + self._seconds:
            self._dead = self._rng.choice(VICTIMS)
            crew.kill(self._dead)
            self._tell(simulator, f"killed {self._dead}")
            self.killed.append(self._dead)
            self._next = now + self._rng.uniform(0.5, 3.0)
        elif not self._told_enough:
            self._told_enough = True
            self._tell(simulator, "enough")

    @staticmethod
    def _tell(simulator: "subprocess.Popen[str]", line: str) -> None:
        assert simulator.stdin is not None
        simulator.stdin.write(line + "\n")
        simulator.stdin.flush()


def main(given: Sequence[str]) -> int:
    """The exit code of the demonstration."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.hw_sim crash",
        description=__doc__,
        epilog="Every other option is one of the demonstration: python -m tests.hw_sim demo --help",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long processes are killed (default 60)")
    mine, rest = parser.parse_known_args(given)
    chosen = demo.arguments(["--passengers", "500", "--speed", "3", *rest])
    return demo.perform(chosen, Killer(chosen.seed, mine.seconds))
