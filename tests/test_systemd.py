"""The units: systemd's own opinion of them, and that they agree with the configuration and the command."""

import os
import re
import shutil
import stat
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from gated.cli import COMMANDS
from gated.cli.here import EX_CONFIG
from gated.lane.settings import Timing
from gated.sections import Control, Sync

SYSTEMD = Path(__file__).resolve().parents[1] / "systemd"
CAMERA = SYSTEMD / "gated-lane.service.d" / "network-camera.conf"
UNITS = ("gated-lane", "gated-uplink", "gated-sync")
EXPOSURE_MAX = 1.5


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def settings(unit: str, *more: Path) -> dict[str, list[str]]:
    """Every `Name=value` of a unit (and drop-ins), in order; continuation lines are not used here."""
    found: dict[str, list[str]] = {}
    for file in (SYSTEMD / f"{unit}.service", *more):
        for line in file.read_text().splitlines():
            if line and line[0] not in "#;[":
                name, _, value = line.partition("=")
                found.setdefault(name, []).append(value)
    return found


def installed(unit: str, folder: Path, *more: Path) -> Path:
    """The unit as it would be on a lane, less the program, which is not installed here."""
    text = "\n".join(file.read_text() for file in (SYSTEMD / f"{unit}.service", *more))
    made = folder / f"{unit}.service"
    made.write_text(text.replace("/opt/gated/bin/gated", "/bin/true"))
    return made


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_the_units(unit: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", installed(unit, tmp_path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize(
    ("unit", "more"),
    [("gated-lane", ()), ("gated-lane", (CAMERA,)), ("gated-uplink", ()), ("gated-sync", ())],
)
def test_exposure(unit: str, more: tuple[Path, ...], tmp_path: Path) -> None:
    file = installed(unit, tmp_path, *more)
    done = subprocess.run(
        [
            tool("systemd-analyze"),
            "security",
            "--offline=true",
            f"--threshold={EXPOSURE_MAX * 10:.0f}",
            "--no-pager",
            file,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert overall, said
    open_points = "\n".join(line for line in said.splitlines() if line.startswith(("✗", "→")))
    assert float(overall[1]) <= EXPOSURE_MAX and done.returncode == 0, open_points


def test_the_lane_has_no_network_and_the_uplink_no_device() -> None:
    lane, uplink = settings("gated-lane"), settings("gated-uplink")
    assert lane["PrivateNetwork"] == ["yes"] and lane["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert lane["IPAddressDeny"] == ["any"] and "IPAddressAllow" not in lane
    assert "DeviceAllow" not in uplink and uplink["PrivateDevices"] == ["yes"]
    assert [line.split(":")[0] for line in uplink["LoadCredential"]] == ["mqtt.key"]
    camera = settings("gated-lane", CAMERA)
    assert camera["IPAddressDeny"] == ["any", "any"] and len(camera["IPAddressAllow"]) == 1


def test_the_sync_has_a_network_and_neither_a_device_nor_a_key_to_data() -> None:
    sync = settings("gated-sync")
    assert "DeviceAllow" not in sync and sync["PrivateDevices"] == ["yes"] and sync["DevicePolicy"] == ["closed"]
    assert [line.split(":")[0] for line in sync["LoadCredential"]] == ["mqtt.key"]
    assert str(Sync(url="https://hq", root=Path("root.json")).socket).startswith(f"/run/{sync['RuntimeDirectory'][0]}/")
    assert "gated" in sync["SupplementaryGroups"][0].split() and sync["UMask"] == ["0007"]


def test_inference_reports_to_nobody() -> None:
    """onnxruntime 1.31 keeps a device id and sends events to its makers unless it is told not to."""
    assert "ORT_DISABLE_TELEMETRY=1" in settings("gated-lane")["Environment"]


def test_no_biometrics_in_core_files_or_swap() -> None:
    lane = settings("gated-lane")
    assert lane["LimitCORE"] == ["0"] and lane["MemorySwapMax"] == ["0"]


@pytest.mark.parametrize("unit", UNITS)
def test_restarts_are_bounded_and_watched(unit: str) -> None:
    said = settings(unit)
    assert said["Type"] == ["notify"] and said["Restart"] == ["always"] and "WatchdogSec" in said
    assert said["RestartPreventExitStatus"] == [str(EX_CONFIG)]


def test_stopping_gives_time_to_let_somebody_out() -> None:
    stop_s = int(settings("gated-lane")["TimeoutStopSec"][0].removesuffix("s"))
    assert stop_s > Timing().stay_s_max
    assert settings("gated-lane")["StartLimitBurst"] == ["10"]


@pytest.mark.parametrize("unit", UNITS)
def test_the_command_exists(unit: str) -> None:
    command = settings(unit)["ExecStart"][0].split()
    assert command[:3] == ["/opt/gated/bin/gated", "--config", "/etc/gated/lane.toml"]
    assert command[3] in COMMANDS


def test_users_and_groups_agree() -> None:
    made = set(re.findall(r"^[ug] (\S+)", (SYSTEMD / "gated.sysusers").read_text(), re.MULTILINE))
    wanted = set()
    for unit in UNITS:
        said = settings(unit)
        wanted |= {*said["User"], *said["Group"], *" ".join(said["SupplementaryGroups"]).split()}
    rules = (SYSTEMD / "60-gated.rules").read_text()
    wanted |= set(re.findall(r'GROUP="([^"]+)"', rules))
    defaults = {f.name: f.default for f in fields(Control)}
    assert wanted <= made
    assert defaults["uplink_user"] == settings("gated-uplink")["User"][0]
    assert defaults["sync_user"] == settings("gated-sync")["User"][0]
    assert defaults["technician_group"] in settings("gated-lane")["SupplementaryGroups"][0].split()
    assert str(defaults["socket"]).startswith(f"/run/{settings('gated-lane')['RuntimeDirectory'][0]}/")


def test_udev_rules_are_well_formed() -> None:
    pair = r'[A-Z]+(\{[A-Za-z_]+\})?(==|!=|\+=|=)"[^"]*"'
    labels, jumps = set(), set()
    for line in (SYSTEMD / "60-gated.rules").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(rf"{pair}(, {pair})*", line), line
            labels |= set(re.findall(r'LABEL="(\w+)"', line))
            jumps |= set(re.findall(r'GOTO="(\w+)"', line))
    assert jumps == labels


def test_udev_rules_use_no_property_that_a_later_file_sets() -> None:
    """The system's 60-persistent-v4l.rules and 60-serial.rules come after ours: what they import we must ourselves."""
    imported: set[str] = set()
    for line in (SYSTEMD / "60-gated.rules").read_text().splitlines():
        wanted = {name for name in ("ID_BUS", "ID_PATH") if f"ENV{{{name}}}==" in line}
        assert wanted <= imported, line
        imported |= {"ID_PATH"} if 'IMPORT{builtin}="path_id"' in line else set()
        imported |= {"ID_BUS"} if 'IMPORT{builtin}="usb_id"' in line else set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make users and give folders away")
def test_users_and_folders_are_made(tmp_path: Path) -> None:
    """In a root folder of its own: nothing of this machine is touched."""
    (tmp_path / "etc").mkdir()
    for command, rules in (("systemd-sysusers", "gated.sysusers"), ("systemd-tmpfiles", "gated.tmpfiles")):
        create = ["--create"] if command == "systemd-tmpfiles" else []
        done = subprocess.run(
            [tool(command), f"--root={tmp_path}", *create, SYSTEMD / rules], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    users = dict(line.split(":")[:3:2] for line in (tmp_path / "etc/passwd").read_text().splitlines())
    assert {"gated", "gated-uplink", "gated-sync"} <= users.keys()
    store, keys = (tmp_path / "var/lib/gated").stat(), (tmp_path / "etc/gated/keys").stat()
    assert stat.S_IMODE(store.st_mode) == 0o1770 and store.st_uid == int(users["gated"])
    assert stat.S_IMODE(keys.st_mode) == 0o700 and keys.st_uid == 0
    assert settings("gated-lane")["StateDirectoryMode"] == ["1770"]
