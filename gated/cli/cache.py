"""`gated cache status|show|verify|sync|key`: what the lane holds of HQ's data, in ages and counts, nobody's data."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gated.cli.here import EX_UNAVAILABLE, Here, command_here

if TYPE_CHECKING:
    from gated.control import Client

PATIENCE_S = 60.0


@click.group(
    epilog="""\b
    Examples:
      gated cache status
      gated cache show
      gated cache sync
      gated cache verify --repair
      gated cache key --out lane-07.key
    """
)
def cache() -> None:
    """What the lane holds of HQ's data. Shows nobody's data: there is no command for that."""


# -- status ----------------------------------------------------------------------------------------------------


@cache.command(
    epilog="""\b
    Examples:
      gated cache status
      gated cache status --json | jq .partitions.people.serial
    """
)
@command_here
def status(here: Here) -> None:
    """How old the lane's data are, where they come from, and what was refused.

    Exit code 1 where something was refused or the lane cannot use its data; 69 where no sync runs.
    """
    from gated.cli.cacheviews import status_view
    from gated.control import Refused, ShowCache, Unavailable
    from gated.sync.control import SyncStatus

    away = ""
    try:
        report = sync_client(here).ask(SyncStatus())
    except Unavailable as gone:
        if gone.denied:
            raise
        away, report = no_sync(here, gone), {"partitions": standing_files(here.config.store.dir)}
    try:
        lane = here.ask(ShowCache).get("partitions", {})
    except (Unavailable, Refused) as no:
        lane, report["lane_says"] = {}, str(no)
    report |= {"sync_runs": not away, "lane": lane}
    if here.as_json:
        here.say(report, "")
    else:
        here.console.print(status_view(report, datetime.now(UTC), away))
    if away:
        raise SystemExit(EX_UNAVAILABLE)
    if any(each.get("trouble") for each in _parts(report)):
        raise SystemExit(1)


def _parts(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from report["partitions"].values()
    yield report.get("metadata", {})
    yield report.get("files", {})


def sync_client(here: Here) -> "Client":
    """Asks the sync. Raises `ConfigError`."""
    from gated.control import Client

    conf = here.config
    if conf.sync is None:
        raise conf.error((), "there is no section [sync]: this lane is not told where HQ's data are")
    return Client(conf.sync.socket, PATIENCE_S)


def no_sync(here: Here, gone: Exception) -> str:
    """Why the sync cannot be asked, and what to do."""
    assert here.config.sync is not None
    return (
        f"no sync listens at {here.config.sync.socket}; start it: systemctl start gated-sync"
        if getattr(gone, "absent", False)
        else str(gone)
    )


@contextmanager
def asking(here: Here) -> Iterator["Client"]:
    """The sync, which must be there. Raises `Unavailable` in the sync's words."""
    from gated.control import Unavailable

    try:
        yield sync_client(here)
    except Unavailable as gone:
        if not gone.absent:
            raise
        raise Unavailable(no_sync(here, gone), absent=True) from None


def standing_files(folder: Path) -> dict[str, dict[str, Any]]:
    """What the newest generation of each partition says of itself, as the sync would report it."""
    from gated.store.cachefile import generations
    from gated.store.sql import StoreError
    from gated.wire.rows import PARTITIONS

    found: dict[str, dict[str, Any]] = {}
    for partition in PARTITIONS:
        try:
            lying = generations(folder, partition)
            found[partition] = note_of(lying[max(lying)]) if lying else {"generation": 0}
        except StoreError as bad:
            found[partition] = {"generation": 0, "trouble": {"why": "store", "what": bad.path.name, "advice": str(bad)}}
    return found


def note_of(path: Path) -> dict[str, Any]:
    """What a generation says of itself in clear. Raises `StoreError`."""
    import functools

    from gated.store.cachefile import read_checked, read_note
    from gated.store.cachetable import check_header
    from gated.store.sql import ReadOnly

    file = ReadOnly(path, functools.partial(check_header, path))
    try:
        with file.connection() as connection:
            note, checked = read_note(path, connection), read_checked(path, connection)
    finally:
        file.close()
    return {
        "generation": note.generation,
        "epoch": note.epoch,
        "serial": note.serial,
        "rows": note.rows,
        "built": note.built.isoformat(),
        "checked": checked.isoformat(),
    }


# -- show ------------------------------------------------------------------------------------------------------


@cache.command(
    epilog="""\b
    Example:
      gated cache show
    """
)
@command_here
def show(here: Here) -> None:
    """Which files there are: generations, what waits, what else HQ signed. Looks at the disk, and asks nobody."""
    from gated.cli.cacheviews import show_view

    folder = here.config.store.dir
    try:
        files = list(_files(folder))
    except OSError as bad:
        raise click.ClickException(f"{folder}: {(bad.strerror or str(bad)).lower()}") from None
    if here.as_json:
        here.say({"files": files}, "")
    else:
        here.console.print(show_view(files))
    if any(each.get("bad") for each in files):
        raise SystemExit(1)


def _files(folder: Path) -> Iterator[dict[str, Any]]:
    from hashlib import sha256

    from gated.store.cachefile import generations
    from gated.store.sql import StoreError
    from gated.wire.rows import PARTITIONS

    for partition in PARTITIONS:
        lying = generations(folder, partition)
        for number, path in sorted(lying.items(), reverse=True):
            what = "in use" if number == max(lying) else "the one before"
            try:
                yield _file(path, what) | note_of(path)
            except StoreError as bad:
                yield _file(path, bad.why) | {"bad": str(bad)}
        for path in sorted(folder.glob(f"cache-{partition}-*.db.bad")):
            yield _file(path, "set aside") | {"bad": "it was damaged or not HQ's; look at it, then remove it"}
        for path in sorted((folder / "sync" / "building").glob(f"cache-{partition}-*.db*")):
            yield _file(path, "being built")
    for path in sorted(path for path in (folder / "sync" / "spool").glob("*") if path.is_file()):
        yield _file(path, "fetched")
    for path in sorted(path for path in (folder / "signed").rglob("*") if path.is_file()):
        with path.open("rb") as source:
            digest = sha256()
            while block := source.read(1 << 20):
                digest.update(block)
        yield _file(path, "signed") | {"file": str(path.relative_to(folder)), "sha256": digest.hexdigest()}


def _file(path: Path, what: str) -> dict[str, Any]:
    return {"file": path.name, "what": what, "bytes": path.stat().st_size}


# -- verify and sync -------------------------------------------------------------------------------------------


@cache.command(
    epilog="""\b
    Examples:
      gated cache verify
      gated cache verify --repair
    """
)
@click.option("--repair", is_flag=True, help="Put right what differs.")
@command_here
def verify(here: Here, repair: bool) -> None:
    """Compare every row with HQ, as happens each night.

    Exit code 1 where something differed, also where it was put right, or could not be compared.
    """
    from gated.cli.cacheviews import Bar, audits_view
    from gated.sync.control import Verify

    answer: dict[str, Any] = {}
    with asking(here) as client, Bar(here) as bar:
        for answer in client.stream(Verify(repair)):
            if not answer["end"]:
                bar.at(answer["what"], answer["done"], answer["of"])
    audits = answer.get("audits", [])
    if here.as_json:
        here.say(audits, "")
    else:
        here.console.print(audits_view(audits))
    if any(each["why"] or each["differing"] or not each["compared"] for each in audits) or not audits:
        raise SystemExit(1)


@cache.command(
    epilog="""\b
    Example:
      gated cache sync
    """
)
@command_here
def sync(here: Here) -> None:
    """Ask HQ now, and stay until everything is current or was refused.

    Exit code 1 where something was refused. To run the sync itself: gated sync.
    """
    from gated.cli.cacheviews import Bar, ended
    from gated.sync.control import SyncNow

    report: dict[str, Any] = {}
    with asking(here) as client, Bar(here) as bar:
        for report in client.stream(SyncNow()):
            for each in report["partitions"].values():
                if each["doing"]:
                    bar.at(each["doing"]["what"], each["doing"]["done"], each["doing"]["of"])
    here.say(report, ended(report))
    if any(each.get("trouble") for each in _parts(report)):
        raise SystemExit(1)


# -- the lane's own key ----------------------------------------------------------------------------------------


@cache.command(
    epilog="""\b
    Examples:
      gated cache key --out /run/lane-07.key
      systemd-creds encrypt --name=cache.key /run/lane-07.key /etc/gated/keys/cache.cred
    """
)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The secret half.")
@command_here
def key(here: Here, out: Path) -> None:
    """Make the lane's own key, to which HQ wraps the key of each epoch.

    The secret half stays here and is never overwritten; the public half (.pub) goes to HQ: gated-hq lane add.
    Seal the secret half to a TPM, or hand it over from outside: a lane whose key lies beside its data keeps none.
    """
    from gated.wire.seal import KEY_BYTES, public_of

    lane = here.config.identity
    public_file = out.with_suffix(".pub") if out.suffix == ".key" else out.with_name(out.name + ".pub")
    secret = os.urandom(KEY_BYTES)
    public = public_of(secret)
    if public_file.exists():
        raise click.ClickException(f"{public_file} exists: a key is never overwritten; name another file")
    _make(out, secret, 0o600)
    _make(public_file, public, 0o644)
    here.say(
        {"secret": str(out), "public": str(public_file), "public_hex": public.hex()},
        f"secret  {out}\npublic  {public_file}\n        {public.hex()}\n"
        f"at HQ:  gated-hq lane add {lane.site}/{lane.id} --key {public_file.name} ...",
    )


def _make(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise click.ClickException(f"{path} exists: a key is never overwritten; name another file") from None
    except OSError as bad:
        raise click.ClickException(f"{path}: {(bad.strerror or str(bad)).lower()}") from None
