"""HQ's tables as SQLAlchemy Core has them; `database` makes them in SQLite or PostgreSQL.

Text is stored without NUL and lone surrogates, which PostgreSQL takes for an error and a lane could send; what must
come back exactly (payloads, sealed halves, hashes) is bytes.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import TypeDecorator, TypeEngine


class Words(TypeDecorator[str]):
    """Text that every database takes, whatever a lane sent."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


class Instant(TypeDecorator[datetime]):
    """A moment to the microsecond; with SQLite as text that sorts, in UTC."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(TIMESTAMP(timezone=True) if dialect.name == "postgresql" else String())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return (value if isinstance(value, datetime) else datetime.fromisoformat(value)).astimezone(UTC)


metadata = MetaData()

_NUMBER = BigInteger().with_variant(Integer, "sqlite")


def _id() -> Column[int]:
    return Column("id", _NUMBER, primary_key=True, autoincrement=True)


def _need(name: str, type_: TypeEngine[Any] | type[TypeEngine[Any]], key: bool = False, default: Any = None) -> Any:
    column: Column[Any] = Column(name, type_, primary_key=key, nullable=False, server_default=default)
    return column


records = Table(
    "records",
    metadata,
    *(_need(name, Words) for name in ("lane", "stream_id")),
    _need("seq", _NUMBER),
    *(_need(name, Words) for name in ("site", "stream", "kind")),
    Column("ticket", _NUMBER),
    _need("utc", Instant),
    _need("boot", Words),
    _need("schema", _NUMBER),
    _need("clear", Text),
    Column("sealed", LargeBinary),
    _need("prev", LargeBinary),
    _need("hash", LargeBinary),
    _need("received", Instant),
    Column("purged", Instant),
    postgresql_partition_by="RANGE (received)",
)
"""A record in columns that give its bytes back, with its hash. `purged`: when its sealed half was deleted."""
Index("records_identity", "lane", "stream_id", "seq", unique=True, _table=records).ddl_if(dialect="sqlite")
Index("records_key", "lane", "stream_id", "seq", "received", unique=True, _table=records).ddl_if(dialect="postgresql")
Index("records_by_time", records.c.lane, records.c.utc)
Index("records_by_receipt", records.c.received)
Index("records_by_kind", records.c.kind, records.c.utc)

streams = Table(
    "streams",
    metadata,
    _need("lane", Words, True),
    _need("stream_id", Words, True),
    _need("site", Words),
    _need("seq", _NUMBER),
    _need("hash", LargeBinary),
    Column("end_seq", _NUMBER),
    Column("end_hash", LargeBinary),
    _need("held", _NUMBER, default="0"),
)
"""How far each stream came. Who takes its records in has this row locked. `end_seq`, `end_hash`: where the next
chapter says that this one ends. `held`: how many of its records wait."""

held = Table(
    "held",
    metadata,
    _need("lane", Words, True),
    _need("stream_id", Words, True),
    _need("seq", _NUMBER, True),
    _need("chain", LargeBinary, True),
    _need("site", Words),
    _need("begin", _NUMBER),
    _need("payload", LargeBinary),
    _need("received", Instant),
)
"""Records that came before those before them. `begin`: the first number that one stands for."""

refusals = Table("refusals", metadata, _id(), _need("lane", Words), _need("mark", LargeBinary))
"""Each refusal: so often were these bytes (by lane, number and hash) refused."""
Index("refusals_by_mark", refusals.c.mark)
Index("refusals_by_lane", refusals.c.lane, refusals.c.id)

refused = Table(
    "refused",
    metadata,
    _id(),
    *(_need(name, Words) for name in ("site", "lane", "stream_id")),
    _need("seq", _NUMBER),
    _need("chain", LargeBinary),
    _need("why", Words),
    _need("bytes", LargeBinary),
    _need("received", Instant),
)
"""What was set aside for good."""
Index("refused_once", "lane", "stream_id", "seq", "chain", unique=True, _table=refused)

holes = Table(
    "holes",
    metadata,
    _id(),
    *(_need(name, Words) for name in ("lane", "stream_id")),
    _need("first", _NUMBER),
    _need("last", _NUMBER),
    _need("why", Words),
    _need("noticed", Instant),
)
"""Numbers that HQ goes without."""
Index("holes_by_stream", holes.c.lane, holes.c.stream_id)

lanes = Table(
    "lanes",
    metadata,
    _need("site", Words, True),
    _need("lane", Words, True),
    Column("session", Words),
    _need("up", Integer, default="0"),
    Column("boot", Words),
    Column("version", Words),
    Column("born", Instant),
    Column("seen", Instant),
    Column("ended", Words),
    *(_need(name, Text, default="[]") for name in ("spans", "gaps", "parts", "dead", "generations")),
    *(_need(name, Text, default="{}") for name in ("telemetry", "reported")),
)
"""Every lane that was heard of; the last columns hold JSON. `dead`: [session, why] of the latest that ended;
`generations`: of its database, in the order in which births told of them."""

Index("lanes_by_name", lanes.c.lane)

anchors = Table(
    "anchors",
    metadata,
    _need("lane", Words, True),
    _need("site", Words, True),
    _need("generation", Words, True),
    _need("session", Words),
    _need("utc", Instant),
    _need("first", _NUMBER),
    _need("last", _NUMBER),
    _need("link", LargeBinary),
    Column("old_first", _NUMBER),
    Column("old_last", _NUMBER),
    Column("old_link", LargeBinary),
)
"""The newest head of each lane's journal, which session told it, and the newest that an earlier session told."""

findings = Table(
    "findings",
    metadata,
    _id(),
    _need("noticed", Instant),
    *(_need(name, Words) for name in ("site", "lane", "code", "detail")),
)
"""What somebody must look at."""
Index("findings_once", "lane", "code", "detail", unique=True, _table=findings)

counters = Table(
    "counters", metadata, _need("name", Words, True), _need("part", Integer, True), _need("value", _NUMBER)
)
"""`part`: which of the rows of a name a worker adds to, so that workers do not wait for each other."""
