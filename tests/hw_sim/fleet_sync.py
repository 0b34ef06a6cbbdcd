"""`python -m tests.hw_sim fleet-sync`: many lanes with the real sync against one HQ: seconds, bytes and CPU until all
are current.

HQ publishes for real (register, epochs, TUF); one web server in a process of its own serves its folder over HTTP; every
lane has its own X25519 key, folder, metadata and connection, and runs `gated.sync.rounds.Sync`. Some processes share
the lanes, a thread for each: a process for each lane would measure the start of processes. In every step all lanes ask
in the same moment, which the real service spreads over a minute: it is the worst case.

A step ends when each lane stands at HQ's head. Afterwards the digests of all rows of every lane must be those of HQ's
audit table; some lanes are compared row by row, and opened with their own key.
"""

import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, Final

import click
import structlog

from gated.hq import epochs
from gated.hq.publisher import Round
from gated.hq.registers import Paper
from gated.hq.repository import Repository
from gated.wire.seal import public_of
from tests.hq_rig import NOW, Hq, Reader, person
from tests.hw_sim.fleet_lane import Came, Compare, Order, crew, name_of, private_of
from tests.hw_sim.stages import rows_digest
from tests.hw_sim.website import Website
from tests.sync_rig import Clock

CHANGES: Final = 139
"""A minute's share of 200,000 changes a day."""
SAMPLE: Final = 10
"""So many lanes are compared row by row."""
PROCESSES: Final = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Served:
    """What the web server has done so far. `sent`: bytes of bodies."""

    sent: int
    requests: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table. `handed`: bytes of the announcement; `hq_cpu_s`: to publish it."""

    what: str
    lanes: int
    current: int
    seconds: float
    p50_s: float
    p99_s: float
    bytes: int
    bytes_per_lane: int
    handed: int
    requests: int
    rounds_max: int
    server_cpu_s: float
    lanes_cpu_s: float
    lane_cpu_s: float
    hq_cpu_s: float
    troubles: tuple[str, ...]


def face_of(subject: int, edition: int = 0) -> bytes:
    """A template that is nobody's, and that nothing makes shorter."""
    return Random(f"{subject}/{edition}").randbytes(512)


def _server(line: Connection, folder: Path) -> None:
    """The life of the web server's process."""
    with Website(folder) as site:
        line.send(site.url)
        while line.recv() is not None:
            line.send(Served(site.sent, len(site.asked), time.process_time()))


# -- all of them -------------------------------------------------------------------------------------------------------


class Fleet:
    """Processes first, before this one has a database or a thread; then HQ."""

    def __init__(self, folder: Path, lanes: int, workers: int) -> None:
        self.lanes, self._ends = lanes, ExitStack()
        (folder / "hq").mkdir()
        self._site = self._forked(_server, folder / "hq" / "repo")
        self._crews = [
            self._forked(crew, numbers, folder)
            for numbers in (range(lanes)[n::workers] for n in range(workers))
            if numbers
        ]
        self.clock, self.hq = Clock(NOW), Hq(folder / "hq")
        self.hq.register.db.conn.execute("PRAGMA synchronous = OFF")  # the register is not what is measured
        for n in range(lanes):
            epochs.add_lane(self.hq.state, self.hq.keys, self.hq.repo, name_of(n), public_of(private_of(n)))
        self._publisher = self.hq.publisher()
        url = self._site.recv()
        for each in self._crews:
            each.send((url, Repository(self.hq.repo).root))

    def _forked(self, life: Callable[..., None], *given: Any) -> Connection:
        ours, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(target=life, args=(theirs, *given), daemon=True)
        process.start()
        theirs.close()
        self._ends.callback(process.join, 30)
        self._ends.callback(ours.send, None)
        return ours

    def close(self) -> None:
        self._publisher.close()
        self._ends.close()
        self.hq.state.close()
        self.hq.register.close()

    def publish(self, **asked: bool) -> Round:
        """A minute later."""
        self.clock.on(minutes=1)
        return self._publisher.round(self.clock(), **asked)

    def ban(self, subject: int) -> bytes:
        """Urgent. What is announced."""
        self.clock.on(seconds=1)
        self.hq.register.add_flags(subject, {"wanted"}, urgent=True)
        return self._publisher.announcement(self._publisher.urgent(self.clock()))

    def renew(self, people: int, edition: int) -> None:
        """So many renewed passports, with a new face each, as come in a minute."""
        for k in range(min(CHANGES, people)):
            n = (edition * CHANGES + k) % people + 1
            paper = Paper("TWN", f"5{(edition * CHANGES + k):08}")
            self.hq.register.enrol(person(n, papers=(paper,), face=face_of(n, edition + 1)))

    def step(self, what: str, publish: Callable[[], bytes | None]) -> Step:
        """Publish, and let all lanes begin at once."""
        cpu = time.process_time()
        announcement = publish()
        cpu = time.process_time() - cpu
        heads = {part.name: (part.epoch, part.note.serial) for part in self._publisher.open_partitions()}
        before = self._served()
        order = Order(self.clock(), time.monotonic() + 0.5, heads, announcement)
        for each in self._crews:
            each.send(order)
        came: list[Came] = [one for each in self._crews for one in each.recv()]
        return _step(what, came, before, self._served(), len(announcement or b""), cpu)

    def _served(self) -> Served:
        self._site.send("how much")
        found = self._site.recv()
        assert isinstance(found, Served)
        return found

    def compared(self) -> list[str]:
        """What differs anywhere."""
        parts = {part.name: part for part in self._publisher.open_partitions()}
        tables = {name: Reader(self.hq.repo, name).head.audit for name in parts}
        for name, table in tables.items():
            if table is None or table.serial != parts[name].note.serial:
                return [f"HQ has no audit table of its last segment of {name}"]
        digests = {name: table.sha256.hex() for name, table in tables.items() if table is not None}
        rows = {name: rows_digest(dict(part.rows())) for name, part in parts.items()}
        for each in self._crews:
            each.send(Compare(digests, rows, SAMPLE))
        return [wrong for each in self._crews for wrong in each.recv() if wrong]


def _step(what: str, came: Sequence[Came], before: Served, after: Served, handed: int, hq_cpu_s: float) -> Step:
    took = sorted(each.took_s for each in came)
    sent, cpu_s = after.sent - before.sent, sum(each.cpu_s for each in came)
    return Step(
        what,
        lanes=len(came),
        current=sum(each.current for each in came),
        seconds=round(took[-1], 3),
        p50_s=round(took[len(took) // 2], 3),
        p99_s=round(took[min(len(took) - 1, len(took) * 99 // 100)], 3),
        bytes=sent,
        bytes_per_lane=sent // len(came),
        handed=handed,
        requests=after.requests - before.requests,
        rounds_max=max(each.rounds for each in came),
        server_cpu_s=round(after.cpu_s - before.cpu_s, 3),
        lanes_cpu_s=round(cpu_s, 3),
        lane_cpu_s=round(cpu_s / len(came), 4),
        hq_cpu_s=round(hq_cpu_s, 3),
        troubles=tuple(sorted({each.trouble for each in came if each.trouble})),
    )


def _life(fleet: Fleet, people: int, minutes: int) -> list[Step]:
    def first() -> None:
        for n in range(1, people + 1):
            fleet.hq.register.enrol(person(n, face=face_of(n)))
        fleet.publish(snapshot=True)

    def minute(edition: int) -> None:
        fleet.renew(people, edition)
        fleet.publish()

    def day() -> None:
        for edition in range(1, minutes + 1):
            minute(edition)
        fleet.publish(consolidate=True)

    def nothing() -> None:
        fleet.publish()

    def told(what: str, publish: Callable[[], bytes | None]) -> Step:
        found = fleet.step(what, publish)
        click.echo(f"{what}: {found.current} of {found.lanes} current in {found.seconds:.2f} s", sys.stderr)
        return found

    return [
        told("first install", first),
        told("a minute", lambda: minute(0)),
        told("a ban, announced", lambda: fleet.ban(1)),
        told("the round after it", lambda: None),
        told(f"{minutes} minutes as a day", day),
        told("nothing new", nothing),
    ]


# -- the table ---------------------------------------------------------------------------------------------------------

COLUMNS: Final = (
    ("current", "current"), ("all s", "seconds"), ("p50 s", "p50_s"), ("p99 s", "p99_s"), ("kB in all", "bytes"),
    ("kB a lane", "bytes_per_lane"), ("requests", "requests"), ("server CPU s", "server_cpu_s"),
    ("lanes CPU s", "lanes_cpu_s"), ("a lane CPU s", "lane_cpu_s"), ("HQ CPU s", "hq_cpu_s"),
)  # fmt: skip


def _table(steps: Sequence[Step]) -> str:
    lines = [
        f"| {'step':22} | " + " | ".join(f"{head:>12}" for head, _ in COLUMNS) + " |",
        f"| {'-' * 22} | " + " | ".join("-" * 11 + ":" for _ in COLUMNS) + " |",
    ]
    for step in steps:
        row = asdict(step)
        row["bytes"], row["bytes_per_lane"] = f"{step.bytes / 1000:,.0f}", f"{step.bytes_per_lane / 1000:,.1f}"
        lines.append(f"| {step.what:22} | " + " | ".join(f"{row[name]:>12}" for _, name in COLUMNS) + " |")
    return "\n".join(lines)


def _perform(lanes: int, people: int, minutes: int, workers: int, as_json: bool) -> int:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[])
    folder = Path(tempfile.mkdtemp(prefix="fleet-sync-"))
    fleet = Fleet(folder, lanes, workers)
    try:
        steps = _life(fleet, people, minutes)
        wrong = fleet.compared()
        behind = [step.what for step in steps if step.current < step.lanes]
        if as_json:
            found = {"steps": [asdict(step) for step in steps], "differ": wrong, "not_current": behind}
            click.echo(json.dumps(found | {"lanes": lanes, "people": people, "compared_by_row": min(SAMPLE, lanes)}))
        else:
            click.echo(_table(steps))
            click.echo(f"\nThe announcement of the ban: {steps[2].handed} bytes for each lane, by the broker.")
            for text in [*wrong, *(f"not all were current: {what}" for what in behind)]:
                click.echo(text)
            for step in steps:
                if step.troubles or step.rounds_max > 1:
                    click.echo(f"{step.what}: up to {step.rounds_max} rounds; {', '.join(step.troubles)}")
            if not wrong:
                click.echo(f"All {lanes} lanes have HQ's digests; {min(SAMPLE, lanes)} compared row by row.")
        return 1 if wrong or behind else 0
    finally:
        fleet.close()
        shutil.rmtree(folder, ignore_errors=True)


@click.command(help=__doc__)
@click.option("--lanes", default=200, show_default=True, type=click.IntRange(1, 1000))
@click.option("--people", default=2000, show_default=True, type=click.IntRange(CHANGES), help="Enrolled at HQ.")
@click.option("--minutes", default=60, show_default=True, type=click.IntRange(2), help="Segments in the day.")
@click.option("--workers", default=4, show_default=True, type=click.IntRange(1), help="Processes that share the lanes.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def command(lanes: int, people: int, minutes: int, workers: int, as_json: bool) -> None:
    """See the module."""
    raise SystemExit(_perform(lanes, people, minutes, workers, as_json))


def main(given: Sequence[str]) -> int:
    """The exit code: 0 where every lane became current and has what HQ has."""
    try:
        command.main(args=list(given), prog_name="python -m tests.hw_sim fleet-sync", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
