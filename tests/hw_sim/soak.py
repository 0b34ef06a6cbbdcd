"""`python -m tests.hw_sim soak`: many seeds of the real lane in virtual time, with every fault, and what it covered.

Each seed is a world with physical mishaps and upsets of the lane's own parts; the invariants are watched after every
event, the physics monitor judges at the end, and every fourth seed runs twice and must end in the same journal hash.
Beside them *anything* runs tell a lane that serves passengers whatever event at whatever moment, and *cells* runs walk
to each state and tell it each event: there no truth can be kept, only invariants."""

import asyncio
import json
import logging
import os
import random
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import click
import structlog

from gated.lane.commands import Command
from gated.lane.core import State
from gated.lane.events import EVENTS, Device, Event, Now
from gated.lane.gate import Fault
from gated.lane.machine import Lane
from gated.lane.settings import Topology as Shape
from tests.any_events import any_events
from tests.hw_sim import mishaps, upsets, virtual
from tests.hw_sim.happenings import Topology
from tests.hw_sim.mishaps import Trouble
from tests.hw_sim.simlane import VirtualLane, sim_folder
from tests.hw_sim.upsets import Upset
from tests.invariants import Invariants
from tests.reach import STEPS, reach

Cell = tuple[str, str]
CELLS: frozenset[Cell] = frozenset((state.value, event.__name__) for state in State for event in EVENTS)
TWICE_EVERY = 4
COVERED_FROM = 20
"""So many seeds draw every mishap and upset; of fewer, what they did not draw is only said."""
ANYTHING_S = 900.0


@dataclass
class Outcome:
    """What one run showed. `broken` is empty where all is well."""

    seed: int
    topology: str
    kind: str
    hash: str = ""
    lane_s: float = 0.0
    cells: set[Cell] = field(default_factory=set)
    faults: set[str] = field(default_factory=set)
    befell: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    explanations: list[str] = field(default_factory=list)


class Watch:
    """Coverage and invariants of one run, through restarts."""

    def __init__(self, run: VirtualLane, outcome: Outcome) -> None:
        self._run, self._outcome = run, outcome
        self._invariants: Invariants | None = None
        self._state = State.STARTING

    def __call__(self, event: Event, now: Now, commands: tuple[Command, ...]) -> None:
        lane: Lane = self._run.app.lane
        if self._invariants is None or self._invariants.lane is not lane:
            self._invariants, self._state = Invariants(lane), State.STARTING
        self._outcome.cells.add((self._state.value, type(event).__name__))
        self._outcome.faults.update(fault.value for fault in lane.gate.faults())
        self._state = lane.state
        self._invariants.saw(event, now, commands)


def world_run(seed: int, passengers: int, troubles: int) -> Outcome:
    """One seed with mishaps and upsets, judged by the monitor."""
    topology = list(Topology)[seed % 3]
    outcome = Outcome(seed, topology.value, "world")
    planned = mishaps.plan(seed, troubles, topology)
    upset = upsets.plan(seed, troubles)
    outcome.befell = {m.kind.value for m in planned} | {u.kind.value for u in upset}
    with sim_folder() as folder:
        run = VirtualLane(
            seed,
            topology,
            folder,
            passengers=passengers,
            mishaps=tuple(planned),
            upsets=lambda lane: [upsets.befall(each, lane) for each in upset],
        )
        run.watchers.append(Watch(run, outcome))

        async def main() -> None:
            report = await run.run()
            outcome.lane_s = asyncio.get_running_loop().time()
            outcome.explanations = report.explanations
            outcome.counts.update({k: v for k, v in report.as_dict().items() if isinstance(v, int)})
            if not report.clean:
                outcome.broken.append("the monitor's truth and the records differ")

        _guarded(main, outcome)
        outcome.hash = getattr(run, "hash", "")
    return outcome


def anything_run(seed: int) -> Outcome:
    """Any event at any moment, told into a lane that serves passengers. Invariants only."""
    topology = list(Topology)[seed % 3]
    outcome = Outcome(seed, topology.value, "anything")
    with sim_folder() as folder:
        run = VirtualLane(seed, topology, folder, passengers=40)
        run.watchers.append(Watch(run, outcome))

        async def tell() -> None:
            rng = random.Random(f"anything {seed}")
            told: Counter[tuple[State, str]] = Counter()
            loop = asyncio.get_running_loop()
            while loop.time() < ANYTHING_S:
                await asyncio.sleep(rng.uniform(0.01, 0.6))
                lane = run.app.lane
                events = any_events(lane, loop.time())
                fresh = [each for each in events if not told[lane.state, type(each).__name__]]
                event = rng.choice(fresh or events)
                told[lane.state, type(event).__name__] += 1
                run.app.queue.emit(event)
                if rng.random() < 0.1:
                    for device in Device:
                        run.app.queue.emit(back_again(device))

        run.upsets = lambda lane: [tell()]

        async def main() -> None:
            await run.run()
            outcome.lane_s = asyncio.get_running_loop().time()

        _guarded(main, outcome)
    return outcome


def cells_run(number: int) -> Outcome:
    """Every cell of the table once, reached by a scripted walk, with the invariants watched."""
    topology = list(Topology)[number % 3]
    outcome = Outcome(number, topology.value, "cells")
    shape = Shape(topology.value)
    for state in STEPS:
        try:
            count = len(any_events(reach(state, shape).lane, 0.0))
        except AssertionError:
            continue  # a lane of one leaf has no such state
        for k in range(count):
            play = reach(state, shape)
            event = any_events(play.lane, play.mono)[k]
            outcome.cells.add((state.value, type(event).__name__))
            try:
                play.do(event)
                play.wait(120.0)
            except AssertionError as error:
                outcome.broken.append(f"{state.value} x {event!r}: {error}")
    return outcome


def back_again(device: Device) -> Event:
    """The device says that it is there: what one storm of events broke, the next passenger does not suffer."""
    from gated.lane.events import DeviceReady

    return DeviceReady(device)


def _guarded(main: Any, outcome: Outcome) -> None:
    try:
        virtual.run(main())
    except BaseExceptionGroup as group:
        outcome.broken.append("".join(traceback.format_exception(group))[-1500:])
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what the soak looks for
        outcome.broken.append("".join(traceback.format_exception(error))[-1500:])


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _job(job: tuple[str, int, int, int]) -> Outcome:
    kind, seed, passengers, troubles = job
    _quiet()
    if kind == "world":
        return world_run(seed, passengers, troubles)
    return anything_run(seed) if kind == "anything" else cells_run(seed)


@click.command()
@click.option("--seeds", "-n", default=200, show_default=True, help="How many worlds.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--passengers", default=26, show_default=True, help="Passengers in each world.")
@click.option("--troubles", default=4, show_default=True, help="Physical mishaps, and as many upsets, in each world.")
@click.option("--anything", default=24, show_default=True, help="Runs that tell the lane any event at any moment.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Processes.")
@click.option("--json", "as_json", is_flag=True, help="One object.")
def soak(seeds: int, first: int, passengers: int, troubles: int, anything: int, jobs: int, as_json: bool) -> int:
    """Run many seeds of the real lane in virtual time; exit code 1 where anything does not hold."""
    began = time.monotonic()
    world = [("world", seed, passengers, troubles) for seed in range(first, first + seeds)]
    again = world[::TWICE_EVERY]
    others = [("anything", seed, 0, 0) for seed in range(first, first + anything)]
    plan = [*world, *again, *others, *(("cells", number, 0, 0) for number in range(3))]
    with ProcessPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(_job, plan))
    answer = _sum_up(outcomes[: len(world)], outcomes[len(world) :], time.monotonic() - began)
    click.echo(json.dumps(answer, indent=2) if as_json else _text(answer))
    return 0 if answer["holds"] else 1


def _sum_up(worlds: list[Outcome], others: list[Outcome], real_s: float) -> dict[str, Any]:
    hashes = {outcome.seed: outcome.hash for outcome in worlds}
    again = [outcome for outcome in others if outcome.kind == "world"]
    differ = [outcome.seed for outcome in again if outcome.hash != hashes[outcome.seed]]
    every = [*worlds, *others]
    counts: Counter[str] = sum((outcome.counts for outcome in worlds), Counter())
    cells = set().union(*(outcome.cells for outcome in every)) if every else set()
    wanted = {*(each.value for each in Upset), *(each.value for each in Trouble)}
    befell = set().union(*(outcome.befell for outcome in worlds)) if worlds else set()
    faults = set().union(*(outcome.faults for outcome in every)) if every else set()
    known = {fault.value for fault in Fault} - {"chip", "speaker", "display"}
    broken = [
        {"seed": o.seed, "topology": o.topology, "kind": o.kind, "what": o.broken, "why": o.explanations}
        for o in every
        if o.broken
    ]
    lane_h = sum(outcome.lane_s for outcome in every) / 3600
    missing = sorted(CELLS - cells)
    answer = {
        "seeds": len(worlds),
        "passengers": counts["passengers"],
        "counts": dict(counts),
        "cells": f"{len(cells & CELLS)}/{len(CELLS)}",
        "cells_missing": [f"{state} x {event}" for state, event in missing],
        "happenings": f"{len(befell & wanted)}/{len(wanted)}",
        "happenings_missing": sorted(wanted - befell),
        "faults": f"{len(faults & known)}/{len(known)}",
        "faults_missing": sorted(known - faults),
        "run_twice": len(again),
        "hashes_differ": differ,
        "lane_hours": round(lane_h, 1),
        "real_s": round(real_s, 1),
        "lane_hours_per_s": round(lane_h / real_s, 3),
        "broken": broken,
    }
    uncovered = missing or wanted - befell or known - faults
    answer["holds"] = not (broken or differ or (uncovered and len(worlds) >= COVERED_FROM))
    return answer


def _text(answer: dict[str, Any]) -> str:
    counts = answer["counts"]
    shown = ("granted", "referred", "wrong_grants", "records_lost", "records_twice", "doors_unsafe", "unresolved")
    lines = [
        f"{answer['seeds']} seeds, {answer['passengers']} passengers, {answer['lane_hours']} lane-hours "
        f"in {answer['real_s']} s: {answer['lane_hours_per_s']} lane-hours a second",
        "  ".join(f"{name} {counts.get(name, 0)}" for name in shown),
        f"cells {answer['cells']}  happenings {answer['happenings']}  faults {answer['faults']}",
        f"{answer['run_twice']} seeds run twice, journal hashes that differ: {len(answer['hashes_differ'])}",
    ]
    for name in ("cells_missing", "happenings_missing", "faults_missing"):
        if answer[name]:
            lines.append(f"{name}: {', '.join(answer[name])}")
    for each in answer["broken"]:
        lines.append(f"BROKEN {each['kind']} seed {each['seed']} ({each['topology']})")
        lines += [f"    {line}" for line in [*each["what"], *each["why"]]]
    lines.append("every invariant holds" if answer["holds"] else "something does not hold")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    code = soak.main(argv, prog_name="python -m tests.hw_sim soak", standalone_mode=False)
    return int(code or 0)
