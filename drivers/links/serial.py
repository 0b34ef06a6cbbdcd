"""A serial line (USB-CDC, RS-232, pseudo terminal) over pyserial. No threads: the event loop watches the descriptor."""

import asyncio
import errno
import os
from typing import Any

import serial
import structlog

from drivers.links import LinkLost

_log = structlog.get_logger()

_CHUNK = 4096
_NO_MODEM_LINES = (errno.ENOTTY, errno.EINVAL)
"""What a pseudo terminal and some USB adapters answer when asked for DTR; pyserial documents both."""


class SerialLink:
    """Bytes to and from `port`, which this process has to itself. One reader and one writer at a time."""

    def __init__(
        self,
        port: str,
        baud_rate: int,
        *,
        parity: str = "N",
        stop_bits: int = 1,
        dtr: bool = True,
        write_s_max: float = 2.0,
    ) -> None:
        if baud_rate <= 0 or parity not in ("N", "E", "O") or stop_bits not in (1, 2) or write_s_max <= 0:
            raise ValueError(
                f"serial line {port}: baud_rate and write_s_max above 0, parity N, E or O, stop_bits 1 or 2"
            )
        self._port = port
        self._baud_rate = baud_rate
        self._parity = parity
        self._stop_bits = stop_bits
        self._dtr = dtr
        self._write_s_max = write_s_max
        self._serial: Any = None

    async def open(self) -> None:
        """Claim and configure the port; what it said before is thrown away. Raises `LinkLost`."""
        await self.close()
        try:
            port = serial.Serial(
                self._port,
                self._baud_rate,
                parity=self._parity,
                stopbits=self._stop_bits,
                timeout=0,
                exclusive=True,
            )
        except (OSError, ValueError) as error:  # SerialException is an OSError
            raise LinkLost(_why_not(error), f"{self._port}: {error}") from error
        try:
            port.dtr = self._dtr
        except OSError as error:
            if error.errno not in _NO_MODEM_LINES:
                port.close()
                raise LinkLost("unplugged", f"{self._port}: {error}") from error
        self._serial = port

    async def read(self) -> bytes:
        """At least one byte. Safe to cancel: bytes stay in the kernel until they are returned. Raises `LinkLost`."""
        loop = asyncio.get_running_loop()
        fd = self._fd()
        while True:
            await self._ready(fd, loop.add_reader, loop.remove_reader)
            try:
                data = os.read(fd, _CHUNK)
            except BlockingIOError:
                continue
            except OSError as error:
                raise LinkLost("unplugged", f"{self._port}: {error}") from error
            if not data:  # readable and yet empty: the far end hung up
                raise LinkLost("unplugged", f"{self._port}: hung up")
            return data

    async def write(self, data: bytes) -> None:
        """All of `data`, or `LinkLost` when the line takes none for `write_s_max`."""
        loop = asyncio.get_running_loop()
        fd = self._fd()
        left = memoryview(data)
        try:
            while left:
                try:
                    left = left[os.write(fd, left) :]
                except BlockingIOError:
                    async with asyncio.timeout(self._write_s_max):
                        await self._ready(fd, loop.add_writer, loop.remove_writer)
        except TimeoutError as error:
            raise LinkLost("write_timeout", f"{self._port}: took nothing for {self._write_s_max:g} s") from error
        except OSError as error:
            raise LinkLost("unplugged", f"{self._port}: {error}") from error

    async def close(self) -> None:
        """Idempotent; never raises."""
        port, self._serial = self._serial, None
        if port is None:
            return
        try:
            port.close()
        except OSError as error:
            _log.warning("serial port did not close cleanly", port=self._port, error=str(error))

    def _fd(self) -> int:
        if self._serial is None:
            raise LinkLost("not_open", self._port)
        return int(self._serial.fileno())

    @staticmethod
    async def _ready(fd: int, add: Any, remove: Any) -> None:
        """Until the loop says that `fd` is ready; leaves no watcher behind."""
        ready = asyncio.get_running_loop().create_future()
        add(fd, lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            remove(fd)


def _why_not(error: OSError | ValueError) -> str:
    """The short code for a port that did not open."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "no_such_port"
    if number in (errno.EACCES, errno.EPERM):
        return "no_permission"
    if number in (errno.EBUSY, errno.EAGAIN):
        return "port_busy"
    return "cannot_open"
