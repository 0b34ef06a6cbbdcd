"""The daemon's end of the control socket: listens, frames, checks rights. What a request does is the handler's."""

import asyncio
import contextlib
import errno
import grp
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from gated.control import REQUEST_BYTES_MAX, REQUESTS, Answer, Code, RecordDevices, Refused, Request, decode
from gated.control_peer import Peer

log = structlog.get_logger()

Handler = Callable[[Request, Peer], Awaitable[Answer | AsyncIterator[Answer]]]
"""Answers a request that its peer may ask; an iterator is sent line by line. Raises `Refused` to say no."""

REQUEST_S_MAX = 5.0
WRITE_S_MAX = 5.0


class SocketTaken(Exception):
    """The socket's path cannot be used. The text says why."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is served to whom. `requests`: those that are known here, by `op`."""

    handler: Handler
    technician_group: str
    uplink_user: str
    sync_user: str
    requests: Mapping[str, type[Request]]
    answer_s_max: float


@contextlib.asynccontextmanager
async def serve(
    path: Path,
    handler: Handler,
    *,
    technician_group: str,
    uplink_user: str,
    sync_user: str = "",
    requests: Mapping[str, type[Request]] = REQUESTS,
    request_bytes_max: int = REQUEST_BYTES_MAX,
    connections_max: int = 16,
    answer_s_max: float = 10.0,
) -> AsyncIterator[None]:
    """Answer requests at `path` while the block lasts. Raises `SocketTaken`.

    Only the daemon's user and `technician_group` may connect (mode 0660); where that group does not exist or
    cannot be set, only the daemon's user and root may, and the log says so."""
    try:
        listener = listen(path, technician_group)
    except OSError as bad:
        why = (bad.strerror or str(bad)).lower()
        raise SocketTaken(f"{path} cannot be made: {why}; see [control] socket") from bad
    made = os.stat(path)
    service = Service(handler, technician_group, uplink_user, sync_user, requests, answer_s_max)
    open_now: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            async with _Connection(reader, writer) as connection:
                if len(open_now) > connections_max:
                    await connection.refuse(Refused(Code.BUSY, "too many connections"))
                    return
                await connection.answer(service)
        except asyncio.CancelledError:
            pass  # the daemon stops; asyncio's streams (3.11) would log this as an error of ours
        finally:
            open_now.discard(task)

    server = await asyncio.start_unix_server(accept, sock=listener, limit=request_bytes_max)
    try:
        yield
    finally:
        server.close()
        for task in tuple(open_now):
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(path), made):
                os.unlink(path)


def listen(path: Path, group: str) -> socket.socket:
    """A listening socket at `path`; replaces one that nobody listens to any more. Raises `SocketTaken`, `OSError`."""
    _make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        # On Linux the file that bind() makes takes its mode from the socket: others may connect at no moment.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        try:
            os.chown(path, -1, grp.getgrnam(group).gr_gid, follow_symlinks=False)
            os.chmod(path, 0o660)
        except (KeyError, PermissionError) as bad:
            why = "no such group" if isinstance(bad, KeyError) else "this user may not give files to that group"
            log.warning("control socket is for its owner alone", group=group, why=why, path=str(path))
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener


def _make_way(path: Path) -> None:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(there.st_mode):
        raise SocketTaken(f"{path} is a symbolic link, which could lead anywhere: remove it")
    if not stat.S_ISSOCK(there.st_mode):
        raise SocketTaken(f"{path} exists and is no socket: move it away or name another in [control] socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        refused = probe.connect_ex(str(path))
    if refused == errno.ECONNREFUSED:
        os.unlink(path)
    elif refused != errno.ENOENT:
        raise SocketTaken(f"another lane daemon listens at {path}: stop it first (systemctl stop gated-lane)")


class _Connection:
    """One request and its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.peer = Peer.of(writer.get_extra_info("socket"))

    async def __aenter__(self) -> "_Connection":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                await self.writer.wait_closed()
        except (OSError, TimeoutError):
            self.writer.transport.abort()

    async def answer(self, service: Service) -> None:
        op = "?"
        try:
            request = await self._request(service)
            if request is None:
                return
            op = request.op
            if request.needs not in self.peer.rights(service.technician_group, service.uplink_user, service.sync_user):
                raise Refused(Code.DENIED, f"{op} is not for user {self.peer.name} (needs {request.needs.value})")
            lasts_s = request.seconds if isinstance(request, RecordDevices) else 0.0
            async with asyncio.timeout(service.answer_s_max + lasts_s):
                answer = await service.handler(request, self.peer)
            if isinstance(answer, AsyncIterator):
                await self._stream(answer)
            else:
                await self._say(answer)
        except Refused as no:
            log.info("control request refused", op=op, user=self.peer.name, code=no.code.value, why=no.why)
            await self.refuse(no)
        except TimeoutError:
            log.warning("control request timed out", op=op, user=self.peer.name)
            await self.refuse(Refused(Code.BUSY, f"no answer within {service.answer_s_max:g} s"))
        except ConnectionError as gone:
            log.debug("control client went away", op=op, user=self.peer.name, why=type(gone).__name__)
        except Exception:
            log.exception("control request failed", op=op, user=self.peer.name)
            await self.refuse(Refused(Code.FAILED, "the daemon failed to answer; its log says why"))

    async def _request(self, service: Service) -> Request | None:
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                line = await self.reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise Refused(Code.BAD_REQUEST, "longer than any request") from None
        except asyncio.IncompleteReadError as end:
            if not end.partial:
                return None
            raise Refused(Code.BAD_REQUEST, "ends before its line does") from None
        except TimeoutError:
            raise Refused(Code.BUSY, f"no request within {REQUEST_S_MAX:g} s") from None
        return decode(line, service.requests)

    async def _stream(self, answers: AsyncIterator[Answer]) -> None:
        """Send until the iterator ends or the client goes, and end the iterator then."""
        gone = asyncio.ensure_future(self.reader.read(1))
        try:
            while True:
                following = asyncio.ensure_future(anext(answers, None))
                try:
                    await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
                    if gone.done() or (said := await following) is None:
                        return
                finally:
                    following.cancel()
                    await asyncio.wait({following})
                await self._say(said)
        finally:
            gone.cancel()
            if close := getattr(answers, "aclose", None):
                await close()

    async def _say(self, answer: Answer) -> None:
        await self._send({"ok": True, "answer": answer})

    async def refuse(self, no: Refused) -> None:
        """Tell the client, if it is still there to be told."""
        try:
            await self._send({"ok": False, "error": no.code.value, "why": no.why})
        except OSError as gone:
            log.debug("control client went away", user=self.peer.name, why=type(gone).__name__)

    async def _send(self, message: Answer) -> None:
        self.writer.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                await self.writer.drain()
        except TimeoutError:
            self.writer.transport.abort()
            raise ConnectionAbortedError("does not read") from None
