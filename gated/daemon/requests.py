"""What comes in through the control socket: looks at the lane, orders to it. Whoever asks was named by the kernel."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import structlog

from drivers.base import Emit
from gated import control
from gated.control import Answer, Code, Refused, Request
from gated.control_peer import Peer
from gated.control_views import FingerLine
from gated.daemon.cachewatch import CacheWatch
from gated.daemon.clock import Clock
from gated.daemon.status import Status
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import Command
from gated.lane.events import Door, Event
from gated.wire import orders
from gated.wire.facts import CODE_MAX
from gated.wire.orders import Action, OrderRefused, Seen

log = structlog.get_logger()

ANSWER_S_MAX = 8.0


@dataclass(frozen=True, slots=True)
class Authority:
    """Whose orders from HQ are believed: Ed25519 keys (32 bytes each), and for which lane and run they must be."""

    keys: tuple[bytes, ...]
    lane: str
    boot: str


class Requests:
    """The handler of the control socket. `stop` ends the daemon in an orderly way."""

    def __init__(
        self,
        emit: Emit,
        clock: Clock,
        status: Status,
        cache: CacheWatch,
        authority: Authority,
        refused: Callable[[str, str], None],
        record: Callable[[str, float], Awaitable[dict[str, Any]]],
        test_fingers: Callable[[float], AsyncIterator[FingerLine]],
        stop: Callable[[], None],
    ) -> None:
        self._emit, self._clock, self._status, self._cache = emit, clock, status, cache
        self._authority = authority
        self._refused, self._record, self._test_fingers, self._stop = refused, record, test_fingers, stop
        self._seen = Seen()
        self._waiting: dict[str, asyncio.Future[cmd.Answer]] = {}
        self._uplink_told = asyncio.Event()

    def heard(self, command: Command) -> None:
        """An order was answered."""
        if isinstance(command, cmd.Answer):
            future = self._waiting.pop(command.order, None)
            if future is not None and not future.done():
                future.set_result(command)

    async def watch_uplink(self, silent_s_max: float) -> NoReturn:
        """An uplink that says nothing for so long is not there, and no officer can be reached through it."""
        while True:
            self._uplink_told.clear()
            try:
                async with asyncio.timeout(silent_s_max):
                    await self._uplink_told.wait()
            except TimeoutError:
                if self._status.snapshot()["uplink"] == "up":
                    log.error("the uplink is silent", seconds=silent_s_max)
                    self._emit(ev.UplinkLost())

    async def handle(self, request: Request, peer: Peer) -> Answer | AsyncIterator[Answer]:
        """See `gated.control_socket.Handler`."""
        match request:
            case control.Status():
                return self._status.snapshot()
            case control.Watch():
                return self._status.watch()
            case control.UplinkState(up):
                self._uplink_told.set()
                if up != (self._status.snapshot()["uplink"] == "up"):  # it is told again and again
                    self._emit(ev.UplinkReady() if up else ev.UplinkLost())
                return {}
            case control.RelayOrder():
                return await self._relayed(request)
            case control.ShowCache():
                return self._cache.view()
            case control.SyncTold():
                self._cache.told(request)
                return {}
            case control.RecordDevices(device, seconds):
                self._serviced("recording")
                return await self._record(device, seconds)
            case control.TestFingers(seconds):
                return self._finger_test(seconds, peer)
            case control.Shutdown(by):
                log.info("shutdown asked for", by=by, user=peer.name)
                self._stop()
                return {"stopping": True}
            case _:
                return await self._local(request, peer)

    async def _local(self, request: Request, peer: Peer) -> Answer:
        """An order of somebody at the lane: recorded under the name they gave and the user that the kernel saw."""
        order = f"local-{secrets.token_hex(8)}"
        event = self._event(request, order, peer)
        log.info("order at the lane", op=request.op, user=peer.name, order=order)
        return await self._order(order, event)

    def _event(self, request: Request, order: str, peer: Peer) -> Event:
        match request:
            case control.ServiceOn(by):
                return ev.ServiceOn(order, _named(by, peer))
            case control.ServiceOff(by):
                return ev.ServiceOff(order, _named(by, peer))
            case control.MoveDoor(door, is_open):
                return ev.ServiceDoor(order, self._status.snapshot()["service"] or peer.name, Door(door), is_open)
            case control.CloseLane(by):
                return ev.CloseLane(order, _named(by, peer))
            case control.OpenLane(by):
                return ev.OpenLane(order, _named(by, peer))
            case control.SetDirection(by, direction):
                return ev.SetDirection(order, _named(by, peer), direction)
            case control.ResetLane(by):
                return ev.Reset(order, _named(by, peer))
            case _:
                raise Refused(Code.BAD_REQUEST, f"the daemon does not know {request.op}")

    async def _relayed(self, request: control.RelayOrder) -> Answer:
        """An order of HQ. The network carried it; here it is believed or not, and the answer is a record either way."""
        authority = self._authority
        try:
            order = orders.verify(
                authority.keys, request.signed, authority.lane, authority.boot, self._clock.now().utc, self._seen
            )
        except OrderRefused as no:
            log.warning("order refused", why=no.why)
            self._refused(_name_of(request.signed), no.why)
            return {"accepted": False, "why": no.why}
        self._seen.remember(order)
        return await self._order(order.order, _ordered(order))

    async def _order(self, order: str, event: Event) -> Answer:
        future: asyncio.Future[cmd.Answer] = asyncio.get_running_loop().create_future()
        self._waiting[order] = future
        self._emit(event)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                answer = await future
        except TimeoutError:
            raise Refused(Code.BUSY, "the lane has not carried it out yet; its record will say") from None
        finally:
            self._waiting.pop(order, None)
        return {"order": order, "accepted": answer.accepted, "why": answer.why}

    def _serviced(self, what: str) -> None:
        if self._status.snapshot()["service"] is None:
            raise Refused(Code.REFUSED, f"{what} works only in service mode: gated service on --technician NAME")

    def _finger_test(self, seconds: float, peer: Peer) -> AsyncIterator[Answer]:
        state = self._status.snapshot()["devices"].get(ev.Device.FINGERPRINT.value)
        if state is not None:
            self._serviced("a test")
        if state == "lost":
            why = "the fingerprint reader is lost: gated check says what to do, the lane's log why"
            raise Refused(Code.REFUSED, why)
        log.info("fingerprint reader is tested", user=peer.name, seconds=seconds)
        return self._test_fingers(seconds)


def _named(by: str, peer: Peer) -> str:
    """As it goes into records: who they say they are, cut where it is too long, and who the kernel says they are."""
    user = f" ({peer.name[:32]})"
    return by[: CODE_MAX - len(user)] + user


def _name_of(signed: bytes) -> str:
    """What the order calls itself, for the record that refuses it; it is not believed in anything else."""
    try:
        return orders.read(signed).order
    except OrderRefused:
        return "unreadable"


def _ordered(order: orders.Order) -> Event:
    by = order.officer
    ticket = order.ticket or 0
    match order.action:
        case Action.OPEN:
            return ev.OfficerOpens(order.order, by, ticket)
        case Action.REFUSE:
            return ev.OfficerRefuses(order.order, by, ticket)
        case Action.RETRY:
            return ev.OfficerRetries(order.order, by, ticket)
        case Action.CLOSE_LANE:
            return ev.CloseLane(order.order, by)
        case Action.OPEN_LANE:
            return ev.OpenLane(order.order, by)
        case Action.DIRECTION:
            return ev.SetDirection(order.order, by, order.args["direction"])
        case Action.RESET:
            return ev.Reset(order.order, by)
