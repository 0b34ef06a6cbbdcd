"""A lane's writing process: the daemon's own writer on lane.db, with nobody in front of it.

`python -m tests.tamper_lane LANE_TOML ROWS`, until SIGTERM. ROWS: so many rows the journal has before it begins."""

import asyncio
import contextlib
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from gated import config
from gated.daemon.workers import Threads
from gated.daemon.writer import Job, Writer, acknowledged, writer_of
from gated.lane import commands as c
from gated.lane import events as e
from gated.store.db import LaneDb
from gated.wire.facts import AlarmRaised, DeviceChanged, Fact, LaneBooted, LaneChanged, TicketSettled
from tests.hw_sim.faces import RecordedFaces
from tests.hw_sim.storm_lane import Neighbour
from tests.uplink_rig import verdict

JOURNAL_KEY = bytes(range(32))
STEP_S = 0.1
STEPS_A_PASSENGER = 4


def moment() -> e.Now:
    """Now, for the lane."""
    return e.Now(asyncio.get_running_loop().time(), datetime.now(UTC))


def step(writer: Writer) -> None:
    """One step of the lane: a leaf opened."""
    writer.step(moment(), e.DoorOpened(e.Door.A), (c.RequestOpen(e.Door.A),))


async def live(toml: Path, rows: int) -> None:
    """Write as a lane does that passengers walk through, until SIGTERM; whatever becomes of the disk."""
    conf = config.load(toml)
    path, stop, boot = conf.store.dir / "lane.db", asyncio.Event(), f"boot-{token_hex(3)}"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    db = LaneDb.opened(path, datetime.now(UTC), acknowledged(path.with_name("uplink.db")), mode=0o640)
    workers = Threads(RecordedFaces(1))
    keys = JOURNAL_KEY, conf.keys.hq_public.read_bytes()
    writer = writer_of(conf, db, boot, keys, workers, lambda event: print(event, flush=True))
    neighbour = Neighbour(conf.control.socket, boot)
    running = asyncio.create_task(writer.run())

    def say(*facts: Fact) -> None:
        for fact in facts:
            writer.add(Job(datetime.now(UTC), fact))

    say(LaneBooted(boot, "mantrap", db.next_ticket, db.unsettled(), db.new))
    if db.set_aside is not None:
        say(AlarmRaised("database_replaced", db.set_aside.name))
    say(*(TicketSettled(ticket, "unresolved") for ticket in db.unsettled()))
    for done in range(rows):
        step(writer)
        if done % 2000 == 1999:
            await writer.flush()
    ticket, steps = db.next_ticket, 0
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), STEP_S)
        step(writer)
        steps += 1
        writer.hq_reachable(neighbour.returned.is_set())
        if steps % STEPS_A_PASSENGER == 0:
            say(LaneChanged("checking"), verdict(ticket), TicketSettled(ticket, "crossed", 1), LaneChanged("idle"))
            say(DeviceChanged("camera", "ready"), AlarmRaised("help", "", ticket))
            ticket += 1
    await writer.flush()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    workers.close()
    writer.close()


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), int(sys.argv[2])))
