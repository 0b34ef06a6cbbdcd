"""`gated-hq lanes` and `gated-hq records`: what HQ holds. Personal data are opened with HQ's key alone."""

import json
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gated.hq.cli import fail

if TYPE_CHECKING:
    from gated.hq.archive import Archive

_DB = click.option("--db", required=True, type=click.Path(path_type=Path, dir_okay=False), help="HQ's records.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
_LIMIT = click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)


def _open(db: Path) -> "Archive":
    from gated.hq.archive import Archive

    if not db.exists():
        fail(f"{db}: there is no such file; gated-hq ingest makes it")
    try:
        return Archive(db, read_only=True)
    except sqlite3.Error as bad:
        fail(f"{db}: {bad}")


def _say(as_json: bool, answer: Any, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2, default=_plain))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*headings, box=None, header_style="bold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


@click.command(epilog="\b\nExample:\n  gated-hq lanes --db hq.db")
@_DB
@_JSON
def lanes(db: Path, as_json: bool) -> None:
    """Every lane that was ever heard of: up or not, when last heard, what it still has to send."""
    archive = _open(db)
    found = archive.lanes()
    rows = (
        (
            f"{lane['site']}/{lane['lane']}",
            "up" if lane["up"] else f"down ({lane['ended'] or 'never up'})",
            _ago(lane["seen"]),
            "running" if lane["telemetry"].get("lane_up") else "unknown",
            lane["telemetry"].get("pending"),
            lane["telemetry"].get("refused"),
            lane["boot"],
            lane["version"],
        )
        for lane in found
    )
    _say(as_json, found, ("lane", "uplink", "heard", "daemon", "waiting", "refused", "boot", "version"), rows)


def _ago(moment: str | None) -> str:
    if moment is None:
        return "never"
    return f"{(datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds():.0f} s ago"


@click.group()
def records() -> None:
    """What the lanes recorded."""


@records.command("list", epilog="\b\nExample:\n  gated-hq records list --db hq.db --lane lane-07 --kind VerdictReached")
@_DB
@_JSON
@_LIMIT
@click.option("--lane")
@click.option("--site")
@click.option("--kind", metavar="FACT", help="Such as VerdictReached.")
@click.option("--ticket", type=int)
def list_(
    db: Path, as_json: bool, limit: int, lane: str | None, site: str | None, kind: str | None, ticket: int | None
) -> None:
    """The newest records, without their sealed halves."""
    found = _open(db).find({"lane": lane, "site": site, "kind": kind, "ticket": ticket}, limit)
    answer = [{**_envelope(record), "received": received} for received, record in found]
    rows = (
        (r["utc"], r["lane"], r["stream"], r["seq"], r["kind"], r["clear"].get("ticket"), _brief(r["clear"]))
        for r in answer
    )
    _say(as_json, answer, ("when", "lane", "stream", "number", "fact", "ticket", "says"), rows)


def _envelope(record: Any) -> dict[str, Any]:
    return {
        "lane": record.lane,
        "stream_id": record.stream_id,
        "stream": record.stream,
        "seq": record.seq,
        "utc": record.utc.isoformat(timespec="milliseconds"),
        "boot": record.boot,
        "kind": record.kind,
        "clear": dict(record.clear),
        "sealed": record.sealed is not None,
    }


def _brief(clear: Mapping[str, Any]) -> str:
    told = {k: v for k, v in clear.items() if v not in (None, "", [], {}) and k not in ("ticket", "holder")}
    return ", ".join(f"{name} {value}" for name, value in list(told.items())[:5])[:100]


@records.command("show", epilog="\b\nExample:\n  gated-hq records show --db hq.db --key hq.key lane-07 STREAM_ID 12")
@_DB
@click.option("--key", type=click.Path(path_type=Path), help="HQ's secret key: opens the sealed half.")
@click.argument("lane")
@click.argument("stream_id")
@click.argument("seq", type=click.IntRange(min=1))
def show(db: Path, key: Path | None, lane: str, stream_id: str, seq: int) -> None:
    """One record, in JSON; with --key, the whole of it. Shows personal data to who holds the key."""
    from gated.hq.keys import KeyFault, secret
    from gated.wire.codec import WireError, dump
    from gated.wire.seal import SealError

    record = _open(db).record(lane, stream_id, seq)
    if record is None:
        fail(f"HQ has no record {seq} of {stream_id} of {lane}")
    answer = _envelope(record)
    if key is not None:
        try:
            answer["fact"] = dump(record.fact(secret(key)))
        except (KeyFault, SealError, WireError) as bad:
            fail(str(bad))
    click.echo(json.dumps(answer, ensure_ascii=False, indent=2))


@records.command("verify", epilog="\b\nExample:\n  gated-hq records verify --db hq.db")
@_DB
def verify(db: Path) -> None:
    """Prove the hash chain of every stream again. Exit code 1 where one does not hold."""
    archive = _open(db)
    broken = archive.broken()
    for line in broken:
        click.echo(line)
    for stream in archive.streams():
        click.echo(f"{stream['lane']} {stream['stream_id']}: {stream['seq']} records", err=True)
    for hole in archive.holes():
        click.echo(f"{hole['lane']} {hole['stream_id']} {hole['first']} to {hole['last']}: {hole['why']}")
    if broken:
        fail(f"{len(broken)} places where a chain does not hold")


@records.command("refused", epilog="\b\nExample:\n  gated-hq records refused --db hq.db")
@_DB
@_JSON
def refused(db: Path, as_json: bool) -> None:
    """What was set aside because it cannot be what it says it is, and how often what happened."""
    archive = _open(db)
    found = archive.refused()
    answer = {"refused": found, "counters": archive.counters()}
    rows = ((r["received"], f"{r['site']}/{r['lane']}", r["stream_id"], r["seq"], r["why"]) for r in found)
    _say(as_json, answer, ("received", "lane", "stream", "number", "why"), rows)
