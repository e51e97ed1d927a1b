"""The pool of connections to our database, and the roles that bound what a connection may do.

In seconds; a statement beyond its limit is cancelled, a session that leaves a transaction idle is ended:

| role | statement | waiting for a lock | idle in a transaction | |
|---|---|---|---|---|
| writer | `APPVIEW_STATEMENT_TIMEOUT` | 30 | 60 | the write path; a cancelled batch is retried |
| reader | 30 | 5 | 30 | read-only: status, sensor, checks |
| health | 5 | 1 | 30 | read-only: `health_report.py`, for checks, alerts and metrics |
| maintenance | 3,600 | 10 | 300 | sweeps, recounts, reruns; gives up waiting for a lock early |
| sweeper | 60 | 1 | 60 | sweeps; gives up at once, for nothing waits for them |
| start | 60 | 10 | 60 | checks of a database before it is used (`postgres.START`) |
| migration | 21,600 | 60 | 300 | (`migrate.MIGRATION`); waits 900 for another process that migrates |

They apply whatever the defaults of the server, the database or the PostgreSQL role are (`postgres.begin_session`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar, cast

import psycopg2
import sqlalchemy
from psycopg2.extensions import TRANSACTION_STATUS_INERROR
from psycopg2.extensions import connection as PsycopgConnection
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store import database_url, postgres
from appview_pipeline.store import migrate as migrations
from appview_pipeline.store.adoption import refuse_unfinished
from appview_pipeline.store.database_url import sqlalchemy_url
from appview_pipeline.store.embedded.attach import EmbeddedPostgres, attach
from appview_pipeline.store.errors import translated
from appview_pipeline.store.leaving import is_left
from appview_pipeline.store.operator_errors import in_words, obstacle
from appview_pipeline.store.postgres import Role

Connection = PsycopgConnection
"""The connections that `Database` gives and that the functions of `store/` take."""

_T = TypeVar("_T")


def roles(settings: Settings) -> dict[str, Role]:
    """The roles by name; the table above."""
    return {
        # Compiling takes longer than the short statements of the write path.
        "writer": Role(statement=settings.statement_timeout, lock=30, idle=60, jit=False),
        "reader": Role(statement=30, lock=5, idle=30, read_only=True),
        "health": Role(statement=5, lock=1, idle=30, read_only=True, jit=False),
        "maintenance": Role(statement=3_600, lock=10, idle=300),
        "sweeper": Role(statement=60, lock=1, idle=60),
    }


class Database:
    """A pool of connections to one database, of at most `APPVIEW_DB_POOL_SIZE`. Safe to share between threads."""

    connection_factory: type[PsycopgConnection] = PsycopgConnection
    """The class of the pool's connections; tests use another to watch them."""

    def __init__(self, url: str, settings: Settings, server: EmbeddedPostgres | None = None) -> None:
        self.url = sqlalchemy_url(url)
        self.roles = roles(settings)
        self._server = server
        self.engine: Engine = sqlalchemy.create_engine(
            "postgresql+psycopg2://",
            creator=self._open,
            use_native_hstore=False,  # SQLAlchemy would query for it at every connection
            poolclass=QueuePool,
            pool_size=settings.db_pool_size,
            max_overflow=0,
            pool_timeout=backoff.POOL_SECONDS,
            pool_pre_ping=True,
        )
        event.listen(self.engine, "connect", _note_role)

    def _open(self) -> PsycopgConnection:
        # The role is set before SQLAlchemy's first statement, since the server's own limits may be very short.
        connection = postgres.connect(self.url, factory=self.connection_factory)
        try:
            self._take_role(connection, "writer")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def connect(self, role: str) -> Iterator[PsycopgConnection]:
        """A connection of the pool in `role`: commits when the block ends, rolls back when it raises.

        Raises `OperatorError` when no connection can be had, and `store.errors.DatabaseError` when a statement fails.
        """
        with translated(), self._transaction(role) as connection:
            yield connection

    @contextmanager
    def _transaction(self, role: str) -> Iterator[PsycopgConnection]:
        pooled = self._obtain(self.engine.raw_connection)
        try:
            connection = cast(PsycopgConnection, pooled.driver_connection)
            if pooled.info.get("role") != role:
                pooled.info.pop("role", None)
                with in_words(self.url):
                    self._take_role(connection, role)
                pooled.info["role"] = role
            try:
                yield connection
                # PostgreSQL answers COMMIT with ROLLBACK, and no error, when a statement of the transaction failed.
                assert connection.info.transaction_status != TRANSACTION_STATUS_INERROR, (
                    "a failed statement was ignored"
                )
                connection.commit()
            except BaseException:
                try:
                    connection.rollback()
                except psycopg2.Error:
                    pooled.invalidate()  # the connection is gone; the error that came first is raised
                raise
        finally:
            pooled.close()

    @contextmanager
    def dedicated(self, role: str) -> Iterator[PsycopgConnection]:
        """A connection outside of the pool and its limit, in autocommit, for holding session locks.

        Closed after the block. Raises errors as `connect` does.
        """
        with translated(), closing(self._obtain(lambda: postgres.connect(self.url))) as connection:
            with in_words(self.url):
                self._take_role(connection, role)
            connection.autocommit = True
            yield connection

    def _take_role(self, connection: PsycopgConnection, role: str) -> None:
        postgres.begin_session(connection, f"appview-pipeline {role}", self.roles[role])

    def _obtain(self, connection: Callable[[], _T]) -> _T:
        try:
            with in_words(self.url):
                return connection()
        except OperatorError as error:
            if self._server is None or isinstance(error.__cause__, PoolTimeout):
                raise
        # The embedded server may have been killed: the process that needs it starts it again.
        self._server.ensure_running()
        with in_words(self.url):
            return connection()

    def close(self) -> None:
        """Closes the pool and lets go of the embedded server, if this database is on it."""
        self.engine.dispose()
        if self._server is not None:
            self._server.close()
            self._server = None


def _note_role(connection: PsycopgConnection, record: ConnectionPoolEntry) -> None:
    record.info["role"] = "writer"


def open_database(
    settings: Settings,
    *,
    migrate: bool | None = None,
    patience: float | None = None,
    check: bool = True,
    given_back: bool = False,
) -> Database:
    """Opens the database of the settings, or the embedded one where they name none (starting it if need be).

    `migrate`: bring the schema up to date first; by default only on the embedded database. `patience`: seconds to wait
    for a start of the embedded database that goes on, see `attach`. Without `check` it is not connected to yet: whoever
    uses it finds out how it is. `given_back`: also open it while it belongs to the reference's indexer
    (`appview-pipeline leave`), or is being adopted from it.

    Raises `OperatorError` in one sentence when the database can't be reached, when `patience` has run out, when the
    schema is missing, older or newer than this code, when the database was given back, or when its adoption is not
    finished.
    """
    server: EmbeddedPostgres | None = None
    if settings.database_url is None:
        server = attach(settings, patience=patience)
        url = server.url()
    else:
        url = settings.database_url
    try:
        if migrate or (migrate is None and server is not None):
            migrations.upgrade(url)
        try:
            if check:
                _check(url, given_back)
        except (psycopg2.Error, SQLAlchemyError) as error:
            where = database_url.describe(url)
            raise OperatorError(f"{where} could not be checked ({obstacle(error, where)}).") from error
        return Database(url, settings, server)
    except BaseException:
        if server is not None:
            server.close()
        raise


def _check(url: str, given_back: bool) -> None:
    """Raises `OperatorError` where the server or the schema is not what this code needs."""
    with postgres.transient(url) as connection:
        postgres.check_server(connection)
        if not given_back:
            refuse_unfinished(cast(PsycopgConnection, connection.connection.driver_connection))
        migrations.check_version(connection, url)
        if not given_back and is_left(cast(PsycopgConnection, connection.connection.driver_connection)):
            raise OperatorError(
                f"{database_url.describe(url)} belongs to the reference's own indexer (`appview-pipeline leave`): "
                "stop that indexer, then run `appview-pipeline adopt` to take it over again."
            )
