"""`gated run`: runs the lane in the foreground."""

import click

from gated.cli.here import Here, command_here


@click.command(
    epilog="""\b
    Example:
      gated --config /etc/gated/lane.toml run
    """
)
@command_here
def run(here: Here) -> None:
    """Run the lane in the foreground. systemd does this: gated-lane.service.

    Ends by SIGTERM: whoever is inside is let out first.
    """
    from gated.daemon.process import main

    raise SystemExit(main(here.config))
