"""A real PostgreSQL in a folder, on a free loopback port, to be killed and restarted. Skips the test where it is not
installed."""

import atexit
import functools
import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from tests.broker import free_port

USER = "postgres"
PLACES = "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin"


def programs() -> Path:
    """The folder of PostgreSQL's programs, the newest; skips the test where there is none."""
    found = [folder for place in PLACES for folder in Path("/").glob(place[1:]) if (folder / "initdb").exists()]
    on_path = shutil.which("initdb")
    if found:
        return max(found, key=lambda folder: [int(number) for number in re.findall(r"\d+", str(folder))])
    if on_path is None:
        pytest.skip("PostgreSQL is not installed: make postgres, or apt install postgresql")
    return Path(on_path).parent


class RunningPostgres:
    """A server with its data in `folder`. Without `fsync` it is quicker, and still loses nothing by `kill` (-9), only
    by a fall of the whole machine. Trusts everybody on 127.0.0.1: for tests alone."""

    def __init__(self, folder: Path, *, fsync: bool = False, settings: dict[str, str] | None = None) -> None:
        self.programs = programs()
        self.host, self.port, self.folder = "127.0.0.1", free_port(), folder
        self.url = f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{USER}"
        self.log = folder / "postgres.log"
        self._data = folder / "data"
        self._settings = {"fsync": "on" if fsync else "off", "max_connections": "100", **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, within_s: float = 30.0) -> "RunningPostgres":
        """Start, and wait until it answers; make its data where there are none."""
        if not self._data.exists():
            self._make()
        options = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            **self._settings,
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            command = [*self._as_user(), str(self.programs / "postgres"), "-D", str(self._data), *words]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"PostgreSQL ended at once: {self.log.read_text(errors='replace')[-800:]}")
            if self._is_ready():
                return self
            time.sleep(0.02)
        raise AssertionError("PostgreSQL does not answer")

    def kill(self) -> None:
        """`kill -9` of the server and all that it started."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """A clean end, at once: who is connected is disconnected."""
        self._end(signal.SIGINT)

    def restart(self) -> None:
        """Kill it, and start it on the same port."""
        self.kill()
        self.start()

    def query(self, statement: str) -> str:
        """What psql answers, without headings."""
        where = ["-h", self.host, "-p", str(self.port), "-U", USER]
        done = subprocess.run(
            [str(self.programs / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", *where, "-c", statement],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def _is_ready(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex((self.host, self.port)) != 0:
                return False
        ready = [str(self.programs / "pg_isready"), "-q", "-h", self.host, "-p", str(self.port), "-U", USER]
        return subprocess.run(ready, check=False).returncode == 0

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._data.mkdir(mode=0o700)
        if os.geteuid() == 0:  # PostgreSQL refuses to be root
            owner = pwd.getpwnam(USER)
            os.chown(self._data, owner.pw_uid, owner.pw_gid)
            for parent in (self.folder, *self.folder.parents):
                if not parent.stat().st_mode & 0o001:  # it must reach its own folder
                    parent.chmod(parent.stat().st_mode | 0o001)
        made = ["-D", str(self._data), "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        command = [*self._as_user(), str(self.programs / "initdb"), *made]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=self.folder)
        assert done.returncode == 0, done.stderr[-800:]

    def _as_user(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        children = _children(self._process.pid)
        self._process.send_signal(number)
        self._process.wait(30)
        if number is signal.SIGKILL:
            for child in children:
                _kill(child)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and any(map(_runs, children)):
                time.sleep(0.01)
        self._process = None

    def __enter__(self) -> "RunningPostgres":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@functools.cache
def shared() -> RunningPostgres:
    """One server for all tests of this process. It ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="gated-postgres-"))
    server = RunningPostgres(folder).start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return server


_numbers = itertools.count(1)


def new_database() -> str:
    """The URL of an empty database of the shared server."""
    server, name = shared(), f"test_{next(_numbers)}"
    server.query(f"CREATE DATABASE {name}")
    return f"{server.url.rpartition('/')[0]}/{name}"


@functools.cache
def _common() -> str:
    return new_database()


def emptied() -> str:
    """The URL of one database that such tests share, its tables emptied: quicker than a new one."""
    with psycopg.connect(_common().replace("+psycopg", ""), autocommit=True) as sql:
        names = [row[0] for row in sql.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND"
            " relnamespace = 'public'::regnamespace AND NOT relispartition")]  # fmt: skip
        if names:
            sql.execute(f"TRUNCATE {', '.join(names)}".encode())
    return _common()


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database for HQ's records, as each test that asks for it must work with both."""
    return str(tmp_path / "hq.db") if request.param == "sqlite" else emptied()
