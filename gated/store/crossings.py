"""The lane's own recent crossings, which the cache does not know yet. In lane.db; keyed hashes, no names.

A look-up is the cache overlaid with these (DESIGN 4, `gated.lane.history`). A crossing is kept of the person and of the
document that was shown, as two rows of the same time: people of two documents are certified by each (O8), and of
somebody whom the cache does not know the document is all there is."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gated.store.db import LaneDb
from gated.store.sql import StoreCorrupt, in_words
from gated.wire.seal import derived, lookup_key

TRIM_ROWS: Final = 2000
"""So many are deleted at a time: after a month offline all at once would keep a passenger's record waiting."""
Parts = tuple[str, ...]
"""Whose: `rows.of_subject(17)` or `rows.of_document(issuer, number)`."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """One passage through this lane. `direction`: entry or exit. `utc`: of the record that settled it, to the
    microsecond: HQ knows the crossing by that."""

    direction: str
    utc: datetime
    whose: tuple[Parts, ...] = field(default=(), repr=False, compare=False)


class Crossings:
    """`key`: the journal's, 32 bytes.

    `await_disk`, `written` and `awaiting` are the loop's; everything else belongs to whoever has the database."""

    def __init__(self, db: LaneDb, key: bytes) -> None:
        self._db = db
        self._key = derived(key, "crossings")
        self._awaiting: list[Crossing] = []

    # -- what is not durable yet -------------------------------------------------------------------------------

    def await_disk(self, crossing: Crossing) -> None:
        """It happened, and is to be written: whoever asks before, or while the disk refuses, hears of it too."""
        self._awaiting.append(crossing)

    def written(self, crossing: Crossing) -> None:
        """It is durable, or given up."""
        self._awaiting = [each for each in self._awaiting if each is not crossing]

    def awaiting(self, parts: Parts) -> frozenset[Crossing]:
        """Of this person or document: to be asked before `of`, so that none is missed between the two."""
        return frozenset(each for each in self._awaiting if parts in each.whose)

    # -- what is -----------------------------------------------------------------------------------------------

    def add(self, crossing: Crossing) -> None:
        """Inside a transaction, with the record that settles the ticket."""
        assert self._db.in_transaction, "a crossing is added inside a transaction"
        stamp = _stamp(crossing.utc)
        for parts in crossing.whose:
            self._db.sql.execute(
                "INSERT INTO crossings VALUES (?, ?, ?)", (self._hash(parts), crossing.direction, stamp)
            )

    def of(self, *whose: Parts) -> tuple[frozenset[Crossing], ...]:
        """The crossings of each of these people and documents. Raises `StoreError`."""
        return tuple(frozenset(self._read(parts)) for parts in whose)

    def _read(self, parts: Parts) -> Iterable[Crossing]:
        with in_words(self._db.path):
            rows = self._db.sql.execute(
                "SELECT direction, utc FROM crossings WHERE person = ?", (self._hash(parts),)
            ).fetchall()
        try:
            return [Crossing(direction, datetime.fromisoformat(utc)) for direction, utc in rows]
        except ValueError as error:
            raise StoreCorrupt(
                "corrupt", self._db.path, "the time of a crossing cannot be read: look at the disk"
            ) from error

    def forget(self, before: datetime, rows_max: int) -> int:
        """Delete what happened before `before`, and all but the newest `rows_max` rows, at most `TRIM_ROWS` at a time;
        how many rows are gone.

        Inside a transaction. A wall clock that stepped back leaves crossings longer, never shorter."""
        assert self._db.in_transaction, "crossings are forgotten inside a transaction"
        run = self._db.sql.execute
        ends = (
            "SELECT (SELECT min(rowid) FROM crossings), (SELECT max(rowid) FROM crossings)"  # each by itself is a seek
        )
        first, last = run(ends).fetchone()
        if first is None:
            return 0
        fresh = run("SELECT rowid FROM crossings WHERE utc >= ? ORDER BY rowid LIMIT 1", (_stamp(before),)).fetchone()
        upto = max(last - rows_max, last if fresh is None else fresh[0] - 1)
        return run("DELETE FROM crossings WHERE rowid <= ?", (min(upto, first + TRIM_ROWS - 1),)).rowcount

    def _hash(self, parts: Parts) -> bytes:
        return lookup_key(self._key, *parts)


def _stamp(utc: datetime) -> str:
    return utc.astimezone(UTC).isoformat(timespec="microseconds")
