"""The picture that a demonstration ends with: who was where when, what the leaves did, what the lane decided."""

from pathlib import Path
from typing import Any

GREEN, RED, AMBER, GREY, BLUE = "#2e8b57", "#c0392b", "#d68910", "#c8ccd0", "#4a78b0"


def draw(trace: dict[str, Any], result: dict[str, Any], path: Path) -> None:
    """Write a PNG. `trace` and `result` are what the simulator wrote."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(attempt["name"] for attempt in trace["attempts"]))
    start = min([*trace["came"].values(), *(a["at"] for a in trace["attempts"])], default=0.0)
    height = 1.6 + 0.28 * (len(names) + 2)
    figure, axes = pyplot.subplots(figsize=(13, min(height, 60)), layout="constrained")
    for row, name in enumerate(names):
        _passenger(axes, trace, name, row, start)
    for row, door in enumerate(("a", "b"), start=len(names)):
        _leaf(axes, trace, door, row, start)
    labels = [f"{name}  {_note(trace, name)}" for name in names]
    axes.set_yticks(range(len(names) + 2), [*labels, "leaf A open", "leaf B open"], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(
        f"{result['granted']} granted, {result['referred']} referred of {result['passengers']};"
        f" wrong grants {result['wrong_grants']}, wrong referrals {result['wrong_referrals']},"
        f" records lost {result['records_lost']}, doors unsafe {result['doors_unsafe']}",
        fontsize=10,
    )
    patches = matplotlib.patches
    legend = (
        (GREY, "in the world"),
        (BLUE, "between the leaves"),
        (GREEN, "granted"),
        (RED, "referred"),
        (AMBER, "document shown"),
    )
    axes.legend(
        handles=[patches.Patch(color=colour, label=label) for colour, label in legend],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.9 / height - 0.03),
        ncol=len(legend),
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _note(trace: dict[str, Any], name: str) -> str:
    return str([attempt["note"] for attempt in trace["attempts"] if attempt["name"] == name][-1])


def _passenger(axes: Any, trace: dict[str, Any], name: str, row: int, start: float) -> None:
    came, went = trace["came"].get(name, start), trace["went"].get(name)
    if went is not None:
        axes.barh(row, went - came, left=came - start, height=0.28, color=GREY)
    inside: float | None = None
    for at, body, _, inward in trace["crossed"]:
        if body == name and inward:
            inside = at
        elif body == name and inside is not None:
            axes.barh(row, at - inside, left=inside - start, height=0.5, color=BLUE)
            inside = None
    for attempt in (each for each in trace["attempts"] if each["name"] == name):
        axes.plot(attempt["at"] - start, row, marker="|", color=AMBER, markersize=10, markeredgewidth=2)
    for ticket in trace["tickets"]:
        if ticket["recorded"] is not None and ticket["name"] == name:
            good = ticket["decision"] == "grant"
            axes.plot(ticket["recorded"] - start, row, marker="o", color=GREEN if good else RED, markersize=6)


def _leaf(axes: Any, trace: dict[str, Any], door: str, row: int, start: float) -> None:
    opened: float | None = None
    for at, shut in trace["leaves"].get(door, []):
        if not shut and opened is None:
            opened = at
        elif shut and opened is not None:
            axes.barh(row, at - opened, left=opened - start, height=0.5, color="#7f8c8d")
            opened = None
