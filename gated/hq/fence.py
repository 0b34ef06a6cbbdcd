"""Keeps a lane that floods a broker away from HQ: sees how much each lane sends, and has the broker refuse one that
sends beyond all measure.

mosquitto deals what lanes say into one queue a worker, so one lane that floods pushes the records of all others out of
it. Those are not lost (no receipt, so they are sent again), but they do not arrive while the flood lasts. A lane that
is fenced stays connected and is heard by nobody; its own records wait in its outbox until a person lifts the fence.
"""

import contextlib
import os
import secrets
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import structlog

from gated.hq.bundles import put_file
from gated.mqtt import Backoff, Broker, Connected, Gone, Happening, Received, Session
from gated.notify import notify
from gated.wire import link

log = structlog.get_logger()

UNIT_BYTES: Final = 8192
"""A message counts once, and once more for each of these."""
RATE_DEFAULT: Final = 2000.0
"""Units a second that a lane may send: above what 64 unanswered records can reach, so a lane with a month's backlog
keeps below it too."""
BURST_S: Final = 3.0
AGAIN_S: Final = 2.0
"""What could not be done is tried again after this; also how often a lane that is fenced is looked up again."""
_MARK: Final = "# -- Fenced off by `gated-hq fence`, which writes everything below this line."


class FenceFault(Exception):
    """The fence cannot be put up. The text says why and what to do."""


class Meter:
    """A leaky bucket a lane: who sends more than `rate` units a second for `BURST_S` overflows it."""

    def __init__(self, rate: float = RATE_DEFAULT) -> None:
        self._rate = rate
        self._levels: dict[str, tuple[float, float]] = {}

    def flooding(self, lane: str, size: int, mono: float) -> bool:
        """Enter a message of `size` bytes; is that too much?"""
        level, before = self._levels.get(lane, (0.0, mono))
        level = max(0.0, level - (mono - before) * self._rate) + 1 + size // UNIT_BYTES
        self._levels[lane] = level, mono
        return level > self._rate * BURST_S


@dataclass(frozen=True, slots=True)
class AccessList:
    """The broker's `acl_file`, and the file that names its process. Raises `FenceFault`, `OSError`."""

    path: Path
    pid_file: Path

    def fenced(self) -> tuple[str, ...]:
        """Lanes that are fenced off."""
        _, _, below = self.path.read_text(encoding="utf-8").partition(_MARK)
        return tuple(line.removeprefix("user ") for line in below.splitlines() if line.startswith("user "))

    def block(self, lane: str) -> None:
        """The broker takes nothing from the lane any more, and brings it nothing. At once, also where it is
        connected."""
        self._write({*self.fenced(), lane})

    def lift(self, lane: str) -> None:
        """The lane speaks as before."""
        if lane not in self.fenced():
            raise FenceFault(f"{lane} is not fenced off: gated-hq fence list")
        self._write({*self.fenced()} - {lane})

    def _write(self, lanes: set[str]) -> None:
        text, _, _ = self.path.read_text(encoding="utf-8").partition(_MARK)
        parts = [text.rstrip("\n") + "\n"]
        if lanes:
            parts.append(f"\n{_MARK}\n")
        for lane in sorted(lanes):
            site, _, name = lane.partition("/")
            link.topic(site, name, "event")  # a name that is one lane, and no pattern
            parts.append(f"user {lane}\ntopic deny {link.ROOT}/{lane}/#\ntopic deny {link.announce_topic()}\n")
        was = self.path.stat()
        put_file(self.path, "".join(parts).encode(), was.st_mode & 0o777)
        with contextlib.suppress(
            PermissionError
        ):  # the broker's own user, where the list has a group that is not its own
            os.chown(self.path, was.st_uid, was.st_gid)
        self._reload()

    def _reload(self) -> None:
        try:
            os.kill(int(self.pid_file.read_text(encoding="ascii")), signal.SIGHUP)
        except (OSError, ValueError) as bad:
            why = bad.strerror if isinstance(bad, OSError) else "holds no number"
            raise FenceFault(f"{self.path} is written, but {self.pid_file}: {why}; reload mosquitto yourself") from None


class Watch:
    """Reads along at one broker and fences off who floods it. `run` until stopped."""

    def __init__(self, broker: Broker, acl: AccessList, rate: float = RATE_DEFAULT) -> None:
        self._broker, self._acl, self._meter = broker, acl, Meter(rate)
        self._again_mono: dict[str, float] = {}
        self._inbox: SimpleQueue[Happening] = SimpleQueue()

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. What cannot be done now is logged and tried again."""
        backoff, session, again_mono = Backoff(0.5, 30.0), None, time.monotonic()
        while not stop.is_set():
            if session is None and time.monotonic() >= again_mono:
                # QoS 0: what it misses because there is too much tells it enough
                session = Session(
                    self._broker,
                    f"hq-fence-{secrets.token_hex(6)}",
                    self._inbox,
                    subscribe=[(f"{link.ROOT}/+/+/{leaf}", 0) for leaf in (*link.FROM_LANES, "answer")],
                )
                session.start()
            try:
                happened = self._inbox.get(timeout=0.5)
            except Empty:
                continue  # time to look whether to stop, or to dial again
            if isinstance(happened, Received):
                self._hear(happened)
            elif isinstance(happened, Connected):
                backoff.reset()
                log.info("connected", broker=self._broker.host, port=self._broker.port)
                notify("READY=1")
            elif isinstance(happened, Gone):
                pause_s = backoff.pause_s()
                log.warning("no broker", why=happened.why, again_in_s=round(pause_s, 1))
                session, again_mono = None, time.monotonic() + pause_s
        if session is not None:
            session.stop()

    def _hear(self, message: Received) -> None:
        try:
            site, name, _ = link.place(message.topic)
        except ValueError:
            return
        lane, now = f"{site}/{name}", time.monotonic()
        if not self._meter.flooding(lane, len(message.payload), now) or now < self._again_mono.get(lane, now):
            return
        self._again_mono[lane] = now + AGAIN_S
        try:
            if lane not in self._acl.fenced():  # else it is what was under way before
                self._acl.block(lane)
                log.error("lane fenced off: it floods the broker", lane=lane)
        except (FenceFault, OSError) as bad:
            log.error("a lane floods the broker and cannot be fenced off", lane=lane, why=str(bad))
