"""The lane daemon as a process of its own whose pins lead to the simulated gate: `python -m tests.hw_sim.lane_process`.

Everything but the pin factory and what lies below USB and libfprint is what a real lane runs: serial links (to ptys),
OpenCV's capture (from HTTP), the real networks, the real store. The wheel carries none of this, so no configuration can
put a gate on fake pins.
"""

import sys
from pathlib import Path
from typing import Any

from drivers.links.pins import GpiozeroLink
from gated.config import ConfigError, load
from gated.daemon import links as daemon_links
from gated.daemon.process import main
from tests.hw_sim import glasses
from tests.hw_sim.gatesim import SocketPins


def run(config: Path, pins: Path) -> int:
    """`pins`: the Unix socket of a `tests.hw_sim.gatesim.PinServer`. Returns the exit code."""

    def links(section: str, settings: Any) -> Any:
        if section == "fingerprint":
            return glasses.link(settings, pins.parent) or daemon_links.real(section, settings)
        if section in ("door", "indicator"):
            return GpiozeroLink(lambda: SocketPins(pins), allow_env=True, pull="down")
        return daemon_links.real(section, settings)

    try:
        return main(load(config), links)
    except ConfigError as wrong:
        print(f"lane: {wrong}", file=sys.stderr)
        return 78


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tests.hw_sim.lane_process LANE_TOML PIN_SOCKET")
    sys.exit(run(Path(sys.argv[1]), Path(sys.argv[2])))
