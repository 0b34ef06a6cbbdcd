"""Error rates on scores whose error rates are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gated.biometrics.evaluate import (
    Comparisons,
    all_against_all,
    as_json,
    det,
    equal_error_rate,
    operating_points,
    rates_at,
    threshold_at,
)

SCORES = st.lists(st.integers(-20, 20).map(lambda tenths: tenths / 20), min_size=1, max_size=200)


def _compared(genuine: list[float], impostor: list[float], persons: int = 50) -> Comparisons:
    """Comparisons with the given scores, spread over persons."""
    score = np.array(genuine + impostor, np.float32)
    same = np.array([True] * len(genuine) + [False] * len(impostor))
    whose = np.arange(len(score)) % persons
    other = np.where(same, whose, (whose + 1 + np.arange(len(score)) // persons) % persons)
    return Comparisons(score, same, whose, other, whose, other)


def _normal(mean: float, deviation: float, count: int, seed: int) -> list[float]:
    made: list[float] = np.random.default_rng(seed).normal(mean, deviation, count).tolist()
    return made


@given(SCORES, st.floats(0, 1))
def test_the_threshold_is_the_lowest_that_keeps_the_rate(scores: list[float], fmr: float) -> None:
    impostor = np.array(scores, np.float32)
    threshold = threshold_at(impostor, fmr)
    assert np.mean(impostor >= threshold) <= fmr * (1 + 1e-9)
    below = impostor[impostor < threshold]
    if len(below):
        assert np.mean(impostor >= below.max()) > fmr


def test_no_impostors_no_threshold() -> None:
    with pytest.raises(ValueError, match="no false match rate can be told"):
        threshold_at(np.array([], np.float32), 0.1)


def test_counts_are_exact() -> None:
    compared = _compared([0.9, 0.8, 0.2, 0.5], [0.1, 0.5, 0.3, 0.6, 0.0])
    fmr, fnmr = rates_at(compared, 0.5)
    assert (fmr.errors, fmr.trials, fmr.value) == (2, 5, 0.4)
    assert (fnmr.errors, fnmr.trials, fnmr.value) == (1, 4, 0.25)


def test_rates_of_two_normal_distributions_are_those_of_theory() -> None:
    compared = _compared(_normal(0.6, 0.1, 20_000, 1), _normal(0.1, 0.1, 400_000, 2), persons=2_000)
    point = operating_points(compared, [1e-3], resamples=0)[0]
    threshold = 0.1 + 0.1 * 3.0902
    assert point.threshold == pytest.approx(threshold, abs=0.003)
    wanted = 0.5 * math.erfc((0.6 - threshold) / 0.1 / math.sqrt(2))
    assert point.fnmr.value == pytest.approx(wanted, rel=0.1)
    assert point.fmr.value <= 1e-3
    assert point.fmr.errors == 400
    assert equal_error_rate(compared) == pytest.approx(0.5 * math.erfc(2.5 / math.sqrt(2)), rel=0.1)


def test_perfect_and_useless_scores() -> None:
    assert equal_error_rate(_compared([0.9] * 10, [0.1] * 10)) == 0.0
    useless = equal_error_rate(_compared(_normal(0, 1, 5000, 3), _normal(0, 1, 5000, 4)))
    assert useless == pytest.approx(0.5, abs=0.02)


def test_thirty_errors_are_evidence_and_twenty_nine_are_not() -> None:
    for errors, evidence in ((29, "insufficient evidence"), (30, "sufficient")):
        compared = _compared([0.9] * 1000 + [0.05] * errors, [0.5] * errors + [0.1] * 10_000)
        point = operating_points(compared, [errors / (10_000 + errors)], resamples=0)[0]
        assert point.fmr.errors == errors
        assert point.fnmr.errors == errors
        told = as_json(point)
        assert told["fmr"]["evidence"] == evidence
        assert told["fnmr"]["evidence"] == evidence


def test_lost_pairs_count_as_rejected() -> None:
    compared = _compared([0.9] * 90 + [0.1] * 6, [0.2] * 100)
    point = operating_points(compared, [0.0], lost_genuine=4, resamples=0)[0]
    assert point.fnmr.value == 6 / 96
    assert point.frr == 10 / 100


class TestIntervals:
    def test_they_hold_the_value_and_do_not_change_with_a_run(self) -> None:
        compared = _compared(_normal(0.5, 0.1, 3000, 5), _normal(0.1, 0.1, 60_000, 6), persons=300)
        once, again = (operating_points(compared, [1e-2, 1e-3], resamples=200)[1] for _ in range(2))
        assert once == again
        assert once.fnmr.low is not None
        assert once.fnmr.high is not None
        assert once.fnmr.low < once.fnmr.value < once.fnmr.high
        assert once.fmr.low is not None
        assert once.fmr.high is not None
        assert once.fmr.low < once.fmr.value < once.fmr.high
        assert once.threshold_low is not None
        assert once.threshold_high is not None
        assert once.threshold_low <= once.threshold <= once.threshold_high

    def test_one_bad_person_widens_them_as_drawing_pairs_would_not(self) -> None:
        """40 persons with 25 genuine pairs each; all 25 misses are one person's, or spread over 25 persons."""
        whose = np.repeat(np.arange(40), 25)
        widths = []
        for missed in (np.arange(25), np.arange(25) * 25):
            genuine = np.full(1000, 0.9, np.float32)
            genuine[missed] = 0.0
            impostor = np.linspace(0.1, 0.6, 2000, dtype=np.float32)
            a = np.concatenate((whose, np.arange(2000) % 40))
            b = np.concatenate((whose, (np.arange(2000) * 7 + 3) % 40))
            same = np.arange(3000) < 1000
            compared = Comparisons(np.concatenate((genuine, impostor)), same, a, b, a, b)
            fnmr = operating_points(compared, [1e-2], resamples=400)[0].fnmr
            assert fnmr.value == 0.025
            assert fnmr.low is not None
            assert fnmr.high is not None
            widths.append(fnmr.high - fnmr.low)
        assert widths[0] > 2.5 * widths[1]

    def test_coverage_of_the_true_rate(self) -> None:
        """About 95 of 100 intervals hold the truth; independent pairs, one a person."""
        truth = 0.5 * math.erfc(1.5 / math.sqrt(2))
        held = 0
        for seed in range(60):
            genuine = np.array(_normal(0.0, 1.0, 800, seed), np.float32)
            impostor = np.linspace(-12, -1.5, 2000).astype(np.float32)
            a = np.concatenate((np.arange(800), np.zeros(2000, int)))
            b = np.concatenate((np.arange(800), np.ones(2000, int)))
            compared = Comparisons(np.concatenate((genuine, impostor)), np.arange(2800) < 800, a, b, a, b)
            fnmr = operating_points(compared, [0.0], resamples=100, seed=seed)[0].fnmr
            assert fnmr.low is not None
            assert fnmr.high is not None
            held += fnmr.low <= truth <= fnmr.high
        assert held >= 50

    def test_too_few_draws_give_none(self) -> None:
        point = operating_points(_compared([0.9] * 5, [0.1] * 50), [0.1], resamples=5)[0]
        assert (point.fnmr.low, point.threshold_low) == (None, None)


def test_all_against_all_is_every_pair_once() -> None:
    embeddings = np.eye(4, 8, dtype=np.float32)
    embeddings[1] = [0.6, 0.8, 0, 0, 0, 0, 0, 0]
    compared = all_against_all(embeddings, ["mei", "mei", "lin", "mei"])
    assert len(compared.score) == 6
    told = {
        (int(a), int(b)): (bool(same), round(float(score), 6))
        for a, b, same, score in zip(compared.a, compared.b, compared.same, compared.score, strict=True)
    }
    assert told[(0, 1)] == (True, 0.6)
    assert told[(0, 2)] == (False, 0.0)
    assert told[(1, 3)] == (True, 0.0)
    assert sum(same for same, _ in told.values()) == 3


def test_det_falls_from_one_false_match_to_all() -> None:
    fmr, fnmr = det(_compared(_normal(0.5, 0.2, 500, 7), _normal(0.1, 0.1, 5000, 8)))
    assert fmr[0] == 1 / 5000
    assert fmr[-1] == 1.0
    assert (np.diff(fmr) > 0).all()
    assert (np.diff(fnmr) <= 0).all()
    with pytest.raises(ValueError, match="genuine and impostor"):
        det(_compared([], [0.1]))


def test_columns_of_unequal_length_are_refused() -> None:
    one, two = np.zeros(1, np.int32), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="equally long"):
        Comparisons(np.zeros(2), np.zeros(2, bool), two, two, two, one)
