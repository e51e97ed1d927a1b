"""What several consumers on one database cost: `python -m appview_pipeline_tests.benchmark.shards` (docs/scaling.md).

The frames of the benchmark, through the simulated relay, by 1, 2, 4, ... consumers of a shard each. Besides the
benchmark's own figures: how often PostgreSQL ended a deadlock, and which share of the time of their batches the writers
waited for one another (a look at pg_stat_activity every 10 ms).
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import closing
from types import TracebackType

import click
import psycopg2

from appview_pipeline_tests.benchmark import sides
from appview_pipeline_tests.benchmark.corpus import corpus
from appview_pipeline_tests.benchmark.databases import Databases, query
from appview_pipeline_tests.benchmark.measure import Plan, run
from appview_pipeline_tests.benchmark.sides import Server

LOOK_SECONDS = 0.01
HEAD = (
    "| consumers | commits/s | client CPU | PostgreSQL CPU | together, ms a commit | batch p50 ms "
    "| waiting for the lock | for rows | deadlocks | peak MB each | WAL bytes |\n" + "|---" * 11 + "|"
)


class Waits:
    """Counts what the writers of a database do, look by look, while the block runs."""

    def __init__(self, libpq: str, database: str) -> None:
        self._libpq = libpq
        self._database = database
        self._over = threading.Event()
        self.looks: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def share(self, event: str) -> float:
        """Of the time of batches, from 0 to 1. `event` as in pg_stat_activity: `advisory`, `transactionid`, ..."""
        return self.looks[event] / max(1, self.looks.total())

    def _watch(self) -> None:
        with closing(psycopg2.connect(self._libpq)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not self._over.wait(LOOK_SECONDS):
                cursor.execute(
                    "SELECT CASE WHEN wait_event_type = 'Lock' THEN wait_event ELSE 'work' END FROM pg_stat_activity "
                    "WHERE datname = %s AND application_name = 'appview-pipeline writer' AND xact_start IS NOT NULL",
                    (self._database,),
                )
                self.looks.update(what for (what,) in cursor.fetchall())

    def __enter__(self) -> Waits:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()


@click.command()
@click.option(
    "--shards", "counts", default="1,2,4", help="Numbers of consumers, one after the other.", show_default=True
)
@click.option("--frames", default=40_000, help="Frames that are caught up with.", show_default=True)
@click.option("--prefill", default=0, help="Records there before.", show_default=True)
@click.option("--batch-events", type=int, help="APPVIEW_BATCH_EVENTS.  [default: as shipped]")
def main(counts: str, frames: int, prefill: int, batch_events: int | None) -> None:
    """What several consumers on one database cost, as a Markdown table."""
    made = corpus(frames)
    with sides.scratch() as folder, Server(sides.ours(folder / "ours"), folder / "server") as server:
        databases = Databases(server, made)
        click.echo(HEAD)
        for count in map(int, counts.split(",")):
            plan = Plan(frames, again=False, consumers=count, batch_events=batch_events)
            with databases.fresh(prefill) as name:
                with Waits(server.libpq("postgres"), name) as waits:
                    measured = run(server, name, made, plan, folder / "consumer.log")
                ((deadlocks,),) = query(
                    server.libpq(name), "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
                )
            click.echo(
                f"| {count} | {measured.per_second:,.0f} | {measured.client_cpu:.3f} | {measured.postgres_cpu:.3f} "
                f"| {measured.cpu:.3f} | {measured.apply.p50:,.0f} | {waits.share('advisory'):.1%} "
                f"| {waits.share('transactionid') + waits.share('tuple'):.1%} | {deadlocks} "
                f"| {measured.peak_memory / count:,.0f} | {measured.wal_bytes:,.0f} |"
            )


if __name__ == "__main__":
    main()
