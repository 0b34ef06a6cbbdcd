"""The other side of the pins: a board of named wires with the gate's dead-man monoflop, and a link to it in memory.

Levels are logical on the board. `PinBoard` is used in virtual time through `MemoryPins`, and in real time through
`gatesim.PinServer` by a lane in another process.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from drivers.door.gpio import MONOFLOP_S
from drivers.links import LinkLost, Pin, PinChange

REQUESTS = ("a_request", "b_request")


class Watcher(Protocol):
    """Told of an output: its name, whether it counts now, and the loop time."""

    def __call__(self, name: str, active: bool, mono: float, /) -> None: ...


class PinBoard:
    """Named wires between a lane and its gate, on one event loop.

    The world sets inputs and reads outputs. An output in `guarded` counts (`effective`) only while the wire `alive`
    changed within the last `monoflop_s`: the hardware that stands behind docs/drivers.md, "Dead man".
    """

    def __init__(
        self, guarded: Collection[str] = REQUESTS, alive: str = "alive", monoflop_s: float = MONOFLOP_S
    ) -> None:
        self.guarded = frozenset(guarded)
        self.alive_mono = float("-inf")
        """When `alive` changed last."""
        self.alive_edges = 0
        self._alive, self._monoflop_s = alive, monoflop_s
        self._inputs: dict[str, bool] = {}
        self._outputs: dict[str, bool] = {}
        self._effective: dict[str, bool] = {}
        self._watchers: list[Watcher] = []
        self._listeners: list[Callable[[str, bool], None]] = []
        self._expiry: asyncio.TimerHandle | None = None

    # -- the world's side

    def set_input(self, name: str, active: bool) -> None:
        """Move an input. Nothing is told where the level stays."""
        if self._inputs.get(name, False) == active:
            return
        self._inputs[name] = active
        for listener in tuple(self._listeners):
            listener(name, active)

    def input(self, name: str) -> bool:
        """The level of an input; one that was never moved is inactive."""
        return self._inputs.get(name, False)

    def output(self, name: str) -> bool:
        """What the lane writes to an output, whether it counts or not."""
        return self._outputs.get(name, False)

    def effective(self, name: str) -> bool:
        """What the gate sees of an output."""
        return self._outputs.get(name, False) and (name not in self.guarded or self._held())

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher` at every change of an output as the gate sees it, also when the monoflop falls."""
        self._watchers.append(watcher)

    # -- the lane's side

    def drive(self, name: str, active: bool) -> None:
        """The lane writes an output."""
        changed = self._outputs.get(name, False) != active
        self._outputs[name] = active
        if name == self._alive and changed:
            self.alive_mono = asyncio.get_running_loop().time()
            self.alive_edges += 1
        self._tell()

    def listen(self, listener: Callable[[str, bool], None]) -> None:
        """Call `listener` at every change of an input."""
        self._listeners.append(listener)

    def ignore(self, listener: Callable[[str, bool], None]) -> None:
        """No longer call `listener`."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    # -- inside

    def _held(self) -> bool:
        return asyncio.get_running_loop().time() < self.alive_mono + self._monoflop_s

    def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        for name in self._outputs:
            now = self.effective(name)
            if self._effective.get(name, False) != now:
                self._effective[name] = now
                for watcher in tuple(self._watchers):
                    watcher(name, now, loop.time())
        if self._expiry is None and any(self._effective.get(name, False) for name in self.guarded):
            self._expiry = loop.call_at(self.alive_mono + self._monoflop_s, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self._tell()


class MemoryPins:
    """A `PinLink` to a `PinBoard` on the same loop. Several links may share a board: each drives its own outputs."""

    def __init__(self, board: PinBoard) -> None:
        self._board = board
        self._inputs: Mapping[str, Pin] = {}
        self._outputs: Mapping[str, Pin] = {}
        self._changes: deque[PinChange] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lost: LinkLost | None = LinkLost("not_open")
        self._unplugged = False

    async def open(self, inputs: Mapping[str, Pin], outputs: Mapping[str, Pin]) -> Mapping[str, bool]:
        await self.close()
        if self._unplugged:
            raise LinkLost("pins_unavailable")
        self._inputs, self._outputs, self._lost = inputs, outputs, None
        for name in outputs:
            self._board.drive(name, False)
        self._board.listen(self._heard)
        return {name: self._board.input(name) for name in inputs}

    async def next(self) -> PinChange:
        while not self._changes:
            if self._lost is not None:
                raise self._lost
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._changes.popleft()

    def write(self, name: str, active: bool) -> None:
        if self._lost is not None:
            raise self._lost
        if name not in self._outputs:
            raise KeyError(name)
        self._board.drive(name, active)

    async def close(self) -> None:
        if self._lost is None:
            for name in self._outputs:
                self._board.drive(name, False)
        self._let_go(LinkLost("not_open"))
        self._changes.clear()

    # -- faults

    def unplug(self) -> None:
        """The board's cable is pulled: the lane loses its pins, and outputs keep their levels as a latch does."""
        self._unplugged = True
        self._let_go(LinkLost("pins_gone"))

    def plug(self) -> None:
        """The cable is back; the lane has to open the link again."""
        self._unplugged = False

    def late(self, changes: Iterable[PinChange]) -> None:
        """Changes that the lane hears of only now, as after its loop was busy."""
        self._changes.extend(changes)
        self._wake()

    def _let_go(self, why: LinkLost) -> None:
        self._board.ignore(self._heard)
        self._lost = why
        self._wake()

    def _heard(self, name: str, active: bool) -> None:
        if name in self._inputs:
            self._changes.append(PinChange(name, active, asyncio.get_running_loop().time()))
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
