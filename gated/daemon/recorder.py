"""Records what goes over a device's wire, sealed to HQ, so that a bad day can be replayed into its driver."""

import asyncio
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drivers.links import ByteLink
from gated.control import Code, Refused
from gated.wire.seal import seal_to

BYTES_MAX = 4 << 20


class Tap:
    """A byte link that can be listened to. Costs nothing while nobody does."""

    def __init__(self, link: ByteLink) -> None:
        self._link = link
        self._heard: list[tuple[float, str, str]] | None = None
        self._bytes = 0
        self._enough = asyncio.Event()

    async def open(self) -> None:
        await self._link.open()

    async def read(self) -> bytes:
        data = await self._link.read()
        self._note("in", data)
        return data

    async def write(self, data: bytes) -> None:
        self._note("out", data)
        await self._link.write(data)

    async def close(self) -> None:
        await self._link.close()

    def _note(self, way: str, data: bytes) -> None:
        if self._heard is not None and self._bytes < BYTES_MAX:
            self._bytes += len(data)
            self._heard.append((asyncio.get_running_loop().time(), way, data.hex()))

    async def listen(self, seconds: float) -> list[tuple[float, str, str]]:
        """(seconds since the start, in or out, hexadecimal) of everything that passes, until `stop`.

        Raises `Refused` while somebody else listens."""
        if self._heard is not None:
            raise Refused(Code.BUSY, "this device is being recorded already")
        heard = self._heard = []
        self._bytes = 0
        self._enough.clear()
        start = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds):
                await self._enough.wait()
        except TimeoutError:
            pass  # as asked
        finally:
            self._heard = None
        return [(round(mono - start, 6), way, data) for mono, way, data in heard]

    def stop(self) -> None:
        """Enough is heard."""
        self._enough.set()


class Recorder:
    """Writes `recording-<device>-<utc>.sealed` into `folder`; only HQ's private key opens it."""

    def __init__(self, folder: Path, hq_public: bytes, lane: str, taps: Mapping[str, Tap]) -> None:
        self._folder, self._hq_public, self._lane, self._taps = folder, hq_public, lane, taps

    async def record(self, device: str, seconds: float) -> dict[str, Any]:
        """Record one device. Raises `Refused` for one that has no wire to listen to."""
        tap = self._taps.get(device)
        if tap is None:
            known = ", ".join(sorted(self._taps)) or "none"
            raise Refused(Code.REFUSED, f"{device} cannot be recorded; devices with a serial line here: {known}")
        heard = await tap.listen(seconds)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = self._folder / f"recording-{device}-{stamp}.sealed"
        try:
            await asyncio.to_thread(self._write, path, {"device": device, "utc": stamp, "traffic": heard})
        except OSError as bad:
            raise Refused(Code.FAILED, f"{path} cannot be written: {bad.strerror}") from None
        return {"file": str(path), "bytes": sum(len(data) // 2 for _, _, data in heard)}

    def stop(self) -> None:
        """Service is over: what passes from now on is a passenger's."""
        for tap in self._taps.values():
            tap.stop()

    def _write(self, path: Path, recording: dict[str, Any]) -> None:
        text = json.dumps({"lane": self._lane, **recording}).encode()
        blob = seal_to(self._hq_public, text, f"recording {self._lane}".encode())
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise
