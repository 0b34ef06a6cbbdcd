"""What HQ signed, as a lane proves it: from the root that it was installed with to every byte that it takes.

The clock by which metadata expire is the lane's (`clock`). The trusted metadata lie in a folder of their own, apart
from the data they vouch for; what the data remember of them (`Floor`) holds even where that folder was wiped. A refused
state leaves that folder as it was, but for newer roots, which are proven by themselves. Files there that a disk altered
are fetched again: each is proven whenever it is read."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tuf.api.metadata import Root, TargetFile, Targets

from gated.sync.fetch import Fetcher
from gated.sync.floor import AHEAD_MAX, Floor, check_head, check_versions, clock_wrong, floor_of, known_from
from gated.sync.metadata import Client, digest_of, head_signed, roots_from, signed_by
from gated.sync.refused import SyncRefused, Why
from gated.sync.spool import on_disk, write_whole
from gated.wire import bundle
from gated.wire.bundle import Base, BundleError, Head, SignedTip, Tip, target_path

__all__ = ("Floor", "Trust", "Trusted")

TARGET_BYTES_MAX: Final = 1 << 20
"""Of a base or head."""
_IN_MEMORY_MAX: Final = 1 << 20
"""A longer target is fetched to the disk, so that it can be gone on with."""
_HISTORY: Final = "root_history"
_WORK: Final = "work-"
_FILE_MAX, _FILES_MAX = 2 << 20, 2000


@dataclass(frozen=True, slots=True)
class Trusted:
    """One state of HQ's repository, proven."""

    floor: Floor
    expires: datetime
    """Of the timestamp: from then on nothing new is taken from it."""
    bases: Mapping[str, Base]
    heads: Mapping[str, Head]
    files: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    """Other signed targets by path (`policy/tw.toml`, `models/...`, `csca/...`, `crl/...`): (bytes, sha256)."""


class Trust:
    """The chain from the root that the lane was given to every byte it takes. Raises `SyncRefused`. One thread a time,
    but for `tip`: a ban that is announced must not wait until a slow server has answered.

    `root`: the bytes of a root.json that came with the installation. `folder`: of its own, made 0700."""

    def __init__(self, folder: Path, root: bytes, fetcher: Fetcher, clock: Callable[[], datetime]) -> None:
        """Raises `SyncRefused` where `root` is none, and `RuntimeError` where python-tuf would not read `clock`."""
        self._folder, self._root, self._fetcher, self._clock = folder, root, fetcher, clock
        self._delegations: tuple[Root, Targets] | None = None
        self._targets: dict[str, TargetFile] = {}
        with on_disk(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            with TemporaryDirectory(dir=folder, prefix=_WORK) as work:
                Client(Path(work), root, fetcher, clock())

    def _sweep(self) -> None:
        """Take away what a process left that was killed, or whose disk failed."""
        for left in self._folder.glob(f"{_WORK}*"):
            shutil.rmtree(left)

    # -- refreshing

    def refresh(self, partitions: tuple[str, ...], floor: Floor) -> Trusted:
        """Fetch and prove the metadata, and base and head of each partition for which HQ has signed them.

        Everything is proven in a copy of the folder; only a state that is proven as a whole takes its place."""
        now = self._clock()
        before = _files(self._folder)
        with on_disk(self._folder):
            self._sweep()
        with on_disk(self._folder), TemporaryDirectory(dir=self._folder, prefix=_WORK) as work:
            for name, data in before.items():
                place = Path(work, name)
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(data)
            client = Client(Path(work), self._root, self._fetcher, now)
            try:
                client.refresh()
                found = self._partitions(client, partitions, before)
            except SyncRefused as no:
                self._keep(before, _roots_in(_files(Path(work)), client.root.version))
                if not (no.what.endswith(("timestamp.json", "root.json")) and no.why is not Why.FROZEN):
                    check_versions(client, floor, known_from(before, client))
                raise
            known = known_from(before, client)
            check_versions(client, floor, known)
            for partition in found.heads:
                check_head(partition, found.bases[partition], found.heads[partition], known.heads.get(partition), now)
            self._keep(before, {**_files(Path(work)), **found.kept})
        root, targets, timestamp = client.root, client.targets, client.timestamp
        assert targets is not None and timestamp is not None
        self._delegations = (root, targets)
        self._targets = {**targets.targets, **found.infos}
        self._tidy()
        return Trusted(
            floor_of(client),
            timestamp.expires,
            found.bases,
            found.heads,
            {path: (info.length, digest_of(path, info)) for path, info in targets.targets.items()},
        )

    def _partitions(self, client: Client, partitions: tuple[str, ...], before: Mapping[str, bytes]) -> "_Found":
        found = _Found()
        for partition in partitions:
            for what, cls, into in (("base", Base, found.bases), ("head", Head, found.heads)):
                path = target_path(partition, what)
                info = client.target(path)
                if info is None:
                    continue
                name = f"{partition}.{what}"
                data = before.get(name, b"")
                if len(data) != info.length or sha256(data).digest() != digest_of(path, info):
                    data = self._fetched(path, info, TARGET_BYTES_MAX, partition)
                found.kept[name], found.infos[path] = data, info
                into[partition] = _loaded(cls, data, path)
            if partition not in found.bases or partition not in found.heads:  # HQ has not begun with it
                found.bases.pop(partition, None)
                found.heads.pop(partition, None)
        return found

    def _keep(self, before: Mapping[str, bytes], files: Mapping[str, bytes]) -> None:
        """Put what changed into the folder. Whatever a power cut leaves of it was proven, or is found out."""
        for name, data in files.items():
            if before.get(name) != data:
                write_whole(self._folder / name, data, 0o600)
                self._delegations = None

    def _tidy(self) -> None:
        """Take away what was fetched of targets that are no longer signed."""
        wanted = {info.hashes.get("sha256") for info in self._targets.values()}
        with on_disk(self._folder):
            for left in self._folder.glob("*.target*"):
                if left.name.partition(".")[0] not in wanted:
                    left.unlink()

    # -- one target

    def target(self, path: str, size_max: int) -> bytes:
        """The bytes of one signed target of the state last refreshed."""
        info = self._targets.get(path)
        if info is None:
            raise SyncRefused(Why.MISSING, path, "HQ has not signed it, as far as is known here")
        return self._fetched(path, info, size_max)

    def _fetched(self, path: str, info: TargetFile, size_max: int, partition: str = "") -> bytes:
        digest = digest_of(path, info)
        if info.length > size_max:
            raise SyncRefused(Why.ENDLESS, path, f"HQ signed {info.length} bytes where at most {size_max} are taken")
        place = f"targets/{info.get_prefixed_paths()[0]}"
        if info.length > _IN_MEMORY_MAX:
            to = self._folder / f"{digest.hex()}.target"
            self._fetcher.file(place, to, info.length, digest)
            with on_disk(to):
                data = to.read_bytes()
                to.unlink()
            return data
        data = self._fetcher.small(place, max(info.length, TARGET_BYTES_MAX))
        if len(data) == info.length and sha256(data).digest() == digest:
            return data
        if partition and _partition_of(data) not in ("", partition):
            raise SyncRefused(Why.SWAPPED_PARTITION, path, "the server shows another partition's in its place")
        why = Why.ALTERED
        if len(data) != info.length:
            why = Why.TRUNCATED if len(data) < info.length else Why.ENDLESS
        raise SyncRefused(why, path, f"{len(data)} bytes came that are not the {info.length} that HQ signed")

    # -- tips

    def tip(self, signed: SignedTip) -> Tip:
        """A tip whose signature is that of its partition's head role, by the metadata last proven (also from disk,
        without a network). Raises `SyncRefused`: wrong_signature, malformed, wrong_schema; frozen, where root or the
        role that names the partitions' keys has expired, for then nobody can say whether those keys were taken away;
        clock; missing, where no metadata are here yet."""
        what = "announced segment"
        tip = _loaded(Tip, signed.tip, what)
        # what is read here is not kept: a refresh in another thread may know of newer keys by then
        delegations = self._delegations or self._from_disk()
        now = self._clock()
        for role, metadata in zip(("root", "targets"), delegations, strict=True):
            if metadata.is_expired(now):
                raise SyncRefused(Why.FROZEN, what, f"{role}.json has expired: HQ must be asked for a newer one first")
        message = bundle.tip_message(signed.tip)
        if not head_signed(delegations[1], tip.partition, signed.key, signed.signature, message):
            raise SyncRefused(Why.WRONG_SIGNATURE, what, f"the key that signs {tip.partition} has not signed it")
        if tip.built > now + AHEAD_MAX:
            raise clock_wrong(what, tip.built, now)
        assert isinstance(tip, Tip)
        return tip

    def _from_disk(self) -> tuple[Root, Targets]:
        files = _files(self._folder)
        root = roots_from(self._root, {_version(name): data for name, data in files.items() if _version(name)})
        targets = signed_by(root, "targets", files.get("targets.json", b""))
        if targets is None:
            raise SyncRefused(
                Why.MISSING, "metadata", "none are here yet, or this disk altered them: HQ is asked first"
            )
        return root, targets


@dataclass(frozen=True, slots=True)
class _Found:
    """What the metadata vouch for of the partitions. `kept`: the bytes, to lie beside the metadata."""

    bases: dict[str, Base] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    infos: dict[str, TargetFile] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)


# -- bytes -----------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> dict[str, bytes]:
    """What lies in the folder of metadata; no links, nothing huge, nothing of a process that was killed."""
    found = {}
    with on_disk(folder):
        for pattern in ("*.json", "*.base", "*.head", f"{_HISTORY}/*.root.json"):
            for path in sorted(folder.glob(pattern))[:_FILES_MAX]:
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= _FILE_MAX:
                    found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def _version(name: str) -> int:
    """Of a root in the history; 0: it is none."""
    number = name.removeprefix(f"{_HISTORY}/").removesuffix(".root.json")
    return int(number) if name.startswith(_HISTORY) and number.isdecimal() else 0


def _roots_in(files: Mapping[str, bytes], version_max: int) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if 0 < _version(name) <= version_max}


def _loaded(cls: type[Any], data: bytes, what: str) -> Any:
    try:
        return bundle.load(cls, data)
    except BundleError as bad:
        raise SyncRefused(Why(bad.why), what, "HQ signed it so: are HQ's programs and these of one edition?") from None


def _partition_of(data: bytes) -> str:
    """Which partition these bytes say that they are of; "": they are no base or head."""
    for cls in (Base, Head):
        try:
            return str(bundle.load(cls, data).partition)
        except BundleError:
            continue  # the other one, or nothing
    return ""
