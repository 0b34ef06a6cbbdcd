"""The simulator's process of a demonstration: gate, reader, camera, people and officer, in real time.

`python -m tests.hw_sim.simulator FOLDER` tells what happens in lines of JSON on standard output and, once HQ has every
record, writes FOLDER/result.json. It meets the lane only at a pty, an HTTP stream and the pin socket, and HQ only in
HQ's database and at the order desk.
"""

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2

from gated.biometrics.finger import OnnxFingerEngine
from gated.control import Client, Status, Unavailable
from gated.hq.archive import Archive
from gated.hq.keys import secret
from gated.hq.orders import Asked, NoAnswer, carry
from gated.mqtt import Broker
from gated.store.acks import AckedHeadsReader
from gated.store.outbox import OutboxReader
from gated.store.sql import StoreError
from gated.wire.facts import AlarmRaised, Fact, OfficerCalled, VerdictReached
from gated.wire.orders import Action
from gated.wire.record import Record
from tests.hw_sim import mix
from tests.hw_sim.cast import Manner, Passenger
from tests.hw_sim.display import Display, Drawn
from tests.hw_sim.gallery import Show, people
from tests.hw_sim.gatesim import PinServer
from tests.hw_sim.glasses import Glassware
from tests.hw_sim.hands import Glass
from tests.hw_sim.happenings import Happening, Kind, What
from tests.hw_sim.officer import NAME, Officer
from tests.hw_sim.people import Script
from tests.hw_sim.picture import HEIGHT, WIDTH, Canvas, Cutter
from tests.hw_sim.pins import PinBoard
from tests.hw_sim.pty import Pty
from tests.hw_sim.readers import ElyctisReader
from tests.hw_sim.records import settled
from tests.hw_sim.report import compare
from tests.hw_sim.scene import Seen
from tests.hw_sim.site import INPUTS, LAMPS, LANE, REQUESTS, SITE, Plan
from tests.hw_sim.trace import Trace
from tests.hw_sim.video import MjpegServer
from tests.hw_sim.visits import Dawdler, passengers, photos
from tests.hw_sim.world import World

FPS = 12.0
NEWS_MAX = 50
"""So many of the newest calls and alarms are looked through; more do not come between two looks."""
LOOK_S = 0.3
"""How often the officer looks at HQ's alarms."""
TURNED_DEG = 30.0
"""Turned further away a photograph cannot show anybody: no face is to be seen."""
READY_S = 30.0
KILLED_S = 20.0
"""For so long the death of a process excuses a passenger who was turned away."""
DRAIN_S = 60.0
"""How long the records of the last passenger may take to HQ."""


class SceneCamera(MjpegServer):
    """A camera that takes a picture of the world at the moment when it is asked for one."""

    def __init__(self, port: int, view: Callable[[], Seen], made: Show, models_dir: Path, seed: int) -> None:
        super().__init__(port, FPS, (WIDTH, HEIGHT))
        self._view, self._show = view, made
        self._canvas, self._cutter = Canvas(seed), Cutter(models_dir)

    def _picture(self, number: int) -> bytes:
        heads = []
        for k, face in reversed(list(enumerate(self._view().faces))):
            if abs(face.yaw_deg) > TURNED_DEG:
                continue
            own = face.person >= 0
            path = (
                self._show.photos[face.take] if own else self._show.strangers[-face.person % len(self._show.strangers)]
            )
            heads.append((self._cutter.cut(path), face.distance_m, 0.0 if k == 0 else 0.45 * (-1) ** k))
        good, data = cv2.imencode(".jpg", self._canvas.compose(heads), [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert good
        return data.tobytes()


class Headquarters:
    """HQ as an officer sees it: its database of records, opened with its key, and the order desk."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self._db = folder / "hq.db"
        self._private = secret(folder / "keys" / "hq.key")
        self._orders = secret(folder / "keys" / "orders.key")
        self._broker = broker
        self._seen: set[tuple[str, int]] = set()

    def facts(self) -> list[tuple[datetime, str, Fact]]:
        """(utc, database generation, fact) of every record of the lane, oldest first."""
        records = self._records(None, 1_000_000)
        return [(record.utc, record.generation, record.fact(self._private)) for record in records]

    def broken(self) -> list[str]:
        """Places where a chain of records does not hold."""
        archive = Archive(self._db, read_only=True)
        try:
            return archive.broken()
        finally:
            archive.close()

    def news(self) -> list[Fact]:
        """Calls and alarms that were not read before."""
        newest = [r for kind in (OfficerCalled, AlarmRaised) for r in self._records(kind.__name__, NEWS_MAX)]
        fresh = [record for record in newest if (record.stream_id, record.seq) not in self._seen]
        self._seen.update((record.stream_id, record.seq) for record in fresh)
        return [record.fact(self._private) for record in fresh]

    def _records(self, kind: str | None, limit: int) -> list[Record]:
        """The newest of a kind, the older first."""
        archive = Archive(self._db, read_only=True)
        try:
            found = archive.find({"lane": LANE, "kind": kind}, limit)
        finally:
            archive.close()
        return sorted((record for _, record in found), key=lambda record: (record.stream_id, record.seq))

    def order(self, action: Action, ticket: int | None) -> str:
        """Sign and send an order; what became of it, in a word."""
        try:
            answer = carry(self._broker, self._orders, Asked(SITE, LANE, action, NAME, ticket), wait_s=10.0)
        except NoAnswer as none:
            return str(none)
        return "taken" if answer.taken else answer.why


class Simulator:
    """Everything outside the lane and HQ. Make it inside the running loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = plan = Plan.read(folder)
        self.board = PinBoard()
        self.pins = PinServer(plan.pins, self.board, INPUTS, {**REQUESTS, **LAMPS})
        self.ptys = {side: Pty(link=folder / name) for side, name in plan.readers.items()}
        self.readers = {
            side: ElyctisReader(pty, random.Random(f"{side} {plan.seed}" if plan.mix else plan.seed))
            for side, pty in self.ptys.items()
        }
        everybody = people(Path(plan.people))
        self.made = made = plan.show(everybody)
        self._visits: dict[str, Passenger] = {}
        """Of the story, by name."""
        if plan.players:
            self._visits = passengers(plan.players, plan.seed, plan.day, plan.passengers)
            made.photos.update(photos(plan.players, everybody, plan.passengers))
        self.reader_of_fingers = None
        if plan.reader != "none":
            self.reader_of_fingers = Glassware(
                plan.reader,
                Path(plan.sockets),
                random.Random(f"fingers {plan.seed}"),
                lambda: OnnxFingerEngine(Path(plan.models), "fmr_1e-3", 1),
            )
        self.display = Display(plan.control)
        self.world = World(
            plan.seed,
            plan.topology,
            self.board,
            self.readers,
            passengers=made.cast,
            now=time.time,
            gap_s=(0.3, 1.5),
            pace=plan.speed,
            green=lambda side: self.board.output(f"{side}_green"),
            glass=self._glass(made),
            display=lambda: self.display.says,
        )
        self.trace = Trace(self.world.monitor)
        self.world.gate.observers.append(self.trace.observe)
        self.world.gate.observers.append(self._tell)
        self.camera = SceneCamera(plan.camera_port, self.world.view, made, Path(plan.models), plan.seed)
        self.hq = Headquarters(folder, Broker("127.0.0.1", plan.broker_port, tls=False))
        self.officer = Officer(self.world, self._order, delay_s=(2.0, 4.0))
        self._tasks: set[asyncio.Task[None]] = set()
        self._shut = True
        """Leaf A."""
        self._called: asyncio.Queue[str | None] = asyncio.Queue()
        """Who is to come in the story; None: it is over."""

    def _glass(self, made: Show) -> Glass | None:
        if self.reader_of_fingers is None:
            return None
        book = Drawn(self.plan.seed, self.reader_of_fingers.model.size)
        fingered = {each.paper.number for each in made.cast.enrolments if each.fingers}
        fingered = {p.paper.number for p in made.cast.passengers if len(p.paper.lines) == 3} & fingered
        book.draw(passenger for passenger in made.cast.passengers if passenger.paper.number in fingered)
        return Glass(self.reader_of_fingers.sensor, book)

    async def run(self, stop: asyncio.Event) -> None:
        """The whole demonstration, until HQ has every record of it; then the devices stay until `stop`."""
        await self.pins.start()
        await self.camera.start()
        if self.reader_of_fingers is not None:
            self.reader_of_fingers.start()
            self.display.start()
        mirrors = [asyncio.create_task(reader.run()) for reader in self.readers.values()]
        desk = asyncio.create_task(self._read_alarms())
        ear = asyncio.create_task(self._listen())
        try:
            say(what="ready")
            await self._lane_ready()
            say(what="begins")
            await self.world.run()
            if self._visits:
                await self._story()
            self._result(await self._drain())
            say(what="done")
            await stop.wait()
        finally:
            self.officer.stop()
            for task in (*mirrors, desk, ear):
                task.cancel()
            await asyncio.gather(*mirrors, desk, ear, return_exceptions=True)
            if self.reader_of_fingers is not None:
                self.display.stop()
                await self.reader_of_fingers.stop()
            await self.camera.stop()
            await self.pins.stop()
            for pty in self.ptys.values():
                pty.unplug()

    async def _story(self) -> None:
        """Each comes when they are called, and the next one once they have left."""
        say(what="stage")
        while (name := await self._called.get()) is not None:
            passenger = self._visits[name]
            kind = Dawdler if passenger.manner is Manner.LOOKS_AWAY else Script
            await self.world.visit(kind(passenger, self.world.stage))
            say(what="left", body=name)

    def _result(self, drained: bool) -> None:
        facts = self.hq.facts()
        records = settled(facts, lambda utc: utc.timestamp())
        verdicts = [fact for _, _, fact in facts if isinstance(fact, VerdictReached)]
        report = compare(self.world.monitor, records)
        broken = self.hq.broken()
        result = report.as_dict() | self.trace.measures()
        result |= {
            "tickets": len(records),
            "chains_broken": len(broken),
            "fingers_compared": sum(verdict.finger_tries for verdict in verdicts),
            "granted_with_finger": sum(v.decision == "grant" and v.fingers_matched > 0 for v in verdicts),
        }
        if self.plan.mix:
            result["mix"] = mix.seen(self.made, self.world.monitor)
        result["clean"] = report.clean and drained and not broken
        result["explanations"] += broken
        if not drained:
            result["explanations"].append("HQ did not receive every record in time")
        (self.folder / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        (self.folder / "trace.json").write_text(json.dumps(self.trace.as_dict(records)), encoding="utf-8")

    # -- the officer ----------------------------------------------------------------------------------------------

    async def _read_alarms(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for fact in await asyncio.to_thread(self.hq.news):
                if isinstance(fact, OfficerCalled):
                    say(what="call", ticket=fact.ticket)
                    self.officer.called(fact.ticket)
                elif isinstance(fact, AlarmRaised):
                    say(what="alarm", code=fact.code)
                    self.officer.alarmed(fact.code)

    def _order(self, action: Action, ticket: int | None) -> None:
        task = asyncio.create_task(self._carry(action, ticket))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, action: Action, ticket: int | None) -> None:
        said = await asyncio.to_thread(self.hq.order, action, ticket)
        say(what="order", action=action.value, ticket=ticket, answer=said)

    # -- the lane -----------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Lines on standard input: what is done to the lane's process, and when enough people have come."""
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async for line in reader:
            match line.decode().split():
                case ["killed", "lane"]:
                    self.world.monitor.lane_died()
                    self.world.monitor.disturb("lane killed", KILLED_S)
                case ["started", "lane"]:
                    self.world.monitor.lane_started()
                case ["killed", other]:
                    self.world.monitor.disturb(f"{other} killed", KILLED_S)
                case ["enough"]:
                    self.world.enough = True
                case ["come", name]:
                    self._called.put_nowait(name)
                case ["over"]:
                    self._called.put_nowait(None)

    async def _lane_ready(self) -> None:
        """Until its lamp is green. Raises `TimeoutError`, naming what it lacks."""
        until = time.monotonic() + READY_S
        while not self.board.output("a_green"):
            await asyncio.sleep(0.1)
            if time.monotonic() > until:
                try:
                    devices = (await asyncio.to_thread(Client(self.plan.control, 5.0).ask, Status()))["devices"]
                except Unavailable as away:
                    devices = {str(away): "lost"}
                lost = ", ".join(name for name, state in devices.items() if state == "lost")
                raise TimeoutError(f"the lane does not open within {READY_S:g} s; lost: {lost or 'nothing'}")

    async def _drain(self) -> bool:
        """Until the lane has nobody, and nothing that HQ has not acknowledged."""
        client = Client(self.plan.control, 5.0)
        outbox = OutboxReader(self.folder / "store" / "lane.db")
        acked = AckedHeadsReader(self.folder / "store" / "uplink.db")
        until = time.monotonic() + DRAIN_S
        try:
            while time.monotonic() < until:
                snapshot = await asyncio.to_thread(client.ask, Status())
                at_rest = snapshot["ticket"] is None and snapshot["state"] == "idle"
                if at_rest and not outbox.pending(acked.heads(), 1):
                    return True
                await asyncio.sleep(0.3)
        except (Unavailable, StoreError) as bad:
            say(what=f"not drained: {bad}")
        finally:
            outbox.close()
            acked.close()
        return False

    def _tell(self, happening: Happening) -> None:
        body = happening.body
        if body is not None and happening.what in (What.ADDED, What.CROSSED, What.REMOVED):
            say(what=happening.what.value, body=body.name, door=happening.door, inward=happening.inward)
        elif happening.what is What.LEAF and happening.door == "a":
            was_shut, self._shut = self._shut, self.world.gate.leaves["a"].closed
            if self._shut and not was_shut:
                for each in self.world.gate.inside(Kind.PERSON):
                    say(what="shut_in", body=each.name)


def say(**what: Any) -> None:
    """One line for whoever shows the demonstration."""
    print(json.dumps({"at": round(time.time(), 3), **what}), flush=True)


def main(folder: Path) -> int:
    """Until SIGTERM. 0: the demonstration ran to its end, whatever the result."""

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await Simulator(folder).run(stop)
        await asyncio.sleep(0.1)  # whoever was hung up on hears of it

    asyncio.run(run())
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.hw_sim.simulator FOLDER")
    sys.exit(main(Path(sys.argv[1])))
