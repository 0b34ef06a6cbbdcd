"""The lane's process, as its uplink sees it over the control socket."""

from collections.abc import Mapping

import structlog

from gated.control import Client, Refused, RelayOrder, Status, Unavailable, UplinkState
from gated.wire import link, orders
from gated.wire.facts import Part

log = structlog.get_logger()


class Daemon:
    """What was learnt at the last `look`: is it there, which run of it, and what is it made of."""

    def __init__(self, control: Client) -> None:
        self._control = control
        self.up = False
        self.boot = ""
        self.parts: tuple[Part, ...] = ()

    def look(self) -> bool:
        """Ask it. True where it is another run than before."""
        try:
            told = self._control.ask(Status())
            boot = told.get("boot", "")
            self.parts = _parts(told.get("versions"))
            self.up = True
        except (Unavailable, Refused) as bad:
            if self.up:
                log.warning("the lane cannot be asked", why=str(bad))
            boot, self.up = "", False
        another = isinstance(boot, str) and boot != self.boot
        if another:
            self.boot = boot
        return another

    def tell(self, up: bool) -> None:
        """Whether HQ, and so an officer, can be reached."""
        try:
            self._control.ask(UplinkState(up))
        except (Unavailable, Refused) as bad:
            log.debug("the lane was not told", why=str(bad))

    def order(self, signed: bytes) -> link.OrderAnswer:
        """Pass an order on and bring the answer. Nothing is believed or decided here."""
        name, why = "", ""
        try:
            name = orders.read(signed).order
            told = self._control.ask(RelayOrder.of(signed))
            if told.get("accepted") is False:
                why = str(told.get("why") or "refused")
        except (orders.OrderRefused, Refused) as no:
            why = no.why
        except Unavailable:
            why = "lane_unreachable"
        log.info("order", order=name, taken=not why, why=why)
        return link.OrderAnswer(name, not why, why[:200])


def _parts(versions: object) -> tuple[Part, ...]:
    if not isinstance(versions, Mapping):
        return ()
    named = sorted((str(name)[:64], str(version)[:128]) for name, version in versions.items())
    return tuple(Part(name, version) for name, version in named[: link.PARTS_MAX - 1])
