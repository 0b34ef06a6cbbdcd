"""An officer beside the lane: comes when called, looks for themselves, gives orders, carries out what was left.

Orders leave through `order(action, ticket)`: in virtual time that puts `as_event` into the lane's queue, in real time
it is signed at HQ's desk. An officer who is `away` gives none (HQ or the officer cannot be reached).
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from gated.lane import events as ev
from gated.wire.orders import Action
from tests.hw_sim.happenings import Body, Kind, Topology
from tests.hw_sim.people import Script
from tests.hw_sim.world import World

NAME = "officer-sim"
ATTENDED = frozenset(
    {
        "door_forced",
        "door_stuck",
        "fire",
        "leaf_shut_in_fire",
        "left_inside",
        "occupied_at_start",
        "stayed_too_long",
        "stranger_inside",
        "tailgate",
        "two_persons",
        "wrong_way",
    }
)
"""Alarms (values of `AlarmCode`) that bring the officer to the lane and end with a reset."""
RESETS_MAX = 8
KEY_S = 4.0
"""How long the key holds a leaf open."""


def as_event(action: Action, ticket: int | None, order: str, by: str = NAME) -> ev.Order:
    """An order as the lane's shell makes it an event, once its signature was verified."""
    match action:
        case Action.OPEN | Action.REFUSE | Action.RETRY:
            assert ticket is not None, f"{action} names a ticket"
            kinds = {Action.OPEN: ev.OfficerOpens, Action.REFUSE: ev.OfficerRefuses, Action.RETRY: ev.OfficerRetries}
            return kinds[action](order, by, ticket)
        case Action.CLOSE_LANE:
            return ev.CloseLane(order, by)
        case Action.OPEN_LANE:
            return ev.OpenLane(order, by)
        case Action.RESET:
            return ev.Reset(order, by)
        case Action.DIRECTION:
            raise AssertionError("nobody beside the lane turns it")


class Officer:
    """Reacts to `called` (the lane's CallOfficer) and `alarmed` (its alarms) after a seeded delay."""

    def __init__(
        self,
        world: World,
        order: Callable[[Action, int | None], None],
        *,
        delay_s: tuple[float, float] = (3.0, 15.0),
    ) -> None:
        self.world = world
        self.away = False
        self.given: list[tuple[float, Action, int | None]] = []
        self._order = order
        self._delay_s = delay_s
        self._rng = random.Random(f"officer {world.seed}")
        self._tasks: set[asyncio.Task[None]] = set()
        self._attending = False
        self._again = False

    def called(self, ticket: int | None) -> None:
        """The lane wants an officer for this passenger."""
        if ticket is not None:
            self._spawn(self._decide(ticket))

    def alarmed(self, code: str) -> None:
        """The lane raised an alarm."""
        if code not in ATTENDED:
            return
        self._again = True
        if not self._attending:
            self._attending = True
            self._spawn(self._attend())

    def stop(self) -> None:
        """Go home: nothing is answered any more."""
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _say(self, action: Action, ticket: int | None) -> None:
        if self.away:
            return
        self.given.append((asyncio.get_running_loop().time(), action, ticket))
        self._order(action, ticket)

    async def _delay(self) -> None:
        await asyncio.sleep(self._rng.uniform(*self._delay_s) / self.world.stage.pace)

    async def _decide(self, ticket: int) -> None:
        """Look who stands there with which document, and say what becomes of them."""
        await self._delay()
        gate = self.world.gate
        if gate.burning:
            return
        there = [script for script in self.world.scripts if script.body.inside]
        self._say(self._judge(there[0]) if len(there) == 1 else Action.REFUSE, ticket)

    def _judge(self, script: Script) -> Action:
        alone = not any(body.inside for body in script.company)
        if not (script.passenger.entitled and alone) or script.body.helpless:
            return Action.REFUSE
        return self._rng.choices((Action.OPEN, Action.RETRY, Action.REFUSE), (6, 3, 1))[0]

    async def _attend(self) -> None:
        """Go to the lane, take out what was left, and give it back, as long as alarms come."""
        gate = self.world.gate
        try:
            while self._again:
                self._again = False
                await self._delay()
                await gate.until(lambda: not gate.burning)
                await self._take_out()
                await self._give_back()
        finally:
            self._attending = False

    async def _give_back(self) -> None:
        """Once it is empty and shut, and until its lamp says that it works."""
        stage = self.world.stage
        for _ in range(RESETS_MAX):
            ready = await self.world.gate.until(self._empty_and_shut, 60.0)
            await asyncio.sleep(1.0)
            if ready:
                self._say(Action.RESET, None)
            await asyncio.sleep(3.0)
            if any(stage.green(side) for side in stage.readers) or self._again:
                return

    def _empty_and_shut(self) -> bool:
        gate = self.world.gate
        empty = self.world.topology is Topology.SINGLE or not gate.inside(Kind.PERSON)
        return empty and all(leaf.closed for leaf in gate.leaves.values())

    def _left(self) -> list[Body]:
        """Things nobody carries any more, between the leaves."""
        carried = {script.trolley for script in self.world.scripts}
        return [body for body in self.world.gate.inside(Kind.THING) if body not in carried]

    async def _take_out(self) -> None:
        gate = self.world.gate
        if not self._left():
            return
        door = next(iter(gate.leaves))
        stands_open = await gate.until(lambda: any(leaf.passable for leaf in gate.leaves.values()), 5.0)
        if not stands_open:
            gate.key(door, True)
            await gate.until(lambda: gate.leaves[door].passable, KEY_S)
        await asyncio.sleep(2.0)
        if any(leaf.passable for leaf in gate.leaves.values()):
            for body in self._left():
                gate.remove(body)
        if not stands_open:
            gate.key(door, False)
