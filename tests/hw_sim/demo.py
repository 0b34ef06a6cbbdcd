"""`python -m tests.hw_sim demo`: one lane clears passengers end to end, live, with real networks and a real broker.

Nine processes: broker, HQ's ingest, publisher and web server, the lane, its sync and uplink, the simulator, and this
one, which looks on; with --story it also types at HQ. The lane comes to its enrolment cache as a real one does.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from gated.control import Client, Refused, ShowCache, Unavailable
from tests.hw_sim import mix
from tests.hw_sim.crew import ROOT, Crew, CrewError, free_port, mosquitto
from tests.hw_sim.gallery import IMPOSTORS, GalleryError, Person, people
from tests.hw_sim.glasses import READERS
from tests.hw_sim.headquarters import Office
from tests.hw_sim.screen import Screen, table
from tests.hw_sim.site import LANE, SITE, Plan, prepare
from tests.hw_sim.story import Story, judged

VAR = ROOT / "var"
READY_S = 30.0
EVERY_S = 60.0
"""How often HQ publishes what is not urgent: as in production."""
STORY_S_MAX = 900.0
PASSENGER_S_MAX = 60.0
"""A demonstration that takes longer than this for each passenger is ended as a failure."""
KEYS = (
    "passengers",
    "genuine",
    "impostors",
    "granted",
    "referred",
    "wrong_grants",
    "wrong_referrals",
    "records_lost",
    "doors_unsafe",
    "passage_s_median",
    "software_ms_p95",
)
"""What every result has, in this order; the rest follows."""


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.hw_sim demo", description=__doc__.split("\n")[0])
    parser.add_argument("--passengers", type=int, metavar="N", help="ordinary ones (12; before the story 2)")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument(
        "--people",
        type=Path,
        metavar="DIR",
        help="a folder of photographs for each person; else public-domain portraits are fetched",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep everything here: databases, logs, picture")
    parser.add_argument("--speed", type=float, metavar="X", help="how much faster than life people move (1.2; a mix 2)")
    parser.add_argument("--impostors", type=float, default=IMPOSTORS, metavar="SHARE", help="0.25 to 0.9 of all")
    parser.add_argument(
        "--finger-reader",
        choices=list(READERS),
        default="usb_image",
        help="the lane's fingerprint reader (usb_image); libfprint needs Debian's gir1.2-fprint-2.0 and python3-gi",
    )
    parser.add_argument(
        "--mix",
        choices=[mix.TAIWAN],
        help=f"{mix.COUNT} passengers: every category of the policy, out and in by one lane, and who may not pass; HQ's"
        " counts beside the simulator's (8 minutes)",
    )
    parser.add_argument(
        "--story",
        action="store_true",
        help="then: HQ enrols, bans, lifts a ban, renews passports; seconds until the lane knows (3 minutes)",
    )
    parser.add_argument(
        "--tap",
        action="store_true",
        help="mosquitto_sub writes down every message at the broker: logs/tap.log below --out, which it needs",
    )
    chosen = parser.parse_args(given)
    if chosen.tap and not chosen.out:
        parser.error("--tap writes below --out: name a folder")
    if chosen.mix and (chosen.story or chosen.passengers or chosen.finger_reader == "none"):
        parser.error("--mix has a fingerprint reader and its own passengers: it goes without --story and --passengers")
    if chosen.mix:
        chosen.passengers = mix.COUNT
    if chosen.speed is None:
        chosen.speed = 2.0 if chosen.mix else 1.2
    if chosen.passengers is None:
        chosen.passengers = 2 if chosen.story else 12
    if not 0.25 <= chosen.impostors <= 0.9:
        parser.error("--impostors must be 0.25 to 0.9")
    if not 1 <= chosen.passengers <= 5000:
        parser.error("--passengers must be 1 to 5000")
    if not 0.5 <= chosen.speed <= 10:
        parser.error("--speed must be 0.5 to 10")
    return chosen


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


class Meanwhile(Protocol):
    """What is done to the processes while passengers pass."""

    def __call__(self, crew: Crew, simulator: "subprocess.Popen[str]") -> None:
        """Called several times a second."""


def main(given: Sequence[str]) -> int:
    """0: a clean run; 1: the monitor found something wrong; 2: the demonstration could not be run."""
    return perform(arguments(given))


def perform(chosen: argparse.Namespace, meanwhile: Meanwhile | None = None) -> int:
    """Run it from set-up to the picture; the exit code of `main`."""
    signal.signal(signal.SIGTERM, _interrupted)
    screen = Screen(quiet=chosen.json)
    picture_folder: Path = (chosen.out or VAR / "demo").resolve()
    work = picture_folder if chosen.out else Path(tempfile.mkdtemp(prefix="gated-demo-"))
    sockets = Path(tempfile.mkdtemp(prefix="gated-"))
    try:
        result = _run(chosen, work, sockets, screen, meanwhile)
        picture_folder.mkdir(parents=True, exist_ok=True)
        picture = picture_folder / "timeline.png"
        _draw(work, result, picture, screen)
    except (CrewError, GalleryError, Unavailable, Refused) as bad:
        screen.close()
        print(f"demo: {bad}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        screen.close()
        print("demo: interrupted", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
        if not chosen.out:
            shutil.rmtree(work, ignore_errors=True)
    if chosen.json:
        print(json.dumps({key: result[key] for key in KEYS} | result))
    else:
        screen.print(table(result, picture))
    return 0 if result["clean"] else 1


def _run(
    chosen: argparse.Namespace, work: Path, sockets: Path, screen: Screen, meanwhile: Meanwhile | None
) -> dict[str, Any]:
    from models.loader import CACHE
    from models.manifest import ModelError

    mosquitto()
    for name in ("yunet", "sface", "leader")[: None if chosen.finger_reader != "none" else 2]:
        if not (CACHE / f"{name}.onnx").exists():
            raise CrewError(f"the network {name} is not there: make models (or python -m models.obtain)")
    if work.exists() and any(work.iterdir()):
        raise CrewError(f"{work} is not empty: name another folder with --out")
    work.mkdir(parents=True, exist_ok=True)
    folder = _people(chosen.people, screen)
    today = datetime.now(UTC).date()
    plan = Plan(
        people=str(folder.resolve()),
        seed=chosen.seed,
        passengers=chosen.passengers,
        today=today.isoformat(),
        speed=chosen.speed,
        camera_port=free_port(),
        broker_port=free_port(),
        models=str(CACHE),
        impostors=chosen.impostors,
        known=(),
        sockets=str(sockets),
        reader=chosen.finger_reader,
        web_port=free_port(),
        mix=bool(chosen.mix),
    )
    everybody = people(folder)
    screen.say(f"enrolling people from {folder}")
    with Crew(work / "logs") as crew:
        office = Office(crew, work, f"{SITE}/{LANE}", work / "keys" / f"{LANE}.key", plan.models)
        try:
            plan = prepare(work, plan, everybody, office, screen.say, story=chosen.story)
        except ModelError as bad:
            raise CrewError(f"{bad}: make models") from None
        crew.broker(work / "broker", plan.broker_port)
        if chosen.tap:
            crew.tap(plan.broker_port)
        return _processes(crew, plan, work, screen, office, everybody, meanwhile)


def _processes(
    crew: Crew,
    plan: Plan,
    work: Path,
    screen: Screen,
    office: Office,
    everybody: Sequence[Person],
    meanwhile: Meanwhile | None,
) -> dict[str, Any]:
    at = ("--host", "127.0.0.1", "--port", str(plan.broker_port), "--plain")
    database, key, config = str(work / "hq.db"), str(work / "keys" / "hq.key"), str(work / "lane.toml")
    receipts = str(work / "keys" / "receipts.key")
    crew.python("ingest", "gated.hq.cli", "ingest", "--db", database, "--key", key, "--receipts-key", receipts, *at)
    screen.say("HQ publishes its register, sealed for this lane and signed")
    office.open(at, plan.web_port, EVERY_S)
    crew.wait("ingest", (work / "hq.db").exists, READY_S)
    crew.python("sync", "gated.sync", "--config", config)
    simulator = crew.python("simulator", "tests.hw_sim.simulator", str(work), piped=True)
    crew.wait("simulator", plan.pins.exists, READY_S)
    crew.python("lane", "tests.hw_sim.lane_process", config, str(plan.pins))
    crew.wait("lane", plan.control.exists, READY_S)
    crew.python("uplink", "gated.uplink", "--config", config)
    story = None
    if plan.players:
        story = Story(plan, work, everybody, office, at, lambda line: tell(simulator, line), screen.say)
    try:
        with screen.live(plan.control):
            _look_on(crew, simulator, plan, screen, story, meanwhile)
        cache = Client(plan.control, READY_S).ask(ShowCache())["partitions"]
    finally:
        if story is not None:
            story.stop()
    found: dict[str, Any] = json.loads((work / "result.json").read_text(encoding="utf-8"))
    for name, partition in cache.items():
        found |= {f"cache_{name}_rows": partition["rows"], f"cache_{name}_segments": partition["serial"]}
    asked = [sys.executable, "-m", "gated.hq.cli", "attachments", "list", "--db", database, "--json", "--limit", "5000"]
    pictures = Counter(each["state"] for each in json.loads(crew.done("attachments", asked)))
    found |= {"pictures_at_hq": pictures["whole"], "pictures_incomplete": pictures.total() - pictures["whole"]}
    if plan.mix:
        asked = [sys.executable, "-m", "gated.hq.cli", "statistics", "--db", database, "--key", key, "--json"]
        found["mix"] = mix.beside(found["mix"], json.loads(crew.done("statistics", asked)))
        found["counts_match"] = all(row["same"] for row in found["mix"])
        found["clean"] &= found["counts_match"]
    if story is not None:
        tickets = json.loads((work / "trace.json").read_text(encoding="utf-8"))["tickets"]
        found["story"] = [judged(scene, tickets) for scene in story.scenes]
        found["clean"] &= all(scene["right"] for scene in found["story"])
    return found


def _look_on(
    crew: Crew,
    simulator: "subprocess.Popen[str]",
    plan: Plan,
    screen: Screen,
    story: Story | None,
    meanwhile: Meanwhile | None,
) -> None:
    """Until the simulator has done. Raises `CrewError`."""
    limit_s = READY_S + 90.0 + PASSENGER_S_MAX * plan.passengers / plan.speed + (STORY_S_MAX if story else 0.0)
    until = time.monotonic() + limit_s
    done = threading.Event()
    if story is not None:
        story.start()
    threading.Thread(target=_listen, args=(simulator, screen, story, done), daemon=True).start()
    while not done.wait(0.25):
        crew.check()
        if story is not None and story.failed is not None:
            raise story.failed
        if meanwhile is not None:
            meanwhile(crew, simulator)
        if time.monotonic() > until:
            raise CrewError(f"not finished after {limit_s:.0f} s; the lane's log:\n{crew.tail('lane')}")


def tell(simulator: "subprocess.Popen[str]", line: str) -> None:
    """A line for the simulator. Raises `OSError` where it has ended."""
    assert simulator.stdin is not None
    simulator.stdin.write(line + "\n")
    simulator.stdin.flush()


def _listen(simulator: Any, screen: Screen, story: Story | None, done: threading.Event) -> None:
    for line in simulator.stdout:
        event = json.loads(line)
        screen.happened(event)
        if story is not None:
            story.heard(event)
        if event["what"] == "done":
            done.set()


def _people(given: Path | None, screen: Screen) -> Path:
    """The folder of people: the given one, or public-domain portraits, fetched once."""
    if given is not None:
        return given
    from tests.hw_sim.portraits import PortraitError, obtain

    folder = VAR / "portraits"
    try:
        obtain(folder, screen.say)
    except PortraitError as bad:
        raise CrewError(str(bad)) from None
    return folder


def _draw(work: Path, result: dict[str, Any], path: Path, screen: Screen) -> None:
    try:
        from tests.hw_sim.timeline import draw
    except ImportError as missing:
        screen.say(f"no timeline: {missing}")
        return
    draw(json.loads((work / "trace.json").read_text(encoding="utf-8")), result, path)
