"""What HQ publishes of a partition, and how a lane proves it before it uses any of it. No I/O, no clock.

A partition is a table of sealed rows at places of 16 bytes (`gated.wire.rows`). HQ numbers every change of it: segment
`serial` holds the rows that were put or taken away since `serial - 1`. Every segment extends a hash chain:

    chain(0) = SHA-256("gated chain\\n" partition "/" epoch)
    chain(n) = SHA-256(chain(n - 1) || n || bytes of segment n || SHA-256 of segment n)

Two small targets of a partition are signed (TUF): `Base`, what the chain starts from, and `Head`, where it has come to.
Everything else lies beside them unsigned and is proven by them: an index page (32 bytes of hash and 8 of length for
each segment) by the chain from the lane's own serial to the head, a segment by its index, a day by the head, a
snapshot's manifest by the base and its chunks by the manifest. A small segment also rides in the announcement over
MQTT, with a signature of the partition's role over its `Tip`.

Where the files lie below the server's root: `segment_path` and its sisters. Numbers are big-endian.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from gated.wire.codec import WireError, limited, loads
from gated.wire.codec import load as load_tree
from gated.wire.rows import CONTROL, PARTITIONS

SCHEMA: Final = 1
"""The edition of everything here. Another one is refused by name: both sides must be updated."""
HASH_BYTES: Final = 32
PLACE_BYTES: Final = 16
TIP_SEGMENT_BYTES_MAX: Final = 48 * 1024
"""A segment of at most so many bytes rides in the announcement."""
MANIFEST_BYTES_MAX: Final = 1 << 20
PAGE_SEGMENTS: Final = 512
"""Page p of the index holds the segments p * PAGE_SEGMENTS + 1 up to (p + 1) * PAGE_SEGMENTS."""
SERIAL_MAX: Final = (1 << 62) - 1
JUMP_MAX: Final = 5_000_000
"""Nothing may run ahead of what a lane knows by more: at a segment a minute that is nine years."""
BUCKETS: Final = 4096
"""A bucket of the audit is every place with the same first 12 bits: a run of rows in key order."""
DIGEST_BYTES: Final = 16
GUARDED: Final = frozenset({CONTROL})
"""Of these partitions the head's signer alone may only add rows: what takes one away or replaces it is listed in the
base, which a second key signs too."""
DAYS_MAX: Final = 64
LIFTS_MAX: Final = 4096

_CHAIN: Final = b"gated chain\n"
_TIP: Final = b"gated tip v1\n"


class BundleError(ValueError):
    """Something published is not what it should be. `why`: a code in lower case; nothing of the content."""

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(f"{why}: {advice}" if advice else why)
        self.why = why


# -- what is signed ----------------------------------------------------------------------------------------------


def _checked(partition: str, epoch: int, *serials: int) -> None:
    if partition not in PARTITIONS:
        raise ValueError("no such partition")
    if not 1 <= epoch <= SERIAL_MAX or any(not 0 <= serial <= SERIAL_MAX for serial in serials):
        raise ValueError("epoch and serial are positive and not huge")


@dataclass(frozen=True, slots=True)
class Pinned:
    """One segment, by its bytes."""

    serial: int
    sha256: bytes = field(metadata={"limit": HASH_BYTES})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole partition as it was after segment `serial`; `chain` is the chain there."""

    serial: int
    chain: bytes = field(metadata={"limit": HASH_BYTES})
    rows: int
    manifest_sha256: bytes = field(metadata={"limit": HASH_BYTES})
    manifest_bytes: int


@dataclass(frozen=True, slots=True)
class Base:
    """What the chain of a partition's epoch starts from. `proof` opens under the epoch's key alone (`rows.EpochKey`).

    Without a snapshot the partition begins empty at serial 0. `lifts`: the segments since then that may take rows of a
    guarded partition away or replace them."""

    schema: int
    partition: str
    epoch: int
    proof: bytes = field(metadata={"limit": 256})
    snapshot: Snapshot | None = None
    lifts: tuple[Pinned, ...] = limited(LIFTS_MAX, ())

    def __post_init__(self) -> None:
        _checked(self.partition, self.epoch, *([self.snapshot.serial] if self.snapshot else []))

    @property
    def serial(self) -> int:
        return self.snapshot.serial if self.snapshot else 0

    @property
    def chain(self) -> bytes:
        return self.snapshot.chain if self.snapshot else chain_start(self.partition, self.epoch)


@dataclass(frozen=True, slots=True)
class Day:
    """The segments `first` to `last` in one, of each place the last word alone. Whoever is anywhere from `first - 1` to
    `last - 1` may apply it and is then at `last`; `chain` is the chain there."""

    first: int
    last: int
    chain: bytes = field(metadata={"limit": HASH_BYTES})
    sha256: bytes = field(metadata={"limit": HASH_BYTES})
    size: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError("a day goes from first to last")


@dataclass(frozen=True, slots=True)
class AuditTable:
    """The digests of every bucket after segment `serial`: BUCKETS times DIGEST_BYTES, in order."""

    serial: int
    sha256: bytes = field(metadata={"limit": HASH_BYTES})


@dataclass(frozen=True, slots=True)
class Head:
    """Where a partition's chain has come to. `built`: when HQ last looked whether there is anything new."""

    schema: int
    partition: str
    epoch: int
    serial: int
    chain: bytes = field(metadata={"limit": HASH_BYTES})
    built: datetime
    days: tuple[Day, ...] = limited(DAYS_MAX, ())
    """In order, without overlap; none of a guarded partition that lifts anything unless `Base.lifts` pins it."""
    audit: AuditTable | None = None

    def __post_init__(self) -> None:
        _checked(self.partition, self.epoch, self.serial)


@dataclass(frozen=True, slots=True)
class Tip:
    """One segment as its announcement vouches for it: signed by the role that signs the head."""

    schema: int
    partition: str
    epoch: int
    serial: int
    previous: bytes = field(metadata={"limit": HASH_BYTES})
    """The chain before it."""
    sha256: bytes = field(metadata={"limit": HASH_BYTES})
    size: int
    built: datetime

    def __post_init__(self) -> None:
        _checked(self.partition, self.epoch, self.serial)


@dataclass(frozen=True, slots=True)
class SignedTip:
    """`tip`: `encode(Tip)`. `key`: the signer's TUF key id. `segment`: the segment's bytes where they are few."""

    tip: bytes = field(metadata={"limit": 2048})
    key: str = field(metadata={"limit": 64})
    signature: bytes = field(metadata={"limit": 512})
    segment: bytes | None = limited(TIP_SEGMENT_BYTES_MAX, None)


@dataclass(frozen=True, slots=True)
class Announcement:
    """Over MQTT: there is something new. Not signed as a whole and worth nothing but for its tips: whoever forges one
    can make lanes ask HQ's server once more, no oftener than they would allow."""

    metadata_version: int
    """Of the timestamp role."""
    tips: tuple[SignedTip, ...] = limited(16, ())


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a snapshot: rows in key order, from place `first` on, all before those of the next chunk."""

    first: bytes = field(metadata={"limit": PLACE_BYTES})
    sha256: bytes = field(metadata={"limit": HASH_BYTES})
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The chunks of one snapshot, in order."""

    schema: int
    partition: str
    epoch: int
    serial: int
    rows: int
    chunks: tuple[Chunk, ...] = limited(1 << 16, ())


def load(cls: type[Any], data: bytes) -> Any:
    """A value of `cls`, one of those above, from its canonical form. Raises `BundleError`: `wrong_schema`,
    `malformed`."""
    try:
        tree = loads(data)
        _known_edition(cls, tree)  # first: another edition may have other fields
        return load_tree({cls.__name__: cls}, tree)
    except WireError as bad:
        raise BundleError("malformed", str(bad)) from None


def _known_edition(cls: type[Any], tree: Any) -> None:
    fields = tree.get(cls.__name__) if type(tree) is dict else None
    edition = fields.get("schema", SCHEMA) if type(fields) is dict else SCHEMA
    if type(edition) is int and edition != SCHEMA:
        named = str(edition) if 0 <= edition < 1000 else "unknown"
        raise BundleError("wrong_schema", f"edition {named}, this program knows {SCHEMA}: update it")


def tip_message(tip: bytes) -> bytes:
    """What is signed of a tip: it can be taken for nothing else."""
    return _TIP + tip


# -- the chain ---------------------------------------------------------------------------------------------------


def chain_start(partition: str, epoch: int) -> bytes:
    """The chain before the first segment."""
    return hashlib.sha256(_CHAIN + f"{partition}/{epoch}".encode()).digest()


def chain_next(chain: bytes, serial: int, size: int, sha256: bytes) -> bytes:
    """The chain after segment `serial` of `size` bytes."""
    return hashlib.sha256(chain + struct.pack(">QQ", serial, size) + sha256).digest()


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One segment as the index has it, with the chain after it."""

    serial: int
    sha256: bytes
    size: int
    chain: bytes


_ENTRY: Final = struct.Struct(">32sQ")


def index_page(entries: Iterable[tuple[bytes, int]]) -> bytes:
    """A page of (sha256, size)."""
    return b"".join(_ENTRY.pack(sha256, size) for sha256, size in entries)


def page_of(serial: int) -> int:
    """The page that a segment stands on."""
    return (serial - 1) // PAGE_SEGMENTS


def proven_index(pages: Mapping[int, bytes], serial: int, chain: bytes, head: Head) -> list[IndexEntry]:
    """The segments after `serial` (where the chain is `chain`) up to the head, proven by the head's chain.

    Raises `BundleError`: `truncated` where a page is too short, `wrong_chain` where it does not lead to the head."""
    found = []
    for number in range(serial + 1, head.serial + 1):
        at = (number - 1) % PAGE_SEGMENTS * _ENTRY.size
        entry = pages.get(page_of(number), b"")[at : at + _ENTRY.size]
        if len(entry) < _ENTRY.size:
            raise BundleError("truncated", f"the index ends before segment {number} of {head.serial}")
        sha256, size = _ENTRY.unpack(entry)
        chain = chain_next(chain, number, size, sha256)
        found.append(IndexEntry(number, sha256, size, chain))
    if chain != head.chain:
        raise BundleError("wrong_chain", "the index does not lead from what is here to what HQ signed")
    return found


# -- the audit ---------------------------------------------------------------------------------------------------


def bucket_of(place: bytes) -> int:
    """0 to BUCKETS - 1: the place's first 12 bits."""
    return place[0] << 4 | place[1] >> 4


def bucket_range(bucket: int) -> tuple[bytes, bytes]:
    """(first place, first place after it) of a bucket; of the last one the end is longer than any place."""
    start = (bucket << 4).to_bytes(2, "big") + bytes(PLACE_BYTES - 2)
    if bucket == BUCKETS - 1:
        return start, b"\xff" * (PLACE_BYTES + 1)
    return start, ((bucket + 1) << 4).to_bytes(2, "big") + bytes(PLACE_BYTES - 2)


def bucket_digest(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The digest of a bucket's (place, sealed row), in order of place: SHA-256, cut to 16 bytes.

    A sum of hashes could be kept up row by row, and could be met by a choice of rows; this cannot."""
    digest = hashlib.sha256()
    for place, blob in rows:
        digest.update(place + struct.pack(">I", len(blob)) + blob)
    return digest.digest()[:DIGEST_BYTES]


def differing(ours: bytes, theirs: bytes) -> list[int]:
    """The buckets that differ between two tables of digests. Raises `BundleError` where one is no table."""
    if len(ours) != BUCKETS * DIGEST_BYTES or len(theirs) != len(ours):
        raise BundleError("malformed", "not a table of digests")
    step = DIGEST_BYTES
    return [n for n in range(BUCKETS) if ours[n * step : (n + 1) * step] != theirs[n * step : (n + 1) * step]]


# -- where the files lie -------------------------------------------------------------------------------------------


def target_path(partition: str, what: str) -> str:
    """The TUF target of a partition: `what` is `base` or `head`."""
    return f"{partition}/{what}.json"


def _folder(partition: str, epoch: int) -> str:
    return f"data/{partition}/{epoch}"


def segment_path(partition: str, epoch: int, serial: int) -> str:
    return f"{_folder(partition, epoch)}/segments/{serial // 1000}/{serial}.seg"


def day_path(partition: str, epoch: int, first: int, last: int) -> str:
    return f"{_folder(partition, epoch)}/days/{first}-{last}.day"


def page_path(partition: str, epoch: int, page: int) -> str:
    return f"{_folder(partition, epoch)}/index/{page}.idx"


def manifest_path(partition: str, epoch: int, serial: int) -> str:
    return f"{_folder(partition, epoch)}/snapshots/{serial}/manifest.json"


def chunk_path(partition: str, epoch: int, serial: int, number: int) -> str:
    return f"{_folder(partition, epoch)}/snapshots/{serial}/{number}.chunk"


def audit_path(partition: str, epoch: int, serial: int) -> str:
    return f"{_folder(partition, epoch)}/audit/{serial}.tbl"


def key_path(partition: str, epoch: int, lane: str) -> str:
    """The epoch's key, wrapped for one lane (`site/lane`)."""
    return f"{_folder(partition, epoch)}/keys/{lane.replace('/', '.')}.key"
