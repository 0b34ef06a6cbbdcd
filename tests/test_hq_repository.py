"""HQ's signed repository, as python-tuf's own client sees it: what is put, who may sign it, rotation, theft, kills."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tuf.api.exceptions import (
    BadVersionNumberError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from gated.hq.cli import gated_hq
from gated.hq.metadata import STATES_KEPT
from gated.hq.repository import Lifetimes, Repository, RepositoryFault, Signers
from gated.hq.signers import public_key
from gated.hq.signing import USUAL
from gated.wire.bundle import JUMP_MAX, tip_message
from tests.tuf_client import Client

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
PRIVATE = {
    name: bytes([number]) * 32 for number, name in enumerate(("r1", "r2", "r3", "t", "online", "lift", "new", "new2"))
}


def keys(*names: str) -> Signers:
    return Signers(PRIVATE[name] for name in names)


def public(name: str) -> bytes:
    return keys(name).publics()[0]


def created(folder: Path, lifetimes: Lifetimes = USUAL) -> Repository:
    return Repository.create(
        folder,
        keys("r1", "r2", "r3", "t", "online", "lift"),
        root=[public(name) for name in ("r1", "r2", "r3")],
        root_threshold=2,
        targets=[public("t")],
        online=public("online"),
        lift=public("lift"),
        now=NOW,
        lifetimes=lifetimes,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return created(tmp_path / "hq")


@pytest.fixture
def client(repository: Repository, tmp_path: Path) -> Client:
    return Client(repository.folder, tmp_path / "lane", repository.root)


def versions(repository: Repository) -> dict[str, int]:
    return {role.role: role.version for role in repository.roles()}


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# -- put -------------------------------------------------------------------------------------------------------------


def test_what_is_put_is_what_a_client_gets(repository: Repository, client: Client) -> None:
    put: Mapping[str, bytes] = {"people/base.json": b"base", "people/head.json": b"head", "control/head.json": b"bans"}
    assert repository.put(put, keys("online"), NOW) == 2
    repository.put({"control/base.json": b"lifts"}, keys("online", "lift"), NOW)
    repository.put({"policy/tw.toml": b"policy", "models/face/x.onnx": b"net"}, keys("t", "online"), NOW)
    seen = client.look(NOW)
    for path, data in {**put, "control/base.json": b"lifts", "policy/tw.toml": b"policy"}.items():
        assert seen.target(path) == data == repository.target(path)
    assert seen.target("models/face/x.onnx") == b"net"
    repository.put({"policy/tw.toml": None}, keys("t", "online"), NOW)
    assert client.look(NOW).target("policy/tw.toml") is None and repository.target("policy/tw.toml") is None


@pytest.mark.parametrize(
    ("path", "enough", "lacking"),
    [
        ("people/head.json", ("online",), ("t", "lift", "r1")),
        ("people/base.json", ("online",), ("t", "lift")),
        ("control/head.json", ("online",), ("t", "lift")),
        ("control/base.json", ("online", "lift"), ("online",)),
        ("control/base.json", ("online", "lift"), ("lift", "t")),
        ("control/other.json", ("t", "online"), ("online", "lift")),
        ("policy/tw.toml", ("t", "online"), ("online", "lift")),
        ("policy/tw.toml", ("t", "online"), ("t",)),
        ("models/a/b.onnx", ("t", "online"), ("online",)),
        ("csca/tw.cer", ("t", "online"), ("online", "r1", "r2", "r3")),
        ("crl/tw.crl", ("t", "online"), ("online",)),
        ("people/a/b.json", ("t", "online"), ("online",)),
    ],
)
def test_each_target_needs_its_own_keys(
    repository: Repository, path: str, enough: tuple[str, ...], lacking: tuple[str, ...]
) -> None:
    assert repository.can(path, keys(*enough)) and not repository.can(path, keys(*lacking))
    before = everything(repository.folder)
    with pytest.raises(RepositoryFault, match="must sign"):
        repository.put({path: b"x"}, keys(*lacking), NOW)
    assert everything(repository.folder) == before
    repository.put({path: b"x"}, keys(*enough), NOW)
    assert repository.target(path) == b"x"


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "a//b", "", ".hidden/x", "a/../b", "a/b/", "people/héad.json", "a b"]
)
def test_a_target_cannot_lie_elsewhere(repository: Repository, path: str) -> None:
    with pytest.raises(RepositoryFault, match="cannot be a target"):
        repository.put({path: b"x"}, keys("t", "online"), NOW)


def test_one_put_is_one_state_and_what_is_the_same_is_not_signed_again(repository: Repository) -> None:
    repository.put({"people/head.json": b"1", "control/head.json": b"1"}, keys("online"), NOW)
    first = versions(repository)
    assert (first["timestamp"], first["snapshot"], first["people"], first["control"]) == (2, 2, 2, 2)
    repository.put({"people/head.json": b"1", "control/head.json": b"1"}, keys("online"), NOW + MINUTE)
    assert versions(repository) == {**first, "timestamp": 3}
    repository.put({"people/head.json": b"2"}, keys("online"), NOW + 2 * MINUTE)
    assert versions(repository) == {**first, "timestamp": 4, "snapshot": 3, "people": 3}


def test_a_file_that_went_missing_is_put_again(repository: Repository, client: Client) -> None:
    repository.put({"people/head.json": b"1"}, keys("online"), NOW)
    [file] = (repository.folder / "targets" / "people").iterdir()
    file.write_bytes(b"2")
    with pytest.raises(RepositoryFault, match=r"put people/head\.json again"):
        repository.target("people/head.json")
    repository.put({"people/head.json": b"1"}, keys("online"), NOW)
    assert client.look(NOW).target("people/head.json") == b"1"


def test_what_the_offline_key_signed_elsewhere_is_brought_in(
    repository: Repository, client: Client, tmp_path: Path
) -> None:
    """The policy office signs on a copy, without the online key; the publisher goes on meanwhile."""
    repository.put({"models/old.onnx": b"old"}, keys("t", "online"), NOW)
    office, stick = tmp_path / "office", tmp_path / "stick"
    shutil.copytree(repository.folder, office)
    Repository(office).propose({"policy/tw.toml": b"p", "models/old.onnx": None}, keys("t"), NOW, stick)
    assert Repository(office).target("policy/tw.toml") is None
    repository.put({"people/head.json": b"1"}, keys("online"), NOW)
    repository.take(stick, keys("online"), NOW)
    seen = client.look(NOW)
    assert (seen.target("policy/tw.toml"), seen.target("models/old.onnx")) == (b"p", None)
    before = everything(repository.folder)
    with pytest.raises(RepositoryFault):  # it was made of another state than the present one
        repository.take(stick, keys("online"), NOW)
    assert everything(repository.folder) == before


def test_a_proposal_that_is_not_what_was_signed_is_not_brought_in(repository: Repository, tmp_path: Path) -> None:
    good = tmp_path / "stick"
    repository.propose({"policy/tw.toml": b"strict"}, keys("t"), NOW, good)
    before = everything(repository.folder)
    [name] = [path for path in everything(good) if path.startswith("targets/")]
    for file, data in (
        (name, b"open"),
        ("2.targets.json", (good / "2.targets.json").read_bytes().replace(b'"version":2', b'"version":3')),
        ("2.nobody.json", b"{}"),
    ):
        shutil.copytree(good, tmp_path / "bad", dirs_exist_ok=True)
        (tmp_path / "bad" / file).write_bytes(data)
        with pytest.raises(RepositoryFault):
            repository.take(tmp_path / "bad", keys("online"), NOW)
        shutil.rmtree(tmp_path / "bad")
    with pytest.raises(RepositoryFault, match="expired"):
        repository.take(good, keys("online"), NOW + 181 * DAY)
    with pytest.raises(RepositoryFault, match=r"(timestamp|snapshot): 1 of its 1"):
        repository.take(good, keys("t"), NOW)
    with pytest.raises(RepositoryFault, match="targets: 1 of its 1 keys must sign"):
        repository.propose({"policy/tw.toml": b"x"}, keys("online"), NOW, tmp_path / "x")
    assert everything(repository.folder) == before
    repository.take(good, keys("online"), NOW)


# -- time ------------------------------------------------------------------------------------------------------------


def test_a_timestamp_holds_a_day_and_is_renewed(repository: Repository, client: Client) -> None:
    client.look(NOW + DAY - timedelta(seconds=1))
    with pytest.raises(ExpiredMetadataError):
        client.look(NOW + DAY)
    repository.put({}, keys("online"), NOW + DAY)
    assert client.look(NOW + DAY).timestamp == 2
    assert versions(repository)["snapshot"] == 1


def test_what_expires_soon_is_renewed_where_its_keys_are_at_hand(repository: Repository, client: Client) -> None:
    """The online key keeps its own roles alive for ever; the others need their people."""
    for day in range(1, 100):
        repository.put({}, keys("online"), NOW + day * DAY)
    state = {role.role: role for role in repository.roles()}
    late = NOW + 99 * DAY
    assert all(state[role].expires > late for role in ("timestamp", "snapshot", "people", "control", "targets"))
    assert state["control-base"].expires < late and state["control-base"].version == 1
    client.look(late).target("people/head.json")
    repository.put({}, keys("online", "lift"), late)
    assert versions(repository)["control-base"] == 2
    repository.put({}, keys("online", "t", "r1", "r3"), NOW + 300 * DAY)
    assert versions(repository)["targets"] == 2 and versions(repository)["root"] == 2
    assert client.look(NOW + 300 * DAY).root == 2


def test_lifetimes_are_as_given(tmp_path: Path) -> None:
    lifetimes = Lifetimes(root_s=1000, targets_s=900, partition_s=800, snapshot_s=700, timestamp_s=600, lift_s=850)
    state = created(tmp_path, lifetimes).roles()
    assert {role.role: (role.expires - NOW).total_seconds() for role in state} == {
        "root": 1000,
        "targets": 900,
        "people": 800,
        "control": 800,
        "control-base": 850,
        "snapshot": 700,
        "timestamp": 600,
    }


# -- what lies there is proven before anything is built on it ----------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["1.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.control-base.json"]
)
def test_altered_metadata_are_not_signed_over(repository: Repository, name: str) -> None:
    path = repository.folder / "metadata" / name
    path.write_bytes(path.read_bytes().replace(b'"2', b'"3', 1))
    before = everything(repository.folder)
    with pytest.raises(RepositoryFault, match=r"bring .* back from a copy"):
        repository.put({"people/head.json": b"x"}, keys("online"), NOW)
    assert everything(repository.folder) == before


def test_a_client_takes_nothing_that_was_altered(repository: Repository, client: Client) -> None:
    repository.put({"people/head.json": b"head"}, keys("online"), NOW)
    seen = client.look(NOW)
    [file] = (repository.folder / "targets" / "people").iterdir()
    file.write_bytes(b"haed")
    with pytest.raises(LengthOrHashMismatchError):
        seen.target("people/head.json")


def test_an_older_state_is_refused(repository: Repository, client: Client, tmp_path: Path) -> None:
    shutil.copytree(repository.folder, tmp_path / "old")
    repository.put({"people/head.json": b"1"}, keys("online"), NOW)
    client.look(NOW)
    client.folder = tmp_path / "old"
    with pytest.raises(BadVersionNumberError):
        client.look(NOW)


def test_hq_set_back_to_an_older_copy_goes_past_what_lanes_know(
    repository: Repository, client: Client, tmp_path: Path
) -> None:
    shutil.copytree(repository.folder, tmp_path / "copy")
    for n in range(5):
        repository.put({"people/head.json": b"%d" % n, "policy/tw.toml": b"%d" % n}, keys("online", "t"), NOW)
    known = client.look(NOW).timestamp
    back = Repository(tmp_path / "copy")
    client.folder = back.folder
    back.put({"people/head.json": b"after"}, keys("online"), NOW)
    with pytest.raises(BadVersionNumberError):
        client.look(NOW)
    back.put({}, keys("online", "t"), NOW, past=known)
    seen = client.look(NOW)
    assert seen.timestamp == known + 1 and seen.target("people/head.json") == b"after"
    with pytest.raises(RepositoryFault, match="refused by every lane"):
        back.put({}, keys("online"), NOW, past=known + JUMP_MAX + 2)


# -- rotation --------------------------------------------------------------------------------------------------------


def test_roots_are_rotated_and_followed_from_the_first(repository: Repository, tmp_path: Path) -> None:
    first = repository.root
    fresh = {f"k{n}": bytes([40 + n]) * 32 for n in range(1, 4)}
    all_keys = {**{name: PRIVATE[name] for name in ("r1", "r2", "r3")}, **fresh}
    now_in = ["r1", "r2", "r3"]
    for out, in_ in (("r1", "k1"), ("r2", "k2"), ("r3", "k3")):
        signers = Signers(all_keys[name] for name in (*now_in, in_))
        repository.rotate("root", [Signers([all_keys[out]]).publics()[0]], signers.publics()[-1:], 2, signers, NOW)
        now_in = [name for name in now_in if name != out] + [in_]
    assert versions(repository)["root"] == 4
    repository.put({"people/head.json": b"1"}, keys("online"), NOW)
    seen = Client(repository.folder, tmp_path / "lane", first).look(NOW)
    assert seen.root == 4 and seen.target("people/head.json") == b"1"


def test_a_new_root_is_signed_by_the_old_threshold_and_the_new(repository: Repository) -> None:
    old, new = [public("r1"), public("r2")], [public("new"), public("new2")]
    for signers in (keys("r1", "r2"), keys("new", "new2"), keys("r1", "new", "new2"), keys("r1", "r2", "online")):
        with pytest.raises(RepositoryFault, match="root: 2 of its 3 keys must sign"):
            repository.rotate("root", old, new, 2, signers, NOW)
    assert versions(repository)["root"] == 1
    repository.rotate("root", old, new, 2, keys("r1", "r2", "new", "new2"), NOW)
    assert versions(repository) == {**versions(repository), "root": 2, "timestamp": 1}


@pytest.mark.parametrize(
    ("role", "out", "threshold", "signers"),
    [
        ("online", "online", 1, ("r1", "r2", "t", "lift", "online", "new")),
        ("timestamp", "online", 1, ("r1", "r2", "online", "new")),
        ("snapshot", "online", 1, ("r1", "r2", "online", "new")),
        ("targets", "t", 1, ("r1", "r3", "online", "t", "new")),
        ("people", "online", 1, ("t", "online", "new")),
        ("control", "online", 1, ("t", "online", "new")),
        ("control-base", "lift", 2, ("t", "online", "new")),
    ],
)
def test_every_role_can_be_rotated(
    repository: Repository, client: Client, role: str, out: str, threshold: int, signers: tuple[str, ...]
) -> None:
    repository.put({"people/head.json": b"1"}, keys("online"), NOW)
    client.look(NOW)
    repository.rotate(role, [public(out)], [public("new")], threshold, keys(*signers), NOW)
    seen = client.look(NOW)
    assert seen.target("people/head.json") == b"1"
    gone, here = public_key(public(out)).keyid, public_key(public("new")).keyid
    for state in repository.roles():
        mine = role == state.role or (role == "online" and state.role not in ("root", "targets"))
        assert (here in state.keys) == mine
        assert not (mine and gone in state.keys)
    others = {"online", "t", "lift", "new"} - ({out} if role in ("online", "targets", "control-base") else set())
    targets = {"people/head.json": b"2", "control/head.json": b"2", "control/base.json": b"2", "policy/tw.toml": b"2"}
    repository.put(targets, keys(*others), NOW)
    seen = client.look(NOW)
    assert {path: seen.target(path) for path in targets} == targets


def test_a_client_that_comes_in_between_refuses_nothing(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new root and the new timestamp are two files: whoever fetches between the two finds both keys' signatures."""
    first = repository.root
    looks: list[int] = []
    rename = Path.rename

    def look(path: Path, to: Path) -> Path:
        done = rename(path, to)
        looks.append(Client(repository.folder, tmp_path / f"lane-{len(looks)}", first).look(NOW).root)
        return done

    monkeypatch.setattr(Path, "rename", look)
    signers = keys("r1", "r2", "t", "online", "lift", "new")
    repository.rotate("online", [public("online")], [public("new")], 1, signers, NOW)
    assert looks[0] == 1 and looks[-1] == 2 and len(looks) == 7


def test_keys_of_different_hands_stay_apart(repository: Repository, tmp_path: Path) -> None:
    signers = keys("r1", "r2", "t", "online", "lift", "new")
    before = everything(repository.folder)
    for role, old, new, threshold in (
        ("root", ["r1"], ["online"], 2),
        ("targets", ["t"], ["r1"], 1),
        ("timestamp", ["online"], ["t"], 1),
        ("control-base", ["lift"], [], 1),
        ("control-base", [], ["new"], 1),
        ("people", [], ["lift"], 1),
        ("root", ["r1", "r2"], [], 2),
        ("people", ["r1"], ["new"], 1),
        ("nobody", ["online"], ["new"], 1),
    ):
        with pytest.raises(RepositoryFault):
            repository.rotate(
                role, [public(name) for name in old], [public(name) for name in new], threshold, signers, NOW
            )
    assert everything(repository.folder) == before
    with pytest.raises(RepositoryFault, match="twice"):
        Repository.create(
            tmp_path / "other",
            signers,
            root=[public("r1")],
            root_threshold=1,
            targets=[public("t")],
            online=public("online"),
            lift=public("online"),
            now=NOW,
        )


# -- theft -----------------------------------------------------------------------------------------------------------


def forged_timestamp(repository: Repository, version: int) -> bytes:
    """What the thief of the online key shows to whom he can."""
    metadata: Metadata[Timestamp] = Metadata[Timestamp].from_file(str(repository.folder / "metadata/timestamp.json"))
    metadata.signed.version = version
    signers = keys("online")
    metadata.sign(signers[public_key(public("online")).keyid])
    return metadata.to_bytes()


def test_a_fast_forward_is_cured_by_other_online_keys(repository: Repository, client: Client, tmp_path: Path) -> None:
    shutil.copytree(repository.folder, tmp_path / "thief")
    (tmp_path / "thief/metadata/timestamp.json").write_bytes(forged_timestamp(repository, 10**9))
    client.folder = tmp_path / "thief"
    assert client.look(NOW).timestamp == 10**9
    client.folder = repository.folder
    repository.put({"people/head.json": b"1"}, keys("online"), NOW)
    with pytest.raises(BadVersionNumberError):
        client.look(NOW)
    signers = keys("r1", "r2", "t", "lift", "new")
    repository.rotate("online", [public("online")], [public("new")], 1, signers, NOW)
    seen = client.look(NOW)
    assert seen.timestamp == 3 and seen.target("people/head.json") == b"1"
    client.folder = tmp_path / "thief"
    with pytest.raises(UnsignedMetadataError):
        client.look(NOW)


def test_the_thief_of_the_online_key_signs_nothing_that_is_not_its(
    repository: Repository, client: Client, tmp_path: Path
) -> None:
    """He writes whatever he likes and signs it with the online key: policy and lifted bans are refused."""
    repository.put({"policy/tw.toml": b"strict"}, keys("t", "online"), NOW)
    client.look(NOW)
    online = keys("online")[public_key(public("online")).keyid]
    folder = repository.folder / "metadata"
    for role in ("targets", "control-base"):
        now = versions(repository)
        forged: Metadata[Targets] = Metadata.from_file(str(folder / f"{now[role]}.{role}.json"))
        forged.signed.version += 1
        forged.sign(online)
        data = forged.to_bytes()
        (folder / f"{forged.signed.version}.{role}.json").write_bytes(data)
        snapshot: Metadata[Snapshot] = Metadata.from_file(str(folder / f"{now['snapshot']}.snapshot.json"))
        snapshot.signed.version += 1
        snapshot.signed.meta[f"{role}.json"] = MetaFile.from_data(forged.signed.version, data, ["sha256"])
        snapshot.sign(online)
        data = snapshot.to_bytes()
        (folder / f"{snapshot.signed.version}.snapshot.json").write_bytes(data)
        was = (folder / "timestamp.json").read_bytes()
        timestamp: Metadata[Timestamp] = Metadata.from_bytes(was)
        timestamp.signed.version += 1
        timestamp.signed.snapshot_meta = MetaFile.from_data(snapshot.signed.version, data, ["sha256"])
        timestamp.sign(online)
        (folder / "timestamp.json").write_bytes(timestamp.to_bytes())
        with pytest.raises(UnsignedMetadataError):
            Client(repository.folder, tmp_path / role, repository.root).look(NOW).target("control/base.json")
        (folder / "timestamp.json").write_bytes(was)


def test_a_tip_is_signed_by_the_key_of_the_partitions_head(repository: Repository) -> None:
    keyid, signature = repository.sign_tip("control", b"tip", keys("lift", "online"))
    assert keyid == public_key(public("online")).keyid
    key = Ed25519PublicKey.from_public_bytes(public("online"))
    key.verify(signature, tip_message(b"tip"))
    with pytest.raises(InvalidSignature):
        key.verify(signature, b"tip")
    with pytest.raises(RepositoryFault, match="control: 1 of its 1 keys must sign"):
        repository.sign_tip("control", b"tip", keys("lift", "t"))


# -- keys ------------------------------------------------------------------------------------------------------------


def test_keys_are_read_from_files_that_nobody_else_may_read(tmp_path: Path) -> None:
    file = tmp_path / "online.key"
    file.write_bytes(PRIVATE["online"])
    file.chmod(0o644)
    with pytest.raises(RepositoryFault, match="chmod 600"):
        Signers.of([file])
    file.chmod(0o600)
    signers = Signers.of([file])
    assert signers.publics() == (public("online"),)
    short = tmp_path / "short.key"
    short.write_bytes(b"x" * 31)
    with pytest.raises(RepositoryFault, match="31 bytes"):
        Signers.of([short])
    with pytest.raises(RepositoryFault, match="no such file"):
        Signers.of([tmp_path / "nothing.key"])


def test_no_text_shows_a_key(repository: Repository) -> None:
    signers = keys("online", "lift")
    texts = [repr(signers), str(signers), f"{signers!r}"]
    for act in (
        lambda: repository.put({"policy/x": b""}, signers, NOW),
        lambda: repository.sign_tip("control", b"", keys("t")),
    ):
        with pytest.raises(RepositoryFault) as caught:
            act()
        texts.append(repr(caught.value))
    for name in PRIVATE:
        assert all(PRIVATE[name].hex() not in text and repr(PRIVATE[name])[2:-1] not in text for text in texts)
    private = {PRIVATE[name] for name in PRIVATE}
    assert not any(
        key in data or key.hex().encode() in data for key in private for data in everything(repository.folder).values()
    )


# -- kills -----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
import tests.test_hq_repository as t
folder, act, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
repository, count = t.Repository(folder), 0
def hook(event, args):
    global count
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
t.ACTS[act](repository)
print(count)
"""


def _put_two(repository: Repository) -> None:
    repository.put({"people/head.json": b"new", "people/base.json": b"new"}, keys("online"), NOW + MINUTE)


def _put_all(repository: Repository) -> None:
    names = ("people/head.json", "control/base.json", "control/head.json", "models/new/net.onnx")
    repository.put(dict.fromkeys(names, b"new"), keys("online", "lift", "t"), NOW + MINUTE)


def _rotate_online(repository: Repository) -> None:
    signers = keys("r1", "r2", "t", "online", "lift", "new")
    repository.rotate("online", [public("online")], [public("new")], 1, signers, NOW + MINUTE)


def _rotate_targets(repository: Repository) -> None:
    repository.rotate(
        "targets", [public("t")], [public("new")], 1, keys("r1", "r2", "t", "online", "new"), NOW + MINUTE
    )


def _rotate_root(repository: Repository) -> None:
    repository.rotate("root", [public("r1")], [public("new")], 2, keys("r1", "r2", "new"), NOW + MINUTE)


def _rotate_lost(repository: Repository) -> None:
    signers = keys("r1", "r2", "t", "lift", "new")
    repository.rotate("online", [public("online")], [public("new")], 1, signers, NOW + MINUTE)


ACTS = {
    act.__name__[1:]: act for act in (_put_two, _put_all, _rotate_online, _rotate_targets, _rotate_root, _rotate_lost)
}


def run(folder: Path, act: str, at: int) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", KILLED, str(folder), act, str(at)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("act", ["put_two", "put_all", "rotate_online", "rotate_targets", "rotate_root"])
def test_killed_anywhere_clients_take_the_old_state_or_the_new(
    repository: Repository, tmp_path: Path, act: str
) -> None:
    was = {"people/head.json": b"old", "people/base.json": b"old", "models/net.onnx": b"net"}
    for n in range(STATES_KEPT + 2):  # so that there is something to tidy up too
        repository.put({**was, "policy/n": b"%d" % n}, keys("online", "t"), NOW)
    first = repository.root
    lane = Client(repository.folder, tmp_path / "lane", first)
    lane.look(NOW)
    seen_new, at = set(), 0
    while True:
        at += 1
        folder, home = tmp_path / f"hq-{at}", tmp_path / f"lane-{at}"
        shutil.copytree(repository.folder, folder)
        shutil.copytree(lane.home, home, symlinks=True)
        done = run(folder, act, at)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        for client in (Client(folder, home, first), Client(folder, tmp_path / f"fresh-{at}", first)):
            seen = client.look(NOW + MINUTE)
            got = {path: seen.target(path) for path in (*was, "control/base.json")}
            new = got["people/head.json"] == b"new"
            seen_new.add(new)
            if act == "put_two":
                assert got == {**was, "control/base.json": None} or (
                    got["people/head.json"] == got["people/base.json"] == b"new"
                )
            elif act == "put_all":
                assert got["control/base.json"] == (b"new" if new else None)
        ACTS[act](Repository(folder))  # whoever comes next ends it
        assert not list(folder.rglob("*.part"))
        assert Client(folder, home, first).look(NOW + MINUTE).target("models/net.onnx") == b"net"
    assert at > 5
    print(f"killed at {at - 1} points")
    assert seen_new == ({False, True} if act.startswith("put") else {False})


def test_a_rotation_without_the_old_key_that_is_cut_short_is_ended_by_doing_it_again(
    repository: Repository, tmp_path: Path
) -> None:
    """Without the old key there is a moment, between two renames, in which clients refuse what they find."""
    repository.put({"people/head.json": b"1"}, keys("online"), NOW)
    first, refused, at = repository.root, 0, 0
    while True:
        at += 1
        folder = tmp_path / f"hq-{at}"
        shutil.copytree(repository.folder, folder)
        done = run(folder, "rotate_lost", at)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        client = Client(folder, tmp_path / f"lane-{at}", first)
        try:
            client.look(NOW + MINUTE)
        except RepositoryError:
            refused += 1
            with pytest.raises(RepositoryFault, match="the same gated-hq repo rotate again"):
                Repository(folder).put({}, keys("new"), NOW + MINUTE)
        _rotate_lost(Repository(folder))
        assert client.look(NOW + MINUTE).target("people/head.json") == b"1"
    assert 1 <= refused <= 3 and at > 8


# -- room ------------------------------------------------------------------------------------------------------------


def test_old_versions_go_and_what_is_named_stays(repository: Repository, client: Client) -> None:
    repository.put({"models/net.onnx": b"net"}, keys("t", "online"), NOW)
    for n in range(3 * STATES_KEPT):
        repository.put({"people/head.json": b"%d" % n}, keys("online"), NOW + n * MINUTE)
    names = [path.name for path in (repository.folder / "metadata").iterdir()]
    assert sum(name.endswith(".snapshot.json") for name in names) == STATES_KEPT
    assert sum(name.endswith(".people.json") for name in names) == STATES_KEPT
    assert sum(name.endswith(".root.json") for name in names) == 1
    assert len(list((repository.folder / "targets/people").iterdir())) == STATES_KEPT
    seen = client.look(NOW)
    assert seen.target("models/net.onnx") == b"net" and seen.target("people/head.json") == b"%d" % (3 * STATES_KEPT - 1)
    repository.put({"models/net.onnx": None}, keys("t", "online"), NOW)
    for n in range(STATES_KEPT):
        repository.put({"people/head.json": b"x%d" % n}, keys("online"), NOW)
    assert not (repository.folder / "targets/models").exists()


def test_what_a_web_server_shows_may_be_read_by_it(repository: Repository) -> None:
    repository.put({"people/head.json": b"1"}, keys("online"), NOW)
    for path in (
        repository.folder / "metadata",
        *repository.folder.glob("metadata/*"),
        *repository.folder.glob("targets/**/*"),
    ):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_days_of_minutes_leave_the_metadata_as_small_as_they_were(repository: Repository, client: Client) -> None:
    put = {"control/base.json": b"b", "policy/tw.toml": b"p"}
    repository.put(put, keys("online", "lift", "t"), NOW)
    sizes: dict[int, dict[str, int]] = {}
    for minute in range(1, 3 * 1440 + 1):
        head = json.dumps({"serial": minute, "chain": f"{minute:064x}", "built": str(NOW + minute * MINUTE)}).encode()
        repository.put({"people/head.json": head, "control/head.json": head}, keys("online"), NOW + minute * MINUTE)
        if minute in (1, 1440, 3 * 1440):
            now, folder = versions(repository), repository.folder / "metadata"
            names = {role: f"{now[role]}.{role}.json" for role in ("snapshot", "people", "control", "targets")}
            names["timestamp"] = "timestamp.json"
            sizes[minute] = {role: (folder / name).stat().st_size for role, name in names.items()}
            files = [path for path in repository.folder.rglob("*") if path.is_file()]
            sizes[minute]["files"] = len(files)
            sizes[minute]["bytes in all"] = sum(path.stat().st_size for path in files)
    print(json.dumps(sizes))
    for role in ("timestamp", "snapshot", "people", "control", "targets"):
        assert sizes[3 * 1440][role] < min(1500, sizes[1][role] + 40)
    assert sizes[3 * 1440]["files"] == sizes[1440]["files"] < 120 and sizes[3 * 1440]["bytes in all"] < 100_000
    assert client.look(NOW + 3 * DAY).timestamp == 3 * 1440 + 2
    assert os.listdir(repository.folder / "targets/people")


# -- by hand -----------------------------------------------------------------------------------------------------------


def gated(*arguments: object) -> Result:
    return CliRunner().invoke(gated_hq, ["repo", *map(str, arguments)])


@pytest.fixture
def ceremony(tmp_path: Path) -> Path:
    assert gated("keys", tmp_path / "keys").exit_code == 0
    assert gated("init", tmp_path / "hq", "--keys", tmp_path / "keys").exit_code == 0
    return tmp_path / "keys"


def sign(folder: Path, *names: str) -> list[str]:
    return [part for name in names for part in ("--sign", str(folder / f"{name}.key"))]


def test_keys_are_made_once(tmp_path: Path) -> None:
    told = gated("keys", tmp_path / "keys")
    names = {"root-1", "root-2", "root-3", "targets", "online", "lift"}
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {f"{n}.{k}" for n in names for k in ("key", "pub")}
    assert all(name in told.output for name in names) and "safe" in told.output
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").glob("*.key")} == {0o600}
    before = everything(tmp_path / "keys")
    again = gated("keys", tmp_path / "keys")
    assert again.exit_code == 1 and "never overwritten" in again.output
    assert everything(tmp_path / "keys") == before
    assert gated("keys", tmp_path / "other", "--only", "online").exit_code == 0
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"online.key", "online.pub"}


def test_a_repository_by_hand(ceremony: Path, tmp_path: Path) -> None:
    hq, now = tmp_path / "hq", datetime.now(UTC)
    client = Client(hq, tmp_path / "lane", (hq / "metadata/1.root.json").read_bytes())
    assert gated("init", hq, "--keys", ceremony).exit_code == 1
    policy = tmp_path / "tw.toml"
    policy.write_bytes(b"policy")
    refused = gated("add", hq, policy, "--as", "policy/tw.toml", *sign(ceremony, "online"))
    assert refused.exit_code == 1 and "targets: 1 of its 1 keys must sign" in refused.output
    added = gated("add", hq, policy, "--as", "policy/tw.toml", "--json", *sign(ceremony, "online", "targets"))
    assert json.loads(added.output) == {"target": "policy/tw.toml", "timestamp": 2}
    assert client.look(now).target("policy/tw.toml") == b"policy"
    assert json.loads(gated("renew", hq, "--json", *sign(ceremony, "online")).output) == {"timestamp": 3}
    assert gated("renew", hq, "--past", "77", *sign(ceremony, "online")).output.endswith("timestamp 78\n")
    stick = tmp_path / "stick"
    assert gated("add", hq, policy, "--as", "policy/jp.toml", "--to", stick, *sign(ceremony, "targets")).exit_code == 0
    assert client.look(now).target("policy/jp.toml") is None
    assert gated("take", hq, stick, *sign(ceremony, "online")).exit_code == 0
    assert client.look(now).target("policy/jp.toml") == b"policy"
    absent = gated("remove", hq, "policy/de.toml", *sign(ceremony, "online", "targets"))
    assert absent.exit_code == 1 and "is not a target" in absent.output
    assert gated("remove", hq, "policy/tw.toml", *sign(ceremony, "online", "targets")).exit_code == 0
    assert client.look(now).target("policy/tw.toml") is None


def test_status_names_roles_keys_and_what_expires(ceremony: Path, tmp_path: Path) -> None:
    hq = tmp_path / "hq"
    told = gated("status", hq, "--keys", ceremony, "--root", hq / "metadata/1.root.json")
    assert told.exit_code == 0
    rows = {line.split()[0]: line for line in told.output.splitlines() if line.strip()}
    assert "2 of 3" in rows["root"] and "root-1, root-2, root-3" in rows["root"]
    assert "2 of 2" in rows["control-base"] and "online" in rows["control-base"] and "lift" in rows["control-base"]
    assert "14 days" in rows["people"] and "sign it again" not in told.output
    created(tmp_path / "other")
    other = gated("status", hq, "--root", tmp_path / "other/metadata/1.root.json")
    assert other.exit_code == 1 and "follow another repository" in other.output
    now = datetime.now(UTC)
    Repository(hq).put({}, Signers.of([ceremony / "online.key"]), now - timedelta(hours=20))
    soon = gated("status", hq)
    assert soon.exit_code == 0 and "timestamp: holds 4 h: sign it again in time" in soon.output
    Repository(hq).put({}, Signers.of([ceremony / "online.key"]), now - 4 * DAY)
    late = gated("status", hq)
    assert late.exit_code == 1 and "EXPIRED 3 days ago" in late.output and "lanes take nothing new" in late.output
    assert json.loads(gated("status", hq, "--json").output)["roles"][0]["role"] == "root"
    assert gated("status", tmp_path / "nowhere").exit_code == 1


def test_keys_are_rotated_by_hand(ceremony: Path, tmp_path: Path) -> None:
    hq, now = tmp_path / "hq", datetime.now(UTC)
    client = Client(hq, tmp_path / "lane", (hq / "metadata/1.root.json").read_bytes())
    assert gated("keys", tmp_path / "new", "--only", "online").exit_code == 0
    out, in_ = ceremony / "online.pub", tmp_path / "new/online.key"
    few = gated("rotate", hq, "online", "--out", out, "--in", in_, *sign(ceremony, "root-1", "targets", "lift"))
    assert few.exit_code == 1 and "must sign" in few.output
    signed = sign(ceremony, "root-1", "root-3", "targets", "lift", "online")
    done = gated("rotate", hq, "online", "--out", out, "--in", in_, *signed)
    assert done.exit_code == 0 and "root 2" in done.output, done.output
    assert client.look(now).root == 2
    assert gated("renew", hq, *sign(ceremony, "online")).exit_code == 1
    assert gated("renew", hq, *sign(tmp_path / "new", "online")).exit_code == 0
    wrong = gated("rotate", hq, "online", "--out", out, "--in", tmp_path / "tw.toml", *signed)
    assert wrong.exit_code == 2 and "ends in .pub" in wrong.output
    assert gated("rotate", hq, "online", *signed).exit_code == 2
