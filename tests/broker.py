"""A real mosquitto on a free loopback port, to be killed and restarted: as the demo has it, and as production does with
certificates of `gated-hq pki`. Skips the test where it is not installed."""

import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from gated.hq.certificates import Kind, Wanted
from gated.hq.pki import Pki as Authority
from gated.mqtt import Broker, Connected, Happening, Publication, Received, Refused, Session

CONFIG = Path(__file__).resolve().parents[1] / "config" / "mosquitto"
_READ_ACL = "announce' does not contain"
"""What mosquitto warns of whenever it has read config/mosquitto/acl."""


def mosquitto_path() -> str:
    """The broker's program; skips the test where there is none."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("mosquitto is not installed: apt install mosquitto")
    return found


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningBroker:
    """mosquitto with config/mosquitto/demo.conf, its store in `folder`. `start`, `kill` (-9), `restart`,
    `stop`."""

    def __init__(self, folder: Path, *, persistence: bool = True, extra: Sequence[str] = ()) -> None:
        self.program = mosquitto_path()
        self.host, self.port = "127.0.0.1", free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._conf = folder / "mosquitto.conf"
        text = (
            (CONFIG / "demo.conf")
            .read_text(encoding="utf-8")
            .format(port=self.port, dir=folder, persistence=str(persistence).lower())
        )
        # started by root it would become a user who may not write into this folder, and keep nothing without a word
        stays = ("user root",) if os.geteuid() == 0 else ()
        self._conf.write_text("\n".join((text, *stays, *extra)), encoding="utf-8")
        self.log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self, within_s: float = 5.0) -> "RunningBroker":
        """Start and wait until it listens."""
        with self.log.open("ab") as log:
            command = [self.program, "-c", str(self._conf)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"mosquitto ended at once: {self.log.read_text(errors='replace')[-500:]}")
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex((self.host, self.port)) == 0:
                    return self
            time.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    def kill(self) -> None:
        """`kill -9`: what it did not write is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """A clean end."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill it and start it on the same port."""
        self.kill()
        self.start()

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(5)
            self._process = None

    def __enter__(self) -> "RunningBroker":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


class Pki:
    """`gated-hq pki` for a test: certificates are issued once a name, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.make(folder, datetime.now(UTC))
        self._out = folder.parent / f"{folder.name}-out"
        self._have: dict[str, tuple[Path, Path]] = {}

    @property
    def hq_ca(self) -> Path:
        """Vouches for brokers and HQ's programs."""
        return self.folder / "hq-ca.crt"

    @property
    def lanes_ca(self) -> Path:
        """Vouches for lanes."""
        return self.folder / "lanes-ca.crt"

    def issue(self, name: str, *, now: datetime | None = None, days: int = 2) -> tuple[Path, Path]:
        """(certificate, key) files of a lane `SITE/LANE`, of one of HQ's programs, or of the broker (`broker`)."""
        if name not in self._have:
            server = name == "broker"
            kind = Kind.LANE if "/" in name else Kind.SERVER if server else Kind.CLIENT
            out = self._out / name
            self.authority.issue(
                Wanted(name, kind, days, ("127.0.0.1",) if server else ()), out, now or datetime.now(UTC)
            )
            stem = out / ("lane" if kind is Kind.LANE else name)
            self._have[name] = stem.with_suffix(".crt"), stem.with_suffix(".key")
        return self._have[name]

    def revoke(self, name: str) -> None:
        """Take back all that the name has; a broker learns of it by `reload` or `restart`."""
        self.authority.revoke(name, datetime.now(UTC))


class ProductionBroker(RunningBroker):
    """mosquitto with config/mosquitto/gated.conf as it stands, paths, addresses and the log apart. `port` is the lanes'
    door, `hq_port` that of HQ's programs."""

    def __init__(self, folder: Path, pki: Pki, *, extra: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.pki, self.hq_port, self.acl = pki, free_port(), folder / "acl"
        certificate, key = pki.issue("broker")
        self.acl.write_text((CONFIG / "acl").read_text(encoding="utf-8"), encoding="utf-8")
        self.acl.chmod(0o600)
        text = (CONFIG / "gated.conf").read_text(encoding="utf-8")
        changes = {
            "listener 8883": f"listener {self.port} 127.0.0.1",
            "listener 8884": f"listener {self.hq_port} 127.0.0.1",
            "/etc/mosquitto/certs/broker.crt": str(certificate),
            "/etc/mosquitto/certs/broker.key": str(key),
            "/etc/mosquitto/certs": str(pki.folder),
            "/etc/mosquitto/gated": str(folder),
            "log_dest syslog": "log_dest stderr",
        }
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        # mosquitto gives up root for a user that may not read the test's folders
        self.pid_file = folder / "mosquitto.pid"
        mine = ("user root", f"pid_file {self.pid_file}")
        self._conf.write_text("\n".join((*mine, text, *extra)), encoding="utf-8")

    def as_(self, name: str) -> Broker:
        """How `name` reaches this broker: a lane `SITE/LANE` at the lanes' door, one of HQ's programs at HQ's."""
        certificate, key = self.pki.issue(name)
        port = self.port if "/" in name else self.hq_port
        return Broker("127.0.0.1", port, ca=self.pki.hq_ca, certificate=certificate, key=key)

    def reload(self) -> None:
        """SIGHUP, and wait until it was seen."""
        assert self._process is not None
        lines = self.log.read_text(errors="replace").count(_READ_ACL)
        self._process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 5
        while self.log.read_text(errors="replace").count(_READ_ACL) == lines:
            assert time.monotonic() < deadline, "mosquitto does not reload"
            time.sleep(0.01)


class Peer:
    """A client that says and hears what a test wants. `begun`: how its connection began (`Connected` or `Gone`)."""

    def __init__(
        self, broker: Broker, *topics: str, client_id: str = "", will: Publication | None = None, qos: int = 1
    ) -> None:
        self.inbox: SimpleQueue[Happening] = SimpleQueue()
        self.session = Session(
            broker,
            client_id or f"test-{id(self):x}",
            self.inbox,
            subscribe=[(topic, qos) for topic in topics],
            will=will,
        )
        self.session.start()
        self.begun = self.next()

    @property
    def connected(self) -> bool:
        """Did the broker let it in?"""
        return isinstance(self.begun, Connected)

    def next(self, within_s: float = 5.0) -> Happening:
        """What happens next; fails the test where nothing does."""
        return self.inbox.get(timeout=within_s)

    def say(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> None:
        """Publish with QoS 1."""
        self.session.publish(Publication(topic, payload, retain=retain))

    def heard(self) -> Received:
        """The next message; fails the test where something else happens."""
        happened = self.next()
        assert isinstance(happened, Received), happened
        return happened

    def refused(self) -> None:
        """What was said is not authorized."""
        happened = self.next()
        assert isinstance(happened, Refused) and "not authorized" in happened.reason, happened

    def drop(self) -> None:
        """The line breaks: no goodbye, so the broker tells the will."""
        line: Any = self.session._client.socket()
        line.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.session.stop()


# -- packets that no library would send ------------------------------------------------------------------------------


def packet(first: int, body: bytes) -> bytes:
    """An MQTT packet: first byte, length, body."""
    size, length = len(body), b""
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | (128 if size else 0)])
        if not size:
            return bytes([first]) + length + body


def text(content: bytes) -> bytes:
    """A string or binary data of MQTT: two bytes of length, content."""
    return struct.pack(">H", len(content)) + content


def publish_packet(topic: str, payload: bytes, qos: int, mid: int) -> bytes:
    """PUBLISH without properties."""
    number = struct.pack(">H", mid) if qos else b""
    return packet(0x30 | qos << 1, text(topic.encode()) + number + b"\0" + payload)


class Raw:
    """A connection whose packets a test makes itself. `line`: the TLS socket."""

    def __init__(self, broker: Broker, *, will: tuple[str, bytes] | None = None) -> None:
        context = broker.context()
        assert context is not None
        self.line = context.wrap_socket(
            socket.create_connection((broker.host, broker.port), 5), server_hostname=broker.host
        )
        flags, rest = b"\x02", b""
        if will is not None:  # retained, QoS 1
            flags, rest = b"\x2e", b"\0" + text(will[0].encode()) + text(will[1])
        self.line.sendall(packet(0x10, text(b"MQTT") + b"\x05" + flags + b"\x00\x3c\x00" + text(b"raw") + rest))
        assert self.line.recv(1000)[0] == 0x20

    def ended(self) -> bool:
        """Did the broker end it (a DISCONNECT, or the line)?"""
        try:
            got = self.line.recv(1000)
        except (ConnectionError, ssl.SSLError):
            return True
        return not got or got[0] == 0xE0

    def close(self) -> None:
        """End it without a goodbye."""
        self.line.close()
