"""What HQ signed, as python-tuf proves it: the only place that knows TUF on the lane.

The clock that TUF reads is the lane's (`clock`). The trusted metadata lie in a folder of their own, apart from the data
they vouch for; what the data remember of them (`Floor`) holds even where that folder was wiped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from gated.sync.fetch import Fetcher
from gated.wire.bundle import Base, Head, SignedTip, Tip


@dataclass(frozen=True, slots=True)
class Floor:
    """The versions below which nothing is taken: kept with the data, in another file than the metadata."""

    root: int = 0
    timestamp: int = 0
    snapshot: int = 0
    targets: int = 0
    online_keys: tuple[str, ...] = ()
    """Key ids of the timestamp and snapshot roles that those two versions hold for: with other keys, which only root
    can name, they begin anew (the cure of a fast-forward)."""


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
    """The chain from the root that the lane was given to every byte it takes. Raises `SyncRefused`.

    `root`: the bytes of a root.json that came with the installation. `folder`: of its own, made 0700."""

    def __init__(self, folder: Path, root: bytes, fetcher: Fetcher, clock: Callable[[], datetime]) -> None:
        raise NotImplementedError

    def refresh(self, partitions: tuple[str, ...], floor: Floor) -> Trusted:
        """Fetch and prove the metadata, and base and head of each partition."""
        raise NotImplementedError

    def target(self, path: str, size_max: int) -> bytes:
        """The bytes of one signed target of the state last refreshed."""
        raise NotImplementedError

    def tip(self, signed: SignedTip) -> Tip:
        """A tip whose signature is that of its partition's head role, by the metadata last proven (also from disk,
        without a network). Raises `SyncRefused`: wrong_signature, malformed, wrong_schema."""
        raise NotImplementedError
