"""Fingers that nobody has: their singular points, their ridges, and what a careless hand leaves of them."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from gated.biometrics.finger import OnnxFingerEngine
from gated.biometrics.fingermatch import compare
from gated.biometrics.minutiae import Minutiae
from gated.icao.fingers import Finger
from tests.hw_sim import fingers, ridges
from tests.hw_sim.fingers import SHARES, FingerBook
from tests.hw_sim.impressions import Picture, bandaged, impression
from tests.hw_sim.ridges import HEIGHT, NATURAL, WIDTH, Field, Pattern, flow, master
from tests.networks import networks

SINGULAR = {
    Pattern.ARCH: (0, 0),
    Pattern.TENTED_ARCH: (1, 1),
    Pattern.LEFT_LOOP: (1, 1),
    Pattern.RIGHT_LOOP: (1, 1),
    Pattern.WHORL: (2, 2),
}


def turns(direction: Field, at: tuple[float, float], radius: int = 4) -> float:
    """The Poincaré index there: how often the ridges turn on one walk around, counter-clockwise."""
    angle = np.linspace(0, 2 * np.pi, 72)
    x = np.round(at[0] + radius * np.cos(angle)).astype(int)
    y = np.round(at[1] - radius * np.sin(angle)).astype(int)
    step = np.diff(direction[y, x].astype(np.float64))
    return float(np.sum((step + np.pi / 2) % np.pi - np.pi / 2) / (2 * np.pi))


def ridge_period(picture: Picture | Field) -> float:
    """The commonest distance of ridges, in pixels."""
    centre = picture.astype(np.float64)
    centre = centre - centre.mean()
    power = np.abs(np.fft.fft2(centre * np.hanning(centre.shape[0])[:, None] * np.hanning(centre.shape[1])))
    v, u = np.meshgrid(np.fft.fftfreq(centre.shape[0]), np.fft.fftfreq(centre.shape[1]), indexing="ij")
    frequency = np.hypot(u, v)
    bins = np.arange(1 / 24, 1 / 3, 1 / 200)
    mean = [power[(frequency >= low) & (frequency < low + 1 / 200)].mean() for low in bins]
    return float(1 / (bins[int(np.argmax(mean))] + 1 / 400))


def ridged(picture: Picture) -> float:
    """The share of a picture that shows ridges: 16 pixel blocks with contrast along one direction only."""
    gx, gy = (cv2.Sobel(picture.astype(np.float32), cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    xx, yy, xy = (cv2.blur(each, (16, 16))[8::16, 8::16] for each in (gx * gx, gy * gy, gx * gy))
    strength = xx + yy
    coherence = np.hypot(xx - yy, 2 * xy) / (strength + 1e-6)
    return float(np.mean((strength > 3000) & (coherence > 0.5)))


@pytest.mark.parametrize("pattern", Pattern)
@pytest.mark.parametrize("seed", range(4))
def test_a_class_has_its_loops_and_deltas_and_no_others(pattern: Pattern, seed: int) -> None:
    found = flow(pattern, np.random.default_rng(seed))
    assert (len(found.loops), len(found.deltas)) == SINGULAR[pattern]
    # two singular points stand no closer than 14 pixels, so a walk of radius 4 meets one of them alone
    assert [round(turns(found.direction, at), 6) for at in found.loops] == [0.5] * len(found.loops)
    assert [round(turns(found.direction, at), 6) for at in found.deltas] == [-0.5] * len(found.deltas)
    known = np.array(found.loops + found.deltas).reshape(-1, 2)
    for y in range(8, HEIGHT - 8, 6):
        for x in range(8, WIDTH - 8, 6):
            if np.all(np.hypot(*(known - (x, y)).T) > 8):
                assert abs(turns(found.direction, (x, y))) < 1e-6


def test_a_left_loops_legs_leave_to_the_left() -> None:
    for pattern, side in ((Pattern.LEFT_LOOP, -1), (Pattern.RIGHT_LOOP, 1)):
        for seed in range(10):
            found = flow(pattern, np.random.default_rng(seed))
            x, y = found.loops[0]
            assert side * (x - found.deltas[0][0]) > 0
            for _ in range(60):  # down along the leg that leaves under the loop
                angle = found.direction[round(y), round(x)]
                down = -1 if np.sin(angle) > 0 else 1
                x, y = x + down * np.cos(angle), y - down * np.sin(angle)
            assert side * (x - found.loops[0][0]) > 5


def test_ridges_run_where_the_flow_says_and_as_far_apart() -> None:
    rng = np.random.default_rng(3)
    found = flow(Pattern.WHORL, rng)
    grown = ridges._grow(found, rng)
    assert grown.shape == (HEIGHT, WIDTH) and np.abs(grown).max() <= 1 and abs(grown.mean()) < 0.05
    gx, gy = cv2.Sobel(grown, cv2.CV_32F, 1, 0), cv2.Sobel(grown, cv2.CV_32F, 0, 1)
    along = gx * np.cos(found.direction) - gy * np.sin(found.direction)
    across = gx * np.sin(found.direction) + gy * np.cos(found.direction)
    assert np.mean(along**2) < 0.1 * np.mean(across**2)
    assert ridge_period(grown) == pytest.approx(float(np.median(found.period)), rel=0.12)


def test_a_seed_is_a_finger() -> None:
    first = master(11)
    master.cache_clear()
    again = master(11)
    assert first is not again and first.pattern is again.pattern
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("ridges", "pores", "creases"))
    assert np.array_equal(impression(first, 5), impression(again, 5))
    assert not np.array_equal(impression(first, 5), impression(first, 6))
    # of the same class too, another seed is another finger: the ridges do not even lie alike
    loops = [master(seed, Pattern.LEFT_LOOP).ridges.ravel() for seed in range(4)]
    assert max(abs(np.corrcoef(loops[a], loops[b])[0, 1]) for a in range(4) for b in range(a)) < 0.2


@pytest.mark.parametrize(("size", "ppi"), [((384, 290), 512), ((256, 288), 500), ((248, 338), 500), ((512, 576), 1000)])
def test_pictures_as_each_reader_takes_them(size: tuple[int, int], ppi: float) -> None:
    picture = impression(master(2), 1, size, ppi)
    assert picture.dtype == np.uint8 and picture.shape == size[::-1]
    assert ridge_period(picture) == pytest.approx(9.0 * ppi / 500, rel=0.2)
    weave = bandaged(1, size, ppi)
    assert weave.dtype == np.uint8 and weave.shape == size[::-1]


def test_ridges_are_dark_the_ground_is_light_and_the_tip_is_up() -> None:
    finger = master(4)
    all_ridge, all_valley = (replace(finger, ridges=np.full_like(finger.ridges, sign)) for sign in (1.0, -1.0))
    for seed in range(5):
        picture = impression(finger, seed, (352, 480))
        ridge, valley = impression(all_ridge, seed, (352, 480)), impression(all_valley, seed, (352, 480))
        pressed = (slice(200, 300), slice(120, 230))
        assert ridge[pressed].mean() + 80 < valley[pressed].mean()
        assert ridge[pressed].mean() < picture[pressed].mean() < valley[pressed].mean()
        corners = [picture[:30, :30], picture[:30, -30:]]  # nothing of a finger lies beside its tip
        assert min(corner.min() for corner in corners) > 180
        assert picture[-120:, 130:220].mean() < 190


def test_care_decides_how_much_is_left() -> None:
    def shares(care: float) -> list[float]:
        return [ridged(impression(master(seed), seed, care=care)) for seed in range(12)]

    good, middling, bad = shares(1.0), shares(0.5), shares(0.0)
    assert min(good) > 0.6
    assert np.mean(middling) < np.mean(good) - 0.1
    assert np.mean(bad) < 0.35 and min(bad) == 0.0


def test_a_plaster_has_no_ridges() -> None:
    for seed in range(6):
        assert ridged(bandaged(seed)) < 0.02
        assert bandaged(seed).mean() < 236  # but something does lie there
    assert np.array_equal(bandaged(1), bandaged(1)) and not np.array_equal(bandaged(1), bandaged(2))


def test_the_real_network_and_comparator_know_a_finger_again() -> None:
    engine = OnnxFingerEngine(networks())
    book = FingerBook(7)

    def extracted(person: int, take: int) -> Minutiae:
        picture = book.impression(person, Finger.RIGHT_INDEX, take)
        assert engine.look(picture, 500).usable
        return engine.extract(picture, 500)

    enrolled, shown = ([extracted(person, take) for person in range(5)] for take in (1, 2))
    # 2,000 prints of 1,000 fingers: 21 to 65 minutiae, same finger 0.46 and more, another 0.27 and less
    assert all(15 <= len(each) <= 80 for each in (*enrolled, *shown))
    scores = np.array([[compare(one, other) for other in enrolled] for one in shown])
    assert min(np.diag(scores)) > 0.4
    assert np.max(scores - np.eye(5)) < 0.3


def test_what_the_engine_calls_usable() -> None:
    engine = OnnxFingerEngine(networks())
    assert all(engine.look(impression(master(seed), seed), 500).usable for seed in range(12))
    # A bad print is better than none: what is left of some is compared, and what it then costs is in docs/fingers.md.
    assert sum(engine.look(impression(master(seed), seed, care=0), 500).usable for seed in range(12)) <= 6
    assert not any(engine.look(bandaged(seed), 500).usable for seed in range(12))


def test_everybody_has_ten_fingers_of_their_own() -> None:
    book, same, other = FingerBook(1), FingerBook(1), FingerBook(2)
    mine = [book.master(0, finger) for finger in (Finger.RIGHT_INDEX, Finger.LEFT_INDEX, Finger.RIGHT_THUMB)]
    hers = book.master(1, Finger.RIGHT_INDEX)
    elsewhere = other.master(0, Finger.RIGHT_INDEX)
    everything = [each.ridges for each in (*mine, hers, elsewhere)]
    assert all(not np.array_equal(everything[a], everything[b]) for a in range(5) for b in range(a))
    assert mine[2].half_width > mine[0].half_width

    def taken(of: FingerBook, take: int) -> Picture:
        return of.impression(0, Finger.RIGHT_INDEX, take)

    assert np.array_equal(taken(book, 1), taken(same, 1)) and not np.array_equal(taken(book, 1), taken(book, 2))
    assert ridged(book.impression(0, Finger.RIGHT_INDEX, 1, bandage=True)) < 0.02


def test_loops_open_towards_the_little_finger_as_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingers, "master", lambda number, pattern, breadth: pattern)
    book = FingerBook(3)
    counts = {}
    for finger in (Finger.RIGHT_INDEX, Finger.LEFT_INDEX):
        drawn = [book.master(person, finger) for person in range(400)]
        counts[finger] = {pattern: drawn.count(pattern) for pattern in Pattern}  # type: ignore[arg-type]
    assert counts[Finger.RIGHT_INDEX][Pattern.RIGHT_LOOP] > 180 > 60 > counts[Finger.RIGHT_INDEX][Pattern.LEFT_LOOP]
    assert counts[Finger.LEFT_INDEX][Pattern.LEFT_LOOP] > 180 > 60 > counts[Finger.LEFT_INDEX][Pattern.RIGHT_LOOP]
    assert sum(SHARES) == pytest.approx(1) and sum(NATURAL.values()) == pytest.approx(1)
    assert sum(SHARES[:2]) == pytest.approx(NATURAL[Pattern.LEFT_LOOP] + NATURAL[Pattern.RIGHT_LOOP])


def test_the_command_writes_what_the_laboratory_reads(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    argv = [str(tmp_path / "prints"), "--fingers", "2", "--impressions", "2", "--size", "248", "338"]
    assert fingers.main([*argv, "--sheet", str(sheet)]) == 0
    assert sorted(path.name for path in (tmp_path / "prints").iterdir()) == ["1_1.png", "1_2.png", "2_1.png", "2_2.png"]
    picture = cv2.imread(str(tmp_path / "prints" / "1_1.png"), cv2.IMREAD_UNCHANGED)
    assert picture is not None and picture.shape == (338, 248)
    assert cv2.imread(str(sheet), cv2.IMREAD_UNCHANGED).shape == (2 * 338, 2 * 248)  # type: ignore[union-attr]
