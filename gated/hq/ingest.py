"""Takes records in: verify, commit, and only then acknowledge to the lane. Restart it at any moment.

The order is the promise: a batch of events is judged (`archive`), committed with a disk flush, and then the lanes
get their receipts. What is lost on the way (by the broker, by this process' death between two steps) was not
acknowledged, so the lane sends it again; what comes twice is recognised by (lane, stream, seq) and acknowledged again.
The broker's own acknowledgements are flow control and nothing else.
"""

import secrets
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import structlog

from gated.hq.archive import Archive, Fate, Taken
from gated.mqtt import Backoff, Broker, Connected, Gone, Happening, Publication, Received, Refused, Session
from gated.notify import notify, watchdog_s
from gated.wire import link
from gated.wire.codec import WireError
from gated.wire.record import Head

log = structlog.get_logger()

BATCH_MAX = 500
"""Messages in one commit."""
GATHER_S = 0.02
"""How long a first message waits for company: a commit costs a disk flush, however many share it."""
RECEIVE_MAX = 1000
RESEND_S = 1.0
"""A stream is asked at most this often to send again."""


@dataclass
class _Answer:
    """What one lane is told after the commit."""

    heads: dict[str, Head] = field(default_factory=dict)
    resend: set[str] = field(default_factory=set)
    refusals: list[link.Refusal] = field(default_factory=list)
    pong: str = ""


class Ingest:
    """One process that takes in the records of `site` (`+`: of all sites)."""

    def __init__(self, archive: Archive, private: bytes, broker: Broker, site: str = "+") -> None:
        self.archive, self._private, self._broker = archive, private, broker
        self._topics = [(f"{link.ROOT}/{site}/+/{leaf}", 1) for leaf in ("event", "birth", "death", "telemetry")]
        self._client_id = f"hq-ingest-{secrets.token_hex(6)}"
        self._inbox: SimpleQueue[Happening] = SimpleQueue()
        self._asked_mono: dict[tuple[str, str], float] = {}
        self._session: Session | None = None
        self._name = ""
        """Of this connection, in receipts."""

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. Raises `sqlite3.Error` never: what cannot be stored now is logged and comes again."""
        backoff = Backoff(0.5, 30.0)
        stroke_s = watchdog_s()
        again_mono = time.monotonic()
        while not stop.is_set():
            if stroke_s is not None:
                notify("WATCHDOG=1")
            if self._session is None and time.monotonic() >= again_mono:
                self._session = self._dial()
            for happened in self._gather(min(0.5, stroke_s or 0.5)):
                if isinstance(happened, Connected):
                    backoff.reset()
                    log.info("connected", broker=self._broker.host, port=self._broker.port)
                    notify("READY=1", "STATUS=connected")
                elif isinstance(happened, Gone) and happened.session is self._session:
                    pause_s = backoff.pause_s()
                    log.warning("no broker", why=happened.why, again_in_s=round(pause_s, 1))
                    self._session, again_mono = None, time.monotonic() + pause_s
                elif isinstance(happened, Refused):
                    log.error("the broker threw a receipt away", why=happened.reason)
        if self._session is not None:
            self._session.stop()
            self._session = None

    def _dial(self) -> Session:
        self._name = secrets.token_hex(6)
        session = Session(
            self._broker,
            self._client_id,
            self._inbox,
            subscribe=self._topics,
            manual_ack=True,
            receive_max=RECEIVE_MAX,
            inflight_max=200,
        )
        session.start()
        return session

    def _gather(self, wait_s: float) -> list[Happening]:
        """Wait for messages and take them in, a batch at once. Returns what happened besides."""
        messages: list[Received] = []
        others: list[Happening] = []
        until = time.monotonic() + wait_s
        while len(messages) < BATCH_MAX:
            try:
                happened = self._inbox.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                break
            if isinstance(happened, Received):
                if not messages:
                    until = min(until, time.monotonic() + GATHER_S)
                messages.append(happened)
            else:
                others.append(happened)
                break
        if messages:
            self._take_in(messages)
        return others

    def _take_in(self, messages: Sequence[Received]) -> None:
        answers: dict[tuple[str, str], _Answer] = {}
        try:
            with self.archive.batch():
                for message in messages:
                    self._take(message, answers)
        except sqlite3.Error as bad:
            log.error("nothing stored, nothing acknowledged", why=str(bad), messages=len(messages))
            time.sleep(0.5)
            answers.clear()
        for (site, lane), answer in answers.items():
            self._tell(site, lane, answer)
        for message in messages:
            message.session.acknowledge(message)

    def _take(self, message: Received, answers: dict[tuple[str, str], _Answer]) -> None:
        try:
            site, lane, leaf = link.place(message.topic)
        except ValueError:
            log.error("message outside of gate/v1", topic=message.topic)
            return
        answer = answers.setdefault((site, lane), _Answer())
        if leaf == "event":
            self._event(site, lane, message, answer)
            return
        try:
            told = link.decode(message.payload)
        except WireError as bad:
            log.warning("message refused", site=site, lane=lane, leaf=leaf, why=str(bad))
            return
        if leaf == "birth" and isinstance(told, link.Birth):
            self.archive.born(site, lane, told, message.retain)
            for span in told.spans:
                answer.heads.setdefault(span.stream_id, self.archive.head(lane, span.stream_id))
            log.info("lane up", site=site, lane=lane, session=told.session, retained=message.retain)
        elif leaf == "death" and isinstance(told, link.Death):
            if self.archive.died(site, lane, told):
                log.warning("lane gone", site=site, lane=lane, why=told.why)
        elif leaf == "telemetry" and isinstance(told, link.Telemetry):
            self.archive.told(site, lane, told)
            answer.pong = told.ping
        else:
            log.warning("message refused", site=site, lane=lane, leaf=leaf, why="another message than its topic's")

    def _event(self, site: str, lane: str, message: Received, answer: _Answer) -> None:
        named = (message.properties.get(link.ID_PROPERTY, ""), _number(message.properties.get(link.SEQ_PROPERTY)))
        taken = self.archive.take(site, lane, message.payload, named, self._private)
        if taken.head is not None:
            answer.heads[taken.stream_id] = taken.head
        if taken.fate is Fate.MISSING:
            answer.resend.add(taken.stream_id)
        elif taken.fate in (Fate.REFUSED, Fate.SET_ASIDE):
            self._refuse(site, lane, taken, answer)

    def _refuse(self, site: str, lane: str, taken: Taken, answer: _Answer) -> None:
        final = taken.fate is Fate.SET_ASIDE
        say = log.error if final else log.warning
        say("record refused", site=site, lane=lane, stream=taken.stream_id, seq=taken.seq, why=taken.why, final=final)
        if taken.stream_id and taken.seq > 0:
            why = taken.why.partition(":")[0]
            answer.refusals.append(link.Refusal(taken.stream_id, taken.seq, taken.chain, why, final))

    def _tell(self, site: str, lane: str, answer: _Answer) -> None:
        """The receipt, where there is something to say. Lost with its connection, it is made again by the resend."""
        now = time.monotonic()
        heads = []
        for stream_id, head in answer.heads.items():
            resend = stream_id in answer.resend
            if resend:
                asked = self._asked_mono.get((lane, stream_id), float("-inf"))
                resend = now - asked >= RESEND_S
                if resend:
                    self._asked_mono[lane, stream_id] = now
            heads.append(link.Head(stream_id, head.seq, head.hash, resend))
        if self._session is not None and (heads or answer.refusals or answer.pong):
            receipt = link.Receipt(self._name, tuple(heads[: link.STREAMS_MAX]), tuple(answer.refusals), answer.pong)
            self._session.publish(Publication(link.topic(site, lane, "ack"), link.encode(receipt)))


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else 0
