"""What befalls the lane's own parts, planned from a seed: cables, camera, disk, matcher, clock, queue, process, people.

The gate's physical mishaps are in `mishaps`; these are the other half of "every fault"."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gated.lane import events as ev
from gated.lane.core import State
from gated.lane.events import Door
from gated.store.cachefile import path_of
from gated.wire.rows import PARTITIONS
from tests.hw_sim.simlane import VirtualLane
from tests.hw_sim.touch import Fault as Garbled
from tests.hw_sim.video import Fault as Video


class Upset(Enum):
    """Kinds; the value is what the monitor says in an explanation."""

    READER_UNPLUGGED = "reader unplugged"
    READER_STALLED = "reader stalled"
    CAMERA_FROZEN = "camera frozen"
    CAMERA_BLACK = "camera black"
    CAMERA_GONE = "camera gone"
    CAMERA_STALLED = "camera stalled"
    PINS_UNPLUGGED = "door pins unplugged"
    LAMPS_UNPLUGGED = "lamp pins unplugged"
    DISK_FULL = "disk refuses"
    CACHE_GONE = "cache gone"
    MATCHER_FAILS = "matcher fails"
    QUEUE_FULL = "event queue full"
    CLOCK_BACK = "clock stepped back"
    CLOCK_FORTH = "clock stepped forth"
    HQ_AWAY = "hq unreachable"
    OFFICER_AWAY = "officer away"
    CRASH = "process killed"
    CLOSED_BY_HQ = "closed by hq"
    SERVICE = "service visit"
    FINGERS_UNPLUGGED = "fingerprint reader unplugged"
    FINGERS_STALLED = "fingerprint reader stalled"
    FINGERS_NOISY = "fingerprint reader garbles"


@dataclass(frozen=True, slots=True)
class Planned:
    """One upset: when, and for how long."""

    at_s: float
    kind: Upset
    for_s: float


def plan(seed: int, count: int, *, within_s: float = 500.0) -> list[Planned]:
    """`count` seeded upsets in the first `within_s` seconds; kinds take turns over the seeds so that each one comes."""
    rng = random.Random(f"upsets {seed}")
    kinds = list(Upset)
    return sorted(
        (
            Planned(rng.uniform(20.0, within_s), kinds[(seed * count + k) % len(kinds)], rng.uniform(3.0, 25.0))
            for k in range(count)
        ),
        key=lambda upset: upset.at_s,
    )


async def befall(upset: Planned, lane: VirtualLane) -> None:
    """Let it happen, and end."""
    await asyncio.sleep(upset.at_s)
    lane.world.monitor.disturb(upset.kind.value, upset.for_s)
    begin, end = _ACTS[upset.kind]
    await begin(lane)
    try:
        await asyncio.sleep(upset.for_s)
    finally:
        await end(lane)


Act = Callable[[VirtualLane], Awaitable[None]]
MIDWAY_S_MAX = 60.0


def _now(act: Callable[[VirtualLane], Any]) -> Act:
    async def do(lane: VirtualLane) -> None:
        act(lane)

    return do


def _cables(lane: VirtualLane, plugged: bool, fingers: bool = False) -> None:
    for section, (near, far) in lane.cables.items():
        if (section == "fingerprint") is not fingers:
            continue
        if plugged:
            near.plug()
            far.plug()
            lane.mirror(section)
        else:
            near.unplug()
            far.unplug()


def _midway(act: Callable[[VirtualLane], Any]) -> Act:
    """When somebody is being asked for a finger, if that is soon."""

    async def do(lane: VirtualLane) -> None:
        for _ in range(int(MIDWAY_S_MAX * 5)):
            if lane.app.lane.state is State.FINGERING:
                await asyncio.sleep(lane.rng.uniform(0.0, 1.5))
                break
            await asyncio.sleep(0.2)
        lane.world.monitor.disturb("fingerprint reader", MIDWAY_S_MAX)
        act(lane)

    return do


def _pins(section: str, plugged: bool) -> Callable[[VirtualLane], None]:
    def act(lane: VirtualLane) -> None:
        pins = lane.pins[section]
        pins.plug() if plugged else pins.unplug()

    return act


def _stall(on: bool) -> Callable[[VirtualLane], None]:
    def act(lane: VirtualLane) -> None:
        for reader in lane.readers.values():
            reader.stall() if on else reader.resume()

    return act


def _video(fault: Video | None) -> Callable[[VirtualLane], None]:
    def act(lane: VirtualLane) -> None:
        lane.video.fault = fault

    return act


def _refuse(on: bool) -> Callable[[VirtualLane], None]:
    def act(lane: VirtualLane) -> None:
        lane.workers.refuse = on

    return act


def _cache(gone: bool) -> Callable[[VirtualLane], None]:
    def act(lane: VirtualLane) -> None:
        for partition in PARTITIONS:
            here, there = path_of(lane.folder, partition, 1), lane.folder / f"away-{partition}"
            (here.rename(there) if gone else there.rename(here)) if (here if gone else there).exists() else None

    return act


def _matcher(broken: bool) -> Callable[[VirtualLane], None]:
    def act(lane: VirtualLane) -> None:
        lane.workers.broken = broken

    return act


def _flood(lane: VirtualLane) -> None:
    for _ in range(3000):
        lane.app.emit(ev.DocumentUnreadable("flood"))


def _step(seconds: float) -> Callable[[VirtualLane], None]:
    def act(lane: VirtualLane) -> None:
        lane.clock.step(seconds)

    return act


def _emit(make: Callable[[], ev.Event]) -> Callable[[VirtualLane], None]:
    def act(lane: VirtualLane) -> None:
        lane.app.emit(make())

    return act


def _away(away: bool) -> Callable[[VirtualLane], None]:
    def act(lane: VirtualLane) -> None:
        lane.officer.away = away

    return act


async def _crash(lane: VirtualLane) -> None:
    await lane.crash()


async def _revive(lane: VirtualLane) -> None:
    lane.revive()


async def _service(lane: VirtualLane) -> None:
    """Ask for service until the lane gives it, move a leaf, and shut it."""
    for k in range(10):
        lane.app.emit(ev.ServiceOn(f"s-on-{k}", "technician-sim"))
        await asyncio.sleep(3.0)
        if lane.app.lane.state is State.SERVICE:
            break
    lane.world.monitor.service = lane.app.lane.state is State.SERVICE
    for is_open in (True, False):
        lane.app.emit(ev.ServiceDoor(f"s-door-{is_open}", "technician-sim", Door.B, is_open))
        await asyncio.sleep(4.0)


async def _service_over(lane: VirtualLane) -> None:
    lane.app.emit(ev.ServiceOff("s-off", "technician-sim"))
    await asyncio.sleep(3.0)
    lane.world.monitor.service = False


async def _nothing(lane: VirtualLane) -> None:
    pass


_ACTS: dict[Upset, tuple[Act, Act]] = {
    Upset.READER_UNPLUGGED: (_now(lambda v: _cables(v, False)), _now(lambda v: _cables(v, True))),
    Upset.READER_STALLED: (
        _now(_stall(True)),
        _now(_stall(False)),
    ),
    Upset.CAMERA_FROZEN: (_now(_video(Video.FREEZE)), _now(_video(None))),
    Upset.CAMERA_BLACK: (_now(_video(Video.BLACK)), _now(_video(None))),
    Upset.CAMERA_GONE: (_now(_video(Video.DISCONNECT)), _now(_video(None))),
    Upset.CAMERA_STALLED: (_now(_video(Video.STALL)), _now(_video(None))),
    Upset.PINS_UNPLUGGED: (_now(_pins("door", False)), _now(_pins("door", True))),
    Upset.LAMPS_UNPLUGGED: (_now(_pins("indicator", False)), _now(_pins("indicator", True))),
    Upset.DISK_FULL: (_now(_refuse(True)), _now(_refuse(False))),
    Upset.CACHE_GONE: (_now(_cache(True)), _now(_cache(False))),
    Upset.MATCHER_FAILS: (_now(_matcher(True)), _now(_matcher(False))),
    Upset.QUEUE_FULL: (_now(_flood), _nothing),
    Upset.CLOCK_BACK: (_now(_step(-36000.0)), _now(_step(36000.0))),
    Upset.CLOCK_FORTH: (_now(_step(36000.0)), _now(_step(-36000.0))),
    Upset.HQ_AWAY: (_now(_emit(ev.UplinkLost)), _now(_emit(ev.UplinkReady))),
    Upset.OFFICER_AWAY: (_now(_away(True)), _now(_away(False))),
    Upset.CRASH: (_crash, _revive),
    Upset.CLOSED_BY_HQ: (
        _now(_emit(lambda: ev.CloseLane("hq-close", "hq"))),
        _now(_emit(lambda: ev.OpenLane("hq-open", "hq"))),
    ),
    Upset.SERVICE: (_service, _service_over),
    Upset.FINGERS_UNPLUGGED: (_midway(lambda v: _cables(v, False, True)), _now(lambda v: _cables(v, True, True))),
    Upset.FINGERS_STALLED: (_midway(lambda v: v.sensor.stall()), _now(lambda v: v.sensor.resume())),
    Upset.FINGERS_NOISY: (_midway(lambda v: v.sensor.suffer(Garbled.GARBLE)), _nothing),
}

assert set(_ACTS) == set(Upset)
