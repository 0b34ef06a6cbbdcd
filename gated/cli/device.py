"""`gated device fingerprint test`: a technician lays fingers on the reader and sees what each print is worth."""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, cast

import click

from gated.cli.here import Here, command_here

if TYPE_CHECKING:
    from gated.cli.fingerview import Tally
    from gated.control_views import FingerLine

SILENT_S_MAX = 10.0
"""So much longer than the test may the daemon take for its next line."""


@click.group(
    epilog="""\b
    Example:
      gated service on --technician "Mei Lin"
      gated device fingerprint test
    """
)
def device() -> None:
    """Try a device of the lane, in service mode."""


@device.group(
    epilog="""\b
    Example:
      gated device fingerprint test --prints 10
    """
)
def fingerprint() -> None:
    """The fingerprint reader."""


@fingerprint.command(
    "test",
    epilog="""\b
    Examples:
      gated service on --technician "Mei Lin"
      gated device fingerprint test
      gated device fingerprint test --prints 10 --json | tail -1 | jq .quality_median
    """,
)
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=60.0, show_default=True, help="For how long.")
@click.option("--prints", type=click.IntRange(min=1), help="End after so many prints.")
@command_here
def test(here: Here, seconds: float, prints: int | None) -> None:
    """Lay fingers on the reader: what is each print worth, and how quickly is it there?

    Works only in service mode. No picture, template or minutia leaves the daemon, and nothing is kept. Quality goes
    from 0 to 100; the marks are the floors of enrolment. Ctrl-C ends it with its summary. Exit code 0 where at least
    one print was usable, 1 where none was.
    """
    from gated.cli.fingerview import Tally
    from gated.control import Unavailable

    tally = Tally()
    gone: Unavailable | None = None
    try:
        _follow(here, tally, seconds, prints)
    except KeyboardInterrupt:
        tally.end = "stopped"
    except Unavailable as away:
        if not tally.begun:
            raise
        gone = away
    if here.as_json:
        click.echo(json.dumps(tally.summary()))
    else:
        click.echo("\n" + "\n".join(tally.lines()))
    if gone is not None:
        raise gone
    raise SystemExit(0 if tally.usable else 1)


def _follow(here: Here, tally: "Tally", seconds: float, prints: int | None) -> None:
    """Until the test is over. Raises `Unavailable` where the daemon ends before it."""
    from gated.control import Client, TestFingers, Unavailable

    client = Client(here.config.control.socket, timeout_s=seconds + SILENT_S_MAX)
    live, show = _screen(here, tally, seconds)
    with live, closing(client.stream(TestFingers(seconds))) as lines:
        for answer in lines:
            line = cast("FingerLine", answer)
            tally.add(line)
            show(line)
            if prints is not None and len(tally.prints) >= prints:
                tally.end = "prints"
            if tally.end:
                return
    raise Unavailable("the lane daemon ended")


def _screen(
    here: Here, tally: "Tally", seconds: float
) -> tuple[AbstractContextManager[object], "Callable[[FingerLine], None]"]:
    """(what is to be entered, what is to be called for every line): a live view, lines of JSON, or lines of text."""
    from gated.cli.fingerview import view, words

    if here.as_json:
        return nullcontext(), lambda line: click.echo(json.dumps(line))
    if not here.console.is_terminal:
        return nullcontext(), lambda line: click.echo(f"{line['at_s']:7.1f} {words(line)}")
    from rich.live import Live

    until = time.monotonic() + seconds
    live = Live(
        get_renderable=lambda: view(tally, until - time.monotonic()), console=here.console, refresh_per_second=8
    )
    return live, lambda line: live.refresh()
