"""Everything that a demonstration needs on disk: keys, register, lane.toml; and which wire is on which pin.

The lane's cache is not among it: HQ publishes its register, and the lane's sync fetches that."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

from drivers.links import Pin
from gated.hq import keys
from gated.hq.enrolment import NotEnrolled
from gated.hq.registers import Register
from tests.hw_sim import mix
from tests.hw_sim.counter import Counter
from tests.hw_sim.gallery import GalleryError, Person, Show, candidates, show
from tests.hw_sim.glasses import READERS, section
from tests.hw_sim.happenings import Topology
from tests.hw_sim.headquarters import Office
from tests.hw_sim.visits import NEW, Player, Role, papers

SITE, LANE = "demo", "lane-1"
POLICY = Path(__file__).resolve().parents[2] / "config" / "policy" / "tw.toml"
THRESHOLD = "fmr_1e-4"
"""Of the models' manifest, fixed before anybody comes; what config/lane.toml recommends."""
PEOPLE_OF_THE_MIX = 12
"""So many faces at most: everybody comes with several documents."""
BEYOND_DOUBT = 0.1
"""So much a score is above the threshold of somebody who plays in the story."""

INPUTS = {
    name: Pin(number)
    for number, name in enumerate(
        (
            *("a_closed", "a_open", "a_outer", "a_inner", "a_obstacle"),
            *("b_closed", "b_open", "b_outer", "b_inner", "b_obstacle"),
            *("presence_one", "presence_many", "thing", "fire", "mains", "helper"),
        ),
        start=4,  # 2 and 3 of a Raspberry Pi carry resistors of their own
    )
}
LAMPS = {name: Pin(number) for number, name in enumerate(("a_green", "a_red", "b_green", "b_red"), start=20)}
REQUESTS = {name: Pin(number) for number, name in enumerate(("alive", "a_request", "b_request"), start=24)}


@dataclass(frozen=True)
class Plan:
    """What the processes of one demonstration agree on; lies in the folder as plan.json."""

    people: str
    seed: int
    passengers: int
    today: str
    speed: float
    camera_port: int
    broker_port: int
    models: str
    impostors: float
    """Their share of the passengers."""
    known: tuple[int, ...]
    """Whom the counter enrolled, as numbers in the folder's order."""
    sockets: str
    """A folder with a short name: the path of a Unix socket holds a hundred letters."""
    reader: str = "none"
    """The fingerprint reader, of `tests.hw_sim.glasses.READERS`."""
    web_port: int = 0
    players: tuple[Player, ...] = ()
    """Who plays the story, one for each role; nobody: there is none."""
    mix: bool = False
    """Everybody of whom the policy speaks, both ways."""

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1, default=lambda role: role.value)
        (folder / "plan.json").write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        fields = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        players = tuple(Player(**{**each, "role": Role(each["role"])}) for each in fields["players"])
        return cls(**{**fields, "known": tuple(fields["known"]), "players": players})

    @property
    def day(self) -> date:
        return date.fromisoformat(self.today)

    def show(self, everybody: Sequence[Person]) -> Show:
        """Who comes."""
        if self.mix:
            return mix.show(everybody, self.known, self.seed, self.day)
        return show(
            everybody, self.known, self.seed, self.passengers, self.day, self.impostors, fingers=self.reader != "none"
        )

    @property
    def topology(self) -> Topology:
        return Topology.BIDIRECTIONAL if self.mix else Topology.MANTRAP

    @property
    def readers(self) -> dict[str, str]:
        """The document readers: side -> section of lane.toml, and the name of the port in the folder."""
        return {"a": "passport", "b": "passport_b"} if self.mix else {"a": "passport"}

    @property
    def pins(self) -> Path:
        return Path(self.sockets) / "pins.sock"

    @property
    def control(self) -> Path:
        return Path(self.sockets) / "control.sock"

    @property
    def sync(self) -> Path:
        return Path(self.sockets) / "sync.sock"


def prepare(
    folder: Path, plan: Plan, everybody: Sequence[Person], office: Office, say: Callable[[str], None], *, story: bool
) -> Plan:
    """Write keys, register, signed repository, lane.toml and plan.json into `folder`. Returns the plan with those
    `known`, and with the `players` of the story.

    `say` hears how many photographs HQ's counter refused. Raises `GalleryError` where nobody can be enrolled, and
    `CrewError`."""
    keys.make(folder / "keys")
    journal = folder / "keys" / "journal.key"
    journal.write_bytes(os.urandom(32))
    journal.chmod(0o600)
    (folder / "store").mkdir()
    shutil.copyfile(office.found(), folder / "root.json")
    register = Register(folder / "registers.db", keys.secret(folder / "keys" / "data.key"))
    try:
        plan = _enrol(register, plan, everybody, say, story)
    finally:
        register.close()
    if story:
        plan = _enrol_players(plan, everybody, office)
    plan.write(folder)
    (folder / "lane.toml").write_text(_lane_toml(folder, plan), encoding="utf-8")
    office.make_lane_key(folder / "lane.toml")
    return plan


def _enrol_players(plan: Plan, everybody: Sequence[Person], office: Office) -> Plan:
    """Whom HQ knows before the story begins."""
    known = [player for player in plan.players if player.role not in NEW]
    applications = []
    for player in known:
        photograph = everybody[player.person].enrolled
        assert photograph is not None, "nobody is enrolled without a photograph"
        applications.append((photograph, papers(player.role, player.person, plan.seed, plan.day)[0].lines))
    subjects = dict(zip((player.role for player in known), office.enrol_all(applications), strict=True))
    return replace(plan, players=tuple(replace(each, subject=subjects.get(each.role, 0)) for each in plan.players))


def _enrol(
    register: Register, plan: Plan, everybody: Sequence[Person], say: Callable[[str], None], story: bool
) -> Plan:
    """The first photograph of each, until as many are enrolled as will come."""
    with tempfile.TemporaryDirectory(prefix="gated-counter-") as folder:
        counter = Counter(plan, everybody, register, Path(folder), THRESHOLD)
        plan = _at_the_counter(counter, plan, everybody, say)
        return replace(plan, players=_players(counter, plan, everybody)) if story else plan


def _players(counter: Counter, plan: Plan, everybody: Sequence[Person]) -> tuple[Player, ...]:
    """People whom the lane recognises beyond doubt: the story is of what HQ knows, and not of faces. One may play
    several roles where there are few. Raises `GalleryError`."""
    found: list[tuple[int, int]] = []
    others = [person for person in candidates(everybody, plan.seed) if person not in plan.known]
    for person in [*others, *plan.known]:
        if len(found) == len(Role):
            break
        try:
            shown, above = counter.likest(person)
        except NotEnrolled:
            continue  # whose photograph will not do at the counter plays no part
        if above >= BEYOND_DOUBT:
            found.append((person, shown))
    if not found:
        raise GalleryError("nobody's photographs are alike enough for the story: it needs two good ones of one person")
    return tuple(Player(role, *found[k % len(found)]) for k, role in enumerate(Role))


def _at_the_counter(counter: Counter, plan: Plan, everybody: Sequence[Person], say: Callable[[str], None]) -> Plan:
    known: list[int] = []
    refused = 0
    for person in candidates(everybody, plan.seed):
        if len(known) >= (PEOPLE_OF_THE_MIX if plan.mix else max(2, plan.passengers)):
            break
        try:
            counter.see(person)
        except NotEnrolled:
            refused += 1
        else:
            known.append(person)
    if not known:
        raise GalleryError("HQ's counter could enrol nobody: the first photograph of a person must show one face well")
    plan = replace(plan, known=tuple(known))
    enrolments = plan.show(everybody).cast.enrolments
    for enrolment in enrolments:
        counter.enrol(enrolment)
    fingered = sum(bool(enrolment.fingers) for enrolment in enrolments)
    say(f"HQ's counter enrolled {len(known)} people and refused {refused} photographs as not good enough")
    if plan.reader != "none":
        say(f"{fingered} of them have fingers enrolled that nobody has: the demonstration draws them")
    return plan


def _lane_toml(folder: Path, plan: Plan) -> str:
    def pins(*tables: dict[str, Pin]) -> str:
        return "\n".join(f"{name} = {{ pin = {pin.pin} }}" for table in tables for name, pin in table.items())

    def hurried(seconds: float, least: float) -> float:
        """At a higher speed people are shorter of time, and so is the lane; but not where a story needs time."""
        return round(max(seconds / plan.speed, least), 2)

    face_s = 5.0 if plan.players else hurried(4.0, 1.5)

    model = READERS[plan.reader]
    finger_s = hurried(model.finger_s, 4.0) if model is not None else 0.0
    fingers = f"finger_s = {finger_s}\nfingers_s = {4 * finger_s + 1.0}\n" if model is not None else ""
    readers = "\n".join(f'[{name}]\ndriver = "elyctis"\nport = "{folder / name}"\n' for name in plan.readers.values())
    return f"""[lane]
id = "{LANE}"
site = "{SITE}"
place = "demonstration"
topology = "{plan.topology.value}"
direction = "{"both" if plan.mix else "exit"}"

[timing]
face_s = {face_s}
match_s = {2 * face_s + 1.0}
refused_s = {hurried(4.0, 1.0)}
{fingers}
[policy]
file = "{POLICY}"
place = "{mix.PLACE if plan.mix else "taoyuan_t1"}"

{readers}

[camera]
driver = "opencv"
source = "http://127.0.0.1:{plan.camera_port}/stream.mjpg"
width = 640
height = 480

[door]
driver = "gpio"
factory = "hw_sim"
pull = "down"
{pins(REQUESTS, INPUTS)}

[indicator]
driver = "gpio"
factory = "hw_sim"
{pins(LAMPS)}

{section(plan.reader, Path(plan.sockets))}
[models]
dir = "{plan.models}"
threads = 1

[face]
threshold = "{THRESHOLD}"

[store]
dir = "store"

[keys]
cache = "keys/{LANE}.key"
cache_on_disk = true
journal = "keys/journal.key"
hq_public = "keys/hq.pub"
orders_public = "keys/orders.pub"
receipts_public = "keys/receipts.pub"

[uplink]
host = "127.0.0.1"
port = {plan.broker_port}
tls = false
retry_s_min = 0.2
heartbeat_s = 5.0

[sync]
url = "http://127.0.0.1:{plan.web_port}"
root = "root.json"
socket = "{plan.sync}"

[control]
socket = "{plan.control}"
"""
