"""`gated-hq history`: crossings out of HQ's records into its register."""

import json
import signal
import threading
from pathlib import Path

import click

from gated.hq.cli import fail
from gated.hq.cli_records import DATABASE, opened
from gated.hq.cli_registers import JSON, KEY, REGISTERS, the_register
from gated.hq.cli_rules import POLICY, needed_rules

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def history() -> None:
    """When people crossed: counted out of the records, published to lanes with the next round."""


@history.command(
    epilog="\b\nExample:\n  gated-hq history update --archive hq.db --hq-key hq.key --registers registers.db"
    " --key data.key \\\n      --every 30"
)
@click.option(
    "--archive",
    "db",
    required=True,
    envvar="GATED_HQ_DB",
    show_envvar=True,
    help=f"HQ's records (gated-hq ingest): {DATABASE}.",
)
@click.option("--hq-key", required=True, type=_FILE, help="HQ's secret key, which opens the records: hq.key.")
@REGISTERS
@KEY
@POLICY
@click.option("--every", "every_s", type=click.FloatRange(1, 86400), metavar="SECONDS", help="Go on, so often.")
@click.option("--log-format", type=click.Choice(["json", "console"]), default="console", show_default=True)
@JSON
def update(
    db: str,
    hq_key: Path,
    registers: Path,
    key: Path,
    policy: Path | None,
    every_s: float | None,
    log_format: str,
    as_json: bool,
) -> None:
    """Count every crossing that lanes have recorded since the last time: an entry is taken off the permits that the
    policy demands of its category (O1), an exit ends the stay of a foreigner and deletes the face that was taken for it
    (W6). May be killed and run again at any moment, also beside one that runs with --every.

    Exit code 1 where the records of a lane cannot be read; those of the others are counted.
    """
    from gated import logs
    from gated.hq.history import History, keep_counting
    from gated.hq.keys import KeyFault, secret

    logs.configure("info" if every_s else "warning", log_format)
    rules = needed_rules(policy, "nobody knows which permits an entry is taken off")
    try:
        private = secret(hq_key)
    except KeyFault as bad:
        fail(str(bad))
    with opened(db) as archive, the_register(registers, key) as register:
        counting = History(archive, private, register, rules)
        if every_s is not None:
            stop = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            keep_counting(counting, every_s, stop)
            return
        done = counting.update()
    counts = {name: done.counts[name] for name in ("added", "ended", "twice", "nobody", "nameless", "damaged")}
    if as_json:
        stuck = [{"lane": lane, "stream_id": stream, "why": why} for lane, stream, why in done.stuck]
        click.echo(json.dumps({"records": done.records, **counts, "stuck": stuck}))
    else:
        click.echo(
            f"{done.records} records: {counts['added'] + counts['ended']} crossings counted, {counts['ended']} of them"
            f" ended a stay; {counts['twice']} counted before; {counts['nobody']} of people who are deleted;"
            f" {counts['nameless']} of nobody who is enrolled; {counts['damaged']} of people whose rows are damaged"
        )
        for lane, stream_id, why in done.stuck:
            click.echo(f"{lane} {stream_id}: NOT READ ON: {why}")
    if done.stuck:
        fail("not every lane's records can be read: see above; gated-hq records verify")
