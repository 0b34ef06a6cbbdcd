"""A lane's outbox, its uplink, a real broker and HQ's ingest on one machine, each to be killed and started again."""

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gated import config, control
from gated.hq import keys
from gated.hq.archive import Archive
from gated.hq.ingest import Ingest
from gated.mqtt import Broker
from gated.store.acks import AckedHeadsReader
from gated.store.db import LaneDb
from gated.store.outbox import Outbox
from gated.uplink.service import build
from gated.wire import orders
from gated.wire.facts import AlarmRaised, Fact, Holder, LaneChanged, TicketSettled, VerdictReached
from gated.wire.record import Record
from tests.broker import RunningBroker

ROOT = Path(__file__).resolve().parents[1]
SITE, LANE = "tpe-t1", "lane-07"
CANARY = "ZZYZXCANARY"
"""A name that must never be seen outside of a sealed half."""


def eventually(truth: Callable[[], bool], within_s: float = 10.0, what: str = "") -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + within_s
    while not truth():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or truth}"
        time.sleep(0.03)


def verdict(ticket: int) -> VerdictReached:
    """A fact with a sealed half."""
    return VerdictReached(
        ticket=ticket,
        decision="grant",
        reason="matched",
        rules="r1",
        direction="entry",
        came_from="A",
        holder=Holder(document_type="TD3", number=f"{CANARY}{ticket}", surname=CANARY, given_names="MEI"),
    )


class Lane:
    """The lane's side of lane.db, as its daemon would write it."""

    def __init__(self, folder: Path, hq_public: bytes, bytes_max: int = 1_000_000_000) -> None:
        self.db = LaneDb(folder / "lane.db")
        self.outbox = Outbox(self.db, LANE, "boot-1", hq_public, bytes_max=bytes_max)
        self.written: list[Record] = []
        self.ticket = self.db.next_ticket

    def say(self, *facts: Fact) -> None:
        """Write facts in one durable transaction."""
        with self.db.transaction():
            self.written += [self.outbox.append(fact, datetime.now(UTC)) for fact in facts]

    def passengers(self, count: int) -> None:
        """`count` passages of four records in three streams, each in a transaction of its own."""
        for _ in range(count):
            ticket, self.ticket = self.ticket, self.ticket + 1
            self.say(LaneChanged("checking"), verdict(ticket))
            self.say(TicketSettled(ticket, outcome="crossed", persons=1))
            self.say(AlarmRaised("help", "", ticket))

    def spoil(self, seq: int, stream: str, payload: bytes) -> None:
        """Put other bytes in the place of a record: a fault of disk or program that nobody can have foreseen."""
        with self.db.transaction():
            self.db.sql.execute("UPDATE outbox SET payload = ? WHERE stream = ? AND seq = ?", (payload, stream, seq))

    def close(self) -> None:
        self.db.close()


class ControlDouble:
    """The daemon's end of the control socket: verifies orders as the lane does, and remembers what it was asked."""

    def __init__(self, path: Path, orders_public: bytes) -> None:
        self.asked: list[control.Request] = []
        self.boot = "boot-1"
        self.seen = orders.Seen()
        double = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline()
                if line:
                    self.wfile.write(json.dumps(double.answer(control.decode(line), orders_public)).encode() + b"\n")

        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, request: control.Request, orders_public: bytes) -> dict[str, Any]:
        self.asked.append(request)
        if isinstance(request, control.Status):
            return {"ok": True, "answer": {"boot": self.boot}}
        if isinstance(request, control.RelayOrder):
            try:
                order = orders.verify((orders_public,), request.signed, LANE, self.boot, datetime.now(UTC), self.seen)
            except orders.OrderRefused as no:
                return {"ok": False, "error": "refused", "why": no.why}
            self.seen.remember(order)
        return {"ok": True, "answer": {}}

    def ups(self) -> list[bool]:
        """What the lane was told about HQ, repetitions left out."""
        told = [request.up for request in list(self.asked) if isinstance(request, control.UplinkState)]
        return [up for k, up in enumerate(told) if k == 0 or told[k - 1] != up]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Rig:
    """Everything between a lane's disk and HQ's, in `folder`."""

    def __init__(self, folder: Path, *, persistence: bool = False, hq_url: str = "") -> None:
        """`hq_url`: HQ's database; hq.db in `folder` without."""
        self.folder = folder
        keys.make(folder / "keys")
        self.hq_public = (folder / "keys" / "hq.pub").read_bytes()
        self.hq_private = (folder / "keys" / "hq.key").read_bytes()
        self.broker = RunningBroker(folder / "broker", persistence=persistence)
        self.receipts_key = (folder / "keys" / "receipts.key").read_bytes()
        self.hq_db = folder / "hq.db"
        self.hq_where = hq_url or str(self.hq_db)
        self.toml = folder / "lane.toml"
        self.options = {
            "heartbeat_s": 0.4,
            "ack_s_max": 1.0,
            "retry_s_min": 0.05,
            "retry_s_max": 0.3,
            "inflight_max": 64,
        }
        self.connection = f'host = "127.0.0.1"\nport = {self.broker.port}\ntls = false\n'
        self.hq_broker = Broker("127.0.0.1", self.broker.port, tls=False)
        self.lane = Lane(folder, self.hq_public)
        self.control = ControlDouble(folder / "control.sock", (folder / "keys" / "orders.pub").read_bytes())
        self.ingests: dict[str, Ingest] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._threads: dict[str, tuple[threading.Event, threading.Thread]] = {}
        self.configure()

    def configure(self) -> None:
        """Write lane.toml."""
        options = "\n".join(f"{name} = {value}" for name, value in self.options.items())
        self.toml.write_text(
            f'[lane]\nid = "{LANE}"\nsite = "{SITE}"\n'
            f'[store]\ndir = "{self.folder}"\n'
            '[keys]\ncache = "c"\njournal = "j"\nhq_public = "h"\norders_public = "o"\n'
            'receipts_public = "keys/receipts.pub"\n'
            f"[uplink]\n{self.connection}{options}\n"
            f'[control]\nsocket = "{self.folder / "control.sock"}"\n'
        )

    # -- in threads: quick to start, end cleanly

    def uplink(self) -> None:
        """Start the uplink in this process."""
        up = build(config.load(self.toml))
        self._thread("uplink", up.run)

    def ingest(self, name: str = "ingest") -> None:
        """Start one of HQ's ingest workers in this process. `ingests` has it by its name, from now on."""
        archive = Archive(self.hq_where)
        worker = self.ingests[name] = Ingest(archive, self.hq_private, self.receipts_key, self.hq_broker)

        def run(stop: threading.Event) -> None:
            worker.run(stop)
            archive.close()

        self._thread(name, run)

    def _thread(self, name: str, run: Callable[[threading.Event], None]) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=run, args=(stop,), daemon=True)
        self._threads[name] = stop, thread
        thread.start()

    def end(self, name: str) -> None:
        """End `uplink`, `ingest` or whatever name a worker has cleanly, wherever it runs."""
        if name in self._threads:
            stop, thread = self._threads.pop(name)
            stop.set()
            thread.join(10)
            assert not thread.is_alive(), f"{name} does not end"
        if name in self._children:
            self._child_end(name, signal.SIGTERM)

    # -- in processes: to be killed

    def uplink_process(self) -> None:
        """Start the uplink as systemd would."""
        self._child("uplink", "-m", "gated.uplink", "--config", str(self.toml))

    def ingest_process(self, name: str = "ingest", workers: int = 1) -> None:
        """Start HQ's ingest as systemd would."""
        Archive(self.hq_where).close()
        keys_of = self.folder / "keys"
        files = (
            "--db",
            self.hq_where,
            "--key",
            str(keys_of / "hq.key"),
            "--receipts-key",
            str(keys_of / "receipts.key"),
        )
        where = ("--host", "127.0.0.1", "--port", str(self.broker.port), "--plain", "--workers", str(workers))
        self._child(name, "-m", "gated.hq.cli", "ingest", *files, *where)

    def pid(self, name: str) -> int:
        """Of a child."""
        return self._children[name].pid

    def kill(self, name: str) -> None:
        """kill -9."""
        self._child_end(name, signal.SIGKILL)

    def _child(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def _child_end(self, name: str, number: signal.Signals) -> int:
        child = self._children.pop(name)
        child.send_signal(number)
        return child.wait(10)

    # -- looking

    def archive(self) -> Archive:
        """HQ's database, to look at."""
        return Archive(self.hq_where, read_only=True)

    def stored(self) -> int:
        """How many records HQ has."""
        if self.hq_where == str(self.hq_db) and not self.hq_db.exists():
            return 0
        archive = self.archive()
        try:
            return archive.counters().get("stored", 0)
        finally:
            archive.close()

    def acked(self) -> dict[str, int]:
        """How far HQ acknowledged, by uplink.db."""
        reader = AckedHeadsReader(self.folder / "uplink.db")
        try:
            return dict(reader.heads())
        finally:
            reader.close()

    def all_acked(self) -> bool:
        """Does uplink.db say that everything written is acknowledged?"""
        last = {record.stream_id: record.seq for record in self.lane.written}
        acked = self.acked()
        return all(acked.get(stream_id, 0) == seq for stream_id, seq in last.items())

    def at_hq(self) -> list[Record]:
        """Every record that HQ has."""
        archive = self.archive()
        try:
            return [record for _, record in archive.find({}, 1_000_000)]
        finally:
            archive.close()

    def assert_exactly_once(self) -> None:
        """HQ has what was written, all of it, nothing else, nothing twice, and every chain holds."""
        key: Callable[[Record], tuple[str, int]] = lambda r: (r.stream_id, r.seq)  # noqa: E731
        assert sorted(self.at_hq(), key=key) == sorted(self.lane.written, key=key)
        archive = self.archive()
        try:
            assert archive.broken() == []
            assert archive.refused() == [] and archive.holes() == []
        finally:
            archive.close()

    def close(self) -> None:
        """End everything that still runs."""
        for name in (*self._threads, *self._children):
            self.end(name)
        self.broker.kill()
        self.control.close()
        self.lane.close()
