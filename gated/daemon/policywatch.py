"""Which policy is in force: what the lane was installed with, or a newer one that came signed. A lane never goes back.

Sync's process has the network, so it is not believed: the policy office's signature is verified here, on the bytes
that are then read, checked and kept. Where the policy of the highest edition that this lane ever took is no longer
there, the lane stays closed: an older one may let people pass whom the newer one stops."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Protocol

import structlog

from drivers.base import Emit
from gated.control_views import PolicyView
from gated.daemon.plan import PolicyFile
from gated.daemon.policykept import FOLDER, KEPT_MAX, Held, Kept, PolicyRefused, judged, read_bytes
from gated.daemon.workers import Workers
from gated.lane import events as ev
from gated.lane.commands import Alarm, AlarmCode
from gated.lane.rules import Rules
from gated.store.sql import StoreError
from gated.wire import policysign
from gated.wire.facts import Fact, PolicyChanged

log = structlog.get_logger()

LOOK_S: Final = 5.0
"""How often the signed file is looked at: one stat, where nothing changed."""
ALARMS_MAX: Final = 32
"""Whoever has sync's process can put one bad file after the other: so many alarms until a policy is taken."""
CLOSED_BY: Final = "no policy"
"""Who closed the lane, where it has no policy that it may use. No officer's name: those have no blanks."""
NOTE: Final = "policies"


class Offered(Protocol):
    """The lane, as far as the policy goes."""

    rules: Rules
    closed_by: str | None

    def offer(self, rules: Rules) -> None: ...


@dataclass(frozen=True, slots=True)
class _Taken:
    """A policy that was in force here once."""

    edition: int
    digest: str
    version: str


class Policies:
    """What a lane knows of policies it took: the copies, and in its database what each of them was. No event, no clock.

    `note`: as `note` gave it, or None. Raises `StoreError`."""

    def __init__(self, kept: Kept, place: str, note: str | None) -> None:
        self.kept, self.place = kept, place
        try:
            self._taken = {each[0]: _Taken(*each) for each in json.loads(note or "[]")}
        except (ValueError, TypeError, IndexError):
            advice = "the database does not say which policies were in force: set it aside, and publish a new one"
            raise StoreError("policy_note", kept.folder, advice) from None
        self.floor = max([*self._taken, *kept.editions()], default=0)
        """The highest edition that was ever taken, also where only a file or only the database remembers it."""

    @property
    def note(self) -> str:
        """To be given to the next `Policies`."""
        return json.dumps([[each.edition, each.digest, each.version] for each in self._taken.values()])

    def highest(self) -> Held:
        """The kept copy of the highest edition. Raises `PolicyRefused`."""
        held = self.kept.load(self.floor, self.place)
        known = self._taken.get(self.floor)
        if known is not None and known.digest != held.digest:
            raise PolicyRefused(
                "altered", f"the copy of edition {self.floor} in {self.kept.folder} is not what was kept"
            )
        self._remember(held)
        return held

    def check(self, held: Held) -> None:
        """Whether it may follow what was taken. Raises `PolicyRefused`: rollback, edition_reused, version_reused."""
        rules = held.rules
        if rules.edition < self.floor:
            raise PolicyRefused("rollback", f"edition {rules.edition}: this lane had edition {self.floor} already")
        known = self._taken.get(rules.edition)
        if known is not None and known.digest != held.digest:
            raise PolicyRefused(
                "edition_reused", f"edition {rules.edition} was another text: count up with every change"
            )
        for other in self._taken.values():
            if other.version == rules.version and other.edition != rules.edition:
                problem = f"version {rules.version} was edition {other.edition}: records would not tell them apart"
                raise PolicyRefused("version_reused", problem)

    def take(self, held: Held) -> None:
        """Keep it. Raises `StoreError`, taking nothing."""
        self.kept.keep(held)
        self._remember(held)

    def _remember(self, held: Held) -> None:
        rules = held.rules
        self._taken[rules.edition] = _Taken(rules.edition, held.digest, rules.version)
        self.floor = max(self.floor, rules.edition)
        for old in sorted(self._taken)[:-KEPT_MAX]:
            del self._taken[old]


class PolicyWatch:
    """Chooses the policy that the lane starts with, then looks for newer ones. Raises `StoreError`.

    `given`: [policy], and the policy that the lane was installed with; `store`: [store] dir; `note`: what `remember`
    was given for `NOTE` last; `keys`: the policy office's; without one nothing that comes is looked at; `tell`: a fact
    for HQ; `alarm`: for people; `remember`: for the lane's own database."""

    def __init__(
        self,
        lane: Offered,
        given: tuple[PolicyFile, Held],
        store: Path,
        note: str | None,
        keys: tuple[bytes, ...],
        workers: Workers,
        *,
        emit: Emit,
        tell: Callable[[Fact], None],
        alarm: Callable[[Alarm], None],
        remember: Callable[[str, str], None],
    ) -> None:
        settings, installed = given
        self._lane, self._keys, self._workers = lane, keys, workers
        self._signed = store / "signed" / settings.signed
        self._policies = policies_of(store, settings.place, note)
        self._emit, self._tell, self._alarm, self._remember = emit, tell, alarm, remember
        self._at: tuple[int, ...] | None = None
        """The signed file that was judged, as it lay there then."""
        self._refused: PolicyRefused | None = None
        self._alarmed: set[tuple[str, str]] = set()
        self._unkept = False
        self._starts_with: list[PolicyRefused] = []
        self.lacks = False
        """No policy that may be used is at hand: nobody passes."""
        self.held = self._choose(installed)
        """The newest one that was taken: in force, or from the next passenger on."""
        lane.rules = self._in_force = self.held.rules

    def _choose(self, installed: Held) -> Held:
        policies = self._policies
        if not policies.floor:
            policies.take(installed)
            return installed
        held: Held | None = None
        try:
            held = policies.highest()
        except PolicyRefused as no:
            self._starts_with.append(no)
        try:
            if held is None or installed.rules.edition >= held.rules.edition:
                policies.check(installed)
                policies.take(installed)
                held = installed
        except PolicyRefused as no:
            if no.why != "rollback":
                self._starts_with.append(no)
        if held is None:
            self.lacks = True
            if installed.rules.edition not in policies.kept.editions():
                policies.kept.keep(installed)  # the journal names it, though nobody passes by it
        return held or installed

    def started(self, closed: bool) -> None:
        """Call once the lane was told that it has started. `closed`: it was when its last process ended."""
        for no in self._starts_with:
            self._no(no, "start")
        self._remember(NOTE, self._policies.note)
        if self.lacks:
            log.error("no policy may be used: the lane stays closed", edition=self._policies.floor)
            if not closed:
                self._emit(ev.CloseLane(CLOSED_BY, CLOSED_BY))

    def offer(self) -> None:
        """Offer the newest one to the lane."""
        rules = self.held.rules
        self._lane.offer(rules)
        self._emit(ev.PolicyReady(rules.version, rules.edition))
        if not self.lacks and self._lane.closed_by == CLOSED_BY:
            self._emit(ev.OpenLane(CLOSED_BY, CLOSED_BY))

    def stepped(self) -> None:
        """Call after every step of the lane: HQ is told what is in force from now on."""
        if self._lane.rules is not self._in_force:
            was, self._in_force = self._in_force, self._lane.rules
            # An older one than the newest, where that came in the meantime, is in force for this step alone.
            digest = self.held.digest if self.held.rules is self._in_force else ""
            self._tell(PolicyChanged(self._in_force.version, self._in_force.edition, was.version, digest))

    def again(self) -> None:
        """Events were lost: offer it again, where the lane did not hear of it."""
        if self._lane.rules is not self.held.rules or (self._lane.closed_by == CLOSED_BY and not self.lacks):
            self.offer()

    async def run(self) -> NoReturn:
        """Look at what sync brought, until cancelled."""
        while not self._keys:
            await asyncio.Event().wait()
        while True:
            try:
                held = await self._workers.run("store", self._look)
            except StoreError as bad:
                if not self._unkept:
                    log.warning("a policy came and cannot be kept; it is tried again", why=bad.why, what=str(bad))
                self._unkept = True
            except PolicyRefused as no:
                self._refused = no
                self._no(no, str(self._at))
            else:
                if held is not None:
                    self._take(held)
            await asyncio.sleep(LOOK_S)

    def _take(self, held: Held) -> None:
        rules = held.rules
        log.info("policy taken", version=rules.version, edition=rules.edition, sha256=held.digest[:16])
        self.held, self.lacks, self._unkept = held, False, False
        self._alarmed.clear()
        self._remember(NOTE, self._policies.note)
        self.offer()

    def _look(self) -> Held | None:
        """On the worker: the policy that came, where it is a new one and to be taken. Raises `PolicyRefused`,
        `StoreError`."""
        try:
            status = self._signed.lstat()
        except OSError:  # nothing has come yet, or HQ took it away: what is here stays in force
            self._at, self._refused = None, None
            return None
        at = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if at == self._at:
            return None
        self._at, self._refused = at, None
        try:
            data = read_bytes(self._signed)
        except FileNotFoundError:
            self._at = None
            return None
        held = self._believed(data)
        if held.digest == self.held.digest and not self.lacks:
            return None
        self._policies.check(held)
        try:
            self._policies.take(held)
        except StoreError:
            self._at = None
            raise
        return held

    def _believed(self, data: bytes) -> Held:
        """Nobody without the policy office's key reaches the parser."""
        if not any(policysign.verify(key, data) for key in self._keys):
            if policysign.is_signed(data):
                raise PolicyRefused("bad_signature", f"{self._signed} was altered, or signed by another key")
            raise PolicyRefused("unsigned", f"{self._signed} has no signature at its end, or not all of it is here")
        return judged(data, self._signed, self._policies.place)

    def _no(self, no: PolicyRefused, what: str) -> None:
        """One alarm for each file."""
        log.warning("policy refused", why=no.why, what=str(no))
        if len(self._alarmed) < ALARMS_MAX and (no.why, what) not in self._alarmed:
            self._alarmed.add((no.why, what))
            self._alarm(Alarm(AlarmCode.POLICY_REFUSED, no.why))

    def view(self) -> PolicyView:
        """For `status`."""
        now, newest = self._lane.rules, self.held.rules
        return {
            "version": now.version,
            "edition": now.edition,
            "next": newest.version if newest.version != now.version else None,
            "refused": self._refused.why if self._refused else "",
            "lacks": self.lacks,
        }


def policies_of(store: Path, place: str, note: str | None) -> Policies:
    """The policies of the lane whose [store] dir this is. Raises `StoreError`."""
    kept = Kept(store / FOLDER)
    kept.own()
    return Policies(kept, place, note)
