"""The look-up: what the enrolment cache knows of a document's holder, and the only holder of their templates.

The newest generation of each partition that lies in the store's folder and can be opened is used; a newer one is
noticed at the next passenger, or as soon as sync says so. What was found for a ticket is wiped at `Forget`."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import NoReturn, TypeVar

import structlog

from drivers.base import Emit
from gated.daemon.cachememory import Memory
from gated.daemon.workers import Workers
from gated.icao.fingers import in_order
from gated.icao.mrz import Document
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane import history
from gated.lane.events import Device, Event
from gated.lane.history import Crossing
from gated.lane.rules import ENTRY, EXIT, Rules
from gated.logs import told
from gated.store.cache import Cache, Enrolments
from gated.store.cachefile import CacheNote, generations, path_of
from gated.store.crossings import Crossings
from gated.store.sql import StoreCorrupt, StoreError, in_words
from gated.wire.rows import CONTROL, CROSSINGS_MAX, PARTITIONS, PEOPLE, PersonRow, of_document, of_subject

log = structlog.get_logger()

T = TypeVar("T")

RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """One partition as it is in use."""

    note: CacheNote
    as_of: datetime
    """When HQ last said that this is all; `cachememory.UNKNOWN` where the file's word on that is not believed."""
    file: str


@dataclass(slots=True)
class _Held:
    """What is known for one ticket."""

    issuer: str = field(repr=False)
    number: str = field(repr=False)
    person: PersonRow | None = field(default=None, repr=False)


class LookUp:
    """Answers `LookUp` and `ReadFlags`.

    `key`: the lane's own, to which HQ wrapped the epochs' keys; `name`: site/lane, for which it did. `memory`: of each
    partition. `owners`: users whose files count, any where none is named. `model`: the network whose face templates
    can be compared here; `finger_format`: the format of finger templates that can be, "" for none. `rules`: those that
    the present passenger is judged by. `crossings`: the lane's own; None: of a look-up without a lane."""

    def __init__(
        self,
        folder: Path,
        key: bytes,
        name: str,
        model: str,
        workers: Workers,
        emit: Emit,
        *,
        rules: Callable[[], Rules],
        finger_format: str = "",
        memory: Mapping[str, Memory] | None = None,
        owners: Collection[int] = (),
        crossings: Crossings | None = None,
    ) -> None:
        self._folder, self._key, self._name = folder, key, name
        self._model, self._finger_format = model, finger_format
        self._workers, self._emit = workers, emit
        self._open: dict[str, Cache] = {}
        self._both: Enrolments | None = None
        self._memory = memory or {partition: Memory() for partition in PARTITIONS}
        self._owners = frozenset(owners)
        self._crossings, self._rules = crossings, rules
        self._damaged: set[Path] = set()
        self._passed_over: set[Path] = set()
        self._held: dict[int, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost, self._why = True, ""
        self._try = asyncio.Event()

    async def standing(self) -> Mapping[str, Standing]:
        """Each partition that can be used, as it stands now."""
        return await self._workers.run("cache", self._standings)

    async def run(self) -> NoReturn:
        """Open the cache, and open it again whenever it failed."""
        while True:
            try:
                await self._workers.run("cache", self._put, lambda _: None)
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

    def _put(self, question: Callable[[Enrolments], T]) -> T:
        """A question to the newest generations. What fails is opened anew the next time, what is damaged after
        the one before it."""
        try:
            return question(self._enrolments())
        except Exception as error:
            if isinstance(error, StoreCorrupt):
                self._damaged.add(error.path)
            self._close()
            raise

    def _close(self) -> None:
        for cache in self._open.values():
            cache.close()
        self._open, self._both = {}, None

    def _enrolments(self) -> Enrolments:
        people, control = self._newest(PEOPLE), self._newest(CONTROL)
        if self._both is None or (self._both.people, self._both.control) != (people, control):
            self._both = Enrolments(people, control)
        return self._both

    def _newest(self, partition: str) -> Cache:
        """The newest generation that can be opened: where sync's latest is damaged, the one before still serves."""
        found = generations(self._folder, partition)
        failed: StoreError | None = None
        for generation in sorted(found, key=lambda g: (found[g] not in self._damaged, g), reverse=True):
            held = self._open.get(partition)
            if held is not None and held.path == found[generation]:
                return held
            try:
                self._check_owner(found[generation])
                cache = Cache(found[generation], self._key, self._name)
                log.info("cache opened", partition=partition, generation=generation, rows=cache.note.rows)
            except StoreError as error:
                failed = failed or error
                if found[generation] not in self._passed_over:
                    self._passed_over.add(found[generation])
                    log.error("cache generation passed over", why=error.why, what=str(error))
                continue
            self._open[partition] = cache
            if held is not None:
                held.close()
            return cache
        missing = path_of(self._folder, partition, 1)
        raise failed or StoreError("no_cache", missing, "nothing was fetched from HQ yet: gated cache status")

    def _check_owner(self, path: Path) -> None:
        """The uplink shares the folder, and could copy sealed rows of the cache into a file of its own without those
        that ban somebody: it opens nothing, and must not choose either. Raises `StoreError`."""
        with in_words(path):
            owner = path.lstat().st_uid
        if self._owners and owner not in self._owners:
            raise StoreError("not_syncs", path, f"user {owner} made it, and only sync may: find out who that is")

    def _standings(self) -> Mapping[str, Standing]:
        return self._put(lambda caches: {PEOPLE: self._stand(caches.people), CONTROL: self._stand(caches.control)})

    def _stand(self, cache: Cache) -> Standing:
        note = cache.note
        return Standing(note, self._memory[note.partition].believed(note, cache.as_of), cache.path.name)

    # -- requests ------------------------------------------------------------------------------------------

    def look_up(self, command: cmd.LookUp, utc: datetime) -> None:
        """Answered by `RecordFound`, `NoRecord` or `LookUpFailed`. `utc`: when the document was presented."""
        document = command.document
        held = self._held[command.ticket] = _Held(document.issuer, document.number)
        self._later(command, lambda: self._find(command, document, utc, held))

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

    async def _find(self, command: cmd.LookUp, document: Document, utc: datetime, held: _Held) -> Event:
        person, flags, expected_on, controls, stand = await self._workers.run(
            "cache", self._put, lambda caches: (*_found(caches, document), self._stood(caches))
        )
        if person is None:
            return ev.NoRecord(command.ticket, command.ask, flags, stand)
        if person.face is not None and person.face_model != self._model:
            log.error("template is of another network", theirs=person.face_model, ours=self._model)
            return ev.LookUpFailed(command.ticket, command.ask, "other_face_model")
        try:
            own = await self._own(person, document)
        except StoreError as error:
            log.error("the lane's own crossings cannot be read", why=error.why, what=str(error))
            return ev.LookUpFailed(command.ticket, command.ask, "history_unread")
        held.person = person
        traveller = self._traveller(person, document, own, expected_on == self._rules().day(utc), controls)
        return ev.RecordFound(command.ticket, command.ask, traveller, flags, stand)

    async def _own(self, person: PersonRow, document: Document) -> list[Crossing]:
        """The lane's own crossings of this person, and with this document. Raises `StoreError`."""
        if self._crossings is None:
            return []
        whose = of_subject(person.subject), of_document(document.issuer, document.number)
        waiting = [self._crossings.awaiting(each) for each in whose]
        kept = await self._workers.run("store", self._crossings.of, *whose)
        theirs, documents = (one | other for one, other in zip(waiting, kept, strict=True))
        return [Crossing(c.direction, ev.Crossed(c.utc, c in documents)) for c in theirs | documents]

    async def _flags(self, command: cmd.ReadFlags) -> Event:
        held = self._held.get(command.ticket)
        if held is None or held.person is None:
            return ev.LookUpFailed(command.ticket, command.ask, "not_held")
        subject = held.person.subject
        flags, document_flags, stand = await self._workers.run(
            "cache",
            self._put,
            lambda caches: (
                caches.flags(subject),
                caches.document_flags(held.issuer, held.number),
                self._stood(caches),
            ),
        )
        return ev.FlagsRead(command.ticket, command.ask, flags, document_flags, stand)

    def _stood(self, caches: Enrolments) -> ev.CacheStand:
        people, control = self._stand(caches.people), self._stand(caches.control)
        return ev.CacheStand(people.note.serial, people.as_of, control.note.serial, control.as_of)

    def _traveller(
        self, person: PersonRow, document: Document, own: list[Crossing], expected: bool, controls: frozenset[str]
    ) -> ev.Traveller:
        """As HQ's row and the lane's own crossings have it together; with the fingers that this lane can compare, or
        all where it has no reader: then it is the lane that lacks something, and not the enrolment.
        `controls` are read again before a verdict: here they are for the officer who is called before that (L8)."""
        shown = (document.issuer, document.number)
        counted = [
            Crossing(row.direction, ev.Crossed(row.utc, (row.issuer, row.number) == shown)) for row in person.crossings
        ]
        new = history.uncounted(counted, own, full=len(counted) == CROSSINGS_MAX)
        permits = [ev.Permit(p.kind, p.start, p.end, p.entries_left) for p in person.permits]
        return ev.Traveller(
            subject=person.subject,
            category=person.category,
            birth=person.birth,
            flags=controls,
            permits=history.entries_left(permits, new, person.category, self._rules()),
            face=person.face is not None,
            fingers=in_order(r.position for r in person.fingers if self._finger_format in (r.format, "")),
            usable_from=person.usable_from,
            origin=person.origin,
            enrolled_on=person.enrolled_on,
            received_on=person.received_on,
            height_cm=person.height_cm,
            entered=history.last((*counted, *own), ENTRY),
            left=history.last((*counted, *own), EXIT),
            expected=expected,
        )


def _found(
    caches: Enrolments, document: Document
) -> tuple[PersonRow | None, frozenset[str], date | None, frozenset[str]]:
    """The holder, the document's flags, the day for which it is expected, and the holder's control flags."""
    person = caches.by_document(document.issuer, document.number)
    if person is None and document.personal_number is not None:
        person = caches.by_person(document.personal_number)
    flags = caches.document_flags(document.issuer, document.number)
    controls = caches.flags(person.subject) if person is not None else frozenset[str]()
    return person, flags, caches.expected_on(document.issuer, document.number), controls
