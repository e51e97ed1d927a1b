"""How fast labels are read: `python -m appview_pipeline_tests.benchmark.labels` (docs/benchmarks.md).

Labels a second and CPU a label, of the client and of PostgreSQL, in a PostgreSQL of its own as shipped: of the
application alone, from rows that are ready; and of the whole label process, which catches up with labelers that have
published everything at once, with and without signatures.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median

import click
import psycopg2

from appview_pipeline.labels.decoding import read_frames, row_of
from appview_pipeline.labels.label_frame import Position
from appview_pipeline.labels.verification import LabelerKeys
from appview_pipeline.protocol.label import read_label
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.labels import LabelBatch, LabelRow, apply_labels
from appview_pipeline_tests.benchmark import sides
from appview_pipeline_tests.benchmark.databases import query, table_sizes, wal_position
from appview_pipeline_tests.benchmark.label_network import LabelNetwork, made_labels
from appview_pipeline_tests.benchmark.sides import Server
from appview_pipeline_tests.benchmark.statements import logged
from appview_pipeline_tests.simulated_network import Labeler
from appview_pipeline_tests.simulated_network.accounts import make_key, multikey
from appview_pipeline_tests.simulated_network.labels import Label, labels_frame

PATIENCE = 60.0
BATCH = 5_000
CURSORS = "SELECT coalesce(sum(cursor), 0)::bigint, count(*) FROM pipeline.labeler WHERE cursor > 0"
STATEMENTS = 12
"""Statements that are reported."""
TABLES = ("pipeline.label_event", "bsky.label")


@dataclass(frozen=True)
class Figures:
    """CPU in milliseconds a label, WAL and tables in bytes a label, memory in megabytes (0: not measured)."""

    per_second: float
    client_cpu: float
    postgres_cpu: float
    wal_bytes: float = 0.0
    table_bytes: float = 0.0
    peak_memory: float = 0.0
    statements: dict[str, float] | None = None

    @property
    def cpu(self) -> float:
        return self.client_cpu + self.postgres_cpu


class LabelProcess(sides.Consumer):
    """A side's label process, on a lease of ours."""

    def module(self, side: sides.Side) -> str:
        """What runs."""
        return "appview_pipeline.labels.label_live"


def labels_of_one(count: int, *, signed: bool, p256: bool = False) -> tuple[Labeler, list[Label]]:
    """Labels that no server serves, and their labeler."""
    labeler = Labeler("did:plc:" + "a" * 24, make_key("benchmark labels", p256=p256))
    return labeler, list(made_labels(labeler, count, Random("benchmark labels"), signed=signed))


def rows_of(labels: list[Label]) -> list[LabelRow]:
    now = time.time_ns() // 1_000
    return [row_of(read_label(label, now), seq) for seq, label in enumerate(labels, 1)]


# ---- the client's work, stage by stage


def stages(count: int) -> dict[str, float]:
    """Microseconds of CPU a label, without network and database."""
    found = {}
    for name, signed, p256 in (("unsigned", False, False), ("k256", True, False), ("p256", True, True)):
        labeler, labels = labels_of_one(count, signed=signed, p256=p256)
        frames = [labels_frame(seq, [label]) for seq, label in enumerate(labels, 1)]
        keys = LabelerKeys(() if signed else (labeler.did,))
        keys.set(labeler.did, f"did:key:{multikey(labeler.key)}")
        position = Position(labeler.did, labeler.endpoint, 0)
        began = time.process_time()
        read, _ = read_frames(frames, position, keys, time.time_ns() // 1_000)
        found[f"decode and verify, {name}"] = (time.process_time() - began) / count * 1e6
        assert sum(len(frame.rows) for frame in read) == count and not any(frame.rejected for frame in read)
    return found


# ---- PostgreSQL alone


def _client_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def application(server: Server, name: str, rows: list[LabelRow], *, statements: bool, batch: int = BATCH) -> Figures:
    """Applies rows that are ready, in batches."""
    libpq = server.libpq(name)
    url = server.url(name)
    database = Database(url, Settings(database_url=url))
    parts = [rows[at : at + batch] for at in range(0, len(rows), batch)]
    taken: dict[str, float] = {}
    with logged(server, taken) if statements else nullcontext():
        wal, client, postgres, began = wal_position(libpq), _client_seconds(), server.cpu_seconds(), time.monotonic()
        for part in parts:
            with database.connect("writer") as connection:
                apply_labels(connection, LabelBatch(part))
        seconds = time.monotonic() - began
        client, postgres = _client_seconds() - client, server.cpu_seconds() - postgres
        wal = wal_position(libpq) - wal
    database.close()
    return Figures(
        len(rows) / seconds,
        client / len(rows) * 1000,
        postgres / len(rows) * 1000,
        wal / len(rows),
        _table_bytes(libpq, len(rows)),
        statements={key: value / len(rows) * 1000 for key, value in taken.items()} if statements else None,
    )


def _table_bytes(libpq: str, labels: int) -> float:
    query(libpq, "ANALYZE")
    return sum(size.table + size.index for size in table_sizes(libpq) if size.name in TABLES) / labels


# ---- the whole process


def catching_up(
    server: Server, name: str, labels: int, labelers: int, *, signed: bool, p256: bool, statements: bool, log: Path
) -> Figures:
    """The label process reads labels that all labelers have published at once."""
    libpq = server.libpq(name)
    with LabelNetwork(labelers, labels, signed=signed, p256=p256) as network:
        count = labels // labelers * labelers
        environment = {**network.environment, "APPVIEW_DATABASE_URL": server.url(name)}
        if not signed:
            environment["APPVIEW_UNSIGNED_LABELERS"] = ",".join(network.dids)
        taken: dict[str, float] = {}
        with (
            LabelProcess(server.side, log, **environment) as process,
            closing(psycopg2.connect(libpq)) as watching,
        ):
            watching.autocommit = True
            ours = (watching.info.backend_pid,)
            deadline = time.monotonic() + PATIENCE
            while network.connected() < labelers:
                process.check()
                assert time.monotonic() < deadline, log.read_text()[-2_000:]
                time.sleep(0.1)
            time.sleep(1)  # what starting up costs is over
            with logged(server, taken) if statements else nullcontext():
                wal, client, postgres = wal_position(libpq), process.cpu_seconds(), server.cpu_seconds(ours)
                began = network.publish()
                seconds = _wait(watching, count, process, log) - began
                client, postgres = process.cpu_seconds() - client, server.cpu_seconds(ours) - postgres
                wal = wal_position(libpq) - wal
            peak = process.peak_megabytes()
    events = query(libpq, "SELECT count(*) FROM pipeline.label_event")[0][0]
    rejected = query(libpq, "SELECT sum(rejected) FROM pipeline.labeler")[0][0]
    if rejected or not 0.9 * count < events <= count:
        raise click.ClickException(f"{events:,} of {count:,} labels are stored, {rejected} rejected: no measurement.")
    return Figures(
        count / seconds,
        client / count * 1000,
        postgres / count * 1000,
        wal / count,
        _table_bytes(libpq, count),
        peak,
        statements={key: value / count * 1000 for key, value in taken.items()} if statements else None,
    )


def _wait(watching: psycopg2.extensions.connection, count: int, process: sides.Consumer, log: Path) -> float:
    """When (monotonic clock) all labels can be read; numbers of labelers here rise by one."""
    reached, deadline = 0, time.monotonic() + PATIENCE
    with watching.cursor() as cursor:
        while True:
            cursor.execute(CURSORS)
            found, at = cursor.fetchone(), time.monotonic()
            assert found is not None
            if found[0] >= count:
                return at
            if found[0] > reached:
                reached, deadline = found[0], at + PATIENCE
            if at > deadline:
                raise click.ClickException(f"Stands still at {reached:,} of {count:,}: {log.read_text()[-2_000:]}")
            process.check()
            time.sleep(0.02)


# ---- the command


def _fresh(server: Server, name: str) -> None:
    query(server.libpq("postgres"), f"CREATE DATABASE {name}")
    subprocess.run(
        [sys.executable, "-m", "appview_pipeline.cli", "migrate"],
        cwd=server.side.checkout, env=server.side.environment(APPVIEW_DATABASE_URL=server.url(name)),
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def in_words(what: str, runs: list[Figures]) -> str:
    """The run in the middle, on a line of the table."""
    middle = sorted(runs, key=lambda run: run.per_second)[len(runs) // 2]
    peak = f"{middle.peak_memory:,.0f}" if middle.peak_memory else "–"
    cpu = f"{middle.client_cpu:.3f} + {middle.postgres_cpu:.3f} = {middle.cpu:.3f}"
    per_second = median(run.per_second for run in runs)
    sizes = f"{middle.wal_bytes:,.0f} | {middle.table_bytes:,.0f}"
    return f"| {what} | {per_second:,.0f} | {cpu} | {peak} | {sizes} |"


@click.command(context_settings={"show_default": True})
@click.option("--labels", default=100_000, help="Labels of a run.")
@click.option("--runs", default=3, help="Runs of each line; the median counts.")
@click.option("--labelers", "counts", default="1,50", help="Labelers of the whole process, one series each.")
@click.option("--p256", is_flag=True, help="Also with labelers that sign with P-256.")
@click.option("--statements", is_flag=True, help="Also report PostgreSQL's time by statement.")
@click.option("--process/--no-process", "whole", default=True, help="Measure the whole process too.")
def main(labels: int, runs: int, counts: str, p256: bool, statements: bool, whole: bool) -> None:
    """Labels a second, and CPU a label."""
    for name, micros in stages(min(labels, 20_000)).items():
        click.echo(f"{name:<36} {micros:6.1f} us")
    click.echo("| what | labels/s | CPU ms a label, client + PostgreSQL | peak MB | WAL bytes | tables, bytes |")
    click.echo("|---|---|---|---|---|---|")
    numbers = iter(range(1_000))
    with sides.scratch() as folder:
        side = sides.ours(folder / "ours")
        with Server(side, folder / "server") as server:

            def series(what: str, measure: object) -> None:
                assert callable(measure)
                found = []
                for _ in range(runs):
                    name = f"run_{next(numbers)}"
                    _fresh(server, name)
                    found.append(measure(name))
                    query(server.libpq("postgres"), f"DROP DATABASE {name} WITH (FORCE)")
                click.echo(in_words(what, found))
                for statement, micros in islice((found[-1].statements or {}).items(), STATEMENTS):
                    click.echo(f"    {micros:7.1f} us  {statement}")

            rows = rows_of(labels_of_one(labels, signed=False)[1])
            series("application alone", lambda name: application(server, name, rows, statements=statements))
            if not whole:
                return
            ways = [("unsigned", False, False), ("signed, k256", True, False)]
            ways += [("signed, p256", True, True)] if p256 else []
            for what, signed, is_p256 in ways:
                for count in map(int, counts.split(",")):
                    series(
                        f"whole process, {count} labeler{'s' if count > 1 else ''}, {what}",
                        lambda name, count=count, signed=signed, is_p256=is_p256: catching_up(
                            server, name, labels, count, signed=signed, p256=is_p256, statements=statements,
                            log=folder / "labels.log",
                        ),
                    )  # fmt: skip


if __name__ == "__main__":
    if not Path("/proc/self/stat").exists():
        sys.exit("The benchmark reads CPU and memory from /proc: run it on Linux.")
    main()
