"""End displays of a lane: a green and a red lamp a side, on digital outputs. Green and red are never lit together."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import structlog

from drivers.base import Emit
from drivers.links import LinkLost, Pin, PinLink
from gated.lane.commands import Command, Indicate, Light
from gated.lane.events import Device as LaneDevice
from gated.lane.events import DeviceReady, Door

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settings:
    """[indicator]. Pins are tables `{ pin = 17, active_low = true }`; active means lit."""

    factory: str
    """gpiozero's pin factory by name: lgpio, native, or one that is installed beside it. Nothing is tried instead."""
    a_green: Pin | None = None
    a_red: Pin | None = None
    b_green: Pin | None = None
    b_red: Pin | None = None

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ValueError("a_green is missing, and so are all other lamps: name one, or leave [indicator] out")
        used: dict[str, str] = {}
        for name, pin in self.outputs.items():
            if (other := used.setdefault(str(pin.pin), name)) != name:
                raise ValueError(f"{name} and {other} are both on pin {pin.pin}")

    @property
    def outputs(self) -> Mapping[str, Pin]:
        """The lamps that there are, by name."""
        values = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return {name: value for name, value in values if isinstance(value, Pin)}


class Device:
    """The lamps of both sides. `side` is not used: pins name theirs.

    What was indicated last is kept while the link is down and shown when it is back: it is always the lane's latest
    wish, and a lamp opens nothing. A lamp that the lane does not have is not lit, silently."""

    def __init__(self, settings: Settings, link: PinLink, side: Door = Door.A) -> None:
        self._settings = settings
        self._link = link
        self._lights = dict.fromkeys(Door, Light.OFF)
        self._up = False

    async def run(self, emit: Emit) -> None:
        """Show what was indicated last, then `DeviceReady`; after that only the link's end. Ends by `DeviceFault`."""
        try:
            await self._link.open({}, self._settings.outputs)
            self._up = True
            self._show(*Door)
            emit(DeviceReady(LaneDevice.INDICATOR))
            while True:
                await self._link.next()  # there are no inputs: it only ever raises
        finally:
            self._up = False
            await self._link.close()

    def do(self, command: Command) -> None:
        """`Indicate`."""
        if not isinstance(command, Indicate):
            raise TypeError(f"an indicator does not {type(command).__name__}")
        self._lights[command.side] = command.light
        if not self._up:
            return
        try:
            self._show(command.side)
        except LinkLost as lost:  # `do` must not raise; the link's `next` will, and ends `run`
            _log.warning("lamp not switched", side=command.side.value, why=lost.why)

    def _show(self, *sides: Door) -> None:
        """Write the lamps of `sides`: first what goes dark. Raises `LinkLost`."""
        lit = {f"{side.value.lower()}_{self._lights[side].value}" for side in sides}
        mine = [n for n in self._settings.outputs if any(n.startswith(f"{side.value.lower()}_") for side in sides)]
        for name in sorted(mine, key=lambda name: name in lit):
            self._link.write(name, name in lit)
