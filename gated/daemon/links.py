"""Which link lies below which kind of device on a real lane. The simulator hands in its own in place of `real`."""

from collections.abc import Callable
from typing import Any

Links = Callable[[str, Any], Any]
"""(section of lane.toml, the driver's Settings) -> the link below that driver."""


def real(section: str, settings: Any) -> Any:
    """The machine's own serial lines, pins and cameras. The library of a link is imported when it is used."""
    kind = section.split("_")[0]
    if kind == "passport":
        from drivers.links.serial import SerialLink

        return SerialLink(settings.port, settings.baud_rate)
    if kind == "fingerprint":
        return _finger(settings)
    if kind in ("door", "indicator"):
        from drivers.links.pins import GpiozeroLink

        return GpiozeroLink(settings.factory, pull=getattr(settings, "pull", "up"))
    if kind == "camera":
        from drivers.links.video import OpenCvLink

        return OpenCvLink(
            settings.source,
            settings.open_timeout_s,
            settings.read_timeout_s,
            settings.width,
            settings.height,
            settings.fps,
        )
    raise AssertionError(f"no link is known for [{section}]")


def _finger(settings: Any) -> Any:
    """What lies below a fingerprint reader depends on its driver, whose settings say it."""
    if settings.link == "serial":
        from drivers.links.serial import SerialLink

        return SerialLink(settings.port, settings.baud_rate)
    if settings.link == "usb":
        from drivers.links.usb import UsbDevice

        return UsbDevice(settings.vendor_id, settings.product_id, settings.serial)
    if settings.link == "fprint":
        from drivers.links.fprint import FprintProcess

        return FprintProcess(settings.python)
    raise AssertionError(f"no link is called {settings.link!r}")
