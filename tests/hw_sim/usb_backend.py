"""A back end for pyusb that is no libusb: each device is a Unix socket, and a mirror at its far end answers.

One connection for control requests and one for each endpoint that is read, so that threads do not wait for each other.
A request is `_REQUEST` and the data of an OUT transfer; an answer is one byte and the data of an IN transfer.
"""

import asyncio
import errno
import socket
import struct
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import usb.backend
import usb.core

from tests.hw_sim.uru_reader import Pulled, Refused, UruReader

_REQUEST = struct.Struct("<BBHIIB")
"""bmRequestType, bRequest, wValue, size, time-out in milliseconds, endpoint (0: control, DESCRIBE: its descriptors)."""
DESCRIBE = 0xFF
_DONE, _LATE, _STALL = b"D", b"L", b"S"
_ANSWER_MAX = 1 << 18
_SLACK_S = 1.0

_DEVICE = struct.Struct("<BBHBBBBHHHBBBB")
_DEVICE_FIELDS = (
    "bLength bDescriptorType bcdUSB bDeviceClass bDeviceSubClass bDeviceProtocol bMaxPacketSize0 idVendor idProduct "
    "bcdDevice iManufacturer iProduct iSerialNumber bNumConfigurations"
)
_CONFIGURATION = struct.Struct("<BBHBBBBB")
_CONFIGURATION_FIELDS = (
    "bLength bDescriptorType wTotalLength bNumInterfaces bConfigurationValue iConfiguration bmAttributes bMaxPower"
)
_INTERFACE = struct.Struct("<BBBBBBBBB")
_INTERFACE_FIELDS = (
    "bLength bDescriptorType bInterfaceNumber bAlternateSetting bNumEndpoints bInterfaceClass bInterfaceSubClass "
    "bInterfaceProtocol iInterface"
)
_ENDPOINT = struct.Struct("<BBBBHB")
_ENDPOINT_FIELDS = "bLength bDescriptorType bEndpointAddress bmAttributes wMaxPacketSize bInterval"


def _fields(form: struct.Struct, names: str, data: bytes, at: int, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(**dict(zip(names.split(), form.unpack_from(data, at), strict=True)), **more)


class UsbPort:
    """The socket that a mirror is plugged into."""

    def __init__(self, reader: UruReader, path: Path) -> None:
        self.reader = reader
        self.path = path
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def plug(self) -> None:
        """The device appears. Within a running loop."""
        self.reader.plug()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._start(self._accept(self._listener))

    def unplug(self) -> None:
        """It is gone; idempotent."""
        if self._listener is not None:
            self.path.unlink()
            self._listener = None
        for task in self._tasks:
            task.cancel()
        self.reader.unplug()

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                connection, _ = await loop.sock_accept(listener)
                connection.setblocking(False)
                self._start(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _ANSWER_MAX)
        with connection:
            while request := await loop.sock_recv(connection, _ANSWER_MAX):
                try:
                    await loop.sock_sendall(connection, await self._answer(request))
                except (Pulled, ConnectionError):
                    return

    async def _answer(self, request: bytes) -> bytes:
        kind, code, value, size, limit_ms, endpoint = _REQUEST.unpack_from(request)
        if endpoint == DESCRIBE:
            return _DONE + self.reader.descriptors
        try:
            if endpoint:
                data = await self.reader.read(endpoint, size, limit_ms / 1000)
                return _LATE if data is None else _DONE + data
            return _DONE + await self.reader.control(kind, code, value, request[_REQUEST.size :], size)
        except Refused:
            return _STALL


class _Handle:
    """An open device: its connections, each of them used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[int, socket.socket] = {}
        self._locks: dict[int, threading.Lock] = {}

    def ask(
        self, endpoint: int, limit_ms: int, size: int = 0, head: tuple[int, int, int] = (0, 0, 0), data: bytes = b""
    ) -> bytes:
        """One transfer. Raises `USBError` with the numbers that libusb's back end gives them."""
        with self._locks.setdefault(endpoint, threading.Lock()):
            try:
                line = self._lines.get(endpoint) or self._connect(endpoint)
                line.settimeout(limit_ms / 1000 + (_SLACK_S if endpoint else 0))
                line.sendall(_REQUEST.pack(*head, size, limit_ms, endpoint) + data)
                answer = line.recv(_ANSWER_MAX)
            except TimeoutError:
                self._lines.pop(endpoint).close()  # what comes too late is nobody's answer
                answer = _LATE
            except OSError as error:
                raise _gone() from error
        if not answer:
            raise _gone()
        if answer[:1] == _LATE:
            raise usb.core.USBTimeoutError("Operation timed out", -7, errno.ETIMEDOUT)
        if answer[:1] == _STALL:
            raise usb.core.USBError("Pipe error", -9, errno.EPIPE)
        return answer[1:]

    def _connect(self, endpoint: int) -> socket.socket:
        line = self._lines[endpoint] = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line.connect(str(self.path))
        return line

    def close(self) -> None:
        assert not any(lock.locked() for lock in self._locks.values()), "libusb crashes when closed under a transfer"
        for line in self._lines.values():
            line.close()
        self._lines.clear()


def _gone() -> usb.core.USBError:
    return usb.core.USBError("No such device (it may have been disconnected)", -4, errno.ENODEV)


class SocketBackend(usb.backend.IBackend):  # type: ignore[misc]
    """Devices behind the sockets of a folder, in the order of their names. `forbidden`: none may be opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.forbidden = False
        self.kernel_driver = False
        """The kernel has a driver on every interface."""
        self.configured = True
        self.open_handles: list[_Handle] = []
        self.halts: list[int] = []
        self._claims: dict[Path, _Handle] = {}

    def enumerate_devices(self) -> Iterator[SimpleNamespace]:
        for number, path in enumerate(sorted(self._folder.iterdir()), 1):
            handle = _Handle(path)
            try:
                yield SimpleNamespace(path=path, number=number, data=handle.ask(DESCRIBE, 1000))
            except usb.core.USBError:
                continue  # pulled out meanwhile: it is not listed
            finally:
                handle.close()

    def get_device_descriptor(self, dev: Any) -> SimpleNamespace:
        more = {"bus": 1, "address": dev.number, "port_number": dev.number, "port_numbers": (dev.number,), "speed": 2}
        return _fields(_DEVICE, _DEVICE_FIELDS, dev.data, 0, **more)

    def get_configuration_descriptor(self, dev: Any, config: int) -> SimpleNamespace:
        if config:
            raise IndexError("one configuration")
        return _fields(_CONFIGURATION, _CONFIGURATION_FIELDS, dev.data, 18, extra_descriptors=[])

    def get_interface_descriptor(self, dev: Any, intf: int, alt: int, config: int) -> SimpleNamespace:
        if intf or alt:
            raise IndexError("one interface")
        return _fields(_INTERFACE, _INTERFACE_FIELDS, dev.data, 27, extra_descriptors=[])

    def get_endpoint_descriptor(self, dev: Any, ep: int, intf: int, alt: int, config: int) -> SimpleNamespace:
        more = {"bRefresh": 0, "bSynchAddress": 0, "extra_descriptors": []}
        return _fields(_ENDPOINT, _ENDPOINT_FIELDS, dev.data, 36 + 7 * ep, **more)

    def open_device(self, dev: Any) -> _Handle:
        if self.forbidden:
            raise usb.core.USBError("Access denied (insufficient permissions)", -3, errno.EACCES)
        handle = _Handle(dev.path)
        self.open_handles.append(handle)
        return handle

    def close_device(self, dev_handle: _Handle) -> None:
        self.open_handles.remove(dev_handle)
        dev_handle.close()

    def get_configuration(self, dev_handle: _Handle) -> int:
        return 1 if self.configured else 0

    def set_configuration(self, dev_handle: _Handle, config_value: int) -> None:
        self.configured = config_value == 1

    def claim_interface(self, dev_handle: _Handle, intf: int) -> None:
        if self.kernel_driver or self._claims.get(dev_handle.path, dev_handle) is not dev_handle:
            raise usb.core.USBError("Resource busy", -6, errno.EBUSY)
        self._claims[dev_handle.path] = dev_handle

    def release_interface(self, dev_handle: _Handle, intf: int) -> None:
        del self._claims[dev_handle.path]

    def is_kernel_driver_active(self, dev_handle: _Handle, intf: int) -> bool:
        return self.kernel_driver

    def detach_kernel_driver(self, dev_handle: _Handle, intf: int) -> None:
        self.kernel_driver = False

    def clear_halt(self, dev_handle: _Handle, ep: int) -> None:
        self.halts.append(ep)

    def ctrl_transfer(
        self, dev_handle: _Handle, kind: int, request: int, value: int, index: int, data: "array[int]", timeout: int
    ) -> int:
        inwards = bool(kind & 0x80)
        sent = b"" if inwards else data.tobytes()
        answer = dev_handle.ask(0, timeout, len(data) if inwards else 0, (kind, request, value), sent)
        if not inwards:
            return len(sent)
        data[: len(answer)] = array("B", answer)
        return len(answer)

    def bulk_read(self, dev_handle: _Handle, ep: int, intf: int, buff: "array[int]", timeout: int) -> int:
        answer = dev_handle.ask(ep, timeout, len(buff))
        buff[: len(answer)] = array("B", answer)
        return len(answer)

    intr_read = bulk_read
