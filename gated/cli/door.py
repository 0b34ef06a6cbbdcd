"""`gated door open|shut A|B`: moves a leaf. The daemon allows it in service mode alone."""

from typing import Literal, cast

import click

from gated.cli.here import Here, command_here


@click.command(
    epilog="""\b
    Examples:
      gated door open A
      gated door shut A
    """
)
@click.argument("move", type=click.Choice(["open", "shut"]))
@click.argument("leaf", type=click.Choice(["A", "B"]))
@command_here
def door(here: Here, move: str, leaf: str) -> None:
    """Request a leaf open, or withdraw the request so that the gate shuts it.

    Works only in service mode (gated service on). The gate's own safety chain stays in charge of the leaf;
    gated status shows what its contacts say.
    """
    from gated.control import MoveDoor

    done = f"leaf {leaf}: {'open is requested' if move == 'open' else 'the request is withdrawn'}"
    here.order(MoveDoor, done, door=cast(Literal["A", "B"], leaf), open=move == "open")
