"""What every door driver does, whatever is below it. A subclass says how to play a scenario and make the driver."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import pytest

from drivers.base import Actuator
from drivers.links import LinkLost, PinLink
from gated.lane.commands import Indicate, Light, RequestOpen, WithdrawOpen
from gated.lane.events import (
    Device,
    DeviceReady,
    Door,
    DoorClosed,
    DoorOpened,
    DoorwayBlocked,
    DoorwayCleared,
    Event,
    FireEnded,
    FireStarted,
    HelpPressed,
    MainsBack,
    MainsLost,
    ObstacleHit,
    PersonPassed,
    PresenceChanged,
)
from tests.contract.ears import Ears, running

QUIET = ("a_closed", "b_closed", "mains")
"""The inputs that are active while nothing happens."""

IN = ("+a_outer", "+a_inner", "-a_outer", "-a_inner")
OUT = ("+a_inner", "+a_outer", "-a_inner", "-a_outer")


class Rig(Protocol):
    """The gate's side of one scenario."""

    link: PinLink
    step_s: float
    """The pace at which people move; slower than every debounce."""

    async def set(self, *moves: str) -> None:
        """Move inputs in this order, at once: "+a_outer" active, "-a_outer" inactive."""

    async def output(self, name: str) -> bool:
        """What is written to an output."""

    async def effective(self, name: str) -> bool:
        """What the gate sees of an output."""

    async def unplug(self) -> None:
        """Take the board away."""

    async def plug(self) -> None:
        """Bring the board back."""


Scenario = Callable[[Rig], Awaitable[None]]


async def quiet(rig: Rig) -> None:
    """Everything shut, free and empty."""
    await rig.set(*(f"+{name}" for name in QUIET))


async def walk(rig: Rig, *moves: str) -> None:
    """One move a step."""
    for move in moves:
        await rig.set(*move.split())
        await asyncio.sleep(rig.step_s)


async def eventually(wanted: bool, ask: Callable[[str], Awaitable[bool]], name: str, within_s: float = 1.0) -> None:
    """Wait until an output is as wanted."""
    async with asyncio.timeout(within_s):
        while await ask(name) is not wanted:
            await asyncio.sleep(0.01)


async def heard(ears: Ears, rig: Rig, at_least: int = 0) -> list[Event]:
    """What was said since the last question, once everything has settled and there is `at_least` so much."""
    deadline = asyncio.get_running_loop().time() + 3.0
    while len(ears.events) < at_least and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0 if at_least else rig.step_s * 4)
    said, ears.events = ears.events, []
    return said


class DoorContract:
    """The tests."""

    def play(self, scenario: Scenario) -> None:
        """Run a scenario on a fresh rig to its end."""
        raise NotImplementedError

    def device(self, rig: Rig, pulse: bool = False) -> Actuator:
        """A driver for a lane with both leaves and every sensor."""
        raise NotImplementedError

    def test_tells_how_everything_stands_and_then_that_it_is_ready(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.set("+a_closed", "+b_inner", "+presence_one", "+thing", "+fire")
            async with running(self.device(rig), ready=False) as ears:
                await ears.until(DoorClosed(Door.A))
                await asyncio.sleep(0)
                assert ears.events == [
                    DoorOpened(Door.B),
                    DoorwayCleared(Door.A),
                    DoorwayBlocked(Door.B),
                    PresenceChanged(1, True),
                    FireStarted(),
                    MainsLost(),
                    DeviceReady(Device.DOOR),
                ]

        self.play(scenario)

    def test_tells_every_change_once(self) -> None:
        async def scenario(rig: Rig) -> None:
            await quiet(rig)
            async with running(self.device(rig)) as ears:
                for moves, events in (
                    ("-a_closed", [DoorOpened(Door.A)]),
                    ("+a_open", []),
                    ("-a_open", []),
                    ("+a_closed", [DoorClosed(Door.A)]),
                    ("+presence_one", [PresenceChanged(1)]),
                    ("+presence_many", [PresenceChanged(2)]),
                    ("-presence_many", [PresenceChanged(1)]),
                    ("-presence_one", [PresenceChanged(0)]),
                    ("+thing", [PresenceChanged(0, True)]),
                    ("-thing", [PresenceChanged(0)]),
                    ("+b_obstacle", [ObstacleHit(Door.B)]),
                    ("-b_obstacle", []),
                    ("+fire", [FireStarted()]),
                    ("-fire", [FireEnded()]),
                    ("-mains", [MainsLost()]),
                    ("+mains", [MainsBack()]),
                    ("+helper", [HelpPressed()]),
                    ("-helper", []),
                ):
                    await rig.set(moves)
                    assert await heard(ears, rig, len(events)) == events, moves
                assert await heard(ears, rig) == []

        self.play(scenario)

    def test_bouncing_contacts_and_glitches_are_one_change_or_none(self) -> None:
        async def scenario(rig: Rig) -> None:
            await quiet(rig)
            async with running(self.device(rig)) as ears:
                await rig.set("-a_closed", "+a_closed", "-a_closed", "+a_closed", "-a_closed")
                await rig.set("+b_outer", "-b_outer", "+helper", "-helper", "+fire", "-fire")
                assert await heard(ears, rig) == [DoorOpened(Door.A)]

        self.play(scenario)

    @pytest.mark.parametrize(("moves", "passed"), [(IN, [True]), (OUT, [False]), (IN + OUT, [True, False])])
    def test_who_walks_through_is_counted(self, moves: tuple[str, ...], passed: list[bool]) -> None:
        async def scenario(rig: Rig) -> None:
            await quiet(rig)
            async with running(self.device(rig)) as ears:
                await walk(rig, *moves)
                said = await heard(ears, rig)
                assert [event.inward for event in said if isinstance(event, PersonPassed)] == passed
                assert said[0] == DoorwayBlocked(Door.A) and said[-1] == DoorwayCleared(Door.A)

        self.play(scenario)

    def test_asks_as_long_as_the_lane_asks_and_lives(self) -> None:
        async def scenario(rig: Rig) -> None:
            await quiet(rig)
            device = self.device(rig)
            async with running(device):
                device.do(RequestOpen(Door.A))
                await eventually(True, rig.effective, "a_request")
                for _ in range(10):  # well beyond the monoflop
                    await asyncio.sleep(0.1)
                    assert await rig.effective("a_request")
                    assert not await rig.output("b_request")
                device.do(WithdrawOpen(Door.A))
                await eventually(False, rig.output, "a_request")
                device.do(RequestOpen(Door.B))
                await eventually(True, rig.effective, "b_request")
            await eventually(False, rig.output, "b_request")

        self.play(scenario)

    def test_a_pulse_is_repeated_until_the_leaf_is_open(self) -> None:
        async def scenario(rig: Rig) -> None:
            await quiet(rig)
            device = self.device(rig, pulse=True)
            async with running(device) as ears:
                device.do(RequestOpen(Door.A))
                for _ in range(2):
                    await eventually(True, rig.effective, "a_request")
                    await eventually(False, rig.output, "a_request")
                await rig.set("-a_closed", "+a_open")
                await ears.until(DoorOpened(Door.A))
                await eventually(False, rig.output, "a_request")
                for _ in range(12):
                    await asyncio.sleep(0.05)
                    assert not await rig.output("a_request")
                await rig.set("-a_open")
                await eventually(True, rig.effective, "a_request")

        self.play(scenario)

    def test_before_it_is_ready_nothing_is_requested_and_nothing_remembered(self) -> None:
        async def scenario(rig: Rig) -> None:
            await quiet(rig)
            device = self.device(rig)
            device.do(RequestOpen(Door.A))
            async with running(device) as ears:
                await asyncio.sleep(0.2)
                assert not await rig.output("a_request")
                device.do(RequestOpen(Door.A))
                await eventually(True, rig.effective, "a_request")
                await rig.unplug()
                assert isinstance(await ears.fault(), LinkLost)
                device.do(RequestOpen(Door.A))
            async with running(device, ready=False) as ears:
                assert isinstance(await ears.fault(), LinkLost)
            await rig.plug()
            async with running(device, ready=False) as ears:
                await ears.until(DoorClosed(Door.A))
                await ears.until(DeviceReady(Device.DOOR))
                await asyncio.sleep(0.2)
                assert not await rig.output("a_request")
                device.do(RequestOpen(Door.A))
                await eventually(True, rig.effective, "a_request")

        self.play(scenario)

    def test_a_leaf_that_has_not_left_its_open_end_is_not_closed(self) -> None:
        async def scenario(rig: Rig) -> None:
            await quiet(rig)
            async with running(self.device(rig)) as ears:
                await rig.set("-a_closed", "+a_open")
                await ears.until(DoorOpened(Door.A))
                await rig.set("+a_closed")
                await asyncio.sleep(0.1)
                assert ears.events == []
                await rig.set("-a_open")
                await ears.until(DoorClosed(Door.A))

        self.play(scenario)

    def test_contacts_that_contradict_each_other_are_a_fault(self) -> None:
        async def scenario(rig: Rig) -> None:
            await quiet(rig)
            device = self.device(rig)
            async with running(device) as ears:
                device.do(RequestOpen(Door.B))
                await eventually(True, rig.effective, "b_request")
                await rig.set("+b_open")
                assert (await ears.fault()).why == "contacts_contradict"
                assert DoorClosed(Door.B) not in ears.events
            await eventually(False, rig.output, "b_request")
            async with running(device, ready=False) as ears:  # from the start: never ready
                assert (await ears.fault()).why == "contacts_contradict"
                assert ears.events == []

        self.play(scenario)

    def test_refuses_what_a_door_cannot_do(self) -> None:
        async def scenario(rig: Rig) -> None:
            with pytest.raises(TypeError, match="does not Indicate"):
                self.device(rig).do(Indicate(Door.A, Light.GREEN))

        self.play(scenario)
