"""A fact on its way to HQ: the envelope, the hash chain of a stream, the sealed half. No I/O, no clock.

A record is identified by (lane, stream, seq). `stream_id` is one priority class of one database generation, with a
sequence without gaps from 1 on; every record holds the hash of the one before it, so a record that was changed, left
out or put in is found by `follow`, which both ends use. The clear half of a fact may be read by whoever carries it;
the personal half opens only with HQ's private key, and only inside the very envelope it was sealed for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from gated.wire.codec import WireError, dumps, has_personal, join, loads, split
from gated.wire.facts import FACTS, SCHEMA, STREAMS, RecordsDropped
from gated.wire.forms import form_of
from gated.wire.seal import SealError, open_sealed, padded, seal_to, unpadded

RECORD_MAX: Final = 32 * 1024
"""Bytes of one encoded record."""
HASH_BYTES: Final = 32

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Lanes, boots, generations, streams, kinds: fit for a topic, a file name and a log as they are."""


class ChainMissing(WireError):
    """A record is ahead of what is known: those before it have not come (yet)."""


class ChainBroken(WireError):
    """A record is not the one that its stream went on with: changed, forged, or of a second writer."""


def stream_id(generation: str, stream: str, chapter: int = 1) -> str:
    """The identity of one chapter of one priority class of one database generation (`facts.StreamContinued`)."""
    return f"{generation}-{stream}" if chapter == 1 else f"{generation}.{chapter}-{stream}"


def generation_of(stream_id: str) -> str:
    """The database generation of a stream: with lane and number it identifies a ticket."""
    return stream_id.rpartition("-")[0].partition(".")[0]


def parted(stream_id: str) -> tuple[str, str, int]:
    """(generation, class, chapter) of a stream id."""
    name, _, each = stream_id.rpartition("-")
    generation, _, chapter = name.partition(".")
    return generation, each, int(chapter) if chapter.isascii() and chapter.isdigit() else 1


@dataclass(frozen=True, slots=True)
class Record:
    """One fact of one lane, as it is stored, sent and kept. Equal records have equal bytes."""

    lane: str
    stream_id: str
    stream: str
    seq: int
    prev: bytes = field(metadata={"limit": HASH_BYTES})
    """Hash of the record before it in this stream, or of the stream's `Head.start`."""
    utc: datetime
    """When it happened, by the lane's wall clock, which may step."""
    boot: str
    """Which run of the lane's process wrote it."""
    kind: str
    """The fact's name in `gated.wire.facts`."""
    clear: Mapping[str, Any]
    """The fact's clear half as JSON. Not to be changed."""
    sealed: bytes | None = field(repr=False)
    """The fact's personal half, sealed to HQ; None for a kind that has none."""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        for name in ("lane", "stream_id", "stream", "boot", "kind"):
            if not _NAME.fullmatch(getattr(self, name)):
                raise ValueError(f"{name}: 1 to 64 letters, digits, dots, underscores and hyphens")
        if self.seq < 1 or len(self.prev) != HASH_BYTES or not self.stream_id.endswith("-" + self.stream):
            raise ValueError("a record has a number from 1 on, a SHA-256 of its predecessor and its stream's name")

    @property
    def generation(self) -> str:
        """The database generation: with lane and number it identifies a ticket."""
        return generation_of(self.stream_id)

    def encode(self) -> bytes:
        """Canonical bytes. Raises `WireError` above `RECORD_MAX`."""
        data = dumps(form_of(Record).dump(self))
        if len(data) > RECORD_MAX:
            raise WireError(f"a record longer than {RECORD_MAX} bytes")
        return data

    @classmethod
    def decode(cls, data: bytes) -> "Record":
        """The record whose canonical bytes these are. Its kind and halves are not looked into. Raises `WireError`."""
        if len(data) > RECORD_MAX:
            raise WireError(f"a record longer than {RECORD_MAX} bytes")
        record = form_of(cls).load(loads(data))
        assert isinstance(record, cls)
        return record

    def hash(self) -> bytes:
        """SHA-256 over the canonical bytes: what the next record refers to."""
        return sha256(b"gated record v1\n" + self.encode()).digest()

    def fact(self, private: bytes | None) -> Any:
        """The fact itself. `private`: HQ's key (32 bytes, X25519 raw), needed where there is a sealed half.

        Raises `WireError` for an unknown kind or a wrong form, `SealError` where the sealed half does not open."""
        cls = FACTS.get(self.kind)
        if cls is None:
            raise WireError("unknown kind")
        if has_personal(cls) != (self.sealed is not None):
            raise WireError("a sealed half where there is none, or none where there is one", self.kind)
        hidden: Any = {}
        if self.sealed is not None:
            if private is None:
                raise SealError("no key to open the sealed half with")
            hidden = loads(unpadded(open_sealed(private, self.sealed, self._place())))
        return join(cls, self.clear, hidden)

    def _place(self) -> bytes:
        """What the sealed half is bound to: everything else in the record."""
        return dumps(form_of(Record).dump(replace(self, sealed=None)))


@dataclass(frozen=True, slots=True)
class Head:
    """How far a stream has come: its last record's number and hash; number 0 before the first."""

    lane: str
    stream_id: str
    seq: int
    hash: bytes

    @classmethod
    def start(cls, lane: str, stream_id: str) -> "Head":
        """Before the first record."""
        return cls(lane, stream_id, 0, sha256(b"gated stream v1\n" + dumps([lane, stream_id])).digest())

    def next(self, fact: Any, utc: datetime, boot: str, hq_public: bytes) -> Record:
        """The record of `fact` that goes on from here, its personal half sealed. Raises `WireError`."""
        clear, hidden = split(fact)
        generation, _, stream = self.stream_id.rpartition("-")
        assert generation and stream in STREAMS, self.stream_id
        kind = type(fact).__name__
        record = Record(self.lane, self.stream_id, stream, self.seq + 1, self.hash, utc, boot, kind, clear, sealed=None)
        if has_personal(type(fact)):
            record = replace(record, sealed=seal_to(hq_public, padded(dumps(hidden)), record._place()))
        return record

    def after(self, record: Record) -> "Head":
        """The head that is reached by `record`."""
        return Head(self.lane, self.stream_id, record.seq, record.hash())


def first_of(record: Record) -> int:
    """The first number that a record stands for: its own, but for a `RecordsDropped`. Raises `WireError`."""
    return int(record.fact(None).first) if record.kind == RecordsDropped.__name__ else record.seq


def follow(head: Head, record: Record) -> Head:
    """The head after `record`; `head` itself where the record is already behind it (a duplicate).

    Raises `ChainMissing` where records before it are missing, `ChainBroken` where it does not go on from `head`."""
    if (record.lane, record.stream_id) != (head.lane, head.stream_id):
        raise ChainBroken("a record of another stream")
    if record.seq <= head.seq:
        return head
    if record.kind != RecordsDropped.__name__:
        if record.seq != head.seq + 1:
            raise ChainMissing("records before it are missing")
        if record.prev != head.hash:
            raise ChainBroken("does not go on from the record before it")
        return head.after(record)
    dropped = record.fact(None)
    if dropped.last != record.seq:
        raise ChainBroken("stands at another number than it says")
    if dropped.first > head.seq + 1:
        raise ChainMissing("records before it are missing")
    if dropped.first == head.seq + 1 and record.prev != head.hash:
        raise ChainBroken("does not go on from the record before it")
    return Head(head.lane, head.stream_id, dropped.last, dropped.head)
