"""`gated-hq ingest`: takes records in until it is told to stop."""

import signal
import sqlite3
import threading
from pathlib import Path
from typing import Any

import click

from gated.hq.cli import broker_of, broker_options, fail


@click.command(
    epilog="\b\nExample:\n  gated-hq ingest --db hq.db --key hq.key --host broker.example --ca ca.crt"
    " --certificate ingest.crt --certificate-key ingest.key"
)
@click.option("--db", required=True, type=click.Path(path_type=Path, dir_okay=False), help="HQ's records (made new).")
@click.option("--key", required=True, type=click.Path(path_type=Path), help="HQ's secret key: hq.key.")
@click.option("--site", default="+", metavar="SITE", help="One site's lanes alone; all sites otherwise.")
@click.option("--log-format", type=click.Choice(["json", "console"]), default="json", show_default=True)
@broker_options
def ingest(db: Path, key: Path, site: str, log_format: str, **broker: Any) -> None:
    """Take records in: verify, commit, acknowledge. May be killed and restarted at any moment.

    One ingest a site: a stream's records are taken in order, so two would only ask for them twice.
    """
    from gated import logs
    from gated.hq.archive import Archive
    from gated.hq.ingest import Ingest
    from gated.hq.keys import KeyFault, secret

    logs.configure("info", log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        private = secret(key)
        archive = Archive(db)
    except (KeyFault, sqlite3.Error) as bad:
        fail(f"{db}: {bad}" if isinstance(bad, sqlite3.Error) else str(bad))
    try:
        Ingest(archive, private, broker_of(**broker), site).run(stop)
    finally:
        archive.close()
