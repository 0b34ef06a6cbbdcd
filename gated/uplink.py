"""Outbox -> MQTT -> HQ, and orders -> control socket. Own process: it has the network, no devices and no keys.

It can lose nothing, because it holds nothing: records lie in lane.db, which it only reads, and they leave there only
when HQ itself said, after its commit, that it has them (docs/uplink.md). Everything in memory here may be lost at any
moment and costs a second sending, which HQ recognises.
"""

import argparse
import secrets
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue

import structlog

from gated import __version__, config, logs
from gated.control import Client, RelayOrder, Status, Unavailable, UplinkState
from gated.control import Refused as ControlRefused
from gated.mqtt import Backoff, Broker, Connected, Gone, Happening, Publication, Received, Refused, Session
from gated.notify import notify, watchdog_s
from gated.store.acks import AckedHeads
from gated.store.flight import Flights, ReceiptIgnored
from gated.store.outbox import OutboxReader
from gated.store.sql import StoreError
from gated.sync.control import Announced
from gated.wire import link, orders
from gated.wire.codec import WireError

log = structlog.get_logger()

POLL_S = 0.2
"""How often the outbox is looked at: what a record waits at most before it is sent."""
PING_AGAIN_S = 3.0
"""An unanswered ping is repeated after this."""
TELEMETRY_EXPIRY_S = 60
CONTROL_S_MAX = 2.0
EX_CONFIG = 78


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the uplink is; from [uplink] of lane.toml."""

    heartbeat_s: float = 15.0
    ack_s_max: float = 30.0
    retry_s_min: float = 1.0
    retry_s_max: float = 60.0
    inflight_max: int = 64

    @property
    def silence_s_max(self) -> float:
        """HQ counts as reachable this long after its last word: one heartbeat and two more tries."""
        return self.heartbeat_s + 2 * min(PING_AGAIN_S, self.heartbeat_s)


class Uplink:
    """One lane's line to HQ. `run` until stopped; every failure is waited out."""

    def __init__(
        self, site: str, lane: str, broker: Broker, flights: Flights,
        control: Client, pace: Pace = Pace(), sync: Client | None = None,
    ) -> None:  # fmt: skip
        self._site, self._lane, self._broker, self._flights = site, lane, broker, flights
        self._control, self._pace, self._sync = control, pace, sync
        self._news = (link.announce_topic(),) if sync else ()
        self._inbox: SimpleQueue[Happening] = SimpleQueue()
        self._backoff = Backoff(pace.retry_s_min, pace.retry_s_max)
        self._session: Session | None = None
        self._name = ""
        """Of the present connection, in birth, death and telemetry."""
        self._connected = False
        self._dial_mono = time.monotonic()
        self._hq = ""
        self._heard_mono = float("-inf")
        """When HQ itself last said something."""
        self._ping = ""
        self._ping_mono = float("-inf")
        self._told_up: bool | None = None
        self._told_mono = float("-inf")
        self._boot = ""
        self._lane_up = False
        self._store = "ok"
        self._looked_mono = float("-inf")

    @property
    def up(self) -> bool:
        """Did HQ, not merely a broker, say something lately?"""
        return self._connected and time.monotonic() - self._heard_mono < self._pace.silence_s_max

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; then says goodbye and returns. Once only: its databases are closed then."""
        stroke_s = watchdog_s()
        notify("READY=1", "STATUS=started")
        while not stop.is_set():
            if stroke_s is not None:
                notify("WATCHDOG=1")
            self._dial()
            self._listen(min(POLL_S, stroke_s or POLL_S))
            self._look()
            self._tell_hq()
            self._tell_lane()
        notify("STOPPING=1")
        self._goodbye()
        self._flights.close()

    # -- the connection

    def _topic(self, leaf: str) -> str:
        return link.topic(self._site, self._lane, leaf)

    def _dial(self) -> None:
        if self._session is not None or time.monotonic() < self._dial_mono:
            return
        self._name = secrets.token_hex(6)
        death = link.encode(link.Death(self._name, "lost"))
        self._session = Session(
            self._broker,
            f"gated-{self._site}-{self._lane}",
            self._inbox,
            subscribe=[(name, 1) for name in (self._topic("ack"), self._topic("cmd"), *self._news)],
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
                self._backoff.reset()
                self._hq, self._ping, self._ping_mono, self._heard_mono = "", "", float("-inf"), float("-inf")
                self._look()
                self._flights.rewind()
                self._ask_lane()
                self._birth()
                log.info("connected", broker=self._broker.host, port=self._broker.port, session=self._name)
                notify("STATUS=connected to the broker")
            case Gone(why=why):
                self._session, self._connected = None, False
                pause_s = self._backoff.pause_s()
                self._dial_mono = time.monotonic() + pause_s
                log.warning("no broker", why=why, again_in_s=round(pause_s, 1))
                notify("STATUS=no broker")
            case Received(topic=topic) if topic == self._topic("ack"):
                self._receipt(happened)
            case Received(topic=topic) if topic == self._topic("cmd"):
                self._order(happened)
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
        birth = link.Birth(self._name, self._boot, datetime.now(UTC), __version__, spans)
        self._publish("birth", birth, retain=True)

    def _goodbye(self) -> None:
        if self._session is not None:
            if self._connected:
                self._publish("death", link.Death(self._name, "stopped"), retain=True)
            self._session.stop()
            self._session, self._connected = None, False
        self._tell_lane()

    # -- records

    def _look(self) -> None:
        """See what the outbox holds and send what may go."""
        now = time.monotonic()
        if now - self._looked_mono < POLL_S / 2:
            return
        self._looked_mono = now
        try:
            if self._flights.refresh() and self._connected:
                log.info("another database", streams=len(self._flights.spans))
                self._birth()
            if self._flights.overdue(now, self._pace.ack_s_max):
                log.warning("no acknowledgement in time: sending again", after_s=self._pace.ack_s_max)
                self._flights.rewind()
            if self.up:
                self._send(now)
            self._store_is("ok")
        except StoreError as bad:
            self._store_is(bad.why)

    def _send(self, now: float) -> None:
        for queued in self._flights.next(now):
            assert self._session is not None
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
        try:
            receipt = link.decode(received.payload)
        except WireError as bad:
            log.error("receipt refused", why=str(bad))
            return
        if not isinstance(receipt, link.Receipt):
            log.error("receipt refused", why="another message than a receipt")
            return
        now = self._heard_mono = time.monotonic()
        if receipt.pong and receipt.pong == self._ping:
            self._ping = ""
        if receipt.hq != self._hq:
            self._hq = receipt.hq
            self._flights.rewind()  # what was under way to another connection of HQ's may never have come
        try:
            for refusal in receipt.refusals:
                self._refusal(refusal, now)
            for head in receipt.heads:
                self._head(head, now)
        except StoreError as bad:
            self._store_is(bad.why)
        self._looked_mono = float("-inf")  # there may be room: do not wait for the next poll

    def _head(self, head: link.Head, now: float) -> None:
        try:
            self._flights.answered(head, now)
        except ReceiptIgnored as why:
            say = log.debug if str(why) == "another_generation" else log.error
            say("receipt ignored", why=str(why), stream=head.stream_id, seq=head.seq)
            if str(why) == "hq_went_back":
                self._birth()  # says what we still hold

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
        again_s = min(PING_AGAIN_S, self._pace.heartbeat_s) if self._ping else self._pace.heartbeat_s
        if not self._connected or now - self._ping_mono < again_s:
            return
        self._ask_lane()
        self._ping, self._ping_mono = secrets.token_hex(4), now
        flights, (pending, oldest_s) = self._flights, self._backlog()
        who, how = (self._name, self._boot, datetime.now(UTC), self._ping), (self._lane_up, self._store)
        telemetry = link.Telemetry(*who, *how, pending, oldest_s, flights.refused, flights.resent)
        self._publish("telemetry", telemetry, expiry_s=TELEMETRY_EXPIRY_S)

    def _backlog(self) -> tuple[int, float]:
        """(records that wait, age of the first in seconds)."""
        try:
            pending, oldest = self._flights.waiting()
        except StoreError as bad:
            self._store_is(bad.why)
            return 0, 0.0
        now = datetime.now(UTC)
        return pending, max(0.0, round((now - (oldest or now)).total_seconds(), 1))

    def _ask_lane(self) -> None:
        """Does the lane's daemon run, and which run is it?"""
        try:
            boot = self._control.ask(Status()).get("boot", "")
            self._lane_up = True
        except (Unavailable, ControlRefused) as bad:
            if self._lane_up:
                log.warning("the lane cannot be asked", why=str(bad))
            boot, self._lane_up = "", False
        if boot != self._boot and isinstance(boot, str):
            self._boot = boot
            self._birth()

    def _tell_lane(self) -> None:
        """Tell the lane's daemon whether an officer can be reached: at each change, and now and then."""
        now = time.monotonic()
        if self.up == self._told_up and now - self._told_mono < self._pace.heartbeat_s:
            return
        if self.up != self._told_up:
            log.info("hq", reachable=self.up)
        self._told_up, self._told_mono = self.up, now
        try:
            self._control.ask(UplinkState(self.up))
        except (Unavailable, ControlRefused) as bad:
            log.debug("the lane was not told", why=str(bad))

    # -- orders

    def _order(self, received: Received) -> None:
        """Pass an order to the lane and its answer back. Nothing is believed or decided here."""
        name, why = "", ""
        try:
            name = orders.read(received.payload).order
            told = self._control.ask(RelayOrder.of(received.payload))
            if told.get("accepted") is False:
                why = str(told.get("why") or "refused")
        except (orders.OrderRefused, ControlRefused) as no:
            why = no.why
        except Unavailable:
            why = "lane_unreachable"
        log.info("order", order=name, taken=not why, why=why)
        answer = link.encode(link.OrderAnswer(name, not why, why[:200]))
        if self._session is not None:
            self._session.publish(Publication(self._topic("answer"), answer, correlation=received.correlation))

    def _announced(self, received: Received) -> None:
        """Pass an announcement of HQ to the sync, which alone can tell what it is worth; one that does not run asks HQ
        itself once it does."""
        assert self._sync is not None
        try:
            self._sync.ask(Announced.of(received.payload))
        except (ControlRefused, Unavailable, ValueError) as bad:
            log.warning("announcement not passed on", why=str(bad))


# -- the process


def build(conf: config.Config) -> Uplink:
    """The uplink of a lane.toml. Raises `config.ConfigError`, `StoreError`."""
    up = conf.uplink
    password = None
    if up.password_file is not None:
        try:
            password = up.password_file.read_text(encoding="utf-8").strip()
        except OSError as bad:
            raise conf.error(("uplink", "password_file"), f"cannot be read: {bad.strerror}") from None
    alike = ("host", "port", "tls", "ca", "certificate", "key", "username", "keep_alive_s", "connect_s_max")
    broker = Broker(**{name: getattr(up, name) for name in alike}, password=password)
    try:
        broker.context()
    except OSError as bad:
        raise conf.error(("uplink",), f"ca, certificate or key cannot be used: {bad}") from None
    flights = Flights(
        OutboxReader(conf.store.dir / "lane.db"),
        AckedHeads.renewed(conf.store.dir / "uplink.db", mode=0o640),
        up.inflight_max,
    )
    pace = Pace(up.heartbeat_s, up.ack_s_max, up.retry_s_min, up.retry_s_max, up.inflight_max)
    identity, sync = conf.identity, Client(conf.sync.socket, CONTROL_S_MAX) if conf.sync else None
    return Uplink(identity.site, identity.id, broker, flights, Client(conf.control.socket, CONTROL_S_MAX), pace, sync)


def serve(conf: config.Config) -> int:
    """Run the uplink of a configuration until SIGTERM. The process's exit code. Raises `config.ConfigError`."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logs.configure(conf.log.level, conf.log.format)
    try:
        uplink = build(conf)
    except StoreError as bad:
        log.error("the uplink's database cannot be used", why=str(bad))
        return 1
    uplink.run(stop)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m gated.uplink --config lane.toml`. 0 after SIGTERM, 78 for a configuration that cannot be used."""
    parser = argparse.ArgumentParser(prog="gated uplink", description="Sends a lane's records to HQ over MQTT.")
    parser.add_argument("--config", default="/etc/gated/lane.toml", type=Path)
    try:
        return serve(config.load(parser.parse_args(arguments).config))
    except config.ConfigError as bad:
        print(f"gated uplink: {bad}", file=sys.stderr)  # noqa: T201
        return EX_CONFIG


if __name__ == "__main__":
    sys.exit(main())
