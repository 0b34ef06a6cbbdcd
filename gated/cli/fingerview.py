"""A test of the fingerprint reader as people see it: tally, bar of quality, table of placements, the last word."""

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gated.biometrics.fingerquality import ENROL_MIN
from gated.cli.drawing import advice_words
from gated.control_views import FingerLine, PrintView

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text


FLOORS = {
    floor: ", ".join(kind for kind, least in ENROL_MIN.items() if least == floor)
    for floor in sorted(set(ENROL_MIN.values()))
}
"""The quality from which HQ enrols a finger -> which fingers."""
SHOWN = 10
"""Placements in the table, the newest first."""
CELL = 2
"""Points of quality in a character of the bar."""

ENDED = {
    "time": "the time is over",
    "prints": "so many prints were asked for",
    "stopped": "stopped by hand",
    "service_over": "service mode ended",
    "reader_lost": "the reader was lost; the lane's log says why",
    "passenger": "a passenger's finger was compared",
    "stopping": "the lane stops",
    "failed": "the daemon failed; its log says more",
    "": "the daemon hung up",
}


@dataclass
class Tally:
    """What the lines said so far. `now`: the last one in words; `end`: why there are no more, a key of `ENDED`."""

    prints: list[PrintView] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    now: str = "asking the lane daemon ..."
    end: str = ""
    begun: bool = False

    def add(self, line: FingerLine) -> None:
        """One line of the daemon's."""
        self.begun, self.now = True, words(line)
        match line["what"]:
            case "finger":
                self.prints.append(line["print"])
            case "fault":
                self.faults[line["why"]] += 1
            case "end":
                self.end = line["why"]

    @property
    def usable(self) -> int:
        """Prints that the lane finds usable; where it judges none, those that came with a picture."""
        return sum(usable(seen) for seen in self.prints)

    @property
    def median(self) -> float | None:
        """Of the quality, where any was judged."""
        judged = [seen["quality"] for seen in self.prints if seen["quality"] is not None]
        return statistics.median(judged) if judged else None

    @property
    def slowest_ms(self) -> int | None:
        """From touch to judgement."""
        return max(map(took_ms, self.prints), default=None)

    def verdict(self) -> tuple[str, str]:
        """(code, sentence): faulty, no_finger, no_usable, unjudged, weak or good."""
        if self.end in ("reader_lost", "failed"):
            return (
                "faulty",
                "The reader or the daemon failed: gated check, and docs/fingerprint-readers.md for the code.",
            )
        if not self.prints:
            return "no_finger", "No finger was seen. Does the sensor light up while it waits? Was one laid on?"
        if not self.usable:
            advice = Counter(seen["advice"] for seen in self.prints if seen["advice"])
            todo = advice_words(advice.most_common(1)[0][0]) if advice else "Clean the glass, try other fingers."
            return "no_usable", f"No print is usable. {todo}"
        if self.median is None:
            return "unjudged", "Pictures come; this lane has nothing to judge them with."
        if 2 * self.usable < len(self.prints) or self.median < max(FLOORS):
            return "weak", "Weak. Clean the glass, try other fingers and other people's, look at the table above."
        return "good", "Good: the gate can compare such prints, and HQ would enrol such fingers."

    def summary(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "what": "summary",
            "prints": len(self.prints),
            "usable": self.usable,
            "usable_share": round(self.usable / len(self.prints), 3) if self.prints else None,
            "quality_median": self.median,
            "slowest_ms": self.slowest_ms,
            "faults": dict(self.faults),
            "why": self.end,
            "verdict": self.verdict()[0],
        }

    def lines(self) -> list[str]:
        """The summary for people; the last line is the verdict."""
        share = f" ({self.usable / len(self.prints):.0%})" if self.prints else ""
        faults = ", ".join(f"{code} {count}" for code, count in self.faults.items())
        return [
            f"prints   {len(self.prints)}, usable {self.usable}{share}",
            f"quality  {'not judged' if self.median is None else f'median {self.median:g}'}",
            f"slowest  {'-' if self.slowest_ms is None else f'{self.slowest_ms} ms'} from touch to judgement",
            f"faults   {faults or 'none'}",
            f"ended    {ENDED.get(self.end, self.end)}",
            self.verdict()[1],
        ]


def usable(seen: PrintView) -> bool:
    """See `Tally.usable`."""
    return bool(seen["usable"]) or (seen["usable"] is None and seen["width"] is not None)


def took_ms(seen: PrintView) -> int:
    """From touch to judgement."""
    return seen["picture_ms"] + (seen["look_ms"] or 0) + (seen["extract_ms"] or 0)


def words(line: FingerLine) -> str:
    """One line in words, for a log or a pipe."""
    match line["what"]:
        case "waiting":
            return "waiting for a finger"
        case "finger":
            return f"finger: {_print_words(line['print'])}"
        case "lifted":
            return "lifted"
        case "fault":
            return f"fault: {line['why']}"
        case "end":
            return f"end: {ENDED.get(line['why'], line['why'])}"


def _print_words(seen: PrintView) -> str:
    parts = ["not judged" if seen["quality"] is None else f"quality {seen['quality']}"]
    parts += [] if seen["usable"] is None else ["usable" if seen["usable"] else "not usable"]
    parts += [] if seen["minutiae"] is None else [f"{seen['minutiae']} minutiae"]
    parts += [_size(seen)]
    for name in ("picture", "look", "extract"):
        took = seen[f"{name}_ms"]  # type: ignore[literal-required]
        parts += [] if took is None else [f"{name} {took} ms"]
    parts += [advice_words(seen["advice"])] if seen["advice"] else []
    return ", ".join(parts)


def _size(seen: PrintView) -> str:
    return "no picture" if seen["width"] is None else f"{seen['width']} x {seen['height']} at {seen['ppi']:g} ppi"


# -- on a terminal ------------------------------------------------------------------------------------------------


def bar(quality: int | None) -> list[str]:
    """The quality as a bar from 0 to 100, and below it the floors of enrolment, each below its place."""
    filled = 0 if quality is None else round(quality / CELL)
    cells = ["#" if place < filled else "-" for place in range(100 // CELL)]
    marks = "".join(f"{f'^{floor}':<{10 // CELL}}" for floor in FLOORS)
    return ["".join(cells), " " * (min(FLOORS) // CELL) + marks]


def view(tally: Tally, left_s: float) -> "RenderableType":
    """Everything at once. `left_s`: how long the test still lasts."""
    from rich.console import Group
    from rich.text import Text

    last = tally.prints[-1] if tally.prints else None
    quality = last["quality"] if last else None
    strokes, marks = bar(quality)
    floors = ", ".join(f"{floor} {fingers}" for floor, fingers in FLOORS.items())
    return Group(
        Text.assemble((tally.now.split(":")[0], "bold"), f"   {max(0.0, left_s):.0f} s left"),
        Text(),
        Text.assemble("quality  ", (strokes, _colour(quality)), f"  {'-' if quality is None else quality}"),
        Text(f"         {marks}", "dim"),
        Text(f"         enrolled from {floors}", "dim"),
        Text.assemble("advice   ", _advice(last)),
        Text(),
        _table(tally.prints),
    )


def _colour(quality: int | None) -> str:
    return "red" if quality is None or quality < min(FLOORS) else "yellow" if quality < max(FLOORS) else "green"


def _advice(last: PrintView | None) -> "tuple[str, str] | Text":
    from rich.text import Text

    if last is None:
        return Text("Lay a finger on the reader, lift it, lay on another.")
    if last["advice"]:
        return advice_words(last["advice"]), "yellow"
    return ("none", "dim") if usable(last) else ("not usable", "red")


def _table(prints: list[PrintView]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("print", "quality", "usable", "minutiae", "picture", "picture ms", "look ms", "extract ms"):
        table.add_column(name, justify="left" if name in ("usable", "picture") else "right", no_wrap=True)
    for number, seen in list(enumerate(prints, 1))[: -SHOWN - 1 : -1]:
        fit = {None: "-", True: "yes", False: "[red]no[/]"}[seen["usable"]]
        counts = (seen["picture_ms"], seen["look_ms"], seen["extract_ms"])
        figures = ("-" if each is None else str(each) for each in counts)
        table.add_row(str(number), _number(seen["quality"]), fit, _number(seen["minutiae"]), _size(seen), *figures)
    return table


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
