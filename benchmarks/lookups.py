"""Who asks: a process of its own, as the lane is one, that looks people up and says how long each took; and whom.

Beside the sealed cache the same people in plain columns, in SQLite and in SQLCipher, as one would write it first."""

import multiprocessing
import os
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from benchmarks.register import BLOCK, ISSUER, SECRET, Changes, document, faces, people, personal_number, subject
from gated.store.cache import Cache, Enrolments
from gated.store.cachefile import CacheNote, build, path_of
from gated.store.cachetable import CACHE_KIB, PAGE_BYTES
from gated.wire import rows
from gated.wire.bundle import chain_start
from gated.wire.rows import CONTROL, PEOPLE, EpochKey
from gated.wire.seal import NONCE_BYTES, public_of

LANE: Final = "north/a1"
LANE_KEY: Final = bytes(range(1, 33))
AT: Final = datetime(2026, 3, 1, tzinfo=UTC)
KINDS: Final = ("document, hit", "document, miss", "person, hit", "person, miss")
NOBODY: Final = 50_000_000
"""From this number on there is never anybody."""

Times = dict[str, list[float]]
"""Microseconds of every look-up, by kind."""


class LookUps(Protocol):
    def by_document(self, issuer: str, number: str) -> Any: ...

    def by_person(self, personal_number: str) -> Any: ...


# -- the cache -------------------------------------------------------------------------------------------------------


def built(folder: Path, partition: str, found: Iterable[tuple[bytes, bytes]], say: Callable[[int], None]) -> CacheNote:
    """A generation of the cache, as a lane makes it of a snapshot."""
    epoch = EpochKey.of(SECRET)
    return build(
        path_of(folder, partition, 1),
        CacheNote(partition, 1, 1, 0, chain_start(partition, 1), AT, 0),
        epoch.proof(os.urandom(NONCE_BYTES)),
        rows.wrapped(SECRET, public_of(LANE_KEY), partition, 1, LANE),
        found,
        checked=AT,
        progress=say,
    )


def sealed_store(folder: Path) -> LookUps:
    return Enrolments(*(Cache(path_of(folder, partition, 1), LANE_KEY, LANE) for partition in (PEOPLE, CONTROL)))


# -- beside it -------------------------------------------------------------------------------------------------------

PLAIN: Final = (
    """CREATE TABLE person (subject INTEGER PRIMARY KEY, category TEXT, birth TEXT, sex TEXT, face BLOB,
       face_model TEXT, permit TEXT, permit_start TEXT, permit_end TEXT, enrolled_on TEXT)""",
    """CREATE TABLE document (issuer TEXT, number TEXT, subject INTEGER NOT NULL, PRIMARY KEY (issuer, number))
       WITHOUT ROWID""",
    "CREATE TABLE personal (number TEXT PRIMARY KEY, subject INTEGER NOT NULL) WITHOUT ROWID",
)
_PUT: Final = "INSERT OR REPLACE INTO person VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def connected(path: Path, cipher: bool) -> Any:
    """With the settings of the cache's writer."""
    sql: Any
    if cipher:
        import sqlcipher3.dbapi2

        sql = sqlcipher3.dbapi2.connect(str(path), isolation_level=None)
        sql.execute(f"PRAGMA key = \"x'{SECRET.hex()}'\"")
        sql.execute(f"PRAGMA cipher_page_size = {PAGE_BYTES[0]}")
    else:
        sql = sqlite3.connect(path, isolation_level=None)
        sql.execute(f"PRAGMA page_size = {PAGE_BYTES[0]}")
    sql.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return sql


class PlainStore:
    """The same people in plain columns."""

    def __init__(self, path: Path, cipher: bool) -> None:
        self._sql = connected(path, cipher)
        self._sql.execute("PRAGMA cache_size = -2000")  # as for any reader

    def by_document(self, issuer: str, number: str) -> Any:
        return self._sql.execute(
            "SELECT person.* FROM document JOIN person USING (subject) WHERE issuer = ? AND number = ?",
            (issuer, number),
        ).fetchone()

    def by_person(self, number: str) -> Any:
        return self._sql.execute(
            "SELECT person.* FROM personal JOIN person USING (subject) WHERE number = ?", (number,)
        ).fetchone()


def _columns(person: Any) -> tuple[Any, ...]:
    permit = person.permits[0]
    days = (permit.kind, *(day.isoformat() for day in (permit.start, permit.end, person.enrolled_on)))
    return person.subject, person.category, person.birth.isoformat(), person.sex, person.face, person.face_model, *days


def _in_order_of_subject(count: int) -> Iterator[tuple[Any, ...]]:
    templates = np.concatenate([faces(block, 0) for block in range(-(-count // BLOCK))])
    sample = _columns(next(people(0, 1))[1])
    for n in sorted(range(count), key=subject):
        yield subject(n), *sample[1:4], templates[n].tobytes(), *sample[5:]


def load_plain(path: Path, cipher: bool, count: int) -> float:
    """Seconds to make the file, in order of key as the cache is made."""
    started = time.perf_counter()
    sql = connected(path, cipher)
    sql.execute("PRAGMA journal_mode=OFF")
    sql.execute("PRAGMA synchronous=OFF")
    sql.execute("BEGIN")
    for statement in PLAIN:
        sql.execute(statement)
    sql.executemany(_PUT, _in_order_of_subject(count))
    sql.executemany(
        "INSERT INTO document VALUES (?, ?, ?)", sorted((ISSUER, document(n), subject(n)) for n in range(count))
    )
    sql.executemany(
        "INSERT INTO personal VALUES (?, ?)", sorted((personal_number(n), subject(n)) for n in range(count))
    )
    sql.execute("COMMIT")
    sql.execute("PRAGMA journal_mode=WAL")
    sql.close()
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    return time.perf_counter() - started


def change_plain(path: Path, cipher: bool, changes: Changes) -> float:
    """Seconds of one day in one transaction, in order of key."""
    updated, added = changes.updated, changes.added
    put = sorted(
        _columns(person) for part in (updated, added) for _, person in people(part.start, part.stop, changes.edition)
    )
    sql = connected(path, cipher)
    sql.execute("PRAGMA synchronous=FULL")
    started = time.perf_counter()
    sql.execute("BEGIN IMMEDIATE")
    sql.executemany(_PUT, put)
    sql.executemany("INSERT INTO document VALUES (?, ?, ?)", sorted((ISSUER, document(n), subject(n)) for n in added))
    sql.executemany("INSERT INTO personal VALUES (?, ?)", sorted((personal_number(n), subject(n)) for n in added))
    for statement, gone in (
        ("DELETE FROM person WHERE subject = ?", [(subject(n),) for n in changes.gone]),
        ("DELETE FROM document WHERE issuer = ? AND number = ?", [(ISSUER, document(n)) for n in changes.gone]),
        ("DELETE FROM personal WHERE number = ?", [(personal_number(n),) for n in changes.gone]),
    ):
        sql.executemany(statement, sorted(gone))
    sql.execute("COMMIT")
    taken = time.perf_counter() - started
    sql.close()
    return taken


# -- the process that asks -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asker:
    """Ask for one of the first `count` people, and for nobody, by turns and without a pause."""

    store: Callable[..., LookUps]
    arguments: tuple[Any, ...]
    count: int

    def serve(self, pipe: Connection, stop: Any) -> None:
        drawn = np.random.default_rng()
        store = self.store(*self.arguments)
        pipe.send(None)
        while (least := pipe.recv()) is not None:
            times = {kind: array("q") for kind in KINDS}
            asked = 0
            while asked < least or not stop.is_set():
                # four people: none is to warm another's pages
                for a, b, c, d in drawn.integers(0, self.count, (250, 4)).tolist():
                    for kind, ask, who, wanted in (
                        (KINDS[0], store.by_document, (ISSUER, document(a)), True),
                        (KINDS[1], store.by_document, (ISSUER, document(b + NOBODY)), False),
                        (KINDS[2], store.by_person, (personal_number(c),), True),
                        (KINDS[3], store.by_person, (personal_number(d + NOBODY),), False),
                    ):
                        started = time.perf_counter_ns()
                        found = ask(*who)
                        times[kind].append(time.perf_counter_ns() - started)
                        assert (found is not None) is wanted, f"{kind}: one should be found: {wanted}"
                asked += 1000
            pipe.send({kind: [one / 1000 for one in each] for kind, each in times.items()})

    @contextmanager
    def meanwhile(self, into: Times, least: int = 0) -> Iterator[None]:
        """Asks until the block is left, at least `least` times."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        stop = context.Event()
        process = context.Process(target=self.serve, args=(theirs, stop))
        process.start()
        theirs.close()
        try:
            ours.recv()  # it has opened the file
            ours.send(least)
            yield
            stop.set()
            into.update(ours.recv())
            ours.send(None)
        except EOFError:
            raise RuntimeError("the process that looks people up has died: see above") from None
        finally:
            stop.set()
            ours.close()
            process.join()
