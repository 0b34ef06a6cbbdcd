"""What the uplink measures of itself, for Prometheus."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from prometheus_client.core import Metric

from gated.metrics import Label, Meter, common
from gated.store.flight import Flights
from gated.wire.facts import STREAMS

CONNECTED: Final = Meter("gated_uplink_connected", "gauge", "Whether a broker is connected")
HQ: Final = Meter("gated_uplink_hq_up", "gauge", "Whether HQ itself, and not merely a broker, answers")
BROKER: Final = Meter(
    "gated_uplink_broker", "gauge", "Which broker is tried or used: 0 the first, 1 its first fallback"
)
WAITING: Final = Meter(
    "gated_uplink_waiting_records", "gauge", "Records that HQ has not acknowledged", (Label("class", STREAMS),)
)
BYTES: Final = Meter("gated_uplink_outbox_bytes", "gauge", "What the outbox takes on disk, of [store] outbox_bytes_max")
BYTES_MAX: Final = Meter(
    "gated_uplink_outbox_bytes_max", "gauge", "[store] outbox_bytes_max: beyond it the lane closes"
)
DROPPED: Final = Meter(
    "gated_uplink_dropped_records",
    "gauge",
    "Records of the present database that the lane dropped for want of room",
    (Label("class", STREAMS),),
)
SENT: Final = Meter("gated_uplink_sent_bytes_total", "counter", "Bytes of records handed to a broker")
RESENT: Final = Meter("gated_uplink_resent_records_total", "counter", "Records sent more than once")
REFUSED: Final = Meter("gated_uplink_refused_records_total", "counter", "Records that HQ set aside for good")
FINDINGS: Final = Meter("gated_uplink_findings", "gauge", "Signs that somebody was at the lane's database")
CERTIFICATE: Final = Meter(
    "gated_uplink_certificate_expires_timestamp_seconds",
    "gauge",
    "When the lane's certificate ends, Unix time; not there without one",
)

METERS: Final = (
    *common("uplink"),
    *(CONNECTED, HQ, BROKER, WAITING, BYTES, BYTES_MAX, DROPPED, SENT, RESENT, REFUSED, FINDINGS, CERTIFICATE),
)


@dataclass(frozen=True, slots=True)
class Line:
    """How the line to HQ is now. `broker`: its place among those of [uplink]; `sent_bytes`: since the start."""

    connected: bool
    up: bool
    broker: int
    sent_bytes: int
    findings: int


class Measures:
    """`flights`: what is under way; `certificate`: the lane's, read again each time, since it is renewed in place."""

    def __init__(
        self, flights: Flights, line: Callable[[], Line], outbox_bytes_max: int, certificate: Path | None
    ) -> None:
        self._flights, self._line = flights, line
        self._bytes_max, self._certificate = outbox_bytes_max, certificate

    def collect(self) -> Iterator[Metric]:
        """Every family, as things are now. Called where `flights` is used."""
        line, spans = self._line(), self._flights.spans
        waiting: Counter[tuple[str, ...]] = Counter()
        dropped: Counter[tuple[str, ...]] = Counter()
        for stream_id, span in spans.items():
            waiting[(span.stream,)] += max(0, span.last - max(self._flights.acked(stream_id), span.first - 1))
            dropped[(span.stream,)] += span.dropped
        yield CONNECTED.family(line.connected)
        yield HQ.family(line.up)
        yield BROKER.family(line.broker)
        yield WAITING.family(waiting)
        yield BYTES.family(sum(span.bytes for span in spans.values()))
        yield BYTES_MAX.family(self._bytes_max)
        yield DROPPED.family(dropped)
        yield SENT.family(line.sent_bytes)
        yield RESENT.family(self._flights.resent)
        yield REFUSED.family(self._flights.refused)
        yield FINDINGS.family(line.findings)
        expires = _expires(self._certificate)
        if expires is not None:
            yield CERTIFICATE.family(expires)


def _expires(certificate: Path | None) -> float | None:
    try:
        return (
            x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.timestamp()
            if certificate is not None
            else None
        )
    except (OSError, ValueError):  # being replaced just now; that it is unusable the connection says
        return None
