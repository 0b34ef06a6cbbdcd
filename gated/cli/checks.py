"""What `gated check` looks at: one function a subject, each gives findings. Changes nothing on the machine."""

import asyncio
import contextlib
import ctypes
import functools
import importlib
import os
import pwd
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from gated.config import Config, wrong_with_signers
from gated.store.sql import StoreError

Result = Literal["ok", "warn", "fail"]

KEYS = Path("/etc/gated/keys")
DISK_FREE_BYTES_MIN = 500_000_000
PLACE_S_MIN = 4.0
"""What people need to place a finger, beside the picture's own time."""
DEVICE_S_MAX = 12.0
BROKER_S_MAX = 3.0
CLOCK_ERROR_S_MAX = 1.0
CALENDAR_DAYS_MIN = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table. `todo`: what to do where `result` is not ok."""

    name: str
    result: Result
    found: str
    todo: str = ""


@contextlib.contextmanager
def as_owner(folder: Path) -> Iterator[str | None]:
    """As root: be the owner of `folder` meanwhile, with that user's groups, as the service is. Gives its name.

    Otherwise root would find devices open to it that the lane cannot open, and leave files that it cannot write."""
    try:
        owner = folder.stat().st_uid
        name = pwd.getpwuid(owner).pw_name
    except (OSError, KeyError):
        yield None
        return
    if os.geteuid() != 0 or owner == 0:
        yield None
        return
    groups, gid, here = os.getgroups(), os.getegid(), Path.cwd()
    os.initgroups(name, pwd.getpwuid(owner).pw_gid)
    os.setegid(pwd.getpwuid(owner).pw_gid)
    os.seteuid(owner)
    try:
        yield name
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
        os.chdir(here)


# -- devices ----------------------------------------------------------------------------------------------------

_DEVICE_TODO = {
    "no_such_port": "is it plugged in and switched on? ls -l /dev/gated /dev/serial/by-id; dmesg | tail",
    "no_permission": "the lane's user needs the group of that device: see SupplementaryGroups in gated-lane.service",
    "port_busy": "another program holds it: fuser -v the port; ModemManager is kept away by systemd/60-gated.rules",
    "cannot_open": "is it plugged in and switched on? v4l2-ctl --list-devices, or open the address with a player",
    "open_timeout": "the camera does not answer: check its power, network and address",
    "read_timeout": "it opened but gives no picture: check its stream settings, restart it",
    "pins_unavailable": "check factory, that /dev/gpiochip* is there, and that no other program holds a pin",
    "no_libfprint": "apt-get install python3-gi gir1.2-fprint-2.0",
    "no_libusb": "install libusb-1.0-0, and for the service the drop-in usb-reader.conf (docs/install.md)",
    "no_such_device": "is it plugged in? lsusb",
    "no_reader": "is it plugged in? lsusb; libfprint must know it",
    "busy": "another program uses it, such as fprintd: systemctl status fprintd",
}
_FINGER_TODO = "docs/fingerprint-readers.md says what it means"


def running_devices(states: dict[str, str]) -> Iterator[Finding]:
    """What the running daemon says of its devices: a check must not take them away from it."""
    for name, state in states.items():
        if state == "lost":
            yield Finding(f"device {name}", "fail", "lost", "check cable and power; the daemon tries again by itself")
        else:
            yield Finding(f"device {name}", "ok", state)


def open_devices(settings: dict[str, Any], link_of: Callable[[str, Any], Any]) -> Iterator[Finding]:
    """Open each device as the lane would, and close it. `settings`: section -> the driver's Settings."""
    with _scratch():
        for section, values in settings.items():
            yield _opened(section, values, link_of)


def _opened(section: str, values: Any, link_of: Callable[[str, Any], Any]) -> Finding:
    name = f"device {section}"
    try:
        asyncio.run(_open(link_of(section, values), values))
    except TimeoutError:
        return Finding(name, "fail", f"no answer within {DEVICE_S_MAX:g} s", "check cable and power")
    except ValueError as bad:
        return Finding(name, "fail", str(bad), f"correct [{section}] in the configuration")
    except Exception as bad:  # noqa: BLE001 - whatever a device does is a finding, never a crash of the check
        why = getattr(bad, "why", type(bad).__name__)
        other = _FINGER_TODO if section == "fingerprint" else "check cable, power and this section"
        return Finding(name, "fail", str(bad), _DEVICE_TODO.get(why, other))
    return Finding(name, "ok", "opens")


@contextlib.contextmanager
def _scratch() -> Iterator[None]:
    """A working folder to be left behind: lgpio makes a named pipe in it, and the caller's may be read-only."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            try:
                os.chdir(before)
            except PermissionError:  # the lane's user may not be there; `as_owner` goes back as root
                os.chdir("/")


async def _open(link: Any, values: Any) -> None:
    async with asyncio.timeout(DEVICE_S_MAX):
        try:
            if hasattr(values, "outputs"):
                await link.open(getattr(values, "inputs", {}), values.outputs)
            elif hasattr(values, "link"):
                await _answers(link, values)
            else:
                await link.open()
                if hasattr(values, "source"):
                    await link.read()
        finally:
            await link.close()


async def _answers(link: Any, values: Any) -> None:
    """A fingerprint reader's link opens without one at its end: its driver must hear that it is the right one."""
    driver = importlib.import_module(type(values).__module__)
    ready = asyncio.Event()
    running = asyncio.ensure_future(driver.Device(values, link).run(lambda _: ready.set()))
    heard = asyncio.ensure_future(ready.wait())
    try:
        await asyncio.wait({running, heard}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
    finally:
        heard.cancel()
        running.cancel()
        await asyncio.wait({running, heard})


def time_for_fingers(reader: Any, finger_s: float) -> Iterator[Finding]:
    """Whether a placement leaves time for the picture's way to the lane. `reader`: the driver's Settings, or None."""
    picture_s = getattr(reader, "picture_s", 0.0)
    if reader is not None and picture_s + PLACE_S_MIN > finger_s:
        found = (
            f"a picture takes {picture_s:.1f} s, and [timing] finger_s gives {finger_s:g} s for it and the passenger"
        )
        todo = f"finger_s of {picture_s + PLACE_S_MIN:.0f} or more, a higher rate of the module, or its mode sensor"
        yield Finding("finger_s", "warn", found, f"{todo}: as it stands hardly anybody is compared")


# -- what lies on the disk ------------------------------------------------------------------------------------------


def networks(config: Config) -> Iterator[Finding]:
    """Every network that this lane uses is there and is the one that was evaluated."""
    from models.loader import verified
    from models.manifest import ModelError, models

    for name, entry in models().items():
        if name == "leader" and "fingerprint" not in config:
            continue
        try:
            verified(entry, config.models.dir)
        except ModelError as bad:
            yield Finding(f"model {name}", "fail", str(bad))
        else:
            yield Finding(f"model {name}", "ok", f"sha256 {entry.sha256[:12]}…")


def databases(config: Config) -> Iterator[Finding]:
    """The folder, the outbox, the cache: there, ours, readable."""
    from gated.store.outbox import OutboxReader
    from gated.store.sql import StoreCorrupt

    folder = config.store.dir
    if not folder.is_dir():
        yield Finding("store", "fail", f"{folder} is no folder", "systemd-tmpfiles --create gated.conf, or mkdir it")
        return
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        yield Finding("store", "fail", f"{folder} cannot be written", "chown it to the lane's user (gated)")
        return
    lane = folder / "lane.db"
    if not lane.exists():
        yield Finding("lane.db", "ok", "not there yet: the lane makes it at its first start")
    else:
        reader = OutboxReader(lane)
        try:
            kept = sum(max(0, span.last - span.first + 1) for span in reader.spans())
            yield Finding("lane.db", "ok", f"{lane.stat().st_size / 1e6:.1f} MB, {kept} records kept")
        except StoreCorrupt as bad:
            yield Finding("lane.db", "fail", str(bad), "keep the file for HQ; the lane begins a new one by itself")
        except StoreError as bad:
            yield Finding("lane.db", "fail", str(bad), "as it says")
        finally:
            reader.close()
    yield from _caches(folder)


def _caches(folder: Path) -> Iterator[Finding]:
    """What each partition's newest generation says of itself in clear."""
    from gated.store.cachefile import generations, read_checked, read_note
    from gated.store.cachetable import check_header
    from gated.store.sql import ReadOnly
    from gated.wire.rows import PARTITIONS

    for partition in PARTITIONS:
        name = f"cache {partition}"
        found = generations(folder, partition)
        if not found:
            yield Finding(name, "warn", "none", "everybody is referred: gated cache status says what sync waits for")
            continue
        path = found[max(found)]
        file = ReadOnly(path, functools.partial(check_header, path))
        try:
            with file.connection() as connection:
                note, as_of = read_note(path, connection), read_checked(path, connection)
            age_h = (datetime.now(UTC) - as_of).total_seconds() / 3600
            yield Finding(name, "ok", f"{note.rows} rows, segment {note.serial}, confirmed {age_h:.1f} h ago")
        except StoreError as bad:
            yield Finding(name, "fail", str(bad), "gated cache verify --repair; sync fetches it again by itself")
        finally:
            file.close()


def policy(config: Config) -> Iterator[Finding]:
    """Which policy the lane would start with, how long its calendar reaches, and whether HQ's own can be taken."""
    from gated.daemon.plan import policy_of
    from gated.daemon.policykept import FOLDER, Kept, PolicyRefused

    settings, held = policy_of(config)
    kept, where = Kept(config.store.dir / FOLDER), f"installed: {settings.file}"
    try:
        highest = max(kept.editions(), default=0)
        if highest > held.rules.edition:
            held, where = kept.load(highest, settings.place), "kept of HQ's"
    except PolicyRefused as no:
        todo = f"publish edition {highest} or a higher one again, or install it: the lane stays closed until then"
        yield Finding("policy", "fail", str(no), todo)
        return
    except StoreError as bad:
        yield Finding("policy", "fail", str(bad), "as it says")
        return
    found = f"{held.rules.version}, edition {held.rules.edition}, {where}"
    if config.keys.policy_public is None:
        todo = "give [keys] policy_public (docs/install.md, Keys); until then a new one is installed by hand"
        yield Finding("policy", "warn", f"{found}; none is taken from HQ", todo)
    else:
        yield Finding("policy", "ok", found)
    through, today = held.rules.calendar.through, held.rules.day(datetime.now(UTC))
    if (through - today).days < CALENDAR_DAYS_MIN:
        todo = "publish a policy with the next year's days off: working days after it are not known"
        yield Finding("calendar", "warn", f"of the policy ends on {through}", todo)
    else:
        yield Finding("calendar", "ok", f"of the policy reaches to {through}")


def keys(config: Config) -> Iterator[Finding]:
    """Every key is there, is as long as it must be, and is not open to everybody."""
    signers = ["orders_public", "receipts_public", *(["policy_public"] if config.keys.policy_public else [])]
    for name, secret in (("cache", True), ("journal", True), *((name, False) for name in ("hq_public", *signers))):
        path: Path = getattr(config.keys, name)
        if str(path).startswith("/run/credentials/"):
            path = KEYS / path.name
        label = f"key {name}"
        if secret and path.parent == KEYS and not path.exists() and path.with_suffix(".cred").exists():
            yield Finding(label, "ok", f"{path.with_suffix('.cred')}, sealed (systemd-creds)")
            continue
        try:
            info = path.stat()
        except PermissionError:
            yield Finding(label, "warn", f"{path} cannot be seen by this user", "run as root: sudo gated check")
            continue
        except OSError as bad:
            sealed = "; or is it sealed to the TPM (LoadCredentialEncrypted)?" if secret else ""
            yield Finding(label, "fail", f"{path}: {bad.strerror}", f"put it there (docs/install.md, Keys){sealed}")
            continue
        if name in signers:
            wrong = wrong_with_signers(info.st_size)
        else:
            wrong = "" if info.st_size == 32 else f"has {info.st_size} bytes, not 32"
        if wrong:
            yield Finding(label, "fail", f"{path} {wrong}", "copy it again from HQ, in binary")
        elif name == "cache" and _beside(info, config):
            todo = (
                "seal it to the TPM, or supply it from outside (docs/install.md, Keys): a stolen disk has the key too"
            )
            yield Finding(
                label, "warn" if config.keys.cache_on_disk else "fail", f"{path} lies on the cache's disk", todo
            )
        elif secret and info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding(label, "fail", f"{path} is open to other users", f"chmod 600 {path}")
        else:
            yield Finding(label, "ok", str(path))


def _beside(key: os.stat_result, config: Config) -> bool:
    return config.store.dir.exists() and key.st_dev == config.store.dir.stat().st_dev


def disk(config: Config) -> Iterator[Finding]:
    """Room for the outbox to grow while HQ cannot be reached."""
    where = next((p for p in (config.store.dir, *config.store.dir.parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(where).free
    found = f"{free / 1e9:.1f} GB free at {where}"
    wanted = config.store.outbox_bytes_max + DISK_FREE_BYTES_MIN
    if free < DISK_FREE_BYTES_MIN:
        yield Finding(
            "disk", "fail", found, f"free at least {DISK_FREE_BYTES_MIN / 1e9:.1f} GB: the lane stops without"
        )
    elif free < wanted:
        todo = f"free {wanted / 1e9:.1f} GB, or lower [store] outbox_bytes_max"
        yield Finding("disk", "warn", f"{found}, the outbox may need {wanted / 1e9:.1f} GB", todo)
    else:
        yield Finding("disk", "ok", found)


# -- the world around -------------------------------------------------------------------------------------------------

_TIME_ERROR = 5


def clock() -> Iterator[Finding]:
    """Whether the kernel's clock is steered, and how far it may be off (adjtimex(2), read only)."""
    timex = (ctypes.c_long * 32)()  # struct timex: modes 0 (read), then offset, freq, maxerror in microseconds
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    error_s = timex[3] / 1e6
    todo = "timedatectl; enable systemd-timesyncd or chrony. Until then the lane may refer everybody"
    if state < 0:
        yield Finding("clock", "warn", f"cannot be asked: {os.strerror(ctypes.get_errno())}", todo)
    elif state == _TIME_ERROR:
        yield Finding("clock", "warn", "not synchronised", todo)
    elif error_s > CLOCK_ERROR_S_MAX:
        yield Finding("clock", "warn", f"may be off by {error_s:.1f} s", todo)
    else:
        yield Finding("clock", "ok", f"synchronised, off by {error_s * 1000:.0f} ms at most")


def broker(config: Config) -> Iterator[Finding]:
    """Whether the broker's port answers from here. Says nothing of certificates: the uplink's log does."""
    where = f"{config.uplink.host}:{config.uplink.port}"
    try:
        socket.create_connection((config.uplink.host, config.uplink.port), BROKER_S_MAX).close()
    except OSError as bad:
        todo = "check network, name server and firewall; the lane works on and keeps its records"
        yield Finding("broker", "warn", f"{where}: {bad.strerror or bad}", todo)
    else:
        yield Finding("broker", "ok", f"{where} answers")


def group(config: Config) -> Iterator[Finding]:
    """Whether the technicians' group exists: without it only root may use the control socket."""
    import grp

    name = config.control.technician_group
    try:
        members = grp.getgrnam(name).gr_mem
    except KeyError:
        todo = "systemd-sysusers gated.conf, or groupadd it; until then only root may use gated status and the like"
        yield Finding("technicians", "warn", f"no group {name}", todo)
    else:
        yield Finding("technicians", "ok", f"group {name}: {len(members)} members")
