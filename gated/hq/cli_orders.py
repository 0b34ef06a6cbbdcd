"""`gated-hq order`: an officer's order to one lane."""

import json
from pathlib import Path
from typing import Any

import click

from gated.hq.cli import EX_UNAVAILABLE, broker_of, broker_options, fail

ACTIONS = ("open", "refuse", "retry", "close_lane", "open_lane", "reset", "direction")
DIRECTIONS = ("entry", "exit", "both", "schedule")


@click.command(
    epilog="\b\nExamples:\n  gated-hq order tpe-t1/lane-07 open --ticket 41 --officer o4711 --key orders.key ...\n"
    "  gated-hq order tpe-t1/lane-07 close_lane --officer o4711 --key orders.key ...\n"
    "  gated-hq order keelung/lane-01 direction --way entry --officer o4711 --key orders.key ..."
)
@click.argument("lane", metavar="SITE/LANE")
@click.argument("action", type=click.Choice(ACTIONS))
@click.option("--ticket", type=click.IntRange(min=1), help="The passenger: for open, refuse and retry.")
@click.option(
    "--way", type=click.Choice(DIRECTIONS), help="For direction: whom the lane serves; schedule: as it is configured."
)
@click.option(
    "--officer",
    required=True,
    metavar="ID",
    help="Who orders it; goes on record. A number: the broker sees it.",
)
@click.option("--boot", metavar="ID", help="The lane's run that the officer saw; else the one it last announced.")
@click.option("--key", required=True, type=click.Path(path_type=Path), help="The order desk's key: orders.key.")
@click.option("--wait", "wait_s", type=click.FloatRange(1, 120), default=10.0, show_default=True, metavar="SECONDS")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
@broker_options
def order(
    lane: str,
    action: str,
    ticket: int | None,
    way: str | None,
    officer: str,
    boot: str | None,
    key: Path,
    wait_s: float,
    as_json: bool,
    **broker: Any,
) -> None:
    """Give one lane an order and wait for its answer. There is no order to all lanes.

    \b
    Exit codes: 0 the lane took it (its outcome is a record: gated-hq records list --kind OrderAnswered);
    1 the lane refused it; 69 nobody answered: it may or may not have been carried out.
    """
    from gated.hq.keys import KeyFault, secret
    from gated.hq.orders import Asked, NoAnswer, carry
    from gated.wire.orders import Action, Malformed

    if (action == "direction") != (way is not None):
        raise click.UsageError("direction needs --way, and nothing else takes it")
    site, _, name = lane.partition("/")
    try:
        args = {} if way is None else {"direction": way}
        asked = Asked(site, name, Action(action), officer, ticket, boot, args)
        answer = carry(broker_of(**broker), secret(key), asked, wait_s)
    except ValueError as bad:
        raise click.UsageError(f"SITE/LANE: {bad}") from None
    except Malformed as bad:
        raise click.UsageError(str(bad)) from None
    except KeyFault as bad:
        fail(str(bad))
    except NoAnswer as bad:
        if as_json:
            click.echo(json.dumps({"answered": False, "why": str(bad)}))
        fail(str(bad), EX_UNAVAILABLE)
    if as_json:
        click.echo(json.dumps({"answered": True, "order": answer.order, "taken": answer.taken, "why": answer.why}))
    elif answer.taken:
        click.echo(f"order {answer.order}: taken by {lane}")
    if not answer.taken:
        fail(f"order {answer.order}: refused by {lane}: {answer.why}")
