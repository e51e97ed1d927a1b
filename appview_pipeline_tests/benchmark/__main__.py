"""The command line of the benchmark; docs/benchmarks.md says what is measured and how."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from appview_pipeline.errors import OperatorError
from appview_pipeline_tests.benchmark import reference, report, sides, startup
from appview_pipeline_tests.benchmark.corpus import Corpus, corpus
from appview_pipeline_tests.benchmark.databases import MAX_COPIED, Databases
from appview_pipeline_tests.benchmark.measure import Plan, Run, run
from appview_pipeline_tests.benchmark.report import Result
from appview_pipeline_tests.benchmark.sides import Server, Side
from appview_pipeline_tests.benchmark.stages import stages
from appview_pipeline_tests.conformance.reference import packages

LEVELS = ("structure", "proof", "full")


def _sizes(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size.replace("_", "")) for size in text.split(","))
    except ValueError:
        raise click.BadParameter("numbers of records, separated by commas (0,1000000)") from None


def _levels(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    levels = tuple(text.split(",")) if text else ()
    if wrong := set(levels) - set(LEVELS):
        raise click.BadParameter(f"{', '.join(sorted(wrong))}: the levels are {', '.join(LEVELS)}")
    return levels


@click.command(context_settings={"show_default": True})
@click.option("--quick", is_flag=True, help="About a minute: one run of 20,000 frames into an empty database.")
@click.option("--frames", default=100_000, help="Frames that are caught up with.")
@click.option("--warm-up", default=0, help="Frames that are caught up with before those that are measured.")
@click.option("--prefill", "sizes", default="0,1000000", callback=_sizes, help="Records there before, one series each.")
@click.option("--runs", default=3, help=f"Runs of a series, each on a copy; beyond {MAX_COPIED:,} records one.")
@click.option("--rate", default=500.0, help="Frames a second of the live part.")
@click.option("--live-seconds", default=30.0, help="Length of the live part of the last run; 0: none.")
@click.option("--rerun", is_flag=True, help="Live beside a rerun of everything; also reports its records a second.")
@click.option("--again/--no-again", default=True, help="Also replay what is applied already.")
@click.option("--stages/--no-stages", "with_stages", default=True, help="Also time the client's stages one by one.")
@click.option("--statements", "with_statements", is_flag=True, help="Also report PostgreSQL's time by statement.")
@click.option("--batch-events", type=int, help="APPVIEW_BATCH_EVENTS.  [default: as shipped]")
@click.option("--consumers", default=1, help="Consumers side by side, a shard each (APPVIEW_SHARD).")
@click.option(
    "--verify",
    "levels",
    metavar="LEVEL,...",
    callback=_levels,
    help="A series for each of these levels of APPVIEW_VERIFY, the accounts' keys known.  [default: as shipped; with "
    "--against structure]",
)
@click.option("--small", is_flag=True, hidden=True)  # for tests: small frames, made in no time
@click.option("--history", type=click.Path(dir_okay=False, path_type=Path), default=report.HISTORY, hidden=True)
@click.option("--against", metavar="REVISION", help="Alternate with another revision of the code, on the same frames.")
@click.option("--reference", "with_reference", is_flag=True, help="Compare with the reference indexer (npm).")
@click.option("--reference-frames", default=20_000, help="Frames of that comparison.")
@click.option("--startup", "with_startup", is_flag=True, help="Time `dagster dev` to the first record; its memory.")
@click.option("--record", metavar="REMARK", help="Add a line for each size to docs/benchmarks.md; draw its plot.")
def main(
    quick: bool,
    frames: int,
    warm_up: int,
    sizes: tuple[int, ...],
    runs: int,
    rate: float,
    live_seconds: float,
    rerun: bool,
    again: bool,
    with_stages: bool,
    with_statements: bool,
    batch_events: int | None,
    consumers: int,
    levels: tuple[str, ...],
    small: bool,
    history: Path,
    against: str | None,
    with_reference: bool,
    reference_frames: int,
    with_startup: bool,
    record: str | None,
) -> None:
    """How fast the pipeline indexes (docs/benchmarks.md)."""
    if not Path("/proc/self/stat").exists():
        raise click.ClickException("The benchmark reads CPU and memory from /proc: run it on Linux.")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaves no server behind
    if quick:
        frames, sizes, runs, live_seconds, reference_frames = 20_000, (0,), 1, 10.0, 5_000
    if with_reference:
        try:
            packages.install()  # what is missing is said before anything else takes its time
        except OperatorError as error:
            raise click.ClickException(str(error)) from error
    plan = Plan(frames, again, rate, live_seconds, batch_events, consumers, with_statements, warm_up, rerun)
    began = time.monotonic()
    made = corpus(max(plan.all_frames, reference_frames if with_reference else 0), small=small)
    click.echo(f"{made.frames:,} frames of {made.mean_bytes:,.0f} bytes ({time.monotonic() - began:.0f} s)")
    with sides.scratch() as folder:
        ours = sides.ours(folder / "ours")
        if against:
            # What an older revision does at every level.
            plans = [replace(plan, verify=level) for level in levels or ("structure",)]
            for at_level in plans:
                _compare(
                    ours, sides.other(against, folder / f"other-{at_level.verify}"), made, at_level, sizes, runs, folder
                )
            return
        plans = [replace(plan, verify=level) for level in levels] or [plan]
        results = [result for each in plans for result in _measure(ours, made, each, sizes, runs, folder)]
        if with_reference:
            _compare_with_reference(ours, made, reference_frames, folder)
        if with_startup:
            click.echo("startup")
            click.echo(f"    {startup.measure(ours, made, folder / 'startup', rate=rate)}")
    if with_stages:
        click.echo("stages, microseconds a frame")
        for name, micros in stages(made).items():
            click.echo(f"    {name:<40} {micros:6.1f}")
    for result in results:
        click.echo(report.line(result, record or ""))
    if record:
        click.echo(f"Recorded in {history} and {report.record(results, record, history)}")


def _measure(side: Side, made: Corpus, plan: Plan, sizes: tuple[int, ...], runs: int, folder: Path) -> list[Result]:
    results = []
    with Server(side, folder / f"a-{plan.verify}") as server:
        databases = Databases(server, made, keys=plan.verify is not None)
        for size in sizes:
            _prepare(databases, size)
            count = runs if size <= MAX_COPIED else 1
            measured: list[Run] = []
            for number in range(count):
                level = f", verify {plan.verify}" if plan.verify else ""
                click.echo(f"{report.named(size)}{level}, run {number + 1} of {count}")
                measured.append(_one(databases, size, _for_run(plan, last=number == count - 1), folder))
            click.echo(report.sizes_in_words(measured[-1]))
            results.append(Result(side.name, size, made.mean_bytes, tuple(measured), plan.verify))
    return results


def _for_run(plan: Plan, *, last: bool) -> Plan:
    """The live part takes its time: once in a series."""
    return plan if last else replace(plan, live_seconds=0.0)


def _prepare(databases: Databases, size: int) -> None:
    began = time.monotonic()
    databases.prepare(size)
    if size:
        click.echo(f"{size:,} records prefilled in {time.monotonic() - began:.0f} s ({databases.server.side.name})")


def _one(databases: Databases, size: int, plan: Plan, folder: Path) -> Run:
    with databases.fresh(size) as name:
        measured = run(databases.server, name, databases.corpus, plan, folder / "consumer.log")
    click.echo(report.run_in_words(measured))
    if plan.statements:
        click.echo(report.statements_in_words(measured))
    return measured


def _compare(
    ours: Side, other: Side, made: Corpus, plan: Plan, sizes: tuple[int, ...], runs: int, folder: Path
) -> None:
    """A B A B ...; a side whose turn it is not sits idle beside."""
    plan = replace(plan, again=False, live_seconds=0.0)
    with ExitStack() as stack:
        named = ((ours, f"a-{plan.verify}"), (other, f"b-{plan.verify}"))
        servers = [stack.enter_context(Server(side, folder / name)) for side, name in named]
        pair = [Databases(server, made, keys=True) for server in servers]
        for size in sizes:
            results: list[list[Run]] = [[], []]
            count = runs if size <= MAX_COPIED else 1
            for number in range(count):
                for databases, measured in zip(pair, results, strict=True):
                    _prepare(databases, size)
                    click.echo(f"{report.named(size)}, {databases.server.side.name}, run {number + 1} of {count}")
                    measured.append(_one(databases, size, plan, folder))
            a, b = (
                Result(databases.server.side.name, size, made.mean_bytes, tuple(measured))
                for databases, measured in zip(pair, results, strict=True)
            )
            click.echo(f"{report.named(size)}, medians of {count}")
            click.echo(report.comparison(a, b))


def _compare_with_reference(side: Side, made: Corpus, frames: int, folder: Path) -> None:
    """The reference first, then ours, each into an empty database of the same server."""
    click.echo(f"reference: {frames:,} frames, empty databases")
    with Server(side, folder / "reference") as server:
        theirs = reference.run(server, made, frames, folder / "reference.log")
        click.echo(
            f"    @atproto/bsky {packages.version()}: {theirs.per_second:,.0f} commits/s, CPU {theirs.client_cpu:.3f} "
            f"client + {theirs.postgres_cpu:.3f} PostgreSQL = {theirs.cpu:.3f} ms a commit, "
            f"peak {theirs.peak_memory:,.0f} MB"
        )
        databases = Databases(server, made)
        with databases.fresh(0) as name:
            measured = run(server, name, made, Plan(frames, again=False), folder / "consumer.log")
            our_rows = reference.row_counts(server.libpq(name))
    click.echo(report.run_in_words(measured))
    rows = ", ".join(f"{table} {count:,} / {our_rows[table]:,}" for table, count in theirs.rows.items())
    click.echo(f"    rows, theirs / ours: {rows}")
    click.echo(
        f"    ours is {measured.per_second / theirs.per_second:.1f} times as fast "
        f"with 1/{theirs.cpu / measured.cpu:.1f} of the CPU "
        f"and 1/{theirs.peak_memory / measured.peak_memory:.1f} of the memory"
    )


if __name__ == "__main__":
    main()
