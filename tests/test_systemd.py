"""The units: systemd's own opinion of them, and that they agree with the configuration and the command."""

import os
import re
import shutil
import stat
import subprocess
from dataclasses import fields
from pathlib import Path

import click
import pytest

from gated.cli import COMMANDS
from gated.cli.here import EX_CONFIG
from gated.hq.cli import gated_hq
from gated.hq.cli_fence import fence
from gated.lane.settings import Timing
from gated.sections import Control, Sync

SYSTEMD = Path(__file__).resolve().parents[1] / "systemd"
CAMERA = SYSTEMD / "gated-lane.service.d" / "network-camera.conf"
UNITS = ("gated-lane", "gated-uplink", "gated-sync")
HQ_UNITS = tuple(sorted(file.stem for file in SYSTEMD.glob("gated-hq-*.service")))
HQ_SERVICES = tuple(unit for unit in HQ_UNITS if unit not in ("gated-hq-crl", "gated-hq-certs"))
SANDBOX = SYSTEMD / "gated-hq-.service.d" / "sandbox.conf"
EXPOSURE_MAX = 1.5


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def settings(unit: str, *more: Path) -> dict[str, list[str]]:
    """Every `Name=value` of a unit (and drop-ins), in order."""
    found: dict[str, list[str]] = {}
    for file in (SYSTEMD / f"{unit}.service", *more):
        for line in file.read_text().replace("\\\n", " ").splitlines():
            if line and line[0] not in "#;[":
                name, _, value = line.partition("=")
                found.setdefault(name, []).append(value)
    return found


def installed(unit: str, folder: Path, *more: Path) -> Path:
    """The unit as it would be on a lane, less the program, which is not installed here."""
    text = "\n".join(file.read_text() for file in (SYSTEMD / f"{unit}.service", *more))
    made = folder / f"{unit}.service"
    made.write_text(re.sub(r"/opt/gated/bin/gated(-hq)?", "/bin/true", text))
    if unit in HQ_UNITS:
        shutil.copytree(SANDBOX.parent, folder / SANDBOX.parent.name)
    return made


@pytest.mark.parametrize("unit", [*UNITS, *HQ_UNITS])
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
    [*((unit, ()) for unit in (*UNITS, *HQ_UNITS)), ("gated-lane", (CAMERA,))],
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


# -- HQ


def command(unit: str) -> tuple[click.Command, list[str], click.Context]:
    """The command of `gated-hq` that a unit runs, its further words, and what it was read into."""
    words = settings(unit)["ExecStart"][0].replace("${WORKERS}", "2").split()
    assert words.pop(0) == "/opt/gated/bin/gated-hq"
    found: click.Command = gated_hq
    context = click.Context(found, info_name="gated-hq")
    while isinstance(found, click.Group):
        name = words.pop(0)
        below = found.get_command(context, name)
        assert below is not None, f"{unit}: gated-hq has no {name}"
        found, context = below, click.Context(below, parent=context, info_name=name)
    return found, words, context


@pytest.mark.parametrize("unit", HQ_UNITS)
def test_hqs_commands_take_what_their_units_give(unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """click itself reads the line, with the environment file's values, and files that are there."""
    for line in (SYSTEMD / "gated-hq.env").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    found, words, context = command(unit)
    here = []
    for word in words:
        if word.startswith(("%d/", "/etc/")):
            (tmp_path / Path(word).name).touch()
            word = str(tmp_path / Path(word).name)
        if word.startswith("%t/"):
            assert Path(word).name == settings(unit)["RuntimeDirectory"][0]
            word = str(tmp_path)
        here.append(word)
    monkeypatch.setattr(next(p for p in fence.commands["watch"].params if p.name == "acl"), "default", str(tmp_path))
    monkeypatch.setattr(next(p for p in fence.commands["watch"].params if p.name == "acl"), "type", click.Path())
    left = found.parse_args(context, here)
    assert not left and not context.args
    given = {name for name, value in context.params.items() if value is not None}
    assert {"db", "host"} & given or unit in ("gated-hq-crl", "gated-hq-certs")


@pytest.mark.parametrize("unit", HQ_UNITS)
def test_hqs_services_are_given_the_keys_that_they_name_and_no_other(unit: str) -> None:
    said = settings(unit)
    named = set(re.findall(r"%d/(\S+)", said["ExecStart"][0]))
    given = dict(line.split(":") for line in said.get("LoadCredential", []))
    assert named == given.keys()
    assert all(Path(where).name == name for name, where in given.items())
    secret = {name for name in named if name.endswith((".key", ".passphrase"))}
    assert secret == KEYS[unit]
    assert all(given[name].startswith("/etc/gated-hq/keys/") for name in secret)
    assert "/etc/gated-hq/keys" not in said["ExecStart"][0]


KEYS: dict[str, set[str]] = {
    "gated-hq-certs": set(),
    "gated-hq-crl": {"pki.passphrase"},
    "gated-hq-fence": {"hq-fence.key"},
    "gated-hq-history": {"hq.key", "data.key"},
    "gated-hq-ingest": {"hq.key", "receipts.key", "hq-ingest.key"},
    "gated-hq-metrics": set(),
    "gated-hq-publish": {"data.key", "online.key", "hq-publisher.key"},
    "gated-hq-purge": set(),
}
"""Which of HQ's secrets each service holds: what somebody has who gets into it."""


@pytest.mark.parametrize("unit", HQ_UNITS)
def test_hqs_services_do_not_start_without_their_sandbox(unit: str) -> None:
    said = settings(unit)
    assert said["AssertPathExists"] == [f"/etc/systemd/system/{SANDBOX.relative_to(SYSTEMD)}"]
    both = set(said) & set(settings(unit, SANDBOX)) - set(said)
    below = {line.partition("=")[0] for line in SANDBOX.read_text().splitlines() if line and line[0] not in "#["}
    assert not both and not below & set(said), "the drop-in is read last: it would undo what the unit says"


@pytest.mark.parametrize("unit", HQ_SERVICES)
def test_hqs_services_never_give_up(unit: str) -> None:
    said = settings(unit)
    assert said["Type"] == ["notify"] and said["Restart"] == ["always"] and said["StartLimitIntervalSec"] == ["0"]
    assert said["RestartPreventExitStatus"] == [str(click.UsageError.exit_code)]


@pytest.mark.parametrize("unit", HQ_SERVICES)
def test_hqs_watchdogs_are_stroked(unit: str) -> None:
    """A unit asks for a watchdog where its program strokes one, and not where it only waits."""
    program = {
        "gated-hq-ingest": "ingest",
        "gated-hq-publish": "publishing",
        "gated-hq-history": "history",
        "gated-hq-purge": "attachments",
        "gated-hq-metrics": "cli_metrics",
        "gated-hq-fence": "fence",
    }[unit]
    source = (SYSTEMD.parent / "gated/hq" / f"{program}.py").read_text()
    assert ("WATCHDOG=1" in source) == ("WatchdogSec" in settings(unit))
    assert "READY=1" in source


def test_hqs_timers_start_what_is_there() -> None:
    for timer in SYSTEMD.glob("*.timer"):
        assert settings(timer.stem)["Type"] == ["oneshot"]
        done = subprocess.run(
            [tool("systemd-analyze"), "calendar", re.findall(r"OnCalendar=(.+)", timer.read_text())[0]],
            check=False,
            capture_output=True,
        )
        assert done.returncode == 0


def test_the_broker_reads_the_access_list_where_the_fence_writes_it() -> None:
    conf = (SYSTEMD.parent / "config/mosquitto/gated.conf").read_text()
    (acl,) = re.findall(r"^acl_file (.+)$", conf, re.MULTILINE)
    option = next(each for each in fence.commands["watch"].params if each.name == "acl")
    assert str(option.default) == acl
    said = settings("gated-hq-fence")
    assert said["ReadWritePaths"] == [str(Path(acl).parent)] and said["User"] == ["mosquitto"]


def test_users_and_groups_agree() -> None:
    made = set(re.findall(r"^[ug] (\S+)", (SYSTEMD / "gated.sysusers").read_text(), re.MULTILINE))
    wanted = set()
    for unit in UNITS:
        said = settings(unit)
        wanted |= {*said["User"], *said["Group"], *" ".join(said["SupplementaryGroups"]).split()}
    users = set(re.findall(r"^u (\S+)", (SYSTEMD / "gated-hq.sysusers").read_text(), re.MULTILINE))
    assert users == {user for unit in HQ_UNITS for user in settings(unit).get("User", [])} - {"mosquitto"}
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
    for program, rules in (
        ("systemd-sysusers", "gated.sysusers"),
        ("systemd-tmpfiles", "gated.tmpfiles"),
        ("systemd-sysusers", "gated-hq.sysusers"),
        ("systemd-tmpfiles", "gated-hq.tmpfiles"),
    ):
        create = ["--create"] if program == "systemd-tmpfiles" else []
        done = subprocess.run(
            [tool(program), f"--root={tmp_path}", *create, SYSTEMD / rules], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    users = dict(line.split(":")[:3:2] for line in (tmp_path / "etc/passwd").read_text().splitlines())
    assert {"gated", "gated-uplink", "gated-sync"} <= users.keys()
    store, keys = (tmp_path / "var/lib/gated").stat(), (tmp_path / "etc/gated/keys").stat()
    assert stat.S_IMODE(store.st_mode) == 0o1770 and store.st_uid == int(users["gated"])
    assert stat.S_IMODE(keys.st_mode) == 0o700 and keys.st_uid == 0
    assert settings("gated-lane")["StateDirectoryMode"] == ["1770"]
    for folder in ("etc/gated-hq/keys", "var/lib/gated-hq-register/epochs", "var/lib/gated-hq-pki"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
    assert (tmp_path / "srv/gated").stat().st_uid == int(users["gated-hq-register"])
