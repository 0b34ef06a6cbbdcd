"""`gated watch`: the lane live, from the daemon's stream of snapshots."""

import json
import time
from typing import TYPE_CHECKING, cast

import click

from gated.cli.here import Here, command_here

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gated.control_views import Snapshot

RETRY_S = 1.0


@click.command(
    epilog="""\b
    Examples:
      gated watch                  the whole screen; leave with Ctrl-C
      gated watch --json           a line of JSON for every change
      gated watch | tee lane.txt   a line of text for every change
    """
)
@command_here
def watch(here: Here) -> None:
    """The lane live: doors, passenger's ticket, devices, last alarms, counters.

    On a terminal it waits for a daemon that restarts; in a pipe it ends with exit code 69.
    """
    try:
        if here.as_json or not here.console.is_terminal:
            _lines(here)
        else:
            _screen(here)
    except KeyboardInterrupt:
        raise SystemExit(0) from None


def _lines(here: Here) -> None:
    from gated.cli.drawing import line
    from gated.control import Unavailable

    for answer in here.client.watch():
        snapshot = cast("Snapshot", answer)
        clock = time.strftime("%H:%M:%S")
        click.echo(json.dumps(answer, ensure_ascii=False) if here.as_json else f"{clock} {line(snapshot)}")
    raise Unavailable("the lane daemon ended")


def _screen(here: Here) -> None:
    from rich.live import Live
    from rich.text import Text

    from gated.cli.drawing import view
    from gated.control import Unavailable

    client = here.client
    seen: tuple[Snapshot, float] | None = None
    trouble = ""

    def draw() -> "RenderableType":
        if trouble or seen is None:
            return Text(trouble or "asking the lane daemon ...", style="yellow")
        snapshot, at = seen
        return view(snapshot, snapshot["since_s"] + time.monotonic() - at)

    with Live(get_renderable=draw, console=here.console, screen=True, refresh_per_second=4):
        while True:
            try:
                for answer in client.watch():
                    seen, trouble = (cast("Snapshot", answer), time.monotonic()), ""
                trouble = "The lane daemon ended; waiting for it to come back."
            except Unavailable as away:
                trouble = f"{away}\nTrying again every second; leave with Ctrl-C."
            time.sleep(RETRY_S)
