"""A new policy arrives signed: it is refused if anything is wrong with it, takes effect between passengers, survives
kill -9, and records name it (issue 5, must show 5). The whole lane in virtual time, then real processes."""

import asyncio
import hashlib
import json
import os
import re
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from gated.config import load
from gated.daemon.policykept import FOLDER
from gated.daemon.policywatch import ALARMS_MAX, LOOK_S
from gated.daemon.replay import replay
from gated.hq.cli import gated_hq
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.core import State
from gated.policyfile import POLICY_BYTES_MAX
from gated.store.sql import StoreError
from gated.sync.spool import write_whole
from gated.wire import facts, policysign
from tests.hw_sim import virtual
from tests.hw_sim.happenings import Topology
from tests.hw_sim.simlane import POLICY, sim_folder
from tests.hw_sim.website import Website
from tests.lane_rig import Rig, eventually
from tests.sync_rig import Clock, LaneRig
from tests.test_daemon_app import Watched

OFFICE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
THIEF = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
NEXT = Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34)))
FIRST = ("tw-2026.4", 4)


def text(edition: int, version: str = "", *changes: tuple[str, str]) -> bytes:
    """Taiwan's policy as another edition. `changes`: what stands there, and what stands there now."""
    found = POLICY.read_text(encoding="utf-8")
    number = f"edition = {FIRST[1]}\n"
    for before, after in (
        (f'version = "{FIRST[0]}"', f'version = "{version or f"tw-edition-{edition}"}"'),
        (number, f"edition = {edition}\n"),
        *changes,
    ):
        assert found.count(before) >= 1, before
        found = found.replace(before, after, 1)
    return found.encode()


def signed(edition: int, version: str = "", *changes: tuple[str, str], key: Ed25519PrivateKey = OFFICE) -> bytes:
    return policysign.signed(key, text(edition, version, *changes))


STRICT = text(5, "", ("age_years_min = 10", "age_years_min = 120")).split(b"[[examples]]")[0]
"""A policy by which nobody passes, and no examples that say otherwise."""


@dataclass
class Governed(Watched):
    """A lane that takes policies from HQ; `put` is what sync does."""

    office: bytes = field(default_factory=lambda: OFFICE.public_key().public_bytes_raw())

    def _files(self) -> Path:
        path = super()._files()
        (self.folder / "policy.pub").write_bytes(self.office)
        whole = path.read_text()
        assert "[keys]\n" in whole
        path.write_text(whole.replace("[keys]\n", '[keys]\npolicy_public = "policy.pub"\n'))
        return path

    @property
    def arrived(self) -> Path:
        """Where sync puts HQ's policy."""
        return self.folder / "signed" / "policy" / "tw.toml"

    def put(self, data: bytes) -> None:
        """A policy comes, as sync writes it."""
        write_whole(self.arrived, data)

    def kept(self) -> list[int]:
        """The editions that the lane keeps."""
        return sorted(int(path.stem) for path in (self.folder / FOLDER).glob("*.toml"))

    async def seen(self, **policy: Any) -> None:
        """Until `status` says so of the policy."""
        await self.until(lambda: policy.items() <= self.app.status.snapshot()["policy"].items(), 60.0)

    async def taken(self, edition: int) -> None:
        """Until it is in force, or will be from the next passenger on."""
        await self.until(lambda: self.app.policy.held.rules.edition == edition, 60.0)

    async def looked(self) -> None:
        """Until the lane has looked twice more."""
        await asyncio.sleep(2 * LOOK_S + 1.0)

    def in_force(self) -> tuple[str, int]:
        rules = self.app.lane.rules
        return rules.version, rules.edition

    def refusals(self) -> list[str]:
        """What HQ was told of refused policies."""
        return [each.detail for each in self.facts(facts.AlarmRaised) if each.code == "policy_refused"]


def govern(
    folder: Path, script: Callable[[Governed], Coroutine[Any, Any, None]], *, passengers: int = 3, **how: Any
) -> Governed:
    """The story, told to its end; the monitor found nothing wrong with it, and it replays."""
    lane = Governed(5, Topology.MANTRAP, folder, passengers=passengers, **how)
    lane.upsets = lambda _: [script(lane)]
    report = virtual.run(lane.run())
    assert report.clean, report.explanations
    again = replay(folder / "lane.db", load(folder / "lane.toml"))
    assert again.difference is None and again.boots == lane.boots
    return lane


@pytest.fixture
def folder() -> Iterator[Path]:
    with sim_folder() as made:
        yield made


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines
    structlog.reset_defaults()


# -- it is taken ------------------------------------------------------------------------------------------------------


def test_who_is_inside_is_finished_by_the_old_policy_and_the_next_one_is_judged_by_the_new(folder: Path) -> None:
    inside: list[int] = []

    async def script(lane: Governed) -> None:
        await lane.until(lambda: lane.app.lane.state is State.MATCHING)
        assert lane.app.lane.passage is not None
        inside.append(lane.app.lane.passage.ticket)
        held = lane.app.policy.held
        lane.put(policysign.signed(OFFICE, STRICT))
        while lane.app.policy.held is held and lane.app.lane.passage is not None:
            await asyncio.sleep(0.05)
        assert lane.app.lane.passage is not None and lane.app.lane.passage.ticket == inside[0], "still inside"
        assert lane.app.status.snapshot()["policy"] | {"refused": ""} == {
            "version": FIRST[0],
            "edition": 4,
            "next": "tw-edition-5",
            "refused": "",
            "lacks": False,
        }

    # Nobody is so fast: the picture of whoever is inside takes longer than the lane's look at the folder.
    lane = govern(folder, script, passengers=4, timing="face_s = 9.0\nmatch_s = 20.0")
    rules = {each.ticket: each for each in lane.facts(facts.VerdictReached)}
    assert len(rules) >= 4
    for ticket, verdict in rules.items():
        assert verdict.rules == (FIRST[0] if ticket <= inside[0] else "tw-edition-5"), ticket
        if ticket > inside[0]:
            assert verdict.decision == "refer", "nobody is 120 years old"
    assert any(verdict.decision == "grant" for verdict in rules.values())
    digest = hashlib.sha256(STRICT).hexdigest()
    assert lane.facts(facts.PolicyChanged) == [facts.PolicyChanged("tw-edition-5", 5, FIRST[0], digest)]
    [booted] = lane.facts(facts.LaneBooted)
    parts = {each.name: each.version for each in booted.parts}
    assert (parts["policy"], parts["policy_sha256"]) == (FIRST[0], hashlib.sha256(POLICY.read_bytes()).hexdigest())
    assert lane.kept() == [4, 5] and lane.refusals() == []


def test_a_lane_without_the_offices_key_takes_none(folder: Path) -> None:
    async def script(lane: Governed) -> None:
        lane.put(signed(5))
        await lane.looked()
        assert lane.in_force() == FIRST and not lane.refusals()

    lane = Governed(5, Topology.MANTRAP, folder, passengers=1)
    lane._files = lambda: Watched._files(lane)  # type: ignore[method-assign]
    lane.upsets = lambda _: [script(lane)]
    assert virtual.run(lane.run()).clean
    assert lane.in_force() == FIRST and lane.kept() == [4]


def test_the_same_policy_signed_again_is_no_news(folder: Path) -> None:
    async def script(lane: Governed) -> None:
        lane.put(policysign.signed(OFFICE, POLICY.read_bytes()))
        await lane.looked()
        lane.put(signed(6))
        await lane.taken(6)
        lane.put(signed(6))
        await lane.looked()
        assert lane.app.status.snapshot()["policy"]["refused"] == ""

    lane = govern(folder, script, passengers=1)
    assert lane.refusals() == [] and len(lane.facts(facts.PolicyChanged)) == 1


def test_what_cannot_be_kept_is_not_taken_until_it_can(folder: Path, logs: list[Any]) -> None:
    async def script(lane: Governed) -> None:
        await lane.until(lambda: lane.app.lane.state is State.IDLE)
        lane.workers.refuse = True
        lane.put(signed(5))
        await lane.looked()
        assert lane.in_force() == FIRST
        lane.workers.refuse = False
        await lane.taken(5)

    lane = govern(folder, script, passengers=0)
    assert lane.kept() == [4, 5] and lane.refusals() == []
    assert [each["why"] for each in logs if each["event"].startswith("a policy came and cannot be kept")] == [
        "disk_full"
    ]


# -- it is refused ----------------------------------------------------------------------------------------------------


def _altered(data: bytes) -> bytes:
    assert data.count(b"age_years_min = 10") == 1
    return data.replace(b"age_years_min = 10", b"age_years_min = 11")


GAP = text(5).replace(b"[matrix.national]", b"[matrix.somebody]", 1)
REFUSED: dict[str, tuple[str, bytes]] = {
    "nobody signed it": ("unsigned", text(5)),
    "signed with another key": ("bad_signature", signed(5, key=THIEF)),
    "a byte was altered": ("bad_signature", _altered(signed(5))),
    "something follows the signature": ("unsigned", signed(5) + b"fingers_alone = 1\n"),
    "the signature is of an order": (
        "bad_signature",
        text(5) + b"# signature, gated policy v1: " + OFFICE.sign(b"gated order v1\n" + text(5)).hex().encode() + b"\n",
    ),
    "half of it is here": ("unsigned", signed(5)[: len(text(5)) // 2]),
    "nothing is in it": ("unsigned", b""),
    "the matrix has a gap": ("not_whole", policysign.signed(OFFICE, GAP)),
    "an example does not come out": ("not_whole", signed(5, "", ("age_years_min = 10", "age_years_min = 99"))),
    "it does not know the place": (
        "unknown_place",
        policysign.signed(OFFICE, text(5).replace(b"taoyuan_t1", b"taoyuan_t9")),
    ),
    "it is not UTF-8": ("not_whole", policysign.signed(OFFICE, b"# \xff\n" + text(5))),
    "it is no TOML": ("not_whole", policysign.signed(OFFICE, b"version = \n")),
    "it nests without end": ("not_whole", policysign.signed(OFFICE, b"x = " + b"[" * 100_000)),
    "an older one": ("rollback", signed(2)),
    "the same edition, another text": (
        "edition_reused",
        policysign.signed(OFFICE, POLICY.read_bytes() + b"# otherwise\n"),
    ),
    "an old name for another policy": ("version_reused", signed(5, FIRST[0])),
    "too long": ("too_long", policysign.signed(OFFICE, text(5) + b"#" * POLICY_BYTES_MAX)),
}


def test_while_the_office_changes_its_key_the_old_one_and_the_new_are_believed(folder: Path) -> None:
    async def script(lane: Governed) -> None:
        lane.put(signed(5, key=NEXT))
        await lane.taken(5)
        lane.put(signed(6))
        await lane.taken(6)
        lane.put(signed(7, key=THIEF))
        await lane.seen(refused="bad_signature")

    both = b"".join(key.public_key().public_bytes_raw() for key in (OFFICE, NEXT))
    assert govern(folder, script, passengers=0, office=both).kept() == [4, 5, 6]


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_refused_once_and_what_is_right_comes_after(what: str, folder: Path, logs: list[Any]) -> None:
    why, data = REFUSED[what]

    async def script(lane: Governed) -> None:
        lane.put(data)
        await lane.seen(refused=why)
        await lane.looked()
        assert lane.in_force() == FIRST and lane.kept() == [4]
        lane.put(signed(8))
        await lane.taken(8)

    lane = govern(folder, script, passengers=2)
    assert lane.refusals() == [why]
    (line,) = [each for each in logs if each["event"] == "policy refused"]
    assert line["why"] == why and line["what"]
    assert lane.kept() == [4, 8]


def test_the_log_says_where_it_is_wrong(folder: Path, logs: list[Any]) -> None:
    async def script(lane: Governed) -> None:
        lane.put(signed(5, "", ("age_years_min = 10", 'age_years_min = "ten"')))
        await lane.seen(refused="not_whole")

    lane = govern(folder, script, passengers=0)
    (line,) = [each for each in logs if each["event"] == "policy refused"]
    found = re.fullmatch(r'(.*):([0-9]+): \[sizes\] age_years_min: is "ten", must be a whole number', line["what"])
    assert found is not None and found[1] == str(lane.arrived), line["what"]
    assert text(5).splitlines()[int(found[2]) - 1].startswith((b"sizes", b"    { since")), found[2]


@pytest.mark.parametrize("kind", ["symlink", "pipe", "folder"])
def test_what_is_no_plain_file_is_refused(kind: str, folder: Path) -> None:
    async def script(lane: Governed) -> None:
        lane.arrived.parent.mkdir(parents=True)
        if kind == "symlink":
            (lane.folder / "elsewhere.toml").write_bytes(signed(5))
            lane.arrived.symlink_to(lane.folder / "elsewhere.toml")
        elif kind == "pipe":
            os.mkfifo(lane.arrived)  # whoever opened it the usual way would wait for ever
        else:
            lane.arrived.mkdir()
        await lane.seen(refused="not_a_file")
        await lane.looked()
        if kind == "folder":
            lane.arrived.rmdir()
        lane.put(signed(5))
        await lane.taken(5)

    assert govern(folder, script, passengers=1).refusals() == ["not_a_file"]


def test_a_file_that_is_being_written_is_taken_when_it_is_whole(folder: Path) -> None:
    async def script(lane: Governed) -> None:
        data = signed(5)
        lane.arrived.parent.mkdir(parents=True)
        with lane.arrived.open("wb", buffering=0) as file:
            file.write(data[:5000])
            await lane.seen(refused="unsigned")
            file.write(data[5000:])
        await lane.taken(5)

    govern(folder, script, passengers=1)


def test_one_bad_file_after_the_other_raises_so_many_alarms_and_no_more(folder: Path, logs: list[Any]) -> None:
    async def script(lane: Governed) -> None:
        for number in range(ALARMS_MAX + 5):
            lane.put(b"%d" % number)
            await lane.looked()
        lane.put(signed(5))
        await lane.taken(5)
        lane.put(b"again")
        await lane.seen(refused="unsigned")

    lane = govern(folder, script, passengers=0)
    assert lane.refusals() == ["unsigned"] * (ALARMS_MAX + 1)
    assert len([each for each in logs if each["event"] == "policy refused"]) == ALARMS_MAX + 6


# -- it stays ------------------------------------------------------------------------------------------------------


async def restarted(lane: Governed, between: Callable[[], None] = lambda: None) -> None:
    await lane.crash()
    between()
    lane.revive()
    await lane.until(lambda: lane.app.lane.state not in (State.STARTING, State.CLOSED) or lane.app.policy.lacks)


def test_it_survives_a_crash_without_sync_and_the_older_one_stays_refused(folder: Path) -> None:
    async def script(lane: Governed) -> None:
        lane.put(signed(5))
        await lane.taken(5)
        lane.put(signed(6))
        await lane.taken(6)
        await lane.looked()
        await restarted(lane, lane.arrived.unlink)
        assert lane.in_force() == ("tw-edition-6", 6)
        lane.put(signed(5))
        await lane.seen(refused="rollback")
        assert lane.in_force() == ("tw-edition-6", 6)

    lane = govern(folder, script, passengers=0)
    booted = [{part.name: part.version for part in each.parts}["policy"] for each in lane.facts(facts.LaneBooted)]
    assert booted == [FIRST[0], "tw-edition-6"]
    changed = [(each.version, each.previous) for each in lane.facts(facts.PolicyChanged)]
    assert changed == [("tw-edition-5", FIRST[0]), ("tw-edition-6", "tw-edition-5")]


def test_killed_between_keeping_it_and_remembering_it(folder: Path) -> None:
    async def script(lane: Governed) -> None:
        def kept() -> None:
            (lane.folder / FOLDER / "5.toml").write_bytes(signed(5))
            (lane.folder / FOLDER / "6.part").write_bytes(signed(6)[:100])

        await restarted(lane, kept)
        assert lane.in_force() == ("tw-edition-5", 5)
        lane.put(signed(6))
        await lane.taken(6)

    assert govern(folder, script, passengers=1).kept() == [4, 5, 6]


def test_a_newer_one_may_be_installed_and_an_older_one_takes_nothing_back(folder: Path) -> None:
    async def script(lane: Governed) -> None:
        installed = lane.folder / "policy.toml"
        before = installed.read_bytes()
        await restarted(lane, lambda: void(installed.write_bytes(text(7))))
        assert lane.in_force() == ("tw-edition-7", 7)
        await restarted(lane, lambda: void(installed.write_bytes(before)))
        assert lane.in_force() == ("tw-edition-7", 7)
        lane.put(signed(6))
        await lane.seen(refused="rollback")
        changed = text(7) + b"# otherwise\n"
        await restarted(lane, lambda: void(installed.write_bytes(changed)))
        assert lane.app.policy.held.data == text(7), "changed without counting up: the one that was taken holds"

    lane = govern(folder, script, passengers=1)
    assert lane.refusals().count("edition_reused") == 1


def void(_: object) -> None:
    pass


@pytest.mark.parametrize("how", ["gone", "altered", "damaged"])
def test_a_lane_whose_policy_is_gone_stays_closed_until_it_comes_again(how: str, folder: Path) -> None:
    """Never back to an older one, which may let people pass whom the newer one stops."""
    found: list[Any] = []

    def lose(lane: Governed) -> None:
        copy = lane.folder / FOLDER / "5.toml"
        if how == "gone":
            copy.unlink()
        else:
            copy.write_bytes(text(5) + b"# otherwise\n" if how == "altered" else b"\0")
        lane.arrived.unlink()

    async def script(lane: Governed) -> None:
        lane.put(signed(5))
        await lane.taken(5)
        await restarted(lane, lambda: lose(lane))
        assert lane.app.policy.lacks
        await lane.until(lambda: lane.app.lane.state is State.CLOSED)
        opened = len(lane.commands(cmd.RequestOpen))
        lane.app.emit(ev.OpenLane("o1", "hq"))
        await lane.looked()
        assert lane.app.lane.state is State.CLOSED and lane.app.lane.closed_by == "no policy"
        assert len(lane.commands(cmd.RequestOpen)) == opened
        found.append(lane.app.status.snapshot()["policy"])
        await restarted(lane)
        await lane.until(lambda: lane.app.lane.closed_by == "no policy")
        lane.put(signed(4, FIRST[0]))
        await lane.looked()
        assert lane.app.lane.state is State.CLOSED
        lane.put(signed(5))
        await lane.until(lambda: lane.app.lane.state is State.IDLE)
        assert lane.in_force() == ("tw-edition-5", 5) and not lane.app.policy.lacks

    lane = govern(folder, script, passengers=2)
    assert found[0]["lacks"] and lane.refusals()[0] == {"gone": "gone", "altered": "altered"}.get(how, "not_whole")
    answers = {each.order: (each.accepted, each.why) for each in lane.facts(facts.OrderAnswered)}
    assert answers["o1"] == (False, "no_policy")
    assert lane.kept() == [4, 5]


@pytest.mark.parametrize("officer", ["hq", "policy"])
def test_a_lane_that_hq_closed_is_not_opened_by_a_policy(officer: str, folder: Path) -> None:
    """Whatever the officer is called."""

    async def script(lane: Governed) -> None:
        lane.app.emit(ev.CloseLane("o1", officer))
        lane.put(signed(5))
        await lane.taken(5)
        await lane.looked()
        await restarted(lane, (lane.folder / FOLDER / "5.toml").unlink)
        assert lane.app.policy.lacks
        await lane.until(lambda: lane.app.lane.closed_by == "before_restart")
        await lane.seen(version="tw-edition-5", lacks=False)
        await lane.until(lambda: lane.app.lane.state is State.CLOSED)
        await lane.looked()
        assert lane.app.lane.closed_by == "before_restart" and lane.app.lane.state is State.CLOSED
        lane.app.emit(ev.OpenLane("o2", "hq"))

    govern(folder, script, passengers=0)


def test_its_event_may_be_lost(folder: Path) -> None:
    async def script(lane: Governed) -> None:
        lost: list[ev.PolicyReady] = []
        emit = lane.app.queue.emit

        def losing(event: ev.Event) -> None:
            if isinstance(event, ev.PolicyReady) and not lost:
                lost.append(event)
                emit(ev.EventsLost(1))
            else:
                emit(event)

        lane.app.queue.emit = losing  # type: ignore[method-assign]
        lane.put(signed(5))
        await lane.seen(version="tw-edition-5")
        assert lost == [ev.PolicyReady("tw-edition-5", 5)]

    govern(folder, script, passengers=0)


def test_what_its_age_is_called_follows_the_policy(folder: Path) -> None:
    """The cache of this lane is some seconds old: too old for a policy that was made for that."""

    async def script(lane: Governed) -> None:
        await lane.until(lambda: bool(lane.app.cache.states()))
        assert set(lane.app.cache.states().values()) == {"fresh"}
        lane.put(policysign.signed(OFFICE, re.sub(rb"late_s = [0-9]+", b"late_s = 1", text(5))))
        await lane.taken(5)
        assert set(lane.app.cache.states().values()) == {"late"}

    govern(folder, script, passengers=0)


def test_others_may_not_write_to_the_copies(folder: Path) -> None:
    lane = Governed(5, Topology.MANTRAP, folder, passengers=0)
    (folder / FOLDER).mkdir(mode=0o777)
    (folder / FOLDER).chmod(0o777)
    with pytest.raises(StoreError, match="not_ours"):
        virtual.run(lane.run())
    second = folder / "second"
    second.mkdir()
    (second / FOLDER).symlink_to(folder)
    with pytest.raises(StoreError, match="not_ours"):
        virtual.run(Governed(5, Topology.MANTRAP, second, passengers=0).run())


# -- real processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    (made.folder / "policy.pub").write_bytes(OFFICE.public_key().public_bytes_raw())
    made.options["keys"]["policy_public"] = str(made.folder / "policy.pub")
    try:
        yield made
    finally:
        made.close()


def policy_is(rig: Rig, **expected: Any) -> None:
    rig.until(lambda seen: expected.items() <= seen["policy"].items(), 20.0)


def test_a_real_lane_that_is_killed_keeps_it(rig: Rig) -> None:
    known = rig.enrol(rig.passport())
    rig.publish()
    rig.start()
    rig.serves(known)
    write_whole(rig.store / "signed" / "policy" / "tw.toml", signed(5))
    policy_is(rig, version="tw-edition-5", edition=5, refused="")

    def changed() -> list[str]:
        return [fact.version for fact in rig.facts() if isinstance(fact, facts.PolicyChanged)]

    eventually(lambda: changed() == ["tw-edition-5"], 5.0, changed)
    rig.end(signal.SIGKILL)
    (rig.store / "signed" / "policy" / "tw.toml").unlink()
    rig.start()
    policy_is(rig, version="tw-edition-5", edition=5, next=None, lacks=False)
    rig.serves(known)
    write_whole(rig.store / "signed" / "policy" / "tw.toml", signed(2))
    rig.alarmed("policy_refused", "rollback", 20.0)
    stranger = rig.passport()
    rig.reads(stranger)
    assert rig.end() == 0
    judged = [fact for fact in rig.facts() if isinstance(fact, facts.VerdictReached)]
    assert judged[-1].rules == "tw-edition-5" and judged[-1].reason == "holder_is_enrolled"
    assert changed() == ["tw-edition-5"]
    copy = rig.store / FOLDER / "5.toml"
    assert copy.stat().st_mode & 0o777 == 0o600 and copy.parent.stat().st_mode & 0o777 == 0o700
    again = replay(rig.store / "lane.db", load(rig.toml))
    assert again.difference is None and again.boots == 2


def hq(*arguments: object, code: int = 0) -> str:
    """What a gated-hq command says."""
    done = CliRunner().invoke(gated_hq, [str(each) for each in arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_from_the_policy_office_to_the_lane(rig: Rig, tmp_path: Path) -> None:
    """The real commands, repository, server, sync and lane."""
    keys, repo, office = tmp_path / "keys", tmp_path / "repo", tmp_path / "office"
    hq("repo", "keys", keys, "--roots", 1)
    hq("repo", "init", repo, "--keys", keys, "--root-threshold", 1)
    hq("policy", "key", office)
    both = ("--sign", keys / "targets.key", "--sign", keys / "online.key")
    public = ("--public", office / "policy.pub")
    (tmp_path / "tw.toml").write_bytes(text(5))

    rig.options["keys"]["policy_public"] = str(office / "policy.pub")
    rig.start("idle", "closed")
    root = (repo / "metadata" / "1.root.json").read_bytes()
    with Website(repo) as site:
        sync = LaneRig(rig.store, site.url, root, Clock(datetime.now(UTC)))
        try:
            assert "not signed by the key" in hq(
                "policy", "publish", tmp_path / "tw.toml", repo, *public, *both, code=1
            )
            told = hq("policy", "sign", tmp_path / "tw.toml", "--key", office / "policy.key", "--json")
            assert json.loads(told)["edition"] == 5
            assert "never overwritten" in hq(
                "policy", "sign", tmp_path / "tw.toml", "--key", office / "policy.key", code=1
            )
            assert "edition 5" in hq("policy", "publish", tmp_path / "tw-5.toml", repo, *public, *both)
            assert "count edition up" in hq("policy", "publish", tmp_path / "tw-5.toml", repo, *public, *both, code=1)
            sync.sync.once()
            policy_is(rig, version="tw-edition-5", edition=5)

            # Who has HQ's other keys publishes a policy of his own: sync brings it, and the lane does not take it.
            (tmp_path / "his.toml").write_bytes(signed(6, key=THIEF))
            hq("repo", "add", repo, tmp_path / "his.toml", "--as", "policy/tw.toml", *both)
            sync.sync.once()
            assert (rig.store / "signed" / "policy" / "tw.toml").read_bytes() == signed(6, key=THIEF)
            rig.alarmed("policy_refused", "bad_signature", 20.0)
            policy_is(rig, version="tw-edition-5", edition=5, refused="bad_signature")
        finally:
            sync.sync.close()
    assert rig.end() == 0


def test_what_a_lane_would_refuse_is_not_signed(tmp_path: Path) -> None:
    hq("policy", "key", tmp_path)
    bad = tmp_path / "bad.toml"
    for data, said in ((GAP, "matrix"), (text(5, "", ('expect = "', 'expect = "x')), "expects"), (b"\xff", "UTF-8")):
        bad.write_bytes(data)
        assert said in hq("policy", "sign", bad, "--key", tmp_path / "policy.key", code=1)
    assert not list(tmp_path.glob("bad-*.toml"))
    assert "never overwritten" in hq("policy", "key", tmp_path, code=1)


def test_the_signature_is_of_every_byte_before_it() -> None:
    """Each byte of the file counts, and of the signature too."""
    public = OFFICE.public_key().public_bytes_raw()
    data = policysign.signed(OFFICE, b"version = 1\n")
    assert policysign.verify(public, data) and policysign.body_of(data) == b"version = 1\n"
    assert policysign.signed(OFFICE, data) == data, "signing again replaces the signature"
    for at in range(len(data)):
        for bit in range(8):
            other = bytearray(data)
            other[at] ^= 1 << bit
            assert not policysign.verify(public, bytes(other)), (at, bit)
    for cut in range(len(data)):
        assert not policysign.verify(public, data[:cut])
    assert not policysign.verify(public, data + b"\n") and not policysign.verify(bytes(31), data)
    assert policysign.signed(OFFICE, b"x = 1").startswith(b"x = 1\n# signature")
