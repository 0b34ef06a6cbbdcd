"""Watches how the cache stands: tells HQ and technicians how far it has come and what its age is called, and hears what
sync did with it."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NoReturn

import structlog

from gated.control import Answer, Code, Refused, SyncTold
from gated.daemon.cachememory import Memory
from gated.daemon.clock import Clock
from gated.daemon.lookup import LookUp, Standing
from gated.lane.commands import Alarm, AlarmCode
from gated.lane.freshness import Ages, Freshness, freshness
from gated.lane.rules import Rules
from gated.store.sql import StoreError
from gated.wire.facts import CacheMoved, Fact

log = structlog.get_logger()

LOOK_S = 5.0
TELL_S = 3600.0


class CacheWatch:
    """Looks every few seconds, and whenever sync applied something.

    `rules`: the policy in force, which says what an age is called; `tell`: a fact for HQ; `alarm`: for people;
    `remember`: (partition, text) for the lane's own database."""

    def __init__(
        self,
        look_up: LookUp,
        rules: Callable[[], Rules],
        clock: Clock,
        memory: Mapping[str, Memory],
        *,
        tell: Callable[[Fact], None],
        alarm: Callable[[Alarm], None],
        remember: Callable[[str, str], None],
    ) -> None:
        self._look_up, self._rules, self._clock, self._memory = look_up, rules, clock, memory
        self._tell, self._alarm, self._remember = tell, alarm, remember
        self._standing: Mapping[str, Standing] = {}
        self._told: dict[str, tuple[int, int, Freshness]] = {}
        self._told_mono: dict[str, float] = {}
        self._texts: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._look = asyncio.Event()

    async def run(self) -> NoReturn:
        """Until cancelled."""
        while True:
            self._look.clear()
            try:
                self._standing = await self._look_up.standing()
            except StoreError:
                self._standing = {}  # the look-up says so itself: the cache is lost like a device
            for partition, standing in self._standing.items():
                self._compare(partition, standing)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._look.wait()
            except TimeoutError:
                pass

    def _compare(self, partition: str, standing: Standing) -> None:
        note, now = standing.note, self._clock.now()
        state = self._state(partition, standing.as_of)
        here = (note.generation, note.epoch, state)
        before = self._told.get(partition)
        if here != before or now.mono - self._told_mono[partition] >= TELL_S:
            self._told[partition], self._told_mono[partition] = here, now.mono
            fact = CacheMoved(partition, note.generation, note.epoch, note.serial, standing.as_of, state.value)
            self._tell(fact)
        if state is not (before[2] if before else Freshness.FRESH) and state is not Freshness.FRESH:
            log.warning("cache has aged", partition=partition, state=state.value)
            self._alarm(Alarm(AlarmCode.CACHE_AGED, f"{partition} {state.value}"))
        text = self._memory[partition].text
        if text != self._texts.get(partition):
            self._texts[partition] = text
            self._remember(partition, text)

    def _state(self, partition: str, as_of: datetime) -> Freshness:
        ages: Ages | None = self._rules().freshness.get(partition)
        return freshness(ages, as_of, self._clock.now().utc)

    def told(self, request: SyncTold) -> None:
        """What sync says. One refusal is one alarm until something else happens to that partition."""
        if not request.why:
            self._refused.pop(request.partition, None)
            self._look.set()
        elif self._refused.get(request.partition) != request.why:
            self._refused[request.partition] = request.why
            log.warning("sync refused something", partition=request.partition, why=request.why)
            self._alarm(Alarm(AlarmCode.SYNC_REFUSED, f"{request.partition} {request.why}".strip()))

    def states(self) -> dict[str, str]:
        """What the age of each partition is called, for `status`."""
        return {name: self._state(name, each.as_of).value for name, each in self._standing.items()}

    def serials(self) -> dict[str, str]:
        """`epoch.serial` of each partition: how far the cache has come."""
        return {name: f"{each.note.epoch}.{each.note.serial}" for name, each in self._standing.items()}

    def confirmed(self) -> dict[str, datetime]:
        """When HQ last said of each partition that this is all, as far as that is believed."""
        return {name: each.as_of for name, each in self._standing.items()}

    def view(self) -> Answer:
        """For `gated cache`. Raises `Refused` where no cache is open."""
        if not self._standing:
            raise Refused(Code.REFUSED, "no enrolment cache is open: gated cache status says what sync has")
        return {
            "partitions": {
                name: {
                    "file": each.file,
                    "generation": each.note.generation,
                    "epoch": each.note.epoch,
                    "serial": each.note.serial,
                    "as_of": each.as_of.isoformat(timespec="seconds"),
                    "state": self._state(name, each.as_of).value,
                    "rows": each.note.rows,
                    "refused": self._refused.get(name, ""),
                }
                for name, each in self._standing.items()
            }
        }
