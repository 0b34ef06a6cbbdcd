"""The GPIO door: its contract over memory and over gpiozero, its settings, its walkers, and the dead man."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.door import Beam, Debounce, Doorway
from drivers.door.gpio import Device, Settings
from drivers.links import Pin, PinChange
from drivers.links.pins import GpiozeroLink
from gated.config import ConfigError, load
from gated.lane.commands import RequestOpen
from gated.lane.events import DeviceReady, Door, DoorClosed, DoorwayBlocked, DoorwayCleared, Event, PersonPassed
from tests.contract.door import DoorContract, Rig, Scenario, heard, quiet, walk
from tests.contract.ears import running
from tests.hw_sim import virtual
from tests.hw_sim.gatesim import PinServer
from tests.hw_sim.pins import PinBoard
from tests.hw_sim.rigs import MemoryRig, over_socket

MANTRAP = Settings(
    factory="lgpio",
    alive=Pin(2),
    a_request=Pin(3),
    b_request=Pin("GPIO4", active_low=True),
    a_open=Pin(5),
    a_closed=Pin(6, active_low=True),
    a_outer=Pin(7),
    a_inner=Pin(8),
    a_obstacle=Pin(9),
    b_open=Pin(10),
    b_closed=Pin(11),
    b_outer=Pin(12, active_low=True),
    b_inner=Pin(13),
    b_obstacle=Pin(14),
    presence_one=Pin(15),
    presence_many=Pin(16),
    thing=Pin(17),
    fire=Pin(18),
    mains=Pin(19),
    helper=Pin(20),
    pulse_s=0.1,
    pulse_interval_s=0.25,
    contact_debounce_s=0.02,
    presence_debounce_s=0.04,
    button_debounce_s=0.02,
    contradiction_s_max=0.2,
)


def number(pin: Pin) -> Pin:
    """The electrician's view: GPIO4 is 4."""
    return replace(pin, pin=int(str(pin.pin).removeprefix("GPIO")))


def wiring(pins: Mapping[str, Pin]) -> dict[str, Pin]:
    return {name: number(pin) for name, pin in pins.items()}


class TestOverMemory(DoorContract):
    def play(self, scenario: Scenario) -> None:
        async def main() -> None:
            await scenario(MemoryRig())

        virtual.run(main())

    def device(self, rig: Rig, pulse: bool = False) -> Device:
        return Device(replace(MANTRAP, mode="pulse" if pulse else "level"), rig.link)


class TestOverGpiozero(TestOverMemory):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "pins"

    def play(self, scenario: Scenario) -> None:
        over_socket(self.path, wiring(MANTRAP.inputs), wiring(MANTRAP.outputs), scenario)


# -- walkers, in virtual time -------------------------------------------------------------------------------

WALKS: dict[str, tuple[tuple[str, ...], list[bool]]] = {
    "in": (("+o", "+i", "-o", "-i"), [True]),
    "out": (("+i", "+o", "-i", "-o"), [False]),
    "hesitates before the lane": (("+o", "-o", "+o", "-o", "+o", "+i", "-o", "-i"), [True]),
    "hesitates in the doorway": (("+o", "+i", "-i", "+i", "-i", "+i", "-o", "-i"), [True]),
    "hesitates at the end": (("+o", "+i", "-o", "+o", "-o", "+o", "-o", "-i"), [True]),
    "turns round at the first barrier": (("+o", "-o"), []),
    "turns round at the second barrier": (("+o", "+i", "-i", "-o"), []),
    "turns round when almost through": (("+o", "+i", "-o", "+o", "-i", "-o"), []),
    "comes from inside and turns round": (("+i", "+o", "-i", "+i", "-o", "-i"), []),
    "an arm": (("+i", "-i", "+i", "-i"), []),
    "two, one after the other": (("+o", "+i", "-o", "-i") * 2, [True, True]),
    "two, the second at the heels of the first": (("+o", "+i", "-o", "+o", "-i", "+i", "-o", "-i"), [True, True]),
    "three in a row": (
        ("+o", "+i", "-o", "+o", "-i", "+i", "-o", "+o", "-i", "+i", "-o", "-i"),
        [True, True, True],
    ),
    "in and out again": (("+o", "+i", "-o", "-i", "+i", "+o", "-i", "-o"), [True, False]),
    "thinner than the distance of the barriers": (("+o", "-o", "+i", "-i"), [True]),
    "thin, outwards": (("+i", "-i", "+o", "-o"), [False]),
    "an arm, and then thin": (("+o", "-o", "+o", "-o", "+i", "-i"), [True]),
    "an arm, somebody who turns round, an arm": (("+o", "-o", "+o", "+i", "-i", "-o", "+i", "-i"), []),
    "thin and back": (("+o", "-o", "+i", "-i", "+o", "-o"), [True]),
    "both barriers at one instant, goes in": (("+o +i", "-o", "-i"), [True]),
    "leaves both barriers at one instant": (("+o", "+i", "-o -i"), [True]),
    "both at one instant, twice: a power dip": (("+o +i", "-o -i"), []),
}


@pytest.mark.parametrize("door", list(Door))
@pytest.mark.parametrize("name", WALKS)
def test_walker(name: str, door: Door) -> None:
    moves, passed = WALKS[name]
    leaf = door.value.lower()

    async def main() -> None:
        rig = MemoryRig()
        await quiet(rig)
        async with running(Device(MANTRAP, rig.link)) as ears:
            spelt = [m.replace("o", f"{leaf}_outer").replace("i", f"{leaf}_inner") for m in moves]
            await walk(rig, *spelt)
            said = await heard(ears, rig)
            assert [e for e in said if isinstance(e, PersonPassed)] == [PersonPassed(door, p) for p in passed]
            assert said.count(DoorwayBlocked(door)) == said.count(DoorwayCleared(door)) > 0
            assert said[-1] == DoorwayCleared(door)

    virtual.run(main())


def doorway(outer: bool = False, inner: bool = False) -> Doorway:
    return Doorway(Door.A, outer, inner, 0.0, gap_s=0.4, stuck_s=10.0)


def test_a_body_too_slow_for_one_crossing_is_two_arms() -> None:
    way = doorway()
    said = [
        event for beam in (Beam.OUTER, Beam.INNER) for event in _touch(way, beam, 1.0 if beam is Beam.OUTER else 2.0)
    ]
    assert not any(isinstance(event, PersonPassed) for event in said)


def _touch(way: Doorway, beam: Beam, mono: float) -> list[Event]:
    return way.feed(beam, True, mono) + way.feed(beam, False, mono + 0.05)


def test_a_stuck_barrier_blocks_says_so_once_and_counts_nobody() -> None:
    way = doorway()
    assert way.feed(Beam.OUTER, True, 1.0) == [DoorwayBlocked(Door.A)]
    assert way.stuck(10.9) == []
    assert way.stuck(11.1) == [Beam.OUTER] and way.stuck(12.0) == []
    assert way.feed(Beam.INNER, True, 20.0) == []
    assert way.feed(Beam.OUTER, False, 21.0) == []
    assert way.feed(Beam.INNER, False, 22.0) == [DoorwayCleared(Door.A)]
    for beam, broken, mono in ((Beam.OUTER, True, 30.0), (Beam.INNER, True, 30.2), (Beam.OUTER, False, 30.4)):
        way.feed(beam, broken, mono)
    assert way.feed(Beam.INNER, False, 30.6) == [PersonPassed(Door.A, True), DoorwayCleared(Door.A)]
    way.feed(Beam.OUTER, True, 40.0)
    assert way.stuck(51.0) == [Beam.OUTER], "a new stretch is told anew"


def test_who_already_stood_there_at_the_start_came_from_nowhere() -> None:
    way = doorway(outer=True)
    assert way.feed(Beam.INNER, True, 1.0) == [] and way.feed(Beam.OUTER, False, 1.2) == []
    assert way.feed(Beam.INNER, False, 1.4) == [DoorwayCleared(Door.A)]


def test_no_sequence_of_beams_breaks_the_doorway_or_its_balance() -> None:
    """Every walk of up to ten moves: blocked and cleared alternate, and people come only as far as beams saw them."""
    for moves in itertools.product(Beam, repeat=10):
        way, said, broken = doorway(), list[Event](), dict.fromkeys(Beam, False)
        for step, beam in enumerate(moves):
            broken[beam] = not broken[beam]
            said += way.feed(beam, broken[beam], step * 0.1)
            assert way.blocked == any(broken.values())
        seals = [e for e in said if not isinstance(e, PersonPassed)]
        assert seals == [DoorwayBlocked(Door.A), DoorwayCleared(Door.A)] * (len(seals) // 2) + seals[len(seals) & ~1 :]
        assert sum(isinstance(e, PersonPassed) for e in said) <= len(moves) // 4 + len(moves) // 4


# -- time ---------------------------------------------------------------------------------------------------


def test_a_level_counts_once_it_held_and_from_when_it_began() -> None:
    level = Debounce(False, 0.01)
    level.feed(True, 1.0)
    level.feed(True, 1.005)
    assert level.due == pytest.approx(1.01) and level.settle(1.009) is None
    level.feed(False, 1.009)
    assert level.due is None and level.settle(2.0) is None
    level.feed(True, 3.0)
    assert level.settle(3.01) == 3.0 and level.active


BLOCKED, CLEARED = DoorwayBlocked(Door.A), DoorwayCleared(Door.A)


@pytest.mark.parametrize(
    ("edges", "events"),
    [
        ({"+a_outer": 0.0, "-a_outer": 0.002}, []),
        ({"+a_outer": 0.0, "-a_outer": 0.012}, [BLOCKED, CLEARED]),
        (
            {"+a_outer": 0.0, "+a_inner": 0.002, "-a_outer": 0.030, "-a_inner": 0.032},
            [BLOCKED, PersonPassed(Door.A, True), CLEARED],
        ),
        (
            {"+a_inner": 0.0, "+a_outer": 0.002, "-a_inner": 0.030, "-a_outer": 0.032},
            [BLOCKED, PersonPassed(Door.A, False), CLEARED],
        ),
    ],
)
def test_edges_that_are_heard_of_late_count_by_their_own_times(edges: dict[str, float], events: list[Event]) -> None:
    """The loop was busy: all of them arrive when the doorway is free again."""

    async def main() -> None:
        rig = MemoryRig()
        await quiet(rig)
        async with running(Device(MANTRAP, rig.link)) as ears:
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(0.05)
            rig.pins.late([PinChange(name[1:], name[0] == "+", now + at_s) for name, at_s in edges.items()])
            assert await heard(ears, rig) == events

    virtual.run(main())


def test_levels_that_are_read_in_the_middle_of_a_bounce_are_not_told() -> None:
    async def main() -> None:
        rig = MemoryRig()
        await rig.set("+b_closed", "+mains")
        async with running(Device(MANTRAP, rig.link), ready=False) as ears:
            await asyncio.sleep(0.005)
            await rig.set("+a_closed")
            await ears.until(DoorClosed(Door.A))
            await ears.until(DeviceReady)
            assert await heard(ears, rig) == []

    virtual.run(main())


def test_alive_toggles_at_its_pace_and_a_storm_of_edges_does_not_stop_it() -> None:
    async def main() -> None:
        rig = MemoryRig()
        await quiet(rig)
        async with running(Device(MANTRAP, rig.link)):
            before = rig.board.alive_edges
            await asyncio.sleep(1.0)
            assert 9 <= rig.board.alive_edges - before <= 11
            before = rig.board.alive_edges
            for _ in range(1000):
                await rig.set("+b_obstacle", "-b_obstacle")
                await asyncio.sleep(0.001)
            assert 9 <= rig.board.alive_edges - before <= 11

    virtual.run(main())


# -- settings ------------------------------------------------------------------------------------------------


def test_a_lane_of_one_leaf_has_no_leaf_a() -> None:
    single = Settings(factory="lgpio", alive=Pin(2), b_request=Pin(3), b_closed=Pin(4), b_outer=Pin(5), b_inner=Pin(6))

    async def main() -> None:
        rig = MemoryRig()
        await rig.set("+b_closed")
        device = Device(single, rig.link)
        async with running(device, ready=False) as ears:
            await ears.until(DoorClosed(Door.B))
            assert [type(event).__name__ for event in ears.events] == ["DoorwayCleared", "DeviceReady"]
            with pytest.raises(ValueError, match="a_request"):
                device.do(RequestOpen(Door.A))

    virtual.run(main())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a_inner": None}, "a_inner is missing"),
        ({"a_request": None}, "a_request is missing"),
        ({"presence_many": None}, "presence_many is missing"),
        ({"fire": Pin(19)}, "mains and fire are both on pin 19"),
        ({"alive_interval_s": 0.3}, "alive_interval_s"),
        ({"beam_debounce_s": 0.1}, "beam_debounce_s"),
        ({"pulse_s": 0.05}, "pulse_s"),
        ({"contact_debounce_s": -1.0}, "contact_debounce_s"),
        ({"contradiction_s_max": 0.0}, "contradiction_s_max"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(MANTRAP, **change)  # type: ignore[arg-type]


LANE_TOML = """
[lane]
id = "lane-1"
site = "test"
[keys]
cache = "a"
journal = "b"
hq_public = "c"
orders_public = "d"
receipts_public = "d"
[uplink]
host = "hq"
[door]
factory = "lgpio"
mode = "pulse"
alive = { pin = 2 }
b_request = { pin = "GPIO3" }
b_closed = { pin = 4, active_low = true }
b_outer = { pin = 5 }
b_inner = { pin = 6 }
"""


def test_settings_are_read_from_lane_toml(tmp_path: Path) -> None:
    file = tmp_path / "lane.toml"
    file.write_text(LANE_TOML)
    settings = load(file).section("door").into(Settings)
    assert settings.outputs == {"alive": Pin(2), "b_request": Pin("GPIO3")} and settings.mode == "pulse"
    assert settings.inputs["b_closed"] == Pin(4, active_low=True) and settings.doors == (Door.B,)
    file.write_text(LANE_TOML + "a_closed = { pin = 7 }\n")
    with pytest.raises(ConfigError, match=r"lane.toml:\d+: \[door\].*a_request is missing"):
        load(file).section("door").into(Settings)


# -- the pin factory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mock", "gatesim", "no_such", ""])
def test_a_factory_that_is_not_real_or_not_there_does_not_start(name: str) -> None:
    with pytest.raises(ValueError, match="lgpio, native"):
        GpiozeroLink(name)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("GPIOZERO_PIN_FACTORY", "mock"), ("GPIOZERO_PIN_FACTORY", "lgpio"), ("PIGPIO_ADDR", "10.0.0.1")],
)
def test_an_environment_that_points_elsewhere_does_not_start(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable):
        GpiozeroLink("native")
    GpiozeroLink("native", allow_env=True)


def test_an_environment_that_says_the_same_is_no_reason_not_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "native")
    GpiozeroLink("native")


def test_pins_that_cannot_be_had_are_a_lost_link_and_not_a_fall_back() -> None:
    """Off a Raspberry Pi gpiozero's own default would try one factory after the other."""
    if Path("/proc/device-tree/system/linux,revision").exists():
        pytest.skip("this is a Raspberry Pi")

    async def main() -> None:
        device = Device(MANTRAP, GpiozeroLink("native"))
        async with running(device, ready=False) as ears:
            assert (await ears.fault()).why == "pins_unavailable"

    asyncio.run(main())


# -- the dead man ---------------------------------------------------------------------------------------------

LANE = """
    import asyncio, sys, time
    from pathlib import Path
    from drivers.door.gpio import Device
    from drivers.links.pins import GpiozeroLink
    from gated.lane.commands import RequestOpen
    from gated.lane.events import DeviceReady, Door
    from tests.hw_sim.gatesim import SocketPins
    from tests.test_door_gpio import MANTRAP

    path = Path(sys.argv[1])

    async def main():
        device = Device(MANTRAP, GpiozeroLink(lambda: SocketPins(path), allow_env=True))
        ready = asyncio.Event()
        run = asyncio.create_task(device.run(lambda event: ready.set() if isinstance(event, DeviceReady) else None))
        await ready.wait()
        device.do(RequestOpen(Door.A))
        device.do(RequestOpen(Door.B))
        await asyncio.to_thread(sys.stdin.readline)
        print(time.monotonic(), flush=True)
        time.sleep(30)

    asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["hang", "kill"])
def test_outputs_fall_when_the_lane_hangs_or_dies(how: str, tmp_path: Path) -> None:
    async def main() -> None:
        board = PinBoard()
        falls: dict[str, float] = {}
        board.watch(lambda name, active, mono: None if active else falls.__setitem__(name, mono))
        server = PinServer(tmp_path / "pins", board, wiring(MANTRAP.inputs), wiring(MANTRAP.outputs))
        await server.start()
        for name in ("a_closed", "b_closed", "mains"):
            board.set_input(name, True)
        lane = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            textwrap.dedent(LANE),
            str(tmp_path / "pins"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        assert lane.stdin is not None and lane.stdout is not None
        try:
            async with asyncio.timeout(20):
                while not (board.effective("a_request") and board.effective("b_request")):
                    assert lane.returncode is None, "the lane did not start"
                    await asyncio.sleep(0.01)
                falls.clear()
                await asyncio.sleep(0.6)  # it lives: nothing falls
                assert not any(name.endswith("request") for name in falls)
                if how == "hang":
                    lane.stdin.write(b"now\n")
                    died = float(await lane.stdout.readline())
                else:
                    died = time.monotonic()
                    lane.send_signal(signal.SIGKILL)
                    await lane.wait()
                await asyncio.sleep(0.6)
        finally:
            if lane.returncode is None:
                lane.kill()
                await lane.wait()
            await server.stop()
        assert board.alive_mono <= died + 0.1
        for name in ("a_request", "b_request"):
            assert board.output(name), "the level itself stays: only the monoflop makes it fall"
            assert not board.effective(name) and falls[name] - died <= 0.5

    asyncio.run(main())
