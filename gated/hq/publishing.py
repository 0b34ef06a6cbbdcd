"""The publisher all day long: urgent changes at once, ordinary ones at the interval, whatever fails tried again."""

import threading
import time
from datetime import UTC, datetime
from typing import Final

import structlog

from gated.hq.announcer import Announcer
from gated.hq.publisher import Faults, Publisher, Round
from gated.notify import notify, watchdog_s

log = structlog.get_logger()

POLL_S: Final = 0.2
"""So often the register's log is looked at for urgent changes: one read of an index."""
AGAIN_S: Final = 1.0
"""After a fault, or where something urgent could not be published."""


def keep_publishing(publisher: Publisher, announcer: Announcer | None, every_s: float, stop: threading.Event) -> None:
    """Until `stop`. Never raises for what may be over in a while: a full disk, a lock, a key that was taken away."""
    next_mono = again_mono = time.monotonic()
    stroke_s = watchdog_s()
    notify("READY=1", "STATUS=publishing")
    while not stop.is_set():
        if stroke_s is not None:
            notify("WATCHDOG=1")
        done: Round | None = None
        now_mono = time.monotonic()
        worked = False
        try:
            if now_mono >= again_mono and (now_mono >= next_mono or publisher.is_urgent):
                ordinary = now_mono >= next_mono
                with publisher.state.only_publisher():
                    now = datetime.now(UTC)
                    done = publisher.round(now) if ordinary else publisher.urgent(now)
                faulty = any(each.fault for each in done.done)
                if ordinary and (faulty or not publisher.behind):
                    next_mono = now_mono + every_s
                _log(done, ordinary)
                if announcer is not None:
                    announcer.say(publisher.announcement(done))
                if faulty or publisher.is_urgent:
                    again_mono = time.monotonic() + AGAIN_S
            elif now_mono >= again_mono:
                with publisher.state.only_publisher():
                    worked = publisher.work()
        except Faults as bad:
            log.error("not published", why=str(bad))
            again_mono = time.monotonic() + AGAIN_S
        pause_s = 0.0 if worked or done is not None else POLL_S
        if announcer is not None:
            announcer.attend(pause_s)
        elif pause_s:
            stop.wait(pause_s)


def _log(done: Round, ordinary: bool) -> None:
    for each in done.done:
        for segment in each.made:
            log.info(
                "segment", partition=each.partition, epoch=each.epoch, serial=segment.serial, rows=segment.rows,
                bytes=segment.size, lifts=segment.lifts, urgent=not ordinary,
            )  # fmt: skip
        if each.needs_lift_key and ordinary:
            log.warning("waits for the lift key", partition=each.partition, **dict(each.waiting))
