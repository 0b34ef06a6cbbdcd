"""Runs comparators over pictures of fingers on disk, outside any lane. Keeps minutiae while it runs, never pictures.

Calibration and test are on different fingers: a threshold that was chosen on a finger says nothing about that finger.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gated.biometrics.evaluate import Comparisons, Rate, equal_error_rate, rates_over_persons, threshold_at, upper_bound
from gated.biometrics.finger import FingerEngine, FingerError, OnnxFingerEngine, PrintLook
from gated.biometrics.fingermatch import Described, compare_described, describe
from gated.biometrics.laboratory import BadInput
from gated.biometrics.prints import PrintError, read_print
from gated.biometrics.template import FingerTemplate, decode, encode

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".pgm", ".tif", ".tiff")
FIXED = {"calibrated_1e-2": 1e-2, "calibrated_1e-3": 1e-3, "calibrated_none": 0.0}
"""Thresholds by the false match rate that they are fixed for on the calibration fingers; none: no false match there."""
FINGERS_MIN = 4
HALVES = ("calibration", "test")
TIMED_PICTURES, TIMED_PAIRS = 40, 400


class Comparator(Protocol):
    """What is measured. `extract` raises `FingerError` for a picture that it makes nothing of."""

    model: str

    def extract(self, image: Any, ppi: float, /) -> Any: ...

    def compare(self, a: Any, b: Any, /) -> float: ...


def laboratory_engine(models_dir: Path, threshold_name: str, threads: int) -> FingerEngine:
    """The lane's engine. Raises `ModelError`."""
    return OnnxFingerEngine(models_dir, threshold_name, threads=threads)


class Ours:
    """The lane's engine. Both sides go through a template, as one of them does at the gate."""

    def __init__(self, engine: FingerEngine) -> None:
        self.model = engine.model
        self._engine = engine

    def extract(self, image: Any, ppi: float) -> Described:
        minutiae = self._engine.extract(image, ppi)
        if not len(minutiae):
            raise FingerError("no minutia was found")
        return describe(decode(encode(FingerTemplate.of(minutiae, None, 0))).views[0].minutiae)

    def compare(self, a: Any, b: Any) -> float:
        return compare_described(a, b)


@dataclass(frozen=True, slots=True)
class Impression:
    """One picture: of which finger, in which half, what the engine thinks of it.

    `made`: what each comparator extracted; a comparator that made nothing of it is missing (failure to acquire)."""

    path: Path
    finger: int
    half: str
    look: PrintLook
    made: Mapping[str, Any] = field(repr=False)


def listed(folder: Path) -> dict[str, list[Path]]:
    """The pictures `FINGER_IMPRESSION.png` of a folder by finger. Raises `BadInput`."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: is not a folder")
    fingers: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            finger, mark, impression = path.stem.rpartition("_")
            if not (finger and mark and impression):
                raise BadInput(f"{path}: a picture is called FINGER_IMPRESSION{path.suffix}, as 3_1{path.suffix}")
            fingers.setdefault(finger, []).append(path)
    if not fingers:
        raise BadInput(f"{folder}: no pictures in it; FINGER_IMPRESSION.png is meant ({', '.join(SUFFIXES)})")
    if len(fingers) < FINGERS_MIN:
        raise BadInput(
            f"{folder}: pictures of {len(fingers)} finger(s); with calibration and test on different fingers "
            f"{FINGERS_MIN} are needed at least"
        )
    return fingers


def split(fingers: Sequence[str], seed: int) -> dict[str, str]:
    """Which half each finger belongs to, by lot."""
    order = np.random.default_rng(seed).permutation(len(fingers))
    return {fingers[place]: HALVES[rank >= (len(fingers) + 1) // 2] for rank, place in enumerate(order)}


def picture(path: Path) -> tuple[npt.NDArray[np.uint8], float]:
    """A grey picture and its pixels an inch. Raises `BadInput`."""
    try:
        return read_print(path)
    except PrintError as error:
        raise BadInput(f"{path}: {error}") from error


def acquire(
    engine: FingerEngine,
    comparators: Mapping[str, Comparator],
    fingers: Mapping[str, Sequence[Path]],
    seed: int,
    done: Callable[[], None] = lambda: None,
) -> tuple[list[Impression], dict[str, list[float]]]:
    """Every picture, and the milliseconds that each comparator took for each; `done` is called after each picture."""
    halves = split(list(fingers), seed)
    impressions: list[Impression] = []
    taken: dict[str, list[float]] = {name: [] for name in comparators}
    for number, (finger, paths) in enumerate(fingers.items()):
        for path in paths:
            image, ppi = picture(path)
            made = {}
            try:
                look = engine.look(image, ppi)
            except FingerError:
                look = PrintLook(0, False)
            for name, comparator in comparators.items():
                found, milliseconds = _attempt(comparator, image, ppi)
                if found is not None:
                    made[name] = found
                    taken[name].append(milliseconds)
            impressions.append(Impression(path, number, halves[finger], look, made))
            done()
    return impressions, taken


def pairs(impressions: Sequence[Impression], half: str) -> Iterator[tuple[int, int]]:
    """All against all within a half."""
    return combinations([number for number, one in enumerate(impressions) if one.half == half], 2)


def scored(
    name: str, comparator: Comparator, impressions: Sequence[Impression], half: str, done: Callable[[], None]
) -> tuple[Comparisons, int, dict[str, list[float]]]:
    """The comparisons of one comparator in one half, the genuine pairs that a failure to acquire has cost, and the
    milliseconds of genuine and impostor pairs."""
    rows: list[tuple[float, int, int]] = []
    taken: dict[str, list[float]] = {"genuine": [], "impostor": []}
    lost = 0
    for a, b in pairs(impressions, half):
        one, other = impressions[a], impressions[b]
        done()
        same = one.finger == other.finger
        if name not in one.made or name not in other.made:
            lost += same
            continue
        started = time.perf_counter()
        score = comparator.compare(one.made[name], other.made[name])
        taken["genuine" if same else "impostor"].append(1000 * (time.perf_counter() - started))
        rows.append((score, a, b))
    scores = np.array([row[0] for row in rows], np.float64)
    a_all, b_all = (np.array([row[side] for row in rows], np.int32) for side in (1, 2))
    fingers = sorted({one.finger for one in impressions if one.half == half})
    numbers = {finger: place for place, finger in enumerate(fingers)}
    whose = np.array([numbers.get(one.finger, 0) for one in impressions], np.int32)
    made = Comparisons(scores, whose[a_all] == whose[b_all], a_all, b_all, whose[a_all], whose[b_all])
    return made, lost, taken


def judged(
    sets: Mapping[str, tuple[Comparisons, int]], shipped: Mapping[str, float], resamples: int, seed: int
) -> dict[str, Any]:
    """Error rates of one comparator: thresholds fixed on the calibration fingers, and shipped ones, on both halves."""
    calibration = sets["calibration"][0]
    impostor = calibration.score[~calibration.same]
    if not len(impostor):
        raise BadInput("no two fingers could be compared: no threshold can be fixed")
    fixed = {name: threshold_at(impostor, fmr) for name, fmr in FIXED.items()}
    told: dict[str, Any] = {"sets": {}, "thresholds": {}}
    for half, (compared, lost) in sets.items():
        genuine = int(np.count_nonzero(compared.same))
        both = 0 < genuine < len(compared.same)
        told["sets"][half] = {
            "fingers": len({*compared.person_a.tolist(), *compared.person_b.tolist()}),
            "genuine": genuine,
            "impostor": len(compared.same) - genuine,
            "genuine_lost": lost,
            "equal_error_rate": equal_error_rate(compared) if both else None,
            "genuine_lowest": _extreme(compared.score[compared.same], np.min),
            "impostor_highest": _extreme(compared.score[~compared.same], np.max),
        }
    for name, threshold in {**fixed, **shipped}.items():
        told["thresholds"][name] = {"threshold": threshold} | {
            half: _at(compared, lost, threshold, resamples, seed) for half, (compared, lost) in sets.items()
        }
    return told


def _at(compared: Comparisons, lost: int, threshold: float, resamples: int, seed: int) -> dict[str, Any]:
    """Both rates with all three bounds: see docs/fingers.md for what each is worth."""
    matches, misses = rates_over_persons(compared, threshold, resamples=resamples, seed=seed)
    fingers = len({*compared.person_a.tolist(), *compared.person_b.tolist()})
    matched = compared.score >= threshold
    low = np.minimum(compared.person_a, compared.person_b).astype(np.int64)
    high = np.maximum(compared.person_a, compared.person_b)
    two_fingers = low * fingers + high
    return {
        "fmr": _rate(matches, two_fingers[~compared.same], matched[~compared.same]),
        "fnmr": _rate(misses, two_fingers[compared.same], ~matched[compared.same]),
        "frr": (misses.errors + lost) / max(misses.trials + lost, 1),
    }


def _rate(rate: Rate, groups: npt.NDArray[np.int64], failed: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """`groups`: which comparisons stand and fall together at worst."""
    bad, every = len(set(groups[failed].tolist())), len(set(groups.tolist()))
    return {
        "value": rate.value,
        "errors": rate.errors,
        "trials": rate.trials,
        "evidence": rate.evidence,
        "upper_independent": upper_bound(rate.errors, rate.trials) if rate.trials else 1.0,
        "resampled": [rate.low, rate.high] if rate.errors else None,
        "groups": every,
        "groups_failed": bad,
        "upper_groups": upper_bound(bad, every) if every else 1.0,
    }


def _extreme(scores: npt.NDArray[np.floating], which: Callable[..., Any]) -> float | None:
    return float(which(scores)) if len(scores) else None


def quality_told(compared: Sequence[Comparisons], impressions: Sequence[Impression]) -> dict[str, Any]:
    """Does the quality predict the score? Of a genuine pair the worse picture's counts; rank correlation (Spearman)."""
    score = np.concatenate([one.score[one.same] for one in compared])
    worse = np.concatenate([pair_quality(one, impressions)[one.same] for one in compared])
    known = len(score) > 2 and np.ptp(score) > 0 and np.ptp(worse) > 0
    return {
        "median": float(np.median([one.look.quality for one in impressions])),
        "usable": sum(one.look.usable for one in impressions) / len(impressions),
        "rank_correlation": float(np.corrcoef(_ranks(score), _ranks(worse))[0, 1]) if known else None,
    }


def pair_quality(compared: Comparisons, impressions: Sequence[Impression]) -> npt.NDArray[np.float64]:
    """The quality of the worse picture of each pair."""
    quality = np.array([one.look.quality for one in impressions], np.float64)
    return np.minimum(quality[compared.a], quality[compared.b])


def _ranks(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Equal values share their middle rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    made: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return made


def timed(milliseconds: Sequence[float]) -> dict[str, float] | None:
    if not milliseconds:
        return None
    return {"median": float(np.median(milliseconds)), "p95": float(np.percentile(milliseconds, 95))}


def side_by_side_ms(comparator: Comparator, name: str, impressions: Sequence[Impression]) -> float | None:
    """Milliseconds a comparison while two threads compare at once: comparators themselves use one."""
    there = [one.made[name] for one in impressions if name in one.made]
    if len(there) < 2:
        return None
    random = np.random.default_rng(0)
    some = random.integers(0, len(there), (min(TIMED_PAIRS, math.comb(len(there), 2)), 2)).tolist()
    with ThreadPoolExecutor(2) as pool:
        started = time.perf_counter()
        list(pool.map(lambda two: comparator.compare(there[two[0]], there[two[1]]), some))
        return 1000 * (time.perf_counter() - started) / len(some)


def extraction_ms(comparator: Comparator, paths: Sequence[Path]) -> list[float]:
    """Milliseconds a picture of the first few; reading them from disk does not count."""
    attempts = [_attempt(comparator, *picture(path)) for path in paths[:TIMED_PICTURES]]
    return [milliseconds for found, milliseconds in attempts if found is not None]


def _attempt(comparator: Comparator, image: Any, ppi: float) -> tuple[Any, float]:
    """What was extracted, None for a failure to acquire, and the milliseconds."""
    started = time.perf_counter()
    try:
        found = comparator.extract(image, ppi)
    except FingerError:
        found = None
    return found, 1000 * (time.perf_counter() - started)
