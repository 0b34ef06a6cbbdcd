"""Finds the real networks for tests that compute with them."""

from pathlib import Path

import pytest

from models.loader import CACHE
from models.manifest import ModelError, model
from models.obtain import obtain


def networks() -> Path:
    """The folder of the networks, obtained if need be; skips the test, saying why, where they cannot be had."""
    try:
        obtain(CACHE)
    except ModelError as error:
        if any((CACHE / model(name).file).exists() for name in ("yunet", "sface")):
            raise  # a wrong file is a failure, an absent one is not
        pytest.skip(f"no networks: {error}")
    return CACHE
