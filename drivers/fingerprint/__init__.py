"""Fingerprint readers, and what their drivers share: what the lane waits for, left with the task that owns the line.

`run` alone talks to the reader. `scan` and `lifted` are awaited elsewhere, may be given up at any moment, and end when
`run` ends. Logs nothing.
"""

import asyncio
import re
from dataclasses import dataclass, field

from drivers.base import DeviceFault, Print


def numbers(version: str) -> tuple[int, ...]:
    """The numbers in a version, to be compared: "V1.4.0" is (1, 4, 0)."""
    return tuple(int(number) for number in re.findall(r"[0-9]+", version))


@dataclass(eq=False)
class Wish:
    """What the lane waits for: a print, or (`scan` False) that the finger is off."""

    scan: bool
    template: bytes | None = field(default=None, repr=False)
    answer: "asyncio.Future[Print | None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def over(self) -> bool:
        """Nobody waits any more: it was granted, or given up."""
        return self.answer.done()

    def grant(self, told: Print | None) -> None:
        """Tell it, where somebody still waits."""
        if not self.over:
            self.answer.set_result(told)

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than somebody waits."""
        await asyncio.wait((self.answer,), timeout=seconds)


class Wishes:
    """One wish at a time, from `scan` and `lifted` to `run`. Holds none that is over."""

    def __init__(self) -> None:
        self._open = False
        self._wish: Wish | None = None
        self._news = asyncio.Event()

    async def scan(self, template: bytes | None = None) -> Print:
        """See `drivers.base.FingerReader`."""
        told = await self._wait(Wish(True, template))
        assert told is not None, "a scan is granted with a print"
        return told

    async def lifted(self) -> None:
        """See `drivers.base.FingerReader`."""
        await self._wait(Wish(False))

    def open(self) -> None:
        """The reader answers: from now on wishes are taken."""
        self._open = True

    async def next(self, within_s: float | None = None) -> Wish | None:
        """The wish that stands, waiting for it; None after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                while self._wish is None or self._wish.over:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return None
        return self._wish

    def close(self, why: str = "lost") -> None:
        """`run` ends: whoever waits is told so, and nothing is taken any more."""
        self._open = False
        if self._wish is not None and not self._wish.over:
            self._wish.answer.set_exception(DeviceFault(why))
        self._wish = None

    async def _wait(self, wish: Wish) -> Print | None:
        if not self._open:
            raise DeviceFault("not_running")
        assert self._wish is None or self._wish.over, "one scan or lifted at a time"
        self._wish = wish
        self._news.set()
        try:
            return await wish.answer
        finally:
            if self._wish is wish:
                self._wish = None
