"""Outlets: every command goes to the one part that carries it out. Dispatch never waits; answers are events."""

from collections.abc import Callable

import structlog

from drivers.base import Actuator, Emit
from gated.daemon.fingers import Fingers
from gated.daemon.lookup import LookUp
from gated.daemon.matcher import Matcher
from gated.daemon.pictures import Pictures
from gated.daemon.records import Facts
from gated.daemon.writer import Job, Writer
from gated.icao.check import Check
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.commands import Command, Outcome
from gated.lane.events import Now
from gated.lane.evidence import Decision
from gated.store.crossings import Crossing, Parts
from gated.wire.facts import Fact
from gated.wire.rows import of_document, of_subject

log = structlog.get_logger()


class Outlets:
    """`heard`: told of every command, for those who watch the lane; it may not keep what is personal."""

    def __init__(
        self,
        *,
        emit: Emit,
        door: Actuator,
        indicator: Actuator | None,
        look_up: LookUp,
        matcher: Matcher,
        fingers: Fingers,
        pictures: Pictures,
        writer: Writer,
        facts: Facts,
        heard: Callable[[Command, Now], None],
    ) -> None:
        self._emit = emit
        self._door, self._indicator = door, indicator
        self._look_up, self._matcher, self._fingers = look_up, matcher, fingers
        self.pictures = pictures
        self._writer, self._facts = writer, facts
        self._heard = heard
        self._ticket: int | None = None
        self._whose: dict[int, tuple[Parts, ...]] = {}
        """Person and document of a recorded ticket, as far as they are known."""

    def dispatch(self, command: Command, now: Now) -> None:
        """Have it done. A command that nothing here knows is a bug of ours."""
        self._heard(command, now)
        match command:
            case cmd.RequestOpen() | cmd.WithdrawOpen():
                self._door.do(command)
            case cmd.Indicate():
                if self._indicator is not None:
                    self._indicator.do(command)
            case cmd.Prompt():
                pass  # shown by whoever watches the lane; displays and voices are drivers of their own
            case cmd.ReadChip(ticket, ask):
                # No chip reader is configured: the evidence says so, and the policy what may be done without it.
                none = Check.NOT_SUPPORTED
                self._emit(ev.ChipRead(ticket, ask, none, none, none))
            case cmd.LookUp():
                self._look_up.look_up(command, now.utc)
            case cmd.ReadFlags():
                self._look_up.read_flags(command)
            case cmd.Watch(ticket, side):
                # Remembered at once: after a crash somebody was on the way, and from where.
                self._ticket = ticket
                self._writer.add(Job(now.utc, ticket=ticket, note=("came_from", side.value)))
                self._matcher.watch(ticket)
            case cmd.CompareFace():
                self._matcher.compare(command)
            case cmd.CompareFinger():
                self._fingers.compare(command)
            case cmd.EndFinger(ticket):
                self._fingers.rest(ticket)
            case cmd.Record():
                self._record(command, now)
            case cmd.Settle():
                self._settle(command, now)
            case cmd.KeepPicture():
                self.pictures.keep(command, now)
            case cmd.Forget(ticket):
                self._look_up.forget(ticket)
                self._matcher.forget(ticket)
                self._fingers.forget(ticket)
                self.pictures.forget(ticket)
                self._whose.pop(ticket, None)
                self._ticket = None
            case cmd.Alarm() | cmd.CallOfficer() | cmd.Answer():
                fact = self._facts.of(command, self._ticket)
                self._writer.add(Job(now.utc, fact))
            case _:
                raise AssertionError(f"no outlet knows {type(command).__name__}")

    def _record(self, command: cmd.Record, now: Now) -> None:
        self._ticket = command.ticket
        traveller, document = command.evidence.traveller, command.evidence.document
        person = () if traveller is None else (of_subject(traveller.subject),)
        shown = () if document is None else (of_document(document.issuer, document.number),)
        self._whose[command.ticket] = (*person, *shown)
        # A grant that could not be made durable was not given: it is not written later. A referral was, and is.
        keep = command.verdict.decision is not Decision.GRANT
        fact = self._facts.of(command, command.ticket)
        side = ("came_from", command.came_from.value)
        self._writer.add(Job(now.utc, fact, answer=(command.ticket, command.ask), keep=keep, note=side))

    def _settle(self, command: cmd.Settle, now: Now) -> None:
        whose = self._whose.get(command.ticket)
        crossing = None
        if command.outcome is Outcome.CROSSED and whose:
            crossing = Crossing(command.direction, now.utc, whose)
        self._writer.add(Job(now.utc, self._facts.of(command, command.ticket), crossing=crossing))

    def tell(self, fact: Fact, now: Now) -> None:
        """A fact of the shell's own."""
        self._writer.add(Job(now.utc, fact))
