"""Workers: one thread a kind, in order; how long the oldest work takes is known."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from gated.daemon.workers import KINDS, Attended, Threads
from tests.hw_sim import virtual
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.simlane import COST_S, Inline


def test_each_kind_keeps_its_order_and_delays_no_other() -> None:
    threads = Threads(RecordedFaces(1))
    order: list[str] = []
    gate = threading.Event()

    def slow(name: str) -> str:
        gate.wait(5.0)
        order.append(name)
        return threading.current_thread().name

    def quick(name: str) -> str:
        order.append(name)
        return threading.current_thread().name

    async def main() -> None:
        waiting = [
            asyncio.ensure_future(threads.run("store", slow, "first")),
            asyncio.ensure_future(threads.run("store", quick, "second")),
        ]
        other = await threads.run("face", quick, "face")
        gate.set()
        names = await asyncio.gather(*waiting)
        assert order == ["face", "first", "second"]
        assert names[0] == names[1] != other

    try:
        asyncio.run(main())
    finally:
        threads.close()
    threads.close()
    assert set(KINDS) == {"store", "cache", "face", "finger", "picture"} == set(COST_S)


def test_what_fails_on_a_thread_is_raised_where_it_was_asked_for() -> None:
    def fail() -> None:
        raise KeyError("x")

    threads = Threads(RecordedFaces(1))

    async def main() -> None:
        with pytest.raises(KeyError):
            await threads.run("cache", fail)

    try:
        asyncio.run(main())
    finally:
        threads.close()


def test_the_age_of_the_oldest_work_is_known() -> None:
    class Slow(Inline):
        async def run(self, kind: str, work: Callable[..., Any], *args: Any) -> Any:
            await asyncio.sleep(30.0)
            return await super().run(kind, work, *args)

    async def main() -> None:
        workers = Attended(Slow(RecordedFaces(1)))
        assert workers.oldest_s() == 0.0
        first = asyncio.ensure_future(workers.run("store", time.monotonic))
        await asyncio.sleep(10.0)
        second = asyncio.ensure_future(workers.run("face", time.monotonic))
        await asyncio.sleep(10.0)
        assert workers.oldest_s() == pytest.approx(20.0)
        await first
        assert workers.oldest_s() == pytest.approx(20.0, abs=0.1)
        second.cancel()
        await asyncio.sleep(0.0)
        assert workers.oldest_s() == 0.0

    virtual.run(main())


def test_work_that_hangs_is_known_after_everybody_gave_up() -> None:
    """A finger is waited for eight seconds, and the watchdog is patient for twenty."""
    workers = Attended(Threads(RecordedFaces(1)))
    started, gate = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        gate.wait(10.0)

    async def main() -> None:
        hanging = asyncio.ensure_future(workers.run("finger", hang))
        queued = asyncio.ensure_future(workers.run("finger", time.monotonic))
        while not started.is_set():
            await asyncio.sleep(0.01)
        for each in (hanging, queued):
            each.cancel()
        await asyncio.gather(hanging, queued, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert workers.oldest_s() >= 0.05
        gate.set()
        await workers.run("finger", time.monotonic)
        assert workers.oldest_s() == 0.0

    try:
        asyncio.run(main())
    finally:
        gate.set()
        workers.close()
