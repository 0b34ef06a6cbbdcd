"""How `gated policy` shows things: tables for people, trees for programs."""

from dataclasses import fields, is_dataclass
from datetime import date, datetime, tzinfo
from enum import Enum
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gated.cli.policycases import LET_IN, PASS, Change, Difference
from gated.lane.evidence import Decision, Verdict
from gated.lane.explain import Step
from gated.lane.rules import DIRECTIONS, Rules, Where

NUMBERS_SHOWN = 8
COLOUR = {"routine": "dim", "attention": "yellow", "urgent": "red"}


def tree(value: Any) -> Any:
    """A part of a policy as JSON knows it: sets sorted, days and urgencies as text, no limit as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: tree(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(tree(each) for each in value)
    if isinstance(value, tuple):
        return [tree(each) for each in value]
    if isinstance(value, dict):
        return {str(name): tree(each) for name, each in value.items()}
    if isinstance(value, date) and not isinstance(value, datetime):
        return None if value in (date.min, date.max) else value.isoformat()
    return str(value) if isinstance(value, tzinfo) else value


def _table(*heads: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left", overflow="fold")
    return table


def _row(table: Table, *cells: str | Text, style: str = "") -> None:
    """Names come from a file: they are text, never markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)


# -- show ----------------------------------------------------------------------------------------------------------


def where(cell: Where, way: str, rules: Rules) -> str:
    """everywhere, -, or the places."""
    places = cell.at(way)
    return "everywhere" if places == rules.places else ", ".join(sorted(places)) or "-"


def _coloured(said: str) -> Text:
    return Text(said, style={"everywhere": "green", "-": "dim"}.get(said, "yellow"))


def matrix(rules: Rules) -> Table:
    """Category x document x direction -> places; what counts nowhere is left out."""
    table = _table("category", "document", *DIRECTIONS)
    for category, row in rules.matrix.items():
        shown = category
        for kind, cell in row.items():
            if cell.entry or cell.exit:
                _row(table, shown, kind, *(_coloured(where(cell, way, rules)) for way in DIRECTIONS))
                shown = ""
    return table


def categories(rules: Rules) -> Table:
    """What each category must show."""
    table = _table("category", "days", "proof", "permits on entry", "on exit", "may go without", "cache until")
    for name, each in rules.categories.items():
        proof = "face and finger" if each.finger else "face" + ", weak with finger" * each.weak_face
        since = "" if each.since == date.min else f"from {each.since}"
        until = "" if each.until == date.max else f"to {each.until}"
        _row(
            table,
            name,
            f"{since} {until}".strip() or "always",
            proof + ", or fingers alone" * each.fingers_alone,
            ", ".join(sorted(each.entry_permits)) or "-",
            ", ".join(sorted(each.exit_permits | ({each.stay} if each.stay else set()))) or "-",
            ", ".join(sorted(each.may_miss)) or "-",
            each.cache_until.value,
        )
    return table


def controls(rules: Rules) -> Table:
    """What each control of a holder or a document does."""
    table = _table("control", "on", "counts for", "at", "lifted by", "urgency")
    for name, each in rules.controls.items():
        ways, places = ", ".join(sorted(each.directions)), ", ".join(sorted(each.places)) or "everywhere"
        _row(table, name, "holder", ways, places, each.unless_permit or "-", _urgency(each.urgency.value))
    for name, urgency in rules.document_controls.items():
        _row(table, name, "document", ", ".join(sorted(DIRECTIONS)), "everywhere", "-", _urgency(urgency.value))
    return table


def _urgency(said: str) -> Text:
    return Text(said, style=COLOUR.get(said, ""))


def show_view(rules: Rules) -> RenderableType:
    """`gated policy show`."""
    size = _table("from", "age", "height")
    for each in rules.sizes:
        _row(size, str(each.since), f"{each.age_years_min} years", f"{each.height_cm_min} cm")
    head = Text(f"{rules.version}, edition {rules.edition}; days are those of {rules.zone}\n")
    parts: list[RenderableType] = [head]
    shown = ((size, ""), (matrix(rules), "nowhere else\n"), (categories(rules), ""), (controls(rules), ""))
    for table, after in shown:
        parts += [table, Text(after)]
    return Group(*parts[:-1])


# -- explain -------------------------------------------------------------------------------------------------------


def explained_tree(steps: tuple[Step, ...], verdict: Verdict) -> dict[str, Any]:
    """`gated policy explain --json`."""
    return {
        "policy": verdict.rules,
        "decision": verdict.decision.value,
        "reason": verdict.reason,
        "urgency": verdict.urgency or None,
        "notes": list(verdict.notes),
        "steps": [
            {
                "rule": each.rule,
                "requirements": list(each.requirements),
                "asked_before": "entry" if each.before_entry else "exit",
                "asked": each.asked,
                "kept": each.kept,
                "decides": each.decides,
                "why": each.why,
            }
            for each in steps
        ],
    }


def explained_view(steps: tuple[Step, ...], verdict: Verdict) -> RenderableType:
    """`gated policy explain`."""
    table = _table("", "rule", "keeps", "because")
    before = True
    for each in steps:
        if before and not each.before_entry:
            _row(table, "", Text("- the exit -", style="dim"), "", "")
        before = each.before_entry
        said, style = ("kept", "green") if each.kept else ("broken", "bold red" if each.decides else "yellow")
        style = style if each.asked or not each.kept else "dim"
        marked = said if each.asked else f"({said})"
        row = "" if each.asked else "dim"
        _row(table, Text(marked, style=style), each.rule, ", ".join(each.requirements), each.why, style=row)
    lines: list[RenderableType] = [table, Text()]
    if verdict.decision is Decision.GRANT:
        lines.append(Text("pass", style="bold green"))
    else:
        when = "before the entry" if next(each for each in steps if each.decides).before_entry else "before the exit"
        lines.append(Text(f"refer: {verdict.reason}, {when}; {verdict.urgency}", style="bold red"))
        lines.append(Text("(in brackets: rules that were not asked any more, and decide nothing)", style="dim"))
    if verdict.notes:
        lines.append(Text(f"noted: {', '.join(verdict.notes).replace('_', ' ')}", style="yellow"))
    return Group(*lines)


# -- diff ----------------------------------------------------------------------------------------------------------


def difference_tree(a: Rules, b: Rules, found: Difference) -> dict[str, Any]:
    """`gated policy diff --json`."""
    return {
        "a": {"version": a.version, "edition": a.edition, "outcomes": dict(found.outcomes[0])},
        "b": {"version": b.version, "edition": b.edition, "outcomes": dict(found.outcomes[1])},
        "cases": found.cases,
        "different": sum(map(len, found.changes.values())),
        "changes": [
            {"a": change.was, "b": change.becomes, "category": change.category or None, "count": len(of), "cases": of}
            for change, of in _ordered(found)
        ],
    }


def difference_view(a: Rules, b: Rules, found: Difference) -> RenderableType:
    """`gated policy diff`."""
    different = sum(map(len, found.changes.values()))
    count = f"{different:,} of {found.cases:,} cases come out otherwise under {b.version} than under {a.version}"
    if not different:
        return Text(count)
    table = _table("count", a.version, "", b.version, "category", "cases", right=("count",))
    for change, of in _ordered(found):
        more = f" and {len(of) - NUMBERS_SHOWN:,} more" if len(of) > NUMBERS_SHOWN else ""
        numbers = ", ".join(map(str, of[:NUMBERS_SHOWN])) + more
        was, becomes = (Text(each, style=_OUTCOME.get(each, "red")) for each in (change.was, change.becomes))
        _row(table, f"{len(of):,}", was, "->", becomes, change.category or "(not enrolled)", numbers)
    notes = []
    if any(LET_IN in (change.was, change.becomes) for change in found.changes):
        notes = [Text(f"{LET_IN}: refused before the entry then; what they would have shown inside nobody knows")]
    return Group(table, Text(), Text(count), *notes)


_OUTCOME = {PASS: "green", LET_IN: "yellow"}


def _ordered(found: Difference) -> list[tuple[Change, list[int]]]:
    return sorted(found.changes.items(), key=lambda item: (-len(item[1]), item[0].was, item[0].becomes))
