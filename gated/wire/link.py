"""What lanes and HQ say to each other around the records: topics, births, receipts, answers. No I/O, no
clock.

Nothing here carries personal data. Records themselves are in `gated.wire.facts`, orders in
`gated.wire.orders`; docs/uplink.md tells the whole conversation."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from gated.wire import codec
from gated.wire.codec import WireError, limited

ROOT: Final = "gate/v1"
LEAVES: Final = frozenset({"birth", "death", "telemetry", "event", "ack", "cmd", "answer", "announce"})
EVENT_FILTER: Final = f"{ROOT}/+/+/event"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
STREAMS_MAX: Final = 256

ID_PROPERTY: Final = "stream-id"
SEQ_PROPERTY: Final = "seq"
"""User properties of an event: they name the record even where its bytes cannot be read."""


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


@dataclass(frozen=True, slots=True)
class Span:
    """What a lane still holds of one stream: `first` to `last`, both included; `last < first`: nothing."""

    stream_id: str
    stream: str
    first: int
    last: int
    acked: int


@dataclass(frozen=True, slots=True)
class Birth:
    """Retained: a lane's uplink came up, or what it holds changed otherwise than by going on.

    `session` names this connection; a `Death` of another session says nothing about it. `boot` is the lane
    process's run, which orders must name; empty while the lane cannot be asked."""

    session: str
    boot: str
    utc: datetime
    version: str
    spans: tuple[Span, ...] = limited(STREAMS_MAX)


@dataclass(frozen=True, slots=True)
class Death:
    """Retained: the session ended. The broker says so as its will (`lost`), the uplink when it stops
    (`stopped`)."""

    session: str
    why: str


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Every few seconds. `ping` is answered by the next receipt: so the lane knows that HQ, not a broker,
    is there."""

    session: str
    boot: str
    utc: datetime
    ping: str
    lane_up: bool
    store: str
    """`ok`, or a short code: `absent`, `busy`, `unreadable`."""
    pending: int
    """Records that HQ has not acknowledged."""
    oldest_s: float
    """Age of the oldest of them; 0 where there is none."""
    refused: int
    """Records that HQ has refused for good since this uplink started."""
    resent: int
    """Records sent more than once since this uplink started."""


@dataclass(frozen=True, slots=True)
class Head:
    """HQ has committed every record of the stream up to `seq`. `chain`: the hash of record `seq`, as HQ got
    it."""

    stream_id: str
    seq: int
    chain: bytes
    resend: bool = False
    """HQ saw a later record and misses the next one: send again from `seq + 1`, without waiting."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """HQ will not take the bytes with the hash `chain` as this record. `final`: it has set exactly those bytes aside,
    durably, and the stream goes on without them."""

    stream_id: str
    seq: int
    chain: bytes
    why: str
    final: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """HQ -> lane, after HQ's commit: the only thing that lets a record leave the lane.

    `hq` names the connection of HQ's that says so: a new name means that what was under way may never have come."""

    hq: str = ""
    heads: tuple[Head, ...] = limited(STREAMS_MAX, ())
    refusals: tuple[Refusal, ...] = ()
    pong: str = ""


@dataclass(frozen=True, slots=True)
class OrderAnswer:
    """Lane -> HQ: what became of an order. `taken`: the lane verified it and accepts it; else `why` it does not. What
    comes of it is a record."""

    order: str
    taken: bool
    why: str


MESSAGES: Final = codec.kinds(Birth, Death, Telemetry, Receipt, OrderAnswer)
Message = Birth | Death | Telemetry | Receipt | OrderAnswer


def encode(message: Message) -> bytes:
    """The payload. Raises `WireError` for a value out of its type."""
    return codec.encode(message)


def decode(payload: bytes) -> Message:
    """The message. Raises `WireError`."""
    message: Message = codec.decode(MESSAGES, payload)
    return message


__all__ = [
    "EVENT_FILTER",
    "ID_PROPERTY",
    "SEQ_PROPERTY",
    "Birth",
    "Death",
    "Head",
    "Message",
    "OrderAnswer",
    "Receipt",
    "Refusal",
    "Span",
    "Telemetry",
    "WireError",
    "announce_topic",
    "decode",
    "encode",
    "place",
    "topic",
]
