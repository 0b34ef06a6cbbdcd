"""Takes records in: verify, commit, and only then acknowledge to the lane. Kill it at any moment; run any number.

The order is the promise: a batch of messages is judged (`intake`), committed with a disk flush, then the lanes get
their receipts, and last the broker its PUBACKs. What is lost on the way was not acknowledged, so the lane sends it
again; what comes twice is recognised by (lane, stream, seq) and acknowledged again. The broker's own acknowledgements
are flow control and nothing else: mosquitto 2.0 loses what was under way to a member of a shared subscription that
dies, and what waited for it too; the other members never see it (tests/test_hq_ingest.py).
"""

import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import structlog

from gated.hq.archive import Archive, ArchiveError
from gated.hq.judging import Batch, Judge, lock, whose
from gated.hq.receipts import Answer, Signer
from gated.logs import told
from gated.mqtt import Backoff, Broker, Connected, Gone, Happening, Received, Refused, Session
from gated.notify import notify, watchdog_s
from gated.wire import link

log = structlog.get_logger()

BATCH_MAX = 500
"""Messages in one commit."""
GATHER_S = 0.02
"""How long a first message waits for company: a commit costs a disk flush, however many share it."""
RECEIVE_MAX = 500
PACKET_MAX = 128 * 1024
"""Bytes of one message, more than any of the contract's; times `RECEIVE_MAX` it is what the inbox can hold."""
RESEND_S, RESEND_S_MAX = 1.0, 30.0
"""A stream is asked at most this often to send again; ever more seldom while nothing comes of it."""
HELD_S = 1.0
"""Records that wait this long for those before them wait for something that was lost."""
PATIENCE_S = 0.5
"""A session that HQ does not know is looked up again after this: another worker may be about to commit its birth."""
LATER_MAX = 1000


class Systemd:
    """Tells systemd how a worker is: ready, what it waits for, that it is not stuck."""

    def __init__(self) -> None:
        self._stroke_s, self._stroke_mono, self._state = watchdog_s(), 0.0, ""

    def __call__(self, ingest: "Ingest") -> None:
        """Every pass of the worker's loop."""
        now = time.monotonic()
        if self._stroke_s is not None and now - self._stroke_mono >= self._stroke_s / 2:
            notify("WATCHDOG=1")
            self._stroke_mono = now
        if ingest.state != self._state:
            self._state = ingest.state
            notify(*(("READY=1",) if ingest.connected else ()), f"STATUS={self._state}")


class Ingest:
    """One worker: takes in what the broker deals it of the records of `site` (`+`: of all sites).

    `counts`: what it did since it began. `state`: one line for people. `committed`: when it last committed, Unix
    time; 0: not yet."""

    def __init__(
        self,
        archive: Archive,
        private: bytes,
        receipts_key: bytes,
        broker: Broker,
        site: str = "+",
        pulse: "Callable[[Ingest], None] | None" = None,
    ) -> None:
        """`private`: opens what lanes seal. `receipts_key`: signs receipts. `pulse` is called in every pass, at least
        every second while the database answers."""
        self.archive, self._judge, self._broker = archive, Judge(private), broker
        self.counts: Counter[str] = Counter()
        self.committed = 0.0
        self.state, self.connected = "starting", False
        self._pulse = pulse or Systemd()
        self._signer = Signer(receipts_key)
        self._topics = [(topic, 1) for topic in link.ingest_filters(self._signer.group, site)]
        self._client_id = f"hq-ingest-{secrets.token_hex(6)}"
        self._inbox: SimpleQueue[Happening] = SimpleQueue()
        self._session: Session | None = None
        self._name = ""
        """Of this connection, in receipts."""
        self._dial_mono = self._sweep_mono = 0.0
        self._away = False
        self._broker_backoff, self._database_backoff = Backoff(0.5, 30.0), Backoff(0.5, 15.0)
        self._asked: dict[tuple[str, str], tuple[float, float, int]] = {}
        """Of a stream: when it may be asked again, the pause after that, its head when it was asked."""
        self._later: deque[tuple[float, Received]] = deque()

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. A broker or a database that is away, and any message whatever, are logged and outlived."""
        while not stop.is_set():
            self._pulse(self)
            self.turn(0.5)
        self._hang_up()

    def turn(self, wait_s: float) -> None:
        """Once round: take in what came, after waiting up to `wait_s` for it."""
        now = time.monotonic()
        if self._session is None and now >= self._dial_mono and (not self._away or self._is_back()):
            self._dial()
        if self.connected and now >= self._sweep_mono:
            self._sweep()
        for happened in self._gather(wait_s):
            self._notice(happened)

    # -- the broker

    def _dial(self) -> None:
        self._name = secrets.token_hex(6)
        self._inbox = SimpleQueue()  # what an earlier session left is not of ours to answer
        self._session = Session(
            self._broker,
            self._client_id,
            self._inbox,
            subscribe=self._topics,
            manual_ack=True,
            receive_max=RECEIVE_MAX,
            inflight_max=200,
            packet_max=PACKET_MAX,
        )
        self._session.start()

    def _hang_up(self) -> None:
        if self._session is not None:
            self._session.stop()
        self._session, self.connected = None, False

    def _notice(self, happened: Happening) -> None:
        if happened.session is not self._session:
            return  # we hung up ourselves
        if isinstance(happened, Connected):
            self._broker_backoff.reset()
            self.connected, self.state = True, "connected"
            log.info("connected", broker=self._broker.host, port=self._broker.port, name=self._name)
        elif isinstance(happened, Gone):
            pause_s = self._broker_backoff.pause_s()
            log.warning("no broker", why=happened.why, again_in_s=round(pause_s, 1))
            self._session, self.connected, self.state = None, False, f"no broker: {happened.why}"
            self._dial_mono = time.monotonic() + pause_s
        elif isinstance(happened, Refused):
            log.error("the broker threw a receipt away", why=happened.reason)

    def _gather(self, wait_s: float) -> list[Happening]:
        """Wait for messages and take them in, a batch at once. Returns what happened besides."""
        messages: list[Received] = []
        others: list[Happening] = []
        until = time.monotonic() + wait_s
        if self._later:
            until = min(until, max(time.monotonic(), self._later[0][0]))
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
        again = []
        while self._later and self._later[0][0] <= time.monotonic():
            again.append(self._later.popleft()[1])
        if again:
            self._take_in(again, patient=False)
        if messages and not self._away:
            self._take_in(messages, patient=True)
        return others

    # -- the database

    def _take_in(self, messages: Sequence[Received], patient: bool) -> None:
        """One transaction; where it fails, smaller ones, so that a message that cannot be stored holds up no other.
        Where the database takes nothing at all, leave the broker: others may be better off, and lanes learn of it."""
        if self._away:
            return
        try:
            batch = self._commit(messages, patient)
        except Exception as bad:  # noqa: BLE001 - whatever a message does to us, the next one is another lane's
            self.counts["commit_errors"] += 1
            why = _why(bad)
            if not self._answers(why):
                return
            if len(messages) > 1:
                half = len(messages) // 2
                self._take_in(messages[:half], patient)
                self._take_in(messages[half:], patient)
                return
            log.error("message not stored, not acknowledged", **whose(messages[0]), why=why)
        else:
            self.counts.update(batch.counts)
            self.counts["findings"] += len(batch.found)
            for site, lane, code, detail in batch.found:
                log.error("finding", site=site, lane=lane, code=code, detail=detail)
            now = time.monotonic()
            for (site, lane), answer in batch.answers.items():
                self._tell(site, lane, answer)
            self._later.extend((now + PATIENCE_S, message) for message in batch.later)
        if patient:
            for message in messages:
                message.session.acknowledge(message)

    def _commit(self, messages: Sequence[Received], patient: bool) -> Batch:
        batch = Batch(counts=Counter(messages=len(messages) if patient else 0, commits=1))
        with self.archive.batch() as intake:
            lock(intake, messages)
            for message in messages:
                self._judge.take(intake, message, batch, patient and len(self._later) < LATER_MAX)
            batch.found = intake.found
        self.committed = time.time()
        return batch

    def _answers(self, why: str) -> bool:
        """Does the database take a transaction at all? If not, hang up and try again later."""
        try:
            with self.archive.batch() as intake:
                intake.count("commit_errors", 1)
        except ArchiveError as bad:
            pause_s = self._database_backoff.pause_s()
            self._away, self._dial_mono = True, time.monotonic() + pause_s
            self.state = "the database is away"
            log.error(
                self.state + ": nothing stored, nothing acknowledged", why=f"{why}; {bad}", again_in_s=round(pause_s, 1)
            )
            self._later.clear()
            self._hang_up()
            return False
        return True

    def _is_back(self) -> bool:
        if not self._answers("asked again"):
            return False
        self._away, self.state = False, "the database is back"
        self._database_backoff.reset()
        log.info(self.state)
        return True

    def _sweep(self) -> None:
        """Ask lanes for what was lost on the way while the records behind it came. The pauses vary, so that workers
        who began together do not ask together."""
        self._sweep_mono = time.monotonic() + HELD_S * (0.75 + secrets.randbelow(500) / 1000)
        try:
            with self.archive.batch() as intake:
                stalled = intake.stalled(HELD_S)
        except ArchiveError as bad:
            self.counts["commit_errors"] += 1
            self._answers(str(bad))
            return
        answers: dict[tuple[str, str], Answer] = {}
        for site, lane, head in stalled:
            if self._may_ask(lane, head.stream_id, head.seq):
                answer = answers.setdefault((site, lane), Answer())
                answer.head(head)
                answer.resend.add(head.stream_id)
                # Asked before in vain: does the lane still hold it? The birth that said so may have been lost.
                if self._asked[lane, head.stream_id][1] > 2 * RESEND_S:
                    answer.rebirth |= self._may_ask(lane, "", 0)
        for (site, lane), answer in answers.items():
            self._publish(site, lane, answer)

    def _tell(self, site: str, lane: str, answer: Answer) -> None:
        """The receipts, where there is something to say. Lost with their connection, they are made again when the lane
        sends again."""
        answer.resend = {each for each in answer.resend if self._may_ask(lane, each, answer.heads[each].seq)}
        self._publish(site, lane, answer)

    def _publish(self, site: str, lane: str, answer: Answer) -> None:
        self.counts["resends"] += len(answer.resend)
        for receipt in answer.receipts(self._name):
            if self._session is not None:
                self._session.publish(self._signer.publication(site, lane, receipt))

    def _may_ask(self, lane: str, stream_id: str, seq: int) -> bool:
        now = time.monotonic()
        again_mono, pause_s, before = self._asked.get((lane, stream_id), (now, RESEND_S, seq))
        if now < again_mono:
            return False
        pause_s = RESEND_S if seq != before else pause_s
        if len(self._asked) >= 10_000:
            self._asked.clear()
        self._asked[lane, stream_id] = now + pause_s, min(RESEND_S_MAX, 2 * pause_s), seq
        return True


def _why(bad: Exception) -> str:
    """What failed. Only a text of our own is repeated: another's may quote the message."""
    return str(bad) if isinstance(bad, ArchiveError) else told(bad)[0]
