"""Makes dashboards/appview.json, the dashboard that Grafana shows: `python docker/grafana/make_dashboard.py`.

A row for each topic of docs/metrics.md. A test compares the file with what this makes, and each query with the metrics
that there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FILE = Path(__file__).with_name("dashboards") / "appview.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
"""Columns of Grafana's grid."""
OF = 'instance=~"$instance"'
"""Chooses one process `serve`: they all know the same."""

Kind = Literal["timeseries", "stat", "table", "state-timeline"]


@dataclass(frozen=True)
class Query:
    """PromQL, and what its series are called: text with `{{label}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel. `unit`: an id of Grafana's units. `steps`: thresholds as (value, colour), the first without a value."""

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    description: str = ""
    stacked: bool = False
    steps: Sequence[tuple[float | None, str]] = ((None, "green"),)
    names: Sequence[tuple[str, str, str]] = ()
    """Words for values, each with a colour."""


def _rate(metric: str, by: str = "", more: str = "") -> str:
    """A counter's growth a second, added up (by labels)."""
    rate = f"rate({metric}{{{OF}{more}}}[$__rate_interval])"
    return f"sum by ({by}) ({rate})" if by else f"sum({rate})"


def _now(metric: str, more: str = "") -> str:
    return f"{metric}{{{OF}{more}}}"


def _share(quantile: float, histogram: str) -> str:
    return (
        f"histogram_quantile({quantile}, sum by (le, relay, shard) "
        f"(rate({histogram}_bucket{{{OF}}}[$__rate_interval])))"
    )


def _times(histogram: str) -> list[Query]:
    mean = f"{_rate(histogram + '_sum', 'relay, shard')} / {_rate(histogram + '_count', 'relay, shard')}"
    return [
        Query(_share(0.5, histogram), "half {{relay}} {{shard}}"),
        Query(_share(0.95, histogram), "95 % {{relay}} {{shard}}"),
        Query(mean, "mean {{relay}} {{shard}}"),
    ]


_STREAM = "{{relay}} {{shard}}"
_YES_NO = (("0", "no", "red"), ("1", "yes", "green"))
_PASSES = (("0", "does not pass", "red"), ("1", "passes", "green"))

OVERVIEW = [
    Panel("Database read", [Query(_now("appview_up"))], kind="stat", width=4, height=4, names=_YES_NO),
    Panel(
        "Consumer at work",
        [Query(f"min({_now('appview_stream_consumer_running')})")],
        kind="stat",
        width=4,
        height=4,
        names=_YES_NO,
    ),
    Panel(
        "Lag",
        [Query(f"max({_now('appview_stream_lag_seconds')})")],
        unit="s",
        kind="stat",
        width=4,
        height=4,
        steps=((None, "green"), (60, "orange"), (600, "red")),
    ),
    Panel("Events", [Query(_rate("appview_stream_events_total"))], unit="eps", kind="stat", width=4, height=4),
    Panel(
        "Checks that do not pass",
        [Query(f"count({_now('appview_check_passed')} == 0) or vector(0)")],
        kind="stat",
        width=4,
        height=4,
        steps=((None, "green"), (1, "orange")),
    ),
    Panel(
        "Volume is full in",
        [Query(_now("appview_database_full_in_seconds"))],
        unit="s",
        kind="stat",
        width=4,
        height=4,
        steps=((None, "red"), (172_800, "orange"), (1_209_600, "green")),
        description="If the tables go on growing as they did. Nothing is shown while it is not known.",
    ),
    Panel("Events", [Query(_rate("appview_stream_events_total", "relay, shard"), _STREAM)], unit="eps", width=12),
    Panel(
        "Lag",
        [Query(_now("appview_stream_lag_seconds"), _STREAM)],
        unit="s",
        width=12,
        description="How late the newest event was applied, by the relay's clock.",
    ),
    Panel(
        "Checks",
        [Query(f"min by (check, asset) ({_now('appview_check_passed')})", "{{asset}}: {{check}}")],
        kind="state-timeline",
        width=24,
        height=12,
        names=_PASSES,
        description="docs/operations.md says what to do, under the check's name.",
    ),
]

STREAMS = [
    Panel(
        "Since the last batch",
        [Query(f"time() - {_now('appview_stream_last_batch_timestamp_seconds')}", _STREAM)],
        unit="s",
    ),
    Panel("Batches", [Query(_rate("appview_stream_batches_total", "relay, shard"), _STREAM)], unit="ops"),
    Panel("Received", [Query(_rate("appview_stream_received_bytes_total", "relay, shard"), _STREAM)], unit="Bps"),
    Panel(
        "Time in the database, a batch",
        _times("appview_stream_apply_seconds"),
        unit="s",
        width=12,
        description="Grows with the size of batches, so while catching up.",
    ),
    Panel("Decoding and checking, a batch", _times("appview_stream_decode_seconds"), unit="s", width=12),
    Panel(
        "Sequence numbers",
        [Query(f"rate({_now('appview_stream_sequence_number')}[$__rate_interval])", _STREAM)],
        unit="ops",
        description="How fast the cursor moves.",
    ),
    Panel(
        "Frames without an effect",
        [
            Query(_rate("appview_stream_stale_events_total"), "stale"),
            Query(_rate("appview_stream_withheld_events_total"), "withheld"),
        ],
        unit="eps",
    ),
    Panel(
        "Sequence numbers that are odd",
        [
            Query(_rate("appview_stream_skipped_numbers_total"), "skipped"),
            Query(_rate("appview_stream_doubtful_numbers_total"), "doubtful"),
        ],
        unit="ops",
    ),
    Panel("Frames", [Query(_rate("appview_stream_frames_total", "relay, shard"), _STREAM)], unit="ops"),
]

INDEXING = [
    Panel(
        "Operations of streams, by collection",
        [Query(_rate("appview_operations_total", "collection", ', origin="stream"'), "{{collection}}")],
        unit="ops",
        width=12,
        height=10,
        stacked=True,
    ),
    Panel(
        "Operations, by origin and action",
        [Query(_rate("appview_operations_total", "origin, action"), "{{origin}} {{action}}")],
        unit="ops",
        width=12,
        height=10,
        stacked=True,
    ),
    Panel(
        "Dead letters",
        [Query(_rate("appview_rejected_total", "origin, kind"), "{{origin}} {{kind}}")],
        unit="ops",
        description="What upstream sent and could not be indexed.",
    ),
    Panel("Dead letters of the last hour", [Query(_now("appview_dead_letters_last_hour"), "{{kind}}")]),
    Panel(
        "Operations of collections that are not kept",
        [Query(_rate("appview_ignored_operations_total", "origin"), "{{origin}}")],
        unit="ops",
    ),
    Panel(
        "Rows written, by table",
        [Query(_rate("appview_rows_written_total", "table"), "{{table}}")],
        unit="wps",
        width=24,
        stacked=True,
    ),
]

COMPLETENESS = [
    Panel("Open gaps", [Query(_now("appview_gaps_open"), "{{kind}}")], stacked=True),
    Panel("The oldest open gap", [Query(_now("appview_gaps_oldest_seconds"), "{{kind}}")], unit="s"),
    Panel(
        "Repositories",
        [
            Query(_now("appview_repositories"), "{{state}}"),
            Query(_now("appview_repositories_incomplete"), "not complete"),
        ],
    ),
    Panel(
        "Repositories that wait to be fetched",
        [
            Query(_now("appview_fetch_queue_repositories"), "{{reason}}"),
            Query(_now("appview_fetch_queue_fetching_repositories"), "being fetched"),
            Query(_now("appview_fetch_queue_parked_repositories"), "given up for now"),
        ],
    ),
    Panel("The first of them waits", [Query(_now("appview_fetch_queue_oldest_seconds"), "urgent")], unit="s"),
    Panel(
        "Repositories fetched",
        [
            Query(_rate("appview_backfill_repositories_total"), "fetched"),
            Query(_rate("appview_backfill_parked_total"), "given up for now"),
            Query(_rate("appview_fetch_queued_repositories_total"), "queued for missing records"),
        ],
        unit="ops",
    ),
    Panel(
        "Records of repositories",
        [
            Query(_rate("appview_backfill_records_total"), "read"),
            Query(_rate("appview_backfill_record_changes_total", "change"), "{{change}}"),
        ],
        unit="ops",
    ),
    Panel("Bytes of repositories", [Query(_rate("appview_backfill_received_bytes_total"), "received")], unit="Bps"),
    Panel("Failures to fetch", [Query(_rate("appview_backfill_failures_total", "kind"), "{{kind}}")], unit="ops"),
    Panel(
        "Hosts",
        [Query(_now("appview_hosts"), "known"), Query(_now("appview_hosts_paused"), "left alone")],
    ),
    Panel(
        "Accounts on hosts that are left alone",
        [Query(_now("appview_hosts_paused_accounts_ratio"), "share")],
        unit="percentunit",
    ),
    Panel(
        "Missing records",
        [
            Query(_now("appview_pending_rows"), "records that wait for them"),
            Query(_now("appview_pending_due"), "may be fetched now"),
        ],
    ),
    Panel("The first missing record waits", [Query(_now("appview_pending_oldest_seconds"), "waits")], unit="s"),
    Panel(
        "Missing records fetched",
        [Query(_rate("appview_fetched_records_total", "outcome"), "{{outcome}}")],
        unit="ops",
        stacked=True,
    ),
    Panel(
        "Signatures checked later",
        [Query(_rate("appview_signatures_checked_total", "outcome"), "{{outcome}}")],
        unit="ops",
    ),
]

IDENTITY = [
    Panel("Accounts that wait", [Query(_now("appview_identity_queue_accounts"), "{{queue}}")]),
    Panel("The first of them waits", [Query(_now("appview_identity_queue_oldest_seconds"), "{{queue}}")], unit="s"),
    Panel(
        "Resolutions",
        [
            Query(_rate("appview_identity_resolutions_total", "outcome"), "{{outcome}}"),
            Query(_rate("appview_identity_statuses_total"), "hosting statuses"),
        ],
        unit="ops",
    ),
    Panel("Handles", [Query(_rate("appview_identity_handles_total", "outcome"), "{{outcome}}")], unit="ops"),
    Panel(
        "Accounts of streams that had to be resolved",
        [
            Query(
                f"{_rate('appview_stream_unresolved_accounts_total', 'relay, shard')} / "
                f"{_rate('appview_stream_accounts_total', 'relay, shard')}",
                _STREAM,
            )
        ],
        unit="percentunit",
    ),
    Panel("Servers left alone", [Query(_now("appview_identity_upstreams_paused"), "{{reason}}")]),
]

LABELS = [
    Panel("Label process at work", [Query(_now("appview_label_process_running"))], kind="stat", names=_YES_NO),
    Panel("Labelers", [Query(_now("appview_labelers"), "{{state}}")], stacked=True),
    Panel("Lag", [Query(_now("appview_labeler_lag_seconds"), "{{labeler}}")], unit="s"),
    Panel("Labels in effect", [Query(f"topk(10, {_now('appview_labeler_labels_in_effect')})", "{{labeler}}")]),
    Panel(
        "Labels",
        [
            Query(_rate("appview_labeler_frames_total"), "frames"),
            Query(_rate("appview_labeler_labels_total"), "labels"),
            Query(_rate("appview_labeler_changes_total"), "took effect"),
        ],
        unit="ops",
    ),
    Panel(
        "Labels rejected",
        [Query(_rate("appview_labeler_rejected_total", "labeler, kind"), "{{labeler}} {{kind}}")],
        unit="ops",
    ),
]

STORAGE = [
    Panel(
        "Database and its volume",
        [
            Query(_now("appview_database_size_bytes"), "database"),
            Query(_now("appview_database_volume_bytes"), "volume"),
            Query(_now("appview_database_volume_free_bytes"), "free"),
        ],
        unit="bytes",
    ),
    Panel(
        "Growth a day",
        [Query(f"{_now('appview_database_growth_bytes_per_second')} * 86400", "tables")],
        unit="bytes",
    ),
    Panel("The volume is full in", [Query(_now("appview_database_full_in_seconds"), "full in")], unit="s"),
    Panel(
        "The largest tables",
        [Query(f"topk(10, {_now('appview_table_size_bytes')})", "{{table}}")],
        unit="bytes",
        stacked=True,
    ),
    Panel("Rows of the largest tables", [Query(f"topk(10, {_now('appview_table_rows')})", "{{table}}")]),
    Panel("Dead rows", [Query(f"topk(10, {_now('appview_table_dead_rows')})", "{{table}}")]),
    Panel(
        "Connections",
        [
            Query(_now("appview_database_connections"), "open"),
            Query(_now("appview_database_max_connections"), "limit"),
        ],
    ),
    Panel(
        "The oldest transaction",
        [Query(_now("appview_database_oldest_transaction_seconds"), "open for")],
        unit="s",
    ),
    Panel("Age of transaction ids", [Query(_now("appview_database_transaction_id_age"), "transactions")]),
    Panel(
        "PostgreSQL runs for",
        [Query(f"time() - {_now('appview_database_start_timestamp_seconds')}")],
        unit="s",
        kind="stat",
        width=12,
        height=4,
    ),
    Panel("PostgreSQL", [Query(_now("appview_database_info"), "{{version}}")], kind="table", width=12, height=4),
]

ITSELF = [
    Panel("Readings of the database", [Query(_now("appview_read_duration_seconds"), "took")], unit="s"),
    Panel(
        "Readings",
        [
            Query(_rate("appview_reads_total"), "readings"),
            Query(_rate("appview_read_failures_total"), "failed"),
        ],
        unit="ops",
    ),
    Panel("Memory", [Query(_now("process_resident_memory_bytes"), "resident")], unit="bytes"),
    Panel("CPU", [Query(_rate("process_cpu_seconds_total"), "share of a core")], unit="percentunit"),
    Panel("Open files", [Query(_now("process_open_fds"), "open")]),
    Panel("Versions", [Query(_now("appview_build_info"), "{{version}}, schema {{schema}}")], kind="table"),
]

ROWS = {
    "Overview": OVERVIEW,
    "Streams": STREAMS,
    "Indexing": INDEXING,
    "Completeness": COMPLETENESS,
    "Identity": IDENTITY,
    "Labels": LABELS,
    "Storage": STORAGE,
    "appview-pipeline serve": ITSELF,
}


def dashboard() -> dict[str, Any]:
    """The dashboard, in the form of Grafana 10 to 12."""
    return {
        "uid": "appview-pipeline",
        "title": "appview-pipeline",
        "description": "How the index of the AT Protocol network is (docs/metrics.md).",
        "tags": ["appview-pipeline"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "version": 1,
        "time": {"from": "now-6h", "to": "now"},
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_datasource(), _instance()]},
        "panels": list(_panels()),
    }


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
        "current": {},
    }


def _instance() -> dict[str, Any]:
    query = "label_values(appview_up, instance)"
    return {
        "name": "instance",
        "label": "Process",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "instance"},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "current": {},
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for title, panels in ROWS.items():
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": top},
            "panels": [],
        }
        number, top, left, tallest = number + 1, top + 1, 0, 0
        for panel in panels:
            if left + panel.width > WIDTH:
                top, left, tallest = top + tallest, 0, 0
            place = {"h": panel.height, "w": panel.width, "x": left, "y": top}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            number, left, tallest = number + 1, left + panel.width, max(tallest, panel.height)
        top += tallest


def _panel(panel: Panel) -> dict[str, Any]:
    is_table = panel.kind == "table"
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "mappings": [_mapping(panel)] if panel.names else [],
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": [{"value": at, "color": colour} for at, colour in panel.steps]},
    }
    if panel.kind == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 5,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    found: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": DATASOURCE,
                "editorMode": "code",
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": is_table,
                "range": not is_table,
                "format": "table" if is_table else "time_series",
            }
            for position, query in enumerate(panel.queries)
        ],
    }
    if panel.description:
        found["description"] = panel.description
    return found


def _mapping(panel: Panel) -> dict[str, Any]:
    options = {
        value: {"text": text, "color": colour, "index": position}
        for position, (value, text, colour) in enumerate(panel.names)
    }
    return {"type": "value", "options": options}


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "background",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "value",
        }
    if panel.kind == "state-timeline":
        return {
            "mergeValues": True,
            "showValue": "never",
            "rowHeight": 0.8,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
            "tooltip": {"mode": "single", "sort": "none"},
        }
    return {"showHeader": True, "cellHeight": "sm"}


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


def queries() -> Iterator[tuple[str, str]]:
    """The title of each panel with each of its queries, over a minute and of all processes."""
    for title, panels in ROWS.items():
        for panel in panels:
            for query in panel.queries:
                expr = query.expr.replace("$__rate_interval", "1m").replace("$instance", ".*")
                yield f"{title}: {panel.title}", expr


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE} has {len(dashboard()['panels'])} panels.")
