"""A small HQ that publishes by hand what a test wants, right or wrong, and the lane's real sync beside it."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from gated.hq.repository import Repository, Signers
from gated.store.cachefile import audited, generations
from gated.sync.fetch import Fetcher, Server
from gated.sync.refused import Why
from gated.sync.rounds import Sync
from gated.sync.trust import Trust
from gated.wire import bundle
from gated.wire.bundle import (
    BUCKETS,
    SCHEMA,
    Announcement,
    AuditTable,
    Base,
    Chunk,
    Day,
    Head,
    Manifest,
    Pinned,
    SignedTip,
    Snapshot,
    Tip,
    bucket_digest,
    bucket_of,
    chain_next,
    chain_start,
)
from gated.wire.codec import encode
from gated.wire.rows import CONTROL, PEOPLE
from gated.wire.segment import Change, SegmentNote, pack

START = datetime(2026, 11, 21, 3, 30, tzinfo=UTC)
SITE, LANE = "tpe-t1", "lane-07"
NAME = f"{SITE}/{LANE}"
KEYS = {name: bytes([number]) * 32 for number, name in enumerate(("root", "targets", "online", "lift", "other"), 1)}
WRAPPED = {PEOPLE: b"people key for " + NAME.encode(), CONTROL: b"control key for " + NAME.encode()}


class Clock:
    """The time of day, as the test says."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def on(self, **more: float) -> None:
        self.now += timedelta(**more)


def signers(*names: str) -> Signers:
    return Signers(KEYS[name] for name in names)


def place(number: int) -> bytes:
    """A place that is spread as keyed hashes are."""
    return sha256(str(number).encode()).digest()[:16]


def row(number: int, edition: int = 0) -> bytes:
    """A sealed row: nobody here can open one, so any bytes are as good."""
    return sha256(f"{number}/{edition}".encode()).digest() * 2


def packed(note: SegmentNote, changes: Mapping[bytes, bytes | None]) -> bytes:
    parts: list[bytes] = []
    ordered: list[Change] = sorted(changes.items())
    pack(replace(note, rows=len(ordered)), ordered, parts.append)
    return b"".join(parts)


@dataclass
class Part:
    """One epoch of a partition at HQ."""

    partition: str
    epoch: int = 1
    serial: int = 0
    chain: bytes = b""
    rows: dict[bytes, bytes] = field(default_factory=dict)
    segments: list[tuple[bytes, int]] = field(default_factory=list)
    chains: list[bytes] = field(default_factory=list)
    changes: list[dict[bytes, bytes | None]] = field(default_factory=list)
    days: list[Day] = field(default_factory=list)
    snapshot: Snapshot | None = None
    lifts: list[Pinned] = field(default_factory=list)
    audit: AuditTable | None = None

    def __post_init__(self) -> None:
        self.chain = chain_start(self.partition, self.epoch)
        self.chains.append(self.chain)


class Hq:
    """Both partitions, the signed repository, and the files that any static server could serve."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder, self.clock = folder, clock
        everything = signers("root", "targets", "online", "lift")
        publics = {name: signers(name).publics()[0] for name in KEYS}
        self.repository = Repository.create(
            folder,
            everything,
            root=[publics["root"]],
            root_threshold=1,
            targets=[publics["targets"]],
            online=publics["online"],
            lift=publics["lift"],
            now=clock(),
        )
        self.online = "online"
        self.parts = {name: Part(name) for name in (PEOPLE, CONTROL)}
        for part in self.parts.values():
            self.wrap(part)
        self.sign(base=True)

    def file(self, path: str, data: bytes) -> Path:
        made = self.folder / path
        made.parent.mkdir(parents=True, exist_ok=True)
        part = made.with_name(f".{made.name}")
        part.write_bytes(data)
        part.replace(made)
        return made

    def wrap(self, part: Part, wrapped: bytes | None = None) -> None:
        self.file(bundle.key_path(part.partition, part.epoch, NAME), wrapped or WRAPPED[part.partition])

    # -- what HQ says

    def segment(self, name: str, changes: Mapping[bytes, bytes | None], *, lifts: bool = False) -> bytes:
        """The next segment: on the disk, in the index, and not signed yet."""
        part = self.parts[name]
        part.serial += 1
        note = SegmentNote(SCHEMA, "segment", name, part.epoch, part.serial, part.serial, 0)
        data = packed(note, changes)
        self.file(bundle.segment_path(name, part.epoch, part.serial), data)
        digest = sha256(data).digest()
        part.chain = chain_next(part.chain, part.serial, len(data), digest)
        part.segments.append((digest, len(data)))
        part.chains.append(part.chain)
        part.changes.append(dict(changes))
        for key, blob in changes.items():
            if blob is None:
                part.rows.pop(key, None)
            else:
                part.rows[key] = blob
        if lifts:
            part.lifts.append(Pinned(part.serial, digest))
        self.index(part)
        return data

    def add(self, name: str, *numbers: int, edition: int = 0) -> bytes:
        return self.segment(name, {place(n): row(n, edition) for n in numbers})

    def index(self, part: Part) -> None:
        for first in range(0, len(part.segments), bundle.PAGE_SEGMENTS):
            page = bundle.index_page(part.segments[first : first + bundle.PAGE_SEGMENTS])
            self.file(bundle.page_path(part.partition, part.epoch, first // bundle.PAGE_SEGMENTS), page)

    def day(self, name: str, first: int, last: int, *, pin: bool = False) -> Day:
        part = self.parts[name]
        changes: dict[bytes, bytes | None] = {}
        for each in part.changes[first - 1 : last]:
            changes |= each
        data = packed(SegmentNote(SCHEMA, "day", name, part.epoch, first, last, 0), changes)
        self.file(bundle.day_path(name, part.epoch, first, last), data)
        made = Day(first, last, part.chains[last], sha256(data).digest(), len(data))
        part.days.append(made)
        if pin:
            part.lifts.append(Pinned(last, made.sha256))
        return made

    def snap(self, name: str, chunk_rows: int = 100) -> Manifest:
        """The partition as it is now, as the new base."""
        part = self.parts[name]
        note = SegmentNote(SCHEMA, "chunk", name, part.epoch, part.serial, part.serial, 0)
        ordered = sorted(part.rows.items())
        chunks: list[Chunk] = []
        for start in range(0, len(ordered), chunk_rows):
            data = packed(note, dict(ordered[start : start + chunk_rows]))
            self.file(bundle.chunk_path(name, part.epoch, part.serial, len(chunks)), data)
            chunks.append(Chunk(ordered[start][0], sha256(data).digest(), len(data)))
        manifest = Manifest(SCHEMA, name, part.epoch, part.serial, len(ordered), tuple(chunks))
        data = encode(manifest)
        self.file(bundle.manifest_path(name, part.epoch, part.serial), data)
        part.snapshot = Snapshot(part.serial, part.chain, len(ordered), sha256(data).digest(), len(data))
        part.lifts = []
        return manifest

    def next_epoch(self, name: str) -> None:
        """Everything sealed anew under another key, and nothing yet of what was before."""
        old = self.parts[name]
        self.parts[name] = Part(name, old.epoch + 1)
        self.wrap(self.parts[name])

    def table(self, name: str) -> None:
        part = self.parts[name]
        buckets: list[list[tuple[bytes, bytes]]] = [[] for _ in range(BUCKETS)]
        for key, blob in sorted(part.rows.items()):
            buckets[bucket_of(key)].append((key, blob))
        data = b"".join(bucket_digest(each) for each in buckets)
        self.file(bundle.audit_path(name, part.epoch, part.serial), data)
        part.audit = AuditTable(part.serial, sha256(data).digest())

    def base_of(self, name: str) -> Base:
        part = self.parts[name]
        return Base(SCHEMA, name, part.epoch, b"proof", part.snapshot, tuple(part.lifts))

    def head_of(self, name: str) -> Head:
        part = self.parts[name]
        fitting = tuple(part.days)
        return Head(SCHEMA, name, part.epoch, part.serial, part.chain, self.clock(), fitting, part.audit)

    def sign(self, *, base: bool = False, also: Mapping[str, bytes | None] | None = None) -> None:
        """Heads, and with `base` the bases too, as they are now."""
        targets: dict[str, bytes | None] = {
            bundle.target_path(name, "head"): encode(self.head_of(name)) for name in self.parts
        }
        if base:
            targets |= {bundle.target_path(name, "base"): encode(self.base_of(name)) for name in self.parts}
        names = [self.online, *(["lift"] if base else []), *(["targets"] if also else [])]
        self.repository.put({**targets, **(also or {})}, signers(*names), self.clock())

    def rotate(self) -> None:
        """Root takes the online key away and names another."""
        old, new = signers("online").publics(), signers("other").publics()
        keys = signers("root", "targets", "online", "other", "lift")
        self.repository.rotate("online", old, new, 1, keys, self.clock())
        self.online = "other"

    def tip(self, name: str, data: bytes, *, ride: bool = True, **changed: Any) -> SignedTip:
        """The announcement of the last segment, whose bytes are `data`."""
        part = self.parts[name]
        tip = Tip(
            SCHEMA, name, part.epoch, part.serial, part.chains[-2], sha256(data).digest(), len(data), self.clock()
        )
        return self.signed_tip(replace(tip, **changed), data if ride else None)

    def signed_tip(self, tip: Tip, segment: bytes | None) -> SignedTip:
        key, signature = self.repository.sign_tip(tip.partition, encode(tip), signers(self.online))
        return SignedTip(encode(tip), key, signature, segment)


def announcement(*tips: SignedTip, version: int = 0) -> bytes:
    return encode(Announcement(version, tips))


class LaneRig:
    """The lane's side: the real sync over the real fetcher, and what it told."""

    def __init__(self, folder: Path, url: str, root: bytes, clock: Clock) -> None:
        self.folder, self.url, self.root, self.clock = folder, url, root, clock
        folder.mkdir(exist_ok=True)
        self.told: list[tuple[str, str]] = []
        self.hears = True
        self.sync = self.begin()

    def begin(self) -> Sync:
        fetcher = Fetcher(Server(self.url, connect_s_max=5.0, read_s_max=5.0))
        trust = Trust(self.folder / "sync" / "trust", self.root, fetcher, self.clock)
        self.sync = Sync(self.folder, NAME, trust, fetcher, self.clock, self._tell)
        return self.sync

    def restart(self) -> Sync:
        self.sync.close()
        return self.begin()

    def _tell(self, partition: str, why: str) -> bool:
        if self.hears:
            self.told.append((partition, why))
        return self.hears

    def serial(self, name: str) -> int:
        return self.sync.copies[name].standing.serial

    def rows(self, name: str) -> dict[bytes, bytes]:
        return rows_of(self.newest(name))

    def newest(self, name: str) -> Path:
        return max(generations(self.folder, name).items())[1]

    def why(self, name: str) -> Why | None:
        """Why a partition is not as new as it should be: because of itself, or of the metadata."""
        trouble = self.sync.trouble.get(name) or self.sync.trouble.get("")
        return trouble.why if trouble else None

    def wipe_metadata(self) -> None:
        """Somebody takes the trusted metadata away, and the process begins anew."""
        self.sync.close()
        shutil.rmtree(self.folder / "sync" / "trust")
        self.begin()

    def same_as(self, hq: Hq) -> bool:
        """Every row, and the chain, of both partitions."""
        for name, part in hq.parts.items():
            note, _ = audited(self.newest(name))
            if self.rows(name) != part.rows or (note.epoch, note.serial, note.chain) != (
                part.epoch,
                part.serial,
                part.chain,
            ):
                return False
        return True


def rows_of(path: Path) -> dict[bytes, bytes]:
    """Every row of a generation, as it lies there."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as sql:
        found = dict(sql.execute("SELECT key, value FROM rows").fetchall())
    sql.close()
    return found


def altered(path: Path, at: int = -20) -> Callable[[], None]:
    """Flip a bit of a file; what is returned puts it right again."""
    before = path.read_bytes()
    data = bytearray(before)
    data[at] ^= 1
    path.write_bytes(data)
    return lambda: _put_back(path, before)


def shortened(path: Path, by: int = 7) -> Callable[[], None]:
    before = path.read_bytes()
    path.write_bytes(before[:-by])
    return lambda: _put_back(path, before)


def _put_back(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.utime(path)
