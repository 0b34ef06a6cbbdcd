"""The sections of lane.toml that more than one process reads, as frozen dataclasses that check themselves.

`gated.config` fills them from the file; a problem that one of them has is told with file and line.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


def _positive(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name} must be more than 0, not {getattr(settings, name)}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this lane is: the part of [lane] that every process needs."""

    id: str
    site: str
    place: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "site"):
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", getattr(self, name)):
                raise ValueError(
                    f"{name} must be 1 to 32 lower-case letters, digits and '-' (it is part of MQTT topics)"
                )


@dataclass(frozen=True, slots=True)
class Store:
    """[store]: where the lane's databases lie and how large they may grow."""

    dir: Path = Path("/var/lib/gated")
    journal_days: int = 30
    journal_rows_max: int = 5_000_000
    outbox_bytes_max: int = 2_000_000_000

    def __post_init__(self) -> None:
        _positive(self, "journal_days", "journal_rows_max", "outbox_bytes_max")


@dataclass(frozen=True, slots=True)
class Keys:
    """[keys]: files. `cache` (the lane's own, to which HQ wraps each epoch's key), `journal`: secret, 32 bytes;
    `hq_public`, `orders_public`, `receipts_public`, `policy_public`: HQ's public keys, 32 bytes; in each of the last
    three files there may be two, after each other, while HQ changes it. Without the last no policy is taken from HQ."""

    cache: Path
    journal: Path
    hq_public: Path
    orders_public: Path
    receipts_public: Path
    policy_public: Path | None = None
    cache_on_disk: bool = False
    """`cache` may lie on the disk that it protects: for tests and demonstrations."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """[uplink]: the broker and how to talk to it."""

    host: str
    port: int = 8883
    tls: bool = True
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    keep_alive_s: int = 30
    connect_s_max: float = 10.0
    retry_s_min: float = 1.0
    retry_s_max: float = 60.0
    ack_s_max: float = 10.0
    inflight_max: int = 64
    heartbeat_s: float = 15.0
    fallback: tuple[str, ...] = ()
    """Further brokers, `host:port`, tried in this order where the first cannot be reached or leads to no HQ."""
    bytes_per_s_max: int = 0
    """Of records; 0: no cap. Alarms are not held back by it."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must be 1 to 65535, not {self.port}")
        _positive(self, "keep_alive_s", "connect_s_max", "retry_s_min", "ack_s_max", "inflight_max", "heartbeat_s")
        if self.retry_s_max < self.retry_s_min:
            raise ValueError("retry_s_max must not be less than retry_s_min")
        if self.bytes_per_s_max and self.bytes_per_s_max < 2000:
            raise ValueError("bytes_per_s_max must be 0 (no cap) or at least 2000, which a passage's records need")
        for each in self.fallback:
            if re.fullmatch(r"[^:\s]+:([1-9][0-9]{0,4})", each) is None or int(each.rpartition(":")[2]) > 65535:
                raise ValueError("fallback must name brokers as host:port")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")
        if not self.tls and (self.ca or self.certificate):
            raise ValueError("tls is false, so ca, certificate and key would have no effect")


@dataclass(frozen=True, slots=True)
class Sync:
    """[sync]: HQ's server of signed data. `root`: the root.json that the lane was installed with."""

    url: str
    root: Path
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    interval_s: float = 60.0
    connect_s_max: float = 10.0
    read_s_max: float = 30.0
    retry_s_max: float = 300.0
    audit_hour: int = 3
    """UTC; the nightly comparison with HQ."""
    socket: Path = Path("/run/gated-sync/sync.sock")

    def __post_init__(self) -> None:
        _positive(self, "interval_s", "connect_s_max", "read_s_max", "retry_s_max")
        if not self.url.startswith(("https://", "http://127.0.0.1", "http://localhost")):
            raise ValueError(f"url must begin with https:// (http:// for this machine alone), not {self.url[:40]!r}")
        if not 0 <= self.audit_hour <= 23:
            raise ValueError(f"audit_hour must be 0 to 23, not {self.audit_hour}")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")


@dataclass(frozen=True, slots=True)
class Control:
    """[control]: the socket that the technician's command and the uplink talk to."""

    socket: Path = Path("/run/gated/control.sock")
    technician_group: str = "gated-tech"
    uplink_user: str = "gated-uplink"
    sync_user: str = "gated-sync"


@dataclass(frozen=True, slots=True)
class Models:
    """[models]: where the networks' weights lie, and how many processor threads inference may use."""

    dir: Path = Path("/usr/share/gated/models")
    threads: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= 64:
            raise ValueError(f"threads must be 1 to 64, not {self.threads}")


@dataclass(frozen=True, slots=True)
class Log:
    """[log]: how much is said, and in which shape."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


@dataclass(frozen=True, slots=True)
class Metrics:
    """[metrics]: a folder of text files for Prometheus' node_exporter, one of each process. Without it: none."""

    dir: Path = Path("/run/gated-metrics")
    every_s: float = 15.0

    def __post_init__(self) -> None:
        _positive(self, "every_s")
