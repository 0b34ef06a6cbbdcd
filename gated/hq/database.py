"""The database behind HQ's archive: a file of SQLite or a PostgreSQL, its tables made, its errors in plain words."""

import functools
import sqlite3
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    Table,
    and_,
    bindparam,
    create_engine,
    event,
    inspect,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from gated.hq.tables import metadata

log = structlog.get_logger()

Key = tuple[str, str]
BUSY_MS: Final = 10_000
"""How long a writer of SQLite waits for another one, and a transaction of PostgreSQL for a lock."""
CONNECT_S_MAX: Final = 5
SILENCE_S_MAX: Final = 15
"""A PostgreSQL that answers nothing for so long is away: the connection is given up."""
MONTHS_AHEAD: Final = 2
_SETTING_UP: Final = 0x6761746564
"""The advisory lock (PostgreSQL) of who makes tables: several workers may start at once."""


class ArchiveError(Exception):
    """Nothing was kept. Says what is wrong and what to do, and nothing of any record's content."""


def engine_of(where: str | Path, read_only: bool) -> Engine:
    """The engine for a file of SQLite or a URL. Raises `ArchiveError`."""
    try:
        url = (
            make_url(where) if isinstance(where, str) and "://" in where else URL.create("sqlite", database=str(where))
        )
    except ArgumentError:
        url = URL.create("unreadable")
    backend = url.get_backend_name()
    if backend == "sqlite":
        return _sqlite(url, read_only)
    if backend == "postgresql":
        return _postgresql(url, read_only)
    raise ArchiveError("this is no database that HQ can use: name a file, sqlite:///FILE or postgresql+psycopg://...")


def _sqlite(url: URL, read_only: bool) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ArchiveError("HQ's records need a file: a database in memory is gone with its process")
    uri = f"{Path(url.database).absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    engine = create_engine(
        URL.create("sqlite", database=uri.replace("file://", "file:"), query={"uri": "true"}),
        connect_args={"timeout": BUSY_MS / 1000},
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None  # SQLAlchemy begins transactions below, the driver none
        if not read_only:
            _into_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        writes = not read_only and connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _into_wal(connection: sqlite3.Connection) -> None:
    """Several who begin a new file at once want the same lock for this, and then SQLite has none of them wait."""
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as bad:
            if bad.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.01)
        else:
            return


def _postgresql(url: URL, read_only: bool) -> Engine:
    settings = {
        "TimeZone": "UTC",
        "lock_timeout": BUSY_MS,
        "default_transaction_isolation": r"read\ committed",
        "default_transaction_read_only": "on" if read_only else "off",
        "synchronous_commit": "on",
    }
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={
            "connect_timeout": CONNECT_S_MAX,
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
            "keepalives_idle": 5,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": SILENCE_S_MAX * 1000,
        },
        hide_parameters=True,
    )


def set_up(engine: Engine, now: datetime) -> None:
    """Make what is not there yet. Any number may do so at once. Raises `SQLAlchemyError`."""
    with engine.connect().execution_options(writes=True) as sql, sql.begin():
        if engine.dialect.name == "postgresql":
            sql.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SETTING_UP})
        metadata.create_all(sql)
        if engine.dialect.name == "postgresql":
            sql.execute(text("CREATE TABLE IF NOT EXISTS records_default PARTITION OF records DEFAULT"))
    if engine.dialect.name == "postgresql":
        partitions(engine, now)


def partitions(engine: Engine, now: datetime) -> None:
    """PostgreSQL: see that this month and the next ones have a partition of `records`. Where one cannot be made, its
    records go into the default partition, and the log says so."""
    for ahead in range(MONTHS_AHEAD + 1):
        name, first, last = _month(now, ahead)
        try:
            if inspect(engine).has_table(name):
                continue
            with engine.begin() as sql:
                sql.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SETTING_UP})
                sql.execute(
                    text(
                        f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF records"
                        f" FOR VALUES FROM ('{first}') TO ('{last}')"
                    )
                )
        except DBAPIError as bad:
            log.error("no partition for a month's records", partition=name, why=in_words(bad))


def _month(now: datetime, ahead: int) -> tuple[str, str, str]:
    """(name, first moment, first moment of the next) of the month that is `ahead` of now's, in UTC."""
    utc = now.astimezone(UTC)
    months = [utc.year * 12 + utc.month - 1 + ahead + k for k in (0, 1)]
    begins = [f"{month // 12:04}-{month % 12 + 1:02}-01 00:00:00+00" for month in months]
    return f"records_{begins[0][:7].replace('-', '_')}", begins[0], begins[1]


_ADVICE: Final[dict[str, str]] = {
    "SQLITE_FULL": "the disk is full: make room",
    "SQLITE_BUSY": "another process writes for too long: see who has the file open",
    "SQLITE_READONLY": "the file cannot be written: see its owner and mode",
    "SQLITE_CANTOPEN": "the file cannot be opened: see that it is there, and its owner and mode",
    "SQLITE_CORRUPT": "the file is damaged: put back a copy; lanes send again what it does not have",
    "SQLITE_NOTADB": "this is no database of SQLite",
    "SQLITE_IOERR": "the disk fails",
    "53100": "the server's disk is full: make room",
    "53300": "the server has no connection left: see max_connections",
    "40P01": "two workers waited for each other: it is tried again",
    "40001": "two workers met: it is tried again",
    "55P03": "somebody holds a lock for too long: see pg_stat_activity",
    "57P01": "the server was stopped",
    "57P03": "the server starts or stops: wait",
    "28P01": "the password is wrong",
    "28000": "the server does not let this user in: see pg_hba.conf",
    "3D000": "there is no such database: create it",
    "42501": "this user may not do that: grant it",
    "42P01": "HQ's tables are not there: gated-hq ingest makes them",
}


def in_words(bad: SQLAlchemyError) -> str:
    """What is wrong and what to do; nothing of any statement's values."""
    if not isinstance(bad, DBAPIError):
        return type(bad).__name__
    orig = bad.orig
    code = getattr(orig, "sqlite_errorname", None) or getattr(orig, "sqlstate", None) or ""
    advice = next((advice for name, advice in _ADVICE.items() if code.startswith(name)), "")
    if not advice and isinstance(bad.orig, Exception) and (bad.connection_invalidated or not code):
        advice = "the database is away: see that it runs and can be reached"
    if code == "SQLITE_ERROR" and "no such table" in str(orig):
        advice = _ADVICE["42P01"]
    if code == "42703" or (code == "SQLITE_ERROR" and "no such column" in str(orig)):
        advice = "its tables are of another edition of gated: give HQ a new database"
    kind = f"{type(orig).__name__} {code}".strip()
    return f"{kind}: {advice}" if advice else kind


def insert_new(sql: Connection, table: Table) -> Any:
    """An INSERT that leaves alone what is there."""
    made = sqlite.insert(table) if sql.dialect.name == "sqlite" else postgresql.insert(table)
    return made.on_conflict_do_nothing()


def claim(
    sql: Connection, table: Table, keys: Iterable[Key], fresh: Callable[[Key], dict[str, Any]], *, wait: bool = True
) -> dict[Key, RowMapping]:
    """Lock the rows of these keys (the primary key's two columns, one of them `lane`) until the transaction ends;
    `fresh` makes those that are not there. Always in the order of the keys: whoever claims once cannot wait for
    somebody who waits for him. Without `wait`, rows that somebody else has locked are left out."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    one, two = table.primary_key.columns
    there, locked, unwaited = _claiming(table)
    at = [column.name for column in (one, two)].index("lane")
    these = {"keys": wanted, "lanes": sorted({key[at] for key in wanted})}
    known = {(row[0], row[1]) for row in sql.execute(there, these)}
    if missing := [fresh(key) for key in wanted if key not in known]:
        sql.execute(insert_new(sql, table), missing)
    found = sql.execute(locked if wait else unwaited, these).mappings()
    return {(row[one], row[two]): row for row in found}


@functools.cache
def _claiming(table: Table) -> tuple[Select[Any], Select[Any], Select[Any]]:
    """Statements of `claim`, made once: which rows are there; lock them; lock those that nobody has."""
    one, two = table.primary_key.columns
    these = among(one, two, table.c.lane)
    ordered = select(table).where(these).order_by(one, two)
    return select(one, two).where(these), ordered.with_for_update(), ordered.with_for_update(skip_locked=True)


def among(one: Column[Any], two: Column[Any], lane: Column[Any]) -> ColumnElement[bool]:
    """Are the two columns one of the pairs `keys`? `lanes`, the lanes in these: SQLite uses no index for pairs."""
    return and_(lane.in_(bindparam("lanes", expanding=True)), tuple_(one, two).in_(bindparam("keys", expanding=True)))
