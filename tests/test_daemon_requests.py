"""The control socket's requests to a lane in virtual time: service, orders of HQ, recording, looks, the end."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from gated import control
from gated.control import Code, Refused
from gated.control_peer import Peer
from gated.daemon import requests as the_requests
from gated.daemon.recorder import BYTES_MAX, Recorder, Tap
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.core import State
from gated.lane.events import Door
from gated.wire import facts, orders
from gated.wire.facts import CODE_MAX
from gated.wire.orders import Action, Order
from gated.wire.seal import open_sealed, public_of
from tests.hw_sim import virtual
from tests.hw_sim.cachefiles import CacheFiles
from tests.hw_sim.cast import Cast
from tests.hw_sim.happenings import Topology
from tests.hw_sim.links import MemoryByteLink
from tests.hw_sim.simlane import sim_folder
from tests.test_daemon_app import Watched

MEI = Peer(1001, 1001, 42, "mei", frozenset({"gated-tech"}))
SYNC = Peer(901, 901, 44, "gated-sync", frozenset())
NAME = "sim/sim"
UPLINK = Peer(900, 900, 43, "gated-uplink", frozenset())
HQ_ORDERS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@dataclass
class Asked(Watched):
    """A lane whose orders key is known here, and whose visitors stay away."""

    passengers: int | Cast = 0
    nonces: int = 0
    refusals: list[Refused] = field(default_factory=list)

    def _files(self) -> Path:
        path = super()._files()
        (self.folder / "orders.pub").write_bytes(HQ_ORDERS.public_key().public_bytes_raw())
        return path

    def state(self) -> State:
        return self.app.lane.state

    async def ask(self, request: control.Request, peer: Peer = MEI) -> Any:
        return await self.app.requests.handle(request, peer)

    async def refused(self, request: control.Request, peer: Peer = MEI) -> Refused:
        with pytest.raises(Refused) as caught:
            await self.ask(request, peer)
        return caught.value

    def order(self, action: Action, ticket: int | None = None, **other: Any) -> Order:
        self.nonces += 1
        now = self.clock.now().utc.replace(microsecond=0)
        values: dict[str, Any] = {
            "order": f"o-{self.nonces}",
            "officer": "officer.chen",
            "lane": "sim",
            "boot": self.app.boot,
            "nonce": f"{self.nonces:032x}",
            "issued": now,
            "expires": now + timedelta(seconds=60),
        }
        return Order(action=action, ticket=ticket, **(values | other))

    async def relay(self, order: Order, key: Ed25519PrivateKey = HQ_ORDERS) -> Any:
        return await self.ask(control.RelayOrder.of(orders.sign(key, order)), UPLINK)

    def answers(self) -> list[facts.OrderAnswered]:
        return self.facts(facts.OrderAnswered)


Script = Callable[[Asked], Coroutine[Any, Any, None]]


@pytest.fixture
def folder() -> Iterator[Path]:
    with sim_folder() as made:
        yield made


def play(folder: Path, script: Script, passengers: int = 0, seed: int = 5) -> Asked:
    lane = Asked(seed, Topology.MANTRAP, folder, passengers=passengers)
    lane.upsets = lambda _: [script(lane)]
    with capture_logs():
        virtual.run(lane.run())
    return lane


# -- people at the lane ------------------------------------------------------------


def test_service_is_taken_a_leaf_is_moved_and_the_lane_given_back(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        answer = await lane.ask(control.ServiceOn("Mei Lin"))
        assert answer["accepted"]
        assert lane.state() is State.SERVICE
        snapshot = await lane.ask(control.Status())
        assert snapshot["service"] == "Mei Lin (mei)"
        assert (await lane.ask(control.MoveDoor("B", True)))["accepted"]
        await asyncio.sleep(3.0)
        assert lane.app.lane.gate.leaves[Door.B].open
        assert (await lane.ask(control.MoveDoor("A", True)))["why"] == "other_door_first"
        assert (await lane.ask(control.MoveDoor("B", False)))["accepted"]
        await asyncio.sleep(3.0)
        assert (await lane.ask(control.ServiceOff("Mei Lin")))["accepted"]
        assert lane.state() is State.IDLE

    lane = play(folder, script)
    (moved,) = lane.facts(facts.VerdictReached)
    assert (moved.decision, moved.reason, moved.by) == ("release", "service_door", "Mei Lin (mei)")
    names = [answer.order for answer in lane.answers()]
    assert len(set(names)) == len(names), "every order has a name of its own"
    assert [answer.accepted for answer in lane.answers()] == [True, True, False, True, True, True]


def test_a_leaf_is_moved_in_the_name_of_whoever_has_the_service(folder: Path) -> None:
    """Somebody else asked for it too and was refused: the record must not name them."""

    async def script(lane: Asked) -> None:
        await lane.ask(control.ServiceOn("Mei Lin"))
        refused = await lane.ask(control.ServiceOn("Bo Wang"), Peer(1002, 1002, 7, "bo", frozenset()))
        assert refused == {"order": refused["order"], "accepted": False, "why": "not_while_service"}
        await lane.ask(control.MoveDoor("B", True))
        await lane.ask(control.MoveDoor("B", False))

    lane = play(folder, script)
    assert [fact.by for fact in lane.facts(facts.VerdictReached)] == ["Mei Lin (mei)"]


def test_without_service_no_leaf_moves(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        answer = await lane.ask(control.MoveDoor("B", True))
        assert (answer["accepted"], answer["why"]) == (False, "not_while_idle")
        await asyncio.sleep(2.0)
        assert lane.app.lane.gate.leaves[Door.B].open is False

    lane = play(folder, script)
    assert lane.facts(facts.VerdictReached) == []


@pytest.mark.parametrize("user", ["mei", "a-user-with-a-very-long-name-in-the-directory-of-the-airport"])
def test_the_longest_name_still_fits_into_the_record(user: str, folder: Path) -> None:
    peer = Peer(1, 1, 1, user, frozenset())

    async def script(lane: Asked) -> None:
        await lane.ask(control.ServiceOn("N" * 64), peer)
        assert (await lane.ask(control.MoveDoor("B", True), peer))["accepted"]
        await asyncio.sleep(1.0)
        await lane.ask(control.MoveDoor("B", False), peer)

    lane = play(folder, script)
    (moved,) = lane.facts(facts.VerdictReached)
    assert len(moved.by) <= CODE_MAX
    assert moved.by.endswith(f"({user[:32]})"), "who the kernel saw is not cut off"
    assert moved.by.startswith("NNN")


def test_the_lane_is_closed_opened_and_reset_by_somebody_on_the_spot(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        assert (await lane.ask(control.CloseLane("Mei Lin")))["accepted"]
        assert lane.state() is State.CLOSED
        assert (await lane.ask(control.Status()))["closed_by"] == "Mei Lin (mei)"
        assert (await lane.ask(control.OpenLane("Mei Lin")))["accepted"]
        assert lane.state() is State.IDLE
        refused = await lane.ask(control.ResetLane("Mei Lin"))
        assert (refused["accepted"], refused["why"]) == (False, "not_while_idle")
        lane.app.emit(ev.FireStarted())
        lane.app.emit(ev.FireEnded())
        await asyncio.sleep(0.1)
        assert (await lane.ask(control.ResetLane("Mei Lin")))["accepted"]
        assert lane.state() is State.IDLE

    play(folder, script)


def test_an_order_that_the_lane_cannot_answer_yet_is_busy_and_not_forgotten(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        await lane.ask(control.ServiceOn("Mei Lin"))
        run = lane.workers.run

        async def slow(kind: str, *args: Any) -> Any:
            await asyncio.sleep(2 * the_requests.ANSWER_S_MAX if kind == "store" else 0.0)
            return await run(kind, *args)

        lane.app.lane.timing = type(lane.app.lane.timing)(record_s=60.0)
        lane.workers.run = slow  # type: ignore[method-assign, assignment]
        assert (await lane.refused(control.MoveDoor("B", True))).code is Code.BUSY
        assert lane.app.requests._waiting == {}
        lane.workers.run = run  # type: ignore[method-assign]
        await asyncio.sleep(30.0)
        await lane.ask(control.MoveDoor("B", False))

    lane = play(folder, script)
    assert [answer.accepted for answer in lane.answers()][:2] == [True, True], "its record said"


def test_a_client_that_goes_away_leaves_nothing_behind(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        asking = asyncio.create_task(lane.ask(control.CloseLane("Mei Lin")))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(1.0)
        assert lane.app.requests._waiting == {}
        assert lane.state() is State.CLOSED, "what was asked for is done all the same, and recorded"

    lane = play(folder, script)
    assert [answer.accepted for answer in lane.answers()][:1] == [True]


# -- orders of HQ ------------------------------------------------------------


def test_a_signed_order_is_carried_out_and_answered_by_a_record(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        assert await lane.relay(lane.order(Action.CLOSE_LANE)) == {"order": "o-1", "accepted": True, "why": ""}
        assert lane.app.lane.closed_by == "officer.chen"
        assert (await lane.relay(lane.order(Action.OPEN_LANE)))["accepted"]
        assert lane.state() is State.IDLE
        refused = await lane.relay(lane.order(Action.OPEN, 77))
        assert refused == {"order": "o-3", "accepted": False, "why": "not_while_idle"}

    lane = play(folder, script)
    told = [(answer.order, answer.accepted, answer.why) for answer in lane.answers()][:3]
    assert told == [("o-1", True, ""), ("o-2", True, ""), ("o-3", False, "not_while_idle")]


def test_an_officer_opens_for_the_passenger_who_was_referred(folder: Path) -> None:
    seen: dict[str, Any] = {}

    async def script(lane: Asked) -> None:
        lane.officer.away = True
        await lane.until(lambda: lane.app.lane.state is State.REFERRED, 600.0)
        seen["ticket"] = lane.app.lane.guest.ticket
        wrong = await lane.relay(lane.order(Action.OPEN, seen["ticket"] + 1))
        assert (wrong["accepted"], wrong["why"]) == (False, "other_ticket")
        lane.world.monitor.disturb("officer opens", 30.0)
        answer = await lane.relay(lane.order(Action.OPEN, seen["ticket"]))
        assert answer["accepted"]
        assert lane.state() is State.RELEASING
        lane.officer.away = False

    lane = play(folder, script, passengers=12, seed=3)
    verdicts = [fact for fact in lane.facts(facts.VerdictReached) if fact.ticket == seen["ticket"]]
    assert [(v.decision, v.by) for v in verdicts][-1] == ("grant", "officer.chen")


@pytest.mark.parametrize(
    ("change", "key", "why"),
    [
        ({"boot": "boot0000"}, HQ_ORDERS, "wrong_boot"),
        ({"lane": "other"}, HQ_ORDERS, "wrong_lane"),
        ({}, Ed25519PrivateKey.from_private_bytes(bytes(32)), "bad_signature"),
    ],
)
def test_an_order_for_another_or_of_another_is_refused_and_recorded(
    change: dict[str, Any], key: Ed25519PrivateKey, why: str, folder: Path
) -> None:
    async def script(lane: Asked) -> None:
        answer = await lane.relay(lane.order(Action.CLOSE_LANE, **change), key)
        assert answer == {"accepted": False, "why": why}
        assert lane.state() is State.IDLE

    lane = play(folder, script)
    first = lane.answers()[0]
    assert (first.order, first.accepted, first.why) == ("o-1", False, why)


def test_an_order_is_believed_once(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        order = lane.order(Action.CLOSE_LANE)
        assert (await lane.relay(order))["accepted"]
        await lane.relay(lane.order(Action.OPEN_LANE))
        assert await lane.relay(order) == {"accepted": False, "why": "replayed"}
        assert lane.state() is State.IDLE

    play(folder, script)


def test_an_order_of_yesterday_or_tomorrow_is_refused_by_the_lanes_own_clock(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        order = lane.order(Action.CLOSE_LANE)
        lane.clock.step(3600.0)
        assert (await lane.relay(order))["why"] == "expired"
        order = lane.order(Action.CLOSE_LANE)
        lane.clock.step(-3600.0)
        assert (await lane.relay(order))["why"] == "not_yet_valid"
        assert lane.state() is State.IDLE

    play(folder, script)


def test_bytes_that_are_no_order_are_refused_and_recorded(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        for blob in (b"x", b"y" * 1000, b"z" * 10_000):
            answer = await lane.ask(control.RelayOrder.of(blob), UPLINK)
            assert not answer["accepted"]

    lane = play(folder, script)
    assert [(answer.order, answer.accepted) for answer in lane.answers()][:3] == [("unreadable", False)] * 3


def test_an_order_of_the_run_before_is_refused_after_a_restart(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        order = lane.order(Action.CLOSE_LANE)
        assert (await lane.relay(order))["accepted"]
        await lane.crash()
        lane.revive()
        await asyncio.sleep(8.0)
        assert await lane.relay(order) == {"accepted": False, "why": "wrong_boot"}

    play(folder, script)


# -- looks ------------------------------------------------------------


def test_the_uplinks_word_becomes_an_event_only_where_it_is_news(folder: Path) -> None:
    """It is told again and again: each time would raise the officers' alarm anew."""

    async def script(lane: Asked) -> None:
        for up in (True, False, False, False, True, True, False):
            assert await lane.ask(control.UplinkState(up), UPLINK) == {}
            await asyncio.sleep(0.1)
        assert (await lane.ask(control.Status()))["uplink"] == "down"
        await lane.ask(control.UplinkState(True), UPLINK)
        await asyncio.sleep(0.1)

    lane = play(folder, script)
    kinds = [type(event) for event, _, _ in lane.log if isinstance(event, ev.UplinkLost | ev.UplinkReady)]
    assert kinds == [ev.UplinkLost, ev.UplinkReady, ev.UplinkLost, ev.UplinkReady]


def test_an_uplink_that_is_silent_is_gone(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        watching = asyncio.create_task(lane.app.requests.watch_uplink(45.0))
        for _ in range(10):
            await lane.ask(control.UplinkState(True), UPLINK)
            await asyncio.sleep(15.0)
            assert lane.app.lane.gate.uplink
        await asyncio.sleep(300.0)
        assert not lane.app.lane.gate.uplink
        await lane.ask(control.UplinkState(True), UPLINK)
        await asyncio.sleep(1.0)
        assert lane.app.lane.gate.uplink
        watching.cancel()

    lane = play(folder, script)
    assert sum(isinstance(event, ev.UplinkLost) for event, _, _ in lane.log) == 1, "told once"


def test_the_cache_is_shown_in_ages_and_counts(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        shown = (await lane.ask(control.ShowCache()))["partitions"]
        assert shown.keys() == {"people", "control"}
        people = shown["people"]
        assert (people["file"], people["generation"], people["epoch"], people["serial"]) == (
            "cache-people-1.db",
            1,
            1,
            0,
        )
        assert people["rows"] > 0 and people["state"] == "fresh"
        assert (await lane.ask(control.Status()))["cache"] == {"people": "fresh", "control": "fresh"}

    lane = play(folder, script, passengers=2)
    told = lane.facts(facts.CacheMoved)
    assert {(fact.partition, fact.generation, fact.freshness) for fact in told} == {
        ("people", 1, "fresh"),
        ("control", 1, "fresh"),
    }


def test_a_lane_without_a_cache_says_so(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        lane.app.look_up._folder = folder / "gone"
        await asyncio.sleep(6.0)
        assert (await lane.refused(control.ShowCache())).code is Code.REFUSED
        assert (await lane.ask(control.Status()))["cache"] == {}

    play(folder, script)


def test_what_sync_applied_is_looked_at_at_once(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        key = (folder / "cache.key").read_bytes()
        now = lane.clock.now().utc
        with CacheFiles(folder, key, NAME, built=now, generation=2, epoch=2) as cache:
            cache.put_flags(1, frozenset({"exit_ban"}))
        assert (await lane.ask(control.SyncTold("control", ""), SYNC)) == {}
        await asyncio.sleep(0.1)
        shown = (await lane.ask(control.ShowCache()))["partitions"]
        assert (shown["control"]["generation"], shown["control"]["epoch"]) == (2, 2)

    play(folder, script)


def test_a_refusal_of_sync_is_one_alarm_until_something_changes(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        for why in ("rolled_back", "rolled_back", "altered", "", "altered"):
            await lane.ask(control.SyncTold("people", why), SYNC)
        await asyncio.sleep(1.0)

    lane = play(folder, script)
    alarms = [f.detail for f in lane.facts(facts.AlarmRaised) if f.code == "sync_refused"]
    assert alarms == ["people rolled_back", "people altered", "people altered"]


def test_a_cache_that_ages_is_told_at_every_step(folder: Path) -> None:
    """Offline: nothing is confirmed any more, and the policy says what that is called."""

    async def script(lane: Asked) -> None:
        for hours in (0.2, 24, 14 * 24):
            lane.clock.step(hours * 3600)
            await asyncio.sleep(12.0)

    lane = play(folder, script)
    aged = [f.detail for f in lane.facts(facts.AlarmRaised) if f.code == "cache_aged"]
    assert [each for each in aged if each.startswith("control")] == ["control late", "control stale", "control expired"]
    assert {f.freshness for f in lane.facts(facts.CacheMoved)} >= {"fresh", "late", "stale", "expired"}


def test_every_watcher_sees_the_last_change_however_slow_it_is(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        quick: list[str] = []
        slow: list[str] = []

        async def follow(into: list[str], pause_s: float) -> None:
            lines = await lane.ask(control.Watch())
            assert isinstance(lines, AsyncIterator)
            async for line in lines:
                into.append(line["state"])
                await asyncio.sleep(pause_s)

        watchers = [asyncio.create_task(follow(quick, 0.0)), asyncio.create_task(follow(slow, 3.0))]
        await asyncio.sleep(0.5)
        for k in range(4):
            await lane.ask(control.CloseLane("Mei") if k % 2 == 0 else control.OpenLane("Mei"))
            await asyncio.sleep(0.7)
        await lane.ask(control.CloseLane("Mei"))
        await asyncio.sleep(10.0)
        for watcher in watchers:
            watcher.cancel()
        assert quick[0] == slow[0] == "idle"
        assert quick[-1] == slow[-1] == "closed"
        assert len(quick) > len(slow), "what the slow one missed between was not kept for it"
        assert len(quick) < 30, "and nobody is told of nothing"

    play(folder, script)


def test_shutdown_finishes_whoever_is_inside(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        await lane.until(lambda: lane.app.lane.state is State.MATCHING, 300.0)
        ticket = lane.app.lane.guest.ticket
        assert await lane.ask(control.Shutdown("Mei Lin")) == {"stopping": True}
        await lane.lane_up
        assert lane.app.lane.passage is None
        assert ticket in [each.ticket for each in lane.commands(cmd.Settle)]
        lane.revive()

    lane = play(folder, script, passengers=4)
    assert lane.boots == 2


def test_a_lane_that_is_stopping_stays_closed_whoever_opens_it(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        await lane.until(lambda: lane.app.lane.state is State.MATCHING, 300.0)
        await lane.ask(control.Shutdown("Mei Lin"))
        await asyncio.sleep(0.1)
        assert (await lane.ask(control.OpenLane("Bo")))["accepted"]
        await lane.lane_up
        assert lane.state() is State.CLOSED
        lane.revive()

    play(folder, script, passengers=6)


# -- recording ------------------------------------------------------------


async def inline(work: Callable[..., Any], *args: Any) -> Any:
    """In the place of a thread, which virtual time has not."""
    return work(*args)


def test_a_device_is_recorded_in_service_mode_and_only_hq_opens_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio, "to_thread", inline)
    done: list[dict[str, Any]] = []

    async def script(lane: Asked) -> None:
        no = await lane.refused(control.RecordDevices("passport", 5.0))
        assert no.code is Code.REFUSED
        assert "gated service on" in no.why
        await lane.ask(control.ServiceOn("Mei Lin"))
        no = await lane.refused(control.RecordDevices("door", 5.0))
        assert "passport" in no.why
        recording = asyncio.create_task(lane.ask(control.RecordDevices("passport", 5.0)))
        await asyncio.sleep(1.0)
        assert (await lane.refused(control.RecordDevices("passport", 5.0))).code is Code.BUSY
        await lane.readers["a"].insert(lane.world.cast.enrolments[0].paper.lines)
        done.append(await recording)
        assert asyncio.get_running_loop().time() > 5.0
        await lane.readers["a"].remove()

    lane = play(folder, script, passengers=2)
    path = Path(done[0]["file"])
    blob = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    number = lane.world.cast.enrolments[0].paper.number
    assert number.encode() not in blob
    assert number.encode().hex().encode() not in blob
    told = json.loads(open_sealed(lane.hq_private, blob, b"recording sim"))
    assert (told["lane"], told["device"]) == ("sim", "passport")
    heard = b"".join(bytes.fromhex(data) for _, way, data in told["traffic"] if way == "in")
    assert number.encode() in heard
    assert all(0 <= at <= 5.0 for at, _, _ in told["traffic"])
    assert done[0]["bytes"] == sum(len(data) // 2 for _, _, data in told["traffic"]) > 0


def test_a_recording_ends_with_the_service(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes from then on is a passenger's."""
    monkeypatch.setattr(asyncio, "to_thread", inline)

    async def script(lane: Asked) -> None:
        await lane.ask(control.ServiceOn("Mei Lin"))
        began = asyncio.get_running_loop().time()
        recording = asyncio.create_task(lane.ask(control.RecordDevices("passport", 600.0)))
        await asyncio.sleep(2.0)
        await lane.ask(control.ServiceOff("Mei Lin"))
        assert Path((await recording)["file"]).exists()
        assert asyncio.get_running_loop().time() - began < 3.0
        assert lane.app.recorder._taps["passport"]._heard is None

    play(folder, script)


def test_a_client_that_goes_away_ends_its_recording(folder: Path) -> None:
    async def script(lane: Asked) -> None:
        await lane.ask(control.ServiceOn("Mei Lin"))
        recording = asyncio.create_task(lane.ask(control.RecordDevices("passport", 600.0)))
        await asyncio.sleep(2.0)
        recording.cancel()
        await asyncio.gather(recording, return_exceptions=True)
        assert lane.app.recorder._taps["passport"]._heard is None

    play(folder, script)
    assert list(folder.glob("recording-*")) == []


def test_a_recording_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "gone", public_of(bytes(range(32))), "sim", {"passport": Tap(MemoryByteLink())})
    with pytest.raises(Refused, match="cannot be written: No such file") as caught:
        asyncio.run(recorder.record("passport", 0.01))
    assert caught.value.code is Code.FAILED


def test_a_recording_is_bounded() -> None:
    async def main() -> None:
        near, far = MemoryByteLink.pair()
        tap = Tap(near)
        await tap.open()
        await far.open()
        listening = asyncio.create_task(tap.listen(60.0))
        await asyncio.sleep(1.0)
        piece = bytes(1 << 20)
        for _ in range(12):
            await far.write(piece)
            assert await tap.read() == piece, "the driver hears everything"
        heard = await listening
        assert sum(len(data) // 2 for _, _, data in heard) <= BYTES_MAX + len(piece)
        await far.write(b"x")
        assert await tap.read() == b"x"

    virtual.run(main())
