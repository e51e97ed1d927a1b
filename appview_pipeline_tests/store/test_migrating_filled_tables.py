"""Migrations of a database that is full and in use: no large table is rewritten, or locked while rows are read.

How long a lock is held depends on the machine; how much is done while it is held does not. So the test counts the rows
that a migration reads in a transaction that keeps others from a table.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.store import migrate, migrations, postgres
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference import check
from appview_pipeline_tests.conformance.reference.catalog import snapshot
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.filled_tables import LARGE, fill
from appview_pipeline_tests.support.tables import one, rows
from appview_pipeline_tests.support.waiting import wait_for

ROWS = 1_000
FEW = 100
"""Rows that a transaction may read while it keeps others from a large table."""

KNOWN = {
    # gap_once gets another column. Before this version a repository had a gap only where its chain had broken.
    ("0010", "pipeline.gap"),
    # A generated column. Before this version nothing read the queue, and only incomplete repositories were in it.
    ("0020", "pipeline.backfill_queue"),
}
"""Tables that a migration locks, or rewrites, for longer."""

_STRONG = """
    SELECT DISTINCT l.relation::regclass::text
    FROM pg_locks l
    JOIN pg_class c ON c.oid = l.relation
    WHERE l.pid = pg_backend_pid() AND c.relkind = 'r'
        AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""
_READ = "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_xact_user_tables"


class Watched:
    """Notes, for each transaction of a migration, the large tables that it kept others from while it read rows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: set[tuple[str, str]] = set()
        self.statements = 0
        self._execute = migrations._execute
        monkeypatch.setattr(migrations, "_execute", self.execute)

    def execute(self, connection: Connection, name: str, text: str) -> None:
        """A statement of a migration. One that would commit by itself gets a transaction, so that it can be looked at;
        what can't run in one locks nobody out, by its form."""
        self.statements += 1
        with connection.cursor() as cursor:
            if not connection.autocommit:
                self._look_at(connection, cursor, name, text)
            elif text.startswith("ALTER TABLE"):
                cursor.execute("BEGIN")
                self._look_at(connection, cursor, name, text)
                cursor.execute("COMMIT")
            else:
                assert text.startswith(("CREATE INDEX CONCURRENTLY", "DO ", "UPDATE ", "INSERT ")), text
                self._execute(connection, name, text)

    def _look_at(self, connection: Connection, cursor: Any, name: str, text: str) -> None:
        cursor.execute(_READ)
        (before,) = cursor.fetchone()
        self._execute(connection, name, text)
        cursor.execute(_READ)
        (after,) = cursor.fetchone()
        if after - before > FEW:
            cursor.execute(_STRONG)
            locked = {table.replace('"', "") for (table,) in cursor.fetchall()} & set(LARGE)
            version = name.rpartition("/")[2][:4]
            self.found |= {(version, table) for table in locked}


@pytest.fixture
def url(server: EmbeddedPostgres) -> Iterator[str]:
    with check.scratch_database(server.url("postgres")) as made:
        yield made


@pytest.mark.parametrize("version", ["0002", "0020"])
def test_large_tables_are_neither_rewritten_nor_locked_while_rows_are_read(
    url: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(url, version)
    filled = fill(url, ROWS)
    assert {"bsky.record", "bsky.post", "bsky.like", "bsky.notification", "pipeline.repo"} <= filled
    files = _files(url)
    watched = Watched(monkeypatch)
    assert migrate.upgrade(url) == migrate.head()
    assert watched.statements > 10
    known = {it for it in KNOWN if it[0] > version}
    found = {(at, table) for at, table in watched.found if table in filled}
    assert found <= known, "others are kept from these tables for long"
    after = _files(url)
    rewritten = {table for table in filled & after.keys() if after[table] != files[table]}
    assert rewritten <= {table for _, table in known}
    assert one(url, "SELECT count(*) FROM bsky.record") == ROWS
    assert one(url, "SELECT count(*) FROM bsky.post WHERE rev IS NULL") == 0
    assert one(url, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    assert one(url, "SELECT count(*) FROM pg_constraint WHERE NOT convalidated") == 0


def test_an_index_that_others_wait_for_would_be_noticed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate.upgrade(url, "0023")
    fill(url, ROWS)
    watched = Watched(monkeypatch)
    with connect(url) as connection:
        watched.execute(connection, "schema/0099_x", "CREATE INDEX later ON bsky.record (cid)")
        connection.rollback()
        watched.execute(connection, "schema/0099_x", "ALTER TABLE bsky.\"like\" ADD CHECK (cid <> '')")
        connection.rollback()
        watched.execute(connection, "schema/0099_x", "ALTER TABLE bsky.repost ADD COLUMN moved text")
    assert watched.found == {("0099", "bsky.record"), ("0099", "bsky.like")}


def test_readers_and_writers_go_on_beside_an_index_build_that_is_killed_and_repeated(
    url: str, database_url: str
) -> None:
    migrate.upgrade(url, "0023")
    fill(url, ROWS)
    with connect(url) as old, old.cursor() as cursor:
        # The build waits for transactions that began before it: so it is certainly under way.
        old.set_session(isolation_level="REPEATABLE READ")
        cursor.execute("SELECT count(*) FROM bsky.actor")
        code = "import sys; from appview_pipeline.store import migrate; migrate.upgrade(sys.argv[1])"
        process = subprocess.Popen([sys.executable, "-c", code, url], cwd=CHECKOUT)
        try:
            building = "SELECT pid FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%%'"
            wait_for(lambda: rows(url, building))
            rows(url, "SET lock_timeout = '10s'; UPDATE bsky.label SET cts = cts; SELECT FROM bsky.label")
            assert migrate.current(url) == "0023"
            (backend,) = rows(url, building)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        rows(url, "SELECT pg_terminate_backend(%s)", *backend)
        wait_for(lambda: not rows(url, building))
    assert one(url, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1
    assert migrate.upgrade(url) == migrate.head()
    assert one(url, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    with connect(url) as migrated, connect(database_url) as fresh:
        assert snapshot(migrated, "bsky") == snapshot(fresh, "bsky")
        assert snapshot(migrated, "pipeline") == snapshot(fresh, "pipeline")


def test_a_table_in_use_is_tried_again_in_short_waits(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a table's lock holds up all that come after."""
    migrate.upgrade(url, "0005")
    monkeypatch.setattr(migrate, "MIGRATION", postgres.Role(statement=20, lock=1.5, idle=20))
    monkeypatch.setattr(backoff, "MIGRATION_LOCK_SECONDS", 0.1)
    monkeypatch.setattr(backoff, "MIGRATION_PAUSE_SECONDS", 0.05)
    tries: list[str] = []
    execute = migrations._execute

    def counted(connection: Connection, name: str, text: str) -> None:
        tries.append(name)
        execute(connection, name, text)

    monkeypatch.setattr(migrations, "_execute", counted)
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM bsky.notification")
        with pytest.raises(OperatorError, match="lock timeout"):
            migrate.upgrade(url)
    assert len(tries) > 2 and len(set(tries)) == 1
    assert migrate.upgrade(url) == migrate.head()


def _files(url: str) -> dict[str, int]:
    """The files that tables are in, which change when a table is rewritten."""
    names = rows(url, "SELECT oid::regclass::text, relfilenode FROM pg_class WHERE relkind = 'r'")
    return {name.replace('"', ""): number for name, number in names}
