"""What a lane has proven before, and what may follow it: never less, and never further ahead than HQ can have come."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from gated.sync.metadata import Client, digest_of, online_keys, role_of, signed_by
from gated.sync.refused import SyncRefused, Why
from gated.wire import bundle
from gated.wire.bundle import JUMP_MAX, Base, BundleError, Head, target_path

AHEAD_MAX: Final = timedelta(minutes=15)
"""What HQ made may be so far ahead of the lane's clock; beyond that the clock is wrong."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The versions below which nothing is taken: kept with the data, in another file than the metadata."""

    root: int = 0
    timestamp: int = 0
    snapshot: int = 0
    targets: int = 0
    online_keys: tuple[str, ...] = ()
    """Key ids of the timestamp and snapshot roles that those two versions hold for: when one of them is taken away,
    which only root can do, they begin anew (the cure of a fast-forward)."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the folder of metadata holds from before, as far as the keys of today still vouch for it."""

    floor: Floor
    roles: Mapping[str, int]
    """Versions of the roles that sign targets, as the snapshot lists them."""
    heads: Mapping[str, Head]


def floor_of(client: Client) -> Floor:
    """The floor from a state on that was proven as a whole."""
    root, timestamp, snapshot, targets = client.root, client.timestamp, client.snapshot, client.targets
    assert timestamp is not None and snapshot is not None and targets is not None
    return Floor(root.version, timestamp.version, snapshot.version, targets.version, online_keys(root))


def known_from(files: Mapping[str, bytes], client: Client) -> Known:
    """What lay there before, by the keys that root and targets name now."""
    timestamp, snapshot, targets = (
        signed_by(client.root, role, files.get(f"{role}.json", b"")) for role in ("timestamp", "snapshot", "targets")
    )
    floor = Floor(
        0,
        timestamp.version if timestamp else 0,
        max(snapshot.version if snapshot else 0, timestamp.snapshot_meta.version if timestamp else 0),
        targets.version if targets else 0,
    )
    roles = {name: meta.version for name, meta in snapshot.meta.items()} if snapshot else {}
    heads = {}
    for name, data in files.items():
        partition, _, what = name.partition(".")
        if what == "head" and (head := _head(partition, data, files, client)) is not None:
            heads[partition] = head
    return Known(floor, roles, heads)


def _head(partition: str, data: bytes, files: Mapping[str, bytes], client: Client) -> Head | None:
    if client.targets is None:
        return None
    path = target_path(partition, "head")
    role = role_of(client.targets, path)
    signed = signed_by(client.targets, role, files.get(f"{role}.json", b"")) if role else None
    info = signed.targets.get(path) if signed else None
    if info is None or sha256(data).digest() != digest_of(path, info):
        return None
    try:
        head = bundle.load(Head, data)
    except BundleError:  # of another edition of the programs
        return None
    assert isinstance(head, Head)
    return head


def check_versions(client: Client, floor: Floor, known: Known) -> None:
    """Raises `SyncRefused` (rolled_back, fast_forward) for what is proven so far."""
    root, timestamp, snapshot = client.root, client.timestamp, client.snapshot
    if root.version < floor.root:
        raise SyncRefused(Why.ROLLED_BACK, "metadata/root.json", f"{root.version}, where {floor.root} was known before")
    if not set(floor.online_keys) <= set(online_keys(root)):
        floor = replace(floor, timestamp=0, snapshot=0)
    if timestamp is None:
        return
    _check_version("timestamp.json", timestamp.version, floor.timestamp, known.floor.timestamp)
    _check_version("snapshot.json", timestamp.snapshot_meta.version, floor.snapshot, known.floor.snapshot)
    if snapshot is not None and snapshot.version == timestamp.snapshot_meta.version:
        for name, meta in snapshot.meta.items():
            top = (floor.targets, known.floor.targets) if name == "targets.json" else ()
            _check_version(name, meta.version, known.roles.get(name, 0), *top)


def _check_version(name: str, version: int, *before: int) -> None:
    # where nothing is known, HQ may be at any version: a lane can be installed in any year
    known = max(before)
    _check_step(f"metadata/{name}", "version", version, least=known, most=known + JUMP_MAX if known else version)


def _check_step(what: str, of: str, number: int, *, least: int, most: int) -> None:
    if number < least:
        raise SyncRefused(Why.ROLLED_BACK, what, f"{of} {number}, where {least} was known before")
    if number > most:
        raise SyncRefused(
            Why.FAST_FORWARD,
            what,
            f"{of} {number}, where at most {most} can be: an online key of HQ's may be in wrong hands; rotate it",
        )


def check_head(partition: str, base: Base, head: Head, known: Head | None, now: datetime) -> None:
    """Whether base and head are of this partition, of one state, and follow what is known. Raises `SyncRefused`."""
    for what, of in (("base", base.partition), ("head", head.partition)):
        if of != partition:
            raise SyncRefused(Why.SWAPPED_PARTITION, target_path(partition, what), f"it is signed as one of {of}")
    path = target_path(partition, "head")
    if base.epoch != head.epoch:
        raise SyncRefused(Why.MIXED, path, f"it is of epoch {head.epoch}, its base of {base.epoch}: publish both again")
    if head.serial < base.serial:
        raise SyncRefused(Why.MIXED, path, f"it is at {head.serial}, before its snapshot at {base.serial}")
    if known is not None:
        _check_step(path, "epoch", head.epoch, least=known.epoch, most=known.epoch + JUMP_MAX)
        least = known.serial if head.epoch == known.epoch else 0
        _check_step(path, "serial", head.serial, least=least, most=known.serial + JUMP_MAX)
    if head.built > now + AHEAD_MAX:
        raise clock_wrong(path, head.built, now)


def clock_wrong(what: str, built: datetime, now: datetime) -> SyncRefused:
    """HQ made something later than it is here."""
    return SyncRefused(
        Why.CLOCK,
        what,
        f"HQ made it at {built:%Y-%m-%d %H:%M}Z and here it is {now:%Y-%m-%d %H:%M}Z: set this lane's clock (NTP)",
    )
