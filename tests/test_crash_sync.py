"""Must show 3 in short: a sync that is killed, or whose disk fails, leaves old or new. In full: `make crash-sync`."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gated.store.cachefile import CacheFile, generations
from gated.wire.rows import CONTROL, PARTITIONS, PEOPLE
from tests.hw_sim import shim, stages, victim
from tests.hw_sim.crash_points import KINDS, standing
from tests.hw_sim.stages import Stages
from tests.hw_sim.website import Website

ROOT = Path(__file__).resolve().parents[1]


def crash_sync(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """What it found at so many points, which all went well."""
    try:
        shim.made(tmp_path)
    except shim.NoCompiler as bad:
        pytest.skip(str(bad))
    command = [sys.executable, "-m", "tests.hw_sim", "crash-sync", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(found: dict[str, Any], points: int) -> None:
    whole = found["all"]
    assert whole["points"] == whole["caught_up"] == points
    assert whole["old"] + whole["between"] + whole["new"] == 2 * points
    assert whole["mixed"] == whole["failed"] == 0
    assert whole["old"] and whole["new"], "kills that all come too early or too late show nothing"
    assert whole["look_ups"] > points
    assert whole["recovery_s_max"] < 5
    assert {row["what"] for row in found["by_kind"]} == set(KINDS)


def test_old_or_new_at_a_few_points(tmp_path: Path) -> None:
    check(crash_sync(tmp_path, "--points", "24", "--people", "300", "--seed", "3"), 24)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_old_or_new_at_many_points(tmp_path: Path) -> None:
    found = crash_sync(tmp_path, "--points", "240")
    check(found, 240)
    doing = {row["what"] for row in found["by_doing"]}
    assert doing >= {
        "fetching chunks", "building", "placing", "applying segments", "applying days", "confirming", "cleaning up",
        "trust metadata",
    }  # fmt: skip


# -- the judge can find what it looks for ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hq(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return stages.made(tmp_path_factory.mktemp("hq"), 60)


@pytest.fixture
def stores(hq: Stages, tmp_path: Path) -> list[Path]:
    """A lane's store at the first stage, and at the second."""
    made: list[Path] = []
    with Website(hq.folder) as site:
        for stage in hq.stages[:2]:
            folder = tmp_path / stage.path
            shutil.copytree(made[-1], folder) if made else folder.mkdir()
            sync = victim.begun(folder, f"{site.url}/{stage.path}", hq.root)
            assert sync.once()
            sync.close()
            views = victim.seen(folder, hq)
            assert [view.wrong for view in views] == ["", ""]
            assert standing(views) == dict(stage.heads)
            made.append(folder)
    return made


def wrong(store: Path, hq: Stages) -> str:
    return "; ".join(view.wrong for view in victim.seen(store, hq))


def newest(store: Path, partition: str) -> Path:
    return max(generations(store, partition).items())[1]


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_row_too_few_is_found(stores: list[Path], hq: Stages, partition: str) -> None:
    with closing(sqlite3.connect(newest(stores[1], partition))) as sql, sql:
        sql.execute("DELETE FROM rows WHERE key = (SELECT max(key) FROM rows)")
    assert "has not as many rows" in wrong(stores[1], hq)


def test_a_row_of_another_state_is_found_and_met_by_the_lane_that_looks_on(stores: list[Path], hq: Stages) -> None:
    """Sealed by HQ, at its own place, and of an older segment: it opens, and the number of rows is right."""
    older, newer = (newest(store, PEOPLE) for store in stores)
    with closing(sqlite3.connect(newer)) as sql, sql:
        sql.execute("ATTACH ? AS older", (str(older),))
        some = "SELECT n.key FROM rows n JOIN older.rows o USING (key) WHERE n.value <> o.value LIMIT -1 OFFSET 1"
        both = "UPDATE rows SET value = o.value FROM older.rows o WHERE o.key = rows.key"
        assert sql.execute(f"{both} AND rows.key IN ({some})").rowcount
    assert wrong(stores[1], hq).startswith("MIXED")
    child = victim.forked(victim.lane(stores[1], hq))
    time.sleep(0.5)
    child.go()
    met = child.line()
    assert child.end() == 0
    assert met["looked"] > 0
    assert any("people was mixed" in each for each in met["wrong"])


def test_what_hq_never_had_is_found(stores: list[Path], hq: Stages) -> None:
    with CacheFile(newest(stores[1], CONTROL)) as file:
        file.apply((), file.note.serial + 100, bytes(32), file.note.built, may_lift=False)
    assert "HQ never had segment" in wrong(stores[1], hq)
