"""`gated-hq received`, `lapse`, `expect`: passports that enrolments wait for, and documents that are expected."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from gated.hq.cli import fail
from gated.hq.cli_registers import JSON, KEY, REGISTERS, the_register
from gated.hq.cli_rules import POLICY, needed_rules, rules_at, today

if TYPE_CHECKING:
    from gated.hq.people import Paper
    from gated.hq.registers import Register
    from gated.icao.mrz import Document
    from gated.lane.rules import Origin, Rules


def _office(policy: Path | None) -> "tuple[Rules, Origin]":
    """The policy, and what it asks of offices' enrolments."""
    from gated.hq.people import OFFICE

    rules = needed_rules(policy, "nobody knows how long an enrolment waits for a passport")
    if OFFICE not in rules.origins:
        fail("the policy knows no enrolment at offices: it has no [origins.office]")
    return rules, rules.origins[OFFICE]


@click.command(epilog="\b\nExample:\n  gated-hq received --mrz passport.txt --registers registers.db --key data.key")
@click.option(
    "--mrz", required=True, type=click.File(encoding="utf-8"), help="A file (-: input) with the passport's MRZ lines."
)
@click.option("--subject", type=click.IntRange(1), help="Whose it is, where it has no personal number.")
@click.option("--on", "day", type=click.DateTime(["%Y-%m-%d"]), help="The day on which it was received; else today.")
@REGISTERS
@KEY
@POLICY
@JSON
def received(
    mrz: TextIO,
    subject: int | None,
    day: datetime | None,
    registers: Path,
    key: Path,
    policy: Path | None,
    as_json: bool,
) -> None:
    """The first passport after an office's enrolment was issued and received: the enrolment is bound to it (E6), and
    can be used so many working days later as the policy says (E7).

    Exit code 1 where it cannot be: too late, not awaited, another person's.
    """
    from gated.hq.people import Paper, RegisterFault
    from gated.icao import mrz as zone

    rules, office = _office(policy)
    on = day.date() if day is not None else today(rules)
    if on > today(rules):
        raise click.UsageError(f"--on {on}: that day has not come")
    try:
        document = zone.parse(mrz.read())
    except (zone.MrzError, UnicodeDecodeError) as bad:
        fail(f"the machine readable zone cannot be right: look at the {getattr(bad, 'field', 'file')}")
    with the_register(registers, key) as register:
        whose = _whose(register, document, subject, on)
        paper = Paper(document.issuer, document.number)
        try:
            bound = register.received(whose, paper, on, office.bound_within_days)
        except RegisterFault as bad:
            fail(f"subject {whose}: {bad}")
    if as_json:
        click.echo(json.dumps({"subject": bound.subject, "received_on": on.isoformat()}))
    else:
        click.echo(f"subject {bound.subject}: bound to the passport received on {on}")


def _whose(register: "Register", document: "Document", subject: int | None, on: date) -> int:
    """Whom a passport is of. Ends the command where nobody is, or where it tells another person."""
    from gated.hq.enrolment import whole

    if subject is not None:
        person = register.person(subject)
    elif document.personal_number is None:
        raise click.UsageError("the passport has no personal number: name the person (--subject)")
    else:
        found = register.by_personal_number(document.personal_number)
        if found is None:
            fail("nobody in the register has the passport's personal number")
        person = found
    born = whole(document.born_on(on))
    numbers = (person.personal_number, document.personal_number)
    if (born is not None and born != person.birth) or (None not in numbers and numbers[0] != numbers[1]):
        fail(f"subject {person.subject}: the passport is of another birth date or personal number: a person must look")
    return person.subject


@click.command(epilog="\b\nExample:\n  gated-hq lapse --registers registers.db --key data.key     (every day)")
@REGISTERS
@KEY
@POLICY
@JSON
def lapse(registers: Path, key: Path, policy: Path | None, as_json: bool) -> None:
    """Delete the enrolments of offices for which no passport was received in time (E6); lanes lose them when it is next
    published. Whom a control flag is on stays, without what was enrolled, until it is lifted.

    Exit code 1 where a row could not be read.
    """
    rules, office = _office(policy)
    if office.bound_within_days is None:
        fail("the policy says of no enrolment when it lapses: [origins.office] has no bound_within_days")
    with the_register(registers, key) as register:
        done = register.lapse(today(rules), office.bound_within_days)
    if as_json:
        click.echo(json.dumps({"deleted": done.deleted, "flagged": done.flagged, "unreadable": done.unreadable}))
    else:
        also = f", {done.flagged} but for their control flags" if done.flagged else ""
        click.echo(f"{done.deleted} enrolments lapsed and were deleted{also}")
    if done.unreadable:
        fail(f"{done.unreadable} rows are damaged and were left: restore the register")


@click.command(
    epilog="\b\nExample:\n  gated-hq expect apis.jsonl --registers registers.db --key data.key\n\n"
    'A line: {"issuer": "TWN", "number": "300123456", "day": "2026-11-20"}'
)
@click.argument("file", type=click.File(encoding="utf-8"))
@REGISTERS
@KEY
@POLICY
@JSON
def expect(file: TextIO, registers: Path, key: Path, policy: Path | None, as_json: bool) -> None:
    """Documents that advance passenger information names for a day, one JSON object a line (-: input). It prepares
    lanes and replaces no check (W9). Days gone by are forgotten.

    Exit code 1 where a line cannot be read; the others count.
    """
    rules = rules_at(policy)
    named: list[tuple[Paper, date]] = []
    wrong: list[str] = []
    try:
        for number, line in enumerate(file, 1):
            if line.strip():
                _take(number, line, today(rules), named, wrong)
    except UnicodeDecodeError:
        fail(f"{file.name}: is no text in UTF-8: nothing was taken")
    with the_register(registers, key) as register:
        known, forgotten = register.expect(named, today(rules))
    counts = {"expected": len(named), "known": known, "forgotten": forgotten, "refused": len(wrong)}
    if as_json:
        click.echo(json.dumps({**counts, "wrong": wrong}))
    else:
        click.echo(f"{len(named)} expected, {known} of them enrolled people's; {forgotten} of days gone by forgotten")
        for line in wrong:
            click.echo(line)
    if wrong:
        fail(f"{len(wrong)} lines were not taken")


def _take(number: int, line: str, now: date, named: "list[tuple[Paper, date]]", wrong: list[str]) -> None:
    try:
        named.append(_expected(line, now))
    except _Refused as bad:
        wrong.append(f"line {number}: {bad}")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        wrong.append(f"line {number}: is no JSON object with issuer, number and day (YYYY-MM-DD)")


class _Refused(Exception):
    """Its text has nobody's data."""


def _expected(line: str, now: date) -> "tuple[Paper, date]":
    from gated.hq.people import Paper

    fields = json.loads(line)
    if set(fields) != {"issuer", "number", "day"}:
        raise KeyError
    issuer, document, day = fields["issuer"].strip().upper(), fields["number"].strip().upper(), fields["day"]
    if not 1 <= len(issuer) <= 8 or not 1 <= len(document) <= 64:
        raise _Refused("issuer has 1 to 8 letters and number 1 to 64 characters, as the MRZ has them")
    on = date.fromisoformat(day)
    if on < now:
        raise _Refused(f"{on} has gone by")
    return Paper(issuer, document), on
