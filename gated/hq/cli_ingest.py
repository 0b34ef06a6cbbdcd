"""`gated-hq ingest`: takes records in until it is told to stop."""

import signal
import threading
from pathlib import Path
from typing import Any

import click

from gated.hq.cli import broker_of, broker_options, fail


@click.command(
    epilog="\b\nExample:\n  gated-hq ingest --db hq.db --key hq.key --receipts-key receipts.key --host broker.example"
    " --ca ca.crt --certificate ingest.crt --certificate-key ingest.key --workers 4"
)
@click.option(
    "--db",
    required=True,
    envvar="GATED_HQ_DB",
    show_envvar=True,
    metavar="FILE|URL",
    help="HQ's records: a file (made new), or a PostgreSQL URL.",
)
@click.option("--key", required=True, type=click.Path(path_type=Path), help="HQ's secret key: hq.key.")
@click.option(
    "--receipts-key", required=True, type=click.Path(path_type=Path), help="Signs what HQ acknowledges: receipts.key."
)
@click.option("--site", default="+", metavar="SITE", help="One site's lanes alone; all sites otherwise.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes that share it.")
@click.option("--metrics", metavar="HOST:PORT", help="Where to answer Prometheus, like 127.0.0.1:9465; else nowhere.")
@click.option("--log-format", type=click.Choice(["json", "console"]), default="json", show_default=True)
@broker_options
def ingest(
    db: str, key: Path, receipts_key: Path, site: str, workers: int, metrics: str | None, log_format: str, **broker: Any
) -> None:
    """Take records in: verify, commit, acknowledge. May be killed and restarted at any moment.

    Any number of workers may share a broker, here or on other machines; a second site's broker has workers of its own
    with the same database. More than one wants PostgreSQL: a SQLite file takes one writer at a time.
    """
    from gated import logs
    from gated.hq.archive import Archive, ArchiveError
    from gated.hq.exporter import IngestMeasures
    from gated.hq.keys import KeyFault, secret
    from gated.hq.workers import Work, Workers
    from gated.metrics import Page, serve

    logs.configure("info", log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        work = Work(db, secret(key), secret(receipts_key), broker_of(**broker), site, log_format)
    except KeyFault as bad:
        fail(str(bad))
    try:
        Archive(db).close()
    except ArchiveError as bad:
        fail(f"{db.rpartition('@')[2].partition('?')[0]}: {bad}")  # without a URL's user and password
    if workers == 1 and metrics is None:
        work.ingest(stop)
        return
    crew = Workers(workers, work)
    end = None
    try:
        if metrics is not None:
            end = serve(metrics, Page("ingest", IngestMeasures(crew.counts, crew.connected, crew.committed).collect))
    except (OSError, ValueError) as bad:
        fail(f"--metrics {metrics}: {bad}")
    try:
        crew.run(stop)
    finally:
        if end is not None:
            end()
