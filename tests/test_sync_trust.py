"""What a lane believes of HQ's signed repository: every attack on it is refused by its own name, also where the folder
of metadata was wiped, and leaves nothing behind that a good state stumbles over.

HQ is the real one over a real web server; the day is far from this machine's, so nothing can take its clock."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp
from tuf.ngclient import updater as tuf_updater

from gated.hq.repository import Repository, Signers
from gated.hq.signers import public_key
from gated.sync.fetch import Fetcher, Server
from gated.sync.refused import ATTACKS, SyncRefused, Why
from gated.sync.trust import Floor, Trust, Trusted
from gated.wire.bundle import JUMP_MAX, SCHEMA, Base, Head, SignedTip, Tip, chain_start, target_path, tip_message
from gated.wire.bundle import Snapshot as BaseSnapshot
from gated.wire.codec import encode
from gated.wire.rows import CONTROL, PARTITIONS, PEOPLE
from tests.hw_sim import website as w

START = datetime(2031, 5, 4, 3, 0, tzinfo=UTC)
DAY = timedelta(days=1)
PRIVATE = {name: bytes([n]) * 32 for n, name in enumerate(("root", "root2", "t", "online", "lift", "new", "evil"), 1)}


def keys(*names: str) -> Signers:
    return Signers(PRIVATE[name] for name in names)


def public(name: str) -> bytes:
    return keys(name).publics()[0]


HQ = keys("root", "root2", "t", "online", "lift")


def create(folder: Path, signers: Signers = HQ) -> Repository:
    root, root2, targets, online, lift = signers.publics()
    return Repository.create(
        folder, signers, root=[root, root2], root_threshold=2, targets=[targets], online=online, lift=lift, now=START
    )


class Scene:
    """HQ, its web server, and one lane."""

    def __init__(self, folder: Path, site: w.Website) -> None:
        self.folder, self.site = folder, site
        self.hq = create(folder / "hq")
        self.now = START
        self.serial = 0
        self.installed = self.hq.root
        self.floor = Floor()
        self.online = HQ
        self.server = Server(site.url, connect_s_max=2, read_s_max=0.4)
        self.publish()
        self.lane = self.started()

    def started(self) -> Trust:
        """The lane's trust, as when its process starts."""
        fetcher = Fetcher(self.server)
        return Trust(self.folder / "trust", self.installed, fetcher, lambda: self.now)

    def publish(self, **more: Any) -> None:
        """A minute later there is something new. `more`: other fields of the head of people."""
        self.now += timedelta(minutes=1)
        self.serial += 1
        put = {}
        for partition in PARTITIONS:
            put[target_path(partition, "base")] = encode(base(partition))
            put[target_path(partition, "head")] = encode(head(partition, self.serial, self.now))
        if more:
            of_head = {"partition": PEOPLE, "serial": self.serial, "built": self.now, **more}
            put[target_path(PEOPLE, "head")] = encode(head(**of_head))
        self.hq.put(put, self.online, self.now)

    def copy(self, name: str) -> Path:
        """HQ's folder as it is now."""
        return Path(shutil.copytree(self.folder / "hq", self.folder / name))

    def refresh(self) -> Trusted:
        trusted = self.lane.refresh(PARTITIONS, self.floor)
        self.floor = trusted.floor
        return trusted

    def refused(self) -> SyncRefused:
        with pytest.raises(SyncRefused) as refused:
            self.lane.refresh(PARTITIONS, self.floor)
        assert refused.value.advice and refused.value.what, "a technician is told what, and what to do"
        return refused.value

    def wipe(self) -> None:
        shutil.rmtree(self.folder / "trust")
        self.lane = self.started()

    def kept(self) -> dict[str, bytes]:
        """The lane's folder of metadata, but for roots: those are proven by themselves, and kept."""
        found = files(self.folder / "trust")
        return {name: data for name, data in found.items() if "root_history" not in name}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def base(partition: str, epoch: int = 1, snapshot: int = 0) -> Base:
    from_there = BaseSnapshot(snapshot, b"c" * 32, 1, b"m" * 32, 100) if snapshot else None
    return Base(SCHEMA, partition, epoch, b"proof", from_there)


def head(partition: str, serial: int, built: datetime, epoch: int = 1) -> Head:
    return Head(SCHEMA, partition, epoch, serial, chain_start(partition, epoch), built)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with w.Website(tmp_path / "hq") as site:
        yield Scene(tmp_path, site)


# -- the attacks -----------------------------------------------------------------------------------------------------
# Each is arranged on a server (and, where it says so, with a stolen key) after the lane has proven a good state.


def show(scene: Scene, folder: Path) -> None:
    scene.site.folder = folder


def rollback(scene: Scene) -> None:
    show(scene, scene.folder / "old")


def rollback_of_the_timestamp(scene: Scene) -> None:
    scene.site.fault("metadata/timestamp.json", w.Swap("metadata/timestamp.json", scene.folder / "old"))


def rollback_of_a_head_by_a_stolen_key(scene: Scene) -> None:
    scene.hq.put({"people/head.json": encode(head(PEOPLE, 1, scene.now))}, scene.online, scene.now)


def freeze(scene: Scene) -> None:
    scene.now += 2 * DAY


def freeze_of_an_old_state(scene: Scene) -> None:
    show(scene, scene.copy("frozen"))
    scene.now += 30 * DAY


def mix_of_snapshots(scene: Scene) -> None:
    old = newest(scene.folder / "old", "snapshot")
    scene.publish()
    scene.site.fault("metadata/*.snapshot.json", w.Swap(f"metadata/{old}.snapshot.json", scene.folder / "old"))


def mix_of_roles(scene: Scene) -> None:
    old = newest(scene.folder / "old", "people")
    scene.publish()
    scene.site.fault("metadata/*.people.json", w.Swap(f"metadata/{old}.people.json", scene.folder / "old"))


def mix_of_partitions_metadata(scene: Scene) -> None:
    scene.publish()
    other = newest(scene.hq.folder, "control")
    scene.site.fault("metadata/*.people.json", w.Swap(f"metadata/{other}.control.json"))


def mix_of_epochs(scene: Scene) -> None:
    scene.publish(epoch=2)


def mix_of_a_head_before_its_base(scene: Scene) -> None:
    scene.hq.put({"people/base.json": encode(base(PEOPLE, snapshot=99))}, scene.online, scene.now)


def fault(pattern: str, made: w.Fault) -> Callable[[Scene], None]:
    def attack(scene: Scene) -> None:
        scene.publish()
        scene.site.fault(pattern, made)

    return attack


def bit_flip_of_the_timestamp(scene: Scene) -> None:
    scene.publish()
    data = (scene.hq.folder / "metadata/timestamp.json").read_bytes()
    at = data.index(b'"version":') + len('"version":')
    scene.site.fault("metadata/timestamp.json", w.Flip(at))


def endless_root(scene: Scene) -> None:
    (scene.hq.folder / "metadata/2.root.json").write_bytes(scene.installed)
    scene.site.fault("metadata/2.root.json", w.Endless())


def longer(role: str) -> Callable[[Scene], None]:
    def attack(scene: Scene) -> None:
        scene.publish()
        with open(scene.hq.folder / f"metadata/{newest(scene.hq.folder, role)}.{role}.json", "ab") as file:
            file.write(b" " * 100)

    return attack


def wrong_key(scene: Scene) -> None:
    create(scene.folder / "evil", Signers(bytes([n]) * 32 for n in range(101, 106)))
    show(scene, scene.folder / "evil")


def wrong_key_for_the_timestamp(scene: Scene) -> None:
    forge(scene, lambda timestamp, snapshot, people: None, signers=("evil", "evil"))


def fast_forward_of_the_timestamp(scene: Scene) -> None:
    def far(timestamp: Timestamp, snapshot: Snapshot, people: Targets) -> None:
        timestamp.version += JUMP_MAX + 1

    forge(scene, far)


def fast_forward_to_a_snapshot_that_is_not_there(scene: Scene) -> None:
    def far(timestamp: Timestamp, snapshot: Snapshot, people: Targets) -> None:
        timestamp.version += JUMP_MAX + 1
        timestamp.snapshot_meta = MetaFile(1 << 40)

    forge(scene, far)


def fast_forward_of_the_snapshot(scene: Scene) -> None:
    def far(timestamp: Timestamp, snapshot: Snapshot, people: Targets) -> None:
        snapshot.version += JUMP_MAX + 1

    forge(scene, far)


def fast_forward_of_a_role(scene: Scene) -> None:
    def far(timestamp: Timestamp, snapshot: Snapshot, people: Targets) -> None:
        people.version += JUMP_MAX + 1

    forge(scene, far)


def fast_forward_of_a_serial(scene: Scene) -> None:
    scene.publish(serial=scene.serial + 2 * JUMP_MAX)


def fast_forward_of_an_epoch(scene: Scene) -> None:
    epoch = JUMP_MAX + 5
    scene.publish(epoch=epoch)
    scene.hq.put({"people/base.json": encode(base(PEOPLE, epoch=epoch))}, scene.online, scene.now)


def swapped_partition(scene: Scene) -> None:
    scene.publish()
    (other,) = (scene.hq.folder / "targets/control").glob(f"{digest_shown(scene, CONTROL)}.head.json")
    scene.site.fault("targets/people/*.head.json", w.Swap(f"targets/control/{other.name}"))


def swapped_partition_by_a_stolen_key(scene: Scene) -> None:
    scene.publish(partition=CONTROL)


def digest_shown(scene: Scene, partition: str) -> str:
    version = newest(scene.hq.folder, partition)
    signed = Metadata[Targets].from_file(str(scene.hq.folder / f"metadata/{version}.{partition}.json")).signed
    return str(signed.targets[f"{partition}/head.json"].hashes["sha256"])


def newest(folder: Path, role: str) -> int:
    return max(int(path.name.split(".")[0]) for path in (folder / "metadata").glob(f"*.{role}.json"))


def forge(
    scene: Scene,
    change: Callable[[Timestamp, Snapshot, Targets], None],
    signers: tuple[str, str] = ("online", "online"),
) -> None:
    """A next state of the repository as whoever holds keys can make it. `signers`: of timestamp, and of the rest."""
    scene.publish()
    folder = scene.copy("forged")
    metadata = folder / "metadata"
    timestamp = Metadata[Timestamp].from_file(str(metadata / "timestamp.json"))
    snapshot = Metadata[Snapshot].from_file(str(metadata / f"{newest(folder, 'snapshot')}.snapshot.json"))
    people = Metadata[Targets].from_file(str(metadata / f"{newest(folder, 'people')}.people.json"))
    shown = timestamp.signed.snapshot_meta.version
    change(timestamp.signed, snapshot.signed, people.signed)
    for each, name in ((people, signers[1]), (snapshot, signers[1]), (timestamp, signers[0])):
        if each is snapshot:
            data = people.to_bytes()
            snapshot.signed.meta["people.json"] = MetaFile.from_data(people.signed.version, data, ["sha256"])
            (metadata / f"{people.signed.version}.people.json").write_bytes(data)
        if each is timestamp:
            data = snapshot.to_bytes()
            if timestamp.signed.snapshot_meta.version == shown:
                made = MetaFile.from_data(snapshot.signed.version, data, ["sha256"])
                timestamp.signed.snapshot_meta = made
            (metadata / f"{snapshot.signed.version}.snapshot.json").write_bytes(data)
        each.sign(keys(name)[public_key(public(name)).keyid])
    (metadata / "timestamp.json").write_bytes(timestamp.to_bytes())
    show(scene, folder)


TIMESTAMP, SNAPSHOT = "metadata/timestamp.json", "metadata/*.snapshot.json"
ROLE, HEAD = "metadata/*.people.json", "targets/people/*.head.json"

ATTACK: Mapping[str, tuple[Callable[[Scene], None], Why]] = {
    "rollback": (rollback, Why.ROLLED_BACK),
    "rollback of the timestamp": (rollback_of_the_timestamp, Why.ROLLED_BACK),
    "freeze": (freeze, Why.FROZEN),
    "freeze of an old state": (freeze_of_an_old_state, Why.FROZEN),
    "mix-and-match of snapshots": (mix_of_snapshots, Why.MIXED),
    "mix-and-match of roles": (mix_of_roles, Why.MIXED),
    "mix-and-match of partitions' metadata": (mix_of_partitions_metadata, Why.MIXED),
    "mix-and-match of epochs": (mix_of_epochs, Why.MIXED),
    "mix-and-match of a head before its base": (mix_of_a_head_before_its_base, Why.MIXED),
    "bit flip of the timestamp": (bit_flip_of_the_timestamp, Why.WRONG_SIGNATURE),
    "bit flip of the snapshot": (fault(SNAPSHOT, w.Flip(77)), Why.ALTERED),
    "bit flip of a role": (fault(ROLE, w.Flip(77)), Why.ALTERED),
    "bit flip of a head": (fault(HEAD, w.Flip(-20)), Why.ALTERED),
    "truncation of the timestamp": (fault(TIMESTAMP, w.Truncate(200)), Why.TRUNCATED),
    "truncation of the snapshot": (fault(SNAPSHOT, w.Truncate(200)), Why.TRUNCATED),
    "truncation of a role": (fault(ROLE, w.Truncate(200)), Why.TRUNCATED),
    "truncation of a head": (fault(HEAD, w.Truncate(20)), Why.TRUNCATED),
    "cut of a head, again and again": (fault(HEAD, w.Cut(20)), Why.TRUNCATED),
    "wrong key": (wrong_key, Why.WRONG_SIGNATURE),
    "wrong key for the timestamp": (wrong_key_for_the_timestamp, Why.WRONG_SIGNATURE),
    "endless root": (endless_root, Why.ENDLESS),
    "endless timestamp": (fault(TIMESTAMP, w.Endless()), Why.ENDLESS),
    "endless snapshot": (fault(SNAPSHOT, w.Endless()), Why.ENDLESS),
    "endless role": (fault(ROLE, w.Endless()), Why.ENDLESS),
    "a snapshot longer than signed": (longer("snapshot"), Why.ENDLESS),
    "a role longer than signed": (longer("people"), Why.ENDLESS),
    "endless head": (fault(HEAD, w.Endless(honest=True)), Why.ENDLESS),
    "slow timestamp": (fault(TIMESTAMP, w.Drip()), Why.SLOW),
    "fast-forward of the timestamp": (fast_forward_of_the_timestamp, Why.FAST_FORWARD),
    "fast-forward to a snapshot that is not there": (fast_forward_to_a_snapshot_that_is_not_there, Why.FAST_FORWARD),
    "fast-forward of the snapshot": (fast_forward_of_the_snapshot, Why.FAST_FORWARD),
    "swapped partition": (swapped_partition, Why.SWAPPED_PARTITION),
    "swapped partition by a stolen key": (swapped_partition_by_a_stolen_key, Why.SWAPPED_PARTITION),
}
WITH_METADATA: Mapping[str, tuple[Callable[[Scene], None], Why]] = {
    # what only the folder of metadata remembers; where it was wiped, the cache files do (`gated.sync.apply`)
    "rollback of a head by a stolen key": (rollback_of_a_head_by_a_stolen_key, Why.ROLLED_BACK),
    "fast-forward of a role": (fast_forward_of_a_role, Why.FAST_FORWARD),
    "fast-forward of a serial": (fast_forward_of_a_serial, Why.FAST_FORWARD),
    "fast-forward of an epoch": (fast_forward_of_an_epoch, Why.FAST_FORWARD),
}
CASES = [pytest.param(*case, False, id=name) for name, case in {**ATTACK, **WITH_METADATA}.items()] + [
    pytest.param(*case, True, id=f"{name}, after a wipe") for name, case in ATTACK.items()
]


@pytest.mark.parametrize(("attack", "why", "wiped"), CASES)
def test_every_attack_is_refused_by_its_name_and_leaves_nothing_behind(
    scene: Scene, attack: Callable[[Scene], None], why: Why, wiped: bool
) -> None:
    scene.copy("old")
    scene.publish()
    scene.refresh()
    genuine = scene.copy("genuine")
    if wiped:
        scene.wipe()
    before = scene.kept()
    attack(scene)
    assert scene.refused().why is why and why in ATTACKS
    assert scene.kept() == before, "nothing is kept of a refused state"
    scene.site.well()
    shutil.rmtree(scene.folder / "hq")
    genuine.rename(scene.folder / "hq")
    show(scene, scene.folder / "hq")
    scene.serial += 1
    scene.publish()
    trusted = scene.refresh()
    assert {name: each.serial for name, each in trusted.heads.items()} == dict.fromkeys(PARTITIONS, scene.serial)


# -- rollback and recovery where keys change ---------------------------------------------------------------------------


def rotate_online(scene: Scene) -> None:
    everything = keys("root", "root2", "t", "online", "lift", "new")
    scene.hq.rotate("online", [public("online")], [public("new")], 1, everything, scene.now)
    scene.online = keys("root", "root2", "t", "lift", "new")


@pytest.mark.parametrize(("wiped", "why"), [(False, Why.WRONG_SIGNATURE), (True, Why.ROLLED_BACK)])
def test_what_a_key_signed_that_was_taken_away_is_refused(scene: Scene, wiped: bool, why: Why) -> None:
    scene.refresh()
    old = scene.copy("old")
    rotate_online(scene)
    scene.refresh()
    if wiped:
        scene.wipe()
    show(scene, old)
    Repository(old).put({}, HQ, scene.now, past=1000)  # the thief of the old key makes it look new
    assert scene.refused().why is why
    show(scene, scene.hq.folder)
    scene.refresh()


@pytest.mark.parametrize("wiped", [False, True])
def test_a_fast_forward_is_cured_by_other_online_keys_and_by_nothing_else(scene: Scene, wiped: bool) -> None:
    """A thief of the online key stays just below what would be refused; HQ goes on from its own, lower versions."""
    scene.refresh()
    far = scene.copy("far")
    thief = Repository(far)
    thief.put(
        {target_path(PEOPLE, "head"): encode(head(PEOPLE, 4_000_000, scene.now))},
        keys("online"),
        scene.now,
        past=4_000_000,
    )
    show(scene, far)
    assert scene.refresh().floor.timestamp > 4_000_000
    show(scene, scene.hq.folder)
    scene.publish()
    assert scene.refused().why is Why.ROLLED_BACK
    rotate_online(scene)
    scene.publish()
    if wiped:
        scene.wipe()
    trusted = scene.refresh()
    assert trusted.floor.timestamp < 100 and trusted.floor.snapshot < 100
    assert trusted.heads[PEOPLE].serial == scene.serial
    show(scene, far)
    assert scene.refused().why in (Why.WRONG_SIGNATURE, Why.ROLLED_BACK)


def test_a_second_online_key_alone_takes_no_floor_away(scene: Scene) -> None:
    old = scene.copy("old")
    scene.publish()
    assert len(scene.refresh().floor.online_keys) == 1
    everything = keys("root", "root2", "t", "online", "lift", "new")
    for role in ("timestamp", "snapshot"):
        scene.hq.rotate(role, [], [public("new")], 1, everything, scene.now)
    scene.wipe()
    for path in scene.hq.folder.glob("metadata/*.root.json"):
        shutil.copy(path, old / "metadata")
    show(scene, old)
    assert scene.refused().why is Why.ROLLED_BACK
    show(scene, scene.hq.folder)
    assert len(scene.refresh().floor.online_keys) == 2


def test_a_root_that_was_seen_once_is_never_forgotten_again(scene: Scene) -> None:
    """Whoever has a stolen key shows the root that takes it away with what cannot be proven, then hides that root."""
    scene.refresh()
    old = scene.copy("old")
    rotate_online(scene)
    scene.site.fault("metadata/timestamp.json", w.Swap("metadata/timestamp.json", old))
    assert scene.refused().why is Why.WRONG_SIGNATURE
    scene.site.well()
    Repository(old).put({}, HQ, scene.now)
    show(scene, old)
    assert scene.refused().why is Why.WRONG_SIGNATURE
    scene.lane = scene.started()
    assert scene.refused().why is Why.WRONG_SIGNATURE


@pytest.mark.parametrize("wiped", [False, True])
def test_root_is_rotated_while_a_lane_is_away(scene: Scene, wiped: bool) -> None:
    scene.refresh()
    everything = keys("root", "root2", "t", "online", "lift", "new", "evil")
    scene.hq.rotate("root", [public("root")], [public("new")], 2, everything, scene.now)
    scene.hq.rotate("root", [public("root2")], [public("evil")], 2, everything, scene.now)
    scene.publish()
    if wiped:
        scene.wipe()
    assert scene.refresh().floor.root == 3
    assert scene.lane.refresh(PARTITIONS, scene.floor).floor == scene.floor


def test_a_root_of_too_few_people_is_refused(scene: Scene) -> None:
    scene.refresh()
    root = Metadata[Any].from_bytes(scene.installed)
    root.signed.version = 2
    root.sign(keys("root")[public_key(public("root")).keyid])
    root.to_file(str(scene.hq.folder / "metadata/2.root.json"))
    refused = scene.refused()
    assert (refused.why, refused.what) == (Why.WRONG_SIGNATURE, "metadata/root.json")


def test_an_old_root_under_a_new_name_is_refused(scene: Scene) -> None:
    scene.refresh()
    shutil.copy(scene.hq.folder / "metadata/1.root.json", scene.hq.folder / "metadata/2.root.json")
    refused = scene.refused()
    assert (refused.why, refused.what) == (Why.ROLLED_BACK, "metadata/root.json")


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off", "why"),
    [
        (-10 * 365 * DAY, Why.CLOCK),
        (-timedelta(minutes=16), Why.CLOCK),
        (-timedelta(minutes=14), None),
        (timedelta(0), None),
        (timedelta(hours=23), None),
        (timedelta(hours=25), Why.FROZEN),
        (10 * 365 * DAY, Why.FROZEN),
    ],
)
def test_the_clock_is_the_one_that_was_handed_in(scene: Scene, off: timedelta, why: Why | None) -> None:
    scene.now += off
    if why is None:
        scene.refresh()
    else:
        refused = scene.refused()
        assert refused.why is why and f"{scene.now:%Y-%m-%d %H:%M}" in refused.advice


def test_a_python_tuf_that_would_read_another_clock_is_no_base_to_start_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Another(tuf_updater.TrustedMetadataSet):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            del self.reference_time

    monkeypatch.setattr(tuf_updater, "TrustedMetadataSet", Another)
    with pytest.raises(RuntimeError, match="takes no time"):
        scene.started()


def test_thirty_days_without_hq_and_back(scene: Scene) -> None:
    scene.refresh()
    for _ in range(30):
        scene.now += DAY
        scene.publish()
    assert scene.refresh().heads[PEOPLE].serial == scene.serial


def test_a_server_that_hides_the_rest_of_a_frozen_state_is_frozen_all_the_same(scene: Scene) -> None:
    scene.refresh()
    scene.now += 2 * DAY
    scene.site.fault("metadata/*.snapshot.json", w.Status(404))
    assert scene.refused().why is Why.FROZEN


# -- what is in order --------------------------------------------------------------------------------------------------


def test_a_state_is_proven_and_known_again_after_a_start(scene: Scene) -> None:
    trusted = scene.refresh()
    assert trusted.bases[CONTROL] == base(CONTROL) and trusted.heads[PEOPLE].serial == scene.serial
    assert trusted.floor.root == 1 and trusted.floor.online_keys == (public_key(public("online")).keyid,)
    assert trusted.expires == scene.now + DAY
    scene.lane = scene.started()
    asked = len(scene.site.asked)
    assert scene.refresh() == trusted
    assert [each.path for each in scene.site.asked[asked:]] == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_a_partition_that_hq_has_not_begun_is_left_out(scene: Scene) -> None:
    scene.hq.put({target_path(CONTROL, "base"): None}, HQ, scene.now)
    trusted = scene.refresh()
    assert set(trusted.heads) == set(trusted.bases) == {PEOPLE}


def test_a_lane_may_be_installed_in_any_year(scene: Scene) -> None:
    for _ in range(3):
        scene.hq.put({}, HQ, scene.now, past=min(JUMP_MAX, 4_999_999))
    scene.publish(serial=3 * JUMP_MAX)
    assert scene.refresh().heads[PEOPLE].serial == 3 * JUMP_MAX


@pytest.mark.parametrize(("edition", "why"), [(SCHEMA + 1, Why.WRONG_SCHEMA), (None, Why.MALFORMED)])
def test_what_hq_signs_in_another_edition_is_named(scene: Scene, edition: int | None, why: Why) -> None:
    scene.refresh()
    data = encode(Head(edition, PEOPLE, 1, 2, b"c" * 32, scene.now)) if edition else b"{}"
    scene.hq.put({target_path(PEOPLE, "head"): data}, HQ, scene.now)
    refused = scene.refused()
    assert (refused.why, refused.what) == (why, "people/head.json")


def test_other_files_come_by_the_same_chain(scene: Scene) -> None:
    model = bytes(range(256)) * 8000
    scene.hq.put({"policy/tw.toml": b"a = 1", "models/face.onnx": model}, HQ, scene.now)
    trusted = scene.refresh()
    assert {path: size for path, (size, _) in trusted.files.items()} == {
        "policy/tw.toml": 5,
        "models/face.onnx": len(model),
    }
    assert scene.lane.target("policy/tw.toml", 100) == b"a = 1"
    scene.site.fault("targets/models/*", w.Cut(1_500_000), times=1)
    assert scene.lane.target("models/face.onnx", 1 << 22) == model
    for path, size_max, why in (("policy/tw.toml", 4, Why.ENDLESS), ("policy/other.toml", 4, Why.MISSING)):
        with pytest.raises(SyncRefused) as refused:
            scene.lane.target(path, size_max)
        assert refused.value.why is why
    scene.site.fault("targets/*", w.Flip(2))
    for path in trusted.files:
        with pytest.raises(SyncRefused, match="altered"):
            scene.lane.target(path, 1 << 22)
    scene.site.well()
    scene.site.fault("targets/models/*", w.Cut(100_000))
    with pytest.raises(SyncRefused):
        scene.lane.target("models/face.onnx", 1 << 22)
    assert list((scene.folder / "trust").glob("*.target.part"))
    scene.hq.put({"models/face.onnx": None}, HQ, scene.now)
    scene.refresh()
    assert not list((scene.folder / "trust").glob("*.target*")), "what is signed no longer is not waited for"


# -- this lane's disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_metadata_that_this_disk_altered_are_fetched_again_and_nothing_is_forgotten(scene: Scene, damage: str) -> None:
    old = scene.copy("old")
    rotate_online(scene)
    scene.publish()
    scene.refresh()
    trust = scene.folder / "trust"
    for name, data in files(trust).items():
        for at in (len(data) // 3, len(data) - 2):
            if damage == "gone":
                (trust / name).unlink()
            else:
                flipped = data[:at] + bytes((data[at] ^ 4,)) + data[at + 1 :]
                (trust / name).write_bytes({"flip": flipped, "cut": data[:at], "empty": b""}[damage])
            scene.lane = scene.started()
            show(scene, old)
            assert scene.refused().why in (Why.ROLLED_BACK, Why.WRONG_SIGNATURE)
            show(scene, scene.hq.folder)
            scene.refresh()
            assert (trust / name).read_bytes() == data, "it is as it was"


def test_a_head_that_this_disk_altered_is_no_measure(scene: Scene) -> None:
    scene.refresh()
    for serial in (0, scene.serial + 1000, 3 * JUMP_MAX):
        (scene.folder / "trust" / "people.head").write_bytes(encode(head(PEOPLE, serial, scene.now)))
        assert scene.refresh().heads[PEOPLE].serial == scene.serial
        scene.publish()
        scene.refresh()


def test_a_root_that_this_disk_altered_is_not_built_on(scene: Scene) -> None:
    scene.refresh()
    history = scene.folder / "trust" / "root_history"
    own = Metadata[Any].from_bytes(scene.installed)
    own.signed.version = 2
    own.sign(keys("evil")[public_key(public("evil")).keyid])
    for data in (scene.installed, own.to_bytes(), b"{}"):
        (history / "2.root.json").write_bytes(data)
        scene.lane = scene.started()
        assert scene.lane.tip(signed_tip(scene)).serial == 9
        scene.refresh()


def test_a_state_that_was_kept_by_half_when_the_power_went_is_made_whole(scene: Scene) -> None:
    scene.refresh()
    before = files(scene.folder / "trust")
    rotate_online(scene)
    scene.publish()
    trusted = scene.refresh()
    after = files(scene.folder / "trust")
    names = [name for name in after if after[name] != before.get(name)]
    assert len(names) > 5
    for kept in range(len(names)):
        scene.wipe()
        for name, data in {**before, **{each: after[each] for each in names[:kept]}}.items():
            (scene.folder / "trust" / name).parent.mkdir(exist_ok=True)
            (scene.folder / "trust" / name).write_bytes(data)
        (scene.folder / "trust" / "work-left").mkdir()
        scene.lane = scene.started()
        assert scene.refresh() == trusted
        assert not (scene.folder / "trust" / "work-left").exists()


@pytest.mark.parametrize("root", [b"", b"{}", b"no json", encode(base(PEOPLE))])
def test_a_root_that_is_none_is_named_at_the_start(scene: Scene, root: bytes) -> None:
    scene.installed = root
    with pytest.raises(SyncRefused, match=r"\[sync\] root"):
        scene.started()


def test_the_folder_is_nobody_elses(scene: Scene) -> None:
    scene.refresh()
    assert (scene.folder / "trust").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in (scene.folder / "trust").iterdir() if path.is_file())


# -- tips --------------------------------------------------------------------------------------------------------------


def signed_tip(scene: Scene, partition: str = PEOPLE, key: str = "online", **other: Any) -> SignedTip:
    fields = {"schema": SCHEMA, "partition": partition, "epoch": 1, "serial": 9, "previous": b"p" * 32}
    tip = encode(Tip(**{**fields, "sha256": b"s" * 32, "size": 5, "built": scene.now, **other}))
    signer = keys(key)[public_key(public(key)).keyid]
    return SignedTip(tip, signer.public_key.keyid, bytes.fromhex(signer.sign(tip_message(tip)).signature))


def no_tip(scene: Scene, signed: SignedTip) -> Why:
    with pytest.raises(SyncRefused) as refused:
        scene.lane.tip(signed)
    return refused.value.why


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_tip_of_hqs_is_taken_also_without_a_network_after_a_start(scene: Scene, partition: str) -> None:
    tip = Tip(SCHEMA, partition, 1, 9, b"p" * 32, b"s" * 32, 5, scene.now)
    signed = SignedTip(encode(tip), *scene.hq.sign_tip(partition, encode(tip), HQ))
    scene.refresh()
    assert scene.lane.tip(signed) == tip
    scene.site.fault("*", w.Status(503))
    scene.lane = scene.started()
    asked = len(scene.site.asked)
    assert scene.lane.tip(signed) == tip and len(scene.site.asked) == asked


def test_a_tip_of_anybody_elses_is_refused(scene: Scene) -> None:
    scene.refresh()
    good = signed_tip(scene)
    assert scene.lane.tip(good).serial == 9
    altered = SignedTip(good.tip.replace(b'"serial":9', b'"serial":8'), good.key, good.signature)
    for bad in (
        altered,
        SignedTip(good.tip, good.key, good.signature[:-1] + b"x"),
        SignedTip(good.tip, good.key, b""),
        SignedTip(good.tip, "0" * 64, good.signature),
        signed_tip(scene, key="evil"),
        signed_tip(scene, key="t"),
        signed_tip(scene, CONTROL, key="lift"),
        SignedTip(good.tip, signed_tip(scene, key="evil").key, good.signature),
    ):
        assert no_tip(scene, bad) is Why.WRONG_SIGNATURE
    assert no_tip(scene, SignedTip(b"{}", good.key, good.signature)) is Why.MALFORMED
    assert no_tip(scene, signed_tip(scene, schema=SCHEMA + 1)) is Why.WRONG_SCHEMA
    assert no_tip(scene, signed_tip(scene, built=scene.now + DAY)) is Why.CLOCK


def test_a_tip_before_any_metadata_waits_for_them(scene: Scene) -> None:
    assert no_tip(scene, signed_tip(scene)) is Why.MISSING
    scene.refresh()
    scene.lane.tip(signed_tip(scene))
    scene.wipe()
    assert no_tip(scene, signed_tip(scene)) is Why.MISSING


def test_a_tip_by_a_key_that_was_taken_away_is_refused(scene: Scene) -> None:
    scene.refresh()
    rotate_online(scene)
    scene.refresh()
    for _ in range(2):
        assert no_tip(scene, signed_tip(scene)) is Why.WRONG_SIGNATURE
        assert scene.lane.tip(signed_tip(scene, key="new")).serial == 9
        scene.lane = scene.started()


def test_a_tip_is_not_judged_by_targets_whose_key_was_taken_away(scene: Scene) -> None:
    scene.refresh()
    scene.lane.tip(signed_tip(scene))
    everything = keys("root", "root2", "t", "online", "lift", "new")
    scene.hq.rotate("targets", [public("t")], [public("new")], 1, everything, scene.now)
    scene.site.fault(TIMESTAMP, w.Status(503))
    assert scene.refused().why is Why.UNREACHABLE
    for _ in range(2):
        assert no_tip(scene, signed_tip(scene)) is Why.MISSING
        scene.lane = scene.started()
    scene.site.well()
    scene.refresh()
    scene.lane.tip(signed_tip(scene))


def test_one_key_of_two_that_must_sign_is_too_few_for_a_tip(scene: Scene) -> None:
    everything = keys("root", "root2", "t", "online", "lift", "new")
    scene.hq.rotate("people", [], [public("new")], 2, everything, scene.now)
    scene.refresh()
    assert no_tip(scene, signed_tip(scene)) is Why.WRONG_SIGNATURE
    assert scene.lane.tip(signed_tip(scene, CONTROL)).serial == 9


def test_a_tip_is_frozen_only_when_nobody_knows_any_more_whose_keys_are_good(scene: Scene) -> None:
    scene.refresh()
    scene.now += 179 * DAY
    assert scene.lane.tip(signed_tip(scene)).serial == 9, "timestamp, snapshot and partitions may long have expired"
    scene.now += 2 * DAY
    assert no_tip(scene, signed_tip(scene)) is Why.FROZEN
    scene.lane = scene.started()
    assert no_tip(scene, signed_tip(scene)) is Why.FROZEN
