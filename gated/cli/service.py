"""`gated service on|off`: service mode, in the name of a technician."""

import click

from gated.cli.here import Here, command_here

_NAME = click.option("--technician", required=True, metavar="NAME", help="Who works at the lane; goes on record.")


@click.group(
    epilog="""\b
    Examples:
      gated service on --technician "Mei Lin"
      gated service off --technician "Mei Lin"
    """
)
def service() -> None:
    """Service mode: no passengers; a named technician may move doors and record devices.

    The lane finishes whoever is inside first. HQ sees who turned it on.
    """


@service.command("on")
@_NAME
@command_here
def on(here: Here, technician: str) -> None:
    """Take the lane into service mode."""
    from gated.control import ServiceOn

    here.order(ServiceOn, "service mode is asked for; see gated status", by=technician)


@service.command("off")
@_NAME
@command_here
def off(here: Here, technician: str) -> None:
    """Give the lane back to passengers."""
    from gated.control import ServiceOff

    here.order(ServiceOff, "the lane is given back; see gated status", by=technician)
