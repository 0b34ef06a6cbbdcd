"""The signed metadata as they lie in a folder: read and proven as one state, written so that nobody meets half of one.

Only the names `timestamp.json` and `N.root.json` are ever asked for unbidden; every other file is named, with its
version and hash, by one that was fetched before. So whatever else is written first is seen by nobody, and one rename
shows all of it.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from gated.hq.signers import RepositoryFault

TOP: Final = ("root", "timestamp", "snapshot", "targets")
"""The roles that root names; the others are named by `targets`."""
DELEGATED: Final[Mapping[str, str]] = {
    "people": "people/*",
    "control": "control/head.json",
    "control-base": "control/base.json",
}
"""Delegated roles and the one pattern of targets that each owns; all else is the targets role's own."""
HASHES: Final = ["sha256"]
STATES_KEPT: Final = 20
"""So many of the last snapshots, and what they name, stay for whoever is in the middle of fetching."""

_VERSIONED: Final = re.compile(r"([1-9]\d{0,17})\.([a-z][a-z-]*)\.json")


@dataclass(slots=True)
class State:
    """One state of a repository, every signature in it proven."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: dict[str, Metadata[Targets]]
    """By role: `targets` itself, then those that it names."""

    def delegator(self, role: str, root: Root | None = None) -> Root | Targets:
        """Who names the keys of a role."""
        return root or self.root.signed if role in TOP else self.targets["targets"].signed

    def owner(self, path: str) -> str:
        """The role that signs this target."""
        delegations = self.targets["targets"].signed.delegations
        names = (name for name, _ in delegations.get_roles_for_target(path)) if delegations else iter(())
        return next(names, "targets")

    def by_role(self) -> Iterator[tuple[str, Metadata[Any]]]:
        """Every role and what it signed last."""
        yield from (("root", self.root), ("timestamp", self.timestamp), ("snapshot", self.snapshot))
        yield from self.targets.items()


def holds(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> bool:
    """Whether so many of the role's keys signed as must."""
    return bool(delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures))


# -- reading -------------------------------------------------------------------------------------------------------


def read_state(folder: Path, cut_short: bool = False) -> State:
    """The state that `timestamp.json` names. `cut_short`: what the root before the newest vouches for counts too, for
    whoever ends a rotation that was cut short; nobody else builds on keys that were taken away.

    Raises `RepositoryFault`."""
    roots = read_roots(folder)[-2 if cut_short else -1 :]
    timestamp, _ = _read(folder, "timestamp.json", Timestamp)
    _prove("timestamp.json", "timestamp", timestamp, roots)
    snapshot = _named(folder, "snapshot", timestamp.signed.snapshot_meta, Snapshot)
    _prove("snapshot.json", "snapshot", snapshot, roots)
    targets: dict[str, Metadata[Targets]] = {}
    for name, meta in sorted(snapshot.signed.meta.items(), key=lambda item: item[0] != "targets.json"):
        role = name.removesuffix(".json")
        targets[role] = _named(folder, role, meta, Targets)
        _prove(name, role, targets[role], roots if role == "targets" else [targets["targets"].signed])
    if "targets" not in targets:
        raise RepositoryFault(f"{folder}: the snapshot does not name targets.json: bring the folder back from a copy")
    return State(_read(folder, f"{roots[-1].version}.root.json", Root)[0], timestamp, snapshot, targets)


def take_proposal(folder: Path, role: str, state: State, now: datetime) -> tuple[bytes, dict[str, bytes]]:
    """Put the next version of a role, signed elsewhere, into a state: its bytes, and the new files by their names on
    the disk. Raises `RepositoryFault`."""
    if role not in state.targets:
        raise RepositoryFault(f"{folder}: this repository has no role {role!r}")
    was = state.targets[role].signed
    metadata, data = _read(folder, f"{was.version + 1}.{role}.json", Targets)
    if metadata.signed.version != was.version + 1 or not holds(state.delegator(role), role, metadata):
        raise RepositoryFault(f"{folder}: not signed by the keys of {role}, or not made of the present state")
    if metadata.signed.is_expired(now):
        raise RepositoryFault(f"{folder}: has expired; make it anew")
    files: dict[str, bytes] = {}
    for path, target in metadata.signed.targets.items():
        if was.targets.get(path) != target:
            name = target.get_prefixed_paths()[0]
            try:
                files[name] = (folder / "targets" / name).read_bytes()
                target.verify_length_and_hashes(files[name])
            except (OSError, LengthOrHashMismatchError):
                raise _altered(folder / "targets" / name) from None
    state.targets[role] = metadata
    return data, files


def read_roots(folder: Path) -> list[Root]:
    """Every root, each proven by the one before it. Raises `RepositoryFault`."""
    numbers = sorted(version for version, role in versions(folder) if role == "root")
    if not numbers:
        raise RepositoryFault(f"{folder}: there is no signed repository; gated-hq repo init makes one")
    if numbers != list(range(1, len(numbers) + 1)):
        raise RepositoryFault(f"{folder}: a root is missing between 1 and {numbers[-1]}: bring it back from a copy")
    found: list[Root] = []
    for number in numbers:
        name = f"{number}.root.json"
        metadata, _ = _read(folder, name, Root)
        if metadata.signed.version != number or not all(
            holds(root, "root", metadata) for root in (metadata.signed, *found[-1:])
        ):
            raise _altered(folder / name)
        found.append(metadata.signed)
    return found


def versions(folder: Path) -> list[tuple[int, str]]:
    """(version, role) of what lies there with a version in its name."""
    names = (_VERSIONED.fullmatch(name) for name in (os.listdir(folder) if folder.is_dir() else ()))
    return [(int(found[1]), found[2]) for found in names if found]


def _read(folder: Path, name: str, kind: type[Any]) -> tuple[Metadata[Any], bytes]:
    path = folder / name
    try:
        data = path.read_bytes()
        metadata = Metadata[Any].from_bytes(data)
    except OSError as bad:
        raise RepositoryFault(f"{path}: {(bad.strerror or 'cannot be read').lower()}") from None
    except RepositoryError:
        raise _altered(path) from None
    if metadata.signed.type != kind.type:
        raise _altered(path)
    return metadata, data


def _named(folder: Path, role: str, meta: MetaFile, kind: type[Any]) -> Metadata[Any]:
    """What a signed version and hash name."""
    name = f"{meta.version}.{role}.json"
    metadata, data = _read(folder, name, kind)
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        raise _altered(folder / name) from None
    if metadata.signed.version != meta.version:
        raise _altered(folder / name)
    return metadata


def _prove(name: str, role: str, metadata: Metadata[Any], delegators: list[Any]) -> None:
    try:
        proven = any(holds(each, role, metadata) for each in delegators)
    except ValueError:  # the role is not one of the delegator's
        proven = False
    if not proven:
        raise RepositoryFault(
            f"{name} is not signed by the keys that this repository names for {role}: end the rotation that was cut"
            " short (the same gated-hq repo rotate again), or bring the folder back from a copy"
        )


def _altered(path: Path) -> RepositoryFault:
    return RepositoryFault(f"{path} is not what was signed: bring it back from a copy")


# -- writing -------------------------------------------------------------------------------------------------------


def write(path: Path, data: bytes) -> None:
    """A file, whole and on the disk under its name, or not there. The folder is synced by `sync`."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as out:
        os.fchmod(out.fileno(), 0o644)
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    part.rename(path)


def sync(folder: Path) -> None:
    """What was renamed into a folder stays there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """A folder and those above it, on the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o755, exist_ok=True)
        sync(folder.parent)


def tidy(metadata: Path, files: Path, state: State) -> None:
    """Take away what none of the last states names, and what a writer that was killed left."""
    last = state.snapshot.signed.version
    kept: set[str] = set()
    named: set[str] = set()
    for version in range(max(1, last - STATES_KEPT + 1), last + 1):
        if not (metadata / f"{version}.snapshot.json").exists():
            continue
        snapshot, _ = _read(metadata, f"{version}.snapshot.json", Snapshot)
        kept.add(f"{version}.snapshot.json")
        kept.update(f"{meta.version}.{name}" for name, meta in snapshot.signed.meta.items())
    for name in sorted(kept):
        if not name.endswith(".snapshot.json") and (metadata / name).exists():
            for target in _read(metadata, name, Targets)[0].signed.targets.values():
                named.update(target.get_prefixed_paths())
    for path in metadata.iterdir():
        versioned = _VERSIONED.fullmatch(path.name)
        if path.name.endswith(".part") or (versioned and versioned[2] != "root" and path.name not in kept):
            path.unlink()
    for folder, _, names in os.walk(files, topdown=False):
        for name in names:
            path = Path(folder, name)
            if path.relative_to(files).as_posix() not in named:
                path.unlink()
        if Path(folder) != files:
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(folder)
