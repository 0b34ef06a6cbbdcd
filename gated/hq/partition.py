"""One epoch of one partition as HQ has sealed it: its rows, its chain of segments, days, snapshots and audit tables.

In the publisher's database (`gated.hq.published`); the files that lanes fetch are written by `gated.hq.bundles`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gated.hq.published import Epoch, PublisherState, State
from gated.wire.bundle import (
    BUCKETS,
    AuditTable,
    Day,
    Snapshot,
    bucket_digest,
    bucket_of,
    bucket_range,
    chain_next,
)
from gated.wire.segment import Change


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment that is in the chain."""

    serial: int
    sha256: bytes
    size: int
    chain: bytes
    rows: int
    lifts: bool
    built: datetime


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is on the disk."""

    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A segment that lifts something: on the disk, and in the chain only when the second key has signed."""

    serial: int
    file: Written
    rows: int
    built: datetime


class Partition:
    """One epoch of one partition. Changes belong into a transaction of `state`."""

    def __init__(self, state: PublisherState, partition: str, epoch: int) -> None:
        self.state, self.name, self.epoch = state, partition, epoch
        self._db, self._id, self._own = state.db, f"{partition}_{epoch}", (partition, epoch)

    @property
    def note(self) -> Epoch:
        """As it is now."""
        return next(each for each in self.state.epochs(self.name) if each.epoch == self.epoch)

    def _where(self, what: str, table: str, also: str = "", *values: Any) -> list[tuple[Any, ...]]:
        text = f"SELECT {what} FROM {table} WHERE partition = ? AND epoch = ? {also}"
        return self._db.execute(text, (*self._own, *values)).fetchall()

    def _update(self, **values: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE epochs SET {names} WHERE partition = ? AND epoch = ?", (*values.values(), *self._own))

    def become(self, state: State) -> None:
        """The next state. An epoch that opens closes all others."""
        self._update(state=state)
        if state is State.OPEN:
            self._db.execute(
                "UPDATE epochs SET state = 'closed' WHERE partition = ? AND epoch <> ? AND state = 'open'", self._own
            )

    # -- rows

    def digest(self, place: bytes) -> bytes | None:
        """The digest of the row there; None: there is none."""
        row = self._db.execute(f"SELECT digest FROM rows_{self._id} WHERE place = ?", (place,)).fetchone()
        return row[0] if row else None

    def blob(self, place: bytes) -> bytes | None:
        """The sealed row there."""
        row = self._db.execute(f"SELECT blob FROM rows_{self._id} WHERE place = ?", (place,)).fetchone()
        return row[0] if row else None

    def put(self, changes: Mapping[bytes, bytes | None], digests: Mapping[bytes, bytes]) -> None:
        """Put rows (None: take away)."""
        own = self._id
        was = self._db.total_changes
        gone = [(place,) for place, blob in changes.items() if blob is None]
        self._db.executemany(f"DELETE FROM rows_{own} WHERE place = ?", gone)
        fewer = self._db.total_changes - was
        more = 0
        for place, blob in sorted((place, blob) for place, blob in changes.items() if blob is not None):
            digest = digests.get(place, b"")
            same = self._db.execute(
                f"UPDATE rows_{own} SET blob = ?, digest = ? WHERE place = ?", (blob, digest, place)
            )
            if not same.rowcount:
                self._db.execute(f"INSERT INTO rows_{own} VALUES (?, ?, ?)", (place, blob, digest))
                more += 1
        buckets = {bucket_of(place) for place in changes}
        self._db.executemany(f"INSERT OR REPLACE INTO buckets_{own} VALUES (?, NULL)", ((b,) for b in buckets))
        if more != fewer:
            self._update(rows=self.note.rows + more - fewer)

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """(place, sealed row) in order of place, as of now, whatever is written meanwhile."""
        yield from self._db.execute(f"SELECT place, blob FROM rows_{self._id} ORDER BY place")

    # -- links

    def links_of(self, subject: int) -> set[bytes]:
        """The places that lead to a person."""
        found = self._db.execute(f"SELECT place FROM owned_{self._id} WHERE subject = ?", (subject,))
        return {row[0] for row in found}

    def owners_of(self, place: bytes) -> list[int]:
        """Whom a place leads to: one person, or it is no good."""
        found = self._db.execute(f"SELECT subject FROM owned_{self._id} WHERE place = ?", (place,))
        return [row[0] for row in found]

    def own(self, subject: int, new: Iterable[bytes], gone: Iterable[bytes]) -> None:
        """Places begin and cease to lead to a person."""
        rows = ((subject, place) for place in new)
        self._db.executemany(f"INSERT OR IGNORE INTO owned_{self._id} VALUES (?, ?)", rows)
        rows = ((subject, place) for place in gone)
        self._db.executemany(f"DELETE FROM owned_{self._id} WHERE subject = ? AND place = ?", rows)

    # -- the register's log

    def came_to(self, *, taken: int | None = None, urgent: int | None = None) -> None:
        """Up to here the register's changes are in."""
        if taken is not None:
            self._update(taken=taken)
        if urgent is not None:
            self._update(taken_urgent=urgent)

    def wait(self, what: int | bytes, why: str | None) -> None:
        """A person or document that could not be published as the register has it; None: it could."""
        if why is None:
            self._db.execute("DELETE FROM waiting WHERE partition = ? AND epoch = ? AND what = ?", (*self._own, what))
        else:
            self._db.execute("INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?)", (*self._own, what, why))

    def waiting(self) -> list[tuple[int | bytes, str]]:
        """(who or which document, why)."""
        return [(what, why) for what, why in self._where("what, why", "waiting")]

    # -- the chain

    def extend(self, file: Written, changes: Mapping[bytes, bytes | None], lifts: bool, built: datetime) -> Segment:
        """The next segment, whose file is on the disk and whose rows were put."""
        note = self.note
        serial = note.serial + 1
        chain = chain_next(note.chain, serial, file.size, file.sha256)
        self._db.execute(
            "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*self._own, serial, file.sha256, file.size, chain, len(changes), lifts, built.isoformat()),
        )
        self._db.executemany(
            f"INSERT OR REPLACE INTO touched_{self._id} VALUES (?, ?)", ((place, serial) for place in sorted(changes))
        )
        self._update(serial=serial, chain=chain)
        return Segment(serial, file.sha256, file.size, chain, len(changes), lifts, built)

    def segments(self, first: int, last: int) -> list[Segment]:
        """The segments from `first` to `last`, both included."""
        rows = self._where(
            "serial, sha256, size, chain, rows, lifts, built",
            "segments",
            "AND serial BETWEEN ? AND ? ORDER BY serial",
            first,
            last,
        )
        return [
            Segment(number, sha256, size, chain, count, bool(lifts), datetime.fromisoformat(built))
            for number, sha256, size, chain, count, lifts, built in rows
        ]

    def lifting(self, after: int, since: datetime) -> list[tuple[int, bytes]]:
        """(serial, SHA-256) of every segment and day after that serial, or since then, that lifts something."""
        values = (after, since.isoformat())
        found = self._where("serial, sha256", "segments", "AND lifts AND (serial > ? OR built >= ?)", *values)
        found += self._where("last, sha256", "days", "AND lifts AND (last > ? OR built >= ?)", *values)
        return sorted((serial, sha256) for serial, sha256 in found)

    def prepare(self, prepared: Prepared | None) -> None:
        """Remember, or forget, a segment that waits for the second key's signature."""
        self._db.execute("DELETE FROM prepared WHERE partition = ? AND epoch = ?", self._own)
        if prepared is not None:
            file = prepared.file
            self._db.execute(
                "INSERT INTO prepared VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*self._own, prepared.serial, file.sha256, file.size, prepared.rows, prepared.built.isoformat()),
            )

    @property
    def prepared(self) -> Prepared | None:
        for serial, sha256, size, rows, built in self._where("serial, sha256, size, rows, built", "prepared"):
            return Prepared(serial, Written(sha256, size), rows, datetime.fromisoformat(built))
        return None

    # -- days

    @property
    def day_end(self) -> tuple[int, datetime]:
        """(last segment that is in a day, when that day was made); where there is none, where the epoch began."""
        found = self._where("last, built", "days", "ORDER BY last DESC LIMIT 1")
        return (found[0][0], datetime.fromisoformat(found[0][1])) if found else (0, self.note.began)

    @property
    def touched(self) -> int:
        """How many places have changed since the last day."""
        return int(self._db.execute(f"SELECT count(*) FROM touched_{self._id}").fetchone()[0])

    def last_words(self) -> Iterator[Change]:
        """Of each place that changed since the last day, what is there now."""
        tables = f"touched_{self._id} t LEFT JOIN rows_{self._id} r USING (place)"
        yield from self._db.execute(f"SELECT t.place, r.blob FROM {tables} ORDER BY t.place")

    def add_day(self, day: Day, built: datetime) -> None:
        """The segments since `first` are in a day, whose file is on the disk."""
        lifts = any(segment.lifts for segment in self.segments(day.first, day.last))
        self._db.execute(
            "INSERT INTO days VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*self._own, day.first, day.last, day.chain, day.sha256, day.size, lifts, built.isoformat()),
        )
        self._db.execute(f"DELETE FROM touched_{self._id} WHERE serial <= ?", (day.last,))

    def days(self) -> list[tuple[Day, bool]]:
        """(day, whether it lifts anything), in order."""
        rows = self._where("first, last, chain, sha256, size, lifts", "days", "ORDER BY last")
        return [(Day(*row[:5]), bool(row[5])) for row in rows]

    # -- snapshots

    def add_snapshot(self, snapshot: Snapshot, built: datetime) -> list[int]:
        """A snapshot whose files are on the disk. The serials of those that are too old to keep, and now forgotten."""
        self._db.execute(
            "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *self._own,
                snapshot.serial,
                snapshot.chain,
                snapshot.rows,
                snapshot.manifest_sha256,
                snapshot.manifest_bytes,
                built.isoformat(),
            ),
        )
        return self._keep("snapshots", 2)

    @property
    def snapshot(self) -> tuple[Snapshot, datetime] | None:
        """The newest, and when it was made."""
        rows = self._where("serial, chain, rows, sha256, size, built", "snapshots", "ORDER BY serial DESC LIMIT 1")
        return (Snapshot(*rows[0][:5]), datetime.fromisoformat(rows[0][5])) if rows else None

    def _keep(self, table: str, count: int) -> list[int]:
        old = [row[0] for row in self._where("serial", table, "ORDER BY serial DESC LIMIT -1 OFFSET ?", count)]
        for serial in old:
            self._db.execute(
                f"DELETE FROM {table} WHERE partition = ? AND epoch = ? AND serial = ?", (*self._own, serial)
            )
        return old

    # -- the audit

    @property
    def audit(self) -> AuditTable | None:
        """The newest table of digests."""
        rows = self._where("serial, sha256", "audits", "ORDER BY serial DESC LIMIT 1")
        return AuditTable(*rows[0]) if rows else None

    def add_audit(self, audit: AuditTable) -> list[int]:
        """A table whose file is on the disk. The serials of those that are now forgotten."""
        self._db.execute("INSERT OR REPLACE INTO audits VALUES (?, ?, ?, ?)", (*self._own, audit.serial, audit.sha256))
        return self._keep("audits", 10)

    @property
    def dirty_buckets(self) -> int:
        """How many digests have to be made anew."""
        known = f"SELECT count(*) FROM buckets_{self._id} WHERE digest IS NOT NULL"
        return BUCKETS - int(self._db.execute(known).fetchone()[0])

    def refresh_digests(self) -> None:
        """Make those anew that have changed, and keep them."""
        made = list(self._stale_digests())
        self._db.executemany(f"INSERT OR REPLACE INTO buckets_{self._id} VALUES (?, ?)", made)

    def _stale_digests(self) -> Iterator[tuple[int, bytes]]:
        own = self._id
        rows = self._db.execute(f"SELECT bucket FROM buckets_{own} WHERE digest IS NOT NULL")
        fresh = {row[0] for row in rows}
        for bucket in range(BUCKETS):
            if bucket not in fresh:
                inside = self._db.execute(
                    f"SELECT place, blob FROM rows_{own} WHERE place >= ? AND place < ? ORDER BY place",
                    bucket_range(bucket),
                )
                yield bucket, bucket_digest(inside)

    def digests(self) -> bytes:
        """The digest of every bucket, in order: those that are known, and the others from their rows."""
        known = dict(self._db.execute(f"SELECT bucket, digest FROM buckets_{self._id} WHERE digest IS NOT NULL"))
        known.update(self._stale_digests())
        return b"".join(known[bucket] for bucket in range(BUCKETS))
