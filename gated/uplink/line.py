"""The uplink's loop: one connection at a time, and everything that is heard and said on it."""

import secrets
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, SimpleQueue

import structlog

from gated import __version__
from gated.control import Client, Unavailable
from gated.control import Refused as ControlRefused
from gated.metrics import Textfile
from gated.mqtt import Connected, Gone, Happening, Publication, Received, Refused, Session
from gated.notify import notify, watchdog_s
from gated.store.flight import Flights, ReceiptIgnored
from gated.store.sql import StoreError
from gated.store.witness import Witness
from gated.sync.control import Announced
from gated.uplink.brokers import Brokers
from gated.uplink.cap import Cap
from gated.uplink.daemon import Daemon
from gated.uplink.metrics import Line
from gated.uplink.versions import Versions
from gated.wire import link
from gated.wire.codec import WireError
from gated.wire.facts import Part

log = structlog.get_logger()

POLL_S = 0.2
"""How often the outbox is looked at: what a record waits at most before it is sent."""
PING_AGAIN_S = 3.0
"""An unanswered ping is repeated after this, then after twice as long, up to the heartbeat."""
TELEMETRY_EXPIRY_S = 60


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the uplink is; from [uplink] of lane.toml."""

    heartbeat_s: float = 15.0
    ack_s_max: float = 10.0

    @property
    def silence_s_max(self) -> float:
        """HQ counts as reachable this long after its last word: one heartbeat and two more tries."""
        return self.heartbeat_s + 2 * min(PING_AGAIN_S, self.heartbeat_s)


class Uplink:
    """One lane's line to HQ. `run` until stopped; every failure is waited out."""

    def __init__(
        self, site: str, lane: str, brokers: Brokers, flights: Flights, witness: Witness,
        receipts_public: Collection[bytes], daemon: Daemon, cap: Cap, pace: Pace = Pace(), sync: Client | None = None,
    ) -> None:  # fmt: skip
        """`receipts_public`: Ed25519, 32 raw bytes each: without the signature of one nothing is HQ's word."""
        self._site, self._lane, self._brokers, self._flights = site, lane, brokers, flights
        self._witness, self._receipts_public = witness, receipts_public
        self._daemon, self._cap, self._pace, self._sync = daemon, cap, pace, sync
        self.textfile: Textfile | None = None
        """Where it is told how the line is."""
        self._versions = Versions()
        self._news = (link.announce_topic(),) if sync else ()
        self._inbox: SimpleQueue[Happening] = SimpleQueue()
        self._session: Session | None = None
        self._name = ""
        """Of the present connection, in birth, death and telemetry."""
        self._connected = False
        self._workers: set[str] = set()
        """Those of HQ's that were heard on this connection."""
        self._heard_mono = float("-inf")
        """When HQ itself last said something."""
        self._ping = ""
        self._ping_mono, self._ping_after_s = float("-inf"), pace.heartbeat_s
        self._acked_at_ping: dict[str, int] = {}
        self._gaps: tuple[link.Gap, ...] = ()
        """As the last birth told them."""
        self._told_up: bool | None = None
        self._told_mono = float("-inf")
        self._store = "ok"
        self._looked_mono = float("-inf")

    @property
    def up(self) -> bool:
        """Did HQ, not merely a broker, say something lately?"""
        return self._connected and time.monotonic() - self._heard_mono < self._pace.silence_s_max

    def line(self) -> Line:
        """How the line is now, for `gated.uplink.metrics`."""
        return Line(self._connected, self.up, self._brokers.place, self._cap.spent, len(self._witness.findings))

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; then says goodbye and returns. Once only: its databases are closed then."""
        stroke_s = watchdog_s()
        notify("READY=1", "STATUS=started")
        while not stop.is_set():
            if stroke_s is not None:
                notify("WATCHDOG=1")
            self.turn(min(POLL_S, stroke_s or POLL_S))
            if self.textfile is not None:
                self.textfile.tick()
        notify("STOPPING=1")
        if self.textfile is not None:
            self.textfile.remove()
        self._goodbye()
        self._flights.close()

    def turn(self, wait_s: float) -> None:
        """Once round: wait up to `wait_s` for something to happen, then see to everything."""
        self._dial()
        self._listen(wait_s)
        self._look()
        self._tell_hq()
        self._tell_lane()

    # -- the connection

    def _topic(self, leaf: str) -> str:
        return link.topic(self._site, self._lane, leaf)

    def _dial(self) -> None:
        if self._connected and not self.up and self._brokers.fruitless:
            log.warning("no answer of hq over this broker", broker=self._brokers.present.host)
            self._hang_up()
        if self._session is not None or not self._brokers.due:
            return
        self._name = secrets.token_hex(6)
        death = link.encode(link.Death(self._name, "lost"))
        self._session = Session(
            self._brokers.present,
            f"gated-{self._site}-{self._lane}",
            self._inbox,
            subscribe=[(name, 1) for name in (*map(self._topic, ("ack", "cmd", "desired")), *self._news)],
            will=Publication(self._topic("death"), death, retain=True),
        )
        self._session.start()

    def _listen(self, wait_s: float) -> None:
        """Wait for something to happen, and handle all that has."""
        try:
            happened = self._inbox.get(timeout=wait_s)
            while True:
                if happened.session is self._session:
                    self._handle(happened)
                happened = self._inbox.get_nowait()
        except Empty:
            return

    def _handle(self, happened: Happening) -> None:
        match happened:
            case Connected():
                self._connected = True
                self._brokers.connected()
                self._workers.clear()
                self._ping, self._ping_mono, self._heard_mono = "", float("-inf"), float("-inf")
                self._versions.afresh()
                self._look()
                self._flights.rewind()
                self._daemon.look()
                self._birth()
                broker = self._brokers.present
                log.info("connected", broker=broker.host, port=broker.port, session=self._name)
                notify("STATUS=connected to the broker")
            case Gone(why=why):
                self._session, self._connected = None, False
                host, pause_s = self._brokers.present.host, self._brokers.lost()
                log.warning("no broker", broker=host, why=why, again_in_s=round(pause_s, 1))
                notify("STATUS=no broker")
            case Received(topic=topic) if topic == self._topic("ack"):
                self._receipt(happened)
            case Received(topic=topic) if topic == self._topic("cmd"):
                self._order(happened)
            case Received(topic=topic) if topic == self._topic("desired"):
                self._desired(happened)
            case Received(topic=topic) if topic in self._news:
                self._announced(happened)
            case Refused(reason=reason):
                log.error("the broker threw a message away", why=reason)

    def _publish(self, leaf: str, message: link.Message, *, retain: bool = False, expiry_s: int | None = None) -> None:
        if self._session is not None:
            self._session.publish(
                Publication(self._topic(leaf), link.encode(message), retain=retain, expiry_s=expiry_s)
            )

    def _birth(self) -> None:
        spans = self._flights.told()
        self._gaps = self._witness.gaps({span.stream_id: span.acked for span in spans})[: link.GAPS_MAX]
        parts, now = self._parts(), datetime.now(UTC)
        birth = link.Birth(self._name, self._daemon.boot, now, __version__, spans, parts, self._gaps)
        self._publish("birth", birth, retain=True)

    def _parts(self) -> tuple[Part, ...]:
        return Part("uplink", __version__), *self._daemon.parts

    def _hang_up(self) -> None:
        if self._session is not None:
            if self._connected:
                self._publish("death", link.Death(self._name, "stopped"), retain=True)
            self._session.stop()
            self._session, self._connected = None, False
            self._brokers.lost()

    def _goodbye(self) -> None:
        self._hang_up()
        self._tell_lane()

    # -- records

    def _look(self) -> None:
        """See what the outbox holds and send what may go."""
        now = time.monotonic()
        if now - self._looked_mono < POLL_S / 2:
            return
        self._looked_mono = now
        try:
            changed = self._flights.refresh()
            findings = len(self._witness.findings)
            self._witness.look(now)
            if len(self._witness.findings) > findings:
                self._ping_mono = float("-inf")  # a pass takes most of a minute: HQ hears at once what it found
            if self._connected and (changed or self._new_gaps()):
                log.info("another birth", streams=len(self._flights.spans), gaps=len(self._gaps))
                self._birth()
            if self._flights.overdue(now, self._pace.ack_s_max):
                log.warning("no acknowledgement in time: sending again", after_s=self._pace.ack_s_max)
                self._flights.rewind()
            if self.up:
                self._send(now)
            self._store_is("ok")
        except StoreError as bad:
            self._store_is(bad.why)

    def _new_gaps(self) -> bool:
        acked = {stream_id: self._flights.acked(stream_id) for stream_id in self._flights.spans}
        return not set(self._witness.gaps(acked)[: link.GAPS_MAX]) <= set(self._gaps)

    def _send(self, now: float) -> None:
        for queued in self._flights.next(now, self._cap.left(now)):
            assert self._session is not None
            self._cap.spend(len(queued.payload))
            names = {link.ID_PROPERTY: queued.stream_id, link.SEQ_PROPERTY: str(queued.seq)}
            self._session.publish(
                Publication(self._topic("event"), queued.payload, properties=names, content_type="application/json")
            )

    def _store_is(self, why: str) -> None:
        if why != self._store:
            say = log.info if why == "ok" else log.warning
            say("lane database", state=why)
            self._store = why

    def _receipt(self, received: Received) -> None:
        if not link.is_of_hq(self._receipts_public, received.topic, received.payload, received.properties):
            log.error("receipt refused", why="not signed by hq")
            return
        try:
            receipt = link.decode(received.payload)
        except WireError as bad:
            log.error("receipt refused", why=str(bad))
            return
        if not isinstance(receipt, link.Receipt):
            log.error("receipt refused", why="another message than a receipt")
            return
        now = self._heard_mono = time.monotonic()
        self._brokers.useful()
        pong = bool(receipt.pong) and receipt.pong == self._ping
        if receipt.hq not in self._workers:
            if self._workers:
                self._flights.rewind()  # what was under way to one that it replaces may never have come
            self._workers.add(receipt.hq)
        went_back = False
        try:
            for refusal in receipt.refusals:
                self._refusal(refusal, now)
            for head in receipt.heads:
                went_back |= self._head(head, now, self._acked_at_ping.get(head.stream_id, 0) if pong else 0)
            if pong and receipt.anchor is not None:
                self._witness.compare(receipt.anchor)
        except StoreError as bad:
            self._store_is(bad.why)
        if pong:
            self._ping, self._ping_after_s = "", self._pace.heartbeat_s
        blind = pong and not self._acked_at_ping.keys() <= {head.stream_id for head in receipt.heads}
        if receipt.rebirth or went_back or blind:  # HQ does not know what we hold: a birth was lost, or is out of date
            self._birth()
        self._looked_mono = float("-inf")  # there may be room: do not wait for the next poll

    def _head(self, head: link.Head, now: float, known: int) -> bool:
        """`known`: what HQ had acknowledged before it looked up this head; 0: it may be an old word. True: HQ went back
        to an older copy of its database."""
        try:
            self._flights.answered(head, now, known)
        except ReceiptIgnored as why:
            say = log.debug if str(why) == "another_generation" else log.error
            say("receipt ignored", why=str(why), stream=head.stream_id, seq=head.seq)
            return str(why) == "hq_went_back"
        return False

    def _refusal(self, refusal: link.Refusal, now: float) -> None:
        names = {"stream": refusal.stream_id, "seq": refusal.seq, "why": refusal.why[:64], "final": refusal.final}
        try:
            self._flights.refusal(refusal, now)
        except ReceiptIgnored as ignored:
            log.warning("refusal ignored", because=str(ignored), **names)
            return
        say = log.error if refusal.final else log.warning
        say("record refused by hq", **names)

    # -- how things are

    def _tell_hq(self) -> None:
        now = time.monotonic()
        if not self._connected or now - self._ping_mono < self._ping_after_s:
            return
        if self._daemon.look():
            self._birth()
        utc = datetime.now(UTC)
        first = not self._ping
        if first:  # an unanswered one keeps its name: HQ may be slow, and what it says then is as good
            self._ping = secrets.token_hex(4)
            self._acked_at_ping = {stream_id: self._flights.acked(stream_id) for stream_id in self._flights.spans}
        self._ping_mono = now
        again_s = PING_AGAIN_S if first else 2 * self._ping_after_s
        self._ping_after_s = min(again_s, self._pace.heartbeat_s)
        flights, (pending, oldest_s), witness = self._flights, self._backlog(), self._witness
        who, how = (self._name, self._daemon.boot, utc, self._ping), (self._daemon.up, self._store)
        telemetry = link.Telemetry(
            *who, *how, pending, oldest_s, flights.refused, flights.resent,
            journal=witness.head, findings=witness.findings[: link.FINDINGS_MAX],
        )  # fmt: skip
        self._publish("telemetry", telemetry, expiry_s=TELEMETRY_EXPIRY_S)
        reported = self._versions.due(self._parts(), utc)
        if reported is not None:
            self._publish("reported", reported, retain=True)

    def _backlog(self) -> tuple[int, float]:
        """(records that wait, age of the first in seconds)."""
        try:
            pending, oldest = self._flights.waiting()
        except StoreError as bad:
            self._store_is(bad.why)
            return 0, 0.0
        now = datetime.now(UTC)
        return pending, max(0.0, round((now - (oldest or now)).total_seconds(), 1))

    def _tell_lane(self) -> None:
        """Tell the lane's daemon whether an officer can be reached: at each change, and now and then."""
        now = time.monotonic()
        if self.up == self._told_up and now - self._told_mono < self._pace.heartbeat_s:
            return
        if self.up != self._told_up:
            log.info("hq", reachable=self.up)
        self._told_up, self._told_mono = self.up, now
        self._daemon.tell(self.up)

    # -- orders

    def _order(self, received: Received) -> None:
        answer = link.encode(self._daemon.order(received.payload))
        if self._session is not None:
            self._session.publish(Publication(self._topic("answer"), answer, correlation=received.correlation))

    def _desired(self, received: Received) -> None:
        """HQ's word which versions the lane should have: compared, never acted upon."""
        try:
            wanted = link.decode(received.payload)
        except WireError as bad:
            log.warning("desired versions refused", why=str(bad))
            return
        if not isinstance(wanted, link.Desired) or not self._versions.desired(wanted):
            log.warning("desired versions refused", why="older than what was heard, or another message")
            return
        self._ping_mono = float("-inf")  # so that HQ hears at once who is behind

    def _announced(self, received: Received) -> None:
        """Pass an announcement of HQ to the sync, which alone can tell what it is worth; one that does not run asks HQ
        itself once it does."""
        assert self._sync is not None
        try:
            self._sync.ask(Announced.of(received.payload))
        except (ControlRefused, Unavailable, ValueError) as bad:
            log.warning("announcement not passed on", why=str(bad))
