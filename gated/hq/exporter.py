"""What HQ measures, for Prometheus: an ingest worker of itself, the fleet out of HQ's database, and when a broker's
certificates end.

The fleet is read by a process of its own (`gated-hq metrics`), so that a slow scrape never waits in the way of a
record. A lane's name is a label, and which lanes there are HQ's certificates say; no record is opened."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog
from prometheus_client import generate_latest
from prometheus_client.core import Metric

from gated.hq.archive import Archive, ArchiveError
from gated.metrics import OTHER, Label, Meter, Page, Tally, common
from gated.wire.facts import STREAMS

log = structlog.get_logger()

_SITE: Final = Label("site", bound="HQ's sites")
_LANE: Final = Label("lane", bound="HQ's lanes")
_OF_LANE: Final = (_SITE, _LANE)
_CLASS: Final = Label("class", STREAMS)
LAG_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0, 86400.0)
FINDINGS: Final = (
    *("journal_altered", "journal_cut", "journal_back", "outbox_altered", "outbox_gap"),
    *("database_back", "acked_altered"),
    *("gap", "edited", "truncated", "chapter_cut", "replaced"),
)
"""What a lane's uplink and HQ find; another code is told as `other`."""
ARRIVALS_MAX: Final = 50_000
"""Records whose way is measured at one scrape; of more at once the oldest are not."""
SETTLED: Final = timedelta(seconds=5)
"""Records are measured so long after they came: by then whatever transaction they came in has ended."""

# -- an ingest worker

WORKED: Final = Meter(
    "gated_ingest_messages_total",
    "counter",
    "What became of messages, since this process started",
    (Label("fate", bound="the names in the worker's code"),),
)
CONNECTED: Final = Meter("gated_ingest_connected", "gauge", "Whether the broker is connected")
COMMITTED: Final = Meter(
    "gated_ingest_commit_timestamp_seconds", "gauge", "When a worker last committed, Unix time; 0: not yet"
)
INGEST_METERS: Final = (*common("ingest"), WORKED, CONNECTED, COMMITTED)


class IngestMeasures:
    """Of the workers of one process together. `committed`: Unix time, or 0. All are asked at each scrape,
    in its thread."""

    def __init__(
        self, counts: Callable[[], Mapping[str, int]], connected: Callable[[], bool], committed: Callable[[], float]
    ) -> None:
        self._counts, self._connected, self._committed = counts, connected, committed

    def collect(self) -> Iterator[Metric]:
        """Every family, as things are now."""
        yield WORKED.family({(name,): count for name, count in dict(self._counts()).items()})
        yield CONNECTED.family(self._connected())
        yield COMMITTED.family(self._committed())


# -- the fleet

ARCHIVE: Final = Meter("gated_hq_archive_up", "gauge", "Whether HQ's database could be read just now")
SCRAPE: Final = Meter("gated_hq_scrape_seconds", "gauge", "How long reading it took")
UP: Final = Meter("gated_hq_lane_up", "gauge", "Whether the lane's uplink is there, as the broker tells", _OF_LANE)
SEEN: Final = Meter("gated_hq_lane_seen_timestamp_seconds", "gauge", "When HQ last heard the lane, Unix time", _OF_LANE)
DAEMON: Final = Meter("gated_hq_lane_daemon_up", "gauge", "Whether the lane's daemon runs, by its uplink", _OF_LANE)
STORE: Final = Meter("gated_hq_lane_store_ok", "gauge", "Whether the uplink can read the lane's database", _OF_LANE)
WAITING: Final = Meter(
    "gated_hq_lane_waiting_records", "gauge", "Records that the lane has and HQ has not, as the lane says", _OF_LANE
)
OLDEST: Final = Meter("gated_hq_lane_oldest_record_seconds", "gauge", "Age of the oldest of them", _OF_LANE)
RESENT: Final = Meter(
    "gated_hq_lane_resent_records_total", "counter", "Sent more than once, since that uplink started", _OF_LANE
)
BEHIND: Final = Meter(
    "gated_hq_lane_behind_parts", "gauge", "How many parts are not of the version that HQ desires", _OF_LANE
)
FOUND: Final = Meter(
    "gated_hq_lane_finding_timestamp_seconds",
    "gauge",
    "When the last such sign of tampering was found, Unix time",
    (*_OF_LANE, Label("code", FINDINGS)),
)
FOUND_N: Final = Meter(
    "gated_hq_lane_findings", "gauge", "How many signs of tampering there are", (*_OF_LANE, Label("code", FINDINGS))
)
ASIDE: Final = Meter("gated_hq_lane_set_aside_records", "gauge", "Records that HQ set aside", _OF_LANE)
ASIDE_AT: Final = Meter(
    "gated_hq_lane_set_aside_timestamp_seconds", "gauge", "When the last of them was, Unix time", _OF_LANE
)
HELD: Final = Meter("gated_hq_lane_held_records", "gauge", "Records that came before those that they follow", _OF_LANE)
HELD_S: Final = Meter("gated_hq_lane_held_oldest_seconds", "gauge", "How long the first of them waits", _OF_LANE)
TAKEN: Final = Meter("gated_hq_records_total", "counter", "Records that HQ has, by class", (_CLASS,))
COUNTED: Final = Meter(
    "gated_hq_messages_total",
    "counter",
    "What became of events, since the database began",
    (Label("fate", bound="the names in HQ's table counters"),),
)
LAG: Final = Meter(
    "gated_hq_receipt_lag_seconds",
    "histogram",
    "From a record's time, by the lane's clock, until HQ had it; also of those that waited at the lane",
    (_CLASS,),
    buckets=LAG_S,
)
FLEET_METERS: Final = (
    *common("hq"),
    *(ARCHIVE, SCRAPE, UP, SEEN, DAEMON, STORE, WAITING, OLDEST, RESENT, BEHIND, FOUND, FOUND_N),
    *(ASIDE, ASIDE_AT, HELD, HELD_S, TAKEN, COUNTED, LAG),
)

# -- the certificates of a broker

ENDS: Final = Meter(
    "gated_certificates_end_timestamp_seconds",
    "gauge",
    "When a certificate or a revocation list ends, Unix time; 0: it cannot be read",
    (Label("file", bound="the files that `gated-hq pki check` was told"),),
)
CERTIFICATE_METERS: Final = (*common("certificates"), ENDS)


def certificates_page(ends: Mapping[str, datetime | None]) -> bytes:
    """What `gated-hq pki check` found, by the names of the files, as Prometheus reads it."""
    found = ENDS.family({(name,): end.timestamp() if end else 0.0 for name, end in ends.items()})
    return generate_latest(Page("certificates", lambda: (found,), lasting=False))


class Fleet:
    """Reads HQ's database at each scrape. `clock`: the time now, UTC. Where it cannot be read, the page says so."""

    def __init__(self, archive: Archive, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._archive, self._clock = archive, clock
        self._one = threading.Lock()
        self._counted = clock() - SETTLED
        """Records received until then are in the histogram, or were there before us."""
        self._lags: dict[tuple[str, ...], Tally] = {(each,): Tally(LAG_S) for each in STREAMS}
        self._readable = True

    def collect(self) -> list[Metric]:
        """Every family, as things are now."""
        with self._one:
            began = time.monotonic()
            families: list[Metric] = []
            try:
                families = list(self._read(self._clock()))
            except ArchiveError as bad:
                if self._readable:
                    log.error("HQ's database cannot be read", why=str(bad))
            self._readable = bool(families)
            return [ARCHIVE.family(self._readable), SCRAPE.family(time.monotonic() - began), *families]

    def _read(self, now: datetime) -> Iterator[Metric]:
        archive = self._archive
        yield from _lanes(archive.lanes())
        yield from _findings(archive.findings())
        yield from _aside(archive.refused())
        yield from _held(archive.held(), now)
        taken: Counter[tuple[str, ...]] = Counter()
        for each in archive.streams():
            taken[(each["stream_id"].rpartition("-")[2],)] += each["seq"]
        yield TAKEN.family(taken)
        yield COUNTED.family({(name,): count for name, count in archive.counters().items()})
        self._measure(now)
        yield LAG.histogram(self._lags)

    def _measure(self, now: datetime) -> None:
        until = now - SETTLED
        for stream, made, received in self._archive.arrivals(self._counted, until, ARRIVALS_MAX):
            lag_s = max(0.0, (received - made).total_seconds())
            self._lags.setdefault((_CLASS.of(stream),), Tally(LAG_S)).add(lag_s)
        self._counted = until


def _lanes(lanes: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    values: dict[Meter, dict[tuple[str, ...], float]] = {
        meter: {} for meter in (UP, SEEN, DAEMON, STORE, WAITING, OLDEST, RESENT, BEHIND)
    }
    for lane in lanes:
        name = (lane["site"], lane["lane"])
        told = lane["telemetry"]
        values[UP][name] = lane["up"]
        values[SEEN][name] = _unix(lane["seen"])
        if told:
            values[DAEMON][name] = told["lane_up"]
            values[STORE][name] = told["store"] == "ok"
            values[WAITING][name] = told["pending"]
            values[OLDEST][name] = told["oldest_s"]
            values[RESENT][name] = told["resent"]
        values[BEHIND][name] = len(lane["reported"].get("behind", ()))
    for meter, samples in values.items():
        yield meter.family(samples)


def _findings(findings: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    many: Counter[tuple[str, ...]] = Counter()
    last: dict[tuple[str, ...], float] = {}
    for each in findings:
        key = (each["site"], each["lane"], each["code"] if each["code"] in FINDINGS else OTHER)
        many[key] += 1
        last[key] = max(last.get(key, 0.0), _unix(each["noticed"]))
    yield FOUND_N.family(many)
    yield FOUND.family(last)


def _aside(refused: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    many: Counter[tuple[str, ...]] = Counter()
    last: dict[tuple[str, ...], float] = {}
    for each in refused:
        key = (each["site"], each["lane"])
        many[key] += 1
        last[key] = max(last.get(key, 0.0), _unix(each["received"]))
    yield ASIDE.family(many)
    yield ASIDE_AT.family(last)


def _held(held: Iterable[Mapping[str, Any]], now: datetime) -> Iterator[Metric]:
    many: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], float] = {}
    for each in held:
        key = (each["site"], each["lane"])
        many[key] += 1
        first[key] = max(first.get(key, 0.0), now.timestamp() - _unix(each["received"]))
    yield HELD.family(many)
    yield HELD_S.family(first)


def _unix(utc: str | None) -> float:
    return datetime.fromisoformat(utc).timestamp() if utc else 0.0
