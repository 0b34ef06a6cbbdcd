"""A database of a lane that cannot go on: put aside for a person to look at, its ticket numbers carried over."""

import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Final

from gated.store.sql import StoreError, in_words, sync_folder

CORRUPT: Final = "corrupt"
ROLLED_BACK: Final = "rolled-back"
"""HQ has acknowledged records that the file does not have: it is an older copy of itself."""
SET_ASIDE_MAX: Final = 8
"""Databases that are kept before a person has to look."""


def put_aside(path: Path, utc: datetime, why: str) -> Path:
    """Renames the file to `<path>.<why>-<utc>`, with its WAL. Raises `StoreError` where too many lie there already."""
    lying = [each for reason in (CORRUPT, ROLLED_BACK) for each in path.parent.glob(f"{path.name}.{reason}-*Z")]
    if len(lying) >= SET_ASIDE_MAX:
        raise StoreError(
            "set_aside_full",
            path,
            f"{SET_ASIDE_MAX} databases that could not go on lie beside it: look at the disk and who was at it, "
            "then move them away",
        )
    aside = path.with_name(f"{path.name}.{why}-{utc:%Y%m%dT%H%M%S}Z")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{why}-{utc:%Y%m%dT%H%M%S}.{number}Z")
    with in_words(path):
        for tail in ("-wal", "-shm", ""):
            source = path.with_name(path.name + tail)
            if source.exists():
                source.rename(aside.with_name(aside.name + tail))
        sync_folder(path)
    return aside


def salvaged_mark(path: Path) -> int:
    """The file's ticket mark, as far as it can be read; else 1."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            row = connection.execute("SELECT value FROM notes WHERE name = 'ticket_mark'").fetchone()
        finally:
            connection.close()
        return max(1, min(int(row[0]), 1 << 48)) if row else 1
    except (sqlite3.Error, ValueError, TypeError):
        return 1  # nothing to go on from: docs/records.md says how HQ tells such tickets apart
