"""What the address of a camera means, and how much of it may be said. Pure text: nothing is opened here."""

from enum import Enum
from urllib.parse import urlsplit


class Kind(Enum):
    """What a source is."""

    V4L2 = "v4l2"
    NETWORK = "network"
    FILE = "file"


def kind_of(source: str) -> Kind:
    """`/dev/video0` or a number: V4L2; `http(s)://`, `rtsp(s)://`: network; everything else names a file."""
    if source.isdigit() or source.startswith("/dev/"):
        return Kind.V4L2
    if urlsplit(source).scheme in ("http", "https", "rtsp", "rtsps"):
        return Kind.NETWORK
    return Kind.FILE


def redacted(source: str) -> str:
    """`source` as it may be logged: without user, password and query."""
    if kind_of(source) is not Kind.NETWORK:
        return source
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
