"""`gated device fingerprint test` as people and programs see it, and what `gated check` says of the reader."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from drivers.fingerprint import zfm
from drivers.links import LinkLost
from gated import control
from gated.biometrics.fingerquality import enrolment_floor
from gated.cli import checks
from gated.cli.check import look
from gated.cli.fingerview import ENDED, FLOORS, Tally, bar, view
from gated.cli.here import Here
from gated.config import load
from gated.control import Answer, Code, Refused, Request
from gated.control_peer import Peer
from gated.control_views import FingerLine, PrintView
from gated.icao.fingers import Finger
from tests.hw_sim.links import MemoryByteLink
from tests.hw_sim.zfm_sensor import ZfmSensor
from tests.test_cli import ROOT, Lane, config, run  # noqa: F401

TEST = ("device", "fingerprint", "test")


def seen(quality: int | None = 54, **changes: Any) -> PrintView:
    plain: PrintView = {
        "quality": quality,
        "usable": None if quality is None else quality >= 20,
        "advice": None if quality is None or quality >= 20 else "press_harder",
        "minutiae": 41,
        "width": 256,
        "height": 288,
        "ppi": 500.0,
        "picture_ms": 320,
        "look_ms": 25,
        "extract_ms": 90,
    }
    return plain | changes  # type: ignore[return-value]


def line(what: str, **more: Any) -> FingerLine:
    found: Any = {"what": what, "at_s": 1.0, **more}
    return found  # type: ignore[no-any-return]


def placed(*prints: PrintView) -> list[FingerLine]:
    return [each for one in prints for each in (line("waiting"), line("finger", print=one), line("lifted"))]


class Tried(Lane):
    """Answers a test with `tried`; then it ends, or waits for the client to hang up."""

    tried: list[FingerLine]
    waits = False

    async def _handle(self, request: Request, peer: Peer) -> Answer | AsyncIterator[Answer]:
        if isinstance(request, control.TestFingers) and control.TestFingers not in self.answers:
            self.asked.append(request)
            return self._lines()
        return await super()._handle(request, peer)

    async def _lines(self) -> AsyncIterator[Answer]:
        for each in self.tried:
            yield each
        if self.waits:
            await self._stop.wait()


@pytest.fixture
def lane(config: Path) -> Iterator[Tried]:  # noqa: F811
    running = Tried(config.parent / "c.sock")
    with running:
        yield running


# -- in a pipe -----------------------------------------------------------------------------------------------------


def test_lines_and_a_summary(config: Path, lane: Tried) -> None:  # noqa: F811
    lane.tried = [*placed(seen(), seen(10, minutiae=None, extract_ms=None), seen(60)), line("end", why="time")]
    result = run(config, *TEST, "--seconds", "20")
    assert result.exit_code == 0, result.output
    assert lane.asked == [control.TestFingers(20.0)]
    said = result.output.splitlines()
    assert "finger: quality 54, usable, 41 minutiae, 256 x 288 at 500 ppi, picture 320 ms" in said[1]
    assert said[4].endswith("look 25 ms, Please press a little harder.") and "not usable" in said[4]
    assert said[9:] == [
        "    1.0 end: the time is over",
        "",
        "prints   3, usable 2 (67%)",
        "quality  median 54",
        "slowest  435 ms from touch to judgement",
        "faults   none",
        "ended    the time is over",
        "Good: the gate can compare such prints, and HQ would enrol such fingers.",
    ]
    assert "\x1b" not in result.output


def test_in_json_the_last_line_is_the_summary(config: Path, lane: Tried) -> None:  # noqa: F811
    lane.tried = [*placed(seen()), line("fault", why="lost"), line("end", why="reader_lost")]
    result = run(config, *TEST, "--json")
    lines = [json.loads(each) for each in result.output.splitlines()]
    assert result.exit_code == 0, "a usable print was had"
    assert lines[:-1] == lane.tried
    assert lines[-1] == {
        "what": "summary", "prints": 1, "usable": 1, "usable_share": 1.0, "quality_median": 54, "slowest_ms": 435,
        "faults": {"lost": 1}, "why": "reader_lost", "verdict": "faulty",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prints", "why", "code", "verdict", "says"),
    [
        ([], "time", 1, "no_finger", "No finger was seen"),
        ([], "reader_lost", 1, "faulty", "fingerprint-readers.md"),
        ([seen(5), seen(8)], "time", 1, "no_usable", "No print is usable. Please press a little harder."),
        ([seen(None, usable=False, width=None, height=None)], "time", 1, "no_usable", "Clean the glass"),
        ([seen(25), seen(25), seen(60)], "time", 0, "weak", "Weak."),
        ([seen(90), seen(5), seen(5)], "time", 0, "weak", "Weak."),
        ([seen(31)], "service_over", 0, "good", "ended    service mode ended"),
        ([seen(None)], "time", 0, "unjudged", "nothing to judge them with"),
    ],
)
def test_verdicts(
    config: Path,  # noqa: F811
    lane: Tried,
    prints: list[PrintView],
    why: str,
    code: int,
    verdict: str,
    says: str,
) -> None:
    lane.tried = [*placed(*prints), line("end", why=why)]
    result = run(config, *TEST)
    assert result.exit_code == code and says in result.output, result.output
    assert json.loads(run(config, *TEST, "--json").output.splitlines()[-1])["verdict"] == verdict


def test_so_many_prints_are_enough(config: Path, lane: Tried) -> None:  # noqa: F811
    lane.tried, lane.waits = placed(seen(), seen(), seen()), True
    summary = json.loads(run(config, *TEST, "--json", "--prints", "2").output.splitlines()[-1])
    assert (summary["prints"], summary["why"]) == (2, "prints")


def test_a_daemon_that_ends_before_the_test_does(config: Path, lane: Tried) -> None:  # noqa: F811
    lane.tried = placed(seen())
    result = run(config, *TEST)
    assert result.exit_code == 69
    assert "prints   1, usable 1" in result.output and "the lane daemon ended" in result.output


def test_what_the_lane_refuses(config: Path, lane: Tried) -> None:  # noqa: F811
    lane.answers[control.TestFingers] = Refused(Code.REFUSED, "a test works only in service mode")
    result = run(config, *TEST)
    assert result.exit_code == 1 and "gated: a test works only in service mode" in result.output
    assert "prints" not in result.output
    assert run(config, *TEST, "--seconds", "601").exit_code == 2
    assert run(config, *TEST, "--prints", "0").exit_code == 2


def test_no_daemon(config: Path) -> None:  # noqa: F811
    result = run(config, *TEST)
    assert result.exit_code == 69 and "systemctl start gated-lane" in result.output
    assert "prints" not in result.output


# -- on a terminal ---------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_live_view_with_its_summary(config: Path, lane: Tried) -> None:  # noqa: F811
    lane.tried, lane.waits = placed(seen(), seen(12)), True
    main, side = pty.openpty()
    # Whoever started the tests in the background had Ctrl-C ignored, and that is inherited.
    program = "import signal; signal.signal(2, signal.default_int_handler); from gated.cli import main; main()"
    command = [sys.executable, "-c", program, "--config", str(config), *TEST]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "40"}
    shown = b""
    with subprocess.Popen(
        command, stdin=side, stdout=side, stderr=side, cwd=ROOT, env=env, start_new_session=True
    ) as process:
        os.close(side)
        while b"Please press a little harder." not in shown:
            shown += os.read(main, 65536)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # EIO: the other side of the terminal is closed
            while part := os.read(main, 65536):
                shown += part
    os.close(main)
    assert process.returncode == 0
    assert b"######---" in shown and b"s left" in shown
    assert shown.rindex(b"stopped by hand") > shown.rindex(b"s left")
    assert b"Traceback" not in shown and shown.endswith(b"\n")


def test_the_bar_shows_the_floors_of_enrolment() -> None:
    for finger in Finger:
        kind = finger.value.split("_")[1]
        assert [floor for floor, kinds in FLOORS.items() if kind in kinds.split(", ")] == [enrolment_floor(finger)]
    strokes, marks = bar(54)
    assert strokes == "#" * 27 + "-" * 23
    assert {floor: marks.index(f"^{floor}") * 2 for floor in FLOORS} == {floor: floor for floor in FLOORS}
    assert (bar(None)[0], bar(0)[0], bar(100)[0]) == ("-" * 50, "-" * 50, "#" * 50)


def test_the_live_view_keeps_the_last_ten() -> None:
    tally = Tally()
    for number in range(12):
        for each in placed(seen(30 + number)):
            tally.add(each)
    console = Console(width=110, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(view(tally, 12.4))
    shown = console.export_text()
    table = [row.split() for row in shown.splitlines() if "256 x 288" in row]
    assert [int(row[0]) for row in table] == list(range(12, 2, -1)), "the newest first"
    assert "12 s left" in shown and "enrolled from 10 ring, little, 20 middle, 30 thumb, index" in shown


def test_every_end_has_words() -> None:
    text = (ROOT / "gated/control_views.py").read_text()
    assert all(f"`{why}`" in text for why in ENDED if why not in ("prints", "stopped", ""))


# -- check ---------------------------------------------------------------------------------------------------------


def with_reader(path: Path) -> Path:
    """The configuration with a serial module that is not there."""
    port = path.with_name("no-such-module")
    path.write_text(path.read_text() + f'[fingerprint]\ndriver = "zfm"\nport = "{port}"\n[finger]\n')
    return path


def test_check_reads_the_sections_of_the_finger(config: Path) -> None:  # noqa: F811
    found = {finding.name: finding for finding in look(Here(with_reader(config), False))}
    assert found["config"].result == "ok" and "fingerprint" in found["config"].found
    reader = found["device fingerprint"]
    assert reader.result == "fail" and "no_such_port" in reader.found and "plugged in" in reader.todo
    assert found["model leader"].result == "fail", "this lane needs it, and it is not there"


def test_a_lane_without_a_reader_needs_no_network_for_fingers(config: Path) -> None:  # noqa: F811
    names = {finding.name for finding in checks.networks(load(config))}
    assert names == {"model yunet", "model sface"}


class Wired:
    """A serial line with a module at its far end (or nothing), served by whichever loop opens it."""

    def __init__(self, *, there: bool, password: int = 0) -> None:
        self.there, self.password = there, password
        self.closed = threading.Event()

    async def open(self) -> None:
        self.near, far = MemoryByteLink.pair()
        await self.near.open()
        if self.there:
            self.mirror = asyncio.ensure_future(ZfmSensor(far, Random(1), password=self.password).run())

    async def read(self) -> bytes:
        return await self.near.read()

    async def write(self, data: bytes) -> None:
        await self.near.write(data)

    async def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize(
    ("link", "result", "says"),
    [
        (Wired(there=True), "ok", "opens"),
        (Wired(there=False), "fail", "no_answer"),
        (Wired(there=True, password=7), "fail", "wrong_password"),
    ],
)
def test_check_hears_the_reader_itself(link: Wired, result: str, says: str) -> None:
    """A serial line opens whatever hangs on it."""
    settings = zfm.Settings("/dev/null", answer_s_max=0.1, frame_gap_s=0.01)
    (finding,) = checks.open_devices({"fingerprint": settings}, lambda *_: link)
    assert (finding.result, says in finding.found) == (result, True), finding
    assert link.closed.is_set()
    assert result == "ok" or "docs/fingerprint-readers.md" in finding.todo


def test_check_tells_what_the_link_says() -> None:
    class Missing(Wired):
        async def open(self) -> None:
            raise LinkLost("no_libfprint", "/usr/bin/python3: not there")

    (finding,) = checks.open_devices({"fingerprint": zfm.Settings("x")}, lambda *_: Missing(there=False))
    assert finding.result == "fail" and "apt-get install python3-gi" in finding.todo
