"""From a finger's picture to a score, beside NIST's mindtct and bozorth3 and the matcher one would write first.

All get the same pictures in turns, so that a busy machine is busy for all. Comparators use one thread; the network is
measured with one and with two. mindtct works on the same pixels; bozorth3 compares what mindtct found.

    python -m benchmarks.bench_finger [DIR] [--rounds N] [--threads 1 2] [--json]

DIR holds pictures FINGER_IMPRESSION.png, as for `gated lab finger evaluate`; left out, simulated fingers are taken.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gated.biometrics.fingerlab import laboratory_engine, listed, picture
from gated.biometrics.fingermatch import compare, compare_described, describe
from gated.biometrics.minutiae import Minutiae
from gated.biometrics.nbis import Nbis, NbisMissing
from models.loader import CACHE
from models.obtain import obtain

Timings = dict[str, list[float]]


def plain(a: Minutiae, b: Minutiae) -> float:
    """The matcher one would write first: every pair of minutiae as a guess at the motion, counting who meets."""
    at_a, at_b = a.x - 1j * a.y, b.x - 1j * b.y
    turns = np.angle(np.exp(1j * (a.angle[:, None] - b.angle)))
    best = 0.0
    for i, j in np.argwhere(np.abs(turns) < np.pi / 4):
        moved = (at_b - at_b[j]) * np.exp(1j * turns[i, j]) + at_a[i]
        off = np.abs(np.angle(np.exp(1j * (turns - turns[i, j])))) < np.deg2rad(20)
        meets = (np.abs(at_a[:, None] - moved) < 12) & off
        best = max(best, float(min(meets.any(0).sum(), meets.any(1).sum())))
    return float(best**2 / max(len(a) * len(b), 1))


def clocked(into: list[float], run: Callable[..., Any], *arguments: Any) -> Any:
    started = time.perf_counter()
    made = run(*arguments)
    into.append(1000 * (time.perf_counter() - started))
    return made


def extraction(pictures: list[Any], models: Path, threads: list[int]) -> tuple[list[Minutiae], list[Any], Timings]:
    """What ours and mindtct find in each picture, and how long each took."""
    taken: Timings = {}
    engines = {f"ours, {count} thread(s)": laboratory_engine(models, "fmr_1e-3", count) for count in threads}
    nbis = _nbis()
    for engine in engines.values():
        engine.extract(*pictures[0])
    ours, theirs = [], []
    for image, ppi in pictures:
        made = [clocked(taken.setdefault(name, []), engine.extract, image, ppi) for name, engine in engines.items()]
        ours.append(made[0])
        if nbis:
            theirs.append(clocked(taken.setdefault("mindtct", []), nbis.extract, image, ppi))
    return ours, theirs, taken


def _nbis() -> Nbis | None:
    try:
        return Nbis()
    except NbisMissing as error:
        print(error)
        return None


def comparison(pairs: list[tuple[int, int]], ours: list[Minutiae], theirs: list[Any], rounds: int) -> Timings:
    """Milliseconds of each way to compare, for pairs of numbers of pictures."""
    described = [describe(minutiae) for minutiae in ours]
    taken: Timings = {"ours": [], "ours, both described before": [], "describing one print": [], "plain": []}
    for number in range(rounds):
        for a, b in pairs:
            clocked(taken["ours"], compare, ours[a], ours[b])
            clocked(taken["ours, both described before"], compare_described, described[a], described[b])
            clocked(taken["describing one print"], describe, ours[a])
            if theirs:
                clocked(taken.setdefault("bozorth3", []), theirs[a].compare, theirs[b])
            if number == 0:  # it is slow, and what it costs hardly varies
                clocked(taken["plain"], plain, ours[a], ours[b])
    return taken


def simulated(folder: Path, fingers: int = 8, impressions: int = 3) -> None:
    """Writes prints of fingers that nobody has."""
    from tests.hw_sim.impressions import impression
    from tests.hw_sim.ridges import master

    for finger in range(fingers):
        skin = master(finger)
        for number in range(impressions):
            cv2.imwrite(str(folder / f"{finger}_{number}.png"), impression(skin, 100 * finger + number))


def measure(folder: Path, threads: list[int], rounds: int) -> dict[str, Any]:
    obtain(CACHE)
    fingers = listed(folder)
    names = [(finger, path) for finger, paths in fingers.items() for path in paths[:3]]
    load = os.getloadavg()[0]
    ours, theirs, extracting = extraction([picture(path) for _, path in names], CACHE, threads)
    every = list(combinations(range(len(names)), 2))
    same = [(a, b) for a, b in every if names[a][0] == names[b][0]]
    others = [(a, b) for a, b in every if names[a][0] != names[b][0]]
    some = [others[place] for place in np.linspace(0, len(others) - 1, min(len(same), len(others))).astype(int)]
    kinds = {kind: comparison(pairs, ours, theirs, rounds) for kind, pairs in (("genuine", same), ("impostor", some))}
    return {
        "machine": {"cpus": os.cpu_count(), "architecture": platform.machine(), "load_before": load},
        "pictures": len(names),
        "minutiae": float(np.median([len(one) for one in ours])),
        "extraction": _summary(extracting),
        "comparison": {kind: _summary(taken) for kind, taken in kinds.items()},
    }


def _summary(timings: Timings) -> dict[str, dict[str, float]]:
    return {
        name: {"median_ms": float(np.median(taken)), "p95_ms": float(np.percentile(taken, 95))}
        for name, taken in timings.items()
    }


def table(told: dict[str, Any]) -> str:
    lines = [
        f"{told['pictures']} pictures, {told['minutiae']:.0f} minutiae (median); {told['machine']['cpus']} cores, load "
        f"{told['machine']['load_before']:.1f} before"
    ]
    for title, parts in {"extraction": told["extraction"], **told["comparison"]}.items():
        lines.append(f"\n{title:36}  median      p95   ms")
        lines += [f"  {name:34}{part['median_ms']:8.2f} {part['p95_ms']:8.2f}" for name, part in parts.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, nargs="?", help="pictures FINGER_IMPRESSION.png")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gated-bench-") as scratch:
        folder = options.folder
        if folder is None:
            folder = Path(scratch)
            simulated(folder)
        told = measure(folder, options.threads, options.rounds)
    print(json.dumps(told, indent=2) if options.json else table(told))


if __name__ == "__main__":
    main()
