"""The GPIO indicator: its contract over memory and over gpiozero, its settings, and no two lamps at once."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.door.gpio import Device as DoorDevice
from drivers.indicator.gpio import Device, Settings
from drivers.links import Pin
from drivers.links.pins import GpiozeroLink
from gated.lane.commands import Indicate, Light, RequestOpen
from gated.lane.events import Door
from tests.contract.door import Rig, Scenario, eventually, quiet
from tests.contract.ears import running
from tests.contract.indicator import IndicatorContract
from tests.hw_sim import virtual
from tests.hw_sim.gatesim import SocketPins
from tests.hw_sim.pins import MemoryPins
from tests.hw_sim.rigs import MemoryRig, SocketRig, over_socket
from tests.test_door_gpio import MANTRAP, wiring

LAMPS = Settings(
    factory="lgpio",
    a_green=Pin(21),
    a_red=Pin(22, active_low=True),
    b_green=Pin(23),
    b_red=Pin(24),
)


class TestOverMemory(IndicatorContract):
    def play(self, scenario: Scenario) -> None:
        async def main() -> None:
            await scenario(MemoryRig())

        virtual.run(main())

    def device(self, rig: Rig) -> Device:
        return Device(LAMPS, rig.link)


class TestOverGpiozero(TestOverMemory):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "pins"

    def play(self, scenario: Scenario) -> None:
        over_socket(self.path, {}, wiring(LAMPS.outputs), scenario)


def test_green_and_red_are_never_lit_together() -> None:
    async def main() -> None:
        rig = MemoryRig()
        both: list[float] = []
        rig.board.watch(
            lambda name, active, mono: (
                both.append(mono) if rig.board.output("a_green") and rig.board.output("a_red") else None
            )
        )
        device = Device(LAMPS, rig.link)
        async with running(device):
            for light in (Light.GREEN, Light.RED, Light.GREEN, Light.RED):
                device.do(Indicate(Door.A, light))
                await asyncio.sleep(0.01)
        assert both == []

    virtual.run(main())


def test_a_lamp_that_the_lane_does_not_have_is_nobodys_fault() -> None:
    async def main() -> None:
        rig = MemoryRig()
        device = Device(Settings(factory="lgpio", b_green=Pin(21)), rig.link)
        async with running(device) as ears:
            device.do(Indicate(Door.A, Light.GREEN))
            device.do(Indicate(Door.B, Light.RED))
            device.do(Indicate(Door.B, Light.GREEN))
            assert rig.board.output("b_green") and ears.run is not None and not ears.run.done()

    virtual.run(main())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a_green": None, "a_red": None, "b_green": None, "b_red": None}, "name one"),
        ({"a_red": Pin(21)}, "a_red and a_green are both on pin 21"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(LAMPS, **change)  # type: ignore[arg-type]


def test_door_and_lamps_share_a_factory_and_one_going_leaves_the_other(tmp_path: Path) -> None:
    """gpiozero's factories of one chip close each other's pins; links of one process must not."""

    async def main() -> None:
        path = tmp_path / "pins"
        outputs = wiring({**MANTRAP.outputs, **LAMPS.outputs})
        async with SocketRig(path, wiring(MANTRAP.inputs), outputs) as rig:
            await quiet(rig)

            def factory() -> SocketPins:
                made.append(path)
                return SocketPins(path)

            made: list[Path] = []
            door = DoorDevice(MANTRAP, GpiozeroLink(factory, allow_env=True))
            lamps = Device(LAMPS, GpiozeroLink(factory, allow_env=True))
            async with running(door) as ears:
                door.do(RequestOpen(Door.A))
                async with running(lamps):
                    lamps.do(Indicate(Door.A, Light.GREEN))
                    await eventually(True, rig.output, "a_green")
                await eventually(False, rig.output, "a_green")
                await asyncio.sleep(0.5)
                assert await rig.effective("a_request") and ears.run is not None and not ears.run.done()
            assert made == [path]
            async with running(lamps):
                assert made == [path, path]

    asyncio.run(main())


def test_two_links_in_memory_share_a_board() -> None:
    async def main() -> None:
        rig = MemoryRig()
        await quiet(rig)
        door, lamps = DoorDevice(MANTRAP, rig.link), Device(LAMPS, MemoryPins(rig.board))
        async with running(door), running(lamps):
            door.do(RequestOpen(Door.B))
            lamps.do(Indicate(Door.B, Light.GREEN))
            await asyncio.sleep(1)
            assert rig.board.effective("b_request") and rig.board.effective("b_green")

    virtual.run(main())
