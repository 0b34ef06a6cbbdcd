"""`python -m tests.hw_sim protocol`: the protocol between a lane and HQ, many seeds in one process without sockets.

Each seed is a lane with its uplink, a broker that loses and shuffles, and one to four workers of HQ, on real databases
and on the simulation's clock. After the chaos all must be well again by itself: every record of the lane at HQ, once,
in its order, or a word why not; no alarm where nobody did anything; few messages. `--plant` puts a mistake into the
code first: then seeds must fail."""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any

import click

from tests.hw_sim.planted_protocol import MISTAKES, planted
from tests.hw_sim.protocol_run import Outcome, run_seed

TWICE_EVERY = 16
"""So many seeds: one is run twice and must say the same."""


def _job(task: tuple[int, int, str]) -> Outcome:
    seed, steps, plant = task
    with planted(MISTAKES[plant]) if plant else nullcontext():
        return run_seed(seed, steps)


def run_many(seeds: Sequence[int], steps: int, jobs: int, plant: str = "") -> dict[str, Any]:
    """What came of these seeds, for `--json`."""
    began = time.monotonic()
    plan = [(seed, steps, plant) for seed in (*seeds, *seeds[::TWICE_EVERY])]
    with ProcessPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(_job, plan))
    first, again = outcomes[: len(seeds)], outcomes[len(seeds) :]
    traces = {outcome.seed: outcome.trace for outcome in first}
    counts: Counter[str] = sum((outcome.counts for outcome in first), Counter())
    return {
        "seeds": len(first),
        "counts": dict(counts),
        "broken": [{"seed": o.seed, "faults": sorted(o.faults), "what": o.broken} for o in first if o.broken],
        "differ": [o.seed for o in again if o.trace != traces[o.seed]],
        "real_s": round(time.monotonic() - began, 1),
    }


@click.command()
@click.option("--seeds", default=100, show_default=True, help="How many.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--steps", default=250, show_default=True, help="Of chaos in each seed.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Processes.")
@click.option("--plant", type=click.Choice(sorted(MISTAKES)), default=None, help="A mistake, put into the code first.")
@click.option("--json", "as_json", is_flag=True, help="One object.")
def protocol(seeds: int, first: int, steps: int, jobs: int, plant: str | None, as_json: bool) -> int:
    """Lane and HQ over a broker that loses and shuffles; exit code 1 where anything does not hold."""
    answer = run_many(range(first, first + seeds), steps, jobs, plant or "")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo(f"{answer['seeds']} seeds in {answer['real_s']} s: {answer['counts']}")
        for each in answer["broken"]:
            click.echo(f"BROKEN seed {each['seed']} ({', '.join(each['faults']) or 'the usual'})")
            click.echo("\n".join(f"    {line}" for line in each["what"]))
        if answer["differ"]:
            click.echo(f"not the same twice: {answer['differ']}")
    holds = not answer["broken"] and not answer["differ"]
    click.echo("everything holds" if holds else "something does not hold", err=as_json)
    return 0 if holds else 1


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    code = protocol.main(argv, prog_name="python -m tests.hw_sim protocol", standalone_mode=False)
    return int(code or 0)
