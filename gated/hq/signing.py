"""One act of signing: which keys must sign, which are at hand, and which may never stand together."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Snapshot, Targets, Timestamp

from gated.hq.metadata import DELEGATED, TOP, State, holds
from gated.hq.signers import RepositoryFault, Signers, public_key


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long what is signed holds, in seconds."""

    root_s: int = 365 * 86400
    targets_s: int = 180 * 86400
    partition_s: int = 14 * 86400
    snapshot_s: int = 14 * 86400
    timestamp_s: int = 86400
    lift_s: int = 90 * 86400
    """Of control-base, which needs a person: an old one keeps bans in place and lifts nothing, so it may live long."""

    def of(self, role: str) -> timedelta:
        """How long what this role signs holds."""
        seconds = {
            "root": self.root_s,
            "targets": self.targets_s,
            "control-base": self.lift_s,
            "snapshot": self.snapshot_s,
            "timestamp": self.timestamp_s,
        }
        return timedelta(seconds=seconds.get(role, self.partition_s))


USUAL: Final = Lifetimes()


class Signing:
    """One act of signing: with the keys that `root` names, and where another root was there before, with its too."""

    def __init__(
        self, state: State, root: Root, signers: Signers, now: datetime, lifetimes: Lifetimes, past: int = 0
    ) -> None:
        self._state, self._root, self._signers = state, root, signers
        self._before, self._past = state.root.signed, past
        self._now, self._lifetimes = now.astimezone(UTC).replace(microsecond=0), lifetimes

    def sign(self, role: str, metadata: Metadata[Any]) -> bytes:
        """The next version of what a role signs. Raises `RepositoryFault` where too few keys are at hand."""
        named_by = self._state.delegator(role, self._root)
        before = [self._before] if role in TOP else []
        past = 0 if role == "root" else self._past  # roots are counted one by one
        metadata.signed.version = max(metadata.signed.version, past) + 1
        metadata.signed.expires = self._now + self._lifetimes.of(role)
        metadata.signatures.clear()
        keyids = [keyid for each in (named_by, *before) for keyid in each.get_delegated_role(role).keyids]
        for keyid in dict.fromkeys(keyids):
            if keyid in self._signers:
                metadata.sign(self._signers[keyid], append=True)
        for each in (named_by, *(before if role == "root" else ())):
            if not holds(each, role, metadata):
                raise RepositoryFault(lacks(each, role, self._signers))
        return metadata.to_bytes()

    def bridged(self) -> bool:
        """Whether a client that knows the former root alone takes this state too."""
        state = self._state
        top = (("timestamp", state.timestamp), ("snapshot", state.snapshot), ("targets", state.targets["targets"]))
        return all(holds(self._before, role, metadata) for role, metadata in top)


def first_state(
    root: Sequence[bytes], root_threshold: int, targets: Sequence[bytes], online: bytes, lift: bytes, now: datetime
) -> State:
    """A repository before anything is signed: who may sign what, everything at version 0. Raises `RepositoryFault`."""
    if len({*root, *targets, online, lift}) < len(root) + len(targets) + 2:
        raise RepositoryFault("the same key is given twice: root, targets, online and lift each have their own")
    first = Root(expires=now)
    set_keys(first, "root", (), root, root_threshold)
    set_keys(first, "targets", (), targets, 1)
    set_keys(first, "snapshot", (), (online,), 1)
    set_keys(first, "timestamp", (), (online,), 1)
    delegated = {role: DelegatedRole(role, [], 1, True, [pattern]) for role, pattern in DELEGATED.items()}
    top = Targets(expires=now, delegations=Delegations({}, delegated))
    set_keys(top, "people", (), (online,), 1)
    set_keys(top, "control", (), (online,), 1)
    set_keys(top, "control-base", (), (online, lift), 2)
    state = State(
        Metadata(first),
        Metadata(Timestamp(expires=now)),
        Metadata(Snapshot(expires=now)),
        {"targets": Metadata(top), **{role: Metadata(Targets(expires=now)) for role in DELEGATED}},
    )
    for _, metadata in state.by_role():
        metadata.signed.version = 0
    return state


def names(state: State, role: str) -> set[str]:
    return set(state.delegator(role).get_delegated_role(role).keyids)


def enough(delegator: Root | Targets, role: str, signers: Signers) -> bool:
    named = delegator.get_delegated_role(role)
    return sum(keyid in signers for keyid in named.keyids) >= named.threshold


def lacks(delegator: Root | Targets, role: str, signers: Signers) -> str:
    named = delegator.get_delegated_role(role)
    here = [keyid[:8] for keyid in named.keyids if keyid in signers]
    away = [keyid[:8] for keyid in named.keyids if keyid not in signers]
    return (
        f"{role}: {named.threshold} of its {len(named.keyids)} keys must sign, at hand: {', '.join(here) or 'none'};"
        f" not at hand: {', '.join(away)} (gated-hq repo status says whose). Nothing was changed"
    )


def set_keys(delegator: Root | Targets, role: str, old: Sequence[bytes], new: Sequence[bytes], threshold: int) -> bool:
    """Take the old keys of a role away, add the new ones; whether that changes anything. Raises `RepositoryFault`."""
    named = delegator.get_delegated_role(role)
    before = (set(named.keyids), named.threshold)
    taken, given = ([public_key(raw) for raw in keys] for keys in (old, new))
    done = bool(given) and {key.keyid for key in given} <= before[0]
    for key in taken:
        if key.keyid in named.keyids:
            delegator.revoke_key(key.keyid, role)
        elif not done:
            raise RepositoryFault(f"{role} has no key {key.keyid[:8]} to be taken away. Nothing was changed")
    for key in given:
        delegator.add_key(key, role)
    named.threshold = threshold
    if not 1 <= threshold <= len(named.keyids):
        raise RepositoryFault(f"{role} would have {len(named.keyids)} keys, so {threshold} cannot be asked for")
    return (set(named.keyids), named.threshold) != before


def check_apart(root: Root, named_by: Targets) -> None:
    """One thief, one role: raises `RepositoryFault` where keys would stand in roles that must be apart."""
    keys = {role: set(root.get_delegated_role(role).keyids) for role in TOP}
    for role in DELEGATED:
        keys[role] = set(named_by.get_delegated_role(role).keyids)
    online = keys["timestamp"] | keys["snapshot"] | keys["people"] | keys["control"]
    if keys["root"] & (keys["targets"] | online | keys["control-base"]) or keys["targets"] & online:
        raise RepositoryFault("root, targets and online keys must be different ones. Nothing was changed")
    if len(keys["control-base"] & online) >= named_by.get_delegated_role("control-base").threshold:
        raise RepositoryFault("control-base must need a key that is not online: it lifts bans. Nothing was changed")
