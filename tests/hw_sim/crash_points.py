"""One point of `crash-sync`: a sync is killed or its disk fails there, a lane looks on, and everything is held against
what HQ ever had; then a new sync must come to HQ's head by itself."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.hw_sim import victim
from tests.hw_sim.shim import Arm, Call, How, told
from tests.hw_sim.stages import NAME, STAGES, Stage, Stages
from tests.hw_sim.victim import Child, View

RECOVERY_S_MAX = 5.0
TRIES = 4
"""A call that one run made may not come in another: then another point is drawn."""
PROCESS_S = 2.5
"""About what the whole process needs from its start to being current."""

KINDS = {
    "kill at a call": 0.42,
    "kill any moment": 0.18,
    "kill the process": 0.05,
    "EIO": 0.19,
    "ENOSPC": 0.16,
}
"""What befalls a sync, and how many of all points."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """From one of HQ's moments to the next. `calls`: what a sync does to its files that nothing happens to."""

    before: Stage | None
    after: Stage
    calls: tuple[Call, ...] = ()
    files: tuple[str, ...] = ()
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Point:
    """What is to befall which sync. `alone`: no lane reads meanwhile, as where the whole machine dies."""

    number: int
    scenario: int
    kind: str
    label: str
    arm: Arm
    delay_s: float
    alone: bool


@dataclass
class Result:
    """What came of a point. `failed` is empty where all is well."""

    number: int
    kind: str
    scenario: str
    doing: str
    """What the sync was doing when it befell it."""
    file: str = ""
    old: int = 0
    between: int = 0
    """At a whole segment between the old and the new state."""
    new: int = 0
    mixed: int = 0
    recovery_s: float = 0.0
    caught_s: float = 0.0
    caught: bool = False
    looked: int = 0
    busy: int = 0
    failed: list[str] = field(default_factory=list)


class Missed(Exception):
    """The point was not reached: the sync was done before."""


class Yard:
    """Where points are tried: HQ's stages at `url`, a lane's store at each of them, and room for one more store."""

    def __init__(self, folder: Path, stages: Stages, url: str) -> None:
        self.folder, self.stages, self.url = folder, stages, url
        self.scenarios: list[Scenario] = []

    def prepare(self) -> None:
        """Follows HQ from stage to stage with a sync that nothing happens to: the stores, and what it did to files."""
        folder = self.store("")
        folder.mkdir()
        before = None
        for stage in self.stages.stages:
            store, log = self.store(stage.name), self.folder / f"{stage.path}.log"
            shutil.copytree(folder, store)
            start = time.monotonic()
            child = self._victim(store, stage, log, Arm())
            said = [child.line(), child.line()]
            took_s = time.monotonic() - start
            if child.end() or not said[1].get("well"):
                raise RuntimeError(f"a sync that nothing happens to fails at {stage.name}: {said}")
            self.scenarios.append(Scenario(before, stage, tuple(told(log)), files_in(store), took_s))
            wrong = [view.wrong for view in victim.seen(store, self.stages) if view.wrong]
            if wrong:
                raise RuntimeError(f"a sync that nothing happens to goes wrong at {stage.name}: {wrong}")
            folder, before = store, stage

    def store(self, stage: str) -> Path:
        """The lane's store once it came to a stage."""
        return self.folder / f"store-{STAGES.index(stage) if stage else 'empty'}"

    def _victim(self, store: Path, stage: Stage, log: Path, arm: Arm) -> Child:
        announcement = self.stages.folder / stage.path / "announcement"
        payload = announcement.read_bytes() if stage.name == "announced" else None
        return victim.forked(victim.victim(store, self._url(stage), self.stages.root, log, arm, payload))

    def _url(self, stage: Stage) -> str:
        return f"{self.url}/{stage.path}"

    # -- which points

    def points(self, count: int, seed: int) -> list[Point]:
        """So many, spread over what befalls, over what the sync does, and over its calls."""
        dice = random.Random(f"crash-sync {seed}")
        found: list[Point] = []
        kinds = [kind for kind, share in KINDS.items() for _ in range(max(1, round(share * count)))]
        for kind in kinds:
            labels = self._labels(kind)
            turn = sum(point.kind == kind for point in found)
            found.append(self.draw(len(found), kind, labels[turn % len(labels)], dice))
        while len(found) < count:
            found.append(self.draw(len(found), "kill at a call", dice.choice(self._labels("kill at a call")), dice))
        return found[:count] if count >= len(KINDS) else found

    def _fitting(self, kind: str) -> Iterator[tuple[int, Call]]:
        for number, scenario in enumerate(self.scenarios):
            for call in scenario.calls:
                if kind != "ENOSPC" or call.call in ("write", "pwrite", "open", "mkdir"):
                    yield number, call

    def _labels(self, kind: str) -> list[str]:
        return sorted({call.label for _, call in self._fitting(kind)})

    def draw(self, number: int, kind: str, label: str, dice: random.Random) -> Point:
        """A point of a kind, while the sync does what `label` says."""
        fitting = [each for each in self._fitting(kind) if each[1].label == label]
        scenario = dice.choice(sorted({number for number, _ in fitting}))
        call = dice.choice([call for number, call in fitting if number == scenario])
        writes = call.call in ("write", "pwrite") and call.size > 1
        arm, delay_s = Arm(), 0.0
        match kind:
            case "kill at a call":
                hows = [How.KILL_BEFORE, How.KILL_AFTER] + [How.KILL_HALF] * (2 * writes)
                arm = Arm(dice.choice(hows), label, call.nth)
            case "EIO":
                arm = Arm(How.FAIL, label, call.nth, errno.EIO, for_ever=dice.random() < 0.5)
            case "ENOSPC":
                how = How.HALF_THEN_FAIL if writes and dice.random() < 0.5 else How.FAIL
                arm = Arm(how, label, call.nth, errno.ENOSPC, for_ever=how is How.HALF_THEN_FAIL or dice.random() < 0.7)
            case "kill any moment":
                delay_s = dice.uniform(0.0, self.scenarios[scenario].took_s)
            case _:
                delay_s = dice.uniform(0.3, PROCESS_S)
        return Point(number, scenario, kind, label, arm, delay_s, alone=dice.random() < 0.5)

    # -- one point

    def tried(self, point: Point, worker: int, seed: int) -> Result:
        """What comes of a point; where it is not reached, of another one like it."""
        dice = random.Random(f"crash-sync {seed} again {point.number}")
        for _ in range(TRIES):
            try:
                return self._tried(point, worker)
            except Missed:
                point = self.draw(point.number, point.kind, point.label, dice)
        return self._result(point, failed=[f"not reached in {TRIES} tries"])

    def _result(self, point: Point, **more: Any) -> Result:
        doing = point.label if point.arm.at > 0 else "any"
        return Result(point.number, point.kind, self.scenarios[point.scenario].after.name, doing, **more)

    def _tried(self, point: Point, worker: int) -> Result:
        scenario, result = self.scenarios[point.scenario], self._result(point)
        store, log = self.folder / f"lane-{worker}", self.folder / f"log-{worker}"
        shutil.rmtree(store, ignore_errors=True)
        log.unlink(missing_ok=True)
        shutil.copytree(self.store(scenario.before.name if scenario.before else ""), store)
        reader = None if point.alone else victim.forked(victim.lane(store, self.stages))
        try:
            if point.kind == "kill the process":
                self._process(point, scenario, store, result)
            elif point.arm.errno:
                self._failing(point, scenario, store, log, result)
            else:
                self._killed(point, scenario, store, log, result)
        finally:
            if reader is not None:
                self._lane_ends(reader, scenario, result)
        self._current(scenario, store, result)
        if result.recovery_s > RECOVERY_S_MAX:
            result.failed.append(f"recovery took {result.recovery_s:.1f} s")
        return result

    def _killed(self, point: Point, scenario: Scenario, store: Path, log: Path, result: Result) -> None:
        child = self._victim(store, scenario.after, log, point.arm)
        child.line()
        if not point.arm.at > 0:
            time.sleep(point.delay_s)
            child.kill()
        said = child.line()
        died = child.end()
        if "crashed" in said:
            result.failed.append(f"the sync crashed: {said['crashed']}")
        if died != -signal.SIGKILL or said:
            raise Missed
        self._befell(log, result)
        self._whole(scenario, store, result)
        again = victim.forked(victim.recovering(store, self._url(scenario.after), self.stages.root))
        self._recovered(again, result)

    def _failing(self, point: Point, scenario: Scenario, store: Path, log: Path, result: Result) -> None:
        child = self._victim(store, scenario.after, log, point.arm)
        child.line()
        said = child.line()
        if "crashed" in said or not said:
            child.end()
            result.failed.append(f"the sync crashed: {said.get('crashed', 'it hung, or died')}")
        else:
            if said["broken"]:
                self._befell(log, result, point.arm)
                self._whole(scenario, store, result)
            if said["ended"]:
                child.end()
                child = victim.forked(victim.recovering(store, self._url(scenario.after), self.stages.root))
            else:
                child.go()
            self._recovered(child, result)
            if not said["broken"]:
                raise Missed

    def _befell(self, log: Path, result: Result, arm: Arm = Arm()) -> None:  # noqa: B008
        calls = [call for call in told(log) if not arm.during or (call.label == arm.during and call.nth >= arm.at)]
        if calls:
            call = calls[0 if arm.during else -1]
            result.doing, result.file = call.label, f"{call.call} {call.file}"

    def _recovered(self, child: Child, result: Result) -> None:
        said = child.line()
        child.end()
        result.caught = bool(said.get("well"))
        if not result.caught:
            result.failed.append(f"it does not catch up: {said.get('crashed') or said.get('why', 'it hung, or died')}")
            return
        result.recovery_s = max(result.recovery_s, said["ready_s"])
        result.caught_s = said["caught_s"]

    def _process(self, point: Point, scenario: Scenario, store: Path, result: Result) -> None:
        """The whole `gated sync`, started and killed as the service manager would."""
        conf = self._lane_toml(scenario.after, store)
        command = [sys.executable, "-m", "gated.sync", "--config", str(conf)]
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        log = conf.with_suffix(".log")
        with log.open("wb") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
            time.sleep(point.delay_s)
            process.kill()
        Path(f"{store}.sock").unlink(missing_ok=True)
        self._whole(scenario, store, result)
        start = time.monotonic()
        with log.open("wb") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
            while time.monotonic() - start < 30 and not result.caught:
                time.sleep(0.1)
                result.caught = self._at_head(scenario, store)
            result.caught_s = time.monotonic() - start
            while time.monotonic() - start < 30 and not Path(f"{store}.sock").is_socket():
                time.sleep(0.05)  # before it could be told to stop, it would die of it
            process.terminate()
            if process.wait() != 0:
                result.failed.append(f"the process ended with {process.returncode}")
        if not result.caught:
            result.failed.append(f"the process does not catch up in 30 s: {log.read_text()[-500:]}")

    def _lane_toml(self, stage: Stage, store: Path) -> Path:
        site, _, lane = NAME.partition("/")
        root, conf = self.folder / "root.json", self.folder / f"{store.name}.toml"
        root.write_bytes(self.stages.root)
        conf.write_text(
            f'[lane]\nid = "{lane}"\nsite = "{site}"\n[store]\ndir = "{store}"\n[control]\nsocket = "{store}.lane"\n'
            '[keys]\ncache = "k"\njournal = "k"\nhq_public = "k"\norders_public = "k"\nreceipts_public = "k"\n'
            '[uplink]\nhost = "localhost"\n'
            f'[sync]\nurl = "{self._url(stage)}"\nroot = "{root}"\nsocket = "{store}.sock"\ninterval_s = 1\n'
        )
        return conf

    # -- what must be

    def _whole(self, scenario: Scenario, store: Path, result: Result) -> None:
        """Each partition is at one of HQ's states, not before the old one, as a lane finds it that starts now."""
        for view in victim.seen(store, self.stages):
            before = scenario.before.heads[view.partition] if scenario.before else (0, 0)
            head, here = scenario.after.heads[view.partition], (view.epoch, view.serial)
            if view.wrong or not before <= here <= head:
                result.mixed += 1
                result.failed.append(f"{view.partition}: {view.wrong or f'at {here}, was at {before}'}")
            elif here == before:
                result.old += 1
            elif here == head:
                result.new += 1
            else:
                result.between += 1
            result.recovery_s = max(result.recovery_s, view.open_s)
        if policy_in(store) not in (scenario.after.policy, scenario.before.policy if scenario.before else b""):
            result.mixed += 1
            result.failed.append("the signed policy is neither the old nor the new one")

    def _at_head(self, scenario: Scenario, store: Path) -> bool:
        there = standing(victim.seen(store, self.stages)) == dict(scenario.after.heads)
        return there and policy_in(store) == scenario.after.policy

    def _current(self, scenario: Scenario, store: Path, result: Result) -> None:
        """Everything is as after a sync that nothing happened to: nothing lacks, and nothing is left lying about."""
        views = victim.seen(store, self.stages)
        result.failed += [f"afterwards, {view.partition}: {view.wrong}" for view in views if view.wrong]
        if standing(views) != dict(scenario.after.heads):
            result.failed.append(f"afterwards it is at {standing(views)}, and HQ at {dict(scenario.after.heads)}")
        if policy_in(store) != scenario.after.policy:
            result.failed.append("afterwards the signed policy is not HQ's")
        if (here := set(files_in(store))) != set(scenario.files):
            left, lacks = here - set(scenario.files), set(scenario.files) - here
            result.failed.append(f"afterwards there are files {sorted(left)} too many, {sorted(lacks)} lack")

    def _lane_ends(self, reader: Child, scenario: Scenario, result: Result) -> None:
        time.sleep(0.05)
        reader.go()
        met = reader.line()
        reader.end()
        if "looked" not in met:
            result.failed.append(f"the lane crashed: {met.get('crashed', 'it hung, or died')}")
            return
        result.looked, result.busy = met["looked"], met["failed"].pop("busy", 0)
        result.failed += [f"the lane met: {what}" for what in met["wrong"]]
        result.failed += [f"a look-up failed: {why}, {count} times" for why, count in met["failed"].items()]


def standing(views: Sequence[View]) -> dict[str, tuple[int, int]]:
    """Partition -> (epoch, serial)."""
    return {view.partition: (view.epoch, view.serial) for view in views}


def policy_in(store: Path) -> bytes:
    """The signed file in a store; b"": there is none."""
    policy = store / "signed" / "policy" / "tw.toml"
    return policy.read_bytes() if policy.exists() else b""


def files_in(store: Path) -> tuple[str, ...]:
    """What lies in a store, but for what SQLite makes beside an open database."""
    names = (path.relative_to(store).as_posix() for path in store.rglob("*"))
    return tuple(sorted(name for name in names if not name.endswith(("-wal", "-shm"))))


def as_json(result: Result) -> Mapping[str, Any]:
    """To be sent to another process."""
    return asdict(replace(result, failed=[text[-900:] for text in result.failed[:3]]))
