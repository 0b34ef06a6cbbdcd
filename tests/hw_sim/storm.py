"""`python -m tests.hw_sim storm`: everything between lanes' disks and HQ's database dies at random, again and again.

Lanes (outboxes with their uplinks), two brokers without a memory, ingest workers at both, and PostgreSQL run as
processes; lines between them lead through fault proxies; lanes and PostgreSQL lie on small disks of their own. One
cycle is one fault and its end: kill -9 of a lane, an uplink, a worker, a broker or the database; a clean restart of
broker or database; a line that is cut, reset, slow, late, or dead without saying so; a disk that is full. Several
overlap. Who ends by itself is started again, as the service manager would.

Afterwards all is healed, and everything that was committed at a lane must be at HQ once, in its order: head for head,
hash for hash, record for record, and no chain may have a hole."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.hw_sim.crew import Crew, CrewError
from tests.hw_sim.storm_rig import StormRig

AT_ONCE = 5
"""So many faults overlap at most."""
LASTS_S = (0.3, 3.0)
SETTLE_S = 240.0
COLUMNS = ("records", "lost", "doubled", "out_of_order", "streams", "chapters", "sent_again", "settled_s", "ended")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong now. `heal` ends it."""

    name: str
    victim: str
    until_mono: float
    heal: Callable[[], None]


class Storm:
    """Chooses what happens next. Each victim suffers from one thing at a time."""

    def __init__(self, rig: StormRig, seed: int) -> None:
        self.rig, self._dice = rig, Random(seed)
        self.done: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        """Who ended by itself, with which code."""
        self._faults: list[Fault] = []
        self._kinds = self._menu()

    def _menu(self) -> dict[str, tuple[int, Sequence[str]]]:
        """Weight and possible victims of each kind of fault."""
        rig = self.rig
        menu: dict[str, tuple[int, Sequence[str]]] = {
            "kill lane": (3, rig.lanes),
            "kill uplink": (3, [f"{lane}-uplink" for lane in rig.lanes]),
            "kill ingest": (3, rig.workers),
            "kill broker": (2, rig.brokers),
            "stop broker": (1, rig.brokers),
            "cut line": (2, list(rig.lines)),
            "reset line": (2, list(rig.lines)),
            "dead line": (2, list(rig.lines)),
            "slow line": (1, list(rig.lines)),
            "late line": (1, list(rig.lines)),
        }
        if rig.postgres is not None:
            menu["kill database"] = (2, ["database"])
            menu["restart database"] = (1, ["database"])
        if rig.small_disks:
            menu["full disk of lane"] = (2, rig.lanes)
            menu["full disk of database"] = (1, ["database"] if rig.postgres is not None else ["hq"])
        return menu

    def step(self) -> None:
        """Heal what has lasted long enough, and let something new happen."""
        now = time.monotonic()
        for fault in [each for each in self._faults if each.until_mono <= now]:
            self._heal(fault)
        for name, process in list(self.rig.crew.processes.items()):
            if process.poll() is not None:
                self.ended[f"{name.rstrip('0123456789')} {process.returncode}"] += 1
                self.rig.crew.again(name)
        if len(self._faults) >= AT_ONCE or self._dice.random() > 0.5:
            return
        kind = self._dice.choices(list(self._kinds), [weight for weight, _ in self._kinds.values()])[0]
        victim = self._dice.choice(self._kinds[kind][1])
        if any(each.victim == victim for each in self._faults):
            return
        lasts = self._dice.uniform(*LASTS_S)
        self._faults.append(Fault(kind, victim, now + lasts, self._begin(kind, victim)))

    def _begin(self, kind: str, victim: str) -> Callable[[], None]:
        rig = self.rig
        match kind:
            case "kill database" | "restart database":
                assert rig.postgres is not None
                (rig.postgres.kill if kind == "kill database" else rig.postgres.stop)()
                return rig.database_again
            case "full disk of lane" | "full disk of database":
                return rig.fill(victim)
            case "stop broker":
                rig.crew.end(victim)
                return lambda: rig.crew.again(victim)
            case _ if kind.startswith("kill"):
                rig.crew.kill(victim)
                return lambda: rig.crew.again(victim)
        line = rig.lines[victim]
        match kind:
            case "cut line":
                line.drop()
            case "reset line":
                line.reset()
            case "dead line":
                line.half_open(up=self._dice.random() < 0.7, down=self._dice.random() < 0.7)
            case "slow line":
                line.throttle(2000)
            case _:
                line.delay(self._dice.uniform(0.1, 1.0), 0.5)
        return line.normal

    def _heal(self, fault: Fault) -> None:
        self._faults.remove(fault)
        fault.heal()
        self.done[fault.name] += 1

    def over(self) -> None:
        """Heal everything."""
        for fault in list(self._faults):
            self._heal(fault)


def perform(chosen: argparse.Namespace) -> int:
    """0: nothing lost, nothing doubled, order kept."""
    folder = Path(tempfile.mkdtemp(prefix="storm-", dir=chosen.folder))
    with ExitStack() as ends:
        crew = ends.enter_context(Crew(folder / "logs"))
        rig = ends.enter_context(StormRig(folder, crew, chosen.lanes, chosen.db, chosen.workers))
        storm = Storm(rig, chosen.seed)
        began = time.monotonic()
        parts = f"{chosen.lanes} lanes, {len(rig.workers)} workers, {chosen.db}"
        _say(f"seed {chosen.seed}; {parts}; logs in {folder / 'logs'}")
        if not rig.small_disks:
            _say("no small disks can be mounted here (that needs root): no disk will be full")
        reported = 0
        while storm.done.total() < chosen.cycles and time.monotonic() - began < chosen.seconds:
            storm.step()
            time.sleep(0.1)
            if storm.done.total() >= reported + 50:
                reported = storm.done.total()
                _say(f"{reported} cycles in {time.monotonic() - began:.0f} s, {rig.committed()} records committed")
        storm.over()
        stormy_s = time.monotonic() - began
        rig.calm()
        settled = rig.settle(SETTLE_S)
        found = rig.compare()
        found |= {"seed": chosen.seed, "cycles": storm.done.total(), "seconds": round(stormy_s)}
        found |= {"kinds": dict(sorted(storm.done.items())), "settled_s": settled, "ended": dict(storm.ended)}
        wrong = found["wrong"]
        if chosen.hold and (wrong or settled is None):
            input("Wrong: everything is left as it is until Enter.")
    if chosen.json:
        print(json.dumps(found))
    else:
        _table(found)
    if not wrong and settled is not None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong or settled is None else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _table(found: dict[str, object]) -> None:
    print(f"{found['cycles']} cycles in {found['seconds']} s:")
    kinds = found["kinds"]
    assert isinstance(kinds, dict)
    for kind, count in kinds.items():
        print(f"  {kind:24} {count:5}")
    for name in (
        "records",
        "lost",
        "doubled",
        "out_of_order",
        "streams",
        "chapters",
        "sent_again",
        "settled_s",
        "ended",
    ):
        print(f"{name:26} {found[name]}")
    wrong = found["wrong"]
    assert isinstance(wrong, list)
    for line in wrong[:20]:
        print(f"WRONG: {line}")


def main(given: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.hw_sim storm", description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000, help="faults with their ends (default 1000)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="not longer than this (default 3600)")
    parser.add_argument("--lanes", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2, help="ingest workers at each of the two brokers (default 2)")
    parser.add_argument("--db", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: the system's)")
    parser.add_argument("--hold", action="store_true", help="where something is wrong, leave all running until Enter")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    try:
        return perform(parser.parse_args(list(given)))
    except (CrewError, subprocess.SubprocessError) as bad:
        print(f"storm: {bad}", file=sys.stderr)
        return 1
