"""The two ends of the protocol's simulation: a lane with its uplink, and HQ with its workers, on real databases."""

import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import text

from gated.control import RelayOrder, Status, UplinkState
from gated.hq.archive import Archive, ArchiveError, Intake
from gated.hq.ingest import Ingest
from gated.hq.keeping import hash_of
from gated.mqtt import Broker
from gated.store.acks import AckedHeads, AckedHeadsReader
from gated.store.db import LaneDb
from gated.store.flight import Flights
from gated.store.outbox import Outbox, OutboxFull, OutboxReader
from gated.store.sql import StoreError
from gated.store.witness import Witness
from gated.uplink.brokers import Brokers
from gated.uplink.cap import Cap
from gated.uplink.daemon import Daemon
from gated.uplink.line import Pace, Uplink
from gated.wire.codec import WireError
from gated.wire.facts import (
    AlarmRaised,
    AttachmentPart,
    Fact,
    LaneChanged,
    RecordsDropped,
    TicketSettled,
    VerdictReached,
)
from gated.wire.record import Record, generation_of
from tests.hw_sim.protocol_sky import Clock, Sky, Wire

SITE, LANE = "tpe-t1", "lane-07"
PRIVATE = bytes(range(32))
BROKER = Broker("broker", 1883, tls=False)
Key = tuple[str, int]
"""Stream id and number."""


def copied(path: Path) -> Path:
    """A copy of a database beside it."""
    copy = path.with_suffix(".copy")
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def removed(path: Path) -> None:
    """Take a database away. Nobody may have it open for writing."""
    for tail in ("", "-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)


class Killed(Exception):
    """The lane's process ended between two statements."""


class Control:
    """The lane's control socket, as the uplink's `Daemon` asks it."""

    def __init__(self, lane: "Lane") -> None:
        self._lane, self._up = lane, False

    def ask(self, request: Status | UplinkState | RelayOrder) -> dict[str, Any]:
        if isinstance(request, UplinkState):
            self._lane.catch_up |= request.up and not self._up
            self._up = request.up
            return {}
        return {"boot": self._lane.boot, "versions": {}}


class Lane:
    """The lane's process and its uplink's. What it ever committed is in `made`: (stream id, number) -> hashes, the last
    one what is true now."""

    def __init__(self, folder: Path, dice: Random, clock: Clock, bytes_max: int, window: int, public: bytes) -> None:
        self.path, self.dice, self.clock = folder / "lane.db", dice, clock
        self._bytes_max, self._window, self._public = bytes_max, window, public
        self._backlog_min = dice.choice((1, 5))
        self._generations = self._boots = self._tickets = 0
        self.made: dict[Key, list[bytes]] = {}
        self.kinds: dict[bytes, str] = {}
        self.ends: dict[str, int] = {}
        """Stream id -> last number, of every stream there ever was, as it is now."""
        self.lost: set[str] = set()
        """Streams of databases that were given up with what lay in them."""
        self.dropped: set[Key] = set()
        self.catch_up = False
        self._stale: Mapping[str, int] = {}
        self.copy: Path | None = None
        self._heads = AckedHeadsReader(folder / "uplink.db")
        self.db: LaneDb | None = None
        self.start()
        self.start_uplink()

    # -- the lane's process

    def _name(self) -> str:
        self._generations += 1
        return f"gen{self._generations:04}"

    def start(self) -> None:
        self._boots += 1
        self.boot = f"boot-{self._boots}"
        self.db = LaneDb.opened(self.path, self.clock.utc(), self._heads.heads(), generation=self._name)
        self.outbox = Outbox(self.db, LANE, self.boot, bytes(32), bytes_max=self._bytes_max)
        self._tickets = max(self._tickets, self.db.next_ticket)
        self.see()
        with self.db.transaction():
            for ticket in self.db.unsettled():
                self.outbox.append(TicketSettled(ticket, "unresolved"), self.clock.utc())
        self.see()

    def stop(self) -> None:
        if self.db is not None:
            self.db.close()
        self.db = None

    def write(self, count: int, kill_after: int = 0) -> None:
        """Some facts in one transaction, as the lane's writer makes it. `kill_after`: steps of SQLite's machine, then
        the process is killed."""
        assert self.db is not None
        facts = [fact for _ in range(count) for fact in self._facts()]
        connection = self.db.sql.conn
        if kill_after:
            connection.set_progress_handler(lambda: 1, kill_after)
        try:
            with self.db.transaction():
                if self.catch_up and not self.db.unsettled():
                    self._begin_chapters()
                for fact in facts:
                    with suppress(OutboxFull):  # the lane refers its passenger; nothing of the record is kept
                        self.outbox.append(fact, self.clock.utc())
        except StoreError as bad:
            if not kill_after:
                raise
            connection.set_progress_handler(None, 0)
            self.stop()
            raise Killed from bad
        finally:
            if self.db is not None:
                connection.set_progress_handler(None, 0)
        self.see()

    def _begin_chapters(self) -> None:
        assert self.db is not None
        try:
            self.outbox.begin_chapters(self.clock.utc(), self._backlog_min, self._heads.heads())
        except OutboxFull:
            return  # the writer tries again at its next commit
        self.db.on_commit(self._caught_up)

    def _caught_up(self) -> None:
        self.catch_up = False

    def _facts(self) -> Iterator[Fact]:
        which = self.dice.random()
        if which < 0.3:
            yield LaneChanged("checking" * self.dice.randint(1, 6))
        elif which < 0.45:
            yield AlarmRaised("help")
        elif which < 0.85:
            assert self.db is not None
            ticket, self._tickets = self._tickets, self._tickets + 1
            yield VerdictReached(
                ticket=ticket, decision="grant", reason="matched", rules="r1", direction="entry", came_from="A"
            )
            if self.dice.random() < 0.9 or self.db.unsettled():
                yield from (TicketSettled(each, "crossed", 1) for each in (*self.db.unsettled(), ticket))
        else:
            ticket, parts = max(1, self._tickets - 1), self.dice.randint(1, 4)
            for part in range(1, parts + 1):
                name = f"{ticket}-case"
                yield AttachmentPart(ticket, name, "case_picture", "image/jpeg", part, parts, 400, 30, bytes(200))

    def trim(self, stale: bool) -> set[Key]:
        """Delete what HQ has acknowledged, by uplink.db as it is or (`stale`) as it was the last time. Returns what
        went."""
        assert self.db is not None
        acked = self._stale if stale else self._heads.heads()
        self._stale = self._heads.heads()
        before = set(self.rows())
        with self.db.transaction():
            self.outbox.trim(acked)
        return before - set(self.rows())

    def forget_heads(self) -> None:
        """uplink.db is a new one: no trim takes as long as that."""
        self._stale = {}

    def rows(self) -> dict[Key, bytes]:
        """What lies in the outbox: payload by stream id and number."""
        with closing(sqlite3.connect(self.path)) as sql:
            found = sql.execute("SELECT stream_id, o.seq, payload FROM outbox AS o JOIN streams USING (stream)")
            return {(stream_id, seq): payload for stream_id, seq, payload in found.fetchall()}

    def see(self) -> None:
        """Remember what was committed."""
        assert self.db is not None
        for key, payload in self.rows().items():
            mark, known = hash_of(payload), self.made.setdefault(key, [])
            if not known or known[-1] != mark:
                known.append(mark)
            if mark not in self.kinds:
                try:
                    record = Record.decode(payload)
                except WireError:
                    self.kinds[mark] = "unreadable"
                    continue
                self.kinds[mark] = record.kind
                if record.kind == RecordsDropped.__name__:
                    told = record.fact(None)
                    self.dropped |= {(record.stream_id, seq) for seq in range(told.first, told.last + 1)}
        self.ends |= dict(self.db.sql.execute("SELECT stream_id, seq FROM streams").fetchall())

    # -- what happens to its database

    def copied(self) -> None:
        """Somebody takes a copy of lane.db."""
        self.copy = copied(self.path)

    def put_back(self) -> None:
        """Somebody puts the copy in the place of lane.db, and the lane starts on it."""
        assert self.copy is not None
        self.stop()
        removed(self.path)
        shutil.copyfile(self.copy, self.path)
        with closing(sqlite3.connect(self.path)) as sql:
            back = dict(sql.execute("SELECT stream_id, seq FROM streams").fetchall())
            generation = sql.execute("SELECT value FROM notes WHERE name = 'generation'").fetchone()[0]
        for stream_id in [each for each in self.ends if generation_of(each) == generation]:
            self.ends[stream_id] = back.get(stream_id, 0)
        self.start()

    def tamper(self, statement: str, keys: Sequence[Key], other: bytes = b"") -> None:
        """Somebody is at lane.db with a program of his own. `statement`: with the stream's key and the number, and
        `other` first where it has a third place."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as sql:
            for stream_id, seq in keys:
                row = sql.execute("SELECT stream FROM streams WHERE stream_id = ?", (stream_id,)).fetchone()
                sql.execute(statement, (*([other] if other else []), row[0], seq))

    def write_each(self) -> None:
        """One record of every class."""
        assert self.db is not None
        with self.db.transaction():
            for ticket in self.db.unsettled():
                self.outbox.append(TicketSettled(ticket, "crossed", 1), self.clock.utc())
            ticket, self._tickets = self._tickets, self._tickets + 1
            part = AttachmentPart(ticket, f"{ticket}-case", "case_picture", "image/jpeg", 1, 1, 400, 30, bytes(200))
            for fact in (LaneChanged("open"), AlarmRaised("help"), TicketSettled(ticket, "crossed", 1), part):
                with suppress(OutboxFull):  # what waits makes room later
                    self.outbox.append(fact, self.clock.utc())
        self.see()

    # -- the uplink's process

    def start_uplink(self) -> None:
        acked = AckedHeads.renewed(self.path.with_name("uplink.db"))
        self.flights = Flights(OutboxReader(self.path), acked, self._window)
        self.witness = Witness(self.path, journal_days=30, journal_rows_max=1000)
        daemon = Daemon(Control(self))  # type: ignore[arg-type]  # the lane's process without its socket
        brokers = Brokers([BROKER], 0.5, 5.0)
        self.uplink = Uplink(
            SITE, LANE, brokers, self.flights, self.witness, (self._public,), daemon, Cap(0, 0), Pace()
        )

    def stop_uplink(self, sky: Sky, gently: bool) -> None:
        if gently:
            self.uplink._goodbye()
        elif sky.lane is not None:
            sky.gone(sky.lane, will=True)
        self.flights.close()
        self.witness.close()

    def close(self, sky: Sky) -> None:
        """Everything that is open."""
        self.stop_uplink(sky, gently=False)
        self._heads.close()
        self.stop()


class Shaky(Archive):
    """HQ's archive on a disk that may fail. `away`: it takes nothing. `fails`: the chance of a commit to fail."""

    away = False
    fails = 0.0
    dice: Random

    @contextmanager
    def batch(self) -> Iterator[Intake]:
        if self.away:
            raise ArchiveError("away, as the simulation wants it")
        with super().batch() as intake:
            yield intake
            if self.fails and self.dice.random() < self.fails:
                raise ArchiveError("full, as the simulation wants it")


class Hq:
    """HQ's database and its workers. `had`: every record that was ever committed, also by a database that was given up
    for an older copy."""

    def __init__(self, path: Path, sky: Sky, dice: Random, workers: int, receipts_key: bytes) -> None:
        self.path, self._sky, self._dice, self._key = path, sky, dice, receipts_key
        self.archive = Shaky(path)
        self.archive.dice = dice
        self._rows = 0
        self.had: dict[Key, set[bytes]] = {}
        self.heads: dict[str, int] = {}
        """The highest number that was ever passed in each stream."""
        self.copy: Path | None = None
        self.workers = [self._worker() for _ in range(workers)]

    def _worker(self) -> Ingest:
        return Ingest(self.archive, PRIVATE, self._key, BROKER, pulse=lambda _: None)

    def wire(self, worker: Ingest) -> Wire | None:
        """The worker's connection."""
        found: Any = worker._session
        return found if found is not None and found.alive else None

    def turn(self, worker: Ingest, count: int) -> None:
        """The worker takes in up to `count` of its messages."""
        wire = self.wire(worker)
        for _ in range(min(count, len(wire.waiting)) if wire else 0):
            assert wire is not None
            wire.inbox.put(wire.waiting.popleft())
        worker.turn(0.0)
        self.look()

    def killed(self, worker: Ingest) -> None:
        """kill -9, and another one starts; receipts that it sent may still arrive."""
        wire = self.wire(worker)
        if wire is not None:
            self._sky.gone(wire, will=False)
        self.workers[self.workers.index(worker)] = self._worker()

    def look(self) -> list[tuple[Key, bytes]]:
        """What was committed since the last look."""
        with self.archive.engine.connect() as sql:
            rows = sql.execute(
                text("SELECT rowid, stream_id, seq, hash FROM records WHERE rowid > :n ORDER BY rowid"),
                {"n": self._rows},
            ).all()
            heads = sql.execute(text("SELECT stream_id, seq FROM streams")).all()
        new = []
        for number, stream_id, seq, mark in rows:
            self._rows = number
            self.had.setdefault((stream_id, seq), set()).add(mark)
            new.append(((stream_id, seq), mark))
        for stream_id, seq in heads:
            self.heads[stream_id] = max(seq, self.heads.get(stream_id, 0))
        return new

    def stored(self) -> set[Key]:
        """What HQ has now, or knows that it goes without."""
        with self.archive.engine.connect() as sql:
            found = {(row[0], row[1]) for row in sql.execute(text("SELECT stream_id, seq FROM records"))}
            for stream_id, first, last in sql.execute(text("SELECT stream_id, first, last FROM holes")):
                found |= {(stream_id, seq) for seq in range(first, last + 1)}
        return found

    def copied(self) -> None:
        """HQ's backup."""
        self.copy = copied(self.path)

    def put_back(self) -> None:
        """The backup becomes HQ's database again."""
        assert self.copy is not None
        self.archive.engine.dispose()
        removed(self.path)
        shutil.copyfile(self.copy, self.path)
        with closing(sqlite3.connect(self.path)) as sql:
            self._rows = sql.execute("SELECT coalesce(max(rowid), 0) FROM records").fetchone()[0]

    def close(self) -> None:
        """Every connection."""
        self.archive.close()
