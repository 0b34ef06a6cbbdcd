"""`gated mrz FILE|-`: what a machine readable zone says, as JSON. Reads one file, decides nothing."""

import json
from dataclasses import asdict
from datetime import date, datetime
from typing import BinaryIO

import click

from gated.icao.mrz import Document, MrzError, parse
from gated.icao.states import alpha3

_LONGEST_BYTES = 4096


@click.command("mrz", short_help="Read a machine readable zone and print it as JSON.")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--at",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Day of use, YYYY-MM-DD, on which two-digit years are understood. Today when left out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print an error as a JSON object on standard output too.")
def mrz(file: BinaryIO, at: datetime | None, as_json: bool) -> None:
    """Read the machine readable zone in FILE (- for standard input) and print it as one JSON object.

    FILE holds two or three lines (CR, LF or CRLF), or one run of 72, 88 or 90 characters. Exit status: 0 when the
    zone is valid, 1 when it is not, 2 when the command was used wrongly. The output is personal data.
    """
    today = at.date() if at else date.today()
    # undecodable bytes become characters that the alphabet refuses, with their place
    text = file.read(_LONGEST_BYTES).decode("utf-8-sig", errors="replace")
    try:
        document = parse(text)
    except MrzError as error:
        if as_json:
            click.echo(json.dumps({"error": _explain(error)}, indent=2))
        click.echo(f"gated mrz: {error}", err=True)
        raise SystemExit(1) from None
    click.echo(json.dumps(_describe(document, today), indent=2))


def _describe(document: Document, today: date) -> dict[str, object]:
    expiry = document.expires_on(today)
    return asdict(document) | {
        "issuer_alpha3": alpha3(document.issuer),
        "nationality_alpha3": alpha3(document.nationality),
        "passport_kind": document.passport_kind,
        "personal_number": document.personal_number,
        "at": today.isoformat(),
        "expires_on": expiry.isoformat(),
        "expired": expiry < today,
        "born_on": document.born_on(today).iso(),
    }


def _explain(error: MrzError) -> dict[str, object]:
    line, column = error.position
    return {
        "field": error.field,
        "line": line,
        "column": column,
        "expected": error.expected,
        "found": error.found,
        "message": str(error),
    }
