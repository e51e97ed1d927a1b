"""Every metric: documented, exposed, named after Prometheus' conventions, and made of a total that there is."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from appview_pipeline.operations.metrics.exposition import TOPICS, render, table
from appview_pipeline.operations.reading import Counts, Reading
from appview_pipeline.store.sql import sections
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.full_reading import RELAY, full_reading

FAMILIES = [family for families in TOPICS.values() for family in families]
ALWAYS = {"appview_up", "appview_build_info", "appview_read_duration_seconds"} | {
    "appview_reads_total",
    "appview_read_failures_total",
}
"""Metrics that are there while the database is away."""
UNITS = ("_seconds", "_bytes", "_ratio", "_info", "_bytes_per_second")
COUNTS = (
    *("_up", "_passed", "_running", "_number", "_age", "_rows", "_hour", "_accounts", "_repositories", "_labelers"),
    *("_open", "_incomplete", "_hosts", "_paused", "_due", "_effect", "_connections"),
)
"""What gauges without a unit count."""


def exposed(reading: Reading) -> str:
    text, _ = render(reading, Counts(readings=1, failures=0))
    return text.decode()


def test_the_documentation_lists_what_there_is() -> None:
    page = (CHECKOUT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page.endswith("\n\n" + table().rstrip("\n") + "\n"), "write exposition.table() to the end of docs/metrics.md"


def test_all_that_is_documented_is_exposed_as_it_is_documented() -> None:
    found = {}
    for metric in text_string_to_metric_families(exposed(full_reading())):
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
        found[name] = (metric.type, labels, metric.documentation)
    ours = {name: it for name, it in found.items() if name.startswith("appview_")}
    assert ours == {family.name: (family.kind, set(family.labels), family.meaning) for family in FAMILIES}
    assert {"process_cpu_seconds_total", "python_info"} <= found.keys()


def test_names_follow_the_conventions() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert re.fullmatch(r"appview(_[a-z]+)+", family.name)
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert all(re.fullmatch(r"[a-z]+", label) for label in family.labels)
        assert family.meaning[0].isupper() or family.meaning[0].isdigit()
        assert family.meaning.endswith(".")
        if family.kind == "gauge":
            assert family.name.endswith((*UNITS, *COUNTS, "repositories")), family.name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
def test_prometheus_has_nothing_to_say_against_them() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposed(full_reading()),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_openmetrics_can_be_read() -> None:
    text, content_type = render(full_reading(), Counts(), "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    found = {metric.name: metric for metric in openmetrics(text.decode())}  # type: ignore[no-untyped-call]
    assert found["appview_stream_events"].samples[0].value == 5
    edges = [it.labels["le"] for it in found["appview_stream_apply_seconds"].samples if "le" in it.labels]
    assert edges[0] == "0.01" and edges[-1] == "+Inf"


def test_every_total_is_a_metric_and_every_metric_has_its_total() -> None:
    """The names in the SQL are those that the metrics ask for."""
    sql = "".join(sections("report/totals.sql")[name] for name in ("batch", "identity", "fetch", "backfill"))
    made = set(re.findall(r"'((?:stream|identity|fetch|backfill)_[a-z_]+)'", sql))
    made |= {name for name in ("operations", "ignored_operations", "rejected", "rows_written") if f"'{name}'" in sql}
    made = {name for name in made if name not in ("stream_apply", "stream_decode")}
    made |= {f"stream_{word}_{kind}" for word in ("apply", "decode") for kind in ("seconds", "bucket")}
    reading = full_reading()
    assert made == set(reading.totals or {})
    for name in made - {"stream_apply_bucket", "stream_decode_bucket"}:
        totals = {**(reading.totals or {}), name: {}}
        without = Reading(0.0, report=reading.report, verdicts=reading.verdicts, totals=totals)
        assert exposed(without) != exposed(reading), f"nothing shows the total {name}"


def test_a_database_that_is_away_leaves_little() -> None:
    found = {
        f"{it.name}_total" if it.type == "counter" else it.name: it.samples[0].value
        for it in text_string_to_metric_families(exposed(Reading(0.0, obstacle="It is away.", is_reached=False)))
        if it.name.startswith("appview_")
    }
    assert found.keys() == ALWAYS
    assert found["appview_up"] == 0


def test_labels_may_hold_anything() -> None:
    hostile = 'a"b\\c\nd'
    reading = full_reading()
    reading = Reading(0.0, report=reading.report, totals={"rejected": {("stream", hostile): 1.0}})
    (metric,) = (it for it in text_string_to_metric_families(exposed(reading)) if it.name == "appview_rejected")
    assert metric.samples[0].labels["kind"] == hostile
    assert RELAY in exposed(reading)
