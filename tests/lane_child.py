"""The lane process of `tests.lane_rig`: dies with whoever started it, and may be another user than the one who did.

`python -m tests.lane_child LANE_TOML PIN_SOCKET PARENT [UID]`. What runs then is `tests.hw_sim.lane_process`."""

import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path

from tests.hw_sim.lane_process import run

UNREACHABLE = 99
"""Exit code: the other user cannot read the networks, which is no fault of the lane."""
_PR_SET_PDEATHSIG = 1
_LATER = (
    "gated.biometrics.face",
    "drivers.passport.elyctis",
    "drivers.camera.opencv",
    "drivers.door.gpio",
    "drivers.indicator.gpio",
    "drivers.links.serial",
    "drivers.links.video",
    "gpiozero.pins.native",
)
"""What the lane imports when it needs it: the other user may not be able to read the interpreter's libraries."""


def become(uid: int) -> None:
    """Be this user from now on."""
    for name in _LATER:
        importlib.import_module(name)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    from models.loader import CACHE

    if not all(os.access(CACHE / file, os.R_OK) for file in ("yunet.onnx", "sface.onnx", "../manifest.toml")):
        sys.exit(UNREACHABLE)


def tie(parent: int) -> None:
    """Die with this process, which started us; a change of user unties."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("whoever started this is gone")


if __name__ == "__main__":
    config, pins, parent, *uid = sys.argv[1:]
    if uid:
        become(int(uid[0]))
    tie(int(parent))
    sys.exit(run(Path(config), Path(pins)))
