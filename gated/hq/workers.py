"""Ingest workers in processes of their own, and who keeps them running."""

import contextlib
import multiprocessing
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import structlog

from gated.hq.archive import Archive, ArchiveError
from gated.hq.ingest import Ingest
from gated.mqtt import Backoff, Broker
from gated.notify import notify, watchdog_s

log = structlog.get_logger()

SILENT_S_MAX = 60.0
"""A worker that says nothing for so long hangs, and is killed. Longer than a database takes to be given up."""
STEADY_S = 60.0
"""Whoever ran this long is started again without a growing pause."""
END_S_MAX = 10.0
SAY_S = 0.5


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker needs. The keys travel through a pipe, never on a command line."""

    where: str
    """HQ's records: a path or a URL."""
    private: bytes = field(repr=False)
    receipts_key: bytes = field(repr=False)
    broker: Broker
    site: str = "+"
    log_format: str = "json"

    def ingest(self, stop: threading.Event, pulse: Any = None) -> None:
        """Be a worker until `stop`, in this thread. Raises `ArchiveError` where the database cannot be opened at the
        start; later it may be away as long as it likes."""
        archive = Archive(self.where)
        try:
            Ingest(archive, self.private, self.receipts_key, self.broker, self.site, pulse).run(stop)
        finally:
            archive.close()


@dataclass
class _Worker:
    process: SpawnProcess
    line: Connection
    began_mono: float
    heard_mono: float
    state: str = "starting"
    connected: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    committed: float = 0.0


class Workers:
    """`count` worker processes: one that ends is started again after a pause, one that hangs is killed."""

    def __init__(self, count: int, work: Work) -> None:
        self._work = work
        self._context = multiprocessing.get_context("spawn")  # never fork: whoever uses this may run threads
        self._workers: list[_Worker | None] = [None] * count
        self._backoffs = [Backoff(1.0, 30.0) for _ in range(count)]
        self._start_mono = [0.0] * count
        self._past: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Until `stop`; then end all."""
        stroke_s, stroke_mono, said = watchdog_s(), 0.0, ""
        while not stop.is_set():
            for k, worker in enumerate(self._workers):
                if worker is None and time.monotonic() >= self._start_mono[k]:
                    self._workers[k] = self._start()
            self._listen(0.5)
            for k, worker in enumerate(self._workers):
                if worker is not None:
                    self._look_after(k, worker)
            if stroke_s is not None and time.monotonic() - stroke_mono >= stroke_s / 2:
                notify("WATCHDOG=1")
                stroke_mono = time.monotonic()
            if self.state() != said:
                said = self.state()
                notify(*(("READY=1",) if self.connected() else ()), f"STATUS={said}")
        self._end(self._running())

    def counts(self) -> Counter[str]:
        """What all workers did, those that ended included. From any thread."""
        with self._lock:
            return sum((worker.counts for worker in self._running()), self._past.copy())

    def connected(self) -> bool:
        """Whether one of them has the broker."""
        return any(worker.connected for worker in self._running())

    def committed(self) -> float:
        """When one of them last committed, Unix time; 0: not yet."""
        return max((worker.committed for worker in self._running()), default=0.0)

    def state(self) -> str:
        """One line for people."""
        states = Counter(worker.state for worker in self._running())
        states["not running"] = self._workers.count(None)
        return ", ".join(f"{count} {state}" for state, count in sorted((+states).items()))

    def _running(self) -> Sequence[_Worker]:
        return [worker for worker in self._workers if worker is not None]

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_be_worker, args=(theirs, self._work), name="ingest-worker")
        process.start()
        theirs.close()
        now = time.monotonic()
        return _Worker(process, ours, now, now)

    def _listen(self, wait_s: float) -> None:
        by_line = {worker.line: worker for worker in self._running() if not worker.line.closed}
        for line in wait(list(by_line), wait_s):
            assert isinstance(line, Connection)
            worker = by_line[line]
            try:
                worker.state, worker.connected, worker.counts, worker.committed = line.recv()
                worker.heard_mono = time.monotonic()
            except (EOFError, OSError):
                line.close()

    def _look_after(self, k: int, worker: _Worker) -> None:
        now = time.monotonic()
        if now - worker.heard_mono > SILENT_S_MAX and worker.process.is_alive():
            log.error("worker hangs, and is killed", pid=worker.process.pid, silent_s=round(now - worker.heard_mono))
            worker.process.kill()
            worker.process.join(END_S_MAX)
        if worker.process.is_alive():
            return
        if now - worker.began_mono > STEADY_S:
            self._backoffs[k].reset()
        pause_s = self._backoffs[k].pause_s()
        log.error("worker ended", pid=worker.process.pid, code=worker.process.exitcode, again_in_s=round(pause_s, 1))
        worker.line.close()
        with self._lock:
            self._past += worker.counts
            self._workers[k], self._start_mono[k] = None, now + pause_s

    def _end(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            worker.process.terminate()
        until = time.monotonic() + END_S_MAX
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                log.error("worker does not end, and is killed", pid=worker.process.pid)
                worker.process.kill()
                worker.process.join()
            worker.line.close()


class _Tell:
    """A worker's pulse: how it is, through the pipe. Whoever kept it gone, it ends too."""

    def __init__(self, line: Connection, stop: threading.Event) -> None:
        self._line, self._stop, self._told_mono = line, stop, 0.0

    def __call__(self, ingest: Ingest) -> None:
        now = time.monotonic()
        if now - self._told_mono < SAY_S:
            return
        self._told_mono = now
        try:
            self._line.send((ingest.state, ingest.connected, Counter(ingest.counts), ingest.committed))
        except OSError:
            log.error("nobody looks after this worker any more: it ends")
            self._stop.set()


def _be_worker(line: Connection, work: Work) -> None:
    from gated import logs

    logs.configure("info", work.log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    tell = _Tell(line, stop)
    try:
        work.ingest(stop, tell)
    except ArchiveError as bad:
        log.error("HQ's records cannot be opened", why=str(bad))
        raise SystemExit(1) from None
    except Exception as bad:
        log.critical("worker ends by a fault of its own", exc_info=bad)
        raise SystemExit(70) from None
    finally:
        with contextlib.suppress(OSError):
            line.close()
