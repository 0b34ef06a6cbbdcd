"""Everything that a demonstration needs on disk: keys, register, cache, lane.toml; and which wire is on which pin."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from drivers.links import Pin
from gated.biometrics.face import OnnxFaceEngine, template_of
from gated.hq import keys
from gated.store.cache import PersonRow
from gated.store.cachewriter import CacheWriter
from tests.hw_sim.gallery import Person, Show
from tests.hw_sim.picture import Image

SITE, LANE = "demo", "lane-1"
POLICY = Path(__file__).resolve().parents[2] / "config" / "policy" / "tw.toml"
THRESHOLD = "fmr_1e-4"
"""Of the models' manifest, fixed before anybody comes; what config/lane.toml recommends."""

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
    sockets: str
    """A folder with a short name: the path of a Unix socket holds a hundred letters."""

    def write(self, folder: Path) -> None:
        (folder / "plan.json").write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        return cls(**json.loads((folder / "plan.json").read_text(encoding="utf-8")))

    @property
    def day(self) -> date:
        return date.fromisoformat(self.today)

    @property
    def pins(self) -> Path:
        return Path(self.sockets) / "pins.sock"

    @property
    def control(self) -> Path:
        return Path(self.sockets) / "control.sock"


def prepare(folder: Path, plan: Plan, everybody: list[Person], made: Show) -> list[str]:
    """Write keys, cache and lane.toml into `folder`. Returns a line for each photograph that could not be enrolled."""
    keys.make(folder / "keys")
    journal = folder / "keys" / "journal.key"
    journal.write_bytes(os.urandom(32))
    journal.chmod(0o600)
    (folder / "store").mkdir()
    plan.write(folder)
    (folder / "lane.toml").write_text(_lane_toml(folder, plan), encoding="utf-8")
    return _publish(folder, plan, everybody, made)


def _publish(folder: Path, plan: Plan, everybody: list[Person], made: Show) -> list[str]:
    engine = OnnxFaceEngine(Path(plan.models), THRESHOLD, 2)
    key = (folder / "keys" / "cache.key").read_bytes()
    trouble = []
    with CacheWriter(
        folder / "store" / "cache-1.db", key, generation=1, epoch="1", built=datetime.now(UTC), mode=0o600
    ) as cache:
        for subject, enrolment in enumerate(made.cast.enrolments, start=1):
            photograph = everybody[enrolment.person].enrolled
            assert photograph is not None
            image = read(photograph)
            look = engine.look(image)
            face = template_of(engine.embed(image, look)) if look.face is not None else None
            if face is None:
                trouble.append(f"{photograph.parent.name}: no face in the first photograph, so none is enrolled")
            paper = enrolment.paper
            cache.put_person(
                PersonRow(subject, enrolment.category, paper.birth, paper.sex, face=face, face_model=engine.model)
            )
            cache.put_document("TWN", paper.number, subject)
            cache.put_flags(subject, enrolment.flags)
    return trouble


def read(path: Path) -> Image:
    """A photograph, BGR. Raises `ValueError`."""
    import cv2
    import numpy as np

    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path.name} is no picture")
    return image.astype(np.uint8)


def _lane_toml(folder: Path, plan: Plan) -> str:
    def pins(*tables: dict[str, Pin]) -> str:
        return "\n".join(f"{name} = {{ pin = {pin.pin} }}" for table in tables for name, pin in table.items())

    def hurried(seconds: float, least: float) -> float:
        """At a higher speed people are shorter of time, and so is the lane."""
        return round(max(seconds / plan.speed, least), 2)

    return f"""[lane]
id = "{LANE}"
site = "{SITE}"
place = "demonstration"
topology = "mantrap"
direction = "exit"

[timing]
face_s = {hurried(4.0, 1.5)}
match_s = {2 * hurried(4.0, 1.5) + 1.0}
refused_s = {hurried(4.0, 1.0)}

[policy]
file = "{POLICY}"

[passport]
driver = "elyctis"
port = "{folder / "passport"}"

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

[models]
dir = "{plan.models}"
threads = 1

[face]
threshold = "{THRESHOLD}"

[store]
dir = "store"

[keys]
cache = "keys/cache.key"
journal = "keys/journal.key"
hq_public = "keys/hq.pub"
orders_public = "keys/orders.pub"

[uplink]
host = "127.0.0.1"
port = {plan.broker_port}
tls = false
retry_s_min = 0.2
heartbeat_s = 5.0

[control]
socket = "{plan.control}"
"""
