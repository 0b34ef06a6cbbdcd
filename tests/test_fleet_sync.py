"""Must show 7 in short: a few lanes with the real sync against one HQ. In full: `make fleet-sync`."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hw_sim import fleet_sync
from tests.hw_sim.fleet_lane import ROUNDS_MAX
from tests.hw_sim.stages import rows_digest
from tests.sync_rig import rows_of

ROOT = Path(__file__).resolve().parents[1]
LANES = 8


def test_every_lane_is_current_after_every_step_and_has_what_hq_has() -> None:
    command = [sys.executable, "-m", "tests.hw_sim", "fleet-sync", "--json"]
    some = ["--lanes", str(LANES), "--people", "150", "--minutes", "4", "--workers", "2"]
    done = subprocess.run([*command, *some], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["differ"] == found["not_current"] == []
    steps = found["steps"]
    assert [(step["lanes"], step["current"], step["troubles"]) for step in steps] == [(LANES, LANES, [])] * 6
    first, minute, banned, after, day, nothing = steps
    assert banned["requests"] == banned["bytes"] == 0 < banned["handed"], "the segment rides in the announcement"
    assert after["requests"] == nothing["requests"] < minute["requests"]
    assert day["requests"] == minute["requests"], "one file for all of the minutes"
    assert first["bytes"] > minute["bytes"] > nothing["bytes"] > 0
    assert minute["bytes"] < day["bytes"] < 4 * minute["bytes"], "who changes in each minute is in the day once"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[fleet_sync.Fleet]:
    made = fleet_sync.Fleet(tmp_path, lanes=2, workers=1)
    yield made
    made.close()


def enrolled(fleet: fleet_sync.Fleet) -> None:
    fleet.renew(fleet_sync.CHANGES, 0)
    fleet.publish(snapshot=True)


def test_a_lane_that_cannot_become_current_is_told(fleet: fleet_sync.Fleet) -> None:
    def spoilt() -> None:
        enrolled(fleet)
        key = next(fleet.hq.repo.glob("data/people/*/keys/*lane-001.key"))
        key.unlink()

    step = fleet.step("first install", spoilt)
    assert (step.lanes, step.current, step.rounds_max) == (2, 1, ROUNDS_MAX)
    assert step.troubles == ("people: no_key",)


def test_a_row_that_is_not_hqs_is_found(fleet: fleet_sync.Fleet, tmp_path: Path) -> None:
    assert fleet.step("first install", lambda: enrolled(fleet)).current == 2
    assert fleet.compared() == []
    path = next((tmp_path / "lane-1").glob("cache-people-*.db"))
    before = rows_digest(rows_of(path))
    with sqlite3.connect(path) as sql:
        sql.execute("UPDATE rows SET value = zeroblob(length(value)) WHERE key = (SELECT max(key) FROM rows)")
    sql.close()
    assert rows_digest(rows_of(path)) != before
    assert fleet.compared() == ["tpe-t1/lane-001: people is not what HQ's audit table says"]
