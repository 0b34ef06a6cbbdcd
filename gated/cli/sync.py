"""`gated sync`: keeps the lane's cache as HQ signed it, in the foreground."""

import click

from gated.cli.here import Here, command_here


@click.command(
    epilog="""\b
    Example:
      gated --config /etc/gated/lane.toml sync
    """
)
@command_here
def sync(here: Here) -> None:
    """Run the lane's sync in the foreground. systemd does this: gated-sync.service.

    It has the network and no device, and moves sealed rows that it cannot open. To ask HQ now: gated cache sync.
    """
    from gated.sync.service import serve_lane

    raise SystemExit(serve_lane(here.config))
