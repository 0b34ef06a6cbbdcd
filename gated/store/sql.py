"""What every database of a lane has in common: its errors, its one writer, its read-only connection.

No table is known here. An error says what happened, to which file, and what a person can do about it; it never
holds a statement or a value.
"""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

BUSY_S: Final = 5.0
"""How long a connection waits for a lock that another one holds for a moment."""


class StoreError(Exception):
    """A database cannot do its work. `why` is a short code in lower case, `path` the file."""

    def __init__(self, why: str, path: Path, advice: str) -> None:
        super().__init__(f"{path.name}: {why}: {advice}")
        self.why = why
        self.path = path


class StoreCorrupt(StoreError):
    """The file is damaged, or is no database at all."""


_ADVICE: Final = {
    sqlite3.SQLITE_FULL: ("disk_full", "free space on its file system; nothing of this transaction was kept"),
    sqlite3.SQLITE_READONLY: ("read_only", "give this user write permission to the file and its directory"),
    sqlite3.SQLITE_PERM: ("read_only", "give this user write permission to the file and its directory"),
    sqlite3.SQLITE_CANTOPEN: (
        "cannot_open",
        "check that its directory exists and that this user may read and write it",
    ),
    sqlite3.SQLITE_IOERR: ("io_error", "the disk fails or was taken away: look at the kernel's log"),
    sqlite3.SQLITE_BUSY: ("busy", "another process holds it: find out who writes to it"),
    sqlite3.SQLITE_LOCKED: ("busy", "another connection holds it: find out who writes to it"),
}
_DAMAGE_ADVICE: Final = "the file is damaged or no database; it is kept aside for a person to look at"
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """`error` in a lane's words. The low byte of SQLite's code is its class (sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return StoreError("database_error", path, f"SQLite's binding says {type(error).__name__}")
    if code & 0xFF in _DAMAGED:
        return StoreCorrupt("corrupt", path, _DAMAGE_ADVICE)
    why, advice = _ADVICE.get(code & 0xFF, ("database_error", f"SQLite says {error.sqlite_errorname}"))
    return StoreError(why, path, advice)


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turns errors of SQLite and of the file system into `StoreError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise store_error(error, path) from error
    except UnicodeDecodeError as error:  # text of a damaged page, or SQLite's own message about it
        raise StoreCorrupt("corrupt", path, _DAMAGE_ADVICE) from error
    except OSError as error:
        raise _file_error(error, path) from error


def _file_error(error: OSError, path: Path) -> StoreError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return StoreError("cannot_open", path, f"there is no folder {path.parent}: make it, or set [store] dir")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return StoreError("read_only", path, "give this user write permission to the file and its directory")
    if error.errno == errno.ENOSPC:
        return StoreError("disk_full", path, "free space on its file system")
    return StoreError("io_error", path, f"the system says {os.strerror(error.errno or 0).lower()}")


class WriterLock:
    """One writer a file, over processes: an advisory lock on `<path>.lock`, which dies with its process."""

    def __init__(self, path: Path, mode: int) -> None:
        lock = path.with_name(path.name + ".lock")
        with in_words(lock):
            self._fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self._fd, 16, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(self._fd)
                raise StoreError(
                    "second_writer", path, f"process {holder} writes to it and there is only ever one writer"
                ) from None
            except OSError:
                os.close(self._fd)
                raise
            try:
                os.pwrite(self._fd, f"{os.getpid():<15}\n".encode(), 0)  # one length: a full disk has room for it again
            except OSError:
                os.close(self._fd)
                raise

    def release(self) -> None:
        """Let the next writer in."""
        os.close(self._fd)


def sync_folder(path: Path) -> None:
    """Make a file's name itself survive a power cut."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def uri(path: Path, parameters: str) -> str:
    """SQLite's URI of a file; any character may stand in its name."""
    return f"file:{quote(str(path.absolute()))}?{parameters}"


class ReadOnly:
    """A read-only connection that follows its file: when another one takes its name, that one is opened.

    A database in WAL mode whose writer is gone can be read only by a user who may write to its folder: SQLite has to
    make its `-shm` file anew. One thread at a time."""

    def __init__(self, path: Path, check: Callable[[sqlite3.Connection], None]) -> None:
        self.path = path
        self._check = check
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """The connection, opened or changed where needed. Raises `StoreError`."""
        with in_words(self.path):
            status = os.stat(self.path)
            file = (status.st_dev, status.st_ino)
            if self._connection is None or file != self._file:
                self.close()
                connection = sqlite3.connect(
                    uri(self.path, "mode=ro"), uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
                )
                try:
                    connection.execute("PRAGMA query_only=1")
                    connection.execute("PRAGMA trusted_schema=0")
                    self._check(connection)
                except BaseException:
                    connection.close()
                    raise
                self._connection, self._file = connection, file
            yield self._connection

    def close(self) -> None:
        """Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
