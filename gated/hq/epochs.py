"""Epochs of a partition: their keys as files, who may have them, and their end.

One key seals all rows of a partition for one epoch, and every lane of the partition is given it, wrapped so that this
lane alone opens it. A lane that is removed keeps what it knows until the next epoch; destroying a key makes all that
was sealed with it worthless, wherever copies of it lie.
"""

import os
from datetime import datetime
from pathlib import Path

from gated.hq.bundles import drop, put_file
from gated.hq.keys import secret
from gated.hq.metadata import make_folder, sync
from gated.hq.published import PublisherState, State, StateFault
from gated.hq.sealing import Sealer
from gated.wire import link
from gated.wire.bundle import key_path
from gated.wire.rows import EpochKey, wrapped
from gated.wire.seal import KEY_BYTES, NONCE_BYTES


def key_file(keys: Path, partition: str, epoch: int) -> Path:
    """Where an epoch's key lies: 32 raw bytes."""
    return keys / f"epoch-{partition}-{epoch}.key"


def begin(state: PublisherState, keys: Path, partition: str, now: datetime, above: int = 0) -> int:
    """The next epoch, to be filled by the publisher, with a key of its own; its number is greater than `above`.

    Raises `StateFault`, `KeyFault`, `OSError`."""
    epochs = state.epochs(partition)
    for epoch in epochs:
        if epoch.state in (State.FILLING, State.FILLED):
            raise StateFault(f"epoch {epoch.epoch} of {partition} has begun and is not published yet: gated-hq publish")
    number = max([above, *(epoch.epoch for epoch in epochs)]) + 1
    path = key_file(keys, partition, number)
    if not path.exists():
        make_folder(keys)
        put_file(path, os.urandom(KEY_BYTES), 0o600)
    state.begin(partition, number, EpochKey.of(secret(path)).proof(os.urandom(NONCE_BYTES)), now)
    return number


def sealer(keys: Path, partition: str, epoch: int, proof: bytes) -> Sealer:
    """What an epoch's rows are sealed with. Raises `KeyFault`; `StateFault` where the file holds another key."""
    path = key_file(keys, partition, epoch)
    found = Sealer.of(secret(path))
    if not found.rows.proves(proof):
        raise StateFault(
            f"{path} is not the key of epoch {epoch} of {partition}: put the right one back, or begin anew"
        )
    return found


def erase(state: PublisherState, keys: Path, folder: Path, partition: str, epoch: int) -> None:
    """Destroy an epoch's key, then all that was sealed with it here. Raises `StateFault` for one that is in use."""
    found = {each.epoch: each.state for each in state.epochs(partition)}
    if epoch not in found:
        raise StateFault(f"{partition} has no epoch {epoch}; it has {', '.join(map(str, found)) or 'none'}")
    if found[epoch] is State.OPEN:
        raise StateFault(f"epoch {epoch} is what lanes of {partition} use: gated-hq epoch new, publish, then erase it")
    path = key_file(keys, partition, epoch)
    if path.exists():
        with path.open("r+b") as file:  # flash keeps older blocks: whoever fears that keeps keys where none are written
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        sync(path.parent)
    state.erase(partition, epoch)
    drop((folder / key_path(partition, epoch, "x/x")).parent.parent)


# -- lanes ---------------------------------------------------------------------------------------------------------


def add_lane(state: PublisherState, keys: Path, folder: Path, lane: str, public: bytes) -> list[str]:
    """A lane, or another key for it: it is given every epoch that is not closed. Which, as `people/1`.

    `lane`: `site/lane`; `public`: X25519, 32 bytes raw. Raises `ValueError`, `StateFault`, `KeyFault`, `OSError`."""
    site, _, name = lane.partition("/")
    link.topic(site, name, "birth")
    state.put_lane(lane, public)
    given = []
    for partition, epoch in _present(state):
        _give(keys, folder, partition, epoch, lane, public)
        given.append(f"{partition}/{epoch}")
    return given


def remove_lane(state: PublisherState, folder: Path, lane: str) -> None:
    """From now on it is given no key. What it has it keeps until the next epoch. Raises `StateFault`."""
    if not state.drop_lane(lane):
        raise StateFault(f"there is no lane {lane}: gated-hq lane list")
    for partition, epoch in _present(state):
        drop(folder / key_path(partition, epoch, lane))


def give_all(state: PublisherState, keys: Path, folder: Path, partition: str, epoch: int) -> None:
    """Every lane is given the key of an epoch that is about to open. Raises `KeyFault`, `OSError`."""
    for lane, public in state.lanes().items():
        _give(keys, folder, partition, epoch, lane, public)


def _present(state: PublisherState) -> list[tuple[str, int]]:
    return [
        (partition, each.epoch)
        for partition in ("people", "control")
        for each in state.epochs(partition)
        if each.state is not State.CLOSED
    ]


def _give(keys: Path, folder: Path, partition: str, epoch: int, lane: str, public: bytes) -> None:
    key = secret(key_file(keys, partition, epoch))
    put_file(folder / key_path(partition, epoch, lane), wrapped(key, public, partition, epoch, lane))
