"""A lane of `fleet-sync`, with the real sync, and the process that has some of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from gated.store.cache import Cache
from gated.store.cachefile import audited, generations
from gated.sync.fetch import Fetcher, Server
from gated.sync.rounds import Sync
from gated.sync.trust import Trust
from gated.wire.rows import PARTITIONS
from tests.hq_rig import NOW
from tests.hw_sim.stages import rows_digest
from tests.sync_rig import Clock, rows_of

ROUNDS_MAX: Final = 5
"""A lane that is refused asks again, so often."""

Heads = Mapping[str, tuple[int, int]]
"""Partition -> (epoch, serial)."""


@dataclass(frozen=True, slots=True)
class Order:
    """What every lane does at `at_mono`, until it stands at `heads`."""

    now: datetime
    at_mono: float
    heads: Heads
    announcement: bytes | None = None


@dataclass(frozen=True, slots=True)
class Compare:
    """What every lane must have: `digests`, sha256 of HQ's audit table, and for the first `sample` lanes `rows`."""

    digests: Mapping[str, str]
    rows: Mapping[str, str]
    sample: int


@dataclass(frozen=True, slots=True)
class Came:
    """How a lane fared. `took_s`: until it was current; `rounds`: how often it asked the server."""

    lane: int
    current: bool
    took_s: float
    cpu_s: float
    rounds: int
    trouble: str = ""


def name_of(lane: int) -> str:
    """Site and lane."""
    return f"tpe-t1/lane-{lane:03}"


def private_of(lane: int) -> bytes:
    """Of this run's lane: nobody's real key."""
    return sha256(b"fleet" + lane.to_bytes(4, "big")).digest()


class Lane:
    """The real sync with its own folder, metadata and connection."""

    def __init__(self, number: int, folder: Path, url: str, root: bytes) -> None:
        self.number, self.folder, self._clock = number, folder, Clock(NOW)
        folder.mkdir()
        fetcher = Fetcher(Server(url))
        trust = Trust(folder / "sync" / "trust", root, fetcher, self._clock)
        self.sync = Sync(folder, name_of(number), trust, fetcher, self._clock)

    def do(self, order: Order) -> Came:
        """One step, from the moment on that all lanes begin."""
        self._clock.now = order.now
        time.sleep(max(0.0, order.at_mono - time.monotonic()))
        cpu, rounds = time.thread_time(), 0
        if order.announcement is not None:
            self.sync.announced(order.announcement)
        else:
            self.sync.once()
            rounds = 1
        while not (current := self._stands(order.heads)) and rounds < ROUNDS_MAX:
            self.sync.once()
            rounds += 1
        took_s = time.monotonic() - order.at_mono
        trouble = "; ".join(f"{name or 'metadata'}: {each.why.value}" for name, each in self.sync.trouble.items())
        return Came(self.number, current and not trouble, took_s, time.thread_time() - cpu, rounds, trouble)

    def _stands(self, heads: Heads) -> bool:
        copies = self.sync.copies
        return all((copies[p].standing.epoch, copies[p].standing.serial) == at for p, at in heads.items())

    def compared(self, compare: Compare) -> str:
        """What differs from HQ; "" where nothing does."""
        for partition in PARTITIONS:
            path = max(generations(self.folder, partition).items())[1]
            if sha256(audited(path)[1]).hexdigest() != compare.digests[partition]:
                return f"{name_of(self.number)}: {partition} is not what HQ's audit table says"
            if self.number < compare.sample:
                if rows_digest(rows_of(path)) != compare.rows[partition]:
                    return f"{name_of(self.number)}: rows of {partition} are not HQ's"
                cache = Cache(path, private_of(self.number), name_of(self.number))
                try:
                    cache.check()
                finally:
                    cache.close()
        return ""


def crew(line: Connection, numbers: Sequence[int], folder: Path) -> None:
    """The life of a process that has some of the lanes."""
    url, root = line.recv()
    lanes = [Lane(n, folder / f"lane-{n}", url, root) for n in numbers]
    with ThreadPoolExecutor(len(lanes)) as threads:
        while (said := line.recv()) is not None:
            work: Callable[[Lane], Any] = Lane.do if isinstance(said, Order) else Lane.compared  # type: ignore[assignment]
            line.send(list(threads.map(work, lanes, [said] * len(lanes))))
    for lane in lanes:
        lane.sync.close()
