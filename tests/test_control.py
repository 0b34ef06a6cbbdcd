"""The control socket: who may ask what, and that nothing a client sends or omits disturbs the daemon."""

import asyncio
import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gated import control, control_socket
from gated.control import Answer, Client, Code, Refused, Request, Unavailable
from gated.control_peer import Peer, Right
from gated.control_socket import SocketTaken, serve

NOBODY = 65534


class Lane:
    """Answers like a daemon: remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.streams_ended = 0
        self.changes: asyncio.Queue[Answer | None] = asyncio.Queue()

    async def handle(self, request: Request, peer: Peer) -> Answer | AsyncIterator[Answer]:
        self.asked.append(request)
        match request:
            case control.Status():
                return {"state": "ready", "name": "é", "user": peer.name}
            case control.Watch():
                return self.watch()
            case control.MoveDoor():
                raise Refused(Code.REFUSED, "the lane is not in service mode")
            case control.ResetLane():
                raise RuntimeError("our own bug")
            case control.Shutdown():
                await asyncio.sleep(60)
        return {}

    async def watch(self) -> AsyncIterator[Answer]:
        try:
            yield {"state": "ready"}
            while (change := await self.changes.get()) is not None:
                yield change
        finally:
            self.streams_ended += 1


class Daemon:
    """A control socket served by an event loop in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.lane = path, Lane()
        self.loop = asyncio.new_event_loop()
        self.ready, self.stop = threading.Event(), asyncio.Event()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self.main(),))

    async def main(self) -> None:
        async with serve(
            self.path,
            self.lane.handle,
            technician_group="no-such-group",
            uplink_user="nobody",
            connections_max=3,
            answer_s_max=0.3,
        ):
            self.ready.set()
            await self.stop.wait()

    def __enter__(self) -> "Daemon":
        self.thread.start()
        assert self.ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(5)
        assert not self.thread.is_alive()
        self.loop.close()

    def raw(self, sent: bytes, *, half_close: bool = True) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(str(self.path))
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(sent)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            got = b""
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65536):
                    got += part
            return got


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "c.sock") as running:
        yield running


def client(daemon: Daemon) -> Client:
    return Client(daemon.path)


def test_a_request_and_its_answer(daemon: Daemon) -> None:
    assert client(daemon).ask(control.Status())["name"] == "é"
    assert client(daemon).ask(control.ServiceOn(by="Mei Lin")) == {}
    order = control.RelayOrder.of(b"\x00signed\xff")
    client(daemon).ask(order)
    assert daemon.lane.asked == [control.Status(), control.ServiceOn(by="Mei Lin"), order]
    assert order.signed == b"\x00signed\xff"


def test_refusals_keep_their_reason(daemon: Daemon) -> None:
    with pytest.raises(Refused, match="not in service mode") as caught:
        client(daemon).ask(control.MoveDoor(door="A", open=True))
    assert caught.value.code is Code.REFUSED
    with pytest.raises(Refused, match="its log says why") as caught:
        client(daemon).ask(control.ResetLane(by="x"))
    assert caught.value.code is Code.FAILED
    with pytest.raises(Refused, match=r"no answer within 0\.3 s") as caught:
        client(daemon).ask(control.Shutdown(by="x"))
    assert caught.value.code is Code.BUSY
    assert client(daemon).ask(control.Status())["state"] == "ready"


def test_watch_streams_until_either_end_goes(daemon: Daemon) -> None:
    stream = client(daemon).watch()
    assert next(stream) == {"state": "ready"}
    daemon.loop.call_soon_threadsafe(daemon.lane.changes.put_nowait, {"state": "check"})
    assert next(stream) == {"state": "check"}
    stream.close()  # type: ignore[attr-defined]
    second = client(daemon).watch()
    assert next(second) == {"state": "ready"}
    daemon.loop.call_soon_threadsafe(daemon.lane.changes.put_nowait, None)
    assert list(second) == []
    deadline = 100
    while daemon.lane.streams_ended < 2 and (deadline := deadline - 1):
        threading.Event().wait(0.02)
    assert daemon.lane.streams_ended == 2


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"\n", "not one line of JSON"),
        (b"\xff\xfe\x00\n", "not one line of JSON"),
        (b"[" * 20_000 + b"\n", "not one line of JSON"),
        (b"[]\n", 'not an object with an "op"'),
        (b'{"op": 3}\n', 'not an object with an "op"'),
        (b'{"op": "explode"}\n', "no such op; there are status, watch, service_on"),
        (b'{"op": "status", "x": 1}\n', "status takes nothing"),
        (b'{"op": "door", "door": "A"}\n', "door takes door, open"),
        (b'{"op": "door", "door": "C", "open": true}\n', "door: door must be A or B"),
        (b'{"op": "door", "door": "A", "open": 1}\n', "door: open must be true or false"),
        (b'{"op": "close", "by": ""}\n', "close: by must be a name"),
        (b'{"op": "close", "by": "a\\nb"}\n', "close: by must be a name"),
        (b'{"op": "close", "by": "\\ud800"}\n', "close: by must be a name"),
        (b'{"op": "direction", "by": "a", "direction": "up"}\n', "direction must be entry or exit or both or schedule"),
        (b'{"op": "direction", "by": "", "direction": "exit"}\n', "direction: by must be a name"),
        (b'{"op": "direction", "direction": "exit"}\n', "direction takes by, direction"),
        (b'{"op": "order", "order": "no base64!"}\n', "order: order must be base64"),
        (b'{"op": "record", "device": "../x", "seconds": 1}\n', "record: device must be the name"),
        (b'{"op": "record", "device": "chip", "seconds": NaN}\n', "record: seconds must be more than 0"),
        (b'{"op": "record", "device": "chip", "seconds": true}\n', "record: seconds must be a number"),
        (b'{"op": "test_fingers", "seconds": 601}\n', "test_fingers: seconds must be more than 0"),
        (b'{"op": "status"}', "ends before its line does"),
        (b"x" * (control.REQUEST_BYTES_MAX + 10), "longer than any request"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(daemon: Daemon, line: bytes, why: str) -> None:
    answer = json.loads(daemon.raw(line))
    assert answer["ok"] is False and answer["error"] == "bad_request" and why in answer["why"]
    assert daemon.lane.asked == []
    assert client(daemon).ask(control.Status())["state"] == "ready"


def test_every_request_survives_the_wire() -> None:
    examples = [
        control.Status(), control.Watch(), control.ServiceOn("a"), control.ServiceOff("a"),
        control.MoveDoor("B", False), control.CloseLane("a"), control.SetDirection("a", "entry"),
        control.OpenLane("a"), control.ResetLane("a"), control.RelayOrder.of(b"x"),
        control.UplinkState(True), control.ShowCache(), control.RecordDevices("chip", 2.5),
        control.TestFingers(30), control.Shutdown("a"), control.SyncTold("control", "rolled_back"),
    ]  # fmt: skip
    assert {type(e) for e in examples} == set(control.REQUESTS.values())
    assert [control.decode(control.encode(e)) for e in examples] == examples


def test_silence_and_haste_do_no_harm(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "REQUEST_S_MAX", 0.1)
    assert daemon.raw(b"") == b""
    assert "no request within 0.1 s" in json.loads(daemon.raw(b'{"op"', half_close=False))["why"]
    streams = [client(daemon).watch() for _ in range(3)]
    assert all(next(stream) for stream in streams)
    with pytest.raises(Refused, match="too many connections"):
        client(daemon).ask(control.Status())
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]


def test_stopping_under_a_watcher_is_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Daemon(tmp_path / "c.sock") as running:
        stream = client(running).watch()
        assert next(stream)
    assert list(stream) == []
    assert running.lane.streams_ended == 1
    assert not caplog.records, caplog.text


def test_a_watcher_that_does_not_read_is_dropped(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "WRITE_S_MAX", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lazy:
        lazy.connect(str(daemon.path))
        lazy.sendall(control.encode(control.Watch()))
        big = {"fill": "x" * 100_000}
        for _ in range(40):
            daemon.loop.call_soon_threadsafe(daemon.lane.changes.put_nowait, big)
        deadline = 200
        while not daemon.lane.streams_ended and (deadline := deadline - 1):
            threading.Event().wait(0.02)
    assert daemon.lane.streams_ended == 1


def test_rights() -> None:
    def rights(uid: int, name: str, *groups: str) -> set[str]:
        held = Peer(uid, uid, 1, name, frozenset(groups)).rights("gated-tech", "gated-uplink", "gated-sync")
        return {right.value for right in held}

    everything = {right.value for right in Right}
    assert rights(0, "root") == rights(os.geteuid(), "gated") == everything
    assert rights(1001, "mei", "gated-tech") == {"look", "operate"}
    assert rights(1002, "gated-uplink", "gated-tech") == {"look", "relay"}
    assert rights(1004, "gated-sync", "gated-tech") == {"look", "tell"}
    assert rights(1003, "guest", "users") == set()
    assert {k.op for k in control.REQUESTS.values() if k.needs is Right.LOOK} == {"status", "watch"}
    assert {k.op for k in control.REQUESTS.values() if k.needs is Right.RELAY} == {"order", "uplink"}
    assert {k.op for k in control.REQUESTS.values() if k.needs is Right.TELL} == {"sync"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user(daemon: Daemon) -> None:
    """`nobody` is the uplink's user here; the kernel says so, not the request."""
    for folder in (daemon.path.parent, *daemon.path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)

    def as_nobody(request: Request) -> str:
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                said = json.dumps(client(daemon).ask(request))
            except (Refused, Unavailable) as no:
                said = str(no)
            os.write(write, said.encode())
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as out:
            return out.read()

    assert "no permission to use" in as_nobody(control.Status())
    daemon.path.chmod(0o666)
    assert '"user": "nobody"' in as_nobody(control.Status())
    assert as_nobody(control.UplinkState(up=True)) == "{}"
    assert "denied: service_on is not for user nobody" in as_nobody(control.ServiceOn(by="x"))


def test_the_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with Daemon(path) as running:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600  # the group does not exist: for its owner alone
        with pytest.raises(SocketTaken, match="another lane daemon listens"):
            control_socket.listen(path, "root")
        assert client(running).ask(control.Status())
    assert not path.exists()
    control_socket.listen(path, "root").close()
    assert path.exists()  # what a killed daemon leaves behind
    with Daemon(path) as running:
        assert client(running).ask(control.Status())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_group_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    control_socket.listen(path, "daemon").close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert path.group() == "daemon"


def test_what_lies_in_the_way_is_not_removed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    link = tmp_path / "link.sock"
    link.symlink_to(target)
    with pytest.raises(SocketTaken, match="symbolic link"):
        control_socket.listen(link, "root")
    target.write_text("keep")
    with pytest.raises(SocketTaken, match="is no socket"):
        control_socket.listen(target, "root")
    assert target.read_text() == "keep"


def test_a_daemon_that_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="systemctl start gated-lane"):
        Client(tmp_path / "none.sock").ask(control.Status())
    dead = tmp_path / "dead.sock"
    control_socket.listen(dead, "root").close()
    with pytest.raises(Unavailable, match="systemctl start gated-lane"):
        Client(dead).ask(control.Status())
    silent = control_socket.listen(tmp_path / "silent.sock", "root")
    with silent, pytest.raises(Unavailable, match=r"within 0\.1 s"):
        Client(tmp_path / "silent.sock", timeout_s=0.1).ask(control.Status())


@pytest.mark.parametrize("said", [b"hello\n", b"{}\n", b'{"ok": false, "error": "odd", "why": ""}\n', b""])
def test_something_else_listens(tmp_path: Path, said: bytes) -> None:
    listener = control_socket.listen(tmp_path / "x.sock", "root")
    listener.setblocking(True)

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(said)

    thread = threading.Thread(target=answer)
    thread.start()
    with listener, pytest.raises(Unavailable, match=r"does not speak this protocol|hung up without"):
        Client(tmp_path / "x.sock").ask(control.Status())
    thread.join()
