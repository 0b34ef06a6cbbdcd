"""Virtual time: an asyncio loop whose clock jumps to the next timer when nothing is left to do.

A deadlock (every task waits and no timer is set) is an error, not a hang. Threads are banned: work in a thread
takes real time, and nothing of it could be replayed.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Deadlock(AssertionError):
    """Every task waits for another: no timer is left that could wake one."""


class _JumpingSelector(selectors.BaseSelector):
    """Selects nothing; hands the time-out that asyncio would sleep for to the clock instead."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        self._jump = jump
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data)
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("every task waits and no timer is set")
        self._jump(timeout)
        return []

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and moves only by jumping to the next timer."""

    def __init__(self) -> None:
        self._virtual_s = 0.0
        super().__init__(_JumpingSelector(self._advance))

    def _advance(self, by_s: float) -> None:
        self._virtual_s += max(by_s, 0.0)

    def time(self) -> float:
        return self._virtual_s

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> NoReturn:  # type: ignore[override]
        raise AssertionError("threads are banned in virtual time")

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        raise AssertionError("threads are banned in virtual time")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end in virtual time and return its result. Raises `Deadlock` where it can never end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
