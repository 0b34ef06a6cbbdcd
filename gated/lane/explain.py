"""What each rule of the policy said of one passenger, in order, and why. No I/O, no clock.

`gated.lane.policy` does not know of it: a verdict costs the same whether anybody asks why or not."""

from dataclasses import dataclass

from gated.lane.entitlement import CITES
from gated.lane.events import personal
from gated.lane.evidence import Evidence
from gated.lane.policy import BEFORE_ENTRY, BEFORE_EXIT
from gated.lane.rules import Rules
from gated.lane.why import WHY


@dataclass(frozen=True, slots=True)
class Step:
    """One rule, in the order in which they are asked."""

    rule: str
    requirements: tuple[str, ...]
    before_entry: bool
    """Asked when the document is shown; the others when all is proven."""
    asked: bool
    """No rule before it was broken."""
    kept: bool
    """Of one that was not asked: what it would have said."""
    why: str = personal()
    """The facts that it compared."""

    @property
    def decides(self) -> bool:
        """Whether this is the rule that the verdict names."""
        return self.asked and not self.kept


def explain(evidence: Evidence, rules: Rules) -> tuple[Step, ...]:
    """Every rule of the verdict before the exit. The first one that is broken decides, as in `judge`."""
    steps: list[Step] = []
    asked = True
    for rule in BEFORE_EXIT:
        name, kept = rule.__name__, rule(evidence, rules)
        steps.append(Step(name, CITES[name], rule in BEFORE_ENTRY, asked, kept, WHY[name](evidence, rules)))
        asked = asked and kept
    return tuple(steps)
