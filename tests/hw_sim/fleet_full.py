"""Full lanes: a durable outbox on disk and the real uplink each, several lanes in a process; no devices, no daemon.

One thread writes for all lanes of a process, each record in the transaction that a lane's writer would use; every
uplink runs in its own, as in its own process."""

import threading
import time
from collections import deque
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import structlog

from gated import config
from gated.mqtt import Broker
from gated.store.acks import AckedHeadsReader
from gated.store.db import LaneDb
from gated.store.outbox import Outbox
from gated.uplink.service import build
from gated.wire.facts import Fact
from tests.hw_sim.fleet_plan import SITE, Passengers, Plan, Report, Status, name_of
from tests.hw_sim.storm_lane import Neighbour

LOOK_S: Final = 0.5
"""How often the acknowledged numbers are read."""
TRIM_S: Final = 5.0
"""How often a lane's outbox is trimmed, as its daemon does."""


class Lane:
    """One lane in a folder of its own."""

    def __init__(self, plan: Plan, number: int) -> None:
        name = name_of(number)
        folder = plan.folder / "lanes" / name
        folder.mkdir(parents=True)
        self.db = LaneDb(folder / "lane.db")
        self.outbox = Outbox(self.db, name, "boot-1", plan.key("hq.pub"))
        self.neighbour = Neighbour(folder / "control.sock", "boot-1")
        (folder / "lane.toml").write_text(_toml(plan, name, folder, plan.brokers[number]), encoding="utf-8")
        self.uplink = build(config.load(folder / "lane.toml"))
        self._acks = AckedHeadsReader(folder / "uplink.db")
        self.heads: dict[str, tuple[int, bytes]] = {}
        self._waiting: dict[str, deque[tuple[int, float]]] = {}
        """stream id -> number and time of what is not acknowledged yet."""
        self.acked = self.made = 0

    def say(self, facts: tuple[Fact, ...]) -> None:
        """Facts in one durable transaction."""
        mono = time.monotonic()
        with self.db.transaction():
            made = [self.outbox.append(fact, datetime.now(UTC)) for fact in facts]
        for record in made:
            self.heads[record.stream_id] = record.seq, record.hash()
            self._waiting.setdefault(record.stream_id, deque()).append((record.seq, mono))
        self.made += len(made)

    def look(self) -> Mapping[str, int]:
        """Read what HQ has acknowledged."""
        acked = self._acks.heads()
        here = {span.stream_id for span in self.outbox.spans()}
        for stream_id, waiting in self._waiting.items():
            upto = acked.get(stream_id, 0) if stream_id in here else float("inf")  # trimmed: acknowledged before
            while waiting and waiting[0][0] <= upto:
                waiting.popleft()
                self.acked += 1
        return acked

    @property
    def oldest_mono(self) -> float:
        """When the oldest was made that is not acknowledged; infinity: none waits."""
        return min((waiting[0][1] for waiting in self._waiting.values() if waiting), default=float("inf"))

    def care(self) -> None:
        """Trim, and go on in new chapters after an outage, as the daemon's writer does."""
        acked = self.look()
        with self.db.transaction():
            self.outbox.trim(acked)
        if self.neighbour.returned.is_set():
            self.neighbour.returned.clear()
            with self.db.transaction():
                self.outbox.begin_chapters(datetime.now(UTC), acked=acked)
            self.remember()

    def remember(self) -> None:
        """The heads as the database has them, those of chapters with no record of ours yet too."""
        rows = self.db.sql.execute("SELECT stream_id, seq, head FROM streams WHERE seq > 0").fetchall()
        self.heads |= {stream_id: (seq, head) for stream_id, seq, head in rows}


class Fleet:
    """The lanes of one process."""

    def __init__(self, plan: Plan, report: Report) -> None:
        self._lanes = {number: Lane(plan, number) for number in plan.lanes}
        self._passengers, self._report = Passengers(plan), report
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=lane.uplink.run, args=(self._stop,), daemon=True) for lane in self._lanes.values()
        ]
        self._looked_mono = 0.0
        self._cared_mono = time.monotonic()

    def work(self, line: Connection) -> None:
        """Until the parent says so."""
        order: str | None = ""
        while order is not None:
            now = time.monotonic()
            for number, facts in self._passengers.until(now):
                self._lanes[number].say(facts)
            if now - self._cared_mono > TRIM_S:
                self._cared_mono = now
                for lane in self._lanes.values():
                    lane.care()
            if line.poll(min(LOOK_S, max(0.0, self._passengers.next_mono - time.monotonic()))):
                order = line.recv()
                self._obey(order, line)
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _obey(self, order: str | None, line: Connection) -> None:
        if order == "connect":
            for thread in self._threads:
                thread.start()
        elif order == "make":
            self._passengers.begin(time.monotonic())
        elif order == "rest":
            self._passengers.end()
        elif order == "how":
            line.send(self._status())
        elif order == "report":
            line.send(self._told())

    def _status(self) -> Status:
        lanes = self._lanes.values()
        if time.monotonic() - self._looked_mono > LOOK_S:
            for lane in lanes:
                lane.look()
            self._looked_mono = time.monotonic()
        oldest = min((lane.oldest_mono for lane in lanes), default=float("inf"))
        made, acked = sum(lane.made for lane in lanes), sum(lane.acked for lane in lanes)
        first = None if oldest == float("inf") else oldest
        return Status(sum(lane.uplink.up for lane in lanes), made, acked, first, self._passengers.inside)

    def _told(self) -> Report:
        for number, lane in self._lanes.items():
            lane.remember()
            lane.look()
            continued = sum(seq for seq, _ in lane.heads.values()) - lane.made  # the first records of further chapters
            self._report.acked += lane.acked + continued
            self._report.heads |= {(name_of(number), stream_id): head for stream_id, head in lane.heads.items()}
        return self._report


def crew(line: Connection, plan: Plan) -> None:
    """The life of a process of full lanes. What the uplinks log is counted: errors must never be."""
    report = Report()

    def count(_: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        text = f"{event['event']}: {event.get('why', '')}"
        if level == "error":
            report.wrong[text] += 1
        elif level == "warning":
            report.failures[text] += 1
        raise structlog.DropEvent

    structlog.configure(processors=[count], cache_logger_on_first_use=False)
    Fleet(plan, report).work(line)


def _toml(plan: Plan, name: str, folder: Path, broker: Broker) -> str:
    keys = plan.folder / "keys"
    return (
        f'[lane]\nid = "{name}"\nsite = "{SITE}"\n[store]\ndir = "{folder}"\n'
        f'[keys]\ncache = "c"\njournal = "j"\nhq_public = "{keys}/hq.pub"\norders_public = "{keys}/orders.pub"\n'
        f'receipts_public = "{keys}/receipts.pub"\n'
        f'[uplink]\nhost = "{broker.host}"\nport = {broker.port}\nca = "{broker.ca}"\n'
        f'certificate = "{broker.certificate}"\nkey = "{broker.key}"\n'
        f"heartbeat_s = {plan.heartbeat_s}\nack_s_max = {plan.ack_s_max}\n"
        f"retry_s_min = {plan.retry_s[0]}\nretry_s_max = {plan.retry_s[1]}\ninflight_max = {plan.inflight_max}\n"
        f'[control]\nsocket = "{folder}/control.sock"\n'
    )
