"""Doors on digital inputs and outputs: what a gate's own controller offers on relays and terminals.

The driver asks and observes; the gate's hard-wired chain stays in charge. Requests are dead-man outputs: `alive`
toggles from the event loop, and the hardware behind it (a re-triggerable monoflop, docs/drivers.md) lets a request
count only while `alive` toggled within the last 0.4 s. A dead or hanging process therefore asks for nothing.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import structlog

from drivers.base import DeviceFault, Emit
from drivers.door import Beam, Debounce, Doorway
from drivers.links import LinkLost, Pin, PinChange, PinLink
from gated.lane import events as ev
from gated.lane.commands import Command, RequestOpen, WithdrawOpen
from gated.lane.events import Door

_log = structlog.get_logger()

MONOFLOP_S = 0.4
"""How long the hardware believes that a lane is alive after `alive` toggled (outputs fall within 500 ms)."""

_LEAF_NEEDS = ("request", "closed", "outer", "inner")
_LEAF_MAY = ("open", "obstacle")
_OUTPUTS = ("a_request", "b_request", "alive")


@dataclass(frozen=True, slots=True)
class Settings:
    """[door]. Pins are tables `{ pin = 17, active_low = true }`. A lane of one leaf has no pin that begins with a_.

    Active means: contact `closed`/`open` reached, light barrier broken, somebody or something there, obstacle met,
    fire, *mains present*, button pressed. Choose the sense of fire, mains and barriers so that a cut wire reads as
    fire, no mains, broken.
    """

    factory: str
    """gpiozero's pin factory by name: lgpio, native, or one that is installed beside it. Nothing is tried instead."""
    alive: Pin
    b_request: Pin
    b_closed: Pin
    b_outer: Pin
    b_inner: Pin
    b_open: Pin | None = None
    b_obstacle: Pin | None = None
    a_request: Pin | None = None
    a_closed: Pin | None = None
    a_outer: Pin | None = None
    a_inner: Pin | None = None
    a_open: Pin | None = None
    a_obstacle: Pin | None = None
    presence_one: Pin | None = None
    presence_many: Pin | None = None
    thing: Pin | None = None
    fire: Pin | None = None
    mains: Pin | None = None
    helper: Pin | None = None
    pull: Literal["up", "down", "none"] = "up"
    mode: Literal["level", "pulse"] = "level"
    pulse_s: float = 0.2
    pulse_interval_s: float = 1.0
    alive_interval_s: float = 0.1
    contact_debounce_s: float = 0.03
    beam_debounce_s: float = 0.008
    presence_debounce_s: float = 0.15
    button_debounce_s: float = 0.05
    contradiction_s_max: float = 0.5
    crossing_gap_s: float = 0.4
    beam_stuck_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.alive_interval_s <= MONOFLOP_S / 2:
            raise ValueError(f"alive_interval_s must be above 0 and at most {MONOFLOP_S / 2}, or requests drop out")
        if not max(0.1, self.alive_interval_s) <= self.pulse_s < self.pulse_interval_s:
            raise ValueError(
                "pulse_s must be at least 0.1 (shorter pulses are overlooked) and alive_interval_s, "
                "and below pulse_interval_s"
            )
        if not 0 <= self.beam_debounce_s <= 0.03:
            raise ValueError("beam_debounce_s must be 0 to 0.03: a runner's leg breaks a barrier for little more")
        for name in ("contact_debounce_s", "presence_debounce_s", "button_debounce_s"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1")
        for name in ("contradiction_s_max", "crossing_gap_s", "beam_stuck_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        self._check_pins()

    def _check_pins(self) -> None:
        named = {**self.inputs, **self.outputs}
        leaf_a = [name for name in named if name.startswith("a_")]
        needs = [f"a_{part}" for part in _LEAF_NEEDS] + ["presence_one", "presence_many"]
        if leaf_a and (lacking := [name for name in needs if name not in named]):
            raise ValueError(f"{lacking[0]} is missing: a lane with a leaf A ({leaf_a[0]}) needs {', '.join(needs)}")
        if ("presence_one" in named) != ("presence_many" in named):
            raise ValueError("presence_one and presence_many belong together: give both or neither")
        used: dict[str, str] = {}
        for name, pin in named.items():
            other = used.setdefault(str(pin.pin), name)
            if other != name:
                raise ValueError(f"{name} and {other} are both on pin {pin.pin}")

    @property
    def inputs(self) -> Mapping[str, Pin]:
        """The inputs that there are, by name."""
        return {name: pin for name, pin in self._pins() if name not in _OUTPUTS}

    @property
    def outputs(self) -> Mapping[str, Pin]:
        """The outputs that there are, by name."""
        return {name: pin for name, pin in self._pins() if name in _OUTPUTS}

    @property
    def doors(self) -> tuple[Door, ...]:
        """The leaves that there are."""
        return (Door.B,) if self.a_request is None else (Door.A, Door.B)

    def _pins(self) -> list[tuple[str, Pin]]:
        values = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return [(name, value) for name, value in values if isinstance(value, Pin)]

    def hold_s(self, name: str) -> float:
        """How long the input `name` must hold a level."""
        if name.endswith(("_outer", "_inner")):
            return self.beam_debounce_s
        if name.startswith("presence_") or name == "thing":
            return self.presence_debounce_s
        return self.button_debounce_s if name == "helper" else self.contact_debounce_s


def _no_emit(event: ev.Event) -> None:
    """Before the first `run` there is nobody to tell."""


class Device:
    """The gate's leaves, barriers, presence sensors and alarms. `side` is not used: pins name theirs."""

    def __init__(self, settings: Settings, link: PinLink, side: Door = Door.A) -> None:
        self._settings = settings
        self._link = link
        self._emit: Emit = _no_emit
        self._ready = False
        self._wanted: set[Door] = set()
        self._levels: dict[str, Debounce] = {}
        self._moving: set[str] = set()
        """The inputs whose level has not held yet."""
        self._closed: dict[Door, bool] = {}
        self._doorways: dict[Door, Doorway] = {}
        self._contradict: dict[Door, float] = {}
        self._pulse_end: dict[Door, float] = {}
        self._pulse_next: dict[Door, float] = {}
        self._ready_mono = self._alive_due = 0.0
        self._alive = False

    # -- Driver, Actuator

    async def run(self, emit: Emit) -> None:
        """Tell how everything stands, then `DeviceReady`, then every change. Ends by `DeviceFault`."""
        loop = asyncio.get_running_loop()
        try:
            levels = await self._link.open(self._settings.inputs, self._settings.outputs)
            self._begin(levels, loop.time(), emit)
            while True:
                change = await self._next_change()
                now = loop.time()
                if change is None:
                    self._settle(now)
                else:
                    self._settle(change.mono)
                    self._levels[change.name].feed(change.active, change.mono)
                    self._moving.add(change.name)
                self._tick(now)
        finally:
            self._ready = False
            self._wanted.clear()
            await self._link.close()

    def do(self, command: Command) -> None:
        """`RequestOpen`, `WithdrawOpen`. Before `DeviceReady` nothing is requested, and nothing is remembered."""
        if not isinstance(command, RequestOpen | WithdrawOpen):
            raise TypeError(f"a door does not {type(command).__name__}")
        door = command.door
        if door not in self._settings.doors:
            raise ValueError(f"leaf {door.value} has no request output: {door.value.lower()}_request is not in [door]")
        if not self._ready:
            _log.warning("door command while the door is not ready", command=type(command).__name__, door=door.value)
            return
        now = asyncio.get_running_loop().time()
        if isinstance(command, RequestOpen):
            if door not in self._wanted:
                self._wanted.add(door)
                self._pulse_next[door] = now
                if self._settings.mode == "pulse":
                    self._pulse(door, now)
                else:
                    self._request(door, True)
        else:
            self._wanted.discard(door)
            self._pulse_end.pop(door, None)
            self._request(door, False)

    # -- time

    async def _next_change(self) -> PinChange | None:
        """The next change of an input, or None when something else is due."""
        try:
            async with asyncio.timeout_at(self._due()):
                return await self._link.next()
        except TimeoutError:
            return None

    def _due(self) -> float:
        waits = [self._alive_due]
        waits += [due for name in self._moving if (due := self._levels[name].due) is not None]
        waits += [since + self._settings.contradiction_s_max for since in self._contradict.values()]
        waits += self._pulse_end.values()
        if self._settings.mode == "pulse":
            waits += [self._pulse_next[door] for door in self._wanted if not self._is_open(door)]
        if not self._ready and not self._contradict:
            waits.append(self._ready_mono)
        return min(waits)

    def _tick(self, now: float) -> None:
        for door, since in self._contradict.items():
            if now >= since + self._settings.contradiction_s_max:
                raise DeviceFault("contacts_contradict", f"leaf {door.value} is open and closed at once")
        if now >= self._alive_due:
            self._alive = not self._alive
            self._link.write("alive", self._alive)
            self._alive_due = now + self._settings.alive_interval_s
            for door, doorway in self._doorways.items():
                for beam in doorway.stuck(now):
                    _log.warning("light barrier broken for too long", door=door.value, beam=beam.value)
        if self._settings.mode == "pulse":
            for door in self._settings.doors:
                self._pulse(door, now)
        if not self._ready and not self._contradict and now >= self._ready_mono:
            self._announce()

    # -- outputs

    def _pulse(self, door: Door, now: float) -> None:
        """End or begin a pulse on the request output of `door` where that is due."""
        if now >= self._pulse_end.get(door, float("inf")):
            del self._pulse_end[door]
            self._request(door, False)
        if door in self._wanted and not self._is_open(door) and now >= self._pulse_next[door]:
            self._pulse_end[door] = now + self._settings.pulse_s
            self._pulse_next[door] = now + self._settings.pulse_interval_s
            self._request(door, True)

    def _request(self, door: Door, active: bool) -> None:
        try:
            self._link.write(f"{door.value.lower()}_request", active)
        except LinkLost as lost:  # `do` must not raise; writing `alive` will, and ends `run`
            _log.warning("door request not written", door=door.value, why=lost.why)

    # -- inputs

    def _begin(self, levels: Mapping[str, bool], now: float, emit: Emit) -> None:
        settings = self._settings
        self._emit, self._ready = emit, False
        self._levels = {name: Debounce(active, settings.hold_s(name)) for name, active in levels.items()}
        self._moving = set()
        self._pulse_end, self._pulse_next, self._contradict = {}, {}, {}
        self._doorways = {
            door: Doorway(
                door,
                self._active(f"{door.value.lower()}_outer"),
                self._active(f"{door.value.lower()}_inner"),
                now,
                gap_s=settings.crossing_gap_s,
                stuck_s=settings.beam_stuck_s,
            )
            for door in settings.doors
        }
        for door in settings.doors:
            self._leaf(door, now)
        self._alive, self._alive_due = False, now
        self._ready_mono = now + max(settings.hold_s(name) for name in levels)

    def _announce(self) -> None:
        """How everything stands, then `DeviceReady`."""
        for door in self._settings.doors:
            self._emit(ev.DoorClosed(door) if self._closed[door] else ev.DoorOpened(door))
        for door, doorway in self._doorways.items():
            self._emit(ev.DoorwayBlocked(door) if doorway.blocked else ev.DoorwayCleared(door))
        self._ready = True
        between = "presence_one" if "presence_one" in self._levels else "thing"
        for name in ("a_obstacle", "b_obstacle", between, "fire", "mains", "helper"):
            if name in self._levels:
                self._accept(name, self._active(name), self._ready_mono)
        self._emit(ev.DeviceReady(ev.Device.DOOR))

    def _active(self, name: str) -> bool:
        level = self._levels.get(name)
        return level is not None and level.active

    def _settle(self, mono: float) -> None:
        """Every level that held by `mono` counts now, in the order in which they began."""
        if not self._moving:
            return
        held = [(since, name) for name in self._moving if (since := self._levels[name].settle(mono)) is not None]
        self._moving = {name for name in self._moving if self._levels[name].due is not None}
        for since, name in sorted(held):
            self._accept(name, self._levels[name].active, since)

    def _accept(self, name: str, active: bool, mono: float) -> None:
        """A debounced level -> events."""
        match name.split("_"):
            case [leaf, "closed" | "open"]:
                self._leaf(Door(leaf.upper()), mono)
            case [leaf, "outer" | "inner" as beam]:
                for event in self._doorways[Door(leaf.upper())].feed(Beam(beam), active, mono):
                    self._say(event)
            case [leaf, "obstacle"]:
                if active:
                    self._say(ev.ObstacleHit(Door(leaf.upper())))
            case ["presence", _] | ["thing"]:
                persons = 2 if self._active("presence_many") else int(self._active("presence_one"))
                self._say(ev.PresenceChanged(persons, self._active("thing")))
            case ["fire"]:
                self._say(ev.FireStarted() if active else ev.FireEnded())
            case ["mains"]:
                self._say(ev.MainsBack() if active else ev.MainsLost())
            case ["helper"]:
                if active:
                    self._say(ev.HelpPressed())
            case _:
                raise AssertionError(f"no handler for input {name}")

    def _leaf(self, door: Door, mono: float) -> None:
        leaf = door.value.lower()
        closed, opened = self._active(f"{leaf}_closed"), self._active(f"{leaf}_open")
        if closed and opened:
            self._contradict.setdefault(door, mono)
        else:
            self._contradict.pop(door, None)
        shut = closed and not opened
        if shut != self._closed.get(door):
            self._closed[door] = shut
            self._say(ev.DoorClosed(door) if shut else ev.DoorOpened(door))

    def _is_open(self, door: Door) -> bool:
        leaf = door.value.lower()
        return self._active(f"{leaf}_open") if f"{leaf}_open" in self._levels else not self._closed[door]

    def _say(self, event: ev.Event) -> None:
        """Before `DeviceReady` changes only count towards how everything stands."""
        if self._ready:
            self._emit(event)
