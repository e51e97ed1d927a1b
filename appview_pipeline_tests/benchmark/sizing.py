"""How many bytes rows take, by table and by kind of record: the figures of docs/sizing.md.

    python -m appview_pipeline_tests.benchmark.sizing --records 1000000

Fills a database as the benchmark does (prefill.sql: real lengths and randomness, all indexes in place), and divides the
sizes of its tables by their rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import click

from appview_pipeline.store import migrate
from appview_pipeline.store.database_url import libpq_url
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline_tests.benchmark.corpus import corpus
from appview_pipeline_tests.benchmark.databases import TableSize, query, table_sizes
from appview_pipeline_tests.benchmark.prefill import prefill
from appview_pipeline_tests.conformance.reference import check

KINDS: Mapping[str, Mapping[str, float]] = {
    "like": {"bsky.like": 1, "bsky.notification": 1},
    "post": {"bsky.post": 1, "bsky.post_agg": 1, "bsky.feed_item": 1, "bsky.notification": 0.5},
    "repost": {"bsky.repost": 1, "bsky.feed_item": 1, "bsky.notification": 1},
    "follow": {"bsky.follow": 1, "bsky.notification": 1},
    "block": {"bsky.actor_block": 1},
}
"""Rows that a record of each kind has besides its own in bsky.record. Of posts about half answer others."""

ACCOUNT = ("bsky.actor", "bsky.profile", "bsky.profile_agg", "pipeline.repo", "pipeline.identity")
"""Tables with a row for each account."""


@dataclass(frozen=True)
class Sizing:
    """Bytes with indexes: of a row by table, of a record by kind with all its rows, of an account without records."""

    tables: Mapping[str, TableSize]
    kinds: Mapping[str, float]
    account: float
    record: float


def bytes_a_row(size: TableSize) -> float:
    """Bytes of one row with its indexes; 0 where there is none."""
    return (size.table + size.index) / size.rows if size.rows else 0.0


def measure(libpq: str) -> Sizing:
    """Measures a database that is filled and analyzed."""
    tables = {size.name: size for size in table_sizes(libpq)}
    rows = {name: bytes_a_row(size) for name, size in tables.items()}
    stored = query(
        libpq,
        "SELECT split_part(split_part(uri, '/', 4), '.', 4), count(*), avg(pg_column_size(r)) "
        "FROM bsky.record r GROUP BY 1",
    )
    mean = sum(count * float(size) for _, count, size in stored) / sum(count for _, count, _ in stored)
    of_record = {kind: rows["bsky.record"] + float(size) - mean for kind, _, size in stored}
    kinds = {
        kind: of_record[kind] + sum(share * rows[name] for name, share in more.items())
        for kind, more in KINDS.items()
        if kind in of_record
    }
    total = sum(size.table + size.index for size in tables.values())
    return Sizing(tables, kinds, sum(rows[name] for name in ACCOUNT), total / tables["bsky.record"].rows)


@click.command(context_settings={"show_default": True})
@click.option("--records", default=1_000_000, help="Records in the database.")
def main(records: int) -> None:
    """Measures the bytes of rows, and prints them as tables of Markdown."""
    with ephemeral() as server, check.scratch_database(server.url("postgres")) as url:
        migrate.upgrade(url)
        libpq = libpq_url(url)
        prefill(libpq, corpus(400, small=True), records)
        found = measure(libpq)
    click.echo(f"{records:,} records: {found.record:,.0f} bytes a record, everything together.\n")
    click.echo("| table | rows | bytes a row | of them indexes |\n|---|---:|---:|---:|")
    for size in found.tables.values():
        if size.rows > records / 10_000:
            click.echo(f"| `{size.name}` | {size.rows:,} | {bytes_a_row(size):,.0f} | {size.index / size.rows:,.0f} |")
    click.echo("\n| record | bytes with all its rows |\n|---|---:|")
    for kind, size_of in sorted(found.kinds.items(), key=lambda it: -it[1]):
        click.echo(f"| {kind} | {size_of:,.0f} |")
    click.echo(f"| an account without records | {found.account:,.0f} |")


if __name__ == "__main__":
    main()
