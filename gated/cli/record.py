"""`gated record DEVICE`: has the daemon record a device's traffic, sealed, in service mode."""

import click

from gated.cli.here import Here, command_here


@click.command(
    epilog="""\b
    Example:
      gated service on --technician "Mei Lin"
      gated record passport --seconds 20
    """
)
@click.argument("device")
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=30.0, show_default=True, help="For how long.")
@command_here
def record(here: Here, device: str, seconds: float) -> None:
    """Record the traffic of DEVICE (a section of lane.toml: passport, door ...) into the store.

    Works only in service mode. The file is sealed to HQ: what the reader sends is personal data, and only HQ's
    laboratory can open it to replay it into the driver.
    """
    from gated.control import Client, RecordDevices

    try:
        request = RecordDevices(device=device, seconds=seconds)
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from None
    answer = Client(here.config.control.socket, timeout_s=seconds + 10).ask(request)
    here.say(answer, f"recorded {answer['bytes']} bytes into {answer['file']} (sealed to HQ)")
