"""What lies between lanes and HQ in the protocol's simulation: a clock, sessions without sockets, a broker that loses,
doubles and delays. One thread; every choice is the seed's."""

import secrets
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from queue import SimpleQueue
from random import Random
from typing import Any
from unittest import mock

from gated.hq import archive, ingest, keeping, sessions
from gated.mqtt import Connected, Gone, Happening, Publication, Received
from gated.store import witness
from gated.uplink import line
from gated.wire import link, record
from gated.wire.seal import SealError

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Clock:
    """Monotonic seconds and the wall clock that goes with them."""

    def __init__(self) -> None:
        self.mono = 1000.0

    def monotonic(self) -> float:
        return self.mono

    def utc(self) -> datetime:
        return NOON + timedelta(seconds=self.mono - 1000.0)


class Sky:
    """The network and the broker. Messages of the lane are dealt to one worker each and wait there until it takes
    them; receipts wait at the worker until they are delivered. `loss`, `double`: chances of each message."""

    def __init__(self, dice: Random, clock: Clock) -> None:
        self.dice, self.clock = dice, clock
        self.up = True
        self.loss = self.double = 0.0
        self.lane: Wire | None = None
        self.workers: list[Wire] = []
        self.sent: Counter[str] = Counter()
        """Publications of the lane, by leaf."""
        self.heard: list[Publication] = []
        """What the lane published since somebody looked; events left out."""
        self.events: list[Publication] = []
        self.trace = sha256()

    def dial(self, wire: "Wire") -> None:
        if not self.up:
            wire.inbox.put(Gone(wire, "no network"))  # type: ignore[arg-type]  # a session without a socket
            return
        wire.alive = True
        if wire.of_hq:
            self.workers.append(wire)
        else:
            self.lane = wire
        wire.inbox.put(Connected(wire))  # type: ignore[arg-type]

    def published(self, wire: "Wire", publication: Publication) -> bool:
        if not wire.alive:
            return False
        if wire.of_hq:
            wire.out.append(publication)
            return True
        leaf = publication.topic.rpartition("/")[2]
        self.sent[leaf] += 1
        (self.events if leaf == "event" else self.heard).append(publication)
        self.trace.update(leaf.encode() + publication.payload)
        self.deal(publication)
        return True

    def deal(self, publication: Publication) -> None:
        """To one of the workers; lost, where there is none."""
        alive = [each for each in self.workers if each.alive]
        if not alive or self.dice.random() < self.loss:
            return
        for _ in range(2 if self.dice.random() < self.double else 1):
            worker = self.dice.choice(alive)
            worker.waiting.append(_received(worker, publication))

    def deliver(self, wire: "Wire") -> None:
        """The worker's oldest receipt reaches the lane, if that can be reached."""
        receipt = wire.out.popleft()
        if self.lane is None or self.dice.random() < self.loss:
            return
        for _ in range(2 if self.dice.random() < self.double else 1):
            self.trace.update(receipt.payload)
            self.lane.inbox.put(_received(self.lane, receipt))

    def gone(self, wire: "Wire", will: bool) -> None:
        """A connection ends; the broker tells the will of one that did not say goodbye."""
        if not wire.alive:
            return
        wire.alive = False
        if wire.of_hq:
            self.workers.remove(wire)
            wire.waiting.clear()
        else:
            self.lane = None
            if will and wire.will is not None:
                self.deal(wire.will)
        wire.inbox.put(Gone(wire, "lost"))  # type: ignore[arg-type]


class Wire:
    """A `gated.mqtt.Session` without a network."""

    def __init__(
        self,
        sky: Sky,
        inbox: "SimpleQueue[Happening]",
        subscribe: list[tuple[str, int]],
        will: Publication | None,
    ) -> None:
        self.sky, self.inbox, self.will = sky, inbox, will
        self.of_hq = subscribe[0][0].startswith("$share/")
        self.alive = False
        self.waiting: deque[Received] = deque()
        """Of a worker: what was dealt to it and not yet taken."""
        self.out: deque[Publication] = deque()
        """Of a worker: receipts on their way."""

    def start(self) -> None:
        self.sky.dial(self)

    def publish(self, publication: Publication) -> bool:
        return self.sky.published(self, publication)

    def acknowledge(self, received: Received) -> None:
        """The broker's flow control, of which nothing here depends."""

    def stop(self, flush_s_max: float = 2.0) -> None:
        self.sky.gone(self, will=False)


def _received(wire: Wire, sent: Publication) -> Received:
    return Received(
        wire,  # type: ignore[arg-type]  # a session without a socket
        sent.topic, sent.payload, 1, 0, False, dict(sent.properties), sent.correlation,
    )  # fmt: skip


def _seal(public: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Instead of HPKE, whose key is drawn at random: what was sealed opens in its own place alone, and no seed gives
    other bytes the next time."""
    return b"\x01" + sha256(aad + plaintext).digest() + plaintext


def _open(private: bytes, blob: bytes, aad: bytes) -> bytes:
    if blob[:33] != b"\x01" + sha256(aad + blob[33:]).digest():
        raise SealError("altered")
    return blob[33:]


@contextmanager
def simulated(sky: Sky) -> Iterator[None]:
    """Lane and HQ run on the sky's clock, over its sessions, with the seed's random names."""

    class Now(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]  # a plain one, so that it pickles and compares
            return sky.clock.utc()

    def session(_broker: object, _name: str, inbox: Any, *, subscribe: Any = (), will: Any = None, **_: object) -> Wire:
        return Wire(sky, inbox, subscribe, will)

    names = Random(sky.dice.random())
    with ExitStack() as stack:

        def put(where: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(where, name, value))

        for module in (line, sessions, keeping, archive):
            put(module, "datetime", Now)
        for module in (line, ingest):
            put(module, "Session", session)
        put(time, "monotonic", sky.clock.monotonic)
        put(secrets, "token_hex", lambda n=8: names.randbytes(n).hex())
        put(secrets, "randbelow", names.randrange)
        put(witness, "perf_counter", lambda: 0.0)
        put(record, "seal_to", _seal)
        put(record, "open_sealed", _open)
        yield


def place(publication: Publication) -> tuple[str, int]:
    """Stream id and number of an event."""
    return publication.properties[link.ID_PROPERTY], int(publication.properties[link.SEQ_PROPERTY])
