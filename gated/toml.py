"""A TOML value's shape: at which line it stands, which type it fits, and what would be allowed, in words.

The standard library's parser tells neither lines nor types. No I/O; imports nothing of the project.
"""

import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from enum import Enum
from pathlib import Path
from typing import Any, Literal

Place = tuple[str, ...]
"""Where a value stands: the names of its tables, then its own."""

_PLAIN = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
_PLAIN |= {datetime: "a date with time", date: "a date", time: "a time of day"}


def fits(value: Any, hint: Any) -> bool:
    """Has the file's `value` the outer shape of `hint`?"""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (tuple, frozenset):
        return isinstance(value, list)
    if origin is dict or origin is Mapping or is_dataclass(hint):
        return isinstance(value, dict)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return any(type(value) is type(choice.value) and value == choice.value for choice in hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is Path:
        return isinstance(value, str) and bool(value)
    if hint in _PLAIN:
        return type(value) is hint
    raise TypeError(f"an option cannot be of type {hint!r}")


def allowed(hint: Any) -> str:
    """What may stand there, in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(allowed(choice) for choice in args if choice is not type(None))
    if origin is Literal:
        return _one_of(args)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _one_of([choice.value for choice in hint])
    if origin is frozenset or (origin is tuple and args[1:] == (Ellipsis,)):
        return f"a list [...] in which each is {allowed(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: [{', '.join(allowed(kind) for kind in args)}]"
    if origin is dict or origin is Mapping:
        return f"a table {{name = ...}} in which each is {allowed(args[1])}"
    if is_dataclass(hint):
        return f"a table {{{', '.join(f'{f.name} = ...' for f in fields(hint))}}}"
    return _PLAIN.get(hint, str(hint))


def _one_of(choices: Iterable[Any]) -> str:
    said = [shown(choice) for choice in choices]
    return f"one of {', '.join(said)}" if len(said) > 1 else said[0]


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -- where things stand -----------------------------------------------------------------------------------

_HEADER = re.compile(r"\s*\[\[?(?P<name>[^\]]*)\]")
_KEY = re.compile(r"""(?P<key>(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_SKIP = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|\#[^\n]*', re.DOTALL)


def _parts(dotted: str) -> Place:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def locate(text: str) -> dict[Place, int]:
    """The line of every table and option of a valid TOML text.

    Strings and comments are blanked first, so that what looks like an option inside of one is none. The
    options of an array of tables get the line where they first occur."""
    lines: dict[Place, int] = {}
    blank = _SKIP.sub(lambda m: m[0] if _is_key(text, m) else re.sub(r"[^\n]", " ", m[0]), text)
    table: Place = ()
    outer: list[Place] = []
    opened: Place = ()
    for number, (line, whole) in enumerate(zip(blank.split("\n"), text.split("\n"), strict=True), 1):
        if not outer and line.lstrip().startswith("[") and (header := _HEADER.match(whole)):
            table = _parts(header["name"])
            lines.setdefault(table, number)
            continue
        at = 0
        while at < len(line):
            if key := _KEY.match(line, at):
                opened = (*(outer[-1] if outer else table), *_parts(key["key"]))
                lines.setdefault(opened, number)
                at = key.end()
                continue
            if line[at] in "{[":
                outer.append(opened)
            elif line[at] in "}]" and outer:
                opened = outer.pop()
            at += 1
    return lines


def _is_key(text: str, found: re.Match[str]) -> bool:
    """Is this quoted string (part of) a key rather than a value?"""
    return found[0][0] in "\"'" and bool(re.match(r"[ \t]*[=.]", text[found.end() :]))
