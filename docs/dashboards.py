"""Grafana's dashboards as code: `make docs` writes config/grafana/*.json from here. Not packaged: who runs a Grafana
needs the JSON alone, and config/ holds no programs."""

import json
from collections.abc import Iterable

from grafana_foundation_sdk.builders import common as shapes
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphGradientMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
SITES = 'site=~"$site"'
ONE = 'site="$site", lane="$lane"'
SILENT_S = 120
"""As in alerts.yml."""

Query = tuple[str, str]
"""PromQL, and what its line is called."""


def _targets(queries: Iterable[Query], *, instant: bool = False) -> list[Builder[Dataquery]]:
    made: list[Builder[Dataquery]] = []
    for letter, (expr, legend) in zip("ABCDEFGH", queries, strict=False):
        query = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(letter)
        made.append(query.instant() if instant else query.range())
    return made


def number(
    title: str,
    expr: str,
    about: str,
    *,
    unit: str = "short",
    warn: float | None = None,
    bad: float | None = None,
    low_is_bad: bool = False,
) -> stat.Panel:
    """One number now. `warn`, `bad`: from which value on it is yellow, red."""
    first = "red" if low_is_bad else "green"
    steps = [Threshold(None, first)]
    if warn is not None:
        steps.append(Threshold(warn, "yellow"))
    if bad is not None:
        steps.append(Threshold(bad, "green" if low_is_bad else "red"))
    return (
        stat.Panel()
        .title(title).description(about).datasource(SOURCE).unit(unit).span(3).height(4)
        .targets(_targets([(expr, title)], instant=True))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .reduce_options(shapes.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .color_mode(BigValueColorMode.BACKGROUND).graph_mode(BigValueGraphMode.NONE)
    )  # fmt: skip


def lines(title: str, about: str, *queries: Query, unit: str = "short", span: int = 12) -> timeseries.Panel:
    """Values over time."""
    return (
        timeseries.Panel()
        .title(title).description(about).datasource(SOURCE).unit(unit).span(span).height(8).min(0)
        .targets(_targets(queries))
        .line_width(1).fill_opacity(10).gradient_mode(GraphGradientMode.NONE).show_points(VisibilityMode.NEVER)
        .legend(shapes.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
                .show_legend(True))
        .tooltip(shapes.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )  # fmt: skip


def rows(title: str, about: str, *queries: Query, units: dict[str, str] | None = None) -> table.Panel:
    """One row for each set of labels, one column for each query."""
    panel = table.Panel().title(title).description(about).datasource(SOURCE).span(24).height(9).show_header(True)
    made: list[Builder[Dataquery]] = [
        prometheus.Dataquery().expr(expr).ref_id(letter).instant().format(PromQueryFormat.TABLE)
        for letter, (expr, _) in zip("ABCDEFGH", queries, strict=False)
    ]
    names = {f"Value #{letter}": name for letter, (_, name) in zip("ABCDEFGH", queries, strict=False)}
    names["Value"] = queries[0][1]
    hide = {"Time": True, "__name__": True, "job": True, "instance": True}
    panel = panel.targets(made).with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(
        DataTransformerConfig(id_val="organize", options={"excludeByName": hide, "renameByName": names})
    )
    for name, unit in (units or {}).items():
        panel = panel.override_by_name(name, [DynamicConfigValue("unit", unit)])
    return panel


def states(title: str, about: str, expr: str, legend: str) -> statetimeline.Panel:
    """What was the case when: one line a series, coloured where it is 1."""
    steps = [Threshold(None, "transparent"), Threshold(1, "blue")]
    return (
        statetimeline.Panel()
        .title(title).description(about).datasource(SOURCE).span(24).height(8)
        .targets(_targets([(expr, legend)]))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .show_value(VisibilityMode.NEVER).merge_values(True).row_height(0.9)
    )  # fmt: skip


def board(uid: str, title: str, about: str) -> dashboard.Dashboard:
    """An empty one, with a choice of the Prometheus."""
    return (
        dashboard.Dashboard(title)
        .uid(uid).description(about).tags(["gated"]).timezone("browser").refresh("30s").time("now-6h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR).readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )  # fmt: skip


def choice(name: str, label: str, query: str, *, many: bool) -> dashboard.QueryVariable:
    """A variable whose values Prometheus knows."""
    variable = (
        dashboard.QueryVariable(name).label(label).query(query).datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC).multi(many)
    )  # fmt: skip
    return variable.include_all(True).all_value(".+") if many else variable


def fleet() -> dashboard.Dashboard:
    """The control room: how are all lanes?"""
    silent = (
        f"gated_hq_lane_up{{{SITES}}} == 0 or time() - gated_hq_lane_seen_timestamp_seconds{{{SITES}}} > {SILENT_S}"
    )
    made = board("gated-fleet", "gated: fleet", "All lanes, as HQ's database and their own processes tell.")
    made.with_variable(choice("site", "Site", "label_values(gated_hq_lane_up, site)", many=True))
    for panel in (
        number("Lanes", f"count(gated_hq_lane_up{{{SITES}}})", "Lanes that HQ ever heard of."),
        number("Heard", f"count(time() - gated_hq_lane_seen_timestamp_seconds{{{SITES}}} <= {SILENT_S}) or vector(0)",
               "Lanes that HQ heard in the last two minutes.", bad=1, low_is_bad=True),
        number("Silent", f"count({silent}) or vector(0)", "Lanes that HQ does not hear.", warn=1, bad=5),
        number("Closed", 'count(max by (site, lane) (gated_lane_state{' + SITES +
               ', state=~"closed|stopped|after_fire|emergency"}) == 1) or vector(0)', "Lanes where nobody passes.",
               warn=1, bad=5),
        number("Waiting", f"sum(gated_hq_lane_waiting_records{{{SITES}}})", "Records that lanes have and HQ has not.",
               warn=1000, bad=100000),
        number("Oldest", f"max(gated_hq_lane_oldest_record_seconds{{{SITES}}})", "Age of the oldest of them.", unit="s",
               warn=60, bad=600),
        number("Tampering, 24 h", "count(time() - gated_hq_lane_finding_timestamp_seconds{" + SITES +
               "} < 86400) or vector(0)", "Signs that somebody was at a lane's records.", bad=1),
        number("Behind", f"count(gated_hq_lane_behind_parts{{{SITES}}} > 0) or vector(0)",
               "Lanes that have not the versions that HQ desires.", warn=1, bad=50),
    ):  # fmt: skip
        made.with_panel(panel)
    made.with_panel(
        rows("Alerts", "What alerts.yml says now.", ('ALERTS{alertstate="firing", alertname!="Watchdog"}', "firing"))
    )
    made.with_panel(
        rows(
            "Lanes to look at",
            "The twenty with the oldest record that waits, and how many wait there.",
            (f"topk(20, gated_hq_lane_oldest_record_seconds{{{SITES}}} > 15)", "oldest"),
            (f"gated_hq_lane_waiting_records{{{SITES}}} > 0", "waiting"),
            (f"time() - gated_hq_lane_seen_timestamp_seconds{{{SITES}}} > {SILENT_S}", "silent for"),
            units={"oldest": "s", "silent for": "s"},
        )
    )
    for drawn in (
        lines("Passengers", "How tickets ended, a minute.",
              (f"60 * sum by (outcome) (rate(gated_lane_tickets_total{{{SITES}}}[$__rate_interval]))", "{{outcome}}")),
        lines("Verdicts", "What was decided, a minute.",
              (f"60 * sum by (decision) (rate(gated_lane_verdicts_total{{{SITES}}}[$__rate_interval]))",
               "{{decision}}")),
        lines("Alarms", "By code, in an hour.",
              (f"sum by (code) (increase(gated_lane_alarms_total{{{SITES}}}[1h])) > 0", "{{code}}")),
        lines("Records", "Taken in by HQ, a second, by class.",
              ("sum by (class) (rate(gated_hq_records_total[$__rate_interval]))", "{{class}}"), unit="ops"),
        lines("Way to HQ", "From a record's time until HQ had it; also of what waited at a lane.",
              ("histogram_quantile(0.5, sum by (class, le) (rate(gated_hq_receipt_lag_seconds_bucket[10m])))",
               "{{class}} half"),
              ("histogram_quantile(0.99, sum by (class, le) (rate(gated_hq_receipt_lag_seconds_bucket[10m])))",
               "{{class}} 99 %"), unit="s"),
        lines("Waiting", "Records that lanes have and HQ has not, by site.",
              (f"sum by (site) (gated_hq_lane_waiting_records{{{SITES}}})", "{{site}}")),
        lines("Age of what lanes know", "The oldest data of each kind that any lane works with.",
              ("max by (partition) (time() - gated_lane_cache_confirmed_timestamp_seconds{" + SITES + "})",
               "{{partition}}"), unit="s"),
        lines("Devices lost", "By kind.",
              (f"count by (device) (gated_lane_device_up{{{SITES}}} == 0)", "{{device}}")),
    ):  # fmt: skip
        made.with_panel(drawn)
    return made


def lane() -> dashboard.Dashboard:
    """One lane."""
    made = board("gated-lane", "gated: one lane", "What one lane's processes and HQ say of it.")
    made.with_variable(choice("site", "Site", "label_values(gated_hq_lane_up, site)", many=False))
    made.with_variable(choice("lane", "Lane", 'label_values(gated_hq_lane_up{site="$site"}, lane)', many=False))
    ages = (
        ("lane", "gated_lane_written_timestamp_seconds"),
        ("uplink", "gated_uplink_written_timestamp_seconds"),
        ("sync", "gated_sync_written_timestamp_seconds"),
    )
    for panel in (
        number("Heard", f"time() - gated_hq_lane_seen_timestamp_seconds{{{ONE}}}", "By HQ, how long ago.", unit="s",
               warn=60, bad=SILENT_S),
        number("Its file", f"time() - gated_lane_written_timestamp_seconds{{{ONE}}}",
               "How old everything is that the lane's process says here.", unit="s", warn=60, bad=120),
        number("HQ", f"gated_uplink_hq_up{{{ONE}}}", "1: HQ answers the uplink.", bad=1, low_is_bad=True),
        number("Waiting", f"gated_hq_lane_waiting_records{{{ONE}}}", "Records that HQ has not.", warn=100, bad=10000),
        number("Oldest", f"gated_hq_lane_oldest_record_seconds{{{ONE}}}", "Age of the oldest of them.", unit="s",
               warn=60, bad=600),
        number("Outbox", f"gated_uplink_outbox_bytes{{{ONE}}} / gated_uplink_outbox_bytes_max{{{ONE}}}",
               "How full; at 100 % the lane closes.", unit="percentunit", warn=0.25, bad=0.5),
        number("Policy", f"gated_lane_policy_edition{{{ONE}}}", "Edition in force."),
        number("Certificate", f"gated_uplink_certificate_expires_timestamp_seconds{{{ONE}}} - time()", "Ends in.",
               unit="s", warn=3 * 86400, bad=14 * 86400, low_is_bad=True),
    ):  # fmt: skip
        made.with_panel(panel)
    made.with_panel(
        states("State", "Where the lane was with its passenger.", f"gated_lane_state{{{ONE}}}", "{{state}}")
    )
    made.with_panel(
        states("Devices", "Blue: it works.", f"gated_lane_device_up{{{ONE}}}", "{{device}}"),
    )
    for drawn in (
        lines("Passengers", "How tickets ended, in an hour.",
              (f"increase(gated_lane_tickets_total{{{ONE}}}[1h])", "{{outcome}}")),
        lines("Verdicts", "What was decided, in an hour.",
              (f"increase(gated_lane_verdicts_total{{{ONE}}}[1h])", "{{decision}}")),
        lines("Passage", "From the document to the far side, of who crossed.",
              (f"histogram_quantile(0.5, sum by (le) (rate(gated_lane_passage_seconds_bucket{{{ONE}}}[1h])))", "half"),
              (f"histogram_quantile(0.95, sum by (le) (rate(gated_lane_passage_seconds_bucket{{{ONE}}}[1h])))",
               "95 %"), unit="s"),
        lines("Alarms", "By code, in an hour.", (f"increase(gated_lane_alarms_total{{{ONE}}}[1h]) > 0", "{{code}}")),
        lines("Records waiting", "By class: in the outbox, and not acknowledged.",
              (f"gated_lane_outbox_records{{{ONE}}}", "outbox {{class}}"),
              (f"gated_uplink_waiting_records{{{ONE}}}", "not at HQ {{class}}")),
        lines("Line", "Bytes of records a second; resent and refused records a minute.",
              (f"rate(gated_uplink_sent_bytes_total{{{ONE}}}[$__rate_interval])", "bytes"),
              (f"60 * rate(gated_uplink_resent_records_total{{{ONE}}}[$__rate_interval])", "resent"),
              (f"60 * rate(gated_uplink_refused_records_total{{{ONE}}}[$__rate_interval])", "refused")),
        lines("Age of its data", "Since HQ last said that this is all: as the lane believes, and as sync fetched.",
              (f"time() - gated_lane_cache_confirmed_timestamp_seconds{{{ONE}}}", "lane {{partition}}"),
              (f"time() - gated_sync_confirmed_timestamp_seconds{{{ONE}}}", "sync {{partition}}"), unit="s"),
        lines("Refused by sync", "What was fetched and not taken, in an hour.",
              (f"increase(gated_sync_refused_total{{{ONE}}}[1h]) > 0", "{{why}}")),
        lines("Lost", "Since the process began.", (f"gated_lane_facts_lost_total{{{ONE}}}", "facts"),
              (f"gated_lane_journal_lost_total{{{ONE}}}", "steps of the journal")),
        lines("Age of each process's file", "One that hangs no longer writes.",
              *((f"time() - {metric}{{{ONE}}}", name) for name, metric in ages), unit="s"),
        lines("Memory", "Resident.",
              *((f"gated_{name}_process_resident_memory_bytes{{{ONE}}}", name) for name, _ in ages), unit="bytes"),
        lines("Processor", "Cores.",
              *((f"rate(gated_{name}_process_cpu_seconds_total{{{ONE}}}[$__rate_interval])", name)
                for name, _ in ages)),
    ):  # fmt: skip
        made.with_panel(drawn)
    return made


def ingest() -> dashboard.Dashboard:
    """HQ's own side: broker, workers, database."""
    made = board(
        "gated-ingest", "gated: ingest and broker", "HQ's workers, what they take in, and how the broker fares."
    )
    for panel in (
        number("Workers", "sum(gated_ingest_connected)", "Ingest processes with a broker.", bad=1, low_is_bad=True),
        number("Last commit", "time() - max(gated_ingest_commit_timestamp_seconds)", "By any worker.", unit="s",
               warn=20, bad=60),
        number("Database", "gated_hq_archive_up", "1: it can be read.", bad=1, low_is_bad=True),
        number("Held", "sum(gated_hq_lane_held_records) or vector(0)", "Records that came before those they follow.",
               warn=100, bad=10000),
        number("Held longest", "max(gated_hq_lane_held_oldest_seconds) or vector(0)", "How long one waits.", unit="s",
               warn=10, bad=300),
        number("Set aside", "sum(gated_hq_lane_set_aside_records) or vector(0)", "Records that are not what they say.",
               bad=1),
        number("On a fallback", "count(gated_uplink_broker > 0) or vector(0)",
               "Lanes that reach HQ over another broker than their first.", warn=1, bad=50),
        number("No broker", "count(gated_uplink_connected == 0) or vector(0)", "Lanes whose uplink has no broker.",
               warn=1, bad=50),
    ):  # fmt: skip
        made.with_panel(panel)
    for drawn in (
        lines("Messages", "What became of them, a second, all workers.",
              ("sum by (fate) (rate(gated_ingest_messages_total[$__rate_interval]))", "{{fate}}"), unit="ops"),
        lines("By worker", "Messages a second.",
              ("sum by (instance) (rate(gated_ingest_messages_total[$__rate_interval]))", "{{instance}}"), unit="ops"),
        lines("Records", "Taken in, a second, by class.",
              ("sum by (class) (rate(gated_hq_records_total[$__rate_interval]))", "{{class}}"), unit="ops"),
        lines("In the database", "What became of events, a second, by the database's own counters.",
              ("sum by (fate) (rate(gated_hq_messages_total[$__rate_interval]))", "{{fate}}"), unit="ops"),
        lines("Way to HQ", "99 of 100 records, by class; also of what waited at a lane.",
              ("histogram_quantile(0.99, sum by (class, le) (rate(gated_hq_receipt_lag_seconds_bucket[10m])))",
               "{{class}}"), unit="s"),
        lines("Sent again", "By lanes, records a second.",
              ("sum(rate(gated_hq_lane_resent_records_total[$__rate_interval]))", "resent"), unit="ops"),
        lines("Since the last commit", "Each worker.",
              ("time() - gated_ingest_commit_timestamp_seconds", "{{instance}}"), unit="s"),
        lines("Held", "Records that wait for those before them, by site.",
              ("sum by (site) (gated_hq_lane_held_records)", "{{site}}")),
        lines("Memory", "Resident.", ("gated_ingest_process_resident_memory_bytes", "{{instance}}"),
              ("gated_hq_process_resident_memory_bytes", "gated-hq metrics"), unit="bytes"),
        lines("Processor", "Cores.",
              ("rate(gated_ingest_process_cpu_seconds_total[$__rate_interval])", "{{instance}}"),
              ("rate(gated_hq_process_cpu_seconds_total[$__rate_interval])", "gated-hq metrics")),
        lines("This page", "How long reading the database took for one scrape.",
              ("gated_hq_scrape_seconds", "seconds"), unit="s"),
    ):  # fmt: skip
        made.with_panel(drawn)
    return made


def files() -> dict[str, str]:
    """Name and text of each file in config/grafana/."""
    texts = {}
    for made in (fleet(), lane(), ingest()):
        built = made.build()
        for number_, panel in enumerate(built.panels or (), 1):
            panel.id_val = number_
        for variable in built.templating.list_val or ():  # of variables of time alone
            variable.auto = variable.auto_count = variable.auto_min = None
        texts[f"{built.uid}.json"] = json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
    return texts
