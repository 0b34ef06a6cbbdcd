"""`gated-hq attachments`: pictures that lanes gave HQ. Opened with HQ's key alone, and not without a trace."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gated.hq.cli import fail
from gated.hq.cli_records import _JSON, _LIMIT, _say

if TYPE_CHECKING:
    from gated.hq.attachments import Attachment, Attachments

_DB = click.option(
    "--db",
    required=True,
    envvar="GATED_HQ_DB",
    show_envvar=True,
    metavar="FILE|URL",
    help="HQ's records: a file, or a PostgreSQL URL.",
)
_KEY = click.option("--key", required=True, type=click.Path(path_type=Path), help="HQ's secret key: hq.key.")


@click.group()
def attachments() -> None:
    """Case pictures and entry faces, as the policy keeps them (docs/attachments.md)."""


@contextlib.contextmanager
def _opened(db: str, *, read_only: bool) -> "Iterator[Attachments]":
    from gated.hq.archive import Archive, ArchiveError
    from gated.hq.attachments import AttachmentFault, Attachments
    from gated.hq.keys import KeyFault

    if "://" not in db and not Path(db).exists():
        fail(f"{db}: there is no such file; gated-hq ingest makes it")
    try:
        with contextlib.closing(Archive(db, read_only=read_only)) as archive:
            yield Attachments(archive)
    except ArchiveError as bad:
        fail(f"HQ's records: {bad}")
    except (AttachmentFault, KeyFault) as bad:
        fail(str(bad))


@attachments.command("list", epilog="\b\nExample:\n  gated-hq attachments list --db hq.db --lane lane-07 --ticket 41")
@_DB
@_JSON
@_LIMIT
@click.option("--lane")
@click.option("--ticket", type=click.IntRange(min=1))
def list_(db: str, as_json: bool, limit: int, lane: str | None, ticket: int | None) -> None:
    """The newest pictures: of whose ticket, whether they are whole, and until when they are kept. Opens none."""
    with _opened(db, read_only=True) as pictures:
        found = pictures.newest(lane, ticket, limit)
    rows = (
        (_time(each.made), each.lane, each.ticket, each.name, each.state, each.size, _parts(each), _time(each.due))
        for each in found
    )
    headings = ("made", "lane", "ticket", "name", "state", "bytes", "parts", "kept until")
    _say(as_json, [_tree(each) for each in found], headings, rows)


def _named(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.argument("name"),
        click.argument("lane"),
        click.option("--generation", help="Of the lane's database, where it has had several."),
        _KEY,
        _DB,
    ):
        command = option(command)
    return command


@attachments.command(
    "show", epilog="\b\nExample:\n  gated-hq attachments show --db hq.db --key hq.key lane-07 41-case_picture"
)
@_named
def show(db: str, key: Path, generation: str | None, lane: str, name: str) -> None:
    """Whether one picture is whole and opens, in JSON, with its SHA-256. Shows nothing of what is on it. Who asks is
    written down (gated-hq attachments accesses)."""
    with _opened(db, read_only=False) as pictures:
        found, data = _picture(pictures, key, generation, lane, name, "show")
    click.echo(json.dumps(_tree(found) | {"sha256": sha256(data).hexdigest()}, indent=2))


@attachments.command(
    "export",
    epilog="\b\nExample:\n  gated-hq attachments export --db hq.db --key hq.key lane-07 41-case_picture case.jpg",
)
@_named
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export(db: str, key: Path, generation: str | None, lane: str, name: str, file: Path) -> None:
    """Write one picture into a FILE that only you may read, and that is not there yet. Who asks is written down. HQ
    does not delete the file: whoever exports a picture answers for the copy."""
    with _opened(db, read_only=False) as pictures:
        if file.exists():
            fail(f"{file} is there already: it is never overwritten")
        _, data = _picture(pictures, key, generation, lane, name, "export")
        _write(file, data)
    click.echo(f"{file}: {len(data)} bytes", err=True)


def _picture(
    pictures: "Attachments", key: Path, generation: str | None, lane: str, name: str, what: str
) -> "tuple[Attachment, bytes]":
    from gated.hq.keys import secret

    private = secret(key)
    found = pictures.one(lane, name, generation)
    return found, pictures.picture(found, private, what)


def _write(file: Path, data: bytes) -> None:
    """All of it or nothing."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as bad:
        fail(f"{file}: {(bad.strerror or 'cannot be written').lower()}")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
    except OSError as bad:
        file.unlink(missing_ok=True)
        fail(f"{file}: {(bad.strerror or 'cannot be written').lower()}")


@attachments.command("accesses", epilog="\b\nExample:\n  gated-hq attachments accesses --db hq.db --json")
@_DB
@_JSON
@_LIMIT
def accesses(db: str, as_json: bool, limit: int) -> None:
    """Who opened which picture, and when; the last first."""
    with _opened(db, read_only=True) as pictures:
        found = pictures.accesses(limit)
    rows = ((_time(row["at"]), row["who"], row["what"], row["lane"], row["name"]) for row in found)
    _say(as_json, found, ("when", "who", "what", "lane", "name"), rows)


@attachments.command("purge", epilog="\b\nExample:\n  gated-hq attachments purge --db hq.db --every 3600")
@_DB
@click.option("--every", "every_s", type=click.FloatRange(1, 86400), metavar="SECONDS", help="Go on, so often.")
@click.option("--log-format", type=click.Choice(["json", "console"]), default="json", show_default=True)
def purge(db: str, every_s: float | None, log_format: str) -> None:
    """Delete pictures that were kept for as many days as the policy says. Their records stay, without what was sealed
    in them, and every chain can still be proved. Needs no key. May be killed and run again at any moment."""
    from gated import logs
    from gated.hq.attachments import keep_purging

    logs.configure("info" if every_s else "warning", log_format)
    with _opened(db, read_only=False) as pictures:
        if every_s is not None:
            stop = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            keep_purging(pictures, every_s, stop)
            return
        done = pictures.purge(datetime.now(UTC))
    click.echo(f"{done} parts of pictures are deleted: their time was over")


def _parts(each: "Attachment") -> str:
    return f"{each.parts - len(each.missing)}/{each.parts}"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _tree(each: "Attachment") -> dict[str, Any]:
    names = ("site", "lane", "generation", "name", "ticket", "what", "media", "size", "parts", "keep_days", "state")
    told = {name: getattr(each, name) for name in names}
    return told | {"missing": each.missing, "made": _time(each.made), "due": _time(each.due)}
