"""`gated-hq desire`: which versions a lane should have."""

import json
from collections.abc import Sequence
from typing import Any

import click

from gated.hq.cli import EX_UNAVAILABLE, broker_of, broker_options, fail


@click.command(
    epilog="\b\nExamples:\n  gated-hq desire tpe-t1/lane-07 policy=tw-2026.3 gated=1.2.0 --host broker.example ...\n"
    "  gated-hq lanes --db hq.db        # who is behind"
)
@click.argument("lane", metavar="SITE/LANE")
@click.argument("parts", metavar="PART=VERSION...", nargs=-1, required=True)
@click.option("--wait", "wait_s", type=click.FloatRange(2, 120), default=5.0, show_default=True, metavar="SECONDS")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
@broker_options
def desire(lane: str, parts: Sequence[str], wait_s: float, as_json: bool, **broker: Any) -> None:
    """Say which versions a lane should have, and hear which it has. The broker keeps it for a lane that is away; it
    replaces what was said before. It brings the lane nothing: gated-hq publish and gated-hq policy do that.

    \b
    Exit codes: 0 the lane has them all; 1 it is behind; 69 it has not answered yet.
    """
    from gated.hq.desired import NotSaid, say
    from gated.wire.facts import Part

    site, _, name = lane.partition("/")
    wanted = []
    for each in parts:
        what, equals, version = each.partition("=")
        if not what or not equals or not version or len(what) > 64 or len(version) > 128:
            raise click.UsageError(f"{each!r}: must be PART=VERSION, as policy=tw-2026.3")
        wanted.append(Part(what, version))
    try:
        told = say(broker_of(**broker), site, name, wanted, wait_s)
    except ValueError as bad:
        raise click.UsageError(f"SITE/LANE: {bad}") from None
    except NotSaid as bad:
        fail(str(bad), EX_UNAVAILABLE)
    if as_json:
        found = {"answered": told is not None, "behind": list(told.behind) if told else [], "versions": {}}
        click.echo(json.dumps(found | ({"versions": {p.name: p.version for p in told.parts}} if told else {})))
    if told is None:
        fail(f"{lane} has not answered; the broker keeps it for the lane", EX_UNAVAILABLE)
    has = {part.name: part.version for part in told.parts}
    if told.behind:
        fail(f"{lane} is behind: " + ", ".join(f"{what} is {has.get(what, 'not there')}" for what in told.behind))
    if not as_json:
        click.echo(f"{lane} has them all")
