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
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self, TypeVar

from gated.sections import Control, Identity, Keys, Log, Metrics, Models, Store, Sync, Uplink
from gated.toml import Place, allowed, fits, locate, shown

T = TypeVar("T")
CREDENTIAL = "credential:"
SIGNER_BYTES = 32
SIGNERS_MAX = 2
"""While HQ changes a key its file holds the old one and the new."""


class ConfigError(Exception):
    """The configuration cannot be used. Fatal: nothing starts on a guess. Exit code 78 (EX_CONFIG)."""

    def __init__(self, path: Path, problem: str, line: int | None = None, section: str = "", option: str = "") -> None:
        at = f"{path}:{line}" if line else str(path)
        what = f"[{section}] {option}".strip() if section else option
        super().__init__(f"{at}: {what}: {problem}" if what else f"{at}: {problem}")
        self.path, self.line, self.section, self.option, self.problem = path, line, section, option, problem


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
        self.metrics: Metrics | None = self.section("metrics").into(Metrics) if "metrics" in self else None

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


def signers_of(config: Config, option: str) -> tuple[bytes, ...]:
    """The public keys (Ed25519, 32 raw bytes each) whose signatures count, out of the file that [keys] `option` names:
    one, or two after each other. Raises `ConfigError`."""
    file: Path = getattr(config.keys, option)
    try:
        found = file.read_bytes()
    except OSError as bad:
        raise config.error(("keys", option), f"{file} cannot be read: {bad.strerror}") from None
    if problem := wrong_with_signers(len(found), found):
        raise config.error(("keys", option), f"{file} {problem}")
    return tuple(found[at : at + SIGNER_BYTES] for at in range(0, len(found), SIGNER_BYTES))


def wrong_with_signers(size: int, found: bytes = b"") -> str:
    """What is wrong with a file of so many bytes of which `signers_of` were to be taken; nothing: ""."""
    if size % SIGNER_BYTES or not 0 < size <= SIGNERS_MAX * SIGNER_BYTES:
        return f"must be {SIGNER_BYTES} bytes, or {SIGNERS_MAX * SIGNER_BYTES} while the key is changed; found {size}"
    if found.isalnum():  # in hexadecimal one key is as long as two
        return f"is text: a key is {SIGNER_BYTES} raw bytes, copy it again from HQ, in binary"
    return ""


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
