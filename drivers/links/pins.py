"""GPIO pins over gpiozero, which is imported here alone. The configured pin factory or no start: never a fall-back.

gpiozero by itself takes whatever factory loads, or the one that GPIOZERO_PIN_FACTORY names. A gate must not: a
factory is asked for by name, gpiozero's mock is refused, and so is an environment that points elsewhere. Levels
outlive this process on most boards: what makes outputs fall is the hardware behind `alive` (drivers/door/gpio.py).
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal

import structlog
from gpiozero import Factory, GPIODevice
from gpiozero.pins.mock import MockFactory

from drivers.links import LinkLost, Pin, PinChange

_log = structlog.get_logger()

Pull = Literal["up", "down", "none"]
_PULLS = {"up": "up", "down": "down", "none": "floating"}

RESCAN_S = 0.1
"""How often inputs are read although no edge was reported: repairs lost edges, notices a board that went away."""

CHANGES_MAX = 1024
"""Unread changes that are kept; beyond, the oldest go and the next re-scan tells what became of them."""


def _by_name(name: str) -> Callable[[], Any]:
    """The factory class of this entry point. Raises `ValueError` for none, a broken one, or a fake one."""
    group = entry_points(group="gpiozero_pin_factories")
    real = sorted({entry.name for entry in group} - {"mock"})
    for entry in group:
        if entry.name == name and name in real:
            try:
                made = entry.load()
            except (ImportError, AttributeError, OSError) as error:
                raise ValueError(f"pin factory {name!r} is not usable here: {error}") from error
            if isinstance(made, type) and issubclass(made, MockFactory):
                break
            return made  # type: ignore[no-any-return]
    raise ValueError(f"pin factory {name!r} is not one that moves real pins; installed: {', '.join(real) or 'none'}")


def _refuse_environment(name: str | None) -> None:
    """Raises `ValueError` where the environment would put gpiozero on other pins than the configured ones."""
    asked = os.environ.get("GPIOZERO_PIN_FACTORY")
    if asked is not None and asked != name:
        raise ValueError(f"factory is {name!r} but GPIOZERO_PIN_FACTORY says {asked!r}: remove it from the environment")
    for variable in ("PIGPIO_ADDR", "PIGPIO_PORT"):
        if variable in os.environ:
            raise ValueError(
                f"{variable} is set and would move factory to another board: remove it from the environment"
            )


@dataclass(slots=True)
class _Shared:
    """A factory in use. Two of gpiozero's on one chip close each other's pins, so links of a process share it."""

    factory: Any
    users: int = 0


_in_use: dict[Callable[[], Any], _Shared] = {}


class _Wire:
    """One claimed pin: turns raw levels into logical ones. `heard` may be called by a thread of the factory."""

    def __init__(self, name: str, pin: Pin, factory: Any, heard: Callable[[str, bool], None]) -> None:
        self.name = name
        self._active_low = pin.active_low
        self._heard = heard
        self._device = GPIODevice(pin.pin, pin_factory=factory)

    def listen(self, pull: Pull) -> None:
        self._device.pin.input_with_pull(_PULLS[pull])
        self._device.pin.edges = "both"
        self._device.pin.when_changed = self._changed

    def drive(self) -> None:
        self._device.pin.output_with_state(self._active_low)

    def rest(self) -> None:
        """An output to its inactive level."""
        self.active = False

    def _changed(self, ticks: Any, level: Any) -> None:
        self._heard(self.name, bool(level) != self._active_low)

    @property
    def active(self) -> bool:
        return bool(self._device.pin.state) != self._active_low

    @active.setter
    def active(self, active: bool) -> None:
        self._device.pin.state = active != self._active_low

    def close(self) -> None:
        self._device.close()


class GpiozeroLink:
    """Pins of the factory `factory`: the name of an entry point of gpiozero_pin_factories (lgpio, native ...).

    `pull` is the resistor of all inputs. Code, never configuration, may pass a function that makes a
    `gpiozero.Factory` instead of a name: that is how the simulator comes in (`daemon.app.build`). `allow_env`
    tolerates the environment variables that are otherwise refused; they are not followed either way. Claiming and
    writing take as long as the factory takes; for pins of this machine that is microseconds.
    """

    def __init__(self, factory: str | Callable[[], Factory], *, pull: Pull = "up", allow_env: bool = False) -> None:
        if pull not in _PULLS:
            raise ValueError(f"pull must be up, down or none, not {pull!r}")
        if not allow_env:
            _refuse_environment(factory if isinstance(factory, str) else None)
        self._make: Callable[[], Any] = _by_name(factory) if isinstance(factory, str) else factory
        self._pull: Pull = pull
        self._shared: _Shared | None = None
        self._inputs: dict[str, _Wire] = {}
        self._outputs: dict[str, _Wire] = {}
        self._raw: deque[PinChange] = deque(maxlen=CHANGES_MAX)
        self._woken = False
        self._told: dict[str, bool] = {}
        self._changes: deque[PinChange] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lost: LinkLost | None = None
        self._rescan: asyncio.TimerHandle | None = None

    async def open(self, inputs: Mapping[str, Pin], outputs: Mapping[str, Pin]) -> Mapping[str, bool]:
        """Claim the pins, outputs inactive. Returns the level of every input. Raises `LinkLost`."""
        await self.close()
        self._loop = asyncio.get_running_loop()
        self._lost, self._woken = None, False
        try:
            self._shared = self._claim_factory()
            for name, pin in outputs.items():
                self._outputs[name] = wire = _Wire(name, pin, self._shared.factory, self._heard)
                wire.drive()
            for name, pin in inputs.items():
                self._inputs[name] = wire = _Wire(name, pin, self._shared.factory, self._heard)
                wire.listen(self._pull)
            self._told = {name: wire.active for name, wire in self._inputs.items()}
        except Exception as error:  # every factory raises exceptions of its own
            await self.close()
            raise LinkLost("pins_unavailable", str(error)) from error
        self._rescan = self._loop.call_later(RESCAN_S, self._scan)
        return dict(self._told)

    async def next(self) -> PinChange:
        """The next raw change of an input, waiting for it. Safe to cancel: no change is lost. Raises `LinkLost`."""
        while not self._changes:
            if self._lost is not None:
                raise self._lost
            if self._shared is None:
                raise LinkLost("not_open")
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._changes.popleft()

    def write(self, name: str, active: bool) -> None:
        """Set an output. Raises `LinkLost`."""
        if self._lost is not None:
            raise self._lost
        if self._shared is None:
            raise LinkLost("not_open")
        wire = self._outputs[name]
        try:
            wire.active = active
        except Exception as error:  # as in `open`
            self._fail(LinkLost("pins_gone", str(error)))
            raise LinkLost("pins_gone", str(error)) from error

    async def close(self) -> None:
        """All outputs inactive, pins released. Idempotent; never raises."""
        if self._rescan is not None:
            self._rescan.cancel()
            self._rescan = None
        for wire in self._outputs.values():
            self._quietly(wire.name, wire.rest)
        for wire in (*self._outputs.values(), *self._inputs.values()):
            self._quietly(wire.name, wire.close)
        self._inputs, self._outputs = {}, {}
        self._raw.clear()
        self._changes.clear()
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.users -= 1
            if shared.users == 0:
                del _in_use[self._make]
                self._quietly("factory", shared.factory.close)
        self._wake()

    # -- inside

    def _claim_factory(self) -> _Shared:
        shared = _in_use.get(self._make)
        if shared is None:
            shared = _in_use[self._make] = _Shared(self._make())
        shared.users += 1
        return shared

    @staticmethod
    def _quietly(what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - as in `open`; closing goes on with the other pins
            _log.warning("pin did not close cleanly", pin=what, error=str(error))

    def _heard(self, name: str, active: bool) -> None:
        """An edge, from any thread: noted there, handled in the loop."""
        if self._shared is None:
            return
        self._raw.append(PinChange(name, active, self._loop.time()))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._woken = False
        while self._raw:
            self._note(self._raw.popleft())

    def _note(self, change: PinChange) -> None:
        if self._told.get(change.name) is change.active:
            return
        self._told[change.name] = change.active
        self._changes.append(change)
        if len(self._changes) > CHANGES_MAX:  # nobody reads: keep what is newest, `_told` says where inputs stand
            self._changes.popleft()
        self._wake()

    def _scan(self) -> None:
        """Read every level: an edge that the factory missed is told late rather than never."""
        try:
            levels = {name: wire.active for name, wire in self._inputs.items()}
            for wire in self._outputs.values():
                _ = wire.active
        except Exception as error:  # noqa: BLE001 - as in `open`
            self._fail(LinkLost("pins_gone", str(error)))
            return
        now = self._loop.time()
        for name, active in levels.items():
            self._note(PinChange(name, active, now))
        self._rescan = self._loop.call_later(RESCAN_S, self._scan)

    def _fail(self, lost: LinkLost) -> None:
        self._lost = self._lost or lost
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
