"""The comparator of minutiae: what must not change a score, what must, and what an attacker cannot get from it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated.biometrics import fingermatch
from gated.biometrics.fingermatch import MINUTIAE_MAX, PAIRS_MIN, compare, compare_described, describe
from gated.biometrics.minutiae import Minutiae

WIDTH, HEIGHT = 248, 338
SURE, DOUBTFUL = 0.4, 0.3
"""Far above and at what a lane takes for a match (models/manifest.toml)."""

Points = npt.NDArray[np.float64]


def minutiae(points: Points, quality: npt.NDArray[np.uint8] | None = None) -> Minutiae:
    """Of rows (x, y, angle)."""
    count = len(points)
    return Minutiae(
        points[:, 0].astype(np.float32),
        points[:, 1].astype(np.float32),
        np.mod(points[:, 2], 2 * np.pi).astype(np.float32),
        np.ones(count, np.uint8),
        np.full(count, 80, np.uint8) if quality is None else quality,
        WIDTH,
        HEIGHT,
    )


def finger(seed: int, count: int = 35) -> Points:
    """Rows (x, y, angle) that keep apart as minutiae do, and point along a loop's ridges one way or the other."""
    rng = np.random.default_rng([1, seed])
    core = np.array([124, 150]) + rng.normal(0, 12, 2)
    delta = core + np.array([rng.choice([-1, 1]) * 80, 100])
    places = np.empty((0, 2))
    apart = min(12.0, 190 / np.sqrt(count))
    while len(places) < count:
        place = rng.uniform((20, 20), (WIDTH - 20, HEIGHT - 20))
        if not len(places) or np.abs((places - place) @ (1, 1j)).min() > apart:
            places = np.concatenate((places, place[None]))
        apart *= 0.999
    around = [np.arctan2(-(places[:, 1] - point[1]), places[:, 0] - point[0]) for point in (core, delta)]
    ridges = (around[0] - around[1] + np.pi) / 2 + rng.normal(0, 0.1, count)
    return np.column_stack((places, ridges + np.pi * rng.integers(0, 2, count)))


def turned(points: Points, turn: float, shift: tuple[float, float] = (0.0, 0.0)) -> Points:
    """Counter-clockwise about the middle of the picture, y downwards."""
    x, y = points[:, 0] - WIDTH / 2, points[:, 1] - HEIGHT / 2
    cos, sin = np.cos(turn), np.sin(turn)
    return np.column_stack(
        (x * cos + y * sin + WIDTH / 2 + shift[0], y * cos - x * sin + HEIGHT / 2 + shift[1], points[:, 2] + turn)
    )


def taken_again(points: Points, seed: int, lost: float = 0.2, added: float = 0.1) -> Points:
    """The same finger on the reader another time: some minutiae gone, some new, all a little elsewhere, skin pulled."""
    rng = np.random.default_rng([2, seed])
    kept = points[rng.random(len(points)) >= lost]
    new = finger(int(rng.integers(1 << 30)), max(round(added * len(points)), 1))
    both = np.concatenate((kept, new))
    both[:, :2] += rng.normal(0, 2, (len(both), 2)) + 5 * np.sin(both[:, 1::-1] / 40 + rng.uniform(0, 6, 2))
    both[:, 2] += rng.normal(0, np.deg2rad(6), len(both))
    return turned(both, rng.uniform(-0.4, 0.4), tuple(rng.uniform(-15, 15, 2)))


fingers = st.integers(0, 10_000)


@given(fingers, st.integers(25, 60))
@settings(max_examples=15, deadline=None)
def test_a_print_matches_itself(seed: int, count: int) -> None:
    one = minutiae(finger(seed, count))
    assert compare(one, one) > 0.75


@given(fingers, st.floats(-0.8, 0.8), st.floats(-60, 60), st.floats(-60, 60))
@settings(max_examples=15, deadline=None)
def test_neither_turning_nor_shifting_changes_a_score(seed: int, turn: float, right: float, down: float) -> None:
    one = finger(seed)
    other = taken_again(one, seed, added=0.2)
    still = compare(minutiae(one), minutiae(one))
    assert compare(minutiae(one), minutiae(turned(one, turn, (right, down)))) == pytest.approx(still, abs=0.03)
    moved = compare(minutiae(turned(one, turn / 4)), minutiae(turned(other, turn / 4, (right, down))))
    assert moved == pytest.approx(compare(minutiae(one), minutiae(other)), abs=0.12)


@given(fingers)
@settings(max_examples=25, deadline=None)
def test_a_finger_that_is_placed_again_matches(seed: int) -> None:
    one = finger(seed)
    assert compare(minutiae(taken_again(one, seed)), minutiae(one)) > DOUBTFUL


def test_a_third_of_the_minutiae_lost_and_a_fifth_wrong_still_match_mostly() -> None:
    scores = [compare(minutiae(taken_again(finger(n), n, 0.3, 0.2)), minutiae(finger(n))) for n in range(60)]
    assert np.mean(np.array(scores) > DOUBTFUL) > 0.9


def test_half_a_print_matches() -> None:
    for seed in range(20):
        whole = finger(seed, 45)
        part = whole[whole[:, 1] < np.median(whole[:, 1])]
        assert compare(minutiae(part), minutiae(whole)) > SURE


@given(fingers, fingers)
@settings(max_examples=25, deadline=None)
def test_it_does_not_matter_which_comes_first(a: int, b: int) -> None:
    one, other = minutiae(finger(a)), minutiae(taken_again(finger(b), a))
    assert compare(one, other) == compare(other, one)
    assert compare(one, other) == compare_described(describe(one), describe(other))


def test_two_fingers_of_one_pattern_do_not_match() -> None:
    prints = [describe(minutiae(finger(seed))) for seed in range(40)]
    scores = [compare_described(a, b) for n, a in enumerate(prints) for b in prints[:n]]
    assert max(scores) < DOUBTFUL


@given(fingers)
@settings(max_examples=15, deadline=None)
def test_a_mirrored_print_does_not_match(seed: int) -> None:
    one = finger(seed)
    mirrored = np.column_stack((WIDTH - one[:, 0], one[:, 1], np.pi - one[:, 2]))
    assert compare(minutiae(one), minutiae(mirrored)) < DOUBTFUL


@given(fingers)
@settings(max_examples=20, deadline=None)
def test_a_print_upside_down_does_not_match(seed: int) -> None:
    one = finger(seed)
    assert compare(minutiae(one), minutiae(turned(one, np.pi))) < DOUBTFUL


@pytest.mark.parametrize("count", [*range(PAIRS_MIN, 15), 20, 40, 80, 160, MINUTIAE_MAX])
def test_random_minutiae_do_not_match_however_many(count: int) -> None:
    rng = np.random.default_rng(count)
    targets = [describe(minutiae(finger(seed, 12 + 3 * seed))) for seed in range(12)]
    for _ in range(10):
        guess = describe(minutiae(rng.uniform((0, 0, 0), (WIDTH, HEIGHT, 2 * np.pi), (count, 3))))
        assert max(compare_described(guess, target) for target in targets) < DOUBTFUL


@pytest.mark.parametrize("count", range(PAIRS_MIN, 13))
def test_a_few_minutiae_of_another_finger_do_not_match(count: int) -> None:
    """A tiny template is the cheapest one to forge, and the likeliest to be part of somebody else."""
    targets = [describe(minutiae(finger(seed))) for seed in range(10)]
    for seed in range(100, 130):
        other = finger(seed)
        near = np.argsort(np.hypot(*(other[:, :2] - other[0, :2]).T))[:count]
        assert max(compare_described(describe(minutiae(other[near])), target) for target in targets) < DOUBTFUL


def test_many_fingers_at_once_do_not_match_another() -> None:
    """Minutiae everywhere meet some partner everywhere; they are weighed against all that met none."""
    crowd = describe(minutiae(np.concatenate([finger(seed) for seed in range(50, 57)])))
    assert max(compare_described(crowd, describe(minutiae(finger(seed)))) for seed in range(30)) < DOUBTFUL


def test_the_score_falls_with_the_minutiae_that_find_no_partner() -> None:
    one = finger(5)
    scores = [compare(minutiae(one), minutiae(np.concatenate((one, finger(6, more))))) for more in (1, 10, 40, 120)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < scores[0] / 1.5


@pytest.mark.parametrize("count", range(PAIRS_MIN))
def test_too_few_minutiae_prove_nothing(count: int) -> None:
    few = minutiae(finger(1)[:count])
    assert compare(few, few) == 0.0
    assert compare(few, minutiae(finger(1))) == 0.0


Rows = list[tuple[float, ...]]
coordinates = st.floats(-1e4, 1e4, width=32)
rows = st.lists(
    st.tuples(coordinates, coordinates, st.floats(0, 6.25, width=32), st.integers(0, 100)),
    max_size=40,
)


@given(rows, rows)
@settings(max_examples=80, deadline=None)
def test_whatever_the_minutiae_the_score_is_a_number_from_0_to_1(a: Rows, b: Rows) -> None:
    sides = [np.array(side, np.float64).reshape(-1, 4) for side in (a, b)]
    one, other = (minutiae(side[:, :3], side[:, 3].astype(np.uint8)) for side in sides)
    assert 0.0 <= compare(one, other) <= 1.0


@pytest.mark.parametrize("count", [PAIRS_MIN, 30, MINUTIAE_MAX])
def test_minutiae_on_one_spot(count: int) -> None:
    spot = minutiae(np.tile([[100.0, 100.0, 1.0]], (count, 1)))
    assert compare(spot, spot) < DOUBTFUL
    assert compare(spot, minutiae(finger(3))) < DOUBTFUL


def test_more_minutiae_than_a_template_holds_cost_no_more() -> None:
    """Bounded by what is compared, not by a clock: noise gives thousands, the best of them count."""
    rng = np.random.default_rng(9)
    many = rng.uniform((0, 0, 0), (WIDTH, HEIGHT, 6.28), (5000, 3))
    quality = rng.integers(0, 80, 5000).astype(np.uint8)
    real = finger(4)
    quality = np.concatenate((quality, np.full(len(real), 99, np.uint8)))
    described = describe(minutiae(np.concatenate((many, real)), quality))
    assert len(described) == MINUTIAE_MAX
    places = {complex(place) for place in described.place}
    assert all(complex(np.complex64(x - 1j * y)) in places for x, y, _ in real.astype(np.float32))


def test_the_work_is_bounded_for_the_largest_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agreement is asked of so many candidates, and so many motions are tried, whatever comes."""
    seen: list[tuple[int, ...]] = []
    candidates = fingermatch._candidates

    def watched(*arguments: Any) -> Any:
        found = candidates(*arguments)
        assert found is not None
        seen.append(found[2].shape)
        return found

    monkeypatch.setattr(fingermatch, "_candidates", watched)
    large = [describe(minutiae(finger(seed, MINUTIAE_MAX))) for seed in (1, 2)]
    compare_described(large[0], large[1])
    compare_described(large[0], large[0])
    assert all(motions <= 5 and wide <= 110 for motions, wide in seen)
    assert len(seen) == 2


def test_nothing_of_a_print_is_shown() -> None:
    assert repr(describe(minutiae(finger(1)))) == "Described(35)"
