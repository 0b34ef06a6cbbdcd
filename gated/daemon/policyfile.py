"""config/policy/*.toml -> Rules. Every error names file, line and option; a policy is used whole or not at all."""

from dataclasses import dataclass, field
from pathlib import Path

from gated.config import ConfigError, TomlFile
from gated.lane.freshness import Ages, Freshness
from gated.lane.policy import EVIDENCE_THAT_MAY_BE_MISSING, Category, Rules
from gated.wire.facts import CODE_MAX


@dataclass(frozen=True, slots=True)
class _Category:
    """[categories.NAME]."""

    documents: tuple[str, ...]
    finger: bool = False
    weak_face: bool = False
    may_miss: tuple[str, ...] = ()
    cache_until: Freshness = Freshness.EXPIRED

    def __post_init__(self) -> None:
        if not self.documents:
            raise ValueError("documents is empty: nobody of this category could pass")
        if unknown := sorted(set(self.may_miss) - EVIDENCE_THAT_MAY_BE_MISSING):
            known = ", ".join(sorted(EVIDENCE_THAT_MAY_BE_MISSING))
            raise ValueError(f"may_miss knows {known}, not {', '.join(unknown)}")


@dataclass(frozen=True, slots=True)
class _Policy:
    version: str
    age_years_min: int
    categories: dict[str, _Category]
    fingers_alone: int = 2
    freshness: dict[str, Ages] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.version) <= CODE_MAX:
            raise ValueError(f"version must have 1 to {CODE_MAX} characters: every record carries it")
        if self.age_years_min < 0:
            raise ValueError(f"age_years_min must not be below 0, but is {self.age_years_min}")
        if not 1 <= self.fingers_alone <= 10:
            raise ValueError(f"fingers_alone is 1 to 10, not {self.fingers_alone}")


def load_rules(path: Path) -> Rules:
    """The policy in force. Raises `ConfigError`."""
    file = TomlFile.read(path)
    policy = file.fill(_Policy, file.tree, ())
    try:
        return Rules(
            policy.version,
            policy.age_years_min,
            {
                name: Category(frozenset(c.documents), c.finger, c.weak_face, frozenset(c.may_miss), c.cache_until)
                for name, c in policy.categories.items()
            },
            policy.fingers_alone,
            policy.freshness,
        )
    except ValueError as wrong:
        raise ConfigError(path, str(wrong)) from None
