"""The lane drawn in plain characters, and its state in words: what `status` and `watch` have in common."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gated.control_views import DoorView, PolicyView, Snapshot
from gated.guidance.prompts import load

if TYPE_CHECKING:
    from rich.console import RenderableType

INSIDE = 23
SIDE = 11
ALARMS_SHOWN = 8
"""The newest first."""


def leaf(door: DoorView) -> str:
    """`|` shut, `/` open, `?` unknown."""
    return "?" if door["open"] is None else "/" if door["open"] else "|"


def leaf_words(name: str, door: DoorView) -> str:
    """For instance `A open (asked)`, `B shut`."""
    state = "unknown" if door["open"] is None else "open" if door["open"] else "shut"
    return f"{name} {state}{' (asked)' if door['requested'] else ''}"


@functools.cache
def _english() -> Mapping[str, str]:
    return load()["en"].prompts


def prompt_words(code: str) -> str:
    """The prompt's code, and what it says to the passenger in English where this program knows it."""
    words = _english().get(code)
    return f"{code}: {words}" if words else code or "none"


def advice_words(code: str) -> str:
    """An advice as the passenger is told it, in English; the code where this program does not know it."""
    return _english().get(code, code)


def who(snapshot: Snapshot) -> str:
    """Persons and things between the doors: `o` each, `+` for two or more, `[]` for a thing left."""
    persons = {0: "", 1: "o", 2: "o o+"}.get(snapshot["persons"], "?")
    return f"{persons}  []".strip() if snapshot["thing"] else persons


def lane_lines(snapshot: Snapshot) -> list[str]:
    """The lane from above, A at the left, B at the right; a `single` lane has the leaf B alone."""
    doors = snapshot["doors"]
    single = snapshot["topology"] == "single"
    left = " " if single else leaf(doors["A"])
    wall = "-" * SIDE + ("-" if single else "+") + "-" * INSIDE + "+" + "-" * SIDE
    both = snapshot["topology"] == "bidirectional"
    way = {"exit": "-->", "entry": "<--"}.get(snapshot["direction"]["way"], "<-->") if both else "-->"
    middle = f"{way:^{SIDE}}{left}{who(snapshot):^{INSIDE}}{leaf(doors['B'])}{way:^{SIDE}}"
    names = "" if single else leaf_words("A", doors["A"])
    below = f"{names:^{SIDE * 2 + 1}}"
    return [wall, middle, wall, f"{below}{' ' * (INSIDE - SIDE)}{leaf_words('B', doors['B']):^{SIDE * 2 + 1}}"]


def way_words(snapshot: Snapshot) -> str:
    """For instance `exit by schedule, from 2026-11-20T06:00:00+00:00 on both`."""
    way = snapshot["direction"]
    later = f", from {way['until']} on {way['then']}" if way["until"] else ""
    return f"{way['way']} by {way['by']}{later}"


def line(snapshot: Snapshot) -> str:
    """The lane in one line, for a log or a pipe."""
    parts = [snapshot["state"], *(leaf_words(name, door) for name, door in snapshot["doors"].items())]
    parts.append(f"inside {snapshot['persons']}{' and a thing' if snapshot['thing'] else ''}")
    if snapshot["ticket"] is not None:
        parts.append(f"ticket {snapshot['ticket']}")
    parts += [f"serving {way_words(snapshot)}"] if snapshot["topology"] == "bidirectional" else []
    parts += [f"service {snapshot['service']}"] if snapshot["service"] else []
    parts += [f"closed by {snapshot['closed_by']}"] if snapshot["closed_by"] else []
    parts += [f"fault {fault}" for fault in snapshot["faults"]]
    parts += [f"{name} {state}" for name, state in snapshot["devices"].items() if state == "lost"]
    return ", ".join(parts)


def view(snapshot: Snapshot, since_s: float | None = None) -> "RenderableType":
    """Everything on one screen. `since_s`: seconds in this state, where more have passed since the snapshot."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    since = snapshot["since_s"] if since_s is None else since_s
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()

    def row(name: str, text: str) -> None:
        table.add_row(name, text)

    deadline = snapshot["deadline_s"]
    limit = f", at the longest {deadline:.0f} s more" if deadline is not None else ""
    row("state", f"[bold]{escape(snapshot['state'])}[/] for {since:.0f} s{limit}")
    row("direction", escape(way_words(snapshot)))
    row("prompt", escape(prompt_words(snapshot["prompt"])))
    row("ticket", "none" if snapshot["ticket"] is None else str(snapshot["ticket"]))
    if snapshot["service"]:
        row("service", f"[yellow]{escape(snapshot['service'])}[/]")
    if snapshot["closed_by"]:
        row("closed by", f"[yellow]{escape(snapshot['closed_by'])}[/]")
    faults = ", ".join(map(escape, snapshot["faults"]))
    row("faults", f"[red]{faults}[/]" if faults else "[green]none[/]")
    row("devices", ", ".join(_device(name, state) for name, state in snapshot["devices"].items()))
    waiting = ", ".join(f"{escape(stream)} {pending}" for stream, pending in snapshot["outbox"].items())
    row(
        "uplink",
        f"{'[green]up[/]' if snapshot['uplink'] == 'up' else '[red]down[/]'}; to be sent: {waiting or 'nothing'}",
    )
    row("cache", ", ".join(_aged(name, state) for name, state in snapshot["cache"].items()) or "[red]none open[/]")
    row("policy", _policy(snapshot["policy"]))
    row("counters", ", ".join(f"{escape(name)} {count}" for name, count in snapshot["counters"].items()) or "none")
    for number, alarm in enumerate(reversed(snapshot["last_alarms"][-ALARMS_SHOWN:])):
        detail = f" ({escape(alarm['detail'])})" if alarm["detail"] else ""
        row("" if number else "last alarms", f"{escape(alarm['utc'])}  {escape(alarm['code'])}{detail}")
    title = Text(
        f"{snapshot['lane']}  {snapshot['site']}  {snapshot['topology']}  boot {snapshot['boot'][:8]}", style="bold"
    )
    return Group(title, Text(), Text("\n".join(lane_lines(snapshot))), Text(), table)


def _aged(partition: str, state: str) -> str:
    colour = {"fresh": "green", "late": "yellow"}.get(state, "red")
    return f"{partition} [{colour}]{state}[/]"


def _policy(policy: PolicyView) -> str:
    from rich.markup import escape

    parts = [f"{escape(policy['version'])}, edition {policy['edition']}"]
    parts += [f"from the next passenger on {escape(policy['next'])}"] if policy["next"] else []
    parts += [f"[red]refused: {escape(policy['refused'])}[/]"] if policy["refused"] else []
    parts += ["[red]not to be used: this lane had a newer one[/]"] if policy["lacks"] else []
    return "; ".join(parts)


def _device(name: str, state: str) -> str:
    colour = {"ready": "green", "lost": "red"}.get(state, "dim")
    return f"{name} [{colour}]{state}[/]"
