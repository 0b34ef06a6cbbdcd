"""The mutants of the policy: every operator makes some, each is taken back, and what survives is said.

All of them take minutes (`make mutants`); here is every thirtieth, and the machinery."""

from collections import Counter
from zlib import crc32

import pytest

from gated.lane import entitlement, policy, rules
from tests.hw_sim import mutants_policy, mutants_policy_code, mutants_policy_data, mutants_policy_operators
from tests.hw_sim.mutants_policy import Hunt, first_broken, hunt
from tests.hw_sim.mutants_policy_code import Mutant, code_mutants
from tests.hw_sim.mutants_policy_data import data_mutants
from tests.hw_sim.mutants_policy_explained import EXPLAINED
from tests.law_claims import LAW
from tests.play import RULES, TRAVELLER
from tests.rule_claims import CLAIMS, NOTHING, Claim

ONE_OF = 30
CODE = {each.name: each for each in code_mutants()}
DATA = {name: make for _, name, make in data_mutants(LAW)}


def mutant(name: str) -> Mutant:
    """The one with this in its name."""
    (found,) = [each for each in CODE.values() if name in each.name]
    return found


def test_every_thirtieth_is_caught_or_explained() -> None:
    found = hunt(lambda name: crc32(name.encode()) % ONE_OF == 0)
    assert len(found.fates) > 100
    assert not found.unexplained


def test_what_is_explained_is_a_mutant_and_survives() -> None:
    assert not EXPLAINED.keys() - (CODE.keys() | DATA.keys())
    found = hunt(EXPLAINED.keys().__contains__)
    assert found.survivors and not found.outdated and not found.unexplained


def test_names_are_names_and_every_operator_makes_mutants() -> None:
    names = [each.name for each in code_mutants()] + [name for _, name, _ in data_mutants(LAW)]
    assert len(set(names)) == len(names) > 3000
    made = Counter(each.operator for each in CODE.values()) + Counter(operator for operator, _, _ in data_mutants(LAW))
    for document in (mutants_policy_operators.__doc__, mutants_policy_code.__doc__, mutants_policy_data.__doc__):
        stated = [line[2:].split(":")[0] for line in str(document).splitlines() if line.startswith("* ")]
        assert len(stated) >= 2 and all(made[operator] for operator in stated)


def test_every_rule_is_mutated() -> None:
    for rule in policy.BEFORE_EXIT:
        assert any(f".{rule.__name__}:" in name for name in CODE), rule.__name__


def test_a_mutant_reaches_whoever_imported_the_function_and_is_taken_back() -> None:
    assert entitlement.holder_is_enrolled(NOTHING, RULES) is False
    with mutant("holder_is_enrolled: e.traveller is not None: is not is is").plant():
        assert policy.BEFORE_ENTRY[2](NOTHING, RULES) is True
    assert policy.BEFORE_ENTRY[2](NOTHING, RULES) is False


def test_a_rule_left_out_is_left_out_of_both_orders() -> None:
    before = policy.BEFORE_ENTRY, policy.BEFORE_EXIT
    with mutant("BEFORE_ENTRY: without old_enough").plant():
        assert entitlement.old_enough not in policy.BEFORE_ENTRY
        assert entitlement.old_enough not in policy.BEFORE_EXIT
        assert len(policy.BEFORE_EXIT) == len(before[1]) - 1
    assert before == (policy.BEFORE_ENTRY, policy.BEFORE_EXIT)


def test_a_default_is_another_one_for_so_long() -> None:
    with mutant("rules.Category.finger: True where it is left out").plant():
        assert rules.Category().finger is True
    assert rules.Category().finger is False


@pytest.mark.parametrize("name", ["matrix.national.kinmen_permit.exit: taichung in", "fingers_alone: 3"])
def test_data_is_mutated_in_a_copy(name: str) -> None:
    assert DATA[name]() != LAW
    assert DATA[name]().version == LAW.version


def test_a_policy_that_contradicts_itself_is_refused_by_its_own_checks() -> None:
    with pytest.raises(ValueError, match="documents"):
        DATA["documents.passport_foreign.other_than: without TWN"]()


def test_a_mutant_without_end_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants_policy, "CPU_S_MAX", 0.05)
    with mutant("Calendar.after: without day += ONE_DAY #2").plant():
        assert str(first_broken(CLAIMS)).endswith("(hangs)")
    assert first_broken(CLAIMS) is None


def test_whoever_raises_does_not_hold() -> None:
    claim = Claim("raises", lambda _: 1 / 0, 1)
    assert not claim.holds(RULES)
    assert first_broken([claim]) == "raises"


def test_survivors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without claims nothing catches what the policy's own checks do not."""
    nothing = (Claim("nothing", lambda _: TRAVELLER.subject, TRAVELLER.subject),)
    for name in ("EXAMPLES", "CLAIMS", "LAW_CLAIMS"):
        monkeypatch.setattr(mutants_policy, name, nothing)
    monkeypatch.setattr(mutants_policy, "EXPLAINED", {"fingers_alone: 1": "a reason", "gone": "a reason"})
    found: Hunt = hunt(lambda name: name.startswith("fingers_alone"))
    assert found.survivors == ["fingers_alone: 3", "fingers_alone: 1"]
    assert found.unexplained == ["fingers_alone: 3"]
    assert found.outdated == ["gone"]
    told = mutants_policy._text(found, complete=True)
    assert "SURVIVED: fingers_alone: 3" in told and "OUT OF DATE in mutants_policy_explained: gone" in told
    assert "3 mutants, 1 caught, 1 explained, 1 unexplained" in told


def test_a_run_on_a_broken_policy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants_policy, "CLAIMS", (Claim("never", lambda _: 1, 2),))
    with pytest.raises(mutants_policy.Unfit, match="without any mutant never does not hold"):
        hunt()
