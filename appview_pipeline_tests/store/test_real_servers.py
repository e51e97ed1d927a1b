"""Starting and migrating on servers as others run them: roles with limits of their own, poolers, tables in use."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from appview_pipeline.settings import Settings
from appview_pipeline.shards import WHOLE
from appview_pipeline.store import migrate, postgres, sql
from appview_pipeline.store.cursors import open_cursor
from appview_pipeline.store.database import open_database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.stream_lock import stream_lock
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import connect, run_sql
from appview_pipeline_tests.support.operator_errors import sentence_of
from appview_pipeline_tests.support.pooler import Pooler

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@pytest.fixture
def empty(server: EmbeddedPostgres) -> Iterator[str]:
    """The name of an empty database."""
    name = "real_server"
    run_sql(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    run_sql(server, f"CREATE DATABASE {name}")
    yield name
    run_sql(server, f"DROP DATABASE {name} WITH (FORCE)")


def command(*arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("APPVIEW_", "DATABASE_URL", "PG"))}
    return subprocess.run(
        [sys.executable, "-m", "appview_pipeline.cli", *arguments],
        cwd=CHECKOUT, env={**kept, **given}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


# Roles and databases with settings of their own

HOSTILE = {
    "statement_timeout": "5ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "10ms",
    "idle_session_timeout": "30ms",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "datestyle": "German",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kolkata",
    "standard_conforming_strings": "off",
    "search_path": "nowhere",
}


@pytest.mark.parametrize("of", ["ROLE strict", "DATABASE real_server"])
def test_a_start_survives_what_a_role_or_database_sets(server: EmbeddedPostgres, empty: str, of: str) -> None:
    run_sql(server, "DROP ROLE IF EXISTS strict")
    run_sql(server, "CREATE ROLE strict LOGIN SUPERUSER")
    try:
        settings = dict(HOSTILE)
        with connect(server.url("postgres")) as connection:
            if connection.server_version >= 170_000:
                settings["transaction_timeout"] = "20ms"
        for name, value in settings.items():
            run_sql(server, f"ALTER {of} SET {name} = '{value}'")
        url = server.url(empty).replace("postgres@", "strict@")
        assert migrate.upgrade(url) == migrate.head() == migrate.current(url)
        opened = open_database(Settings(database_url=url))
        try:
            with stream_lock(opened, "wss://relay.example", "0/1") as lock:
                lock.keep_to_layout("wss://relay.example", WHOLE)
                for _ in range(2):
                    with opened.connect("writer") as connection:
                        assert open_cursor(connection, "wss://relay.example", WHOLE, None).seq is None
                        with connection.cursor() as cursor:
                            cursor.execute("SELECT pg_sleep(0.05)")
                            cursor.execute(
                                "SELECT current_setting('transaction_isolation'), current_setting('datestyle'),"
                                "current_setting('transaction_read_only'), current_setting('timezone')"
                            )
                            assert cursor.fetchone() == ("read committed", "ISO, DMY", "off", "UTC")
                        time.sleep(0.1)
                    time.sleep(0.1)  # longer than a session of this role may rest
                time.sleep(1)
                lock.ensure()
        finally:
            opened.close()
    finally:
        run_sql(server, f"ALTER {of} RESET ALL")
        run_sql(server, f"DROP DATABASE {empty} WITH (FORCE)")
        run_sql(server, f"CREATE DATABASE {empty}")
        run_sql(server, "DROP ROLE strict")


# What stops a migration


@contextmanager
def holding(url: str, statement: str) -> Iterator[None]:
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        yield


def limited(monkeypatch: pytest.MonkeyPatch, *, statement: float = 20, lock: float = 20) -> None:
    monkeypatch.setattr(migrate, "MIGRATION", postgres.Role(statement=statement, lock=lock, idle=20))


def test_a_table_in_use_ends_a_migration_with_a_sentence(
    server: EmbeddedPostgres, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url(empty)
    migrate.upgrade(url, "0005")
    limited(monkeypatch, lock=0.2)
    with holding(url, "SELECT * FROM bsky.notification"):
        sentence = sentence_of(lambda: migrate.upgrade(url))
    assert f"The migration of database {empty} on " in sentence and "lock timeout" in sentence
    assert "end what uses the named table" in sentence and "run `appview-pipeline migrate` again" in sentence
    assert migrate.upgrade(url) == migrate.head()


def test_a_statement_that_takes_too_long_ends_a_migration_with_a_sentence(
    server: EmbeddedPostgres, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, statement=0.3)
    whole = sql.read
    monkeypatch.setattr(sql, "read", lambda name: whole(name) + "; SELECT pg_sleep(5)")
    sentence = sentence_of(lambda: migrate.upgrade(server.url(empty)))
    assert "statement timeout" in sentence and "run `appview-pipeline migrate` again" in sentence


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SELECT pg_terminate_backend(pg_backend_pid())", "is the server running? Try again"),
        (
            "do $$ begin raise exception using errcode = 'disk_full', message = 'no space left'; end $$",
            "free some disk",
        ),
        ("SET TRANSACTION READ ONLY; CREATE TABLE t ()", "target_session_attrs"),
        ("CREATE TABLE pipeline.schema_version ()", "remove or rename"),
        ("SELECT 1 / 0", "division by zero"),
        ("no sql", "syntax error"),
    ],
)
def test_whatever_stops_a_migration_is_a_sentence(
    server: EmbeddedPostgres, empty: str, monkeypatch: pytest.MonkeyPatch, statement: str, words: str
) -> None:
    monkeypatch.setattr(sql, "read", lambda name: statement)
    assert words in sentence_of(lambda: migrate.upgrade(server.url(empty)))


def test_the_command_migrate_ends_without_a_traceback(server: EmbeddedPostgres, empty: str) -> None:
    """A read-only database, which a standby looks like too; the role's other limits don't count."""
    run_sql(server, "DROP ROLE IF EXISTS reading")
    run_sql(server, "CREATE ROLE reading LOGIN")
    try:
        done = command("migrate", DATABASE_URL=server.url(empty).replace("postgres@", "reading@"))
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "reading lacks a privilege in database" in done.stderr
        done = command("migrate", DATABASE_URL=server.url(empty))
        assert done.returncode == 0, done.stderr
    finally:
        run_sql(server, "DROP ROLE reading")


def test_a_schema_that_cannot_be_looked_at_is_a_sentence(
    server: EmbeddedPostgres, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "START", postgres.Role(statement=5, lock=0.2, idle=5))
    with holding(database_url, "LOCK TABLE pipeline.schema_version"):
        sentence = sentence_of(lambda: open_database(Settings(database_url=database_url)))
    assert "could not be checked" in sentence and "lock timeout" in sentence


# Poolers


def refused_as_shared(url: str) -> None:
    for action in (
        lambda: migrate.upgrade(url),
        lambda: migrate.current(url),
        lambda: open_database(Settings(database_url=url)),
    ):
        sentence = sentence_of(action)
        assert "behind a pooler that gives each transaction another session" in sentence
        assert "pool_mode = session" in sentence


def works(url: str) -> None:
    assert migrate.upgrade(url) == migrate.head()
    opened = open_database(Settings(database_url=url, db_pool_size=1))
    try:
        with stream_lock(opened, "wss://relay.example", "0/1") as lock, opened.connect("writer") as connection:
            open_cursor(connection, "wss://relay.example", WHOLE, None)
            lock.ensure()
    finally:
        opened.close()


@pytest.mark.parametrize("sessions", [1, 3])
def test_a_pooler_that_shares_sessions_is_refused_at_the_start(
    server: EmbeddedPostgres, empty: str, sessions: int
) -> None:
    with Pooler(str(server.socket_dir), "transaction", empty, sessions) as pooler:
        refused_as_shared(pooler.url())
    assert not settings_left_behind(server, empty)


def settings_left_behind(server: EmbeddedPostgres, name: str) -> bool:
    """Whether a session of ours in a database stayed in the pool under our name."""
    url = server.url("postgres").replace("+psycopg2", "")
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'appview-pipeline%%'"
        cursor.execute(ours, (name,))
        return cursor.fetchone() != (0,)


def test_a_pooler_with_sessions_of_ones_own_is_as_good_as_none(server: EmbeddedPostgres, empty: str) -> None:
    with Pooler(str(server.socket_dir), "session", empty, 20) as pooler:
        works(pooler.url())


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
@pytest.mark.parametrize("size", [1, 20])
def test_with_pgbouncer(server: EmbeddedPostgres, empty: str, tmp_path: Path, mode: str, size: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(f"/tmp/appview-pgbouncer-{os.getpid()}-{mode}")  # one that another user can read
    folder.mkdir(mode=0o755)
    try:
        (folder / "ini").write_text(
            f"[databases]\n{empty} = host={server.socket_dir} port=5432 user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {mode}\ndefault_pool_size = {size}\n"
        )
        user = ["--user", server.socket_dir.owner()] if os.geteuid() == 0 else []
        assert PGBOUNCER is not None
        bouncer = subprocess.Popen([PGBOUNCER, *user, str(folder / "ini")], cwd="/", stderr=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + 10
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert time.monotonic() < deadline and bouncer.poll() is None
                time.sleep(0.05)
            url = f"postgresql://postgres@127.0.0.1:{port}/{empty}"
            if mode != "session":
                refused_as_shared(url)
            elif size > 1:
                works(url)
            else:
                assert migrate.upgrade(url) == migrate.head(), "one session at a time is enough for that"
        finally:
            bouncer.terminate()
            bouncer.communicate(timeout=10)
    finally:
        shutil.rmtree(folder)
