"""`gated-hq publish`: what the register has, sealed and signed, once or all day long."""

import contextlib
import functools
import json
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gated.hq.cli import EX_UNAVAILABLE, broker_of, broker_options, fail
from gated.hq.cli_registers import KEY, REGISTERS, open_register

if TYPE_CHECKING:
    from gated.hq.announcer import Announcer
    from gated.hq.publisher import Done, Publisher, Round
    from gated.hq.upkeep import Progress

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
STATE = click.option("--state", "state_path", required=True, type=FILE, help="The publisher's database: publish.db.")
KEYS = click.option("--keys", required=True, type=FOLDER, help="Where the epochs' keys lie.")
REPO = click.option("--repo", required=True, type=FOLDER, help="The signed repository (gated-hq repo init).")


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """What a person can do something about, as one line."""
    from gated.hq.publisher import Faults

    try:
        yield
    except sqlite3.Error as bad:
        fail(f"the database cannot be used: {bad}")
    except OSError as bad:
        fail(f"{bad.filename or 'a file'}: {(bad.strerror or 'cannot be used').lower()}")
    except Faults as bad:
        fail(str(bad))


@click.command(
    epilog="\b\nExamples:\n  gated-hq publish --registers registers.db --key data.key --state publish.db \\\n"
    "      --keys epochs --repo /srv/gate --sign online.key --every 60 --host broker.example ...\n"
    "  gated-hq publish ... --sign online.key --sign /media/stick/lift.key     (what waits for the lift key)"
)
@REGISTERS
@KEY
@STATE
@KEYS
@REPO
@click.option(
    "--sign", "signing", type=FILE, multiple=True, required=True, metavar="KEYFILE", help="A secret key. Repeatable."
)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(1, 86400),
    metavar="SECONDS",
    help="Go on: ordinary changes so often, urgent ones at once.",
)
@click.option("--snapshot", is_flag=True, help="Take a snapshot of each partition now (else once a week).")
@click.option("--consolidate", is_flag=True, help="Close the day now (else at midnight UTC).")
@click.option("--log-format", type=click.Choice(["json", "console"]), default="console", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
@functools.partial(broker_options, required=False)
def publish(
    registers: Path,
    key: Path,
    state_path: Path,
    keys: Path,
    repo: Path,
    signing: tuple[Path, ...],
    every_s: float | None,
    snapshot: bool,
    consolidate: bool,
    log_format: str,
    as_json: bool,
    **broker: Any,
) -> None:
    """Publish what changed in the register since the last time, and sign that this is all there is.

    It may be killed and run again at any moment, and beside one that runs with --every: each waits for the other's
    round. Without --host nothing is announced, and lanes find out when they next ask.

    \b
    Exit codes: 0 published (what waits for the lift key is told); 1 something was not; 69 no broker to announce it.
    """
    from gated import logs
    from gated.hq.announcer import Announcer
    from gated.hq.published import PublisherState
    from gated.hq.publisher import Publisher
    from gated.hq.repository import Repository, Signers

    logs.configure("info" if every_s else "warning", log_format)
    if not registers.exists():
        fail(f"{registers}: there is no such file; gated-hq enrol makes it")
    register = open_register(registers, key)
    announcer = Announcer(broker_of(**broker)) if broker["host"] else None
    with faults(), contextlib.ExitStack() as cleanup:
        cleanup.callback(register.close)
        state = PublisherState(state_path)
        cleanup.callback(state.close)
        say = cleanup.enter_context(_progress(as_json or every_s is not None))
        publisher = Publisher(
            register, state, keys, Repository(repo), Signers.of(signing), background=every_s is not None, progress=say
        )
        cleanup.callback(publisher.close)
        if announcer is not None:
            cleanup.callback(announcer.close)
        if every_s is not None:
            _keep_on(publisher, announcer, every_s)
            return
        with state.only_publisher():
            done = publisher.round(datetime.now(UTC), snapshot=snapshot, consolidate=consolidate)
        told = announcer is None or announcer.send(publisher.announcement(done), within_s=10.0)
    click.echo(json.dumps(_as_json(done)) if as_json else "\n".join(_told(each) for each in done.done))
    if any(each.fault for each in done.done):
        fail("not everything was published: see above")
    if not told:
        fail("published; but no broker answers, so lanes find out when they next ask", EX_UNAVAILABLE)


def _keep_on(publisher: "Publisher", announcer: "Announcer | None", every_s: float) -> None:
    from gated.hq.publishing import keep_publishing

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keep_publishing(publisher, announcer, every_s, stop)


@contextlib.contextmanager
def _progress(quiet: bool) -> "Iterator[Progress | None]":
    """A bar for whatever takes long, where a person looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        known: dict[str, Any] = {}

        def say(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what)
            bars.update(known[what], completed=done, total=total)

        yield say


def _told(done: "Done") -> str:
    if done.fault:
        return f"{done.partition}: NOT PUBLISHED: {done.fault}"
    if not done.epoch:
        text = f"{done.partition}: no epoch is open yet"
    else:
        text = f"{done.partition}: epoch {done.epoch}, segment {done.serial}, {done.rows} rows"
        if done.made:
            rows, size = sum(s.rows for s in done.made), sum(s.size for s in done.made)
            text += f"; new: {len(done.made)} segments, {rows} rows, {size} bytes"
        for why, count in done.waiting:
            text += f"; waiting ({why.replace('_', ' ')}): {count}"
    if done.needs_lift_key:
        text += "; publish again with the lift key too (--sign) to publish what waits"
    return text


def _as_json(done: "Round") -> dict[str, Any]:
    return {
        "built": done.built.isoformat(),
        "version": done.version,
        "partitions": [
            {
                "partition": each.partition,
                "epoch": each.epoch,
                "serial": each.serial,
                "rows": each.rows,
                "segments": [
                    {"serial": s.serial, "rows": s.rows, "bytes": s.size, "lifts": s.lifts} for s in each.made
                ],
                "waiting": dict(each.waiting),
                "needs_lift_key": each.needs_lift_key,
                "fault": each.fault,
            }
            for each in done.done
        ],
    }
