"""The witness: reads a lane's journal and outbox again and again, and says where somebody was at them. No keys.

It stands in the uplink's process, which the lane's process cannot be: whoever replaces one file or one program is seen
by the other, and what was told to HQ cannot be taken back. docs/records.md, "Who tampers with a lane", has its limits.
"""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from sqlite3 import Connection
from time import perf_counter
from typing import Final

from gated.store.acks import AckedHeads
from gated.store.db import check_edition
from gated.store.sql import ReadOnly, StoreError
from gated.store.trails import JournalTrail, OutboxTrail
from gated.wire import link

LOOK_S_MAX: Final = 0.02
"""A look takes no longer than this, but for the last few rows."""
CHUNK_ROWS: Final = 256
OUTBOX_ROWS: Final = 64
"""Of the outbox, in every look besides: what HQ has acknowledged lies there for a minute, and a pass takes as long."""
BUSY_MS: Final = 50
"""The uplink has other things to do than to wait for a lock."""


class Witness:
    """Call `look` about five times a second. One thread at a time; raises nothing for what the file is like.

    `journal_days`, `journal_rows_max`: as the lane has them, which trims by them. `pass_s`: how long one reading of the
    whole database should take; `lasted_s` is how long the last one took: longer, where there is more than 20 ms of
    work in every look. `acked`: the uplink's own database, which is mended where somebody was at it."""

    def __init__(
        self, path: Path, *, journal_days: int, journal_rows_max: int, pass_s: float = 50.0,
        acked: AckedHeads | None = None,
    ) -> None:  # fmt: skip
        self._file, self._acked = ReadOnly(path, self._known), acked
        self._days, self._rows_max, self._pass_s = journal_days, journal_rows_max, pass_s
        self._generation: str | None = None
        self._left: set[str] = set()
        """Generations that were followed by another one."""
        self._findings: dict[tuple[str, str], link.Finding] = {}
        self._journal: JournalTrail | None = None
        self._outbox: OutboxTrail | None = None
        self._anchor: link.JournalHead | None = None
        self._looked_mono: float | None = None
        self._began_mono = 0.0
        self._in_journal = True
        self.passes = 0
        """Complete readings of this generation."""
        self.lasted_s: float | None = None
        """How long the last one took."""
        self.trouble = ""
        """Why the last look saw nothing: the code of a `StoreError`."""

    def _known(self, connection: Connection) -> None:
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        check_edition(self._file.path, connection)

    @property
    def head(self) -> link.JournalHead | None:
        """How far the journal has come; None while that is not known, or no row of it has a link."""
        return None if self._journal is None or self.trouble else self._journal.head

    @property
    def findings(self) -> tuple[link.Finding, ...]:
        """What does not fit, each once, until the process ends; the first 16."""
        return tuple(self._findings.values())

    def look(self, mono: float) -> None:
        """Look at all ends, and read the next rows."""
        try:
            if self._acked is not None and self._acked.mended():
                self._found("acked_altered", "uplink.db was changed or taken away; it is as it was again")
            with self._file.connection() as connection:
                connection.execute("BEGIN")
                try:
                    self._look(connection, mono)
                finally:
                    connection.execute("ROLLBACK")
            self.trouble = ""
        except StoreError as error:
            self.trouble = error.why

    def _look(self, connection: Connection, mono: float) -> None:
        stop = perf_counter() + LOOK_S_MAX
        row = connection.execute("SELECT value FROM notes WHERE name = 'generation'").fetchone()
        generation = "" if row is None else row[0]
        if generation != self._generation or self._journal is None or self._outbox is None:
            self._start(generation, mono)
        journal, outbox = self._journal, self._outbox
        assert journal is not None and outbox is not None
        journal.anchor, self._anchor = self._anchor, None
        journal.glance(connection)
        outbox.glance(connection)
        if outbox.step(connection, OUTBOX_ROWS) < OUTBOX_ROWS and not self._in_journal:
            self._passed(mono)
        passed_s = mono - self._looked_mono if self._looked_mono is not None else 0.0
        self._looked_mono = mono
        due = ceil((journal.rows + outbox.rows) * passed_s / self._pass_s) + 1
        while due > 0 and perf_counter() < stop:
            count = min(due, CHUNK_ROWS)
            due -= count
            trail = journal if self._in_journal else outbox
            if trail.step(connection, count) < count:
                if not self._in_journal:
                    self._passed(mono)
                    break
                self._in_journal = False

    def _passed(self, mono: float) -> None:
        self._in_journal = True
        self.passes += 1
        self.lasted_s, self._began_mono = mono - self._began_mono, mono

    def _start(self, generation: str, mono: float) -> None:
        if self._generation is not None:
            self._left.add(self._generation)
        if generation in self._left:
            self._found("database_back", "an earlier database of this lane is in place again")
        self._generation = generation
        self._journal = JournalTrail(generation, self._days, self._rows_max, self._found)
        self._outbox = OutboxTrail(self._found)
        self._in_journal, self.passes, self.lasted_s, self._began_mono = True, 0, None, mono

    def _found(self, code: str, detail: str) -> None:
        if len(self._findings) < link.FINDINGS_MAX:
            self._findings.setdefault((code, detail), link.Finding(code, detail))

    def gaps(self, acked: Mapping[str, int]) -> tuple[link.Gap, ...]:
        """Records above what HQ acknowledged that are not there, as of the last look. Looks at no file.

        `acked`: stream_id -> number, as it stands now, of every stream the caller knows; others are left out. Where HQ
        went back to an older copy, or uplink.db was lost and HQ has not answered yet, these are only the records that
        were acknowledged once: a `Finding` comes of them only where they were not."""
        return () if self._outbox is None else self._outbox.gaps(acked)

    def compare(self, anchor: link.JournalHead) -> None:
        """HQ's newest head of an earlier session: at the next look its row must be there as HQ was told of it."""
        self._anchor = anchor

    def close(self) -> None:
        """Idempotent."""
        self._file.close()
