"""The story of `demo --story`: HQ learns something, and how many seconds later the lane acts on it. Scene by scene.

HQ's part is typed at HQ (`tests.hw_sim.headquarters`); that the lane knows is looked up in the lane's own cache files,
as the lane does it; what became of a passenger is what HQ received as the record.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from gated.hq.keys import secret
from gated.store.cache import Enrolments
from gated.store.cachefile import generations
from gated.store.sql import StoreError
from gated.wire.rows import CONTROL, PARTITIONS, PEOPLE
from tests.hw_sim.cachefiles import newest
from tests.hw_sim.cast import Truth
from tests.hw_sim.crew import CrewError
from tests.hw_sim.gallery import Person
from tests.hw_sim.headquarters import Office, Typed
from tests.hw_sim.papers import Paper
from tests.hw_sim.site import LANE, SITE, Plan
from tests.hw_sim.visits import VISITS, Role, papers

URGENT_S, ORDINARY_S, BAN_S = 10.0, 90.0, 5.0
"""The longest that it may take from the command's beginning until the lane knows."""
LIFT_S = ORDINARY_S
LOOK_S = 0.03
VISIT_S_MAX = 120.0
GIVEN_UP_S = 30.0
"""So long after its limit something is not waited for any more."""
FLAG = "exit_ban"


@dataclass(frozen=True, slots=True)
class Scene:
    """What HQ did, how long it took until the lane knew, and who then came. `command_s`: of the command at HQ alone;
    `seconds`: from its beginning until the lane's cache had it; None: not in time, or nothing was done."""

    number: int
    what: str
    visit: str
    command_s: float | None = None
    seconds: float | None = None
    limit_s: float | None = None
    well: bool = True
    """False: something happened that must not, whatever became of the passenger."""


def judged(scene: Scene, tickets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of the table. `tickets`: as `Trace.as_dict` has them. `right`: known in time, and the passenger was treated
    as they were to be, by the lane alone."""
    visit = VISITS[scene.visit]
    mine = [each for each in tickets if each["name"] == scene.visit]
    decision, reason = (mine[-1]["decision"], mine[-1]["reason"]) if mine else (None, None)
    if visit.truth is Truth.GENUINE:
        treated = [each["decision"] == "grant" and each["by"] is None for each in mine]
    else:
        treated = [each["decision"] != "grant" and each["reason"] == visit.reason for each in mine]
    in_time = scene.limit_s is None or (scene.seconds is not None and scene.seconds <= scene.limit_s)
    right = scene.well and in_time and bool(treated) and all(treated)
    return asdict(scene) | {"decision": decision, "reason": reason, "right": right}


# -- what the lane knows -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """Something that is waited for. `mono`: when it was there first."""

    question: Callable[[Enrolments], bool]
    there: threading.Event = field(default_factory=threading.Event)
    mono: float = 0.0


class Lookout(threading.Thread):
    """Looks into the lane's cache files as the lane does, many times a second. As a context manager."""

    def __init__(self, store: Path, lane_private: bytes, lane: str) -> None:
        super().__init__(daemon=True)
        self._store, self._private, self._lane = store, lane_private, lane
        self._seen: list[Seen] = []
        self._end = threading.Event()

    def expect(self, question: Callable[[Enrolments], bool]) -> Seen:
        """From now on look for this."""
        seen = Seen(question)
        self._seen.append(seen)
        return seen

    def run(self) -> None:
        cache, paths = None, []
        while not self._end.wait(LOOK_S):
            waiting = [seen for seen in self._seen if not seen.there.is_set()]
            if not waiting:
                continue
            try:
                found = [max(generations(self._store, name).items(), default=None) for name in sorted(PARTITIONS)]
                if cache is None or found != paths:
                    if cache is not None:
                        cache.close()
                    cache = None
                    cache, paths = self._opened(), found
                for seen in waiting:
                    if seen.question(cache):
                        seen.mono = time.monotonic()
                        seen.there.set()
            except (StoreError, ValueError):
                continue  # no generation yet, or it goes just now
        if cache is not None:
            cache.close()

    def _opened(self) -> Enrolments:
        return Enrolments(*(newest(self._store, name, self._private, self._lane) for name in (PEOPLE, CONTROL)))

    def __enter__(self) -> "Lookout":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


# -- the scenes ----------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """The demonstration ends before the story does."""


class Story(threading.Thread):
    """Plays every scene; `scenes` grows. `tell`: a line for the simulator. What ended it too early is in `failed`."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        everybody: Sequence[Person],
        office: Office,
        broker: Sequence[str],
        tell: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(daemon=True)
        self.scenes: list[Scene] = []
        self.failed: CrewError | None = None
        self._plan, self._office, self._broker, self._tell, self._say = plan, office, broker, tell, say
        self._lookout = Lookout(folder / "store", secret(folder / "keys" / f"{LANE}.key"), f"{SITE}/{LANE}")
        self._photo = {player.role: everybody[player.person].enrolled for player in plan.players}
        self._papers = {each.role: papers(each.role, each.person, plan.seed, plan.day) for each in plan.players}
        self._subjects = {player.role: player.subject for player in plan.players}
        self._heard: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._halted = threading.Event()

    def heard(self, event: dict[str, Any]) -> None:
        """A line of the simulator."""
        self._heard.put(event)

    def stop(self) -> None:
        """End it wherever it is, and wait for that."""
        self._halted.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        try:
            with self._lookout:
                self._await("stage", None)
                self._play()
            self._tell("over")
        except CrewError as bad:
            self.failed = bad
        except (Stopped, OSError):
            pass  # whoever ended the simulator knows why

    def _play(self) -> None:
        unhurried = self._enrolled(Role.ORDINARY, urgent=False)
        self._urgent_enrolment()
        self._ban()
        self._ban_while_inside()
        self._renewed()
        self._lost()
        self._await_seen(unhurried[1], ORDINARY_S)  # what is lifted below is published with all that waits
        self._lifted()
        self._visit("ordinary")
        self._add(2, "enrolled without hurry", "ordinary", unhurried, ORDINARY_S)

    def _urgent_enrolment(self) -> None:
        self._visit("unknown")
        self._add(1, "unknown to HQ", "unknown")
        done = self._enrolled(Role.URGENT, urgent=True)
        self._await_seen(done[1], URGENT_S)
        self._visit("enrolled")
        self._add(1, "enrolled urgently", "enrolled", done, URGENT_S)

    def _ban(self) -> None:
        self._visit("unbanned")
        self._add(3, "nothing against them yet", "unbanned")
        done = self._banned(Role.BANNED)
        self._visit("banned")
        self._add(3, "banned", "banned", done, BAN_S)

    def _ban_while_inside(self) -> None:
        self._tell("come inside")
        self._await("shut_in", "inside")
        done = self._banned(Role.INSIDE)
        self._await("left", "inside")
        self._add(4, "banned while between the leaves", "inside", done, BAN_S)

    def _renewed(self) -> None:
        done = self._enrolled(Role.RENEWED, urgent=True, paper=1)
        self._await_seen(done[1], URGENT_S)
        self._visit("renewed")
        self._add(5, "renewed passport, enrolled", "renewed", done, URGENT_S)
        self._visit("unlisted")
        self._add(5, "the next, by the personal number", "unlisted")

    def _lost(self) -> None:
        paper = self._papers[Role.LOST][0]
        done = self._controlled(
            lambda cache: bool(cache.document_flags(*_names(paper))), "ban", "lost", "--document", *_names(paper)
        )
        self._visit("lost")
        self._add(6, "the passport is reported lost", "lost", done, BAN_S)

    def _lifted(self) -> None:
        paper = self._papers[Role.BANNED][0]
        lifted = self._lookout.expect(lambda cache: not _flagged(cache, paper))
        self._office.control("lift", str(self._subjects[Role.BANNED]), FLAG)
        self._visit("unsigned")
        kept = not lifted.there.is_set()
        self.scenes.append(Scene(7, "lifted without the second key", "unsigned", well=kept))
        typed = self._office.publish(*self._broker, lift=True)
        self._await_seen(lifted, LIFT_S)
        self._visit("lifted")
        self._add(7, "lifted with the second key", "lifted", (typed, lifted), LIFT_S)

    # -- at HQ

    def _enrolled(self, role: Role, *, urgent: bool, paper: int = 0) -> tuple[Typed, Seen]:
        shown, photo = self._papers[role][paper], self._photo[role]
        assert photo is not None
        seen = self._lookout.expect(lambda cache: cache.by_document(*_names(shown)) is not None)
        self._say(f"HQ enrols {role.value}{' urgently' if urgent else ''}")
        return self._office.enrol(photo, shown.lines, urgent=urgent), seen

    def _banned(self, role: Role) -> tuple[Typed, Seen]:
        paper = self._papers[role][0]
        return self._controlled(lambda cache: _flagged(cache, paper), "ban", str(self._subjects[role]), FLAG)

    def _controlled(self, question: Callable[[Enrolments], bool], *words: str) -> tuple[Typed, Seen]:
        seen = self._lookout.expect(question)
        self._say("HQ bans")
        return self._office.control(*words), seen

    # -- at the lane

    def _visit(self, name: str) -> None:
        self._tell(f"come {name}")
        self._await("left", name)

    def _await(self, what: str, name: str | None) -> None:
        until = time.monotonic() + VISIT_S_MAX
        while time.monotonic() < until or name is None:
            if self._halted.is_set():
                raise Stopped
            try:
                event = self._heard.get(timeout=0.2)
            except Empty:
                continue  # time to see whether anybody has stopped us
            if event["what"] == what and event.get("body") == name:
                return
        raise CrewError(f"{name} has not {what} after {VISIT_S_MAX:g} s")

    def _await_seen(self, seen: Seen, limit_s: float) -> None:
        """Whether it came in time is judged in the end."""
        until = time.monotonic() + limit_s + GIVEN_UP_S
        while not seen.there.wait(0.1) and time.monotonic() < until:
            if self._halted.is_set():
                raise Stopped

    def _add(
        self, number: int, what: str, visit: str, done: tuple[Typed, Seen] | None = None, limit_s: float | None = None
    ) -> None:
        if done is None:
            self.scenes.append(Scene(number, what, visit))
            return
        typed, seen = done
        seconds = round(seen.mono - typed.began, 2) if seen.there.is_set() else None
        self.scenes.append(Scene(number, what, visit, round(typed.ended - typed.began, 2), seconds, limit_s))
        self._say(f"scene {number}: the lane knew after {seconds} s (limit {limit_s:g} s)")


def _names(paper: Paper) -> tuple[str, str]:
    return "TWN", paper.number


def _flagged(cache: Enrolments, paper: Paper) -> bool:
    person = cache.by_document(*_names(paper))
    return person is not None and bool(cache.flags(person.subject))
