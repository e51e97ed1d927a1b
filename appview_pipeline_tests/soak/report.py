"""What a soak came to, in words and figures, and what of it is not as promised."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

from appview_pipeline_tests.soak.samples import Course, Sample, course, courses_of_processes, rate_of
from appview_pipeline_tests.support.deployment import STOP_SECONDS

if TYPE_CHECKING:
    from appview_pipeline_tests.soak.__main__ import Soak

MB = 1_000_000
GROWTH = {"memory": (0.15, 25 * MB), "files": (0.1, 8), "threads": (0.1, 4)}
"""What the last quarter may be above the second one: a share, and so much more. Bytes for memory."""
CONNECTIONS = (0.1, 4)
PRUNED = ("event_logs", "asset_check_executions", "asset_event_tags")
"""Tables of Dagster's history that are pruned all the time (`pruning.py`)."""
ROWS = (0.3, 500)
JUDGED_SECONDS = 600.0
"""A soak that is shorter is no measure of growth: caches still fill."""
CATCH_UP_SECONDS = 180.0
"""After a trouble the index is level with the relay again within so many seconds."""


def line(sample: Sample) -> str:
    """One sample, for a person who watches."""
    memory = sum(it.memory for name, it in sample.processes.items() if name != "simulated network")
    behind = "the database is away" if sample.behind is None else f"{sample.behind:,} behind"
    return (
        f"{sample.published:,} events, {behind}, {memory / MB:,.0f} MB in {len(sample.processes)} processes, "
        f"{sum(sample.connections.values())} connections, {sample.dagster_rows.get('event_logs', 0):,} rows of the "
        f"event log, databases {sample.database_bytes / MB:,.0f} MB"
    )


def table(soak: Soak) -> str:
    """All figures."""
    return "\n".join(_lines(soak))


def _lines(soak: Soak) -> Iterator[str]:
    samples = soak.samples
    behind = [sample.behind for sample in samples if sample.behind is not None and sample.at <= soak.seconds]
    yield f"{soak.published:,} events in {soak.seconds / 60:,.1f} minutes, {soak.lost} commits lost by the relay"
    if behind:
        rate = soak.rate or 1.0
        yield (
            f"behind the relay: median {statistics.median(behind):,.0f} events "
            f"({statistics.median(behind) / rate:.2f} s), most {max(behind):,} ({max(behind) / rate:,.1f} s)"
        )
    yield ""
    yield f"{'trouble':<36}{'at':>8}{'lasted':>10}{'level again after':>20}"
    for trouble in soak.troubles.happened:
        lasted = 0.0 if trouble.ended is None or trouble.began is None else trouble.ended - trouble.began
        after = (
            "never"
            if trouble.caught_up is None or trouble.ended is None
            else f"{trouble.caught_up - trouble.ended:.1f} s"
        )
        yield f"{trouble.name:<36}{trouble.began or 0:>6.0f} s{lasted:>8.1f} s{after:>20}"
    yield from (f"left out: {it}" for it in soak.troubles.left_out)
    yield ""
    yield f"{'process':<20}{'memory, MB: early':>18}{'late':>8}{'most':>8}{'files':>12}{'threads':>12}"
    columns = {what: {it.name: it for it in courses_of_processes(samples, what, soak.seconds)} for what in GROWTH}
    for name, memory in columns["memory"].items():
        files, threads = columns["files"][name], columns["threads"][name]
        yield (
            f"{name:<20}{memory.early / MB:>18.1f}{memory.late / MB:>8.1f}{memory.most / MB:>8.1f}"
            f"{f'{files.early:.0f} -> {files.late:.0f}':>12}{f'{threads.early:.0f} -> {threads.late:.0f}':>12}"
        )
    yield ""
    for found in _connections(soak):
        yield f"connections to {found.name}: {found.early:.0f} early, {found.late:.0f} late, most {found.most:.0f}"
    for name in ("event_logs", "job_ticks", "asset_check_executions", "runs"):
        rates = [
            rate_of(samples, name, soak.seconds * start, soak.seconds * end)
            for start, end in ((0.25, 0.5), (0.75, 1.0))
        ]
        newest = next((sample.dagster_rows[name] for sample in reversed(samples) if name in sample.dagster_rows), 0)
        grown = " and ".join("unknown" if rate is None else f"{rate:,.0f}" for rate in rates)
        yield f"Dagster's {name}: {newest:,} rows; {grown} more a minute in the second and last quarter"
    cpu = [sample.network_cpu for sample in samples if sample.network_cpu]
    if cpu:
        yield f"the simulated network took {max(cpu) / max(soak.seconds, 1):.2f} of a core"
    yield f"started again: {soak.restarts}"
    yield f"SIGTERM to end: {', '.join(f'{name} {seconds:.1f} s' for name, seconds in soak.stopped.items())}"
    yield ""
    yield f"all checks green {soak.green_seconds:,.0f} s after the last trouble"
    yield f"the index at rest {soak.rest_seconds:,.0f} s after the network"
    compared = soak.compared
    yield (
        f"compared in {compared.seconds:,.0f} s: {compared.repositories:,} repositories, {compared.records:,} records, "
        f"{compared.audited:,} of them audited ({compared.audited_records:,} records), "
        f"{compared.labels:,} label events; {len(compared.differences)} differences"
    )


def _connections(soak: Soak) -> Iterator[Course]:
    for name in ("index", "dagster"):
        values = [(it.at, float(it.connections[name])) for it in soak.samples if name in it.connections]
        if (found := course(name, values, soak.seconds)) is not None:
            yield found


def problems(soak: Soak) -> list[str]:
    """What is not as promised, in words; nothing: all is."""
    return list(_problems(soak))


def _problems(soak: Soak) -> Iterator[str]:
    yield from soak.failures
    yield from soak.compared.differences
    if soak.compared.repositories == 0:
        yield "no repository was compared"
    yield from (f"the check {name} is not green: {words}" for name, words in soak.red.items())
    for trouble in soak.troubles.happened:
        if trouble.ended is None or trouble.caught_up is None:
            yield f"{trouble.name}: the index was never level with the relay again"
        elif trouble.caught_up - trouble.ended > CATCH_UP_SECONDS:
            yield f"{trouble.name}: level again only after {trouble.caught_up - trouble.ended:,.0f} s"
    for name, seconds in soak.stopped.items():
        if seconds > STOP_SECONDS:
            yield f"the {name} took {seconds:.1f} s to end after SIGTERM"
    if soak.left_running:
        yield f"left running: {soak.left_running}"
    if soak.published < soak.rate * soak.seconds * 0.9:
        yield f"the simulated network made only {soak.published / soak.seconds:,.0f} events a second"
    if soak.seconds >= JUDGED_SECONDS:
        yield from _growth(soak)


def _growth(soak: Soak) -> Iterator[str]:
    for what, (share, slack) in GROWTH.items():
        for found in courses_of_processes(soak.samples, what, soak.seconds):
            if found.name != "simulated network" and found.grew(share, slack):
                yield f"{what} of the {found.name} grew from {found.early:,.0f} to {found.late:,.0f}"
    for found in _connections(soak):
        if found.grew(*CONNECTIONS):
            yield f"connections to {found.name} grew from {found.early:.0f} to {found.late:.0f}"
    for name in PRUNED:
        values = [(it.at, float(it.dagster_rows[name])) for it in soak.samples if name in it.dagster_rows]
        rows = course(name, values, soak.seconds)
        if rows is not None and rows.grew(*ROWS):
            yield f"Dagster's {name} grew from {rows.early:,.0f} to {rows.late:,.0f} rows"
