"""The look-up: what the enrolment cache knows of a document's holder, and the only holder of their templates.

The newest generation of the cache that lies in the store's folder is used; a newer one is noticed at the next
passenger. What was found for a ticket is wiped at `Forget`."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar

import structlog

from drivers.base import Emit
from gated.daemon.crashes import told
from gated.daemon.workers import Workers
from gated.icao.fingers import in_order
from gated.icao.mrz import Document
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.events import Device, Event
from gated.store.cache import Cache, PersonRow
from gated.store.sql import StoreError, in_words

log = structlog.get_logger()

T = TypeVar("T")

RETRY_S = 1.0
_GENERATION = re.compile(r"cache-(\d+)\.db")


@dataclass(slots=True)
class _Held:
    """What is known for one ticket."""

    issuer: str = field(repr=False)
    number: str = field(repr=False)
    person: PersonRow | None = field(default=None, repr=False)


class LookUp:
    """Answers `LookUp` and `ReadFlags`.

    `model`: the network whose face templates can be compared here; `finger_format`: the format of finger templates
    that can be, "" for none."""

    def __init__(
        self, folder: Path, key: bytes, model: str, workers: Workers, emit: Emit, *, finger_format: str = ""
    ) -> None:
        self._folder, self._key, self._model, self._finger_format = folder, key, model, finger_format
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
                self._fail(error.why, str(error))
                await asyncio.sleep(RETRY_S)
                continue
            if self._lost:
                self._lost = False
                self._emit(ev.DeviceReady(Device.CACHE))
            self._try.clear()
            await self._try.wait()
            await asyncio.sleep(RETRY_S)

    def _fail(self, why: str, what: str) -> None:
        if not self._lost or why != self._why:
            self._emit(ev.DeviceLost(Device.CACHE, why))
            log.warning("cache cannot be used", why=why, what=what)
        self._lost, self._why = True, why

    # -- on the worker, which alone touches the cache ------------------------------------------------------------

    def _put(self, question: Callable[[Cache], T]) -> T:
        """A question to the newest generation. One that fails is opened anew the next time."""
        try:
            return question(self._newest())
        except Exception:
            self._close()
            raise

    def _close(self) -> None:
        old, self._cache = self._cache, None
        if old is not None:
            old.close()

    def _newest(self) -> Cache:
        with in_words(self._folder):
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
        self._later(command, lambda: self._find(command, document, held))

    def read_flags(self, command: cmd.ReadFlags) -> None:
        """Answered by `FlagsRead` or `LookUpFailed`."""
        self._later(command, lambda: self._flags(command))

    def template_of(self, subject: int) -> bytes:
        """The face template behind a subject of the present ticket. Raises `KeyError`."""
        for held in self._held.values():
            if held.person is not None and held.person.subject == subject and held.person.face is not None:
                return held.person.face
        raise KeyError("no template is held for this subject")

    def finger_template_of(self, subject: int, finger: str) -> bytes:
        """The template of one finger of a subject of the present ticket, in the lane's format. Raises `KeyError`."""
        for held in self._held.values():
            if held.person is not None and held.person.subject == subject:
                for row in held.person.fingers:
                    if (row.position, row.format) == (finger, self._finger_format):
                        return row.template
        raise KeyError("no template is held for this finger")

    def forget(self, ticket: int) -> None:
        """Wipe what is held for this ticket."""
        self._held.pop(ticket, None)

    def close(self) -> None:
        """Give up what is asked and close the cache; its worker has ended."""
        for task in self._tasks:
            task.cancel()
        self._held.clear()
        self._close()

    def _later(self, command: cmd.Request, work: Callable[[], Awaitable[Event]]) -> None:
        task = asyncio.ensure_future(self._answered(command, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answered(self, command: cmd.Request, work: Callable[[], Awaitable[Event]]) -> None:
        try:
            answer = await work()
        except StoreError as error:
            why, what = error.why, str(error)
        except Exception as error:  # noqa: BLE001  # whatever it was, the lane waits for an answer
            why, what = "crashed", "; ".join(told(error))
        else:
            self._emit(answer)
            return
        self._fail(why, what)
        self._emit(ev.LookUpFailed(command.ticket, command.ask, why))
        self._try.set()

    async def _find(self, command: cmd.LookUp, document: Document, held: _Held) -> Event:
        person, flags = await self._workers.run("cache", self._put, lambda cache: _found(cache, document))
        if person is None:
            return ev.NoRecord(command.ticket, command.ask, flags)
        if person.face is not None and person.face_model != self._model:
            log.error("template is of another network", theirs=person.face_model, ours=self._model)
            return ev.LookUpFailed(command.ticket, command.ask, "other_face_model")
        held.person = person
        return ev.RecordFound(command.ticket, command.ask, self._traveller(person), flags)

    async def _flags(self, command: cmd.ReadFlags) -> Event:
        held = self._held.get(command.ticket)
        if held is None or held.person is None:
            return ev.LookUpFailed(command.ticket, command.ask, "not_held")
        subject = held.person.subject
        flags, document_flags = await self._workers.run(
            "cache",
            self._put,
            lambda cache: (cache.flags(subject), cache.document_flags(held.issuer, held.number)),
        )
        return ev.FlagsRead(command.ticket, command.ask, flags, document_flags)

    def _traveller(self, person: PersonRow) -> ev.Traveller:
        """Without flags, which are read when they are needed; with the fingers that this lane can compare."""
        return ev.Traveller(
            subject=person.subject,
            category=person.category,
            birth=person.birth,
            flags=frozenset(),
            permits=tuple(ev.Permit(p.kind, p.start, p.end, p.entries_left) for p in person.permits),
            face=person.face is not None,
            fingers=in_order(row.position for row in person.fingers if row.format == self._finger_format),
            usable_from=person.usable_from,
        )


def _found(cache: Cache, document: Document) -> tuple[PersonRow | None, frozenset[str]]:
    person = cache.by_document(document.issuer, document.number)
    if person is None and document.personal_number is not None:
        person = cache.by_person(document.personal_number)
    return person, cache.document_flags(document.issuer, document.number)
