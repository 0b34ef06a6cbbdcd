"""HQ's signed repository: TUF metadata and targets in a folder that any static web server can serve.

Roles and what each may sign (docs/trust.md):

* `root`: names every other key. Offline, a threshold of several people.
* `targets`: policy, thresholds, models, CSCA certificates, CRLs, and which keys may sign partitions. Offline.
* `people`, `control`: base and head of `people`; the head of `control`. Online.
* `control-base`: the base of `control`: online key *and* lift key, so nobody with the online key alone lifts a ban.
* `snapshot`, `timestamp`: online.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


class RepositoryFault(Exception):
    """The repository cannot do this. The text says why and what to do; never a key."""


class Signers:
    """The private keys at hand: Ed25519, 32 raw bytes a file, readable by their owner alone."""

    @classmethod
    def of(cls, files: Sequence[Path]) -> "Signers":
        """Raises `RepositoryFault`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long what is signed holds, in seconds."""

    root_s: int = 365 * 86400
    targets_s: int = 180 * 86400
    partition_s: int = 14 * 86400
    snapshot_s: int = 14 * 86400
    timestamp_s: int = 86400


class Repository:
    """The repository in `folder` (`metadata/`, `targets/`; the publisher adds `data/`). One writer at a time."""

    def __init__(self, folder: Path, lifetimes: Lifetimes = Lifetimes()) -> None:
        raise NotImplementedError

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
        lifetimes: Lifetimes = Lifetimes(),
    ) -> "Repository":
        """A new one. The keys are public ones (Ed25519, 32 bytes raw). Raises `RepositoryFault`."""
        raise NotImplementedError

    @property
    def root(self) -> bytes:
        """The newest root.json: what a lane is installed with."""
        raise NotImplementedError

    def target(self, path: str) -> bytes | None:
        """A target as it was last put."""
        raise NotImplementedError

    def put(self, targets: Mapping[str, bytes | None], signers: Signers, now: datetime) -> int:
        """Put (None: take away) targets, sign the roles that own them, snapshot and timestamp: lanes see all of it or
        nothing. With no targets: sign snapshot and timestamp anew. The timestamp's version.

        Raises `RepositoryFault`, changing nothing, where a key that is needed is not among `signers`."""
        raise NotImplementedError

    def can(self, path: str, signers: Signers) -> bool:
        """Whether these keys are enough to put this target."""
        raise NotImplementedError

    def sign_tip(self, partition: str, tip: bytes, signers: Signers) -> tuple[str, bytes]:
        """(key id, signature) of `bundle.tip_message(tip)` by the role that signs the partition's head."""
        raise NotImplementedError

    def rotate(
        self, role: str, old: Sequence[bytes], new: Sequence[bytes], threshold: int, signers: Signers, now: datetime
    ) -> None:
        """Other keys for a role; `signers` hold root's keys (and for root the new ones too), and whatever else has to
        be signed anew. Delegated roles are rotated by the targets role."""
        raise NotImplementedError
