"""The wiring plan of one lane: which part is given to which. `build` is the only seam of the simulator.

The lane process has no network of its own but the camera's and holds the keys to personal data; what comes in
comes through devices and the control socket, what goes out lies sealed in lane.db until the uplink takes it."""

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import structlog

from drivers.base import Camera, FingerReader
from gated import control_socket
from gated.config import Config, signers_of
from gated.daemon import links as daemon_links
from gated.daemon.cachememory import Memory
from gated.daemon.cachewatch import CacheWatch
from gated.daemon.clock import Clock, watch_steps
from gated.daemon.devices import Devices
from gated.daemon.fingers import Fingers, format_of
from gated.daemon.lookup import LookUp
from gated.daemon.loop import Queue, drive
from gated.daemon.matcher import Matcher
from gated.daemon.metrics import Measures
from gated.daemon.outlets import Outlets
from gated.daemon.pictures import Pictures
from gated.daemon.plan import SHELL, cache_key_of, face_of, finger_of, key_of, machine_of, owners_of, policy_of
from gated.daemon.policywatch import NOTE, PolicyWatch
from gated.daemon.recorder import Recorder
from gated.daemon.records import DETAIL_MAX, Facts
from gated.daemon.remembered import Remembered
from gated.daemon.requests import Authority, Requests
from gated.daemon.status import Status
from gated.daemon.versions import versions
from gated.daemon.workers import Attended, Workers
from gated.daemon.writer import Job, acknowledged, writer_of
from gated.lane import events as ev
from gated.lane.commands import Alarm, AlarmCode, Answer, Command
from gated.lane.core import State
from gated.lane.events import Device, Door, Event, Now
from gated.logs import told
from gated.metrics import textfile
from gated.notify import notify, watchdog_s
from gated.store.db import LaneDb
from gated.wire.facts import DeviceChanged, LaneBooted, OrderAnswered, Part
from gated.wire.rows import PARTITIONS

log = structlog.get_logger()

WORK_S_MAX = 20.0
"""Disk or inference that has not answered for so long hangs: the watchdog is no longer stroked."""
LAST_WORDS_S_MAX = 3.0
SILENT_BEATS_MAX = 3
"""After so many heartbeats that did not come the uplink counts as gone."""


class Build(Protocol):
    """Opens the lane's database; the simulator's gives the same generation again."""

    def __call__(self, path: Path) -> LaneDb: ...


class App:
    """One lane, wired and ready to `run`."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        links: daemon_links.Links,
        workers: Workers,
        *,
        boot: str,
        open_db: Build,
        serve_control: bool = True,
    ) -> None:
        face_of(config)  # these two are used by whoever made `workers`
        finger_of(config)
        self.config, self.clock, self.boot = config, clock, boot
        self.workers = workers = Attended(workers)
        self.queue = Queue()
        self.lane = machine_of(config)
        self._devices = Devices(config, self.lane, links, self.emit)
        self._readings: dict[str, str] = {}
        hq_public = key_of(config, "hq_public")
        self.recorder = Recorder(config.store.dir, hq_public, config.identity.id, self._devices.taps)
        config.finish()
        cache_key, orders_public = cache_key_of(config), signers_of(config, "orders_public")
        policy_public = signers_of(config, "policy_public") if config.keys.policy_public else ()
        db, keys = open_db(config.store.dir / "lane.db"), (key_of(config, "journal"), hq_public)
        self.writer = writer_of(config, db, boot, keys, workers, self.emit)
        self.policy = PolicyWatch(
            self.lane,
            policy_of(config),
            config.store.dir,
            self.writer.db.note(NOTE),
            policy_public,
            workers,
            emit=self.emit,
            tell=lambda fact: self.outlets.tell(fact, clock.now()),
            alarm=lambda alarm: self.outlets.dispatch(alarm, clock.now()),
            remember=lambda name, text: self.writer.add(Job(clock.now().utc, note=(name, text))),
        )
        reader: FingerReader | None = self._devices.actuators.get(Device.FINGERPRINT)
        memory = {each: Memory(self.writer.db.note(f"cache_{each}") or "") for each in PARTITIONS}
        self.look_up = LookUp(
            config.store.dir,
            cache_key,
            f"{config.identity.site}/{config.identity.id}",
            workers.faces.model,
            workers,
            self.emit,
            finger_format=format_of(reader),
            memory=memory,
            owners=owners_of(config),
            rules=lambda: self.lane.rules,
            crossings=self.writer.crossings,
        )
        self.cache = CacheWatch(
            self.look_up,
            lambda: self.lane.rules,
            clock,
            memory,
            tell=lambda fact: self.outlets.tell(fact, clock.now()),
            alarm=lambda alarm: self.outlets.dispatch(alarm, clock.now()),
            remember=lambda name, text: self.writer.add(Job(clock.now().utc, note=(f"cache_{name}", text))),
        )
        camera: Camera = self._devices.actuators[Device.CAMERA]
        self.matcher = Matcher(camera, workers, self.emit, self.look_up.template_of)
        self.fingers = Fingers(reader, workers, self.emit, self.look_up.finger_template_of)
        self.status = Status(
            self.lane,
            config.identity.id,
            config.identity.site,
            boot,
            self.device_states,
            lambda: self.writer.pending,
            self.cache.states,
            self.policy.view,
            self._versions,
        )
        self.measures = Measures(self.status.snapshot, self.cache.confirmed, self.writer)
        self.textfile = textfile(config, "lane", self.measures.collect)
        self.requests = Requests(
            self.emit,
            clock,
            self.status,
            self.cache,
            Authority(orders_public, config.identity.id, boot),
            self._order_refused,
            self.recorder.record,
            self.fingers.test,
            self.stop,
        )
        self.facts = Facts(lambda: self.lane.rules)
        self.outlets = Outlets(
            emit=self.emit,
            door=self._devices.actuators[Device.DOOR],
            indicator=self._devices.actuators.get(Device.INDICATOR),
            look_up=self.look_up,
            matcher=self.matcher,
            fingers=self.fingers,
            pictures=Pictures(self.matcher.best, workers, self.writer.add),
            writer=self.writer,
            facts=self.facts,
            heard=self._heard,
        )
        self._serve_control = serve_control
        self._stopping = asyncio.Event()
        self._empty = asyncio.Event()
        """Set while nobody is served and nobody can begin."""
        self._remembered = Remembered(self.lane, self.writer.add, self._stopping.is_set)

    # -- what happens ------------------------------------------------------------------------------------------

    def emit(self, event: Event, /) -> None:
        """Into the lane's queue; what every event means for the shell is done on the way."""
        if isinstance(event, (ev.DeviceReady, ev.DeviceLost)):
            self._device_changed(event)
        if isinstance(event, (ev.UplinkReady, ev.UplinkLost)):
            self.writer.hq_reachable(isinstance(event, ev.UplinkReady))
        if isinstance(event, ev.OpenLane) and self.policy.lacks:
            self.outlets.dispatch(Answer(event.order, False, "no_policy"), self.clock.now())
            return
        self.queue.emit(event)

    def _device_changed(self, event: ev.DeviceReady | ev.DeviceLost) -> None:
        state, why = ("lost", event.why) if isinstance(event, ev.DeviceLost) else ("ready", "")
        if self._readings.get(event.device.value) != state:
            self._readings[event.device.value] = state
            self.writer.add(Job(self.clock.now().utc, DeviceChanged(event.device.value, state, why[:DETAIL_MAX])))

    def step(self, now: Now, event: Event, commands: tuple[Command, ...]) -> None:
        """Journal of `loop.drive`: every step, and what the shell must do beside the commands."""
        self.writer.step(now, event, commands)
        if isinstance(event, ev.EventsLost):
            self._tell_again()
        if isinstance(event, ev.OpenLane) and self._stopping.is_set():
            self._close()  # whoever opens it now does not know that it ends
        self._remembered.stepped(now, event)
        self.policy.stepped()
        if self.lane.service_by is None:
            self.recorder.stop()
            self.fingers.end_test("service_over")
        if self.lane.passage is None and self.lane.state is not State.IDLE:
            self._empty.set()
        else:
            self._empty.clear()
        self.status.stepped(now)

    def _tell_again(self) -> None:
        """Anybody's words may have been dropped: the door tells all that it sees, how the others are is known here."""
        self.policy.again()
        for each in self._devices.by_device[Device.DOOR]:
            each.again()
        for device in self._known():
            ready = self._readings.get(device.value) == "ready"
            if device is not Device.DOOR and ready == (device in self.lane.gate.lost):
                self.queue.emit(ev.DeviceReady(device) if ready else ev.DeviceLost(device, "events_lost"))

    def _heard(self, command: Command, now: Now) -> None:
        self.status.heard(command, now)
        self.measures.heard(command, now)
        self.requests.heard(command)

    def _order_refused(self, order: str, why: str) -> None:
        self.outlets.tell(OrderAnswered(order, False, why), self.clock.now())

    def device_states(self) -> Mapping[str, str]:
        """Each configured device and part: ready or lost."""
        return {device.value: self._readings.get(device.value, "lost") for device in self._known()}

    def _known(self) -> list[Device]:
        return [*self._devices.by_device, *sorted(SHELL, key=lambda d: d.value)]

    def stop(self) -> None:
        """Finish whoever is inside, then end."""
        self._stopping.set()

    # -- running -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `stop`; whoever is inside is finished first. Any part that fails ends the process."""
        try:
            await self._run()
            await self.outlets.pictures.finish()
            await self.writer.flush()
        except Exception as failed:
            log.critical("a part of the lane failed", what=told(failed))
            await self._last_words()
            raise
        finally:
            self.fingers.close()
            self.workers.close()
            self.look_up.close()
            self.writer.close()

    async def _run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if self._serve_control:
                control = self.config.control
                await stack.enter_async_context(
                    control_socket.serve(
                        control.socket,
                        self.requests.handle,
                        technician_group=control.technician_group,
                        uplink_user=control.uplink_user,
                        sync_user=control.sync_user,
                    )
                )
            self._started()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(each) for each in self._parts()]
                await self._stopping.wait()
                await self._finish_inside()
                for task in tasks:
                    task.cancel()

    async def _last_words(self) -> None:
        """The steps that led here are worth most of all: into the journal with them, as far as the disk takes them."""
        try:
            async with asyncio.timeout(LAST_WORDS_S_MAX):
                await self.writer.flush()
        except Exception as failed:  # noqa: BLE001  # the process ends by the first failure, not by this one
            log.error("the last steps are not in the journal", what=told(failed))

    def _parts(self) -> list[Any]:
        silent_s_max = SILENT_BEATS_MAX * self.config.uplink.heartbeat_s
        return [
            drive(self.lane, self.queue, self.clock, self, self.outlets.dispatch),
            self.writer.run(),
            self.look_up.run(),
            self.cache.run(),
            self.policy.run(),
            self.matcher.run(),
            watch_steps(self.clock, self.emit),
            self._watchdog(),
            *([self.requests.watch_uplink(silent_s_max)] if self._serve_control else []),
            *([self.textfile.keep()] if self.textfile else []),
            *(each.run() for each in self._devices.all()),
        ]

    def _versions(self) -> tuple[Part, ...]:
        return versions(self.lane, self.policy, self.workers, self.cache)

    def _started(self) -> None:
        db = self.writer.db
        came_from = db.note("came_from")
        unsettled = db.unsettled()
        now = self.clock.now()
        parts = self._versions()
        self.writer.add(
            Job(now.utc, LaneBooted(self.boot, self.lane.topology.value, db.next_ticket, unsettled, db.new, parts))
        )
        if db.set_aside is not None:
            log.error("database was damaged, or went back to an older copy, and is set aside", file=db.set_aside.name)
            self.outlets.dispatch(Alarm(AlarmCode.DATABASE_REPLACED, db.set_aside.name), now)
        self.policy.offer()
        self.emit(
            ev.Started(
                db.next_ticket,
                unsettled,
                bool(db.note("reset_needed")),
                bool(db.note("closed")),
                Door(came_from) if came_from and unsettled else None,
                db.note("direction") or None,
            )
        )
        self.policy.started(bool(db.note("closed")))

    async def _finish_inside(self) -> None:
        """Nobody new; whoever is inside passes or comes out. Bounded by the longest stay."""
        log.info("stopping")
        notify("STOPPING=1")
        self._close()
        try:
            async with asyncio.timeout(self.lane.timing.stay_s_max + self.lane.timing.return_s):
                await self._empty.wait()
        except TimeoutError:
            log.error("stopped with the lane occupied", state=self.lane.state.value)

    def _close(self) -> None:
        self.emit(ev.CloseLane("shutdown", "shutdown"))

    async def _watchdog(self) -> None:
        """Tell the service manager that every part still answers."""
        every = watchdog_s()
        ready = False
        while True:
            await asyncio.sleep(0.2 if not ready else min(every or 5.0, 5.0))
            if not ready and self.lane.state is not State.STARTING:
                ready = notify("READY=1", "STATUS=running") or True
            if self.workers.oldest_s() < WORK_S_MAX:
                notify("WATCHDOG=1", f"STATUS={self.lane.state.value}")


def build(
    config: Config,
    clock: Clock,
    links: daemon_links.Links,
    workers: Workers,
    *,
    boot: str | None = None,
    open_db: Build | None = None,
    serve_control: bool = True,
) -> App:
    """Wire a lane. Raises `ConfigError`, `StoreError`. Call it inside the running loop."""

    def opened(path: Path) -> LaneDb:
        return LaneDb.opened(path, clock.now().utc, acknowledged(path.with_name("uplink.db")), mode=0o640)

    return App(
        config,
        clock,
        links,
        workers,
        boot=boot or secrets.token_hex(8),
        open_db=open_db or opened,
        serve_control=serve_control,
    )
