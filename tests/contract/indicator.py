"""What every indicator driver does, whatever is below it."""

import asyncio

import pytest

from drivers.base import Actuator
from drivers.links import LinkLost
from gated.lane.commands import Indicate, Light, RequestOpen
from gated.lane.events import Device, DeviceReady, Door
from tests.contract.door import Rig, Scenario, eventually
from tests.contract.ears import running

LAMPS = ("a_green", "a_red", "b_green", "b_red")


async def lit(rig: Rig, *wanted: str) -> None:
    """Wait until these lamps and no others are lit."""
    for name in LAMPS:
        await eventually(name in wanted, rig.output, name)


class IndicatorContract:
    """The tests."""

    def play(self, scenario: Scenario) -> None:
        """Run a scenario on a fresh rig to its end."""
        raise NotImplementedError

    def device(self, rig: Rig) -> Actuator:
        """A driver for both sides."""
        raise NotImplementedError

    def test_is_dark_and_ready_and_then_shows_each_side_its_light(self) -> None:
        async def scenario(rig: Rig) -> None:
            device = self.device(rig)
            async with running(device, ready=False) as ears:
                await ears.until(DeviceReady(Device.INDICATOR))
                await lit(rig)
                for side in Door:
                    leaf = side.value.lower()
                    for light in (Light.GREEN, Light.RED):
                        device.do(Indicate(side, light))
                        await lit(rig, f"{leaf}_{light.value}")
                    device.do(Indicate(side, Light.OFF))
                    await lit(rig)
                device.do(Indicate(Door.A, Light.GREEN))
                device.do(Indicate(Door.B, Light.RED))
                await lit(rig, "a_green", "b_red")
                assert ears.events == []
            await lit(rig)

        self.play(scenario)

    def test_a_lost_board_ends_it_and_its_return_shows_the_latest_wish(self) -> None:
        async def scenario(rig: Rig) -> None:
            device = self.device(rig)
            async with running(device) as ears:
                device.do(Indicate(Door.A, Light.GREEN))
                await lit(rig, "a_green")
                await rig.unplug()
                assert isinstance(await ears.fault(), LinkLost)
            device.do(Indicate(Door.A, Light.RED))
            await rig.plug()
            async with running(device):
                await lit(rig, "a_red")

        self.play(scenario)

    def test_refuses_what_a_lamp_cannot_do(self) -> None:
        async def scenario(rig: Rig) -> None:
            with pytest.raises(TypeError, match="does not RequestOpen"):
                self.device(rig).do(RequestOpen(Door.A))
            await asyncio.sleep(0)

        self.play(scenario)
