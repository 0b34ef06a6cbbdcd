"""One line to one HTTP server, on which nobody can hold us up: requests, answers, and how fast their bytes come.

A socket's time-out alone lets a server send a byte a minute for ever, in the head of an answer as well as in its body:
here bytes are counted against the time that was spent waiting for them."""

import http.client
import io
import re
import socket
import ssl
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Timeout, parse_url

from gated.sync.refused import SyncRefused, Why

READ_BYTES: Final = 1 << 16
_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_GONE: Final = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
"""403: stores of objects say so of a file that is not there."""
_ASK: Final = "look at the line to HQ and at [sync] url"


class Cut(Exception):
    """The connection ended in the middle of an answer, or before one."""


class _Slow(Exception):
    """Too few bytes in the time that they have. `silent`: at last there were none for long, as when a line breaks."""

    def __init__(self, silent: bool) -> None:
        super().__init__(silent)
        self.silent = silent


class _Paced(io.RawIOBase):
    """What comes from a socket, counted: `bytes_min` at least in every `seconds` of waiting."""

    def __init__(self, inner: Any, sock: socket.socket, seconds: float, bytes_min: float) -> None:
        self._inner, self._sock = inner, sock
        self._seconds, self._bytes_min = seconds, bytes_min
        self._left, self._came, self._silent_s = seconds, 0, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._left <= 0:
                if self._came < self._bytes_min:
                    raise _Slow(self._silent_s > self._seconds / 2)
                self._left, self._came = self._seconds, 0
            self._sock.settimeout(self._left)
            began = time.monotonic()
            try:
                count = self._sock.recv_into(buffer)
            except TimeoutError:
                continue
            finally:
                waited = time.monotonic() - began
                self._left, self._silent_s = self._left - waited, self._silent_s + waited
            self._came, self._silent_s = self._came + count, 0.0
            return count

    def close(self) -> None:
        self._inner.close()
        super().close()


def _answers(seconds: float, bytes_min: float) -> type[http.client.HTTPResponse]:
    class Answer(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            self.fp = io.BufferedReader(_Paced(self.fp, sock, seconds, bytes_min), READ_BYTES)

    return Answer


class Body:
    """The body of one answer. `start`: where in the file it begins; `total`: the file's bytes, where that is said."""

    def __init__(self, line: "Line", path: str, response: urllib3.BaseHTTPResponse, start: int, total: int | None):
        self._line, self._path, self._response = line, path, response
        self.start, self.total = start, total

    def read(self, size: int) -> bytes:
        """At least one byte, b"" at the end. Raises `Cut`, and `SyncRefused`: slow, unreachable."""
        try:
            return self._response.read1(size, decode_content=False) or b""
        except (exceptions.HTTPError, _Slow) as bad:
            raise self._line.named(self._path, bad) from None

    def close(self) -> None:
        self._response.close()
        self._response.release_conn()


class Line:
    """Connections to the server below `url`. `tls`: the files of ca, certificate and key, or None."""

    def __init__(
        self,
        url: str,
        tls: tuple[Path | None, Path | None, Path | None],
        connect_s_max: float,
        read_s_max: float,
        bytes_per_s_min: float,
    ) -> None:
        """Raises `SyncRefused` where a certificate or key cannot be used."""
        where = parse_url(url)
        if where.scheme not in ("https", "http") or not where.host or where.auth or where.query or where.fragment:
            raise SyncRefused(Why.UNREACHABLE, "[sync] url", "it must be https://name[:port][/folder] and no more")
        self._where, self._prefix, self._read_s_max = where.netloc, (where.path or "").rstrip("/"), read_s_max
        answers = _answers(read_s_max, bytes_per_s_min * read_s_max)
        timeout = Timeout(connect=connect_s_max, read=read_s_max)
        self._pool: urllib3.HTTPConnectionPool
        if where.scheme == "https":
            context = _context(*tls)
            self._pool = urllib3.HTTPSConnectionPool(
                where.host, where.port, timeout=timeout, retries=False, maxsize=2, ssl_context=context
            )
            self._pool.ConnectionCls = type("_Https", (HTTPSConnection,), {"response_class": answers})
        else:
            self._pool = urllib3.HTTPConnectionPool(where.host, where.port, timeout=timeout, retries=False, maxsize=2)
            self._pool.ConnectionCls = type("_Http", (HTTPConnection,), {"response_class": answers})

    def get(self, path: str, start: int) -> Body:
        """A file from byte `start` on. Raises `Cut` and `SyncRefused`."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "gated-sync"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            response = self._pool.urlopen(
                "GET", f"{self._prefix}/{path}", headers=headers, redirect=False, preload_content=False
            )
        except (exceptions.HTTPError, _Slow) as bad:
            raise self.named(path, bad) from None
        try:
            return Body(self, path, response, *_place(path, response, start))
        except SyncRefused:
            response.close()
            raise

    def named(self, path: str, bad: Exception) -> Exception:
        """What went wrong on the line, in a lane's words."""
        if isinstance(bad, _Slow) and not bad.silent:
            return SyncRefused(Why.SLOW, path, f"{self._where} sends a few bytes at a time; {_ASK}")
        if isinstance(bad, exceptions.NameResolutionError):
            advice = f"there is no address for {self._where}: look at the name in [sync] url and at DNS"
        elif isinstance(bad, exceptions.SSLError):
            advice = f"TLS with {self._where} fails ({_reason(bad)}): look at ca, certificate and key in [sync]"
        elif isinstance(bad, exceptions.ProtocolError):
            return Cut(path)
        elif isinstance(bad, _Slow | exceptions.TimeoutError) and not isinstance(bad, exceptions.NewConnectionError):
            advice = f"nothing comes from {self._where}; {_ASK}"
        else:
            advice = f"nobody answers at {self._where}; {_ASK}"
        return SyncRefused(Why.UNREACHABLE, path, advice)

    def close(self) -> None:
        """Idempotent."""
        self._pool.close()


def _context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    file = ca
    try:
        context = ssl.create_default_context(cafile=ca and str(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            file = certificate
            context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as bad:  # SSLError is an OSError
        why = getattr(bad, "strerror", None) or getattr(bad, "reason", None) or "no PEM file"
        what = file.name if file else "ca"
        raise SyncRefused(Why.UNREACHABLE, what, f"cannot be used ({str(why).lower()}): look at [sync]") from None
    return context


def _reason(bad: exceptions.SSLError) -> str:
    inner = bad.args[0] if bad.args else bad
    return str(getattr(inner, "verify_message", "") or getattr(inner, "reason", "") or inner).lower().replace("_", " ")


def _place(path: str, response: urllib3.BaseHTTPResponse, asked: int) -> tuple[int, int | None]:
    """(where the body begins, bytes of the whole file), of an answer that a server of files gives."""
    status = response.status
    if status in _GONE:
        raise SyncRefused(Why.MISSING, path, f"the server answers {status}: HQ has not published it, or not here")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and asked:
        raise SyncRefused(Why.TRUNCATED, path, f"it ends before byte {asked} on the server, and HQ signed more")
    if 300 <= status < 400:
        raise SyncRefused(Why.UNREACHABLE, path, "the server points elsewhere: [sync] url must name the right one")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SyncRefused(Why.MALFORMED, path, "it is compressed on the way: HQ's server must send files as they are")
    length = response.headers.get("Content-Length", "")
    if status == HTTPStatus.OK:
        return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None
    if status == HTTPStatus.PARTIAL_CONTENT and asked:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != asked:
            raise SyncRefused(Why.MALFORMED, path, "the server answers with another range than was asked for")
        return asked, None if found[3] == "*" else int(found[3])
    raise SyncRefused(Why.UNREACHABLE, path, f"the server answers {status}: look at it and at [sync] url")
