"""What a backfill costs: `python -m appview_pipeline_tests.benchmark.backfill` (docs/benchmarks.md).

Repositories are fetched over loopback, proved, compared with an empty index and applied: by one process, then by
several side by side, each with its share of the partitions, and then with a live stream beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import click
import psycopg2

from appview_pipeline_tests.benchmark import processes, sides
from appview_pipeline_tests.benchmark.corpus import Corpus, corpus
from appview_pipeline_tests.benchmark.databases import Databases, query, wal_position
from appview_pipeline_tests.benchmark.measure import Percentiles, Plan, catch_up, start_consumers, wait_for_seq
from appview_pipeline_tests.benchmark.relay import RelayProcess
from appview_pipeline_tests.benchmark.repositories import PARTITIONS, PdsProcess, Repositories, repositories
from appview_pipeline_tests.benchmark.sides import Server

PATIENCE = 900.0
LIVE_GOAL_MS = 2_000.0
_WORK = """
import json, sys
from appview_pipeline.backfill.worker import work
from appview_pipeline.settings import load
from appview_pipeline.store.database import open_database
settings = load()
database = open_database(settings)
print("ready", flush=True)
sys.stdin.readline()
for bucket in map(int, sys.argv[1].split(",")):
    work(settings, database, bucket=bucket)
print("done", flush=True)
sys.stdin.read()
"""

DIGEST = """
    SELECT c.oid::regclass::text, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'bsky' AND c.relkind = 'r' ORDER BY 1"""
LEFT_OUT = {"actor": ["indexedAt"], "op_thread_reply": ["deletedAt"]}
"""Columns that say when something was written, by table; and of all tables `id` and `appliedAt`."""


class Worker:
    """A process that works off some partitions of the queue; it is ready when it is made, and begins at `begin`."""

    def __init__(self, server: Server, database: str, buckets: Sequence[int], log: Path) -> None:
        self._log = log
        environment = server.side.environment(
            APPVIEW_DATABASE_URL=server.url(database),
            APPVIEW_ALLOW_PRIVATE_HOSTS="1",
            APPVIEW_BACKFILL_DAYS="-1",
        )
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _WORK, ",".join(map(str, buckets))],
                cwd=server.side.checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
                text=True,
            )  # fmt: skip
        self._expect("ready")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != word:
            last = self._log.read_text().strip().splitlines()[-3:]
            raise click.ClickException(f"A worker ended with code {self._process.wait()}: {' / '.join(last)}")

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        """Until its partitions are done."""
        self._expect("done")

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        return processes.cpu_seconds(self._process.pid)

    def peak_megabytes(self) -> float:
        return processes.peak_megabytes(self._process.pid)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass(frozen=True)
class Backfill:
    """CPU in milliseconds a record, memory in megabytes (the sum of the processes' peaks), WAL in bytes a record;
    `pds_cores`: what the PDSes, on other machines in reality, took of the two cores."""

    workers: int
    repositories: int
    records: int
    bytes: int
    seconds: float
    client_cpu: float
    postgres_cpu: float
    peak_memory: float
    wal_bytes: float
    pds_cores: float

    def __str__(self) -> str:
        return (
            f"{self.records / self.seconds:,.0f} records/s, {self.repositories / self.seconds:,.1f} repositories/s, "
            f"{self.bytes / self.seconds / 1e6:,.1f} MB/s; CPU {self.client_cpu:.4f} client + {self.postgres_cpu:.4f} "
            f"PostgreSQL = {self.client_cpu + self.postgres_cpu:.4f} ms a record; peak {self.peak_memory:,.0f} MB; "
            f"WAL {self.wal_bytes:,.0f} bytes a record; {self.seconds:.1f} s; the PDSes took {self.pds_cores:.2f} cores"
        )


def prepare(server: Server, database: str, made: Repositories, pdses: PdsProcess) -> None:
    """Enters the repositories into the queue, and their accounts' identities, so that no directory is asked."""
    with closing(psycopg2.connect(server.libpq(database))) as connection, connection, connection.cursor() as cursor:
        for number, entry in enumerate(made.index):
            pds = pdses.urls[number % len(pdses.urls)]
            cursor.execute(
                "INSERT INTO pipeline.identity (did, handle, pds, signing_key, state, source, resolved_at, "
                "handle_checked_at, next_check_at) "
                "VALUES (%s, %s, %s, %s, 'found', 'plc', now(), now(), now() + interval '1 day')",
                (entry["did"], entry["handle"], pds, entry["key"]),
            )
            cursor.execute(
                "INSERT INTO pipeline.backfill_queue (did, reason, priority, host) VALUES (%s, 'discovered', 0, %s)",
                (entry["did"], pds),
            )
            cursor.execute("INSERT INTO pipeline.repo (did) VALUES (%s) ON CONFLICT DO NOTHING", (entry["did"],))
    query(server.libpq(database), "VACUUM ANALYZE")
    query(server.libpq(database), "CHECKPOINT")


def start_workers(stack: ExitStack, server: Server, database: str, count: int, folder: Path) -> list[Worker]:
    """`count` processes that share the partitions."""
    return [
        stack.enter_context(
            Worker(server, database, range(number, PARTITIONS, count), folder / f"worker-{database}-{number}.log")
        )
        for number in range(count)
    ]


def run(server: Server, database: str, made: Repositories, pdses: PdsProcess, workers: int, folder: Path) -> Backfill:
    """Measures a backfill of everything by `workers` processes into the empty database."""
    prepare(server, database, made, pdses)
    with ExitStack() as stack:
        running = start_workers(stack, server, database, workers, folder)
        time.sleep(1)
        wal = wal_position(server.libpq(database))
        client, postgres, pds = _cpu(running), server.cpu_seconds(), pdses.cpu_seconds()
        began = time.monotonic()
        for worker in running:
            worker.begin()
        for worker in running:
            worker.wait()
        seconds = time.monotonic() - began
        client, postgres = _cpu(running) - client, server.cpu_seconds() - postgres
        pds = pdses.cpu_seconds() - pds
        peak = sum(worker.peak_megabytes() for worker in running)
    _check(server.libpq(database), made)
    wal = wal_position(server.libpq(database)) - wal
    return Backfill(
        workers=workers,
        repositories=made.count,
        records=made.records,
        bytes=made.bytes,
        seconds=seconds,
        client_cpu=client / made.records * 1000,
        postgres_cpu=postgres / made.records * 1000,
        peak_memory=peak,
        wal_bytes=wal / made.records,
        pds_cores=pds / seconds,
    )


def _cpu(running: Sequence[Worker]) -> float:
    return sum(worker.cpu_seconds() for worker in running)


def _check(libpq: str, made: Repositories) -> None:
    """A backfill that leaves something out is fast."""
    states = dict(query(libpq, "SELECT sync_state, count(*) FROM pipeline.repo GROUP BY 1"))
    if states.get("synchronized") != made.count:
        failures = query(
            libpq, "SELECT error, count(*) FROM pipeline.backfill_queue GROUP BY 1 ORDER BY 2 DESC LIMIT 3"
        )
        raise click.ClickException(f"Of {made.count} repositories: {states}; {failures}")


def digest(libpq: str) -> dict[str, str]:
    """A hash of the rows of every table of the reference, whatever their order."""
    found = {}
    for table, name in query(libpq, DIGEST):
        statement = (
            "SELECT count(*)::text || ' ' || "
            "coalesce(sum(hashtextextended((to_jsonb(t) - %s::text[])::text, 0)), 0)::text "
            f"FROM {table} t"
        )
        found[str(name)] = str(query(libpq, statement, ["id", "appliedAt", *LEFT_OUT.get(str(name), [])])[0][0])
    return found


@dataclass(frozen=True)
class Beside:
    """A live stream beside a backfill. `share`: of the events that came while the backfill was at work, those that were
    readable within 2 s."""

    events: int
    share: float
    arrival_to_readable: Percentiles
    records_per_second: float
    is_whole: bool

    def __str__(self) -> str:
        rest = "" if self.is_whole else ", still at work when the stream ended"
        return (
            f"live beside it: {self.events:,} events, {self.share:.2%} readable within 2 s; arrival to readable "
            f"{self.arrival_to_readable}; the backfill {self.records_per_second:,.0f} records/s{rest}"
        )


def beside(
    server: Server,
    database: str,
    frames: Corpus,
    made: Repositories,
    pdses: PdsProcess,
    *,
    warm_up: int,
    rate: float,
    seconds: float,
    folder: Path,
) -> Beside:
    """Measures a live stream beside a backfill by one process."""
    prepare(server, database, made, pdses)
    libpq = server.libpq(database)
    plan = Plan(warm_up, again=False, rate=rate, live_seconds=seconds)
    with ExitStack() as stack:
        relay = stack.enter_context(RelayProcess(frames, 0, plan.all_frames))
        arrivals, consumer = start_consumers(stack, server, database, relay, plan, folder / "consumer.log")
        catch_up(server, relay, arrivals, consumer, warm_up)
        (worker,) = start_workers(stack, server, database, 1, folder)
        began = time.monotonic()
        worker.begin()
        marks = relay.pace(plan.live_frames, rate)
        wait_for_seq(arrivals, consumer, marks[-1][0])
        ended, applied = _progress(libpq, began)
    counted = [(seq, at) for seq, at in marks if at < ended]
    waits = [(arrivals.readable_at(seq) - at) * 1000 for seq, at in counted]
    return Beside(
        events=len(waits),
        share=sum(wait <= LIVE_GOAL_MS for wait in waits) / max(1, len(waits)),
        arrival_to_readable=Percentiles.of(waits),
        records_per_second=applied / (ended - began),
        is_whole=applied >= made.records,
    )


def _progress(libpq: str, began: float) -> tuple[float, int]:
    """When (monotonic clock) the backfill ended, or now; and the records that it has applied."""
    (row,) = query(
        libpq,
        "SELECT count(*) FILTER (WHERE finished_at IS NULL), extract(epoch FROM now() - max(finished_at)), "
        "coalesce(sum(records), 0) FROM pipeline.backfill_queue WHERE priority = 0 AND reason = 'discovered'",
    )
    waiting, ago, records = row
    now = time.monotonic()
    return (now if waiting or ago is None else max(began + 0.1, now - float(ago))), int(records)


def _counts(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(count) for count in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter("numbers of processes, separated by commas (1,4)") from None


@click.command(context_settings={"show_default": True})
@click.option("--repositories", "count", default=1_000, help="Repositories; about 350 records each.")
@click.option("--partitions", "workers", default="1,4", callback=_counts, help="Processes that share four partitions.")
@click.option("--runs", default=1, help="Runs of each.")
@click.option("--hosts", default=8, help="PDSes.")
@click.option("--rate", default=500.0, help="Frames a second of the live stream beside a backfill.")
@click.option("--live-seconds", default=30.0, help="Its length; 0: none.")
@click.option("--warm-up", default=10_000, help="Frames that it has caught up with before.")
@click.option("--small", is_flag=True, hidden=True)  # for tests: small frames, made in no time
def main(
    count: int,
    workers: tuple[int, ...],
    runs: int,
    hosts: int,
    rate: float,
    live_seconds: float,
    warm_up: int,
    small: bool,
) -> None:
    """How fast repositories are fetched and applied (docs/benchmarks.md)."""
    made = repositories(count)
    frames = corpus(warm_up + int(rate * live_seconds), small=small) if live_seconds else None
    click.echo(f"{made.count:,} repositories, {made.records:,} records, {made.bytes / 1e6:,.0f} MB, {hosts} hosts")
    digests: dict[int, dict[str, str]] = {}
    with (
        sides.scratch() as folder,
        Server(sides.ours(folder / "ours"), folder / "server") as server,
        PdsProcess(made, hosts) as pdses,
    ):
        databases = Databases(server, frames or Corpus(Path(), Path(), 0))
        for processes_ in workers:
            for _ in range(runs):
                with databases.fresh(0) as name:
                    click.echo(f"{processes_} process{'es' * (processes_ > 1)}: ", nl=False)
                    click.echo(str(run(server, name, made, pdses, processes_, folder)))
                    digests[processes_] = digest(server.libpq(name))
        if len(digests) > 1:
            click.echo(_compared(digests))
        if frames is not None:
            with databases.fresh(0) as name:
                result = beside(
                    server, name, frames, made, pdses,
                    warm_up=warm_up, rate=rate, seconds=live_seconds, folder=folder,
                )  # fmt: skip
                click.echo(str(result))


def _compared(digests: dict[int, dict[str, str]]) -> str:
    first, *others = digests.values()
    differing = sorted({table for other in others for table in first if first[table] != other[table]})
    if not differing:
        return f"the tables are the same, whatever the number of processes ({len(first)} tables)"
    shown = {table: [digest[table] for digest in digests.values()] for table in differing}
    return "DIFFERENT TABLES: " + json.dumps(shown)


if __name__ == "__main__":
    main()
