"""Families of metrics, declared: a name, what it means, its labels, and its values in a reading.

Names follow Prometheus' conventions (https://prometheus.io/docs/practices/naming/): base units, `_total` for counters,
moments as `_timestamp_seconds`. A value that is not known has no sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from appview_pipeline.operations.reading import Reading
from appview_pipeline.store.health_report import HealthReport
from appview_pipeline.store.totals import EDGES

Labels = tuple[str, ...]
Values = Iterable[tuple[Labels, float | int | None]]
"""Values by their labels."""


@dataclass(frozen=True)
class Family:
    """A family of metrics. `name` as it is exposed: that of a counter ends in `_total`."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: Labels
    meaning: str
    collect: Callable[[Reading], Metric | None]


def one(value: Callable[[HealthReport], float | int | None]) -> Callable[[Reading], Values]:
    """A value without labels."""
    return lambda reading: () if reading.report is None else [((), value(reading.report))]


def gauge(name: str, meaning: str, labels: str, values: Callable[[Reading], Values]) -> Family:
    """A number that goes up and down. `labels`: their names, separated by spaces."""
    names = tuple(labels.split())

    def collect(reading: Reading) -> Metric | None:
        metric = GaugeMetricFamily(name, meaning, labels=names)
        for of, value in values(reading):
            if value is not None:
                metric.add_metric(of, float(value))
        return metric if metric.samples else None

    return Family(name, "gauge", names, meaning, collect)


def counter(name: str, meaning: str, labels: str, values: Callable[[Reading], Values]) -> Family:
    """A number that only grows. `name` without `_total`."""
    names = tuple(labels.split())

    def collect(reading: Reading) -> Metric | None:
        metric = CounterMetricFamily(name, meaning, labels=names)
        for of, value in values(reading):
            if value is not None:
                metric.add_metric(of, float(value))
        return metric if metric.samples else None

    return Family(f"{name}_total", "counter", names, meaning, collect)


def total(name: str, meaning: str, labels: str, of: str) -> Family:
    """A counter whose values are the totals `of` (`store/totals.py`) with the same labels."""
    return counter(name, meaning, labels, lambda reading: ((reading.totals or {}).get(of) or {}).items())


def histogram(name: str, meaning: str, labels: str, of: str, count: str) -> Family:
    """A distribution of seconds: the totals `<of>_bucket` and `<of>_seconds`, and how many there are, the total
    `count`."""
    names = tuple(labels.split())

    def collect(reading: Reading) -> Metric | None:
        totals = reading.totals or {}
        buckets: Mapping[Labels, float] = totals.get(f"{of}_bucket", {})
        metric = HistogramMetricFamily(name, meaning, labels=names)
        for labels_of, number in totals.get(count, {}).items():
            below = [(str(edge), buckets.get((*labels_of, f"{edge:g}"), 0.0)) for edge in EDGES]
            seconds = totals.get(f"{of}_seconds", {}).get(labels_of, 0.0)
            metric.add_metric(labels_of, [*below, ("+Inf", number)], seconds)
        return metric if metric.samples else None

    return Family(name, "histogram", names, meaning, collect)
