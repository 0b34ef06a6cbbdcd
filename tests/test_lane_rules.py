"""Every rule at its boundary: the claims of `tests.rule_claims`; and those of `tests.law_claims` of tw.toml."""

import pytest

from tests.law_claims import EXAMPLES, LAW, LAW_CLAIMS
from tests.play import RULES
from tests.rule_claims import CLAIMS, Claim


@pytest.mark.parametrize("claim", CLAIMS, ids=[each.name for each in CLAIMS])
def test_the_rules(claim: Claim) -> None:
    assert claim.ask(RULES) == claim.expected


@pytest.mark.parametrize("claim", (*EXAMPLES, *LAW_CLAIMS), ids=[each.name for each in (*EXAMPLES, *LAW_CLAIMS)])
def test_the_law(claim: Claim) -> None:
    assert claim.ask(LAW) == claim.expected
