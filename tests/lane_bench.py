"""Everything at the far ends of one lane's wires: gate, readers, camera, on an event loop in a thread of its own."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from drivers.links import Pin
from tests.data import shared_data
from tests.hw_sim.gatesim import PinServer
from tests.hw_sim.happenings import Topology
from tests.hw_sim.physics import Gate
from tests.hw_sim.picture import Canvas, Cut, Cutter
from tests.hw_sim.pins import PinBoard
from tests.hw_sim.pty import Pty
from tests.hw_sim.readers import ElyctisReader, LinesReader, Reader, RteReader
from tests.hw_sim.site import INPUTS, LAMPS, REQUESTS
from tests.hw_sim.video import MjpegServer
from tests.networks import networks

T = TypeVar("T")
DO_S_MAX = 30.0
READERS: dict[str, Callable[[Pty, random.Random], Reader]] = {
    "elyctis": ElyctisReader,
    "rte": RteReader,
    "lines": LinesReader,
}
SOMEBODY = "Adam_Sandler"


def face() -> tuple[bytes, Cut]:
    """A real face: the template of one photograph, and the head in another one. Skips where there is none."""
    from gated.biometrics.face import OnnxFaceEngine
    from gated.hq.enrolment import template

    first, second, *_ = sorted((shared_data() / "faces" / "images" / SOMEBODY).glob("*.jpg"))
    return template(first, OnnxFaceEngine(networks())), Cutter(networks()).cut(second)


class Bench:
    """Gate, readers and camera of one lane. Everything in it lives on its own loop: use `do` and `now`."""

    def __init__(self, folder: Path, readers: Mapping[str, str], topology: Topology) -> None:
        """`readers`: side ("a", "b") -> driver."""
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="bench", daemon=True)
        self._thread.start()
        self._canvas = Canvas(1)
        self._tasks: list[asyncio.Task[None]] = []
        self.do(self._build(folder, readers, topology))

    async def _build(self, folder: Path, readers: Mapping[str, str], topology: Topology) -> None:
        dice = random.Random(7)
        self.board = PinBoard()
        self.outputs: dict[str, Pin] = {**REQUESTS, **LAMPS}
        self._pins_at = folder / "pins.sock"
        self.pins = PinServer(self._pins_at, self.board, INPUTS, self.outputs)
        self.gate = Gate(self.board, topology, dice, open_s=0.3, close_s=0.4)
        self.cables = {side: Pty(link=folder / f"passport-{side}") for side in readers}
        self.readers = {side: READERS[name](self.cables[side], dice) for side, name in readers.items()}
        self.camera = MjpegServer()
        self.camera.show(self._canvas.compose([]))
        await self.pins.start()
        await self.camera.start()
        self.listen()

    # -- from the test's thread

    def do(self, work: Coroutine[Any, Any, T], within_s: float = DO_S_MAX) -> T:
        """Run `work` on the bench's loop and wait for it."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(within_s)
        except TimeoutError:
            future.cancel()
            raise

    def now(self, act: Callable[..., T], *given: Any) -> T:
        """Call `act` on the bench's loop."""

        async def work() -> T:
            return act(*given)

        return self.do(work())

    def look(self, head: Cut | None) -> None:
        """From now on the camera sees this head where one stands to be recognised, or nobody."""
        picture = self._canvas.compose([] if head is None else [(head, 1.35, 0.0)])
        self.now(self.camera.show, picture)

    def say(self, data: bytes, side: str = "a") -> None:
        """Put bytes on a reader's line."""
        self.do(self.readers[side].babble(data))

    def insert(self, lines: tuple[str, ...], side: str = "a") -> None:
        """Lay a document down, and wait until the reader has said so."""
        self.do(self.readers[side].insert(lines))

    def remove(self, side: str = "a") -> None:
        """Take it away."""
        self.do(self.readers[side].remove())

    def replug(self, side: str = "a", after_s: float = 0.0) -> None:
        """Pull the reader's cable (it may be in the middle of a word) and put it back."""
        self.now(self.cables[side].unplug)
        time.sleep(after_s)
        self.now(self.cables[side].plug)
        self.now(self.listen)

    def listen(self) -> None:
        """On the loop: let every reader that is not listening listen."""
        for task in self._tasks:
            task.cancel()
        self._tasks = [asyncio.ensure_future(reader.run()) for reader in self.readers.values()]

    def unplug_pins(self) -> None:
        """The board's cable is pulled."""
        self.do(self.pins.stop())

    def plug_pins(self) -> None:
        """And put back."""
        self.pins = PinServer(self._pins_at, self.board, INPUTS, self.outputs)
        self.do(self.pins.start())

    def close(self) -> None:
        """End everything on the loop, and the loop."""

        async def end() -> None:
            await self.camera.stop()
            await self.pins.stop()
            for cable in self.cables.values():
                cable.unplug()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.do(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)
        self.loop.close()
