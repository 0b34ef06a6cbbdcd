"""One MQTT 5 connection: its network thread, and what happens on it as values in a queue. Imports nothing
of ours.

A `Session` lives for one connection and holds nothing that matters: no queue of paho's, no session of the
broker (clean start, expiry 0) is ever relied on. Who uses it makes a new one after each loss. The callbacks
run in the network thread and only put into the queue; `publish` and `acknowledge` only queue a packet and
wake it."""

import contextlib
import secrets
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and how to prove who we are. `ca` None with `tls`: the system's trust store."""

    host: str
    port: int = 8883
    tls: bool = True
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    keep_alive_s: int = 30
    connect_s_max: float = 10.0

    def context(self) -> ssl.SSLContext | None:
        """TLS 1.2 or later, the broker's name checked. Raises `OSError` (so `ssl.SSLError`) for unusable
        files."""
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to send. `properties`: MQTT 5 user properties. `correlation`: correlation data."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int = 1
    retain: bool = False
    expiry_s: int | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    correlation: bytes | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened on `session`."""

    session: "Session"


@dataclass(frozen=True, slots=True)
class Connected(Happening):
    """The broker accepted the connection and every subscription: answers can reach us from now on."""


@dataclass(frozen=True, slots=True)
class Received(Happening):
    """A message came. With `manual_ack`, answer with `session.acknowledge(received)` once it is safe."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int
    mid: int
    retain: bool
    properties: Mapping[str, str]
    correlation: bytes | None


@dataclass(frozen=True, slots=True)
class Refused(Happening):
    """The broker took a publication only to throw it away (not authorised, too large, quota): a
    mis-configuration."""

    reason: str


@dataclass(frozen=True, slots=True)
class Gone(Happening):
    """The connection is over, or never came about. The last happening of a session. `why`: a short text."""

    why: str


class Session:
    """One connection to the broker. `start`, then read `inbox` until `Gone`."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        inbox: "SimpleQueue[Happening]",
        *,
        subscribe: Sequence[tuple[str, int]] = (),
        will: Publication | None = None,
        manual_ack: bool = False,
        receive_max: int = 64,
        inflight_max: int = 20,
        packet_max: int | None = None,
    ) -> None:
        """`receive_max`: messages of QoS 1 that the broker may have sent before we acknowledge. `packet_max`: bytes;
        the broker drops longer ones rather than send them here. Together they bound the inbox."""
        self._broker, self._inbox, self._subscriptions = broker, inbox, list(subscribe)
        self._receive_max, self._packet_max = receive_max, packet_max
        self._stopping = threading.Event()
        self._why = ""
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5,
            manual_ack=manual_ack,
            reconnect_on_failure=False,
        )
        client.connect_timeout = broker.connect_s_max
        client.max_inflight_messages_set(inflight_max)
        if broker.username is not None:
            client.username_pw_set(broker.username, broker.password)
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain, _properties(PacketTypes.WILLMESSAGE, will))
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        # With this callback set paho never writes to the socket in the thread that publishes.
        client.on_socket_register_write = self._on_wants_to_write
        self._client = client
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{client_id}", daemon=True)

    def start(self) -> None:
        """Connect in the network thread. Never waits and never raises: a failure is a `Gone`."""
        self._thread.start()

    def publish(self, publication: Publication) -> bool:
        """Queue a message; it is sent, or lost with this connection. False where the connection is already
        gone."""
        info = self._client.publish(
            publication.topic,
            publication.payload,
            publication.qos,
            publication.retain,
            _properties(PacketTypes.PUBLISH, publication),
        )
        return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def acknowledge(self, received: Received) -> None:
        """Tell the broker that `received` is safe (`manual_ack` only)."""
        self._client.ack(received.mid, received.qos)

    def stop(self, flush_s_max: float = 2.0) -> None:
        """Send what is queued, say goodbye (no will), close. Waits at most about `flush_s_max`.
        Idempotent."""
        self._stopping.set()
        self._wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(flush_s_max)

    # -- the network thread

    def _run(self) -> None:
        try:
            context = self._broker.context()
            if context is not None:
                self._client.tls_set_context(context)
            properties = _blank(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0
            properties.ReceiveMaximum = self._receive_max
            if self._packet_max is not None:
                properties.MaximumPacketSize = self._packet_max
            self._client.connect(
                self._broker.host,
                self._broker.port,
                self._broker.keep_alive_s,
                clean_start=True,
                properties=properties,
            )
            self._attend()
        except (OSError, ValueError) as bad:  # ValueError: paho's and ssl's word for an impossible host name
            self._why = self._why or _reason(bad)
        finally:
            line = self._client.socket()
            if line is not None:
                line.close()
            self._wake_r.close()
            self._wake_w.close()
            self._inbox.put(Gone(self, self._why or "connection lost"))

    def _attend(self) -> None:
        """Read and write until the connection ends or `stop` was called and everything is written."""
        with selectors.DefaultSelector() as ready:
            line = self._client.socket()
            if line is None:
                return
            ready.register(line, selectors.EVENT_READ)
            ready.register(self._wake_r, selectors.EVENT_READ)
            stop_mono = None
            while self._client.socket() is line:
                if self._stopping.is_set():
                    stop_mono = stop_mono or time.monotonic() + 1.0
                    if not self._client.want_write() or time.monotonic() > stop_mono:
                        self._why = self._why or "stopped"
                        self._goodbye()
                        return
                wants = selectors.EVENT_WRITE if self._client.want_write() else 0
                ready.modify(line, selectors.EVENT_READ | wants)
                for key, mask in ready.select(self._wait_s(line)):
                    if key.fileobj is self._wake_r:
                        with contextlib.suppress(BlockingIOError):
                            self._wake_r.recv(4096)
                        continue
                    if mask & selectors.EVENT_WRITE:
                        self._client.loop_write()
                    if mask & selectors.EVENT_READ:
                        self._client.loop_read()
                while _pending(line) and self._client.socket() is line:
                    self._client.loop_read()  # TLS: what is decrypted already is invisible to the selector
                self._client.loop_misc()

    def _wait_s(self, line: Any) -> float:
        return 0.0 if _pending(line) else min(1.0, self._broker.keep_alive_s / 4)

    def _goodbye(self) -> None:
        self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Normal disconnection"))
        for _ in range(10):
            if not self._client.want_write() or self._client.socket() is None:
                return
            self._client.loop_write()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nothing is left to wake
            self._wake_w.send(b"\0")

    def _on_wants_to_write(self, *_: object) -> None:
        self._wake()

    def _on_connect(self, client: paho.Client, _data: object, _flags: object, reason: Any, _props: object) -> None:
        if reason.is_failure:
            self._why = f"refused by the broker: {reason}".lower()
            self._stopping.set()
        elif self._subscriptions:
            client.subscribe([(topic, SubscribeOptions(qos=qos)) for topic, qos in self._subscriptions])
        else:
            self._inbox.put(Connected(self))

    def _on_subscribe(self, _client: object, _data: object, _mid: int, reasons: Any, _props: object) -> None:
        refused = [topic for (topic, _), reason in zip(self._subscriptions, reasons, strict=False) if reason.is_failure]
        if refused:
            self._why = f"the broker refuses the subscription to {refused[0]}"
            self._stopping.set()
        else:
            self._inbox.put(Connected(self))

    def _on_disconnect(self, _c: object, _data: object, _flags: object, reason: Any, _props: object) -> None:
        self._why = self._why or f"disconnected: {reason}".lower()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        if message.qos == 0 and self._inbox.qsize() >= self._receive_max:
            return  # nothing else bounds these, and nobody is promised that they arrive
        properties = message.properties
        self._inbox.put(
            Received(
                self,
                message.topic,
                bytes(message.payload),
                message.qos,
                message.mid,
                message.retain,
                dict(getattr(properties, "UserProperty", ())),
                getattr(properties, "CorrelationData", None),
            )
        )

    def _on_publish(self, _client: object, _data: object, _mid: int, reason: Any, _props: object) -> None:
        if reason.is_failure:
            self._inbox.put(Refused(self, str(reason).lower()))


class Backoff:
    """Pauses between attempts: they double from `min_s` to `max_s`, each with full jitter over its upper
    half.

    The jitter spreads the lanes that all lost the same broker in the same second."""

    def __init__(self, min_s: float, max_s: float) -> None:
        self._min_s, self._max_s, self._next_s = min_s, max_s, min_s

    def pause_s(self) -> float:
        """The pause before the next attempt."""
        pause = self._next_s * (0.5 + secrets.randbelow(1000) / 2000)
        self._next_s = min(self._max_s, self._next_s * 2)
        return pause

    def least_s(self) -> float:
        """The shortest pause, with its jitter: before another broker, say."""
        return self._min_s * (0.5 + secrets.randbelow(1000) / 2000)

    def reset(self) -> None:
        """It worked."""
        self._next_s = self._min_s


def _blank(packet: int) -> Any:
    return Properties(packet)  # type: ignore[no-untyped-call]


def _properties(packet: int, publication: Publication) -> Any:
    made = _blank(packet)
    if publication.expiry_s is not None:
        made.MessageExpiryInterval = publication.expiry_s
    if publication.content_type is not None:
        made.ContentType = publication.content_type
    if publication.correlation is not None:
        made.CorrelationData = publication.correlation
    if publication.properties:
        made.UserProperty = list(publication.properties.items())
    return made


def _pending(line: Any) -> bool:
    return isinstance(line, ssl.SSLSocket) and line.pending() > 0


def _reason(bad: Exception) -> str:
    if isinstance(bad, ssl.SSLError):
        return f"tls: {bad.reason or 'failed'}".lower()
    if isinstance(bad, OSError) and bad.strerror:
        return bad.strerror.lower()
    return type(bad).__name__.lower()
