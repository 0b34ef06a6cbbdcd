"""Pins for tests two ways: a board in memory, and a board in a thread behind the socket pin factory."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from drivers.links import Pin, PinLink
from drivers.links.pins import GpiozeroLink
from tests.hw_sim.gatesim import PinServer, SocketPins
from tests.hw_sim.pins import MemoryPins, PinBoard

T = TypeVar("T")


def move(board: PinBoard, moves: tuple[str, ...]) -> None:
    """ "+name" makes an input active, "-name" inactive."""
    for each in moves:
        board.set_input(each[1:], each[0] == "+")


class MemoryRig:
    """Board and driver on one loop, for virtual time."""

    step_s = 0.06

    def __init__(self) -> None:
        self.board = PinBoard()
        self.pins = MemoryPins(self.board)
        self.link: PinLink = self.pins

    async def set(self, *moves: str) -> None:
        move(self.board, moves)

    async def output(self, name: str) -> bool:
        return self.board.output(name)

    async def effective(self, name: str) -> bool:
        return self.board.effective(name)

    async def unplug(self) -> None:
        self.pins.unplug()

    async def plug(self) -> None:
        self.pins.plug()


class SocketRig:
    """The board on the loop of another thread; the driver talks to it through gpiozero. `async with`."""

    step_s = 0.06

    def __init__(self, path: Path, inputs: Mapping[str, Pin], outputs: Mapping[str, Pin]) -> None:
        self.board = PinBoard()
        self._server = PinServer(path, self.board, inputs, outputs)
        self.link: PinLink = GpiozeroLink(lambda: SocketPins(path), allow_env=True)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rig")

    async def __aenter__(self) -> "SocketRig":
        self._thread.start()
        await self.plug()
        return self

    async def __aexit__(self, *why: object) -> None:
        await self.unplug()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def set(self, *moves: str) -> None:
        await self._there(lambda: move(self.board, moves))

    async def output(self, name: str) -> bool:
        return await self._there(lambda: self.board.output(name))

    async def effective(self, name: str) -> bool:
        return await self._there(lambda: self.board.effective(name))

    async def unplug(self) -> None:
        await self._do(self._server.stop())

    async def plug(self) -> None:
        await self._do(self._server.start())

    async def _there(self, act: Callable[[], T]) -> T:
        async def there() -> T:
            return act()

        return await self._do(there())

    async def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


def over_socket(
    path: Path, inputs: Mapping[str, Pin], outputs: Mapping[str, Pin], scenario: Callable[[SocketRig], Awaitable[None]]
) -> None:
    """Play a scenario in real time."""

    async def main() -> None:
        async with SocketRig(path, inputs, outputs) as rig:
            await scenario(rig)

    asyncio.run(main())
