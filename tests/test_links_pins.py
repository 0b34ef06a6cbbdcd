"""The pin link alone, over gpiozero's mock (which no configuration can name): edges, threads, floods, closing."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory

from drivers.links import LinkLost, Pin, PinChange
from drivers.links.pins import CHANGES_MAX, RESCAN_S, GpiozeroLink

INPUTS = {"one": Pin(17), "two": Pin("GPIO18", active_low=True)}
OUTPUTS = {"plain": Pin(2), "inverse": Pin(5, active_low=True)}


def play(scenario: Callable[[GpiozeroLink, Any], Awaitable[None]]) -> None:
    """Run `scenario` on an open link and its factory."""

    async def main() -> None:
        made: list[Any] = []

        def factory() -> Any:
            made.append(MockFactory())
            return made[-1]

        link = GpiozeroLink(factory, pull="up", allow_env=True)
        assert await link.open(INPUTS, OUTPUTS) == {"one": True, "two": False}
        try:
            await scenario(link, made[0])
        finally:
            await link.close()

    asyncio.run(main())


async def told(link: GpiozeroLink, within_s: float = 1.0) -> tuple[str, bool]:
    async with asyncio.timeout(within_s):
        change = await link.next()
    assert isinstance(change, PinChange) and 0 <= asyncio.get_running_loop().time() - change.mono < within_s
    return change.name, change.active


async def silence(link: GpiozeroLink) -> None:
    with pytest.raises(TimeoutError):
        await told(link, RESCAN_S * 2.5)


def test_levels_are_logical_both_ways() -> None:
    async def scenario(link: GpiozeroLink, factory: Any) -> None:
        factory.pin(17).drive_low()
        assert await told(link) == ("one", False)
        factory.pin(18).drive_low()
        assert await told(link) == ("two", True)
        assert not factory.pin(2).state and factory.pin(5).state
        link.write("plain", True)
        link.write("inverse", True)
        assert factory.pin(2).state and not factory.pin(5).state
        await silence(link)

    play(scenario)


def test_edges_come_from_threads_in_their_order() -> None:
    async def scenario(link: GpiozeroLink, factory: Any) -> None:
        def edges() -> None:
            for _ in range(50):
                factory.pin(17).drive_low()
                factory.pin(17).drive_high()

        thread = threading.Thread(target=edges)
        thread.start()
        said = [await told(link) for _ in range(100)]
        thread.join()
        assert said == [("one", False), ("one", True)] * 50
        await silence(link)

    play(scenario)


def test_an_edge_that_the_factory_lost_is_told_late() -> None:
    async def scenario(link: GpiozeroLink, factory: Any) -> None:
        factory.pin(17)._state = False
        assert await told(link, RESCAN_S * 5) == ("one", False)
        await silence(link)

    play(scenario)


def test_a_flood_that_nobody_reads_is_bounded_and_ends_with_the_truth() -> None:
    async def scenario(link: GpiozeroLink, factory: Any) -> None:
        for _ in range(CHANGES_MAX):
            factory.pin(17).drive_low()
            factory.pin(17).drive_high()
            await asyncio.sleep(0)
        factory.pin(18).drive_low()
        factory.pin(17).drive_low()
        await asyncio.sleep(0.01)
        said = [await told(link) for _ in range(CHANGES_MAX)]
        assert said[-2:] == [("two", True), ("one", False)]
        await silence(link)

    play(scenario)


def test_a_cancelled_wait_loses_no_change() -> None:
    async def scenario(link: GpiozeroLink, factory: Any) -> None:
        waiting = asyncio.create_task(link.next())
        await asyncio.sleep(0)
        factory.pin(17).drive_low()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await told(link) == ("one", False)

    play(scenario)


def test_closing_makes_outputs_inactive_before_it_lets_them_go() -> None:
    async def scenario(link: GpiozeroLink, factory: Any) -> None:
        pin = factory.pin(2)
        link.write("plain", True)
        await link.close()
        await link.close()
        # the fixed pull-up resistor of GPIO2; claimed; asked; withdrawn; the resistor again
        assert [state.state for state in pin.states] == [True, False, True, False, True]
        with pytest.raises(LinkLost, match="not_open"):
            link.write("plain", True)
        with pytest.raises(LinkLost, match="not_open"):
            await link.next()

    play(scenario)


def test_whoever_waits_hears_that_the_board_is_gone() -> None:
    async def scenario(link: GpiozeroLink, factory: Any) -> None:
        def gone() -> None:
            raise OSError("no such board")

        factory.pin(17)._get_state = gone
        with pytest.raises(LinkLost, match="pins_gone"):
            await told(link)
        with pytest.raises(LinkLost, match="pins_gone"):
            link.write("plain", True)

    play(scenario)


def test_a_pin_that_the_board_does_not_have_leaves_nothing_claimed() -> None:
    async def main() -> None:
        link = GpiozeroLink(MockFactory, allow_env=True)
        for _ in range(2):
            with pytest.raises(LinkLost, match="pins_unavailable"):
                await link.open({"one": Pin(17), "none": Pin("GPIO99")}, OUTPUTS)
        await link.open(INPUTS, OUTPUTS)
        await link.close()

    asyncio.run(main())
