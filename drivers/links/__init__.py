"""Links: the only thing below a driver, and the only thing that the simulator replaces there.

A link moves bytes, pin levels or pictures and knows nothing of what they mean. The library that talks to the
kernel (pyserial, gpiozero, OpenCV's capture) is imported in its link alone, and a thread that it needs stays inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from drivers.base import DeviceFault, Frame


class LinkLost(DeviceFault):
    """The far end is gone: unplugged, refused, timed out."""


class ByteLink(Protocol):
    """A stream of bytes: a serial line, a TCP connection."""

    async def open(self) -> None:
        """Connect. Raises `LinkLost`."""

    async def read(self) -> bytes:
        """At least one byte, waiting for it. Raises `LinkLost`."""

    async def write(self, data: bytes) -> None:
        """All of `data`. Raises `LinkLost`."""

    async def close(self) -> None:
        """Idempotent; never raises."""


@dataclass(frozen=True, slots=True)
class PinChange:
    """An input changed. `active` is logical (active-low inputs are already turned round). `mono`: loop time."""

    name: str
    active: bool
    mono: float


@dataclass(frozen=True, slots=True)
class Pin:
    """One wire: its name on the pin factory (BCM number or board name) and its sense."""

    pin: int | str
    active_low: bool = False


class PinLink(Protocol):
    """Digital inputs and outputs by name."""

    async def open(self, inputs: Mapping[str, Pin], outputs: Mapping[str, Pin]) -> Mapping[str, bool]:
        """Claim the pins, outputs inactive. Returns the level of every input. Raises `LinkLost`."""

    async def next(self) -> PinChange:
        """The next raw change of an input (not debounced), waiting for it. Raises `LinkLost`."""

    def write(self, name: str, active: bool) -> None:
        """Set an output; never waits. Raises `LinkLost`."""

    async def close(self) -> None:
        """All outputs inactive, pins released. Idempotent; never raises."""


class VideoLink(Protocol):
    """A stream of pictures."""

    async def open(self) -> None:
        """Connect within the open time-out. Raises `LinkLost`."""

    async def read(self) -> Frame:
        """The next picture, waiting for it within the read time-out. Raises `LinkLost`."""

    async def close(self) -> None:
        """Idempotent; never raises."""


class UsbLink(Protocol):
    """One USB device: vendor requests to it, and what its IN endpoints bring. Safe to cancel everywhere."""

    async def open(self) -> None:
        """Claim the device. Raises `LinkLost`."""

    async def control_in(self, request: int, value: int, size: int) -> bytes:
        """A vendor request to the device that reads at most `size` bytes. Raises `LinkLost`: no_answer, stalled ..."""

    async def control_out(self, request: int, value: int, data: bytes) -> None:
        """A vendor request to the device that writes `data`. Raises `LinkLost`."""

    async def read(self, endpoint: int, size: int, within_s: float) -> bytes | None:
        """One transfer of at most `size` bytes, empty for a packet of no length; less than `size` also where time was
        up in its middle, None where nothing came in time. What a cancelled read would have brought the next one of
        that endpoint brings, within the time of either. One reader an endpoint. Raises `LinkLost`."""

    async def close(self) -> None:
        """Idempotent; never raises."""
