"""What may be asked of the sync over its socket (`[sync] socket`), and by whom. The same lines as gated.control."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from gated.control import Request
from gated.control_peer import Right

REQUEST_BYTES_MAX: Final = 2 << 20
"""An announcement of sixteen tips with their segments, in base64 within base64."""


@dataclass(frozen=True, slots=True)
class SyncStatus(Request):
    """Answered by a `Report`."""

    op: ClassVar[str] = "status"
    needs: ClassVar[Right] = Right.LOOK


@dataclass(frozen=True, slots=True)
class SyncNow(Request):
    """Ask HQ now. Answered by a `Report` for every step, until everything is current or was refused."""

    op: ClassVar[str] = "sync"
    needs: ClassVar[Right] = Right.OPERATE


@dataclass(frozen=True, slots=True)
class Verify(Request):
    """Compare everything with HQ now. Answered by an `audit.Progress` for every step; the last one is the result."""

    op: ClassVar[str] = "verify"
    needs: ClassVar[Right] = Right.OPERATE
    repair: bool


@dataclass(frozen=True, slots=True)
class Announced(Request):
    """What came over MQTT (`bundle.Announcement`), in base64. Nothing is believed because of who carried it."""

    op: ClassVar[str] = "announced"
    needs: ClassVar[Right] = Right.RELAY
    payload: str

    def __post_init__(self) -> None:
        try:
            base64.b64decode(self.payload, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("payload must be base64") from None

    @classmethod
    def of(cls, announcement: bytes) -> "Announced":
        return cls(base64.b64encode(announcement).decode())

    @property
    def announcement(self) -> bytes:
        return base64.b64decode(self.payload)


REQUESTS: Final[Mapping[str, type[Request]]] = {kind.op: kind for kind in (SyncStatus, SyncNow, Verify, Announced)}
