"""The quality of a print falls with whatever spoils it, and what is advised fits what spoilt it."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from gated.biometrics.fingerquality import Measures, Weak, enrolment_floor, judge, measure
from gated.icao.fingers import Finger
from gated.lane.events import Touch
from tests.data import shared_data
from tests.hw_sim.fingers import FingerBook

Picture = npt.NDArray[np.uint8]
BOOK = FingerBook(7)
GLASS = 240


def index_finger(person: int) -> Picture:
    return BOOK.impression(person, Finger.RIGHT_INDEX, 0)


def quality(picture: Picture) -> int:
    return judge(measure(picture)).value


def _grey(values: npt.NDArray[Any]) -> Picture:
    made: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return made


def faint(picture: Picture, amount: float) -> Picture:
    hiss = np.random.default_rng(1).normal(0, 3, picture.shape)
    return _grey(GLASS - (GLASS - picture.astype(float)) * (1 - amount) + hiss)


def noisy(picture: Picture, amount: float) -> Picture:
    return _grey(picture + np.random.default_rng(2).normal(0, 120 * amount, picture.shape))


def blurred(picture: Picture, amount: float) -> Picture:
    return _grey(cv2.GaussianBlur(picture, (0, 0), 0.3 + 5 * amount))


def cut(picture: Picture, amount: float) -> Picture:
    made = picture.copy()
    made[: int(len(made) * amount)] = GLASS
    return made


def black(picture: Picture, amount: float) -> Picture:
    """Wet or pressed hard: ridges grow together."""
    size = 1 + round(6 * amount)
    return _grey(cv2.erode(picture, np.ones((size, size), np.uint8)).astype(float) - 100 * amount)


def small(picture: Picture, amount: float) -> Picture:
    """Pressed lightly: the middle alone touches."""
    y, x = np.mgrid[-1 : 1 : picture.shape[0] * 1j, -1 : 1 : picture.shape[1] * 1j]
    return np.where(np.hypot(x, y) < 1 - 0.8 * amount, picture, GLASS).astype(np.uint8)


@pytest.mark.parametrize("spoil", [faint, noisy, blurred, cut, black, small])
def test_what_spoils_a_print_lowers_its_quality(spoil: Callable[[Picture, float], Picture]) -> None:
    for person in range(3):
        picture = index_finger(person)
        found = [quality(spoil(picture, amount)) for amount in (0.0, 0.5, 0.97)]
        assert found[0] >= 70
        assert found[0] >= found[1] - 3  # a little blur takes the hiss away
        assert found[1] > found[2]
        assert found[2] < 15


@pytest.mark.parametrize(
    ("spoil", "amount", "advice"),
    [
        (cut, 0.75, Touch.CENTRE_FINGER),
        (small, 0.75, Touch.PRESS_HARDER),
        (faint, 0.9, Touch.PRESS_HARDER),
        (black, 0.9, Touch.PRESS_LIGHTER),
        (noisy, 0.7, Touch.CLEAN_FINGER),
    ],
)
def test_the_advice_fits_what_is_wrong(
    spoil: Callable[[Picture, float], Picture], amount: float, advice: Touch
) -> None:
    given = [judge(measure(spoil(index_finger(person), amount))).advice for person in range(5)]
    assert given.count(advice.value) >= 4, given


def test_what_is_no_finger_has_no_quality() -> None:
    random = np.random.default_rng(4)
    for nothing in (
        np.full((290, 384), 240, np.uint8),
        np.zeros((290, 384), np.uint8),
        random.integers(0, 256, (290, 384), np.uint8),
        _grey(random.normal(200, 12, (290, 384))),
        np.where(np.arange(384) > 200, 30, 220).astype(np.uint8).repeat(290).reshape(384, 290),
        _grey(127 + 100 * np.sin(np.arange(290)[:, None] * np.full(384, 0.2))),  # lines 30 pixels apart
        BOOK.impression(0, Finger.RIGHT_INDEX, 0, bandage=True),
    ):
        assert quality(np.ascontiguousarray(nothing)) < 5


def test_the_glass_around_a_print_does_not_matter() -> None:
    picture = index_finger(1)
    wide = np.full((480, 512), int(np.median(picture[0])), np.uint8)
    wide[80 : 80 + picture.shape[0], 128 : 128 + picture.shape[1]] = picture
    assert abs(quality(wide) - quality(picture)) <= 5


def test_every_piece_of_advice_is_one_the_lane_knows() -> None:
    assert {weak.value for weak in Weak} <= {touch.value for touch in Touch}


def test_a_perfect_print_scores_100_and_nothing_0() -> None:
    assert judge(Measures(300, 300, 0.0, 1.0, 1.0, 60, 130)).value == 100
    assert judge(Measures(0, 0, 0.0, 0.0, 0.0, 0, 240)).value == 0


@pytest.mark.parametrize("finger", list(Finger))
def test_every_finger_has_its_floor_for_enrolment(finger: Finger) -> None:
    """BSI TR-03121-3: 30 for thumb and index, 20 for the middle, 10 for ring and little finger."""
    assert (
        enrolment_floor(finger)
        == {"thumb": 30, "index": 30, "middle": 20, "ring": 10, "little": 10}[finger.value.split("_")[1]]
    )


@pytest.mark.parametrize("shape", [(96, 96), (97, 131), (1500, 1500)])
def test_any_size_the_engine_takes(shape: tuple[int, int]) -> None:
    lines = _grey(127 + 100 * np.sin(np.arange(shape[0])[:, None] * np.full(shape[1], 2 * np.pi / 9)))
    found = measure(lines)
    assert found.certainty > 0.9
    assert found.periodic > 0.9


def test_real_prints_would_be_enrolled() -> None:
    """A published set of good prints."""
    paths = sorted((shared_data() / "fingers").glob("*_[15].png"))
    found = [quality(np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)) for path in paths]
    assert min(found) >= 30
    assert np.median(found) >= 80
