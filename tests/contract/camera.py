"""What every camera driver does, whatever is below it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import pytest

from drivers.base import Camera, DeviceFault
from drivers.links import LinkLost
from gated.lane.events import Device, DeviceReady
from tests.contract.ears import running
from tests.hw_sim.video import Fault

WIDTH, HEIGHT = 320, 240
FREEZE_S_MAX = 0.5
BLACK_S_MAX = 0.4
TIMEOUT_S = 0.4
"""What a subclass sets up: the size of the pictures, both limits, and the time-outs of its link."""


class Rig(Protocol):
    """The camera's side of one scenario."""

    async def fault(self, fault: Fault | None) -> None:
        """Go wrong from now on; None: work again."""


Scenario = Callable[[Rig, Camera], Awaitable[None]]


class CameraContract:
    """The tests."""

    def play(self, scenario: Scenario) -> None:
        """Run a scenario on a fresh rig and driver to its end."""
        raise NotImplementedError

    def test_pictures_come_one_after_the_other(self) -> None:
        async def scenario(rig: Rig, camera: Camera) -> None:
            async with running(camera) as ears:
                mono = float("-inf")
                for _ in range(5):
                    frame = await camera.next(mono)
                    assert mono < frame.mono <= asyncio.get_running_loop().time()
                    assert frame.image.shape == (HEIGHT, WIDTH, 3)
                    mono = frame.mono
                assert (await camera.next(float("-inf"))).mono >= mono  # the newest at once
                assert ears.events == []

        self.play(scenario)

    def test_a_picture_asked_for_is_newer_than_asked(self) -> None:
        async def scenario(rig: Rig, camera: Camera) -> None:
            async with running(camera):
                now = asyncio.get_running_loop().time()
                frames = await asyncio.gather(*(camera.next(now) for _ in range(3)))
                assert all(frame.mono > now for frame in frames)

        self.play(scenario)

    def test_no_camera_no_pictures(self) -> None:
        async def scenario(rig: Rig, camera: Camera) -> None:
            with pytest.raises(DeviceFault, match="not_started"):
                await camera.next(0.0)
            async with running(camera):
                ahead = asyncio.get_running_loop().time() + 1000
                waiting = asyncio.create_task(camera.next(ahead))
                await asyncio.sleep(0.05)
            with pytest.raises(DeviceFault, match="stopped"):
                await waiting
            with pytest.raises(DeviceFault, match="stopped"):
                await camera.next(0.0)

        self.play(scenario)

    @pytest.mark.parametrize(
        ("fault", "why", "within_s"),
        [
            (Fault.FREEZE, "frozen", FREEZE_S_MAX),
            (Fault.BLACK, "black", BLACK_S_MAX),
            (Fault.STALL, "read_timeout", TIMEOUT_S),
            (Fault.DISCONNECT, "no_picture", 0.0),
        ],
    )
    def test_what_goes_wrong_is_told_in_time_and_to_those_who_wait(
        self, fault: Fault, why: str, within_s: float
    ) -> None:
        async def scenario(rig: Rig, camera: Camera) -> None:
            async with running(camera) as ears:
                await camera.next(float("-inf"))
                loop = asyncio.get_running_loop()
                began = loop.time()
                waiting = asyncio.create_task(camera.next(began + 1000))
                await rig.fault(fault)
                assert (await ears.fault()).why == why
                assert loop.time() - began <= within_s + 1.0
                with pytest.raises(DeviceFault, match=why):
                    await waiting
                with pytest.raises(DeviceFault, match=why):
                    await camera.next(float("-inf"))
            await rig.fault(None)
            async with running(camera) as ears:  # the supervisor starts it again, on the same object
                assert (await camera.next(loop.time())).image.shape == (HEIGHT, WIDTH, 3)

        self.play(scenario)

    def test_a_frozen_picture_is_handed_out_once(self) -> None:
        async def scenario(rig: Rig, camera: Camera) -> None:
            async with running(camera):
                await rig.fault(Fault.FREEZE)
                await asyncio.sleep(FREEZE_S_MAX * 0.6)
                with pytest.raises(DeviceFault, match="frozen"):
                    await camera.next(asyncio.get_running_loop().time())

        self.play(scenario)

    @pytest.mark.parametrize(
        ("fault", "whys"),
        [
            (Fault.BLACK, {"black"}),
            (Fault.WRONG_SIZE, {"wrong_size"}),
            (Fault.BLACK_HOLE, {"open_timeout", "cannot_open"}),
            (Fault.DISCONNECT, {"cannot_open"}),
        ],
    )
    def test_a_camera_that_is_wrong_from_the_start_is_never_ready(self, fault: Fault, whys: set[str]) -> None:
        async def scenario(rig: Rig, camera: Camera) -> None:
            await rig.fault(fault)
            async with running(camera, ready=False) as ears:
                lost = await ears.fault()
                assert lost.why in whys and ears.events == []
                assert isinstance(lost, LinkLost) == (fault in (Fault.BLACK_HOLE, Fault.DISCONNECT))

        self.play(scenario)

    def test_is_ready_when_the_light_goes_on(self) -> None:
        async def scenario(rig: Rig, camera: Camera) -> None:
            await rig.fault(Fault.BLACK)
            async with running(camera, ready=False) as ears:
                waiting = asyncio.create_task(camera.next(float("-inf")))
                await asyncio.sleep(BLACK_S_MAX * 0.5)
                assert ears.events == [] and not waiting.done()
                await rig.fault(None)
                await ears.until(DeviceReady(Device.CAMERA))
                assert (await waiting).image.mean() > 50

        self.play(scenario)
