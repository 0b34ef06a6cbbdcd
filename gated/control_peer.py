"""Who asks at a control socket, by the kernel's word, and what they may ask for."""

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from enum import Enum


class Right(Enum):
    """What a request needs. Root and the daemon's own user have every right."""

    LOOK = "look"
    """Technicians and the uplink."""
    OPERATE = "operate"
    """Technicians."""
    RELAY = "relay"
    """The uplink's user: it passes what HQ signed, and can do nothing else with the lane."""
    TELL = "tell"
    """The sync's user: it says what became of the cache, and can do nothing else with the lane."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel knows it; `name` and `groups` as the system's user database does."""

    uid: int
    gid: int
    pid: int
    name: str
    groups: frozenset[str]

    @classmethod
    def of(cls, connected: socket.socket) -> "Peer":
        """The peer of a connected Unix stream socket."""
        raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, gid = struct.unpack("3i", raw)
        try:
            name = pwd.getpwuid(uid).pw_name
            member_of = set(os.getgrouplist(name, gid))
        except KeyError:
            name, member_of = f"uid {uid}", {gid}
        return cls(uid, gid, pid, name, frozenset(filter(None, map(_group_name, member_of))))

    def rights(self, technician_group: str, uplink_user: str, sync_user: str = "") -> frozenset[Right]:
        """What this peer may ask for. The users of uplink and sync are never technicians, whatever groups they have."""
        if self.uid in (0, os.geteuid()):
            return frozenset(Right)
        if self.name == uplink_user:
            return frozenset({Right.LOOK, Right.RELAY})
        if self.name == sync_user:
            return frozenset({Right.LOOK, Right.TELL})
        if technician_group in self.groups:
            return frozenset({Right.LOOK, Right.OPERATE})
        return frozenset()


def _group_name(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None
