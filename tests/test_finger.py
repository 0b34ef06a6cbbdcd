"""The finger engine: any reader's picture in, minutiae as a template holds them out, and nothing but its own error."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from gated.biometrics.finger import FingerError, OnnxFingerEngine, minutiae_of
from gated.biometrics.fingermatch import compare
from gated.biometrics.minutiae import BIFURCATION, ENDING, Minutiae
from gated.biometrics.template import FingerTemplate, encode
from gated.icao.fingers import Finger
from gated.lane.events import Touch
from models.manifest import ModelError
from tests.data import shared_data
from tests.hw_sim.fingers import FingerBook
from tests.networks import networks

Picture = npt.NDArray[np.uint8]
PPI = 500.0
BOOK = FingerBook(7)


@pytest.fixture(scope="module")
def engine() -> OnnxFingerEngine:
    return OnnxFingerEngine(networks())


def index_finger(person: int = 0, take: int = 0) -> Picture:
    return BOOK.impression(person, Finger.RIGHT_INDEX, take)


def resampled(picture: Picture, factor: float) -> Picture:
    made: Picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    return made


def together(first: Minutiae, second: Minutiae, px: float) -> float:
    """The part of the first that lies beside one of the second and points alike."""
    apart = np.hypot(first.x[:, None] - second.x, first.y[:, None] - second.y)
    turned = np.abs((first.angle[:, None] - second.angle + np.pi) % (2 * np.pi) - np.pi)
    return float(((apart <= px) & (turned < 0.3)).any(axis=1).mean())


def test_the_same_finger_and_nobody_elses(engine: OnnxFingerEngine) -> None:
    probe = engine.extract(index_finger(0, 1), PPI)
    own, other = (
        encode(FingerTemplate.of(engine.extract(index_finger(person), PPI), Finger.RIGHT_INDEX, 80))
        for person in (0, 1)
    )
    assert engine.score(probe, own) >= engine.threshold.score > engine.score(probe, other)


def test_a_template_compares_as_the_live_print_does(engine: OnnxFingerEngine) -> None:
    """Pixels and directions are rounded when they are extracted, so that storing them changes nothing."""
    live, probe = engine.extract(index_finger(2), PPI), engine.extract(index_finger(2, 1), PPI)
    stored = encode(FingerTemplate.of(live, Finger.RIGHT_INDEX, 80))
    back = minutiae_of(stored)
    for column in ("x", "y", "kind", "quality"):
        np.testing.assert_array_equal(getattr(back, column), getattr(live, column))
    np.testing.assert_allclose(back.angle, live.angle, atol=1e-6)
    assert engine.score(probe, stored) == pytest.approx(compare(probe, live), abs=1e-6)


def test_minutiae_are_within_the_picture_and_the_range_of_their_columns(engine: OnnxFingerEngine) -> None:
    found = engine.extract(index_finger(3), PPI)
    height, width = index_finger(3).shape
    assert (found.width, found.height) == (width, height)
    assert 15 <= len(found) <= 255
    assert ((found.x >= 0) & (found.x < width) & (found.y >= 0) & (found.y < height)).all()
    assert ((found.angle >= 0) & (found.angle < 2 * np.pi)).all()
    assert set(found.kind.tolist()) <= {ENDING, BIFURCATION}
    assert ((found.quality >= 60) & (found.quality <= 100)).all()
    assert (np.diff(found.quality.astype(int)) <= 0).all()


@pytest.mark.parametrize("ppi", [1000.0, 750.0, 363.0])
def test_the_readers_resolution_does_not_matter(engine: OnnxFingerEngine, ppi: float) -> None:
    known = engine.extract(index_finger(4), PPI)
    found = engine.extract(resampled(index_finger(4), ppi / PPI), ppi)
    assert abs(found.width - known.width) <= 1
    assert together(known, found, 2.0) > 0.85
    assert together(found, known, 2.0) > 0.85


def test_one_thread_and_two_extract_the_same(engine: OnnxFingerEngine) -> None:
    one, two = (each.extract(index_finger(5), PPI) for each in (engine, OnnxFingerEngine(networks(), threads=2)))
    for column in ("x", "y", "angle", "kind", "quality"):
        np.testing.assert_array_equal(getattr(one, column), getattr(two, column))


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((288, 256), np.uint8),
        np.full((288, 256), 255, np.uint8),
        np.random.default_rng(1).integers(0, 256, (288, 256), np.uint8),
        np.tile(np.arange(256, dtype=np.uint8), (288, 1)),
    ],
    ids=["black", "white", "noise", "ramp"],
)
def test_what_is_no_finger_has_next_to_no_minutiae_and_is_not_usable(
    engine: OnnxFingerEngine, picture: Picture
) -> None:
    found = engine.extract(picture, PPI)
    assert len(found) <= 2
    assert compare(found, found) == 0
    look = engine.look(picture, PPI)
    assert not look.usable
    assert look.quality < 5
    assert Touch(look.advice)


def test_a_good_print_is_usable_and_leaves_nothing_to_advise(engine: OnnxFingerEngine) -> None:
    look = engine.look(index_finger(), PPI)
    assert look.usable
    assert look.quality >= 70
    assert look.advice is None


@pytest.mark.parametrize(
    ("image", "ppi", "says"),
    [
        (None, PPI, "not NoneType"),
        ([[0] * 256] * 288, PPI, "not list"),
        (np.zeros((288, 256), np.float32), PPI, "not float32"),
        (np.zeros((288, 256, 3), np.uint8), PPI, "not uint8"),
        (np.zeros(288, np.uint8), PPI, "not uint8"),
        (np.zeros((0, 256), np.uint8), PPI, "a side of"),
        (np.zeros((95, 256), np.uint8), PPI, "a side of"),
        (np.zeros((288, 1501), np.uint8), PPI, "a side of"),
        (np.zeros((160, 160), np.uint8), 1000.0, "a side of"),
        (np.zeros((288, 256), np.uint8), 249.0, "250 to 1200 pixels an inch, not 249"),
        (np.zeros((288, 256), np.uint8), 1201.0, "250 to 1200"),
        (np.zeros((288, 256), np.uint8), 0.0, "250 to 1200"),
        (np.zeros((288, 256), np.uint8), float("nan"), "not nan"),
    ],
)
def test_what_is_no_picture_is_refused(engine: OnnxFingerEngine, image: object, ppi: float, says: str) -> None:
    for ask in (engine.look, engine.extract):
        with pytest.raises(FingerError, match=says):
            ask(image, ppi)


@pytest.mark.parametrize("data", [b"", b"FMR\0 20\0", b"FP3 something else", bytes(64)])
def test_what_is_no_template_is_refused(engine: OnnxFingerEngine, data: bytes) -> None:
    with pytest.raises(FingerError, match="no finger template"):
        engine.score(engine.extract(index_finger(), PPI), data)


def test_an_unknown_threshold_and_a_missing_network_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no threshold called 'lax' for leader; there are fmr_1e-2"):
        OnnxFingerEngine(networks(), "lax")
    with pytest.raises(ModelError, match=r"leader\.onnx"):
        OnnxFingerEngine(tmp_path)


def test_real_prints_of_a_finger_match_and_those_of_others_do_not(engine: OnnxFingerEngine) -> None:
    prints = shared_data() / "fingers"
    found: dict[str, Minutiae] = {}
    for name in ("10_1", "10_5", "11_1", "11_5", "12_1", "13_1"):
        picture = cv2.imread(str(prints / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        assert engine.look(picture, PPI).usable
        found[name] = engine.extract(picture, PPI)
        assert 10 <= len(found[name]) <= 80
    names = list(found)
    for one, other in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
        same = one.split("_")[0] == other.split("_")[0]
        assert (compare(found[one], found[other]) >= engine.threshold.score) is same, (one, other)
