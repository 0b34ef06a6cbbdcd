"""What the lane observes of itself, and what it asked for: leaves, people, faults. No I/O, no clock, no decisions."""

from dataclasses import dataclass
from enum import Enum, IntEnum

from gated.lane import events as ev
from gated.lane.events import Device, Door


class Severity(IntEnum):
    """The only classes of trouble the machine reasons about."""

    TOLERATED = 0
    """The lane goes on; evidence that is missing says so itself."""
    BLOCKS_ENTRY = 1
    """Nobody new begins while it lasts; whoever is inside goes on."""
    FINISH_THEN_CLOSE = 2
    """No verdict can be reached or kept: whoever is not released yet is referred, then the lane closes."""
    STOP_NOW = 3
    """The lane does not know what its doors do: every request is withdrawn."""


class Fault(Enum):
    """Concrete trouble. The first eleven are lost devices by the same name."""

    PASSPORT = "passport"
    CHIP = "chip"
    CAMERA = "camera"
    FINGERPRINT = "fingerprint"
    DOOR = "door"
    INDICATOR = "indicator"
    SPEAKER = "speaker"
    DISPLAY = "display"
    MATCHER = "matcher"
    CACHE = "cache"
    STORE = "store"
    MAINS = "mains"
    FORCED = "forced"
    STUCK = "stuck"
    THING = "thing"


SEVERITY: dict[Fault, Severity] = {
    Fault.PASSPORT: Severity.BLOCKS_ENTRY,
    Fault.CHIP: Severity.TOLERATED,
    Fault.CAMERA: Severity.FINISH_THEN_CLOSE,
    Fault.FINGERPRINT: Severity.TOLERATED,
    Fault.DOOR: Severity.STOP_NOW,
    Fault.INDICATOR: Severity.BLOCKS_ENTRY,
    Fault.SPEAKER: Severity.TOLERATED,
    Fault.DISPLAY: Severity.TOLERATED,
    Fault.MATCHER: Severity.FINISH_THEN_CLOSE,
    Fault.CACHE: Severity.FINISH_THEN_CLOSE,
    Fault.STORE: Severity.FINISH_THEN_CLOSE,
    Fault.MAINS: Severity.BLOCKS_ENTRY,
    Fault.FORCED: Severity.STOP_NOW,
    Fault.STUCK: Severity.BLOCKS_ENTRY,
    Fault.THING: Severity.BLOCKS_ENTRY,
}
assert set(SEVERITY) == set(Fault)


@dataclass(slots=True)
class Leaf:
    """One door. `open` None: never observed since its sensors were last lost."""

    open: bool | None = None
    blocked: bool = False
    requested: bool = False
    withdrawn_mono: float = float("-inf")
    forced: bool = False
    stuck: bool = False


@dataclass(slots=True)
class Gate:
    """The observed lane. `persons` 2 stands for two or more; `inside_since` is monotonic seconds."""

    leaves: dict[Door, Leaf]
    lost: set[Device]
    grace_s: float
    persons: int = 0
    thing: bool = False
    inside_since: float | None = None
    fire: bool = False
    mains_lost: bool = False
    uplink: bool = True
    stranger_from: Door | None = None
    """The leaf by which somebody came in last. An empty lane does not end it: whoever hides was not seen to leave."""

    def faults(self) -> frozenset[Fault]:
        """Every present fault."""
        found = {Fault(device.value) for device in self.lost}
        if self.mains_lost:
            found.add(Fault.MAINS)
        if any(leaf.forced for leaf in self.leaves.values()):
            found.add(Fault.FORCED)
        if any(leaf.stuck for leaf in self.leaves.values()):
            found.add(Fault.STUCK)
        if self.thing:
            found.add(Fault.THING)
        return frozenset(found)

    def severity(self) -> Severity:
        """The worst present class."""
        return max((SEVERITY[fault] for fault in self.faults()), default=Severity.TOLERATED)

    def shut(self) -> bool:
        """Every leaf is observed closed and none is asked to open."""
        return all(leaf.open is False and not leaf.requested for leaf in self.leaves.values())

    def _asked_beside(self, door: Door) -> bool:
        return any(leaf.requested for other, leaf in self.leaves.items() if other is not door)

    def _only_open(self) -> Door | None:
        """The one leaf that stands open, where the sensors can be believed."""
        found = [door for door, leaf in self.leaves.items() if leaf.open]
        return found[0] if len(found) == 1 and Device.DOOR not in self.lost else None

    def observe(self, event: ev.Event, now: ev.Now) -> None:
        """Note what the event says of the gate. Decides nothing."""
        match event:
            case ev.DoorOpened(door):
                leaf = self.leaves[door]
                # Never while another leaf is asked for: both would be open.
                late = not self._asked_beside(door) and now.mono - leaf.withdrawn_mono <= self.grace_s
                due = leaf.requested or late
                if not leaf.open:
                    leaf.forced = not (due or self.fire or Device.DOOR in self.lost)
                leaf.open, leaf.stuck = True, False
            case ev.DoorClosed(door):
                leaf = self.leaves[door]
                leaf.open = leaf.forced = leaf.stuck = False
                if not leaf.requested:
                    leaf.withdrawn_mono = float("-inf")  # it has arrived: what moves it now was not asked for
            case ev.PersonPassed(door, True) if self.leaves[door].open is not False:
                self.stranger_from = door  # through a shut leaf nobody comes: hands in the barriers
            case ev.DoorwayBlocked(door):
                self.leaves[door].blocked = True
            case ev.DoorwayCleared(door):
                self.leaves[door].blocked = False
            case ev.PresenceChanged(persons, thing):
                if persons > self.persons:
                    self.stranger_from = self._only_open() or self.stranger_from
                self.persons, self.thing = persons, thing
                if persons and self.inside_since is None:
                    self.inside_since = now.mono
                elif not persons:
                    self.inside_since = None
            case ev.DeviceLost(device, _):
                self.lost.add(device)
                if device is Device.DOOR:
                    for leaf in self.leaves.values():
                        leaf.open, leaf.blocked, leaf.forced, leaf.stuck = None, False, False, False
            case ev.DeviceReady(device):
                self.lost.discard(device)
            case ev.NotRecorded():
                self.lost.add(Device.STORE)
            case ev.Recorded():
                self.lost.discard(Device.STORE)
            case ev.FireStarted():
                self.fire = True
            case ev.FireEnded():
                self.fire = False
            case ev.MainsLost():
                self.mains_lost = True
            case ev.MainsBack():
                self.mains_lost = False
            case ev.UplinkLost():
                self.uplink = False
            case ev.UplinkReady():
                self.uplink = True
            case _:
                pass
