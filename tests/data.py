"""Finds the real test data, which never lies in the project itself."""

import os
from pathlib import Path

import pytest


def shared_data() -> Path:
    """The folder of real test data; skips the test, saying so, where there is none.

    `GATED_TEST_DATA` names it; otherwise a `shared/data` folder beside the checkout is looked for."""
    named = os.environ.get("GATED_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}: set GATED_TEST_DATA to the folder that holds faces/, fingers/ ...")
    return folder
