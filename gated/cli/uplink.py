"""`gated uplink`: runs the lane's link to HQ in the foreground."""

import click

from gated.cli.here import Here, command_here


@click.command(
    epilog="""\b
    Example:
      gated --config /etc/gated/lane.toml uplink
    """
)
@command_here
def uplink(here: Here) -> None:
    """Run the lane's link to HQ in the foreground. systemd does this: gated-uplink.service.

    It has the network and no device; the lane has the devices and no network.
    """
    from gated.uplink.service import serve

    raise SystemExit(serve(here.config))
