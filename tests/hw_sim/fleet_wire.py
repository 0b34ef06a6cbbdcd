"""Wire-only lanes: everything of a lane that HQ can see, without disk, devices and daemon; thousands in a process.

Records, seals, chains, receipts' signatures and the rules of what is sent when and again (`gated.store.flight`) are the
product's own; the connection is `tests.hw_sim.mqtt5`, and what is not acknowledged lies in memory. The rest follows
`gated.uplink.line`."""

import asyncio
import asyncio.sslproto
import contextlib
import gc
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from multiprocessing.connection import Connection as Line
from typing import Final

from gated.mqtt import Backoff
from gated.store.acks import AckedHeads
from gated.store.flight import Flights, ReceiptIgnored
from gated.store.outbox import OutboxReader, Queued, Span
from gated.uplink.line import PING_AGAIN_S, TELEMETRY_EXPIRY_S
from gated.wire import link, record
from gated.wire.codec import WireError
from gated.wire.facts import ALARM, CROSSING, STATE, Fact
from gated.wire.record import Head
from tests.hw_sim.fleet_plan import SITE, Passengers, Plan, Report, Status, name_of
from tests.hw_sim.mqtt5 import Connection, Message, connect

CALLING_MAX: Final = 64
"""First connections under way at once in a process; after a loss there is no such limit, only the lanes' own pauses."""
TICK_S: Final = 0.5
TLS_BUFFER: Final = 32 * 1024
"""asyncio's is 256 KiB for each connection, which 5,000 of them cannot afford."""


class Held(OutboxReader):
    """An outbox in memory: what was made and is not acknowledged."""

    def __init__(self, lane: str, generation: str) -> None:
        self.heads = {s: Head.start(lane, record.stream_id(generation, s)) for s in (ALARM, CROSSING, STATE)}
        self._waiting: dict[str, deque[Queued]] = {s: deque() for s in self.heads}
        self._made_mono: dict[str, deque[float]] = {s: deque() for s in self.heads}
        self._stream = {head.stream_id: s for s, head in self.heads.items()}

    def append(self, fact: Fact, boot: str, hq_public: bytes) -> None:
        """Make the record of a fact, as the lane's outbox does."""
        head = self.heads[fact.stream]
        made = head.next(fact, datetime.now(UTC), boot, hq_public)
        self.heads[fact.stream] = head.after(made)
        self._waiting[fact.stream].append(Queued(made.stream_id, made.stream, made.seq, made.encode()))
        self._made_mono[fact.stream].append(time.monotonic())

    def pending(
        self, acked: Mapping[str, int], limit: int, flying: Mapping[str, int] | None = None
    ) -> tuple[Queued, ...]:
        found: list[Queued] = []
        for rows in self._waiting.values():  # in the order of urgency
            if rows:
                after = max(0, acked.get(rows[0].stream_id, 0) - rows[0].seq + 1)
                found += islice(rows, after, after + limit - len(found))
        return tuple(found)

    def spans(self) -> tuple[Span, ...]:
        return tuple(
            Span(head.stream_id, s, head.seq - len(self._waiting[s]) + 1, head.seq, 0, 0)
            for s, head in self.heads.items()
        )

    def release(self, stream_id: str, seq: int) -> list[float]:
        """Forget what is acknowledged; when each of these records was made."""
        rows, made = self._waiting[self._stream[stream_id]], self._made_mono[self._stream[stream_id]]
        freed = []
        while rows and rows[0].seq <= seq:
            rows.popleft()
            freed.append(made.popleft())
        return freed

    @property
    def oldest_mono(self) -> float:
        """When the oldest was made; infinity: nothing waits."""
        return min((made[0] for made in self._made_mono.values() if made), default=float("inf"))

    def close(self) -> None:
        """Nothing is open."""


class Acked(AckedHeads):
    """The acknowledged numbers in memory; each step forward tells `fleet` how long the records took."""

    def __init__(self, held: Held, fleet: "Fleet") -> None:
        self._held, self._fleet, self._heads = held, fleet, dict[str, int]()

    def advance(self, stream_id: str, seq: int) -> bool:
        now = time.monotonic()
        freed = self._held.release(stream_id, seq)
        self._fleet.report.latencies_s += [now - made for made in freed]
        self._fleet.report.acked += len(freed)
        self._heads[stream_id] = seq
        return True

    def retreat(self, stream_id: str, seq: int) -> None:
        self._fleet.report.wrong["hq went back"] += 1

    def heads(self) -> Mapping[str, int]:
        return self._heads

    def forget(self, keep: frozenset[str]) -> None:
        """Streams of other generations: there are none."""

    def close(self) -> None:
        """Nothing is open."""


@dataclass(slots=True)
class Ping:
    """The last one. `acked`: what HQ had acknowledged before it. `again_s`: repeated after this, by the same name."""

    name: str
    sent_mono: float
    acked: Mapping[str, int]
    again_s: float = 0.0


class Lane:
    """One lane. `live` until cancelled; `say` makes records at any time."""

    def __init__(self, fleet: "Fleet", number: int) -> None:
        self._fleet, self._name = fleet, name_of(number)
        self._broker = fleet.plan.brokers[number]
        self._context = self._broker.context()
        self.held = Held(self._name, secrets.token_hex(4))
        self._flights = Flights(self.held, Acked(self.held, fleet), fleet.plan.inflight_max)
        self._flights.refresh()
        self._backoff = Backoff(*fleet.plan.retry_s)
        self._line: Connection | None = None
        self._session, self._boot = "", secrets.token_hex(4)
        self._ping = Ping("", float("-inf"), {})
        self.ready = False
        """HQ answered on this connection: records may go."""

    def say(self, facts: tuple[Fact, ...]) -> None:
        """Facts that become durable together, and go at once where they may."""
        for fact in facts:
            self.held.append(fact, self._boot, self._fleet.hq_public)
        self._flights.refresh()
        self._send()

    async def live(self) -> None:
        """Connect, and again whenever the connection is lost."""
        report, first = self._fleet.report, True
        while True:
            try:
                if first:
                    async with self._fleet.calling:
                        self._line = await self._call()
                else:
                    self._line = await self._call()
            except OSError as bad:
                report.failures[f"{type(bad).__name__}: {str(bad)[:60]}"] += 1
            else:
                first = False
                report.connects += 1
                self._backoff.reset()
                self._begin()
                report.failures[await self._line.gone] += 1
                report.wrong.update(f"thrown away by the broker: {code:#04x}" for code in self._line.refused)
            self._line, self.ready = None, False
            await asyncio.sleep(self._backoff.pause_s())

    def stop(self) -> None:
        """Say goodbye, as an uplink that is stopped."""
        if self._line is not None:
            self._publish("death", link.Death(self._session, "stopped"), retain=True)
            self._line.close()

    def tick(self, now: float) -> None:
        """What time brings: pings, telemetry, and sending again."""
        if self._line is None:
            return
        if self._flights.overdue(now, self._fleet.plan.ack_s_max):
            self._flights.rewind()
        self._send()
        if now - self._ping.sent_mono >= self._ping.again_s:
            self._telemetry(now)

    async def _call(self) -> Connection:
        self._session = secrets.token_hex(6)
        death = link.encode(link.Death(self._session, "lost"))
        will = Message(link.topic(SITE, self._name, "death"), death, retain=True)
        wanted = [link.topic(SITE, self._name, leaf) for leaf in ("ack", "cmd", "desired")]
        return await connect(
            (self._broker.host, self._broker.port), self._context, f"gated-{SITE}-{self._name}", self._heard,
            subscribe=wanted, will=will, keep_alive_s=self._broker.keep_alive_s,
            connect_s_max=self._broker.connect_s_max,
        )  # fmt: skip

    def _begin(self) -> None:
        self._flights.rewind()
        self._ping = Ping("", float("-inf"), {})
        self._birth()
        self._telemetry(time.monotonic())

    def _publish(self, leaf: str, message: link.Message, *, retain: bool = False, expiry_s: int | None = None) -> None:
        assert self._line is not None
        self._line.publish(Message(link.topic(SITE, self._name, leaf), link.encode(message), retain, expiry_s))

    def _birth(self) -> None:
        self._flights.refresh()
        birth = link.Birth(self._session, self._boot, datetime.now(UTC), "fleet", self._flights.told())
        self._publish("birth", birth, retain=True)

    def _telemetry(self, now: float) -> None:
        flights, ping, beat_s = self._flights, self._ping, self._fleet.plan.heartbeat_s
        if ping.name:
            ping.sent_mono, ping.again_s = now, min(beat_s, 2 * ping.again_s)
        else:
            acked = {s: flights.acked(s) for s in flights.spans}
            self._ping = Ping(secrets.token_hex(4), now, acked, min(beat_s, PING_AGAIN_S))
        oldest_s = max(0.0, round(now - min(now, self.held.oldest_mono), 1))
        waiting = sum(span.last - span.first + 1 for span in self.held.spans())
        how = (self._ping.name, True, "ok", waiting, oldest_s, flights.refused, flights.resent)
        telemetry = link.Telemetry(self._session, self._boot, datetime.now(UTC), *how)
        self._publish("telemetry", telemetry, expiry_s=TELEMETRY_EXPIRY_S)

    def _send(self) -> None:
        if not self.ready or self._line is None:
            return
        resent = self._flights.resent
        for queued in self._flights.next(time.monotonic()):
            names = {link.ID_PROPERTY: queued.stream_id, link.SEQ_PROPERTY: str(queued.seq)}
            topic = link.topic(SITE, self._name, "event")
            self._line.publish(Message(topic, queued.payload, properties=names, content_type="application/json"))
        self._fleet.report.resent += self._flights.resent - resent

    def _heard(self, message: Message) -> None:
        if not message.topic.endswith("/ack"):
            return
        wrong = self._fleet.report.wrong
        if not link.is_of_hq(self._fleet.receipts_public, message.topic, message.payload, message.properties):
            wrong["receipt without HQ's signature"] += 1
            return
        try:
            receipt = link.decode(message.payload)
        except WireError as bad:
            wrong[f"receipt that cannot be read: {bad}"] += 1
            return
        assert isinstance(receipt, link.Receipt)
        self._receipt(receipt, time.monotonic())

    def _receipt(self, receipt: link.Receipt, now: float) -> None:
        wrong, pong = self._fleet.report.wrong, bool(receipt.pong) and receipt.pong == self._ping.name
        for refusal in receipt.refusals:
            wrong[f"refused: {refusal.why[:60]}"] += 1
            self._flights.refusal(refusal, now)
        for head in receipt.heads:
            try:
                self._flights.answered(head, now, self._ping.acked.get(head.stream_id, 0) if pong else 0)
            except ReceiptIgnored as bad:
                wrong[f"receipt ignored: {bad}"] += 1
        if receipt.rebirth and self._line is not None:
            self._birth()
        if pong:
            self._ping.name, self._ping.again_s = "", self._fleet.plan.heartbeat_s
        self.ready = self._line is not None
        self._send()


class Fleet:
    """The lanes of one process."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.report = plan, Report()
        self.hq_public = plan.key("hq.pub")
        self.receipts_public = (plan.key("receipts.pub"),)
        self.calling = asyncio.Semaphore(CALLING_MAX)
        self._made = 0
        self._passengers = Passengers(plan)
        self._woken = asyncio.Event()
        self.lanes = {number: Lane(self, number) for number in plan.lanes}

    async def work(self, line: Line) -> None:
        """Until the parent says so: `connect`, `make` records, `rest` from it, `how` far, `report`."""
        orders: asyncio.Queue[str | None] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(line.fileno(), lambda: orders.put_nowait(line.recv()))
        tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._make())]
        while (order := await orders.get()) is not None:
            if order == "connect":
                tasks += [asyncio.create_task(lane.live()) for lane in self.lanes.values()]
            elif order == "make":
                self._passengers.begin(time.monotonic())
            elif order == "rest":
                self._passengers.end()
            else:
                line.send(self._status() if order == "how" else self._told())
            self._woken.set()
        for lane in self.lanes.values():
            lane.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self) -> None:
        while True:
            pause_s = min(3600.0, max(0.0, self._passengers.next_mono - time.monotonic()))
            with contextlib.suppress(TimeoutError):  # then somebody arrives
                await asyncio.wait_for(self._woken.wait(), pause_s)
            self._woken.clear()
            for number, facts in self._passengers.until(time.monotonic()):
                self._made += len(facts)
                self.lanes[number].say(facts)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for lane in self.lanes.values():
                lane.tick(now)

    def _status(self) -> Status:
        oldest = min((lane.held.oldest_mono for lane in self.lanes.values()), default=float("inf"))
        ready = sum(lane.ready for lane in self.lanes.values())
        first = None if oldest == float("inf") else oldest
        return Status(ready, self._made, self.report.acked, first, self._passengers.inside)

    def _told(self) -> Report:
        for number, lane in self.lanes.items():
            for head in lane.held.heads.values():
                self.report.heads[name_of(number), head.stream_id] = head.seq, head.hash
        return self.report


def crew(line: Line, plan: Plan) -> None:
    """The life of a process of wire-only lanes."""
    asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER

    async def live() -> None:
        fleet = Fleet(plan)
        gc.freeze()
        await fleet.work(line)

    asyncio.run(live())
