"""docs/hq.md, "receipts.key is to be changed": no overlap, and nothing lost."""

import shutil
from pathlib import Path

import pytest

from gated.hq import keys
from tests.uplink_rig import Rig, eventually


def test_a_changed_receipts_key_frees_nothing_and_loses_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rig = Rig(tmp_path)
    request.addfinalizer(rig.close)
    rig.broker.start()
    rig.ingest()
    rig.uplink()
    rig.lane.passengers(2)
    eventually(rig.all_acked, what="all is well")
    before = rig.acked()

    rig.end("ingest")
    keys.make(tmp_path / "new")
    rig.receipts_key = (tmp_path / "new" / "receipts.key").read_bytes()
    rig.ingest()
    seen = len(rig.control.ups())
    rig.lane.passengers(3)
    eventually(lambda: False in rig.control.ups()[seen - 1 :], 20.0, "the lane says that HQ is away")
    assert rig.acked() == before, "what the new key signed was believed"

    shutil.copy(tmp_path / "new" / "receipts.pub", tmp_path / "keys" / "receipts.pub")
    rig.end("uplink")
    rig.uplink()
    eventually(rig.all_acked, 20.0, "the lane has the new receipts.pub")
    rig.assert_exactly_once()
