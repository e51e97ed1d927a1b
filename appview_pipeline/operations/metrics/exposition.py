"""All families in the formats that Prometheus reads, and as the table of docs/metrics.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from appview_pipeline.operations.metrics import completeness, identity, indexing, itself, labels, storage, streams
from appview_pipeline.operations.metrics.family import Family
from appview_pipeline.operations.reading import Counts, Reading

TOPICS: dict[str, tuple[Family, ...]] = {
    "The process and the database": itself.families_of(Counts()),
    "Streams": streams.FAMILIES,
    "Indexing": indexing.FAMILIES,
    "Completeness": completeness.FAMILIES,
    "Identity": identity.FAMILIES,
    "Labels": labels.FAMILIES,
    "Storage": storage.FAMILIES,
}
"""Every family, by topic."""


def render(reading: Reading, counts: Counts, accept: str = "") -> tuple[bytes, str]:
    """The metrics of a reading in the format that `accept` (a header of the request) prefers, and the type of that.

    With the metrics of this process that prometheus-client has (`process_*`, `python_info`).
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*itself.families_of(counts), *_OF_THE_DATABASE], reading))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    encode: Callable[[CollectorRegistry], bytes]
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def table() -> str:
    """The families as Markdown, by topic; docs/metrics.md holds it."""
    lines: list[str] = []
    for topic, families in TOPICS.items():
        lines += [f"### {topic}", "", "| metric | type | labels | meaning |", "|---|---|---|---|"]
        for family in families:
            shown = ", ".join(f"`{label}`" for label in family.labels)
            lines.append(f"| `{family.name}` | {family.kind} | {shown} | {family.meaning} |")
        lines.append("")
    return "\n".join(lines)


_OF_THE_DATABASE = [family for families in (*TOPICS.values(),)[1:] for family in families]


class _Families(Collector):
    def __init__(self, families: Iterable[Family], reading: Reading) -> None:
        self._families = families
        self._reading = reading

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = family.collect(self._reading)
            if metric is not None:
                yield metric
