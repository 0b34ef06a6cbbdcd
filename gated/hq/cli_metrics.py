"""`gated-hq metrics`: the fleet for Prometheus."""

import signal
import threading

import click

from gated.hq.cli import fail


@click.command(epilog="\b\nExample:\n  gated-hq metrics --db hq.db --listen 127.0.0.1:9464")
@click.option(
    "--db",
    required=True,
    envvar="GATED_HQ_DB",
    show_envvar=True,
    metavar="FILE|URL",
    help="HQ's records: a file, or a PostgreSQL URL. Only read.",
)
@click.option("--listen", default="127.0.0.1:9464", show_default=True, metavar="HOST:PORT", help="Where to answer.")
@click.option("--log-format", type=click.Choice(["json", "console"]), default="json", show_default=True)
def metrics(db: str, listen: str, log_format: str) -> None:
    """Answer /metrics with how the fleet is, until told to stop. docs/metrics.md has every metric.

    No password and no TLS: listen on this machine alone, or behind a proxy that has both.
    """
    from gated import logs
    from gated.hq.archive import Archive, ArchiveError
    from gated.hq.exporter import Fleet
    from gated.metrics import Page, serve
    from gated.notify import notify

    logs.configure("info", log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        archive = Archive(db, read_only=True)
    except ArchiveError as bad:
        fail(str(bad))
    try:
        end = serve(listen, Page("hq", Fleet(archive).collect))
    except (OSError, ValueError) as bad:
        fail(f"--listen {listen}: {bad}")
    notify("READY=1", f"STATUS=answering at {listen}")
    stop.wait()
    notify("STOPPING=1")
    end()
    archive.close()
