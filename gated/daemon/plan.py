"""What lane.toml says of a lane, as the daemon reads it: shape, devices, drivers, and the machine they make."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gated.config import Config, ConfigError, Section
from gated.daemon.policyfile import load_rules
from gated.lane.events import Device, Door
from gated.lane.machine import Lane
from gated.lane.settings import Timing, Topology

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """[lane], the part that the daemon alone needs."""

    topology: Topology
    direction: Literal["entry", "exit", "both"]

    def __post_init__(self) -> None:
        if (self.direction == "both") != (self.topology is Topology.BIDIRECTIONAL):
            raise ValueError("direction is both for a bidirectional lane, and only for one")


SECTIONS = {
    "passport": (Device.PASSPORT, Door.A),
    "passport_b": (Device.PASSPORT, Door.B),
    "camera": (Device.CAMERA, Door.A),
    "door": (Device.DOOR, Door.A),
    "indicator": (Device.INDICATOR, Door.A),
}
"""The sections of lane.toml that are devices."""
NEEDED = ("passport", "camera", "door")
SHELL = frozenset({Device.MATCHER, Device.CACHE, Device.STORE})
"""Parts of the shell that a lane can lose like a device."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """[policy]."""

    file: Path


@dataclass(frozen=True, slots=True)
class FaceSettings:
    """[face]: which threshold of the models' manifest holds here, and what a usable picture is."""

    threshold: str = "fmr_1e-4"
    near_eye_px_min: float = 30.0
    detection_width_px: int = 640
    quality_min: float = 0.01


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
    devices = frozenset(device for name, (device, _) in SECTIONS.items() if name in config)
    return Lane(
        shape_of(config).topology,
        config.section("timing").into(Timing),
        load_rules(config.section("policy").into(PolicyFile).file),
        devices | SHELL,
    )


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


def read_key(path: Path, what: str) -> bytes:
    """A key file: 32 bytes raw. Raises `ConfigError`."""
    try:
        key = path.read_bytes()
    except OSError as bad:
        raise ConfigError(path, f"{what} cannot be read: {bad.strerror}") from None
    if len(key) != KEY_BYTES:
        raise ConfigError(path, f"{what} must be {KEY_BYTES} bytes, found {len(key)}")
    return key
