"""`gated lab face`: two photographs compared, a pairs file evaluated, bad input named by file and line."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from gated.cli.lab import lab
from tests.data import shared_data
from tests.networks import networks


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(lab, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def images() -> Path:
    networks()
    return shared_data() / "faces" / "images"


@pytest.fixture
def pairs(images: Path, tmp_path: Path) -> Path:
    """Four persons with two pictures each, and one picture without a face."""
    people = [folder for folder in sorted(images.iterdir()) if len(list(folder.glob("*.jpg"))) >= 2][:4]
    empty = tmp_path / people[0].name / "empty.png"
    empty.parent.mkdir()
    cv2.imwrite(str(empty), np.full((250, 250, 3), 128, np.uint8))
    files = [sorted(folder.glob("*.jpg"))[:2] for folder in people]
    lines = ["a,b,same", *(f"{one},{two},1" for one, two in files)]
    lines += [f"{files[0][0]},{files[1][0]},0", f"{files[0][0]},{empty},1"]
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_one_person_and_two(images: Path) -> None:
    one = sorted((images / "Adam_Sandler").glob("*.jpg"))
    match = _run("face", "compare", one[0], one[1], "--json")
    told = json.loads(match.stdout)
    assert (match.exit_code, told["match"], told["threshold_name"], told["fmr"]) == (0, True, "fmr_1e-3", 1e-3)
    assert told["score"] >= told["threshold"]
    other = _run("face", "compare", one[0], next(iter(sorted((images / "Al_Pacino").glob("*.jpg")))))
    assert other.exit_code == 1
    assert other.stdout.startswith("no match: score ")


def test_what_cannot_be_compared(images: Path, tmp_path: Path) -> None:
    face = next(iter(sorted((images / "Al_Pacino").glob("*.jpg"))))
    (tmp_path / "text.jpg").write_text("not a picture", encoding="utf-8")
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((250, 250, 3), 128, np.uint8))
    for file, says in (
        ("missing.jpg", "is not there"),
        ("text.jpg", "cannot be read as a picture"),
        ("grey.png", "no face was found"),
    ):
        done = _run("face", "compare", face, tmp_path / file)
        assert done.exit_code == 2
        assert str(tmp_path / file) in done.output
        assert says in done.output
    done = _run("face", "compare", face, face, "--models", tmp_path)
    assert done.exit_code == 2
    assert "python -m models.obtain" in done.output
    assert "there are fmr_1e-2" in _run("face", "compare", face, face, "--threshold", "fmr_9").output


def test_an_evaluation_writes_its_three_files(pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    done = _run("face", "evaluate", pairs, "--out", out, "--resamples", 30, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told == json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert told["pictures"] == 9
    assert told["persons"] == 4
    assert told["failure_to_acquire"]["errors"] == 1
    everything, listed = told["sets"]["all_against_all"], told["sets"]["listed"]
    assert (everything["genuine"], everything["impostor"], everything["genuine_lost"]) == (4, 24, 2)
    assert (listed["genuine"], listed["impostor"], listed["genuine_lost"]) == (4, 1, 1)
    assert {point["fmr"]["evidence"] for point in everything["points"]} == {"insufficient evidence"}
    assert listed["points"][0]["frr"] == pytest.approx((listed["points"][0]["fnmr"]["errors"] + 1) / 5)
    for name in ("det.png", "misses.png"):
        drawn = cv2.imread(str(out / name))
        assert drawn is not None
        assert drawn.std() > 5
    assert not any(person.parent.name in done.stdout for person in pairs.parent.glob("*/empty.png"))


def test_the_table_for_people(pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = _run("face", "evaluate", pairs, "--out", tmp_path / "out", "--resamples", 0)
    assert done.exit_code == 0, done.output
    assert "9 pictures of 4 persons, 1 not acquired" in done.output
    assert "FMR, FNMR" in done.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\nx,y\n", ":1: no column same"),
        ("a,b,same\n", "no pairs"),
        ("a,b,same\nx.jpg,y.jpg,1\n", ":2: there is no picture x.jpg"),
        ("a,b,same\npairs.csv,pairs.csv,maybe\n", ":2: same is 0 or 1, not 'maybe'"),
        ("a,b,same\n,pairs.csv,1\n", ":2: column a is empty"),
        ("a,b,same\npairs.csv,pairs.csv,1\n", "cannot be read as a picture"),
    ],
)
def test_a_bad_pairs_file_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    networks()
    pytest.importorskip("matplotlib")
    path = tmp_path / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    done = _run("face", "evaluate", path, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert f"{path}" in done.output
    assert says in done.output
    assert not (tmp_path / "out").exists()
