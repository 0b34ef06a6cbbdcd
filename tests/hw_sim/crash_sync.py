"""`python -m tests.hw_sim crash-sync`: kill -9 and I/O errors at many points of a sync; then old or new, never mixed.

A real HQ is served over HTTP to the real sync in processes of their own, from stage to stage of HQ's life: a first
snapshot, segments, an announcement, a day, a new epoch, another one (which drops the oldest generation). A shim before
the C library stops a sync at an exact call to its files, SQLite's own included: before the call, after it, or with half
of the bytes written; or lets that call fail, once or from then on. Other kills come at random moments, some to the
whole `gated sync`. Afterwards every row is opened with the lane's key and held against what HQ ever had; a lane that
looks people up all the while must never meet anything else; and a new sync has to come to HQ's head without help, and
to leave nothing lying about.

A kill leaves what was written in the kernel's memory: that everything is fsynced in the right order, so that it also
survives a loss of power, is not shown here.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import click
import structlog

from tests.hw_sim import shim, stages, victim
from tests.hw_sim.crash_points import KINDS, RECOVERY_S_MAX, Point, Result, Yard, as_json
from tests.hw_sim.website import Website

MARK = "GATED_CRASH_SYNC"
"""In the environment of the process that has the shim."""


def _served(folder: Path) -> victim.Child:
    def life(say: victim.Say, wait: victim.Wait, _: int) -> None:
        with Website(folder) as site:
            say({"url": site.url})
            wait()

    return victim.forked(life, seconds_max=0)


def _worked(yard: Yard, points: Sequence[Point], workers: int, seed: int) -> Iterable[Result]:
    """The points, each in one of so many processes; their results as they come."""
    read, write = os.pipe()
    children = []
    for worker in range(workers):

        def life(say: victim.Say, wait: victim.Wait, _: int, worker: int = worker) -> None:
            for point in points[worker::workers]:
                line = json.dumps(as_json(yard.tried(point, worker, seed))) + "\n"
                os.write(write, line.encode())  # short enough to come in one piece

        children.append(victim.forked(life, seconds_max=0))
    os.close(write)
    with os.fdopen(read) as lines:
        for line in lines:
            yield Result(**json.loads(line))
    for child in children:
        said = child.line()
        if child.end() or said:
            raise RuntimeError(f"a worker of crash-sync died: {said.get('crashed', said)}")


def _row(name: str, found: Sequence[Result]) -> dict[str, Any]:
    recovery = [each.recovery_s for each in found] or [0.0]
    return {
        "what": name,
        "points": len(found),
        "old": sum(each.old for each in found),
        "between": sum(each.between for each in found),
        "new": sum(each.new for each in found),
        "mixed": sum(each.mixed for each in found),
        "recovery_s_median": round(statistics.median(recovery), 3),
        "recovery_s_max": round(max(recovery), 3),
        "caught_up_s_max": round(max([each.caught_s for each in found], default=0.0), 3),
        "caught_up": sum(each.caught for each in found),
        "look_ups": sum(each.looked for each in found),
        "busy": sum(each.busy for each in found),
        "failed": sum(bool(each.failed) for each in found),
    }


def _summed(results: Sequence[Result]) -> dict[str, Any]:
    by_kind, by_doing = defaultdict(list), defaultdict(list)
    for each in results:
        by_kind[each.kind].append(each)
        by_doing[each.doing].append(each)
    return {
        "by_kind": [_row(kind, by_kind[kind]) for kind in KINDS if by_kind[kind]],
        "by_doing": [_row(doing, by_doing[doing]) for doing in sorted(by_doing)],
        "all": _row("all", results),
    }


def _table(rows: Sequence[dict[str, Any]], all_of_them: dict[str, Any]) -> str:
    heads = ("", "points", "old", "between", "new", "mixed", "recovery s", "max", "caught up", "max s", "failed")
    names = ("what", "points", "old", "between", "new", "mixed", "recovery_s_median", "recovery_s_max", "caught_up",
             "caught_up_s_max", "failed")  # fmt: skip
    lines = [f"{heads[0]:26}" + "".join(f"{head:>11}" for head in heads[1:])]
    for row in (*rows, all_of_them):
        lines.append(f"{row[names[0]]:26}" + "".join(f"{row[name]:>11}" for name in names[1:]))
    return "\n".join(lines)


def _tell(results: Sequence[Result], took_s: float, as_json_: bool, out: IO[str]) -> int:
    summed = _summed(results)
    failed = [each for each in results if each.failed]
    if as_json_:
        json.dump(summed | {"took_s": round(took_s, 1), "failures": [as_json(each) for each in failed]}, out, indent=1)
        out.write("\n")
        return 1 if failed else 0
    for each in failed:
        click.echo(f"\npoint {each.number}, {each.kind} ({each.scenario}, {each.doing}, {each.file}):", out)
        for text in each.failed:
            click.echo(f"  {text}", out)
    whole = summed["all"]
    click.echo("\nPartitions after each point, by what befell the sync:\n", out)
    click.echo(_table(summed["by_kind"], whole), out)
    click.echo("\nby what it was doing:\n", out)
    click.echo(_table(summed["by_doing"], whole), out)
    click.echo(
        f"\n{whole['points']} points in {took_s:.0f} s: {whole['mixed']} mixed; recovery at most"
        f" {whole['recovery_s_max']:.2f} s (must be below {RECOVERY_S_MAX:g} s), {whole['caught_up']} caught up by"
        f" themselves; {whole['look_ups']} look-ups of lanes meanwhile, {whole['busy']} of them busy;"
        f" {whole['failed']} points failed.",
        out,
    )
    return 1 if failed else 0


def _perform(points: int, seed: int, people: int, workers: int, as_json_: bool) -> int:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[])
    stages.small_chunks()
    folder = Path(tempfile.mkdtemp(prefix="crash-sync-"))
    start = time.monotonic()
    site = None
    try:
        click.echo(f"HQ with {people} people, from stage to stage ...", sys.stderr)
        hq = stages.made(folder / "hq", people)
        site = _served(folder / "hq")
        yard = Yard(folder, hq, site.line()["url"])
        yard.prepare()
        calls = sum(len(each.calls) for each in yard.scenarios)
        chosen = yard.points(points, seed)
        click.echo(f"{calls} calls to files in {len(yard.scenarios)} syncs; {len(chosen)} points of them", sys.stderr)
        results = []
        for result in _worked(yard, chosen, workers, seed):
            results.append(result)
            _progress(results, len(chosen), time.monotonic() - start)
        return _tell(sorted(results, key=lambda each: each.number), time.monotonic() - start, as_json_, sys.stdout)
    finally:
        if site is not None:
            site.go()
            site.end()
        shutil.rmtree(folder, ignore_errors=True)


def _progress(results: Sequence[Result], count: int, took_s: float) -> None:
    if len(results) % 10 == 0 or results[-1].failed:
        failed = sum(bool(each.failed) for each in results)
        click.echo(f"{len(results):5} of {count}, {failed} failed, {took_s:.0f} s", sys.stderr)


@click.command(help=__doc__)
@click.option("--points", default=240, show_default=True, help="How many points, at least five.")
@click.option("--seed", default=1, show_default=True)
@click.option("--people", default=1500, show_default=True, help="Each is three rows of the partition people.")
@click.option("--workers", default=2, show_default=True, help="How many points at a time.")
@click.option("--json", "as_json_", is_flag=True, help="Answer in JSON.")
def command(points: int, seed: int, people: int, workers: int, as_json_: bool) -> None:
    """See the module."""
    if os.environ.get(MARK):
        raise SystemExit(_perform(points, seed, people, workers, as_json_))
    with tempfile.TemporaryDirectory(prefix="crash-shim-") as folder:
        try:
            made = shim.made(Path(folder))
        except shim.NoCompiler as bad:
            raise click.ClickException(str(bad)) from None
        os.environ[MARK] = "1"
        arguments = ["-m", "tests.hw_sim", "crash-sync", *sys.argv[2:]]
        raise SystemExit(shim.again_with(made, arguments))


def main(given: Sequence[str]) -> int:
    """The exit code: 0 where every point went well."""
    try:
        command.main(args=list(given), prog_name="python -m tests.hw_sim crash-sync", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
