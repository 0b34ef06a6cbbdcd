"""The units under a real systemd, in a root folder of its own: sandbox, keys, socket, watchdog, wrong configuration.

Takes two minutes: mmdebstrap makes a Debian, systemd-nspawn boots it without a network, a probe inside looks around.
No device is there, so the lane stands in `stopped`; that it runs, answers and stores is what counts."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gated.hq.repository import Repository, Signers

ROOT = Path(__file__).resolve().parents[1]
SUITE, PYTHON = "bookworm", (3, 11)

PROBE = """#!/bin/bash
exec >/result/out 2>&1
gated=/opt/gated/bin/gated
useradd mei --groups gated-tech
useradd guest
say() { echo "@@ $1"; shift; "$@"; echo "rc=$?"; }
sleep 6
say active systemctl is-active gated-lane gated-uplink gated-sync
say store stat --format '%n %U %G %a' /var/lib/gated /var/lib/gated/lane.db /var/lib/gated/uplink.db /var/lib/gated/sync
say socket stat --format '%U %G %a' /run/gated/control.sock
say technician runuser -u mei -- $gated status --json
say guest runuser -u guest -- $gated status
say uplink runuser -u gated-uplink -G gated-tech -- $gated lane close --by x
say check $gated check --json
say keys runuser -u gated -- cat /etc/gated/keys/cache.key
systemctl kill --signal=KILL gated-lane
sleep 5
say killed systemctl show gated-lane --property=NRestarts --property=ActiveState
systemctl kill --signal=STOP gated-lane
sleep 16
say hung systemctl show gated-lane --property=NRestarts --property=ActiveState
say stop systemctl stop gated-lane
sed -i 's/^topology.*/topology = "round"/' /etc/gated/lane.toml
systemctl start gated-lane
sleep 3
say wrong systemctl show gated-lane --property=ExecMainStatus --property=NRestarts --property=ActiveState
say log journalctl --no-pager --output=cat --unit=gated-lane --unit=gated-sync
systemctl poweroff
"""

UNIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/result/probe
TimeoutStartSec=120
"""

COMMAND = """#!/usr/bin/python3
import sys
sys.path[:0] = ["/opt/gated/packages", "/opt/gated/source"]
from gated.cli import main
main()
"""


def install(root: Path) -> None:
    """As docs/install.md says, with made-up keys, a lane without devices and a broker that is not there."""
    for name, to in (
        ("gated.sysusers", "usr/lib/sysusers.d/gated.conf"),
        ("gated.tmpfiles", "usr/lib/tmpfiles.d/gated.conf"),
        ("gated-lane.service", "etc/systemd/system/gated-lane.service"),
        ("gated-uplink.service", "etc/systemd/system/gated-uplink.service"),
        ("gated-sync.service", "etc/systemd/system/gated-sync.service"),
    ):
        shutil.copy(ROOT / "systemd" / name, root / to)
    for folder in ("opt/gated/bin", "opt/gated/packages", "opt/gated/source", "result", "var/log/journal"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("etc/gated/keys", "etc/gated/trust"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for key in (
        "keys/cache.key",
        "keys/journal.key",
        "keys/mqtt.key",
        "trust/hq.pub",
        "trust/orders.pub",
        "trust/receipts.pub",
        "trust/policy.pub",
    ):
        (root / "etc/gated" / key).write_bytes(os.urandom(32))
        (root / "etc/gated" / key).chmod(0o600 if key.startswith("keys") else 0o644)
    text = (ROOT / "config/examples/mantrap.toml").read_text().replace("../policy/", "/opt/gated/source/config/policy/")
    text = re.sub(r"^(ca|certificate|key) = .*\n", "", text, flags=re.MULTILINE)
    text = text.replace('host = "broker.example"', 'host = "broker.example"\ntls = false')
    text = text.replace("https://gates.example", "http://127.0.0.1:9")
    (root / "etc/gated/trust/root.json").write_bytes(_root(root / "result/repository"))
    text = text.replace("/usr/share/gated/models", "/opt/gated/source/models/cache")
    (root / "etc/gated/lane.toml").write_text(text)
    for path, content in (("opt/gated/bin/gated", COMMAND), ("result/probe", PROBE)):
        (root / path).write_text(content)
        (root / path).chmod(0o755)
    (root / "etc/systemd/system/probe.service").write_text(UNIT)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for unit in ("gated-lane", "gated-uplink", "gated-sync", "probe"):
        (wants / f"{unit}.service").symlink_to(f"/etc/systemd/system/{unit}.service")


def _root(folder: Path) -> bytes:
    """The root of trust of a repository that nobody serves."""
    keys = [bytes([n] * 32) for n in range(1, 5)]
    public = [Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw() for key in keys]
    made = Repository.create(
        folder,
        Signers(keys),
        root=public[:1],
        root_threshold=1,
        targets=public[1:2],
        online=public[2],
        lift=public[3],
        now=datetime.now(UTC),
    )
    return made.root


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the probe saw: name -> text."""
    for tool in ("mmdebstrap", "systemd-nspawn"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed here: apt-get install mmdebstrap systemd-container")
    if os.geteuid() != 0 or sys.version_info[:2] != PYTHON:
        pytest.skip(f"needs root, and the Python {PYTHON[0]}.{PYTHON[1]} of Debian {SUITE}")
    if not (ROOT / "models/cache/sface.onnx").exists():
        pytest.skip("needs the networks: make models")
    root = tmp_path_factory.mktemp("boot") / "root"
    include = "--include=systemd,systemd-sysv,dbus,python3"
    made = subprocess.run(["mmdebstrap", "--variant=minbase", include, SUITE, root], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no Debian to be had here: {made.stderr.decode()[-300:]}")
    install(root)
    packages = sysconfig.get_path("purelib")
    subprocess.run(
        [
            "systemd-nspawn", "--directory", root, "--boot", "--private-network", "--register=no", "--keep-unit",
            "--link-journal=no", f"--machine=gated-{os.getpid()}", "--console=pipe",
            f"--bind-ro={packages}:/opt/gated/packages", f"--bind-ro={ROOT}:/opt/gated/source",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=180, check=False,
    )  # fmt: skip
    text = (root / "result/out").read_text()
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in text.split("@@ ")[1:]}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_units_under_a_real_systemd(found: dict[str, str]) -> None:
    assert found["active"].split() == ["active", "active", "active", "rc=0"], found["log"]
    assert found["store"].splitlines() == [
        "/var/lib/gated gated gated 1770",
        "/var/lib/gated/lane.db gated gated 640",
        "/var/lib/gated/uplink.db gated-uplink gated-uplink 640",
        "/var/lib/gated/sync gated-sync gated-sync 770",
        "rc=0",
    ]
    assert found["socket"].splitlines() == ["gated gated-tech 660", "rc=0"]
    assert '"state": "stopped"' in found["technician"] and '"matcher": "ready"' in found["technician"]
    assert "no permission to use" in found["guest"] and "rc=77" in found["guest"]
    assert "not for user gated-uplink" in found["uplink"] and "rc=77" in found["uplink"]
    assert '"name": "model sface",\n    "result": "ok"' in found["check"]
    assert "Permission denied" in found["keys"]
    assert found["killed"].splitlines()[:2] == ["ActiveState=active", "NRestarts=1"] or (
        found["killed"].splitlines()[:2] == ["NRestarts=1", "ActiveState=active"]
    )
    assert "NRestarts=2" in found["hung"] and "ActiveState=active" in found["hung"], "the watchdog"
    assert "rc=0" in found["stop"]
    assert {"ExecMainStatus=78", "NRestarts=0", "ActiveState=failed"} <= set(found["wrong"].split())
    assert "Watchdog timeout" in found["log"] and "Traceback" not in found["log"]
