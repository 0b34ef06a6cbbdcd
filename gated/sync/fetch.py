"""HQ's server over HTTPS: small files whole, large ones by Range with resume, every byte counted and proven."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[int, int], None]
"""(bytes so far, bytes in all)."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is and how it is spoken to. `ca`, `certificate`, `key`: PEM files (mutual TLS)."""

    url: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    connect_s_max: float = 10.0
    read_s_max: float = 30.0
    bytes_per_s_min: float = 1024.0
    """Slower than this over `read_s_max` counts as `slow`."""


class Fetcher:
    """Fetches below `server.url`. Raises `SyncRefused`: unreachable, missing, slow, endless, truncated, altered."""

    def __init__(self, server: Server) -> None:
        raise NotImplementedError

    def small(self, path: str, size_max: int) -> bytes:
        """A file of at most so many bytes, unproven."""
        raise NotImplementedError

    def file(self, path: str, to: Path, size: int, sha256: bytes, progress: Progress | None = None) -> None:
        """A file of exactly `size` bytes with this hash, to `to`. What lies in `to`.part is gone on with (Range); `to`
        exists only when it is proven and fsynced. A `to` that exists and is right is not fetched again."""
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent."""
        raise NotImplementedError
