"""A minute of storm between lanes' disks and HQ's database (`make storm` blows longer): nothing lost, nothing twice."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.broker import mosquitto_path
from tests.postgres import programs
from tests.uplink_rig import ROOT


def storm(*arguments: str, within_s: float) -> dict[str, Any]:
    """What `python -m tests.hw_sim storm --json` found."""
    command = [sys.executable, "-m", "tests.hw_sim", "storm", "--json", *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_s, check=False)
    assert ran.stdout, ran.stderr[-2000:]
    found: dict[str, Any] = json.loads(ran.stdout)
    print(found)
    assert ran.returncode == 0 and not found["wrong"], found["wrong"][:10]
    assert found["settled_s"] is not None, "a stream does not come to its end"
    return found


@pytest.mark.timeout(420)
def test_a_minute_of_storm() -> None:
    mosquitto_path()
    programs()
    found = storm("--seconds", "60", "--lanes", "4", "--workers", "2", "--seed", "7", within_s=400)
    assert found["cycles"] >= 20 and len(found["kinds"]) >= 8, "hardly a storm"
    assert found["records"] > 500 and found["lost"] == found["doubled"] == found["out_of_order"] == 0
    assert found["sent_again"] > 0, "a storm in which nothing was sent twice proved nothing"


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_minute_of_storm_on_sqlite() -> None:
    mosquitto_path()
    programs()
    storm("--seconds", "60", "--lanes", "4", "--db", "sqlite", "--seed", "11", within_s=400)
