"""HQ's web server, small and real: files of a folder over HTTP or TLS, by Range, and every way to serve them badly."""

import re
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Truncate:
    """The file ends after `size` bytes, and the answer says so."""

    size: int


@dataclass(frozen=True, slots=True)
class Endless:
    """After the file come other bytes and never end. Not `honest`: no length is announced."""

    honest: bool = False


@dataclass(frozen=True, slots=True)
class Flip:
    """One bit of the file is another one."""

    at: int


@dataclass(frozen=True, slots=True)
class Drip:
    """A byte at a time. `head`: so comes the head of the answer already."""

    pause_s: float = 0.05
    head: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """After `size` bytes nothing comes any more."""

    size: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection ends after `size` bytes of every answer, though more were announced."""

    size: int


@dataclass(frozen=True, slots=True)
class Swap:
    """The content of another file. `folder`: of another folder than the one that is served."""

    path: str
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """An error."""

    code: int


@dataclass(frozen=True, slots=True)
class Redirect:
    """The file is said to be elsewhere."""

    to: str


@dataclass(frozen=True, slots=True)
class Header:
    """A header says something else. `Content-Range` for one."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class NoRange:
    """Range is not known here: always the whole file."""


Fault = Truncate | Endless | Flip | Drip | Stall | Cut | Swap | Status | Redirect | Header | NoRange


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    path: str
    range: str


class Website:
    """Serves `folder` at `url`, as a context manager. `certificate`, `key`: TLS; `clients`: who signs theirs.

    `folder` may be changed at any time: a copy of a folder as it was is a replay."""

    def __init__(
        self,
        folder: Path,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
        clients: Path | None = None,
        port: int = 0,
    ) -> None:
        self.folder = folder
        self.asked: list[Asked] = []
        self.sent = 0
        """Bytes of bodies."""
        self._faults: dict[str, tuple[Fault, list[int]]] = {}
        self._lock = threading.Lock()
        self.closing = threading.Event()
        site = self

        class Handler(_Handler):
            pass

        Handler.site = site
        self._server = _Server(("127.0.0.1", port), Handler)
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(clients)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def fault(self, pattern: str, fault: Fault, times: int = 1_000_000) -> None:
        """What fits the pattern (`metadata/*.snapshot.json`) is served so, so many times."""
        with self._lock:
            self._faults[pattern] = (fault, [times])

    def well(self) -> None:
        """No faults any more."""
        with self._lock:
            self._faults.clear()

    def take(self, path: str, header: str) -> Fault | None:
        """For the handler: a request is counted; the fault that applies to it."""
        with self._lock:
            self.asked.append(Asked(path, header))
            for pattern, (fault, times) in self._faults.items():
                if fnmatchcase(path, pattern) and times[0] > 0:
                    times[0] -= 1
                    return fault
        return None

    def count(self, size: int) -> None:
        """For the handler: so much was sent. Each connection has a thread of its own."""
        with self._lock:
            self.sent += size

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    site: Website
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Head and body are two writes: the second would wait until a client acknowledges the first, 40 ms each time."""

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        fault = self.site.take(path, self.headers.get("Range", ""))
        folder, name = self.site.folder, path
        if isinstance(fault, Swap):
            folder, name = fault.folder or folder, fault.path
        file = (folder / name).resolve()
        if isinstance(fault, Status):
            self._answer(fault.code, {}, b"")
        elif isinstance(fault, Redirect):
            self._answer(302, {"Location": fault.to}, b"")
        elif not file.is_relative_to(folder.resolve()) or not file.is_file():
            self._answer(404, {}, b"")
        else:
            self._file(self._altered(file.read_bytes(), fault), fault)

    def _altered(self, data: bytes, fault: Fault | None) -> bytes:
        match fault:
            case Truncate(size):
                return data[:size]
            case Flip(at):
                at %= len(data)
                return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        return data

    def _file(self, data: bytes, fault: Fault | None) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and not isinstance(fault, NoRange) else 0
        status, headers = 200, {"Accept-Ranges": "bytes"}
        if start >= len(data) and start:
            status, headers = 416, {"Content-Range": f"bytes */{len(data)}"}
        elif start:
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if isinstance(fault, Header):
            headers[fault.name] = fault.value
        self._answer(status, headers, data[start:], fault)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault | None = None) -> None:
        if isinstance(fault, Drip) and fault.head:
            self._drip(b"HTTP/1.1 200 OK\r\nX-Nothing: " + b"x" * 10_000, fault.pause_s)
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not isinstance(fault, Endless):
            self.send_header("Content-Length", str(len(body)))
        elif fault.honest:
            self.send_header("Content-Length", str(1 << 40))
        if isinstance(fault, Endless | Cut | Drip | Stall):
            self.send_header("Connection", "close")
        self.end_headers()
        match fault:
            case Cut(size):
                self._send(body[:size])
                self.close_connection = True
            case Stall(size):
                self._send(body[:size])
                self.site.closing.wait(30)
                self.close_connection = True
            case Drip(pause_s):
                self._drip(body, pause_s)
            case Endless():
                self._send(body)
                while not self.site.closing.is_set():
                    self._send(b" " * 65536)
            case _:
                self._send(body)

    def _drip(self, data: bytes, pause_s: float) -> None:
        for at in range(len(data)):
            if self.site.closing.is_set():
                break
            self._send(data[at : at + 1])
            self.wfile.flush()
            time.sleep(pause_s)
        self.close_connection = True

    def _send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.site.count(len(data))
