"""JSON in its one canonical form, as bytes, and what is said when it is not. No I/O, no clock."""

import json
from typing import Any, Final

DATA_MAX: Final = 1 << 20
"""Bytes of one encoded value."""
DEPTH_MAX: Final = 64
"""Objects and arrays in each other. What one reader just manages, another one cannot read that calls from deeper down:
so a limit that all can keep."""
Json = Any
"""What `json` understands. Every object in it is a dict with sorted keys."""


class WireError(ValueError):
    """A value has not the form that its type promises. `path` says where; neither part holds any content."""

    def __init__(self, why: str, path: str = "") -> None:
        super().__init__(f"{path}: {why}" if path else why)
        self.why = why
        self.path = path

    def inside(self, name: str) -> "WireError":
        """The same error seen from one level further out."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return WireError(self.why, f"{name}{joint}{self.path}")


_to_text = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode


def _refuse_constant(_: str) -> None:
    raise WireError("not canonical JSON")


_from_text = json.JSONDecoder(parse_constant=_refuse_constant)


def dumps(tree: Json) -> bytes:
    """The canonical bytes of a tree. Raises `WireError` above `DATA_MAX` bytes or for text that is not Unicode."""
    try:
        data = _to_text(tree).encode()
    except UnicodeEncodeError:
        raise WireError("text holds a lone surrogate") from None
    if len(data) > DATA_MAX:
        raise WireError(f"longer than {DATA_MAX} bytes")
    return data


def parse(data: bytes) -> Json:
    """The tree of bytes that are sealed or signed, and so known to be ours: whether they are canonical is not asked,
    which takes half the time. Raises `WireError`."""
    try:
        return _from_text.decode(data.decode())
    except (ValueError, RecursionError):
        raise WireError("not JSON") from None


def loads(data: bytes) -> Json:
    """The tree that `data` is the canonical form of. Raises `WireError`."""
    if type(data) is not bytes:
        raise WireError("expected bytes")
    if len(data) > DATA_MAX:
        raise WireError(f"longer than {DATA_MAX} bytes")
    try:
        tree = _from_text.decode(data.decode())
        again = _to_text(tree).encode()
    except (ValueError, RecursionError):
        raise WireError("not canonical JSON") from None
    if again != data:
        raise WireError("not canonical JSON")
    if data.count(b"[") + data.count(b"{") > DEPTH_MAX and _is_deep(tree):
        raise WireError("nested too deeply")
    return tree


def _is_deep(tree: Json) -> bool:
    level = [tree]
    for _ in range(DEPTH_MAX + 1):
        inner = [node for node in level if type(node) in (dict, list)]
        if not inner:
            return False
        level = [child for node in inner for child in (node.values() if type(node) is dict else node)]
    return True
