"""What a storm blows at: lanes with their uplinks, two brokers, ingest workers, a database, and the lines between."""

import contextlib
import os
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from gated.hq import keys
from gated.hq.archive import Archive, ArchiveError
from gated.store.acks import AckedHeadsReader
from gated.store.sql import StoreError
from gated.wire.facts import StreamContinued
from tests.hw_sim.crew import TEMPLATE, Crew, CrewError, free_port, listens, mosquitto
from tests.hw_sim.proxy import FaultProxy
from tests.postgres import RunningPostgres

SITE: Final = "tpe-t1"
LANE_DISK_MB: Final = 48
DATABASE_DISK_MB: Final = 900
PAUSE_S: Final = 0.15
"""Between two passengers of a lane."""


class StormRig:
    """Context manager. `lines`: name -> proxy. `small_disks`: could they be mounted?"""

    def __init__(self, folder: Path, crew: Crew, lanes: int, db: str, workers: int) -> None:
        self.folder, self.crew = folder, crew
        self.lanes = [f"lane-{number:02}" for number in range(1, lanes + 1)]
        self.brokers = ["broker-a", "broker-b"]
        self.workers = [f"ingest-{side}{number}" for side in "ab" for number in range(1, workers + 1)]
        self.lines: dict[str, FaultProxy] = {}
        self.postgres: RunningPostgres | None = None
        self.small_disks = True
        self._db, self._ends = db, ExitStack()
        self._ports: dict[str, int] = {}

    def __enter__(self) -> "StormRig":
        try:
            self._build()
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.crew.processes):
            self.crew.end(name)
        self._ends.close()

    # -- building

    def _build(self) -> None:
        keys.make(self.folder / "keys")
        for path in (self.folder, self.folder / "keys"):
            path.chmod(0o755)
        for name in self.brokers:
            self._broker(name)
        self.url = self._database()
        for side, broker in zip("ab", self.brokers, strict=True):
            self._line(f"hq-{broker}", self._ports[broker])
            for name in (each for each in self.workers if each.startswith(f"ingest-{side}")):
                self._worker(name, broker)
        for name in self.lanes:
            self._lane(name)

    def _disk(self, path: Path, size_mb: int) -> Path:
        """A folder on a small disk of its own, where that can be."""
        path.mkdir(parents=True)
        if self.small_disks:
            made = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "tmpfs", str(path)],
                capture_output=True,
                check=False,
            )
            self.small_disks = made.returncode == 0
            if self.small_disks:
                self._ends.callback(subprocess.run, ["umount", "--lazy", str(path)], check=False)
        return path

    def _line(self, name: str, port: int) -> FaultProxy:
        self.lines[name] = self._ends.enter_context(FaultProxy(port))
        return self.lines[name]

    def _broker(self, name: str) -> None:
        folder, port = self.folder / name, free_port()
        folder.mkdir()
        text = TEMPLATE.read_text(encoding="utf-8").format(port=port, dir=folder, persistence="false")
        text += "\nuser root\n" if os.geteuid() == 0 else ""
        (folder / "mosquitto.conf").write_text(text, encoding="utf-8")
        self.crew.start(name, [mosquitto(), "-c", str(folder / "mosquitto.conf")])
        self.crew.wait(name, lambda: listens(port), 5.0)
        self._ports[name] = port

    def _database(self) -> str:
        disk = self._disk(self.folder / "database", DATABASE_DISK_MB)
        if self._db == "sqlite":
            self._disks = {"hq": disk}
            Archive(disk / "hq.db").close()
            return str(disk / "hq.db")
        self._disks = {"database": disk}
        self.postgres = self._ends.enter_context(RunningPostgres(disk / "data"))
        Archive(self.postgres.url).close()
        return self.postgres.url

    def database_again(self) -> None:
        """Start the database that was killed or stopped."""
        assert self.postgres is not None
        self.postgres.start()

    def _worker(self, name: str, broker: str) -> None:
        files = (
            "--key",
            str(self.folder / "keys" / "hq.key"),
            "--receipts-key",
            str(self.folder / "keys" / "receipts.key"),
        )
        where = ("--host", "127.0.0.1", "--port", str(self.lines[f"hq-{broker}"].port), "--plain")
        self.crew.python(name, "gated.hq.cli", "ingest", "--db", self.url, *files, *where)

    def _lane(self, name: str) -> None:
        folder = self._disk(self.folder / name, LANE_DISK_MB)
        self._disks[name] = folder
        first, second = (self._line(f"{name}-{broker}", self._ports[broker]) for broker in self.brokers)
        trust = self.folder / "keys"
        (self.folder / f"{name}.toml").write_text(
            f'[lane]\nid = "{name}"\nsite = "{SITE}"\n[store]\ndir = "{folder}"\n'
            f'[keys]\ncache = "c"\njournal = "j"\nhq_public = "{trust}/hq.pub"\norders_public = "{trust}/orders.pub"\n'
            f'receipts_public = "{trust}/receipts.pub"\n'
            f'[uplink]\nhost = "127.0.0.1"\nport = {first.port}\ntls = false\nfallback = ["127.0.0.1:{second.port}"]\n'
            "heartbeat_s = 1.0\nack_s_max = 2.0\nretry_s_min = 0.1\nretry_s_max = 1.0\nkeep_alive_s = 5\n"
            "connect_s_max = 3.0\n"
            f'[control]\nsocket = "{folder}/control.sock"\n',
            encoding="utf-8",
        )
        truth = str(self.folder / f"{name}.truth")
        here = (str(folder), name, str(trust / "hq.pub"), truth, str(PAUSE_S))
        self.crew.python(name, "tests.hw_sim.storm_lane", *here)
        self.crew.python(f"{name}-uplink", "gated.uplink", "--config", str(self.folder / f"{name}.toml"))

    # -- while it blows

    def fill(self, victim: str) -> Callable[[], None]:
        """Fill the disk of a lane or of the database; what is returned makes room again."""
        ballast = self._disks[victim] / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 18)):
                pass

        def heal() -> None:
            ballast.unlink(missing_ok=True)
            if self.postgres is not None and victim == "database":
                self.postgres.stop()  # a server that could not write its log ends itself, or half of it
                self.postgres.start()

        return heal

    def committed(self) -> int:
        """Records that lanes noted as committed."""
        return sum(path.read_bytes().count(b"\n") for path in self.folder.glob("*.truth"))

    # -- afterwards

    def calm(self) -> None:
        """Everything runs, and lanes write no more."""
        for name in self.lanes:
            self.crew.end(name)

    def settle(self, within_s: float) -> float | None:
        """Wait until HQ has acknowledged everything. Seconds; None where that does not happen."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            with contextlib.suppress(StoreError, sqlite3.Error):
                if all(self._all_acked(name) for name in self.lanes):
                    return round(time.monotonic() - began, 1)
            time.sleep(0.5)
        return None

    def _all_acked(self, lane: str) -> bool:
        reader = AckedHeadsReader(self._disks[lane] / "uplink.db")
        try:
            acked = reader.heads()
        finally:
            reader.close()
        return all(acked.get(stream_id, 0) >= seq for stream_id, seq, _ in self._streams(lane))

    def _streams(self, lane: str) -> list[tuple[str, int, bytes]]:
        with contextlib.closing(sqlite3.connect(f"file:{self._disks[lane]}/lane.db?mode=ro", uri=True)) as db:
            return db.execute("SELECT stream_id, seq, head FROM streams WHERE seq > 0").fetchall()

    def compare(self) -> dict[str, Any]:
        """HQ's archive beside what lanes committed."""
        try:
            archive = Archive(self.url, read_only=True)
        except ArchiveError as bad:
            raise CrewError(f"HQ's database cannot be read afterwards: {bad}") from None
        try:
            return self._compared(archive)
        finally:
            archive.close()

    def _compared(self, archive: Archive) -> dict[str, Any]:
        wrong: list[str] = list(archive.broken())
        lost = doubled = out_of_order = chapters = 0
        at_hq = {(s["lane"], s["stream_id"]): s["seq"] for s in archive.streams()}
        stored: Counter[tuple[str, str]] = Counter()
        for lane in self.lanes:
            hashes: dict[tuple[str, int], str] = {}
            for stream_id in [i for name, i in at_hq if name == lane]:
                seen = 0
                for record in self._all(archive, lane, stream_id):
                    stored[lane, stream_id] += 1
                    doubled += (stream_id, record.seq) in hashes
                    out_of_order += record.seq != seen + 1
                    seen = record.seq
                    hashes[stream_id, record.seq] = record.hash().hex()
                    if record.kind == StreamContinued.__name__:
                        chapters += 1
                        former = record.fact(None)
                        if hashes.get((former.before, former.seq)) not in (None, former.head.hex()):
                            wrong.append(f"{lane} {stream_id} goes on from another {former.before}")
                        if at_hq.get((lane, former.before)) != former.seq:
                            wrong.append(f"{lane} {former.before} ends elsewhere than {stream_id} says")
                if stored[lane, stream_id] != at_hq[lane, stream_id]:
                    wrong.append(
                        f"{lane} {stream_id}: {stored[lane, stream_id]} records, head {at_hq[lane, stream_id]}"
                    )
            for stream_id, seq, head in self._streams(lane):
                if hashes.get((stream_id, seq)) != head.hex():
                    wrong.append(f"{lane} {stream_id}: HQ's record {seq} is not the lane's last")
            for line in (self.folder / f"{lane}.truth").read_text(encoding="utf-8").splitlines(keepends=True):
                words = line.split()
                if line.endswith("\n") and hashes.get((words[0], int(words[1]))) != words[2]:
                    lost += 1
        wrong += [f"{row['lane']} {row['stream_id']} {row['seq']} set aside: {row['why']}" for row in archive.refused()]
        wrong += [f"hole: {row}" for row in archive.holes()]
        wrong += [f"finding: {row['lane']} {row['code']} {row['detail']}" for row in archive.findings()]
        wrong += [f"{name} lost" for name in ("records",) if lost]
        wrong += ["records doubled"] * bool(doubled) + ["out of order"] * bool(out_of_order)
        for name in self.lanes:
            if "SET ASIDE" in (self.folder / "logs" / f"{name}.log").read_text(errors="replace"):
                wrong.append(f"{name}: a database was damaged and set aside")
        return {
            "records": stored.total(), "lost": lost, "doubled": doubled, "out_of_order": out_of_order,
            "streams": len(at_hq), "chapters": chapters, "sent_again": archive.counters().get("duplicates", 0),
            "wrong": wrong,
        }  # fmt: skip

    def _all(self, archive: Archive, lane: str, stream_id: str) -> Any:
        last = 0
        while page := archive.after(lane, stream_id, last, 2000):
            yield from page
            last = page[-1].seq
