"""`gated lab finger`: two prints compared, a folder evaluated, bad input named. Most with an engine that is told what
its pictures show; the last ones with the real network and real prints."""

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from gated.biometrics import fingerlab
from gated.biometrics.evaluate import Comparisons, rates_over_persons, upper_bound
from gated.biometrics.face import Threshold
from gated.biometrics.finger import FingerError, PrintLook
from gated.biometrics.fingerlab import Impression, Ours, judged, scored, split
from gated.biometrics.fingermatch import describe
from gated.biometrics.minutiae import Minutiae
from gated.biometrics.nbis import SIDE_PX_MIN, Nbis, NbisMissing
from gated.biometrics.template import FingerTemplate, Format, encode
from gated.cli import lab_finger
from gated.cli.lab import lab
from tests.data import shared_data
from tests.networks import networks
from tests.test_fingermatch import finger, minutiae, taken_again

FINGERS, IMPRESSIONS = 6, 3
NOTHING = 255


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(lab, ["finger", *(str(argument) for argument in arguments)])


def _picture(path: Path, of: int, impression: int = 0) -> Path:
    """Noise whose first two pixels say which finger it stands for, and which impression of it."""
    image = np.random.default_rng([of, impression]).integers(0, 255, (96, 96)).astype(np.uint8)
    image[0, :2] = of, impression
    cv2.imwrite(str(path), image)
    return path


class Told:
    """An engine for such pictures."""

    model = "told"
    threshold = Threshold("fmr_1e-3", 0.25, 1e-3)

    def look(self, image: Any, ppi: float) -> PrintLook:
        return PrintLook(40 + 10 * int(image[0, 1]), usable=image[0, 0] != NOTHING)

    def extract(self, image: Any, ppi: float) -> Minutiae:
        if image[0, 0] == NOTHING:
            raise FingerError("nothing lies on the reader")
        return _of(int(image[0, 0]), int(image[0, 1]))

    def score(self, minutiae: Minutiae, template: bytes) -> float:
        raise AssertionError("the laboratory compares what it has described once")


def _of(number: int, impression: int) -> Minutiae:
    points = taken_again(finger(number, 40), impression, 0.05, 0.05)
    inside = (points[:, 0] > 0) & (points[:, 0] < 247) & (points[:, 1] > 0) & (points[:, 1] < 337)
    return minutiae(points[inside])


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_finger, "laboratory_engine", lambda *_: Told())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "prints"
    made.mkdir()
    for number in range(FINGERS):
        for impression in range(IMPRESSIONS):
            _picture(made / f"Somebody{number}_{impression}.png", number, impression)
    (made / "notes.txt").write_text("not a picture, and not called like one", encoding="utf-8")
    return made


@pytest.mark.usefixtures("told")
def test_an_evaluation_writes_its_files(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    done = _run("evaluate", folder, "--out", out, "--resamples", 40, "--json")
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert made == json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (made["pictures"], made["fingers"]) == (FINGERS * IMPRESSIONS, FINGERS)
    ours = made["comparators"]["gated"]
    assert ours["failure_to_acquire"]["errors"] == 0
    for half in ("calibration", "test"):
        assert (ours["sets"][half]["fingers"], ours["sets"][half]["genuine"], ours["sets"][half]["impostor"]) == (
            3,
            9,
            27,
        )
    point = ours["thresholds"]["calibrated_none"]
    assert point["threshold"] > ours["sets"]["calibration"]["impostor_highest"]
    assert point["calibration"]["fmr"]["errors"] == 0
    assert (point["test"]["fmr"]["errors"], point["test"]["fnmr"]["errors"]) == (0, 0)
    assert point["test"]["fnmr"]["upper_independent"] == pytest.approx(1 - 0.05 ** (1 / 9))
    assert point["test"]["fmr"]["upper_groups"] == pytest.approx(1 - 0.05 ** (1 / 3))
    assert point["test"]["fmr"]["evidence"] == "insufficient evidence"
    assert {"fmr_1e-2", "fmr_1e-3", "fmr_1e-4"} <= ours["thresholds"].keys()
    assert set(ours["times"]["extraction_ms"]) == {"1", "2"}
    for name in ("det.png", *(f"scores-{name}.png" for name in made["comparators"])):
        drawn = cv2.imread(str(out / name))
        assert drawn is not None
        assert drawn.std() > 5
    assert "Somebody" not in done.stdout


@pytest.mark.usefixtures("told")
def test_the_table_for_people_without_nbis(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")

    def missing() -> None:
        raise NbisMissing("nbis-py cannot be used here")

    monkeypatch.setattr(lab_finger, "Nbis", missing)
    done = _run("evaluate", folder, "--out", tmp_path / "out", "--resamples", 0)
    assert done.exit_code == 0, done.output
    for says in (
        "18 pictures of 6 fingers",
        "FMR, FNMR",
        "0.00% (0)",
        "nbis was left out: nbis-py cannot be used here",
    ):
        assert says in done.output
    assert not (tmp_path / "out" / "scores-nbis.png").exists()


@pytest.mark.usefixtures("told")
def test_what_cannot_be_acquired_is_counted_and_rejected(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    _picture(folder / "Somebody0_9.png", NOTHING)
    done = _run("evaluate", folder, "--out", tmp_path / "out", "--resamples", 0, "--json")
    assert done.exit_code == 0, done.output
    ours = json.loads(done.stdout)["comparators"]["gated"]
    assert ours["failure_to_acquire"] == {"value": 1 / 19, "errors": 1}
    halves = ours["sets"]
    assert {half: entry["genuine_lost"] for half, entry in halves.items() if entry["genuine_lost"]} in (
        {"calibration": 3},
        {"test": 3},
    )
    half = next(half for half, entry in halves.items() if entry["genuine_lost"])
    point = ours["thresholds"]["fmr_1e-3"][half]
    assert point["fnmr"]["trials"] == 9
    assert point["frr"] == pytest.approx((point["fnmr"]["errors"] + 3) / 12)


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "no pictures in it"),
        (["alone.png"], "FINGER_IMPRESSION"),
        (["1_1.png", "1_2.png", "1_3.png"], "pictures of 1 finger(s)"),
        (["1_1.png", "2_1.png", "3_1.png", "4_1.txt"], "pictures of 3 finger(s)"),
        (["1_1.png", "2_1.png", "3_1.png", "4_1.png", "5_broken.png"], "5_broken.png"),
    ],
)
def test_a_folder_that_cannot_be_evaluated(tmp_path: Path, names: list[str], says: str) -> None:
    pytest.importorskip("matplotlib")
    made = tmp_path / "prints"
    made.mkdir()
    for name in names:
        _picture(made / name, 1) if name.endswith("png") else (made / name).write_bytes(b"x")
        if "broken" in name:
            (made / name).write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    done = _run("evaluate", made, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert str(made) in done.output
    assert says in done.output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    networks()
    assert _run("evaluate", tmp_path / "none", "--out", tmp_path / "out").exit_code == 2


def test_without_the_network(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one = folder / "Somebody1_0.png"
    for arguments in (("evaluate", folder, "--out", tmp_path / "out"), ("compare", one, one)):
        done = _run(*arguments, "--models", tmp_path)
        assert done.exit_code == 2
        assert "python -m models.obtain" in done.output


@pytest.mark.usefixtures("told")
def test_two_pictures(folder: Path) -> None:
    match = _run("compare", folder / "Somebody1_0.png", folder / "Somebody1_1.png", "--json")
    made = json.loads(match.stdout)
    assert (match.exit_code, made["match"], made["threshold_name"], made["model"]) == (0, True, "fmr_1e-3", "told")
    assert made["score"] >= made["threshold"]
    assert made["quality"] == [40, 50]
    other = _run("compare", folder / "Somebody1_0.png", folder / "Somebody2_1.png")
    assert other.exit_code == 1
    assert other.stdout.startswith("no match: score ")


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("form", Format)
def test_a_picture_and_a_template(folder: Path, tmp_path: Path, form: Format) -> None:
    template = tmp_path / "1.fmr"
    template.write_bytes(encode(FingerTemplate.of(_of(1, 2), None, 77, form)))
    assert _run("compare", folder / "Somebody1_0.png", template).exit_code == 0
    assert _run("compare", template, folder / "Somebody2_0.png").exit_code == 1
    assert json.loads(_run("compare", template, template, "--json").stdout)["quality"] == [77, 77]


@pytest.mark.usefixtures("told")
def test_what_cannot_be_compared(folder: Path, tmp_path: Path) -> None:
    good = folder / "Somebody1_0.png"
    (tmp_path / "text.png").write_text("not a picture", encoding="utf-8")
    (tmp_path / "short.fmr").write_bytes(encode(FingerTemplate.of(_of(1, 2), None, 77))[:-3])
    _picture(tmp_path / "empty.png", NOTHING)
    for name, says in (("missing.png", "No such file"), ("text.png", ""), ("short.fmr", ""), ("empty.png", "nothing")):
        for pair in ((good, tmp_path / name), (tmp_path / name, good)):
            done = _run("compare", *pair)
            assert done.exit_code == 2, name
            assert str(tmp_path / name) in done.output
            assert says in done.output


def test_no_finger_calibrates_and_tests() -> None:
    fingers = [str(number) for number in range(15)]
    halves = split(fingers, 1)
    assert sorted(halves) == sorted(fingers)
    assert sorted(halves.values()).count("calibration") == 8
    assert halves == split(fingers, 1)
    assert halves != split(fingers, 2)


def test_a_lost_picture_costs_its_genuine_pairs_in_its_half_alone() -> None:
    engine = Told()
    made = Ours(engine)
    impressions = [
        Impression(Path(f"{n}_{k}.png"), n, half, PrintLook(50, True), {} if k == 2 and n == 0 else {"x": described})
        for n, half in ((0, "test"), (1, "test"), (2, "calibration"), (3, "calibration"))
        for k, described in ((k, describe(_of(n, k))) for k in range(3))
    ]
    sets = {half: scored("x", made, impressions, half, lambda: None)[:2] for half in fingerlab.HALVES}
    assert {half: lost for half, (_, lost) in sets.items()} == {"calibration": 0, "test": 2}
    assert len(sets["test"][0].score) == 10
    told = judged(sets, {"fixed": 0.0}, 20, 0)
    assert told["thresholds"]["fixed"]["test"]["fmr"]["value"] == 1.0
    assert told["thresholds"]["fixed"]["test"]["frr"] == pytest.approx(2 / 6)


@pytest.mark.parametrize(("errors", "trials"), [(0, 1), (0, 300), (1, 100), (5, 50), (40, 41), (700, 1000)])
def test_the_exact_upper_bound(errors: int, trials: int) -> None:
    """At the bound, so few errors come once in twenty times."""
    rate = upper_bound(errors, trials)
    seen = [math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(errors + 1)]
    assert math.fsum(seen) == pytest.approx(0.05, rel=1e-6)
    assert upper_bound(trials, trials) == 1.0


def test_drawing_fingers_widens_what_one_bad_finger_did() -> None:
    """Ten fingers, ten genuine pairs each; all ten misses are one finger's, or one of each."""
    person = np.repeat(np.arange(10), 10)
    same = np.ones(100, bool)
    one_finger, spread = np.where(person == 3, 0.0, 1.0), np.where(np.arange(100) % 10 == 0, 0.0, 1.0)
    rates = [
        rates_over_persons(Comparisons(score, same, person, person, person, person), 0.5)[1]
        for score in (one_finger, spread)
    ]
    assert rates[0].errors == rates[1].errors == 10
    assert rates[0].high is not None
    assert rates[1].high is not None
    assert rates[0].high > 0.2 > rates[1].high


@pytest.fixture(scope="module")
def nbis() -> Nbis:
    try:
        return Nbis()
    except NbisMissing as error:
        pytest.skip(str(error))


def test_nbis_is_never_given_a_picture_that_ends_the_process(nbis: Nbis) -> None:
    for image, ppi in (
        (np.zeros((8, 8), np.uint8), 500.0),
        (np.zeros((300, SIDE_PX_MIN - 1), np.uint8), 500.0),
        (np.zeros((300, 300), np.uint8), 5000.0),
        (np.zeros((300, 300), np.uint8), 50.0),
        (np.zeros((300, 300), np.uint8), 0.0),
        (np.zeros((300, 300, 3), np.uint8), 500.0),
        (np.zeros((300, 300), np.float32), 500.0),
        (None, 500.0),
    ):
        with pytest.raises(FingerError):
            nbis.extract(image, ppi)
    nothing = nbis.extract(np.full((300, 300), 200, np.uint8), 500.0)
    assert nbis.compare(nothing, nothing) == 0


def test_nbis_tells_fingers_apart_at_any_resolution(nbis: Nbis) -> None:
    prints = shared_data() / "fingers"
    images = {
        name: cv2.imread(str(prints / name), cv2.IMREAD_GRAYSCALE) for name in ("10_1.png", "10_2.png", "11_1.png")
    }
    one, again, other = (nbis.extract(image, 500.0) for image in images.values())
    twice = nbis.extract(cv2.resize(images["10_1.png"], None, fx=2, fy=2), 1000.0)  # type: ignore[arg-type]
    assert nbis.compare(one, again) > 40 > nbis.compare(one, other)
    assert nbis.compare(twice, again) > 40


def test_real_prints_with_the_real_network(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    networks()
    prints = tmp_path / "prints"
    prints.mkdir()
    for number in (10, 11, 12, 3):
        for impression in (1, 5):
            (prints / f"{number}_{impression}.png").symlink_to(shared_data() / "fingers" / f"{number}_{impression}.png")
    done = _run("evaluate", prints, "--out", tmp_path / "out", "--resamples", 0, "--json")
    assert done.exit_code == 0, done.output
    for half in ("calibration", "test"):
        point = json.loads(done.stdout)["comparators"]["gated"]["thresholds"]["fmr_1e-4"][half]
        assert (point["fmr"]["errors"], point["fmr"]["trials"]) == (0, 4)
        assert (point["fnmr"]["errors"], point["fnmr"]["trials"]) == (0, 2)
