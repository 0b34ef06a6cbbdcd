"""A small MQTT 5 client on asyncio, for thousands of connections in one process: what a lane's wire needs, no more.

gmqtt 0.8 was tried: quick enough (39 us a message, 13 kB a client), but it does not read why a PUBACK refuses a
message, waits for ever where a connection ends before its CONNACK, and sends unacknowledged messages again by itself,
which is what the fleet must do as a lane does it. The product uses paho (`gated.mqtt`), one thread a connection.

A `Connection` is one connection: clean start, nothing is kept. Packet names are those of the specification."""

import asyncio
import contextlib
import ssl
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

PROPERTY_BYTES: Final = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
"""Properties of a fixed length. The others are one text (0x26: two), and 0x0B a variable number."""
EXPIRY, CONTENT_TYPE, SERVER_KEEP_ALIVE, RECEIVE_MAX, USER = 0x02, 0x03, 0x13, 0x21, 0x26
CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = 1, 2, 3, 4, 8, 9, 12, 13, 14


class Broken(OSError):
    """A connection did not come about, or the other side does not speak MQTT 5. The text says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """To send with QoS 1, or received with any. `properties`: user properties."""

    topic: str
    payload: bytes = field(repr=False)
    retain: bool = False
    expiry_s: int | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None

    def described(self) -> bytes:
        """Its properties, with their length."""
        found = b"" if self.expiry_s is None else struct.pack("!BI", EXPIRY, self.expiry_s)
        found += b"" if self.content_type is None else bytes((CONTENT_TYPE,)) + _text(self.content_type)
        found += b"".join(bytes((USER,)) + _text(name) + _text(value) for name, value in self.properties.items())
        return _number(len(found)) + found


class Connection(asyncio.Protocol):
    """Made by `connect`. `heard` is called for each message; `gone` completes with the reason when it is over."""

    def __init__(self, heard: Callable[[Message], None], keep_alive_s: int) -> None:
        self._heard, self._keep_alive_s = heard, keep_alive_s
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[str] = self._loop.create_future()
        self.refused: list[int] = []
        """Reason codes (0x80 and above) of PUBACKs: the broker threw a message away."""
        self._expected = CONNACK
        self._answer: asyncio.Future[bytes] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._in = bytearray()
        self._mid, self._quota, self._unanswered = 0, 1, 0
        self._unsent: deque[Message] = deque()
        self._wrote_s = self._read_s = self._loop.time()
        self._timer = self._loop.call_later(keep_alive_s / 2, self._keep_alive)

    def publish(self, message: Message) -> None:
        """Send with QoS 1, or queue while the broker's Receive Maximum is reached. Lost where the connection is."""
        if self._quota == 0:
            self._unsent.append(message)
            return
        self._quota -= 1
        self._unanswered += 1
        head = _text(message.topic) + struct.pack("!H", self._next_mid()) + message.described()
        self._send(PUBLISH << 4 | 2 | message.retain, head + message.payload)

    @property
    def waiting(self) -> int:
        """Messages that the broker has not acknowledged, or was not sent yet."""
        return self._unanswered + len(self._unsent)

    def close(self) -> None:
        """Say goodbye (no will) and close."""
        self._send(DISCONNECT << 4, b"")
        if self._transport is not None:
            self._transport.close()

    def abort(self, why: str) -> None:
        """End it without a word; the broker sends the will."""
        self._over(why)
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, first: int, body: bytes, answer: int) -> bytes:
        """Send one packet and wait for its answer's body."""
        self._answer, self._expected = self._loop.create_future(), answer
        self._send(first, body)
        waits: set[asyncio.Future[Any]] = {self._answer, self.gone}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not self._answer.done():
            raise Broken(self.gone.result())
        return self._answer.result()

    def accepted(self, connack: bytes) -> None:
        """Raises `Broken` for a refusal; else the broker's limits hold from now on."""
        if connack[1] >= 0x80:
            raise Broken(f"refused by the broker: {connack[1]:#04x}")
        size, at = _number_at(connack, 2)
        told = _properties(connack[at : at + size])
        self._quota = int.from_bytes(told.get(RECEIVE_MAX, [b"\xff\xff"])[0], "big")
        if SERVER_KEEP_ALIVE in told:
            self._keep_alive_s = int.from_bytes(told[SERVER_KEEP_ALIVE][0], "big")

    def _next_mid(self) -> int:
        """Numbers are used again after 65,535: no broker lets so many wait."""
        self._mid = self._mid % 0xFFFF + 1
        return self._mid

    def _send(self, first: int, body: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._wrote_s = self._loop.time()
            self._transport.write(bytes((first,)) + _number(len(body)) + body)

    def _keep_alive(self) -> None:
        now, every_s = self._loop.time(), self._keep_alive_s
        if now - self._read_s > 1.5 * every_s:
            self.abort("nothing came within the keep alive")
            return
        if now - min(self._wrote_s, self._read_s) >= every_s / 2:
            self._send(PINGREQ << 4, b"")
        self._timer = self._loop.call_later(every_s / 2, self._keep_alive)

    def _over(self, why: str) -> None:
        self._timer.cancel()
        if not self.gone.done():
            self.gone.set_result(why)

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._over(f"connection lost: {type(exc).__name__}" if exc else "connection closed")

    def data_received(self, data: bytes) -> None:
        self._read_s = self._loop.time()
        self._in += data
        at = 0
        try:
            while (packet := _whole(self._in, at)) is not None:
                begin, end = packet
                self._packet(self._in[at], bytes(self._in[begin:end]))
                at = end
        except (Broken, IndexError, struct.error, UnicodeDecodeError) as bad:
            self.abort(f"not MQTT 5: {bad}")
            return
        del self._in[:at]

    def _packet(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == PUBLISH:
            self._published(first, body)
        elif kind == PUBACK:
            if len(body) > 2 and body[2] >= 0x80:
                self.refused.append(body[2])
            self._quota += 1
            self._unanswered -= 1
            if self._unsent:
                self.publish(self._unsent.popleft())
        elif kind in (CONNACK, SUBACK) and kind == self._expected and not self._answer.done():
            self._answer.set_result(body)
        elif kind == DISCONNECT:
            self.abort(f"the broker says goodbye: {body[0] if body else 0:#04x}")
        elif kind != PINGRESP:
            raise Broken(f"packet {kind}")

    def _published(self, first: int, body: bytes) -> None:
        topic, at = _text_at(body, 0)
        mid = body[at : at + 2] if first & 6 else b""
        size, begin = _number_at(body, at + len(mid))
        pairs = _properties(body[begin : begin + size]).get(USER, [])
        users = {_text_at(pair, 0)[0].decode(): _text_at(pair, _text_at(pair, 0)[1])[0].decode() for pair in pairs}
        self._heard(Message(topic.decode(), body[begin + size :], bool(first & 1), None, users))
        if mid:
            self._send(PUBACK << 4, mid)


async def connect(
    where: tuple[str, int], context: ssl.SSLContext | None, client_id: str, heard: Callable[[Message], None], *,
    subscribe: Sequence[str] = (), will: Message | None = None, keep_alive_s: int = 60, connect_s_max: float = 10.0,
) -> Connection:  # fmt: skip
    """A connection that the broker accepted, with every subscription (QoS 1). Raises `OSError` (so `ssl.SSLError`,
    `Broken`, `TimeoutError`)."""
    loop, made = asyncio.get_running_loop(), Connection(heard, keep_alive_s)
    try:
        async with asyncio.timeout(connect_s_max):
            name = where[0] if context is not None else None
            await loop.create_connection(lambda: made, *where, ssl=context, server_hostname=name)
            flags = 0x02 if will is None else 0x02 | 0x04 | 0x08 | (0x20 if will.retain else 0)
            body = _text("MQTT") + struct.pack("!BBHB", 5, flags, keep_alive_s, 0) + _text(client_id)
            if will is not None:
                body += will.described() + _text(will.topic) + struct.pack("!H", len(will.payload)) + will.payload
            made.accepted(await made.ask(CONNECT << 4, body, CONNACK))
            if subscribe:
                wanted = b"".join(_text(topic) + b"\x01" for topic in subscribe)
                suback = await made.ask(SUBSCRIBE << 4 | 2, struct.pack("!HB", made._next_mid(), 0) + wanted, SUBACK)
                if any(reason >= 0x80 for reason in suback[-len(subscribe) :]):
                    raise Broken("the broker refuses a subscription")
    except BaseException:
        made.abort("not connected")
        raise
    return made


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("!H", len(data)) + data


def _text_at(data: bytes, at: int) -> tuple[bytes, int]:
    """(the bytes there, where they end)."""
    (size,) = struct.unpack_from("!H", data, at)
    if at + 2 + size > len(data):
        raise Broken("a text that goes beyond its packet")
    return data[at + 2 : at + 2 + size], at + 2 + size


def _number(value: int) -> bytes:
    """A Variable Byte Integer."""
    found = b""
    while value > 0x7F:
        found += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return found + bytes((value,))


def _number_at(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """(the Variable Byte Integer there, where it ends). Raises `IndexError` where it is not all there."""
    value = 0
    for k in range(4):
        value |= (data[at + k] & 0x7F) << 7 * k
        if data[at + k] < 0x80:
            return value, at + k + 1
    raise Broken("a number longer than four bytes")


def _whole(data: bytearray, at: int) -> tuple[int, int] | None:
    """Where the body of the packet at `at` begins and ends; None while it is not all there."""
    with contextlib.suppress(IndexError):
        size, begin = _number_at(data, at + 1)
        if begin + size <= len(data):
            return begin, begin + size
    return None


def _properties(data: bytes) -> dict[int, list[bytes]]:
    """Properties as bytes, by their identifier; those of type text without their length."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(data):
        kind, begin = data[at], at + 1
        if kind in PROPERTY_BYTES:
            at = begin + PROPERTY_BYTES[kind]
            value = data[begin:at]
        elif kind == 0x0B:
            at = _number_at(data, begin)[1]
            value = data[begin:at]
        else:
            value, at = _text_at(data, begin)
            if kind == USER:
                at = _text_at(data, at)[1]
                value = data[begin:at]
        found.setdefault(kind, []).append(value)
    return found
