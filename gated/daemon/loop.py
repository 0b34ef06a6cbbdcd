"""The loop: the next event, the lane's answer, the journal, the outlets. Everything else happens elsewhere."""

import asyncio
from collections import deque
from typing import NoReturn, Protocol

from gated.daemon.clock import Clock
from gated.lane.commands import Command
from gated.lane.events import Deadline, Event, EventsLost, Now
from gated.lane.machine import Lane

EVENTS_MAX = 1024


class Queue:
    """The lane's bounded queue. Whoever emits never waits; what does not fit is counted and told as `EventsLost`."""

    def __init__(self, size: int = EVENTS_MAX) -> None:
        self._events: deque[Event] = deque()
        self._size = size
        self._lost = 0
        self._filled = asyncio.Event()

    def emit(self, event: Event, /) -> None:
        """Put an event in, from the loop's own thread."""
        if len(self._events) >= self._size:
            self._lost += 1
        else:
            self._events.append(event)
        self._filled.set()

    async def next(self, until: float | None) -> Event:
        """The next event; `Deadline` once the loop's time has passed `until`, whatever else waits.

        `EventsLost` comes in the place of the events that were dropped."""
        if until is not None and asyncio.get_running_loop().time() >= until:
            return Deadline()
        while not self._events:
            if self._lost:
                lost, self._lost = self._lost, 0
                return EventsLost(lost)
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
    while True:
        event = await queue.next(lane.deadline)
        now = clock.now()
        commands = lane.handle(event, now)
        journal.step(now, event, commands)
        for command in commands:
            dispatch(command, now)
