"""LEADER finds what was drawn: where ridges begin, which way they go, and nothing where there are none."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from gated.icao.fingers import Finger
from models.leader import HEIGHT_MAX, WIDTH_MAX, Leader, Rows, contact
from models.loader import load
from models.manifest import ModelError
from models.obtain import published
from tests.data import shared_data
from tests.hw_sim.fingers import FingerBook
from tests.networks import networks

Picture = npt.NDArray[np.uint8]
TURN = 2 * np.pi
GREY = 200
SCORE_MIN = 0.6
"""Of the network's own post-processing."""


@pytest.fixture(scope="module")
def leader() -> Leader:
    return Leader(networks())


def ridges(
    starts: Iterable[tuple[float, float, int]], height: int = 256, width: int = 256, phase: float = 0.0
) -> Picture:
    """Level ridges, 9 pixels apart. At each (x, y, side) one more of them begins and goes right (1) or left (-1): the
    phase of the wave gains a turn around that point."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    turns = TURN * y / 9 + phase
    for across, down, side in starts:
        turns += side * np.arctan2(y - down, x - across)
    made: Picture = np.rint(127.5 - 100 * np.cos(turns)).astype(np.uint8)
    return made


def between(angle: float, other: float) -> float:
    return abs((angle - other + np.pi) % TURN - np.pi)


def alike(first: Rows, second: Rows, px: float = 3.0, turn: float = 0.2) -> int:
    """How many of the first have one of the second beside them."""
    return sum(
        any(np.hypot(a[0] - b[0], a[1] - b[1]) <= px and between(a[2], b[2]) <= turn for b in second) for a in first
    )


def index_finger(person: int) -> Picture:
    return FingerBook(7).impression(person, Finger.RIGHT_INDEX, 0)


@pytest.mark.parametrize("phase", [0.0, 1.5, 3.1])
@pytest.mark.parametrize(("side", "direction"), [(1, 0.0), (-1, np.pi)])
def test_a_ridge_that_begins_is_one_minutia_along_it(leader: Leader, side: int, direction: float, phase: float) -> None:
    """ISO/IEC 19794-2: the direction of an ending is that of its ridge, of a bifurcation that of the valley within."""
    rows = leader.find(ridges([(128, 120, side)], phase=phase))
    assert len(rows) == 1
    x, y, angle, _, score = rows[0]
    assert np.hypot(x - 128, y - 120) <= 4
    assert between(angle, direction) < 0.1
    assert score > 0.9


def test_what_ends_in_a_picture_parts_in_its_negative(leader: Leader) -> None:
    picture = ridges([(128, 128, 1)])
    assert leader.find(picture)[0][3] == 1
    assert leader.find(255 - picture)[0][3] == 0


def test_directions_turn_with_the_picture(leader: Leader) -> None:
    """Counter-clockwise, as seen."""
    picture = ridges([(128, 128, 1)])
    for quarter in range(4):
        rows = leader.find(np.ascontiguousarray(np.rot90(picture, quarter)))
        assert len(rows) == 1
        assert between(rows[0][2], quarter * np.pi / 2) < 0.1


def test_minutiae_move_with_the_finger(leader: Leader) -> None:
    """The print in a larger field, at places that are no multiples of anything."""
    print_ = index_finger(0)
    alone = leader.find(print_)
    assert len(alone) > 15
    for top, left in ((61, 133), (300, 17)):
        field = np.full((620, 560), int(np.median(print_[0])), np.uint8)
        field[top : top + print_.shape[0], left : left + print_.shape[1]] = print_
        moved = leader.find(field) - np.array([left, top, 0, 0, 0], np.float32)
        assert alike(alone, moved) >= 0.9 * len(alone)
        assert alike(moved, alone) >= 0.9 * len(moved)


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_a_blank_picture_has_none(leader: Leader, grey: int) -> None:
    rows = leader.find(np.full((290, 384), grey, np.uint8))
    assert rows.shape == (0, 5)
    assert rows.dtype == np.float32


def test_noise_is_no_finger(leader: Leader) -> None:
    random = np.random.default_rng(3)
    assert len(leader.find(random.integers(0, 256, (290, 384), np.uint8))) <= 2
    assert len(leader.find(random.normal(GREY, 12, (290, 384)).clip(0, 255).astype(np.uint8))) <= 2


@pytest.mark.parametrize("shape", [(96, 96), (97, 131), (33, 20), (1, 1)])
def test_small_and_odd_sizes(leader: Leader, shape: tuple[int, int]) -> None:
    rows = leader.find(ridges([(shape[1] / 2, shape[0] / 2, 1)], *shape))
    assert ((rows[:, 0] >= 0) & (rows[:, 0] < shape[1]) & (rows[:, 1] >= 0) & (rows[:, 1] < shape[0])).all()


def test_the_surest_255_come_first(leader: Leader) -> None:
    grid = [(x, y, (-1) ** (x // 34 + y // 34)) for x in range(40, 620, 34) for y in range(40, 750, 34)]
    assert len(grid) > 350
    rows = leader.find(ridges(grid, HEIGHT_MAX, WIDTH_MAX))
    assert len(rows) == 255
    assert (np.diff(rows[:, 4]) <= 0).all()
    assert (rows[:, 4] >= SCORE_MIN).all()
    assert ((rows[:, 2] >= 0) & (rows[:, 2] < TURN)).all()


def test_two_threads_find_what_one_does(leader: Leader) -> None:
    print_ = index_finger(1)
    one, two = leader.find(print_), Leader(networks(), threads=2).find(print_)
    np.testing.assert_array_equal(one[:, [0, 1, 3]], two[:, [0, 1, 3]])
    np.testing.assert_allclose(one, two, atol=1e-4)


class TestContact:
    def test_it_is_what_shows_something_and_a_margin(self) -> None:
        field = np.full((800, 900), GREY, np.uint8)
        field[320:480, 480:640] = ridges([], 160, 160)
        assert contact(field) == (slice(288, 512), slice(448, 672))

    def test_it_ends_where_the_picture_does(self) -> None:
        assert contact(ridges([], 100, 130)) == (slice(0, 100), slice(0, 130))

    def test_a_sensor_that_hisses_shows_nothing(self) -> None:
        field = np.random.default_rng(1).normal(GREY, 2, (400, 400)).astype(np.uint8)
        assert contact(field) == (slice(0, 0), slice(0, 0))

    def test_of_more_than_a_fingertip_the_middle(self) -> None:
        down, across = contact(ridges([], 1500, 1400))
        assert (down.stop - down.start, across.stop - across.start) == (HEIGHT_MAX, WIDTH_MAX)
        assert abs(down.start + down.stop - 1500) <= 32
        assert abs(across.start + across.stop - 1400) <= 32


def test_real_prints_have_the_minutiae_of_a_fingertip(leader: Leader) -> None:
    cv2 = pytest.importorskip("cv2")
    for path in sorted((shared_data() / "fingers").glob("*_1.png")):
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        rows = leader.find(picture)
        assert 10 <= len(rows) <= 70, path.name
        assert len({(x, y) for x, y in rows[:, :2].tolist()}) == len(rows)


@pytest.mark.slow
def test_the_patched_graph_finds_what_the_published_one_does() -> None:
    """Through the published graph's own decoding: the score of a peak, direction and kind of every pixel."""
    try:
        session = onnxruntime.InferenceSession(published("leader"), providers=["CPUExecutionProvider"])
    except ModelError as absent:
        pytest.skip(f"the published network cannot be had: {absent}")
    patched = load("leader", networks())
    pictures = [index_finger(person) for person in range(3)]
    random = np.random.default_rng(8)
    for _ in range(6):  # cut, so that minutiae lie at the edges
        top, left = random.integers(0, 128, 2)
        pictures.append(np.ascontiguousarray(pictures[0][top : top + 128, left : left + 128]))
    for picture in pictures:
        whole = picture[: len(picture) // 32 * 32, : picture.shape[1] // 32 * 32]
        told = session.run(None, {"input": whole[None, :, :, None].astype(np.float32)})[0][0]
        y, x = np.nonzero(told[..., 3] >= SCORE_MIN)
        expected = {(a, b): told[b, a] for a, b in zip(x.tolist(), y.tolist(), strict=True)}
        place, score, direction, ending = patched.run(None, {"picture": whole[None, None].astype(np.float32)})
        assert {(a, b) for b, a in place[:, 2:].tolist()} == set(expected)
        for (b, a), sure, ways, ends in zip(place[:, 2:].tolist(), score, direction, ending, strict=True):
            _, angle, kind, peak = expected[a, b]
            pixel = b % 2 * 2 + a % 2
            cosine, sine = ways[2 * pixel : 2 * pixel + 2]
            assert between(np.arctan2(sine, cosine), angle) < 1e-4
            assert (ends[pixel] >= 0) == (kind >= 0.5)
            assert sure == pytest.approx(peak, abs=1e-4)
