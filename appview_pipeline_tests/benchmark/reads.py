"""How fast the reference's reads are on our database, and what plans they get (docs/benchmarks.md, "Reads").

    python -m appview_pipeline_tests.benchmark.reads --records 1000000

Fills a database of ours, copies its rows into one with the schema and the indexes that the reference's own migrator
makes, on the same server, and calls every read of the reference's data plane on both by turns.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psycopg2

from appview_pipeline.store import migrate
from appview_pipeline_tests.benchmark import reads_world, reads_writing, sides
from appview_pipeline_tests.benchmark.corpus import corpus
from appview_pipeline_tests.benchmark.databases import query
from appview_pipeline_tests.benchmark.reads_calls import Call, calls
from appview_pipeline_tests.benchmark.reads_http import Pages, asked_for, beside_writing, pages
from appview_pipeline_tests.benchmark.reads_plans import SEARCH_PATH, Plan, explained, rendered
from appview_pipeline_tests.benchmark.reads_process import DataPlane
from appview_pipeline_tests.benchmark.reads_world import Subjects, subjects
from appview_pipeline_tests.benchmark.sides import Server
from appview_pipeline_tests.conformance.reference import packages
from appview_pipeline_tests.conformance.reference.check import run_reference_migrator
from appview_pipeline_tests.support.checkout import CHECKOUT

OURS, THEIRS = "reads_ours", "reads_theirs"
MIN_ROUNDS, MAX_ROUNDS = 3, 25


@dataclass(frozen=True)
class Side:
    """A read on one database: the median of its calls in milliseconds, and the plans of its statements."""

    ms: float
    plans: tuple[Plan, ...]

    @property
    def pages(self) -> int:
        """Pages of tables and indexes that its statements touched."""
        return sum(plan.pages for plan in self.plans)

    @property
    def whole_tables(self) -> set[str]:
        """The tables that it reads from end to end."""
        return set().union(*(plan.whole_tables for plan in self.plans))

    @property
    def indexes(self) -> set[str]:
        """The indexes that it uses."""
        return set().union(*(plan.indexes for plan in self.plans))


@dataclass(frozen=True)
class Compared:
    """A read on both databases. `ratio`: ours by theirs, the median of the pairs; `error`: it fails on both alike;
    `equal`: whether the whole answers are (equal keys, or lots, may come in any order)."""

    call: Call
    items: int
    ours: Side
    theirs: Side
    ratio: float
    error: str | None
    equal: bool


def compare(plane: DataPlane, connections: Mapping[str, psycopg2.extensions.connection], call: Call,
            seconds: float) -> Compared:  # fmt: skip
    """Calls a read on both databases by turns, A B B A, for about `seconds`, and explains its statements on both."""
    first = {name: plane.call(name, call, statements=True) for name in connections}
    ours, theirs = (first[name] for name in (OURS, THEIRS))
    if (ours.error, ours.items) != (theirs.error, theirs.items):
        raise click.ClickException(f"{call.name} answers differently: {ours} and {theirs}")
    plans = {}
    for name, connection in connections.items():
        with connection.cursor() as cursor:
            statements = [rendered(text, values, cursor) for text, values in first[name].statements]
        plans[name] = tuple(explained(connection, statement, analyze=True) for statement in statements)
    taken: dict[str, list[float]] = {OURS: [], THEIRS: []}
    deadline = time.monotonic() + seconds
    while len(taken[OURS]) < 2 * MIN_ROUNDS or (len(taken[OURS]) < 2 * MAX_ROUNDS and time.monotonic() < deadline):
        for name in (OURS, THEIRS, THEIRS, OURS):
            taken[name].append(plane.call(name, call).ms)
    return Compared(
        call=call,
        items=ours.items,
        ours=Side(statistics.median(taken[OURS]), plans[OURS]),
        theirs=Side(statistics.median(taken[THEIRS]), plans[THEIRS]),
        ratio=statistics.median(a / b for a, b in zip(taken[OURS], taken[THEIRS], strict=True)),
        error=ours.error,
        equal=ours.digest == theirs.digest,
    )


def table(found: Sequence[Compared]) -> Iterator[str]:
    """The lines of a table of Markdown."""
    yield "| read | items | ms ours | ms theirs | ratio | pages ours | pages theirs | indexes | read from end to end |"
    yield "|---|---:|---:|---:|---:|---:|---:|---|---|"
    for one in found:
        indexes = ", ".join(sorted(one.ours.indexes))
        if other := sorted(one.theirs.indexes - one.ours.indexes):
            indexes += f" (theirs: {', '.join(other)})"
        whole = ", ".join(sorted(one.ours.whole_tables))
        if one.theirs.whole_tables != one.ours.whole_tables:
            whole += f" (theirs: {', '.join(sorted(one.theirs.whole_tables)) or 'none'})"
        yield (
            f"| {one.call.name} | {one.items} | {one.ours.ms:.2f} | {one.theirs.ms:.2f} | {one.ratio:.2f} "
            f"| {one.ours.pages:,} | {one.theirs.pages:,} | {indexes} | {whole} |"
        )


def prepare(server: Server, records: int, locale: str | None, *, small: bool) -> None:
    """Makes both databases on the server, where they are not there yet. Theirs sorts by `locale`, or else by byte."""
    existing = {name for (name,) in query(server.libpq("postgres"), "SELECT datname FROM pg_database")}
    if OURS not in existing:
        began = time.monotonic()
        query(server.libpq("postgres"), f"CREATE DATABASE {OURS}")
        migrate.upgrade(server.url(OURS))
        reads_world.fill(server.libpq(OURS), corpus(400, small=small), records)
        click.echo(f"ours filled in {time.monotonic() - began:.0f} s")
    else:
        migrate.upgrade(server.url(OURS))  # kept by an earlier revision
    if THEIRS not in existing:
        began = time.monotonic()
        provider = f"LOCALE_PROVIDER libc LOCALE '{locale}'" if locale else ""
        query(server.libpq("postgres"), f"CREATE DATABASE {THEIRS} TEMPLATE template0 {provider}")
        run_reference_migrator(packages.install(), server.url(THEIRS))
        rows = reads_world.copy_rows(server.libpq(OURS), server.libpq(THEIRS))
        reads_world.settle([server.libpq(OURS), server.libpq(THEIRS)])
        click.echo(f"theirs copied in {time.monotonic() - began:.0f} s: {rows['record']:,} records")


@contextmanager
def explaining(server: Server) -> Iterator[dict[str, psycopg2.extensions.connection]]:
    """A connection to each database that plans as the data plane's do."""
    with ExitStack() as stack:
        found = {}
        for name in (OURS, THEIRS):
            found[name] = stack.enter_context(closing(psycopg2.connect(server.libpq(name))))
            found[name].autocommit = True
            with found[name].cursor() as cursor:
                cursor.execute(SEARCH_PATH)
        yield found


def measure(server: Server, folder: Path, wanted: Sequence[Call], seconds: float) -> list[Compared]:
    """Compares the reads; says each that takes a second."""
    urls = {name: server.url(name) for name in (OURS, THEIRS)}
    with DataPlane(packages.install(), urls, folder / "reads.log") as plane, explaining(server) as connections:
        return [compare(plane, connections, call, seconds) for call in wanted]


@click.command(context_settings={"show_default": True})
@click.option("--records", default=1_000_000, help="Records in the database.")
@click.option("--seconds", default=1.0, help="Time for each read; at least three rounds are run.")
@click.option("--only", default="", help="Only reads, and pages of the HTTP API, whose name contains this.")
@click.option("--http-seconds", default=20.0, help="Time for the pages of the HTTP API on each side; 0: none.")
@click.option(
    "--while-writing",
    default=0.0,
    help="Seconds of writing beside which all reads are taken again, on ours and on their indexes; 0: none.",
)
@click.option("--rate", default=1000.0, help="Events a second that the pipeline writes meanwhile; 0: none.")
@click.option("--locale", help="Their database sorts by this locale of the machine.  [default: by byte, as ours]")
@click.option("--folder", type=click.Path(path_type=Path), help="Keeps the server's data here, and uses it again.")
@click.option("--json", "to_json", type=click.Path(path_type=Path), help="Writes all figures and plans to this file.")
@click.option("--small", is_flag=True, hidden=True)  # for tests
def main(
    records: int, seconds: float, only: str, http_seconds: float, while_writing: float, rate: float,
    locale: str | None, folder: Path | None, to_json: Path | None, small: bool,
) -> None:  # fmt: skip
    """Compares the reads on our database with those on the reference's index set."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaves no server behind
    with ExitStack() as stack:
        kept = folder or stack.enter_context(sides.scratch())
        side = sides.Side(sides.revision(), CHECKOUT)
        server = stack.enter_context(Server(side, kept / "server"))
        prepare(server, records, locale, small=small)
        asked = subjects(server.libpq(OURS))
        wanted = [call for call in calls(asked) if only in call.name]
        if seconds:
            found = measure(server, kept, wanted, seconds)
            click.echo("\n".join(table(found)))
            others = [one.call.name for one in found if not one.equal]
            click.echo(f"\nThe whole answer is equal in {len(found) - len(others)} of {len(found)}; not: {others}.")
            if to_json:
                to_json.write_text(json.dumps([asdict(one) for one in found], indent=1, default=list))
        if while_writing:
            # Half of the rate for each of the two databases that are written to.
            written = reads_writing.beside_writing(
                server, (OURS, THEIRS), kept, wanted, while_writing, rate / 2, small=small
            )
            click.echo("\n".join(reads_writing.table(written)))
            both_sides = [written.taken[name] for name in (reads_writing.OURS, reads_writing.THEIRS)]
            click.echo(f"\nGrown without bound: {reads_writing.grown(both_sides[0])}.")
            click.echo(f"More pages than on their indexes: {reads_writing.worse(*both_sides)}.")
            if to_json:
                beside = to_json.with_suffix(".writing.json")
                beside.write_text(json.dumps(asdict(written), indent=1, default=list))
        if http_seconds and any(only in page for page in asked_for(asked)):
            for line in pages_table(server, kept, asked, http_seconds, rate, only, small=small):
                click.echo(line)


def pages_table(
    server: Server, folder: Path, asked: Subjects, seconds: float, rate: float, only: str, *, small: bool
) -> Iterator[str]:
    """The pages of the HTTP API as a table of Markdown: by turns on both databases, alone and beside the writing."""
    measured: list[dict[str, Pages]] = [
        pages({name: server.url(name) for name in (OURS, THEIRS)}, folder, asked, seconds, only)
    ]
    heads = ["ours, ms", "95 %", "theirs, ms", "95 %"]
    if rate:
        measured.append(beside_writing(server, (OURS, THEIRS), folder, asked, seconds, rate / 2, only, small=small))
        heads += ["ours, beside writing", "95 %", "their indexes, beside writing", "95 %"]
        events = [f"{side.events:,.0f}" for side in measured[1].values()]
        yield f"\nBeside {' and '.join(events)} events/s that were written:"
    shown = [side for both in measured for side in both.values()]
    yield "\n| page | asked | " + " | ".join(heads) + " |"
    yield "|---|---:" + "|---:" * len(heads) + "|"
    for page in shown[0].ms:
        figures = [f"{each:.1f}" for side in shown for each in side.of(page)]
        yield f"| {page} | {len(shown[0].ms[page])} | " + " | ".join(figures) + " |"


if __name__ == "__main__":
    main()
