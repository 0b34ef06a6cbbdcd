"""`python -m tests.hw_sim offline`: a lane comes back after a month alone; what reaches HQ when.

The lane's outbox is filled as by 30 days of 20,000 events, then its uplink, a broker and HQ's workers start, all real.
While the backlog goes up the lane goes on recording; of these live records it is measured how long each takes from its
commit until HQ's receipt has come back and stands in uplink.db, which is later than HQ has it."""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from gated.hq.archive import Archive
from gated.store.sql import StoreError
from gated.wire.facts import STREAMS, AlarmRaised, DeviceChanged, Fact, LaneChanged, TicketSettled
from gated.wire.record import Record
from tests.postgres import RunningPostgres
from tests.uplink_rig import LANE, Rig, verdict

BATCH = 500
"""Passengers in one transaction while the month is made up: no month passes here."""
LIVE_EVERY_S = 0.5
POLL_S = 0.02


def passage(ticket: int, dice: Random) -> list[Fact]:
    """About five records, as a busy lane makes them."""
    facts: list[Fact] = [
        LaneChanged("checking"),
        LaneChanged("open"),
        verdict(ticket),
        TicketSettled(ticket, "crossed", 1),
    ]
    facts += [DeviceChanged("camera", "ready", "")] if dice.random() < 0.7 else []
    facts += [AlarmRaised("help", "", ticket)] if dice.random() < 0.3 else []
    return facts


class Month:
    """The rig with a full outbox. `made`: records by stream."""

    def __init__(self, rig: Rig, days: int, events_a_day: int, seed: int) -> None:
        self.rig, self._dice = rig, Random(seed)
        self.made = dict.fromkeys(STREAMS, 0)
        self.seconds = self._fill(days, events_a_day)

    def _fill(self, days: int, events: int) -> float:
        began, lane = time.monotonic(), self.rig.lane
        utc = datetime.now(UTC) - timedelta(days=days)
        step, ticket, count = timedelta(days=days) / (days * events), lane.ticket, 0
        while count < days * events:
            with lane.db.transaction():
                for _ in range(BATCH):
                    for fact in passage(ticket, self._dice):
                        record = lane.outbox.append(fact, utc)
                        self.made[record.stream] += 1
                        count, utc = count + 1, utc + step
                    ticket += 1
            _say(f"{count:,} of {days * events:,} events", end="\r")
        lane.ticket = ticket
        return time.monotonic() - began


class Live:
    """The lane goes on: one passage every half second, and when HQ has acknowledged each of its records."""

    def __init__(self, rig: Rig) -> None:
        self._rig, self._stop = rig, threading.Event()
        self._waiting: list[tuple[Record, float]] = []
        self.took: dict[str, list[float]] = {stream: [] for stream in STREAMS}
        self.unanswered = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._watch)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self.unanswered = len(self._waiting)

    def _write(self) -> None:
        dice, lane = Random(1), self._rig.lane
        while not self._stop.wait(LIVE_EVERY_S):
            facts = passage(lane.ticket, dice)
            lane.ticket += 1
            before = len(lane.written)
            lane.say(*facts)
            now = time.monotonic()
            with lane.db.transaction():
                lane.outbox.trim(self._rig.acked())
            with self._lock:
                self._waiting += [(record, now) for record in lane.written[before:]]

    def _watch(self) -> None:
        until = float("inf")
        while self._waiting or not self._stop.is_set():
            if self._stop.is_set():
                until = min(until, time.monotonic() + 20)
            if time.monotonic() > until:
                return
            time.sleep(POLL_S)
            try:
                acked, now = self._rig.acked(), time.monotonic()
            except StoreError:
                continue  # the uplink makes its file just now
            with self._lock:
                for each in [e for e in self._waiting if acked.get(e[0].stream_id, 0) >= e[0].seq]:
                    self._waiting.remove(each)
                    self.took[each[0].stream].append(now - each[1])


def perform(chosen: argparse.Namespace) -> int:
    """0: everything came, in order; live records within two seconds."""
    with tempfile.TemporaryDirectory(prefix="offline-", dir=chosen.folder) as name, ExitStack() as ends:
        folder = Path(name)
        folder.chmod(0o755)
        url = str(folder / "hq.db")
        if chosen.db == "postgresql":
            url = ends.enter_context(RunningPostgres(folder / "postgres")).url
        rig = Rig(folder, hq_url=url)
        ends.callback(rig.close)
        month = Month(rig, chosen.days, chosen.events, chosen.seed)
        total = sum(month.made.values())
        disk = sum(file.stat().st_size for file in folder.glob("lane.db*"))
        _say(f"{total:,} records in {month.seconds:.0f} s; lane.db {disk / 1e6:,.0f} MB")
        rig.options |= {"inflight_max": chosen.inflight, "ack_s_max": 10.0, "heartbeat_s": 2.0}
        rig.configure()
        rig.broker.start()
        rig.ingest_process(workers=chosen.workers)
        found = _return(rig, month, total)
        found |= _compared(url, month)
    found |= {"days": chosen.days, "events_a_day": chosen.events, "lane_db_mb": round(disk / 1e6), "db": chosen.db}
    if chosen.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:22} {value}")
    slow = any(row["max_s"] >= 2.0 for row in found["live"].values())
    return 1 if found["wrong"] or slow or found["unanswered"] else 0


def _return(rig: Rig, month: Month, total: int) -> dict[str, Any]:
    """The lane is back. When each stream's backlog was at HQ, and how long live records took."""
    old = {span.stream_id: span for span in rig.lane.outbox.spans() if span.last >= span.first}
    rig.uplink_process()
    began = time.monotonic()
    while not rig.acked():
        time.sleep(POLL_S)
    answered = time.monotonic()
    with rig.lane.db.transaction():
        chapters = rig.lane.outbox.begin_chapters(datetime.now(UTC))
    live = Live(rig)
    live.start()
    done: dict[str, float] = {}
    while len(done) < len(old):
        time.sleep(0.1)
        acked = rig.acked()
        for stream_id, span in old.items():
            if acked.get(stream_id, 0) >= span.last:
                done.setdefault(span.stream, round(time.monotonic() - began, 1))
        here = sum(min(acked.get(i, 0), span.last) for i, span in old.items())
        _say(f"{here:,} of {total:,} at HQ", end="\r")
    seconds = time.monotonic() - began
    live.end()
    return {
        "records": total,
        "backlog_s": round(seconds, 1),
        "records_per_s": round(total / seconds),
        "first_answer_s": round(answered - began, 1),
        "done_s": done,
        "chapters": len(chapters),
        "live": {stream: _quantiles(took) for stream, took in live.took.items() if took},
        "unanswered": live.unanswered,
    }


def _quantiles(took: Sequence[float]) -> dict[str, float]:
    order = sorted(took)
    at = {"p50_s": len(order) // 2, "p99_s": len(order) * 99 // 100, "max_s": len(order) - 1}
    return {"count": len(order), **{name: round(order[k], 2) for name, k in at.items()}}


def _compared(url: str, month: Month) -> dict[str, Any]:
    archive = Archive(url, read_only=True)
    try:
        wrong = [*archive.broken(), *map(str, archive.refused()), *map(str, archive.holes())]
        wrong += [f"{row['code']} {row['detail']}" for row in archive.findings()]
        stored = sum(row["seq"] for row in archive.streams())
    finally:
        archive.close()
    spans = {record.stream_id: record.seq for record in month.rig.lane.written}
    _say(f"{stored:,} records at HQ of {LANE}; {len(spans)} live streams")
    return {"at_hq": stored, "wrong": wrong}


def _say(text: str, end: str = "\n") -> None:
    if end == "\n" or sys.stderr.isatty():
        print(text, file=sys.stderr, end=end, flush=True)


def main(given: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.hw_sim offline", description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--events", type=int, default=20_000, help="a day (default 20,000)")
    parser.add_argument("--workers", type=int, default=1, help="ingest workers (default 1)")
    parser.add_argument("--inflight", type=int, default=256, help="records under way at once (default 256)")
    parser.add_argument("--db", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: the system's)")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    return perform(parser.parse_args(list(given)))
