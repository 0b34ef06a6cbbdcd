"""The processes of `crash-sync`: a sync that is killed or whose disk fails, one that goes on after it, a lane that
reads all the time. Each is forked from a process that has imported everything: a new one in milliseconds."""

import asyncio
import functools
import json
import os
import random
import signal
import sqlite3
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

from gated.daemon.lookup import LookUp
from gated.lane import commands as cmd
from gated.lane.events import DeviceLost, DeviceReady, Event, LookUpFailed, NoRecord, RecordFound
from gated.store.cache import Cache, Enrolments
from gated.store.cachefile import CacheFile, CacheNote, generations, read_note
from gated.store.sql import StoreError
from gated.sync import apply, fetch, signed, trust
from gated.sync.fetch import Fetcher, Server
from gated.sync.refused import SyncRefused
from gated.sync.rounds import Sync
from gated.sync.trust import Trust
from gated.wire.codec import encode
from gated.wire.rows import CONTROL, PARTITIONS, PEOPLE, SLOTS_MAX, FlagsRow, PersonRow, of_flags, of_subject
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.shim import Arm, Shim
from tests.hw_sim.simlane import Inline
from tests.hw_sim.stages import LANE_KEY, MODEL, NAME, PROBES, START, Stages, number_of, probes_digest, rows_digest
from tests.play import DOCUMENT, RULES

ROUNDS_MAX = 6
"""So many rounds may be needed until everything is current, once nothing fails any more."""
CHILD_S_MAX = 120
"""A process that hangs for longer is ended, which is told."""


def utc() -> datetime:
    return datetime.now(UTC)


# -- processes ---------------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A forked process: `said` gives its lines, `go` lets it go on."""

    pid: int
    said: IO[str]
    _go: int

    def line(self) -> dict[str, Any]:
        """The next thing it says; empty at its end."""
        text = self.said.readline()
        return json.loads(text) if text.endswith("\n") else {}

    def go(self) -> None:
        os.write(self._go, b"x")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Its exit code; minus the signal that it died of."""
        os.close(self._go)
        _, status = os.waitpid(self.pid, 0)
        self.said.close()
        return os.waitstatus_to_exitcode(status)


Say = Callable[[dict[str, Any]], None]
Wait = Callable[[], None]


def forked(life: Callable[[Say, Wait, int], None], seconds_max: int = CHILD_S_MAX) -> Child:
    """A process that lives `life` (what it says things with, waits with, and the descriptor that it waits on)."""
    read, write = os.pipe()
    waits, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(seconds_max)
        code = 1
        try:
            os.close(read)
            os.close(go)

            def say(what: dict[str, Any]) -> None:
                os.write(write, (json.dumps(what) + "\n").encode())

            try:
                life(say, lambda: void(os.read(waits, 1)), waits)
                code = 0
            except Exception:  # noqa: BLE001  # whatever it is, it is a finding
                say({"crashed": traceback.format_exc(limit=-6)})
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(write)
    os.close(waits)
    return Child(pid, os.fdopen(read), go)


def void(_: object) -> None:
    """Nothing is made of it."""


# -- the sync ----------------------------------------------------------------------------------------------------------


def begun(folder: Path, url: str, root: bytes) -> Sync:
    """The real sync of a lane. Raises `SyncRefused`, `StoreError`."""
    fetcher = Fetcher(Server(url, connect_s_max=5.0, read_s_max=5.0))
    return Sync(folder, NAME, Trust(folder / "sync" / "trust", root, fetcher, utc), fetcher, utc)


@contextmanager
def labels(shim: Shim) -> Iterator[None]:
    """Lets the shim's log say what the sync was doing. Nothing else is changed."""

    def told(function: Callable[..., Any], what: str | Callable[..., str]) -> Callable[..., Any]:
        @functools.wraps(function)
        def labelled(*args: Any, **named: Any) -> Any:
            with shim.labelled(what if isinstance(what, str) else what(*args, **named)):
                return function(*args, **named)

        return labelled

    def file(_: Fetcher, path: str, *rest: Any) -> str:
        return "fetching chunks" if "snapshots" in path else "fetching segments, days"

    def changes(cache: CacheFile, changes: Any, *rest: Any, **named: Any) -> str:
        return f"applying {changes.note.kind}s"

    with ExitStack() as all_of_them:
        for owner, name, what in (
            (Sync, "__init__", "starting"),
            (trust.Trust, "refresh", "trust metadata"),
            (signed.SignedFiles, "take", "signed files"),
            (fetch.Fetcher, "file", file),
            (apply, "build", "building"),
            (apply.Copy, "_place", "placing"),
            (apply.Copy, "_drop_old", "cleaning up"),
            (CacheFile, "__init__", "opening"),
            (CacheFile, "apply", changes),
            (CacheFile, "confirm", "confirming"),
        ):
            all_of_them.enter_context(patch.object(owner, name, told(getattr(owner, name), what)))
        yield


def victim(
    folder: Path, url: str, root: bytes, log: Path, arm: Arm, announcement: bytes | None
) -> Callable[[Say, Wait, int], None]:
    """One sync, armed. Where its disk fails it says what came of it, waits, and goes on with a disk that is well."""

    def life(say: Say, wait: Wait, _: int) -> None:
        shim = Shim()
        why = ""
        with labels(shim):
            shim.arm(folder, log, arm)
            say({"began": True})
            try:
                sync = begun(folder, url, root)
            except (SyncRefused, StoreError) as no:  # then the whole process ends, and the service manager begins anew
                say({"broken": shim.broken, "well": False, "why": f"did not start: {no.why}", "ended": True})
                return
            for _ in range(2 if arm.errno else 1):
                if announcement:
                    sync.announced(announcement)
                well = sync.once()
                why = why or "; ".join(sorted({f"{t.why}" for t in sync.trouble.values()}))
            shim.disarm()
            say({"broken": shim.broken, "well": well, "why": why, "ended": not arm.errno})
        if arm.errno:
            wait()
            say(caught_up(sync, folder, url, root))

    return life


def caught_up(sync: Sync | None, folder: Path, url: str, root: bytes) -> dict[str, Any]:
    """Rounds until nothing is refused, and what that took."""
    start = time.monotonic()
    why, ready_s = "", 0.0
    for rounds in range(1, ROUNDS_MAX + 1):
        try:
            sync = sync or begun(folder, url, root)
            ready_s = ready_s or time.monotonic() - start
            if sync.once():
                return {"well": True, "rounds": rounds, "ready_s": ready_s, "caught_s": time.monotonic() - start}
            why = "; ".join(f"{t.what}: {t.why}: {t.advice}" for t in sync.trouble.values())
        except (SyncRefused, StoreError) as no:
            why = str(no)
    return {"well": False, "why": why, "rounds": ROUNDS_MAX, "ready_s": ready_s, "caught_s": 0.0}


def recovering(folder: Path, url: str, root: bytes) -> Callable[[Say, Wait, int], None]:
    """A new sync after the one that died."""
    return lambda say, wait, fd: say(caught_up(None, folder, url, root))


# -- what a lane sees --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class View:
    """One partition as a lane that opens it now finds it. `epoch` 0: there is none. `wrong`: what must not be."""

    partition: str
    generation: int = 0
    epoch: int = 0
    serial: int = 0
    open_s: float = 0.0
    wrong: str = ""


def seen(folder: Path, stages: Stages) -> list[View]:
    """Opens every row of the newest generations with the lane's key, and holds them against what HQ ever had."""
    return [_view(folder, partition, stages) for partition in PARTITIONS]


def _view(folder: Path, partition: str, stages: Stages) -> View:
    if bad := sorted(path.name for path in folder.glob(f"cache-{partition}-*.bad*")):
        return View(partition, wrong=f"set aside: {', '.join(bad)}")
    found = generations(folder, partition)
    if not found:
        return View(partition)
    generation, path = max(found.items())
    start = time.monotonic()
    try:
        cache = Cache(path, LANE_KEY, NAME)
        cache.row(*_first_row(partition))
        open_s = time.monotonic() - start
        cache.check()
        cache.close()
        note, rows = _rows(path)
    except StoreError as bad_one:
        return View(partition, generation, wrong=str(bad_one))
    state = stages.states.get((partition, note.epoch, note.serial))
    wrong = ""
    if state is None:
        wrong = f"HQ never had segment {note.serial} of epoch {note.epoch}"
    elif rows_digest(rows) != state.rows:
        wrong = f"MIXED: its rows are not those of segment {note.serial} of epoch {note.epoch}"
    return View(partition, generation, note.epoch, note.serial, open_s, wrong)


def _first_row(partition: str) -> tuple[type[Any], *tuple[str, ...]]:
    return (PersonRow, *of_subject(1)) if partition == PEOPLE else (FlagsRow, *of_flags(1, 0))


def _rows(path: Path) -> tuple[CacheNote, dict[bytes, bytes]]:
    sql = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    try:
        sql.execute("BEGIN")
        return read_note(path, sql), dict(sql.execute("SELECT key, value FROM rows").fetchall())
    finally:
        sql.close()


@dataclass
class Seen:
    """What a lane that looked up all the time met."""

    looked: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    states: set[str] = field(default_factory=set)


def lane(folder: Path, stages: Stages) -> Callable[[Say, Wait, int], None]:
    """A lane that looks people up until it is told to stop; then it says what it met."""
    return lambda say, wait, stop: say(asyncio.run(_looking(folder, stages, stop)))


async def _looking(folder: Path, stages: Stages, stop: int) -> dict[str, Any]:
    events: asyncio.Queue[Event] = asyncio.Queue()
    look_up = LookUp(folder, LANE_KEY, NAME, MODEL, Inline(RecordedFaces(1)), events.put_nowait, rules=lambda: RULES)
    running = asyncio.create_task(look_up.run())
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(stop, stopped.set)
    met, dice, ticket = Seen(), random.Random(4), 0
    while not stopped.is_set():
        ticket += 1
        subject = dice.choice(PROBES)
        document = replace(DOCUMENT, number=number_of(subject))
        look_up.look_up(cmd.LookUp(ticket, 1, document), utc())
        answer = await events.get()
        while isinstance(answer, DeviceReady | DeviceLost):
            answer = await events.get()
        met.looked += 1
        match answer:
            case RecordFound(traveller=found):
                editions = (found.usable_from or date.min) - START
                if found.subject != subject or not timedelta(0) <= editions <= timedelta(days=200):
                    met.wrong.append("another person was found")
            case LookUpFailed(why=why) if why != "no_cache" or met.states:
                met.failed[why] += 1
            case NoRecord():
                met.wrong.append("somebody who is enrolled was not found")
        look_up.forget(ticket)
        try:
            look_up._put(lambda caches: _probed(caches, stages, met))
        except StoreError as bad:
            if bad.why != "no_cache" or met.states:
                met.failed[bad.why] += 1
        await asyncio.sleep(0.002)
    running.cancel()
    look_up.close()
    return {"looked": met.looked, "failed": met.failed, "wrong": met.wrong[:5], "states": sorted(met.states)}


def _probed(caches: Enrolments, stages: Stages, met: Seen) -> None:
    """All the probes, of one state: they must say what they said in that state at HQ."""
    for partition, cache in ((PEOPLE, caches.people), (CONTROL, caches.control)):
        with cache.one_state():
            note = cache.note
            said = []
            for n in PROBES:
                rows = (
                    [cache.row(PersonRow, *of_subject(n))]
                    if partition == PEOPLE
                    else [cache.row(FlagsRow, *of_flags(n, slot)) for slot in range(SLOTS_MAX)]
                )
                said += [encode(row) for row in rows if row is not None]
        state = stages.states.get((partition, note.epoch, note.serial))
        if state is None or probes_digest(said) != state.probes:
            met.wrong.append(f"{partition} was mixed at segment {note.serial} of epoch {note.epoch}")
        met.states.add(f"{partition}/{note.epoch}/{note.serial}")
