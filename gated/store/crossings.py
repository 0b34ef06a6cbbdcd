"""The lane's own recent crossings, which the cache does not know yet. In lane.db; keyed hashes, no names.

A look-up is the cache overlaid with these (DESIGN 4): entries left of a permit, entry before exit. They are forgotten
when a cache generation that was built after them is in use.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from gated.store.db import LaneDb
from gated.store.sql import in_words
from gated.wire.seal import derived, lookup_key


@dataclass(frozen=True, slots=True)
class Crossing:
    """One passage through this lane. `direction`: entry or exit."""

    direction: str
    utc: datetime


class Crossings:
    """`key`: the journal's, 32 bytes. A person is `parts`: `("subject", "17")`, `("document", issuer, number)` ..."""

    def __init__(self, db: LaneDb, key: bytes) -> None:
        self._db = db
        self._key = derived(key, "crossings")

    def add(self, direction: str, utc: datetime, *parts: str) -> None:
        """Inside a transaction, with the record that settles the ticket."""
        assert self._db.in_transaction, "a crossing is added inside a transaction"
        stamp = utc.astimezone(UTC).isoformat(timespec="microseconds")
        self._db.sql.execute(
            "INSERT INTO crossings VALUES (?, ?, ?)", (lookup_key(self._key, *parts), direction, stamp)
        )

    def of(self, *parts: str) -> tuple[Crossing, ...]:
        """This person's crossings, oldest first."""
        with in_words(self._db.path):
            rows = self._db.sql.execute(
                "SELECT direction, utc FROM crossings WHERE person = ? ORDER BY utc, rowid",
                (lookup_key(self._key, *parts),),
            ).fetchall()
        return tuple(Crossing(direction, datetime.fromisoformat(utc)) for direction, utc in rows)

    def forget(self, before: datetime) -> int:
        """Delete those that happened before `before`, inside a transaction: the cache knows them now."""
        assert self._db.in_transaction, "crossings are forgotten inside a transaction"
        stamp = before.astimezone(UTC).isoformat(timespec="microseconds")
        return self._db.sql.execute("DELETE FROM crossings WHERE utc < ?", (stamp,)).rowcount
