"""Alert rules and dashboards: whole, of metrics that exist, each alert tried. Grafana itself is not asked."""

import json
import re
import shutil
import subprocess
import types
import typing
from collections.abc import Iterator
from copy import deepcopy
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from docs import dashboards, metrics_page
from gated.cli import COMMANDS as LANE_COMMANDS
from gated.hq.cli import COMMANDS as HQ_COMMANDS

ROOT = Path(__file__).resolve().parents[1]
BOARDS = sorted((ROOT / "config/grafana").glob("*.json"))
ALERTS = ROOT / "config/prometheus/alerts.yml"
TRIED = ROOT / "tests/prometheus/alerts.test.yml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool (Debian: prometheus) on this machine")

FOREIGN = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "severity"}}
"""Series that Prometheus makes itself, with their labels."""
ANYWHERE = {"job", "instance"}


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def without_variables(expr: str) -> str:
    """Grafana's variables replaced, as Grafana does before it asks."""
    return expr.replace("$__rate_interval", "1m").replace("$site", "tpe").replace("$lane", "tpe-07")


def unknown(expr: str) -> list[str]:
    """Metrics and labels in an expression that no process has."""
    known = {**metrics_page.known(), **FOREIGN}
    found = [name for name in metrics_page.names(expr) if name not in known]
    for selected in re.finditer(r"(\w+)\{([^}]*)\}", expr):
        labels = known.get(selected[1], ())
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", selected[2])):
            if label not in labels and label not in ANYWHERE:
                found.append(f"{selected[1]}{{{label}}}")
    everywhere = {label for name in metrics_page.names(expr) for label in known.get(name, ())} | ANYWHERE
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expr):
        found += [f"by ({label})" for label in re.findall(r"\w+", group) if label not in everywhere]
    return found


# -- expressions


@pytest.mark.parametrize(
    ("expr", "says"),
    [
        ("gated_lane_stat == 1", ["gated_lane_stat"]),
        ('gated_lane_state{stat="idle"}', ["gated_lane_state{stat}"]),
        ("sum by (colour) (gated_lane_tickets_total)", ["by (colour)"]),
        ("rate(gated_lane_passage_seconds[5m])", ["gated_lane_passage_seconds"]),
        ('sum by (le) (rate(gated_lane_passage_seconds_bucket{site="x"}[5m])) > bool 1 or vector(0)', []),
        ('count(time() - gated_hq_lane_seen_timestamp_seconds{site=~"a|b"} > 120) unless on () up == 0', []),
        ("rate(gated_uplink_process_cpu_seconds_total[5m]) offset 1h", []),
    ],
)
def test_planted_names_are_found(expr: str, says: list[str]) -> None:
    assert unknown(expr) == says


# -- alerts


def test_every_alert_is_about_metrics_that_exist() -> None:
    found = {rule["alert"]: unknown(rule["expr"]) for rule in metrics_page.alerts()}
    assert len(found) > 30 and not [(name, bad) for name, bad in found.items() if bad]


def test_every_alert_says_how_grave_what_and_what_to_do() -> None:
    seen = set()
    for rule in metrics_page.alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
        assert len(rule["annotations"]["action"]) > 20 and rule["alert"] not in seen
        seen.add(rule["alert"])


def test_the_commands_that_alerts_name_exist() -> None:
    for rule in metrics_page.alerts():
        text = " ".join(rule["annotations"].values())
        for program, command in re.findall(r"\b(gated|gated-hq) ([a-z]+)", text):
            assert command in (HQ_COMMANDS if program == "gated-hq" else LANE_COMMANDS), f"{rule['alert']}: {command}"


def test_a_summary_names_only_labels_that_its_alert_has() -> None:
    told = {
        case["alertname"]: set(alert["exp_labels"])
        for test in yaml.safe_load(TRIED.read_text())["tests"]
        for case in test["alert_rule_test"]
        for alert in case["exp_alerts"]
    }
    for rule in metrics_page.alerts():
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert named <= told[rule["alert"]], rule["alert"]


def test_every_alert_is_tried_when_it_comes_and_when_not() -> None:
    fires: dict[str, set[bool]] = {}
    for test in yaml.safe_load(TRIED.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            fires.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert fires == {rule["alert"]: {True, False} for rule in metrics_page.alerts()}


@needs_promtool
def test_promtool_takes_rules_and_configuration() -> None:
    promtool("check", "rules", str(ALERTS))
    promtool("check", "config", str(ALERTS.with_name("prometheus.yml")))


@needs_promtool
def test_promtool_sees_each_alert_come_in_its_time(tmp_path: Path) -> None:
    """What is to be done is left out of the comparison: it is a constant."""
    rules = yaml.safe_load(ALERTS.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]["action"]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    tried = yaml.safe_load(TRIED.read_text())
    tried["rule_files"] = ["alerts.yml"]
    (tmp_path / "test.yml").write_text(yaml.safe_dump(tried))
    promtool("test", "rules", str(tmp_path / "test.yml"))


@needs_promtool
def test_promtool_can_refuse(tmp_path: Path) -> None:
    text = ALERTS.read_text()
    (tmp_path / "alerts.yml").write_text(text.replace("gated_hq_lane_up == 0 or", "gated_hq_lane_up == 0 orr", 1))
    with pytest.raises(AssertionError, match="orr"):
        promtool("check", "rules", str(tmp_path / "alerts.yml"))


# -- dashboards


def expressions(board: dict[str, Any]) -> Iterator[str]:
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield re.fullmatch(r"label_values\((.*), \w+\)", variable["query"])[1]  # type: ignore[index]  # it matches


def test_the_files_are_what_the_program_makes() -> None:
    assert {path.name: path.read_text() for path in BOARDS} == dashboards.files(), "run make docs"


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_every_panel_asks_for_metrics_that_exist(path: Path) -> None:
    board = json.loads(path.read_text())
    asked = list(expressions(board))
    assert len(asked) > 15 and not [(expr, unknown(expr)) for expr in asked if unknown(expr)]
    legends = re.findall(r"\{\{(\w+)\}\}", path.read_text())
    labels = {label for names in metrics_page.known().values() for label in names} | ANYWHERE
    assert set(legends) <= labels


@needs_promtool
@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_promtool_parses_what_panels_ask(path: Path, tmp_path: Path) -> None:
    asked = expressions(json.loads(path.read_text()))
    rules = [{"record": f"asked:{n}", "expr": without_variables(expr)} for n, expr in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yml"))


def test_a_board_is_as_a_control_room_wants_it() -> None:
    uids, titles = set(), set()
    for path in BOARDS:
        board = json.loads(path.read_text())
        assert board["uid"] == path.stem and board["panels"]
        uids.add(board["uid"])
        titles.add(board["title"])
        assert [panel["id"] for panel in board["panels"]] == list(range(1, len(board["panels"]) + 1))
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            assert panel["title"] and panel["description"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert at["x"] + at["w"] <= 24 and not cells & taken, f"{path.stem}: {panel['title']} lies on another"
            taken |= cells
    assert len(uids) == len(titles) == len(BOARDS) == 3


# -- Grafana's schema, as its Foundation SDK has it: classes generated from it, with the type of every value


register_default_plugins()  # which kinds of panel and query there are


def faults(value: Any, hint: Any, at: str) -> list[str]:
    """Where a value is not what its annotation allows."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        tried = [faults(value, each, at) for each in arguments]
        return min(tried, key=len)
    if origin is typing.Literal:
        return [] if any(value is each or value == each for each in arguments) else [f"{at}: {value!r}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{at}: {value!r} is no list"]
        return [bad for n, each in enumerate(value) for bad in faults(each, arguments[0], f"{at}[{n}]")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{at}: {value!r} is no object"]
        return [bad for name, each in value.items() for bad in faults(each, arguments[1], f"{at}.{name}")]
    if hasattr(value, "to_json") and (hint in (Any, object) or not hasattr(hint, "from_json")):
        return inside(value, at)  # options, queries: their class is known by the kind of panel
    if hasattr(hint, "from_json"):
        if isinstance(value, dict):
            made = hint.from_json(value)
            return [*other(value, made, at), *inside(made, at)]
        return inside(value, at) if isinstance(value, hint) else [f"{at}: {value!r} is no {hint.__name__}"]
    if hint in (Any, object):
        return []
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [] if isinstance(value, hint) or value in {each.value for each in hint} else [f"{at}: {value!r}"]
    if hint is float:
        hint = (int, float)
    right = isinstance(value, hint) and (not isinstance(value, bool) or hint is bool)
    return [] if right else [f"{at}: {value!r} is no {getattr(hint, '__name__', 'number')}"]


def inside(made: Any, at: str) -> list[str]:
    hints = typing.get_type_hints(type(made))
    return [bad for name, hint in hints.items() for bad in faults(getattr(made, name), hint, f"{at}.{name}")]


def other(given: Any, made: Any, at: str) -> list[str]:
    """A key that the class does not know is not there after it was read."""
    again = json.loads(json.dumps(made, cls=JSONEncoder))
    return [f"{at}: {place}" for place in sorted(lost(given, again))]


def lost(given: Any, again: Any, at: str = "") -> Iterator[str]:
    if isinstance(given, dict) and isinstance(again, dict):
        for name, value in given.items():
            if name not in again:
                yield f"{at}.{name} is unknown"
            else:
                yield from lost(value, again[name], f"{at}.{name}")
    elif isinstance(given, list) and isinstance(again, list) and len(given) == len(again):
        for n, pair in enumerate(zip(given, again, strict=True)):
            yield from lost(*pair, f"{at}[{n}]")
    elif given != again:
        yield f"{at}: {given!r} became {again!r}"


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_every_key_and_value_is_of_grafana_s_schema(path: Path) -> None:
    assert faults(json.loads(path.read_text()), Dashboard, path.stem) == []


def _of(board: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(panel for panel in board["panels"] if panel["type"] == kind)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda b: b.update(titel="x"), ".titel is unknown"),
        (lambda b: b.update(editable="no"), "'no' is no bool"),
        (lambda b: b.update(refresh=30), "30"),
        (lambda b: b["panels"][0].update(colour="red"), ".colour is unknown"),
        (lambda b: b["panels"][0]["gridPos"].update(w="3"), "'3' is no int"),
        (lambda b: b["panels"][0]["fieldConfig"]["defaults"].update(units="s"), ".units is unknown"),
        (lambda b: b["panels"][0]["fieldConfig"]["defaults"]["thresholds"].update(mode="relative"), "'relative'"),
        (lambda b: _of(b, "stat")["options"].update(colorMode="loud"), "'loud'"),
        (lambda b: _of(b, "stat")["options"].update(textSize=3), ".textSize is unknown"),
        (lambda b: _of(b, "timeseries")["options"]["legend"].update(placement="left"), "'left'"),
        (lambda b: _of(b, "timeseries")["fieldConfig"]["defaults"]["custom"].update(lineWidth="1"), "'1'"),
        (lambda b: _of(b, "timeseries")["targets"][0].update(query="up"), ".query is unknown"),
        (lambda b: _of(b, "timeseries")["targets"][0].update(expr=1), "1 is no str"),
        (lambda b: _of(b, "table")["transformations"][0].update(name="merge"), ".name is unknown"),
        (lambda b: b["templating"]["list"][0].update(kind="x"), ".kind is unknown"),
        (lambda b: b["templating"]["list"][1].update(sort="up"), "'up'"),
    ],
)
def test_planted_faults_are_found(spoil: Any, says: str) -> None:
    board = deepcopy(json.loads((ROOT / "config/grafana/gated-fleet.json").read_text()))
    assert faults(board, Dashboard, "board") == []
    spoil(board)
    try:
        found = faults(board, Dashboard, "board")
    except (TypeError, ValueError, KeyError, AttributeError) as refused:  # the class itself does not take it
        found = [str(refused)]
    assert any(says in each for each in found), found
