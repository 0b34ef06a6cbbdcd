"""`gated lane close|open|direction|reset`: what a named person may tell the lane on the spot."""

import click

from gated.cli.here import Here, command_here

_BY = click.option("--by", "--technician", "by", required=True, metavar="NAME", help="Who says so; goes on record.")


@click.group(
    epilog="""\b
    Examples:
      gated lane close --by "Mei Lin"
      gated lane open --by "Mei Lin"
      gated lane direction entry --by "Mei Lin"
      gated lane direction schedule --by "Mei Lin"
      gated lane reset --by "Mei Lin"
    """
)
def lane() -> None:
    """Close, open, turn or reset the lane. Who is inside is always finished with first."""


@lane.command("close")
@_BY
@command_here
def close(here: Here, by: str) -> None:
    """Finish whoever is inside, then take nobody in."""
    from gated.control import CloseLane

    here.order(CloseLane, "closing; see gated status", by=by)


@lane.command("open")
@_BY
@command_here
def open_(here: Here, by: str) -> None:
    """Take passengers again. What HQ closed, HQ opens."""
    from gated.control import OpenLane

    here.order(OpenLane, "opening; see gated status", by=by)


@lane.command("direction")
@click.argument("way", type=click.Choice(["entry", "exit", "both", "schedule"]))
@_BY
@command_here
def direction(here: Here, way: str, by: str) -> None:
    """Serve only who enters the country, only who leaves it, or both, of a lane of both directions.

    It holds until somebody says otherwise, also after a restart; schedule gives the lane back to its configuration.
    """
    from gated.control import SetDirection

    here.order(SetDirection, "turning with the next passenger; see gated status", by=by, direction=way)


@lane.command("reset")
@_BY
@command_here
def reset(here: Here, by: str) -> None:
    """End an emergency or a stop: somebody has been at the lane and looked."""
    from gated.control import ResetLane

    here.order(ResetLane, "reset is asked for; see gated status", by=by)
