"""The physics monitor: who really passed, when and which way, and what the gate did to them. Knows nothing of the lane.

It listens to `Gate.observers`; the people tell it who shows which document. Afterwards `report(records)` holds the
records that the lane made (or HQ received) against that truth. Every time is in the clock `now` that was given:
loop time in virtual time, `time.time` where records carry UTC. No lane code is asked anything.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tests.hw_sim.happenings import Body, Happening, Kind, Topology, What
from tests.hw_sim.leaf import Cause
from tests.hw_sim.physics import Gate

SAFE_S = 0.5
"""Outputs are safe this long after the lane's death."""
SEEN_S = 0.3
"""A lane cannot know of a leaf pushed open less than this ago."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never happen. `kind` is one of the words in `UNSAFE` or `wrong_way`."""

    at: float
    kind: str
    detail: str


UNSAFE = frozenset(
    {"both_leaves", "leaf_on_person", "kept_inside", "exit_without_record", "fire_shut", "outputs_after_death"}
)
"""`exit_without_record` is found by `tests.hw_sim.report`, which alone sees the records."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Somebody went all the way through. `way` is "ab" or "ba"; `under` is what had opened the last leaf."""

    at: float
    body: Body
    way: str
    under: Cause


@dataclass(frozen=True, slots=True)
class Attempt:
    """A person showed a document that could be read. `name` is the person, `number` the document's."""

    at: float
    name: str
    number: str
    entitled: bool
    """Whether this person with this document should pass."""
    impostor: bool
    """Whether the document is somebody else's."""
    expected: bool
    """Whether, with these manners, a grant is expected (else either ending is right)."""
    note: str
    """Truth and manner in words, for explanations."""


class Monitor:
    """Observes a gate from its first second. `stay_s_max`: how long the shut lane may keep somebody."""

    def __init__(
        self, gate: Gate, topology: Topology, *, now: Callable[[], float] | None = None, stay_s_max: float = 100.0
    ) -> None:
        self.topology = topology
        self.stay_s_max = stay_s_max
        self.violations: list[Violation] = []
        self.passages: list[Passage] = []
        self.attempts: list[Attempt] = []
        self.disturbed: list[tuple[float, float, str]] = []
        """When a fault was planted, for explanations and excuses."""
        self.entered: dict[Body, tuple[str, float]] = {}
        """Who is inside now, by which door and since when."""
        self.service = False
        self.deaths: list[float] = []
        self.gate = gate
        self._now = now
        self._kept: dict[Body, float] = {}
        self._dead_since: float | None = None
        self._opened: dict[str, float] = {}
        self._together = False
        gate.observers.append(self._observe)

    def now(self) -> float:
        return self._now() if self._now else asyncio.get_running_loop().time()

    # -- told by the world -----------------------------------------------------------------------------------

    def attempt(
        self, name: str, number: str, *, entitled: bool, expected: bool, note: str, impostor: bool = False
    ) -> None:
        """A person puts a readable document into the reader."""
        self.attempts.append(Attempt(self.now(), name, number, entitled, impostor, expected, note))

    def lane_died(self) -> None:
        """The lane process was killed this moment."""
        self._dead_since = self.now()
        self.deaths.append(self._dead_since)
        asyncio.get_running_loop().call_later(SAFE_S, self._outputs_safe, self._dead_since)

    def lane_started(self) -> None:
        self._dead_since = None

    def disturb(self, what: str, seconds: float) -> None:
        """A fault begins now and ends in `seconds`: what goes wrong meanwhile, and just after, is excused."""
        self.disturbed.append((self.now(), self.now() + seconds, what))

    # -- what the gate does ------------------------------------------------------------------------------------

    def _observe(self, happening: Happening) -> None:
        body = happening.body
        if happening.what is What.CROSSED and body is not None:
            self._crossed(happening.door, body, happening.inward)
        elif happening.what is What.TOUCHED and body is not None:
            self._flag("leaf_on_person", f"leaf {happening.door} shut onto {body.name}")
        elif happening.what is What.REQUEST_ON and self._dead_since is not None:
            self._flag("outputs_after_death", f"leaf {happening.door} was requested while the lane was dead")
        elif happening.what is What.REMOVED and body is not None:
            self._freed(body)
            self.entered.pop(body, None)
        elif happening.what is What.FIRE_ON:
            asyncio.get_running_loop().call_later(3.0, self._leaves_open_in_fire)
        if happening.what is What.LEAF:
            self._leaf(happening.door)

    def _flag(self, kind: str, detail: str) -> None:
        self.violations.append(Violation(self.now(), kind, detail))

    def _outputs_safe(self, died: float) -> None:
        if self._dead_since != died:
            return
        for door in self.gate.leaves:
            if self.gate.effective(door):
                self._flag("outputs_after_death", f"leaf {door} is still requested {SAFE_S} s after the lane died")

    def _leaves_open_in_fire(self) -> None:
        for door, leaf in self.gate.leaves.items():
            if self.gate.burning and not leaf.passable and not leaf.stuck:
                self._flag("fire_shut", f"leaf {door} is shut in a fire")

    def _leaf(self, door: str) -> None:
        """A leaf passed a mark: are two open together, and is anybody kept or freed?"""
        leaves = self.gate.leaves
        if leaves[door].closed:
            self._opened.pop(door, None)
        else:
            self._opened.setdefault(door, self.now())
        if len(self._opened) == 2 and not self._together:
            self._together = True
            if not self._excused_together():
                a, b = leaves["a"], leaves["b"]
                self._flag("both_leaves", f"a at {a.position:.2f} ({a.cause}), b at {b.position:.2f} ({b.cause})")
        elif len(self._opened) < 2:
            self._together = False
        if any(leaf.passable for leaf in leaves.values()):
            for body in list(self._kept):
                self._freed(body)
        elif self.topology is not Topology.SINGLE:
            for body in self.entered:
                self._kept.setdefault(body, self.now())

    def _excused_together(self) -> bool:
        """Not the lane's doing: fire, a technician, force or a key on the later leaf, a contact that lies."""
        gate = self.gate
        if gate.burning or self.service or any(leaf.cause is Cause.FIRE for leaf in gate.leaves.values()):
            return True
        if any(gate.lies(f"{door}_{end}") for door in gate.leaves for end in ("closed", "open")):
            return True
        first, later = sorted(self._opened, key=lambda door: self._opened[door])
        if not gate.leaves[later].asked:
            return True
        by_hand = gate.leaves[first].cause in (Cause.FORCE, Cause.KEY)
        return by_hand and self._opened[later] - self._opened[first] < SEEN_S

    def _crossed(self, door: str, body: Body, inward: bool) -> None:
        if inward:
            self.entered[body] = (door, self.now())
            return
        came, _ = self.entered.get(body, ("b" if door == "a" else "a", 0.0))
        if came == door:
            self._freed(body)
            self.entered.pop(body, None)
            return
        # In a single lane the line of A is no leaf: whoever came in by B and goes on passed leaf B.
        leaf = self.gate.leaves.get(door) or self.gate.leaves["b"]
        way = "ba" if door == "a" else "ab"
        cause = Cause.FIRE if self.gate.burning else leaf.cause or Cause.REQUEST
        if body.kind is not Kind.THING:
            self.passages.append(Passage(self.now(), body, way, cause))
            if way == "ba" and self.topology is not Topology.BIDIRECTIONAL and cause is Cause.REQUEST:
                self._flag("wrong_way", f"{body.name} went from B to A through a one-way lane")
        self._freed(body)
        self.entered.pop(body, None)

    def _freed(self, body: Body) -> None:
        since = self._kept.pop(body, None)
        if since is None or body.kind is Kind.THING or any(leaf.stuck for leaf in self.gate.leaves.values()):
            return
        if self.now() - since > self.stay_s_max:
            self._flag("kept_inside", f"{body.name} was shut in for {self.now() - since:.0f} s")

    def finish(self) -> None:
        """The world ends: whoever is still shut in is judged now."""
        for body in list(self._kept):
            self._freed(body)
