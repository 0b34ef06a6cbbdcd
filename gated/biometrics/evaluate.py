"""How well a comparator does: false matches, false non-matches, failures to acquire, and what they may be trusted for.

Pure numbers: scores in, rates out. Terms of ISO/IEC 19795-1. A score at or above the threshold is a match.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.integer]

ERRORS_MIN = 30
"""The rule of 30 (Doddington 1998): with 30 errors the true rate is within 30 % of the observed one, at 90 %."""
FMRS = (1e-2, 1e-3, 1e-4, 1e-5)
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True, eq=False)
class Comparisons:
    """Scores of pairs of pictures. All arrays have one entry a pair.

    `score`: similarity. `same`: whether both pictures are of one person. `a`, `b`: which pictures. `person_a`,
    `person_b`: whose, as small numbers."""

    score: Floats
    same: npt.NDArray[np.bool_]
    a: Indices
    b: Indices
    person_a: Indices
    person_b: Indices

    def __post_init__(self) -> None:
        if len({len(column) for column in (self.score, self.same, self.a, self.b, self.person_a, self.person_b)}) > 1:
            raise ValueError("the columns of comparisons must be equally long")


@dataclass(frozen=True, slots=True)
class Rate:
    """An error rate: `errors` of `trials`, with a 95 % interval over persons where one was computed."""

    value: float
    errors: int
    trials: int
    low: float | None = None
    high: float | None = None

    @property
    def evidence(self) -> str:
        return "sufficient" if self.errors >= ERRORS_MIN else "insufficient evidence"


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What happens at one threshold, chosen so that the false match rate is at most `fmr_target`.

    `frr` counts genuine pairs that were never compared because a picture could not be acquired as rejected."""

    fmr_target: float
    threshold: float
    threshold_low: float | None
    threshold_high: float | None
    fmr: Rate
    fnmr: Rate
    frr: float


def all_against_all(embeddings: Floats, persons: Sequence[str]) -> Comparisons:
    """Every pair of `embeddings` (n, d), unit rows, of the `persons` (n names): n * (n - 1) / 2 comparisons."""
    if len(embeddings) != len(persons):
        raise ValueError(f"{len(embeddings)} embeddings of {len(persons)} persons")
    _, codes = np.unique(np.asarray(persons), return_inverse=True)
    a, b = (index.astype(np.int32) for index in np.triu_indices(len(embeddings), 1))
    score = (embeddings @ embeddings.T)[a, b]
    whose_a, whose_b = codes.astype(np.int32)[a], codes.astype(np.int32)[b]
    return Comparisons(score, whose_a == whose_b, a, b, whose_a, whose_b)


def threshold_at(impostor: Floats, fmr: float) -> float:
    """The lowest threshold at which at most the part `fmr` of the impostor scores match.

    Raises `ValueError` without impostor scores: then no false match rate can be told."""
    if not len(impostor):
        raise ValueError("no impostor comparisons: no false match rate can be told")
    allowed = int(np.floor(fmr * len(impostor) * (1 + 1e-12)))
    if allowed >= len(impostor):
        return float(impostor.min())
    position = len(impostor) - 1 - allowed
    return float(np.nextafter(np.partition(impostor, position)[position], np.inf))


def rates_at(compared: Comparisons, threshold: float) -> tuple[Rate, Rate]:
    """False match rate and false non-match rate at a threshold."""
    matched = compared.score >= threshold
    impostors = len(compared.same) - int(np.count_nonzero(compared.same))
    genuine = len(compared.same) - impostors
    false_matches = int(np.count_nonzero(matched & ~compared.same))
    misses = int(np.count_nonzero(~matched & compared.same))
    return _rate(false_matches, impostors), _rate(misses, genuine)


def rates_over_persons(
    compared: Comparisons, threshold: float, *, resamples: int = 500, seed: int = 0
) -> tuple[Rate, Rate]:
    """FMR and FNMR at a threshold that was fixed elsewhere, with 95 % intervals by drawing persons with replacement.

    Where nothing failed, no draw fails either and the interval is empty: ask `upper_bound` then."""
    persons = int(max(compared.person_a.max(initial=-1), compared.person_b.max(initial=-1))) + 1
    matched, same = compared.score >= threshold, compared.same
    cell = compared.person_a.astype(np.int64) * persons + compared.person_b

    def counted(which: npt.NDArray[np.bool_]) -> Floats:
        return np.bincount(cell[which], minlength=persons**2).reshape(persons, persons).astype(np.float64)

    drawn = np.random.default_rng(seed).multinomial(persons, np.full(persons, 1 / persons), resamples).astype(float)
    false, impostors = ((drawn @ counted(which) * drawn).sum(1) for which in (~same & matched, ~same))
    missed, genuine = (drawn @ np.diag(counted(which)) for which in (same & ~matched, same))
    with np.errstate(invalid="ignore"):
        intervals = _interval(false / impostors), _interval(missed / genuine)
    matches, misses = rates_at(compared, threshold)
    return _with_interval(matches, intervals[0]), _with_interval(misses, intervals[1])


def upper_bound(errors: int, trials: int, confidence: float = 0.95) -> float:
    """The largest error rate that these errors do not rule out: one-sided, exact (Clopper and Pearson 1934), for
    trials that are independent of each other. Without errors nearly 3 / trials (the rule of three)."""
    if not 0 <= errors <= trials:
        raise ValueError("there are between none and as many errors as trials")
    if errors == trials:
        return 1.0
    if errors == 0:
        return float(-np.expm1(np.log1p(-confidence) / trials))
    ways = np.concatenate(([0.0], np.cumsum(np.log((trials - np.arange(errors)) / np.arange(1, errors + 1)))))
    seen, low, high = np.arange(errors + 1), errors / trials, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        logs = ways + seen * np.log(rate) + (trials - seen) * np.log1p(-rate)
        low, high = (rate, high) if np.exp(logs).sum() > 1 - confidence else (low, rate)
    return high


def equal_error_rate(compared: Comparisons) -> float:
    """The rate where false matches and false non-matches are as near to each other as the scores allow."""
    order = np.argsort(-compared.score, kind="stable")
    score, same = compared.score[order], compared.same[order]
    last = np.append(score[1:] != score[:-1], True)
    fnmr = 1 - np.cumsum(same)[last] / max(np.count_nonzero(same), 1)
    fmr = np.cumsum(~same)[last] / max(np.count_nonzero(~same), 1)
    nearest = int(np.argmin(np.abs(fmr - fnmr)))
    return float((fmr[nearest] + fnmr[nearest]) / 2)


def det(compared: Comparisons, points: int = 200) -> tuple[Floats, Floats]:
    """The detection error trade-off: FMR, evenly spaced on a log scale from one false match to all, and FNMR there."""
    impostor = np.sort(compared.score[~compared.same])
    genuine = np.sort(compared.score[compared.same])
    if not len(impostor) or not len(genuine):
        raise ValueError("a DET curve needs genuine and impostor comparisons")
    counts = np.unique(np.geomspace(1, len(impostor), points).astype(np.int64))
    thresholds = impostor[len(impostor) - counts]
    matched = len(impostor) - np.searchsorted(impostor, thresholds, side="left")
    missed = np.searchsorted(genuine, thresholds, side="left")
    return matched / len(impostor), missed / len(genuine)


def operating_points(
    compared: Comparisons,
    fmrs: Sequence[float] = FMRS,
    *,
    lost_genuine: int = 0,
    resamples: int = 500,
    seed: int = 0,
) -> list[OperatingPoint]:
    """One point for each false match rate, with 95 % intervals by resampling persons.

    `lost_genuine`: genuine pairs that could not be compared. Pairs of one person, or with one person, stand and fall
    together, so persons are drawn with replacement and not pairs: a pair weighs as often as its persons were drawn
    (a genuine pair once for its one person, an impostor pair by the product)."""
    impostor = compared.score[~compared.same]
    thresholds = [threshold_at(impostor, fmr) for fmr in fmrs]
    drawn = _resampled(compared, fmrs, thresholds, resamples, seed)
    points: list[OperatingPoint] = []
    for column, (fmr, threshold) in enumerate(zip(fmrs, thresholds, strict=True)):
        matches, misses = rates_at(compared, threshold)
        rejected = (misses.errors + lost_genuine) / max(misses.trials + lost_genuine, 1)
        low, high = _interval(drawn[0, :, column])
        points.append(
            OperatingPoint(
                fmr_target=fmr,
                threshold=threshold,
                threshold_low=low,
                threshold_high=high,
                fmr=_with_interval(matches, _interval(drawn[1, :, column])),
                fnmr=_with_interval(misses, _interval(drawn[2, :, column])),
                frr=rejected,
            )
        )
    return points


def as_json(point: OperatingPoint) -> dict[str, Any]:
    """The point for a report, with what may be made of each rate."""
    made = asdict(point)
    made["fmr"]["evidence"] = point.fmr.evidence
    made["fnmr"]["evidence"] = point.fnmr.evidence
    return made


def _resampled(
    compared: Comparisons, fmrs: Sequence[float], thresholds: Sequence[float], resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """(3, resamples, len(fmrs)): the threshold for each rate, the FMR at the given threshold, the FNMR at the former.

    Only the highest impostor scores are weighed one by one: five times the wanted part of them, which no draw of many
    persons exceeds; where one does, the threshold is the lowest of those scores."""
    persons = int(max(compared.person_a.max(initial=0), compared.person_b.max(initial=0))) + 1
    same = compared.same
    genuine, whose = compared.score[same], compared.person_a[same]
    impostor, of_a, of_b = compared.score[~same], compared.person_a[~same], compared.person_b[~same]
    order = np.argsort(-impostor, kind="stable")[: max(int(5 * max(fmrs) * len(impostor)), 10_000)]
    top, top_a, top_b = impostor[order], of_a[order], of_b[order]
    at_given = np.searchsorted(-top, -np.asarray(thresholds), side="right")
    random = np.random.default_rng(seed)
    made = np.full((3, resamples, len(fmrs)), np.nan)
    for index in range(resamples):
        draw = np.bincount(random.integers(0, persons, persons), minlength=persons).astype(np.float64)
        total, weight = float(draw[of_a] @ draw[of_b]), draw[whose]
        if not total or not weight.any():
            continue
        cumulated = np.concatenate(([0.0], np.cumsum(draw[top_a] * draw[top_b])))
        made[1, index] = cumulated[at_given] / total
        for column, fmr in enumerate(fmrs):
            allowed = np.searchsorted(cumulated[1:], fmr * total * (1 + 1e-12), side="right")
            threshold = np.nextafter(top[allowed], np.inf) if allowed < len(top) else top[-1]
            made[0, index, column] = threshold
            made[2, index, column] = weight[genuine < threshold].sum() / weight.sum()
    return made


def _interval(values: npt.NDArray[np.float64]) -> tuple[float | None, float | None]:
    told = values[~np.isnan(values)]
    if len(told) < 20:
        return None, None
    low, high = np.percentile(told, _INTERVAL)
    return float(low), float(high)


def _rate(errors: int, trials: int) -> Rate:
    return Rate(errors / trials if trials else 0.0, errors, trials)


def _with_interval(rate: Rate, interval: tuple[float | None, float | None]) -> Rate:
    return Rate(rate.value, rate.errors, rate.trials, *interval)
