"""Where slow work is done: one thread a kind of work, so that each kind keeps its order and none delays another."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from gated.biometrics.face import FaceEngine
from gated.biometrics.finger import FingerEngine

T = TypeVar("T")

KINDS = ("store", "cache", "face", "finger", "picture")


class Workers(Protocol):
    """Does slow work away from the loop. `faces` belongs to the worker "face", `fingers` to "finger", and are used
    nowhere else; a lane without a fingerprint reader has no `fingers`."""

    faces: FaceEngine
    fingers: FingerEngine | None

    async def run(self, kind: str, work: Callable[..., T], *args: Any) -> T:
        """`work(*args)` on the worker of this kind (see `KINDS`), after whatever it was given before."""

    def close(self) -> None:
        """Wait for what is under way. Idempotent."""


class Attended:
    """Workers that are watched: how long the oldest work has been under way, whether or not anybody still waits."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.faces, self.fingers = workers.faces, workers.fingers
        self._began: dict[object, float] = {}
        self._working: set[object] = set()

    async def run(self, kind: str, work: Callable[..., T], *args: Any) -> T:
        token, began = object(), asyncio.get_running_loop().time()

        def attended(*given: Any) -> T:
            # On the worker. Whoever waits may give up meanwhile; a thread that hangs is still one that hangs.
            self._working.add(token)
            self._began[token] = began
            try:
                return work(*given)
            finally:
                self._working.discard(token)
                self._began.pop(token, None)

        self._began[token] = began
        try:
            return await self._workers.run(kind, attended, *args)
        finally:
            if token not in self._working:
                self._began.pop(token, None)

    def oldest_s(self) -> float:
        """Seconds; 0 where nothing is under way."""
        now = asyncio.get_running_loop().time()
        return max((now - began for began in tuple(self._began.values())), default=0.0)

    def close(self) -> None:
        self._workers.close()


class Threads:
    """Workers of a real lane."""

    def __init__(self, faces: FaceEngine, fingers: FingerEngine | None = None) -> None:
        self.faces, self.fingers = faces, fingers
        self._pools = {kind: ThreadPoolExecutor(1, thread_name_prefix=f"gated-{kind}") for kind in KINDS}

    async def run(self, kind: str, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pools[kind], work, *args)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
