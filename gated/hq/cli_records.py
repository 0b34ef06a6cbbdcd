"""`gated-hq lanes`, `records`, `integrity`: what HQ holds. Personal data are opened with HQ's key alone."""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gated.hq.cli import fail

if TYPE_CHECKING:
    from gated.hq.archive import Archive

DATABASE = "a file of SQLite, or postgresql+psycopg://USER@HOST/NAME"
_DB = click.option("--db", required=True, envvar="GATED_HQ_DB", show_envvar=True, help=f"HQ's records: {DATABASE}.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
SILENCE_S = 60.0
"""A lane that was not heard of for so long is not called up."""
_LIMIT = click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)


@contextlib.contextmanager
def opened(db: str) -> "Iterator[Archive]":
    """HQ's records, to be read; fails in words where they cannot be."""
    from gated.hq.archive import Archive, ArchiveError

    if "://" not in db and not Path(db).exists():
        fail(f"{db}: there is no such file; gated-hq ingest makes it")
    try:
        with contextlib.closing(Archive(db, read_only=True)) as archive:
            yield archive
    except ArchiveError as bad:
        fail(f"{named(db)}: {bad}")


def named(db: str) -> str:
    """A database's name as it may be shown: a URL without its password."""
    if "://" not in db:
        return db
    scheme, _, rest = db.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


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
def lanes(db: str, as_json: bool) -> None:
    """Every lane that was ever heard of: up or not, when last heard, what it still has to send, which of the versions
    it should have it has not."""
    with opened(db) as archive:
        found, findings = archive.lanes(), Counter((f["site"], f["lane"]) for f in archive.findings())
    for lane in found:
        lane["up"] = lane["up"] and _age_s(lane["seen"]) <= SILENCE_S
        lane["findings"] = findings[lane["site"], lane["lane"]]
    rows = (
        (
            f"{lane['site']}/{lane['lane']}",
            _state(lane),
            "never" if lane["seen"] is None else f"{_age_s(lane['seen']):.0f} s ago",
            "running" if lane["telemetry"].get("lane_up") else "unknown",
            lane["telemetry"].get("pending"),
            lane["telemetry"].get("refused"),
            ", ".join(lane["reported"].get("behind", ())),
            lane["findings"],
            lane["boot"],
            lane["version"],
        )
        for lane in found
    )
    headings = ("lane", "uplink", "heard", "daemon", "waiting", "refused", "behind", "findings", "boot", "version")
    _say(as_json, found, headings, rows)


def _state(lane: Mapping[str, Any]) -> str:
    if lane["up"]:
        return "up"
    return f"down ({lane['ended'] or ('silent' if lane['session'] else 'never up')})"


def _age_s(moment: str | None) -> float:
    if moment is None:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


@click.command(epilog="\b\nExample:\n  gated-hq integrity --db hq.db")
@_DB
@_JSON
def integrity(db: str, as_json: bool) -> None:
    """What HQ and the lanes' uplinks found wrong with records, journals and databases: gaps, edits, truncations,
    replaced databases. Exit code 1 where there is anything; see also gated-hq records verify."""
    with opened(db) as archive:
        found = archive.findings()
    rows = ((f["noticed"], f"{f['site']}/{f['lane']}", f["code"], f["detail"]) for f in found)
    _say(as_json, found, ("noticed", "lane", "finding", "where"), rows)
    if found:
        sys.exit(1)


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
    db: str, as_json: bool, limit: int, lane: str | None, site: str | None, kind: str | None, ticket: int | None
) -> None:
    """The newest records, without their sealed halves."""
    with opened(db) as archive:
        found = archive.find({"lane": lane, "site": site, "kind": kind, "ticket": ticket}, limit)
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
def show(db: str, key: Path | None, lane: str, stream_id: str, seq: int) -> None:
    """One record, in JSON; with --key, the whole of it. Shows personal data to who holds the key."""
    from gated.hq.keys import KeyFault, secret
    from gated.wire.codec import WireError, dump, has_personal
    from gated.wire.facts import FACTS
    from gated.wire.seal import SealError

    with opened(db) as archive:
        record = archive.record(lane, stream_id, seq)
    if record is None:
        fail(f"HQ has no record {seq} of {stream_id} of {lane}")
    answer = _envelope(record)
    if key is not None:
        if record.sealed is None and has_personal(FACTS.get(record.kind, object)):
            fail("its sealed half was deleted: it was not to be kept for longer")
        try:
            answer["fact"] = dump(record.fact(secret(key)))
        except (KeyFault, SealError, WireError) as bad:
            fail(str(bad))
    click.echo(json.dumps(answer, ensure_ascii=False, indent=2))


@records.command("verify", epilog="\b\nExample:\n  gated-hq records verify --db hq.db")
@_DB
def verify(db: str) -> None:
    """Prove the hash chain of every stream again. Exit code 1 where one does not hold."""
    with opened(db) as archive:
        broken, streams, holes = archive.broken(), archive.streams(), archive.holes()
    for line in broken:
        click.echo(line)
    for stream in streams:
        click.echo(f"{stream['lane']} {stream['stream_id']}: {stream['seq']} records", err=True)
    for hole in holes:
        click.echo(f"{hole['lane']} {hole['stream_id']} {hole['first']} to {hole['last']}: {hole['why']}")
    if broken:
        fail(f"{len(broken)} places where a chain does not hold")


@records.command("refused", epilog="\b\nExample:\n  gated-hq records refused --db hq.db")
@_DB
@_JSON
def refused(db: str, as_json: bool) -> None:
    """What was set aside because it cannot be what it says it is, and how often what happened."""
    with opened(db) as archive:
        found = archive.refused()
        answer = {"refused": found, "counters": archive.counters()}
    rows = ((r["received"], f"{r['site']}/{r['lane']}", r["stream_id"], r["seq"], r["why"]) for r in found)
    _say(as_json, answer, ("received", "lane", "stream", "number", "why"), rows)
