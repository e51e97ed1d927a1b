"""The reads beside the pipeline's writing, on our indexes and on the reference's (docs/benchmarks.md, "Reads").

Each read is taken in four states of the same two databases: before anything is written (`alone`), while the pipeline
writes to both (`beside`), when it has stopped (`stopped`), and when all tables and indexes are written anew
(`renewed`). From `alone` to `renewed` a read changes by what was written; from `renewed` to `stopped` by what writing
leaves behind: dead rows and dead entries of indexes, pages half full, pages that index-only scans can't trust, other
samples of statistics; from `stopped` to `beside` by what works at the same time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import click
import psycopg2
from psycopg2.extensions import connection as Connection

from appview_pipeline_tests.benchmark import processes, reads_world
from appview_pipeline_tests.benchmark.corpus import corpus
from appview_pipeline_tests.benchmark.databases import Arrivals, query
from appview_pipeline_tests.benchmark.measure import Plan as WritingPlan
from appview_pipeline_tests.benchmark.measure import start_consumers, wait_for_seq
from appview_pipeline_tests.benchmark.prefill import flush
from appview_pipeline_tests.benchmark.reads_calls import Call
from appview_pipeline_tests.benchmark.reads_plans import SEARCH_PATH, drop_index, explained, rendered
from appview_pipeline_tests.benchmark.reads_process import DataPlane
from appview_pipeline_tests.benchmark.relay import RelayProcess
from appview_pipeline_tests.benchmark.sides import Consumers, Server
from appview_pipeline_tests.conformance.reference import packages

OURS, THEIRS = "reads_written", "reads_written_theirs"
STATES = ("alone", "beside", "stopped", "renewed")
ROUNDS = 3
"""Rounds in each state; beside writing, which has more, the last ones count."""
REPEATS = 3
"""Times that a statement is run in a round, of which the median counts."""
BESIDE = 10
"""Rounds beside writing, spread over the time."""
SPARE_SECONDS = 120.0
"""How long the relay goes on after the time: the last round must end beside the writing."""
NOISE = 16
"""Pages more than which a read must grow by to count: a small read touches a page more when an index grows."""


@dataclass(frozen=True)
class Sample:
    """A read's statements, run once: milliseconds altogether, of the server process on a processor (`cpu`) and waiting
    for one (`waited`); pages of tables and indexes that they touched; rows that index-only scans had to look up in
    their table; and what the plans read, in their order: indexes, or tables from end to end."""

    ms: float
    cpu: float
    waited: float
    pages: int
    heap_fetches: int
    plan: tuple[str, ...]


@dataclass
class Taken:
    """The samples of a read on one database: by state, one for each round."""

    call: Call
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {state: [] for state in STATES})

    def median(self, state: str, figure: Callable[[Sample], float]) -> float:
        """Of the last rounds of a state."""
        return statistics.median(figure(sample) for sample in self.samples[state][-ROUNDS:])

    def pages(self, state: str) -> float:
        """Pages that the read touches in a state."""
        return self.median(state, lambda sample: sample.pages)

    def cpu(self, state: str) -> float:
        """Its CPU time in a state, in milliseconds."""
        return self.median(state, lambda sample: sample.cpu)

    @property
    def left_behind(self) -> float:
        """Pages that it touches because of what writing has left behind."""
        return self.pages("beside") - self.pages("renewed")

    def plan(self, state: str) -> tuple[str, ...]:
        """What its plans read in the last round of a state."""
        return self.samples[state][-1].plan


@dataclass(frozen=True)
class Writing:
    """The pipeline at work on several databases, by name; one relay offers them its `frames`."""

    relay: RelayProcess
    consumers: Mapping[str, tuple[Arrivals, Consumers]]
    began: float

    def check(self) -> None:
        """Raises ClickException where one of its processes has ended."""
        for _, consumer in self.consumers.values():
            consumer.check()

    @property
    def is_over(self) -> bool:
        """Whether all frames are written to one of the databases: nothing is measured beside it any more."""
        return any(arrivals.newest >= self.relay.last_seq for arrivals, _ in self.consumers.values())

    def events(self) -> dict[str, float]:
        """Events a second that were written to each database so far."""
        elapsed = time.monotonic() - self.began
        return {
            name: (max(arrivals.newest, self.relay.start_cursor) - self.relay.start_cursor) / elapsed
            for name, (arrivals, _) in self.consumers.items()
        }


@dataclass(frozen=True)
class Written:
    """What was measured: the samples by database, events a second that each was written, and by database the tables
    with their dead rows, share of updates that stayed on their page (HOT), and how often autovacuum came."""

    taken: dict[str, list[Taken]]
    events: dict[str, float]
    tables: dict[str, list[tuple[str, int, int, float, int, int]]]


def sample(connection: Connection, statements: Sequence[str]) -> Sample:
    """Runs the statements of a read, and explains them."""
    runs = []
    with connection.cursor() as cursor:
        for _ in range(REPEATS):
            before, began = processes.scheduled(connection.info.backend_pid), time.monotonic()
            for statement in statements:
                cursor.execute(statement)
                cursor.fetchall()
            ms, after = (time.monotonic() - began) * 1000, processes.scheduled(connection.info.backend_pid)
            runs.append((ms, after.cpu - before.cpu, after.waited - before.waited))
    plans = [explained(connection, statement, analyze=True) for statement in statements]
    ms, cpu, waited = (statistics.median(figures) for figures in zip(*runs, strict=True))
    return Sample(
        ms=ms,
        cpu=cpu * 1000,
        waited=waited * 1000,
        pages=sum(plan.pages for plan in plans),
        heap_fetches=sum(plan.heap_fetches for plan in plans),
        plan=tuple(access.index or access.table for plan in plans for access in plan.accesses),
    )


def take_round(
    plane: DataPlane, connections: Mapping[str, Connection], found: Mapping[str, list[Taken]], state: str
) -> None:
    """Takes a sample of every read on every database, by turns. The statements are those that the data plane sends
    now: some hold what an earlier one of the same read has found."""
    names = list(connections)
    for number in range(len(found[names[0]])):
        for name in names if number % 2 else reversed(names):
            one, connection = found[name][number], connections[name]
            answered = plane.call(name, one.call, statements=True)
            with connection.cursor() as cursor:
                statements = [rendered(text, values, cursor) for text, values in answered.statements]
            one.samples[state].append(sample(connection, statements))


def use_their_indexes(ours: str, theirs: str) -> tuple[list[str], list[str]]:
    """Gives a database of ours (libpq) the index set of the reference's in schema bsky. Those of our indexes stay that
    are unique, or begin with a column with which none of theirs begins: the write path needs them, and would read whole
    tables. Returns the names of those that it drops, and of those that it creates."""
    statement = """
        SELECT relname, indisunique, indrelid::regclass::text, indkey[0], pg_get_indexdef(indexrelid)
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE relnamespace = 'bsky'::regnamespace AND relkind = 'i'"""
    column = """
        SELECT attrelid::regclass::text, attnum, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE relnamespace = 'bsky'::regnamespace AND relkind = 'r' AND attnum > 0"""

    def first_columns(libpq: str) -> dict[str, tuple[str, str]]:
        names = {(table, number): name for table, number, name in query(libpq, column)}
        return {
            index: (table, names.get((table, number), "")) for index, _, table, number, _ in query(libpq, statement)
        }

    entered = set(first_columns(theirs).values())
    wanted = {name: definition for name, _, _, _, definition in query(theirs, statement)}
    unique = {name for name, is_unique, *_ in query(ours, statement) if is_unique}
    columns = first_columns(ours)
    extra = sorted(name for name in columns if name not in wanted and name not in unique and columns[name] in entered)
    missing = sorted(set(wanted) - set(columns))
    with closing(psycopg2.connect(ours)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL maintenance_work_mem = '512MB'")
        for name in extra:
            drop_index(cursor, name)
        for name in missing:
            cursor.execute(wanted[name])
    return extra, missing


@contextmanager
def copies(server: Server, ours: str, theirs: str) -> Iterator[None]:
    """The two databases that are written to: copies of `ours`, the second with the indexes of `theirs`."""
    maintenance = server.libpq("postgres")

    def drop() -> None:
        for name in (OURS, THEIRS):
            query(maintenance, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    drop()
    try:
        for name in (OURS, THEIRS):
            query(maintenance, f"CREATE DATABASE {name} TEMPLATE {ours} STRATEGY file_copy")
        dropped, made = use_their_indexes(server.libpq(THEIRS), server.libpq(theirs))
        click.echo(f"On their indexes: without {dropped}, with {made}.")
        flush(server.libpq("postgres"))
        yield
    finally:
        drop()


@contextmanager
def writing(server: Server, folder: Path, seconds: float, rate: float, *, small: bool) -> Iterator[Writing]:
    """The pipeline writes `rate` events a second to each of the two copies, for `seconds` and some more."""
    frames = int(rate * (seconds + SPARE_SECONDS))
    with ExitStack() as stack:
        relay = stack.enter_context(RelayProcess(corpus(frames, small=small), 0, frames))
        consumers = {
            name: start_consumers(stack, server, name, relay, WritingPlan(frames), folder / f"{name}.log")
            for name in (OURS, THEIRS)
        }
        relay.begin_pace(frames, rate)
        began = time.monotonic()
        for arrivals, consumer in consumers.values():
            wait_for_seq(arrivals, consumer, relay.start_cursor + 1)
        yield Writing(relay, consumers, began)


def written_tables(libpq: str) -> list[tuple[str, int, int, float, int, int]]:
    """Tables of schema bsky: rows, dead rows, the share of updates that were HOT, visits of autovacuum to vacuum and
    to analyze."""
    statement = """
        SELECT relname, n_live_tup, n_dead_tup, coalesce(n_tup_hot_upd::float8 / nullif(n_tup_upd, 0), 1),
            autovacuum_count, autoanalyze_count
        FROM pg_stat_user_tables
        WHERE schemaname = 'bsky' AND (n_dead_tup > 0 OR autoanalyze_count > 0)
        ORDER BY n_dead_tup DESC, relname"""
    return [(str(a), int(b), int(c), float(d), int(e), int(f)) for a, b, c, d, e, f in query(libpq, statement)]


@contextmanager
def asking(server: Server, folder: Path) -> Iterator[tuple[DataPlane, dict[str, Connection]]]:
    """The data plane on both copies, and connections to them that plan as its own."""
    urls = {name: server.url(name) for name in (OURS, THEIRS)}
    with ExitStack() as stack:
        plane = stack.enter_context(DataPlane(packages.install(), urls, folder / "written.log"))
        connections = {}
        for name in urls:
            connections[name] = stack.enter_context(closing(psycopg2.connect(server.libpq(name))))
            connections[name].autocommit = True
            with connections[name].cursor() as cursor:
                cursor.execute(SEARCH_PATH)
        yield plane, connections


def beside_writing(
    server: Server, between: tuple[str, str], folder: Path, wanted: Sequence[Call], seconds: float, rate: float,
    *, small: bool,
) -> Written:  # fmt: skip
    """Takes the reads before, beside and after `seconds` in which the pipeline writes `rate` events a second to each
    of two copies of our database; `between` names ours and theirs, which stay as they are."""
    found = {name: [Taken(call) for call in wanted] for name in (OURS, THEIRS)}
    events: dict[str, float] = {}
    with copies(server, *between):
        with asking(server, folder) as (plane, connections):
            for _ in range(ROUNDS):
                take_round(plane, connections, found, "alone")
            with writing(server, folder, seconds, rate, small=small) as at_work:
                for number in range(1, BESIDE + 1):
                    time.sleep(max(0.0, at_work.began + seconds * number / BESIDE - time.monotonic()))
                    take_round(plane, connections, found, "beside")
                    at_work.check()
                    if at_work.is_over:  # on a machine that has other work
                        for one in [*found[OURS], *found[THEIRS]]:
                            one.samples["beside"].pop()
                        break
                    events = at_work.events()
            if not found[OURS][0].samples["beside"]:
                raise click.ClickException("The pipeline wrote all frames before a round was taken: lower --rate.")
            tables = {name: written_tables(server.libpq(name)) for name in found}
            for _ in range(ROUNDS):
                take_round(plane, connections, found, "stopped")
        reads_world.settle([server.libpq(name) for name in found])
        with asking(server, folder) as (plane, connections):
            for _ in range(ROUNDS):
                take_round(plane, connections, found, "renewed")
    return Written(found, events, tables)


def table(found: Written) -> Iterator[str]:
    """The lines of Markdown tables: every read, those first that touch the most pages for what writing has left
    behind; then the tables that were written to."""
    ours, theirs = found.taken[OURS], found.taken[THEIRS]
    yield f"\nBeside {found.events[OURS]:,.0f} events/s on ours and {found.events[THEIRS]:,.0f} on their indexes:\n"
    yield (
        "| read | pages alone | first round beside | beside | renewed | theirs beside | renewed | heap fetches | "
        "CPU ms alone | beside | stopped | renewed | theirs beside | ms beside | of it waiting for a processor | plan |"
    )
    yield "|---|" + "---:|" * 14 + "---|"
    for one, other in sorted(zip(ours, theirs, strict=True), key=lambda pair: pair[0].left_behind, reverse=True):
        pages = [one.pages("alone"), one.samples["beside"][0].pages, one.pages("beside"), one.pages("renewed"),
                 other.pages("beside"), other.pages("renewed"),
                 one.median("beside", lambda each: each.heap_fetches)]  # fmt: skip
        times = [*map(one.cpu, STATES), other.cpu("beside"),
                 one.median("beside", lambda each: each.ms),
                 one.median("beside", lambda each: each.waited)]  # fmt: skip
        changed = "; ".join(
            f"{state}: {', '.join(one.plan(state))}" for state in STATES[1:] if one.plan(state) != one.plan("alone")
        )
        yield (
            f"| {one.call.name} | " + " | ".join(f"{each:,.0f}" for each in pages) + " | "
            + " | ".join(f"{each:.2f}" for each in times) + f" | {changed} |"
        )  # fmt: skip
    for name in (OURS, THEIRS):
        yield f"\n{name}:\n"
        yield "| table | rows | dead | HOT | vacuumed | analyzed |"
        yield "|---|---:|---:|---:|---:|---:|"
        for table_name, rows, dead, hot, vacuumed, analyzed in found.tables[name]:
            yield f"| {table_name} | {rows:,} | {dead:,} | {hot:.0%} | {vacuumed} | {analyzed} |"


def grown(found: Sequence[Taken]) -> list[str]:
    """The reads whose pages grew without bound beside writing, by the same plan: half more, and `NOISE` more, than at
    first and than the same rows take when they are written anew. Where a round took fewer than the one before,
    autovacuum keeps up."""
    names = []
    for one in found:
        rounds = [each.pages for each in one.samples["beside"]]
        usual = max(statistics.median(rounds[:ROUNDS]), one.pages("renewed"))
        rising = all(after > before - NOISE for before, after in pairwise(rounds))
        same_plan = one.plan("beside") == one.plan("renewed")
        if rising and same_plan and one.pages("beside") > max(1.5 * usual, usual + NOISE):
            names.append(one.call.name)
    return names


def worse(ours: Sequence[Taken], theirs: Sequence[Taken]) -> list[str]:
    """The reads that take half more pages, and `NOISE` more, beside writing on our indexes than on the reference's."""
    return [
        one.call.name
        for one, other in zip(ours, theirs, strict=True)
        if one.pages("beside") > max(1.5 * other.pages("beside"), other.pages("beside") + NOISE)
    ]
