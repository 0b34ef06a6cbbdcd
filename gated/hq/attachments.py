"""Pictures that lanes gave HQ (`AttachmentPart`): put together from their parts, and deleted when their time is over.

A part lies in HQ's records as it came, sealed: who holds the database alone reads which ticket has a picture, and sees
none. Whoever opens one is written down first, and where that cannot be written nothing is opened."""

import json
import os
import pwd
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import Column, Connection, Integer, MetaData, RowMapping, Table, event, select
from sqlalchemy.exc import SQLAlchemyError

from gated.hq.archive import Archive, ArchiveError
from gated.hq.database import in_words
from gated.hq.tables import Instant, Words, records
from gated.notify import notify, watchdog_s
from gated.wire.codec import WireError
from gated.wire.facts import AttachmentPart
from gated.wire.record import generation_of
from gated.wire.seal import SealError

log = structlog.get_logger()

KEPT_DAYS_MAX: Final = 366
"""No policy lets a lane say more (`gated.lane.rules.KEEP_DAYS_MAX`): what a record says beyond it is not believed."""
PARTS_MAX: Final = 64
"""Of one picture, however small a lane cut them."""
PAGE: Final = 1000
POLL_S: Final = 0.5
LOGIN: Final = Path("/proc/self/loginuid")
_KIND: Final = AttachmentPart.__name__
_WHOLE: Final = ("ticket", "what", "media", "size", "parts", "keep_days")
_JPEG: Final = (b"\xff\xd8", b"\xff\xd9")
_COLUMNS: Final = tuple(
    records.c[name] for name in ("lane", "site", "stream_id", "seq", "ticket", "utc", "clear", "received", "purged")
)

accesses: Final = Table(
    "attachment_accesses",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Instant, nullable=False),
    *(Column(name, Words, nullable=False) for name in ("who", "what", "lane", "generation", "name")),
)
"""Who opened which picture. Of its content nothing."""

Key = tuple[str, str, int]
"""Lane, stream id, number of a record."""


class AttachmentFault(Exception):
    """A picture that cannot be had: says why, and nothing of what it shows."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """What HQ has of one picture. `made`: when its verdict was recorded, by the lane's clock."""

    site: str
    lane: str
    generation: str
    """Of the lane's database: a ticket and its pictures have their names once in it."""
    name: str
    ticket: int
    what: str
    media: str
    size: int
    parts: int
    keep_days: int
    made: datetime
    due: datetime
    """From then on HQ may not have it any more."""
    here: Mapping[int, tuple[Key, ...]] = field(repr=False)
    """Number of a part -> the records that have it."""
    deleted: bool = False
    consistent: bool = True
    """All of its parts say the same of the whole."""

    @property
    def missing(self) -> list[int]:
        """The numbers of the parts that HQ does not have; none where their number cannot be believed."""
        if not self.consistent:
            return []
        return [number for number in range(1, self.parts + 1) if number not in self.here]

    @property
    def state(self) -> str:
        """whole, incomplete, contradictory or deleted."""
        if self.deleted:
            return "deleted"
        if not self.consistent or any(len(keys) > 1 for keys in self.here.values()):
            return "contradictory"
        return "incomplete" if self.missing else "whole"


class Attachments:
    """The pictures of an archive, which is writable where one is opened or deleted. Raises `ArchiveError`."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        if archive.engine.dialect.name == "sqlite":
            event.listen(archive.engine, "begin", _overwriting)

    # -- looking, without a key

    def newest(self, lane: str | None = None, ticket: int | None = None, limit: int = 100) -> list[Attachment]:
        """The newest, newest first."""
        where = records.c.kind == _KIND
        for column, value in ((records.c.lane, lane), (records.c.ticket, ticket)):
            where = where if value is None else where & (column == value)
        ordered = select(*_COLUMNS).where(where).order_by(records.c.utc.desc(), records.c.lane, records.c.seq)
        found: dict[tuple[str, str, str], list[tuple[RowMapping, dict[str, Any]]]] = {}
        before: datetime | None = None
        for row in self._rows(ordered.limit((limit + 1) * PARTS_MAX)):
            if (clear := _clear(row)) is None:
                continue
            name = (row["lane"], generation_of(row["stream_id"]), clear["name"])
            if len(found) >= limit and name not in found and row["utc"] != before:
                break  # all parts of a picture are of one moment
            before = row["utc"]
            found.setdefault(name, []).append((row, clear))
        return [_attachment(*name, told) for name, told in list(found.items())[:limit]]

    def one(self, lane: str, name: str, generation: str | None = None) -> Attachment:
        """One picture by its name. Raises `AttachmentFault`."""
        number = name.partition("-")[0]
        ticket = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0
        found = [
            each for each in self.newest(lane, ticket) if each.name == name and generation in (None, each.generation)
        ]
        if not found:
            raise AttachmentFault(f"HQ has no picture {name} of {lane}: see gated-hq attachments list")
        if len(found) > 1:
            generations = ", ".join(each.generation for each in found)
            raise AttachmentFault(f"{lane} has {name} in {generations} of its databases: say --generation")
        return found[0]

    def accesses(self, limit: int = 100) -> list[dict[str, Any]]:
        """Who opened what, the last first."""
        try:
            with self.archive.engine.connect() as sql:
                if not sql.dialect.has_table(sql, accesses.name):
                    return []
                rows = sql.execute(select(accesses).order_by(accesses.c.id.desc()).limit(limit)).mappings().all()
        except SQLAlchemyError as bad:
            raise ArchiveError(in_words(bad)) from None
        return [{name: row[name] for name in ("at", "who", "what", "lane", "generation", "name")} for row in rows]

    # -- opening, with HQ's key

    def picture(self, attachment: Attachment, private: bytes, what: str) -> bytes:
        """The whole picture. `what` is done with it is written down first, and who does it.

        Raises `AttachmentFault` where HQ does not have all of it, or it is not what its records say."""
        self._written_down(attachment, what)
        state, missing = attachment.state, attachment.missing
        if state == "incomplete":
            numbers = ", ".join(map(str, missing[:20])) + (" ..." if len(missing) > 20 else "")
            raise AttachmentFault(
                f"incomplete: {len(missing)} of {attachment.parts} parts are not here ({numbers}): on their way, or "
                "the lane dropped them for want of room (gated-hq records verify lists holes)"
            )
        if state != "whole":
            told = {"deleted": "its time was over", "contradictory": "its parts say different things of it"}
            raise AttachmentFault(f"{state}: {told[state]}")
        data = b"".join(self._part(*attachment.here[number][0], private) for number in range(1, attachment.parts + 1))
        if len(data) != attachment.size:
            raise AttachmentFault(f"damaged: {len(data)} bytes, and its records say {attachment.size}")
        if (data[:2], data[-2:]) != _JPEG:
            raise AttachmentFault("damaged: it does not begin and end as a JPEG does")
        return data

    def _part(self, lane: str, stream_id: str, seq: int, private: bytes) -> bytes:
        record = self.archive.record(lane, stream_id, seq)
        try:
            if record is None or record.sealed is None:
                raise AttachmentFault("deleted: its time was over")
            part: AttachmentPart = record.fact(private)
        except (SealError, WireError):
            raise AttachmentFault(f"record {seq} of {stream_id} does not open: is this HQ's key?") from None
        return part.data

    def _written_down(self, attachment: Attachment, what: str) -> None:
        row = {"at": datetime.now(UTC), "who": asker(), "what": what, "lane": attachment.lane}
        row |= {"generation": attachment.generation, "name": attachment.name}
        try:
            with self.archive.engine.connect().execution_options(writes=True) as sql, sql.begin():
                accesses.metadata.create_all(sql)
                sql.execute(accesses.insert(), [row])
        except SQLAlchemyError as bad:
            raise ArchiveError(f"nothing is opened that cannot be written down: {in_words(bad)}") from None

    # -- deleting

    def purge(self, now: datetime) -> int:
        """Delete the sealed half of every part whose time is over; how many. The clear half and the chain stay.

        The days count from the lane's clock or from the receipt, whichever is earlier: a lane whose clock is ahead
        keeps nothing for longer."""
        c, first = records.c, now - timedelta(days=1)
        old = (c.kind == _KIND) & c.purged.is_(None) & ((c.utc <= first) | (c.received <= first))
        due: list[Key] = [_key(row) for row in self._rows(select(*_COLUMNS).where(old)) if _due(row) <= now]
        done = 0
        for start in range(0, len(due), PAGE):
            with self.archive.batch() as intake:
                done += intake.purge(due[start : start + PAGE])
        if done and self.archive.engine.dialect.name == "sqlite":
            with self.archive.engine.connect() as sql:  # or it would stay in the log until that is written over
                sql.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return done

    def _rows(self, statement: Any) -> Iterator[RowMapping]:
        try:
            with self.archive.engine.connect() as sql:
                for page in sql.execution_options(yield_per=PAGE).execute(statement).mappings().partitions():
                    yield from page
        except SQLAlchemyError as bad:
            raise ArchiveError(in_words(bad)) from None


def keep_purging(attachments: Attachments, every_s: float, stop: threading.Event) -> None:
    """Until `stop`. Never raises for what may be over in a while: a lock, a full disk, a database that is away."""
    next_mono, stroke_s = time.monotonic(), watchdog_s()
    notify("READY=1", "STATUS=deleting pictures whose time is over")
    while not stop.is_set():
        if stroke_s is not None:
            notify("WATCHDOG=1")
        if time.monotonic() >= next_mono:
            next_mono = time.monotonic() + every_s
            try:
                done = attachments.purge(datetime.now(UTC))
            except ArchiveError as bad:
                log.error("pictures whose time is over are not deleted", why=str(bad))
            else:
                if done:
                    log.info("parts of pictures are deleted: their time was over", parts=done)
        stop.wait(POLL_S)


def asker() -> str:
    """The user of the operating system who asks, and who they logged in as where that is somebody else."""
    try:
        login = int(LOGIN.read_text(encoding="ascii"))
    except (OSError, ValueError):
        login = 0xFFFFFFFF
    user = _user(os.getuid())
    return user if login in (0xFFFFFFFF, os.getuid()) else f"{user}, logged in as {_user(login)}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _overwriting(sql: Connection) -> None:
    """SQLite: what is deleted is overwritten in its file, not only given up."""
    sql.exec_driver_sql("PRAGMA secure_delete = ON")


def _clear(row: RowMapping) -> dict[str, Any] | None:
    """What a part says of the whole; None where a lane of another edition said something else."""
    told = json.loads(row["clear"])
    numbers = all(type(told.get(each)) is int for each in ("ticket", "part", "parts", "size", "keep_days"))
    return told if numbers and all(type(told.get(each)) is str for each in ("name", "what", "media")) else None


def _attachment(lane: str, generation: str, name: str, told: list[tuple[RowMapping, dict[str, Any]]]) -> Attachment:
    whole = [{each: clear[each] for each in _WHOLE} for _, clear in told]
    rows, here = [row for row, _ in told], dict[int, tuple[Key, ...]]()
    for row, clear in told:
        here[clear["part"]] = (*here.get(clear["part"], ()), _key(row))
    return Attachment(
        site=rows[0]["site"],
        lane=lane,
        generation=generation,
        name=name,
        **whole[0],
        made=min(row["utc"] for row in rows),
        due=min(map(_due, rows)),
        here=here,
        deleted=any(row["purged"] is not None for row in rows),
        consistent=all(each == whole[0] for each in whole) and whole[0]["parts"] <= PARTS_MAX,
    )


def _key(row: RowMapping) -> Key:
    return row["lane"], row["stream_id"], row["seq"]


def _due(row: RowMapping) -> datetime:
    """When a part is to be deleted. What says no number of days that can be is kept for one."""
    days = json.loads(row["clear"]).get("keep_days")
    kept = min(days, KEPT_DAYS_MAX) if type(days) is int and days >= 1 else 1
    since: datetime = min(row["utc"], row["received"])
    return since + timedelta(days=kept)
