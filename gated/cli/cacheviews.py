"""How `gated cache` shows things to people: ages in words, tables, a bar that moves."""

import sys
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gated.cli.here import Here

ADVICE = {
    "unreachable": "is the network up? gated check looks at the way to HQ",
    "frozen": "HQ's signatures have run out: HQ must sign anew; is the lane's clock right?",
    "clock": "set the lane's clock (timedatectl)",
    "no_key": "gated cache key, then gated-hq lane add at HQ",
    "disk_full": "free space; what is here keeps serving meanwhile",
    "wrong_schema": "install the same edition here and at HQ",
    "differs": "gated cache verify --repair",
}
"""Where the sync itself says nothing better."""
MEDDLING = "if it comes again, somebody may be meddling: tell HQ"


def age(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `2 days`."""
    for size, name in ((86400 * 2, "days"), (3600 * 2, "h"), (120, "min")):
        if abs(seconds) >= size:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[name]:.0f} {name}"
    return f"{seconds:.0f} s"


def since(text: str | None, now: datetime) -> str:
    """How long ago an ISO time was."""
    if not text or text.startswith("1970"):
        return "never"
    return age((now - datetime.fromisoformat(text)).total_seconds())


def size(count: int) -> str:
    """Bytes as people say them."""
    amount, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "B" or amount >= 100 else f"{amount:.1f} {units[0]}"


def status_view(report: dict[str, Any], now: datetime, away: str) -> RenderableType:
    """`gated cache status`."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("partition", "state", "as of", "age", "rows", "generation", "epoch", "segment"):
        table.add_column(head, justify="right" if head in ("rows", "generation", "epoch", "segment") else "left")
    for name, part in report["partitions"].items():
        lane = report["lane"].get(name, {})
        if not part["generation"]:
            table.add_row(name, lane.get("state", "none"), "never", "", "", "", "", "")
            continue
        as_of = str(part["checked"])[:19].replace("T", " ") + "Z"
        numbers = (f"{part['rows']:,}", str(part["generation"]), str(part["epoch"]), str(part["serial"]))
        table.add_row(name, lane.get("state", "?"), as_of, since(part["checked"], now), *numbers)
    lines: list[RenderableType] = [table]
    if away:
        lines.append(Text(away, style="yellow"))
    if "lane_says" in report:
        lines.append(Text(f"the lane's own word on it is not to be had: {report['lane_says']}", style="yellow"))
    lines += [Text(line, style="red") for line in troubles(report, now)]
    lines += [Text(f"{d['what']}  {share(d['done'], d['of'])}") for d in _doing(report)]
    if "metadata" in report:
        asked = since(report["metadata"]["asked"], now)
        until = report["metadata"]["expires"]
        lines.append(Text(f"HQ asked {asked} ago; signed until {until[:19]}Z" if until else "HQ was not asked yet"))
    if report.get("refused"):
        counts = ", ".join(f"{why} {count}" for why, count in report["refused"].items())
        lines.append(Text(f"refused since the sync began: {counts}"))
    signed = report.get("files", {}).get("signed", {})
    lines += [Text(f"{path}  {size(f['bytes'])}  {f['sha256'][:16]}") for path, f in signed.items()]
    return Group(*lines)


def _doing(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [part["doing"] for part in report["partitions"].values() if part.get("doing")]


def share(done: int, of: int) -> str:
    """How far something has come."""
    return f"{100 * done / of:.0f} %" if of > 0 else f"{done:,}"


def troubles(report: dict[str, Any], now: datetime) -> list[str]:
    """What is wrong, by name, since when, and what to do."""
    named = {**report["partitions"], "metadata": report.get("metadata", {}), "files": report.get("files", {})}
    lines = []
    for name, part in named.items():
        if trouble := part.get("trouble"):
            why = trouble["why"]
            advice = trouble["advice"] or ADVICE.get(why, MEDDLING)
            for_how_long = f" for {since(trouble['since'], now)}" if "since" in trouble else ""
            lines.append(f"{name}: {why}{for_how_long}: {trouble['what']}: {advice}")
    return lines


def ended(report: dict[str, Any]) -> str:
    """The last line of `gated cache sync`."""
    from datetime import UTC

    wrong = troubles(report, datetime.now(UTC))
    at = ", ".join(f"{name} at segment {part['serial']}" for name, part in report["partitions"].items())
    return "\n".join(wrong) if wrong else f"current: {at}"


def show_view(files: list[dict[str, Any]]) -> RenderableType:
    """`gated cache show`."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("file", "what", "size", "rows", "epoch", "segment", "as of"):
        table.add_column(head, justify="right" if head in ("size", "rows", "epoch", "segment") else "left")
    for each in files:
        checked = str(each.get("checked", ""))[:19].replace("T", " ")
        more = (f"{each['rows']:,}", str(each["epoch"]), str(each["serial"]), checked) if "rows" in each else ("",) * 4
        table.add_row(each["file"], each["what"], size(each["bytes"]), *more)
    bad = [Text(f"{each['file']}: {each['bad']}", style="red") for each in files if each.get("bad")]
    return Group(table if files else Text("the cache is empty: gated cache status says why"), *bad)


def audits_view(audits: list[dict[str, Any]]) -> RenderableType:
    """`gated cache verify`."""
    lines = []
    for each in audits:
        if each["why"]:
            lines.append(Text(f"{each['partition']}: {each['why']}", style="red"))
        elif not each["compared"]:
            lines.append(Text(f"{each['partition']}: not compared: {each['note']}", style="yellow"))
        elif each["differing"]:
            done = each["note"] or (f"{each['repaired']} rows put right" if each["repaired"] else "nothing was changed")
            text = f"{each['partition']}: {len(each['differing'])} of {each['compared']} buckets differ; {done}"
            lines.append(Text(text, style="red"))
        else:
            text = f"{each['partition']}: all {each['compared']} buckets that could be compared are HQ's"
            lines.append(Text(f"{text}, as of segment {each['serial']}"))
    return Group(*lines) if lines else Text("the sync ended before the comparison did", style="red")


class Bar:
    """Progress: a bar on a terminal, a line for every step in a pipe, nothing with --json."""

    def __init__(self, here: Here) -> None:
        self._console = here.console
        self._silent = here.as_json
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""

    def __enter__(self) -> "Bar":
        if not self._silent and sys.stdout.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
            self._bar = Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True)
            self._bar.start()
        return self

    def at(self, what: str, done: int, of: int) -> None:
        """`done` of `of` of something."""
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(what, total=None)
            self._bar.update(self._task, description=what, completed=done, total=of or None)
        elif not self._silent and what != self._what:
            self._console.print(f"{what}  {share(done, of)}")
        self._what = what

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
