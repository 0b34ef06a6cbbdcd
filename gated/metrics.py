"""What a process tells Prometheus of itself: meters, the text file of a process without a listening socket, a page.

A label has a closed set of values, or a bound that is said in words: whatever else comes is told as `other`, so that
nobody can make series without end. No personal data, no ticket, no reason of a verdict (L8), no category of traveller.
docs/metrics.md has every meter.
"""

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gated import __version__
from gated.config import Config

log = structlog.get_logger()

OTHER: Final = "other"
Samples = Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Label:
    """`values`: all that there are; empty: `bound` says in words what keeps them few."""

    name: str
    values: tuple[str, ...] = ()
    bound: str = ""

    def of(self, value: str) -> str:
        """`value`, or `other` where it is none of the closed set."""
        return value if not self.values or value in self.values else OTHER


@dataclass(frozen=True, slots=True)
class Meter:
    """One metric. `whole`: each combination of the labels' values has a series, 0 where nothing is given for it."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    about: str
    labels: tuple[Label, ...] = ()
    whole: bool = True
    buckets: tuple[float, ...] = ()

    def family(self, samples: Samples | float) -> Metric:
        """These values as Prometheus wants them, by the labels' values in order."""
        given = {(): samples} if isinstance(samples, int | float) else samples
        values: dict[tuple[str, ...], float] = {}
        if self.whole and all(label.values for label in self.labels):
            values = dict.fromkeys(itertools.product(*(label.values for label in self.labels)), 0.0)
        for key, value in given.items():
            names = tuple(label.of(each) for label, each in zip(self.labels, key, strict=True))
            values[names] = value + (values[names] if OTHER in names and names in values else 0.0)
        family = Metric(self.name.removesuffix("_total"), self.about, self.kind)
        for key, value in values.items():
            family.add_sample(self.name, dict(zip((label.name for label in self.labels), key, strict=True)), value)
        return family

    def histogram(self, counted: Mapping[tuple[str, ...], "Tally"]) -> Metric:
        """The same of a histogram."""
        family = Metric(self.name, self.about, "histogram")
        for key, tally in counted.items():
            labels = {label.name: label.of(each) for label, each in zip(self.labels, key, strict=True)}
            rising = itertools.accumulate(tally.counts)
            for edge, count in zip((*map(str, self.buckets), "+Inf"), rising, strict=True):
                family.add_sample(f"{self.name}_bucket", {**labels, "le": edge}, count)
            family.add_sample(f"{self.name}_count", labels, sum(tally.counts))
            family.add_sample(f"{self.name}_sum", labels, tally.sum)
        return family


class Tally:
    """What a histogram has counted. `buckets`: upper edges, rising."""

    def __init__(self, buckets: Sequence[float]) -> None:
        self._edges = tuple(buckets)
        self.counts = [0] * (len(buckets) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        at = next((i for i, edge in enumerate(self._edges) if value <= edge), len(self._edges))
        self.counts[at] += 1
        self.sum += value


def common(process: str) -> tuple[Meter, Meter]:
    """What the page of each process begins with."""
    version = Label("version", bound="one series at a time")
    return (
        Meter(f"gated_{process}_build_info", "gauge", "1; the label names the version of the programs", (version,)),
        Meter(f"gated_{process}_written_timestamp_seconds", "gauge", "When this was written, Unix time"),
    )


class Page(Collector):
    """All that one process measures. `collect` is asked at each writing; `labels` are added to every sample.
    `lasting`: also what the process itself uses, which of one that has ended nobody wants to know."""

    def __init__(
        self,
        process: str,
        collect: Callable[[], Iterable[Metric]],
        labels: Mapping[str, str] | None = None,
        *,
        lasting: bool = True,
    ) -> None:
        self.process, self._collect, self._labels = process, collect, dict(labels or {})
        self._own = ProcessCollector(namespace=f"gated_{process}", registry=None) if lasting else None

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        build, written = common(self.process)
        families = (build.family({(__version__,): 1}), written.family(time.time()))
        for family in itertools.chain(families, self._collect(), self._own.collect() if self._own else ()):
            if self._labels:
                family.samples = [s._replace(labels={**self._labels, **s.labels}) for s in family.samples]
            yield family


class Textfile:
    """`gated-<process>.prom` in a folder that node_exporter's textfile collector reads: whole or not there.

    The folder is shared by several users, sticky: nothing that lies there already is opened. A file that cannot be
    written is logged once and disturbs nobody."""

    def __init__(self, folder: Path, page: Page, every_s: float) -> None:
        self.path = folder / f"gated-{page.process}.prom"
        self._page, self._every_s = page, every_s
        self._due_mono = float("-inf")
        self._well = True

    def tick(self) -> None:
        """Write it where that is due."""
        now = time.monotonic()
        if now >= self._due_mono:
            self._due_mono = now + self._every_s
            self._put(self._render())

    async def keep(self) -> NoReturn:
        """Write it until cancelled, without the loop waiting for the disk."""
        try:
            while True:
                await asyncio.to_thread(self._put, self._render())
                await asyncio.sleep(self._every_s)
        finally:
            self.remove()

    def remove(self) -> None:
        """The process ends: what it said last is no longer so."""
        self._put(b"")

    def _render(self) -> bytes:
        return generate_latest(self._page)

    def _put(self, text: bytes) -> None:
        try:
            if text:
                put_text(self.path, text)
            else:
                self.path.unlink(missing_ok=True)
        except OSError as bad:
            if self._well:
                log.warning("metrics cannot be written", file=str(self.path), why=bad.strerror)
            self._well = False
        else:
            self._well = True


def put_text(path: Path, text: bytes) -> None:
    """Write a file that others may read, whole or not at all, in place of the one that is there. Raises `OSError`."""
    part, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(part, "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)  # node_exporter is a user of its own
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise


def textfile(conf: Config, process: str, collect: Callable[[], Iterable[Metric]]) -> Textfile | None:
    """The text file of one of a lane's processes; None where lane.toml has no [metrics]."""
    if conf.metrics is None:
        return None
    labels = {"site": conf.identity.site, "lane": conf.identity.id}
    return Textfile(conf.metrics.dir, Page(process, collect, labels), conf.metrics.every_s)


def serve(listen: str, page: Collector) -> Callable[[], Any]:
    """Answer `/metrics` on `host:port`, in a thread; returns what ends it. Raises `ValueError`, `OSError`.

    There is no password and no TLS: listen on this machine alone, or behind a proxy that has both."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{listen!r} is not host:port, like 127.0.0.1:9464")
    registry = CollectorRegistry(auto_describe=True)
    registry.register(page)
    server, thread = start_http_server(int(port), host.strip("[]"), registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
