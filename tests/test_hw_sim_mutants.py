"""The planted mistakes fit the machine as it is now: each is found once, and what comes out is still a program."""

from pathlib import Path

import pytest

from tests.hw_sim.mutants import MISTAKES, Found, Unfit, _pytest_caught, _soak_caught, _text, copy_tree, plant
from tests.hw_sim.planted import Mistake

LANE = Path(__file__).resolve().parents[1] / "gated" / "lane"


def _tree(folder: Path, file: str) -> Path:
    target = folder / "gated" / "lane"
    target.mkdir(parents=True)
    (target / f"{file}.py").write_text((LANE / f"{file}.py").read_text())
    return folder


@pytest.mark.parametrize("mistake", MISTAKES, ids=[each.name for each in MISTAKES])
def test_each_mistake_fits(mistake: Mistake, tmp_path: Path) -> None:
    tree = _tree(tmp_path, mistake.file)
    plant(mistake, tree)
    path = tree / "gated" / "lane" / f"{mistake.file}.py"
    assert path.read_text() != (LANE / path.name).read_text()


def test_names_are_names() -> None:
    assert len({each.name for each in MISTAKES}) == len(MISTAKES) >= 24


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [("no such line", "", "found 0 times"), ("import", "import", "times"), ("class Mistaken", "", "found 0 times")],
)
def test_a_mistake_that_is_out_of_date_is_said(old: str, new: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(Unfit, match=rf"gone is out of date.*{why}"):
        plant(Mistake("gone", "core", "none", old, new), _tree(tmp_path, "core"))


def test_a_mistake_that_is_no_program_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="no Python"):
        plant(Mistake("gone", "core", "none", "class Core:", "class Core"), _tree(tmp_path, "core"))


def test_what_was_compiled_before_is_not_run(tmp_path: Path) -> None:
    tree = _tree(tmp_path, "core")
    cache = tree / "gated" / "lane" / "__pycache__"
    cache.mkdir()
    (cache / "core.cpython-311.pyc").touch()
    (cache / "gate.cpython-311.pyc").touch()
    plant(next(each for each in MISTAKES if each.file == "core"), tree)
    assert [path.name for path in cache.iterdir()] == ["gate.cpython-311.pyc"]


def test_the_copy_has_what_the_tests_read(tmp_path: Path) -> None:
    copy_tree(LANE.parents[1], tmp_path / "copy")
    for name in ("gated/lane/machine.py", "tests/test_lane_walk.py", "config/policy/tw.toml", "setup.cfg"):
        assert (tmp_path / "copy" / name).is_file()


def test_the_first_failure_is_named() -> None:
    failed = "..F\nFAILED tests/test_lane_walk.py::test_plain[Topology.MANTRAP] - AssertionError: x - y\n1 failed\n"
    assert _pytest_caught(1, failed) == "test_lane_walk: test_plain[Topology.MANTRAP]"
    assert _pytest_caught(2, "ERROR tests/test_lane_walk.py - NameError: x\n") == "test_lane_walk: cannot be imported"
    assert _pytest_caught(0, "") is None
    assert _pytest_caught(None, "") == "pytest hangs"
    with pytest.raises(Unfit, match="could not run"):
        _pytest_caught(4, "ERROR: usage")


def test_a_broken_seed_is_named() -> None:
    well = '{\n "broken": [], "hashes_differ": []}'
    assert _soak_caught(1, well) is None, "a few seeds do not cover everything, and need not"
    broken = '{\n "broken": [{"kind": "world", "seed": 3, "topology": "single"}], "hashes_differ": []}'
    assert _soak_caught(1, broken) == "soak: world seed 3 (single)"
    assert _soak_caught(1, '{\n "broken": [], "hashes_differ": [8]}') == "soak: seed 8 is not the same twice"
    with pytest.raises(Unfit, match="could not run"):
        _soak_caught(1, "Traceback")


def test_the_table_names_survivors_by_what_they_would_do() -> None:
    first, second = MISTAKES[:2]
    table = _text([Found(first, "test_x: test_y", 1.0), Found(second, None, 2.0)], 3.0)
    assert f"SURVIVED: {second.danger}" in table and "1 caught, 1 survived" in table
