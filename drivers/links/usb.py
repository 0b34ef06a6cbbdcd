"""A USB device over pyusb, which is imported here alone, and libusb-1.0 below it.

Both block, so every transfer sits in a hidden thread of its own for as long as its time-out, no longer.
"""

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog
import usb.backend.libusb1
import usb.core
import usb.util

from drivers.links import LinkLost

T = TypeVar("T")

_log = structlog.get_logger()

_VENDOR = 0xFF
"""bInterfaceClass of what has no driver in the kernel."""
_THREADS_MAX = 4
"""Transfers at once: control requests and three endpoints."""
_LATE_S_MAX = 1.0
"""How much longer than its time-out a transfer may take before it counts as hanging."""
_CLAIM_S_MAX = 10.0
"""Finding and claiming it takes many transfers."""
_WHY = {
    errno.EACCES: "no_permission",
    errno.EPERM: "no_permission",
    errno.EBUSY: "busy",
    errno.ENODEV: "gone",
    errno.ENOENT: "gone",
    errno.EPIPE: "stalled",
    errno.EOVERFLOW: "overflow",
    errno.ETIMEDOUT: "no_answer",
}
"""What libusb means, by the number that pyusb gives its errors; EIO and others: failed."""
_HINTS = {
    "no_permission": "install the udev rules (60-gated.rules) and plug it in again",
    "busy": "another program uses it, such as fprintd",
}
_NO_LIBUSB = "install libusb-1.0 (libusb-1.0-0); in a systemd unit also usb-reader.conf, for it needs AF_NETLINK"


class UsbDevice:
    """The device `vendor_id`:`product_id`; where several are plugged in, the one with that `serial` number.

    Its first interface of the vendor's own class is claimed. `control_s_max`: how long a request may take. `backend`:
    an `usb.backend.IBackend` in place of libusb."""

    def __init__(
        self, vendor_id: int, product_id: int, serial: str = "", *, control_s_max: float = 2.0, backend: Any = None
    ) -> None:
        if not (0 < vendor_id <= 0xFFFF and 0 <= product_id <= 0xFFFF) or control_s_max <= 0:
            raise ValueError("vendor_id and product_id have 16 bits; control_s_max is above 0")
        self._ids = (vendor_id, product_id)
        self._serial = serial
        self._control_s_max = control_s_max
        self._backend = backend
        self._name = f"{vendor_id:04x}:{product_id:04x}"
        self._threads: ThreadPoolExecutor | None = None
        self._device: Any = None
        self._interface = 0
        self._longest_s = control_s_max
        self._reading: dict[int, asyncio.Future[bytes | None]] = {}
        self._asking: set[asyncio.Future[Any]] = set()

    async def open(self) -> None:
        """Claim it. Raises `LinkLost`: no_libusb, no_such_device, several_devices, no_interface, no_permission ..."""
        await self.close()
        if self._threads is not None:
            raise LinkLost("stuck", f"{self._name}: a transfer of the last time still hangs")
        self._threads = ThreadPoolExecutor(_THREADS_MAX, "usb")
        await self._ask(self._claim, _CLAIM_S_MAX)

    async def control_in(self, request: int, value: int, size: int) -> bytes:
        kind = usb.util.build_request_type(usb.util.CTRL_IN, usb.util.CTRL_TYPE_VENDOR, usb.util.CTRL_RECIPIENT_DEVICE)
        return bytes(await self._control(kind, request, value, size))

    async def control_out(self, request: int, value: int, data: bytes) -> None:
        kind = usb.util.build_request_type(usb.util.CTRL_OUT, usb.util.CTRL_TYPE_VENDOR, usb.util.CTRL_RECIPIENT_DEVICE)
        if await self._control(kind, request, value, data) != len(data):
            raise LinkLost("failed", f"{self._name}: took half of a request")

    async def read(self, endpoint: int, size: int, within_s: float) -> bytes | None:
        reading = self._reading.get(endpoint)
        if reading is None:
            self._longest_s = max(self._longest_s, within_s)
            reading = self._reading[endpoint] = self._in_thread(lambda: self._take(endpoint, size, within_s))
        # where we are cancelled it goes on: what it brings is the next read's
        await self._in_time(reading, self._longest_s)
        self._reading.pop(endpoint, None)
        return reading.result()

    async def close(self) -> None:
        """Idempotent; never raises. Waits for transfers under way, as long as their time-outs say."""
        threads = self._threads
        if threads is None:
            return
        under_way = [*self._reading.values(), *self._asking]
        if under_way:  # closing a handle under a transfer crashes libusb
            _, hanging = await asyncio.wait(under_way, timeout=self._longest_s + _LATE_S_MAX)
            if hanging:
                _log.error("usb transfer hangs", device=self._name)
                return
        self._reading.clear()
        device, self._device = self._device, None
        if device is not None:
            try:
                await self._in_thread(lambda: usb.util.dispose_resources(device))
            except LinkLost as error:
                _log.warning("usb device did not close cleanly", device=self._name, error=str(error))
        self._threads = None
        threads.shutdown(wait=False)

    # -- in the loop

    async def _control(self, kind: int, request: int, value: int, what: int | bytes) -> Any:
        limit_ms = round(self._control_s_max * 1000)
        device = self._opened()
        return await self._ask(
            lambda: device.ctrl_transfer(kind, request, value, 0, what, limit_ms), self._control_s_max
        )

    async def _ask(self, work: Callable[[], T], within_s: float) -> T:
        asking = self._in_thread(work)
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        await self._in_time(asking, within_s)
        return asking.result()

    async def _in_time(self, work: "asyncio.Future[Any]", within_s: float) -> None:
        """Until `work` is done; it goes on where we are cancelled. A thread that libusb does not give back is told."""
        done, _ = await asyncio.wait((work,), timeout=within_s + _LATE_S_MAX)
        if not done:
            raise LinkLost("stuck", f"{self._name}: a transfer hangs beyond its time-out")

    def _in_thread(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """`work` in a thread; errors of USB come as `LinkLost`."""
        if self._threads is None:
            raise LinkLost("not_open", self._name)
        done = asyncio.get_running_loop().run_in_executor(self._threads, lambda: self._told(work))
        # whoever waited may be cancelled: nobody then asks how it ended
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        return done

    def _opened(self) -> Any:
        if self._device is None:
            raise LinkLost("not_open", self._name)
        return self._device

    # -- in a thread

    def _told(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except usb.core.NoBackendError as error:
            raise LinkLost("no_libusb", _NO_LIBUSB) from error
        except usb.core.USBError as error:
            why = _WHY.get(error.errno or 0, "failed")
            raise LinkLost(why, f"{self._name}: {_HINTS.get(why, error.strerror)}") from error

    def _claim(self) -> None:
        backend = self._backend or usb.backend.libusb1.get_backend()
        if backend is None:
            raise usb.core.NoBackendError("no libusb-1.0")
        vendor_id, product_id = self._ids
        found = list(usb.core.find(find_all=True, backend=backend, idVendor=vendor_id, idProduct=product_id))
        if self._serial:
            found = [device for device in found if self._serial_of(device) == self._serial]
        if not found:
            raise LinkLost("no_such_device", f"{self._name}{f' {self._serial}' if self._serial else ''}")
        if len(found) > 1:
            raise LinkLost("several_devices", f"{self._name}: {len(found)} of them, say the serial number of one")
        device = found[0]
        try:
            self._interface = self._vendor_interface(device)
            if device.is_kernel_driver_active(self._interface):
                device.detach_kernel_driver(self._interface)
            usb.util.claim_interface(device, self._interface)
        except BaseException:
            usb.util.dispose_resources(device)
            raise
        self._device = device

    def _vendor_interface(self, device: Any) -> int:
        try:
            configuration = device.get_active_configuration()
        except usb.core.USBError as error:
            if error.errno:
                raise
            device.set_configuration()  # pyusb says without a number that none was chosen yet
            configuration = device.get_active_configuration()
        interface = usb.util.find_descriptor(configuration, bInterfaceClass=_VENDOR)
        if interface is None:
            raise LinkLost("no_interface", f"{self._name}: none of the vendor's own class")
        return int(interface.bInterfaceNumber)

    def _serial_of(self, device: Any) -> str:
        try:
            self._vendor_interface(device)  # opens it; reading its strings would hide that we may not
            return str(device.serial_number or "")
        except ValueError:  # it has no strings at all
            return ""
        finally:
            usb.util.dispose_resources(device)

    def _take(self, endpoint: int, size: int, within_s: float) -> bytes | None:
        device = self._opened()
        try:
            return bytes(device.read(endpoint, size, max(1, round(within_s * 1000))))
        except usb.core.USBTimeoutError:
            return None
        except usb.core.USBError as error:
            if error.errno == errno.EPIPE:
                device.clear_halt(endpoint)
            raise
