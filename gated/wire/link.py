"""What lanes and HQ say to each other around the records: topics, births, receipts, answers. No I/O, no
clock.

Nothing here carries personal data. Records themselves are in `gated.wire.facts`, orders in
`gated.wire.orders`; docs/uplink.md tells the whole conversation."""

import base64
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gated.wire import codec
from gated.wire.codec import WireError, added, limited
from gated.wire.facts import CODE, CODE_MAX, Part

ROOT: Final = "gate/v1"
FROM_LANES: Final = ("event", "birth", "death", "telemetry", "reported")
"""What HQ's ingest reads."""
LEAVES: Final = frozenset({*FROM_LANES, "answer", "ack", "cmd", "desired", "announce"})
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
STREAMS_MAX: Final = 256
PARTS_MAX: Final = 64
HASH: Final = {"limit": 32}
GAPS_MAX: Final = 64
FINDINGS_MAX: Final = 16

ID_PROPERTY: Final = "stream-id"
SEQ_PROPERTY: Final = "seq"
"""User properties of an event: they name the record even where its bytes cannot be read."""
SIGNATURE_PROPERTY: Final = "signature"
"""User property of a receipt: `receipt_signed`, base64."""


def topic(site: str, lane: str, leaf: str) -> str:
    """`gate/v1/<site>/<lane>/<leaf>`. Raises `ValueError` for a name that is not one level of a topic."""
    if not _NAME.fullmatch(site) or not _NAME.fullmatch(lane) or leaf not in LEAVES:
        raise ValueError("site and lane are 1 to 32 lower-case letters, digits and '-'")
    return f"{ROOT}/{site}/{lane}/{leaf}"


def announce_topic() -> str:
    """Where HQ says to all lanes, retained, that it has published (`gated.wire.bundle.Announcement`)."""
    return topic("hq", "all", "announce")


def place(name: str) -> tuple[str, str, str]:
    """(site, lane, leaf) of a topic. Raises `ValueError`."""
    parts = name.split("/")
    if len(parts) != 5 or "/".join(parts[:2]) != ROOT or parts[4] not in LEAVES:
        raise ValueError("not a topic of gate/v1")
    if not _NAME.fullmatch(parts[2]) or not _NAME.fullmatch(parts[3]):
        raise ValueError("not a topic of gate/v1")
    return parts[2], parts[3], parts[4]


def ingest_filters(group: str, site: str = "+") -> tuple[str, ...]:
    """What HQ's workers read: a shared subscription, so the broker deals each message to one member of `group`. Its
    name is HQ's secret: whoever joins takes his share of the messages, whether he may read them or not."""
    return tuple(f"$share/{group}/{ROOT}/{site}/+/{leaf}" for leaf in FROM_LANES)


def receipt_signed(topic: str, payload: bytes) -> bytes:
    """What HQ signs (Ed25519) so that a lane believes a receipt: its bytes, and whom it is for. A broker that could
    make one could have a lane forget records that HQ never got."""
    return b"gated receipt v1\n" + topic.encode() + b"\n" + payload


def is_of_hq(public_keys: Collection[bytes], topic: str, payload: bytes, properties: Mapping[str, str]) -> bool:
    """Whether one of these keys (Ed25519, 32 raw bytes each) signed a receipt: if not, the broker, or who got past its
    rules, speaks in HQ's name."""
    try:
        signature = base64.b64decode(properties.get(SIGNATURE_PROPERTY, ""), validate=True)
    except ValueError:
        return False
    for key in public_keys:
        with suppress(InvalidSignature):
            Ed25519PublicKey.from_public_bytes(key).verify(signature, receipt_signed(topic, payload))
            return True
    return False


@dataclass(frozen=True, slots=True)
class Span:
    """What a lane still holds of one stream: `first` to `last`, both included; `last < first`: nothing. Where its
    oldest record is a `RecordsDropped`, `first` is the first number that this stands for."""

    stream_id: str = field(metadata=CODE)
    stream: str = field(metadata=CODE)
    first: int
    last: int
    acked: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Records `first` to `last` of a stream are not acknowledged, and not there: somebody took them out."""

    stream_id: str = field(metadata=CODE)
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class JournalHead:
    """How far a lane's journal has come: rows `first` to `last` are there, and `link` is the hash of the last over all
    before it. HQ remembers it, so a journal that was changed or cut before it does not fit any more."""

    generation: str = field(metadata=CODE)
    first: int
    last: int
    link: bytes = field(metadata=HASH)


@dataclass(frozen=True, slots=True)
class Finding:
    """The uplink finds that somebody was at the lane's database. `code`: journal_altered, journal_cut, journal_back,
    outbox_altered, outbox_gap, database_back, acked_altered. `detail`: where; nothing personal."""

    code: str = field(metadata=CODE)
    detail: str = limited(256, "")


@dataclass(frozen=True, slots=True)
class Birth:
    """Retained: a lane's uplink came up, or what it holds changed otherwise than by going on.

    `session` names this connection; a `Death` of another session says nothing about it. `boot` is the lane
    process's run, which orders must name; empty while the lane cannot be asked."""

    session: str = field(metadata=CODE)
    boot: str = field(metadata=CODE)
    utc: datetime
    version: str = field(metadata=CODE)
    spans: tuple[Span, ...] = limited(STREAMS_MAX)
    parts: tuple[Part, ...] = added((), limit=PARTS_MAX)
    """Versions of what the lane is made of, and how far its cache is: daemon, uplink, policy, cache.people ..."""
    gaps: tuple[Gap, ...] = added((), limit=GAPS_MAX)


@dataclass(frozen=True, slots=True)
class Death:
    """Retained: the session ended. The broker says so as its will (`lost`), the uplink when it stops
    (`stopped`)."""

    session: str = field(metadata=CODE)
    why: str = field(metadata=CODE)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Every few seconds. `ping` is answered by the next receipt: so the lane knows that HQ, not a broker,
    is there."""

    session: str = field(metadata=CODE)
    boot: str = field(metadata=CODE)
    utc: datetime
    ping: str = field(metadata=CODE)
    lane_up: bool
    store: str = field(metadata=CODE)
    """`ok`, or a short code: `absent`, `busy`, `unreadable`."""
    pending: int
    """Records that HQ has not acknowledged."""
    oldest_s: float
    """Age of the oldest of them; 0 where there is none."""
    refused: int
    """Records that HQ has refused for good since this uplink started."""
    resent: int
    """Records sent more than once since this uplink started."""
    journal: JournalHead | None = added(None)
    findings: tuple[Finding, ...] = added((), limit=FINDINGS_MAX)


@dataclass(frozen=True, slots=True)
class Head:
    """HQ has committed every record of the stream up to `seq`. `chain`: the hash of record `seq`, as HQ got
    it."""

    stream_id: str = field(metadata=CODE)
    seq: int
    chain: bytes = field(metadata=HASH)
    resend: bool = False
    """HQ saw a later record and misses the next one: send again from `seq + 1`, without waiting."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """HQ will not take the bytes with the hash `chain` as this record. `final`: it has set exactly those bytes aside,
    durably, and the stream goes on without them."""

    stream_id: str = field(metadata=CODE)
    seq: int
    chain: bytes = field(metadata=HASH)
    why: str = field(metadata=CODE)
    final: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """HQ -> lane, after HQ's commit: the only thing that lets a record leave the lane.

    `hq` names which of HQ's workers says so. Several answer one lane, so receipts overtake each other: a lower head
    means nothing, except beside the `pong` of a ping. What HQ says there it looked up after the ping was sent, so a
    head below what was acknowledged before that ping means that HQ went back to an older copy of its database."""

    hq: str = limited(CODE_MAX, "")
    heads: tuple[Head, ...] = limited(STREAMS_MAX, ())
    refusals: tuple[Refusal, ...] = ()
    pong: str = limited(CODE_MAX, "")
    """With it come the heads of every stream that the lane's last birth told of."""
    rebirth: bool = added(False)
    """HQ does not know this session: tell the birth again."""
    anchor: JournalHead | None = added(None)
    """Beside a pong: the newest head of the lane's journal (of this generation) told to HQ by an earlier session."""


@dataclass(frozen=True, slots=True)
class OrderAnswer:
    """Lane -> HQ: what became of an order. `taken`: the lane verified it and accepts it; else `why` it does not. What
    comes of it is a record."""

    order: str = field(metadata=CODE)
    taken: bool
    why: str = field(metadata={"limit": 256})


@dataclass(frozen=True, slots=True)
class Desired:
    """HQ -> lane, retained: which versions the lane should have. It names and never contains: what the lane then
    fetches is signed. `revision` only grows; a lane takes no notice of a lower one than it has seen."""

    revision: int
    utc: datetime
    parts: tuple[Part, ...] = limited(PARTS_MAX, ())


@dataclass(frozen=True, slots=True)
class Reported:
    """Lane -> HQ, retained: what the lane has, and what of the desired it has not (`behind`, names of parts)."""

    revision: int
    utc: datetime
    parts: tuple[Part, ...] = limited(PARTS_MAX, ())
    behind: tuple[str, ...] = limited(PARTS_MAX, ())


MESSAGES: Final = codec.kinds(Birth, Death, Telemetry, Receipt, OrderAnswer, Desired, Reported)
Message = Birth | Death | Telemetry | Receipt | OrderAnswer | Desired | Reported


def encode(message: Message) -> bytes:
    """The payload. Raises `WireError` for a value out of its type."""
    return codec.encode(message)


def decode(payload: bytes) -> Message:
    """The message. Raises `WireError`."""
    message: Message = codec.decode(MESSAGES, payload)
    return message


__all__ = [
    "ID_PROPERTY",
    "SEQ_PROPERTY",
    "SIGNATURE_PROPERTY",
    "Birth",
    "Death",
    "Desired",
    "Finding",
    "Gap",
    "Head",
    "JournalHead",
    "Message",
    "OrderAnswer",
    "Receipt",
    "Refusal",
    "Reported",
    "Span",
    "Telemetry",
    "WireError",
    "announce_topic",
    "decode",
    "encode",
    "ingest_filters",
    "place",
    "receipt_signed",
    "topic",
]
