"""The uplink as a process among processes: start, service manager, end, half-open lines, bad configuration."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gated.mqtt import Backoff
from gated.notify import notify, watchdog_s
from tests.hw_sim.proxy import FaultProxy
from tests.uplink_rig import CANARY, ROOT, Rig, eventually


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_a_line_that_is_dead_and_does_not_say_so(rig: Rig) -> None:
    rig.broker.start()
    with FaultProxy(rig.broker.port) as proxy:
        rig.connection = f'host = "127.0.0.1"\nport = {proxy.port}\ntls = false\n'
        rig.options["keep_alive_s"] = 1
        rig.configure()
        rig.ingest()
        rig.uplink()
        rig.lane.passengers(3)
        eventually(rig.all_acked)
        eventually(lambda: rig.control.ups()[-1:] == [True])
        before = proxy.connections
        proxy.half_open()
        rig.lane.passengers(3)
        eventually(lambda: rig.control.ups()[-1:] == [False], what="the lane is told although the line looks open")
        proxy.normal()
        eventually(lambda: proxy.connections > before, what="a new connection")
        eventually(rig.all_acked)
        rig.assert_exactly_once()


def test_ready_watchdog_and_a_clean_end(rig: Rig) -> None:
    rig.broker.start()
    rig.ingest()
    address = rig.folder / "notify.sock"
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(address))
    manager.settimeout(10)
    environment = {**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "600000"}
    environment.pop("WATCHDOG_PID", None)
    command = [sys.executable, "-m", "gated.uplink", "--config", str(rig.toml)]
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        assert manager.recv(500).startswith(b"READY=1")
        strokes: list[float] = []
        while len(strokes) < 4:
            if manager.recv(500) == b"WATCHDOG=1":
                strokes.append(time.monotonic())
        assert max(b - a for a, b in pairwise(strokes)) < 0.6
        rig.lane.passengers(2)
        eventually(rig.all_acked)
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
        eventually(lambda: rig.archive().lanes()[0]["ended"] == "stopped")
    finally:
        child.kill()
        child.wait()
        manager.close()


def test_no_log_names_a_passenger(rig: Rig) -> None:
    rig.broker.start()
    rig.uplink_process()
    rig.ingest_process()
    rig.lane.passengers(3)
    eventually(rig.all_acked, 20)
    rig.end("uplink")
    rig.end("ingest")
    logs = [rig.folder / "uplink.log", rig.folder / "ingest.log", rig.broker.log]
    assert b"connected" in logs[0].read_bytes() and b"lane up" in logs[1].read_bytes()
    assert not any(CANARY.encode() in log.read_bytes() for log in logs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("port = ", "port = 0 #"), "port must be 1 to 65535"),
        (("tls = false", 'tls = true\nca = "none.crt"'), "ca, certificate or key cannot be used"),
        (("tls = false", 'tls = false\npassword_file = "none"'), "password_file: cannot be read"),
        (("heartbeat_s", "hartbeat_s"), "did you mean 'heartbeat_s'"),
    ],
)
def test_a_configuration_that_cannot_be_used(rig: Rig, change: tuple[str, str], says: str) -> None:
    rig.toml.write_text(rig.toml.read_text().replace(*change, 1))
    command = [sys.executable, "-m", "gated.uplink", "--config", str(rig.toml)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 78 and says in done.stderr and "lane.toml:" in done.stderr, done.stderr


def test_a_second_uplink_is_refused(rig: Rig) -> None:
    rig.broker.start()
    rig.uplink()
    command = [sys.executable, "-m", "gated.uplink", "--config", str(rig.toml)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1 and "second_writer" in done.stderr


def test_a_damaged_uplink_database_is_begun_anew(rig: Rig) -> None:
    (rig.folder / "uplink.db").write_bytes(b"no database" * 500)
    rig.broker.start()
    rig.ingest()
    rig.uplink()
    rig.lane.passengers(3)
    eventually(rig.all_acked)
    rig.assert_exactly_once()


# -- small parts ---------------------------------------------------------------------------------------------------


def test_notify_where_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify("READY=1")


def test_notify_over_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"gated-test-{os.getpid()}"
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify("READY=1", "STATUS=well")
        assert manager.recv(100) == b"READY=1\nSTATUS=well"


def test_watchdog_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert watchdog_s() == 5.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_s() is None


def test_pauses_grow_and_are_spread() -> None:
    pauses = [[backoff.pause_s() for _ in range(9)] for backoff in (Backoff(1, 60) for _ in range(50))]
    for k, whole in enumerate((1, 2, 4, 8, 16, 32, 60, 60, 60)):
        column = [row[k] for row in pauses]
        assert whole / 2 <= min(column) and max(column) <= whole and max(column) - min(column) > whole / 5
