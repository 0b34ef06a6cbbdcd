"""Writes the table of facts in docs/records.md from `gated.wire.facts`; `--check` only compares."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from gated.wire.schema import FactNote, describe  # noqa: E402

BEGIN = "<!-- facts: written by docs/facts_table.py -->\n"
END = "<!-- end of facts -->\n"


def section(note: FactNote) -> str:
    """One fact: what it is, its stream, its fields; **bold** is personal and travels sealed."""
    stream = (
        f"stream `{note.stream}`"
        if note.stream
        else "in any stream"
        if note.kind in ("RecordsDropped", "StreamContinued")
        else "in other facts"
    )
    names = (f"**{f.name}**" if f.personal else f.name for f in note.fields)
    fields = ", ".join(f"{name} `{f.written}`" for name, f in zip(names, note.fields, strict=True))
    return f"* `{note.kind}` ({stream}): {note.about}\n  Fields: {fields}.\n"


def table() -> str:
    """All facts as Markdown."""
    return "".join(section(note) for note in describe())


def main() -> int:
    """0: the page is as the code; 1: it was not (and with `--check` still is not)."""
    page = HERE / "records.md"
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = before + BEGIN + table() + END + after
    if wanted == text:
        return 0
    if "--check" not in sys.argv[1:]:
        page.write_text(wanted)
        return 0
    print("docs/records.md is not what gated/wire/facts.py says: run make docs", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
