"""`gated-hq`, HQ's command. Each subcommand is imported when it is used, not before.

Exit codes: 0 ok; 1 refused, or a fault was found; 2 wrong usage; 69 nobody answered.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gated import __version__
from gated.lazy import LazyGroup

if TYPE_CHECKING:
    from gated.mqtt import Broker

EX_UNAVAILABLE = 69
EXTRA = ("sqlalchemy", "psycopg")
"""What the extra `hq` of the package installs."""

COMMANDS: dict[str, tuple[str, str]] = {
    "keys": ("gated.hq.cli_keys:keys", "Make HQ's keys in a folder of their own."),
    "pki": ("gated.hq.cli_pki:pki", "Certificates for lanes, HQ's programs and brokers: issue, rotate, revoke."),
    "fence": ("gated.hq.cli_fence:fence", "Lanes that a broker must not listen to: one that floods it."),
    "ingest": ("gated.hq.cli_ingest:ingest", "Take records in from the lanes (systemd does this)."),
    "metrics": ("gated.hq.cli_metrics:metrics", "Answer Prometheus: how every lane is."),
    "lanes": ("gated.hq.cli_records:lanes", "Every lane: up or not, since when, what waits."),
    "statistics": ("gated.hq.cli_statistics:statistics", "Outcomes by category, nationality, age, document (P3)."),
    "integrity": ("gated.hq.cli_records:integrity", "What was found wrong: gaps, edits, truncations, other databases."),
    "records": ("gated.hq.cli_records:records", "Records: list, show one, prove the chains, what was refused."),
    "attachments": ("gated.hq.cli_attachments:attachments", "Pictures of cases and entries: list, export, delete."),
    "order": ("gated.hq.cli_orders:order", "Give one lane an officer's order and wait for its answer."),
    "desire": ("gated.hq.cli_desired:desire", "Which versions a lane should have, and which it has."),
    "enrol": ("gated.hq.cli_registers:enrol", "Enrol people in HQ's register."),
    "received": ("gated.hq.cli_papers:received", "A passport that an office's enrolment waits for was received."),
    "lapse": ("gated.hq.cli_papers:lapse", "Delete offices' enrolments for which no passport came in time."),
    "expect": ("gated.hq.cli_papers:expect", "Documents that advance passenger information names for a day."),
    "history": ("gated.hq.cli_history:history", "Count crossings out of the records into the register."),
    "repo": ("gated.hq.cli_repo:repo", "The signed repository: make it, see it, sign, renew, rotate keys."),
    "policy": ("gated.hq.cli_policy:policy", "The policy: sign it, and publish it to lanes."),
    "control": ("gated.hq.cli_control:control", "Ban people and documents, and lift it again."),
    "publish": ("gated.hq.cli_publish:publish", "Publish to lanes what the register has."),
    "epoch": ("gated.hq.cli_epochs:epoch", "Keys of what is published: begin a new one, destroy an old one."),
    "lane": ("gated.hq.cli_epochs:lane", "Which lanes may open what is published."),
}


class Commands(LazyGroup):
    """HQ's subcommands."""

    commands_by_name = COMMANDS

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as bad:
            if (bad.name or "").partition(".")[0] not in EXTRA:
                raise
            fail(f"this needs {bad.name}, which is not installed: pip install 'gated[hq]'")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="gated-hq %(version)s")
def gated_hq() -> None:
    """HQ's side of the gates: keys, records, orders, enrolments.

    \b
    Examples:
      gated-hq keys ~/hq-keys
      gated-hq ingest --db hq.db --key ~/hq-keys/hq.key --receipts-key ~/hq-keys/receipts.key --host ...
      gated-hq lanes --db hq.db
      gated-hq order tpe-t1/lane-07 open --ticket 41 --officer o4711 --key ~/hq-keys/orders.key ...
    """


def broker_options(function: Callable[..., Any], *, required: bool = True) -> Callable[..., Any]:
    """Where the broker is; `broker_of` makes them a `Broker`."""
    file = click.Path(path_type=Path, dir_okay=False, exists=True)
    for option in (
        click.option("--host", required=required, envvar="GATED_HQ_BROKER", show_envvar=True, help="The broker."),
        click.option("--port", type=click.IntRange(1, 65535), help="8884 (HQ's door) with TLS, 1883 without."),
        click.option("--plain", is_flag=True, help="Without TLS: for this machine's own broker alone."),
        click.option("--ca", type=file, help="Who vouches for the broker; the system's trust store otherwise."),
        click.option("--certificate", type=file, help="Our certificate."),
        click.option("--certificate-key", type=file, help="Its private key."),
        click.option("--username", help="Where the broker wants a name rather than a certificate."),
        click.option("--password-file", type=file, help="A file that holds the password."),
    ):
        function = option(function)
    return function


def broker_of(
    host: str,
    port: int | None,
    plain: bool,
    ca: Path | None,
    certificate: Path | None,
    certificate_key: Path | None,
    username: str | None,
    password_file: Path | None,
) -> "Broker":
    """The `Broker` of `broker_options`. Raises `click.UsageError`."""
    from gated.mqtt import Broker

    if (certificate is None) != (certificate_key is None):
        raise click.UsageError("--certificate and --certificate-key belong together: give both or neither")
    if plain and (ca or certificate):
        raise click.UsageError("--plain is without TLS, so --ca and --certificate would have no effect")
    broker = Broker(
        host=host,
        port=port or (1883 if plain else 8884),
        tls=not plain,
        ca=ca,
        certificate=certificate,
        key=certificate_key,
        username=username,
        password=password_file.read_text(encoding="utf-8").strip() if password_file else None,
    )
    try:
        broker.context()
    except OSError as bad:
        raise click.UsageError(f"--ca, --certificate or --certificate-key cannot be used: {bad}") from None
    return broker


def fail(text: str, exit_code: int = 1) -> NoReturn:
    """One line for a person, and the exit code."""
    click.echo(f"gated-hq: {text}", err=True)
    sys.exit(exit_code)


def main() -> NoReturn:
    """The entry point."""
    gated_hq.main(prog_name="gated-hq")
    sys.exit(0)


if __name__ == "__main__":
    main()
