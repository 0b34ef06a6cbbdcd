"""HQ's office in a demonstration: whatever it does, a person could type. `gated-hq` runs as processes of its own.

`python -m tests.hw_sim.headquarters FOLDER PORT` is HQ's web server: any that serves files would do.
"""

import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hw_sim.crew import Crew, listens

GATED = (sys.executable, "-c", "from gated.cli import main; main()")
GATED_HQ = (sys.executable, "-m", "gated.hq.cli")
READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Typed:
    """A command that was carried out. `began`, `ended`: monotonic seconds."""

    answer: Any = field(repr=False)
    began: float
    ended: float


class Office:
    """Register, keys, repository, publisher and web server of one folder; `lane`: site/lane, `key`: the file of
    the lane's own."""

    def __init__(self, crew: Crew, folder: Path, lane: str, key: Path, models: str) -> None:
        self._crew, self._folder, self._lane, self._key, self._models = crew, folder, lane, key, models
        self._signing = folder / "ceremony"
        self.repository = folder / "repo"
        self._register = ("--registers", str(folder / "registers.db"), "--key", str(folder / "keys" / "data.key"))
        self._state = ("--state", str(folder / "publish.db"), "--keys", str(folder / "epochs"))
        self._papers = 0

    def typed(self, *arguments: str) -> Typed:
        """One `gated-hq` command with --json. Raises `CrewError`."""
        began = time.monotonic()
        said = self._crew.done("gated-hq", [*GATED_HQ, *arguments, "--json"])
        return Typed(json.loads(said), began, time.monotonic())

    def make_lane_key(self, config: Path) -> None:
        """The lane's own key, made at the lane; HQ is given the public half alone."""
        self._crew.done("gated", [*GATED, "--config", str(config), "cache", "key", "--out", str(self._key)])

    # -- the trust and the publisher

    def found(self) -> Path:
        """The signed repository, with nothing in it. The root that lanes are installed with."""
        self.typed("repo", "keys", str(self._signing))
        made = self.typed("repo", "init", str(self.repository), "--keys", str(self._signing))
        return Path(made.answer["root"])

    def publish(self, *broker: str, lift: bool) -> Typed:
        """Everything that the register has, once. `lift`: with the second key too."""
        keys = ("online", "lift") if lift else ("online",)
        return self.typed("publish", *self._publishing(keys), *broker)

    def _publishing(self, keys: Sequence[str]) -> list[str]:
        signing = [word for name in keys for word in ("--sign", str(self._signing / f"{name}.key"))]
        return [*self._register, *self._state, "--repo", str(self.repository), *signing]

    def open(self, broker: Sequence[str], port: int, every_s: float) -> None:
        """The lane may have what is published; the first epochs open, which needs both keys; then the web server and
        the publisher, with the online key alone, until the crew ends."""
        repository = ("--repo", str(self.repository))
        add = ("lane", "add", self._lane, "--key", str(self._key.with_suffix(".pub")), *self._state, *repository)
        self._crew.done("gated-hq", [*GATED_HQ, *add])
        self.publish(lift=True)
        self._crew.python("website", "tests.hw_sim.headquarters", str(self.repository), str(port))
        self._crew.wait("website", lambda: listens(port), READY_S)
        publishing = self._publishing(("online",))
        self._crew.python("publisher", "gated.hq.cli", "publish", *publishing, "--every", f"{every_s:g}", *broker)

    # -- the desks

    def enrol(self, photo: Path, lines: Sequence[str], *, urgent: bool) -> Typed:
        """One person at the counter; answers their subject."""
        self._papers += 1
        mrz = self._folder / f"paper-{self._papers}.txt"
        mrz.write_text("\n".join(lines) + "\n", encoding="utf-8")
        how = ("--urgent",) if urgent else ()
        try:
            given = ("--photo", str(photo.resolve()), "--mrz", str(mrz), "--models", self._models)
            done = self.typed("enrol", *self._register, *given, *how)
        finally:
            mrz.unlink()
        return Typed(done.answer[0]["subject"], done.began, done.ended)

    def enrol_all(self, people: Sequence[tuple[Path, Sequence[str]]]) -> list[int]:
        """Photographs and zones by one file; their subjects."""
        file = self._folder / "people.jsonl"
        lines = [json.dumps({"mrz": list(zone), "photo": str(photo.resolve())}) for photo, zone in people]
        file.write_text("\n".join(lines), encoding="utf-8")
        try:
            done = self.typed("enrol", *self._register, "--file", str(file), "--models", self._models)
        finally:
            file.unlink()
        return [row["subject"] for row in done.answer]

    def control(self, what: str, *words: str) -> Typed:
        """`ban` or `lift`, at once."""
        return self.typed("control", what, *words, "--urgent", *self._register)


def main(folder: Path, port: int) -> int:
    """Serve until SIGTERM."""
    from tests.hw_sim.website import Website

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Website(folder, port=port):
        stop.wait()
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tests.hw_sim.headquarters FOLDER PORT")
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
