"""uplink.db: how far HQ has acknowledged each stream. Written by the uplink alone, read by the lane.

An acknowledgement lost here costs only that records are sent twice, which HQ drops; one that was never given must
never stand here, for the lane deletes what is acknowledged.
"""

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from gated.store.sql import BUSY_S, ReadOnly, StoreCorrupt, StoreError, WriterLock, in_words, sync_folder
from gated.wire.record import parted

log = structlog.get_logger()

APPLICATION_ID: Final = 0x67617465
VERSION: Final = 1
_ALTERED: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""What SQLite says of a table or a page that is not there any more as it was."""


class AckedHeads:
    """The uplink's side. Raises `StoreError`; `StoreCorrupt` for a damaged file, which may simply be deleted.

    `mode`: 0o600, or 0o640 where lane and uplink are two users of one group. One thread at a time."""

    def __init__(self, path: Path, *, mode: int = 0o600) -> None:
        self.path = path
        self._mode = mode
        self._lock: WriterLock | None = WriterLock(path, mode)
        try:
            with in_words(path):
                self._open(mode)
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def renewed(cls, path: Path, *, mode: int = 0o600) -> "AckedHeads":
        """The file; where it is damaged, a new one: records are then sent again, and HQ drops duplicates."""
        try:
            return cls(path, mode=mode)
        except StoreCorrupt as bad:
            log.error("uplink database damaged: starting a new one", why=bad.why)
            _remove(path)
            return cls(path, mode=mode)

    def _open(self, mode: int) -> None:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode))
        self._connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
            self._known = dict(_heads(self._connection))
            """What must stand in the file: nobody else writes to it."""
            self._file, self._touched = os.stat(self.path).st_ino, False
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        run = self._connection.execute
        found = run("PRAGMA application_id").fetchone()[0], run("PRAGMA user_version").fetchone()[0]
        blank = found == (0, 0) and not run("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
        if not blank and found != (APPLICATION_ID, VERSION):
            raise StoreError("not_ours", self.path, "this is another program's or another edition's database")
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=FULL")
        if not blank and run("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise StoreCorrupt("corrupt", self.path, "delete it: records are then sent again, and HQ drops duplicates")
        if blank:
            run("BEGIN")
            run("CREATE TABLE acked (stream_id TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID")
            run(f"PRAGMA application_id={APPLICATION_ID}")
            run(f"PRAGMA user_version={VERSION}")
            run("COMMIT")
            sync_folder(self.path)

    def advance(self, stream_id: str, seq: int) -> bool:
        """HQ acknowledges everything up to `seq`. Goes back by `retreat` alone. True where that was news."""
        with in_words(self.path):
            self._touched = self._touched or not self._stands()  # before it is written over
            done = self._connection.execute(
                "INSERT INTO acked VALUES (?, ?) ON CONFLICT DO UPDATE SET seq = excluded.seq WHERE excluded.seq > seq",
                (stream_id, seq),
            )
        self._known[stream_id] = max(seq, self._known.get(stream_id, 0))
        return done.rowcount > 0

    def retreat(self, stream_id: str, seq: int) -> None:
        """HQ has lost what it acknowledged beyond `seq`, and says so itself: what the lane still holds stays."""
        with in_words(self.path):
            self._connection.execute("UPDATE acked SET seq = ? WHERE stream_id = ? AND seq > ?", (seq, stream_id, seq))
        if stream_id in self._known:
            self._known[stream_id] = min(seq, self._known[stream_id])

    def heads(self) -> Mapping[str, int]:
        """stream_id -> highest acknowledged number."""
        with in_words(self.path):
            return _heads(self._connection)

    def forget(self, keep: frozenset[str]) -> None:
        """Delete the streams of earlier generations and chapters that ended: all but `keep` and what comes after it.

        A chapter later than all that the lane has stays: by it the lane finds that its database went back."""
        newest: dict[tuple[str, str], int] = {}
        for generation, each, chapter in map(parted, keep):
            newest[generation, each] = max(chapter, newest.get((generation, each), 0))
        with in_words(self.path):
            for stream_id in self.heads().keys() - keep:
                generation, each, chapter = parted(stream_id)
                if chapter <= newest.get((generation, each), chapter):
                    self._connection.execute("DELETE FROM acked WHERE stream_id = ?", (stream_id,))
                    self._known.pop(stream_id, None)

    def mended(self) -> bool:
        """Did somebody change the file, or take it away? Then it is again as it was. Raises `StoreError`.

        What was not acknowledged must not stand there for longer than the lane takes to trim by it."""
        with in_words(self.path):
            if self._stands() and not self._touched:
                return False
            known = self._known
            self._connection.close()
            _remove(self.path)
            self._open(self._mode)
            self._connection.execute("BEGIN")
            self._connection.executemany("INSERT INTO acked VALUES (?, ?)", known.items())
            self._connection.execute("COMMIT")
            self._known = known
        log.error("somebody was at the uplink's database: written anew")
        return True

    def _stands(self) -> bool:
        try:
            return os.stat(self.path).st_ino == self._file and dict(_heads(self._connection)) == self._known
        except FileNotFoundError:
            return False
        except sqlite3.DatabaseError as bad:
            if getattr(bad, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in _ALTERED:
                raise  # busy, or the disk: nobody's deed
            return False

    def close(self) -> None:
        """Idempotent."""
        if self._lock is not None:
            self._connection.close()
            self._lock.release()
            self._lock = None


class AckedHeadsReader:
    """The lane's side: read-only. Without an uplink that ever ran, nothing is acknowledged."""

    def __init__(self, path: Path) -> None:
        self._file = ReadOnly(path, lambda _: None)

    def heads(self) -> Mapping[str, int]:
        """stream_id -> highest acknowledged number. Raises `StoreError` for a file that cannot be read."""
        if not self._file.path.exists():
            return {}
        with self._file.connection() as connection:
            if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'acked'").fetchone() is None:
                return {}  # the uplink has only just made the file
            return _heads(connection)

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


def _remove(path: Path) -> None:
    for tail in ("", "-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)


def _heads(connection: sqlite3.Connection) -> Mapping[str, int]:
    return dict(connection.execute("SELECT stream_id, seq FROM acked").fetchall())
