"""The control socket's requests, who may send which, and the client. The daemon's end is `gated.control_socket`.

One connection carries one request and its answer (`gated.control_views`), each one line of JSON; `watch` answers with a
line for every change. The kernel says who asks (`gated.control_peer`), the socket's mode says who may connect, and each
request says which of them may ask it. Nothing that travels here is personal. See docs/decisions/0003-control-socket.md.
"""

import base64
import binascii
import json
import socket
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal

from gated.control_peer import Right

REQUEST_BYTES_MAX = 65_536
ANSWER_BYTES_MAX = 1_048_576

Answer = Mapping[str, Any]


# -- requests ------------------------------------------------------------------------------------------------


class Refused(Exception):
    """A request that was not carried out. `code`: see `Code`; `why`: for the person who asked, never personal."""

    def __init__(self, code: "Code", why: str) -> None:
        super().__init__(f"{code.value}: {why}")
        self.code, self.why = code, why


class Code(Enum):
    """Why a request was not carried out."""

    BAD_REQUEST = "bad_request"
    """Not a request of this protocol: the client's fault."""
    DENIED = "denied"
    """Not for this user."""
    REFUSED = "refused"
    """Not now: the lane is not in a state for it."""
    BUSY = "busy"
    """Too many connections, or no answer in time."""
    FAILED = "failed"
    """The daemon's own fault; its log says more."""


@dataclass(frozen=True, slots=True)
class Request:
    """Something that a technician or the uplink asks of the daemon."""

    op: ClassVar[str] = ""
    needs: ClassVar[Right] = Right.OPERATE


@dataclass(frozen=True, slots=True)
class Status(Request):
    """Answered by a `control_views.Snapshot`."""

    op: ClassVar[str] = "status"
    needs: ClassVar[Right] = Right.LOOK


@dataclass(frozen=True, slots=True)
class Watch(Request):
    """Answered by a `Snapshot` now and one for each change, until the client goes."""

    op: ClassVar[str] = "watch"
    needs: ClassVar[Right] = Right.LOOK


@dataclass(frozen=True, slots=True)
class _Named(Request):
    """A request that names the person behind it; the name goes into the record beside the peer's user."""

    by: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.by) <= 64 or not self.by.isprintable() or self.by != self.by.strip():
            raise ValueError("by must be a name of 1 to 64 printable characters")


@dataclass(frozen=True, slots=True)
class ServiceOn(_Named):
    """Take the lane into service mode."""

    op: ClassVar[str] = "service_on"


@dataclass(frozen=True, slots=True)
class ServiceOff(_Named):
    """Give the lane back."""

    op: ClassVar[str] = "service_off"


@dataclass(frozen=True, slots=True)
class MoveDoor(Request):
    """Request a leaf open, or withdraw the request; service mode only."""

    op: ClassVar[str] = "door"
    door: Literal["A", "B"]
    open: bool


@dataclass(frozen=True, slots=True)
class CloseLane(_Named):
    """Finish whoever is inside, then take nobody in."""

    op: ClassVar[str] = "close"


@dataclass(frozen=True, slots=True)
class OpenLane(_Named):
    """Take passengers again."""

    op: ClassVar[str] = "open"


@dataclass(frozen=True, slots=True)
class SetDirection(_Named):
    """Which way a lane of both directions goes from the next passenger on; schedule: as its configuration says."""

    op: ClassVar[str] = "direction"
    direction: Literal["entry", "exit", "both", "schedule"]


@dataclass(frozen=True, slots=True)
class ResetLane(_Named):
    """A person has looked: end an emergency or a stop."""

    op: ClassVar[str] = "reset"


@dataclass(frozen=True, slots=True)
class RelayOrder(Request):
    """Bytes that HQ signed, in base64. The daemon verifies them; its answer goes to HQ as a record."""

    op: ClassVar[str] = "order"
    needs: ClassVar[Right] = Right.RELAY
    order: str

    def __post_init__(self) -> None:
        try:
            base64.b64decode(self.order, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("order must be base64") from None

    @classmethod
    def of(cls, signed: bytes) -> "RelayOrder":
        return cls(base64.b64encode(signed).decode())

    @property
    def signed(self) -> bytes:
        return base64.b64decode(self.order)


@dataclass(frozen=True, slots=True)
class UplinkState(Request):
    """Whether HQ acknowledges."""

    op: ClassVar[str] = "uplink"
    needs: ClassVar[Right] = Right.RELAY
    up: bool


@dataclass(frozen=True, slots=True)
class ShowCache(Request):
    """Answered by what the cache is: generation, age, counts; nobody's data."""

    op: ClassVar[str] = "cache_show"


@dataclass(frozen=True, slots=True)
class SyncTold(Request):
    """What sync did with a partition: `why` "" says that something was applied, and the lane looks at it at once;
    otherwise it is the name of what was refused (`gated.sync.refused.Why`), which the lane tells HQ."""

    op: ClassVar[str] = "sync"
    needs: ClassVar[Right] = Right.TELL
    partition: str
    why: str

    def __post_init__(self) -> None:
        for text in (self.partition, self.why):
            if len(text) > 64 or not (text.replace("-", "_").isidentifier() or not text):
                raise ValueError("partition and why are codes")


@dataclass(frozen=True, slots=True)
class RecordDevices(Request):
    """Record a device's traffic for `seconds`, sealed, into the store; service mode only.

    Answered by {"file": where, "bytes": how many}."""

    op: ClassVar[str] = "record"
    device: str
    seconds: float

    def __post_init__(self) -> None:
        if not self.device.isidentifier():
            raise ValueError("device must be the name of a section such as passport")
        if not 0 < self.seconds <= 600:
            raise ValueError("seconds must be more than 0 and at most 600")


@dataclass(frozen=True, slots=True)
class TestFingers(Request):
    """Whoever likes lays fingers on the reader for `seconds`; service mode only. Nothing of a finger is kept or told.

    Answered by a `control_views.FingerLine` for whatever happens, until the time is over or the client goes."""

    op: ClassVar[str] = "test_fingers"
    seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 600:
            raise ValueError("seconds must be more than 0 and at most 600")


@dataclass(frozen=True, slots=True)
class Shutdown(_Named):
    """Finish whoever is inside, then end the daemon."""

    op: ClassVar[str] = "shutdown"


REQUESTS: dict[str, type[Request]] = {
    kind.op: kind
    for kind in (
        Status, Watch, ServiceOn, ServiceOff, MoveDoor, CloseLane, OpenLane, SetDirection, ResetLane,
        RelayOrder, UplinkState, SyncTold, ShowCache, RecordDevices, TestFingers, Shutdown,
    )
}  # fmt: skip

_TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    bool: ((bool,), "true or false"),
    float: ((int, float), "a number"),
}


def encode(request: Request) -> bytes:
    """One line."""
    values = {f.name: getattr(request, f.name) for f in fields(request)}
    return json.dumps({"op": request.op, **values}, ensure_ascii=False).encode() + b"\n"


def decode(line: bytes, requests: Mapping[str, type[Request]] = REQUESTS) -> Request:
    """One of `requests` by its `op`. Raises `Refused` (BAD_REQUEST), saying what is wrong with it."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise Refused(Code.BAD_REQUEST, "not one line of JSON in UTF-8") from None
    if not isinstance(values, dict) or not isinstance(op := values.pop("op", None), str):
        raise Refused(Code.BAD_REQUEST, 'not an object with an "op"')
    if (kind := requests.get(op)) is None:
        raise Refused(Code.BAD_REQUEST, f"no such op; there are {', '.join(requests)}")
    wanted = {f.name: f.type for f in fields(kind)}
    if values.keys() != wanted.keys():
        raise Refused(Code.BAD_REQUEST, f"{op} takes {', '.join(wanted) or 'nothing'}")
    for name, hint in wanted.items():
        choices = getattr(hint, "__args__", ())
        types, said = ((str,), " or ".join(choices)) if choices else _TYPES[hint]
        if type(values[name]) not in types or (choices and values[name] not in choices):
            raise Refused(Code.BAD_REQUEST, f"{op}: {name} must be {said}")
    try:
        return kind(**values)
    except ValueError as wrong:
        raise Refused(Code.BAD_REQUEST, f"{op}: {wrong}") from None


# -- the client ------------------------------------------------------------------------------------------------


class Unavailable(Exception):
    """The daemon cannot be asked. The text says what to do. `absent`: it does not run; `denied`: not for this user."""

    def __init__(self, text: str, *, absent: bool = False, denied: bool = False) -> None:
        super().__init__(text)
        self.absent, self.denied = absent, denied


class Client:
    """Asks the daemon. Blocking; one connection a request, so it may be used from any thread."""

    def __init__(self, path: Path, timeout_s: float = 15.0) -> None:
        self.path, self.timeout_s = path, timeout_s

    def ask(self, request: Request) -> dict[str, Any]:
        """The answer. Raises `Refused`, `Unavailable`."""
        with self._connect() as connection:
            for answer in self._answers(connection, request):
                return answer
        raise Unavailable(f"the daemon at {self.path} hung up without an answer; see its log")

    def watch(self) -> Iterator[dict[str, Any]]:
        """A snapshot now and one for each change, until the daemon goes. Raises `Refused`, `Unavailable`."""
        with self._connect() as connection:
            connection.settimeout(None)
            yield from self._answers(connection, Watch())

    def stream(self, request: Request) -> Generator[dict[str, Any], None, None]:
        """Every line of an answer that has many. Raises as `ask`, also where the next is not there in time."""
        with self._connect() as connection:
            yield from self._answers(connection, request)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(self.timeout_s)
        try:
            connection.connect(str(self.path))
        except OSError as bad:
            connection.close()
            raise self._unreachable(bad) from None
        return connection

    def _answers(self, connection: socket.socket, request: Request) -> Iterator[dict[str, Any]]:
        try:
            connection.sendall(encode(request))
            with connection.makefile("rb") as lines:
                while line := lines.readline(ANSWER_BYTES_MAX):
                    answer = json.loads(line)
                    if not answer["ok"]:
                        raise Refused(Code(answer["error"]), answer["why"])
                    yield answer["answer"]
        except TimeoutError:
            raise Unavailable(
                f"no answer from {self.path} within {self.timeout_s:g} s; is the lane overloaded?"
            ) from None
        except OSError as bad:
            raise Unavailable(f"the daemon at {self.path} hung up: {bad.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise Unavailable(f"what listens at {self.path} does not speak this protocol") from None

    def _unreachable(self, bad: OSError) -> Unavailable:
        if isinstance(bad, FileNotFoundError | ConnectionRefusedError):
            text = f"no lane daemon listens at {self.path}; start it: systemctl start gated-lane"
            return Unavailable(text, absent=True)
        if isinstance(bad, PermissionError):
            text = f"no permission to use {self.path}; be a member of the technicians' group (see [control])"
            return Unavailable(text, denied=True)
        return Unavailable(f"cannot reach the lane daemon at {self.path}: {bad.strerror or bad}")
