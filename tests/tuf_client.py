"""A TUF client of somebody else's making, python-tuf's own, over a repository in a folder, at a time that is given."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlparse

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater


class FolderFetcher(FetcherInterface):
    """Serves `folder` as a static web server does, and remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self.folder / urlparse(url).path.lstrip("/")
        self.asked.append(path.name)
        if not path.is_file():
            raise DownloadHTTPError("not found", 404)
        return iter((path.read_bytes(),))


class Client:
    """What a lane would trust. `root`: the bytes it was installed with; `home`: where it keeps its metadata."""

    def __init__(self, folder: Path, home: Path, root: bytes) -> None:
        self.folder, self.home, self._root = folder, home, root

    def look(self, now: datetime) -> "Seen":
        """One refresh, at `now`. Raises what python-tuf raises."""
        files = self.home / "targets"
        files.mkdir(parents=True, exist_ok=True)
        updater = Updater(
            str(self.home / "metadata"),
            "http://hq/metadata/",
            str(files),
            "http://hq/targets/",
            FolderFetcher(self.folder),
            bootstrap=self._root,
        )
        updater._trusted_set.reference_time = now
        updater.refresh()
        return Seen(updater)


class Seen:
    """One state as the client proved it."""

    def __init__(self, updater: Updater) -> None:
        self._updater = updater
        self.root: int = updater._trusted_set.root.version
        self.timestamp: int = updater._trusted_set.timestamp.version

    def target(self, path: str) -> bytes | None:
        """A target's bytes, proven; None where there is none."""
        info = self._updater.get_targetinfo(path)
        return None if info is None else Path(self._updater.download_target(info)).read_bytes()
