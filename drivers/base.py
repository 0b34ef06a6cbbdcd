"""What every driver is: one file, `Settings`, a codec without I/O, and `Device`.

A driver module `drivers/<kind>/<name>.py` holds

* `Settings`: a frozen dataclass, units last in names, validated in `__post_init__`; the daemon fills it from the
  kind's section of lane.toml and an option it does not name is an error;
* a sans-IO codec (`feed(bytes) -> frames`, `encode(frame) -> bytes`) pinned by golden vectors from the manual;
* `Device(settings, link, side)`, which satisfies `Driver` (and `Actuator` or `Camera` where it is one).

Drivers take time from the running event loop alone (`loop.time()`, `asyncio.sleep`), so virtual time needs
nothing of them, and start no threads: those are hidden in links.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from gated.lane.commands import Command
from gated.lane.events import Event


class DeviceFault(Exception):
    """The device, its cable or its far end misbehaved. `why` is a short code in lower case; it goes into
    records, `detail` into the log. Neither ever holds personal data or a password."""

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(f"{why}: {detail}" if detail else why)
        self.why = why


class Emit(Protocol):
    """Puts an event into the lane's bounded queue. Never blocks, never raises."""

    def __call__(self, event: Event, /) -> None: ...


class Driver(Protocol):
    """A device of the lane."""

    async def run(self, emit: Emit) -> None:
        """Open the link, emit the initial state, then `DeviceReady`, then whatever happens.

        Never returns by itself: ends by `DeviceFault` (or cancellation), having closed the link. The supervisor
        turns any end into `DeviceLost` and starts `run` again after a pause, on the same object."""


class Actuator(Driver, Protocol):
    """A device that also does things."""

    def do(self, command: Command) -> None:
        """Carry out one command that the device knows; never waits. Outputs are safe until `run` is up."""


@dataclass(frozen=True, slots=True)
class Frame:
    """`image`: BGR uint8 array (height, width, 3), or a token of the simulated world. `mono`: loop time."""

    image: Any
    mono: float


class Camera(Driver, Protocol):
    """A latest-frame source: frames are pulled, they are never events."""

    async def next(self, after_mono: float) -> Frame:
        """The newest frame taken after `after_mono`, waiting for it. Raises `DeviceFault` when the camera is lost."""


@dataclass(frozen=True, slots=True)
class Print:
    """What a fingerprint reader made of one finger.

    `image`: uint8 array (height, width), ridges dark on light ground, fingertip up, or a token of the simulated world;
    None where the sensor kept it to itself or could take none. `ppi`: its resolution. `mono`: loop time of the
    capture. `advice`: a value of `gated.lane.events.Touch` where no usable picture came of it. `score`: what the
    sensor itself says of the comparison that `scan` was asked for; None where there was none."""

    image: Any = field(repr=False)
    ppi: float
    mono: float
    advice: str | None = None
    score: float | None = None


class FingerReader(Driver, Protocol):
    """A fingerprint reader: dark until `scan` is awaited, and dark again when that ends or is cancelled."""

    compares: str
    """The format of templates (`FingerRow.format`) that the sensor itself can compare; "" where it takes pictures."""
    threshold: float
    """Where `compares` says something: `Print.score` at or above it is a match, by the maker's word."""
    fmr: float
    """Where `compares` says something: the false match rate that the maker states for `threshold`; else 1."""

    async def scan(self, template: bytes | None = None) -> Print:
        """Wait until a finger lies on and take its picture; with a `template` the sensor compares it and takes none.

        One `scan` at a time. Safe to cancel. Raises `DeviceFault` when the reader is lost or not running."""

    async def lifted(self) -> None:
        """Return once no finger lies on. Safe to cancel. Raises `DeviceFault` when the reader is lost."""
