"""What one message of a lane leads to: into the database, and what the lane is told of it."""

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from gated.hq.fates import Fate, Taken
from gated.hq.intake import Intake
from gated.hq.receipts import Answer
from gated.mqtt import Received
from gated.wire import link
from gated.wire.codec import WireError
from gated.wire.record import Head

log = structlog.get_logger()

COMPLAIN_S = 10.0
"""A lane's refused messages are logged once in this time, with their number: a flood does not fill the log."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class Batch:
    """What a transaction led to; worth nothing before its commit."""

    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    later: list[Received] = field(default_factory=list)
    found: Sequence[tuple[str, str, str, str]] = ()
    """(site, lane, code, detail)."""


class Judge:
    """Reads messages; whatever they hold, it goes on."""

    def __init__(self, private: bytes) -> None:
        """`private`: opens what lanes seal."""
        self._private = private
        self._complaints: dict[tuple[str, str], tuple[float, int]] = {}

    def take(self, intake: Intake, message: Received, batch: Batch, patient: bool) -> None:
        """Keep what it says, inside a transaction. `patient`: a session that nobody knows is put off (`Batch.later`)
        rather than asked for its birth. Raises `ArchiveError`."""
        try:
            site, lane, leaf = link.place(message.topic)
        except ValueError:
            batch.counts["malformed"] += 1
            self._complain("", "", leaf=message.topic[:100], why="a topic outside of gate/v1")
            return
        answer = batch.answers.setdefault((site, lane), Answer())
        if leaf == "event":
            self._event(intake, site, lane, message, batch, answer)
            return
        try:
            told = link.decode(message.payload)
        except WireError as bad:
            batch.counts["malformed"] += 1
            self._complain(site, lane, leaf=leaf, why=str(bad))
            return
        if leaf == "telemetry" and isinstance(told, link.Telemetry):
            known = self._telemetry(intake, site, lane, told, batch, answer)
            if not known and patient:
                batch.later.append(message)
            elif not known:
                answer.pong, answer.rebirth = told.ping, True
                batch.counts["rebirths"] += 1
        elif leaf == "birth" and isinstance(told, link.Birth):
            intake.born(site, lane, told, message.retain)
            for span in told.spans:
                answer.head(intake.head(lane, span.stream_id))
            log.info("lane up", site=site, lane=lane, session=told.session)
        elif leaf == "death" and isinstance(told, link.Death):
            if intake.died(site, lane, told):
                log.warning("lane gone", site=site, lane=lane, why=told.why)
        elif leaf == "reported" and isinstance(told, link.Reported):
            intake.reported(site, lane, told)
        else:
            batch.counts["malformed"] += 1
            self._complain(site, lane, leaf=leaf, why="another message than its topic's")

    def _telemetry(
        self, intake: Intake, site: str, lane: str, telemetry: link.Telemetry, batch: Batch, answer: Answer
    ) -> bool:
        """Keep it; pong, with the heads of this transaction, so after the ping. False: its session is unknown."""
        told = intake.told(site, lane, telemetry)
        if told.known:
            answer.pong, answer.anchor = telemetry.ping, told.anchor
        for head in told.heads:
            answer.head(head)
        return told.known

    def _event(self, intake: Intake, site: str, lane: str, message: Received, batch: Batch, answer: Answer) -> None:
        taken = intake.take(site, lane, message.payload, _named(message), self._private)
        batch.counts[taken.fate.value] += 1
        if taken.head is not None and taken.fate is not Fate.HELD:
            answer.head(taken.head)
            if taken.fate is Fate.DUPLICATE and taken.seq < taken.head.seq:
                answer.had(Head(lane, taken.stream_id, taken.seq, taken.chain))
        if taken.fate is Fate.MISSING:
            answer.resend.add(taken.stream_id)
        elif taken.fate in (Fate.REFUSED, Fate.SET_ASIDE):
            self._refuse(site, lane, taken, answer)

    def _refuse(self, site: str, lane: str, taken: Taken, answer: Answer) -> None:
        final = taken.fate is Fate.SET_ASIDE
        if final:
            log.error("record set aside", site=site, lane=lane, stream=taken.stream_id, seq=taken.seq, why=taken.why)
        else:
            self._complain(site, lane, leaf="event", stream=taken.stream_id, seq=taken.seq, why=taken.why)
        if taken.stream_id and taken.seq > 0:
            why = taken.why.partition(":")[0]
            answer.refusals.append(link.Refusal(taken.stream_id, taken.seq, taken.chain, why, final))

    def _complain(self, site: str, lane: str, **what: object) -> None:
        """A message is refused. Names the lane and what is wrong, never what the message holds."""
        now = time.monotonic()
        said, more = self._complaints.get((site, lane), (float("-inf"), 0))
        if now - said < COMPLAIN_S:
            self._complaints[site, lane] = said, more + 1
            return
        if len(self._complaints) >= 10_000:
            self._complaints.clear()
        self._complaints[site, lane] = now, 0
        log.warning("message refused", site=site, lane=lane, not_logged_since=more, **what)


def lock(intake: Intake, messages: Iterable[Received]) -> None:
    """Lock what these messages are about: streams of events as their properties name them, and lanes of the others."""
    streams, lanes = set(), set()
    for message in messages:
        try:
            site, lane, leaf = link.place(message.topic)
        except ValueError:
            continue  # `Judge.take` says so
        if leaf != "event":
            lanes.add((site, lane))
        elif stream_id := _named(message)[0]:
            streams.add((lane, stream_id))
    intake.lock(streams, lanes)


def whose(message: Received) -> dict[str, object]:
    """Which message, for the log: nothing of what it holds."""
    stream_id, seq = _named(message)
    return {"topic": message.topic[:100], "stream": stream_id, "seq": seq, "bytes": len(message.payload)}


def _named(message: Received) -> tuple[str, int]:
    """Stream id and number of an event, as its properties say; "" and 0 where they do not."""
    stream_id = message.properties.get(link.ID_PROPERTY, "")
    return stream_id if _NAME.fullmatch(stream_id) else "", _number(message.properties.get(link.SEQ_PROPERTY))


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else 0
