"""The look-up: what the enrolment cache knows of a document's holder, and the only holder of their templates.

The newest generation of the cache that lies in the store's folder is used; a newer one is noticed at the next
passenger. What was found for a ticket is wiped at `Forget`."""

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import structlog

from drivers.base import Emit
from gated.daemon.workers import Workers
from gated.icao.mrz import Document
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.events import Device, Event
from gated.store.cache import Cache, PersonRow
from gated.store.sql import StoreError

log = structlog.get_logger()

RETRY_S = 1.0
_GENERATION = re.compile(r"cache-(\d+)\.db")


@dataclass(slots=True)
class _Held:
    """What is known for one ticket."""

    issuer: str = field(repr=False)
    number: str = field(repr=False)
    person: PersonRow | None = field(default=None, repr=False)


class LookUp:
    """Answers `LookUp` and `ReadFlags`. `model`: the network whose templates can be compared here."""

    def __init__(self, folder: Path, key: bytes, model: str, workers: Workers, emit: Emit) -> None:
        self._folder, self._key, self._model = folder, key, model
        self._workers, self._emit = workers, emit
        self._cache: Cache | None = None
        self._held: dict[int, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost, self._why = True, ""
        self._try = asyncio.Event()

    @property
    def cache(self) -> Cache | None:
        """The generation in use."""
        return self._cache

    async def run(self) -> NoReturn:
        """Open the cache, and open it again whenever it failed."""
        while True:
            try:
                await self._workers.run("cache", self._newest)
            except StoreError as error:
                self._fail(error)
                await asyncio.sleep(RETRY_S)
                continue
            if self._lost:
                self._lost = False
                self._emit(ev.DeviceReady(Device.CACHE))
            self._try.clear()
            await self._try.wait()
            await asyncio.sleep(RETRY_S)

    def _fail(self, error: StoreError) -> None:
        if not self._lost or error.why != self._why:
            self._emit(ev.DeviceLost(Device.CACHE, error.why))
            log.warning("cache cannot be used", why=error.why, what=str(error))
        self._lost, self._why = True, error.why

    def _newest(self) -> Cache:
        found = {int(m[1]): path for path in self._folder.iterdir() if (m := _GENERATION.fullmatch(path.name))}
        if not found:
            raise StoreError("no_cache", self._folder / "cache-1.db", "HQ has not published a cache for this lane yet")
        generation = max(found)
        if self._cache is None or self._cache.path != found[generation]:
            old, self._cache = self._cache, Cache(found[generation], self._key)
            log.info("cache opened", generation=generation, rows=self._cache.note.rows)
            if old is not None:
                old.close()
        return self._cache

    # -- requests ------------------------------------------------------------------------------------------

    def look_up(self, command: cmd.LookUp) -> None:
        """Answered by `RecordFound`, `NoRecord` or `LookUpFailed`."""
        document = command.document
        held = self._held[command.ticket] = _Held(document.issuer, document.number)
        self._later(self._find(command, document, held))

    def read_flags(self, command: cmd.ReadFlags) -> None:
        """Answered by `FlagsRead` or `LookUpFailed`."""
        self._later(self._flags(command))

    def template_of(self, subject: int) -> bytes:
        """The face template behind a subject of the present ticket. Raises `KeyError`."""
        for held in self._held.values():
            if held.person is not None and held.person.subject == subject and held.person.face is not None:
                return held.person.face
        raise KeyError("no template is held for this subject")

    def forget(self, ticket: int) -> None:
        """Wipe what is held for this ticket."""
        self._held.pop(ticket, None)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find(self, command: cmd.LookUp, document: Document, held: _Held) -> None:
        try:
            person, flags = await self._workers.run("cache", self._find_now, document)
        except StoreError as error:
            self._failed(command.ticket, command.ask, error)
            return
        answer: Event
        if person is None:
            answer = ev.NoRecord(command.ticket, command.ask, flags)
        elif person.face is not None and person.face_model != self._model:
            log.error("template is of another network", theirs=person.face_model, ours=self._model)
            answer = ev.LookUpFailed(command.ticket, command.ask, "other_face_model")
        else:
            held.person = person
            answer = ev.RecordFound(command.ticket, command.ask, _traveller(person, frozenset()), flags)
        self._emit(answer)

    def _find_now(self, document: Document) -> tuple[PersonRow | None, frozenset[str]]:
        cache = self._newest()
        person = cache.by_document(document.issuer, document.number)
        if person is None and document.personal_number is not None:
            person = cache.by_person(document.personal_number)
        return person, cache.document_flags(document.issuer, document.number)

    async def _flags(self, command: cmd.ReadFlags) -> None:
        held = self._held.get(command.ticket)
        try:
            if held is None or held.person is None:
                self._emit(ev.LookUpFailed(command.ticket, command.ask, "not_held"))
                return
            flags, document_flags = await self._workers.run("cache", self._flags_now, held, held.person.subject)
        except StoreError as error:
            self._failed(command.ticket, command.ask, error)
            return
        self._emit(ev.FlagsRead(command.ticket, command.ask, flags, document_flags))

    def _flags_now(self, held: _Held, subject: int) -> tuple[frozenset[str], frozenset[str]]:
        cache = self._newest()
        return cache.flags(subject), cache.document_flags(held.issuer, held.number)

    def _failed(self, ticket: int, ask: int, error: StoreError) -> None:
        self._fail(error)
        self._emit(ev.LookUpFailed(ticket, ask, error.why))
        self._cache = None
        self._try.set()


def _traveller(person: PersonRow, flags: frozenset[str]) -> ev.Traveller:
    return ev.Traveller(
        subject=person.subject,
        category=person.category,
        birth=person.birth,
        flags=flags,
        permits=tuple(ev.Permit(p.kind, p.start, p.end, p.entries_left) for p in person.permits),
        face=person.face is not None,
        fingers=tuple(finger.position for finger in person.fingers),
        usable_from=person.usable_from,
    )
