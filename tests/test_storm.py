"""kill -9 of uplink, broker and two ingest workers at random while a lane records: every record is at HQ, once."""

import random
import time
from pathlib import Path

import pytest

from tests.uplink_rig import Rig, eventually

WORKERS = ("ingest", "ingest-2")
PARTS = ("uplink", "broker", *WORKERS)


def storm(folder: Path, seconds: float, seed: int) -> dict[str, int]:
    """Let a lane record for `seconds` while parts are killed and started again. Returns what happened, counted.

    The broker keeps nothing over its death, which is the worst that one can be."""
    chance = random.Random(seed)
    rig = Rig(folder)
    rig.options["ack_s_max"] = 0.05  # so impatient that much is sent twice
    rig.configure()
    counted = {f"{part} killed": 0 for part in PARTS}
    bag: list[str] = []
    try:
        rig.broker.start()
        for worker in WORKERS:
            rig.ingest_process(worker)
        rig.uplink_process()
        rig.lane.passengers(1)
        eventually(rig.all_acked, 30, "everybody is there")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            strike = time.monotonic() + chance.uniform(0.3, 2.0)
            while time.monotonic() < strike:
                rig.lane.passengers(1)
                time.sleep(0.01)
            bag = bag or chance.sample(PARTS, len(PARTS))
            part = bag.pop()
            counted[f"{part} killed"] += 1
            if part == "broker":
                rig.broker.restart()
                continue
            rig.kill(part)
            if part == "uplink":
                rig.uplink_process()
            else:
                rig.ingest_process(part)
        eventually(rig.all_acked, 60, "everything acknowledged after the storm")
        rig.assert_exactly_once()
        archive = rig.archive()
        counters = archive.counters()
        archive.close()
        assert counters["stored"] == len(rig.lane.written)
        assert counters.get("refusals", 0) == 0
        return {
            **counted,
            "written": len(rig.lane.written),
            "at HQ": counters["stored"],
            "duplicates dropped": counters.get("duplicates", 0),
        }
    finally:
        rig.close()


def test_ten_seconds_of_storm(tmp_path: Path) -> None:
    counted = storm(tmp_path, 10, seed=7)
    print(counted)
    assert all(counted[f"{part} killed"] for part in PARTS)


@pytest.mark.slow
def test_a_minute_of_storm(tmp_path: Path) -> None:
    counted = storm(tmp_path, 60, seed=11)
    print(counted)
    assert all(counted[f"{part} killed"] >= 5 for part in PARTS)
    assert counted["duplicates dropped"] > 0, "a storm in which nothing was sent twice proved nothing"
