"""The devices of one lane: a driver for each section of lane.toml that is one, its link, and who supervises it."""

from typing import Any

from drivers.base import Driver, Emit
from gated.config import Config, Section
from gated.daemon.links import Links
from gated.daemon.plan import SECTIONS, driver_of
from gated.daemon.recorder import Tap
from gated.daemon.supervisor import Supervised
from gated.lane.events import Device, DeviceReady, Door, Event
from gated.lane.machine import Lane


class Devices:
    """`links` gives each driver what lies below it. Raises `ConfigError`. Drivers emit through `emit`."""

    def __init__(self, config: Config, lane: Lane, links: Links, emit: Emit) -> None:
        self._lane, self._links, self._emit = lane, links, emit
        self.by_device: dict[Device, list[Supervised]] = {}
        self.actuators: dict[Device, Any] = {}
        self.taps: dict[str, Tap] = {}
        """Where a section's wire can be listened to."""
        for name, (device, side) in SECTIONS.items():
            if name in config:
                self._add(config.section(name), device, side)

    def _add(self, section: Section, device: Device, side: Door) -> None:
        module, settings = driver_of(section, self._lane)
        try:
            link = self._links(section.name, settings)
        except ValueError as wrong:
            raise section.wrong(wrong) from None
        if device is Device.PASSPORT:
            link = self.taps[section.name] = Tap(link)
        driver: Driver = module.Device(settings, link, side)
        self.actuators[device] = driver
        self.by_device.setdefault(device, []).append(Supervised(device, driver, self._emitter(device)))

    def _emitter(self, device: Device) -> Emit:
        """A device that is there twice (two readers) is ready only when both are."""

        def emit(event: Event) -> None:
            if not isinstance(event, DeviceReady) or all(each.state == "ready" for each in self.by_device[device]):
                self._emit(event)

        return emit

    def all(self) -> list[Supervised]:
        """Every driver, to be run."""
        return [each for several in self.by_device.values() for each in several]
