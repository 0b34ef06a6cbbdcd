"""config/policy/*.toml: used whole or not at all, and every error names file, line, option and what to do."""

import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gated.config import ConfigError
from gated.lane.freshness import Ages, Freshness
from gated.lane.policy import REASONS
from gated.lane.rules import ControlRule, History, Picture, Size, Urgency, Where
from gated.policyfile import POLICY_BYTES_MAX, Policy, load_policy, load_rules, parse_policy

SHIPPED = sorted((Path(__file__).resolve().parents[1] / "config" / "policy").glob("*.toml"))
TAIWAN = next(path for path in SHIPPED if path.stem == "tw")
TEXT = TAIWAN.read_text()
HERE = Path("tw.toml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_policy_is_whole_and_its_examples_come_out(path: Path) -> None:
    policy = load_policy(path)
    assert policy.rules.version.startswith(path.stem)
    assert policy.examples


def test_a_policy_is_what_its_file_says() -> None:
    """Read by eye from the file: one of each kind of statement."""
    rules = load_rules(TAIWAN)
    assert rules.places >= {"taoyuan_t1", "kinmen_shuitou", "keelung_port"}
    assert rules.sizes[-1] == Size(date(2025, 1, 1), 10, 120)
    assert rules.documents["passport_foreign"].other_than == {"TWN"}
    spouse, visitor = rules.categories["mainland_spouse"], rules.categories["foreign_visitor"]
    assert (spouse.since, spouse.finger, spouse.exit_permits) == (date(2013, 1, 1), True, frozenset({"residence"}))
    assert (visitor.history, visitor.stay, visitor.cache_until) == (History.REFER, "stay", Freshness.LATE)
    assert "chip" not in visitor.may_miss
    assert rules.matrix["national"]["kinmen_permit"] == Where(*[frozenset({"kinmen_shuitou"})] * 2)
    assert rules.matrix["foreign_visitor"]["passport_foreign"] == Where(frozenset(), rules.places)
    assert rules.controls["conscript"] == ControlRule(
        frozenset({"exit"}), unless_permit="military_leave", urgency=Urgency.ATTENTION
    )
    assert rules.document_controls["stolen"] is Urgency.URGENT
    office = rules.origins["office"]
    assert (office.usable_after_workdays, office.bound_within_days) == (1, 30)
    assert date(2026, 2, 17) in rules.calendar.days_off
    assert rules.freshness["control"] == Ages(300, 86_400, 1_209_600)
    assert rules.attachments == {
        "case_picture": Picture(frozenset({"refer"}), 7),
        "entry_face": Picture(frozenset({"grant"}), 14, frozenset({"entry"}), frozenset({"hong_kong_macau_visitor"})),
    }
    assert rules.reasons.keys() == REASONS
    assert rules.reasons["chip_is_genuine"] is Urgency.URGENT


# -- mutations of the shipped text -------------------------------------------------------------------------------------

MUTATIONS: dict[str, tuple[str, str, str, str]] = {
    # name: (what stands there, what is put there, the place that the error names, what it says)
    "no version": ('version = "tw-2026.4"\n', "", "[version]", "is missing"),
    "empty version": ('version = "tw-2026.4"', 'version = ""', "[version]", "1 to 64"),
    "long version": ('version = "tw-2026.4"', f'version = "{"x" * 65}"', "[version]", "1 to 64"),
    "no edition": ("edition = 4\n", "", "[edition]", "is missing"),
    "edition nought": ("edition = 4", "edition = 0", "[edition]", "1 or more"),
    "edition as text": ("edition = 4", 'edition = "3"', "[edition]", "a whole number"),
    "edition as truth": ("edition = 4", "edition = true", "[edition]", "a whole number"),
    "unknown zone": ("Asia/Taipei", "Asia/Taipeh", "[timezone]", "does not know"),
    "zone that climbs": ("Asia/Taipei", "../../etc/passwd", "[timezone]", "does not know"),
    "zone that is a folder": ("Asia/Taipei", "Asia", "[timezone]", "does not know"),
    "misspelt option": ("fingers_alone = 2", "finger_alone = 2", "[finger_alone]", "did you mean 'fingers_alone'"),
    "no finger alone": ("fingers_alone = 2", "fingers_alone = 0", "[fingers_alone]", "1 to 10"),
    "places is no list": ('places = [\n    "taoyuan_t1",', 'places = "taoyuan_t1"\nx = [', "[places]", "a list"),
    "a place that goes": ('"taichung", "kaohsiung_airport"', '"kaohsiung_airport"', "[examples]", "no place"),
    "a place of the matrix goes": (', "kinmen_shuitou", "keelung_port"', ', "keelung_port"', "[matrix]", "kinmen"),
    "sizes in disorder": ("since = 2022-07-22", "since = 2026-07-22", "[sizes]", "order of their days"),
    "two sizes on one day": ("since = 2022-07-22", "since = 2012-01-01", "[sizes]", "one a day"),
    "negative age": ("age_years_min = 12", "age_years_min = -1", "[sizes] age_years_min", "0 to 120"),
    "giants": ("height_cm_min = 120", "height_cm_min = 1200", "[sizes] height_cm_min", "0 to 250"),
    "size without a day": ("{ since = 2025-01-01, ", "{ ", "[sizes] since", "is missing"),
    "a day as text": ("since = 2022-07-22", 'since = "2022-07-22"', "[sizes] since", "a date"),
    "a moment for a day": ("since = 2022-07-22", "since = 2022-07-22T00:00:00Z", "[sizes] since", "a date"),
    "no codes": ('codes = ["IK"]', "codes = []", "[documents] kinmen_permit.codes", "is empty"),
    "issuers twice": (
        'other_than = ["TWN"]',
        'other_than = ["TWN"]\nissuers = ["JPN"]',
        "[documents] passport_foreign",
        "contradict",
    ),
    "one document of two kinds": (
        'other_than = ["TWN"]',
        'other_than = ["JPN"]',
        "[documents]",
        "one document could be of this kind and",
    ),
    "a code of two kinds": (
        'codes = ["IK"]',
        'codes = ["IK", "ID"]',
        "[documents]",
        "one document could be of this kind and",
    ),
    "a passport code of two kinds": (
        'codes = ["IK"]',
        'codes = ["PD"]',
        "[documents]",
        "one document could be of this kind and",
    ),
    "a kind that no category knows": (
        "[documents.diplomatic_card]",
        '[documents.seaman_book]\ncodes = ["IS"]\n\n[documents.diplomatic_card]',
        "[matrix]",
        "has a gap: it says nothing of seaman_book",
    ),
    "a kind that is gone": (
        '[documents.diplomatic_card]\ncodes = ["ID"]\nissuers = ["TWN"]\n',
        "",
        "[matrix]",
        "diplomatic_card is no kind",
    ),
    "finger and weak face": (
        "weak_face = true",
        "weak_face = true\nfinger = true",
        "[categories] national",
        "contradicts",
    ),
    "finger and fingers alone": (
        "weak_face = true\nfingers_alone = true",
        "fingers_alone = true\nfinger = true",
        "[categories] national",
        "fingers_alone contradicts finger",
    ),
    "may miss the face": (
        'may_miss = ["face_pad", "height"]',
        'may_miss = ["face"]',
        "[categories] foreign_visitor",
        "face",
    ),
    "ends before it begins": (
        "since = 2013-01-01",
        "since = 2013-01-01\nuntil = 2012-12-31",
        "[categories] mainland_spouse",
        "before since",
    ),
    "an unknown age of a cache": ('cache_until = "late"', 'cache_until = "old"', "cache_until", "one of"),
    "an unknown permit": (
        '["entry_permit"]',
        '["entry_permits"]',
        "[categories]",
        "entry_permits is no kind of permit",
    ),
    "an unknown stay": ('stay = "stay"', 'stay = "visit"', "[categories]", "visit is no kind of permit"),
    "an unknown history": ('history = "refer"', 'history = "arrest"', "history", "one of"),
    "years without end": ("abroad_years_max = 2", "abroad_years_max = 0", "abroad_years_max", "1 to 100"),
    "an option of a category": ("finger = true", "fingers = true", "fingers", "did you mean 'finger'"),
    "a gap in the matrix": (
        'kinmen_permit = ["kinmen_shuitou"]\n',
        "",
        "[matrix]",
        "it says nothing of kinmen_permit",
    ),
    "a row that is gone": ("[matrix.diplomat]", "[matrix.diplomats]", "[matrix]", "diplomat: has a gap"),
    "a row of nobody": (
        "[matrix.diplomat]",
        '[matrix.pilot]\npassport_tw = "nowhere"\n\n[matrix.diplomat]',
        "[matrix]",
        "pilot is no category",
    ),
    "a row that is nowhere": (
        '{ entry = "nowhere", exit = "everywhere" }',
        '"nowhere"',
        "[matrix]",
        "lets nobody pass anywhere",
    ),
    "half a cell": (
        '{ entry = "nowhere", exit = "everywhere" }',
        '{ exit = "everywhere" }',
        "[matrix]",
        "both of them",
    ),
    "a cell of another way": (
        '{ entry = "nowhere", exit = "everywhere" }',
        '{ entry = "nowhere", out = "everywhere" }',
        "[matrix]",
        "entry and exit",
    ),
    "a cell of nothing": (
        '["kinmen_shuitou"]\nresidence',
        "[]\nresidence",
        "[matrix] national.kinmen_permit",
        "must be",
    ),
    "a cell of a number": (
        '["kinmen_shuitou"]\nresidence',
        "1\nresidence",
        "[matrix] national.kinmen_permit",
        "must be",
    ),
    "a misspelt everywhere": ('passport_tw = "everywhere"', 'passport_tw = "everywere"', "[matrix]", "must be"),
    "a misspelt place": (
        'kinmen_permit = ["kinmen_shuitou"]',
        'kinmen_permit = ["kinmen_shuito"]',
        "[matrix]",
        "did you mean 'kinmen_shuitou'",
    ),
    "a row that is no table": (
        "[matrix.national]",
        "[matrix]\nnational = 1\n[matrix.nationals]",
        "[matrix] national",
        "table",
    ),
    "no matrix": ("[matrix.", "[cells.", "[matrix]", "is missing"),
    "a control that never counts": (
        'directions = ["entry"]\nurgency = "urgent"',
        "directions = []",
        "directions",
        "is empty",
    ),
    "an unknown way": (
        'directions = ["entry"]\nurgency = "urgent"',
        'directions = ["in"]',
        "directions",
        "knows entry, exit",
    ),
    "a control at no place": ('places = ["kinmen_shuitou"]', 'places = ["matsu"]', "[controls]", "matsu is no place"),
    "lifted by no permit": (
        'unless_permit = "mainland_travel"',
        'unless_permit = "leave"',
        "[controls]",
        "leave is no kind",
    ),
    "an unknown urgency": ('stolen = "urgent"', 'stolen = "very"', "[document_controls] stolen", "one of"),
    "enrolled as nobody": (
        'categories = ["foreign_visitor"]',
        'categories = ["tourist"]',
        "[origins]",
        "tourist is no category",
    ),
    "waits for ever": ("usable_after_workdays = 1", "usable_after_workdays = 400", "usable_after_workdays", "0 to 366"),
    "bound backwards": ("bound_within_days = 30", "bound_within_days = -1", "bound_within_days", "0 to 366"),
    "a calendar without end": ("through = 2027-12-31\n", "", "[calendar] through", "is missing"),
    "a day beyond the calendar": ("through = 2027-12-31", "through = 2027-10-01", "[calendar]", "is after it"),
    "a Sunday off": ("2026-01-01, 2026-02-16", "2026-01-04, 2026-02-16", "[calendar] days_off", "off anyway"),
    "a Monday worked": ("workdays = []", "workdays = [2026-01-05]", "[calendar] workdays", "worked anyway"),
    "an unknown partition": ("[freshness.people]", "[freshness.permits]", "[freshness]", "no partition"),
    "ages in disorder": ("stale_s = 86_400", "stale_s = 8", "[freshness] people", "in this order"),
    "a reason that is gone": ('tailgate = "attention"\n', "", "[reasons]", "tailgate"),
    "a reason of no rule": (
        'tailgate = "attention"',
        'tailgating = "attention"',
        "[reasons] tailgating",
        "did you mean",
    ),
    "a reason without urgency": ('tailgate = "attention"', "tailgate = 1", "[reasons] tailgate", "one of"),
    "a picture of no name": (
        "[attachments.case_picture]",
        "[attachments.case_pictures]",
        "[attachments]",
        "case_pictures is no picture",
    ),
    "a picture for ever": ("keep_days = 7", "keep_days = 4000", "[attachments] case_picture", "1 to 366"),
    "a picture for no days": ("keep_days = 7\n", "", "[attachments] case_picture.keep_days", "is missing"),
    "a picture of a release": (
        'on = ["refer"]',
        'on = ["release"]',
        "[attachments] case_picture",
        "knows grant, refer",
    ),
    "a picture of no way": (
        'on = ["grant"]\ndirections = ["entry"]',
        'on = ["grant"]\ndirections = ["in"]',
        "entry_face",
        "knows entry",
    ),
    "a picture of nobody": ('["hong_kong_macau_visitor"]', '["tourist"]', "[attachments]", "tourist is no category"),
    "an example that fails": (
        'expect = "document_fits_place"',
        'expect = "pass"',
        "[examples]",
        "says document_fits_place",
    ),
    "an example of no rule": ('expect = "document_fits_place"', 'expect = "place"', "[examples]", "expects place"),
    "an example of no category": (
        'says = "a national with a passport"\ncategory = "national"',
        'says = "x"\ncategory = "natoinal"',
        "[examples]",
        "natoinal is no category",
    ),
    "an example of no document": (
        'category = "national"\ndocument = "passport_tw"',
        'category = "national"\ndocument = "pass"',
        "[examples]",
        "no kind of the policy",
    ),
    "an example of no way": (
        'direction = "exit"\nplace = "taichung"',
        'direction = "out"\nplace = "taichung"',
        "[examples]",
        "out is no direction",
    ),
    "an example without a day": ("on = 2026-11-20\n", "", "[examples] on", "is missing"),
    "an option twice": ("edition = 4", "edition = 4\nedition = 5", "", "is not valid TOML"),
    "a bracket that is open": ("[calendar]", "[calendar", "", "is not valid TOML"),
    "text that does not end": ('version = "tw', 'version = "tw\n', "", "is not valid TOML"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_contradiction_gap_and_unknown_name_is_fatal(name: str) -> None:
    was, becomes, place, says = MUTATIONS[name]
    assert was in TEXT, "the shipped policy has changed: choose another text"
    every = name == "no matrix"
    with pytest.raises(ConfigError) as refused:
        parse_policy(TEXT.replace(was, becomes, -1 if every else 1), HERE)
    wrong, told = refused.value, str(refused.value)
    assert says in told, told
    assert place in told, told
    assert wrong.path == HERE
    if not wrong.problem.startswith("is missing"):
        assert wrong.line is not None, f"no line: {told}"
        assert told.startswith(f"tw.toml:{wrong.line}: ")


def test_the_line_is_the_one_that_was_changed() -> None:
    """Of what stands in one line of its own the error names that line."""
    for was, becomes in (
        ('stolen = "urgent"', 'stolen = "very"'),
        ("bound_within_days = 30", "bound_within_days = -1"),
        ('timezone = "Asia/Taipei"', 'timezone = "Asia/Taipeh"'),
        ('unless_permit = "mainland_travel"', 'unless_permit = "leave"'),
        ('tailgate = "attention"', 'tailgating = "attention"'),
    ):
        with pytest.raises(ConfigError) as refused:
            parse_policy(TEXT.replace(was, becomes, 1), HERE)
        line = TEXT[: TEXT.index(was)].count("\n") + 1
        table = TEXT[: TEXT.index(was)].rfind("\n[")
        assert refused.value.line in (line, TEXT[: table + 1].count("\n") + 1), str(refused.value)


def test_a_document_of_which_no_specimen_can_be() -> None:
    text = TEXT.replace('other_than = ["TWN"]', 'other_than = ["TWN", "UTO", "XXA"]')
    assert text != TEXT
    shown = text.replace('document = "passport_tw"', 'document = "passport_foreign"', 1)
    with pytest.raises(ConfigError, match=r"\[examples\]: example 1.*passport_foreign is of no issuer"):
        parse_policy(shown, HERE)


def test_a_file_that_is_not_there_or_no_text_or_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rules(tmp_path / "gone.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_rules(tmp_path / "binary.toml")
    (tmp_path / "long.toml").write_text(TEXT + "#" * POLICY_BYTES_MAX)
    with pytest.raises(ConfigError, match="longer than"):
        load_rules(tmp_path / "long.toml")


# -- anything at all ---------------------------------------------------------------------------------------------------

LINES = TEXT.splitlines(keepends=True)
TOKENS = re.findall(r'"[^"\n]*"|\d{4}-\d\d-\d\d|[\w.]+|\S', TEXT)
ODD = [
    "0",
    "-1",
    "99999999999999999999",
    "nan",
    "inf",
    "1e400",
    "true",
    '""',
    '"\\u0000"',
    "[]",
    "{}",
    "[[[]]]",
    "0001-01-01",
    "9999-12-31",
    "2026-02-29",
    "12:00:00",
    "'x'",
    '"""',
    "\\",
    "\x00",
    "é",
    "=",
    "{",
    "[",
]


def reads(text: str) -> Policy | None:
    """The policy, or nothing where the text is none. Anything else that is raised fails the test."""
    try:
        return parse_policy(text, HERE)
    except ConfigError as wrong:
        assert str(wrong).startswith("tw.toml")
        return None


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_token_that_becomes_another_is_a_policy_or_a_config_error(data: st.DataObject) -> None:
    words = list(re.finditer(r'"[^"\n]*"|\d{4}-\d\d-\d\d|[\w.]+', TEXT))
    text = TEXT
    for at in sorted(data.draw(st.sets(st.integers(0, len(words) - 1), min_size=1, max_size=3)), reverse=True):
        other = data.draw(st.sampled_from(ODD) | st.sampled_from(TOKENS))
        text = text[: words[at].start()] + other + text[words[at].end() :]
    reads(text)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_lines_that_go_or_come_twice_or_elsewhere(data: st.DataObject) -> None:
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 4))):
        at, to = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        match data.draw(st.sampled_from(["goes", "twice", "elsewhere"])):
            case "goes":
                del lines[at]
            case "twice":
                lines.insert(to, lines[at])
            case _:
                lines.insert(to, lines.pop(at))
    reads("".join(lines))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
@example("[" * 5000)
@example("matrix = " + "[" * 5000)
@example("matrix = " + "{a=" * 5000)
@example("a" + ".a" * 5000 + " = 1")
@example("edition = " + "9" * 5000)
@example("[matrix]")
@example("matrix = {}\nsizes = [1]")
def test_any_text_at_all(text: str) -> None:
    assert reads(text) is None
