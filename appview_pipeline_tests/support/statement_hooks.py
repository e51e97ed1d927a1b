"""A database that calls a test before and after each statement and each COMMIT."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.settings import Settings
from appview_pipeline.store import sql
from appview_pipeline.store.database import Database
from appview_pipeline.store.prepared import PreparingCursor
from appview_pipeline_tests.support.tables import one

Around = Callable[[str, Connection], AbstractContextManager[None]]
"""Called with a statement's name (`lock.cross_repository`, `copy stage_post`, `commit`); entered before, left after."""


class HookedDatabase(Database):
    """A pool whose connections run each statement inside `around`, from the moment they are taken from the pool."""

    def __init__(self, url: str, settings: Settings, around: Around) -> None:
        super().__init__(url, settings)

        class HookedCursor(Cursor):
            connection: HookedConnection

            def execute(self, query: Any, vars: Any = None) -> None:
                with around(statement_name(query), self.connection) if self.connection.is_out else nullcontext():
                    super().execute(query, vars)

            def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
                with around(statement_name(sql), self.connection):
                    super().copy_expert(sql, file, size)

        # A prepared statement, which is run by its name, goes by the statement that was asked for.
        class HookedPreparingCursor(HookedCursor, PreparingCursor):
            pass

        class HookedConnection(Connection):
            is_out = False

            def cursor(self, *arguments: Any, **named: Any) -> Any:
                prepares = named.get("cursor_factory") is PreparingCursor
                factory = HookedPreparingCursor if prepares else HookedCursor
                return super().cursor(*arguments, **{**named, "cursor_factory": factory})

            def commit(self) -> None:
                with around("commit", self) if self.is_out else nullcontext():
                    super().commit()

        self.connection_factory = HookedConnection

    @contextmanager
    def connect(self, role: str) -> Iterator[Connection]:
        with super().connect(role) as connection:
            hooked: Any = connection
            hooked.is_out = True
            try:
                yield connection
            finally:
                hooked.is_out = False


def statement_name(statement: str) -> str:
    """A statement of `sql/apply/` by file and name; another one by its first words."""
    if statement.startswith("COPY"):
        return "copy " + statement.split()[1].removeprefix("pg_temp.")
    # A statement of duplicates.sql has the same name for each collection.
    return (sql.name_of(statement) or " ".join(statement.split()[:5])).partition(" of ")[0]


@contextmanager
def paused(database: Database, at: str) -> Iterator[tuple[HookedDatabase, threading.Event, threading.Event]]:
    """A database whose first statement `at` waits until it may go on."""
    reached, go_on = threading.Event(), threading.Event()

    @contextmanager
    def around(name: str, connection: Connection) -> Iterator[None]:
        if name == at and not reached.is_set():
            reached.set()
            assert go_on.wait(60)
        yield

    hooked = HookedDatabase(database.url, Settings(database_url=database.url), around)
    try:
        yield hooked, reached, go_on
    finally:
        go_on.set()
        hooked.close()


def blocked(database: Database) -> int:
    """How many sessions wait for a lock."""
    return int(
        one(
            database.url,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
    )
