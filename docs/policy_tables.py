"""docs/policy.md from config/policy/tw.toml and the rules that read it. `docs/build.py` writes it."""

import inspect
import re
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

from gated.lane.entitlement import CITES
from gated.lane.policy import BEFORE_ENTRY, BEFORE_EXIT, IN_THE_LANE
from gated.lane.rules import DIRECTIONS, ENTRY, EXIT, Category, History, Rules, Urgency
from gated.policyfile import Policy, load_policy

FILE = Path(__file__).resolve().parents[1] / "config/policy/tw.toml"


def page() -> str:
    """The whole page."""
    policy = load_policy(FILE)
    rules = policy.rules
    lines = [
        "# Who may pass",
        "",
        "Made by `make docs` from `config/policy/tw.toml` and the rules that read it (`gated/lane/entitlement.py`,",
        "`gated/lane/policy.py`): do not edit. `gated policy explain` says of one passenger which rules fired and why.",
        "",
        f"Version `{rules.version}`, edition {rules.edition}. Days are those of {rules.zone}. "
        f"Places: {_listed(rules.places)}.",
    ]
    for title, part in (
        ("Age and height (W2)", _sizes(rules)),
        ("Documents", _documents(rules)),
        ("The matrix: who may use lanes with what, where", _matrix(rules)),
        ("What each category needs", _categories(rules)),
        ("Enrolments", _origins(rules)),
        ("Working days (E7)", _calendar(rules)),
        ("Controls", _controls(rules)),
        ("The age of the cache", _freshness(rules)),
        ("Pictures that are kept", _pictures(rules)),
        ("Every rule, in order", _rules(rules)),
        ("Reasons that are no rule's", _reasons(rules)),
        ("Requirements, and the rules that keep them", _coverage(policy)),
        ("Examples", _examples(policy)),
    ):
        lines += ["", f"## {title}", "", *part]
    return "\n".join(lines) + "\n"


def _table(*heads: str) -> list[str]:
    return [_row(*heads), "|" + "---|" * len(heads)]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _listed(names: Iterable[str], none: str = "-") -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or none


def _where(places: frozenset[str], rules: Rules) -> str:
    return "everywhere" if places == rules.places else _listed(places, "nowhere")


def _days(first: date, last: date) -> str:
    since = "" if first == date.min else f"from {first}"
    until = "" if last == date.max else f"to {last}"
    return f"{since} {until}".strip() or "always"


# -- the file ------------------------------------------------------------------------------------------------------


def _sizes(rules: Rules) -> Iterator[str]:
    yield from _table("from", "years", "cm")
    for size in rules.sizes:
        yield _row(str(size.since), str(size.age_years_min), str(size.height_cm_min))


def _documents(rules: Rules) -> Iterator[str]:
    yield "By the code and issuer of the machine readable zone; `P` stands for every two-letter passport code too."
    yield ""
    yield from _table("kind", "codes", "issuers")
    for name, kind in rules.documents.items():
        others = f"any but {_listed(kind.other_than)}" if kind.other_than else "any"
        yield _row(f"`{name}`", _listed(kind.codes), _listed(kind.issuers, others))


def _matrix(rules: Rules) -> Iterator[str]:
    yield from _table("", *(f"`{kind}`" for kind in rules.documents))
    for category in rules.categories:
        cells = []
        for kind in rules.documents:
            cell = rules.matrix[category][kind]
            if cell.entry == cell.exit:
                cells.append(_where(cell.entry, rules) if cell.entry else "-")
            else:
                cells.append("; ".join(f"{way}: {_where(cell.at(way), rules)}" for way in DIRECTIONS))
        yield _row(f"`{category}`", *cells)


def _categories(rules: Rules) -> Iterator[str]:
    yield from _table(
        "category", "days", "proof", "permits on entry", "permits on exit", "may go without", "oldest cache"
    )
    for name, each in rules.categories.items():
        stay = f"; not after the last day of `{each.stay}`" if each.stay else ""
        yield _row(
            f"`{name}`",
            _days(each.since, each.until),
            _proof(each, rules),
            _listed(each.permits(ENTRY)),
            _listed(each.permits(EXIT)) + stay,
            _listed(each.may_miss),
            each.cache_until.value,
        )
    yield ""
    referred = {name for name, each in rules.categories.items() if each.history is History.REFER}
    noted = rules.categories.keys() - referred
    yield (
        "A double entry, an exit without entry, an exit with another document than on entry (O7, O8) refers "
        f"{_listed(referred, 'nobody')}, and is noted in the record of {_listed(noted, 'nobody')}."
    )
    for name, each in rules.categories.items():
        if each.abroad_years_max is not None:
            yield f"`{name}`: after more than {each.abroad_years_max} years abroad, to an officer (W7)."


def _proof(each: Category, rules: Rules) -> str:
    if each.finger:
        return "face and finger"
    alone = f"; {rules.fingers_alone} fingers where no face could be enrolled" if each.fingers_alone else ""
    return "face" + "; a weak one with a finger" * each.weak_face + alone


def _origins(rules: Rules) -> Iterator[str]:
    yield from _table("taken at", "of", "can be used", "passport received")
    for name, each in rules.origins.items():
        wait, bound = each.usable_after_workdays, each.bound_within_days
        usable = "at once" if wait is None else f"{wait} working day(s) after the passport"
        yield _row(
            f"`{name}`", _listed(each.categories), usable, "-" if bound is None else f"within {bound} days, else lapsed"
        )


def _calendar(rules: Rules) -> Iterator[str]:
    calendar = rules.calendar
    yield f"Monday to Friday, known up to {calendar.through}. After that day no enrolment that waits becomes usable."
    yield ""
    for year in sorted({each.year for each in calendar.days_off | calendar.workdays}):
        off = ", ".join(f"{each:%m-%d}" for each in sorted(calendar.days_off) if each.year == year) or "none"
        worked = ", ".join(f"{each:%m-%d}" for each in sorted(calendar.workdays) if each.year == year) or "none"
        yield f"* {year}: days off {off}; weekend days that are worked: {worked}."


def _controls(rules: Rules) -> Iterator[str]:
    yield "Flags of HQ on a holder (W7) and a document (W8). One that is not named here counts everywhere and is"
    yield "urgent. The passenger sees, hears and waits as at any other referral (L8)."
    yield ""
    yield from _table("control", "on", "counts for", "at", "lifted by a valid", "urgency")
    for name, each in rules.controls.items():
        lifted = _listed({each.unless_permit} if each.unless_permit else ())
        ways = ", ".join(way for way in DIRECTIONS if way in each.directions)
        yield _row(f"`{name}`", "holder", ways, _listed(each.places, "everywhere"), lifted, each.urgency.value)
    for name, urgency in rules.document_controls.items():
        yield _row(f"`{name}`", "document", ", ".join(DIRECTIONS), "everywhere", "-", urgency.value)


def _freshness(rules: Rules) -> Iterator[str]:
    yield "Seconds since HQ last said that the lane has all there is."
    yield ""
    yield from _table("partition", "late", "stale", "expired")
    for name, ages in rules.freshness.items():
        yield _row(f"`{name}`", f"{ages.late_s:,.10g}", f"{ages.stale_s:,.10g}", f"{ages.expired_s:,.10g}")


def _pictures(rules: Rules) -> Iterator[str]:
    yield "What HQ is given of a verdict beside its record, sealed to HQ, and when HQ deletes it (P2, attachments.md)."
    yield "Of what is not named here no picture is made."
    yield ""
    yield from _table("picture", "of a", "for", "of", "days")
    for name, each in rules.attachments.items():
        ways = ", ".join(way for way in DIRECTIONS if way in each.directions)
        yield _row(f"`{name}`", _listed(each.on), ways, _listed(each.categories, "everybody"), str(each.keep_days))


# -- the rules -----------------------------------------------------------------------------------------------------


def _rules(rules: Rules) -> Iterator[str]:
    yield "The first one that is broken refers the passenger and is the reason in the record. Those before the entry"
    yield "are asked when the document is shown, all of them again before the exit opens."
    yield ""
    yield from _table("", "rule", "keeps", "", "urgency", "asked before")
    for number, rule in enumerate(BEFORE_EXIT, 1):
        name = rule.__name__
        said = " ".join((inspect.getdoc(rule) or "").split())
        when = "entry" if rule in BEFORE_ENTRY else "exit"
        yield _row(str(number), f"`{name}`", ", ".join(CITES[name]), said, rules.reasons[name].value, when)


def _reasons(rules: Rules) -> Iterator[str]:
    yield "What happens in a lane refers passengers too. How much that matters to the officer who is called:"
    yield ""
    for urgency in Urgency:
        yield f"* {urgency.value}: {_listed(name for name in IN_THE_LANE if rules.reasons[name] is urgency)}"


def _coverage(policy: Policy) -> Iterator[str]:
    keepers: dict[str, list[str]] = {}
    for rule in BEFORE_EXIT:
        for requirement in CITES[rule.__name__]:
            keepers.setdefault(requirement, []).append(rule.__name__)
    shown: dict[str, list[int]] = {}
    for number, example in enumerate(policy.examples, 1):
        for requirement in example.cites:
            shown.setdefault(requirement, []).append(number)
    yield from _table("requirement", "rules", "examples")
    for requirement in sorted(keepers.keys() | shown.keys(), key=_in_order):
        numbers = ", ".join(map(str, shown.get(requirement, []))) or "-"
        names = ", ".join(f"`{name}`" for name in keepers.get(requirement, [])) or "-"
        yield _row(requirement, names, numbers)


def _in_order(requirement: str) -> tuple[str, int]:
    return re.sub(r"\d", "", requirement), int(re.sub(r"\D", "", requirement) or 0)


def _examples(policy: Policy) -> Iterator[str]:
    yield "The policy's own: no lane takes a policy whose examples do not come out so."
    yield ""
    yield from _table("", "who", "category", "document", "direction", "place", "on", "comes out", "for")
    for number, each in enumerate(policy.examples, 1):
        expected = each.expect if each.expect == "pass" else f"`{each.expect}`"
        yield _row(
            str(number), each.says, f"`{each.category}`", f"`{each.document}`", each.direction, f"`{each.place}`",
            str(each.on), expected, ", ".join(each.cites),
        )  # fmt: skip
