"""docs/hq.md, command by command, under a real systemd: until a real lane reports to HQ's services in their sandbox.

Takes two minutes: mmdebstrap makes a Debian with PostgreSQL and mosquitto, systemd-nspawn boots it without network."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUITE, PYTHON = "bookworm", (3, 11)
PACKAGES = "systemd,systemd-sysv,dbus,python3,postgresql,mosquitto,openssl,curl,procps"

COMMAND = """#!/usr/bin/python3
import sys
sys.path[:0] = ["/opt/gated/packages", "/opt/gated/source"]
from gated.{module} import main
if __name__ == "__main__":  # as an installed command has it: ingest's workers import it again
    main()
"""

LANE = """
cd /opt/gated/source
install -m 644 systemd/gated.sysusers /usr/lib/sysusers.d/gated.conf
install -m 644 systemd/gated.tmpfiles /usr/lib/tmpfiles.d/gated.conf
install -m 644 systemd/gated-lane.service systemd/gated-uplink.service /etc/systemd/system/
systemd-sysusers && systemd-tmpfiles --create gated.conf && systemctl daemon-reload
install -m 600 -t /etc/gated/keys /root/lane/mqtt.key /root/lane/cache.key
(umask 077; head -c 32 /dev/urandom > /etc/gated/keys/journal.key)
install -m 644 -t /etc/gated/trust /root/hq-keys/*.pub /root/lane/from-hq/*.crt
head -c 32 /dev/urandom > /etc/gated/trust/policy.pub
cp /etc/gated/trust/hq-ca.crt /etc/gated/trust/broker-ca.crt
sed -e 's#"../policy/#"/opt/gated/source/config/policy/#; s#^id = .*#id = "tpe-t1-07"#' \\
    -e 's#^site = .*#site = "tpe-t1"#' \\
    -e 's#/usr/share/gated/models#/opt/gated/source/models/cache#; /^\\[sync\\]/,/^$/d' \\
    config/examples/mantrap.toml > /etc/gated/lane.toml
systemctl start gated-lane gated-uplink
"""

LOOK = """
set +e
set -a; . /etc/gated-hq/hq.env; set +a
say() { echo "@@ $1"; shift; "$@" 2>&1; echo "rc=$?"; }
read_as="runuser -u gated-hq-metrics -- env PATH=$PATH GATED_HQ_DB=$GATED_HQ_DB"
for _ in $(seq 60); do $read_as gated-hq records list 2>/dev/null | grep -q LaneBooted && break; sleep 1; done
services="gated-hq-ingest gated-hq-metrics gated-hq-publish gated-hq-history gated-hq-purge gated-hq-fence mosquitto"
say active systemctl is-active $services gated-hq-crl.timer gated-hq-certs.timer
say restarts systemctl show --property=NRestarts --value $services
say failed systemctl --failed --plain --no-legend
say lanes $read_as gated-hq lanes
say records $read_as gated-hq records list
say verify $read_as gated-hq records verify
say integrity $read_as gated-hq integrity
say metrics curl -s 127.0.0.1:9464/metrics
say workers curl -s 127.0.0.1:9465/metrics
say reader $read_as gated-hq attachments purge
say others runuser -u gated-hq-metrics -- cat /run/credentials/gated-hq-ingest.service/hq.key
desk="--ca /root/certs/hq-ca.crt --port 8884"
say order gated-hq order tpe-t1/tpe-t1-07 close_lane --officer chen.w --key /root/hq-keys/orders.key $desk \\
    --certificate /root/certs/hq-orders.crt --certificate-key /root/certs/hq-orders.key
say desire gated-hq desire tpe-t1/tpe-t1-07 policy=tw-9999 $desk --certificate /root/certs/hq-desk.crt \\
    --certificate-key /root/certs/hq-desk.key
say crl systemctl start gated-hq-crl
say fence runuser -u mosquitto -- gated-hq fence block tpe-t1/tpe-t1-07
say lift runuser -u mosquitto -- gated-hq fence lift tpe-t1/tpe-t1-07
for unit in gated-hq-ingest gated-hq-purge gated-hq-fence; do systemctl kill --signal=KILL $unit; done
sleep 6
say killed systemctl is-active gated-hq-ingest gated-hq-purge gated-hq-fence
say served stat --format '%a %U' /srv/gated /srv/gated/metadata/timestamp.json
rm /etc/systemd/system/gated-hq-.service.d/sandbox.conf; systemctl daemon-reload
say unboxed systemctl restart gated-hq-metrics
say uplink journalctl --no-pager --output=cat --unit=gated-uplink
say log journalctl --no-pager --output=cat --unit='gated-hq-*'
"""

UNIT = """[Unit]
After=multi-user.target postgresql.service
[Service]
Type=oneshot
WorkingDirectory=/opt/gated/source
Environment=HOME=/root
ExecStart=/result/probe
ExecStopPost=/usr/bin/systemctl --no-block poweroff
TimeoutStartSec=240
"""


def script() -> str:
    """The page's blocks, then a lane, then a look around."""
    page = (ROOT / "docs/hq.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    return "\n".join(["#!/bin/bash", "set -ex", "exec >/result/out 2>&1", *blocks, LANE, "set +x", LOOK])


def test_the_page_is_a_script() -> None:
    done = subprocess.run(["bash", "-n", "-c", script()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What was seen: name -> text; `page`: what the page's commands said."""
    for tool in ("mmdebstrap", "systemd-nspawn"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed here: apt-get install mmdebstrap systemd-container")
    if os.geteuid() != 0 or sys.version_info[:2] != PYTHON:
        pytest.skip(f"needs root, and the Python {PYTHON[0]}.{PYTHON[1]} of Debian {SUITE}")
    root = tmp_path_factory.mktemp("hq") / "root"
    command = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no Debian to be had here: {made.stderr.decode()[-300:]}")
    for folder in ("opt/gated/bin", "opt/gated/packages", "opt/gated/source", "result", "var/log/journal"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    programs = {"opt/gated/bin/gated": "cli", "opt/gated/bin/gated-hq": "hq.cli"}
    files = {path: COMMAND.format(module=module) for path, module in programs.items()} | {"result/probe": script()}
    for path, content in files.items():
        (root / path).write_text(content)
        (root / path).chmod(0o755)
    (root / "etc/systemd/system/probe.service").write_text(UNIT)
    (root / "etc/hosts").write_text("127.0.0.1 localhost broker.example\n")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "probe.service").symlink_to("/etc/systemd/system/probe.service")
    subprocess.run(
        [
            "systemd-nspawn", "--directory", root, "--boot", "--private-network", "--register=no", "--keep-unit",
            "--link-journal=no", f"--machine=gated-hq-{os.getpid()}", "--console=pipe", "--resolv-conf=off",
            f"--bind-ro={sysconfig.get_path('purelib')}:/opt/gated/packages", f"--bind-ro={ROOT}:/opt/gated/source",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=360, check=False,
    )  # fmt: skip
    page, *parts = (root / "result/out").read_text().split("@@ ")
    return {"page": page} | {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts}


def lines(text: str) -> list[str]:
    """Without the last line, which is the exit code."""
    return text.split("\n")[: text.rstrip("\n").count("\n")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hq_as_the_page_says_under_a_real_systemd(found: dict[str, str]) -> None:
    assert "log" in found, f"a command of the page failed: {found['page'][-3000:]}"
    log = found["log"]
    assert set(lines(found["active"])) == {"active"}, log
    assert set(lines(found["restarts"])) <= {"0", ""}, log
    assert lines(found["failed"]) == []
    # the lane
    assert re.search(r"tpe-t1/tpe-t1-07 +up +\d+ s ago +running", found["lanes"])
    assert "LaneBooted" in found["records"] and found["records"].endswith("rc=0\n")
    assert "rc=0" in found["verify"] and "rc=0" in found["integrity"]
    assert 'gated_hq_lane_up{lane="tpe-t1-07",site="tpe-t1"} 1.0' in found["metrics"]
    assert "gated_hq_process_resident_memory_bytes" in found["metrics"], "the sandbox shows /proc/stat"
    assert 'gated_ingest_messages_total{fate="stored"}' in found["workers"]
    assert "taken by tpe-t1/tpe-t1-07" in found["order"]
    assert "is behind: policy is tw-" in found["desire"]
    # who may what
    assert "this user may not do that" in found["reader"] and "Permission denied" in found["others"]
    assert "rc=0" in found["crl"] and "count until" in log
    assert "fenced off" in found["fence"] and "speaks again" in found["lift"]
    assert lines(found["served"]) == ["755 gated-hq-register", "644 gated-hq-register"]
    # faults
    assert set(lines(found["killed"])) == {"active"}, log
    assert "rc=1" in found["unboxed"] and "asserts failed" in log
    assert "Traceback" not in log + found["uplink"] and '"reachable": true' in found["uplink"]
