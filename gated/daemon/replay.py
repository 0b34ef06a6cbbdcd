"""Replay: the journal's events through this version's machine, and the first command that differs."""

from dataclasses import dataclass
from pathlib import Path

from gated.config import Config
from gated.daemon.plan import key_of, machine_of, policy_of
from gated.daemon.policykept import FOLDER, Kept, PolicyRefused
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.events import Now
from gated.lane.rules import Rules
from gated.logs import told
from gated.store.journal import JournalReader
from gated.store.sql import StoreError
from gated.wire.codec import family


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """`events` were replayed; `difference` says where and in what the commands differ, without personal data."""

    events: int
    boots: int
    difference: str | None


def replay(journal: Path, config: Config, key: Path | None = None) -> ReplayResult:
    """Replay every whole boot of `journal` (a lane.db) with the machine and timing of `config`, and with the policies
    that were in force: the lane keeps a copy of each beside its lane.db, or in [store] dir.

    A boot whose beginning was trimmed is passed over: the machine's state before it is not known. Raises `StoreError`
    for a journal that cannot be read or opened and for a policy that is nowhere, `ConfigError` for the rest."""
    policies = _Policies(journal, config)
    secret = key_of(config, "journal", key)
    reader = JournalReader(journal, family(vars(ev), ev.Event), family(vars(cmd), cmd.Command), secret)
    events = boots = 0
    try:
        for boot in reader.boots():
            if boot.first != 1:
                continue
            boots += 1
            lane = machine_of(config)
            for entry in reader.read(boot.boot):
                event, commands = entry.replayed()
                events += 1
                place = f"boot {boot.boot}, entry {entry.n}, {event!r}"
                if isinstance(event, ev.PolicyReady):
                    lane.offer(policies.of(event))
                try:
                    again = lane.handle(event, Now(entry.mono, entry.utc))
                except Exception as error:  # noqa: BLE001  # that it fails is what was to be found out
                    return ReplayResult(events, boots, f"{place}: now the machine fails: {'; '.join(told(error))}")
                if again != commands:
                    return ReplayResult(events, boots, f"{place}: {_difference(commands, again)}")
    finally:
        reader.close()
    return ReplayResult(events, boots, None)


class _Policies:
    """The policies that a journal names."""

    def __init__(self, journal: Path, config: Config) -> None:
        settings, self._installed = policy_of(config)
        self._place = settings.place
        beside = journal.parent / FOLDER
        self._kept = Kept(beside if beside.is_dir() else config.store.dir / FOLDER)
        self._known: dict[tuple[int, str], Rules] = {}

    def of(self, event: ev.PolicyReady) -> Rules:
        """Raises `StoreError`."""
        what = event.edition, event.version
        if what not in self._known:
            self._known[what] = self._found(event)
        return self._known[what]

    def _found(self, event: ev.PolicyReady) -> Rules:
        installed = self._installed.rules
        try:
            kept = self._kept.load(event.edition, self._place).rules
            if kept.version == event.version:
                return kept
            lacking = f"that copy is of version {kept.version}"
        except PolicyRefused as no:
            if no.why == "gone" and (installed.edition, installed.version) == (event.edition, event.version):
                return installed
            lacking = str(no)
        advice = f"the journal names policy {event.version}, edition {event.edition}: {lacking}"
        raise StoreError("no_policy", self._kept.folder, advice)


def _difference(then: tuple[cmd.Command, ...], now: tuple[cmd.Command, ...]) -> str:
    # repr leaves personal fields out: the text may be shown and mailed.
    was, does = ", ".join(map(repr, then)) or "nothing", ", ".join(map(repr, now)) or "nothing"
    if was == does:
        does = "the same commands with other personal fields"
    return f"then {was}; now {does}"
