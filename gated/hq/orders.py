"""The order desk: signs an officer's order for one run of one lane, sends it, and waits for what became of it."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gated.mqtt import Broker, Connected, Gone, Happening, Publication, Received, Refused, Session
from gated.wire import link, orders
from gated.wire.codec import WireError
from gated.wire.orders import Action, Order

VALIDITY_S = 30
"""Long enough for a slow line, short enough that nobody is let through who has long gone."""


class NoAnswer(Exception):
    """Nobody told us what became of the order: it may or may not have been carried out. The text says how far it
    got."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an officer asks for. `boot` None: the run that the lane last announced."""

    site: str
    lane: str
    action: Action
    officer: str
    ticket: int | None = None
    boot: str | None = None
    args: Mapping[str, str] = field(default_factory=dict)


def carry(broker: Broker, private: bytes, asked: Asked, wait_s: float) -> link.OrderAnswer:
    """Sign, publish, wait. Raises `NoAnswer`, `orders.Malformed`, `OSError`'s text inside `NoAnswer`."""
    until = time.monotonic() + wait_s
    inbox: SimpleQueue[Happening] = SimpleQueue()
    answers = link.topic(asked.site, asked.lane, "answer")
    births = link.topic(asked.site, asked.lane, "birth")
    session = Session(broker, f"orders-{secrets.token_hex(6)}", inbox, subscribe=[(answers, 1), (births, 1)])
    session.start()
    try:
        boot = asked.boot
        order: Order | None = None
        connected = False
        while True:
            happened = _next(inbox, until, _progress(connected, boot, order))
            if isinstance(happened, Gone):
                raise NoAnswer(f"no connection to the broker {broker.host}:{broker.port}: {happened.why}")
            if isinstance(happened, Refused):
                raise NoAnswer(f"the broker threw the order away: {happened.reason}")
            if isinstance(happened, Connected):
                connected = True
            elif isinstance(happened, Received) and happened.topic == births and boot is None:
                boot = _boot(happened.payload)
            elif isinstance(happened, Received) and happened.topic == answers and order is not None:
                answer = _answer(happened, order)
                if answer is not None:
                    return answer
            if connected and boot and order is None:
                order = _make(asked, boot)
                session.publish(_publication(asked, order, private))
    finally:
        session.stop()


def _next(inbox: "SimpleQueue[Happening]", until: float, progress: str) -> Happening:
    try:
        return inbox.get(timeout=max(0.0, until - time.monotonic()))
    except Empty:
        raise NoAnswer(progress) from None


def _progress(connected: bool, boot: str | None, order: Order | None) -> str:
    if not connected:
        return "the broker does not answer"
    if not boot:
        return "the lane has announced no run: is its uplink connected, and its daemon running?"
    return f"order {order.order if order else ''} was sent, and the lane does not answer"


def _boot(payload: bytes) -> str | None:
    try:
        message = link.decode(payload)
    except WireError:
        return None
    return message.boot or None if isinstance(message, link.Birth) else None


def _make(asked: Asked, boot: str) -> Order:
    now = datetime.now(UTC).replace(microsecond=0)
    return Order(
        order=secrets.token_hex(8),
        action=asked.action,
        officer=asked.officer,
        lane=asked.lane,
        boot=boot,
        ticket=asked.ticket,
        nonce=secrets.token_hex(16),
        issued=now,
        expires=now + timedelta(seconds=VALIDITY_S),
        args=asked.args,
    )


def _publication(asked: Asked, order: Order, private: bytes) -> Publication:
    return Publication(
        link.topic(asked.site, asked.lane, "cmd"),
        orders.sign(Ed25519PrivateKey.from_private_bytes(private), order),
        expiry_s=VALIDITY_S,
        correlation=order.order.encode(),
    )


def _answer(received: Received, order: Order) -> link.OrderAnswer | None:
    """The answer to `order`, where this is one."""
    if received.correlation != order.order.encode():
        return None
    try:
        message = link.decode(received.payload)
    except WireError:
        return None
    return message if isinstance(message, link.OrderAnswer) and message.order == order.order else None
