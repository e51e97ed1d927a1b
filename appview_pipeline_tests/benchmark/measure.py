"""One run: the frames through the relay and the consumer into a database, and what that took."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import click

from appview_pipeline_tests.benchmark.corpus import Corpus
from appview_pipeline_tests.benchmark.databases import Arrivals, TableSize, query, table_sizes, wal_position
from appview_pipeline_tests.benchmark.relay import RelayProcess
from appview_pipeline_tests.benchmark.rerun import Rerun, RerunProcess
from appview_pipeline_tests.benchmark.sides import Consumer, Consumers, Server
from appview_pipeline_tests.benchmark.statements import logged

# A run that makes no progress for so long has failed.
PATIENCE = 120.0


@dataclass(frozen=True)
class Plan:
    """What a run consists of: `warm_up` frames that are not measured, `frames` as fast as they go, then
    `live_seconds` at `rate` a second; the first `frames` once more when `again`.

    `rerun`: everything is compared and repaired meanwhile, beginning before the live part.

    `batch_events` as APPVIEW_BATCH_EVENTS, None for the default. Several `consumers` have a shard each. `statements`:
    PostgreSQL's time is reported by statement. `verify` as APPVIEW_VERIFY.
    """

    frames: int
    again: bool = True
    rate: float = 500.0
    live_seconds: float = 0.0
    batch_events: int | None = None
    consumers: int = 1
    statements: bool = False
    warm_up: int = 0
    rerun: bool = False
    verify: str | None = None

    @property
    def live_frames(self) -> int:
        return int(self.rate * self.live_seconds)

    @property
    def all_frames(self) -> int:
        return self.warm_up + self.frames + self.live_frames

    def variables(self) -> list[dict[str, str]]:
        """The settings of each consumer."""
        size = {"APPVIEW_BATCH_EVENTS": str(self.batch_events)} if self.batch_events else {}
        if self.verify:
            size["APPVIEW_VERIFY"] = self.verify
        if self.consumers == 1:
            return [size]
        return [{**size, "APPVIEW_SHARD": f"{number}/{self.consumers}"} for number in range(self.consumers)]


@dataclass(frozen=True)
class Percentiles:
    """Of a set of durations, in milliseconds."""

    p50: float
    p90: float
    p99: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        """Nearest rank. Of nothing all are 0."""
        ranked = sorted(values) or [0.0]
        p50, p90, p99 = (ranked[int(len(ranked) * share)] for share in (0.5, 0.9, 0.99))
        return cls(p50, p90, p99, ranked[-1])

    def __str__(self) -> str:
        return f"p50 {self.p50:,.0f}, p90 {self.p90:,.0f}, p99 {self.p99:,.0f}, max {self.maximum:,.0f} ms"


@dataclass(frozen=True)
class Live:
    """At a fixed rate: events from their arrival to where they can be read, cores in use (1.0: all of one).

    With a `rerun` beside it only the events that arrived while that was at work count for the former.
    """

    seconds: float
    arrival_to_readable: Percentiles
    apply: Percentiles
    client_cores: float
    postgres_cores: float
    rerun: Rerun | None = None


@dataclass(frozen=True)
class Run:
    """CPU in milliseconds a commit, memory in megabytes, WAL in bytes a commit, `apply` of a batch. `per_second` is
    counted up to the last full batch: the one after it waits for frames that don't come. `statements`: microseconds a
    commit by statement, the largest first; empty when not asked for."""

    commits: int
    per_second: float
    client_cpu: float
    postgres_cpu: float
    wal_bytes: float
    apply: Percentiles
    peak_memory: float
    records: int
    sizes: tuple[TableSize, ...]
    statements: dict[str, float]
    live: Live | None
    again_per_second: float | None
    again_cpu: float | None
    warm_up_per_second: float | None = None
    first_rerun: Rerun | None = None

    @property
    def cpu(self) -> float:
        return self.client_cpu + self.postgres_cpu

    @property
    def table_bytes(self) -> float:
        """A record."""
        return sum(size.table for size in self.sizes) / self.records

    @property
    def index_bytes(self) -> float:
        """A record."""
        return sum(size.index for size in self.sizes) / self.records


def run(server: Server, database: str, corpus: Corpus, plan: Plan, log: Path) -> Run:
    """Measures `plan` on `database`, which nothing has been written to but its prefill."""
    libpq = server.libpq(database)
    # What is prefilled is not in every row what the write path would have written, and a rerun is measured as it
    # usually is: with nothing to repair.
    first_rerun = RerunProcess(server.side, server.url(database)).finish() if plan.rerun and plan.live_frames else None
    with ExitStack() as stack:
        relay = stack.enter_context(RelayProcess(corpus, 0, plan.all_frames))
        arrivals, consumer = start_consumers(stack, server, database, relay, plan, log)
        warm_up_per_second = None
        if plan.warm_up:
            warm_up_per_second, _, _ = catch_up(server, relay, arrivals, consumer, plan.warm_up)
        last_batch = query(libpq, "SELECT coalesce(max(id), 0) FROM pipeline.batch")[0][0]
        wal = wal_position(libpq)
        statements: dict[str, float] = {}
        with logged(server, statements) if plan.statements else nullcontext():
            per_second, client, postgres = catch_up(server, relay, arrivals, consumer, plan.frames)
        wal = wal_position(libpq) - wal
        apply = Percentiles.of(
            [row[0] for row in query(libpq, "SELECT apply_ms FROM pipeline.batch WHERE id > %s", last_batch)]
        )
        live = _live(server, database, relay, arrivals, consumer, plan) if plan.live_frames else None
        peak = consumer.peak_megabytes()
    # Who passes frames over is fast. Of several consumers each counts its own.
    frames, rejected = query(libpq, "SELECT sum(frames), sum(rejected) FROM pipeline.batch")[0]
    if rejected or frames != plan.all_frames:
        raise click.ClickException(
            f"The consumer applied {frames:,} of {plan.all_frames:,} frames and rejected {rejected:,} "
            "records: nothing of that is wrong with them, so this is no measurement."
        )
    query(libpq, "ANALYZE")
    sizes = table_sizes(libpq)
    records = query(libpq, "SELECT count(*) FROM bsky.record")[0][0]
    again_per_second = again_cpu = None
    if plan.again:
        # Another relay as far as the database knows, which has no cursor yet, with the frames that are applied.
        with ExitStack() as stack:
            relay = stack.enter_context(RelayProcess(corpus, 0, plan.frames))
            arrivals, consumer = start_consumers(stack, server, database, relay, plan, log)
            again_per_second, again_client, again_postgres = catch_up(server, relay, arrivals, consumer, plan.frames)
            again_cpu = again_client + again_postgres
    return Run(
        commits=plan.frames,
        per_second=per_second,
        client_cpu=client,
        postgres_cpu=postgres,
        wal_bytes=wal / plan.frames,
        apply=apply,
        peak_memory=peak,
        records=records,
        sizes=tuple(sizes),
        statements={name: milliseconds / plan.frames * 1000 for name, milliseconds in statements.items()},
        live=live,
        again_per_second=again_per_second,
        again_cpu=again_cpu,
        warm_up_per_second=warm_up_per_second,
        first_rerun=first_rerun,
    )


def start_consumers(
    stack: ExitStack, server: Server, database: str, relay: RelayProcess, plan: Plan, log: Path
) -> tuple[Arrivals, Consumers]:
    """Starts the consumers and waits until they have nothing to do but to wait for frames."""
    arrivals = stack.enter_context(Arrivals(server.libpq(database), relay.url, plan.consumers))
    common = {
        "APPVIEW_DATABASE_URL": server.url(database),
        "APPVIEW_RELAY_URL": relay.url,
        "APPVIEW_PLC_URL": relay.plc_url,
        "APPVIEW_START_CURSOR": str(relay.start_cursor),
    }
    consumers = [
        stack.enter_context(Consumer(server.side, log.with_name(f"{log.name}{number}"), **common, **own))
        for number, own in enumerate(plan.variables())
    ]
    deadline = time.monotonic() + 60
    while relay.connections() < len(consumers):
        for consumer in consumers:
            consumer.check()
        if time.monotonic() > deadline:
            raise click.ClickException("The consumer does not connect to the simulated relay.")
        time.sleep(0.05)
    time.sleep(1)  # what starting up costs is over
    return arrivals, Consumers(consumers)


def wait_for_seq(arrivals: Arrivals, consumer: Consumers, seq: int) -> None:
    newest, deadline = arrivals.newest, time.monotonic() + PATIENCE
    while newest < seq:
        consumer.check()
        time.sleep(0.02)
        if arrivals.newest > newest:
            newest, deadline = arrivals.newest, time.monotonic() + PATIENCE
        elif time.monotonic() > deadline:
            raise click.ClickException(f"The consumer stands still at seq {newest:,} of {seq:,}.")


def catch_up(
    server: Server, relay: RelayProcess, arrivals: Arrivals, consumer: Consumers, frames: int
) -> tuple[float, float, float]:
    """Commits a second, and the CPU milliseconds a commit of the client and of PostgreSQL."""
    ours = (arrivals.backend,)
    client, postgres = consumer.cpu_seconds(), server.cpu_seconds(ours)
    began, last_seq = relay.publish(frames)
    wait_for_seq(arrivals, consumer, last_seq)
    client, postgres = consumer.cpu_seconds() - client, server.cpu_seconds(ours) - postgres
    first_seq = last_seq - frames
    seen = [(seq - first_seq, at - began) for seq, at in arrivals.seen if seq > first_seq]
    # The last batch waited for more when it is the smaller one.
    if len(seen) > 2 and seen[-1][0] - seen[-2][0] < 0.9 * (seen[-2][0] - seen[-3][0]):
        seen.pop()
    return seen[-1][0] / seen[-1][1], client / frames * 1000, postgres / frames * 1000


def _live(
    server: Server, database: str, relay: RelayProcess, arrivals: Arrivals, consumer: Consumers, plan: Plan
) -> Live:
    libpq = server.libpq(database)
    time.sleep(2)  # the end of catching up
    rerun = None
    if plan.rerun:
        rerun = RerunProcess(server.side, server.url(database))
        rerun.wait_for_its_beginning(10 * PATIENCE)
    last_batch = query(libpq, "SELECT max(id) FROM pipeline.batch")[0][0]
    ours = (arrivals.backend,)
    client, postgres, began = consumer.cpu_seconds(), server.cpu_seconds(ours), time.monotonic()
    rerun_ended = _watch_rerun(rerun)
    marks = relay.pace(plan.live_frames, plan.rate)
    wait_for_seq(arrivals, consumer, marks[-1][0])
    seconds = time.monotonic() - began
    client, postgres = consumer.cpu_seconds() - client, server.cpu_seconds(ours) - postgres
    batches = query(libpq, "SELECT apply_ms FROM pipeline.batch WHERE id > %s", last_batch)
    counted = [(seq, at) for seq, at in marks if at < rerun_ended()] if rerun is not None else marks
    return Live(
        seconds=seconds,
        arrival_to_readable=Percentiles.of([(arrivals.readable_at(seq) - at) * 1000 for seq, at in counted]),
        apply=Percentiles.of([row[0] for row in batches]),
        client_cores=client / seconds,
        postgres_cores=postgres / seconds,
        rerun=rerun.end() if rerun is not None else None,
    )


def _watch_rerun(rerun: RerunProcess | None) -> Callable[[], float]:
    """When (monotonic clock) the rerun had ended; for ever in the future while it runs."""
    ended = [math.inf]

    def watch() -> None:
        while rerun is not None and rerun.is_running:
            time.sleep(0.1)
        ended[0] = time.monotonic()

    if rerun is not None:
        threading.Thread(target=watch, daemon=True).start()
    return lambda: ended[0]
