"""HQ's publisher as tests drive it, and a lane's side in thirty lines: what it reaches by each way, fully proven."""

import hashlib
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gated.hq.epochs import key_file
from gated.hq.published import PublisherState
from gated.hq.publisher import Publisher
from gated.hq.registers import Paper, PaperStatus, Person, Register
from gated.hq.repository import Repository, Signers
from gated.wire.bundle import (
    PAGE_SEGMENTS,
    Base,
    Head,
    IndexEntry,
    Manifest,
    Pinned,
    chain_start,
    chunk_path,
    day_path,
    load,
    manifest_path,
    page_path,
    proven_index,
    segment_path,
    target_path,
)
from gated.wire.rows import EpochKey
from gated.wire.segment import Unpacked

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DATA_KEY = bytes(range(32))
SECRETS = {name: bytes([n]) * 32 for n, name in enumerate(("root", "targets", "online", "lift"), 1)}
ONLINE = Signers([SECRETS["online"]])
BOTH = Signers([SECRETS["online"], SECRETS["lift"]])


def public(name: str) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(SECRETS[name]).public_key().public_bytes_raw()


def person(n: int = 1, **changed: Any) -> Person:
    given: dict[str, Any] = {
        "subject": 0,
        "category": "national",
        "birth": date(1990, 1, 1),
        "sex": "F",
        "surname": "CHENCANARY",
        "personal_number": f"A{n:09}",
        "papers": (Paper("TWN", f"3{n:08}"),),
        "face": bytes([n % 256]) * 512,
        "face_model": "m",
    }
    return Person(**{**given, **changed})


class Hq:
    """Register, keys, repository and publisher's database in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys, self.repo = folder / "keys", folder / "repo"
        self.register = Register(folder / "registers.db", DATA_KEY)
        if not self.repo.exists():
            Repository.create(
                self.repo,
                Signers(SECRETS.values()),
                root=[public("root")],
                root_threshold=1,
                targets=[public("targets")],
                online=public("online"),
                lift=public("lift"),
                now=NOW,
            )
        self.state = PublisherState(folder / "publish.db")

    def publisher(self, signers: Signers = BOTH, **options: Any) -> Publisher:
        return Publisher(self.register, self.state, self.keys, Repository(self.repo), signers, **options)

    def row(self, partition: str, *parts: str, epoch: int = 1) -> Any:
        """What a lane finds there, in clear; None: nothing."""
        key = self.key(partition, epoch)
        place = key.place(*parts)
        blob = Reader(self.repo, partition).rows().get(place)
        return None if blob is None else key.opened(place, blob)

    def key(self, partition: str, epoch: int = 1) -> EpochKey:
        return EpochKey.of(key_file(self.keys, partition, epoch).read_bytes())


@dataclass(frozen=True)
class Reader:
    """What a lane does, without keeping anything. Every step fails where a byte is not what was signed."""

    repo: Path
    partition: str

    def _target(self, kind: type[Any], what: str) -> Any:
        data = Repository(self.repo).target(target_path(self.partition, what))
        assert data is not None
        return load(kind, data)

    @property
    def base(self) -> Base:
        found: Base = self._target(Base, "base")
        return found

    @property
    def head(self) -> Head:
        found: Head = self._target(Head, "head")
        return found

    def index(self, serial: int, chain: bytes) -> list[IndexEntry]:
        head = self.head
        last = (head.serial - 1) // PAGE_SEGMENTS if head.serial else -1
        pages = {n: (self.repo / page_path(self.partition, head.epoch, n)).read_bytes() for n in range(last + 1)}
        return proven_index(pages, serial, chain, head)

    def snapshot(self) -> dict[bytes, bytes]:
        """The rows that the base starts from."""
        base = self.base
        if base.snapshot is None:
            return {}
        data = (self.repo / manifest_path(self.partition, base.epoch, base.serial)).read_bytes()
        assert (hashlib.sha256(data).digest(), len(data)) == (
            base.snapshot.manifest_sha256,
            base.snapshot.manifest_bytes,
        )
        manifest = load(Manifest, data)
        rows: dict[bytes, bytes] = {}
        for number, chunk in enumerate(manifest.chunks):
            data = (self.repo / chunk_path(self.partition, base.epoch, base.serial, number)).read_bytes()
            assert (hashlib.sha256(data).digest(), len(data)) == (chunk.sha256, chunk.size)
            unpacked = Unpacked(io.BytesIO(data))
            unpacked.expect("chunk", self.partition, base.epoch, base.serial, base.serial)
            found = dict(unpacked)
            assert min(found) == chunk.first and (not rows or max(rows) < chunk.first)
            rows.update((place, blob) for place, blob in found.items() if blob is not None)
        assert len(rows) == manifest.rows == base.snapshot.rows
        return rows

    def by_segments(self, rows: dict[bytes, bytes], serial: int, chain: bytes) -> dict[bytes, bytes]:
        """`rows` after every segment since `serial`."""
        head, rows = self.head, dict(rows)
        for entry in self.index(serial, chain):
            path = self.repo / segment_path(self.partition, head.epoch, entry.serial)
            self._apply(rows, path, "segment", entry.serial, entry.serial, entry.sha256, entry.size)
        return rows

    def by_days(self, rows: dict[bytes, bytes], serial: int, chain: bytes) -> dict[bytes, bytes]:
        """`rows` after every day that helps, and the segments that are in none."""
        head, rows = self.head, dict(rows)
        for day in head.days:
            if day.first - 1 <= serial < day.last:
                path = self.repo / day_path(self.partition, head.epoch, day.first, day.last)
                self._apply(rows, path, "day", day.first, day.last, day.sha256, day.size)
                serial, chain = day.last, day.chain
        return self.by_segments(rows, serial, chain)

    def _apply(
        self, rows: dict[bytes, bytes], path: Path, kind: str, first: int, last: int, sha256: bytes, size: int
    ) -> None:
        data = path.read_bytes()
        assert (hashlib.sha256(data).digest(), len(data)) == (sha256, size)
        unpacked = Unpacked(io.BytesIO(data))
        unpacked.expect(kind, self.partition, self.head.epoch, first, last)
        may_lift = self.partition == "people" or Pinned(last, sha256) in self.base.lifts
        for place, blob in unpacked:
            assert may_lift or place not in rows or rows[place] == blob, "lifts, and nobody signed it"
            if blob is None:
                rows.pop(place, None)
            else:
                rows[place] = blob

    def rows(self) -> dict[bytes, bytes]:
        """Snapshot and segments."""
        base = self.base
        return self.by_segments(self.snapshot(), base.serial, base.chain)

    def from_empty(self) -> dict[bytes, bytes]:
        """Segments from the very beginning of an epoch that began empty."""
        return self.by_segments({}, 0, chain_start(self.partition, self.head.epoch))


def opened(rows: dict[bytes, bytes], key: EpochKey) -> Iterator[Any]:
    """The rows in clear."""
    return (key.opened(place, blob) for place, blob in rows.items())


def change(register: Register, dice: random.Random) -> None:
    """One random change of the register, and what is known of a document."""
    count = len(list(register.people()))
    some = dice.randrange(1, count + 1) if count else 0
    kind = dice.randrange(6)
    if kind < 2 or not count:
        register.enrol(person(count + 1))
    elif kind == 2:
        paper = Paper("TWN", f"4{dice.randrange(10**8):08}")
        register.enrol(replace(register.person(some), papers=(paper,)))
    elif kind == 3:
        register.set_papers(some, register.person(some).papers[-1:])
    elif kind == 4:
        register.add_flags(some, {dice.choice(("wanted", "exit_ban", "watch"))}, urgent=dice.random() < 0.5)
    else:
        register.lift_flags(some)
    known = frozenset(dice.sample(("lost", "stolen"), dice.randrange(3)))
    register.set_status(PaperStatus(Paper("UTO", f"X{dice.randrange(5)}"), known))
