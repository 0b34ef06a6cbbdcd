"""What a technician sees of the lane: a snapshot without anything personal, and a line for every change."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from gated.control_views import AlarmView, PolicyView, Snapshot, WayView
from gated.lane import commands as cmd
from gated.lane.commands import Command
from gated.lane.events import Door, Now
from gated.lane.evidence import Decision
from gated.lane.machine import Lane
from gated.wire.facts import Part

ALARMS_SHOWN = 20
WATCH_EVERY_S = 0.1
"""Changes closer together than this are one line."""


def way_by(lane: Lane) -> str:
    """What says whom the lane serves: order, schedule or configuration."""
    return "order" if lane.ordered_way else "schedule" if lane.ways.shifts else "configuration"


def _way(lane: Lane) -> WayView:
    turns = lane.turns
    until, then = (turns[0].isoformat(timespec="seconds"), turns[1]) if turns else (None, None)
    return {"way": lane.way, "by": way_by(lane), "until": until, "then": then}


class Status:
    """Follows the lane's commands. `devices`: the state of each by name; `pending`: records by stream;
    `cache`: what the age of each partition is called; `policy`: which is in force; `versions`: of everything."""

    def __init__(
        self,
        lane: Lane,
        name: str,
        site: str,
        boot: str,
        devices: Callable[[], Mapping[str, str]],
        pending: Callable[[], Mapping[str, int]],
        cache: Callable[[], Mapping[str, str]],
        policy: Callable[[], PolicyView],
        versions: Callable[[], Iterable[Part]],
    ) -> None:
        self._lane, self._name, self._site, self._boot = lane, name, site, boot
        self._devices, self._pending, self._cache, self._policy = devices, pending, cache, policy
        self._versions = versions
        self._alarms: deque[AlarmView] = deque(maxlen=ALARMS_SHOWN)
        self.counters: Counter[str] = Counter()
        self._state = lane.state
        self._since = 0.0
        self._prompt = ""
        self._changed = asyncio.Event()

    def heard(self, command: Command, now: Now) -> None:
        """Count and remember what may be shown."""
        match command:
            case cmd.Alarm(code, detail):
                self._alarms.append(
                    {"utc": now.utc.isoformat(timespec="seconds"), "code": code.value, "detail": detail}
                )
                self.counters["alarms"] += 1
            case cmd.Settle(_, outcome):
                self.counters[outcome.value] += 1
            case cmd.Record() if command.verdict.decision is not Decision.RELEASE:
                self.counters[f"{command.verdict.decision.value}s"] += 1
            case cmd.Prompt(code, side) if side is None or self._is_spoken_to(side):
                self._prompt = code.value
            case _:
                pass

    def _is_spoken_to(self, side: Door) -> bool:
        """Whether somebody may stand there whom the lane serves."""
        passage = self._lane.passage
        return side in self._lane.serving if passage is None else side is passage.near

    def stepped(self, now: Now) -> None:
        """Call after every step of the lane."""
        if self._lane.state is not self._state:
            self._state, self._since = self._lane.state, now.mono
        self._changed.set()
        self._changed = asyncio.Event()

    def snapshot(self) -> Snapshot:
        """The lane at this moment."""
        lane, gate = self._lane, self._lane.gate
        now = asyncio.get_running_loop().time()
        due = lane.deadline
        return {
            "lane": self._name,
            "site": self._site,
            "topology": lane.topology.value,
            "direction": _way(lane),
            "boot": self._boot,
            "state": lane.state.value,
            "prompt": self._prompt,
            "since_s": round(now - self._since, 1),
            "deadline_s": None if due is None else round(max(0.0, due - now), 1),
            "ticket": lane.passage.ticket if lane.passage else None,
            "doors": {d.value: {"open": leaf.open, "requested": leaf.requested} for d, leaf in gate.leaves.items()},
            "persons": gate.persons,
            "thing": gate.thing,
            "faults": sorted(fault.value for fault in gate.faults()),
            "devices": dict(self._devices()),
            "uplink": "up" if gate.uplink else "down",
            "outbox": dict(self._pending()),
            "cache": dict(self._cache()),
            "policy": self._policy(),
            "versions": {part.name: part.version for part in self._versions()},
            "counters": dict(self.counters),
            "last_alarms": list(self._alarms),
            "service": lane.service_by,
            "closed_by": lane.closed_by,
        }

    async def watch(self) -> AsyncIterator[Mapping[str, Any]]:
        """A snapshot now and one after each change."""
        while True:
            changed = self._changed  # each watcher waits for the change after its own last snapshot
            yield self.snapshot()
            await changed.wait()
            await asyncio.sleep(WATCH_EVERY_S)
