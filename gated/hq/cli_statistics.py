"""`gated-hq statistics`: outcomes by group of traveller (P3). Opens records with HQ's key, shows counts alone."""

from datetime import datetime
from pathlib import Path

import click

from gated.hq.cli import fail
from gated.hq.cli_records import _DB, _JSON, _say, opened


@click.command(
    epilog="\b\nExamples:\n  gated-hq statistics --db hq.db --key hq.key\n"
    "  gated-hq statistics --db hq.db --key hq.key --by nationality --by age_band --since 2026-11-01 --json"
)
@_DB
@_JSON
@click.option("--key", required=True, type=click.Path(path_type=Path, exists=True), help="HQ's secret key.")
@click.option("--by", multiple=True, metavar="GROUP", help="category and direction, unless others are named.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="UTC.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="UTC; not included.")
def statistics(
    db: str, as_json: bool, key: Path, by: tuple[str, ...], since: datetime | None, until: datetime | None
) -> None:
    """How many were granted, referred and crossed, and why not: by category, direction, document_kind, nationality,
    age_band, place, or rules (the version of the policy)."""
    from gated.hq.keys import KeyFault, secret
    from gated.hq.statistics import counted, tickets
    from gated.wire.codec import WireError
    from gated.wire.facts import TicketSettled, VerdictReached
    from gated.wire.seal import SealError

    by = by or ("category", "direction")
    try:
        private = secret(key)
        with opened(db) as archive:
            told = (
                (f"{record.lane} {record.stream_id}", record.fact(private))
                for record in archive.each((VerdictReached.__name__, TicketSettled.__name__), since, until)
            )
            rows = counted(tickets(told), by)
    except (KeyFault, SealError, WireError) as bad:
        fail(str(bad))
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from None
    answer = [
        dict(zip(by, row.group, strict=True))
        | {name: getattr(row, name) for name in ("tickets", "granted", "referred", "by_officer", "crossed")}
        | {"reasons": dict(row.reasons)}
        for row in rows
    ]
    shown = (
        (
            *row.group,
            row.tickets,
            row.granted,
            row.referred,
            row.by_officer,
            row.crossed,
            ", ".join(f"{reason} {n}" for reason, n in row.reasons),
        )
        for row in rows
    )
    _say(as_json, answer, (*by, "came", "granted", "referred", "by officer", "crossed", "why not"), shown)
