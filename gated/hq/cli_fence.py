"""`gated-hq fence`: lanes that a broker must not listen to."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gated.hq.cli import broker_of, broker_options, fail

if TYPE_CHECKING:
    from gated.hq.fence import AccessList

_ACL = click.option(
    "--acl",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    default=Path("/etc/mosquitto/gated/acl"),
    show_default=True,
    help="The broker's access list.",
)
_PID = click.option(
    "--pid-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/run/mosquitto/mosquitto.pid"),
    show_default=True,
    help="Names the broker's process, which is told to read the list again.",
)


@contextlib.contextmanager
def _list(acl: Path, pid_file: Path) -> Iterator["AccessList"]:
    from gated.hq.fence import AccessList, FenceFault

    try:
        yield AccessList(acl, pid_file)
    except FenceFault as bad:
        fail(str(bad))
    except OSError as bad:
        fail(f"{bad.filename or acl}: {(bad.strerror or 'cannot be used').lower()}")
    except ValueError as bad:
        raise click.UsageError(f"SITE/LANE: {bad}") from None


@click.group()
def fence() -> None:
    """Lanes that a broker must not listen to. Runs where the broker runs, as its user or root."""


@fence.command("list")
@_ACL
def list_fenced(acl: Path) -> None:
    """Lanes that are fenced off."""
    with _list(acl, Path()) as found:
        for lane in found.fenced():
            click.echo(lane)


@fence.command(epilog="\b\nExample:\n  gated-hq fence block tpe-t1/lane-07")
@click.argument("lane", metavar="SITE/LANE")
@_ACL
@_PID
def block(lane: str, acl: Path, pid_file: Path) -> None:
    """The broker takes nothing from the lane and brings it nothing, from now on. Its records wait in the lane."""
    with _list(acl, pid_file) as found:
        found.block(lane)
    click.echo(f"{lane}: fenced off; gated-hq fence lift {lane}, or gated-hq pki revoke {lane}")


@fence.command()
@click.argument("lane", metavar="SITE/LANE")
@_ACL
@_PID
def lift(lane: str, acl: Path, pid_file: Path) -> None:
    """The lane speaks as before."""
    with _list(acl, pid_file) as found:
        found.lift(lane)
    click.echo(f"{lane}: speaks again")


@fence.command(epilog="\b\nExample:\n  gated-hq fence watch --host 127.0.0.1 --ca hq-ca.crt --certificate ...")
@_ACL
@_PID
@click.option(
    "--rate", type=click.FloatRange(1), default=2000.0, show_default=True, help="Messages a second of a lane."
)
@click.option("--log-format", type=click.Choice(["json", "console"]), default="console", show_default=True)
@broker_options
def watch(acl: Path, pid_file: Path, rate: float, log_format: str, **where: Any) -> None:
    """Read along, and fence off a lane that floods the broker: 8 KiB count as a message. Only a person lifts it."""
    from gated import logs
    from gated.hq.fence import Watch

    logs.configure("info", log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    broker = broker_of(**where)
    with _list(acl, pid_file) as found:
        Watch(broker, found, rate).run(stop)
