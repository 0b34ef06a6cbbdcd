"""The processes of a demonstration: started in order, watched, and never left behind."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "config" / "mosquitto" / "demo.conf"
TAP = r"%t\t%q\t%r\t%E\t%C\t%D\t%P\t%x"
"""What is written of each message: topic, QoS, retained, expiry in seconds, content type, correlation data, user
properties, payload in hexadecimal (as JSON, mosquitto_sub rewrites 1.0 as 1 and cuts what is not text)."""


class CrewError(Exception):
    """A process cannot be started, or ended when it should not. The text says which, and what to do."""


def mosquitto() -> str:
    """The broker's program. Raises `CrewError`."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise CrewError("mosquitto is not installed: apt install mosquitto (or `make broker`)")
    return found


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_TIED = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
"""Of util-linux: the kernel ends the process when the demonstration dies."""


class Crew:
    """Context manager: every process that was started in it has ended when it is left. Logs lie in `logs`."""

    def __init__(self, logs: Path, end_s: float = 5.0) -> None:
        """`end_s`: how long a process may take to end when it is asked to."""
        self._logs, self._end_s = logs, end_s
        logs.mkdir(parents=True, exist_ok=True)
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self._commands: dict[str, tuple[Sequence[str], bool]] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        """The last one first: the lane finishes before its broker goes."""
        for name in reversed(list(self.processes)):
            self.end(name)

    def python(self, name: str, *arguments: str, piped: bool = False) -> subprocess.Popen[str]:
        """Start one of our own modules."""
        return self.start(name, [sys.executable, "-m", *arguments], piped=piped)

    def start(self, name: str, command: Sequence[str], *, piped: bool = False) -> subprocess.Popen[str]:
        """Start a process; `piped`: its standard input and output are ours. It dies with us, however that was."""
        self._commands[name] = (command, piped)
        environment: Mapping[str, str] = {**os.environ, "PYTHONUNBUFFERED": "1", "OPENCV_LOG_LEVEL": "OFF"}
        with (self._logs / f"{name}.log").open("a", encoding="utf-8") as log:
            self.processes[name] = subprocess.Popen(
                [*_TIED, *command],
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                cwd=ROOT,
                env=environment,
                text=True,
            )
        return self.processes[name]

    def done(self, name: str, command: Sequence[str], within_s: float = 120.0) -> str:
        """Run a command to its end; what it says. Raises `CrewError`, also where it takes longer."""
        environment = {**os.environ, "OPENCV_LOG_LEVEL": "OFF"}
        try:
            ran = subprocess.run(
                [*_TIED, *command],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=within_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CrewError(f"{name} did not end within {within_s:g} s") from None
        with (self._logs / f"{name}.log").open("a", encoding="utf-8") as log:
            log.write(ran.stderr)
        if ran.returncode:
            raise CrewError(f"{name} ended with code {ran.returncode}: {(ran.stderr or ran.stdout).strip()[-1500:]}")
        return ran.stdout

    def broker(self, folder: Path, port: int) -> None:
        """mosquitto on the loopback, up and listening. Raises `CrewError`."""
        program = mosquitto()
        folder.mkdir(parents=True, exist_ok=True)
        conf = folder / "mosquitto.conf"
        text = TEMPLATE.read_text(encoding="utf-8").format(port=port, dir=folder, persistence="true")
        text += "\nuser root\n" if os.geteuid() == 0 else ""
        conf.write_text(text, encoding="utf-8")
        self.start("broker", [program, "-c", str(conf)])
        self.wait("broker", lambda: listens(port), 5.0)

    def tap(self, port: int) -> None:
        """mosquitto_sub, a client that is not ours, writes every message into tap.log. Raises `CrewError`."""
        program = shutil.which("mosquitto_sub")
        if program is None:
            raise CrewError("mosquitto_sub is not installed: apt install mosquitto-clients (or `make broker`)")
        options = ["-V", "mqttv5", "-p", str(port), "-q", "1", "-t", "#", "--retain-as-published", "-F", TAP]
        self.start("tap", [program, *options])

    def wait(self, name: str, ready: Callable[[], bool], within_s: float) -> None:
        """Until `ready()`. Raises `CrewError` where the process ends before, or it takes too long."""
        until = time.monotonic() + within_s
        while not ready():
            self.check()
            if time.monotonic() > until:
                raise CrewError(f"{name} is not ready after {within_s:g} s; its log:\n{self.tail(name)}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raises `CrewError` for a process that ended by itself with an error."""
        for name, process in self.processes.items():
            if process.poll():
                raise CrewError(f"{name} ended with code {process.returncode}; its log:\n{self.tail(name)}")

    def kill(self, name: str) -> None:
        """`kill -9`."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def again(self, name: str) -> None:
        """Start a process that was killed as it was started before."""
        command, piped = self._commands[name]
        self.start(name, command, piped=piped)

    def tail(self, name: str) -> str:
        """The end of a log."""
        return (self._logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-1500:].strip()

    def end(self, name: str) -> None:
        """Ask it to end, then make it."""
        process = self.processes.pop(name)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(self._end_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def listens(port: int) -> bool:
    """Whether somebody takes connections at a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
