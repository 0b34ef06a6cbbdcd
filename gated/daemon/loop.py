"""The loop: the next event, the lane's answer, the journal, the outlets. Everything else happens elsewhere."""

import asyncio
from collections import deque
from typing import NoReturn, Protocol

from gated.daemon.clock import Clock
from gated.lane.commands import Command
from gated.lane.events import Deadline, Event, EventsLost, Now
from gated.lane.machine import Lane

EVENTS_MAX = 1024
AGAIN_S = 1.0
"""A deadline that its own `Deadline` did not move is told again so much later: the lane must hear the rest too."""


class Queue:
    """The lane's bounded queue. Whoever emits never waits; `EventsLost` stands in the place of what did not fit."""

    def __init__(self, size: int = EVENTS_MAX) -> None:
        self._events: deque[Event] = deque()
        self._size = size
        self._filled = asyncio.Event()

    def emit(self, event: Event, /) -> None:
        """Put an event in, from the loop's own thread."""
        if len(self._events) < self._size:
            self._events.append(event)
        elif isinstance(last := self._events[-1], EventsLost):
            self._events[-1] = EventsLost(last.count + 1)
        else:
            self._events.append(EventsLost(1))
        self._filled.set()

    async def next(self, until: float | None) -> Event:
        """The next event; `Deadline` once the loop's time has passed `until`, whatever else waits."""
        if until is not None and asyncio.get_running_loop().time() >= until:
            return Deadline()
        while not self._events:
            self._filled.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._filled.wait()
            except TimeoutError:
                return Deadline()
        return self._events.popleft()


class Journal(Protocol):
    """Remembers every step of the lane."""

    def step(self, now: Now, event: Event, commands: tuple[Command, ...]) -> None:
        """Note one step, in memory; never waits."""


class Dispatch(Protocol):
    """Has a command carried out; never waits, never raises."""

    def __call__(self, command: Command, now: Now, /) -> None: ...


async def drive(lane: Lane, queue: Queue, clock: Clock, journal: Journal, dispatch: Dispatch) -> NoReturn:
    """Drive the lane for ever. An exception from here is a bug of ours: the process ends and its outputs fall safe."""
    told = float("-inf")
    while True:
        due = lane.deadline
        event = await queue.next(told + AGAIN_S if due is not None and due <= told else due)
        now = clock.now()
        if isinstance(event, Deadline):
            told = now.mono
        commands = lane.handle(event, now)
        journal.step(now, event, commands)
        for command in commands:
            dispatch(command, now)
