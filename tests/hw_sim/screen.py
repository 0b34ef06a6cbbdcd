"""What a person sees of a demonstration: the lane live and the passengers as they come; a table at the end."""

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gated.cli.drawing import view
from gated.control import Client, Refused, Unavailable
from gated.control_views import Snapshot

LINES = 12
WORDS = {"added": "comes", "removed": "has gone"}


class Screen:
    """`quiet`: nothing at all goes to standard output, and progress to standard error where that is a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=quiet, quiet=quiet and not sys.stderr.isatty())
        self._lines: deque[Text] = deque(maxlen=LINES)
        self._snapshot: Snapshot | None = None
        self._seen_mono = 0.0
        self._live: Live | None = None
        self._began = time.time()

    def say(self, line: str) -> None:
        """One line of progress."""
        self._add(Text(line, style="dim"))

    def print(self, what: Any) -> None:
        """To standard output, at the end."""
        Console().print(what)

    def close(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    @contextlib.contextmanager
    def live(self, control: Path) -> Iterator[None]:
        """Show the lane while the block lasts, on a terminal; else lines alone."""
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(control, ended), daemon=True)
        watcher.start()
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=5)
            self._live.start()
        try:
            yield
        finally:
            ended.set()
            self.close()

    def happened(self, event: dict[str, Any]) -> None:
        """One line of the simulator."""
        match event:
            case {"what": "crossed", "body": body, "door": door, "inward": inward}:
                way = "goes in through" if inward else "goes out through"
                self._tell(event, f"{body} {way} {door.upper()}", "green" if not inward and door == "b" else "")
            case {"what": "added" | "removed" as what, "body": body}:
                self._tell(event, f"{body} {WORDS[what]}", "dim")
            case {"what": "shut_in", "body": body}:
                self._tell(event, f"A shuts behind {body}", "dim")
            case {"what": "left" | "stage"}:
                pass
            case {"what": "call", "ticket": ticket}:
                self._tell(event, f"an officer is called for ticket {ticket}", "yellow")
            case {"what": "alarm", "code": code}:
                self._tell(event, f"alarm: {code}", "red")
            case {"what": "order", "action": action, "ticket": ticket, "answer": answer}:
                self._tell(event, f"officer: {action} ticket {ticket}: {answer}", "yellow")
            case {"what": what}:
                self._tell(event, str(what), "dim")

    def _tell(self, event: dict[str, Any], words: str, style: str) -> None:
        self._add(Text(f"{event['at'] - self._began:7.1f} s  {words}", style=style))

    def _add(self, line: Text) -> None:
        if self._live is not None:
            self._lines.append(line)
        else:
            self._console.print(line)

    def _watch(self, control: Path, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                for answer in Client(control).watch():
                    self._snapshot, self._seen_mono = answer, time.monotonic()  # type: ignore[assignment]
                    if ended.is_set():
                        return
            except (Unavailable, Refused):
                ended.wait(0.5)

    def _draw(self) -> Group:
        passengers = Panel(Group(*self._lines), title="the world", height=LINES + 2)
        if self._snapshot is None:
            return Group(Text("waiting for the lane ..."), passengers)
        since = self._snapshot["since_s"] + time.monotonic() - self._seen_mono
        return Group(view(self._snapshot, since), passengers)


def table(result: dict[str, Any], picture: Path) -> Group:
    """The end: what the physics monitor saw, and what it says of the lane."""
    shown = Table(title="by the physics monitor's truth", show_header=False)
    shown.add_column(style="dim")
    shown.add_column(justify="right")
    must_be_zero = ("wrong_grants", "records_lost", "records_invented", "records_twice", "doors_unsafe")
    for name, value in result.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            bad = name in must_be_zero and value
            shown.add_row(name.replace("_", " "), Text(f"{value:g}", style="bold red" if bad else ""))
    lines = [Text(line, style="yellow") for line in result["explanations"]]
    story = [story_table(result["story"])] if "story" in result else []
    story += [mix_table(result["mix"])] if "mix" in result else []
    verdict = Text("clean", style="bold green") if result["clean"] else Text("NOT CLEAN", style="bold red")
    return Group(shown, *lines, *story, verdict, Text(f"timeline: {picture}"))


def mix_table(rows: list[dict[str, Any]]) -> Table:
    """Category by category, out and in: the simulator's counts, and HQ's where they differ."""
    shown = Table(title="by category: who came and went through in body, as HQ's records have it", box=None)
    for name in ("category", "way", "came", "went", "granted", "referred"):
        shown.add_column(name, justify="left" if name in ("category", "way") else "right", no_wrap=True)
    shown.add_column("why not", overflow="fold")
    for row in rows:
        came, went = _beside(row["came"], row["hq_tickets"]), _beside(row["crossed"], row["hq_crossed"])
        why = ", ".join(f"{reason} {n}" if n > 1 else reason for reason, n in row["reasons"].items())
        told = (str(row["hq_granted"]), str(row["hq_referred"]), why)
        shown.add_row(row["category"], row["direction"], came, went, *told)
    return shown


def _beside(seen: int, told: int) -> Text:
    return Text(str(seen)) if seen == told else Text(f"{seen}, HQ {told}", style="bold red")


def story_table(scenes: list[dict[str, Any]]) -> Table:
    """Scene by scene: what HQ did, the seconds until the lane knew, and what became of who came then."""
    title = "seconds: of the command at HQ; from its beginning until the lane knew"
    shown = Table(title=title, box=None, title_justify="left")
    for name in ("", "", "command", "known", "limit", "", ""):
        shown.add_column(name, justify="right" if name else "left")
    for each in sorted(scenes, key=lambda scene: int(scene["number"])):
        seconds = ("" if each[name] is None else f"{each[name]:.1f}" for name in ("command_s", "seconds", "limit_s"))
        right = Text("right", style="green") if each["right"] else Text("WRONG", style="bold red")
        shown.add_row(str(each["number"]), each["what"], *seconds, each["decision"] or "none", right)
    return shown
