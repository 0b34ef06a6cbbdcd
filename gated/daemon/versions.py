"""What the lane is made of, by name and version: for its first record, for `status`, and for HQ's desired versions."""

from gated import __version__
from gated.daemon.cachewatch import CacheWatch
from gated.daemon.policywatch import PolicyWatch
from gated.daemon.workers import Workers
from gated.lane.machine import Lane
from gated.wire.facts import Part


def versions(lane: Lane, policy: PolicyWatch, workers: Workers, cache: CacheWatch) -> tuple[Part, ...]:
    """The daemon, the policy in force and its text, the networks, and how far each partition of the cache has come."""
    fingers = workers.fingers
    return (
        Part("gated", __version__),
        Part("policy", lane.rules.version),
        Part("policy_sha256", policy.held.digest),
        Part("face", workers.faces.model),
        *((Part("finger", fingers.model),) if fingers else ()),
        *(Part(f"cache.{name}", serial) for name, serial in sorted(cache.serials().items())),
    )
