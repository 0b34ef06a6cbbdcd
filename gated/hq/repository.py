"""HQ's signed repository: TUF metadata and targets in a folder that any static web server can serve.

Roles and what each may sign (docs/trust.md):

* `root`: names every other key. Offline, a threshold of several people.
* `targets`: policy, thresholds, models, CSCA certificates, CRLs, and which keys may sign partitions. Offline.
* `people`, `control`: base and head of `people`; the head of `control`. Online.
* `control-base`: the base of `control`: online key *and* lift key, so nobody with the online key alone lifts a ban.
* `snapshot`, `timestamp`: online.
"""

import contextlib
import copy
import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    TargetFile,
    Targets,
)

from gated.hq.metadata import (
    DELEGATED,
    HASHES,
    TOP,
    State,
    holds,
    make_folder,
    read_roots,
    read_state,
    sync,
    take_proposal,
    tidy,
    versions,
    write,
)
from gated.hq.signers import RepositoryFault, Signers, public_key
from gated.hq.signing import USUAL, Lifetimes, Signing, check_apart, enough, first_state, lacks, names, set_keys
from gated.wire.bundle import JUMP_MAX, target_path, tip_message

__all__ = ("Lifetimes", "Repository", "RepositoryFault", "RoleState", "Signers")

ONLINE: Final = "online"
"""Not a role: every role that the online key signs for, rotated in one go."""
_PATH: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,7}")
_BUSY_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class RoleState:
    """One role as it stands."""

    role: str
    version: int
    expires: datetime
    threshold: int
    keys: tuple[str, ...]
    """Key ids."""
    signed_by: tuple[str, ...]
    targets: tuple[str, ...] = ()
    """What it has signed, by path."""


class Repository:
    """The repository in `folder` (`metadata/`, `targets/`; the publisher adds `data/`). One writer at a time."""

    def __init__(self, folder: Path, lifetimes: Lifetimes = USUAL) -> None:
        """Raises `RepositoryFault` where there is none."""
        self.folder, self.lifetimes = folder, lifetimes
        self._metadata, self._targets = folder / "metadata", folder / "targets"
        if not (self._metadata / "timestamp.json").exists():
            raise RepositoryFault(f"{folder}: there is no signed repository; gated-hq repo init makes one")

    @classmethod
    def create(
        cls,
        folder: Path,
        signers: Signers,
        *,
        root: Sequence[bytes],
        root_threshold: int,
        targets: Sequence[bytes],
        online: bytes,
        lift: bytes,
        now: datetime,
        lifetimes: Lifetimes = USUAL,
    ) -> "Repository":
        """A new one. The keys are public ones (Ed25519, 32 bytes raw). Raises `RepositoryFault`."""
        made = cls.__new__(cls)
        made.folder, made.lifetimes = folder, lifetimes
        made._metadata, made._targets = folder / "metadata", folder / "targets"
        if (made._metadata / "timestamp.json").exists():
            raise RepositoryFault(f"{folder} has a signed repository already; nothing was changed")
        state = first_state(root, root_threshold, targets, online, lift, now)
        for each in (made._metadata, made._targets):
            make_folder(each)
        with made._locked():
            made._publish(state, set(state.targets), {}, signers, now, next_root=state.root)
        return made

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def root(self) -> bytes:
        """The newest root.json: what a lane is installed with."""
        last = read_roots(self._metadata)[-1].version
        return (self._metadata / f"{last}.root.json").read_bytes()

    def leads_from(self, root: bytes) -> bool:
        """Whether a lane that was installed with this root.json follows to the newest one. Raises `RepositoryFault`."""
        newest = read_roots(self._metadata)[-1].version
        known = (self._metadata / f"{number}.root.json" for number in range(1, newest + 1))
        return any(path.read_bytes() == root for path in known)

    def target(self, path: str) -> bytes | None:
        """A target as it was last put. Raises `RepositoryFault` where its file is not what was signed."""
        state = read_state(self._metadata)
        file = state.targets[state.owner(path)].signed.targets.get(path)
        if file is None:
            return None
        place = self._targets / file.get_prefixed_paths()[0]
        try:
            data = place.read_bytes()
            file.verify_length_and_hashes(data)
        except (OSError, LengthOrHashMismatchError):
            raise RepositoryFault(f"{place} is not there, or not what was signed: put {path} again") from None
        return data

    def can(self, path: str, signers: Signers) -> bool:
        """Whether these keys are enough to put this target."""
        state = read_state(self._metadata)
        return all(
            enough(state.delegator(role), role, signers) for role in (state.owner(path), "snapshot", "timestamp")
        )

    def roles(self, cut_short: bool = False) -> tuple[RoleState, ...]:
        """Every role as it stands, from root down; `cut_short`: also amid a rotation. Raises `RepositoryFault`."""
        state = read_state(self._metadata, cut_short)
        found = []
        for role, metadata in state.by_role():
            named = state.delegator(role).get_delegated_role(role)
            signed = metadata.signed
            found.append(
                RoleState(
                    role,
                    signed.version,
                    signed.expires,
                    named.threshold,
                    tuple(named.keyids),
                    tuple(keyid for keyid in named.keyids if keyid in metadata.signatures),
                    tuple(sorted(signed.targets)) if isinstance(signed, Targets) else (),
                )
            )
        return tuple(found)

    def sign_tip(self, partition: str, tip: bytes, signers: Signers) -> tuple[str, bytes]:
        """(key id, signature) of `bundle.tip_message(tip)` by the role that signs the partition's head."""
        state = read_state(self._metadata)
        role = state.owner(target_path(partition, "head"))
        named = state.delegator(role).get_delegated_role(role)
        for keyid in named.keyids:
            if keyid in signers:
                return keyid, bytes.fromhex(signers[keyid].sign(tip_message(tip)).signature)
        raise RepositoryFault(lacks(state.delegator(role), role, signers))

    # -- changing ----------------------------------------------------------------------------------------------------

    def put(self, targets: Mapping[str, bytes | None], signers: Signers, now: datetime, past: int = 0) -> int:
        """Put (None: take away) targets, sign the roles that own them, snapshot and timestamp: lanes see all of it or
        nothing. The timestamp is signed anew in any case, and so is what has lived two thirds of its life, where its
        keys are at hand. The timestamp's version.

        `past`: HQ was set back to an older copy and lanes know versions up to this one: everything whose keys are at
        hand is signed anew, with a greater version.

        Raises `RepositoryFault`, changing nothing, where a key that is needed is not among `signers`."""
        with self._locked():
            state = read_state(self._metadata)
            if past > state.timestamp.signed.version + JUMP_MAX:
                raise RepositoryFault(f"more than {JUMP_MAX} versions ahead would be refused by every lane")
            changed, files = _apply(state, targets)
            if past:
                changed.update(role for role in state.targets if enough(state.delegator(role), role, signers))
            return self._publish(state, changed, files, signers, now, past=past)

    def propose(self, targets: Mapping[str, bytes | None], signers: Signers, now: datetime, to: Path) -> None:
        """Sign targets of one role without the online key, into a folder `to` (a stick) that `take` brings in: so the
        offline key and the online key need never be on one machine. Raises `RepositoryFault`."""
        with self._locked():
            state = read_state(self._metadata)
        changed, files = _apply(state, targets)
        if len(changed) != 1:
            raise RepositoryFault(f"a proposal changes the targets of one role, not of {len(changed)}")
        for role in changed:
            data = Signing(state, state.root.signed, signers, now, self.lifetimes).sign(role, state.targets[role])
            name = f"{state.targets[role].signed.version}.{role}.json"
        with _written(to):
            _write_files(to / "targets", files)
            write(to / name, data)
            sync(to)

    def take(self, proposal: Path, signers: Signers, now: datetime) -> int:
        """Bring in what `propose` signed; the timestamp's version. Raises `RepositoryFault`, changing nothing, where it
        was not made of the present state or is not what was signed."""
        with self._locked():
            state = read_state(self._metadata)
            given: dict[str, bytes] = {}
            files: dict[str, bytes] = {}
            for _, role in versions(proposal):
                given[role], more = take_proposal(proposal, role, state, now)
                files.update(more)
            if not given:
                raise RepositoryFault(f"{proposal}: no proposal lies there; gated-hq repo add --to makes one")
            return self._publish(state, set(), files, signers, now, given=given)

    def rotate(
        self, role: str, old: Sequence[bytes], new: Sequence[bytes], threshold: int, signers: Signers, now: datetime
    ) -> None:
        """Other keys for a role; `signers` hold root's keys (and for root the new ones too), and whatever else has to
        be signed anew. Delegated roles are rotated by the targets role. `online`: every role that the old online key
        signs for, at once.

        Where the old keys are at hand too, both sign what lies between: then no client refuses anything meanwhile.
        A rotation that was cut short is ended by the same call again. Raises `RepositoryFault`, changing nothing."""
        with self._locked():
            state = read_state(self._metadata, cut_short=True)
            keys = {public_key(raw).keyid for raw in (*old, *new)}
            roles = [
                each for each in (*TOP, *DELEGATED) if role == each or (role == ONLINE and names(state, each) & keys)
            ]
            if not roles:
                known = ", ".join((*TOP, *DELEGATED, ONLINE))
                raise RepositoryFault(
                    f"no such role, or none of its keys: {role} (there are {known}). Nothing was changed"
                )
            next_root = copy.deepcopy(state.root)
            below = state.targets["targets"].signed
            changed: set[str] = set()
            for each in roles:
                keep = role == ONLINE and each == "control-base"
                needed = below.get_delegated_role(each).threshold if keep else threshold
                if set_keys(next_root.signed if each in TOP else below, each, old, new, needed):
                    changed.add("root" if each in TOP else "targets")
            check_apart(next_root.signed, below)
            self._publish(
                state,
                changed - {"root"},
                {},
                signers,
                now,
                next_root=next_root if "root" in changed else None,
                root_alone=changed <= {"root"} and not enough(next_root.signed, "timestamp", signers),
            )

    def _publish(
        self,
        state: State,
        changed: set[str],
        files: Mapping[str, bytes],
        signers: Signers,
        now: datetime,
        *,
        given: Mapping[str, bytes] | None = None,
        next_root: Metadata[Root] | None = None,
        root_alone: bool = False,
        past: int = 0,
    ) -> int:
        """Sign what changed (but for what is `given`, signed), what is due and what its keys no longer vouch for; write
        it; show it. The version of the timestamp. Nothing is written before everything is signed. `root_alone`: where
        root's keys are all that is at hand, nothing else is signed unless it must be."""
        was_root = state.root.signed
        if next_root is None and self._due("root", was_root.expires, now) and enough(was_root, "root", signers):
            next_root = copy.deepcopy(state.root)
        root = next_root.signed if next_root else was_root
        signing = Signing(state, root, signers, now, self.lifetimes, past)
        written: dict[str, bytes] = {}
        for role, metadata in state.targets.items():
            named_by = state.delegator(role, root)
            data = (given or {}).get(role)
            if data is None:
                old = role not in changed and holds(named_by, role, metadata)
                if old and not (self._due(role, metadata.signed.expires, now) and enough(named_by, role, signers)):
                    continue
                data = signing.sign(role, metadata)
            written[f"{metadata.signed.version}.{role}.json"] = data
            state.snapshot.signed.meta[f"{role}.json"] = MetaFile.from_data(metadata.signed.version, data, HASHES)
        snapshot = state.snapshot
        stale = written or past or not holds(root, "snapshot", snapshot)
        if stale or (self._due("snapshot", snapshot.signed.expires, now) and not root_alone):
            data = signing.sign("snapshot", snapshot)
            written[f"{snapshot.signed.version}.snapshot.json"] = data
            state.timestamp.signed.snapshot_meta = MetaFile.from_data(snapshot.signed.version, data, HASHES)
        shown = {}
        if written or not root_alone or not holds(root, "timestamp", state.timestamp):
            shown["timestamp.json"] = signing.sign("timestamp", state.timestamp)
        if next_root is not None:
            data = signing.sign("root", next_root)
            new = {f"{root.version}.root.json": data}
            # both orders end alike; in between, one of them may be refused by clients for a moment
            shown = {**shown, **new} if signing.bridged() else {**new, **shown}
            state.root = next_root
        self._write(files, written, shown)
        try:
            tidy(self._metadata, self._targets, state)
        except (OSError, RepositoryFault) as bad:
            structlog.get_logger().warning("old metadata stay", why=str(bad))
        return state.timestamp.signed.version

    def _write(self, files: Mapping[str, bytes], written: Mapping[str, bytes], shown: Mapping[str, bytes]) -> None:
        """Target files, then metadata that nobody asks for yet, then what shows them: each durable before the next."""
        with _written(self.folder):
            _write_files(self._targets, files)
            for name, data in written.items():
                write(self._metadata / name, data)
            sync(self._metadata)
            for name, data in shown.items():
                write(self._metadata / name, data)
                sync(self._metadata)

    def _due(self, role: str, expires: datetime, now: datetime) -> bool:
        return expires - now < self.lifetimes.of(role) / 3

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, over processes; the lock goes with its process. Raises `RepositoryFault`."""
        path = self.folder / ".lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as bad:
            raise RepositoryFault(f"{path}: {(bad.strerror or 'cannot be written').lower()}") from None
        try:
            give_up = time.monotonic() + _BUSY_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise RepositoryFault(f"{path}: another process is writing; try again") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)


def _apply(state: State, targets: Mapping[str, bytes | None]) -> tuple[set[str], dict[str, bytes]]:
    """Change what the roles list: (the roles that changed, the files by their names on the disk)."""
    changed: set[str] = set()
    files: dict[str, bytes] = {}
    for path, data in targets.items():
        if not _PATH.fullmatch(path):
            raise RepositoryFault(f"{path[:80]!r} cannot be a target: letters, digits, '.', '_' and '-', parted by /")
        role = state.owner(path)
        listed = state.targets[role].signed.targets
        was = listed.pop(path, None)
        if data is not None:
            listed[path] = TargetFile.from_data(path, data, HASHES)
            files[listed[path].get_prefixed_paths()[0]] = data
        if was != listed.get(path):
            changed.add(role)
    return changed, files


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    make_folder(folder)
    for name, data in files.items():
        path = folder / name
        make_folder(path.parent)
        if not path.exists() or path.read_bytes() != data:
            write(path, data)
            sync(path.parent)


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as bad:
        why = (bad.strerror or "cannot be written").lower()
        raise RepositoryFault(f"{bad.filename or folder}: {why}; lanes go on with what was there") from None
