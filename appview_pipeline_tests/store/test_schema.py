"""The catalogs: schema bsky is what the reference needs, and every table and column of ours is described."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest

from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store import migrate, postgres, sql
from appview_pipeline.store.columns import tables
from appview_pipeline.store.database import open_database
from appview_pipeline.store.database_url import parse_url
from appview_pipeline_tests.conformance.reference import check
from appview_pipeline_tests.conformance.reference.catalog import OUR_ADDITIONS, OUR_OMISSIONS, snapshot
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import connect, run
from appview_pipeline_tests.support.tables import rows

FACTS = CHECKOUT.parent / "shared" / "reference" / "appview-schema.md"


def test_schema_bsky_is_what_the_facts_say(empty_url: str) -> None:
    """Against `shared/reference/appview-schema.md`: every table, column in order, type, default, key and index."""
    if not FACTS.exists():
        pytest.skip(f"{FACTS} is not there")
    migrate.upgrade(empty_url)
    with connect(empty_url) as connection:
        ours = snapshot(connection, "bsky")
    facts = read_facts(FACTS.read_text())
    for table, key in OUR_OMISSIONS.values():
        facts[table].remove(f"index {key}")
    assert as_facts(ours) == facts


def read_facts(text: str) -> dict[str, set[str]]:
    """Table -> its columns ("3 name type ..."), keys and indexes, from the facts' Markdown."""
    tables: dict[str, set[str]] = {}
    for section in text.split("\n## ")[1:]:
        title, *lines = section.splitlines()
        if title.startswith("The reference's own migrator"):
            tables["migrations"] = set(re.findall(r"_\d{8}T\d{9}Z", section))
            continue
        table = title.removeprefix("Materialized view ")
        parts: set[str] = set()
        for line in lines:
            if not line.startswith("- "):
                continue
            # In the facts the sequences and references carry the name of the schema they were taken from.
            line = line.removeprefix("- ").replace("oracle.", "")
            if line.startswith("columns: ") and table == "algo_whats_hot_view":
                columns, unique, index = re.split(r"; unique index |, index ", line.removeprefix("columns: "))
                parts |= numbered(columns) | {f"unique index btree {unique}", f"index btree {index}"}
            elif line.startswith("columns: "):
                parts |= numbered(line.removeprefix("columns: "))
            elif line.startswith(("PRIMARY KEY", "UNIQUE", "FOREIGN KEY", "index")):
                parts.add(line)
        tables[table] = parts
    assert len(tables) == 56 and len(tables["migrations"]) == 61
    return tables


def numbered(columns: str) -> set[str]:
    columns = columns.replace("_id_seq'", "_id_seq')")  # the facts lost the closing parenthesis of nextval(...)
    return {f"{number} {column}" for number, column in enumerate(columns.split("; "), start=1)}


def as_facts(ours: dict[tuple[str, str], str]) -> dict[str, set[str]]:
    """Our catalog in the words of the facts, without our additions."""
    tables: dict[str, set[str]] = {
        "migrations": set(re.findall(r"_\d{8}T\d{9}Z", sql.read("schema/0001_reference_tables.sql")))
    }
    keys = {name.split(" ")[1].strip('"') for kind, name in ours if kind == "constraint"}
    for (kind, name), definition in ours.items():
        if (kind, name) in OUR_ADDITIONS:
            continue
        definition = definition.replace("bsky.", "").replace("public.", "")
        if kind == "column":
            table, column, number = re.findall(r"^(\w+)\.(\w+) #(\d+)$", name)[0]
            definition = re.sub(r' collate "default"| default $|::character varying|::regclass', "", definition)
            definition = definition.replace("character varying", "varchar").removesuffix(" default ")
            definition = re.sub(r"generated (.*)", r"generated always as \1 stored", definition)
            tables.setdefault(table, set()).add(f"{number} {column} {definition}".strip())
        elif kind == "constraint":
            table = name.split(" ")[0].removeprefix("bsky.").strip('"')
            tables.setdefault(table, set()).add(definition)
        elif kind == "index" and name not in keys:
            unique, table, rest = re.findall(
                r'^CREATE (UNIQUE )?INDEX \w+ ON "?(\w+)"? USING (.*)$', definition, re.DOTALL
            )[0]
            tables.setdefault(table, set()).add(f"{'unique ' if unique else ''}index {rest}")
    for name in ("kysely_migration", "kysely_migration_lock"):
        assert tables.pop(name)
    return tables


def test_the_reference_finds_nothing_to_do(server_url: str, packages: Path) -> None:
    assert check.differences(packages, server_url) == []


COMMENTS = """
    SELECT relkind, relnamespace::regnamespace || '.' || relname, attname, obj_description(pg_class.oid),
        col_description(attrelid, attnum)
    FROM pg_class
    JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
    WHERE relnamespace IN ('bsky'::regnamespace, 'pipeline'::regnamespace) AND relkind IN ('r', 'm')
        AND relname <> 'schema_version'
    ORDER BY 2, attnum
"""


def test_every_table_and_column_says_what_it_holds(database_url: str) -> None:
    """Only Alembic's table has no comment."""
    comments = rows(database_url, COMMENTS)
    assert len(comments) > 400
    assert [(table, column) for _, table, column, *texts in comments if not all(texts)] == []
    descriptions = [text for _, table, _, _, text in comments if table.startswith("bsky.")]
    assert [text for text in descriptions if len(text) > 120 or "\n" in text] == []


def test_columns_and_comments_are_read_from_the_schema_files_as_the_database_has_them(database_url: str) -> None:
    in_database: dict[str, list[tuple[str, str]]] = {}
    for kind, table, column, _, comment in rows(database_url, COMMENTS):
        if kind == "r":
            in_database.setdefault(table, []).append((column, comment))
    assert {table: [(c.name, c.description) for c in columns] for table, columns in tables().items()} == in_database


def test_updates_of_counters_stay_on_their_page(database_url: str) -> None:
    """HOT needs room on the page and no index on what changes."""
    run(database_url, "INSERT INTO bsky.post_agg (uri) SELECT 'at://u/' || i FROM generate_series(1, 2000) i")
    run(database_url, """UPDATE bsky.post_agg SET "likeCount" = "likeCount" + 1 WHERE uri LIKE '%7'""")
    run(database_url, "SELECT pg_stat_force_next_flush()")
    ((updated, hot),) = rows(
        database_url, "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'post_agg'"
    )
    assert updated == hot == 200


def test_what_is_known_once_stays_one_row(database_url: str) -> None:
    """Redelivery finds the same gap and the same notification, also where parts of the key are null."""
    gap = "INSERT INTO pipeline.gap (kind, relay, from_text, to_text) VALUES ('sequence', 'wss://r', '7', NULL)"
    notification = """INSERT INTO bsky.notification (did, "recordUri", "recordCid", author, reason, "sortAt")
        VALUES ('did:plc:a', 'at://b/c/d', 'cid', 'did:plc:b', 'like', '2024')"""
    for statement in (gap, notification):
        run(database_url, statement)
        run(database_url, f"{statement} on conflict do nothing")
        with pytest.raises(psycopg2.errors.UniqueViolation):
            run(database_url, statement)


@contextmanager
def made_with(server_url: str, options: str) -> Iterator[str]:
    """A database made with `options`; skips where the server has no such locale."""
    try:
        run(server_url, "DROP DATABASE IF EXISTS of_locale")
        run(server_url, f"CREATE DATABASE of_locale TEMPLATE template0 {options}")
    except psycopg2.Error as error:
        pytest.skip(f"not on this server: {error}")
    try:
        yield parse_url(server_url).set(database="of_locale").render_as_string(hide_password=False)
    finally:
        run(server_url, "DROP DATABASE of_locale WITH (FORCE)")


@pytest.mark.parametrize("locale", ["en-US", "und"])
def test_a_database_that_sorts_by_language_is_refused(server_url: str, locale: str) -> None:
    """Before anything is made in it, and also when a migrated one was moved there."""
    with made_with(server_url, f"LOCALE_PROVIDER icu ICU_LOCALE '{locale}' LOCALE 'C'") as url:
        sentence = rf"sorts text by the rules of a language \({locale}\).*`createdb .*--locale=C NAME`.*pg_dump"
        with pytest.raises(OperatorError, match=sentence):
            migrate.upgrade(url)
        assert rows(url, "SELECT nspname FROM pg_namespace WHERE nspname IN ('bsky', 'pipeline')") == []
        with pytest.raises(OperatorError, match=sentence):
            open_database(Settings(database_url=url))


@pytest.mark.parametrize(
    "options",
    [
        *("LOCALE 'C'", "LOCALE 'POSIX'", "LOCALE 'C.UTF-8'", "LOCALE 'C.utf8'", "LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"),
        "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'",
        "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'PG_UNICODE_FAST' LOCALE 'C'",
    ],
)
def test_a_database_that_sorts_by_byte_is_accepted(server_url: str, options: str) -> None:
    with made_with(server_url, options) as url:
        with postgres.transient(url) as connection:
            postgres.check_server(connection)
        values = ["", "a", "B", "é", "-1", "a-b", "aa", "Z", "2024", "2024-01", "\U0001f600", "\uffee", "ß", "z"]
        found = rows(url, "SELECT array_agg(v ORDER BY v) FROM unnest(%s) v", values)
        assert found == [(sorted(values, key=str.encode),)]


@pytest.mark.parametrize(
    ("provider", "collation", "is_accepted"),
    [
        *(("c", "en_US.UTF-8", False), ("c", "en_US.utf8", False), ("c", "", False), ("c", "C.ISO-8859-1", False)),
        *(("i", "C", False), ("c", "c.utf8", True), ("b", "en_US.UTF-8", True), ("x", "C", False)),
    ],
)
def test_which_locales_sort_by_byte(provider: str, collation: str, is_accepted: bool) -> None:
    assert postgres.sorts_by_byte(provider, collation) is is_accepted
