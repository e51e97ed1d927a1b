"""Holds our schema bsky against the one that the reference AppView's own migrator makes (README.md).

Usage: python -m appview_pipeline_tests.conformance.reference.check PACKAGES URL
`PACKAGES` is a node_modules folder with @atproto/bsky, `URL` any database of a server whose role may create
databases. Two databases are made there and dropped again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2

from appview_pipeline.store import migrate
from appview_pipeline.store.database_url import libpq_url, parse_url
from appview_pipeline_tests.conformance.reference.catalog import OUR_ADDITIONS, OUR_OMISSIONS, snapshot
from appview_pipeline_tests.conformance.reference.packages import NODE

MIGRATE = Path(__file__).with_name("migrate.mjs")


def run_reference_migrator(packages: Path, url: str) -> list[dict[str, str]]:
    """Runs the reference's migrator on the database; the migrations that it had to run."""
    result = subprocess.run(
        [NODE, MIGRATE, packages, node_url(url), "bsky"],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return json.loads(result.stdout)


def node_url(url: str) -> str:
    """The URL as node's driver wants it: it reads a socket folder from the host, not from a parameter."""
    parsed = parse_url(url)
    socket = parsed.query.get("host")
    if not socket:
        return libpq_url(url)
    return f"socket://{parsed.username or ''}@{socket}?db={parsed.database}&port={parsed.query.get('port', 5432)}"


@contextmanager
def scratch_database(url: str) -> Iterator[str]:
    """The URL of a new, empty database on the server of `url`, dropped after the block."""
    name = f"oracle_{uuid.uuid4().hex}"
    server = psycopg2.connect(libpq_url(url))
    server.autocommit = True
    try:
        server.cursor().execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            yield parse_url(url).set(database=name).render_as_string(hide_password=False)
        finally:
            server.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        server.close()


def contents(url: str) -> tuple[dict[tuple[str, str], str], dict[str, list[tuple[object, ...]]]]:
    """The catalog of schema bsky, and the rows that migrations leave in it."""
    connection = psycopg2.connect(libpq_url(url))
    try:
        rows = {}
        with connection.cursor() as cursor:
            for name, columns in (("kysely_migration", "name"), ("kysely_migration_lock", "*"), ("view_param", "*")):
                cursor.execute(f"SELECT {columns} FROM bsky.{name} ORDER BY 1")
                rows[name] = cursor.fetchall()
        return snapshot(connection, "bsky"), rows
    finally:
        connection.close()


def differences(packages: Path, url: str) -> list[str]:
    """Every difference between the reference's schema and ours but our additions, in words."""
    with scratch_database(url) as theirs_url, scratch_database(url) as ours_url:
        run_reference_migrator(packages, theirs_url)
        migrate.upgrade(ours_url)
        before, rows_before = contents(ours_url)
        found = [
            f"the reference's migrator ran {run['name']} on ours" for run in run_reference_migrator(packages, ours_url)
        ]
        ours, our_rows = contents(ours_url)
        theirs, their_rows = contents(theirs_url)
    if (before, rows_before) != (ours, our_rows):
        found.append("the reference's migrator changed ours")
    found += [
        f"{' '.join(key)}: reference {theirs.get(key)!r}, ours {ours.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
        and not (key in OUR_ADDITIONS and key not in theirs)
        and not (key[1] in OUR_OMISSIONS and key not in ours)
    ]
    found += [
        f"rows of {name}: reference {their_rows[name]}, ours {our_rows[name]}"
        for name in our_rows
        if our_rows[name] != their_rows[name]
    ]
    return found


if __name__ == "__main__":
    found = differences(Path(sys.argv[1]), sys.argv[2])
    print("\n".join(found) or "no differences but our additions; the reference's migrator found nothing to do")
    sys.exit(bool(found))
