"""Who has which fingers: every person of a simulation has ten, and none of them is anybody's.

`python -m tests.hw_sim fingers DIR` writes prints as `gated lab finger evaluate` reads them; `--sheet FILE`, one
picture of some.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from gated.icao.fingers import Finger
from tests.hw_sim.impressions import PPI, Picture, bandaged, impression
from tests.hw_sim.ridges import Master, Pattern, master

BREADTH = {"thumb": 1.18, "index": 1.0, "middle": 1.03, "ring": 0.97, "little": 0.85}
"""Against an index finger."""
_LITTLE_FINGERS_SIDE = {
    "right": (Pattern.RIGHT_LOOP, Pattern.LEFT_LOOP),
    "left": (Pattern.LEFT_LOOP, Pattern.RIGHT_LOOP),
}
SHEET_ROWS = 6
SHARES = (0.60, 0.055, 0.279, 0.037, 0.029)
"""Loops towards the little finger, loops towards the thumb, whorls, arches, tented arches; summed over both hands these
are the frequencies of `ridges.NATURAL`."""


class FingerBook:
    """The fingers of a simulated world. The same seed, person and finger are always the same fingertip."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def master(self, person: int, finger: Finger) -> Master:
        """The whole fingertip of person number `person`, from 0."""
        return _fingertip(self._seed, person, finger)

    def impression(
        self,
        person: int,
        finger: Finger,
        take: int,
        size: tuple[int, int] = (256, 288),
        ppi: float = PPI,
        care: float = 1.0,
        *,
        bandage: bool = False,
    ) -> Picture:
        """What a reader sees of that finger the `take`-th time; see `impressions.impression`. `bandage`: there is a
        plaster on it."""
        seed = _number(self._seed, person, finger.code, take)
        if bandage:
            return bandaged(seed, size, ppi)
        return impression(self.master(person, finger), seed, size, ppi, care)


def _fingertip(seed: int, person: int, finger: Finger) -> Master:
    number = _number(seed, person, finger.code)
    hand, rank = finger.value.split("_")
    patterns = (*_LITTLE_FINGERS_SIDE[hand], Pattern.WHORL, Pattern.ARCH, Pattern.TENTED_ARCH)
    pattern = patterns[int(np.random.default_rng(number).choice(len(SHARES), p=SHARES))]
    return master(number, pattern, BREADTH[rank])


def _number(*parts: int) -> int:
    """One number for several."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.hw_sim fingers", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="write FINGER_IMPRESSION.png there")
    parser.add_argument("--sheet", type=Path, help=f"write one picture of the first {SHEET_ROWS} fingers, a row each")
    parser.add_argument("--fingers", type=int, default=100)
    parser.add_argument("--impressions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 288), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--ppi", type=float, default=PPI, help="resolution of the pictures")
    parser.add_argument("--care", type=float, default=1.0, help="1: placed well; 0: nothing of use")
    args = parser.parse_args(argv)
    if args.folder is None and args.sheet is None:
        parser.error("name a folder, or a file for --sheet")
    book = FingerBook(args.seed)

    def taken(number: int, take: int) -> Picture:
        return book.impression(number, Finger.RIGHT_INDEX, take, tuple(args.size), args.ppi, args.care)

    if args.sheet is not None:
        takes, shown = range(1, args.impressions + 1), range(min(args.fingers, SHEET_ROWS))
        _write(args.sheet, np.vstack([np.hstack([taken(number, take) for take in takes]) for number in shown]))
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
        for number in range(args.fingers):
            for take in range(1, args.impressions + 1):
                _write(args.folder / f"{number + 1}_{take}.png", taken(number, take))
    return 0


def _write(path: Path, picture: Picture) -> None:
    if not cv2.imwrite(str(path), picture):
        raise OSError(f"{path} could not be written")
