"""Several lanes at one HQ, each in processes of its own: the daemon's writer, the uplink; a broker, HQ's ingest. And
somebody with every right on a lane's machine."""

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gated.hq import keys
from gated.hq.archive import Archive
from gated.store.acks import AckedHeadsReader
from gated.store.chain import ROW, link_of
from gated.wire.facts import Fact
from gated.wire.record import Head, Record
from tests.broker import RunningBroker
from tests.uplink_rig import SITE, eventually

READY_S = 60.0
ROWS_MIN = 40
CAP = "bytes_per_s_max = 2000\n"
"""So little that a lane which passengers walk through has a backlog, though HQ is there."""


class Lane:
    """A lane's folder and its two processes. Started by `Lanes.add`."""

    def __init__(self, lanes: "Lanes", name: str, options: str, rows: int) -> None:
        self.lanes, self.name, self.rows = lanes, name, rows
        self.store = lanes.folder / name
        self.store.mkdir()
        self.toml = lanes.folder / f"{name}.toml"
        at = lanes.folder / "keys"
        self.toml.write_text(
            f'[lane]\nid = "{name}"\nsite = "{SITE}"\n[store]\ndir = "{self.store}"\n'
            f'[keys]\ncache = "c"\njournal = "j"\nhq_public = "{at}/hq.pub"\norders_public = "{at}/orders.pub"\n'
            f'receipts_public = "{at}/receipts.pub"\n'
            f'[uplink]\nhost = "127.0.0.1"\nport = {lanes.port}\ntls = false\nretry_s_min = 0.1\nretry_s_max = 1.0\n'
            f'{options}[control]\nsocket = "{self.store}/control.sock"\n',
            encoding="utf-8",
        )
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def db(self) -> Path:
        return self.store / "lane.db"

    @property
    def uplink_db(self) -> Path:
        return self.store / "uplink.db"

    # -- its processes

    def start(self, *names: str) -> None:
        """Start `writer`, `uplink`, or both."""
        arguments = {
            "writer": ("tests.tamper_lane", str(self.toml), str(self.rows)),
            "uplink": ("gated.uplink", "--config", str(self.toml)),
        }
        for name in names or ("writer", "uplink"):
            self._children[name] = self.lanes.child(f"{self.name}-{name}", *arguments[name])
        self.rows = 0

    def end(self, *names: str, kill: bool = False) -> None:
        """End them, `kill`: as `kill -9` does."""
        for name in names or ("writer", "uplink"):
            child = self._children.pop(name, None)
            if child is not None:
                child.kill() if kill else child.terminate()
                child.wait(20)

    # -- looking

    def ask(self, question: str, *given: object) -> Any:
        """The first column of the first row."""
        with closing(sqlite3.connect(f"file:{self.db}?mode=ro", uri=True, timeout=10.0)) as sql:
            row = sql.execute(question, given).fetchone()
        return None if row is None else row[0]

    @property
    def journal_last(self) -> int:
        return int(self.ask("SELECT coalesce(max(id), 0) FROM journal"))

    def acked(self, stream: str) -> int:
        """What HQ acknowledged of the present chapter of a class, by uplink.db."""
        stream_id = self.ask("SELECT stream_id FROM streams WHERE stream = ?", stream)
        reader = AckedHeadsReader(self.uplink_db)
        try:
            return reader.heads().get(stream_id, 0)
        finally:
            reader.close()

    def first(self, stream: str) -> int:
        return int(self.ask("SELECT min(seq) FROM outbox WHERE stream = ?", stream) or 0)

    def last(self, stream: str) -> int:
        return int(self.ask("SELECT seq FROM streams WHERE stream = ?", stream) or 0)

    # -- what root does

    def root(self, *statements: str) -> None:
        """Write to lane.db beside the running lane, in one transaction."""
        with closing(sqlite3.connect(self.db, timeout=20.0, isolation_level=None)) as sql:
            sql.execute("BEGIN IMMEDIATE")
            changed = sum(max(0, sql.execute(statement).rowcount) for statement in statements)
            sql.execute("COMMIT")
        assert changed > 0, "the attack did nothing"

    def rechain(self, first: int, *statements: str) -> None:
        """Change the journal and make its open chain fit again from row `first` on, as who knows the program can."""
        with closing(sqlite3.connect(self.db, timeout=20.0, isolation_level=None)) as sql:
            sql.execute("BEGIN IMMEDIATE")
            for statement in statements:
                assert sql.execute(statement).rowcount > 0, "the attack did nothing"
            before = sql.execute("SELECT link FROM journal WHERE id = ?", (first - 1,)).fetchone()[0]
            rows = sql.execute(f"SELECT {ROW} FROM journal WHERE id >= ? ORDER BY id", (first,)).fetchall()
            for number, *values, _ in rows:
                before = link_of(before, *values)
                sql.execute("UPDATE journal SET link = ? WHERE id = ?", (before, number))
            sql.execute("COMMIT")

    def rewrite(self, stream: str, change: Callable[[Record], Record | Fact | None]) -> int:
        """Change, make anew (a fact) or leave out (None) what waits in a stream, and make numbers, chain, head and
        counts fit again, as who knows the program can. How many records are others than before."""
        acked = self.acked(stream)
        hq_public = (self.lanes.folder / "keys" / "hq.pub").read_bytes()
        with closing(sqlite3.connect(self.db, timeout=20.0, isolation_level=None)) as sql:
            sql.execute("BEGIN IMMEDIATE")
            rows = sql.execute(
                "SELECT payload FROM outbox WHERE stream = ? AND seq > ? ORDER BY seq", (stream, acked)
            ).fetchall()
            sql.execute("DELETE FROM outbox WHERE stream = ? AND seq > ?", (stream, acked))
            waiting = [Record.decode(payload) for (payload,) in rows]
            head, others = Head(self.name, waiting[0].stream_id, acked, waiting[0].prev), 0
            for was in waiting:
                made = change(was)
                others += made is not was
                if made is None:
                    continue
                if isinstance(made, Record):
                    record = replace(made, seq=head.seq + 1, prev=head.hash)
                else:
                    record = head.next(made, was.utc, was.boot, hq_public)
                head = Head(self.name, was.stream_id, record.seq, record.hash())
                sql.execute("INSERT INTO outbox VALUES (?, ?, ?)", (stream, record.seq, record.encode()))
            count = sql.execute("SELECT count(*) FROM outbox WHERE stream = ?", (stream,)).fetchone()[0]
            sql.execute(
                "UPDATE streams SET seq = ?, head = ?, rows = ? WHERE stream = ?", (head.seq, head.hash, count, stream)
            )
            sql.execute("COMMIT")
        return others

    def forge(self, fact: Fact) -> None:
        """Put a record behind the newest one, as the lane would have made it."""
        hq_public = (self.lanes.folder / "keys" / "hq.pub").read_bytes()
        with closing(sqlite3.connect(self.db, timeout=20.0, isolation_level=None)) as sql:
            sql.execute("BEGIN IMMEDIATE")
            where = "SELECT stream_id, seq, head FROM streams WHERE stream = ?"
            head = Head(self.name, *sql.execute(where, (fact.stream,)).fetchone())
            record = head.next(fact, datetime.now(UTC), "boot-1", hq_public)
            sql.execute("INSERT INTO outbox VALUES (?, ?, ?)", (fact.stream, record.seq, record.encode()))
            sql.execute(
                "UPDATE streams SET seq = ?, head = ?, rows = rows + 1 WHERE stream = ?",
                (record.seq, record.hash(), fact.stream),
            )
            sql.execute("COMMIT")

    def copied(self, to: Path) -> Path:
        """A copy of lane.db as it is now, while the lane writes on."""
        with closing(sqlite3.connect(self.db)) as source, closing(sqlite3.connect(to)) as target:
            source.backup(target)
        return to

    def put(self, copy: Path | None, name: str = "lane.db") -> None:
        """Put a file in the place of a database (None: nothing), its WAL thrown away."""
        for tail in ("-wal", "-shm"):
            self.store.joinpath(name + tail).unlink(missing_ok=True)
        if copy is None:
            self.store.joinpath(name).unlink()
        else:
            shutil.move(copy, self.store / name)


@dataclass(frozen=True, slots=True)
class Attack:
    """What root does to a lane, and which of HQ's findings may say so. `options`: for lane.toml."""

    name: str
    do: Callable[[Lane], None]
    codes: frozenset[str]
    options: str = ""
    rows: int = 0
    """Of the journal, before."""
    before: Callable[[Lane], None] = lambda lane: None


class Lanes:
    """Broker, HQ's ingest, and the lanes. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        keys.make(folder / "keys")
        self.broker = RunningBroker(folder / "broker", persistence=False)
        self.port = self.broker.port
        self.hq_db = folder / "hq.db"
        self.all: list[Lane] = []
        self.options: dict[str, str] = {}
        self._ingest: subprocess.Popen[bytes] | None = None
        self._others: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Lanes":
        self.broker.start()
        Archive(str(self.hq_db)).close()
        self.archive = Archive(str(self.hq_db), read_only=True)
        self.ingest()
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._others:
            if child.poll() is None:
                child.kill()
                child.wait(20)
        self.archive.close()
        self.broker.kill()

    def ingest(self) -> None:
        """Start HQ's ingest."""
        at = self.folder / "keys"
        files = ("--db", str(self.hq_db), "--key", str(at / "hq.key"), "--receipts-key", str(at / "receipts.key"))
        where = ("--host", "127.0.0.1", "--port", str(self.broker.port), "--plain")
        self._ingest = self.child("ingest", "gated.hq.cli", "ingest", *files, *where)

    def ingest_ends(self) -> None:
        assert self._ingest is not None
        self._ingest.kill()
        self._ingest.wait(20)

    def child(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start one of our modules. It ends with the rig."""
        with (self.folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen([sys.executable, "-m", *arguments], stdout=log, stderr=log)
        self._others.append(child)
        return child

    def add(self, name: str, options: str = "", rows: int = 0) -> Lane:
        """A lane that starts now."""
        self.options[name] = options
        self.all.append(lane := Lane(self, name, options, rows))
        lane.start()
        return lane

    # -- HQ's side

    def findings(self, lane: str) -> list[dict[str, Any]]:
        return [found for found in self.archive.findings() if found["lane"] == lane]

    def records(self, lane: str, kind: str) -> list[Record]:
        return [record for _, record in self.archive.find({"lane": lane, "kind": kind}, 100_000)]

    def anchored(self, lane: Lane) -> int:
        """The last row of a lane's journal that HQ was told of; 0 before that."""
        heads = [head for (_, name, _), head in self.archive.anchors().items() if name == lane.name]
        return max((head.last for head in heads), default=0)

    def integrity(self) -> tuple[int, list[dict[str, Any]]]:
        """What `gated-hq integrity --json` ends with and says."""
        asked = [sys.executable, "-m", "gated.hq.cli", "integrity", "--db", str(self.hq_db), "--json"]
        ran = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode in (0, 1), ran.stderr
        return ran.returncode, json.loads(ran.stdout)

    def ready(self, lane: Lane) -> bool:
        """Has HQ heard of its journal, and is there something of everything to be attacked?"""
        if not lane.db.exists() or not self.anchored(lane) or lane.journal_last < ROWS_MIN:
            return False
        acked, last = lane.acked("crossing"), lane.last("crossing")
        return acked - lane.first("crossing") >= 8 and (CAP not in self.options[lane.name] or last - acked >= 40)

    def attack(self, attacks: list[Attack], untouched: list[Lane], within_s: float) -> dict[str, float]:
        """Each attack on a lane of its own, at once, while all write on. Seconds until HQ said so, by name."""
        lanes = {each.name: self.add(f"lane-{n:02}", each.options, each.rows) for n, each in enumerate(attacks, 1)}
        eventually(lambda: all(map(self.ready, (*lanes.values(), *untouched))), READY_S, "every lane is well")
        assert self.archive.findings() == []
        began: dict[str, float] = {}
        failed: list[BaseException] = []

        def one(attack: Attack) -> None:
            lane = lanes[attack.name]
            try:
                attack.before(lane)
                assert self.findings(lane.name) == [], attack.name
                began[attack.name] = time.monotonic()
                attack.do(lane)
            except BaseException as bad:  # noqa: BLE001  # told in the test's own thread
                failed.append(bad)

        threads = [threading.Thread(target=one, args=(each,)) for each in attacks]
        for thread in threads:
            thread.start()
        seen: dict[str, float] = {}
        while len(seen) < len(attacks) and not failed:
            for each in attacks:
                codes = {found["code"] for found in self.findings(lanes[each.name].name)}
                if each.name not in seen and codes & each.codes:
                    seen[each.name] = time.monotonic() - began[each.name]
            late = [n for n, at in began.items() if n not in seen and time.monotonic() - at > within_s]
            if late:
                break
            time.sleep(0.2)
        for thread in threads:
            thread.join(60)
        if failed:
            raise failed[0]
        return seen

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-3000:]
