"""Passengers as seeded scripts: they walk, show documents and look about. They act on physics and readers only.

A person perceives what a person can: whether a leaf stands open, whether there is a fire. Nothing of the lane's state.
"""

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tests.hw_sim import hands
from tests.hw_sim.cast import Manner, Passenger
from tests.hw_sim.hands import Glass
from tests.hw_sim.happenings import LANE_M, Body, Kind, Topology
from tests.hw_sim.monitor import Monitor
from tests.hw_sim.papers import Paper, smudged
from tests.hw_sim.physics import Gate

QUEUE_M = -4.0
READER_M = {Topology.MANTRAP: -0.9, Topology.BIDIRECTIONAL: -0.9, Topology.SINGLE: 1.2}
SPOT_M = 1.35
"""Where one stands to be recognised."""
OUT_M = LANE_M + 2.0
COMPANY_S = 240.0
"""How long people wait for who or what they left inside."""
STAYS_OPEN_S = 6.0
"""A leaf that is open for so long behind somebody invites them to go back."""
CALL_S = 100.0
"""After so long without a way out people press help (again)."""
HELPLESS_CALLS = 8
SEEN_FREE_S = 300.0
"""How long people wait for a lane that they see occupied, or red."""
LAMP_S = 0.7
"""How often they look up at the lamp."""


class Reader(Protocol):
    """A document reader as hands use it."""

    def insert(self, lines: tuple[str, ...]) -> None:
        """Put a document in; `lines` are its machine readable zone as the optics see it."""

    def remove(self) -> None:
        """Take it out again; nothing happens where none is in."""


@dataclass
class Stage:
    """What a script acts on. `readers` by side ("a", "b"); `pace` divides every pause and multiplies every speed,

    but not people's patience, which waits for the lane."""

    gate: Gate
    topology: Topology
    readers: Mapping[str, Reader]
    monitor: Monitor
    pace: float = 1.0
    green: Callable[[str], bool] = lambda side: True
    """Whether the lamp of a side is green; people wait for that before they show a document."""
    glass: Glass | None = None
    """The fingerprint reader, where there is one."""
    display: Callable[[], str] = lambda: ""
    """The code of what the display says to whoever is inside."""


class Script:
    """One passenger's visit: `await Script(passenger, stage).play()`; `yaw_deg` and `at_m` are for the camera."""

    def __init__(self, passenger: Passenger, stage: Stage) -> None:
        self.passenger = passenger
        self.stage = stage
        self.gate = stage.gate
        self.rng = random.Random(passenger.seed)
        self.near, self.far = ("a", "b") if passenger.way == "ab" else ("b", "a")
        self.body = Body(passenger.name, x=self._x(QUEUE_M))
        self.company: list[Body] = []
        """Persons and children who came along, or a stranger whom this passage attracts."""
        self.trolley: Body | None = None
        self.bag: Body | None = None
        self.looking = True
        self.inside = False
        self.approached = asyncio.Event()
        """Set once the next passenger may come up to the reader."""
        self._tasks: list[asyncio.Task[None]] = []
        self._called: set[Body] = set()
        self._attracted = False
        """Whether a stranger was drawn by this passage."""

    # -- the body ----------------------------------------------------------------------------------------------

    def _x(self, metres: float) -> float:
        return metres if self.passenger.way == "ab" else LANE_M - metres

    async def _walk(
        self, metres: float, *, patience_s: float = math.inf, body: Body | None = None, speed: float | None = None
    ) -> bool:
        speed = (speed or self.rng.uniform(1.0, 1.4)) * self.stage.pace
        carries = self.trolley if body in (None, self.body) else None
        return await self.gate.walk(body or self.body, self._x(metres), speed, patience_s, carries)

    async def _pause(self, low_s: float, high_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(low_s, high_s) / self.stage.pace)

    def _passable(self, door: str) -> bool:
        return door in self.gate.leaves and self.gate.leaves[door].passable

    async def _wait_for_green(self) -> None:
        """Until the lane looks free and its lamp is green, or for as long as people put up with."""
        loop = asyncio.get_running_loop()
        end = loop.time() + SEEN_FREE_S
        while loop.time() < end and await self.gate.until(self._looks_free, end - loop.time()):
            if self.stage.green(self.near):
                return
            await asyncio.sleep(LAMP_S)

    def _looks_free(self) -> bool:
        """Both leaves shut and nobody and nothing else between them, as far as one can see from the reader."""
        mine = (self.body, *self.company, self.trolley)
        empty = not any(body.inside and body not in mine for body in self.gate.bodies)
        return empty and all(leaf.closed for leaf in self.gate.leaves.values())

    @property
    def _reader(self) -> Reader:
        return self.stage.readers[self.near]

    # -- the visit -----------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """Come, try, leave one way or the other. Always ends with the person (and company) out of the world."""
        self.gate.add(self.body)
        try:
            await self._bring_company()
            if self.gate.burning:
                return
            await self._walk(READER_M[self.stage.topology])
            if self.stage.topology is Topology.SINGLE and self.passenger.manner is Manner.TWO_TOGETHER:
                self._follow()
            if self.stage.topology is Topology.SINGLE:
                self._offer_fingers()
            admitted = await self._present()
            self.approached.set()
            if admitted and self.near in self.gate.leaves:
                await self._enter()
            elif admitted:
                await self._stand_and_leave()
            else:
                await self._walk(QUEUE_M, patience_s=5.0)
        finally:
            self.approached.set()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for body in (self.body, *self.company, self.trolley, self.bag):
                if body is not None:
                    self.gate.remove(body)

    async def _bring_company(self) -> None:
        manner, name = self.passenger.manner, self.passenger.name
        if manner in (Manner.TAILGATED, Manner.TWO_TOGETHER):
            self.company.append(self.gate.add(Body(f"{name}-companion", x=self._x(QUEUE_M - 0.6))))
        elif manner is Manner.LEAVES_CHILD:
            self.company.append(self.gate.add(Body(f"{name}-child", Kind.CHILD, x=self._x(QUEUE_M))))
        elif manner is Manner.TROLLEY:
            self.trolley = self.gate.add(Body(f"{name}-trolley", Kind.THING, x=self._x(QUEUE_M)))

    async def _present(self) -> bool:
        """Show the document(s); True once the way in stands open (in a single lane: once one was read)."""
        manner, paper = self.passenger.manner, self.passenger.paper
        await self._wait_for_green()
        if manner is Manner.HESITATES:
            await self._pause(1.0, 4.0)
        await self._pause(0.2, 0.8)
        if manner is Manner.WRONG_DOCUMENT_FIRST and self.passenger.other_paper is not None:
            if await self._show(self.passenger.other_paper, 3.0):
                return True
            await self._pause(6.5, 8.0)
        elif manner is Manner.UNREADABLE_FIRST:
            self._reader.insert(smudged(self.rng, paper.lines))
            await self._pause(1.5, 3.0)
            self._reader.remove()
            await self._pause(1.0, 2.0)
        elif manner is Manner.REMOVES_EARLY:
            if await self._show(paper, self.rng.uniform(0.15, 0.6)):
                return True
            await self._pause(4.0, 6.0)
        # Before a single leaf one proves everything with the document in the reader.
        patience_s = 30.0 if self.stage.glass is not None and self.near not in self.gate.leaves else 14.0
        if await self._show(paper, patience_s) or self.gate.burning:
            return not self.gate.burning
        # Who knows that they should pass tries again; of the others, some.
        return (self.passenger.entitled or self.rng.random() < 0.4) and await self._again(paper)

    async def _again(self, paper: Paper) -> bool:
        await self._pause(7.0, 9.0)
        return await self._show(paper, 10.0)

    async def _show(self, paper: Paper, patience_s: float) -> bool:
        """Put a document in and wait for the way in to open; take it out in the end in any case."""
        passenger = self.passenger
        own = paper is passenger.paper
        note = passenger.note if own else f"{passenger.note}: the wrong document"
        self.stage.monitor.attempt(
            passenger.name,
            paper.number,
            entitled=own and passenger.entitled,
            expected=own and passenger.expected,
            impostor=own and passenger.impostor,
            note=note,
        )
        self._reader.insert(paper.lines)
        door = self.near if self.near in self.gate.leaves else self.far
        try:
            opened = await self.gate.until(lambda: self._passable(door) or self.gate.burning, patience_s)
            if opened and not self.gate.burning:
                await self._pause(0.1, 0.5)
        finally:
            self._reader.remove()
        return opened and not self.gate.burning

    # -- through two leaves -------------------------------------------------------------------------------------

    async def _enter(self) -> None:
        manner = self.passenger.manner
        if manner is Manner.DOES_NOT_ENTER:
            await self._pause(0.5, 3.0)
            await self._walk(QUEUE_M)
            return
        if manner is Manner.HESITATES:
            await self._pause(1.0, 4.0)
        if manner is Manner.STANDS_IN_DOORWAY and await self._walk(0.005, patience_s=2.0):
            await self._pause(3.0, 9.0)
        self._follow()
        if not await self._walk(0.7, patience_s=3.0):
            await self._walk(QUEUE_M, patience_s=5.0)
            return
        self.inside = True
        if manner is Manner.WALKS_BACK and await self._walk(-0.8, patience_s=0.5):
            self.inside = False
            await self._walk(QUEUE_M)
            return
        self._bystand()
        await self._walk(SPOT_M)
        self.body.helpless = manner is Manner.FAINTS
        self.looking = manner not in (Manner.LOOKS_AWAY, Manner.FAINTS)
        if manner is Manner.LOOKS_AWAY:
            self._spawn(self._look_after(self.rng.uniform(2.0, 4.5)))
        if manner is Manner.PRESSES_HELP:
            self._spawn(self._help_after(self.rng.uniform(0.5, 6.0)))
        self._offer_fingers()
        await self._wait_inside()

    def _offer_fingers(self) -> None:
        """While they are inside they do with their fingers as the display says."""
        stage, passenger = self.stage, self.passenger
        if stage.glass is None or passenger.manner is Manner.FAINTS:
            return
        hand = passenger.person if passenger.hand is None else passenger.hand
        given = (stage.glass, stage.display, hand, passenger.take, passenger.bandaged)
        self._spawn(hands.use(*given, random.Random(f"hands {passenger.seed}"), stage.pace, lambda: self.body.inside))

    async def _wait_inside(self) -> None:
        """Until a leaf lets one out: the far one, or the near one once it had shut or plainly stays open."""
        gate = self.gate
        await gate.until(lambda: gate.leaves[self.near].closed or self._passable(self.far), STAYS_OPEN_S)
        for _ in range(HELPLESS_CALLS):

            def a_way_out() -> bool:
                return self._passable(self.far) or self._passable(self.near)

            if not await gate.until(a_way_out, CALL_S):
                gate.press_helper()
                continue
            if self.body.helpless:
                await self._pause(4.0, 9.0)  # until somebody has lifted them up
            else:
                await self._pause(0.3, 0.9)
            if self._passable(self.far):
                if await self._out():
                    return
            elif self._passable(self.near) and await self._walk(-0.9, patience_s=1.0, speed=1.0):
                await self._back_out()
                return
        await self._rescue()

    async def _rescue(self) -> None:
        """The lane never let them out (the monitor has seen it): somebody opens with the key at the gate."""
        self.gate.key(self.near, True)
        try:
            await self._walk(-0.9, patience_s=30.0)
            await self._back_out()
        finally:
            self.gate.key(self.near, False)

    async def _out(self) -> bool:
        manner = self.passenger.manner
        if manner is Manner.FORGETS_BAG and self.bag is None:
            self.bag = self.gate.add(Body(f"{self.passenger.name}-bag", Kind.THING, x=self._x(1.5)))
        if manner is Manner.WRONG_WAY and not self._attracted:
            self._attracted = True
            self._spawn(self._stranger())
        self._send_company(OUT_M)
        if not await self._walk(LANE_M + 0.6, patience_s=1.0):
            return False
        self.inside = False
        await self._walk(OUT_M)
        await self._wait_for_company()
        return True

    async def _back_out(self) -> None:
        self.inside = False
        self._send_company(QUEUE_M)
        await self._walk(QUEUE_M)
        await self._wait_for_company()

    # -- through one leaf ---------------------------------------------------------------------------------------

    async def _stand_and_leave(self) -> None:
        if self.passenger.manner is Manner.TAILGATED:
            self._follow()
        await self._out() or await self._walk(QUEUE_M)

    # -- company and strangers ------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def _follow(self) -> None:
        for body in self.company:
            self._spawn(self._companion(body))

    async def _companion(self, body: Body) -> None:
        """Comes in behind, then goes wherever a leaf opens."""
        if self.passenger.manner is Manner.TAILGATED:
            await self._pause(0.4, 1.6)
        if not await self._walk(0.9, body=body, patience_s=1.5):
            await self._walk(QUEUE_M, body=body)

    def _send_company(self, metres: float) -> None:
        """The passenger leaves: whoever came along does too, a child only when it is called."""
        for body in self.company:
            if body not in self._called:
                self._called.add(body)
                self._spawn(self._join(body, metres))

    async def _join(self, body: Body, metres: float) -> None:
        """Towards `metres` where that way is open, else whichever way is."""
        await self._pause(0.2, 0.6)
        if body.kind is Kind.CHILD:
            await self._pause(6.0, 14.0)
        while body.inside:
            doors = [door for door in self.gate.leaves if self._passable(door)]
            if not doors:
                await self.gate.until(lambda: any(self._passable(door) for door in self.gate.leaves))
                continue
            wanted = self.far if metres > 0 else self.near
            onward = wanted if wanted in doors else doors[0]
            await self._walk(OUT_M if onward == self.far else QUEUE_M, body=body, patience_s=1.0)

    async def _wait_for_company(self) -> None:
        """Nobody leaves a person behind; for a bag one waits until an officer has taken it out."""
        await self.gate.until(lambda: not any(body.inside for body in self.company), COMPANY_S)
        await self.gate.until(lambda: self.bag is None or self.bag not in self.gate.bodies, COMPANY_S)

    async def _stranger(self) -> None:
        """Slips in through the far leaf behind the passenger while it still stands open, and out by whichever opens."""
        body = self.gate.add(Body(f"{self.passenger.name}-stranger", x=self._x(OUT_M)))
        self.company.append(body)
        self._called.add(body)
        await self._walk(LANE_M + 0.9, body=body)
        # Two bodies cannot pass each other in a doorway.
        if await self.gate.until(self._is_out, 20.0) and await self._walk(SPOT_M, body=body, patience_s=0.5, speed=1.8):
            await self._join(body, OUT_M)
        else:
            await self._walk(OUT_M, body=body)

    def _bystand(self) -> None:
        if self.passenger.manner is Manner.SECOND_DOCUMENT and self.passenger.other_paper is not None:
            self._spawn(self._bystander(self.passenger.other_paper))

    async def _bystander(self, paper: Paper) -> None:
        await self._pause(0.2, 2.0)
        self._reader.insert(paper.lines)
        try:
            await self._pause(1.0, 2.0)
        finally:
            self._reader.remove()

    def _is_out(self) -> bool:
        return abs(self.body.x - self._x(LANE_M)) > 0.5 and not self.body.inside

    async def _look_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.stage.pace)
        self.looking = True

    async def _help_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.stage.pace)
        if self.inside:
            self.gate.press_helper()
