"""A lane's writing process in a storm: `python -m tests.hw_sim.storm_lane FOLDER LANE HQ_PUB TRUTH PAUSE_S`.

The real outbox with its real transactions, as `gated.daemon.writer` uses it; made to be killed at any moment. What it
has committed it notes in TRUTH, which lies on another disk than lane.db. A full disk is waited out."""

import json
import signal
import socketserver
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from gated import control
from gated.store.acks import AckedHeadsReader
from gated.store.db import LaneDb
from gated.store.outbox import Outbox
from gated.store.sql import StoreError
from gated.wire.facts import AlarmRaised, Fact, Holder, LaneChanged, TicketSettled, VerdictReached
from gated.wire.record import Record

TRIM_EVERY_S = 1.0
CHAPTER_FROM = 100
"""So many waiting records are a backlog: less than a lane's own number, so that a storm has many chapters."""


class Neighbour:
    """The daemon's end of the control socket: which run it is, and whether HQ can be reached."""

    def __init__(self, path: Path, boot: str) -> None:
        path.unlink(missing_ok=True)
        self.returned = threading.Event()
        self._up = False
        neighbour = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline()
                if line:
                    neighbour.heard(control.decode(line))
                    self.wfile.write(json.dumps({"ok": True, "answer": {"boot": boot}}).encode() + b"\n")

        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def heard(self, request: control.Request) -> None:
        if isinstance(request, control.UplinkState):
            if request.up and not self._up:
                self.returned.set()
            self._up = request.up


class StormLane:
    """Writes until it is asked to end."""

    def __init__(self, folder: Path, lane: str, hq_public: bytes, truth: Path) -> None:
        now = datetime.now(UTC)
        self._boot = f"boot-{now:%H%M%S%f}"
        self.db = LaneDb.opened(folder / "lane.db", now)
        if self.db.set_aside is not None:
            print(f"SET ASIDE {self.db.set_aside}", flush=True)  # the storm fails where it reads this
        self.outbox = Outbox(self.db, lane, self._boot, hq_public)
        self._truth = truth.open("a", encoding="utf-8")
        self._acked = AckedHeadsReader(folder / "uplink.db")
        self._neighbour = Neighbour(folder / "control.sock", self._boot)
        self._dice = Random(self._boot)
        self._trimmed_mono = 0.0

    def run(self, stop: threading.Event, pause_s: float) -> None:
        for ticket in self._tried(self.db.unsettled):
            self.say(TicketSettled(ticket, "unresolved"))
        ticket = self.db.next_ticket
        while not stop.wait(self._dice.uniform(0, 2 * pause_s)):
            self.say(LaneChanged("checking"), _verdict(ticket))
            self.say(TicketSettled(ticket, "crossed", 1))
            if self._dice.random() < 0.3:
                self.say(AlarmRaised("help", "", ticket))
            ticket += 1
            self._care()

    def say(self, *facts: Fact) -> None:
        """Write facts in one durable transaction, however long that takes."""

        def write() -> list[Record]:
            with self.db.transaction():
                return [self.outbox.append(fact, datetime.now(UTC)) for fact in facts]

        for record in self._tried(write):
            self._truth.write(f"{record.stream_id} {record.seq} {record.hash().hex()}\n")
        self._truth.flush()

    def _care(self) -> None:
        """Trim what HQ has, and begin chapters after an outage, as the daemon's writer does."""
        if time.monotonic() - self._trimmed_mono < TRIM_EVERY_S:
            return
        self._trimmed_mono = time.monotonic()
        try:
            acked = self._acked.heads()
            with self.db.transaction():
                self.outbox.trim(acked)
            if self._neighbour.returned.is_set():
                with self.db.transaction():
                    begun = self.outbox.begin_chapters(datetime.now(UTC), CHAPTER_FROM)
                self._neighbour.returned.clear()
                for _ in begun:
                    print("chapter", flush=True)
        except StoreError:
            pass  # a full disk: tried again in a second

    def _tried(self, work: Any) -> Any:
        while True:
            try:
                return work()
            except StoreError as bad:
                print(f"refused {bad.why}", flush=True)
                time.sleep(0.2)


def _verdict(ticket: int) -> VerdictReached:
    holder = Holder(document_type="TD3", number=f"X{ticket}", surname="LIN", given_names="MEI")
    return VerdictReached(ticket, "grant", "matched", "r1", "entry", "A", holder=holder)


def main() -> int:
    """Until SIGTERM."""
    folder, lane, hq_public, truth, pause_s = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    while True:
        try:
            made = StormLane(Path(folder), lane, Path(hq_public).read_bytes(), Path(truth))
            break
        except StoreError as bad:  # the disk is full at the start too
            print(f"not opened {bad.why}", flush=True)
            if stop.wait(0.3):
                return 0
    made.run(stop, float(pause_s))
    made.db.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
