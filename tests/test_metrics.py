"""What each process tells Prometheus: closed labels, nobody's data, files that are whole, pages that answer."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert
from structlog.testing import capture_logs

from gated.config import load
from gated.daemon import metrics as lane_metrics
from gated.daemon.metrics import Measures
from gated.hq import exporter, tables
from gated.hq.archive import Archive
from gated.hq.cli import gated_hq
from gated.hq.exporter import Fleet, IngestMeasures
from gated.lane.commands import AlarmCode
from gated.metrics import OTHER, Label, Meter, Page, Tally, Textfile, serve, textfile
from gated.store.outbox import Span
from gated.sync import metrics as sync_metrics
from gated.sync.refused import Why
from gated.uplink import metrics as uplink_metrics
from gated.wire import link
from gated.wire.rows import CONTROL, PEOPLE
from tests.broker import free_port
from tests.hw_sim import virtual
from tests.hw_sim.happenings import Topology
from tests.hw_sim.simlane import VirtualLane, sim_folder
from tests.hw_sim.website import Website
from tests.sync_rig import Clock, Hq, LaneRig
from tests.uplink_rig import LANE, ROOT, SITE, Rig, eventually

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
COLOUR = Label("colour", ("red", "blue"))
PAINTED = Meter("painted_total", "counter", "What was painted", (COLOUR,))


def values(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """Each sample by its name and its labels' values, in their order (in a text: of their names)."""
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def page(*families: Metric) -> Page:
    return Page("lane", lambda: families, {"site": "tpe", "lane": "tpe-07"})


def read(path: Path) -> dict[tuple[str, ...], float]:
    """A text file as Prometheus reads it."""
    return values(text_string_to_metric_families(path.read_text()))


# -- meters


def test_every_value_of_a_closed_label_has_a_series_from_the_beginning() -> None:
    assert values([PAINTED.family({})]) == {("painted_total", "red"): 0, ("painted_total", "blue"): 0}
    partly = replace(PAINTED, whole=False)
    assert values([partly.family({("red",): 2})]) == {("painted_total", "red"): 2}


def test_what_is_in_no_closed_set_is_other_and_makes_one_series() -> None:
    flood: dict[tuple[str, ...], float] = {(f"ticket-{n}",): 1.0 for n in range(1000)}
    made = values([PAINTED.family(flood | {("red",): 3.0})])
    assert made == {("painted_total", "red"): 3, ("painted_total", "blue"): 0, ("painted_total", OTHER): 1000}


def test_a_histogram_counts_upwards() -> None:
    meter = Meter("wait_seconds", "histogram", "How long", buckets=(1.0, 5.0))
    tally = Tally(meter.buckets)
    for each in (0.5, 1.0, 1.5, 99.0):
        tally.add(each)
    made = values([meter.histogram({(): tally})])
    assert [made["wait_seconds_bucket", edge] for edge in ("1.0", "5.0", "+Inf")] == [2, 3, 4]
    assert made[("wait_seconds_count",)] == 4 and made[("wait_seconds_sum",)] == 102.0


# -- the text file


def test_a_file_is_whole_readable_by_others_and_names_its_lane(tmp_path: Path) -> None:
    os.umask(os.umask(0o077))
    file = Textfile(tmp_path, page(PAINTED.family({("red",): 1})), 15.0)
    before = time.time()
    file.tick()
    assert [each.name for each in tmp_path.iterdir()] == ["gated-lane.prom"], "nothing is left beside it"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o644
    told = read(file.path)
    assert told["painted_total", "red", "tpe-07", "tpe"] == 1
    assert before <= told["gated_lane_written_timestamp_seconds", "tpe-07", "tpe"] <= time.time()
    assert told["gated_lane_process_resident_memory_bytes", "tpe-07", "tpe"] > 1e6


def test_a_file_is_written_when_it_is_due_and_goes_with_its_process(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    def asking(process: str) -> Page:
        return Page(process, lambda: (asked.update([process]), ())[1])

    often, seldom = Textfile(tmp_path, asking("uplink"), 0.0), Textfile(tmp_path, asking("sync"), 3600.0)
    for _ in range(3):
        often.tick()
        seldom.tick()
    assert asked == {"uplink": 3, "sync": 1}
    often.remove()
    often.remove()
    assert [each.name for each in tmp_path.iterdir()] == ["gated-sync.prom"]


def test_who_reads_while_it_is_written_sees_a_whole_file(tmp_path: Path) -> None:
    many = Meter("many", "gauge", "Many", (Label("n", bound="a test"),))
    file = Textfile(tmp_path, page(many.family({(str(n),): n for n in range(500)})), 0.0)
    file.tick()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            file.tick()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            assert sum(name[0] == "many" for name in read(file.path)) == 500
    finally:
        stop.set()
        writer.join()


def test_what_lies_in_the_folder_already_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "gated-lane.prom").symlink_to(victim)
    Textfile(shared, page(), 0.0).tick()
    assert victim.read_text() == "keep me" and not (shared / "gated-lane.prom").is_symlink()


def test_a_folder_that_is_not_there_is_said_once_and_disturbs_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    file = Textfile(folder, page(), 0.0)
    with capture_logs() as logs:
        file.tick()
        file.tick()
        folder.mkdir()
        file.tick()
        file.remove()
        folder.rmdir()
        file.tick()
    assert [each["event"] for each in logs] == ["metrics cannot be written"] * 2
    assert logs[0]["file"] == str(file.path)


def test_the_loop_keeps_the_file_and_takes_it_away(tmp_path: Path) -> None:
    file = Textfile(tmp_path, page(), 0.01)

    async def live() -> int:
        task = asyncio.create_task(file.keep())
        while not file.path.exists():
            await asyncio.sleep(0.005)
        inode = file.path.stat().st_ino
        while file.path.stat().st_ino == inode:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return inode

    assert asyncio.run(asyncio.wait_for(live(), 20))
    assert not file.path.exists()


def test_no_metrics_without_their_section(tmp_path: Path) -> None:
    toml = tmp_path / "lane.toml"
    plain = (
        '[lane]\nid = "tpe-07"\nsite = "tpe"\n[keys]\ncache = "c"\njournal = "j"\nhq_public = "h"\n'
        'orders_public = "o"\nreceipts_public = "r"\n[uplink]\nhost = "h"\n'
    )
    toml.write_text(plain)
    assert textfile(load(toml), "lane", list) is None
    toml.write_text(f'{plain}[metrics]\ndir = "{tmp_path}"\nevery_s = 5\n')
    file = textfile(load(toml), "lane", list)
    assert file is not None and file.path == tmp_path / "gated-lane.prom"


# -- a lane


@pytest.fixture(scope="module")
def day() -> Iterator[tuple[VirtualLane, list[Metric], Any]]:
    """A simulated lane after a day with mishaps, and what it measured."""
    with sim_folder() as folder:
        lane = VirtualLane(7, Topology.MANTRAP, folder, passengers=25)
        told: list[Metric] = []
        ended = lane._end

        async def end() -> None:
            told.extend(lane.app.measures.collect())
            await ended()

        lane._end = end  # type: ignore[method-assign]  # a look at it while it still runs
        report = virtual.run(lane.run())
        yield lane, told, report


def test_a_lane_counts_what_became_of_its_passengers(day: Any) -> None:
    lane, told, _ = day
    now = values(told)
    settled = [fact for _, _, fact in lane.told if type(fact).__name__ == "TicketSettled"]
    verdicts = [fact for _, _, fact in lane.told if type(fact).__name__ == "VerdictReached"]
    for outcome in ("crossed", "not_crossed"):
        count = sum(fact.outcome == outcome for fact in settled)
        assert now["gated_lane_tickets_total", outcome] == count > 0
    for decision in ("grant", "refer"):
        count = sum(fact.decision == decision for fact in verdicts)
        assert now["gated_lane_verdicts_total", decision] == count > 0
    assert now[("gated_lane_passage_seconds_count",)] == now["gated_lane_tickets_total", "crossed"]
    assert now["gated_lane_passage_seconds_bucket", "120.0"] == now[("gated_lane_passage_seconds_count",)]
    assert sum(now["gated_lane_state", state] for state in lane_metrics.STATE.labels[0].values) == 1
    assert now["gated_lane_device_up", "camera"] == 1
    assert now["gated_lane_cache_confirmed_timestamp_seconds", "people"] > 0
    assert sum(value for key, value in now.items() if key[:2] == ("gated_lane_cache_freshness", "control")) == 1


def test_nobody_and_no_reason_is_in_what_a_lane_tells(day: Any, tmp_path: Path) -> None:
    """L8, and no personal data: every label's value is of a closed set that no person makes."""
    lane, told, _ = day
    Textfile(tmp_path, Page("lane", lambda: told, {"site": "sim", "lane": "sim"}), 0.0).tick()
    text = (tmp_path / "gated-lane.prom").read_text()
    reasons = {fact.reason for _, _, fact in lane.told if type(fact).__name__ == "VerdictReached"}
    reasons -= {code.value for code in AlarmCode}  # "help" is a button too, and its alarm
    assert reasons and not [reason for reason in reasons if reason in text]
    categories = {fact.category for _, _, fact in lane.told if getattr(fact, "category", None)}
    assert categories and not [category for category in categories if f'"{category}"' in text]
    closed_or_one(lane_metrics.METERS, told)


def closed_or_one(meters: Iterable[Meter], told: Iterable[Metric]) -> None:
    """Every family is declared, every label has a value of its closed set; those without a set have one series."""
    by_name = {meter.name.removesuffix("_total"): meter for meter in meters}
    for family in told:
        meter = by_name[family.name]
        open_ones = [label.name for label in meter.labels if not label.values]
        for sample in family.samples:
            for label in meter.labels:
                assert not label.values or sample.labels[label.name] in label.values, (family.name, sample.labels)
        if open_ones:
            assert len(family.samples) == 1, f"{family.name}: a series for each {open_ones}"


def test_the_forbidden_words_are_no_label() -> None:
    words = {"reason", "ticket", "category", "nationality", "document", "officer", "order", "name", "number", "subject"}
    for meters in (
        lane_metrics.METERS, uplink_metrics.METERS, sync_metrics.METERS, exporter.INGEST_METERS, exporter.FLEET_METERS
    ):  # fmt: skip
        for meter in meters:
            assert not words & {label.name for label in meter.labels}, meter.name
            for label in meter.labels:
                assert label.values or label.bound, f"{meter.name}: what keeps the values of {label.name} few?"


def test_names_are_as_prometheus_wants_them() -> None:
    for process, meters in (
        ("lane", lane_metrics.METERS), ("uplink", uplink_metrics.METERS), ("sync", sync_metrics.METERS),
        ("ingest", exporter.INGEST_METERS), ("hq", exporter.FLEET_METERS),
    ):  # fmt: skip
        names = [meter.name for meter in meters]
        assert len(names) == len(set(names))
        for meter in meters:
            assert meter.name.startswith(f"gated_{process}_")
            assert meter.name.endswith("_total") == (meter.kind == "counter"), meter.name
            assert bool(meter.buckets) == (meter.kind == "histogram")


def test_what_is_wrong_with_a_lane_shows() -> None:
    writer: Any = SimpleNamespace(dropped=3, journal=SimpleNamespace(lost=7))
    snapshot = {
        "state": "closed", "devices": {"camera": "lost"}, "outbox": {"alarm": 4}, "cache": {"people": "stale"},
        "policy": {"version": "v", "edition": 2, "next": None, "refused": "rollback", "lacks": True}, "uplink": "down",
    }  # fmt: skip
    now = values(Measures(lambda: cast(Any, snapshot), dict, writer).collect())
    assert now[("gated_lane_facts_lost_total",)] == 3 and now[("gated_lane_journal_lost_total",)] == 7
    assert now["gated_lane_state", "closed"] == 1 and now["gated_lane_state", "idle"] == 0
    assert now["gated_lane_device_up", "camera"] == 0
    assert now["gated_lane_outbox_records", "alarm"] == 4
    assert now["gated_lane_cache_freshness", "people", "stale"] == 1
    assert now["gated_lane_cache_freshness", "people", "fresh"] == 0
    assert now[("gated_lane_policy_refused",)] == 1 and now[("gated_lane_policy_lacks",)] == 1


# -- uplink and sync


def test_the_uplink_tells_what_waits_and_when_its_certificate_ends(tmp_path: Path) -> None:
    spans = {
        "g.2-alarm": Span("g.2-alarm", "alarm", 5, 9, 400, 2),
        "g-alarm": Span("g-alarm", "alarm", 1, 3, 100, 0),
        "g-state": Span("g-state", "state", 8, 7, 0, 1),
    }
    acked = {"g.2-alarm": 6, "g-alarm": 0, "g-state": 7}
    flights: Any = SimpleNamespace(spans=spans, acked=lambda i: acked[i], resent=11, refused=1)
    certificate = tmp_path / "lane.crt"
    measures = uplink_metrics.Measures(
        flights, lambda: uplink_metrics.Line(True, False, 1, 5000, 2), 1_000_000, certificate
    )
    now = values(measures.collect())
    assert now["gated_uplink_waiting_records", "alarm"] == 6, "of both chapters"
    assert now["gated_uplink_waiting_records", "state"] == 0
    assert now["gated_uplink_dropped_records", "alarm"] == 2
    assert now[("gated_uplink_outbox_bytes",)] == 500 and now[("gated_uplink_outbox_bytes_max",)] == 1_000_000
    assert (now[("gated_uplink_connected",)], now[("gated_uplink_hq_up",)], now[("gated_uplink_broker",)]) == (1, 0, 1)
    assert now[("gated_uplink_resent_records_total",)] == 11 and now[("gated_uplink_sent_bytes_total",)] == 5000
    assert ("gated_uplink_certificate_expires_timestamp_seconds",) not in now, "no file, no number"
    closed_or_one(uplink_metrics.METERS, measures.collect())
    certificate.write_bytes(self_signed(NOON + timedelta(days=90)))
    now = values(measures.collect())
    expires = now[("gated_uplink_certificate_expires_timestamp_seconds",)]
    assert expires == (NOON + timedelta(days=90)).timestamp()


def self_signed(until: datetime) -> bytes:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tpe/tpe-07")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(NOON).not_valid_after(until)
    return made.sign(key, None).public_bytes(serialization.Encoding.PEM)


def test_the_sync_tells_how_new_everything_is() -> None:
    report = {
        "partitions": {
            "people": {"checked": NOON.isoformat(), "serial": 41, "trouble": {}},
            "control": {"checked": "1970-01-01T00:00:00+00:00", "serial": 0, "trouble": {"why": "no_key"}},
        },
        "metadata": {"asked": None, "expires": (NOON + timedelta(hours=6)).isoformat(), "trouble": {"why": "x"}},
        "files": {"trouble": {}},
        "refused": {Why.ROLLED_BACK.value: 2, Why.UNREACHABLE.value: 5},
        "announcements": 9,
    }
    told = list(sync_metrics.Measures(lambda: report).collect())
    now = values(told)
    assert now["gated_sync_confirmed_timestamp_seconds", "people"] == NOON.timestamp()
    assert now["gated_sync_confirmed_timestamp_seconds", "control"] == 0
    assert [now["gated_sync_trouble", each] for each in ("people", "control", "metadata", "files")] == [0, 1, 1, 0]
    assert now["gated_sync_refused_total", "rolled_back"] == 2 and now["gated_sync_refused_total", "slow"] == 0
    assert now[("gated_sync_attacks_total",)] == 2, "that HQ cannot be reached is no attack"
    assert now[("gated_sync_asked_timestamp_seconds",)] == 0
    closed_or_one(sync_metrics.METERS, told)


def test_a_real_sync_tells_it(tmp_path: Path) -> None:
    hq = Hq(tmp_path / "hq", Clock())
    hq.add(PEOPLE, *range(5))
    hq.add(CONTROL, *range(100, 102))
    hq.sign()
    with Website(hq.folder) as site:
        lane = LaneRig(tmp_path / "lane", site.url, hq.repository.root, hq.clock)
        assert lane.sync.once()
        now = values(sync_metrics.Measures(lane.sync.report).collect())
        lane.sync.close()
    assert now["gated_sync_serial", PEOPLE] > 0 and now["gated_sync_trouble", PEOPLE] == 0
    assert now[("gated_sync_metadata_expires_timestamp_seconds",)] > now[("gated_sync_asked_timestamp_seconds",)] > 0


# -- HQ


def test_an_ingest_worker_tells_of_itself() -> None:
    counts = {"stored": 5, "duplicates": 1}
    now = values(IngestMeasures(lambda: counts, lambda: True, lambda: 123.5).collect())
    assert now["gated_ingest_messages_total", "stored"] == 5
    assert now[("gated_ingest_connected",)] == 1 and now[("gated_ingest_commit_timestamp_seconds",)] == 123.5


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path / "hq.db")
    yield made
    made.close()


def fill(archive: Archive, lanes: int, now: datetime, troubled: int) -> None:
    """A fleet in HQ's tables: `lanes` that are up, of which the first `troubled` have each kind of trouble."""
    telemetry = '{"store": "ok", "lane_up": true, "pending": 3, "oldest_s": 12.5, "refused": 0, "resent": 2}'
    names = [("tpe", f"tpe-{n:04}") for n in range(lanes)]
    bad = names[:troubled]
    with archive.engine.connect().execution_options(writes=True) as sql, sql.begin():
        sql.execute(
            insert(tables.lanes),
            [
                {
                    "site": s,
                    "lane": n,
                    "up": 1,
                    "seen": now,
                    "telemetry": telemetry,
                    "reported": '{"behind": ["policy"]}',
                }
                for s, n in names
            ],
        )
        sql.execute(
            insert(tables.streams),
            [
                {"site": s, "lane": n, "stream_id": f"g-{stream}", "seq": 100, "hash": b"h", "held": 0}
                for s, n in names
                for stream in ("alarm", "crossing", "state")
            ],
        )
        if bad:
            found = {"code": "journal_cut", "detail": "row 7", "noticed": now}
            sql.execute(insert(tables.findings), [{"site": s, "lane": n, **found} for s, n in bad])
            aside = {"stream_id": "g-alarm", "seq": 1, "chain": b"c", "why": "x", "bytes": b"", "received": now}
            sql.execute(insert(tables.refused), [{"site": s, "lane": n, **aside} for s, n in bad])
            early = {"stream_id": "g-alarm", "seq": 9, "chain": b"c", "begin": 9, "payload": b""}
            sql.execute(
                insert(tables.held),
                [{"site": s, "lane": n, **early, "received": now - timedelta(seconds=40)} for s, n in bad],
            )
        sql.execute(insert(tables.counters), [{"name": "stored", "part": p, "value": 10} for p in range(3)])


def arrive(archive: Archive, seq: int, stream: str, made: datetime, received: datetime) -> None:
    row = {
        "lane": "tpe-0000", "stream_id": f"g-{stream}", "seq": seq, "site": "tpe", "stream": stream, "kind": "X",
        "utc": made, "boot": "b", "schema": 1, "clear": "{}", "prev": b"", "hash": b"", "received": received,
    }  # fmt: skip
    with archive.engine.connect().execution_options(writes=True) as sql, sql.begin():
        sql.execute(insert(tables.records), [row])


def test_the_fleet_as_hq_s_database_tells_it(archive: Archive) -> None:
    fill(archive, 3, NOON, troubled=1)
    told = Fleet(archive, lambda: NOON).collect()
    now = values(told)
    bad, good = ("tpe", "tpe-0000"), ("tpe", "tpe-0001")
    assert now[("gated_hq_archive_up",)] == 1
    assert (
        now["gated_hq_lane_up", *good] == 1 and now["gated_hq_lane_seen_timestamp_seconds", *good] == NOON.timestamp()
    )
    assert (
        now["gated_hq_lane_waiting_records", *good] == 3 and now["gated_hq_lane_oldest_record_seconds", *good] == 12.5
    )
    assert now["gated_hq_lane_behind_parts", *good] == 1
    assert now["gated_hq_lane_finding_timestamp_seconds", *bad, "journal_cut"] == NOON.timestamp()
    assert now["gated_hq_lane_findings", *bad, "journal_cut"] == 1
    assert ("gated_hq_lane_findings", *good, "journal_cut") not in now
    assert now["gated_hq_lane_set_aside_records", *bad] == 1
    assert now["gated_hq_lane_held_records", *bad] == 1 and now["gated_hq_lane_held_oldest_seconds", *bad] == 40
    assert now["gated_hq_records_total", "crossing"] == 300 and now["gated_hq_records_total", "attachment"] == 0
    assert now["gated_hq_messages_total", "stored"] == 30
    known = {meter.name.removesuffix("_total") for meter in exporter.FLEET_METERS}
    assert {family.name for family in told} <= known


def test_a_lane_that_never_told_how_it_is_has_no_numbers_of_it(archive: Archive) -> None:
    with archive.batch() as intake:
        birth = link.Birth("s1", "b1", NOON, "1.0", ())
        intake.born("tpe", "tpe-new", birth, False)
    now = values(Fleet(archive, lambda: NOON).collect())
    assert now["gated_hq_lane_up", "tpe", "tpe-new"] == 1
    assert ("gated_hq_lane_waiting_records", "tpe", "tpe-new") not in now


def test_what_lanes_really_say_is_what_the_page_shows(archive: Archive) -> None:
    """Through the door that ingest uses, not by the test's own rows."""
    with archive.batch() as intake:
        intake.born("tpe", "tpe-1", link.Birth("s1", "b1", NOON, "1.0", ()), False)
        intake.told("tpe", "tpe-1", link.Telemetry("s1", "b1", NOON, "p", True, "busy", 17, 99.5, 0, 4))
        intake.reported("tpe", "tpe-1", link.Reported(3, NOON, (), ("policy", "cache.people")))
        intake.finding("tpe", "tpe-1", "made_up_by_a_lane", "x")
    now = values(Fleet(archive).collect())
    lane = ("tpe", "tpe-1")
    assert (
        now["gated_hq_lane_waiting_records", *lane] == 17 and now["gated_hq_lane_oldest_record_seconds", *lane] == 99.5
    )
    assert now["gated_hq_lane_store_ok", *lane] == 0 and now["gated_hq_lane_daemon_up", *lane] == 1
    assert now["gated_hq_lane_resent_records_total", *lane] == 4
    assert now["gated_hq_lane_behind_parts", *lane] == 2
    assert now["gated_hq_lane_findings", *lane, OTHER] == 1


def test_each_record_s_way_is_counted_once_and_what_was_there_before_is_not(archive: Archive) -> None:
    now = [NOON]
    arrive(archive, 1, "alarm", NOON - timedelta(hours=2), NOON - timedelta(hours=1))
    fleet = Fleet(archive, lambda: now[0])
    arrive(archive, 2, "alarm", NOON - timedelta(seconds=0.2), NOON)
    arrive(archive, 1, "crossing", NOON - timedelta(seconds=40), NOON + timedelta(seconds=1))
    arrive(archive, 2, "crossing", NOON + timedelta(hours=9), NOON + timedelta(seconds=1))

    def counted(stream: str, edge: str) -> float:
        return values(fleet.collect())["gated_hq_receipt_lag_seconds_bucket", stream, edge]

    assert counted("alarm", "+Inf") == 0, "what came just now may still be in a transaction"
    now[0] = NOON + timedelta(seconds=30)
    assert counted("alarm", "+Inf") == 1 and counted("alarm", "0.1") == 0 and counted("alarm", "0.25") == 1
    assert counted("crossing", "30.0") == 1, "a lane whose clock is ahead counts as at once"
    assert counted("crossing", "60.0") == 2
    now[0] += timedelta(seconds=30)
    assert counted("crossing", "+Inf") == 2 and counted("state", "+Inf") == 0


def test_a_database_that_is_away_is_told_and_comes_back(tmp_path: Path) -> None:
    Archive(tmp_path / "hq.db").close()
    archive = Archive(tmp_path / "hq.db", read_only=True)
    fleet = Fleet(archive)
    assert values(fleet.collect())[("gated_hq_archive_up",)] == 1
    archive.close()
    (tmp_path / "hq.db").rename(tmp_path / "away.db")
    with capture_logs() as logs:
        for _ in range(3):
            now = values(fleet.collect())
            assert now[("gated_hq_archive_up",)] == 0 and not any(name[0] == "gated_hq_lane_up" for name in now)
    assert [each["event"] for each in logs] == ["HQ's database cannot be read"]
    (tmp_path / "away.db").rename(tmp_path / "hq.db")
    assert values(fleet.collect())[("gated_hq_archive_up",)] == 1
    archive.close()


def test_the_page_answers_on_a_socket_many_at_once(archive: Archive) -> None:
    fill(archive, 20, datetime.now(UTC), troubled=2)
    port = free_port()
    end = serve(f"127.0.0.1:{port}", Page("hq", Fleet(archive).collect))
    texts: list[str] = []
    try:
        askers = [threading.Thread(target=lambda: texts.append(get(port))) for _ in range(8)]
        for each in askers:
            each.start()
        for each in askers:
            each.join(30)
        named = get(port, "?name[]=gated_hq_archive_up")
    finally:
        end()
    assert len(texts) == 8
    for text in texts:
        assert values(text_string_to_metric_families(text))["gated_hq_lane_up", "tpe-0019", "tpe"] == 1
    assert "gated_hq_archive_up 1.0" in named
    with pytest.raises(OSError):
        get(port)


def get(port: int, query: str = "") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics{query}", timeout=20) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.parametrize("listen", ["9464", ":9464", "127.0.0.1:http", "127.0.0.1:99999", "127.0.0.1:"])
def test_an_address_that_is_none_is_said(listen: str) -> None:
    with pytest.raises(ValueError, match=r"is not host:port, like 127\.0\.0\.1:9464"):
        serve(listen, page())


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    Archive(tmp_path / "hq.db").close()
    port = free_port()
    command = [sys.executable, "-m", "gated.hq.cli", "metrics", "--db", str(tmp_path / "hq.db")]
    child = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"], cwd=ROOT)
    try:
        eventually(lambda: _answers(port), 20.0, "the page answers")
        assert "gated_hq_archive_up 1.0" in get(port)
    finally:
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0


def _answers(port: int) -> bool:
    try:
        return bool(get(port))
    except OSError:
        return False


def test_a_lane_s_records_show_at_hq_over_a_real_broker(tmp_path: Path) -> None:
    rig, port = Rig(tmp_path), free_port()
    rig.broker.start()
    keys = tmp_path / "keys"
    command = [sys.executable, "-m", "gated.hq.cli", "ingest", "--db", str(rig.hq_db), "--key", str(keys / "hq.key")]
    command += ["--receipts-key", str(keys / "receipts.key"), "--metrics", f"127.0.0.1:{port}"]
    with (tmp_path / "ingest.log").open("wb") as log:
        at = ("--host", "127.0.0.1", "--port", str(rig.broker.port), "--plain")
        child = subprocess.Popen([*command, *at], cwd=ROOT, stdout=log, stderr=log)

    def told() -> dict[tuple[str, ...], float]:
        return values(text_string_to_metric_families(get(port))) if _answers(port) else {}

    try:
        eventually(lambda: told().get(("gated_ingest_connected",)) == 1, 30.0, "ingest is connected")
        rig.lane.passengers(5)
        rig.uplink()
        eventually(rig.all_acked, 30.0, "every record is acknowledged")
        eventually(lambda: told().get(("gated_ingest_messages_total", "stored")) == rig.stored() > 0, 10.0, "counted")
        assert time.time() - told()[("gated_ingest_commit_timestamp_seconds",)] < 30
        archive = rig.archive()
        now = values(Fleet(archive).collect())
        archive.close()
        assert now["gated_hq_lane_up", SITE, LANE] == 1
        assert now["gated_hq_records_total", "crossing"] == 10, "a verdict and an end for each of five"
        assert now["gated_hq_messages_total", "stored"] == rig.stored()
    finally:
        child.send_signal(signal.SIGTERM)
        code = child.wait(30)
        rig.close()
    assert code == 0, (tmp_path / "ingest.log").read_text()


def test_the_command_says_what_it_cannot(tmp_path: Path) -> None:
    missing = CliRunner().invoke(gated_hq, ["metrics", "--db", str(tmp_path / "none.db")])
    assert missing.exit_code == 1 and "gated-hq: " in missing.output
    Archive(tmp_path / "hq.db").close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = CliRunner().invoke(gated_hq, ["metrics", "--db", str(tmp_path / "hq.db"), "--listen", address])
    assert done.exit_code == 1 and f"--listen {address}: " in done.output


# -- what it costs


@pytest.mark.bench
def test_bench_a_lane_s_file(day: Any, tmp_path: Path, benchmark: Any) -> None:
    _, told, _ = day
    benchmark(Textfile(tmp_path, Page("lane", lambda: told, {"site": "s", "lane": "l"}), 0.0).tick)


@pytest.mark.bench
def test_bench_a_scrape_of_five_thousand_lanes(archive: Archive, benchmark: Any) -> None:
    fill(archive, 5000, datetime.now(UTC), troubled=300)
    fleet = Page("hq", Fleet(archive).collect)
    text = benchmark(lambda: generate_latest(fleet))
    print(f"{len(text):,} bytes, {text.count(b'gated_hq_lane_up{')} lanes")
