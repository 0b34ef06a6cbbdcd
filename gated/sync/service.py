"""The sync as a process: asks HQ in an interval, at an announcement and when told to; audits at night; answers `gated`.

All that is slow runs in threads; the socket is answered by the loop, so that a ban that is announced never waits behind
a snapshot."""

import argparse
import asyncio
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from gated import config, logs
from gated.control import Answer, Client, Code, Refused, Request, SyncTold, Unavailable
from gated.control_peer import Peer
from gated.control_socket import SocketTaken, serve
from gated.metrics import textfile
from gated.mqtt import Backoff
from gated.notify import notify, watchdog_s
from gated.store.sql import StoreError
from gated.sync.audit import Audited
from gated.sync.control import REQUEST_BYTES_MAX, REQUESTS, Announced, SyncNow, SyncStatus, Verify
from gated.sync.fetch import Fetcher, Server
from gated.sync.metrics import Measures
from gated.sync.refused import SyncRefused
from gated.sync.rounds import FILES, Stopping, Sync
from gated.sync.trust import Trust, Trusted

log = structlog.get_logger()

EX_CONFIG: Final = 78
CONTROL_S_MAX: Final = 2.0
STREAM_S: Final = 0.25
"""How often a client is told how far a round has come."""
STUCK_S_MAX: Final = 3600.0
"""A round that says nothing for longer hangs: the service manager begins the process anew."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often HQ is asked. `ask_s_min`: not oftener because of announcements; so many in a row, then one in each
    `ask_refill_s`: whoever forges announcements makes lanes ask HQ no oftener."""

    interval_s: float = 60.0
    retry_s_min: float = 2.0
    retry_s_max: float = 300.0
    ask_s_min: float = 2.0
    asks_max: int = 5
    ask_refill_s: float = 15.0
    audit_hour: int = 3


class Asks:
    """When HQ may be asked because of an announcement: a bucket of tokens. `mono`: a monotonic clock, seconds."""

    def __init__(self, pace: Pace, mono: Callable[[], float] = time.monotonic) -> None:
        self._pace, self._mono = pace, mono
        self._tokens, self._at, self._last = float(pace.asks_max), mono(), float("-inf")

    def wait_s(self) -> float | None:
        """Take a token: how long to wait before asking, or None where there is none left."""
        now = self._mono()
        self._tokens = min(self._pace.asks_max, self._tokens + (now - self._at) / self._pace.ask_refill_s)
        self._at = now
        if self._tokens < 1 or self._last > now:
            return None
        self._tokens -= 1
        self._last = max(now, self._last + self._pace.ask_s_min)
        return self._last - now


class Service:
    """Runs a `Sync` until it is told to stop."""

    def __init__(self, sync: Sync, pace: Pace, clock: Callable[[], datetime]) -> None:
        self._sync, self._pace, self._clock = sync, pace, clock
        self._locks = {name: asyncio.Lock() for name in (*sync.copies, FILES)}
        self._waiting: Counter[str] = Counter()
        self._refreshing = asyncio.Lock()
        self._asks = Asks(pace)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._audited: date | None = None
        self._busy_mono: dict[object, float] = {}

    async def run(self, stop: asyncio.Event, conf: config.Config) -> None:
        """Until `stop` is set. Raises `SocketTaken`, and whatever ends one of its tasks."""
        assert conf.sync is not None
        async with serve(
            conf.sync.socket,
            self.handle,
            technician_group=conf.control.technician_group,
            uplink_user=conf.control.uplink_user,
            sync_user=conf.control.sync_user,
            requests=REQUESTS,
            request_bytes_max=REQUEST_BYTES_MAX,
        ):
            notify("READY=1", "STATUS=started")
            file = textfile(conf, "sync", Measures(self._sync.report).collect)
            parts = (self._rounds, self._nights, self._strokes, *([file.keep] if file else []))
            always = [asyncio.create_task(each()) for each in parts]
            stopped = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([stopped, *always], return_when=asyncio.FIRST_COMPLETED)
            notify("STOPPING=1")
            self._sync.stop.set()
            for task in (*always, *self._tasks, stopped):
                task.cancel()
            await asyncio.gather(*always, *self._tasks, stopped, return_exceptions=True)
        for task in done - {stopped}:
            task.result()

    # -- asking HQ

    async def _rounds(self) -> None:
        backoff = Backoff(self._pace.retry_s_min, self._pace.retry_s_max)
        while True:
            if await self.round(patience_s=self._pace.interval_s):
                backoff.reset()
                pause_s = self._pace.interval_s * (0.9 + secrets.randbelow(200) / 1000)
            else:
                pause_s = backoff.pause_s()
            await asyncio.sleep(pause_s)

    async def round(self, *, patience_s: float | None = None) -> bool:
        """Ask HQ once and take what there is; whether nothing was refused. What takes longer than `patience_s` goes on
        by itself; what goes on already is not begun twice."""
        async with self._refreshing:
            state = await self._thread(self._sync.refresh)
        if state is None:
            return False
        names = [name for name, lock in self._locks.items() if not self._waiting[name]]
        takes = [self._begin(self._take(name, state)) for name in names]
        if not takes:
            return True
        done, _ = await asyncio.wait(takes, timeout=patience_s)
        return all(task.result() for task in done)

    async def _take(self, name: str, state: Trusted) -> bool:
        self._waiting[name] += 1
        try:
            await self._locks[name].acquire()
        finally:
            self._waiting[name] -= 1
        try:
            well: bool = await self._thread(self._sync.take, name, state)
            return well
        except Stopping:
            return True
        finally:
            self._locks[name].release()

    async def _thread(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        key = object()
        self._busy_mono[key] = time.monotonic()
        try:
            return await asyncio.to_thread(function, *arguments, **named)
        finally:
            del self._busy_mono[key]

    def _begin(self, work: Any) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _nights(self) -> None:
        while True:
            now = self._clock()
            if now.hour == self._pace.audit_hour and self._audited != now.date():
                self._audited = now.date()
                await asyncio.sleep(secrets.randbelow(600) if self._pace.interval_s >= 60 else 0)
                async for _ in self._audits(repair=True):
                    pass
            await asyncio.sleep(min(60.0, self._pace.interval_s))

    async def _strokes(self) -> None:
        stroke_s = watchdog_s()
        while stroke_s is not None:
            began = min(self._busy_mono.values(), default=time.monotonic())
            if time.monotonic() - max(began, self._sync.pulse_mono) < STUCK_S_MAX:
                notify("WATCHDOG=1")
            await asyncio.sleep(stroke_s)
        await asyncio.Event().wait()

    # -- the socket

    async def handle(self, request: Request, peer: Peer) -> Answer | AsyncIterator[Answer]:
        """Answer one request. Raises `Refused`."""
        match request:
            case SyncStatus():
                return self._sync.report()
            case SyncNow():
                log.info("asked to sync", user=peer.name)
                return self._following(self.round())
            case Verify(repair=repair):
                log.info("asked to verify", user=peer.name, repair=repair)
                return self._audits(repair=repair)
            case Announced():
                return await self._announced(request.announcement)
        raise Refused(Code.BAD_REQUEST, "not for the sync")

    async def _following(self, work: Any) -> AsyncIterator[Answer]:
        """A report now and then while something goes on, and one at its end."""
        task = self._begin(work)
        while not task.done():
            await asyncio.wait({task}, timeout=STREAM_S)
            yield self._sync.report() | {"end": task.done()}

    async def _audits(self, *, repair: bool) -> AsyncIterator[Answer]:
        """Compare every partition, one after the other."""
        found: list[dict[str, Any]] = []
        async with self._refreshing:
            await self._thread(self._sync.refresh)
        for name in self._sync.copies:
            task = self._begin(self._audit(name, repair))
            while not task.done():
                await asyncio.wait({task}, timeout=STREAM_S)
                doing = self._sync.doing.get(name)
                if doing is not None and not task.done():
                    yield {"end": False, "partition": name, **asdict(doing)}
            found.append(task.result())
        yield {"end": True, "audits": found}

    async def _audit(self, name: str, repair: bool) -> dict[str, Any]:
        async with self._locks[name]:
            try:
                done = await self._thread(self._sync.audit, name, repair=repair)
                return asdict(done) | {"why": ""}
            except (SyncRefused, StoreError) as no:
                return asdict(Audited(name)) | {"why": str(no)}
            except Stopping:
                return asdict(Audited(name)) | {"why": "the sync stops"}

    async def _announced(self, payload: bytes) -> Answer:
        if not await self._thread(self._sync.announced, payload):
            return {"asked": False}
        wait_s = self._asks.wait_s()
        if wait_s is None:
            log.debug("asked too often because of announcements")
            return {"asked": False}
        self._begin(self._ask(payload, wait_s))
        return {"asked": True}

    async def _ask(self, payload: bytes, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        await self.round(patience_s=self._pace.interval_s)
        await self._thread(self._sync.again, payload)


# -- the process


def teller(client: Client) -> Callable[[str, str], bool]:
    """Tells the lane's process; a lane that is not there, or that does not understand, is no trouble of ours."""

    def tell(partition: str, why: str) -> bool:
        try:
            client.ask(SyncTold(partition, why))
        except Unavailable as away:
            log.debug("the lane was not told", why=str(away))
            return False
        except Refused as no:
            log.warning("the lane does not want to be told", code=no.code.value, why=no.why)
        return True

    return tell


def build(conf: config.Config, clock: Callable[[], datetime]) -> Sync:
    """The sync of a lane.toml. Raises `config.ConfigError`, `StoreError`, `SyncRefused`."""
    if conf.sync is None:
        raise conf.error((), "there is no section [sync]: this lane is not told where HQ's data are")
    given, identity = conf.sync, conf.identity
    try:
        root = given.root.read_bytes()
    except OSError as bad:
        raise conf.error(("sync", "root"), f"cannot be read: {bad.strerror}") from None
    alike = ("url", "ca", "certificate", "key", "connect_s_max", "read_s_max")
    try:
        fetcher = Fetcher(Server(**{name: getattr(given, name) for name in alike}))
        trust = Trust(conf.store.dir / "sync" / "trust", root, fetcher, clock)
    except SyncRefused as no:
        raise conf.error(("sync", "root"), str(no)) from None
    except OSError as bad:
        raise conf.error(("sync",), f"ca, certificate or key cannot be used: {bad}") from None
    tell = teller(Client(conf.control.socket, CONTROL_S_MAX))
    return Sync(conf.store.dir, f"{identity.site}/{identity.id}", trust, fetcher, clock, tell)


async def _main(conf: config.Config, clock: Callable[[], datetime]) -> None:
    assert conf.sync is not None
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sync = build(conf, clock)
    given = conf.sync
    pace = Pace(given.interval_s, min(2.0, given.retry_s_max), given.retry_s_max, audit_hour=given.audit_hour)
    try:
        await Service(sync, pace, clock).run(stop, conf)
    finally:
        sync.close()


def serve_lane(conf: config.Config) -> int:
    """Run the sync of a configuration until SIGTERM. The process's exit code. Raises `config.ConfigError`."""
    if conf.sync is None:
        raise conf.error((), "there is no section [sync]: this lane is not told where HQ's data are")
    logs.configure(conf.log.level, conf.log.format)
    try:
        asyncio.run(_main(conf, lambda: datetime.now(UTC)))
    except (StoreError, SyncRefused, SocketTaken) as bad:
        log.error("the sync cannot work", why=str(bad))
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m gated.sync --config lane.toml`. 0 after SIGTERM, 78 for a configuration that cannot be used."""
    parser = argparse.ArgumentParser(prog="gated sync", description="Keeps a lane's cache as HQ signed it.")
    parser.add_argument("--config", default="/etc/gated/lane.toml", type=Path)
    try:
        return serve_lane(config.load(parser.parse_args(arguments).config))
    except config.ConfigError as bad:
        print(f"gated sync: {bad}", file=sys.stderr)  # noqa: T201
        return EX_CONFIG
