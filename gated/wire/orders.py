"""Orders of people at HQ to one lane: signed, short-lived, bound to lane, boot and ticket. No I/O, no clock.

The network carries the bytes and may read them (they hold no personal data of passengers), hold them back
or repeat them; it cannot make, change, redirect or reuse one. *The lane process* verifies: nobody between
HQ and it is believed. There is no fleet-wide order and no opening without a passenger: `open` names a
ticket.

The blob is `signature (64 bytes) || body`, the body canonical JSON (sorted keys, no spaces, ASCII), the
signature Ed25519 (RFC 8032) over `DOMAIN || body`, so that a signature made for something else is never an
order.
"""

import json
import re
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

DOMAIN = b"gated order v1\n"
SIGNATURE_BYTES = 64
ORDER_BYTES_MAX = 2048
VALIDITY_S_MAX = 120
"""No order lives longer than this: an officer who waits longer asks again."""
CLOCK_SKEW_S_MAX = 30
"""How far the clocks of HQ and lane may differ: allowed before `issued` and after `expires`."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}")
_NONCE = re.compile(r"[0-9a-f]{32}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Action(Enum):
    """What an order can ask for. The first three are about one passenger and name the ticket."""

    OPEN = "open"
    REFUSE = "refuse"
    RETRY = "retry"
    CLOSE_LANE = "close_lane"
    OPEN_LANE = "open_lane"
    RESET = "reset"
    DIRECTION = "direction"
    """Which way a lane of both directions goes (L7)."""


TICKETED = frozenset({Action.OPEN, Action.REFUSE, Action.RETRY})
ARGUMENTS: Mapping[Action, Mapping[str, frozenset[str]]] = {
    **{action: {} for action in Action},
    Action.DIRECTION: {"direction": frozenset({"entry", "exit", "both", "schedule"})},
}
"""Which `args` an action takes, and which values of each: all are needed, and there are no others. What nobody would
read is refused, not ignored."""


class OrderRefused(Exception):
    """An order must not be carried out. `why` is the code that is answered and recorded."""

    why = "refused"

    def __init__(self, detail: str) -> None:
        super().__init__(f"{self.why}: {detail}")


class Malformed(OrderRefused):
    """Not an order: wrong form, unknown action, ticket missing or out of place, validity out of bounds."""

    why = "malformed"


class BadSignature(OrderRefused):
    """No key that this lane trusts signed these bytes."""

    why = "bad_signature"


class WrongLane(OrderRefused):
    """Signed for another lane."""

    why = "wrong_lane"


class WrongBoot(OrderRefused):
    """Signed for another run of this lane: what the officer saw is no longer so."""

    why = "wrong_boot"


class NotYetValid(OrderRefused):
    """Issued in the future by more than the skew that is allowed: one of the two clocks is wrong."""

    why = "not_yet_valid"


class Expired(OrderRefused):
    """Too old."""

    why = "expired"


class Replayed(OrderRefused):
    """Its nonce was used before."""

    why = "replayed"


@dataclass(frozen=True, slots=True)
class Order:
    """One order of `officer` to `lane` in its run `boot`. An `Order` that exists is well-formed, not yet
    believed.

    `order` names it and is answered; `nonce` (32 hex digits) makes it usable once. `issued` and `expires` are
    whole seconds UTC, `expires` at most `VALIDITY_S_MAX` later."""

    order: str
    action: Action
    officer: str
    lane: str
    boot: str
    ticket: int | None
    nonce: str
    issued: datetime
    expires: datetime
    args: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("order", "officer", "lane", "boot"):
            value = getattr(self, name)
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                raise Malformed(f"{name} must be 1 to 64 letters, digits and ._@:-")
        if not isinstance(self.nonce, str) or not _NONCE.fullmatch(self.nonce):
            raise Malformed("nonce must be 32 lower-case hexadecimal digits")
        if self.action in TICKETED:
            if type(self.ticket) is not int or self.ticket < 1:
                raise Malformed(f"{self.action.value} needs the ticket of one passenger")
        elif self.ticket is not None:
            raise Malformed(f"{self.action.value} is about the lane and takes no ticket")
        for name in ("issued", "expires"):
            moment = getattr(self, name)
            if moment.tzinfo is None or moment.utcoffset() != timedelta(0) or moment.microsecond:
                raise Malformed(f"{name} must be whole seconds in UTC")
        if not timedelta(0) < self.expires - self.issued <= timedelta(seconds=VALIDITY_S_MAX):
            raise Malformed(f"an order is valid for 1 to {VALIDITY_S_MAX} s")
        known = ARGUMENTS[self.action]
        unknown = set(self.args) - set(known)
        if unknown:
            raise Malformed(f"{self.action.value} takes no argument {min(unknown)!r}"[:120])
        for name, values in known.items():
            if self.args.get(name) not in values:
                raise Malformed(f"{self.action.value} needs {name}: {', '.join(sorted(values))}")


def canonical(order: Order) -> bytes:
    """The bytes that are signed: there is exactly one such text for an order."""
    fields: dict[str, Any] = {
        "v": 1,
        "order": order.order,
        "action": order.action.value,
        "officer": order.officer,
        "lane": order.lane,
        "boot": order.boot,
        "ticket": order.ticket,
        "nonce": order.nonce,
        "issued": order.issued.strftime(_TIME),
        "expires": order.expires.strftime(_TIME),
        "args": dict(order.args),
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def sign(private: Ed25519PrivateKey, order: Order) -> bytes:
    """The blob that travels to the lane."""
    body = canonical(order)
    return private.sign(DOMAIN + body) + body


def read(blob: bytes) -> Order:
    """The order in a blob **without believing it** (HQ's and the uplink's logs, answers). Raises
    `Malformed`."""
    if not SIGNATURE_BYTES < len(blob) <= ORDER_BYTES_MAX:
        raise Malformed(f"{len(blob)} bytes are no order")
    body = blob[SIGNATURE_BYTES:]
    try:
        fields = json.loads(body.decode("ascii"))
    except (ValueError, RecursionError):
        raise Malformed("the body is not JSON") from None
    if not isinstance(fields, dict) or fields.pop("v", None) != 1:
        raise Malformed("the body is not an order of version 1")
    names = set(Order.__dataclass_fields__)
    if set(fields) != names:
        raise Malformed(f"the body has other fields than {', '.join(sorted(names))}")
    args = fields.pop("args")
    if not isinstance(args, dict) or not all(isinstance(value, str) for value in args.values()):
        raise Malformed("args must be texts by name")
    try:
        action = Action(fields.pop("action"))
    except ValueError:
        raise Malformed("unknown action") from None
    order = Order(
        action=action,
        args=args,
        issued=_time(fields.pop("issued")),
        expires=_time(fields.pop("expires")),
        **fields,
    )
    if canonical(order) != body:
        raise Malformed("the body is not in its canonical form")
    return order


def _time(text: object) -> datetime:
    try:
        return datetime.strptime(str(text), _TIME).replace(tzinfo=UTC)
    except ValueError:
        raise Malformed("times look like 2026-11-20T08:15:00Z") from None


def verify(
    public_keys: Collection[bytes],
    blob: bytes,
    lane: str,
    boot: str,
    now_utc: datetime,
    seen_nonces: Container[str],
) -> Order:
    """The order in `blob`, when this run of this lane must carry it out. Raises `OrderRefused`'s subclasses.

    `public_keys`: raw Ed25519 keys (32 bytes each) that may sign orders. The signature is judged before the
    body is read: nobody without a key reaches the parser. The caller must remember `nonce` before it acts
    (`Seen`)."""
    if not SIGNATURE_BYTES < len(blob) <= ORDER_BYTES_MAX:
        raise Malformed(f"{len(blob)} bytes are no order")
    if not any(_signed(key, blob) for key in public_keys):
        raise BadSignature("no key that this lane trusts signed it")
    order = read(blob)
    if order.lane != lane:
        raise WrongLane(f"signed for {order.lane}")
    if order.boot != boot:
        raise WrongBoot("signed for another run of this lane")
    skew = timedelta(seconds=CLOCK_SKEW_S_MAX)
    if now_utc < order.issued - skew:
        raise NotYetValid(f"issued {(order.issued - now_utc).total_seconds():.0f} s in the future")
    if now_utc > order.expires + skew:
        raise Expired(f"expired {(now_utc - order.expires).total_seconds():.0f} s ago")
    if order.nonce in seen_nonces:
        raise Replayed("its nonce was used before")
    return order


def _signed(key: bytes, blob: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(blob[:SIGNATURE_BYTES], DOMAIN + blob[SIGNATURE_BYTES:])
    except InvalidSignature:
        return False
    return True


class Seen:
    """The nonces of orders that were taken, each kept until its order would be refused as expired anyway.

    It need not survive a restart: a new run has a new boot id, and an order for the old one is `WrongBoot`.
    A wall clock that steps back cannot revive an order either: what was seen is forgotten by the order's
    own time."""

    def __init__(self, orders: Iterable[Order] = ()) -> None:
        self._until: dict[str, datetime] = {}
        for order in orders:
            self.remember(order)

    def __contains__(self, nonce: object) -> bool:
        return nonce in self._until

    def __len__(self) -> int:
        return len(self._until)

    def remember(self, order: Order) -> None:
        """Call before acting on `order`. Forgets those that expired long before this one was issued."""
        horizon = order.issued - timedelta(seconds=VALIDITY_S_MAX + 4 * CLOCK_SKEW_S_MAX)
        self._until = {nonce: until for nonce, until in self._until.items() if until >= horizon}
        self._until[order.nonce] = order.expires
