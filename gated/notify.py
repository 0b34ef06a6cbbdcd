"""sd_notify(3) in one datagram: READY, WATCHDOG, STATUS, STOPPING for systemd. Imports nothing of the
project.

Never python-systemd: the checkout's own `systemd/` folder would shadow it.
"""

import os
import socket


def notify(*assignments: str) -> bool:
    """Send e.g. `notify("READY=1", "STATUS=connected")`. False where no service manager listens. Never
    raises.

    The socket's name comes from NOTIFY_SOCKET: a path, or an abstract name that starts with `@`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagram:
            datagram.setblocking(False)
            datagram.sendto("\n".join(assignments).encode(), address)
    except OSError:
        return False
    return True


def watchdog_s() -> float | None:
    """How often to stroke the watchdog: half of what the unit asks for. None where it asks for nothing."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000
