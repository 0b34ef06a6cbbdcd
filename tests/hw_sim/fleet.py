"""`python -m tests.hw_sim fleet`: many lanes report to one HQ over the production broker; nothing is lost or doubled.

Broker (its configuration as it stands, mutual TLS), ingest workers and database are real, each in processes of its own.
Lanes are wire-only: the real records, seals, chains, signatures and rules of sending again, over a small client,
thousands in a process; or, with --full, each a durable outbox on disk and the real uplink. Latency of wire-only lanes
is from the making of a record until HQ's signed receipt for it was verified by the lane, which is longer than to
HQ's commit. Passengers arrive at random (Poisson); a passage is four records in three streams.

Afterwards HQ's records are compared with what was made: number by number, chain by chain."""

import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final

import click
import pytest
import structlog

from tests.hw_sim import fleet_full, fleet_wire
from tests.hw_sim.crew import CrewError
from tests.hw_sim.fleet_hq import Headquarters, Used, compared, delays_s, say, until, work_folder
from tests.hw_sim.fleet_plan import SITE, Plan, Report, Status, name_of

PROCESSES: Final = multiprocessing.get_context("fork")
LATENCIES: Final = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
LANES_A_PROCESS: Final = 50
"""Full lanes: in the field each is a process of its own; two hundred in one mostly wait for its interpreter."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The options."""

    lanes: int
    rate: float
    seconds: float
    workers: int
    ingest: int
    db: str
    restart_broker: bool
    full: bool
    heartbeat_s: float
    connect_s_max: float
    drain_s_max: float
    seed: int


class Lanes:
    """The processes of the lanes."""

    def __init__(self, chosen: Chosen, hq: Headquarters) -> None:
        self._chosen, self._hq = chosen, hq
        numbers = range(chosen.lanes)
        say(f"certificates for {chosen.lanes} lanes")
        brokers = {n: hq.broker.as_(f"{SITE}/{name_of(n)}") for n in numbers}
        shares = [numbers[k :: chosen.workers] for k in range(chosen.workers)]
        plans = [
            Plan(
                hq.folder, {n: brokers[n] for n in share}, share, chosen.rate * len(share) / chosen.lanes,
                chosen.seed * 1000 + k, chosen.heartbeat_s,
            )
            for k, share in enumerate(shares) if share
        ]  # fmt: skip
        self._crews = [self._forked(fleet_full.crew if chosen.full else fleet_wire.crew, plan) for plan in plans]

    def _forked(self, life: Callable[[Connection, Plan], None], plan: Plan) -> tuple[Connection, BaseProcess]:
        ours, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(target=life, args=(theirs, plan), daemon=True)
        process.start()
        theirs.close()
        assert process.pid is not None
        self._hq.meters.add("lanes", process.pid)
        return ours, process

    def tell(self, order: str) -> None:
        """connect, make, rest."""
        for line, _ in self._crews:
            line.send(order)

    def status(self) -> Status:
        """All together. Raises `CrewError` where a process ended."""
        return Status.together(self._ask("how"))

    def report(self) -> Report:
        """All together."""
        whole = Report()
        for each in self._ask("report"):
            whole.add(each)
        return whole

    def _ask(self, order: str) -> list[Any]:
        self._hq.check()
        self.tell(order)
        try:
            return [line.recv() for line, _ in self._crews]
        except EOFError:
            raise CrewError("a process of lanes ended") from None

    def close(self) -> None:
        """Let them say goodbye."""
        for line, process in self._crews:
            if process.is_alive():
                line.send(None)
        for _, process in self._crews:
            process.join(30)


def _life(chosen: Chosen, hq: Headquarters, lanes: Lanes) -> dict[str, Any]:
    times: dict[str, float | None] = {"connect_s": None, "again_ready_s": None, "again_acked_s": None}
    lanes.tell("connect")
    everybody = chosen.lanes
    times["connect_s"] = until(lambda: lanes.status().ready == everybody, chosen.connect_s_max, "all ready", hq.check)
    say(f"{everybody} lanes are ready after {times['connect_s']:.1f} s")
    first, began = hq.meters.read(), time.monotonic()
    lanes.tell("make")
    if chosen.restart_broker:
        time.sleep(chosen.seconds / 2)
        say("broker: kill -9 and restart")
        hq.restart_broker()
        killed = time.monotonic()
        until(lambda: lanes.status().ready < everybody, chosen.connect_s_max, "somebody notices", hq.check)
        until(lambda: lanes.status().ready == everybody, chosen.connect_s_max, "all ready again", hq.check)
        ready = time.monotonic()
        until(lambda: (lanes.status().oldest_mono or ready) >= ready, chosen.drain_s_max, "the storm is over", hq.check)
        times |= {"again_ready_s": ready - killed, "again_acked_s": time.monotonic() - killed}
        say(
            f"all ready after {ready - killed:.1f} s, all from before acknowledged after {times['again_acked_s']:.1f} s"
        )
    while (left := began + chosen.seconds - time.monotonic()) > 0:
        time.sleep(min(left, 5.0))
        status = lanes.status()
        say(f"{time.monotonic() - began:6.1f} s: {status.ready} ready, {status.made} made, {status.acked} acknowledged")
    lanes.tell("rest")
    rate = lanes.status().made / (time.monotonic() - began)
    status = _drained(chosen, hq, lanes)
    last = hq.meters.read()
    report = lanes.report()
    hq.settled(10)
    return _result(chosen, status, report, times, rate, (first, last), hq.url)


def _drained(chosen: Chosen, hq: Headquarters, lanes: Lanes) -> Status:
    """Wait until whoever was inside is out and all is acknowledged. Whatever is not by then is told as lost."""
    end = time.monotonic() + chosen.drain_s_max
    while not (status := lanes.status()).through and time.monotonic() < end:
        hq.check()
        time.sleep(0.2)
    return status


def _result(
    chosen: Chosen, status: Status, report: Report, times: Mapping[str, float | None], rate: float,
    use: tuple[Mapping[str, Used], Mapping[str, Used]], where: str,
) -> dict[str, Any]:  # fmt: skip
    made = sum(seq for seq, _ in report.heads.values())
    at_hq = compared(where, report.heads)
    told = at_hq.pop("resent_told")
    return {
        **asdict(chosen),
        **{name: None if value is None else round(value, 2) for name, value in times.items()},
        "ready": status.ready, "connects": report.connects, "made": made, "acked": report.acked,
        "records_per_s": round(rate, 1), "resent": told if chosen.full else report.resent,
        "to_receipt_s": _percentiles(report.latencies_s), "to_hq_s": _percentiles(delays_s(where)),
        "parts": _parts(*use, made), "failures": dict(report.failures.most_common(10)), **at_hq,
        "wrong": [f"{what}, {count} times" for what, count in report.wrong.items()] + at_hq["wrong"],
    }  # fmt: skip


def _parts(first: Mapping[str, Used], last: Mapping[str, Used], made: int) -> dict[str, dict[str, float]]:
    """CPU while all connected, and afterwards while records were made; a part of several processes has a row each."""
    found = {}
    for name, used in last.items():
        began = first[name]
        rows = {name: (began.cpu_s, used.cpu_s, used.rss_mb)}
        if name in ("ingest", "lanes") and len(used.each) > 1:
            for k, pid in enumerate(sorted(used.each)):
                rows[f" {name} {k}"] = began.each.get(pid, (0.0, 0.0))[0], *used.each[pid]
        for row, (before_s, cpu_s, rss_mb) in rows.items():
            found[row] = {
                "connect_cpu_s": round(before_s, 2), "cpu_s": round(cpu_s - before_s, 2),
                "ms_a_record": round((cpu_s - before_s) / max(1, made) * 1000, 3), "rss_mb": round(rss_mb),
            }  # fmt: skip
    return found


def _percentiles(values: list[float]) -> dict[str, float | None]:
    values.sort()
    return {
        name: round(values[min(len(values) - 1, int(len(values) * share))], 3) if values else None
        for name, share in LATENCIES
    }


def good(found: Mapping[str, Any]) -> bool:
    """Nothing lost, doubled, changed or out of order, and the lanes know it."""
    whole = found["made"] == found["acked"] == found["at_hq"] > 0
    return whole and not (found["lost"] or found["doubled"] or found["wrong"])


def _table(found: Mapping[str, Any]) -> str:
    kind = "full lanes" if found["full"] else "wire-only lanes"
    lines = [
        f"{found['lanes']} {kind} in {found['workers']} processes; {found['ingest']} ingest workers; {found['db']}",
        f"all ready after {found['connect_s']} s",
    ]
    if found["restart_broker"]:
        lines.append(
            f"broker killed and restarted: all ready after {found['again_ready_s']} s, all that waited acknowledged"
            f" after {found['again_acked_s']} s"
        )
    for name in ("made", "records_per_s", "acked", "at_hq", "lost", "doubled", "resent", "duplicates_dropped"):
        lines.append(f"  {name.replace('_', ' '):20} {found[name]:>10}")
    for name, about in (("to_receipt_s", "made to receipt, s"), ("to_hq_s", "made to HQ, s")):
        if found[name]["p50"] is not None:
            lines.append(f"  {about:20} " + "  ".join(f"{key} {value:g}" for key, value in found[name].items()))
    lines.append(f"  {'part':20} {'connecting CPU s':>17} {'CPU s':>8} {'ms a record':>12} {'RSS MB':>7}")
    for name, part in found["parts"].items():
        cells = f"{part['connect_cpu_s']:>17} {part['cpu_s']:>8} {part['ms_a_record']:>12} {part['rss_mb']:>7}"
        lines.append(f"  {name:20} {cells}")
    lines += [f"  connection: {why}, {count} times" for why, count in found["failures"].items()]
    lines += [f"WRONG: {text}" for text in found["wrong"][:20]]
    return "\n".join(lines)


def _perform(chosen: Chosen, as_json: bool, keep: bool) -> int:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    folder = work_folder()
    found: dict[str, Any] | None = None
    try:
        with Headquarters(folder) as hq:
            lanes = Lanes(chosen, hq)
            try:
                hq.start(chosen.db, chosen.ingest)
                found = _life(chosen, hq, lanes)
            finally:
                lanes.close()
    except (CrewError, pytest.skip.Exception) as bad:  # the second: broker or database is not installed
        say(f"fleet: {bad}")
    finally:
        if keep:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if found is None:
        return 1
    click.echo(json.dumps(found) if as_json else _table(found))
    return 0 if good(found) else 1


@click.command(help=__doc__)
@click.option("--lanes", default=200, show_default=True, type=click.IntRange(1, 15_000))
@click.option(
    "--rate", default=60.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Records a second, of all."
)
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(0), help="So long records are made.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    show_default=f"one; with --full one for {LANES_A_PROCESS} lanes",
    help="Processes that share the lanes.",
)
@click.option("--ingest", default=1, show_default=True, type=click.IntRange(1, 64), help="Ingest worker processes.")
@click.option("--db", default="sqlite", show_default=True, help="sqlite, postgresql (a server of our own), or a URL.")
@click.option("--restart-broker", is_flag=True, help="Kill and restart the broker at half time.")
@click.option("--full", is_flag=True, help="Durable outboxes and the real uplink.")
@click.option("--heartbeat-s", default=15.0, show_default=True, help="Each lane tells HQ how it is.")
@click.option("--connect-s-max", default=300.0, show_default=True, help="All lanes must be ready within.")
@click.option("--drain-s-max", default=120.0, show_default=True, help="All must be acknowledged within.")
@click.option("--seed", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.option("--keep", is_flag=True, help="Keep databases and logs, and say where.")
def command(as_json: bool, keep: bool, workers: int | None, **chosen: Any) -> None:
    """See the module."""
    if workers is None:
        workers = ceil(chosen["lanes"] / LANES_A_PROCESS) if chosen["full"] else 1
    raise SystemExit(_perform(Chosen(workers=workers, **chosen), as_json, keep))


def main(given: Sequence[str]) -> int:
    """The exit code: 0 where every record made is at HQ once, in its order, and acknowledged."""
    try:
        command.main(args=list(given), prog_name="python -m tests.hw_sim fleet", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
