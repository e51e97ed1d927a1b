"""What the adoption of a database of the reference costs, step by step (docs/serve.md, "Time and room").

    python -m appview_pipeline_tests.benchmark.adoption --records 1000000 --processes 1 --processes 2

Fills a database with the schema of the reference's own migrator (benchmark/reads.py says with what), and takes a copy
of it over for each number of processes. `--statements` says where PostgreSQL's time goes.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from appview_pipeline.operations.adopting import adopt
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import open_database
from appview_pipeline_tests.benchmark import reads, sides, statements
from appview_pipeline_tests.benchmark.databases import query
from appview_pipeline_tests.benchmark.sides import Server
from appview_pipeline_tests.support.checkout import CHECKOUT


@dataclass(frozen=True)
class Step:
    """What a step cost: seconds, CPU seconds of the processes and of all of PostgreSQL, and the database's bytes and
    log afterwards."""

    name: str
    seconds: float
    client: float
    server: float
    size: int
    wal: int


class _Steps(logging.Handler):
    """Notes what has been used whenever the adoption says that it begins a step."""

    def __init__(self, server: Server, database: str) -> None:
        super().__init__()
        self._server, self._database = server, database
        self._name: str | None = None
        self._before = self._used()
        self.found: list[Step] = []

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("step "):
            self.end()
            self._name = str(record.args[2]) if isinstance(record.args, tuple) else None

    def end(self) -> None:
        """Ends the step under way."""
        now, before = self._used(), self._before
        if self._name is not None:
            seconds, client, server, _, wal = (a - b for a, b in zip(now, before, strict=True))
            self.found.append(Step(self._name, seconds, client, server, size=int(now[3]), wal=int(wal)))
        self._before = self._used()

    def _used(self) -> tuple[float, float, float, float, float]:
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        asked = query(
            self._server.libpq("postgres"),
            f"SELECT pg_database_size('{self._database}'), pg_current_wal_lsn() - '0/0'::pg_lsn",
        )
        size, wal = asked[0]
        client = sum(it.ru_utime + it.ru_stime for it in both)
        return time.monotonic(), client, self._server.cpu_seconds(), float(size), float(wal)


def measure(server: Server, source: str, processes: int) -> tuple[list[Step], dict[str, int]]:
    """Takes a copy of the database `source` over. Returns its steps, and what was done. The copy is dropped."""
    copy = f"adopted_{processes}"
    for statement in (f"DROP DATABASE IF EXISTS {copy}", f"CREATE DATABASE {copy} TEMPLATE {source}", "CHECKPOINT"):
        query(server.libpq("postgres"), statement)
    # The rows were copied with their ids, which the sequence does not know.
    query(
        server.libpq(copy),
        "SELECT setval(pg_get_serial_sequence('bsky.notification', 'id'), max(id)) FROM bsky.notification",
    )
    settings = Settings(database_url=server.url(copy))
    log = logging.getLogger("appview_pipeline.operations.adopting")
    level, steps = log.level, _Steps(server, copy)
    log.setLevel(logging.INFO)
    log.addHandler(steps)
    database = open_database(settings, migrate=False, check=False)
    try:
        summary = adopt(settings, database, processes=processes, watch=False)
        steps.end()
    finally:
        log.removeHandler(steps)
        log.setLevel(level)
        database.close()
    query(server.libpq("postgres"), f"DROP DATABASE {copy}")
    return steps.found, dict(summary.adoption.counts)


def table(found: list[Step]) -> Iterator[str]:
    """The lines of a table of Markdown."""
    yield "| step | seconds of CPU, client + PostgreSQL | seconds | database afterwards | log |"
    yield "|---|---:|---:|---:|---:|"
    for step in found:
        yield (
            f"| {step.name} | {step.client:.1f} + {step.server:.1f} = {step.client + step.server:.1f} "
            f"| {step.seconds:.1f} | {step.size / 1e6:,.0f} MB | {step.wal / 1e6:,.0f} MB |"
        )
    client, server = sum(it.client for it in found), sum(it.server for it in found)
    yield (
        f"| all | {client:.1f} + {server:.1f} = {client + server:.1f} | {sum(it.seconds for it in found):.1f} | "
        f"| {sum(it.wal for it in found) / 1e6:,.0f} MB |"
    )


@click.command(context_settings={"show_default": True})
@click.option("--records", default=1_000_000, help="Records in the database.")
@click.option("--processes", "numbers", multiple=True, default=(1,), type=int, help="May be repeated: a run for each.")
@click.option("--statements", "by_statement", is_flag=True, help="Also PostgreSQL's time by statement.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keeps the server's data here, and uses it again.")
@click.option("--json", "to_json", type=click.Path(path_type=Path), help="Writes all figures to this file.")
@click.option("--small", is_flag=True, hidden=True)  # for tests
def main(
    records: int, numbers: tuple[int, ...], by_statement: bool, folder: Path | None, to_json: Path | None, small: bool,
) -> None:  # fmt: skip
    """Measures the adoption of a database that the reference could have filled."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaves no server behind
    with ExitStack() as stack:
        kept = folder or stack.enter_context(sides.scratch())
        server = stack.enter_context(Server(sides.Side(sides.revision(), CHECKOUT), kept / "server"))
        reads.prepare(server, records, None, small=small)
        figures = {}
        for processes in numbers:
            spent: dict[str, float] = {}
            with ExitStack() as logged:
                if by_statement:
                    logged.enter_context(statements.logged(server, spent))
                steps, counts = measure(server, reads.THEIRS, processes)
            click.echo(f"\n{processes} processes: {counts}\n")
            click.echo("\n".join(table(steps)))
            for name, milliseconds in list(spent.items())[:40]:
                click.echo(f"{milliseconds / 1000:>9.2f} s  {name}")
            figures[processes] = {"steps": [asdict(step) for step in steps], "counts": counts}
        if to_json:
            to_json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
