"""Replay: the journal's events through this version's machine, and the first command that differs."""

from dataclasses import dataclass
from pathlib import Path

from gated.config import Config
from gated.daemon.crashes import told
from gated.daemon.plan import key_of, machine_of
from gated.lane import commands as cmd
from gated.lane import events as ev
from gated.lane.events import Now
from gated.store.journal import JournalReader
from gated.wire.codec import family


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """`events` were replayed; `difference` says where and in what the commands differ, without personal data."""

    events: int
    boots: int
    difference: str | None


def replay(journal: Path, config: Config, key: Path | None = None) -> ReplayResult:
    """Replay every whole boot of `journal` (a lane.db) with the machine, timing and policy of `config`.

    A boot whose beginning was trimmed is passed over: the machine's state before it is not known. Raises `StoreError`
    for a journal that cannot be read or opened, `ConfigError` for the rest."""
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
                try:
                    again = lane.handle(event, Now(entry.mono, entry.utc))
                except Exception as error:  # noqa: BLE001  # that it fails is what was to be found out
                    return ReplayResult(events, boots, f"{place}: now the machine fails: {'; '.join(told(error))}")
                if again != commands:
                    return ReplayResult(events, boots, f"{place}: {_difference(commands, again)}")
    finally:
        reader.close()
    return ReplayResult(events, boots, None)


def _difference(then: tuple[cmd.Command, ...], now: tuple[cmd.Command, ...]) -> str:
    # repr leaves personal fields out: the text may be shown and mailed.
    was, does = ", ".join(map(repr, then)) or "nothing", ", ".join(map(repr, now)) or "nothing"
    if was == does:
        does = "the same commands with other personal fields"
    return f"then {was}; now {does}"
