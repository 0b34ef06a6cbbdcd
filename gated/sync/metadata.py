"""TUF's metadata as python-tuf proves them, with the lane's clock, small limits, and the lane's names of refusals.

The chain is root -> timestamp -> snapshot -> targets -> the partitions' roles. python-tuf takes the time from a private
attribute; it is set here and nowhere else, and a python-tuf that has none is refused when the process starts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Signature
from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from gated.sync.fetch import Fetcher
from gated.sync.refused import SyncRefused, Why
from gated.wire.bundle import target_path

FOLDER: Final = "metadata"
"""Below the server's root."""
BYTES_MAX: Final = {"root": 64 << 10, "timestamp": 8 << 10, "snapshot": 64 << 10}
TARGETS_BYTES_MAX: Final = 512 << 10
"""Of every role that signs targets."""
_TOP: Final = ("root", "timestamp", "snapshot", "targets")
_SHOWN: Final = "HQ's server, or somebody between, shows"
_ADVICE: Final = {
    Why.ROLLED_BACK: f"{_SHOWN} an older state than was proven here before",
    Why.MIXED: f"{_SHOWN} parts of different states: if it stays so, look at HQ's folder and at caches between",
    Why.ALTERED: f"{_SHOWN} other bytes than HQ signed",
    Why.TRUNCATED: f"{_SHOWN} fewer bytes than HQ signed",
    Why.ENDLESS: f"{_SHOWN} more bytes than HQ signed",
    Why.WRONG_SIGNATURE: f"{_SHOWN} what no key signed that HQ's root names: was this lane installed with HQ's root?",
}


class _Download(FetcherInterface):
    """python-tuf asks for metadata here; what came last is kept, to say what is wrong with it."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self.role, self.data = "root", b""

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, TARGETS_BYTES_MAX)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        name = unquote(url.rpartition("/")[2]).removesuffix(".json")
        version, _, role = name.rpartition(".")
        self.role, self.data = role if version.isdigit() else name, b""
        try:
            self.data = self._fetcher.small(url, BYTES_MAX.get(self.role, TARGETS_BYTES_MAX))
        except SyncRefused as no:
            if no.why is Why.MISSING:
                raise exceptions.DownloadHTTPError(str(no), 404) from no
            raise
        if len(self.data) > max_length:
            raise exceptions.DownloadLengthMismatchError(url)
        return self.data


class Client:
    """One refresh of what is trusted, from `folder` and the server. `now`: the time by which metadata expire."""

    def __init__(self, folder: Path, root: bytes, fetcher: Fetcher, now: datetime) -> None:
        """Raises `SyncRefused` (malformed) where `root` is no root that its own keys signed."""
        self._download, self._now = _Download(fetcher), now
        config = UpdaterConfig(
            root_max_length=BYTES_MAX["root"],
            timestamp_max_length=BYTES_MAX["timestamp"],
            snapshot_max_length=BYTES_MAX["snapshot"],
            targets_max_length=TARGETS_BYTES_MAX,
            max_delegations=8,
        )
        try:
            self._updater = Updater(str(folder), FOLDER, fetcher=self._download, config=config, bootstrap=root)
        except exceptions.RepositoryError:
            raise SyncRefused(
                Why.MALFORMED, "the installed root", "it is no root.json of HQ's: [sync] root must name that one"
            ) from None
        proven: Any = getattr(self._updater, "_trusted_set", None)
        if not isinstance(getattr(proven, "reference_time", None), datetime):
            raise RuntimeError("this python-tuf takes no time from us: gated.sync.metadata must learn how it does")
        proven.reference_time = now
        self._proven: Mapping[str, Any] = proven

    @property
    def root(self) -> Root:
        root = self._proven["root"]
        assert isinstance(root, Root)
        return root

    @property
    def timestamp(self) -> Timestamp | None:
        """None: not proven yet; so with the others. May be expired."""
        found: Timestamp | None = self._proven.get("timestamp")
        return found

    @property
    def snapshot(self) -> Snapshot | None:
        found: Snapshot | None = self._proven.get("snapshot")
        return found

    @property
    def targets(self) -> Targets | None:
        found: Targets | None = self._proven.get("targets")
        return found

    def refresh(self) -> None:
        """Root, timestamp, snapshot and targets. Raises `SyncRefused`."""
        with self._named():
            self._updater.refresh()

    def target(self, path: str) -> TargetFile | None:
        """What the role that may sign `path` says of it. Raises `SyncRefused`."""
        with self._named():
            return self._updater.get_targetinfo(path)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except exceptions.DownloadHTTPError as bad:
            assert isinstance(bad.__cause__, SyncRefused)
            role, expired = self._expired()
            if expired is not None and self._download.role not in ("root", "timestamp"):
                raise self._frozen(role, expired) from None
            raise bad.__cause__ from None
        except exceptions.ExpiredMetadataError:
            raise self._frozen(*self._expired()) from None
        except (exceptions.RepositoryError, exceptions.DownloadLengthMismatchError) as bad:
            why = self._why(bad)
            raise SyncRefused(why, _file(self._download.role), _ADVICE[why]) from None

    def _frozen(self, role: str, signed: Any) -> SyncRefused:
        when = f"expired {signed.expires:%Y-%m-%d %H:%M}Z" if signed else "expired"
        return SyncRefused(
            Why.FROZEN,
            _file(role),
            f"{when}, and here it is {self._now:%Y-%m-%d %H:%M}Z: HQ has stopped signing, or somebody shows the same"
            " again and again, or this clock is ahead",
        )

    def _expired(self) -> tuple[str, Any]:
        for role in ("root", "timestamp", "snapshot"):
            signed = self._proven.get(role)
            if signed is not None and signed.is_expired(self._now):
                return role, signed
        return self._download.role, None

    def _why(self, bad: Exception) -> Why:
        """The name of what python-tuf refused, by what came last."""
        role, data = self._download.role, self._download.data
        mismatch = isinstance(bad, exceptions.LengthOrHashMismatchError | exceptions.DownloadLengthMismatchError)
        if isinstance(bad, exceptions.UnsignedMetadataError):
            return Why.WRONG_SIGNATURE
        if isinstance(bad, exceptions.BadVersionNumberError):
            return self._version_why(role, data)
        if isinstance(bad, DeserializationError):
            return Why.ALTERED if data.rstrip().endswith(b"}") else Why.TRUNCATED
        if mismatch:
            length = self._length(role)
            whole = len(data) > length and self._signed(role, data[:length])
            if not whole and self._signed(role, data):
                return Why.MIXED
            if len(data) == length:
                return Why.ALTERED
            return Why.TRUNCATED if len(data) < length else Why.ENDLESS
        # a role that the snapshot leaves out, or a file of another kind
        return Why.MIXED if self._signed(role, data) else Why.ALTERED

    def _version_why(self, role: str, data: bytes) -> Why:
        version = Metadata[Any].from_bytes(data).signed.version
        if role == "root":
            return Why.ROLLED_BACK if version <= self.root.version else Why.MIXED
        if role == "timestamp":
            return Why.ROLLED_BACK
        if role == "snapshot" and self.timestamp is not None and version == self.timestamp.snapshot_meta.version:
            return Why.ROLLED_BACK  # it lists an older version of some role
        return Why.MIXED

    def _signed(self, role: str, data: bytes) -> bool:
        """Whether the role's keys signed these bytes, of whatever version they are."""
        delegator = self.root if role in _TOP else self.targets
        return delegator is not None and signed_by(delegator, role, data) is not None

    def _length(self, role: str) -> int:
        """What the file has that was vouched for."""
        if role == "snapshot":
            return (self.timestamp and self.timestamp.snapshot_meta.length) or 0
        meta = self.snapshot.meta.get(f"{role}.json") if self.snapshot else None
        return (meta and meta.length) or 0


def _file(role: str) -> str:
    return f"{FOLDER}/{role}.json"


def signed_by(delegator: Root | Targets, role: str, data: bytes) -> Any:
    """What `data` holds, where as many of the role's keys signed it as must; None: they did not, or it is another
    kind of metadata, or none."""
    kind = role if role in _TOP else "targets"
    try:
        metadata = Metadata[Any].from_bytes(data)
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (exceptions.RepositoryError, ValueError):  # ValueError: no such role
        return None
    return metadata.signed if metadata.signed.type == kind else None


def roots_from(root: bytes, newer: Mapping[int, bytes]) -> Root:
    """The newest root that `root` leads to, by version, without a network. Raises `SyncRefused` (malformed)."""
    try:
        known = Metadata[Root].from_bytes(root).signed
    except exceptions.RepositoryError:
        raise SyncRefused(Why.MALFORMED, "the installed root", "it is no root.json of HQ's") from None
    while (data := newer.get(known.version + 1)) is not None:
        found = signed_by(known, "root", data)
        if found is None or found.version != known.version + 1 or signed_by(found, "root", data) is None:
            break
        known = found
    return known


def online_keys(root: Root) -> tuple[str, ...]:
    """Key ids of the timestamp and snapshot roles."""
    return tuple(sorted({*root.roles["timestamp"].keyids, *root.roles["snapshot"].keyids}))


def role_of(targets: Targets, path: str) -> str:
    """The role that may sign a target; "": targets itself."""
    named = targets.delegations.get_roles_for_target(path) if targets.delegations else ()
    return next((name for name, _ in named), "")


def head_signed(targets: Targets, partition: str, keyid: str, signature: bytes, message: bytes) -> bool:
    """Whether a key that may sign a partition's head, by itself, signed `message`."""
    name = role_of(targets, target_path(partition, "head"))
    if not name or targets.delegations is None:
        return False
    role, key = targets.get_delegated_role(name), targets.delegations.keys.get(keyid)
    if key is None or keyid not in role.keyids or role.threshold != 1:
        return False
    try:
        key.verify_signature(Signature(keyid, signature.hex()), message)
    except (UnverifiedSignatureError, VerificationError):
        return False
    return True


def digest_of(path: str, info: TargetFile) -> bytes:
    """SHA-256 of a target. Raises `SyncRefused` (malformed)."""
    try:
        return bytes.fromhex(info.hashes["sha256"])
    except (KeyError, ValueError):
        raise SyncRefused(Why.MALFORMED, path, "HQ signed it without a SHA-256") from None
