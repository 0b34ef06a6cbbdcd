"""docs/metrics.md: every metric, what it means, and what uses it. `docs/build.py` writes it."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from docs import dashboards
from gated.daemon.metrics import METERS as LANE
from gated.hq.exporter import CERTIFICATE_METERS, FLEET_METERS, INGEST_METERS
from gated.metrics import Meter, Page
from gated.sync.metrics import METERS as SYNC
from gated.uplink.metrics import METERS as UPLINK

ROOT = Path(__file__).resolve().parents[1]
ALERTS = ROOT / "config/prometheus/alerts.yml"
PAGES: dict[str, tuple[tuple[Meter, ...], str]] = {
    "lane": (LANE, "the lane's process, `gated-lane.prom`"),
    "uplink": (UPLINK, "the uplink, `gated-uplink.prom`"),
    "sync": (SYNC, "the sync, `gated-sync.prom`"),
    "ingest": (INGEST_METERS, "an ingest worker at HQ, `gated-hq ingest --metrics`"),
    "hq": (FLEET_METERS, "the fleet, out of HQ's database, `gated-hq metrics`"),
    "certificates": (CERTIFICATE_METERS, "a broker's certificates, `gated-hq pki check --metrics`"),
}
ENDED = {"certificates"}
"""Those that have ended when somebody reads them."""
SERIES = {"histogram": ("_bucket", "_count", "_sum")}
_WORDS = {
    "and",
    "or",
    "unless",
    "by",
    "on",
    "without",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "offset",
    "inf",
}


def own(process: str) -> dict[str, tuple[str, str]]:
    """What the library adds of each process: (kind, meaning) by name."""
    families = Page(process, lambda: (), lasting=process not in ENDED).collect()
    known = {meter.name for meter in PAGES[process][0]}
    return {s.name: (f.type, f.documentation) for f in families for s in f.samples if s.name not in known}


def known() -> dict[str, frozenset[str]]:
    """Every series that there is, with its own labels."""
    made: dict[str, frozenset[str]] = {}
    for process, (meters, _) in PAGES.items():
        where = frozenset({"site", "lane"} if process in ("lane", "uplink", "sync") else ())
        for meter in meters:
            labels = frozenset(label.name for label in meter.labels) | where
            made |= {meter.name + tail: labels | {"le"} for tail in SERIES.get(meter.kind, ())} or {meter.name: labels}
        made |= dict.fromkeys(own(process), where)
    return made


def names(expr: str) -> set[str]:
    """The metrics that a PromQL expression names."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    return {
        found[1]
        for found in re.finditer(r"\b([a-zA-Z_][a-zA-Z0-9_:]*)\b(?!\s*\()", bare)
        if found[1] not in _WORDS and not re.match(r"^\d", found[1])
    }


def alerts() -> list[dict[str, Any]]:
    """The alert rules, in their order."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def page() -> str:
    """The whole page."""
    users = defaultdict(list)
    for rule in alerts():
        for name in names(rule["expr"]):
            users[re.sub(r"_(bucket|count|sum)$", "", name)].append(rule["alert"])
    lines = [_HEAD]
    for process, (meters, where) in PAGES.items():
        lines += [f"## Of {where}", "", "| metric | type | meaning | labels | alerts |", "|---|---|---|---|---|"]
        lines += [_row(meter, users[meter.name]) for meter in meters]
        lines += [
            f"| `{name}` | {kind} | {about.rstrip('.')} | | {_named(users[name])} |"
            for name, (kind, about) in own(process).items()
        ]
        lines.append("")
    lines += ["## Alerts", "", "| alert | severity | after | when | what to do |", "|---|---|---|---|---|"]
    for rule in alerts():
        said = {name: text.replace("|", "\\|") for name, text in rule["annotations"].items()}
        summary = re.sub(r"\{\{ ?\$labels\.(\w+) ?\}\}", r"*\1*", said["summary"])
        summary = re.sub(r"\{\{ ?\$value[^}]*\}\}", "*value*", summary)
        cells = (rule["alert"], rule["labels"]["severity"], rule.get("for", "at once"), summary, said["action"])
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Dashboards", "", "| file | for | panels |", "|---|---|---|"]
    lines += list(_boards())
    return "\n".join(lines) + "\n"


def _row(meter: Meter, users: list[str]) -> str:
    labels = "; ".join(
        f"`{label.name}`: {', '.join(label.values) if label.values else label.bound}" for label in meter.labels
    )
    return f"| `{meter.name}` | {meter.kind} | {meter.about} | {labels} | {_named(users)} |"


def _named(users: list[str]) -> str:
    return ", ".join(sorted(set(users)))


def _boards() -> Iterator[str]:
    for make in (dashboards.fleet, dashboards.lane, dashboards.ingest):
        built = make().build()
        titles = ", ".join(str(panel.title) for panel in built.panels or ())
        yield f"| `config/grafana/{built.uid}.json` | {built.description} | {titles} |"


_HEAD = """\
# Metrics, alerts, dashboards

Made by `make docs` from the meters of the programs, `config/prometheus/alerts.yml` and `docs/dashboards.py`: do not
edit.

A lane's processes listen on no network. Where lane.toml has a `[metrics]`, each writes a text file every 15 s into a
folder in memory, whole or not at all, and node_exporter (`--collector.textfile.directory=/run/gated-metrics`) shows
them to Prometheus. Every sample of them has the labels `site` and `lane`. A process that ends takes its file away;
one that is killed or hangs leaves it, so everything in it is as old as `..._written_timestamp_seconds` says, and
`LaneFrozen` comes.

At HQ, `gated-hq metrics` reads the fleet out of HQ's database, so that also those lanes are watched whose machine no
Prometheus reaches, and `gated-hq ingest --metrics HOST:PORT` answers for itself. Both have neither password nor TLS:
they listen on 127.0.0.1 unless told otherwise; elsewhere put a proxy with both before them.

**What is not in it.** No person, document, ticket or order; no reason of a verdict, since a control must not show
(L8): a referral is counted as one, whatever it is for, when the officer is called. No category of traveller, no
nationality, no score. A label's values are a closed set, or have the bound that stands in the table; what is in none
of them is counted as `other`. So a number here can be shown on a wall.

**Cost** (one core of a shared machine, SQLite on disk; `pytest -m bench tests/test_metrics.py`): to make and write a
lane's file takes 1 ms (median; 15 ms at worst, beside other work); one scrape of 5,000 lanes, 15,000 streams and 900
findings, held and refused records takes 1.0 to 1.5 s and is 2.7 MB long.

**Checked.** Alert rules: `promtool check rules`, and `promtool test rules` with a case for each that it comes and
does not come before (`tests/prometheus/alerts.test.yml`). Dashboards: every key and value against the classes of
Grafana's own Foundation SDK (10.1), which are generated from Grafana's schema; every expression parsed by promtool,
and its metrics and labels looked up in the tables below. Once, by hand, also against the TypeScript types of
`@grafana/schema` 10.1.0 and 10.4.19 (`tsc --strict`): panels, options and queries fit the first; what differs is that
its type of a variable lacks `includeAll` and `allValue`, and that the second demands two options of `stat` that came
after 10.1. **The dashboards were not opened in Grafana itself**: none was at hand. What a panel looks like nobody has
seen.

Installing: `config/prometheus/prometheus.yml` is an example; import `config/grafana/*.json` (Dashboards, Import) or
lay them where Grafana provisions from. Alertmanager is the operator's own.
"""
