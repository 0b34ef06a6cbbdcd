"""One round of the sync: refresh what is trusted, bring each partition to its head, tell the lane. No loop, no socket.

Everything is handed in. `refresh`, `take`, `announced` and `audit` may each run in a thread of its own; what they find
out is in `report`, which waits for nobody."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog

from gated.store.sql import StoreError
from gated.sync import audit
from gated.sync.apply import Copy
from gated.sync.fetch import Fetcher
from gated.sync.refused import ATTACKS, SyncRefused, Why
from gated.sync.signed import SignedFiles
from gated.sync.spool import Spool
from gated.sync.trust import Floor, Trust, Trusted
from gated.wire import bundle
from gated.wire.bundle import Announcement, BundleError, SignedTip, Tip
from gated.wire.codec import WireError, decode, encode, kinds
from gated.wire.rows import PARTITIONS

log = structlog.get_logger()

FILES: Final = "files"
"""Stands for the signed files where a partition's name would stand."""
_FLOOR: Final = kinds(Floor)
_QUIET: Final = (Why.UNREACHABLE, Why.REPLAYED)
"""Not told to HQ: whoever cannot be reached is told nothing, and brokers repeat announcements."""
_ASK: Final = (Why.SKIPPED, Why.WRONG_CHAIN, Why.LIFT_NOT_SIGNED, Why.MISSING)
"""Of a tip: HQ's server may make it right. `MISSING`: there are no metadata here yet to prove it by."""


class Stopping(Exception):
    """The process ends: what was begun is gone on with by the next one."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something is not as new as it should be. `since`: when that began."""

    why: Why
    what: str
    advice: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Doing:
    """What is being done: `done` of `of`."""

    what: str
    done: int
    of: int


class Sync:
    """A lane's sync without its loop. `lane`: site/lane. `tell`: tells the lane's process (partition, why) and says
    whether it heard; why "" is: something was applied. Raises `SyncRefused`, `StoreError`."""

    def __init__(
        self,
        folder: Path,
        lane: str,
        trust: Trust,
        fetcher: Fetcher,
        clock: Callable[[], datetime],
        tell: Callable[[str, str], bool] = lambda partition, why: True,
        partitions: Iterable[str] = PARTITIONS,
    ) -> None:
        self._trust, self._fetcher, self._clock, self._tell = trust, fetcher, clock, tell
        self._spool = Spool(folder / "sync" / "spool")
        self.stop = threading.Event()
        self.doing: dict[str, Doing] = {}
        self.pulse_mono = time.monotonic()
        """When something last went on."""
        self.copies = {p: Copy(folder, p, lane, self._spool, fetcher, self._saying(p)) for p in partitions}
        self.files = SignedFiles(folder / "signed", trust)
        self.trouble: dict[str, Trouble] = {}
        """By partition; `FILES`; and "" for the metadata."""
        self.refused: Counter[Why] = Counter()
        self.announcements = 0
        self.asked: datetime | None = None
        """When HQ last answered."""
        self._state: Trusted | None = None
        self._trusting = threading.Lock()
        self._telling = threading.Lock()
        self._said: dict[str, str] = {}
        self._owed: dict[str, str] = {}
        self._keyed: set[str] = set()

    def _saying(self, name: str) -> Callable[[str, int, int], None]:
        def say(what: str, done: int, of: int) -> None:
            self.pulse_mono = time.monotonic()
            self.doing[name] = Doing(what, done, of)
            if self.stop.is_set():
                raise Stopping

        return say

    # -- rounds

    def once(self) -> bool:
        """Everything once, in this thread; whether nothing was refused. Raises nothing that HQ or a disk can cause."""
        state = self.refresh()
        if state is None:
            return False
        taken = [self.take(name, state) for name in (*self.copies, FILES)]
        return all(taken)

    def refresh(self) -> Trusted | None:
        """Fetch and prove what HQ signed; None where it was refused."""
        try:
            floors = [_floor_of(copy.floor) for copy in self.copies.values()]
            if self._state is not None:
                floors.append(self._state.floor)
            with self._trusting:
                state = self._trust.refresh(tuple(self.copies), _highest(floors))
        except SyncRefused as no:
            self._no("", no)
            return None
        self._state, self.asked = state, self._clock()
        self.trouble.pop("", None)
        return state

    def take(self, name: str, state: Trusted) -> bool:
        """Bring a partition, or `FILES`, to what HQ signed; whether nothing was refused."""
        try:
            if name == FILES:
                with self._trusting:
                    self.files.take(state)
                applied = False
            else:
                applied = self._take(name, state)
        except (SyncRefused, StoreError) as no:
            self._no(name, no)
            return False
        finally:
            self.doing.pop(name, None)
        self._well(name, applied)
        return True

    def _take(self, name: str, state: Trusted) -> bool:
        copy = self.copies[name]
        base, head = state.bases.get(name), state.heads.get(name)
        if base is None or head is None:
            raise SyncRefused(Why.MISSING, f"{name} base and head", "HQ has signed none")
        same_keys = set(_floor_of(copy.floor).online_keys) <= set(state.floor.online_keys)
        applied = copy.take(base, head, encode(state.floor), same_keys=same_keys)
        if name not in self._keyed:
            applied |= copy.mend_key()
            self._keyed.add(name)
        return applied

    def audit(self, name: str, *, repair: bool) -> audit.Audited:
        """Compare a partition with HQ as last refreshed. Raises `SyncRefused`."""
        state, copy = self._state, self.copies[name]
        if state is None or name not in state.heads:
            return audit.Audited(name, note="HQ could not be asked")
        base, head = state.bases[name], state.heads[name]
        self._keyed.discard(name)
        try:
            found = audit.audit(copy, base, head, self._spool, self._fetcher, self._saying(name), repair=repair)
            if repair and len(found.differing) > audit.REPAIRED_MAX:
                copy.renew(base, head, encode(state.floor))
                found = replace(found, note="too much differed: a new generation was fetched")
        except (SyncRefused, StoreError) as no:
            self._no(name, no)
            raise
        finally:
            self.doing.pop(name, None)
        log.info("audit", partition=name, serial=found.serial, compared=found.compared, differing=len(found.differing))
        if found.differing:
            self._no(name, SyncRefused(Why.DIFFERS, f"{name} audit", f"{len(found.differing)} buckets are not HQ's"))
            if found.repaired or found.note:
                self._well(name, True)
        return found

    # -- announcements

    def announced(self, payload: bytes) -> bool:
        """Apply what an announcement brought; whether HQ's server should be asked now."""
        self.announcements += 1
        try:
            announcement = bundle.load(Announcement, payload)
        except BundleError as bad:
            self._no("", SyncRefused(Why.MALFORMED, "announcement", str(bad)), told=False)
            return False
        known = self._state.floor.timestamp if self._state is not None else 0
        behind = [self._tip(signed, last=False) for signed in announcement.tips]
        return any(behind) or announcement.metadata_version > known

    def again(self, payload: bytes) -> None:
        """The same announcement once more, after HQ's server was asked: what does not follow now is refused."""
        for signed in bundle.load(Announcement, payload).tips:
            self._tip(signed, last=True)

    def _tip(self, signed: SignedTip, *, last: bool) -> bool:
        """Apply a tip; whether it does not follow what is here. `last`: then that is refused."""
        name = ""
        try:
            tip: Tip = self._trust.tip(signed)
            name = tip.partition
            if name not in self.copies:
                return False
            if not self.copies[name].put(tip, signed.segment):
                return False
        except SyncRefused as no:
            behind = no.why in _ASK
            if behind is last:  # of the others the first time has told; or HQ's server brought it meanwhile
                self._no(name, no, told=no.why is not Why.REPLAYED)
            return behind
        except StoreError as bad:
            self._no(name, bad)
            return True
        log.info("announced segment applied", partition=name, serial=tip.serial)
        self._well(name, True)
        return False

    # -- who is told what

    def _no(self, name: str, error: SyncRefused | StoreError, *, told: bool = True) -> None:
        no = error if isinstance(error, SyncRefused) else SyncRefused(Why.STORE, error.path.name, str(error))
        self.refused[no.why] += 1
        before = self.trouble.get(name)
        news = before is None or before.why is not no.why
        say = log.error if no.why in ATTACKS else log.warning
        (say if news and told else log.debug)(
            "refused", partition=name, why=no.why.value, what=no.what, advice=no.advice
        )
        if not told:
            return
        since = self._clock() if news or before is None else before.since
        self.trouble[name] = Trouble(no.why, no.what, no.advice, since)
        if no.why not in _QUIET:
            for partition in (name,) if name in self.copies else self.copies:
                self._tell_of(partition, no.why.value)

    def _well(self, name: str, applied: bool) -> None:
        self.trouble.pop(name, None)
        if name in self.copies:
            if applied or self._said.get(name):
                self._said[name] = ""
                self._owed[name] = ""
            self._settle()

    def _tell_of(self, partition: str, why: str) -> None:
        """Tell the lane of it once, until something else is the case."""
        if self._said.get(partition) != why:
            self._said[partition] = why
            self._owed[partition] = why
        self._settle()

    def _settle(self) -> None:
        """Tell what the lane was not told yet; a lane that does not listen is told the next time."""
        with self._telling:
            for partition, why in list(self._owed.items()):
                if not self._tell(partition, why):
                    return
                if self._owed.get(partition) == why:
                    del self._owed[partition]

    # -- how things are

    def report(self) -> dict[str, Any]:
        """How everything stands, in JSON's types. Nobody's data."""
        state = self._state
        return {
            "partitions": {
                name: _json(copy.standing)
                | {"doing": _json(self.doing.get(name)), "trouble": _json(self.trouble.get(name))}
                for name, copy in self.copies.items()
            },
            "metadata": {
                "version": state.floor.timestamp if state else None,
                "expires": state.expires.isoformat() if state else None,
                "asked": self.asked.isoformat() if self.asked else None,
                "trouble": _json(self.trouble.get("")),
            },
            "files": {
                "signed": {p: {"bytes": n, "sha256": h.hex()} for p, (n, h) in (state.files if state else {}).items()},
                "trouble": _json(self.trouble.get(FILES)),
            },
            "refused": {why.value: count for why, count in sorted(self.refused.items())},
            "announcements": self.announcements,
        }

    def close(self) -> None:
        """Idempotent."""
        for copy in self.copies.values():
            copy.close()
        self._fetcher.close()


def _json(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(value).items()}


def _floor_of(data: bytes) -> Floor:
    """What a file remembers of the metadata; nothing where it cannot be read."""
    try:
        floor = decode(_FLOOR, data) if data else Floor()
    except WireError:
        log.warning("a file's floor cannot be read")
        return Floor()
    assert isinstance(floor, Floor)
    return floor


def _highest(floors: Iterable[Floor]) -> Floor:
    """Below which nothing is taken: of two that have other keys, the one that root signed later."""
    highest = Floor()
    for floor in floors:
        if floor.online_keys != highest.online_keys:
            newer = max(highest, floor, key=lambda each: (each.root, each.targets, each.timestamp))
            highest = replace(newer, root=max(highest.root, floor.root), targets=max(highest.targets, floor.targets))
        else:
            highest = Floor(
                max(highest.root, floor.root),
                max(highest.timestamp, floor.timestamp),
                max(highest.snapshot, floor.snapshot),
                max(highest.targets, floor.targets),
                highest.online_keys,
            )
    return highest
