"""What of the outbox is under way to HQ: which record goes next, and what HQ's word about it changes. No network.

Between outbox and `AckedHeads` stands one rule: a record counts as acknowledged only when HQ names its number *and*
its hash, and the lane holds a record of that number and hash. So a receipt that is forged, mixed up or of another
database makes no record disappear.
"""

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from gated.store.acks import AckedHeads
from gated.store.outbox import OutboxReader, Queued, Span
from gated.store.sql import StoreError
from gated.wire import link
from gated.wire.codec import WireError
from gated.wire.facts import ALARM, RecordsDropped
from gated.wire.record import Record, first_of

ELSEWHERE = (1 << 62) - 1
"""As the acknowledged number of a stream: nothing of it is wanted now."""
PATIENCE_MAX = 8
REFUSED_PAUSE_S = 1.0
"""After a refusal the record is sent again, but not in a hurry."""


class ReceiptIgnored(Exception):
    """HQ's word does not fit what the lane holds, and changes nothing. The text is a short code."""


@dataclass
class _Flight:
    """One stream: sent up to `sent`, of which `flying` are unanswered; `top` was ever sent."""

    sent: int
    top: int
    flying: deque[int] = field(default_factory=deque)
    progress_mono: float = 0.0
    hold_until_mono: float = float("-inf")
    patience: int = 1


class Flights:
    """The records under way, over all streams of the lane's present database. One thread at a time.

    `inflight_max`: how many may be unanswered at once."""

    def __init__(self, outbox: OutboxReader, acked: AckedHeads, inflight_max: int) -> None:
        self._outbox, self._store, self._inflight_max = outbox, acked, inflight_max
        self._acked: dict[str, int] = dict(acked.heads())
        self._flights: dict[str, _Flight] = {}
        self.spans: Mapping[str, Span] = {}
        self.resent = 0
        self.refused = 0

    def refresh(self) -> bool:
        """Look at what the outbox holds. True where it has other streams than before. Raises `StoreError`."""
        self.spans = {span.stream_id: span for span in self._outbox.spans()}
        changed = self.spans.keys() != self._flights.keys()
        if changed:
            self._flights = {i: self._flights.get(i) or _Flight(self.acked(i), self.acked(i)) for i in self.spans}
            self._store.forget(frozenset(self.spans))
            self._acked = dict(self._store.heads())
        return changed

    def acked(self, stream_id: str) -> int:
        """The highest number that HQ acknowledged."""
        return self._acked.get(stream_id, 0)

    def next(self, mono: float, bytes_max: float = float("inf")) -> tuple[Queued, ...]:
        """The records to send now: the most urgent stream first, in order within each. Raises `StoreError`.

        `bytes_max`: once so much goes, only alarms go on."""
        room = self._inflight_max - sum(len(flight.flying) for flight in self._flights.values())
        if room <= 0 or not self._flights:
            return ()
        after = {i: ELSEWHERE if f.hold_until_mono > mono else f.sent for i, f in self._flights.items()}
        found = self._outbox.pending(after, room, {i: len(f.flying) for i, f in self._flights.items()})
        sent = []
        for queued in found:
            flight = self._flights.get(queued.stream_id)
            if flight is None:
                break  # replaced since `refresh`: the next one sees it
            if bytes_max <= 0 and queued.stream != ALARM:
                continue  # and so does all behind it, which keeps its stream in order
            bytes_max -= len(queued.payload)
            if not flight.flying:
                flight.progress_mono = mono
            flight.flying.append(queued.seq)
            self.resent += queued.seq <= flight.top
            flight.sent, flight.top = queued.seq, max(flight.top, queued.seq)
            sent.append(queued)
        return tuple(sent)

    def rewind(self) -> None:
        """Nothing is known to be under way any more: all that is not acknowledged is sent again."""
        for stream_id, flight in self._flights.items():
            self._rewind(stream_id, flight, self.acked(stream_id))

    def overdue(self, mono: float, wait_s: float) -> bool:
        """Is a stream unanswered for longer than `wait_s`? Twice as long each time, up to eight times: HQ may be busy,
        and sending all again makes it busier."""
        late = [f for f in self._flights.values() if f.flying and mono - f.progress_mono > wait_s * f.patience]
        for flight in late:
            flight.patience = min(PATIENCE_MAX, flight.patience * 2)
        return bool(late)

    def answered(self, head: link.Head, mono: float, known: int = 0) -> bool:
        """HQ says how far it has a stream. True where that frees records. `known`: what it had acknowledged before it
        looked this up; 0 where that is unknown, since receipts overtake each other.

        Raises `ReceiptIgnored` (nothing was freed) and `StoreError`."""
        flight, span = self._flights.get(head.stream_id), self.spans.get(head.stream_id)
        if flight is None or span is None:
            raise ReceiptIgnored("another_generation")
        acked = self.acked(head.stream_id)
        if head.seq < known:  # HQ went back to an older copy of its database: it gets again whatever we still hold
            self._store.retreat(head.stream_id, head.seq)
            self._acked[head.stream_id] = head.seq
            self._rewind(head.stream_id, flight, head.seq)
            raise ReceiptIgnored("hq_went_back")
        if head.seq < acked:
            return False
        if head.seq > acked:
            self._check(head.stream_id, head.seq, head.chain)
            self._advance(head.stream_id, head.seq)
        if head.seq > acked or (flight.flying and flight.flying[0] <= head.seq):
            flight.progress_mono, flight.patience = mono, 1
        while flight.flying and flight.flying[0] <= head.seq:
            flight.flying.popleft()
        flight.sent = max(flight.sent, head.seq)
        if head.resend:
            self._rewind(head.stream_id, flight, head.seq)
        return head.seq > acked

    def refusal(self, refusal: link.Refusal, mono: float) -> None:
        """HQ does not take a record. Not final: it goes again, a little later. Final: HQ has set exactly these bytes
        aside, and the stream goes on behind them. Raises `ReceiptIgnored`, `StoreError`."""
        flight = self._flights.get(refusal.stream_id)
        if flight is None:
            raise ReceiptIgnored("another_generation")
        acked = self.acked(refusal.stream_id)
        if not refusal.final:
            if refusal.seq > acked:
                self._rewind(refusal.stream_id, flight, acked)
                flight.hold_until_mono = mono + REFUSED_PAUSE_S
            return
        row = self._row(refusal.stream_id, acked)
        if row is None or row.seq != refusal.seq:
            raise ReceiptIgnored("refusal_out_of_order")
        if _chain(row) != refusal.chain and _bytes_hash(row) != refusal.chain:
            raise ReceiptIgnored("refusal_of_other_bytes")
        self.refused += 1
        self._advance(refusal.stream_id, refusal.seq)
        self._rewind(refusal.stream_id, flight, refusal.seq)

    def waiting(self) -> tuple[int, datetime | None]:
        """(how many records HQ has not acknowledged, when the first of them happened). Raises `StoreError`."""
        count = sum(max(0, s.last - max(self.acked(i), s.first - 1)) for i, s in self.spans.items())
        first = self._outbox.oldest({i: self.acked(i) for i in self.spans}) if count else None
        try:
            return count, None if first is None else Record.decode(first.payload).utc
        except WireError:
            return count, None  # HQ will refuse it and say so

    def told(self) -> tuple[link.Span, ...]:
        """What the lane holds, as a birth tells it: looked up now where that can be, since HQ compares its time."""
        with suppress(StoreError):
            self.refresh()
        return tuple(link.Span(i, s.stream, self._begin(s), s.last, self.acked(i)) for i, s in self.spans.items())

    def _begin(self, span: Span) -> int:
        """The first number that the oldest record of a stream stands for."""
        try:
            row = self._row(span.stream_id, span.first - 1)
        except StoreError:
            return span.first
        return span.first if row is None else _first(row)

    def close(self) -> None:
        """Idempotent. Another uplink may write from now on."""
        self._outbox.close()
        self._store.close()

    def _rewind(self, stream_id: str, flight: _Flight, seq: int) -> None:
        flight.sent = seq
        flight.flying.clear()

    def _check(self, stream_id: str, seq: int, chain: bytes) -> None:
        self.spans = {span.stream_id: span for span in self._outbox.spans()}
        span = self.spans.get(stream_id)
        if span is None:
            raise ReceiptIgnored("another_generation")
        if seq > span.last:
            raise ReceiptIgnored("beyond_what_exists")
        if seq < span.first:
            return  # no longer held, so nothing depends on it
        row = self._row(stream_id, seq - 1)
        if row is not None and _first(row) <= seq < row.seq:
            return  # dropped for want of room behind HQ's back; what stands for it is still to come
        if row is None or row.seq != seq or _chain(row) != chain:
            raise ReceiptIgnored("hq_holds_another_record")

    def _row(self, stream_id: str, after: int) -> Queued | None:
        wanted = {i: after if i == stream_id else ELSEWHERE for i in self.spans}
        found = self._outbox.pending(wanted, 1)
        return found[0] if found and found[0].stream_id == stream_id else None

    def _advance(self, stream_id: str, seq: int) -> None:
        self._store.advance(stream_id, seq)
        self._acked[stream_id] = seq


def _bytes_hash(row: Queued) -> bytes:
    return sha256(b"gated record v1\n" + row.payload).digest()


def _first(row: Queued) -> int:
    """The first number that a row stands for; its own, where it cannot be read."""
    try:
        return first_of(Record.decode(row.payload))
    except WireError:
        return row.seq


def _chain(row: Queued) -> bytes | None:
    """What the record after this one refers to; None where it cannot be read."""
    try:
        record = Record.decode(row.payload)
        dropped = record.fact(None) if record.kind == RecordsDropped.__name__ else None
    except WireError:
        return None
    return dropped.head if dropped is not None else record.hash()
