"""Records what goes over a device's wire, sealed to HQ, so that a bad day can be replayed into its driver."""

import asyncio
import json
import os
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
        """(seconds since the start, in or out, hexadecimal) of everything that passes."""
        self._heard, self._bytes = [], 0
        start = asyncio.get_running_loop().time()
        try:
            await asyncio.sleep(seconds)
            return [(round(mono - start, 6), way, data) for mono, way, data in self._heard]
        finally:
            self._heard = None


class Recorder:
    """Writes `recording-<device>-<utc>.sealed` into `folder`; only HQ's private key opens it."""

    def __init__(self, folder: Path, hq_public: bytes, lane: str) -> None:
        self._folder, self._hq_public, self._lane = folder, hq_public, lane
        self.taps: dict[str, Tap] = {}

    async def record(self, device: str, seconds: float) -> dict[str, Any]:
        """Record one device. Raises `Refused` for one that has no wire to listen to."""
        tap = self.taps.get(device)
        if tap is None:
            known = ", ".join(sorted(self.taps)) or "none"
            raise Refused(Code.REFUSED, f"{device} cannot be recorded; devices with a serial line here: {known}")
        heard = await tap.listen(seconds)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = self._folder / f"recording-{device}-{stamp}.sealed"
        text = json.dumps({"lane": self._lane, "device": device, "utc": stamp, "traffic": heard}).encode()
        await asyncio.to_thread(_write, path, seal_to(self._hq_public, text, f"recording {self._lane}".encode()))
        return {"file": str(path), "bytes": sum(len(data) // 2 for _, _, data in heard)}


def _write(path: Path, blob: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())
