"""lane.toml -> frozen dataclasses. Every error names file, line, section, option and what is allowed.

A section is filled into the dataclass of whoever needs it (`Section.into`); an option that nobody reads is an
error, so a misspelt one cannot be silently without effect.
"""

import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from gated.toml import Place, allowed, fits, locate, shown

T = TypeVar("T")
CREDENTIAL = "credential:"


class ConfigError(Exception):
    """The configuration cannot be used. Fatal: nothing starts on a guess. Exit code 78 (EX_CONFIG)."""

    def __init__(self, path: Path, problem: str, line: int | None = None, section: str = "", option: str = "") -> None:
        at = f"{path}:{line}" if line else str(path)
        what = f"[{section}] {option}".strip() if section else option
        super().__init__(f"{at}: {what}: {problem}" if what else f"{at}: {problem}")
        self.path, self.line, self.section, self.option, self.problem = path, line, section, option, problem


# -- the sections that more than one process reads ----------------------------------------------------------


def _positive(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name} must be more than 0, not {getattr(settings, name)}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this lane is: the part of [lane] that every process needs."""

    id: str
    site: str
    place: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "site"):
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", getattr(self, name)):
                raise ValueError(
                    f"{name} must be 1 to 32 lower-case letters, digits and '-' (it is part of MQTT topics)"
                )


@dataclass(frozen=True, slots=True)
class Store:
    """[store]: where the lane's databases lie and how large they may grow."""

    dir: Path = Path("/var/lib/gated")
    journal_days: int = 30
    journal_rows_max: int = 5_000_000
    outbox_bytes_max: int = 2_000_000_000

    def __post_init__(self) -> None:
        _positive(self, "journal_days", "journal_rows_max", "outbox_bytes_max")


@dataclass(frozen=True, slots=True)
class Keys:
    """[keys]: files. `cache` (the lane's own, to which HQ wraps each epoch's key), `journal`: secret, 32 bytes;
    `hq_public`, `orders_public`, `receipts_public`, `policy_public`: HQ's public keys. Without the last no policy is
    taken from HQ."""

    cache: Path
    journal: Path
    hq_public: Path
    orders_public: Path
    receipts_public: Path
    policy_public: Path | None = None
    cache_on_disk: bool = False
    """`cache` may lie on the disk that it protects: for tests and demonstrations."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """[uplink]: the broker and how to talk to it."""

    host: str
    port: int = 8883
    tls: bool = True
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    keep_alive_s: int = 30
    connect_s_max: float = 10.0
    retry_s_min: float = 1.0
    retry_s_max: float = 60.0
    ack_s_max: float = 30.0
    inflight_max: int = 64
    heartbeat_s: float = 15.0
    fallback: tuple[str, ...] = ()
    """Further brokers, `host:port`, tried in this order where the first cannot be reached or leads to no HQ."""
    bytes_per_s_max: int = 0
    """Of records; 0: no cap. Alarms are not held back by it."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must be 1 to 65535, not {self.port}")
        _positive(self, "keep_alive_s", "connect_s_max", "retry_s_min", "ack_s_max", "inflight_max", "heartbeat_s")
        if self.retry_s_max < self.retry_s_min:
            raise ValueError("retry_s_max must not be less than retry_s_min")
        if self.bytes_per_s_max and self.bytes_per_s_max < 2000:
            raise ValueError("bytes_per_s_max must be 0 (no cap) or at least 2000, which a passage's records need")
        for each in self.fallback:
            if re.fullmatch(r"[^:\s]+:([1-9][0-9]{0,4})", each) is None or int(each.rpartition(":")[2]) > 65535:
                raise ValueError("fallback must name brokers as host:port")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")
        if not self.tls and (self.ca or self.certificate):
            raise ValueError("tls is false, so ca, certificate and key would have no effect")


@dataclass(frozen=True, slots=True)
class Sync:
    """[sync]: HQ's server of signed data. `root`: the root.json that the lane was installed with."""

    url: str
    root: Path
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    interval_s: float = 60.0
    connect_s_max: float = 10.0
    read_s_max: float = 30.0
    retry_s_max: float = 300.0
    audit_hour: int = 3
    """UTC; the nightly comparison with HQ."""
    socket: Path = Path("/run/gated-sync/sync.sock")

    def __post_init__(self) -> None:
        _positive(self, "interval_s", "connect_s_max", "read_s_max", "retry_s_max")
        if not self.url.startswith(("https://", "http://127.0.0.1", "http://localhost")):
            raise ValueError(f"url must begin with https:// (http:// for this machine alone), not {self.url[:40]!r}")
        if not 0 <= self.audit_hour <= 23:
            raise ValueError(f"audit_hour must be 0 to 23, not {self.audit_hour}")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")


@dataclass(frozen=True, slots=True)
class Control:
    """[control]: the socket that the technician's command and the uplink talk to."""

    socket: Path = Path("/run/gated/control.sock")
    technician_group: str = "gated-tech"
    uplink_user: str = "gated-uplink"
    sync_user: str = "gated-sync"


@dataclass(frozen=True, slots=True)
class Models:
    """[models]: where the networks' weights lie, and how many processor threads inference may use."""

    dir: Path = Path("/usr/share/gated/models")
    threads: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= 64:
            raise ValueError(f"threads must be 1 to 64, not {self.threads}")


@dataclass(frozen=True, slots=True)
class Log:
    """[log]: how much is said, and in which shape."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


# -- reading ------------------------------------------------------------------------------------------------


class Section:
    """One table of the file, to be filled into a dataclass."""

    def __init__(self, config: "Config", name: str, values: Mapping[str, Any]) -> None:
        self._config, self.name, self._values = config, name, values
        self.read: set[str] = set()

    def __contains__(self, option: str) -> bool:
        return option in self._values

    def options(self) -> tuple[str, ...]:
        """The names of the options that the file gives, in its order."""
        return tuple(self._values)

    def unread(self) -> tuple[str, ...]:
        return tuple(option for option in self._values if option not in self.read)

    def into(self, cls: type[T]) -> T:
        """Fill `cls` and leave no option unread. Raises `ConfigError`."""
        self.read.update(f.name for f in _settable(cls))
        self.finish()
        return self.take(cls)

    def take(self, cls: type[T]) -> T:
        """Fill `cls` from the options it names; the others wait for somebody else. Raises `ConfigError`."""
        self.read.update(f.name for f in _settable(cls))
        return self._config.fill(cls, self._values, (self.name,), strict=False)

    def text(self, option: str) -> str:
        """One option that must be there and be text. Raises `ConfigError`."""
        self.read.add(option)
        if option not in self._values:
            raise self._config.error((self.name, option), "is missing: text is needed")
        value = self._config.convert(self._values[option], str, (self.name, option))
        assert isinstance(value, str)
        return value

    def finish(self) -> None:
        """Raises `ConfigError` for the first option that nobody read."""
        for option in self.unread():
            raise self._config.unknown((self.name, option), sorted(self.read))

    def error(self, option: str, problem: str) -> ConfigError:
        """An error of whoever uses this section, at the line of `option` (or of the section)."""
        return self._config.error((self.name, option) if option else (self.name,), problem)

    def wrong(self, error: ValueError) -> ConfigError:
        """What somebody who was given these values says of them, at the line of the first option that it names."""
        return self.error(_named(str(error), self._values), str(error))


class TomlFile:
    """A parsed TOML file whose values are filled into dataclasses, and whose errors name file and line."""

    def __init__(self, text: str, path: Path) -> None:
        self.path = path
        try:
            self.tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as bad:
            raise _not_toml(path, bad) from None
        except (RecursionError, ValueError) as bad:  # nested a thousand deep; a number of thousands of digits
            raise ConfigError(path, f"is not valid TOML: {str(bad).split(';')[0]}") from None
        self._lines = locate(text)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and parse a file. Raises `ConfigError`."""
        try:
            return cls(path.read_text(encoding="utf-8"), path)
        except OSError as bad:
            raise ConfigError(path, f"cannot be read: {bad.strerror}") from None
        except UnicodeDecodeError as bad:
            raise ConfigError(path, "is not UTF-8 text", path.read_bytes()[: bad.start].count(b"\n") + 1) from None

    # -- errors

    def line(self, place: Place) -> int | None:
        """Where `place` stands in the file; else the first line of what is in it; else the nearest table around it."""
        while place and place not in self._lines:
            inside = [line for at, line in self._lines.items() if at[: len(place)] == place]
            if inside:
                return min(inside)
            place = place[:-1]
        return self._lines.get(place)

    def error(self, place: Place, problem: str) -> ConfigError:
        return ConfigError(self.path, problem, self.line(place), ".".join(place[:1]), ".".join(place[1:]))

    def unknown(self, place: Place, names: list[str], noun: str = "option") -> ConfigError:
        near = difflib.get_close_matches(place[-1], names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names) or 'none'}"
        return self.error(place, f"is not a known {noun}; {hint}")

    # -- values

    def fill(self, cls: type[T], values: Mapping[str, Any], place: Place, strict: bool = True) -> T:
        """An instance of the dataclass `cls`. `strict`: an option that it does not name is an error."""
        hints = typing.get_type_hints(cls)
        known = {f.name: f for f in _settable(cls)}
        given: dict[str, Any] = {}
        for option, value in values.items():
            if option in known:
                given[option] = self.convert(value, hints[option], (*place, option), known[option].repr)
            elif strict:
                raise self.unknown((*place, option), sorted(known))
        for option, f in known.items():
            if option not in given and f.default is MISSING and f.default_factory is MISSING:
                raise self.error((*place, option), f"is missing: {allowed(hints[option])} is needed")
        try:
            return cls(**given)
        except ValueError as wrong:
            named = _named(str(wrong), known)
            raise self.error((*place, named) if named else place, str(wrong)) from None

    def convert(self, value: Any, hint: Any, place: Place, show: bool = True) -> Any:
        """`value` as `hint` asks. Raises `ConfigError`, or `TypeError` where no option can be a `hint`."""
        if is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, dict):
                raise self._wrong(value, hint, place, show)
            return self.fill(hint, value, place)
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            for choice in args:
                if choice is not type(None) and fits(value, choice):
                    return self.convert(value, choice, place, show)
            raise self._wrong(value, hint, place, show)
        if not fits(value, hint):
            raise self._wrong(value, hint, place, show)
        if origin is dict or origin is Mapping:
            return {name: self.convert(item, args[1], (*place, name), show) for name, item in value.items()}
        if origin in (tuple, frozenset):
            inner = args[:1] * len(value) if origin is frozenset or args[1:] == (Ellipsis,) else args
            if len(inner) != len(value):
                raise self._wrong(value, hint, place, show)
            return origin(self.convert(v, kind, place, show) for v, kind in zip(value, inner, strict=True))
        if hint is Path:
            return self._file(value, place)
        if hint is float:
            return float(value)
        return hint(value) if isinstance(hint, type) and issubclass(hint, Enum) else value

    def _file(self, value: str, place: Place) -> Path:
        """A path; relative: beside the configuration file; `credential:NAME`: a systemd credential."""
        if not value.startswith(CREDENTIAL):
            return self.path.parent.absolute() / value
        name = value.removeprefix(CREDENTIAL)
        if not name or "/" in name:
            raise self.error(place, f"is {value!r}, must be credential:NAME with a plain file name")
        return Path(os.environ.get("CREDENTIALS_DIRECTORY", "/run/credentials/gated-lane.service"), name)

    def _wrong(self, value: Any, hint: Any, place: Place, show: bool) -> ConfigError:
        said = f"is {shown(value)}, must" if show else "must"
        return self.error(place, f"{said} be {allowed(hint)}")


class Config(TomlFile):
    """A parsed lane.toml. The shared sections are checked at once, the others when their owner asks."""

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text, path)
        for name, value in self.tree.items():
            if not isinstance(value, dict):
                raise self.error((name,), "stands outside of any section; sections look like [store]")
        self._sections = {name: Section(self, name, value) for name, value in self.tree.items()}
        self._asked: set[str] = set()
        self.identity: Identity = self.section("lane").take(Identity)
        self.store: Store = self.section("store").into(Store)
        self.keys: Keys = self.section("keys").into(Keys)
        self.uplink: Uplink = self.section("uplink").into(Uplink)
        self.sync: Sync | None = self.section("sync").into(Sync) if "sync" in self else None
        self.control: Control = self.section("control").into(Control)
        self.models: Models = self.section("models").into(Models)
        self.log: Log = self.section("log").into(Log)

    def __contains__(self, name: str) -> bool:
        return name in self._sections

    def section(self, name: str) -> Section:
        """The section of this name; where the file has none, an empty one (its owner says what lacks)."""
        self._asked.add(name)
        return self._sections.setdefault(name, Section(self, name, {}))

    def finish(self) -> None:
        """Call once everybody took what they need. Raises `ConfigError` for what nobody read."""
        for name, section in self._sections.items():
            if name not in self._asked:
                raise self.unknown((name,), sorted(self._asked), "section")
            section.finish()


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration file. Raises `ConfigError`."""
    try:
        return Config.read(Path(path))
    except ConfigError as wrong:
        if wrong.problem.startswith("cannot be read"):
            hint = f"{wrong.problem}; name another with --config or GATED_CONFIG"
            raise ConfigError(wrong.path, hint) from None
        raise


def _named(problem: str, options: Collection[str]) -> str:
    """The first of `options` that a text names, or nothing."""
    return next((word for word in re.findall(r"\w+", problem) if word in options), "")


def _settable(cls: type[Any]) -> tuple[Field[Any], ...]:
    return tuple(f for f in fields(cls) if f.init)


def _not_toml(path: Path, bad: tomllib.TOMLDecodeError) -> ConfigError:
    found = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", str(bad))
    if not found:
        return ConfigError(path, f"is not valid TOML: {bad}")
    return ConfigError(path, f"is not valid TOML: {found[1]} (column {found[3]})", int(found[2]))
