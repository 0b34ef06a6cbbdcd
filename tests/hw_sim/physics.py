"""The gate as physics: leaves, bodies, beams, presence, contacts, fire, monoflop. Imports nothing of the lane.

The lane stretches along one axis, metres: leaf A at 0, leaf B at `LANE_M`, side A below 0, side B beyond. A body
moves in straight pieces and wakes the loop only where it breaks or frees a beam, so a whole passage costs some
thirty timers and no tick. A leaf opens for the lane only while its request counts at the board, whose monoflop lets
go when `alive` stands still: the gate's doing, not the lane's kindness.

Simple interface: `Gate(board, topology, rng)`; `gate.add(body)`, `await gate.walk(body, to_m, speed)`,
`await gate.until(predicate, timeout_s)`; faults by `stick`, `stick_leaf`, `force`, `key`, `fire`, `mains`, `blind`.
Everything that really happens goes to `gate.observers` as `Happening`s (see `tests.hw_sim.monitor`).
"""

import asyncio
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tests.hw_sim.happenings import LANE_M, LINES, Body, Happening, Kind, Topology, What
from tests.hw_sim.leaf import Cause, Leaf
from tests.hw_sim.pins import Watcher

BEAM_M = 0.18
"""Distance of either beam from its leaf."""
HALF_BODY_M = 0.20
"""A body breaks both beams of a doorway at once in the middle, and each alone at either end."""
SWING_M = 0.25
"""Nearer to the leaf's line than this, a body is in its way."""
OBSTACLE_S = 0.3
EARLY_S = 1e-6
"""A loop may fire a timer this much before its time."""


class Board(Protocol):
    """The wires to the lane as the world sees them: a `tests.hw_sim.pins.PinBoard`."""

    def set_input(self, name: str, active: bool) -> None:
        """Drive an input of the lane."""

    def effective(self, name: str) -> bool:
        """An output as the gate sees it: a request counts while `alive` holds the monoflop."""

    def watch(self, watcher: Watcher) -> None:
        """Tell every change of an output as the gate sees it, also when the monoflop falls."""


@dataclass
class _Wire:
    level: bool = False
    stuck: bool | None = None
    serial: int = 0


@dataclass
class _Wishes:
    forced: bool = False
    key: bool = False


@dataclass
class Gate:
    """The physical gate. `bounce_s` 0 switches contact bounce off."""

    board: Board
    topology: Topology
    rng: random.Random
    bounce_s: float = 0.006
    open_s: float = 0.6
    close_s: float = 0.9
    observers: list[Callable[[Happening], None]] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    burning: bool = False
    blind: bool = False
    """The presence sensors see nothing (a fault)."""
    on_mains: bool = True

    def __post_init__(self) -> None:
        self.leaves = {
            door: Leaf(
                door,
                lambda door=door: self._obstructed(door),  # type: ignore[misc]
                self._leaf_changed,
                open_s=self.open_s,
                close_s=self.close_s,
            )
            for door in self.topology.doors
        }
        self._wishes = {door: _Wishes() for door in self.leaves}
        self._wires: dict[str, _Wire] = {}
        self._waiters: dict[asyncio.Future[None], None] = {}  # in order: a set would wake by address
        self.board.watch(self._output)
        self._wire("mains", True)
        for name in ("fire", "helper"):
            self._wire(name, False)
        for leaf in self.leaves.values():
            self._contacts(leaf)
        self._sense()

    # -- the lane's side: requests that the board's monoflop lets count --------------------------------------------

    def _output(self, name: str, active: bool, _mono: float) -> None:
        door = name[0]
        if name.endswith("_request") and door in self.leaves:
            self._tell(What.REQUEST_ON if active else What.REQUEST_OFF, door)
            self._want(door)

    def effective(self, door: str) -> bool:
        """Whether the lane asks for this leaf and is alive."""
        return self.board.effective(f"{door}_request")

    def _want(self, door: str) -> None:
        wishes, cause = self._wishes[door], None
        if self.burning:
            cause = Cause.FIRE
        elif wishes.forced:
            cause = Cause.FORCE
        elif self.effective(door):
            cause = Cause.REQUEST
        elif wishes.key:
            cause = Cause.KEY
        self.leaves[door].want(cause, asked=self.effective(door))

    # -- sensors -----------------------------------------------------------------------------------------------

    def _wire(self, name: str, level: bool, *, bounces: bool = False) -> None:
        wire = self._wires.setdefault(name, _Wire())
        changed, wire.level = wire.level != level, level
        wire.serial += changed
        if wire.stuck is not None:
            return
        self.board.set_input(name, level)
        if changed and bounces and self.bounce_s:
            loop, serial = asyncio.get_running_loop(), wire.serial
            for k in range(self.rng.randrange(3)):
                loop.call_later((2 * k + 1) * self.bounce_s / 6, self._bounce, name, serial, not level)
                loop.call_later((2 * k + 2) * self.bounce_s / 6, self._bounce, name, serial, level)

    def _bounce(self, name: str, serial: int, level: bool) -> None:
        wire = self._wires[name]
        if wire.serial == serial and wire.stuck is None:
            self.board.set_input(name, level)

    def _contacts(self, leaf: Leaf) -> None:
        self._wire(f"{leaf.door}_closed", leaf.closed, bounces=True)
        self._wire(f"{leaf.door}_open", leaf.open, bounces=True)

    def _leaf_changed(self, leaf: Leaf) -> None:
        self._contacts(leaf)
        if leaf.speed < 0 and self._obstructed(leaf.door):
            self._touch(leaf)
        self._tell(What.LEAF, leaf.door)
        self._wake()

    def _sense(self) -> None:
        """Beams and presence from where the bodies are; a beam is active while it is broken."""
        for door in self.leaves:
            line = LINES[door]
            outside = -1.0 if door == "a" else 1.0
            for name, beam in (("outer", line + outside * BEAM_M), ("inner", line - outside * BEAM_M)):
                self._wire(f"{door}_{name}", any(abs(b.x - beam) < HALF_BODY_M for b in self.bodies))
        persons = 0 if self.blind else len(self.inside(Kind.PERSON)) + len(self.inside(Kind.CHILD))
        self._wire("presence_one", persons >= 1)
        self._wire("presence_many", persons >= 2)
        self._wire("thing", not self.blind and bool(self.inside(Kind.THING)))

    def inside(self, kind: Kind) -> list[Body]:
        """Who or what is between the leaves (in a single lane: in the zone before the leaf)."""
        return [body for body in self.bodies if body.kind is kind and body.inside]

    def _obstructed(self, door: str) -> bool:
        return any(abs(body.x - LINES[door]) < SWING_M for body in self.bodies)

    def _touch(self, leaf: Leaf) -> None:
        """A closing leaf has somebody in its way: with a working chain it gives way and the gate reports it."""
        if not leaf.chain_works:
            body = next(b for b in self.bodies if abs(b.x - LINES[leaf.door]) < SWING_M)
            self._tell(What.TOUCHED, leaf.door, body)

    # -- bodies ------------------------------------------------------------------------------------------------

    def add(self, body: Body) -> Body:
        """Put a body into the world."""
        self.bodies.append(body)
        self._tell(What.ADDED, body=body)
        self._moved()
        return body

    def remove(self, body: Body) -> None:
        """Take a body out of the world: carried away or gone."""
        if body in self.bodies:
            self.bodies.remove(body)
            self._tell(What.REMOVED, body=body)
            self._moved()

    def place(self, body: Body, x: float) -> None:
        """Move a body at once; for things that are put down."""
        body.x = x
        self._moved()

    def _moved(self) -> None:
        self._sense()
        for leaf in self.leaves.values():
            hit = leaf.speed < 0 and self._obstructed(leaf.door)
            if hit and leaf.chain_works:
                self._pulse(f"{leaf.door}_obstacle", OBSTACLE_S)
            elif hit:
                self._touch(leaf)
            leaf.plan()
        self._wake()

    async def walk(
        self, body: Body, to_m: float, speed: float = 1.2, patience_s: float = math.inf, carries: Body | None = None
    ) -> bool:
        """Walk to `to_m`; a shut leaf holds the body up for at most `patience_s`. False: gave up before it."""
        loop = asyncio.get_running_loop()
        ahead = 1.0 if to_m > body.x else -1.0
        for mark in self._marks(body.x, to_m):
            seconds = abs(mark - body.x) / speed
            body.speed, body.since = ahead * speed, loop.time()
            try:
                await asyncio.sleep(seconds)
            finally:
                body.x, body.speed = (body.at(loop.time()) if body.speed else body.x), 0.0
            door = next((d for d in self.leaves if math.isclose(mark, LINES[d] - ahead * SWING_M)), None)
            if door is not None and not await self._way(door, body, mark, ahead, patience_s):
                return False
            crossed = next((d for d in LINES if math.isclose(mark, LINES[d])), None)
            body.x = mark + (ahead * 1e-6 if mark != to_m else 0.0)
            if carries is not None:
                carries.x = body.x
            if crossed is not None:
                inward = (crossed == "a") == (ahead > 0)
                self._tell(What.CROSSED, crossed, body, inward)
                if carries is not None:
                    self._tell(What.CROSSED, crossed, carries, inward)
            self._moved()
        return True

    async def _way(self, door: str, body: Body, mark: float, ahead: float, patience_s: float) -> bool:
        """Stand before the leaf until one fits through."""
        body.x = mark - ahead * 1e-6
        leaf = self.leaves[door]
        return leaf.passable or await self.until(lambda: leaf.passable, patience_s)

    def _marks(self, start: float, to_m: float) -> list[float]:
        edges = [0.0, SWING_M, -SWING_M]
        edges += [side * BEAM_M + body for side in (1, -1) for body in (HALF_BODY_M, -HALF_BODY_M)]
        marks = {LINES[door] + edge for door, edge in itertools.product(self.topology.doors, edges)} | {0.0, LANE_M}
        low, high = min(start, to_m), max(start, to_m)
        return [*sorted((m for m in marks if low + 1e-5 < m < high - 1e-5), reverse=to_m < start), to_m]

    # -- what else can happen to a gate ---------------------------------------------------------------------------

    def fire(self, on: bool) -> None:
        """The fire alarm: hard-wired, it opens every leaf whatever the lane says, and is mirrored to the lane."""
        self.burning = on
        self._tell(What.FIRE_ON if on else What.FIRE_OFF)
        self._wire("fire", on)
        for door in self.leaves:
            self._want(door)
        self._wake()

    def mains(self, on: bool) -> None:
        self.on_mains = on
        self._wire("mains", on)

    def press_helper(self, seconds: float = 0.4) -> None:
        self._pulse("helper", seconds)

    def force(self, door: str, on: bool) -> None:
        """Somebody pushes the leaf open by hand (True) or lets it go."""
        self._wishes[door].forced = on
        self._want(door)

    def key(self, door: str, on: bool) -> None:
        """An officer's key switch at the gate itself."""
        self._wishes[door].key = on
        self._want(door)

    def stick_leaf(self, door: str, on: bool) -> None:
        """The leaf stays where it is."""
        self.leaves[door].stuck = on
        self.leaves[door].plan()

    def stick(self, name: str, level: bool) -> None:
        """A wire to the lane tells `level` whatever is true (a stuck contact or beam, a cut cable)."""
        self._wires.setdefault(name, _Wire()).stuck = level
        self.board.set_input(name, level)

    def unstick(self, name: str) -> None:
        wire = self._wires[name]
        wire.stuck = None
        self.board.set_input(name, wire.level)

    def lies(self, name: str) -> bool:
        """Whether a wire tells something else than what is true."""
        wire = self._wires.get(name)
        return wire is not None and wire.stuck is not None and wire.stuck != wire.level

    def set_blind(self, on: bool) -> None:
        self.blind = on
        self._sense()

    def _pulse(self, name: str, seconds: float) -> None:
        self._wire(name, True)
        asyncio.get_running_loop().call_later(seconds, self._wire, name, False)

    # -- telling and waiting ----------------------------------------------------------------------------------------

    def _tell(self, what: What, door: str = "", body: Body | None = None, inward: bool = False) -> None:
        happening = Happening(asyncio.get_running_loop().time(), what, door, body, inward)
        for observer in self.observers:
            observer(happening)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, true: Callable[[], bool], timeout_s: float = math.inf) -> bool:
        """Wait until `true()` holds, which is asked again whenever anything moves. False: not within `timeout_s`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while not true():
            if loop.time() >= end - EARLY_S:
                return False
            waiter = loop.create_future()
            self._waiters[waiter] = None
            timer = None if math.isinf(end) else loop.call_at(end, self._wake)
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)
                if timer is not None:
                    timer.cancel()
        return True
