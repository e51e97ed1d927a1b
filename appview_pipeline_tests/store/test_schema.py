"""Migrations, the catalogs they leave, connections by role, and the sentences an operator gets."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extensions import connection as Connection

from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store import database, migrate, postgres, sql
from appview_pipeline.store.columns import tables
from appview_pipeline.store.embedded.attach import EmbeddedPostgres, ephemeral
from appview_pipeline.store.errors import Transient
from appview_pipeline_tests.conformance.reference import check
from appview_pipeline_tests.conformance.reference.catalog import OUR_ADDITIONS, OUR_OMISSIONS, snapshot
from appview_pipeline_tests.support.checkout import CHECKOUT

OLDEST = Path(f"/usr/lib/postgresql/{postgres.OLDEST_SERVER}/bin")
FACTS = CHECKOUT.parent / "shared" / "reference" / "appview-schema.md"


@pytest.fixture(scope="module", params=["default", "oldest"])
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database on the embedded server, the newest supported, and one on the oldest, where Debian's is installed."""
    if request.param == "default":
        yield request.getfixturevalue("server").url("postgres")
    elif not OLDEST.exists():
        pytest.skip(f"{OLDEST} is not there")
    else:
        with ephemeral(postgres_bin=OLDEST) as server:
            yield server.url("postgres")


@pytest.fixture
def empty_url(server_url: str) -> Iterator[str]:
    """The URL of a fresh database without any table of ours."""
    with check.scratch_database(server_url) as url:
        yield url


def connect(url: str) -> closing[Connection]:
    return closing(psycopg2.connect(postgres.libpq_url(url)))


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def run(url: str, statement: str) -> None:
    with connect(url) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)


def as_role(url: str, user: str) -> str:
    return postgres.parse_url(url).set(username=user).render_as_string(hide_password=False)


# --- migrations -----------------------------------------------------------------------------------------------------


def test_a_fresh_database_is_migrated_and_migrating_again_changes_nothing(empty_url: str) -> None:
    assert migrate.current(empty_url) is None
    assert migrate.upgrade(empty_url) == migrate.head()
    with connect(empty_url) as connection:
        first = snapshot(connection, "bsky"), snapshot(connection, "pipeline")
        assert migrate.upgrade(empty_url) == migrate.head() == migrate.current(empty_url)
        assert (snapshot(connection, "bsky"), snapshot(connection, "pipeline")) == first
    assert len(first[0]) > 500 and len(first[1]) > 150


def test_upgrading_from_every_version_ends_in_the_same_schema(server_url: str, empty_url: str) -> None:
    migrate.upgrade(empty_url)
    with connect(empty_url) as connection:
        whole = snapshot(connection, "bsky"), snapshot(connection, "pipeline")
    versions = sorted(p.name[:4] for p in (CHECKOUT / "sql" / "schema").glob("*.sql"))
    assert versions[-1] == migrate.head()
    with check.scratch_database(server_url) as url:
        for version in versions:
            assert migrate.upgrade(url, version) == version == migrate.current(url)
        with connect(url) as connection:
            assert (snapshot(connection, "bsky"), snapshot(connection, "pipeline")) == whole


def test_several_processes_migrate_one_database_at_once(empty_url: str) -> None:
    code = (
        "import sys; from appview_pipeline.store import migrate; sys.stdin.read(1); print(migrate.upgrade(sys.argv[1]))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, empty_url], cwd=CHECKOUT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    results = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in results] == [migrate.head()] * 4, results
    assert rows(empty_url, "SELECT version_num FROM pipeline.schema_version") == [(migrate.head(),)]


def test_a_failed_migration_leaves_the_version_before_it(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate.upgrade(empty_url, "0001")
    whole = sql.read
    monkeypatch.setattr(sql, "read", lambda name: whole(name) + "; SELECT 1 / 0")
    with pytest.raises(Exception, match="division by zero"):
        migrate.upgrade(empty_url)
    assert migrate.current(empty_url) == "0001"
    assert rows(empty_url, "SELECT to_regclass('pipeline.repo')") == [(None,)]
    monkeypatch.undo()
    assert migrate.upgrade(empty_url) == migrate.head()


@pytest.mark.slow
def test_the_wheel_holds_the_sql_and_migrates_by_itself(empty_url: str, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="69")
    source = tmp_path / "source"  # a copy, since building leaves its traces
    for folder in ("appview_pipeline", "sql"):
        shutil.copytree(CHECKOUT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / file, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source],
        check=True, timeout=300,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    here = {f"appview_pipeline/{p.relative_to(CHECKOUT)}" for p in (CHECKOUT / "sql").rglob("*.sql")}
    assert here and here <= shipped
    code = "import sys; from appview_pipeline.store import migrate as m; print(m.__file__, m.upgrade(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", code, empty_url], cwd=tmp_path, check=True, text=True, capture_output=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )  # fmt: skip
    assert result.stdout.startswith(str(tmp_path)) and result.stdout.strip().endswith(f" {migrate.head()}")


# --- the catalogs ---------------------------------------------------------------------------------------------------


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


def test_the_reference_finds_nothing_to_do(server_url: str) -> None:
    packages = os.environ.get("APPVIEW_REFERENCE_PACKAGES")
    if not packages:
        pytest.skip("APPVIEW_REFERENCE_PACKAGES names no folder with @atproto/bsky (conformance/reference/README.md)")
    assert check.differences(Path(packages), server_url) == []


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


def test_revs_compare_by_byte_whatever_the_database_sorts_by(server_url: str) -> None:
    try:
        run(server_url, "DROP DATABASE IF EXISTS by_language")
        run(
            server_url,
            "CREATE DATABASE by_language TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'",
        )
    except psycopg2.Error as error:
        pytest.skip(f"no ICU on this server: {error}")
    url = postgres.parse_url(server_url).set(database="by_language").render_as_string(hide_password=False)
    try:
        migrate.upgrade(url)
        run(url, "INSERT INTO pipeline.repo (did, rev) VALUES ('a', 'B'), ('b', 'a'), ('c', 'a-b'), ('d', 'aa')")
        assert rows(url, "SELECT string_agg(rev, ' ' ORDER BY rev) FROM pipeline.repo") == [("B a a-b aa",)]
        with postgres.transient(url) as connection:
            assert not postgres.sorts_by_byte(connection)
    finally:
        run(server_url, "DROP DATABASE by_language WITH (FORCE)")


# --- connections ----------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(database_url: str) -> Iterator[database.Database]:
    opened = database.open_database(Settings(database_url=database_url, db_pool_size=2, statement_timeout=7.5))
    yield opened
    opened.close()


def show(connection: Connection, *names: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
        return list(cursor.fetchall()[0])


def test_a_connection_is_bounded_by_its_role_also_after_another_role_and_a_rollback(opened: database.Database) -> None:
    limits = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_read_only")
    expected = {
        "writer": ["7500ms", "30s", "1min", "off"],
        "reader": ["30s", "5s", "30s", "on"],
        "maintenance": ["1h", "10s", "5min", "off"],
    }
    for role in ("writer", "reader", "writer", "maintenance", "reader", "writer"):
        with pytest.raises(ZeroDivisionError), opened.connect(role) as connection:
            raise ZeroDivisionError
        with opened.connect(role) as connection:
            assert show(connection, *limits) == expected[role]
            assert show(connection, "application_name", "TimeZone") == [f"appview-pipeline {role}", "UTC"]
    with opened.dedicated("maintenance") as connection:
        assert show(connection, *limits) == expected["maintenance"]


def test_a_block_commits_or_rolls_back_as_a_whole(opened: database.Database) -> None:
    insert = "INSERT INTO pipeline.cursor (relay, seq) VALUES (%s, 1)"
    with opened.connect("writer") as connection:
        connection.cursor().execute(insert, ["kept"])
    with pytest.raises(KeyError), opened.connect("writer") as connection:
        connection.cursor().execute(insert, ["lost"])
        raise KeyError
    with opened.connect("reader") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT relay FROM pipeline.cursor")
        assert cursor.fetchall() == [("kept",)]
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            cursor.execute(insert, ["read-only"])
        connection.rollback()


def test_a_failed_statement_that_was_ignored_is_no_commit(opened: database.Database) -> None:
    with (
        pytest.raises(AssertionError, match="ignored"),
        opened.connect("writer") as connection,
        contextlib.suppress(psycopg2.errors.DivisionByZero),
    ):
        connection.cursor().execute("SELECT 1 / 0")


def test_a_lost_connection_raises_what_failed_and_the_next_one_works(
    opened: database.Database, database_url: str
) -> None:
    with pytest.raises(Transient), opened.connect("writer") as connection:
        run(database_url, f"SELECT pg_terminate_backend({connection.info.backend_pid})")
        connection.cursor().execute("SELECT 1")
    for _ in range(3):
        with opened.connect("writer") as connection:
            assert show(connection, "lock_timeout") == ["30s"]


def test_the_pool_has_a_limit_that_dedicated_connections_do_not_count_against(
    opened: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened.engine.pool, "_timeout", 0.1)
    with opened.connect("writer"), opened.connect("reader"), opened.dedicated("writer") as lock:
        assert lock.autocommit
        with pytest.raises(OperatorError, match="APPVIEW_DB_POOL_SIZE"), opened.connect("reader"):
            pass


class RestartableServer(EmbeddedPostgres):
    """Stands for the embedded server: counts what is asked of it."""

    started = closed = 0

    def __init__(self) -> None:
        """Without a server behind it."""

    def ensure_running(self, start_timeout: float = 0.0) -> None:
        self.started += 1

    def close(self) -> None:
        self.closed += 1


def test_a_killed_embedded_server_is_started_by_who_needs_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RestartableServer()
    opened = database.Database(database_url, Settings(), server)
    connect_to_pool = opened.engine.raw_connection
    monkeypatch.setattr(
        opened.engine,
        "raw_connection",
        lambda: connect_to_pool() if server.started else (_ for _ in ()).throw(psycopg2.OperationalError("refused")),
    )
    with opened.connect("writer") as connection:
        assert show(connection, "lock_timeout") == ["30s"]
    opened.close()
    opened.close()
    assert (server.started, server.closed) == (1, 1)


# --- what the operator is told --------------------------------------------------------------------------------------


def told(action: Callable[[], object]) -> str:
    with pytest.raises(OperatorError) as error:
        action()
    sentence = str(error.value)
    assert "\n" not in sentence and "secret" not in sentence and len(sentence) < 400, sentence
    return sentence


def test_the_schema_that_is_missing_old_new_or_not_ours_is_named(empty_url: str) -> None:
    settings = Settings(database_url=empty_url)
    assert "run `appview-pipeline migrate`" in told(lambda: database.open_database(settings))
    run(empty_url, "CREATE SCHEMA bsky")
    assert "did not make" in told(lambda: migrate.upgrade(empty_url))
    run(empty_url, "DROP SCHEMA bsky")
    migrate.upgrade(empty_url, "0001")
    assert "0001, older than" in told(lambda: database.open_database(settings))
    database.open_database(settings, migrate=True).close()
    run(empty_url, "UPDATE pipeline.schema_version SET version_num = '9999'")
    for action in (lambda: database.open_database(settings), lambda: migrate.upgrade(empty_url)):
        assert "9999, newer than" in told(action)


def test_a_server_or_database_that_is_not_there_is_named(server_url: str) -> None:
    absent = postgres.parse_url(server_url).set(database="absent").render_as_string(hide_password=False)
    assert "database absent on" in (sentence := told(lambda: migrate.upgrade(absent))) and "createdb" in sentence
    for url in ("postgres://u:secret@127.0.0.1:1/d", "postgresql://u:secret@/d?host=/nowhere"):
        sentence = told(partial(database.open_database, Settings(database_url=url)))
        assert "can't be reached" in sentence and "database d on " in sentence


def test_a_role_that_may_too_little_is_told_so(empty_url: str) -> None:
    run(empty_url, "DROP ROLE IF EXISTS weak")
    run(empty_url, "CREATE ROLE weak LOGIN")
    try:
        assert "weak lacks a privilege" in told(lambda: migrate.upgrade(as_role(empty_url, "weak")))
        migrate.upgrade(empty_url)
        assert "weak lacks a privilege" in told(
            lambda: database.open_database(Settings(database_url=as_role(empty_url, "weak")))
        )
    finally:
        run(empty_url, "DROP ROLE weak")


def test_a_role_that_may_create_schemas_is_enough(empty_url: str) -> None:
    """Managed servers give no superuser: what is not allowed beyond our schemas is left out with a warning."""
    run(empty_url, "DROP ROLE IF EXISTS plain")
    run(empty_url, "CREATE ROLE plain LOGIN")
    try:
        run(empty_url, f'grant create on database "{postgres.parse_url(empty_url).database}" to plain')
        url = as_role(empty_url, "plain")
        assert migrate.upgrade(url) == migrate.head()
        database.open_database(Settings(database_url=url)).close()
    finally:
        run(empty_url, "DROP OWNED BY plain")
        run(empty_url, "DROP ROLE plain")


def test_trigram_indexes_are_left_out_with_a_warning_where_the_extension_is_not_to_be_had(
    empty_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = sql.read
    monkeypatch.setattr(
        sql, "read", lambda name: whole(name).replace("NOT EXISTS pg_trgm", "NOT EXISTS pg_trgm_absent")
    )
    migrate.upgrade(empty_url)
    assert "pg_trgm is not available" in caplog.text
    assert rows(empty_url, "SELECT relname FROM pg_class WHERE relname LIKE '%tgrm%'") == []


def test_the_extension_is_used_from_where_it_is(empty_url: str) -> None:
    run(empty_url, "CREATE SCHEMA extensions; CREATE EXTENSION pg_trgm SCHEMA extensions")
    migrate.upgrade(empty_url)
    assert len(rows(empty_url, "SELECT relname FROM pg_class WHERE relname LIKE '%tgrm%'")) == 3


def test_a_database_that_is_not_utf8_is_refused(server_url: str) -> None:
    run(server_url, "DROP DATABASE IF EXISTS latin")
    run(server_url, "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'")
    latin = postgres.parse_url(server_url).set(database="latin").render_as_string(hide_password=False)
    try:
        assert "LATIN1" in told(lambda: migrate.upgrade(latin))
    finally:
        run(server_url, "DROP DATABASE latin WITH (FORCE)")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            'connection to server failed: FATAL:  password authentication failed for user "u"',
            "refuses the password of u",
        ),
        ("fe_sendauth: no password supplied", "refuses the password of u"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4"', "pg_hba.conf"),
        ('FATAL:  pg_hba.conf rejects connection for host "1.2.3.4"', "pg_hba.conf"),
        ('FATAL:  role "u" does not exist', "has no role u"),
        ('FATAL:  database "role" does not exist', "createdb"),
        ("FATAL:  sorry, too many clients already", "no free connections"),
        ("FATAL:  the database system is starting up", "try again"),
        ("timeout expired", "can't be reached (timeout expired)"),
    ],
)
def test_a_failure_to_connect_is_one_sentence(message: str, expected: str) -> None:
    sentence = postgres.operator_error(psycopg2.OperationalError(message + "\nmore"), "postgres://u:secret@h:5/d")
    assert expected in str(sentence) and "secret" not in str(sentence) and "\n" not in str(sentence)


def test_errors_that_no_operator_can_mend_stay_what_they_are() -> None:
    for error in (psycopg2.errors.DeadlockDetected("x"), psycopg2.errors.QueryCanceled("x"), ValueError("x")):
        assert postgres.operator_error(error, "postgres://h/d") is None


@pytest.mark.parametrize(
    ("given", "for_sqlalchemy", "for_libpq"),
    [
        ("postgres://u:p%40ss@h:5/d", "postgresql+psycopg2://u:p%40ss@h:5/d", "postgresql://u:p%40ss@h:5/d"),
        (
            "postgresql://h/d?sslmode=require",
            "postgresql+psycopg2://h/d?sslmode=require",
            "postgresql://h/d?sslmode=require",
        ),
        (
            "postgresql+psycopg2://postgres@/appview?host=%2Frun%2Fx",
            "postgresql+psycopg2://postgres@/appview?host=%2Frun%2Fx",
            "postgresql://postgres@/appview?host=%2Frun%2Fx",
        ),
        ("postgresql+psycopg://h/d", "postgresql+psycopg2://h/d", "postgresql://h/d"),
    ],
)
def test_every_form_of_url_becomes_the_driver_s(given: str, for_sqlalchemy: str, for_libpq: str) -> None:
    assert postgres.sqlalchemy_url(given) == for_sqlalchemy
    assert postgres.libpq_url(given) == for_libpq


def test_what_is_no_url_of_postgresql_is_refused() -> None:
    assert "not PostgreSQL" in told(lambda: postgres.sqlalchemy_url("mysql://u:secret@h/d"))
    assert "can't be read" in told(lambda: postgres.sqlalchemy_url("h/d"))
    assert "can't be read" in told(lambda: postgres.sqlalchemy_url("postgresql://u:secret@h:port/d"))
    assert "not accepted" in told(lambda: migrate.current("postgresql://u:secret@h/d?nonsense=1"))
