"""A real mosquitto on a free loopback port, to be killed and restarted. Skips the test where it is not
installed."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).resolve().parents[1] / "config" / "mosquitto" / "demo.conf"


def mosquitto_path() -> str:
    """The broker's program; skips the test where there is none."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("mosquitto is not installed: apt install mosquitto")
    return found


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningBroker:
    """mosquitto with config/mosquitto/demo.conf, its store in `folder`. `start`, `kill` (-9), `restart`,
    `stop`."""

    def __init__(self, folder: Path, *, persistence: bool = True, extra: Sequence[str] = ()) -> None:
        self.program = mosquitto_path()
        self.host, self.port = "127.0.0.1", free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._conf = folder / "mosquitto.conf"
        text = TEMPLATE.read_text(encoding="utf-8").format(
            port=self.port, dir=folder, persistence=str(persistence).lower()
        )
        # started by root it would become a user who may not write into this folder, and keep nothing without a word
        stays = ("user root",) if os.geteuid() == 0 else ()
        self._conf.write_text("\n".join((text, *stays, *extra)), encoding="utf-8")
        self.log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, within_s: float = 5.0) -> "RunningBroker":
        """Start and wait until it listens."""
        with self.log.open("ab") as log:
            command = [self.program, "-c", str(self._conf)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"mosquitto ended at once: {self.log.read_text(errors='replace')[-500:]}")
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex((self.host, self.port)) == 0:
                    return self
            time.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    def kill(self) -> None:
        """`kill -9`: what it did not write is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """A clean end."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill it and start it on the same port."""
        self.kill()
        self.start()

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(5)
            self._process = None

    def __enter__(self) -> "RunningBroker":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
