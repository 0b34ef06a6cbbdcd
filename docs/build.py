"""Draws what the documents draw from the code: `make docs`. `--check` only compares.

docs/policy.md is drawn by `policy_tables`, docs/metrics.md by `metrics_page`, config/grafana/ by `dashboards`,
docs/states.md here.

The state diagram is read from the table that runs (`gated.lane.machine`): every handler of a state's row is followed
through the functions that it calls, to the states that these can enter. What a handler enters only under a condition
is drawn too; the condition stands in the handler.
"""

import argparse
import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import policy_tables  # noqa: E402

from docs import dashboards, metrics_page  # noqa: E402
from gated.lane import moves  # noqa: E402
from gated.lane.core import DWELL, State  # noqa: E402
from gated.lane.events import Event  # noqa: E402
from gated.lane.machine import DEFAULT, ROWS  # noqa: E402

Handler = Callable[..., Any]
REST = "rest"


def _tree(function: Handler) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def _calls(function: Handler) -> Iterator[Handler]:
    """The functions of gated.lane that `function` calls or was made from."""
    for cell in getattr(function, "__closure__", None) or ():
        if inspect.isfunction(cell.cell_contents):
            yield cell.cell_contents
    for node in ast.walk(_tree(function)):
        if isinstance(node, ast.Name):
            found = function.__globals__.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = function.__globals__.get(node.value.id)
            found = getattr(owner, node.attr, None) if isinstance(owner, ModuleType) else None
        else:
            continue
        if inspect.isfunction(found) and found.__module__.startswith("gated.lane."):
            yield found


@functools.cache
def targets(function: Handler) -> frozenset[str]:
    """The names of the states that `function` can enter; `rest`: wherever a lane without passenger belongs."""
    seen: set[Handler] = set()
    found: set[str] = set()
    todo = [function]
    while todo:
        each = todo.pop()
        if each is moves.rest:
            found.add(REST)
        elif each not in seen:
            seen.add(each)
            todo += _calls(each)
            found |= _entered(each)
    return frozenset(found)


def _entered(function: Handler) -> set[str]:
    return {
        State[node.args[0].attr].value
        for node in ast.walk(_tree(function))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "goto"
        and isinstance(node.args[0], ast.Attribute)
    }


def _name(handler: Handler) -> str:
    """`module.function`, of the handler that a wrapper was made from."""
    inner = [cell.cell_contents for cell in handler.__closure__ or () if inspect.isfunction(cell.cell_contents)]
    return _name(inner[0]) if inner else f"{handler.__module__.rsplit('.', 1)[1]}.{handler.__name__}"


def _said(handler: Handler) -> str:
    return (inspect.getdoc(handler) or "").split("\n")[0].replace("|", "\\|")


def _row(row: dict[type[Event], Handler]) -> Iterator[str]:
    for event, handler in row.items():
        to = ", ".join(sorted(targets(handler))) or "-"
        yield f"| {event.__name__} | `{_name(handler)}` | {to} | {_said(handler)} |"


def states() -> str:
    """docs/states.md."""
    rest = ", ".join(sorted(_entered(moves.rest) | {"recording (a stranger is let out)"}))
    lines = [
        "# States",
        "",
        "Made by `make docs` from the table that runs, `gated/lane/machine.py`: do not edit. Arrows are what a state's",
        f"own row can do; `{REST}` is wherever a lane without passenger belongs by what is observed: {rest}.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> starting",
    ]
    for state, row in ROWS.items():
        arrows: dict[str, list[str]] = {}
        for event, handler in row.items():
            if DEFAULT[event] is not handler:
                for target in targets(handler) - {state.value}:
                    arrows.setdefault(target, []).append(event.__name__)
        lines += [f"    {state.value} --> {to}: {', '.join(events)}" for to, events in sorted(arrows.items())]
    busy = {event: handler for event, handler in DEFAULT.items() if handler is not moves.nothing}
    lines += ["```", "", "## In any state, unless its own row says otherwise", "", *_HEAD, *_row(busy)]
    lines += ["", f"The other {len(DEFAULT) - len(busy)} events are observed (`moves.nothing`), and nothing follows."]
    for state, row in ROWS.items():
        dwell = f"lasts at most `{DWELL[state]}`" if DWELL[state] else "lasts until something happens"
        lines += ["", f"## {state.value}", "", f"It {dwell}.", "", *_HEAD, *_row(row)]
    return "\n".join(lines) + "\n"


_HEAD = ("| event | handler | can enter | |", "|---|---|---|---|")
PAGES: dict[str, Callable[[], str]] = {
    "metrics.md": metrics_page.page,
    "policy.md": policy_tables.page,
    "states.md": states,
    **{
        f"../config/grafana/{name}": functools.partial(str, text)  # made once: a board is not quick
        for name, text in dashboards.files().items()
    },
}


def main() -> int:
    """Exit code 1 where `--check` finds a page that is not what the code says."""
    parser = argparse.ArgumentParser(prog="make docs", description="Draws pages of docs/ from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; say which pages are stale")
    check = parser.parse_args().check
    stale = []
    for name, make in PAGES.items():
        page, text = HERE / name, make()
        if not page.exists() or page.read_text() != text:
            stale.append(name)
            if not check:
                page.write_text(text)
    sys.stdout.write(f"{'stale' if check else 'written'}: {', '.join(stale) or 'nothing'}\n")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
