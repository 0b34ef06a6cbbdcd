"""Passport readers, and what their drivers share: MRZ text -> event, and what lies in the slot. Logs nothing."""

import asyncio
import re
from collections.abc import Sequence

from drivers.links import ByteLink
from gated.icao.mrz import Document, MrzError, parse
from gated.lane.events import DocumentPresented, DocumentRemoved, DocumentUnreadable, Door, Event

RUN_MIN = 12
"""So many letters of an MRZ in a row do not come out of line noise: a document's frame was damaged."""

_LAST_LOOK_S = 0.002
_RUN = re.compile(rb"[A-Z0-9<_]{%d,}" % RUN_MIN)


def judge(lines: Sequence[str], side: Door) -> DocumentPresented | DocumentUnreadable:
    """What the lane is told of these MRZ lines: every check digit holds, or a code that names the fault alone."""
    try:
        return DocumentPresented(parse(lines), side)
    except MrzError as error:
        field, check, _ = error.field.partition(" check digit")
        return DocumentUnreadable(f"{'check_digit' if check else 'mrz'}:{field.replace(' ', '_')}", side)


async def hear(link: ByteLink, until: float | None) -> bytes:
    """What the link has to say, or nothing when the loop's time has passed `until` (None: never). Raises `LinkLost`.

    A process that slept through `until` finds bytes and time-out at once: it looks again before it says silence."""
    try:
        async with asyncio.timeout_at(until):
            return await link.read()
    except TimeoutError:
        try:
            async with asyncio.timeout(_LAST_LOOK_S):
                return await link.read()
        except TimeoutError:
            return b""


class Residue:
    """Bytes that belong to no frame: noise is forgotten, a run of MRZ letters in them is not. Holds a few bytes."""

    def __init__(self) -> None:
        self._tail = b""

    def drop(self, data: bytes) -> bool:
        """Whether `data`, after all that was dropped before it, holds a piece of a document."""
        self._tail += data
        found = _RUN.search(self._tail) is not None
        self._tail = b"" if found else self._tail[-(RUN_MIN - 1) :]
        return found

    def clear(self) -> None:
        """The line fell silent: the next byte begins something new."""
        self._tail = b""


class Slot:
    """What lies in a reader that sees the same document again and again: each is told once, and its removal."""

    def __init__(self, side: Door) -> None:
        self._document: Document | None = None
        self._side = side
        self._told = False

    @property
    def occupied(self) -> bool:
        """Something was told to lie here, read or not."""
        return self._told

    def holds(self, document: Document) -> bool:
        """Whether this was told already. What check digits guard decides: a bad letter in a name is no new passport."""
        return self._document is not None and _identity(document) == _identity(self._document)

    def read(self, event: DocumentPresented | DocumentUnreadable) -> list[Event]:
        """A reading of what lies here. A good one is not taken back by a bad one: documents move as they are taken."""
        told, self._told = self._told, True
        if isinstance(event, DocumentUnreadable):
            return [] if told else [event]
        if self.holds(event.document):
            return []
        swapped, self._document = self._document is not None, event.document
        return [DocumentRemoved(self._side), event] if swapped else [event]

    def empty(self) -> list[Event]:
        """The reader sees nothing."""
        told, self._told, self._document = self._told, False, None
        return [DocumentRemoved(self._side)] if told else []


def _identity(document: Document) -> tuple[str, ...]:
    return document.format, document.number, document.birth, document.expiry
