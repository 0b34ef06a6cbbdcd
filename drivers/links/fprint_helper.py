"""A program of its own: libfprint for the lane, under the system's Python, because PyGObject has no wheel.

Run as `/usr/bin/python3 -I fprint_helper.py` by `drivers.links.fprint`; needs nothing but the standard library and gi.
It speaks frames over stdin and stdout (`encode`, `Codec`; protocol 1, docs/fingerprint-readers.md) and ends when stdin
does, on SIGTERM, or when the reader is gone. Pictures go to stdout alone, never to a log.

Why `identify` with an empty gallery and not `capture`: `capture` brings its picture only when the finger has been
lifted (libfprint 1.94.5), `identify` as soon as it is taken, and its end then tells that the finger is off.
"""

import json
import os
import re
import signal
import sys
import time
import zlib
from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace
from typing import Any

PROTOCOL = 1
MAGIC = b"GFP1"
HEADER_MAX = 16 * 1024
BODY_MAX = 4 * 1024 * 1024
READERS_MAX = 16
_PREFIX = 16

NO_LIBFPRINT = 3
"""Exit status: gi, or libfprint's introspection data, is not installed for this Python."""
NOT_UNDERSTOOD = 4
"""Exit status: what came on stdin was no frame."""

PROBE_MS = 300
"""A finger that lies on shows within so long after the sensor was switched on. ASSUMED: no manual says it."""
END_S_MAX = 2
"""Switching the sensor off and closing it may take so long; then the process dies all the same."""


@dataclass(frozen=True)
class Frame:
    """A message: a small JSON object, and for a picture its pixels."""

    header: dict[str, Any]
    body: bytes = field(default=b"", repr=False)


def encode(frame: Frame) -> bytes:
    """`GFP1 | header length u32 | body length u32 | crc32 of header and body u32 | header | body`, big-endian."""
    header = json.dumps(frame.header, separators=(",", ":")).encode()
    check = zlib.crc32(frame.body, zlib.crc32(header))
    lengths = len(header).to_bytes(4, "big") + len(frame.body).to_bytes(4, "big")
    return MAGIC + lengths + check.to_bytes(4, "big") + header + frame.body


class Codec:
    """Bytes -> frames. Never raises; holds at most one frame; what is no frame is skipped and counted."""

    def __init__(self) -> None:
        self._held = bytearray()
        self.skipped = 0
        """Bytes that belonged to no frame. A pipe loses nothing, so any at all mean that something is broken."""

    @property
    def held(self) -> int:
        """Bytes kept for later."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Frame]:
        """Every frame that `data` completes."""
        self._held += data
        found: list[Frame] = []
        while self._held:
            front = bytes(self._held[: len(MAGIC)])
            if not MAGIC.startswith(front):
                at = self._held.find(MAGIC[:1], 1)
                self._skip(at if at > 0 else len(self._held))
                continue
            if len(self._held) < _PREFIX:
                break
            header, body, check = (int.from_bytes(self._held[at : at + 4], "big") for at in (4, 8, 12))
            if not 0 < header <= HEADER_MAX or body > BODY_MAX:
                self._skip(1)
                continue
            size = _PREFIX + header + body
            if len(self._held) < size:
                break
            frame = _frame(bytes(self._held[_PREFIX:size]), header, check)
            if frame is None:
                self._skip(1)
            else:
                found.append(frame)
                del self._held[:size]
        return found

    def _skip(self, count: int) -> None:
        self.skipped += count
        del self._held[:count]


def _frame(raw: bytes, header_length: int, check: int) -> "Frame | None":
    if zlib.crc32(raw) != check:
        return None
    try:
        header = json.loads(raw[:header_length])
    except (ValueError, RecursionError):
        return None
    return Frame(header, raw[header_length:]) if isinstance(header, dict) else None


class Lane:
    """The other end of the pipes."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)  # whatever a library prints must not fall among the frames

    def say(self, say: str, body: bytes = b"", **more: Any) -> None:
        """Write a frame, waiting for the lane to take it. A lane that is gone ends the process."""
        left = memoryview(encode(Frame({"say": say, **more}, body)))
        try:
            while left:
                left = left[os.write(self._out, left) :]
        except BrokenPipeError:
            os._exit(0)


@dataclass
class Want:
    """What the lane waits for: `scan` a picture or a hint, otherwise until no finger lies on."""

    id: int
    scan: bool


class Reader:
    """One reader of libfprint: at most one action of it runs, at most one wish of the lane is open."""

    def __init__(self, gi: Any, device: Any, lane: Lane, end: Any) -> None:
        self._fprint, self._glib, self._gio = gi.FPrint, gi.GLib, gi.Gio
        self._device = device
        self._lane = lane
        self._end = end
        self._node = _node(device)
        self._want: Want | None = None
        self._action: Any = None
        """The running action's cancellable; it runs on after the picture, until the finger is off."""
        self._probing = self._absent = False
        """The action looks whether a finger lies on, and nobody wants its picture; it found none."""
        self._on_mono: float | None = None
        """Since when a finger lies on, in this action."""
        device.connect("notify::finger-status", self._touched)
        device.connect("notify::removed", self._removed)

    def open(self, id: int) -> None:
        """Claim the reader; answers `opened` or `failed`."""

        def opened(device: Any, result: Any) -> None:
            try:
                device.open_finish(result)
            except self._glib.Error as error:
                self._lane.say("failed", id=id, why="cannot_open", text=error.message[:200])
                return
            self._lane.say("opened", id=id)

        self._device.open(None, opened)

    def ask(self, want: Want) -> None:
        """A new wish. It takes the place of one that is still open: that one has been given up."""
        self._want = want
        if self._action is None:
            self._begin()
        elif want.scan or self._probing:  # the finger of the picture before still lies on, or nobody knows
            self._action.cancel()

    def give_up(self) -> None:
        """Nobody waits any more: the sensor goes dark."""
        self._want = None
        if self._action is not None:
            self._action.cancel()

    def check(self) -> None:
        """Notice a reader that was pulled out: udev's word of it needs the host's network, which a lane has not."""
        if self._node and not os.path.exists(self._node):
            self._removed()

    def close(self) -> None:
        """Switch the sensor off and let go of it, waiting for both."""
        self.give_up()
        while self._action is not None:
            self._glib.MainContext.default().iteration(True)
        try:
            if self._device.is_open():
                self._device.close_sync()
        except self._glib.Error as error:  # one that was pulled out cannot be closed
            sys.stderr.write(f"the reader did not close cleanly: {error.message}\n")

    # -- one action of libfprint

    def _begin(self) -> None:
        assert self._want is not None
        self._probing, self._absent = not self._want.scan, False
        self._action = action = self._gio.Cancellable()
        self._on_mono = time.monotonic() if self._present() else None
        # An empty gallery. The empty tuple is the match callback's user data: PyGObject insists on a tuple there.
        self._device.identify([], action, self._seen, (), self._done)
        if self._probing:
            self._glib.timeout_add(PROBE_MS, self._probed, action)

    def _probed(self, action: Any) -> bool:
        if self._action is action and not self._present() and not action.is_cancelled():
            self._absent = True
            action.cancel()
        return False

    def _present(self) -> bool:
        return bool(self._device.get_finger_status() & self._fprint.FingerStatusFlags.PRESENT)

    def _touched(self, *_: Any) -> None:
        self._on_mono = (self._on_mono or time.monotonic()) if self._present() else None

    def _seen(self, device: Any, match: Any, print_: Any, *rest: Any) -> None:
        """A picture was taken, or libfprint found none in it. The finger may still lie on."""
        want = self._want
        if self._probing or want is None or not want.scan or self._action.is_cancelled():
            return
        self._want = None
        mono = self._on_mono or time.monotonic()
        image = None if print_ is None else print_.get_image()
        if image is None:
            error = next((each for each in rest if isinstance(each, self._glib.Error)), None)
            self._lane.say("retry", id=want.id, mono=mono, why=self._retry(error))
            return
        # Flips and inverted greys that the reader's driver states are undone: libfprint did so to look for minutiae.
        size = {"width": image.get_width(), "height": image.get_height(), "ppmm": image.get_ppmm()}
        self._lane.say("picture", bytes(image.get_data()), id=want.id, mono=mono, **size)

    def _done(self, device: Any, result: Any, *_: Any) -> None:
        """The action is over: the finger is off, or it was cancelled, or something is wrong."""
        action, self._action = self._action, None
        off = self._absent
        try:
            device.identify_finish(result)
            off = True
        except self._glib.Error as error:
            if error.matches(self._fprint.device_retry_quark(), error.code):
                self._retried(action, error)
            elif not error.matches(self._gio.io_error_quark(), self._gio.IOErrorEnum.CANCELLED):
                self._failed(error)
                return
        if self._want is not None and off and not self._want.scan:
            self._lane.say("lifted", id=self._want.id)
            self._want = None
        elif self._want is not None:
            self._begin()

    def _retried(self, action: Any, error: Any) -> None:
        """An action ended without a picture. Its reader may have said so before, to `_seen`."""
        if self._want is not None and self._want.scan and not self._probing and not action.is_cancelled():
            id, self._want = self._want.id, None
            self._lane.say("retry", id=id, mono=time.monotonic(), why=self._retry(error))

    def _retry(self, error: Any) -> str:
        """The nick of FpDeviceRetry: general, too-short, center-finger, remove-finger, and what later versions add."""
        if error is None or not error.matches(self._fprint.device_retry_quark(), error.code):
            return "general"
        known = self._fprint.DeviceRetry.__enum_values__
        return str(known[error.code].value_nick) if error.code in known else "general"

    def _failed(self, error: Any) -> None:
        codes = self._fprint.DeviceError
        quark = self._fprint.device_error_quark()
        if error.matches(quark, codes.REMOVED):
            self._removed()
            return
        why = "too_hot" if error.matches(quark, codes.TOO_HOT) else "device_error"
        self._lane.say("failed", why=why, text=error.message[:200])

    def _removed(self, *_: Any) -> None:
        self._lane.say("gone")
        self._end()


def _node(device: Any) -> str:
    """The device node of a USB reader, or ""."""
    usb = device.get_property("fpi-usb-device")
    return f"/dev/bus/usb/{usb.get_bus():03d}/{usb.get_address():03d}" if usb is not None else ""


def describe(gi: Any, device: Any) -> dict[str, Any]:
    """What the lane is told of a reader before it chooses one."""
    usb = device.get_property("fpi-usb-device")
    release = usb.get_release() if usb is not None else 0
    able = gi.FPrint.DeviceFeature
    return {
        "driver": device.get_driver()[:80],
        "device": device.get_device_id()[:80],
        "name": device.get_name()[:80],
        "port": usb.get_platform_id()[:80] if usb is not None else "",
        "firmware": f"{release >> 8:x}.{release & 0xFF:02x}" if usb is not None else "",
        "scan": device.get_scan_type().value_nick,
        "pictures": device.has_feature(able.CAPTURE) and device.has_feature(able.IDENTIFY),
    }


class Helper:
    """Carries requests to the reader."""

    def __init__(self, gi: Any, lane: Lane) -> None:
        self._gi = gi
        self._lane = lane
        self._loop = gi.GLib.MainLoop()
        self._codec = Codec()
        self._reader: Reader | None = None
        self._status = 0
        version, usb = "", True

        def overheard(domain: str, level: Any, message: str, data: Any = None) -> None:
            nonlocal version, usb
            found = re.search(r"libfprint version ([0-9.]+)", message)
            version = found[1] if found else version
            usb = usb and not message.startswith("Could not initialise USB")

        # libfprint has no call for either but says them when it starts, to whoever listens.
        levels = gi.GLib.LogLevelFlags.LEVEL_DEBUG | gi.GLib.LogLevelFlags.LEVEL_MESSAGE
        gi.GLib.log_set_handler("libfprint-context", levels, overheard, None)
        self._context = gi.FPrint.Context()
        self._context.enumerate()
        self._devices = self._context.get_devices()[:READERS_MAX]
        readers = [describe(gi, device) for device in self._devices]
        lane.say("hello", protocol=PROTOCOL, libfprint=version, usb=usb, readers=readers)

    def run(self) -> int:
        """Until stdin ends, SIGTERM comes, or the reader is gone. Returns the exit status."""
        glib = self._gi.GLib
        ready = glib.IOCondition.IN | glib.IOCondition.HUP | glib.IOCondition.ERR
        glib.unix_fd_add_full(glib.PRIORITY_DEFAULT, 0, ready, self._hear)
        glib.unix_signal_add(glib.PRIORITY_HIGH, signal.SIGTERM, self._end)
        self._loop.run()
        if self._reader is not None:
            self._reader.close()
        return self._status

    def _hear(self, *_: Any) -> bool:
        try:
            data = os.read(0, 65536)
        except ConnectionResetError:
            data = b""
        for frame in self._codec.feed(data):
            self._obey(frame.header)
        if self._codec.skipped:
            self._status = NOT_UNDERSTOOD
        return self._end() if not data or self._codec.skipped else True

    def _obey(self, said: dict[str, Any]) -> None:
        do, id = said.get("do"), said.get("id")
        if not isinstance(id, int):
            self._codec.skipped += 1
        elif do == "ping":
            if self._reader is not None:
                self._reader.check()
            self._lane.say("pong", id=id)
        elif do == "open" and self._reader is None and said.get("reader") in range(len(self._devices)):
            self._reader = Reader(self._gi, self._devices[said["reader"]], self._lane, self._end)
            self._reader.open(id)
        elif do in ("scan", "lifted") and self._reader is not None:
            self._reader.ask(Want(id, do == "scan"))
        elif do == "cancel" and self._reader is not None:
            self._reader.give_up()
        else:
            self._codec.skipped += 1  # as good as garbled

    def _end(self) -> bool:
        signal.alarm(END_S_MAX)  # its default action ends a process that hangs in a library
        self._loop.quit()
        return False


def fall(kind: Any, error: Any, trace: Any) -> None:
    """An exception within a callback: PyGObject would go on, and the lane would wait for ever."""
    sys.__excepthook__(kind, error, trace)
    os._exit(1)


def main() -> int:
    """Exit status: 0, `NO_LIBFPRINT`, `NOT_UNDERSTOOD`; anything else is a fault of ours or of libfprint's."""
    sys.excepthook = fall
    lane = Lane()
    try:
        import_module("gi").require_version("FPrint", "2.0")
        gi = SimpleNamespace(**{name: import_module(f"gi.repository.{name}") for name in ("FPrint", "GLib", "Gio")})
    except (ImportError, ValueError) as error:
        sys.stderr.write(f"libfprint is not to be had here: {error}\n")
        return NO_LIBFPRINT
    return Helper(gi, lane).run()


if __name__ == "__main__":
    sys.exit(main())
