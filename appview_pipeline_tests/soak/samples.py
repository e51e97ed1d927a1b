"""Samples of a soak: what each process takes, how far the index is behind, what the databases hold."""

from __future__ import annotations

import json
import shutil
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

import psycopg2

from appview_pipeline_tests.soak.network_process import NetworkProcess
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.deployment import Deployment
from appview_pipeline_tests.support.durable_server import DAGSTER, INDEX, DurableServer
from appview_pipeline_tests.support.process_use import Taken, taken

LOOK_SECONDS = 1.0
SAMPLE_SECONDS = 5.0
KINDS = {
    "consumer": "ingest.live.consumer",
    "identity process": "identity.resolve_live",
    "fetch process": "backfill.fetch_live",
    "label process": "labels.label_live",
}
"""Leased processes by what is in their command lines."""

DAGSTER_ROWS = ("event_logs", "job_ticks", "runs", "asset_check_executions", "asset_event_tags")


@dataclass
class Sample:
    """One moment. `behind`: events that the relay has and the index has not, the most since the last sample; None: the
    database could not be asked. `processes` by name; runs are not among them."""

    at: float
    behind: int | None = None
    published: int = 0
    applied: int = 0
    clients: int = 0
    network_cpu: float = 0.0
    processes: dict[str, Taken] = field(default_factory=dict)
    runs: int = 0
    connections: dict[str, int] = field(default_factory=dict)
    dagster_rows: dict[str, int] = field(default_factory=dict)
    database_bytes: int = 0
    disk_free: int | None = None
    trouble: str | None = None

    def line(self) -> str:
        """As a line of JSON."""
        values = dict(vars(self))
        values["at"] = round(self.at, 1)
        values["processes"] = {name: vars(it) for name, it in self.processes.items()}
        return json.dumps(values)


class Sampler:
    """Takes samples in a thread of its own, from `start` to `stop`, into `file` as lines of JSON."""

    def __init__(self, server: DurableServer, network: NetworkProcess, deployment: Deployment, file: TextIO) -> None:
        self._server, self._network, self._deployment, self._file = server, network, deployment, file
        self.samples: list[Sample] = []
        self.began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.caught_up_at = 0.0
        """When the index was last level with the relay, in seconds since the beginning."""
        self.behind: int | None = None
        self.level = 0
        """So many events behind is level."""

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def start(self, level: int) -> None:
        self.level = level
        self.began = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        due, most = 0.0, 0
        while not self._over.wait(LOOK_SECONDS):
            sample = Sample(at=self.now())
            try:
                self._look(sample)
            except Exception as error:  # a sample says what is, also where something could not be read
                sample.trouble = repr(error)[:300]
            self.behind = sample.behind
            if sample.behind is not None:
                most = max(most, sample.behind)
                if sample.behind <= self.level:
                    self.caught_up_at = self.now()
            if sample.at >= due:
                due = sample.at + SAMPLE_SECONDS
                self._fill(sample)
                sample.behind = None if sample.behind is None else most
                most = 0
                self.samples.append(sample)
                self._file.write(sample.line() + "\n")
                self._file.flush()

    def _look(self, sample: Sample) -> None:
        state = self._network.order("state")
        sample.published, sample.clients, sample.network_cpu = state["published"], state["clients"], state["cpu"]
        if state["failure"]:
            sample.trouble = state["failure"]
        with suppress(psycopg2.Error), connect(self._server.url(INDEX)) as connection, connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '10s'")
            cursor.execute("SELECT coalesce(max(seq), 0) FROM pipeline.cursor")
            ((seq,),) = cursor.fetchall()
            sample.applied = seq
            sample.behind = max(0, state["newest"] - seq) if seq else None

    def _fill(self, sample: Sample) -> None:
        self._processes(sample)
        if self._server.disk is not None:
            with suppress(OSError):
                sample.disk_free = shutil.disk_usage(self._server.disk).free
        try:
            with connect(self._server.url(DAGSTER)) as connection, connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = '20s'")
                cursor.execute("SELECT datname, count(*) FROM pg_stat_activity WHERE datname IS NOT NULL GROUP BY 1")
                sample.connections = dict(cursor.fetchall())
                for table in DAGSTER_ROWS:
                    cursor.execute(f"SELECT count(*) FROM {table}")
                    sample.dagster_rows[table] = cursor.fetchone()[0]  # type: ignore[index]
                cursor.execute("SELECT sum(pg_database_size(oid)) FROM pg_database")
                sample.database_bytes = int(cursor.fetchone()[0])  # type: ignore[index]
        except psycopg2.Error as error:
            sample.trouble = str(error).partition("\n")[0]

    def _processes(self, sample: Sample) -> None:
        named = {
            service.process.pid: name
            for name, service in self._deployment.services.items()
            if service.process is not None
        }
        for pid, command in self._deployment.processes().items():
            name = named.get(pid) or next((kind for kind, part in KINDS.items() if part in command), None)
            if name is None:
                sample.runs += 1
            elif (found := taken(pid)) is not None:
                sample.processes[name] = found
        if (found := taken(self._network.pid)) is not None:
            sample.processes["simulated network"] = found


# ---- what the samples say


@dataclass(frozen=True)
class Course:
    """A number over time: medians of its second and last quarter, and its most."""

    name: str
    early: float
    late: float
    most: float

    def grew(self, share: float, slack: float) -> bool:
        """Whether the end is more than `share` and `slack` above the second quarter."""
        return self.late > self.early * (1 + share) + slack


def course(name: str, values: Sequence[tuple[float, float]], seconds: float) -> Course | None:
    """The course of (time, value) pairs over so many seconds; None where a quarter has none.

    The first quarter is left out: caches fill, and pools open.
    """
    early = [value for at, value in values if seconds / 4 <= at < seconds / 2]
    late = [value for at, value in values if seconds * 3 / 4 <= at <= seconds]
    if not early or not late:
        return None
    return Course(name, statistics.median(early), statistics.median(late), max(value for _, value in values))


def courses_of_processes(samples: Sequence[Sample], what: str, seconds: float) -> Iterator[Course]:
    """The courses of memory, files or threads of each kind of process."""
    names = Counter(name for sample in samples for name in sample.processes)
    for name in sorted(names):
        values = [
            (sample.at, float(getattr(sample.processes[name], what))) for sample in samples if name in sample.processes
        ]
        if (found := course(name, values, seconds)) is not None:
            yield found


def rate_of(samples: Sequence[Sample], table: str, start: float, end: float) -> float | None:
    """Rows a minute that a table of Dagster's grew by between two times; None where there are no samples."""
    counted = [(it.at, it.dagster_rows[table]) for it in samples if table in it.dagster_rows]
    chosen = [(at, count) for at, count in counted if start <= at <= end]
    if len(chosen) < 2 or chosen[-1][0] == chosen[0][0]:
        return None
    return (chosen[-1][1] - chosen[0][1]) / (chosen[-1][0] - chosen[0][0]) * 60


def read_samples(lines: Sequence[str]) -> list[Sample]:
    """The samples of a file that a soak wrote."""
    found = []
    for line in lines:
        values: Mapping[str, Any] = json.loads(line)
        processes = {name: Taken(**it) for name, it in values["processes"].items()}
        found.append(Sample(**{**values, "processes": processes}))
    return found
