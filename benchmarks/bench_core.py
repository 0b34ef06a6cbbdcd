"""How fast the lane's core is, what the soak does in a second, how soon a real lane process is ready, and its memory.

The core is told what a lane was told on a simulated day (the real lane in virtual time, with mishaps), and must answer
the same again. Beside it the physical limit: a bare loop that finds a handler for each event and calls it.

    python -m benchmarks.bench_core [--passengers N] [--rounds N] [--seeds N] [--starts N] [--json]
"""

import argparse
import json
import logging
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from gated.config import load
from gated.daemon.plan import machine_of
from gated.daemon.writer import JOURNAL_EVERY_S
from gated.lane.commands import Command
from gated.lane.core import State
from gated.lane.events import EVENTS, Event, Now
from gated.lane.machine import Lane
from gated.store.db import LaneDb
from gated.store.journal import Journal
from tests.hw_sim import mishaps, soak, virtual
from tests.hw_sim.happenings import Topology
from tests.hw_sim.simlane import VirtualLane, sim_folder
from tests.lane_rig import Rig

SEED = 6
MISHAPS = 2
READY_S_MAX = 60.0
SETTLED_S = 2.0
"""Memory is looked at so long after the lane takes passengers: frames have gone through the networks by then."""
IMPORTS = "import cryptography, cv2, numpy, onnxruntime, structlog"

Step = tuple[Event, Now, tuple[Command, ...]]


@dataclass(frozen=True)
class Day:
    """What one lane was told, and what it answered."""

    steps: list[Step]
    fresh: Callable[[], Lane]
    """Makes the same lane, before anything happened to it."""
    lane_s: float
    passengers: int


def record(passengers: int) -> Day:
    """A day of a mantrap in virtual time."""
    steps: list[Step] = []
    with sim_folder() as folder:
        planned = tuple(mishaps.plan(SEED, MISHAPS, Topology.MANTRAP))
        run = VirtualLane(SEED, Topology.MANTRAP, folder, passengers=passengers, mishaps=planned)
        run.watchers.append(lambda event, now, commands: steps.append((event, now, commands)))
        virtual.run(run.run())
        first = machine_of(load(run.config_path))
    devices = frozenset(first.gate.lost)
    return Day(
        steps,
        lambda: Lane(first.topology, first.timing, first.rules, devices, place=first.place, ways=first.ways),
        steps[-1][1].mono,
        passengers,
    )


def check(day: Day) -> None:
    """The lane must answer the same again: else a figure would be of something else."""
    lane = day.fresh()
    for number, (event, now, commands) in enumerate(day.steps):
        assert lane.handle(event, now) == commands, f"step {number} is answered differently"


def best_per_s(run: Callable[[], None], count: int, rounds: int) -> float:
    """Of `rounds` runs the best: events a second."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return count / best


def core(day: Day, rounds: int, disk: Path) -> dict[str, float]:
    """Events a second: bare dispatch, the lane, the lane with its journal in memory, and with its journal on disk.

    On disk as the lane's writer does it: what comes within `JOURNAL_EVERY_S` of lane time shares a transaction."""
    told = [(event, now) for event, now, _ in day.steps]
    table = {state: dict.fromkeys(EVENTS, _nothing) for state in State}
    boots = iter(range(1_000_000))
    commits = 0

    def dispatch() -> None:
        state = State.IDLE
        for event, now in told:
            table[state][type(event)](event, now)

    def handle() -> None:
        lane = day.fresh()
        for event, now in told:
            lane.handle(event, now)

    def journalled(to_disk: bool) -> None:
        nonlocal commits
        commits = 0
        db = LaneDb(disk / f"lane-{next(boots)}.db")
        journal = Journal(db, bytes(32), "boot")
        lane, flushed = day.fresh(), told[0][1].mono
        for event, now in told:
            if to_disk and now.mono - flushed >= JOURNAL_EVERY_S:
                flushed, commits = now.mono, commits + 1
                with db.transaction():
                    journal.flush()
            journal.append(now, event, lane.handle(event, now))
        assert journal.lost == 0, "a journal that loses steps is no journal"
        db.close()

    syncs = syncs_per_s(disk / "before", rounds)  # before and after: others use the disk too
    on_disk = best_per_s(lambda: journalled(to_disk=True), len(told), max(1, rounds // 3))
    on_disk_commits = on_disk * commits / len(told)
    return {
        "dispatch_per_s": best_per_s(dispatch, len(told), rounds),
        "lane_per_s": best_per_s(handle, len(told), rounds),
        "journal_per_s": best_per_s(lambda: journalled(to_disk=False), len(told), rounds),
        "journal_on_disk_per_s": on_disk,
        "commits_per_s": on_disk_commits,
        "disk_syncs_per_s": max(syncs, syncs_per_s(disk / "after", rounds)),
        **latency(day, rounds),
    }


def syncs_per_s(path: Path, rounds: int, count: int = 100) -> float:
    """What the disk can do: pages of 4 KiB in a file that has its size, each made durable before the next."""
    page = bytes(4096)
    with path.open("wb", buffering=0) as file:
        file.write(page * count)
        os.fsync(file.fileno())

        def write() -> None:
            for number in range(count):
                os.pwrite(file.fileno(), page, number * len(page))
                os.fdatasync(file.fileno())

        return best_per_s(write, count, rounds)


def _nothing(event: Event, now: Now) -> None:
    pass


def latency(day: Day, rounds: int) -> dict[str, float]:
    """Microseconds of one event, each the best of `rounds`: what the lane itself takes, not what disturbs it."""
    best = [float("inf")] * len(day.steps)
    for _ in range(rounds):
        lane = day.fresh()
        for number, (event, now, _commands) in enumerate(day.steps):
            started = time.perf_counter_ns()
            lane.handle(event, now)
            best[number] = min(best[number], time.perf_counter_ns() - started)
    ordered = sorted(each / 1000 for each in best)
    return {
        "median_us": ordered[len(ordered) // 2],
        "p99_us": ordered[int(len(ordered) * 0.99)],
        "worst_us": ordered[-1],
    }


def soak_speed(seeds: int) -> dict[str, float]:
    """Lane-hours a second of the soak's worlds on one core, invariants watched."""
    lane_s, began = 0.0, time.perf_counter()
    for seed in range(seeds):
        outcome = soak.world_run(seed, 26, 4)
        assert not outcome.broken, f"seed {seed} is broken: {outcome.broken}"
        lane_s += outcome.lane_s
    real_s = time.perf_counter() - began
    return {"seeds": seeds, "lane_hours": lane_s / 3600, "lane_hours_per_s": lane_s / 3600 / real_s}


def starts(count: int) -> dict[str, float]:
    """The real lane process with the real networks, simulated only below its links: seconds and megabytes.

    The files are in the page cache. `bare_s`: an interpreter that does nothing; `imports_s`: one that imports the
    libraries and nothing of ours."""
    runs = [_start() for _ in range(count)]
    found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    found["bare_s"] = min(_python_s("pass") for _ in range(3))
    found["imports_s"] = min(_python_s(IMPORTS) for _ in range(3))
    return {"starts": count, **found}


def _python_s(program: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - started


def _start() -> dict[str, float]:
    rig = Rig()
    try:
        rig.enrol(rig.passport())
        rig.publish()
        address = str(rig.folder / "notify.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address)
            os.environ["NOTIFY_SOCKET"] = address
            try:
                began = time.perf_counter()
                rig.launch()
            finally:
                del os.environ["NOTIFY_SOCKET"]
            ready_s = _ready(manager, began)
        rig.wait("idle")
        idle_s = time.perf_counter() - began
        time.sleep(SETTLED_S)
        assert rig.process is not None
        return {"ready_s": ready_s, "takes_passengers_s": idle_s, **_memory(rig.process.pid)}
    finally:
        rig.close()


def _ready(manager: socket.socket, began: float) -> float:
    """Seconds until the process says READY=1, as systemd would hear it."""
    while True:
        left = began + READY_S_MAX - time.perf_counter()
        if left <= 0:
            raise TimeoutError(f"the lane process did not say READY=1 within {READY_S_MAX:g} s")
        manager.settimeout(left)
        if b"READY=1" in manager.recv(4096).split(b"\n"):
            return time.perf_counter() - began


def _memory(pid: int) -> dict[str, float]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kib = {name: int(status[name].split()[0]) for name in ("VmRSS", "VmHWM", "RssAnon")}
    return {
        "resident_mb": kib["VmRSS"] / 1024,
        "resident_peak_mb": kib["VmHWM"] / 1024,
        "resident_own_mb": kib["RssAnon"] / 1024,
    }


def measure(passengers: int, rounds: int, seeds: int, starts_count: int) -> dict[str, Any]:
    """Everything, one after another."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    load_before = os.getloadavg()[0]
    day = record(passengers)
    check(day)
    with tempfile.TemporaryDirectory(prefix="gated-bench-") as disk:
        told: dict[str, Any] = {
            "stream": {"events": len(day.steps), "passengers": day.passengers, "lane_hours": day.lane_s / 3600},
            "core": core(day, rounds, Path(disk)),
        }
    told["soak"] = soak_speed(seeds)
    told["start"] = starts(starts_count) if starts_count else None
    told["machine"] = {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
    }
    return told


def table(told: dict[str, Any]) -> str:
    """The figures in words."""
    stream, speed, machine = told["stream"], told["core"], told["machine"]
    limit = speed["dispatch_per_s"]
    lines = [
        f"Python {machine['python']}, {machine['cpus']} CPUs, "
        f"load {machine['load_before']:.1f} before, {machine['load_after']:.1f} after",
        f"stream: {stream['events']} events of {stream['passengers']} passengers "
        f"in {stream['lane_hours']:.2f} lane-hours ({stream['events'] / stream['lane_hours'] / 3600:.1f} a second)",
        f"{'':34}{'events/s':>12}{'of the limit':>14}",
    ]
    rows = (
        ("bare dispatch (physical limit)", "dispatch_per_s"),
        ("lane", "lane_per_s"),
        ("lane, journal in memory", "journal_per_s"),
        (f"lane, journal on disk every {JOURNAL_EVERY_S:g} s", "journal_on_disk_per_s"),
    )
    lines += [f"{name:34}{speed[key]:>12,.0f}{speed[key] / limit:>13.3%}" for name, key in rows]
    lines.append(
        f"one event: median {speed['median_us']:.1f}, p99 {speed['p99_us']:.1f}, worst {speed['worst_us']:.1f} us"
    )
    lines.append(
        f"commits of the journal: {speed['commits_per_s']:,.0f} a second; "
        f"the disk makes {speed['disk_syncs_per_s']:,.0f} pages a second durable (physical limit)"
    )
    virtually = told["soak"]
    lines.append(
        f"soak on one core: {virtually['lane_hours_per_s']:.3f} lane-hours a second "
        f"({virtually['lane_hours_per_s'] * 3600:,.0f} times real time; {virtually['seeds']} seeds)"
    )
    start = told["start"]
    if start is not None:
        lines.append(
            f"start, median of {start['starts']}: READY after {start['ready_s']:.2f} s, takes passengers after "
            f"{start['takes_passengers_s']:.2f} s (bare interpreter {start['bare_s']:.2f} s, "
            f"libraries alone {start['imports_s']:.2f} s)"
        )
        lines.append(
            f"memory with the networks: {start['resident_mb']:.0f} MB resident, "
            f"of it {start['resident_own_mb']:.0f} MB its own; peak {start['resident_peak_mb']:.0f} MB"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--passengers", type=int, default=120, help="of the day that is recorded")
    parser.add_argument("--rounds", type=int, default=9, help="runs over the day, the best of which counts")
    parser.add_argument("--seeds", type=int, default=6, help="worlds of the soak")
    parser.add_argument("--starts", type=int, default=3, help="of the real lane process; 0 leaves them out")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args(argv)
    told = measure(options.passengers, options.rounds, options.seeds, options.starts)
    print(json.dumps(told, indent=2) if options.json else table(told))


if __name__ == "__main__":
    main()
