"""Mutants of the policy that no test can catch, each with the reason; see `tests.hw_sim.mutants_policy`."""

from typing import Final

EXPLAINED: Final[dict[str, str]] = {}
