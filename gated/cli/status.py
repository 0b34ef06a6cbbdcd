"""`gated status`: what the lane is doing now, asked of the running daemon."""

from typing import TYPE_CHECKING, cast

import click

from gated.cli.here import Here, command_here

if TYPE_CHECKING:
    from gated.control_views import Snapshot


@click.command(
    epilog="""\b
    Examples:
      gated status
      gated status --json | jq .state
    """
)
@command_here
def status(here: Here) -> None:
    """What the lane is doing now.

    Exit code 1 where the lane has a fault or a device is lost, so that a script can ask.
    """
    from gated.cli.drawing import view
    from gated.control import Status

    snapshot = cast("Snapshot", here.client.ask(Status()))
    if here.as_json:
        here.say(snapshot, "")
    else:
        here.console.print(view(snapshot))
    if snapshot["faults"] or "lost" in snapshot["devices"].values():
        raise SystemExit(1)
