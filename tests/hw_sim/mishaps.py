"""Mishaps of the physical gate, planned from a seed: what befalls when, and for how long."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tests.hw_sim.happenings import Topology
from tests.hw_sim.monitor import Monitor
from tests.hw_sim.physics import Gate


class Trouble(Enum):
    """Kinds of mishap; `where` names a door, a wire or nothing."""

    FIRE = "fire"
    MAINS = "mains"
    LEAF_STUCK = "leaf stuck"
    CONTACT = "contact stuck"
    BEAM_BROKEN = "beam stuck broken"
    BEAM_FREE = "beam stuck free"
    FORCED = "leaf forced"
    BLIND = "presence blind"
    GHOST = "presence sees somebody"
    HELP = "help pressed"


@dataclass(frozen=True, slots=True)
class Mishap:
    """`kind` begins `at_s` seconds after the world and lasts `for_s`."""

    at_s: float
    kind: Trouble
    where: str = ""
    for_s: float = 10.0
    level: bool = False


def plan(seed: int, count: int, topology: Topology, *, within_s: float = 600.0) -> list[Mishap]:
    """`count` seeded mishaps in the first `within_s` seconds, one at a time or overlapping as chance has it."""
    rng = random.Random(f"mishaps {seed}")
    made = []
    for _ in range(count):
        kind, door = rng.choice(list(Trouble)), rng.choice(topology.doors)
        where = door
        if kind is Trouble.CONTACT:
            where = f"{door}_{rng.choice(('open', 'closed'))}"
        elif kind in (Trouble.BEAM_BROKEN, Trouble.BEAM_FREE):
            where = f"{door}_{rng.choice(('outer', 'inner'))}"
        lasts = rng.uniform(2.0, 40.0)
        made.append(Mishap(rng.uniform(0.0, within_s), kind, where, lasts, rng.random() < 0.5))
    return sorted(made, key=lambda mishap: mishap.at_s)


async def befall(mishap: Mishap, gate: Gate, monitor: Monitor) -> None:
    """Let it happen, and end. The monitor is told, so that it can say why a passenger was referred."""
    await asyncio.sleep(mishap.at_s)
    begin, end = _acts(mishap, gate)
    monitor.disturb(f"{mishap.kind.value} {mishap.where}".strip(), mishap.for_s)
    begin()
    try:
        await asyncio.sleep(mishap.for_s)
    finally:
        end()


def _acts(mishap: Mishap, gate: Gate) -> tuple[Callable[[], None], Callable[[], None]]:
    where = mishap.where
    match mishap.kind:
        case Trouble.FIRE:
            return (lambda: gate.fire(True)), (lambda: gate.fire(False))
        case Trouble.MAINS:
            return (lambda: gate.mains(False)), (lambda: gate.mains(True))
        case Trouble.LEAF_STUCK:
            return (lambda: gate.stick_leaf(where, True)), (lambda: gate.stick_leaf(where, False))
        case Trouble.FORCED:
            return (lambda: gate.force(where, True)), (lambda: gate.force(where, False))
        case Trouble.BLIND:
            return (lambda: gate.set_blind(True)), (lambda: gate.set_blind(False))
        case Trouble.HELP:
            return gate.press_helper, lambda: None
        case Trouble.GHOST:
            return (lambda: gate.stick("presence_one", True)), (lambda: gate.unstick("presence_one"))
        case Trouble.CONTACT:
            return (lambda: gate.stick(where, mishap.level)), (lambda: gate.unstick(where))
        case Trouble.BEAM_BROKEN | Trouble.BEAM_FREE:
            broken = mishap.kind is Trouble.BEAM_BROKEN
            return (lambda: gate.stick(where, broken)), (lambda: gate.unstick(where))
