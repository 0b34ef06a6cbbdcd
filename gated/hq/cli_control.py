"""`gated-hq control`: who and which document is to be stopped, and no longer is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gated.hq.cli_registers import JSON, KEY, REGISTERS, the_register
from gated.hq.cli_rules import POLICY, rules_at, say_unchecked

if TYPE_CHECKING:
    from gated.hq.people import Paper
    from gated.lane.rules import Rules

_DOCUMENT = click.option(
    "--document", nargs=2, metavar="ISSUER NUMBER", help="A document instead of a person: as its MRZ has them."
)
_URGENT = click.option("--urgent", is_flag=True, help="Lanes are to know within seconds, not at the next interval.")
_WORDS = click.argument("words", nargs=-1, metavar="[SUBJECT] FLAG...")


@click.group()
def control() -> None:
    """Control flags of people (SUBJECT: their number in the register) and the status of documents."""


def _meant(words: tuple[str, ...], document: tuple[str, str] | None) -> "tuple[int | Paper, frozenset[str]]":
    """Whom or what it is about, and the flags. Raises `click.UsageError`."""
    from gated.hq.people import Paper

    what: int | Paper
    if document is not None:
        what, flags = Paper(document[0].upper(), document[1].upper()), words
    elif words and words[0].isascii() and words[0].isdigit():
        what, flags = int(words[0]), words[1:]
    else:
        raise click.UsageError("name a SUBJECT (a number), or a --document ISSUER NUMBER")
    for flag in flags:
        if not flag.isascii() or not flag.replace("_", "a").isalnum() or flag != flag.lower() or len(flag) > 64:
            raise click.UsageError(f"{flag!r} is no flag: lower-case letters, digits and '_', as the policy names them")
    return what, frozenset(flags)


def _check(what: "int | Paper", flags: frozenset[str], rules: "Rules") -> None:
    """Names that the policy knows: another one would count everywhere, and be urgent. Raises `click.UsageError`."""
    known = rules.controls if isinstance(what, int) else rules.document_controls
    if unknown := sorted(flags - known.keys()):
        whose = "a person" if isinstance(what, int) else "a document"
        raise click.UsageError(f"{unknown[0]!r} is no flag of {whose}; the policy knows {', '.join(sorted(known))}")


@control.command(
    epilog="\b\nExamples:\n  gated-hq control ban 4711 wanted --urgent --registers registers.db --key data.key\n"
    "  gated-hq control ban --document UTO L898902C3 stolen --urgent --registers registers.db --key data.key"
)
@_WORDS
@_DOCUMENT
@_URGENT
@REGISTERS
@KEY
@POLICY
@JSON
def ban(
    words: tuple[str, ...],
    document: tuple[str, str] | None,
    urgent: bool,
    registers: Path,
    key: Path,
    policy: Path | None,
    as_json: bool,
) -> None:
    """Add control flags to a person (wanted, exit_ban) or say what is known of a document (lost, stolen, invalid)."""
    what, flags = _meant(words, document)
    if not flags:
        raise click.UsageError("name at least one FLAG")
    rules = rules_at(policy)
    if rules is not None:
        _check(what, flags, rules)
    say_unchecked(rules)
    with the_register(registers, key) as register:
        if isinstance(what, int):
            left = register.add_flags(what, flags, urgent=urgent)
        else:
            left = register.add_status(what, flags, urgent=urgent)
    _answer(left, as_json)


@control.command(
    epilog="\b\nExample:\n  gated-hq control lift 4711 wanted --registers registers.db --key data.key\n\n"
    "Lanes hear of it when gated-hq publish has the lift key too."
)
@_WORDS
@_DOCUMENT
@click.option("--all", "everything", is_flag=True, help="Every flag there is.")
@_URGENT
@REGISTERS
@KEY
@JSON
def lift(
    words: tuple[str, ...],
    document: tuple[str, str] | None,
    everything: bool,
    urgent: bool,
    registers: Path,
    key: Path,
    as_json: bool,
) -> None:
    """Take control flags away again. It reaches lanes only with the signature of the lift key (docs/publish.md)."""
    what, flags = _meant(words, document)
    if bool(flags) == everything:
        raise click.UsageError("name the FLAGs, or say --all")
    some = None if everything else flags
    with the_register(registers, key) as register:
        if isinstance(what, int):
            left = register.lift_flags(what, some, urgent=urgent)
        else:
            left = register.lift_status(what, some, urgent=urgent)
    _answer(left, as_json)
    click.echo("lanes hear of it when gated-hq publish is given the lift key too (--sign)", err=True)


def _answer(left: frozenset[str], as_json: bool) -> None:
    click.echo(json.dumps({"flags": sorted(left)}) if as_json else f"flags: {', '.join(sorted(left)) or 'none'}")


@control.command("list")
@REGISTERS
@KEY
@JSON
def list_all(registers: Path, key: Path, as_json: bool) -> None:
    """Everybody with control flags, by subject, and every document of which something is known. Reads everything: a
    register of millions takes minutes."""
    rows: list[dict[str, Any]] = []
    with the_register(registers, key) as register:
        for person in register.people():
            if person.flags:
                rows.append({"subject": person.subject, "flags": sorted(person.flags)})
        for status in register.statuses():
            paper = status.paper
            rows.append({"issuer": paper.issuer, "number": paper.number, "flags": sorted(status.flags)})
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        name = f"subject {row['subject']}" if "subject" in row else f"document {row['issuer']} {row['number']}"
        click.echo(f"{name}: {', '.join(row['flags'])}")
