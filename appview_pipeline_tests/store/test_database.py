"""Connections: bounded by their roles, committed as a whole, pooled, and restored when a server was lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extensions import connection as Connection

from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store import database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline.store.errors import Transient
from appview_pipeline_tests.support.database import run


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

    def ensure_running(self) -> None:
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
