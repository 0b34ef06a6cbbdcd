"""Interface only, until the helper who owns gated/store puts the real one here (he may overwrite all of it)."""

from collections.abc import Mapping
from pathlib import Path

from gated.wire import link


class Witness:
    def __init__(self, path: Path, *, journal_days: int, journal_rows_max: int, pass_s: float = 50.0) -> None:
        self.head: link.JournalHead | None = None
        self.findings: tuple[link.Finding, ...] = ()

    def look(self, mono: float) -> None: ...

    def gaps(self, acked: Mapping[str, int]) -> tuple[link.Gap, ...]:
        return ()

    def compare(self, anchor: link.JournalHead) -> None: ...

    def close(self) -> None: ...
