"""A technician tries the reader: each placement in numbers, never beside a passenger, the reader dark afterwards."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from drivers.base import DeviceFault, Print
from gated import control
from gated.biometrics.face import Threshold
from gated.biometrics.finger import FingerError, PrintLook
from gated.cli import gated
from gated.control import Client, Code, Refused
from gated.control_peer import Peer
from gated.control_socket import serve
from gated.control_views import FingerLine, PrintView
from gated.daemon.fingers import Fingers
from gated.daemon.fingertest import AGAIN_S
from gated.icao.check import Check
from gated.lane.commands import CompareFinger
from gated.lane.events import Event, FingerCompared
from tests.hw_sim import virtual
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.happenings import Topology
from tests.hw_sim.simlane import Inline, sim_folder
from tests.hw_sim.touch import Picture
from tests.test_daemon_fingers import Reader as Scripted
from tests.test_daemon_requests import MEI, UPLINK, Asked

PRINT_KEYS = PrintView.__required_keys__
LINE_KEYS = {"waiting": set(), "lifted": set(), "finger": {"print"}, "fault": {"why"}, "end": {"why"}}
SHAPE = (288, 256)
GOOD, POOR, HOPELESS = 200, 100, 0
"""What the scripted engine makes of a grey."""


def grey(level: int, shape: tuple[int, int] = SHAPE) -> Picture:
    return np.full(shape, level, np.uint8)


class Engine:
    """Judges a picture by its grey; takes time for it."""

    model = "scripted"
    threshold = Threshold("test", 0.3, 1e-3)

    def __init__(self) -> None:
        self.extracted = 0

    def look(self, image: Any, ppi: float) -> PrintLook:
        if image[0, 0] == HOPELESS:
            raise FingerError("no ridges")
        level = int(image[0, 0])
        return PrintLook(level // 3, level >= GOOD, None if level >= GOOD else "press_harder")

    def extract(self, image: Any, ppi: float) -> Any:
        self.extracted += 1
        return range(41)

    def score(self, minutiae: Any, template: bytes) -> float:
        return 0.9


class Reader(Scripted):
    """Brings real pictures, 0.3 s after the touch."""

    took_s = 0.3

    async def scan(self, template: bytes | None = None) -> Print:
        await self._until(lambda: self.on is not None)
        mono = asyncio.get_running_loop().time()
        self.dark = False
        try:
            await asyncio.sleep(self.took_s)
        finally:
            self.dark = True
        if self.lost:
            raise DeviceFault("gone")
        self.scans += 1
        on: Any = self.on
        return on if isinstance(on, Print) else Print(on, 500.0, mono)


class Rig:
    """A desk, its reader, and what a test of it tells."""

    def __init__(self, *, judged: bool = True, compares: str = "") -> None:
        self.reader = Reader(compares)
        self.engine = Engine()
        self.workers = Inline(RecordedFaces(1), self.engine if judged else None)
        self.told: list[Event] = []
        self.desk = Fingers(self.reader, self.workers, self.told.append, lambda who, which: b"template")
        self.lines: list[FingerLine] = []

    def test(self, seconds: float = 30.0) -> "asyncio.Task[None]":
        return asyncio.ensure_future(self._follow(self.desk.test(seconds)))

    async def _follow(self, lines: AsyncIterator[FingerLine]) -> None:
        async for line in lines:
            self.lines.append(line)

    async def place(self, finger: Any, for_s: float = 1.0) -> None:
        self.reader.lay(finger)
        await asyncio.sleep(for_s)
        self.reader.lay(None)
        await asyncio.sleep(0.1)

    @property
    def said(self) -> list[str]:
        return [line["what"] + (f" {line['why']}" if "why" in line else "") for line in self.lines]

    @property
    def prints(self) -> list[PrintView]:
        return [line["print"] for line in self.lines if "print" in line]


def play(walk: Callable[[Rig], Coroutine[Any, Any, None]], **how: Any) -> Rig:
    """In virtual time. The reader is dark in the end, and nothing was told that is not on the list."""
    rigs = []

    async def main() -> None:
        rig = Rig(**how)
        rigs.append(rig)
        assert rig.reader.dark
        await walk(rig)
        assert rig.reader.dark, "while nobody tests"
        rig.desk.close()
        await asyncio.sleep(0)

    virtual.run(main())
    closed_list(rigs[0].lines)
    return rigs[0]


def closed_list(lines: list[Any]) -> None:
    """Numbers, codes and nothing else: no picture, no template, no place of a minutia."""
    for line in lines:
        assert line.keys() == {"what", "at_s"} | LINE_KEYS[line["what"]]
        if "print" in line:
            assert line["print"].keys() == PRINT_KEYS
            assert all(value is None or isinstance(value, int | float | str) for value in line["print"].values())
    assert len(json.dumps(lines)) < 400 * max(1, len(lines))


# -- the desk ------------------------------------------------------------------------------------------------------


def test_every_placement_is_told_in_numbers() -> None:
    async def walk(rig: Rig) -> None:
        test = rig.test(10.0)
        await asyncio.sleep(1.0)
        assert not rig.reader.dark
        await rig.place(grey(GOOD))
        await rig.place(grey(POOR))
        await test

    rig = play(walk)
    assert rig.said == ["waiting", "finger", "lifted", "waiting", "finger", "lifted", "waiting", "end time"]
    assert rig.prints[0] == {
        "quality": 66, "usable": True, "advice": None, "minutiae": 41, "width": 256, "height": 288, "ppi": 500.0,
        "picture_ms": 300, "look_ms": 100, "extract_ms": 100,
    }  # fmt: skip
    assert (rig.prints[1]["quality"], rig.prints[1]["usable"], rig.prints[1]["advice"]) == (33, False, "press_harder")
    assert (rig.prints[1]["minutiae"], rig.engine.extracted) == (None, 1), "as for a passenger: not worth extracting"
    assert [line["at_s"] for line in rig.lines] == sorted(line["at_s"] for line in rig.lines)
    assert rig.lines[-1]["at_s"] == 10.0
    assert rig.told == [], "no event: the lane knows nothing of it"


def test_without_an_engine_the_picture_is_told_of() -> None:
    async def walk(rig: Rig) -> None:
        test = rig.test(3.0)
        await rig.place(grey(GOOD))
        await test

    (seen,) = play(walk, judged=False).prints
    assert (seen["width"], seen["height"], seen["picture_ms"]) == (256, 288, 300)
    assert (seen["usable"], seen["quality"], seen["look_ms"], seen["minutiae"]) == (None, None, None, None)


def test_a_sensor_that_compares_by_itself_is_asked_for_pictures() -> None:
    async def walk(rig: Rig) -> None:
        test = rig.test(3.0)
        await rig.place(grey(GOOD))
        await test

    rig = play(walk, compares="zfm")
    assert (rig.prints[0]["quality"], rig.prints[0]["minutiae"], rig.engine.extracted) == (66, None, 0)


def test_no_picture_and_what_is_none() -> None:
    async def walk(rig: Rig) -> None:
        test = rig.test(5.0)
        await rig.place(Print(None, 508.0, asyncio.get_running_loop().time(), advice="hold_finger"))
        await rig.place(grey(HOPELESS))
        await rig.place(grey(GOOD))
        await test

    rig = play(walk)
    none, hopeless, good = rig.prints
    assert (none["usable"], none["advice"], none["width"], none["quality"]) == (False, "hold_finger", None, None)
    assert (hopeless["usable"], hopeless["quality"], hopeless["width"]) == (False, None, 256)
    assert good["usable"], "it goes on"
    assert "fault not_a_picture" in rig.said


def test_a_reader_that_rattles_does_not_pile_up_lines() -> None:
    async def walk(rig: Rig) -> None:
        mono = asyncio.get_running_loop().time()

        async def rattle(template: bytes | None = None) -> Print:
            return Print(None, 500.0, mono, advice="lift_finger")

        rig.reader.scan = rattle  # type: ignore[method-assign]
        await rig.test(10.0)

    assert 10 < len(play(walk).lines) <= 3 * 10 / AGAIN_S + 3


def test_a_reader_that_is_lost_ends_it() -> None:
    async def walk(rig: Rig) -> None:
        test = rig.test()
        await rig.place(grey(GOOD))
        rig.reader.unplug()
        await test

    assert play(walk).said == ["waiting", "finger", "lifted", "waiting", "fault gone", "end reader_lost"]


def test_inference_that_fails_ends_it() -> None:
    async def walk(rig: Rig) -> None:
        rig.workers.broken = True
        test = rig.test()
        with capture_logs() as logs:
            await rig.place(grey(GOOD))
        await test
        assert [each["log_level"] for each in logs] == ["error"]

    assert play(walk).said == ["waiting", "end failed"]


@pytest.mark.parametrize("on", [None, grey(GOOD)])
def test_whoever_hangs_up_leaves_the_reader_dark(on: Any) -> None:
    """While a finger is awaited, and while one lies on."""

    async def walk(rig: Rig) -> None:
        rig.reader.lay(on)
        test = rig.test()
        await asyncio.sleep(2.0)
        assert not rig.reader.dark
        test.cancel()
        await asyncio.gather(test, return_exceptions=True)
        assert rig.reader.dark
        rig.reader.lay(None)
        again = rig.test(1.0)
        await again
        assert rig.said[-1] == "end time", "and it can be tested again"

    play(walk)


def test_an_iterator_that_is_closed_ends_it() -> None:
    """As the control socket does it, between two lines."""

    async def walk(rig: Rig) -> None:
        lines = rig.desk.test(30.0)
        assert isinstance(lines, AsyncGenerator)
        assert (await anext(lines))["what"] == "waiting"
        await asyncio.sleep(1.0)
        assert not rig.reader.dark
        await lines.aclose()
        assert rig.reader.dark

    play(walk)


def test_never_beside_a_passenger() -> None:
    async def walk(rig: Rig) -> None:
        rig.desk.compare(CompareFinger(1, 1, 7, "right_index", 8.0))
        await asyncio.sleep(1.0)
        with pytest.raises(Refused) as caught:
            await rig.test()
        assert caught.value.code is Code.BUSY
        await rig.place(grey(GOOD))
        assert [type(each) for each in rig.told] == [FingerCompared], "the passenger did not notice"
        test = rig.test()
        await asyncio.sleep(1.0)
        with pytest.raises(Refused) as caught:
            await rig.test()
        assert caught.value.code is Code.BUSY
        rig.desk.compare(CompareFinger(2, 1, 7, "right_index", 8.0))
        await test
        assert rig.said == ["waiting", "end passenger"], "whatever the lane thinks: the passenger comes first"
        await rig.place(grey(GOOD))
        assert isinstance(rig.told[-1], FingerCompared) and rig.told[-1].result is Check.SUCCESSFUL

    play(walk)


def test_a_desk_without_a_reader_refuses() -> None:
    async def main() -> None:
        desk = Fingers(None, Inline(RecordedFaces(1)), print, lambda who, which: b"")
        with pytest.raises(Refused, match=r"no fingerprint reader: see \[fingerprint\]"):
            await anext(desk.test(1.0))

    virtual.run(main())


# -- the lane ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    with sim_folder() as made:
        yield made


def lane_of(folder: Path, script: Callable[[Asked], Coroutine[Any, Any, None]]) -> Asked:
    lane = Asked(5, Topology.MANTRAP, folder, passengers=0)
    lane.upsets = lambda _: [script(lane)]
    return lane


def in_lane(folder: Path, script: Callable[[Asked], Coroutine[Any, Any, None]]) -> None:
    """A whole lane in virtual time, with a module in sensor mode."""
    lane = lane_of(folder, script)
    with capture_logs():
        virtual.run(lane.run())


async def dark(lane: Asked) -> bool:
    """The sensor is not asked to look any more."""
    await asyncio.sleep(0.5)
    before = lane.sensor.captures
    await asyncio.sleep(1.0)
    return bool(lane.sensor.captures == before)


async def follow(lane: Asked, lines: list[Any], seconds: float = 60.0) -> None:
    async for line in await lane.ask(control.TestFingers(seconds)):
        lines.append(line)


def test_the_lane_in_service_tests_its_module(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        lines: list[Any] = []
        await lane.ask(control.ServiceOn("Mei Lin"))
        lane.app.workers.fingers = Engine()
        test = asyncio.ensure_future(follow(lane, lines, 20.0))
        await asyncio.sleep(1.0)
        assert not await dark(lane)
        await lane.sensor.touch(grey(GOOD, lane.sensor.shape))
        await asyncio.sleep(3.0)
        await lane.sensor.lift()
        await test
        closed_list(lines)
        assert [line["what"] for line in lines] == ["waiting", "finger", "lifted", "waiting", "end"]
        assert (lines[1]["print"]["quality"], lines[1]["print"]["width"]) == (204 // 3, 256)
        assert lines[-1]["why"] == "time"
        assert await dark(lane)

    in_lane(folder, script)


def test_outside_of_service_it_is_refused(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        no = await lane.refused(control.TestFingers(5.0))
        assert no.code is Code.REFUSED and "service mode" in no.why
        assert await dark(lane)

    in_lane(folder, script)


def test_it_ends_with_service(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        lines: list[Any] = []
        await lane.ask(control.ServiceOn("Mei Lin"))
        test = asyncio.ensure_future(follow(lane, lines))
        await asyncio.sleep(1.0)
        await lane.ask(control.ServiceOff("Mei Lin"))
        await test
        assert [line.get("why") for line in lines] == [None, "service_over"]
        assert await dark(lane)

    in_lane(folder, script)


def test_it_ends_with_the_cable(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        lines: list[Any] = []
        await lane.ask(control.ServiceOn("Mei Lin"))
        test = asyncio.ensure_future(follow(lane, lines))
        await asyncio.sleep(1.0)
        lane.cables["fingerprint"][0].unplug()
        await test
        assert [line.get("why") for line in lines] == [None, "lost", "reader_lost"]
        no = await lane.refused(control.TestFingers(5.0))
        assert no.code is Code.REFUSED and "is lost" in no.why
        lane.cables["fingerprint"][0].plug()
        lane.mirror("fingerprint")
        await lane.until(lambda: lane.app.device_states()["fingerprint"] == "ready")
        lines.clear()
        await follow(lane, lines, 2.0)
        assert lines[-1]["why"] == "time"

    in_lane(folder, script)


def test_a_lane_without_a_reader_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(lane: Asked) -> None:
        states = dict(lane.app.device_states())
        del states["fingerprint"]
        monkeypatch.setattr(lane.app.requests._status, "_devices", lambda: states)
        monkeypatch.setattr(lane.app.fingers, "_reader", None)
        with pytest.raises(Refused, match=r"no fingerprint reader"):
            await follow(lane, [])

    in_lane(folder, script)


# -- the socket ----------------------------------------------------------------------------------------------------


def over_the_socket(folder: Path, script: Callable[[Asked, Path], Coroutine[Any, Any, None]]) -> None:
    """The same lane in real time, behind its control socket."""

    async def served(lane: Asked) -> None:
        path = folder / "control.sock"
        async with serve(path, lane.app.requests.handle, technician_group="none", uplink_user="nobody"):
            await script(lane, path)

    lane = lane_of(folder, served)
    with capture_logs():
        asyncio.run(lane.run())


def test_over_the_socket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights; the command itself; a client that hangs up."""

    async def script(lane: Asked, path: Path) -> None:
        lane.sensor.capture_s = 0.01
        client = Client(path)
        command = [
            "--config",
            str(lane.config_path),
            "device",
            "fingerprint",
            "test",
            "--seconds",
            "20",
            "--prints",
            "1",
        ]

        def test(*more: str) -> Any:
            return CliRunner().invoke(gated, [*command, *more])

        refused = await asyncio.to_thread(test)
        assert refused.exit_code == 1 and "service mode" in refused.output

        await lane.ask(control.ServiceOn("Mei Lin"))
        await lane.sensor.touch(grey(GOOD, lane.sensor.shape))
        lane.app.workers.fingers = Engine()
        result = await asyncio.to_thread(test, "--json")
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert result.exit_code == 0, result.output
        closed_list(lines[:-1])
        assert [line["what"] for line in lines] == ["waiting", "finger", "summary"]
        assert (lines[-1]["why"], lines[-1]["usable"], lines[-1]["quality_median"]) == ("prints", 1, 68)
        assert await dark(lane), "the client has hung up"
        await lane.sensor.lift()

        stream = client.stream(control.TestFingers(20.0))
        assert (await asyncio.to_thread(next, stream))["what"] == "waiting"
        assert not await dark(lane)
        stream.close()
        assert await dark(lane)

        for peer in (UPLINK, Peer(1005, 1005, 9, "guest", frozenset())):
            monkeypatch.setattr(Peer, "of", lambda _, peer=peer: peer)
            denied = await asyncio.to_thread(test)
            assert denied.exit_code == 77 and "needs operate" in denied.output
        monkeypatch.undo()
        assert Peer.rights(MEI, "gated-tech", "gated-uplink") >= {control.TestFingers.needs}

    over_the_socket(folder, script)
