"""One generation of one partition follows HQ's chain: index, days, segments, and the tips of announcements.

Every step is proven before it is applied, and applied in one transaction with its serial: whatever happens in between,
the generation stands at one serial of HQ's and nowhere else."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

from gated.store.cachefile import CacheFile, CacheNote, LiftNotSigned
from gated.store.sql import StoreCorrupt, StoreError
from gated.sync.fetch import Fetcher
from gated.sync.refused import SyncRefused, Why
from gated.sync.spool import Spool, on_disk
from gated.wire import bundle
from gated.wire.bundle import GUARDED, Base, BundleError, Head, IndexEntry, Pinned, Tip
from gated.wire.segment import SEGMENT_BYTES_MAX, Unpacked

PAGE_BYTES_MAX: Final = bundle.PAGE_SEGMENTS * 40
ROOM_TIMES: Final = 3
"""A segment needs room in the spool, in the WAL and in the file."""

Say = Callable[[str, int, int], None]
"""(what is being done, how far, of how much). What it raises ends the work, which can be gone on with later."""


class Gap(Exception):
    """HQ no longer has what lies between here and its base: only a snapshot leads on."""


class Forked(Exception):
    """What is here is not HQ's: the chain that HQ signed has another value at this serial."""


WHY: Final = {
    "truncated": Why.TRUNCATED,
    "wrong_chain": Why.WRONG_CHAIN,
    "wrong_schema": Why.WRONG_SCHEMA,
    "endless": Why.ENDLESS,
    "swapped_partition": Why.SWAPPED_PARTITION,
    "wrong_epoch": Why.SWAPPED_PARTITION,
}


@contextmanager
def in_words(what: str) -> Iterator[None]:
    """Turns what a bundle or a database refuses into `SyncRefused`. `StoreCorrupt` passes: the file is set aside."""
    try:
        yield
    except BundleError as bad:
        raise SyncRefused(WHY.get(bad.why, Why.MALFORMED), what, str(bad)) from bad
    except LiftNotSigned as bad:
        raise SyncRefused(
            Why.LIFT_NOT_SIGNED, what, "it would lift something: gated-hq publish needs the lift key too"
        ) from bad
    except StoreCorrupt:
        raise
    except StoreError as bad:
        raise SyncRefused(Why.DISK_FULL if bad.why == "disk_full" else Why.STORE, what, str(bad)) from bad


@dataclass(frozen=True, slots=True)
class Step:
    """A day or a segment, proven by its chain."""

    kind: str
    first: int
    last: int
    path: str
    size: int
    sha256: bytes
    chain: bytes


class Follower:
    """A generation and its writer. Whoever touches the file holds `lock`, and never while it waits for a network."""

    def __init__(self, file: CacheFile, spool: Spool, fetcher: Fetcher, say: Say) -> None:
        self.file = file
        self.lock = threading.Lock()
        self._spool, self._fetcher, self._say = spool, fetcher, say

    @property
    def note(self) -> CacheNote:
        with self.lock:
            return self.file.note

    @property
    def checked(self) -> datetime:
        with self.lock:
            return self.file.checked

    # -- from HQ's server

    def advance(self, base: Base, head: Head) -> int:
        """Apply all that lies between here and the head; how many steps. Raises `SyncRefused`, `Gap`, `Forked`."""
        own = self.note
        try:
            chain = self._proven(own.serial, own.chain, base, head)
            steps = 0
            while (now := self.note).serial < head.serial:
                step = next_step(now.serial, head, chain)
                self._apply(step, base, head, chain)
                steps += 1
        except SyncRefused as no:
            # Of what lies before the base HQ may have thrown away segments, and the list of what may be lifted.
            if no.why in (Why.MISSING, Why.LIFT_NOT_SIGNED) and self.note.serial < base.serial:
                raise Gap from no
            raise
        return steps

    def _proven(self, serial: int, own: bytes, base: Base, head: Head) -> dict[int, IndexEntry]:
        """Every segment from `serial` on, and the chain there, as far as the head."""
        what = f"{head.partition} index"
        start = IndexEntry(serial, b"", 0, own)
        if serial >= head.serial:
            if serial == head.serial and own != head.chain:
                raise Forked
            return {serial: start}
        with in_words(what):
            try:
                found = bundle.proven_index(self._pages(serial, head), serial, own, head)
            except BundleError as bad:
                if bad.why != "wrong_chain":
                    raise
                if serial < base.serial:
                    raise Gap from bad
                # Whose fault is it: the index's, which nobody signed, or ours? From the base on it must be right.
                true = bundle.proven_index(self._pages(base.serial, head), base.serial, base.chain, head)
                there = {base.serial: base.chain} | {each.serial: each.chain for each in true}
                if there[serial] != own:
                    raise Forked from bad
                raise
        return {each.serial: each for each in (start, *found)}

    def chain_from(self, base: Base, head: Head) -> dict[int, IndexEntry]:
        """Every segment from the base to the head. Raises `SyncRefused`."""
        return self._proven(base.serial, base.chain, base, head)

    def _pages(self, serial: int, head: Head) -> dict[int, bytes]:
        first, last = bundle.page_of(serial + 1), bundle.page_of(head.serial)
        pages = {}
        for page in range(first, last + 1):
            self._say(f"{head.partition}: index", page - first, last - first + 1)
            pages[page] = self._fetcher.small(bundle.page_path(head.partition, head.epoch, page), PAGE_BYTES_MAX)
        return pages

    def _apply(self, step: Step, base: Base, head: Head, chain: dict[int, IndexEntry]) -> None:
        what = f"{head.partition}: {step.kind} {step.last} of {head.serial}"
        if step.size > SEGMENT_BYTES_MAX:
            raise SyncRefused(Why.ENDLESS, step.path, "longer than any segment")
        self._spool.room(ROOM_TIMES * step.size, step.path)
        place = self._spool.place(step.path)
        self._fetcher.file(step.path, place, step.size, step.sha256, lambda n, of: self._say(what, n, of))
        may_lift = lifted(base, step.last, step.sha256)
        with in_words(step.path), on_disk(place), place.open("rb") as source:
            changes = Unpacked(source)
            changes.expect(step.kind, head.partition, head.epoch, step.first, step.last)
            with self.lock:
                now = self.file.note
                if step.first - 1 <= now.serial < step.last:  # else a tip came first
                    if chain[now.serial].chain != now.chain:
                        raise Forked
                    self.file.apply(changes, step.last, step.chain, head.built, may_lift=may_lift)
        self._spool.drop(step.path)

    def confirm(self, head: Head, floor: bytes) -> None:
        """HQ says that this is all there is."""
        with in_words(f"{head.partition} head"), self.lock:
            self.file.confirm(head.built, floor)

    # -- from an announcement

    def put(self, tip: Tip, segment: bytes, base: Base | None) -> bool:
        """Apply the next segment as its announcement brought it; `base` as it was last proven. Whether it was news.

        Raises `SyncRefused`: replayed, skipped, wrong_chain, altered, truncated, endless, lift_not_signed ..."""
        what = f"{tip.partition} announcement {tip.serial}"
        if len(segment) != tip.size:
            raise SyncRefused(Why.TRUNCATED if len(segment) < tip.size else Why.ENDLESS, what)
        if sha256(segment).digest() != tip.sha256:
            raise SyncRefused(Why.ALTERED, what)
        with in_words(what), self.lock:
            if not follows(self.file.note, tip):
                return False
            changes = Unpacked(io.BytesIO(segment))
            changes.expect("segment", tip.partition, tip.epoch, tip.serial, tip.serial)
            may_lift = base is not None and base.epoch == tip.epoch and lifted(base, tip.serial, tip.sha256)
            chain = bundle.chain_next(tip.previous, tip.serial, tip.size, tip.sha256)
            self.file.apply(changes, tip.serial, chain, tip.built, may_lift=may_lift or tip.partition not in GUARDED)
        return True


def next_step(serial: int, head: Head, chain: dict[int, IndexEntry]) -> Step:
    """What leads furthest from `serial`: a day, or the next segment. `chain`: proven."""
    fitting = [day for day in head.days if day.first - 1 <= serial < day.last <= head.serial]
    if fitting:
        day = max(fitting, key=lambda each: each.last)
        path = bundle.day_path(head.partition, head.epoch, day.first, day.last)
        if chain[day.last].chain != day.chain:
            raise SyncRefused(Why.MIXED, path, "it leads to another state than the segments do")
        return Step("day", day.first, day.last, path, day.size, day.sha256, day.chain)
    entry = chain[serial + 1]
    path = bundle.segment_path(head.partition, head.epoch, entry.serial)
    return Step("segment", entry.serial, entry.serial, path, entry.size, entry.sha256, entry.chain)


def lifted(base: Base, last: int, digest: bytes) -> bool:
    """Whether this segment or day may take rows away or replace them."""
    return base.partition not in GUARDED or Pinned(last, digest) in base.lifts


def follows(own: CacheNote, tip: Tip) -> bool:
    """Whether a tip is the next segment after what is here; False: it is the very one that was applied last.

    Raises `SyncRefused` for any other."""
    what = f"{tip.partition} announcement {tip.serial}"
    if tip.epoch != own.epoch:
        raise SyncRefused(Why.REPLAYED if tip.epoch < own.epoch else Why.SKIPPED, what, f"of epoch {tip.epoch}")
    if tip.serial > own.serial + bundle.JUMP_MAX:
        raise SyncRefused(Why.FAST_FORWARD, what, f"this lane is at {own.serial}")
    after = bundle.chain_next(tip.previous, tip.serial, tip.size, tip.sha256)
    if tip.serial == own.serial:
        if after != own.chain:
            raise SyncRefused(Why.WRONG_CHAIN, what, "another segment of this number was applied")
        return False
    if tip.serial < own.serial:
        raise SyncRefused(Why.REPLAYED, what, f"this lane is at {own.serial}")
    if tip.serial > own.serial + 1:
        raise SyncRefused(Why.SKIPPED, what, f"this lane is at {own.serial}")
    if tip.previous != own.chain:
        raise SyncRefused(Why.WRONG_CHAIN, what, "it continues another chain than the one here")
    return True
