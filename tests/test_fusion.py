"""What face and finger do together is counted rightly: scripted scores whose outcome is known."""

from math import nan

import numpy as np
import pytest

from benchmarks import fusion
from gated.biometrics.evaluate import upper_bound

POINTS, RULES = fusion.shipped()
GOOD, BAD = 0.9, 0.1
STANDS, WEAK, WRONG = 0.9, 0.35, 0.2
MATCH, MISS, NONE = (GOOD, GOOD), (BAD, BAD), (nan, nan)


@pytest.mark.parametrize(
    ("mode", "face", "right", "left", "stated"),
    [
        ("face alone", STANDS, MISS, MISS, 1e-4),
        ("face alone", WEAK, MATCH, MATCH, None),
        ("face alone", nan, MATCH, MATCH, None),
        ("weak face supported", STANDS, NONE, NONE, 1e-4),
        ("weak face supported", WEAK, MATCH, MISS, 1e-5),
        ("weak face supported", WEAK, (BAD, GOOD), MISS, 2e-5),
        ("weak face supported", WEAK, MISS, MATCH, 3e-5),
        ("weak face supported", WEAK, NONE, MATCH, 1e-5),
        ("weak face supported", WEAK, MISS, MISS, None),
        ("weak face supported", WRONG, MATCH, MATCH, None),
        ("both demanded", STANDS, MATCH, MISS, 1e-7),
        ("both demanded", STANDS, NONE, MATCH, 1e-7),
        ("both demanded", STANDS, (nan, GOOD), MISS, None),  # no print to be had: that finger is left out
        ("both demanded", STANDS, MISS, MISS, None),
        ("both demanded", WEAK, MATCH, MATCH, None),
        ("no face, two fingers", WRONG, MATCH, MATCH, 1e-6),
        ("no face, two fingers", WRONG, (BAD, GOOD), MATCH, 2e-6),
        ("no face, two fingers", STANDS, MATCH, MISS, None),
        ("no face, two fingers", STANDS, MATCH, NONE, None),
    ],
)
def test_the_policy_decides(
    mode: str, face: float, right: tuple[float, float], left: tuple[float, float], stated: float | None
) -> None:
    told = fusion.passage(fusion.claim(mode, RULES), face, (right, left), RULES, POINTS)
    assert told == (None if stated is None else pytest.approx(stated))


def test_a_finger_is_compared_as_often_as_the_lane_does() -> None:
    """Two fingers, two tries each: the last one may be the one that matches."""
    claimed = fusion.claim("both demanded", RULES)
    assert fusion.passage(claimed, STANDS, (MISS, (BAD, GOOD)), RULES, POINTS) is not None


def prints(hands: int = 4, impressions: int = 4, *, unusable: tuple[int, ...] = ()) -> fusion.Prints:
    """A print matches others of its finger at 0.9, itself at 1, another finger at 0.1, and a poor one nothing."""
    finger = np.repeat(np.arange(2 * hands), impressions)
    score = np.where(finger[:, None] == finger, GOOD, BAD)
    np.fill_diagonal(score, 1.0)
    score[list(unusable)] = score[:, list(unusable)] = 0.0
    usable = ~np.isin(np.arange(len(finger)), unusable)
    return fusion.Prints(score, usable, np.arange(len(finger)).reshape(hands, 2, impressions))


def shown(made: fusion.Prints, enrolled: int, right: int, left: int) -> fusion.Floats:
    """A hundred passages of these hands."""
    hands = np.full(100, enrolled)
    return fusion.shown(made, hands, np.tile([right, left], (100, 1)), np.random.default_rng(0))


def test_what_is_enrolled_is_not_shown() -> None:
    assert (shown(prints(), 1, 1, 1) == GOOD).all()
    assert (shown(prints(), 1, 2, 2) == BAD).all()


def test_a_stolen_finger_is_the_right_one_alone() -> None:
    scores = shown(prints(), 1, 1, 2)
    assert (scores[:, 0] == GOOD).all()
    assert (scores[:, 1] == BAD).all()


def test_two_tries_are_two_prints() -> None:
    made = prints(impressions=3)
    made.score[:] = np.arange(len(made.score))
    scores = shown(made, 0, 0, 0)
    assert (scores[..., 0] != scores[..., 1]).all()


def test_a_poor_print_is_never_enrolled_and_never_compared() -> None:
    poor = (0, 1)  # of the right index finger of the first hand
    scores = shown(prints(unusable=poor), 0, 0, 0)
    assert np.isnan(scores[:, 0]).any()
    assert (scores[~np.isnan(scores)] == GOOD).all()
    assert not np.isnan(scores[:, 1]).any()


def chimeras(genuine: float = STANDS, impostor: float = WRONG) -> dict[str, fusion.Attempts]:
    """Thirty persons with two pictures each."""
    persons = np.repeat(np.arange(30), 2)
    score = np.where(persons[:, None] == persons, genuine, impostor)
    return fusion.chimeras(score, persons, prints(), 500, np.random.default_rng(0))


def test_kinds_of_attempt() -> None:
    made = chimeras()
    assert {kind: len(one.face) for kind, one in made.items()} == {
        "genuine": 30,
        "zero-effort": 500,
        "lookalike": 30 * fusion.LOOKALIKES,
        "stolen finger": 500,
    }
    for kind, face, right, left in (
        ("genuine", STANDS, GOOD, GOOD),
        ("zero-effort", WRONG, BAD, BAD),
        ("lookalike", STANDS, BAD, BAD),
        ("stolen finger", WRONG, GOOD, BAD),
    ):
        one = made[kind]
        assert (one.face == face).all()
        assert (one.prints[:, 0] == right).all(), kind
        assert (one.prints[:, 1] == left).all(), kind


def errors(told: dict[str, dict[str, dict[str, float]]]) -> dict[str, list[float]]:
    return {mode: [one["value"] for kind, one in kinds.items() if kind != "stated"] for mode, kinds in told.items()}


def test_who_gets_in() -> None:
    """Rejected, zero-effort, lookalike, stolen finger; without a face nobody is a lookalike."""
    assert errors(fusion.judged(chimeras(), RULES, POINTS)) == {
        "face alone": [0, 0, 1, 0],
        "weak face supported": [0, 0, 1, 0],
        "both demanded": [0, 0, 0, 0],
        "no face, two fingers": [0, 0, 0],
    }
    assert errors(fusion.judged(chimeras(WEAK, WEAK), RULES, POINTS)) == {
        "face alone": [1, 0, 0, 0],
        "weak face supported": [0, 0, 0, 1],
        "both demanded": [1, 0, 0, 0],
        "no face, two fingers": [0, 0, 0],
    }


def test_a_face_that_was_not_found_is_a_rejection() -> None:
    told = fusion.judged(chimeras(genuine=nan), RULES, POINTS)
    assert told["weak face supported"]["genuine"]["value"] == 1


def test_grants_are_counted_by_what_they_state() -> None:
    assert fusion.judged(chimeras(WEAK), RULES, POINTS)["weak face supported"]["stated"] == {1e-5: 30}


def test_bounds() -> None:
    """Without errors persons are the trials; with all errors on one of ten, drawing persons finds more."""
    hands = np.stack([np.repeat(np.arange(10), 100)] * 2, 1)
    clean = fusion.rate(np.zeros(1000, bool), [hands])
    assert clean["upper_independent"] == upper_bound(0, 1000)
    assert clean["upper_persons"] == upper_bound(0, 10)
    assert clean["evidence"] == "insufficient evidence"
    spoilt = fusion.rate(hands[:, 0] == 3, [hands])
    assert (spoilt["errors"], spoilt["evidence"]) == (100, "sufficient")
    assert spoilt["upper_independent"] < 0.13 < 0.2 <= spoilt["upper_persons"] < 0.5


def test_two_persons_are_one_trial_whoever_is_enrolled() -> None:
    told = fusion.rate(np.zeros(4, bool), [np.array([[0, 1], [1, 0], [0, 1], [2, 1]])])
    assert told["upper_persons"] == upper_bound(0, 2)


def test_the_widest_bound_counts() -> None:
    few, many = np.stack([np.arange(200) % 4, np.arange(200) % 4 + 1], 1), np.stack([np.arange(200)] * 2, 1)
    assert fusion.rate(np.zeros(200, bool), [many, few])["upper_persons"] == upper_bound(0, 4)


def test_coarse_thresholds_are_met_by_these_very_attempts() -> None:
    """A face alone then gets in exactly as often as is stated: the check of the rule's arithmetic stands on that."""
    random = np.random.default_rng(0)
    count = 4000
    attempts = fusion.Attempts(
        random.permutation(count) / count,
        random.random((count, 2, 2)),
        np.zeros((count, 2), np.int64),
        np.zeros((count, 2), np.int64),
    )
    told = fusion.arithmetic(attempts, RULES)
    assert told["modes"]["face alone"] == [{"stated": 1e-2, "errors": 40}]
    demanded = told["modes"]["both demanded"][-1]
    assert 0 < demanded["errors"] <= 4 * fusion.COARSE[0] * fusion.COARSE[2] * count * 2
