"""Is what is here what HQ has? Buckets of rows by their digests; a bucket that differs is fetched and put right alone.

HQ's table is of one serial, and a lane has mostly gone on from there: what segments have touched since is left out, and
is compared another night. So nobody has to stand still, neither the lane nor HQ."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from gated.store.cachefile import CacheNote, audited
from gated.sync import snapshot
from gated.sync.apply import Copy
from gated.sync.fetch import Fetcher
from gated.sync.follow import Follower, Say, Step, in_words, next_step
from gated.sync.refused import SyncRefused, Why
from gated.sync.spool import Spool, on_disk
from gated.wire import bundle
from gated.wire.bundle import BUCKETS, DIGEST_BYTES, AuditTable, Base, Head, IndexEntry, bucket_digest, bucket_of
from gated.wire.segment import Change, Unpacked

SINCE_MAX: Final = 2048
"""A table from so many segments ago is too old to compare with."""
REPAIRED_MAX: Final = 64
"""Where more buckets differ, a new generation is faster than putting them right one by one."""


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit found. `compared`: how many of all buckets; 0: HQ has no table that fits, `note` says why."""

    partition: str
    serial: int = 0
    compared: int = 0
    differing: tuple[int, ...] = ()
    repaired: int = 0
    """Rows that were put right."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Source:
    """What an audit draws on."""

    base: Base
    head: Head
    chain: dict[int, IndexEntry]
    spool: Spool
    fetcher: Fetcher
    say: Say

    def changes(self, step: Step) -> Iterator[Change]:
        """The rows of a day or segment, fetched and proven."""
        place = self.spool.place(step.path)
        what = f"{self.head.partition}: audit, {step.kind} {step.last}"
        self.fetcher.file(step.path, place, step.size, step.sha256, lambda n, of: self.say(what, n, of))
        with in_words(step.path), on_disk(place), place.open("rb") as source:
            found = Unpacked(source)
            found.expect(step.kind, self.head.partition, self.head.epoch, step.first, step.last)
            yield from found
        self.spool.drop(step.path)

    def steps(self, serial: int, until: int) -> Iterator[Step]:
        """Days and segments that lead from one serial to another."""
        head = replace(self.head, serial=until)
        while serial < until:
            step = next_step(serial, head, self.chain)
            yield step
            serial = step.last


def audit(copy: Copy, base: Base, head: Head, spool: Spool, fetcher: Fetcher, say: Say, *, repair: bool) -> Audited:
    """Compare a partition with HQ's table, and `repair` what differs. Raises `SyncRefused`.

    More than `REPAIRED_MAX` differing buckets are told and not repaired: that takes a new generation."""
    follower, table, partition = copy.follower, head.audit, copy.partition
    if follower is None:
        return Audited(partition, note="this lane has no generation yet")
    if table is None:
        return Audited(partition, note="HQ has made no table yet")
    copy.agree(base, head)
    with copy.guarded(follower):
        theirs = _table(table, head, spool, fetcher)
        note, ours = audited(follower.file.path, lambda rows: say(f"{partition}: audit", rows, copy.standing.rows))
        if why := _unfit(note, table, base, head):
            return Audited(partition, table.serial, note=why)
        source = _Source(base, head, follower.chain_from(base, head), spool, fetcher, say)
        touched = {
            bucket_of(place)
            for step in source.steps(table.serial, note.serial)
            for place, _ in source.changes(step)
        }  # fmt: skip
        found = tuple(bucket for bucket in bundle.differing(ours, theirs) if bucket not in touched)
        result = Audited(partition, table.serial, BUCKETS - len(touched), found)
        if not repair or not 0 < len(found) <= REPAIRED_MAX:
            return result
        rows = _true_rows(source, frozenset(found), table.serial)
        for bucket in found:
            if bucket_digest(rows[bucket].items()) != _digest(theirs, bucket):
                raise SyncRefused(Why.MIXED, f"{partition} audit", "HQ's table is not of HQ's own rows")
        return replace(result, repaired=_repair(follower, note, rows))


def _table(table: AuditTable, head: Head, spool: Spool, fetcher: Fetcher) -> bytes:
    path = bundle.audit_path(head.partition, head.epoch, table.serial)
    place = spool.place(path)
    fetcher.file(path, place, BUCKETS * DIGEST_BYTES, table.sha256)
    with on_disk(place):
        theirs = place.read_bytes()
    spool.drop(path)
    return theirs


def _unfit(note: CacheNote, table: AuditTable, base: Base, head: Head) -> str:
    """Why this table cannot be compared with what is here; "" where it can."""
    if note.epoch != head.epoch or note.serial < table.serial:
        return "this lane is behind HQ's table: sync first"
    if note.serial > head.serial:
        return "this lane is ahead of HQ's head by an announcement: try again in a minute"
    if table.serial < base.serial or note.serial - table.serial > SINCE_MAX:
        return "HQ's table is too old: wait for the next one"
    return ""


def _digest(table: bytes, bucket: int) -> bytes:
    return table[bucket * DIGEST_BYTES : (bucket + 1) * DIGEST_BYTES]


def _true_rows(source: _Source, buckets: frozenset[int], serial: int) -> dict[int, dict[bytes, bytes]]:
    """What HQ has in these buckets after segment `serial`, in order of place."""
    found: dict[bytes, bytes] = {}
    for place, blob in _snapshot_rows(source, buckets):
        if bucket_of(place) in buckets:
            found[place] = blob
    for step in source.steps(source.base.serial, serial):
        for place, change in source.changes(step):
            if bucket_of(place) not in buckets:
                continue
            if change is None:
                found.pop(place, None)
            else:
                found[place] = change
    rows: dict[int, dict[bytes, bytes]] = {bucket: {} for bucket in buckets}
    for place in sorted(found):
        rows[bucket_of(place)][place] = found[place]
    return rows


def _snapshot_rows(source: _Source, buckets: Iterable[int]) -> Iterator[tuple[bytes, bytes]]:
    base = source.base
    if base.snapshot is None:
        return
    manifest = snapshot.manifest_of(base, base.snapshot, source.spool, source.fetcher)
    ranges = [bundle.bucket_range(bucket) for bucket in buckets]
    numbers = sorted({number for first, end in ranges for number in snapshot.covering(manifest, first, end)})
    for number in numbers:  # one after the other: the spool holds one at a time
        source.spool.room(manifest.chunks[number].size, f"{base.partition} audit")
        snapshot.fetch(manifest, [number], source.spool, source.fetcher, source.say)
        yield from snapshot.rows_of(manifest, number, source.spool)
        source.spool.drop(snapshot.paths(manifest)[number])


def _repair(follower: Follower, note: CacheNote, rows: dict[int, dict[bytes, bytes]]) -> int:
    """Put the rows in their place, unless an announcement moved on meanwhile: then the next audit does."""
    done = 0
    with follower.lock:
        if follower.file.note.serial != note.serial:
            return 0
        for bucket, true in rows.items():
            done += follower.file.repair(bucket, true.items())
    return done
