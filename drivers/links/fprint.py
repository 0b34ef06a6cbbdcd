"""libfprint in a process of its own (`fprint_helper.py`), under the system's Python: bytes to and from it.

libfprint follows environment variables (FP_VIRTUAL_IMAGE, FP_DRIVERS_WHITELIST ...) to readers that are programs. On a
gate none may be set: any is refused when the link is made, and the helper gets an environment of its own in any case.
"""

import asyncio
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import structlog

from drivers.links import LinkLost
from drivers.links.fprint_helper import END_S_MAX, NO_LIBFPRINT, NOT_UNDERSTOOD

_log = structlog.get_logger()

HELPER = Path(__file__).with_name("fprint_helper.py")
NEEDED = "install python3-gi and gir1.2-fprint-2.0 for the system's Python"

_CHUNK = 65536
_WRITE_S_MAX = 2.0
_END_S_MAX = END_S_MAX + 1.0
"""The helper kills itself before we do."""
_SAID_MAX = 20
"""So many lines of the helper's complaints are told of in one life of it."""
_DOMAIN = re.compile(rb"\b([A-Za-z][A-Za-z0-9_-]{0,40})-(WARNING|CRITICAL|ERROR|Message) \*\*")


def refuse_environment() -> None:
    """Raises `ValueError` where the environment speaks of libfprint's readers."""
    for variable in sorted(os.environ):
        if variable.startswith("FP_"):
            raise ValueError(
                f"{variable} is set and would lead libfprint to another reader: remove it from the environment"
            )


class FprintProcess:
    """A `ByteLink` to the helper: `open` starts it, `close` ends it, its end is `LinkLost`.

    `python` is the interpreter for which gi is installed. Code, never configuration, may hand in `extra_env` for the
    helper, looked at anew each time it is started: that is how the simulator comes in (`daemon.app.build`)."""

    def __init__(
        self, python: str = "/usr/bin/python3", *, extra_env: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        if not Path(python).is_absolute():
            raise ValueError(f"python is the whole path of the system's Python, not {python!r}")
        refuse_environment()
        self._python = python
        self._extra_env = extra_env
        self._process: Process | None = None
        self._complaints: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The helper's process, while there is one."""
        return self._process.pid if self._process is not None else None

    async def open(self) -> None:
        """Start the helper. Raises `LinkLost`."""
        await self.close()
        env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **self._extra_env}
        command = (self._python, "-I", str(HELPER))
        try:
            # A session of its own: the terminal's Ctrl-C is for the lane, which then closes this link in its own time.
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env, cwd="/", start_new_session=True
            )
        except OSError as error:
            raise LinkLost("no_libfprint", f"{self._python}: {error.strerror}; {NEEDED}") from error
        self._complaints = asyncio.ensure_future(self._listen(self._process))

    async def read(self) -> bytes:
        """At least one byte. Safe to cancel: bytes stay in the stream until they are returned. Raises `LinkLost`."""
        process = self._running()
        assert process.stdout is not None
        data = await process.stdout.read(_CHUNK)
        if not data:
            raise await self._lost(process)
        return data

    async def write(self, data: bytes) -> None:
        """All of `data`. Raises `LinkLost`, also when the helper takes none for two seconds."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(data)
            async with asyncio.timeout(_WRITE_S_MAX):
                await process.stdin.drain()
        except TimeoutError as error:
            raise LinkLost("write_timeout", f"the libfprint helper took nothing for {_WRITE_S_MAX:g} s") from error
        except (ConnectionError, RuntimeError) as error:  # RuntimeError: the transport is closing
            raise await self._lost(process) from error

    async def close(self) -> None:
        """End the helper: ask, then kill; no zombie stays. Idempotent; never raises."""
        process, self._process = self._process, None
        complaints, self._complaints = self._complaints, None
        if process is None:
            return
        try:
            if process.returncode is None:
                # One that was stopped would not hear of its end. Not the other way round: before each signal Popen
                # looks whether the process has ended, and what it finds then asyncio never learns.
                self._signal(process, signal.SIGCONT)
                self._signal(process, signal.SIGTERM)
            await self._ended(process, _END_S_MAX)
        finally:
            if process.returncode is None:  # it hangs, or we were cancelled while it took its time
                self._signal(process, signal.SIGKILL)
                await process.wait()
            if complaints is not None:
                complaints.cancel()
            if process.stdin is not None:
                process.stdin.close()

    # -- inside

    def _running(self) -> Process:
        if self._process is None:
            raise LinkLost("not_open", "the libfprint helper")
        return self._process

    @staticmethod
    def _signal(process: Process, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended meanwhile, which is what was wanted
            process.send_signal(number)

    @staticmethod
    async def _ended(process: Process, within_s: float) -> int | None:
        """Its exit status, or None while it still runs after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                return await process.wait()
        except TimeoutError:
            return None

    async def _lost(self, process: Process) -> LinkLost:
        """What the helper's end means."""
        status = await self._ended(process, _END_S_MAX)
        if status == NO_LIBFPRINT:
            return LinkLost("no_libfprint", f"{self._python}: {NEEDED}")
        if status == NOT_UNDERSTOOD:
            return LinkLost("gone", "the libfprint helper did not understand us")
        if status is None:
            return LinkLost("gone", "the libfprint helper says nothing any more")
        return LinkLost("gone", f"the libfprint helper ended ({f'signal {-status}' if status < 0 else status})")

    @staticmethod
    async def _listen(process: Process) -> None:
        """Drain what the helper and its libraries complain of. The words may hold anything: only their kind is told."""
        assert process.stderr is not None
        said = 0
        while data := await process.stderr.read(_CHUNK):
            kinds = {b"-".join(found).decode() for found in _DOMAIN.findall(data)} or {"text"}
            said += 1
            if said <= _SAID_MAX:
                _log.warning("libfprint complained", kinds=sorted(kinds), bytes=len(data))
