"""The lane's copy of one partition: which generation counts, how a new one comes to be, and what is kept of old ones.

A new generation is built beside the others, in a folder of its own, and brought to HQ's head there. Only then it gets
its place among the generations that a lane may open: so the newest one is never older than the one before it, and never
half. A generation that is damaged, or not HQ's, is set aside; the one before it serves until there is a new one."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from gated.store.cachefile import MODE, CacheFile, CacheNote, build, generations, path_of, remove
from gated.store.sql import StoreCorrupt, StoreError
from gated.sync import snapshot
from gated.sync.fetch import Fetcher
from gated.sync.follow import Follower, Forked, Gap, Say, follows, in_words
from gated.sync.refused import SyncRefused, Why
from gated.sync.spool import Spool, on_disk, sync_names
from gated.wire import bundle
from gated.wire.bundle import Base, Head, Manifest, Tip

log = structlog.get_logger()

KEY_BYTES_MAX: Final = 512
GENERATIONS_KEPT: Final = 2
NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
BAD: Final = ".bad"
"""The ending of a generation that was set aside for a person to look at; the last one alone is kept."""
_UNUSABLE: Final = ("not_ours", "wrong_edition", "unfinished")


def unusable(bad: StoreError) -> bool:
    """Whether a generation is of no use to anybody, whatever becomes of the disk."""
    return isinstance(bad, StoreCorrupt) or bad.why in _UNUSABLE


@dataclass(frozen=True, slots=True)
class Standing:
    """How a partition stands here. `generation` 0: there is none."""

    generation: int = 0
    epoch: int = 0
    serial: int = 0
    rows: int = 0
    built: datetime = NEVER
    checked: datetime = NEVER
    """When HQ last said that this is all there is."""


class Copy:
    """One partition. `take` and `audit` by one thread at a time; `put` by any.

    `lane`: site/lane, whom HQ wraps keys for. Raises `SyncRefused`, and `StoreError` where another one writes."""

    def __init__(self, folder: Path, partition: str, lane: str, spool: Spool, fetcher: Fetcher, say: Say) -> None:
        self.partition, self._folder, self._lane = partition, folder, lane
        self._spool, self._fetcher, self._say = spool, fetcher, say
        self._building = folder / "sync" / "building"
        self._follower: Follower | None = None
        self._switch = threading.RLock()
        self._base: Base | None = None
        """As last proven."""
        self.standing = Standing()
        with on_disk(self._building):
            self._building.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._open()

    # -- generations

    def _open(self) -> None:
        """Open the newest generation, unless it only stands in for one that was set aside."""
        while found := generations(self._folder, self.partition):
            number, path = max(found.items())
            if number < self._last_bad():
                return
            try:
                self._follower = Follower(CacheFile(path), self._spool, self._fetcher, self._say)
            except StoreError as bad:
                if not unusable(bad):
                    raise
                self._set_aside(path, bad.why)
                continue
            self._look()
            return

    def _last_bad(self) -> int:
        found = [int(m[1]) for path in self._bad() if (m := re.search(r"-(\d+)\.db", path.name))]
        return max(found, default=0)

    def _bad(self) -> list[Path]:
        return list(self._folder.glob(f"cache-{self.partition}-*.db{BAD}*"))

    def _look(self) -> None:
        if self._follower is None:
            self.standing = Standing()
            return
        note = self._follower.note
        self.standing = Standing(
            note.generation, note.epoch, note.serial, note.rows, note.built, self._follower.checked
        )

    @property
    def follower(self) -> Follower | None:
        """The generation that counts."""
        return self._follower

    @property
    def floor(self) -> bytes:
        """What the file remembers of the metadata."""
        follower = self._follower
        if follower is None:
            return b""
        with self.guarded(follower), follower.lock:
            return follower.file.floor

    @contextmanager
    def guarded(self, follower: Follower | None) -> Iterator[None]:
        """Turns errors into `SyncRefused`, and sets a generation aside that is damaged or not HQ's."""
        try:
            with in_words(self.partition):
                yield
        except StoreCorrupt as bad:
            if follower is not None and bad.path == follower.file.path:
                self._give_up(follower, bad.why)
            raise SyncRefused(Why.STORE, bad.path.name, str(bad)) from bad
        except Forked as bad:
            assert follower is not None
            self._give_up(follower, "forked")
            advice = "what is here is not HQ's; it was set aside, and a snapshot is fetched"
            raise SyncRefused(Why.WRONG_CHAIN, follower.file.path.name, advice) from bad

    def _give_up(self, follower: Follower, why: str) -> None:
        with self._switch:
            if follower is self._follower:
                self._follower = None
                with follower.lock:
                    follower.file.close()
                self._set_aside(follower.file.path, why)
            self._look()

    def _set_aside(self, path: Path, why: str) -> None:
        log.error("cache set aside", file=path.name, why=why)
        with on_disk(path):
            for old in self._bad():
                old.unlink(missing_ok=True)
            for end in ("", "-wal", "-shm"):
                beside = path.with_name(path.name + end)
                if beside.exists():
                    beside.replace(path.with_name(path.name + BAD + end))
            sync_names(self._folder)

    # -- from HQ's server

    def take(self, base: Base, head: Head, floor: bytes, *, same_keys: bool = True) -> bool:
        """Come to where HQ's head is; whether anything was applied. `floor`: kept with the data. Not `same_keys`: other
        keys sign since, which only HQ's root can name, and numbers may begin anew.

        Raises `SyncRefused`; what is here then stays as it is."""
        self.agree(base, head)
        self._base = base
        self._take_up()
        follower = self._follower
        with self.guarded(follower):
            if follower is None or self._elsewhere(follower, base, head, same_keys):
                self.renew(base, head, floor)
                return True
            if follower.note.serial > head.serial:  # by an announcement, which this head does not know yet
                return False
            try:
                steps = follower.advance(base, head)
            except Gap as gap:
                log.info("only a snapshot leads on", partition=self.partition, why=str(gap.__cause__))
                if base.snapshot is None:
                    raise SyncRefused(Why.MISSING, f"{self.partition} segments", "and HQ has no snapshot") from gap
                self.renew(base, head, floor)
                return True
            follower.confirm(head, floor)
            self._look()
            self._tidy()
            return steps > 0

    def agree(self, base: Base, head: Head) -> None:
        """Raises `SyncRefused` unless both are of this partition, and of one state."""
        if {base.partition, head.partition} != {self.partition}:
            raise SyncRefused(Why.SWAPPED_PARTITION, f"{self.partition} base and head")
        if base.epoch != head.epoch or base.serial > head.serial:
            raise SyncRefused(Why.MIXED, f"{self.partition} base and head", "they are not of one state")
        if base.serial == head.serial and base.chain != head.chain:
            raise SyncRefused(Why.MIXED, f"{self.partition} base and head", "they name two chains")

    def _elsewhere(self, follower: Follower, base: Base, head: Head, same_keys: bool) -> bool:
        """Whether no segment leads from here to HQ's head. Raises `SyncRefused` where HQ's head is not after this."""
        own, what = follower.note, f"{self.partition} head"
        ahead = (head.epoch - own.epoch, head.serial - own.serial if head.epoch == own.epoch else 0)
        if max(ahead) > bundle.JUMP_MAX:
            raise SyncRefused(Why.FAST_FORWARD, what, f"this lane is at epoch {own.epoch}, segment {own.serial}")
        if head.epoch < own.epoch:
            if same_keys:
                raise SyncRefused(Why.ROLLED_BACK, what, f"epoch {head.epoch}, and this lane has {own.epoch}")
            return True
        if head.epoch > own.epoch:
            return True
        if head.serial < own.serial and not follower.checked <= head.built < own.built:
            if same_keys:
                raise SyncRefused(Why.ROLLED_BACK, what, f"segment {head.serial}, and this lane has {own.serial}")
            return True
        return False

    def renew(self, base: Base, head: Head, floor: bytes) -> None:
        """A new generation from the base, brought to the head, in the place of the one that counts."""
        number = max([self._last_bad(), *generations(self._folder, self.partition)], default=0) + 1
        made = path_of(self._building, self.partition, number)
        self._clear_building(made, base)
        if not made.exists():
            self._build(made, number, base)
        try:
            with CacheFile(made) as file:
                follower = Follower(file, self._spool, self._fetcher, self._say)
                follower.advance(base, head)
                follower.confirm(head, floor)
        except (StoreCorrupt, Gap, Forked) as bad:
            remove(made)
            raise SyncRefused(Why.STORE, made.name, "it was begun by a run before, and is begun anew") from bad
        self._place(made, number)
        self._tidy()

    def _clear_building(self, made: Path, base: Base) -> None:
        """Keep what a run before began, where it still leads to HQ's head."""
        for path in generations(self._building, self.partition).values():
            try:
                with CacheFile(path) as file:
                    goes_on = (
                        path == made
                        and (file.note.epoch, file.proof) == (base.epoch, base.proof)
                        and file.note.serial >= base.serial
                    )
            except StoreError as bad:
                log.warning("begun generation dropped", file=path.name, why=bad.why)
                goes_on = False
            if not goes_on:
                remove(path)

    def _build(self, made: Path, number: int, base: Base) -> None:
        wrapped = self.key(base.epoch)
        note = CacheNote(self.partition, number, base.epoch, base.serial, base.chain, NEVER, 0)
        if base.snapshot is None:
            build(made, note, base.proof, wrapped, (), checked=NEVER, mode=MODE)
            return
        folder = bundle.manifest_path(self.partition, base.epoch, base.serial).rpartition("/")[0]
        manifest = snapshot.manifest_of(base, base.snapshot, self._spool, self._fetcher)
        self._spool.keep(f"data/{self.partition}", [f"{folder}/manifest.json", *snapshot.paths(manifest)])
        self._make_room(manifest)
        snapshot.fetch(manifest, range(len(manifest.chunks)), self._spool, self._fetcher, self._say)
        what = f"{self.partition}: generation {number}"
        with in_words(what):
            build(
                made,
                note,
                base.proof,
                wrapped,
                snapshot.rows(manifest, self._spool),
                checked=NEVER,
                mode=MODE,
                progress=lambda rows: self._say(what, rows, manifest.rows),
            )

    def key(self, epoch: int) -> bytes:
        """The epoch's key as HQ wrapped it for this lane. Raises `SyncRefused`: no_key."""
        path = bundle.key_path(self.partition, epoch, self._lane)
        try:
            return self._fetcher.small(path, KEY_BYTES_MAX)
        except SyncRefused as no:
            if no.why is not Why.MISSING:
                raise
            raise SyncRefused(
                Why.NO_KEY, path, f"HQ knows no lane {self._lane}: gated cache key, then gated-hq lane add"
            ) from no

    def mend_key(self) -> bool:
        """Keep the key as HQ wraps it now, where that is another: the lane has a new key of its own, or somebody put
        one there that does not open. Whether it was; raises `SyncRefused`."""
        follower = self._follower
        if follower is None:
            return False
        wrapped = self.key(self.standing.epoch)
        with self.guarded(follower), follower.lock:
            if follower.file.wrapped == wrapped:
                return False
            follower.file.rewrap(wrapped)
        log.info("epoch's key replaced", partition=self.partition, epoch=self.standing.epoch)
        return True

    def _make_room(self, manifest: Manifest) -> None:
        """Drop what nobody needs any more where the disk is too full for a snapshot. Raises `SyncRefused`."""
        needed = snapshot.still_needed(manifest, self._spool)
        if self._spool.lacks(needed):
            with on_disk(self._folder):
                for old in self._bad():
                    os.truncate(old, 0)  # its name still says which number was bad
        if self._spool.lacks(needed) and self._follower is not None:
            self._drop_old(keep=1)
        self._spool.room(needed, f"{self.partition} snapshot {manifest.serial}")

    def _place(self, made: Path, number: int) -> None:
        """It counts from now on, and the one before is kept."""
        final = path_of(self._folder, self.partition, number)
        with on_disk(final):
            wal = made.with_name(made.name + "-wal")
            if wal.exists() and wal.stat().st_size:
                raise SyncRefused(Why.STORE, made.name, "another program holds it open")
            made.rename(final)
            sync_names(self._folder)
        self._switch_to(final)
        new = self.standing
        log.info("cache generation", partition=self.partition, generation=number, serial=new.serial, rows=new.rows)

    def _switch_to(self, path: Path) -> None:
        new = Follower(CacheFile(path), self._spool, self._fetcher, self._say)
        with self._switch:
            old, self._follower = self._follower, new
            if old is not None:
                with old.lock:
                    old.file.close()
            self._look()

    def _take_up(self) -> None:
        """A generation that got its place, and then the disk failed: it need not be made again."""
        number, path = max(generations(self._folder, self.partition).items(), default=(0, Path()))
        if number > max(self._last_bad(), self.standing.generation):
            try:
                self._switch_to(path)
            except StoreError as bad:
                if not unusable(bad):
                    raise
                self._set_aside(path, bad.why)

    def _tidy(self) -> None:
        """Take away what is not needed any more, also what a run before left that was killed in the middle of it."""
        self._spool.keep(f"data/{self.partition}")
        with on_disk(self._building):
            for left in self._building.glob(f"cache-{self.partition}-*"):
                left.unlink(missing_ok=True)
        self._drop_old(GENERATIONS_KEPT)

    def _drop_old(self, keep: int) -> None:
        """All generations but the newest, and what is left of any that were dropped before."""
        kept = list(generations(self._folder, self.partition))[-keep:]
        name = re.compile(rf"cache-{self.partition}-(\d+)\.db(-wal|-shm|\.lock|\.part)?", re.ASCII)
        with on_disk(self._folder):
            found = {int(match[1]) for path in self._folder.iterdir() if (match := name.fullmatch(path.name))}
        for number in sorted(found.difference(kept)):
            remove(path_of(self._folder, self.partition, number))

    # -- from an announcement

    def put(self, tip: Tip, segment: bytes | None) -> bool:
        """Apply a segment that rode in an announcement; whether it was news. Raises `SyncRefused`; skipped where it
        does not follow."""
        what = f"{tip.partition} announcement {tip.serial}"
        while True:
            if (follower := self._follower) is None:
                raise SyncRefused(Why.SKIPPED, what, "this lane has no generation yet")
            try:
                with self.guarded(follower):
                    if not follows(follower.note, tip):
                        return False
                    if segment is None:
                        raise SyncRefused(Why.SKIPPED, what, "too large to ride along: it comes from HQ's server")
                    news = follower.put(tip, segment, self._base)
            except SyncRefused:
                if follower is not self._follower is not None:
                    continue  # another generation took its place meanwhile
                raise
            self._look()
            return news

    def close(self) -> None:
        """Idempotent."""
        if self._follower is not None:
            with self._follower.lock:
                self._follower.file.close()
            self._follower = None
