"""The fault proxy itself: what each of its faults does to a real TCP connection."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.hw_sim.proxy import FaultProxy
from tests.uplink_rig import eventually


class Echo(socketserver.ThreadingTCPServer):
    """Sends back what comes; counts the connections that ended."""

    daemon_threads = True

    def __init__(self) -> None:
        self.ended = 0
        self.got = b""
        echo = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                try:
                    while data := self.request.recv(65536):
                        echo.got += data
                        self.request.sendall(data)
                except ConnectionError:
                    return
                finally:
                    echo.ended += 1

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        yield server
        server.shutdown()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.server_address[1]) as running:
        yield running


def call(proxy: FaultProxy) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", proxy.port), 5)
    line.settimeout(5)
    return line


def through(line: socket.socket, data: bytes) -> bytes:
    """`data` there and back."""
    line.sendall(data)
    return exactly(line, len(data))


def exactly(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = line.recv(size - len(found))
        assert part, "ended too early"
        found += part
    return found


def test_bytes_pass_whole_and_in_order(proxy: FaultProxy, echo: Echo) -> None:
    sent = bytes(range(256)) * 4000
    with call(proxy) as line:
        writer = threading.Thread(target=line.sendall, args=(sent,))
        writer.start()
        assert exactly(line, len(sent)) == sent
        writer.join()
    assert proxy.connections == 1
    eventually(lambda: echo.ended == 1, what="an end passes too")


def test_nobody_behind_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with FaultProxy(port) as proxy, call(proxy) as line, pytest.raises(ConnectionError):
        if line.recv(1) == b"":
            raise ConnectionError


def test_delayed_bytes_come_late_and_in_order(proxy: FaultProxy) -> None:
    with call(proxy) as line:
        through(line, b"-")
        proxy.delay(0.15, jitter_s=0.1)
        began = time.monotonic()
        for k in range(20):
            line.sendall(b"%02d" % k)
        assert exactly(line, 40) == b"".join(b"%02d" % k for k in range(20))
        assert time.monotonic() - began >= 2 * 0.15, "once in each direction"


def test_a_throttled_line_takes_its_time(proxy: FaultProxy) -> None:
    with call(proxy) as line:
        proxy.throttle(20_000)
        began = time.monotonic()
        assert through(line, b"x" * 6000) == b"x" * 6000
        assert time.monotonic() - began >= 0.25
        proxy.normal()
        assert through(line, b"y" * 50_000) == b"y" * 50_000


def test_dropped_lines_are_closed_and_new_ones_refused(proxy: FaultProxy, echo: Echo) -> None:
    with call(proxy) as line:
        through(line, b"-")
        proxy.drop()
        with pytest.raises(ConnectionError):
            if line.recv(1) == b"":
                raise ConnectionError
        eventually(lambda: echo.ended == 1)
    with pytest.raises(ConnectionRefusedError):
        call(proxy)
    proxy.normal()
    with call(proxy) as line:
        assert through(line, b"again") == b"again"


def test_a_reset_is_a_reset_and_new_lines_work(proxy: FaultProxy, echo: Echo) -> None:
    with call(proxy) as line:
        through(line, b"-")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            line.recv(1)
        eventually(lambda: echo.ended == 1)
    with call(proxy) as line:
        assert through(line, b"again") == b"again"


@pytest.mark.parametrize("way", ["both", "up", "down"])
def test_a_half_open_line_says_nothing_and_never_comes_back(proxy: FaultProxy, echo: Echo, way: str) -> None:
    with call(proxy) as line:
        through(line, b"-")
        proxy.half_open(up=way != "down", down=way != "up")
        line.sendall(b"lost")
        line.settimeout(0.3)
        with pytest.raises(TimeoutError):
            line.recv(1)
        assert echo.got == (b"-lost" if way == "down" else b"-")
        proxy.normal()
        line.sendall(b"behind the gap")
        with pytest.raises(TimeoutError):
            line.recv(1)
        assert echo.ended == 0
        with call(proxy) as other:
            assert through(other, b"new") == b"new"


def test_a_line_that_was_idle_meanwhile_is_whole(proxy: FaultProxy) -> None:
    with call(proxy) as line:
        through(line, b"-")
        proxy.half_open()
        proxy.normal()
        assert through(line, b"nothing was swallowed") == b"nothing was swallowed"


def test_from_another_thread(proxy: FaultProxy) -> None:
    threads = [threading.Thread(target=proxy.drop), threading.Thread(target=proxy.normal)]
    for thread in threads:
        thread.start()
        thread.join()
    with call(proxy) as line:
        assert through(line, b"x") == b"x"
