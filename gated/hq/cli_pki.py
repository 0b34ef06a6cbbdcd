"""`gated-hq pki`: certificates for lanes, HQ's programs and brokers."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gated.hq.cli import fail

if TYPE_CHECKING:
    from gated.hq.pki import Issued, Pki

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_PKI = click.option(
    "--pki", "folder", required=True, type=_FOLDER, envvar="GATED_HQ_PKI", show_envvar=True, help="Of `pki init`."
)
_PASSPHRASE = click.option(
    "--passphrase-file",
    type=_FILE,
    envvar="GATED_HQ_PKI_PASSPHRASE",
    show_envvar=True,
    help="A file that holds what opens the authorities' keys.",
)
_OUT = click.option("--out", required=True, type=_FOLDER, help="Where the certificate goes, and its key.")
_DAYS = click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long it counts.")
_CSR = click.option(
    "--csr", type=_FILE, help="A certificate request (PEM): the key stays where it was made, and is not made here."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")


@contextlib.contextmanager
def _opened(folder: Path, passphrase_file: Path | None) -> Iterator["Pki"]:
    """The folder; what a person can do something about becomes one line. Warns of lists that will soon be too old."""
    from gated.hq.certificates import PkiFault
    from gated.hq.pki import CRL_WARN_DAYS, Pki

    try:
        pki = Pki(folder, _passphrase(passphrase_file))
        yield pki
        ends, now = pki.lists_end(), datetime.now(UTC)
        if ends < now + timedelta(days=CRL_WARN_DAYS):
            click.echo(f"gated-hq: the revocation lists end {ends:%Y-%m-%d %H:%M} UTC, and with an old one the broker"
                       " refuses EVERYBODY: gated-hq pki crl", err=True)  # fmt: skip
        pki.close()
    except PkiFault as bad:
        fail(str(bad))
    except sqlite3.Error as bad:
        fail(f"{folder / 'index.db'} cannot be used: {bad}")
    except (OSError, ValueError) as bad:
        fail(_unusable(bad))


def _unusable(bad: OSError | ValueError) -> str:
    if isinstance(bad, OSError):
        return f"{bad.filename or 'a file'}: {(bad.strerror or 'cannot be used').lower()}"
    return f"a file of the authority is damaged: {bad}"


def _passphrase(file: Path | None) -> bytes | None:
    if file is None:
        return None
    text = file.read_bytes().strip()
    if not text:
        raise click.UsageError(f"--passphrase-file {file} is empty")
    return text


def _say(made: "Issued", out: Path, csr: Path | None) -> None:
    stem = "lane" if made.kind == "lane" else made.name
    key = "its key is where the request was made" if csr else f"{out / stem}.key SECRET"
    click.echo(f"{made.name}: {out / stem}.crt, until {made.until:%Y-%m-%d}, serial {made.serial}; {key}")


@click.group()
def pki() -> None:
    """Certificates for lanes, HQ's programs and brokers.

    \b
    Examples:
      gated-hq pki init /srv/pki
      gated-hq pki service broker --server --san broker.example --pki /srv/pki --out broker
      gated-hq pki lane tpe-t1/lane-07 --csr lane-07.csr --pki /srv/pki --out lane-07
      gated-hq pki revoke tpe-t1/lane-07 --pki /srv/pki
    """


@pki.command()
@click.argument("folder", type=_FOLDER)
@_PASSPHRASE
@click.option("--days", type=click.IntRange(1, 36500), default=3650, show_default=True, help="How long they count.")
def init(folder: Path, passphrase_file: Path | None, days: int) -> None:
    """Make two authorities in FOLDER, one for lanes and one for HQ's programs and brokers. Keep FOLDER at HQ, offline
    where you can: who has its keys can speak as any lane."""
    from gated.hq.certificates import PkiFault
    from gated.hq.pki import NAMES, Pki

    try:
        Pki.make(folder, datetime.now(UTC), days=days, passphrase=_passphrase(passphrase_file)).close()
    except PkiFault as bad:
        fail(str(bad))
    except OSError as bad:
        fail(_unusable(bad))
    for name in NAMES:
        click.echo(f"{folder / name}-ca.key  SECRET{'' if passphrase_file else ', protected by its mode alone'}")
        click.echo(f"{folder / name}-ca.crt, .crl  public: for brokers")


@pki.command(epilog="\b\nExample:\n  gated-hq pki lane tpe-t1/lane-07 --csr lane-07.csr --pki /srv/pki --out lane-07")
@click.argument("name", metavar="SITE/LANE")
@_OUT
@_DAYS
@_CSR
@_PKI
@_PASSPHRASE
def lane(name: str, out: Path, days: int, csr: Path | None, folder: Path, passphrase_file: Path | None) -> None:
    """A lane's first certificate: OUT/lane.crt, and hq-ca.crt, which vouches for the broker."""
    from gated.hq.certificates import Kind, Wanted

    with _opened(folder, passphrase_file) as opened:
        wanted = Wanted(name, Kind.LANE, days, csr=csr.read_bytes() if csr else None)
        _say(opened.issue(wanted, out, datetime.now(UTC)), out, csr)


@pki.command(epilog="\b\nExample:\n  gated-hq pki service hq-ingest --pki /srv/pki --out ingest")
@click.argument("name")
@click.option("--server", is_flag=True, help="A broker; without it, one of HQ's programs (config/mosquitto/acl).")
@click.option("--san", "sans", multiple=True, metavar="HOST", help="A broker's host name or address. Repeatable.")
@_OUT
@_DAYS
@_CSR
@_PKI
@_PASSPHRASE
def service(
    name: str,
    server: bool,
    sans: tuple[str, ...],
    out: Path,
    days: int,
    csr: Path | None,
    folder: Path,
    passphrase_file: Path | None,
) -> None:
    """The first certificate of one of HQ's programs (hq-ingest, hq-publisher, hq-orders, hq-desk), or of a broker."""
    from gated.hq.certificates import Kind, Wanted

    with _opened(folder, passphrase_file) as opened:
        kind = Kind.SERVER if server else Kind.CLIENT
        wanted = Wanted(name, kind, days, sans, csr.read_bytes() if csr else None)
        _say(opened.issue(wanted, out, datetime.now(UTC)), out, csr)


@pki.command(epilog="\b\nExample:\n  gated-hq pki rotate tpe-t1/lane-07 --csr new.csr --pki /srv/pki --out lane-07-2")
@click.argument("name")
@click.option(
    "--overlap",
    "overlap_days",
    type=click.IntRange(0, 90),
    default=7,
    show_default=True,
    metavar="DAYS",
    help="How long the certificate before this one still counts.",
)
@click.option("--san", "sans", multiple=True, metavar="HOST", help="A broker's host name or address. Repeatable.")
@_OUT
@_DAYS
@_CSR
@_PKI
@_PASSPHRASE
def rotate(
    name: str,
    overlap_days: int,
    sans: tuple[str, ...],
    out: Path,
    days: int,
    csr: Path | None,
    folder: Path,
    passphrase_file: Path | None,
) -> None:
    """The next certificate of a lane, program or broker, with another key."""
    from gated.hq.certificates import Kind, Wanted

    with _opened(folder, passphrase_file) as opened:
        kind = Kind.LANE if "/" in name else Kind.SERVER if sans else Kind.CLIENT
        wanted = Wanted(name, kind, days, sans, csr.read_bytes() if csr else None)
        now, overlap = datetime.now(UTC), timedelta(days=overlap_days)
        _say(opened.rotate(wanted, out, now, overlap), out, csr)
        click.echo(f"the one before it counts until the first gated-hq pki crl from {now + overlap:%Y-%m-%d %H:%M} UTC")


@pki.command(epilog="\b\nExample:\n  gated-hq pki revoke tpe-t1/lane-07 --pki /srv/pki")
@click.argument("which", metavar="NAME|SERIAL")
@_PKI
@_PASSPHRASE
def revoke(which: str, folder: Path, passphrase_file: Path | None) -> None:
    """Take back a certificate, or all that a name has, and sign the revocation lists.

    A broker learns of it when it is given the lists and reloads; who is connected stays so until it restarts."""
    with _opened(folder, passphrase_file) as opened:
        taken = opened.revoke(which, datetime.now(UTC))
        for each in taken:
            click.echo(f"{each.name}: {each.serial} is revoked")
        if not taken:
            click.echo(f"{which}: nothing of it counted any more")
        click.echo(f"now give {folder}/*-ca.crl to the brokers and restart them (docs/broker.md)")


@pki.command(epilog="\b\nExample, once a day:\n  gated-hq pki crl --pki /srv/pki")
@click.option("--days", type=click.IntRange(1, 365), default=30, show_default=True, help="How long they count.")
@_PKI
@_PASSPHRASE
def crl(days: int, folder: Path, passphrase_file: Path | None) -> None:
    """Sign the revocation lists anew. They must never grow old: with an expired one mosquitto refuses everybody."""
    with _opened(folder, passphrase_file) as opened:
        opened.sign_lists(datetime.now(UTC), days)
        click.echo(f"{folder}/*-ca.crl: count until {opened.lists_end():%Y-%m-%d}")


@pki.command("list", epilog="\b\nExample:\n  gated-hq pki list --ends-within 30 --pki /srv/pki")
@click.option("--all", "everything", is_flag=True, help="Revoked and expired ones too.")
@click.option("--ends-within", type=click.IntRange(0), metavar="DAYS", help="Only what ends so soon.")
@_JSON
@_PKI
def list_issued(everything: bool, ends_within: int | None, as_json: bool, folder: Path) -> None:
    """Every certificate that counts."""
    with _opened(folder, None) as opened:
        now = datetime.now(UTC)
        found = [each for each in opened.issued() if everything or each.state(now) in ("valid", "replaced")]
        if ends_within is not None:
            found = [each for each in found if each.until < now + timedelta(days=ends_within)]
        if as_json:
            click.echo(json.dumps([_row(each, now) for each in found]))
            return
        for each in found:
            until = each.revoked if each.state(now) == "replaced" and each.revoked else each.until
            click.echo(f"{each.name:32} {each.kind:6} {each.state(now):8} until {until:%Y-%m-%d}  {each.serial}")


@pki.command(
    epilog="\b\nExample, once a day at a broker:\n  gated-hq pki check --within 14 /etc/mosquitto/certs/*.crt"
    " /etc/mosquitto/certs/*.crl"
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_FILE)
@click.option("--within", "days", type=click.IntRange(0), default=14, show_default=True, metavar="DAYS")
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Also write gated-certificates.prom there, for node_exporter's textfile collector.",
)
def check(files: tuple[Path, ...], days: int, metrics: Path | None) -> None:
    """Whether certificates and revocation lists still count for so long. Needs no authority. Exit code 1 where one does
    not: what a broker has is old even where HQ's is new, until somebody brings it."""
    from gated.hq.certificates import PkiFault, ends

    late, until = [], datetime.now(UTC) + timedelta(days=days)
    found: dict[str, datetime | None] = {}
    unusable = ""
    for file in files:
        try:
            end = found[file.name] = ends(file.read_bytes())
        except (PkiFault, OSError) as bad:
            found[file.name] = None
            unusable = unusable or (_unusable(bad) if isinstance(bad, OSError) else f"{file}: {bad}")
            continue
        click.echo(f"{file}: until {end:%Y-%m-%d %H:%M} UTC")
        if end < until:
            late.append(file.name)
    if metrics is not None:
        _tell(metrics, found)
    if unusable:
        fail(unusable)
    if late:
        fail(f"these end within {days} days: {', '.join(late)}; then the broker refuses everybody (docs/broker.md)")


def _tell(folder: Path, found: dict[str, datetime | None]) -> None:
    from gated.hq.exporter import certificates_page
    from gated.metrics import put_text

    try:
        put_text(folder / "gated-certificates.prom", certificates_page(found))
    except OSError as bad:
        fail(f"--metrics {folder}: {bad.strerror}")


def _row(each: "Issued", now: datetime) -> dict[str, str | None]:
    return {
        "name": each.name,
        "kind": each.kind,
        "state": each.state(now),
        "since": each.since.isoformat(),
        "until": each.until.isoformat(),
        "revoked": each.revoked.isoformat() if each.revoked else None,
        "serial": each.serial,
    }
