"""config/policy/*.toml: used whole or not at all, and every error names file, line and option."""

from pathlib import Path

import pytest

from gated.config import ConfigError
from gated.lane.freshness import Ages, Freshness
from gated.lane.rules import Category
from gated.policyfile import load_rules

GOOD = """version = "test-1"
age_years_min = 10

[categories.national]
documents = ["P"]
may_miss = ["chip", "face_pad"]

[categories.resident]
documents = ["I", "AR"]
finger = true
cache_until = "late"

[freshness.people]
late_s = 900
stale_s = 86400
expired_s = 2592000
"""
SHIPPED = sorted((Path(__file__).resolve().parents[1] / "config" / "policy").glob("*.toml"))


def test_a_policy_is_what_its_file_says(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(GOOD)
    rules = load_rules(path)
    assert (rules.version, rules.age_years_min) == ("test-1", 10)
    national, resident = rules.categories["national"], rules.categories["resident"]
    assert national == Category(frozenset({"P"}), finger=False, may_miss=frozenset({"chip", "face_pad"}))
    assert resident == Category(frozenset({"I", "AR"}), finger=True, may_miss=frozenset(), cache_until=Freshness.LATE)
    assert national.cache_until is Freshness.EXPIRED
    assert rules.freshness == {"people": Ages(900, 86400, 2592000)}
    assert list(rules.categories) == ["national", "resident"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_policy_loads(path: Path) -> None:
    rules = load_rules(path)
    assert rules.categories
    assert rules.version.startswith(path.stem)


def test_the_shipped_policies_are_there() -> None:
    assert SHIPPED


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ('version = "test-1"\n', "", r"policy\.toml: \[version\]: is missing"),
        ('version = "test-1"', 'version = ""', r"policy\.toml:1: \[version\]: .*1 to 64"),
        ('version = "test-1"', f'version = "{"x" * 65}"', r"policy\.toml:1: \[version\]: .*1 to 64"),
        ("age_years_min = 10", "age_years_min = -1", r"policy\.toml:2: \[age_years_min\]: "),
        ("age_years_min = 10", 'age_years_min = "ten"', r"policy\.toml:2: \[age_years_min\]: "),
        (
            "age_years_min = 10",
            "age_years_min = 10\nage_max = 70",
            r"policy\.toml:3: \[age_max\]: is not a known option",
        ),
        (
            'documents = ["P"]',
            "documents = []",
            r"policy\.toml:5: \[categories\] national\.documents: documents is empty",
        ),
        ('documents = ["P"]', 'documents = "P"', r"policy\.toml:5: \[categories\] national\.documents: "),
        ('documents = ["P"]', "", r"policy\.toml:\d: \[categories\] national\.documents: is missing"),
        ('"face_pad"]', '"face_pads"]', r"policy\.toml:6: \[categories\] national\.may_miss: .*face_pads"),
        ("finger = true", 'finger = "yes"', r"policy\.toml:10: \[categories\] resident\.finger: "),
        (
            "finger = true",
            "fingers = true",
            r"policy\.toml:10: \[categories\] resident\.fingers: is not a known option",
        ),
        ('"late"', '"old"', r"policy\.toml:11: \[categories\] resident\.cache_until: "),
        ("[freshness.people]", "[freshness.permits]", r"freshness knows \['control', 'people'\], not \['permits'\]"),
        ("stale_s = 86400", "stale_s = 8", r"policy\.toml:1[345]: \[freshness\] people.*in this order"),
        ("[categories.resident]", "[categories.resident", r"policy\.toml:8: "),
        (GOOD[GOOD.index("[") :], "[categories]\n", r"policy\.toml.*categories"),
    ],
)
def test_errors_name_file_line_and_option(was: str, becomes: str, says: str, tmp_path: Path) -> None:
    assert was in GOOD
    path = tmp_path / "policy.toml"
    path.write_text(GOOD.replace(was, becomes, 1))
    with pytest.raises(ConfigError, match=says):
        load_rules(path)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rules(tmp_path / "gone.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_rules(tmp_path / "binary.toml")
