"""HQ for a fleet, all real: the production broker, ingest workers, a database; what they use, and what they have."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import distinct, func, select

from gated.hq import keys
from gated.hq.archive import Archive
from gated.hq.database import engine_of
from gated.hq.tables import records
from tests.broker import Pki, ProductionBroker
from tests.hw_sim.crew import Crew, CrewError

TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
READY_S: Final = 30.0
END_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Used:
    """What a part used: CPU seconds since its start, resident memory now; `each` of its processes by pid."""

    cpu_s: float
    rss_mb: float
    each: Mapping[int, tuple[float, float]]


class Meters:
    """CPU and memory of process trees, by name. The kernel counts: /proc/PID/stat and statm."""

    def __init__(self) -> None:
        self._roots: dict[str, list[int]] = {}
        self._past_s: dict[str, float] = {}

    def add(self, name: str, pid: int) -> None:
        """A further process of a part; its children count with it."""
        self._roots.setdefault(name, []).append(pid)

    def renew(self, name: str) -> None:
        """The processes of a part will be killed: what they used is kept, and others come by `add`."""
        self._past_s[name] = self.read()[name].cpu_s
        self._roots[name] = []

    def read(self) -> dict[str, Used]:
        """All parts."""
        found = _processes()
        children: dict[int, list[int]] = {}
        for pid, (parent, _, _) in found.items():
            children.setdefault(parent, []).append(pid)
        return {name: self._used(name, found, children) for name in self._roots}

    def _used(self, name: str, found: Mapping[int, tuple[int, float, float]], children: dict[int, list[int]]) -> Used:
        todo, each = list(self._roots[name]), {}
        while todo:
            pid = todo.pop()
            if pid in found:
                _, cpu_s, rss_mb = found[pid]
                each[pid] = cpu_s, rss_mb
                todo += children.get(pid, ())
        cpu_s = self._past_s.get(name, 0.0) + sum(used for used, _ in each.values())
        return Used(cpu_s, sum(rss for _, rss in each.values()), each)


def _processes() -> dict[int, tuple[int, float, float]]:
    """pid -> (parent, CPU s of it and of its ended children, resident MB)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            pages = int((entry / "statm").read_text().split()[1])
        except OSError:
            continue  # ended while we looked
        found[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15])) / TICKS, pages * PAGE / 1e6
    return found


class Headquarters:
    """Context manager. Made in two steps, so that lanes' processes can be forked between keys and threads."""

    def __init__(self, folder: Path) -> None:
        keys.make(folder / "keys")
        self.folder, self.pki = folder, Pki(folder / "pki")
        folder.chmod(0o755)
        self.broker = ProductionBroker(folder / "broker", self.pki)
        self.meters = Meters()
        self.url = ""
        self._crew = Crew(folder / "logs", END_S)
        self._ends = ExitStack()

    def __enter__(self) -> "Headquarters":
        return self

    def __exit__(self, *_: object) -> None:
        with self._ends:
            self._crew.__exit__()
            self.broker.kill()

    def start(self, db: str, workers: int) -> None:
        """`db`: sqlite, postgresql (a server of our own), or a URL. Raises `CrewError`."""
        self.url = self._database(db)
        self._start_broker()
        as_ = self.broker.as_("hq-ingest")
        files = {"--db": self.url, "--key": self.folder / "keys/hq.key"}
        files |= {"--receipts-key": self.folder / "keys/receipts.key", "--workers": workers}
        where = {"--host": as_.host, "--port": as_.port, "--ca": as_.ca}
        where |= {"--certificate": as_.certificate, "--certificate-key": as_.key}
        options = [str(each) for pair in (files | where).items() for each in pair]
        self.meters.add("ingest", self._crew.python("ingest", "gated.hq.cli", "ingest", *options).pid)
        log = self.folder / "logs/ingest.log"
        self._crew.wait("ingest", lambda: log.read_text().count('"connected"') >= workers, READY_S)

    def restart_broker(self) -> None:
        """kill -9, and start it again: it has no memory."""
        self.meters.renew("broker")
        self.broker.kill()
        self._start_broker()

    def check(self) -> None:
        """Raises `CrewError` where ingest ended."""
        self._crew.check()

    def _start_broker(self) -> None:
        self.broker.start()
        self.meters.add("broker", self.broker.pid)

    def _database(self, db: str) -> str:
        url = db
        if db == "sqlite":
            url = str(self.folder / "hq.db")
        elif db == "postgresql":
            from tests.postgres import RunningPostgres

            server = self._ends.enter_context(RunningPostgres(self.folder / "database", fsync=True))
            pid_file = server.folder / "data" / "postmaster.pid"
            self.meters.add("postgresql", int(pid_file.read_text().split()[0]))
            url = server.url
        Archive(url).close()
        return url

    def settled(self, within_s: float) -> None:
        """Wait until nothing is held for want of those before it, or the time is over."""
        until = time.monotonic() + within_s
        archive = Archive(self.url, read_only=True)
        try:
            while archive.held() and time.monotonic() < until:
                time.sleep(0.2)
        finally:
            archive.close()


# -- what HQ has -----------------------------------------------------------------------------------------------------


def compared(where: str, made: Mapping[tuple[str, str], tuple[int, bytes]]) -> dict[str, Any]:
    """`where`: HQ's records, path or URL. `made`: (lane, stream id) -> number and hash of the last record made. What HQ
    lacks, has too often, or has otherwise than it was made."""
    engine = engine_of(where, read_only=True)
    each = (records.c.lane, records.c.stream_id)
    counts = (func.count(), func.count(distinct(records.c.seq)), func.min(records.c.seq), func.max(records.c.seq))
    with engine.connect() as sql:
        rows = sql.execute(select(*each, *counts).group_by(*each)).all()
    engine.dispose()
    have = {(lane, stream_id): tuple(rest) for lane, stream_id, *rest in rows}
    wrong = [f"{lane} {stream_id}: never made" for lane, stream_id in have.keys() - made.keys()]
    lost = doubled = 0
    archive = Archive(where, read_only=True)
    try:
        for (lane, stream_id), (seq, digest) in made.items():
            count, different, first, last = have.get((lane, stream_id), (0, 0, 1, 0))
            lost += max(0, seq - different)
            doubled += count - different
            if (first, last) != (1, seq):
                wrong.append(f"{lane} {stream_id}: {first} to {last} at HQ, 1 to {seq} made")
            elif seq and archive.head(lane, stream_id).hash != digest:
                wrong.append(f"{lane} {stream_id}: another chain than the lane's")
        wrong += archive.broken()
        wrong += [f"held, not taken in: {row}" for row in archive.held()]
        wrong += [f"set aside: {row}" for row in archive.refused()] + [f"hole: {row}" for row in archive.holes()]
        wrong += [f"finding: {row}" for row in archive.findings()]
        counters = archive.counters()
        resent = sum(lane["telemetry"].get("resent", 0) for lane in archive.lanes())
    finally:
        archive.close()
    at_hq = sum(count for count, *_ in have.values())
    dropped = counters.get("duplicates", 0)
    return {
        "at_hq": at_hq, "lost": lost, "doubled": doubled, "wrong": wrong, "duplicates_dropped": dropped,
        "resent_told": resent,
    }  # fmt: skip


def delays_s(where: str) -> list[float]:
    """From a record's making, by its lane's clock, until HQ took it in, just before the commit."""
    engine = engine_of(where, read_only=True)
    try:
        with engine.connect() as sql:
            rows = sql.execute(select(records.c.utc, records.c.received))
            return [(received - utc).total_seconds() for utc, received in rows]
    finally:
        engine.dispose()


def work_folder() -> Path:
    """A folder of this run alone."""
    return Path(tempfile.mkdtemp(prefix="fleet-"))


def say(text: str) -> None:
    """How far it is, for whoever waits; not part of the result."""
    print(text, file=sys.stderr, flush=True)


def until(true: Callable[[], bool], within_s: float, what: str, look: Callable[[], None]) -> float:
    """Wait; how long it took. Raises `CrewError` after `within_s`, or what `look` raises."""
    began = time.monotonic()
    while not true():
        look()
        if time.monotonic() - began > within_s:
            raise CrewError(f"not within {within_s:g} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - began
