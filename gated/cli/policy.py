"""`gated policy check|show|explain|cases|diff`: who may pass by a policy, and why. Reads files, asks no lane."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from gated.cli.here import Here, command_here

if TYPE_CHECKING:
    from gated.icao.mrz import Document
    from gated.lane.evidence import Evidence
    from gated.lane.rules import Rules
    from gated.lane.specimen import Pass

CALENDAR_DAYS_MIN = 90
"""With fewer days left in the calendar it is time for a new edition of the policy."""
MRZ_BYTES_MAX = 4096
YEARS = range(1900, 2101)
"""Machine readable zones tell years by two digits."""

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(dir_okay=False, path_type=Path)
READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _parsed(text: str) -> date:
    found = date.fromisoformat(text)
    if found.year not in YEARS:
        raise ValueError(text)
    return found


def day(text: str) -> date:
    """YYYY-MM-DD. Raises `BadParameter`."""
    try:
        return _parsed(text)
    except ValueError:
        known = f"{YEARS.start} to {YEARS.stop - 1}"
        raise click.BadParameter(f"{text!r} is no day of {known}; one looks like 2026-11-20") from None


def permit(text: str) -> "Pass":
    """KIND[:START[:END[:ENTRIES]]]. Raises `BadParameter`."""
    from gated.lane.specimen import Pass

    kind, start, end, entries, *more = [*text.split(":"), "", "", ""]
    try:
        if not kind or any(more) or (entries and not entries.isdecimal()):
            raise ValueError(text)
        first, last = _parsed(start) if start else date.min, _parsed(end) if end else date.max
        return Pass(kind, first, last, int(entries) if entries else None)
    except ValueError:
        problem = f"{text!r} is no permit; one looks like residence:2026-01-01:2026-12-31:2"
        raise click.BadParameter(problem) from None


@click.group(
    epilog="""\b
    Examples:
      gated policy check config/policy/tw.toml
      gated policy show
      gated policy explain --document kinmen_permit --category national --direction exit --place taichung
      gated policy cases --out november.cases
      gated policy diff tw-2026.3.toml tw-2026.4.toml --cases november.cases
    """
)
def policy() -> None:
    """Who may pass by a policy, and why: the law as data, as lanes read it. Asks no lane and changes none."""


def _policy_of(here: Here, file: Path | None) -> Path:
    """`file`, or the policy that the lane was installed with. Raises `ConfigError`."""
    if file is not None:
        return file
    from gated.daemon.plan import PolicyFile

    return here.config.section("policy").take(PolicyFile).file


# -- check ---------------------------------------------------------------------------------------------------------


@policy.command(
    epilog="""\b
    Examples:
      gated policy check config/policy/tw.toml
      gated policy check new.toml --json | jq .edition
    """
)
@click.argument("file", type=FILE)
@command_here
def check(here: Here, file: Path) -> None:
    """Is FILE a whole policy? As a lane would read it, with its own examples.

    A gap, a contradiction, a name that is not known, or an example that does not come out as it says: exit code 78,
    and file, line and option on standard error.
    """
    from gated.policyfile import load_policy

    found = load_policy(file)
    rules = found.rules
    through = rules.calendar.through
    left = (through - _today(rules)).days
    warnings = []
    if left < CALENDAR_DAYS_MIN:
        when = f"ends on {through}, in {left} days" if left >= 0 else f"ended on {through}"
        warnings.append(f"the calendar {when}: after it nobody can use an enrolment that waits for a working day")
    counts = {
        "categories": len(rules.categories),
        "documents": len(rules.documents),
        "places": len(rules.places),
        "permits": len(rules.permits),
        "controls": len(rules.controls) + len(rules.document_controls),
        "origins": len(rules.origins),
        "sizes": len(rules.sizes),
        "examples": len(found.examples),
    }
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    answer = {"version": rules.version, "edition": rules.edition, "calendar_through": through.isoformat()}
    here.say(
        answer | counts | {"warnings": warnings},
        f"{file}: {rules.version}, edition {rules.edition}: whole, and its examples come out\n  {said}",
    )
    if not here.as_json:
        for warning in warnings:
            click.secho(f"  warning: {warning}", fg="yellow", err=True)


def _today(rules: "Rules") -> date:
    return datetime.now(rules.zone).date()


# -- show ----------------------------------------------------------------------------------------------------------


@policy.command(
    epilog="""\b
    Examples:
      gated policy show
      gated policy show config/policy/tw.toml --json | jq .matrix.national
    """
)
@click.argument("file", type=FILE, required=False)
@command_here
def show(here: Here, file: Path | None) -> None:
    """Who may use lanes where, with what, which way. FILE left out: the policy that this lane was installed with."""
    from gated.cli.policyviews import show_view, tree
    from gated.policyfile import load_rules

    rules = load_rules(_policy_of(here, file))
    if here.as_json:
        here.say(tree(rules), "")
    else:
        here.console.print(show_view(rules))


# -- explain -------------------------------------------------------------------------------------------------------

CHECKS = click.Choice(["successful", "failed", "undetermined", "not_supported", "aborted"])


def _somebody(function: F) -> F:
    """The options that describe a traveller; each has the name of its field in `Specimen`."""
    options = (
        click.option("--document", required=True, metavar="KIND|FILE", help="A kind of document, or a file with a "
                     "machine readable zone (- for standard input)."),
        click.option("--category", required=True, help="Category of traveller."),
        click.option("--direction", required=True, type=click.Choice(["entry", "exit"])),
        click.option("--place", required=True, help="Where the lane stands."),
        click.option("--at", "on", type=day, help="The day of use. Today when left out."),
        click.option("--born", type=day, help="Birth date on record. [of the machine readable zone, or 1990-01-01]"),
        click.option("--height", "height_cm", type=click.IntRange(0, 300), help="Height on record, cm."),
        click.option("--origin", default="counter", show_default=True, help="Where they were enrolled."),
        click.option("--enrolled-on", type=day),
        click.option("--received-on", type=day, help="When the passport was received that the enrolment waits for."),
        click.option("--usable-from", type=day, help="HQ's own first day."),
        click.option("--permit", "permits", type=permit, multiple=True, metavar="KIND[:START[:END[:ENTRIES]]]"),
        click.option("--control", "controls", multiple=True, help="A control flag on the holder."),
        click.option("--document-control", "document_controls", multiple=True, help="A flag of the document."),
        click.option("--document-expires", type=day, help="[a year later, or as the machine readable zone says]"),
        click.option("--entered", type=day, help="Day of the last entry."),
        click.option("--left", type=day, help="Day of the last exit."),
        click.option("--other-document", is_flag=True, help="The last entry was with another document."),
        click.option("--no-face", "face_enrolled", flag_value=False, default=True, help="No face could be enrolled."),
        click.option("--no-face-match", "face", flag_value=False, default=True, help="The face is somebody else's."),
        click.option("--fingers-enrolled", type=click.IntRange(0, 4), default=2, show_default=True),
        click.option("--fingers", type=click.IntRange(0, 4), default=2, show_default=True, help="How many match."),
        click.option("--no-finger-reader", "finger_reader", flag_value=False, default=True),
        click.option("--chip", type=CHECKS, default="not_supported", show_default=True, help="What its checks found."),
        click.option("--cache-age", "cache_age_s", type=click.IntRange(min=0), default=0, metavar="SECONDS",
                     help="Since HQ last said that the lane has all there is."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@policy.command(
    epilog="""\b
    Examples:
      gated policy explain --document passport_tw --category national --direction exit --place taoyuan_t1
      gated policy explain --document mrz.txt --category national --direction entry --place songshan \\
          --born 2017-03-04 --at 2026-11-20
      gated policy explain --document residence_certificate --category resident --direction entry \\
          --place taichung --permit residence:2026-01-01:2027-12-31 --permit reentry --json
    """
)
@_somebody
@click.option("--policy", "file", type=FILE, help="A policy file. Left out: the one this lane was installed with.")
@command_here
def explain(here: Here, /, file: Path | None, document: str, **said: Any) -> None:
    """Would somebody pass, and which rules said so? Every rule in order, with the facts that it compared.

    Whatever is not said is in order: enrolled at a counter, recognised, no control, a lane with a finger reader. Exit
    code 0: they pass. 1: they are referred. What is shown is for officers, never for passengers.
    """
    from gated.cli.policyviews import explained_tree, explained_view
    from gated.lane.evidence import Decision
    from gated.lane.explain import explain as explain_steps
    from gated.lane.policy import judge
    from gated.policyfile import load_rules

    rules = load_rules(_policy_of(here, file))
    evidence = _evidence(rules, document, said)
    steps, verdict = explain_steps(evidence, rules), judge(evidence, rules)
    if here.as_json:
        here.say(explained_tree(steps, verdict), "")
    else:
        here.console.print(explained_view(steps, verdict))
    if verdict.decision is not Decision.GRANT:
        raise SystemExit(1)


def _evidence(rules: "Rules", document: str, said: dict[str, Any]) -> "Evidence":
    """What a lane would know of them. Raises `UsageError`."""
    from gated.icao.check import Check
    from gated.lane.specimen import Specimen, evidence_of
    from gated.policyfile import misnamed

    given = {name: value for name, value in said.items() if value is not None}
    given["chip"] = Check(given["chip"])
    on = given.setdefault("on", _today(rules))
    shown = None if document in rules.documents else _document(rules, document)
    if shown is not None and said["born"] is None and (born := shown.born_on(on).latest()) is not None:
        given["born"] = born
    kind = document if shown is None else (rules.kind_of(shown) or next(iter(rules.documents)))
    somebody = Specimen(document=kind, **given)
    for problem in misnamed(rules, somebody):
        raise click.UsageError(problem)
    evidence = evidence_of(somebody, rules)
    if shown is None:
        return evidence
    if somebody.document_expires is not None:
        shown = replace(shown, expiry=somebody.document_expires.strftime("%y%m%d"))
    return replace(evidence, document=shown)


def _document(rules: "Rules", name: str) -> "Document":
    """The document whose machine readable zone is in a file. Raises `UsageError`."""
    from gated.icao.mrz import MrzError, parse

    try:
        with click.open_file(name, "rb") as file:
            text = file.read(MRZ_BYTES_MAX).decode("utf-8-sig", errors="replace")
        return parse(text)
    except OSError as bad:
        kinds = ", ".join(rules.documents)
        why = (bad.strerror or "cannot be read").lower()
        raise click.UsageError(f"--document {name}: no kind of this policy ({kinds}), and as a file: {why}") from None
    except MrzError as wrong:
        raise click.UsageError(f"--document {name}: {wrong}") from None


# -- cases and diff ------------------------------------------------------------------------------------------------


@policy.command(
    epilog="""\b
    Examples:
      gated policy cases --out november.cases
      gated policy cases --journal lane.db --key journal.key --out november.cases
    """
)
@click.option("--journal", type=READABLE, help="A lane.db. Left out: this lane's.")
@click.option("--key", type=FILE, help="The journal's key. Left out: the one in [keys] journal.")
@click.option("--out", required=True, type=FILE, help="A new file, for the cases; a line each, in JSON.")
@command_here
def cases(here: Here, journal: Path | None, key: Path | None, out: Path) -> None:
    """Every verdict that a rule made in a lane's journal, as a case for `gated policy diff`.

    A case is what the rules read and nothing else: no name, no number of a document, no birth date (the age), no score
    of a face or finger. It does say of somebody unnamed whether they are sought: OUT is readable by its owner alone.
    """
    from gated.cli.policycases import Journal, line_of
    from gated.daemon.plan import key_of, read_key
    from gated.store.sql import StoreError

    secret = key_of(here.config, "journal") if key is None else read_key(key, "journal")
    found = Journal(journal or here.config.store.dir / "lane.db", secret)
    try:
        with _new(out) as file:
            for case in found.cases():
                file.write(line_of(case))
    except StoreError as bad:
        raise click.ClickException(str(bad)) from None
    answer = {"cases": found.verdicts, "not_by_rule": found.not_by_rule, "other_edition": found.other_edition}
    text = f"{found.verdicts:,} cases in {out}; left out: {found.not_by_rule:,} verdicts that no rule made"
    if found.other_edition:
        text += f", {found.other_edition:,} that another edition of the lane wrote"
    here.say(answer, text)


@contextmanager
def _new(path: Path) -> Iterator[IO[bytes]]:
    """A file that was not there, for its owner alone; whole or not at all."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise click.ClickException(f"{path} exists: name another file") from None
    except OSError as bad:
        raise click.ClickException(f"{path}: {(bad.strerror or str(bad)).lower()}") from None
    try:
        with open(descriptor, "wb") as file:
            yield file
    except OSError as bad:
        path.unlink()
        raise click.ClickException(f"{path}: {(bad.strerror or str(bad)).lower()}") from None
    except BaseException:
        path.unlink()
        raise


@policy.command(
    epilog="""\b
    Examples:
      gated policy diff config/policy/tw.toml new.toml --cases november.cases
      gated policy diff old.toml new.toml --cases november.cases --json | jq '.changes[].cases'
    """
)
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option("--cases", "cases_file", required=True, type=READABLE, help="Of `gated policy cases`.")
@command_here
def diff(here: Here, a: Path, b: Path, cases_file: Path) -> None:
    """Who of CASES would be treated differently under policy B than under policy A: how many, why, and which lines.

    A case holds what the lane asked for then. Where B demands proof that was not asked for (a finger, say), it
    counts as not given; who was refused before the entry then and would be let in now is let_in.
    Exit code 0: nobody differs. 1: somebody does.
    """
    from gated.cli.policycases import CasesError, compare
    from gated.cli.policyviews import difference_tree, difference_view
    from gated.policyfile import load_rules

    one, other = load_rules(a), load_rules(b)
    try:
        found = compare(one, other, cases_file)
    except (CasesError, OSError) as bad:
        raise click.UsageError(f"--cases {bad}") from None
    if here.as_json:
        here.say(difference_tree(one, other, found), "")
    else:
        here.console.print(difference_view(one, other, found))
    if found.changes:
        raise SystemExit(1)
