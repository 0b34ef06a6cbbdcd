"""The SQLite form of a cache file, for who writes it and who reads it: header, `about`, `rows`. No meaning of any row.

rows(key BLOB PRIMARY KEY, value BLOB)    place -> sealed row
about(name TEXT PRIMARY KEY, value BLOB)  note, proof, key, checked, floor (`gated.store.cachefile`)
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Final

from gated.store.sql import BUSY_S, StoreCorrupt, StoreError, in_words, store_error, uri
from gated.wire.bundle import BUCKETS, PLACE_BYTES, bucket_digest, bucket_of

APPLICATION_ID: Final = 0x67636163
"""The word "gcac"."""
VERSION: Final = 2
PAGE_BYTES: Final = (8192, 16384, 32768, 65536)
SAMPLE_ROWS: Final = 2000
CACHE_KIB: Final = 32 * 1024
"""What a writer holds of the file in memory, and of a transaction before it is spilled into the WAL."""
_ROW_HEAD_BYTES: Final = PLACE_BYTES + 8
STEP_ROWS: Final = 10_000
"""Progress is told so often."""
AGAIN: Final = "fetch it again (gated cache sync)"

Progress = Callable[[int], None]
"""Told the number of rows that are done."""


def beside(path: Path, ending: str) -> Path:
    """A file that belongs to `path`: `-wal`, `.lock`."""
    return path.with_name(path.name + ending)


def connected(path: Path) -> sqlite3.Connection:
    """A writer's connection to a file that is there."""
    return sqlite3.connect(
        uri(path, "mode=rw"), uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )


@contextmanager
def in_words_of_sql(path: Path) -> Iterator[None]:
    """As `in_words`, for SQLite alone: where rows are drawn from another file, that file's errors are not ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise store_error(error, path) from error


# -- reading ---------------------------------------------------------------------------------------------------


def check_header(path: Path, connection: sqlite3.Connection) -> None:
    """Raises `StoreError` unless this is a whole cache of this edition."""
    with in_words(path):
        application, version, page = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "page_size")
        )
        # in this order: a page that a writer adds, or moves out of the WAL meanwhile, is counted once at least
        size = connection.execute("PRAGMA page_count").fetchone()[0] * page
        wal = beside(path, "-wal")
        there = (wal.stat().st_size if wal.exists() else 0) + path.stat().st_size
    if application != APPLICATION_ID:
        raise StoreError("not_ours", path, "this is no cache of a lane")
    if version != VERSION:
        raise StoreError("wrong_edition", path, f"edition {version}, this program knows {VERSION}: install both alike")
    if there < size:
        raise StoreCorrupt("truncated", path, f"the file is shorter than it says: {AGAIN}")


def read_about(path: Path, connection: sqlite3.Connection, name: str) -> bytes:
    """What stands under `name` in `about`. Raises `StoreError`."""
    with in_words(path):
        row = connection.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise StoreError("unfinished", path, f"its writer did not finish it: {AGAIN}")
    if not isinstance(row[0], bytes):
        raise StoreCorrupt("corrupt", path, f"its {name} cannot be read: {AGAIN}")
    return row[0]


def digests(path: Path, connection: sqlite3.Connection, progress: Progress | None = None) -> bytes:
    """`bundle.bucket_digest` of every bucket, in order: a read of the whole file. Raises `StoreError`."""
    empty = bucket_digest(())
    found = {}
    with in_words(path):
        rows: Iterable[tuple[bytes, bytes]] = connection.execute("SELECT key, value FROM rows ORDER BY key")
        try:
            for bucket, held in groupby(_told(rows, progress), lambda row: bucket_of(row[0])):
                found[bucket] = bucket_digest(held)
        except (TypeError, IndexError) as error:  # a damaged page may hold any value
            raise StoreCorrupt("corrupt", path, f"a row cannot be read: {AGAIN}") from error
    return b"".join(found.get(bucket, empty) for bucket in range(BUCKETS))


def _told(rows: Iterable[tuple[bytes, bytes]], progress: Progress | None) -> Iterator[tuple[bytes, bytes]]:
    count = 0
    for row in rows:
        count += 1
        if progress is not None and count % STEP_ROWS == 0:
            progress(count)
        yield row
    if progress is not None:
        progress(count)


# -- making ----------------------------------------------------------------------------------------------------


def fill(
    path: Path,
    part: Path,
    rows: Iterable[tuple[bytes, bytes]],
    about: Callable[[int], Mapping[str, bytes]],
    progress: Progress | None,
) -> int:
    """Make the empty file `part` a table of `rows`; `about`: what stands in it, given the number of rows, which is
    returned. `path`: what it is to be called. Not yet on the disk for good. Raises `StoreError`, `sqlite3.Error`."""
    count = 0

    def in_order() -> Iterator[tuple[bytes, bytes]]:
        nonlocal count
        before = b""
        for row in _told(rows, progress):
            if len(row[0]) != PLACE_BYTES or row[0] <= before:
                raise StoreError("out_of_order", path, "rows do not come in order of place, each once")
            before = row[0]
            count += 1
            yield row

    drawn = in_order()
    sample = list(islice(drawn, SAMPLE_ROWS))
    page = page_bytes([len(blob) for _, blob in sample])
    with closing(connected(part)) as sql:
        for setting in (f"page_size={page}", "journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KIB}"):
            sql.execute(f"PRAGMA {setting}")
        sql.execute("BEGIN")
        sql.execute("CREATE TABLE about (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        sql.execute("CREATE TABLE rows (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        sql.executemany("INSERT INTO rows VALUES (?, ?)", chain(sample, drawn))
        sql.executemany("INSERT INTO about VALUES (?, ?)", about(count).items())
        sql.execute(f"PRAGMA application_id={APPLICATION_ID}")
        sql.execute(f"PRAGMA user_version={VERSION}")
        sql.execute("COMMIT")
        sql.execute("PRAGMA journal_mode=WAL")  # now: it cannot be switched once a lane has it open
    return count


def page_bytes(rows_bytes: Sequence[int]) -> int:
    """The smallest page that keeps 99 of 100 rows of such lengths whole; the first rows in order of a keyed hash are a
    fair sample. A longer one gets a page of its own beside (sqlite.org/fileformat2.html, 1.6: index b-tree), and a
    larger page costs more to change."""
    longest = sorted(rows_bytes)[len(rows_bytes) * 99 // 100] if rows_bytes else 0
    return next(
        (page for page in PAGE_BYTES if longest + _ROW_HEAD_BYTES <= (page - 12) * 64 // 255 - 23), PAGE_BYTES[-1]
    )


def prove(path: Path, part: Path, count: int) -> None:
    """Read it once more before anybody else does: its pages, the order of its rows, their number."""
    with closing(sqlite3.connect(uri(part, "mode=ro&immutable=1"), uri=True, isolation_level=None)) as sql:
        if sql.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise StoreCorrupt("corrupt", path, "what was just written cannot be read back: the disk fails")
        if sql.execute("SELECT count(*) FROM rows").fetchone()[0] != count:
            raise StoreCorrupt("corrupt", path, "not all that was just written is there: the disk fails")
