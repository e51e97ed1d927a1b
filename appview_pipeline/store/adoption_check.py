"""What an adoption finds out before it changes anything: whether it can begin, and what it would put right."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from psycopg2 import sql as names
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.store import postgres
from appview_pipeline.store.placeholders import fill_placeholders
from appview_pipeline.store.sql import sections

_FILE = "adopt/check.sql"
SAMPLE_ROWS = 200_000
"""Rows of a table that are looked at for one kind of fault; a larger table is sampled."""
ROOM_SHARE = 0.6
"""Bytes that an adoption needs beside those that are there, as a share of them: new states of all records and posts,
indexes of ours, the log until it is archived (docs/serve.md has the figures)."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault: in `looked_at` rows of a table, `found` have it; the table has some `rows`."""

    found: int
    looked_at: int
    rows: int

    @property
    def estimate(self) -> int:
        """How many rows of the whole table have it, about."""
        return self.found if self.looked_at >= self.rows else round(self.found * self.rows / max(self.looked_at, 1))


@dataclass(frozen=True)
class Findings:
    """What an adoption finds. `schema`: of the reference's tables; `obstacles`: sentences, with none it can begin;
    `left_alone`: what the operator has added. `records`, `bytes`: what there is; `room_bytes`: what it needs beside
    that. `faults`: what it would put right, by kind."""

    schema: str
    obstacles: list[str] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)
    records: int = 0
    bytes: int = 0
    room_bytes: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "schema": self.schema,
            "obstacles": self.obstacles,
            "left_alone": self.left_alone,
            "records": self.records,
            "bytes": self.bytes,
            "room_bytes": self.room_bytes,
            "faults": {
                name: {"found": it.found, "looked_at": it.looked_at, "estimate": it.estimate}
                for name, it in self.faults.items()
            },
        }

    def lines(self) -> list[str]:
        """All of it, for people."""
        lines = [
            f"The reference's tables are in schema {self.schema}: some {self.records:,} records, "
            f"{self.bytes / 1e9:,.1f} GB. Have {self.room_bytes / 1e9:,.1f} GB free beside them.",
        ]
        if self.left_alone:
            lines.append("Left alone, because the reference did not make it: " + ", ".join(self.left_alone) + ".")
        if self.faults:
            lines.append("To be put right (of rows looked at; about so many in all):")
            lines += [
                f"{it.found:>12,} of {it.looked_at:>10,}  {it.estimate:>13,}  {name.replace('_', ' ')}"
                for name, it in self.faults.items()
            ]
        if self.obstacles:
            lines.append("The adoption can't begin:")
            lines += [f"- {sentence}" for sentence in self.obstacles]
        return lines


def find_schema(connection: Connection, wanted: str | None) -> str:
    """The schema with the reference's tables. Raises `OperatorError` without one, or with several and none wanted."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)["schemas"])
        found = [name for (name,) in cursor.fetchall()]
    connection.rollback()
    if wanted is not None and wanted in found:
        return wanted
    if wanted is not None:
        raise OperatorError(
            f"There are no tables of the reference in the schema {wanted}"
            + (f": name one of {', '.join(found)} with --schema." if found else ", nor in any other.")
        )
    if not found:
        raise OperatorError(
            "No schema of this database has the reference's tables: name the database that its indexer has filled in "
            "APPVIEW_DATABASE_URL, or use an empty one and run `appview-pipeline migrate`."
        )
    if len(found) > 1:
        raise OperatorError(
            f"Several schemas have the reference's tables: name one of {', '.join(found)} with --schema."
        )
    return str(found[0])


def examine(
    connection: Connection, url: str, schema: str, *, watch: bool = True, progress: Callable[[str], object]
) -> Findings:
    """Looks at the reference's tables in `schema`, and changes nothing. `progress` gets what is looked at.

    With `watch` it waits a moment to see whether the reference's indexer is still at work.
    """
    obstacles, left_alone = _of_server(url), list[str]()
    with connection.cursor() as cursor:
        written = _one(cursor, "written", schema)
        _of_database(cursor, schema, obstacles)
        progress("the catalog")
        _of_migrations(cursor, schema, obstacles)
        if not obstacles:
            _of_catalog(cursor, schema, obstacles, left_alone)
            if _one(cursor, "is_known", schema):
                left_alone.clear()  # what this project has made before it gave the database back
        cursor.execute(sections(_FILE)["tables"], {"schema": schema})
        tables = {name: (size, rows) for name, size, rows in cursor.fetchall()}
        faults = {}
        if not obstacles:
            for name in sections("adopt/findings.sql"):
                if name:
                    progress(name.replace("_", " "))
                    faults[name] = _count(cursor, name, schema)
        connection.commit()
        if watch:
            progress("whether the reference's indexer is at work")
            time.sleep(backoff.ADOPTION_WATCH_SECONDS)
            if _one(cursor, "written", schema) != written:
                obstacles.append(
                    "Something writes records at the moment: stop the reference's indexer (its subscription to the "
                    "relay); the AppView may go on serving."
                )
            connection.commit()
    size = sum(size for size, _ in tables.values())
    return Findings(
        schema=schema,
        obstacles=obstacles,
        left_alone=left_alone,
        records=max(tables.get("record", (0, 0))[1], faults["records_with_nul"].looked_at if faults else 0),
        bytes=size,
        room_bytes=round(size * ROOM_SHARE),
        faults=faults,
    )


def _of_server(url: str) -> list[str]:
    try:
        with postgres.transient(url) as connection:
            postgres.check_server(connection)
    except OperatorError as error:
        sentence = str(error)
        return [sentence[:1].upper() + sentence[1:]]
    return []


def _of_database(cursor: Cursor, schema: str, obstacles: list[str]) -> None:
    if _one(cursor, "is_ours", schema):
        obstacles.append("This project fills this database already: there is nothing to adopt.")
    if schema != "bsky":
        cursor.execute(sections("adopt/columns.sql")["has_schema"], {"schema": "bsky"})
        if cursor.fetchone() == (True,):
            obstacles.append(f"There is a schema bsky beside {schema}, whose name it is to get: drop it or rename it.")
    if not _one(cursor, "may_create", schema):
        obstacles.append(
            "The role may not make the schema pipeline: GRANT CREATE ON DATABASE to it, or connect as the "
            "owner of the database."
        )
    if schema != "bsky" and not _one(cursor, "may_rename", schema):
        obstacles.append(f"The role may not rename the schema {schema}: connect as its owner.")
    cursor.execute(sections(_FILE)["not_owned"], {"schema": schema})
    if foreign := [name for (name,) in cursor.fetchall()]:
        obstacles.append(
            f"The role may not change {len(foreign)} of the tables ({', '.join(foreign[:3])}, ...): connect as their "
            "owner, or GRANT the owner's role to yours."
        )


def _of_migrations(cursor: Cursor, schema: str, obstacles: list[str]) -> None:
    known = {name for (name,) in _known(cursor, "migrations")}
    quoted = names.Identifier(schema).as_string(cursor)
    cursor.execute(fill_placeholders(sections(_FILE)["migrations"], {"{schema}": quoted}))
    done = {name for (name,) in cursor.fetchall()}
    if newer := sorted(done - known):
        obstacles.append(
            f"The reference that made this database is newer than this project knows ({', '.join(newer)}): upgrade "
            "appview-pipeline."
        )
    if missing := sorted(known - done):
        obstacles.append(
            f"{len(missing)} migrations of the reference are missing: start the reference of docker/appview/ on the "
            "database once, which runs them."
        )


def _of_catalog(cursor: Cursor, schema: str, obstacles: list[str], left_alone: list[str]) -> None:
    for kind, singular in (("columns", "column"), ("constraints", "constraint"), ("indexes", "index")):
        expected = {(table, name): text for table, name, text in _known(cursor, kind)}
        cursor.execute(sections(_FILE)[kind], {"schema": schema})
        actual = {(table, name): text for table, name, text in cursor.fetchall()}
        if kind == "columns":
            tables = {table for table, _ in expected}
            left_alone += [f"table {table}" for table in sorted({table for table, _ in actual} - tables)]
            actual = {key: text for key, text in actual.items() if key[0] in tables}
        for key, text in expected.items():
            if key not in actual:
                obstacles.append(f"The {singular} {key[1]} of {key[0]} is missing; it is: {text}.")
            elif actual[key] != text:
                obstacles.append(f"The {singular} {key[1]} of {key[0]} is {actual[key]}, and not {text}.")
        left_alone += [
            f"{singular} {name} of {table}"
            for table, name in sorted(actual.keys() - expected.keys())
            if f"table {table}" not in left_alone
        ]


def _count(cursor: Cursor, name: str, schema: str) -> Fault:
    statement = sections("adopt/findings.sql")[name]
    table = statement.rpartition("FROM {schema}.")[2].split()[0].strip('"')
    cursor.execute(sections(_FILE)["estimate"], {"table": names.Identifier(schema, table).as_string(cursor)})
    (rows,) = cursor.fetchone() or (0,)
    sample = f"TABLESAMPLE SYSTEM ({100 * SAMPLE_ROWS / rows:.6f})" if rows > SAMPLE_ROWS else ""
    quoted = names.Identifier(schema).as_string(cursor)
    cursor.execute(fill_placeholders(statement, {"{schema}": quoted, "{sample}": sample}))
    looked_at, found = cursor.fetchone() or (0, 0)
    return Fault(found, looked_at, max(rows, looked_at) if sample else looked_at)


def _known(cursor: Cursor, kind: str) -> list[tuple[Any, ...]]:
    cursor.execute(sections("adopt/catalog.sql")[kind])
    return cursor.fetchall()


def _one(cursor: Cursor, name: str, schema: str) -> Any:
    cursor.execute(sections(_FILE)[name], {"schema": schema})
    (value,) = cursor.fetchone() or (None,)
    return value
