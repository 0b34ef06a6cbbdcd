"""The technician's command: what it says, to people and to programs, and its exit codes."""

import ast
import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gated import control
from gated.cli import COMMANDS, checks, gated
from gated.cli.drawing import lane_lines, line
from gated.config import load
from gated.control import Answer, Code, Refused, Request
from gated.control_peer import Peer
from gated.control_socket import serve
from gated.control_views import Snapshot
from gated.daemon.plan import machine_of
from gated.lane import events as ev
from gated.store.cachefile import path_of
from gated.store.db import LaneDb
from gated.store.journal import Journal
from tests.hw_sim.cachefiles import CacheFiles
from tests.play import DOCUMENT

ROOT = Path(__file__).resolve().parents[1]


def snapshot(**changes: Any) -> Snapshot:
    plain: Snapshot = {
        "lane": "tpe-t1-07",
        "site": "tpe-t1",
        "topology": "mantrap",
        "direction": {"way": "exit", "by": "configuration", "until": None, "then": None},
        "boot": "0123456789abcdef",
        "state": "match",
        "prompt": "look_at_camera",
        "since_s": 1.5,
        "deadline_s": 4.0,
        "ticket": 7,
        "doors": {"A": {"open": False, "requested": False}, "B": {"open": True, "requested": True}},
        "persons": 1,
        "thing": False,
        "faults": [],
        "devices": {"camera": "ready", "passport": "ready"},
        "uplink": "up",
        "outbox": {"crossing": 2},
        "cache": {"people": "fresh", "control": "late"},
        "versions": {"gated": "0.1"},
        "policy": {"version": "tw-[1]", "edition": 3, "next": "tw-2", "refused": "rollback", "lacks": False},
        "counters": {"grants": 5},
        "last_alarms": [{"utc": "2026-01-01T00:00:00+00:00", "code": "help", "detail": "[A]"}],
        "service": None,
        "closed_by": None,
    }
    return plain | changes  # type: ignore[return-value]


class Lane:
    """A control socket that answers like a lane."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, snapshot()
        self.asked: list[Request] = []
        self.answers: dict[type[Request], Answer | Exception] = {}
        self.watched: list[Snapshot] = []
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._main(),))

    async def _main(self) -> None:
        async with serve(self.path, self._handle, technician_group="no-such-group", uplink_user="nobody"):
            self._ready.set()
            await self._stop.wait()

    async def _handle(self, request: Request, peer: Peer) -> Answer | AsyncIterator[Answer]:
        self.asked.append(request)
        if isinstance(request, control.Status):
            return self.now
        if isinstance(request, control.Watch):
            return self._watch()
        answer = self.answers.get(type(request), {"order": "x", "accepted": True, "why": ""})
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _watch(self) -> AsyncIterator[Answer]:
        for each in self.watched:
            yield each

    def __enter__(self) -> "Lane":
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)
        self._loop.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A complete configuration in a folder of its own, with every device a real one that is not here."""
    text = (ROOT / "config/examples/mantrap.toml").read_text()
    for old, new in (
        ('"../policy/tw.toml"', f'"{ROOT}/config/policy/tw.toml"'),
        ("/usr/share/gated/models", str(tmp_path / "models")),
        ("credential:cache.key", "cache.key"),
        ("credential:journal.key", "journal.key"),
        ("/etc/gated/trust/", ""),
        ('"broker.example"', '"127.0.0.1"\nport = 1'),
        ("https://gates.example/", "http://127.0.0.1:1/"),
        ("/dev/gated/passport", str(tmp_path / "no-such-port")),
        ("/dev/gated/camera", "/dev/no-such-camera"),
    ):
        assert old in text
        text = text.replace(old, new)
    text += f'socket = "{tmp_path}/s.sock"\n[store]\ndir = "store"\n[control]\nsocket = "{tmp_path}/c.sock"\n'
    (tmp_path / "store").mkdir()
    (tmp_path / "lane.toml").write_text(text)
    return tmp_path / "lane.toml"


@pytest.fixture
def lane(config: Path) -> Iterator[Lane]:
    with Lane(config.parent / "c.sock") as running:
        yield running


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(gated, ["--config", str(config), *arguments])


# -- the command itself ---------------------------------------------------------------------------------------------


def test_help_imports_no_subcommand_and_is_quick() -> None:
    """Measured as modules, not as milliseconds: what is slow is importing."""
    program = (
        "import sys; sys.argv = ['gated', '--help']; from gated.cli import main\n"
        "try:\n  main()\nfinally:\n  print('MODULES', *sorted(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    loaded = set(said.split("MODULES ")[1].split())
    assert not loaded & {
        "asyncio",
        "cv2",
        "numpy",
        "onnxruntime",
        "paho",
        "rich",
        "sqlite3",
        "structlog",
        "gated.config",
    }
    assert not loaded & {spec.split(":")[0] for spec, _ in COMMANDS.values()}
    assert all(name in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    result = CliRunner().invoke(gated, [name, "--help"])
    assert result.exit_code == 0, result.output
    command = gated.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None and command.help
    assert (ROOT / COMMANDS[name][0].split(":")[0].replace(".", "/")).with_suffix(".py").exists() or name == "lab"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("mrz", "lab")])
def test_examples_are_real(name: str) -> None:
    """Every `gated ...` line of a help page parses, up to running it."""
    text = CliRunner().invoke(gated, [name, "--help"]).output
    examples = re.findall(r"^ +(?:sudo )?gated (.+?)(?:  .*| \|.*)?$", text, re.MULTILINE)
    assert examples
    for example in examples:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', example)]
        while words[0].startswith("--"):
            words = words[2:]
        assert words[0] in COMMANDS
        result = CliRunner().invoke(gated, ["--config", "/nowhere/lane.toml", *words])
        ran = (0, 1, 78) if name == "policy" else (78,)  # a policy needs no lane
        assert result.exit_code in ran or "does not exist" in result.output, (example, result.output)


def test_wrong_usage() -> None:
    result = CliRunner().invoke(gated, ["stats"])
    assert result.exit_code == 2 and "Did you mean 'status'?" in result.output
    assert CliRunner().invoke(gated, ["door", "open", "C"]).exit_code == 2
    assert CliRunner().invoke(gated, ["service", "on"]).exit_code == 2


def test_configuration_errors_end_with_78(config: Path) -> None:
    result = run(config.with_name("none.toml"), "status")
    assert result.exit_code == 78 and "none.toml: cannot be read: No such file" in result.output
    config.write_text(config.read_text().replace("[store]", "[stor]"))
    result = run(config, "check")
    assert result.exit_code == 78
    said = " ".join(result.output.split())
    assert re.search(r"lane\.toml:\d+: \[stor\]: is not a known section; did you mean 'store'", said)


def test_no_daemon_ends_with_69(config: Path) -> None:
    for command in (["status"], ["watch"], ["door", "open", "A"]):
        result = run(config, *command)
        assert result.exit_code == 69 and "systemctl start gated-lane" in result.output


def test_no_permission_ends_with_77(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(client: control.Client) -> None:
        raise client._unreachable(PermissionError(13, "Permission denied"))

    monkeypatch.setattr(control.Client, "_connect", refused)
    result = run(config, "status")
    assert result.exit_code == 77 and "technicians' group" in result.output


def test_watch_on_a_terminal(config: Path, lane: Lane) -> None:
    """The whole screen, on a real terminal: it waits for a daemon that went, and Ctrl-C ends it well."""
    lane.watched = [snapshot()]
    main, side = pty.openpty()
    # Whoever started the tests in the background had Ctrl-C ignored, and that is inherited.
    program = "import signal; signal.signal(2, signal.default_int_handler); from gated.cli import main; main()"
    command = [sys.executable, "-c", program, "--config", str(config), "watch"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    shown = b""
    with subprocess.Popen(
        command, stdin=side, stdout=side, stderr=side, cwd=ROOT, env=env, start_new_session=True
    ) as seen:
        os.close(side)
        while b"waiting for it to come back" not in shown:
            shown += os.read(main, 65536)
        seen.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # EIO: the other side of the terminal is closed
            while part := os.read(main, 65536):
                shown += part
    os.close(main)
    assert seen.returncode == 0
    assert b"\x1b[?1049h" in shown and b"\x1b[?1049l" in shown  # the screen is given back


# -- looking ---------------------------------------------------------------------------------------------------------


def test_status(config: Path, lane: Lane) -> None:
    result = run(config, "status")
    assert result.exit_code == 0
    for part in (
        "tpe-t1-07",
        "match for 2 s, at the longest 4 s more",
        "look_at_camera: Please look at the camera.",
        "B open (asked)",
        "help ([A])",
    ):
        assert part in result.output, result.output
    assert "\x1b" not in result.output
    assert json.loads(run(config, "status", "--json").stdout) == lane.now
    assert json.loads(run(config, "--json", "status").stdout) == lane.now


@pytest.mark.parametrize("change", [{"faults": ["door_stuck"]}, {"devices": {"camera": "lost"}}])
def test_status_says_faults_by_its_exit_code(config: Path, lane: Lane, change: dict[str, Any]) -> None:
    lane.now = snapshot(**change)
    result = run(config, "status")
    assert result.exit_code == 1 and next(iter(change)) in result.output


def test_watch_in_a_pipe(config: Path, lane: Lane) -> None:
    lane.watched = [snapshot(), snapshot(state="idle", ticket=None, persons=0, devices={"camera": "lost"})]
    result = run(config, "watch")
    assert result.exit_code == 69 and "ended" in result.output
    assert "match, A shut, B open (asked), inside 1, ticket 7" in result.output
    assert "idle, A shut, B open (asked), inside 0, camera lost" in result.output
    lines = run(config, "watch", "--json").stdout.splitlines()
    assert [json.loads(each) for each in lines] == lane.watched


def test_the_drawing() -> None:
    doors = {"A": {"open": None, "requested": False}, "B": {"open": False, "requested": False}}
    assert lane_lines(snapshot(thing=True, doors=doors)) == [
        "-----------+-----------------------+-----------",
        "    -->    ?         o  []         |    -->    ",
        "-----------+-----------------------+-----------",
        "       A unknown                           B shut         ",
    ]
    single = snapshot(topology="single", doors={"B": {"open": True, "requested": True}}, persons=2)
    assert lane_lines(single)[1] == "    -->              o o+          /    -->    "
    turns: Any = {"way": "exit", "by": "schedule", "until": "2026-11-20T06:00:00+00:00", "then": "both"}
    both = snapshot(topology="bidirectional", direction=turns)
    assert lane_lines(both)[1].count("-->") == 2 and "<" not in lane_lines(both)[1]
    assert "serving exit by schedule, from 2026-11-20T06:00:00+00:00 on both" in line(both)
    for way, arrow in (("entry", "   <--   "), ("both", "   <-->   ")):
        assert arrow in lane_lines(snapshot(topology="bidirectional", direction=turns | {"way": way}))[1]
    assert line(snapshot(service="Mei", closed_by="HQ", faults=["fire"])).endswith(
        "service Mei, closed by HQ, fault fire"
    )


# -- doing -----------------------------------------------------------------------------------------------------------


def test_orders_reach_the_lane(config: Path, lane: Lane) -> None:
    for arguments in (
        ["service", "on", "--technician", "Mei Lin"],
        ["door", "open", "A"],
        ["door", "shut", "A"],
        ["service", "off", "--technician", "Mei Lin"],
        ["lane", "close", "--by", "Mei"],
        ["lane", "open", "--by", "Mei"],
        ["lane", "direction", "entry", "--by", "Mei"],
        ["lane", "direction", "schedule", "--technician", "Mei"],
        ["lane", "reset", "--by", "Mei"],
    ):
        result = run(config, *arguments)
        assert result.exit_code == 0, result.output
    assert lane.asked == [
        control.ServiceOn("Mei Lin"),
        control.MoveDoor("A", True),
        control.MoveDoor("A", False),
        control.ServiceOff("Mei Lin"),
        control.CloseLane("Mei"),
        control.OpenLane("Mei"),
        control.SetDirection("Mei", "entry"),
        control.SetDirection("Mei", "schedule"),
        control.ResetLane("Mei"),
    ]


def test_what_the_lane_refuses_is_told(config: Path, lane: Lane) -> None:
    lane.answers[control.MoveDoor] = {"order": "x", "accepted": False, "why": "not_in_service"}
    result = run(config, "door", "open", "B")
    assert result.exit_code == 1 and "the lane refuses: not in service" in result.output
    lane.answers[control.CloseLane] = Refused(Code.DENIED, "close is not for user guest")
    result = run(config, "lane", "close", "--by", "x")
    assert result.exit_code == 77 and "not for user guest" in result.output
    assert run(config, "lane", "close", "--by", "x\ny").exit_code == 2
    lane.answers[control.SetDirection] = {"order": "x", "accepted": False, "why": "one_way"}
    result = run(config, "lane", "direction", "entry", "--by", "Mei")
    assert result.exit_code == 1 and "the lane refuses: one way" in result.output
    assert run(config, "lane", "direction", "up", "--by", "Mei").exit_code == 2
    assert run(config, "lane", "direction", "entry").exit_code == 2


def test_record(config: Path, lane: Lane) -> None:
    lane.answers[control.RecordDevices] = {"file": "/x/recording", "bytes": 12}
    result = run(config, "record", "passport", "--seconds", "2")
    assert result.exit_code == 0 and "12 bytes into /x/recording" in result.output
    assert lane.asked == [control.RecordDevices("passport", 2.0)]
    assert run(config, "record", "../x").exit_code == 2
    assert run(config, "record", "passport", "--seconds", "0").exit_code == 2


# -- replay ----------------------------------------------------------------------------------------------------------


def a_day(config: Path) -> Path:
    """The lane.db of a lane that started, saw one passenger, and refused them for want of answers."""
    conf = load(config)
    lane = machine_of(conf)
    start = datetime(2026, 1, 2, tzinfo=UTC)
    conf.keys.journal.write_bytes(bytes(range(32)))
    db = LaneDb(conf.store.dir / "lane.db")
    journal = Journal(db, conf.keys.journal.read_bytes(), "boot-1")
    mono = 0.0
    for event in (
        ev.Started(1),
        *(ev.DeviceReady(device) for device in ev.Device),
        *(ev.DoorClosed(door) for door in ev.Door),
        ev.PresenceChanged(0),
        ev.DocumentPresented(DOCUMENT),
    ):
        mono += 0.1
        now = ev.Now(mono, start + timedelta(seconds=mono))
        journal.append(now, event, lane.handle(event, now))
    assert lane.deadline
    now = ev.Now(lane.deadline, start + timedelta(seconds=lane.deadline))
    journal.append(now, ev.Deadline(), lane.handle(ev.Deadline(), now))
    with db.transaction():
        journal.flush()
    db.close()
    return db.path


def test_replay_finds_the_same_commands_again_or_the_first_difference(config: Path) -> None:
    journal = str(a_day(config))
    result = run(config, "replay", journal)
    assert result.exit_code == 0 and "events of 1 starts: the same commands again" in result.output
    said = json.loads(run(config, "replay", "--json", journal).output)
    assert said["same"] is True and said["events"] > 10
    config.write_text(config.read_text() + "[timing]\ncheck_s = 20.0\n")
    result = run(config, "replay", journal)
    assert result.exit_code == 1 and "then a difference: boot boot-1, entry" in result.output
    assert DOCUMENT.surname not in result.output and DOCUMENT.number not in result.output


def test_replay_with_the_wrong_key_or_file(config: Path) -> None:
    journal = str(a_day(config))
    wrong = config.with_name("wrong.key")
    wrong.write_bytes(bytes(32))
    result = run(config, "replay", journal, "--key", str(wrong))
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert run(config, "replay", str(config)).exit_code == 1
    assert run(config, "replay", journal, "--key", str(config)).exit_code == 78


# -- check -----------------------------------------------------------------------------------------------------------


def findings(config: Path) -> dict[str, dict[str, str]]:
    result = run(config, "check", "--json")
    assert result.exit_code in (0, 1), result.output
    return {finding["name"]: finding for finding in json.loads(result.stdout)}


def test_check_of_an_empty_machine(config: Path) -> None:
    found = findings(config)
    assert found["config"]["result"] == "ok"
    assert found["device passport"]["result"] == "fail" and "no_such_port" in found["device passport"]["found"]
    assert {found[f"model {name}"]["result"] for name in ("yunet", "sface")} == {"fail"}
    assert found["lane.db"]["result"] == "ok" and found["cache people"]["result"] == "warn"
    assert found["key cache"]["result"] == "fail" and found["broker"]["result"] == "warn"
    assert all(
        finding["todo"] or finding["name"].startswith("model")
        for finding in found.values()
        if finding["result"] == "fail"
    )
    text = run(config, "check")
    assert text.exit_code == 1 and "faults, " in text.output and "→" in text.output


def test_check_asks_a_running_daemon_for_its_devices(config: Path, lane: Lane) -> None:
    lane.now = snapshot(devices={"camera": "lost", "door": "ready"})
    found = findings(config)
    assert found["device camera"]["result"] == "fail" and found["device door"]["result"] == "ok"
    assert "device passport" not in found  # nothing was opened


def test_check_of_keys(config: Path) -> None:
    for name in ("cache.key", "journal.key", "hq.pub", "orders.pub", "receipts.pub", "policy.pub"):
        (config.parent / name).write_bytes(bytes(32))
    (config.parent / "cache.key").chmod(0o600)
    (config.parent / "journal.key").chmod(0o644)
    (config.parent / "orders.pub").write_bytes(b"hex by mistake")
    (config.parent / "receipts.pub").write_bytes(bytes(64))
    found = {finding.name: finding for finding in checks.keys(load(config))}
    assert {name: finding.result for name, finding in found.items()} == {
        "key cache": "fail",
        "key journal": "fail",
        "key hq_public": "ok",
        "key orders_public": "fail",
        "key receipts_public": "ok",
        "key policy_public": "ok",
    }
    assert "on the cache's disk" in found["key cache"].found
    assert "chmod 600" in found["key journal"].todo and "found 14" in found["key orders_public"].found


def test_check_of_the_policy(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> dict[str, checks.Finding]:
        return {finding.name: finding for finding in checks.policy(load(config))}

    policy = (ROOT / "config/policy/tw.toml").read_text()
    assert found()["policy"].result == "ok" and "installed" in found()["policy"].found
    kept = load(config).store.dir / "policy"
    kept.mkdir()
    (kept / "9.toml").write_text(policy.replace("edition = 4\n", "edition = 9\n"))
    assert "edition 9, kept" in found()["policy"].found
    with monkeypatch.context() as patch:
        patch.setattr(checks, "CALENDAR_DAYS_MIN", 100_000)
        assert found()["calendar"].result == "warn" and "days off" in found()["calendar"].todo
    (kept / "10.toml").write_text("half of")
    assert found()["policy"].result == "fail" and "edition 10 or a higher one" in found()["policy"].todo
    config.write_text(re.sub("policy_public = .*\n", "", config.read_text()))
    (kept / "10.toml").unlink()
    assert found()["policy"].result == "warn" and "none is taken from HQ" in found()["policy"].found


def test_check_of_the_store(config: Path) -> None:
    conf = load(config)
    (conf.store.dir / "lane.db").write_bytes(b"this is no database" * 100)
    CacheFiles(conf.store.dir, bytes(32), "t1/lane-1", built=datetime.now(UTC), generation=4).finish()
    path_of(conf.store.dir, "control", 5).write_bytes(b"")
    found = {finding.name: finding for finding in checks.databases(conf)}
    assert found["lane.db"].result == "fail" and found["cache control"].result == "fail"
    assert found["cache people"].found == "0 rows, segment 0, confirmed 0.0 h ago"
    conf.store.dir.rename(conf.store.dir.with_name("gone"))
    assert [finding.result for finding in checks.databases(conf)] == ["fail"]


def test_check_of_disk_and_clock(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, result in ((100e6, "fail"), (1e9, "warn"), (100e9, "ok")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("U", (), {"free": free}))
        assert [finding.result for finding in checks.disk(load(config))] == [result]
    (clock,) = checks.clock()
    assert clock.result in ("ok", "warn") and clock.found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with the lane's rights")
def test_root_looks_with_the_lanes_rights(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with checks.as_owner(tmp_path) as name:
        assert (name, os.geteuid()) == ("nobody", 65534)
        assert 0 not in os.getgroups()
    assert os.geteuid() == os.getegid() == 0


def test_open_devices_tells_what_a_device_does() -> None:
    class Link:
        def __init__(self, bad: Exception | None) -> None:
            self.bad = bad

        async def open(self) -> None:
            if self.bad:
                raise self.bad

        async def close(self) -> None:
            pass

    from drivers.links import LinkLost

    bad: dict[str, Exception | None] = {
        "a": None,
        "b": LinkLost("port_busy", "/dev/x"),
        "c": ValueError("pin factory 'mock' is not real"),
        "d": RuntimeError("boom"),
    }
    here = Path.cwd()
    found = list(checks.open_devices(dict.fromkeys(bad, object()), lambda name, _: Link(bad[name])))
    assert [finding.result for finding in found] == ["ok", "fail", "fail", "fail"]
    assert Path.cwd() == here
    assert "fuser" in found[1].todo and "[c]" in found[2].todo and "boom" in found[3].found


@pytest.mark.parametrize(
    ("options", "finger_s", "warned"),
    [
        ({}, 8.0, True),
        ({}, 12.0, False),
        ({"baud_rate": 115200}, 8.0, False),
        ({"mode": "sensor"}, 8.0, False),
        ({"mode": "sensor"}, 3.0, True),
    ],
)
def test_check_warns_where_no_time_is_left_for_a_finger(options: dict[str, Any], finger_s: float, warned: bool) -> None:
    from drivers.fingerprint.zfm import Settings

    found = list(checks.time_for_fingers(Settings("/dev/x", **options), finger_s))
    assert [(finding.name, finding.result) for finding in found] == [("finger_s", "warn")] * warned
    assert not list(checks.time_for_fingers(None, 1.0)), "a lane without a reader"


def test_every_command_file_has_one_command() -> None:
    for spec, _ in COMMANDS.values():
        module, name = spec.split(":")
        file = ROOT / (module.replace(".", "/") + ".py")
        if file.exists():
            functions = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
            assert name in functions
