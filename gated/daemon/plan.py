"""What lane.toml says of a lane, as the daemon reads it: shape, devices, drivers, and the machine they make."""

import importlib
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time
from pathlib import Path
from typing import Any, Literal

from gated.config import Config, ConfigError, Section
from gated.daemon.policykept import Held, held_of
from gated.lane.events import Device, Door
from gated.lane.machine import Lane
from gated.lane.settings import Shift, Timing, Topology, Ways
from gated.policyfile import POLICY_BYTES_MAX
from gated.wire.seal import seal_to
from models.manifest import model

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """[lane], the part that the daemon alone needs."""

    topology: Topology
    direction: Literal["entry", "exit", "both"]
    shifts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.ways()
        if (self.direction == "both") != (self.topology is Topology.BIDIRECTIONAL):
            raise ValueError("direction is both for a bidirectional lane, and only for one")

    def ways(self) -> Ways:
        """What crossing the lane means. Raises `ValueError`."""
        return Ways(self.direction, tuple(_shift(text) for text in self.shifts))


def _shift(text: str) -> Shift:
    try:
        start, way = text.split()
        return Shift(time.fromisoformat(start), way)
    except ValueError:
        raise ValueError(f'shifts look like ["06:00 exit", "14:00 both"]; {text!r} does not') from None


SECTIONS = {
    "passport": (Device.PASSPORT, Door.A),
    "passport_b": (Device.PASSPORT, Door.B),
    "camera": (Device.CAMERA, Door.A),
    "door": (Device.DOOR, Door.A),
    "indicator": (Device.INDICATOR, Door.A),
    "fingerprint": (Device.FINGERPRINT, Door.A),
}
"""The sections of lane.toml that are devices."""
NEEDED = ("passport", "camera", "door")
SHELL = frozenset({Device.MATCHER, Device.CACHE, Device.STORE})
"""Parts of the shell that a lane can lose like a device."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """[policy]. `file`: what the lane was installed with. `place`: where it stands, as the policy names it.
    `signed`: where HQ's newer ones lie among the signed files."""

    file: Path
    place: str
    signed: str = "policy/tw.toml"

    def __post_init__(self) -> None:
        if any(part in ("", ".", "..") for part in self.signed.split("/")):
            raise ValueError(f"signed is a path among HQ's signed files, like policy/tw.toml, not {self.signed!r}")


@dataclass(frozen=True, slots=True)
class FingerSettings:
    """[finger]: which threshold of the models' manifest holds for fingers that this lane compares itself."""

    threshold: str = "fmr_1e-3"


@dataclass(frozen=True, slots=True)
class FaceSettings:
    """[face]: which threshold of the models' manifest holds here, and what a usable picture is."""

    threshold: str = "fmr_1e-4"
    weak: str = "fmr_1e-2"
    """The threshold from which a face counts where a finger supports it; "": none does."""
    near_eye_px_min: float = 30.0
    detection_width_px: int = 640
    quality_min: float = 0.01

    def __post_init__(self) -> None:
        if self.near_eye_px_min <= 0:
            raise ValueError(f"near_eye_px_min must be above 0, not {self.near_eye_px_min:g}")
        if self.detection_width_px < 64:
            raise ValueError(f"detection_width_px must be at least 64, not {self.detection_width_px}")
        if not 0 <= self.quality_min <= 1:
            raise ValueError(f"quality_min must be 0 to 1, not {self.quality_min:g}")


def face_of(config: Config) -> FaceSettings:
    """[face]. Raises `ConfigError`, also for a threshold that the models' manifest does not name."""
    section = config.section("face")
    face = section.into(FaceSettings)
    known = model("sface").thresholds
    _known_threshold(section, "threshold", face.threshold, known)
    if face.weak:
        _known_threshold(section, "weak", face.weak, known)
        if known[face.weak].score >= known[face.threshold].score:
            raise section.error("weak", f'"{face.weak}" is no weaker than threshold "{face.threshold}"')
    return face


def finger_of(config: Config) -> FingerSettings | None:
    """[finger]; None where the lane has no fingerprint reader. Raises `ConfigError` as `face_of` does."""
    if "fingerprint" not in config:
        if "finger" in config:
            raise config.error(("finger",), "is there, but no [fingerprint] reader")
        return None
    section = config.section("finger")
    finger = section.into(FingerSettings)
    _known_threshold(section, "threshold", finger.threshold, model("leader").thresholds)
    return finger


def _known_threshold(section: Section, option: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        names = ", ".join(f'"{each}"' for each in sorted(known))
        raise section.error(option, f'is "{name}", must be one of {names}')


def shape_of(config: Config) -> Shape:
    """[lane] as the daemon needs it. Raises `ConfigError`."""
    shape = config.section("lane").take(Shape)
    config.section("lane").finish()
    return shape


def machine_of(config: Config) -> Lane:
    """The machine that a configuration describes, before anything happened to it. Raises `ConfigError`."""
    for name in NEEDED:
        if name not in config:
            raise ConfigError(config.path, "is missing: a lane cannot do without it", None, name)
    topology = shape_of(config).topology
    if (topology is Topology.BIDIRECTIONAL) != ("passport_b" in config):
        raise config.error(("passport_b",), "is there for a bidirectional lane, which needs it, and for no other")
    devices = frozenset(device for name, (device, _) in SECTIONS.items() if name in config)
    policy, installed = policy_of(config)
    return Lane(
        topology,
        config.section("timing").into(Timing),
        installed.rules,
        devices | SHELL,
        place=policy.place,
        ways=shape_of(config).ways(),
    )


def policy_of(config: Config) -> tuple[PolicyFile, Held]:
    """[policy], and the policy that the lane was installed with. Raises `ConfigError`."""
    section = config.section("policy")
    policy = section.into(PolicyFile)
    file = policy.file
    try:
        with file.open("rb") as source:
            data = source.read(POLICY_BYTES_MAX + 1)
    except OSError as bad:
        raise section.error("file", f"{file} cannot be read: {bad.strerror}") from None
    if len(data) > POLICY_BYTES_MAX:
        raise ConfigError(file, f"is longer than {POLICY_BYTES_MAX} bytes")
    held = held_of(data, file)
    if policy.place not in held.rules.places:
        known = ", ".join(sorted(held.rules.places))
        raise section.error("place", f"is {policy.place!r}, which {file.name} does not know; it knows {known}")
    return policy, held


def driver_of(section: Section, lane: Lane) -> tuple[Any, Any]:
    """(the driver's module, its Settings as the section fills them). Raises `ConfigError`."""
    module = load_driver(section)
    settings = section.into(module.Settings)
    if section.name == "door" and set(settings.doors) != lane.gate.leaves.keys():
        leaves = " and ".join(door.value for door in lane.gate.leaves)
        pins = " and ".join(door.value for door in settings.doors)
        raise section.error("", f"has the pins of leaf {pins}, but a {lane.topology.value} lane has leaf {leaves}")
    return module, settings


def load_driver(section: Section) -> Any:
    """The module `drivers.<kind>.<driver>`. There is no other that would be tried in its place."""
    kind, name = section.name.split("_")[0], section.text("driver")
    if not name.isidentifier():
        raise section.error("driver", "must be the name of a file in drivers/ without .py")
    try:
        return importlib.import_module(f"drivers.{kind}.{name}")
    except ModuleNotFoundError as missing:
        if missing.name != f"drivers.{kind}.{name}":
            raise section.error("driver", f"needs the library {missing.name}, which is not installed") from None
        folder = importlib.import_module(f"drivers.{kind}").__path__[0]
        known = ", ".join(sorted(p.stem for p in Path(folder).glob("[a-z]*.py"))) or "none"
        raise section.error("driver", f"there is no driver {name!r} for {kind}; there are: {known}") from None


def key_of(config: Config, option: str, path: Path | None = None) -> bytes:
    """The key that [keys] names by `option`, or `path` in its place: 32 bytes raw. Raises `ConfigError`."""
    if path is not None:
        return read_key(path, option)
    file: Path = getattr(config.keys, option)
    try:
        return read_key(file, option)
    except ConfigError as bad:
        raise config.error(("keys", option), f"{file} {bad.problem}") from None


def read_key(file: Path, option: str) -> bytes:
    """The key in a file, as [keys] `option` must be. Raises `ConfigError`."""
    try:
        key = file.read_bytes()
    except OSError as bad:
        raise ConfigError(file, f"cannot be read: {bad.strerror}") from None
    if problem := _wrong_with(key, option):
        raise ConfigError(file, problem)
    return key


def cache_key_of(config: Config) -> bytes:
    """The lane's own key to its cache. Raises `ConfigError`, also where it lies on the disk that it protects: a lane
    without a TPM or a credential from outside keeps no biometrics."""
    key, file = key_of(config, "cache"), config.keys.cache
    folder = config.store.dir
    if not config.keys.cache_on_disk and folder.exists() and file.stat().st_dev == folder.stat().st_dev:
        problem = (
            f"{file} lies on the disk of [store] dir: whoever takes that has the key too. Give it as a credential "
            "(docs/install.md, Keys), or, for a test, say cache_on_disk = true"
        )
        raise config.error(("keys", "cache"), problem)
    return key


def owners_of(config: Config) -> frozenset[int]:
    """Whose cache files count: sync's, our own user's and root's."""
    try:
        return frozenset({0, os.geteuid(), pwd.getpwnam(config.control.sync_user).pw_uid})
    except KeyError:  # no such user here: a test, or sync runs as the lane's user
        return frozenset({0, os.geteuid()})


def _wrong_with(key: bytes, option: str) -> str:
    if len(key) != KEY_BYTES:
        return f"must be {KEY_BYTES} bytes, found {len(key)}"
    if option == "hq_public":
        try:
            seal_to(key, b"", b"")
        except ValueError:  # of small order: what were sealed to it anybody could open (RFC 7748, 6.1)
            return "is no public key that can be sealed to: copy it again from HQ, in binary"
    return ""
