"""Which versions a lane should have: HQ says so, retained, and hears what the lane has (`link.Desired`, `Reported`).

It names and brings nothing: policy and cache come signed from the repository, software by the operator's own means."""

import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from queue import Empty, SimpleQueue

from gated.mqtt import Broker, Connected, Gone, Happening, Publication, Received, Refused, Session
from gated.wire import link
from gated.wire.codec import WireError
from gated.wire.facts import Part

RETAINED_S = 1.0
"""How long the broker has to bring what it keeps of this topic."""


class NotSaid(Exception):
    """The broker did not take it. The text says why."""


def say(broker: Broker, site: str, lane: str, parts: Sequence[Part], wait_s: float) -> link.Reported | None:
    """Publish and wait for the lane's word; None where it says nothing in time: the broker keeps it for the lane.

    Raises `NotSaid`, `ValueError` for a name that is none."""
    inbox: SimpleQueue[Happening] = SimpleQueue()
    wanted_at, told_at = link.topic(site, lane, "desired"), link.topic(site, lane, "reported")
    session = Session(broker, f"desk-{secrets.token_hex(6)}", inbox, subscribe=[(wanted_at, 1), (told_at, 1)])
    session.start()
    connected, said, last = False, 0, 0
    until, listen_until = time.monotonic() + wait_s, float("inf")
    try:
        while True:
            happened = _next(inbox, min(until, listen_until))
            now = time.monotonic()
            if isinstance(happened, Gone):
                raise NotSaid(f"no connection to the broker {broker.host}:{broker.port}: {happened.why}")
            if isinstance(happened, Refused):
                raise NotSaid(f"the broker threw it away: {happened.reason}")
            if isinstance(happened, Connected):
                connected, listen_until = True, now + RETAINED_S
            elif isinstance(happened, Received):
                message = _message(happened.payload)
                if isinstance(message, link.Desired):
                    last = max(last, message.revision)
                if said and isinstance(message, link.Reported) and message.revision == said:
                    return message
            if not said and now >= listen_until:
                said, listen_until = max(last + 1, int(time.time())), float("inf")
                desired = link.Desired(said, datetime.now(UTC), tuple(parts))
                session.publish(Publication(wanted_at, link.encode(desired), retain=True))
            if now >= until:
                if not connected:
                    raise NotSaid("the broker does not answer")
                return None
    finally:
        session.stop()


def _next(inbox: "SimpleQueue[Happening]", until: float) -> Happening | None:
    try:
        return inbox.get(timeout=max(0.0, until - time.monotonic()))
    except Empty:
        return None


def _message(payload: bytes) -> link.Message | None:
    try:
        return link.decode(payload)
    except WireError:
        return None
