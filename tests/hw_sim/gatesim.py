"""A gpiozero pin factory whose pins are wires of a `PinBoard` in another process, over a Unix socket.

`SocketPins` is what the lane's side hands to `GpiozeroLink`: everything above it is what runs on a gate. It is no
entry point and never packaged, so no configuration can name it. `PinServer` is the gate's side; it needs an event
loop of its own (another process or thread), because claiming pins waits for its first answer.

Lines of JSON, levels raw: the server first sends `{"levels": {"17": 1}}` for every wired input and then
`{"pin": 17, "level": 0}` at every change; the factory sends `{"pin": 4, "level": 1}` for outputs, null when it
lets a pin go. A dead client changes nothing: as on a real board, outputs keep their levels.
"""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpiozero.exc import PinFixedPull, PinInvalidFunction, PinInvalidPull, PinSetInput
from gpiozero.pins.pi import PiFactory, PiPin

from drivers.links import Pin
from tests.hw_sim.pins import PinBoard

REVISION = 0xC03111
"""A Raspberry Pi 4B, for its pin names."""

ANSWER_S_MAX = 5.0


class PinServer:
    """Wires pins to a board. `wiring` is the electrician's: board name -> pin number and sense."""

    def __init__(self, path: Path, board: PinBoard, inputs: Mapping[str, Pin], outputs: Mapping[str, Pin]) -> None:
        self._path, self._board = path, board
        self._inputs = dict(inputs)
        self._outputs = {int(pin.pin): (name, pin.active_low) for name, pin in outputs.items()}
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen on the socket."""
        self._board.listen(self._heard)
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def stop(self) -> None:
        """Hang up on everybody: the lane's board is unplugged."""
        self._board.ignore(self._heard)
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in tuple(self._writers):
            writer.close()
        self._path.unlink(missing_ok=True)

    def _heard(self, name: str, active: bool) -> None:
        pin = self._inputs.get(name)
        if pin is not None:
            line = _line({"pin": int(pin.pin), "level": int(active != pin.active_low)})
            for writer in self._writers:
                writer.write(line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        levels = {str(pin.pin): int(self._board.input(n) != pin.active_low) for n, pin in self._inputs.items()}
        writer.write(_line({"levels": levels}))
        self._writers.add(writer)
        try:
            async for line in reader:
                said = json.loads(line)
                if said["pin"] in self._outputs:
                    name, active_low = self._outputs[said["pin"]]
                    # a pin that nobody drives floats; the board's pull resistor makes it inactive
                    self._board.drive(name, said["level"] is not None and bool(said["level"]) != active_low)
        except ConnectionError:
            pass  # killed: outputs keep their levels
        finally:
            self._writers.discard(writer)
            writer.close()


class SocketPin(PiPin):  # type: ignore[misc]
    """One pin. Input levels are pushed by the server, so reading is local."""

    def __init__(self, factory: "SocketPins", info: Any) -> None:
        super().__init__(factory, info)
        self._function = "input"
        self._pull = info.pull or "floating"
        self._level = False
        self._edges = "both"
        self._listening = False

    def close(self) -> None:
        self.when_changed = None
        if self._function == "output":
            self._function = "input"
            self._factory.release(self._number)

    def heard(self, level: bool) -> None:
        """The server told a level (factory's thread)."""
        if self._listening and self._edges == "both":
            self._call_when_changed(self._factory.ticks(), level)

    def output_with_state(self, state: Any) -> None:
        self._function, self._level = "output", bool(state)
        self._factory.say(self._number, bool(state))

    def _get_function(self) -> str:
        return self._function

    def _set_function(self, value: str) -> None:
        if value not in ("input", "output"):
            raise PinInvalidFunction(f"{value} for {self!r}")
        if value == "output":
            self.output_with_state(False)
        self._function = value

    def _get_state(self) -> bool:
        self._factory.check()
        if self._function == "output":
            return self._level
        return bool(self._factory.levels.get(self._number, self._pull == "up"))

    def _set_state(self, value: Any) -> None:
        if self._function != "output":
            raise PinSetInput(f"cannot set state of {self!r}")
        self._level = bool(value)
        self._factory.say(self._number, bool(value))

    def _get_pull(self) -> str:
        return str(self._pull)

    def _set_pull(self, value: str) -> None:
        if value not in ("up", "down", "floating"):
            raise PinInvalidPull(f"{value} for {self!r}")
        if self.info.pull and value != self.info.pull:
            raise PinFixedPull(f"{self!r} has a fixed resistor")
        self._pull = value

    def _get_edges(self) -> str:
        return self._edges

    def _set_edges(self, value: str) -> None:
        self._edges = value

    def _enable_event_detect(self) -> None:
        self._listening = True

    def _disable_event_detect(self) -> None:
        self._listening = False


class SocketPins(PiFactory):  # type: ignore[misc]
    """The factory. Raises `OSError` when the server cannot be reached, or from any pin when it went away."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.pin_class = SocketPin
        self.levels: dict[int, bool] = {}
        self._gone: str | None = None
        self._ready = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._listen, name="gatesim", daemon=True)
        self._thread.start()
        if not self._ready.wait(ANSWER_S_MAX):
            self.close()
            raise OSError(f"{path} does not answer")

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError):  # it hung up first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def check(self) -> None:
        """Raises `OSError` when the server went away."""
        if self._gone is not None:
            raise OSError(self._gone)

    def say(self, pin: int, level: bool | None) -> None:
        """Drive an output, or let it go. Never waits: raises `OSError` instead."""
        self.check()
        line = _line({"pin": pin, "level": None if level is None else int(level)})
        self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def release(self, pin: int) -> None:
        """Let an output go, if there is still somebody to tell."""
        with contextlib.suppress(OSError):
            self.say(pin, None)

    @staticmethod
    def ticks() -> float:
        return time.monotonic()

    @staticmethod
    def ticks_diff(later: float, earlier: float) -> float:
        return later - earlier

    def _get_revision(self) -> int:
        return REVISION

    def _listen(self) -> None:
        try:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    self._told(json.loads(line))
        except OSError as error:
            self._gone = str(error)
        self._gone = self._gone or "the pin server hung up"

    def _told(self, said: dict[str, Any]) -> None:
        if "levels" in said:
            self.levels = {int(pin): bool(level) for pin, level in said["levels"].items()}
            self._ready.set()
            return
        self.levels[said["pin"]] = bool(said["level"])
        for pin in tuple(self.pins.values()):
            if pin._number == said["pin"]:
                pin.heard(bool(said["level"]))


def _line(said: Any) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"
