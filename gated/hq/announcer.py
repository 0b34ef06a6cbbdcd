"""The announcement over MQTT: that there is something new, and the newest small segments themselves, each signed.

It may be lost, late or forged: lanes prove what they take, and ask HQ's server from time to time anyway."""

import secrets
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import structlog

from gated.hq.bundles import segment_bytes
from gated.hq.partition import Partition, Segment
from gated.hq.repository import Repository, Signers
from gated.mqtt import Backoff, Broker, Connected, Gone, Happening, Publication, Refused, Session
from gated.wire import link
from gated.wire.bundle import SCHEMA, TIP_SEGMENT_BYTES_MAX, Announcement, SignedTip, Tip, chain_start
from gated.wire.codec import encode

log = structlog.get_logger()

TIPS_MAX: Final = 6
"""Of one partition: whoever missed the last announcement or two still has no need of HQ's server."""
TIPS_KEPT: Final = timedelta(minutes=10)
SEGMENTS_BYTES_MAX: Final = 160 * 1024
"""Of all segments in one announcement: in base64, with its tips, less than the 256 KiB that the broker takes."""


class Tips:
    """Makes announcements of what was signed. Raises `RepositoryFault`, `OSError`, `sqlite3.Error`."""

    def __init__(self, repository: Repository, signers: Signers) -> None:
        self._repository, self._signers = repository, signers
        self._signed: dict[tuple[str, int, int], tuple[bytes, str, bytes]] = {}

    def announcement(self, parts: Iterable[Partition], version: int, now: datetime) -> bytes:
        """Its bytes. `version`: of the timestamp that was signed."""
        tips: list[SignedTip] = []
        room = SEGMENTS_BYTES_MAX
        for part in parts:
            serial = part.note.serial
            recent: list[SignedTip] = []
            for segment in reversed(part.segments(serial - TIPS_MAX + 1, serial)):
                if now - segment.built > TIPS_KEPT:
                    break
                # Who cannot lift by the base that they have must ask for the newer one: the bytes would not help them.
                rides = segment.size <= min(TIP_SEGMENT_BYTES_MAX, room) and not segment.lifts
                room -= segment.size if rides else 0
                recent.append(self._tip(part, segment, rides))
            tips += reversed(recent)
        return encode(Announcement(version, tuple(tips)))

    def _tip(self, part: Partition, segment: Segment, rides: bool) -> SignedTip:
        at = (part.name, part.epoch, segment.serial)
        if at not in self._signed:
            before = part.segments(segment.serial - 1, segment.serial - 1)
            previous = before[0].chain if before else chain_start(part.name, part.epoch)
            tip = encode(Tip(SCHEMA, *at, previous, segment.sha256, segment.size, segment.built))
            self._signed[at] = (tip, *self._repository.sign_tip(part.name, tip, self._signers))
            while len(self._signed) > 64:
                del self._signed[next(iter(self._signed))]
        data = segment_bytes(Path(self._repository.folder), part, segment) if rides else None
        return SignedTip(*self._signed[at], data)


class Announcer:
    """Keeps the last announcement at the broker, retained, over every loss of the connection."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._inbox: SimpleQueue[Happening] = SimpleQueue()
        self._backoff = Backoff(0.5, 30.0)
        self._again_mono = time.monotonic()
        self._session: Session | None = None
        self._connected = False
        self._last: Publication | None = None

    def say(self, announcement: bytes) -> None:
        """Send it, now or as soon as there is a broker; a newer one takes its place."""
        self._last = Publication(link.announce_topic(), announcement, qos=1, retain=True)
        if self._session is not None and self._connected:
            self._session.publish(self._last)

    def attend(self, wait_s: float) -> bool:
        """Look after the connection for at most so long. Whether there is one."""
        until = time.monotonic() + wait_s
        while True:
            if self._session is None and time.monotonic() >= self._again_mono:
                self._session = Session(self._broker, f"hq-publish-{secrets.token_hex(6)}", self._inbox)
                self._session.start()
            try:
                self._take(self._inbox.get(timeout=max(0.0, until - time.monotonic())))
            except Empty:
                return self._connected

    def _take(self, happened: Happening) -> None:
        if happened.session is not self._session:
            return
        if isinstance(happened, Connected):
            self._backoff.reset()
            self._connected = True
            log.info("connected", broker=self._broker.host, port=self._broker.port)
            if self._last is not None:
                self._session.publish(self._last)
        elif isinstance(happened, Gone):
            pause_s = self._backoff.pause_s()
            log.warning("no broker", why=happened.why, again_in_s=round(pause_s, 1))
            self._session, self._connected = None, False
            self._again_mono = time.monotonic() + pause_s
        elif isinstance(happened, Refused):
            log.error("the broker threw an announcement away", why=happened.reason)

    def send(self, announcement: bytes, within_s: float) -> bool:
        """Say it once. Whether there was a broker within that time."""
        self.say(announcement)
        until = time.monotonic() + within_s
        while not self._connected and time.monotonic() < until:
            self.attend(0.05)
        return self._connected

    def close(self) -> None:
        """Sends what is queued."""
        if self._session is not None:
            self._session.stop()
            self._session, self._connected = None, False
