"""What a batch costs as it grows, in CPU: `python -m appview_pipeline_tests.benchmark.growth`.

Each shape of appview_pipeline_tests/properties/growth.py in an empty database of its own, at doubling sizes:
milliseconds of CPU (ours and PostgreSQL's, from /proc) of writing the measured batch, and by how much the last doubling
multiplied them.
"""

from __future__ import annotations

import time

import click

from appview_pipeline.store import migrate
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline_tests.benchmark.processes import cpu_seconds
from appview_pipeline_tests.properties.growth import SHAPES, Measured
from appview_pipeline_tests.support.database import memory_folder, run_sql
from appview_pipeline_tests.support.tables import fresh_database, one

TEMPLATE = "growth"


def cpu_milliseconds(database: Database, shape: str, n: int) -> float:
    """CPU time of writing the batch of a shape with n events."""
    measured = Measured(database)
    story = SHAPES[shape](n)
    measured.prepare(story)
    changes = measured.changes(story.batch)
    with database.connect("writer") as connection:
        backend = connection.info.backend_pid
    before = time.process_time(), cpu_seconds(backend)
    measured.write_changes(changes)
    return (time.process_time() - before[0] + cpu_seconds(backend) - before[1]) * 1000


@click.command()
@click.option(
    "--sizes", default="500,1000,2000,4000", show_default=True, help="Events of a batch, separated by commas."
)
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)), help="Only these shapes.")
@click.option("--runs", default=1, show_default=True, help="Runs of each; the least CPU counts.")
def main(sizes: str, shapes: tuple[str, ...], runs: int) -> None:
    """Measures how the CPU of a batch grows with its size."""
    counts = [int(size) for size in sizes.split(",")]
    with ephemeral(parent=memory_folder()) as server:
        run_sql(server, f'CREATE DATABASE "{TEMPLATE}"')
        migrate.upgrade(server.url(TEMPLATE))
        run_sql(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", TEMPLATE)
        click.echo(f"| shape | {' | '.join(f'{count:,}' for count in counts)} | last doubling |")
        click.echo("|---|" + "---:|" * (len(counts) + 1))
        for shape in shapes or SHAPES:
            costs = []
            for count in counts:
                found = []
                for _ in range(runs):
                    with fresh_database(server, TEMPLATE) as database:
                        found.append(cpu_milliseconds(database, shape, count))
                        assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 0
                costs.append(min(found))
            growth = costs[-1] / costs[-2] if len(costs) > 1 else 1.0
            click.echo(f"| {shape} | {' | '.join(f'{cost:,.0f}' for cost in costs)} | {growth:.2f} |")


if __name__ == "__main__":
    main()
