"""`python -m tests.hw_sim mutants-policy`: every number, date, cell and predicate of the policy, each changed alone.

The operators on code are stated in `tests.hw_sim.mutants_policy_operators` and `tests.hw_sim.mutants_policy_code`,
those on config/policy/tw.toml in `tests.hw_sim.mutants_policy_data`. A mutant is caught where the policy's own checks
refuse it, where an example of the policy comes out otherwise, or where a claim of `tests.rule_claims` and
`tests.law_claims` does not hold; tests/test_lane_rules.py asks the same claims of what is not changed. Whatever
survives must be named, with the reason, in `tests.hw_sim.mutants_policy_explained`, and a name there that does not
survive is an error too."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

import click

from gated.lane.rules import Rules
from tests.hw_sim.mutants_policy_code import code_mutants
from tests.hw_sim.mutants_policy_data import data_mutants
from tests.hw_sim.mutants_policy_explained import EXPLAINED
from tests.law_claims import EXAMPLES, LAW, LAW_CLAIMS
from tests.rule_claims import CLAIMS, RULE_SETS, Claim

CPU_S_MAX: Final = 3.0
"""What a mutant may take: one that goes on without end is caught by that."""
TOLD_EVERY_S: Final = 10.0


class Unfit(Exception):
    """The run itself is at fault: a claim that does not hold of the code and data as they are."""


class Hangs(BaseException):
    """A mutant took longer than `CPU_S_MAX`; no handler of what runs may take it for an error of its own."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one mutant. `by` None: nothing caught it."""

    kind: str
    """code or data."""
    operator: str
    name: str
    by: str | None


@dataclass(slots=True)
class Hunt:
    """All fates, and what is wrong with the list of the explained."""

    fates: list[Fate] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def survivors(self) -> list[str]:
        return [each.name for each in self.fates if each.by is None]

    @property
    def unexplained(self) -> list[str]:
        return [name for name in self.survivors if name not in EXPLAINED]

    @property
    def outdated(self) -> list[str]:
        """Explained, and caught by now or no mutant any more."""
        return sorted(EXPLAINED.keys() - set(self.survivors))


@contextmanager
def _limited() -> Iterator[None]:
    """Raises `Hangs` inside where it takes more of the processor. Of the main thread alone."""

    def over(_: int, __: FrameType | None) -> None:
        raise Hangs

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _forget() -> None:
    """What a policy remembers of documents was found by other code."""
    for rules in RULE_SETS:
        rules._kinds.clear()


def first_broken(claims: Sequence[Claim], rules: Rules = LAW) -> str | None:
    """The first claim that does not hold; one that hangs does not."""
    _forget()
    claim = claims[0]
    try:
        with _limited():
            for claim in claims:
                if not claim.holds(rules):
                    return claim.name
    except Hangs:
        return f"{claim.name} (hangs)"
    return None


def _refusal(make: Callable[[], Rules]) -> Rules | str:
    try:
        return make()
    except ValueError:
        return "refused by its own checks"


def _hunted(only: Callable[[str], bool], tell: Callable[[str], None]) -> Iterator[Fate]:
    everything = (*EXAMPLES, *CLAIMS, *LAW_CLAIMS)
    if broken := first_broken(everything):
        raise Unfit(f"without any mutant {broken} does not hold")
    for each in code_mutants():
        if only(each.name):
            with each.plant():
                by = first_broken(everything)
            yield Fate("code", each.operator, each.name, by)
    _forget()
    of_data = (*EXAMPLES, *LAW_CLAIMS)
    for operator, name, make in data_mutants(LAW):
        if only(name):
            made = _refusal(make)
            yield Fate("data", operator, name, made if isinstance(made, str) else first_broken(of_data, made))


def hunt(only: Callable[[str], bool] = lambda _: True, tell: Callable[[str], None] = lambda _: None) -> Hunt:
    """Every mutant whose name `only` wants. `tell` is told how far it is. Raises `Unfit`."""
    found, began = Hunt(), time.monotonic()
    told = began
    for fate in _hunted(only, tell):
        found.fates.append(fate)
        if time.monotonic() - told >= TOLD_EVERY_S:
            told = time.monotonic()
            tell(f"{told - began:5.0f} s: {len(found.fates)} mutants, {len(found.survivors)} survived")
    if broken := first_broken((*EXAMPLES, *CLAIMS, *LAW_CLAIMS)):
        raise Unfit(f"a mutant was not taken back: {broken} does not hold any more")
    found.seconds = time.monotonic() - began
    return found


def _rows(found: Hunt) -> Iterator[tuple[str, str, int, int, int]]:
    """Kind, operator, mutants, caught, explained."""
    kinds = Counter((each.kind, each.operator) for each in found.fates)
    left = Counter((each.kind, each.operator) for each in found.fates if each.by is None)
    told = Counter((e.kind, e.operator) for e in found.fates if e.by is None and e.name in EXPLAINED)
    for key in sorted(kinds):
        yield *key, kinds[key], kinds[key] - left[key], told[key]


def _catchers(found: Hunt) -> dict[str, int]:
    """How many each sort of test was the first to catch."""
    examples = {each.name for each in EXAMPLES}
    sorts = Counter(
        "its own checks"
        if each.by == "refused by its own checks"
        else "the policy's own examples"
        if each.by in examples
        else "a claim"
        for each in found.fates
        if each.by is not None
    )
    return dict(sorted(sorts.items()))


def _text(found: Hunt, complete: bool) -> str:
    lines = [f"{'':6}{'operator':14}{'mutants':>9}{'caught':>9}{'explained':>11}{'unexplained':>13}"]
    for kind, operator, count, caught, explained in _rows(found):
        lines.append(f"{kind:6}{operator:14}{count:9}{caught:9}{explained:11}{count - caught - explained:13}")
    lines += [f"SURVIVED: {name}" for name in found.unexplained]
    if complete:
        lines += [f"OUT OF DATE in mutants_policy_explained: {name}" for name in found.outdated]
    lines += [f"explained: {name}\n    {EXPLAINED[name]}" for name in found.survivors if name in EXPLAINED]
    lines.append("first caught by " + ", ".join(f"{name}: {count}" for name, count in _catchers(found).items()))
    survived = len(found.survivors)
    lines.append(
        f"{len(found.fates)} mutants, {len(found.fates) - survived} caught, {survived - len(found.unexplained)} "
        f"explained, {len(found.unexplained)} unexplained, {found.seconds:.0f} s"
    )
    return "\n".join(lines)


def _dict(found: Hunt) -> dict[str, Any]:
    names = ("kind", "operator", "mutants", "caught", "explained")
    return {
        "operators": [dict(zip(names, row, strict=True)) for row in _rows(found)],
        "mutants": len(found.fates),
        "caught": len(found.fates) - len(found.survivors),
        "first_caught_by": _catchers(found),
        "explained": {name: EXPLAINED[name] for name in found.survivors if name in EXPLAINED},
        "unexplained": found.unexplained,
        "out_of_date": found.outdated,
        "real_s": round(found.seconds, 1),
    }


@click.command()
@click.option("--only", metavar="TEXT", default="", help="Mutants whose name has this in it.")
@click.option("--json", "as_json", is_flag=True, help="One object.")
def mutants_policy(only: str, as_json: bool) -> int:
    """Change every number, date, cell and predicate of the policy, one at a time; exit code 1 where one survives that
    is not explained, or one is explained that does not survive."""
    try:
        found = hunt(lambda name: only in name, lambda line: click.echo(line, err=True))
    except Unfit as why:
        raise click.ClickException(str(why)) from None
    complete = not only
    click.echo(json.dumps(_dict(found), indent=2) if as_json else _text(found, complete))
    return 1 if found.unexplained or (complete and found.outdated) else 0


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    try:
        code = mutants_policy.main(argv, prog_name="python -m tests.hw_sim mutants-policy", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    return int(code or 0)
