"""Connections to one PostgreSQL: their roles, the poolers that can't be used, and what the server must be like."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import sqlalchemy
from psycopg2.extensions import connection as PsycopgConnection
from sqlalchemy import Connection, text
from sqlalchemy.pool import NullPool

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.database_url import address, describe
from appview_pipeline.store.operator_errors import in_words

OLDEST_SERVER = 15
CONNECT_TIMEOUT = 10  # seconds


def connect_arguments(application_name: str = "appview-pipeline") -> dict[str, Any]:
    """libpq's parameters for every connection of ours. They detect a dead peer within about half a minute."""
    return {
        "connect_timeout": CONNECT_TIMEOUT,
        "application_name": application_name,
        "client_encoding": "utf8",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }


def connect(
    url: str, application_name: str = "appview-pipeline", factory: type[PsycopgConnection] = PsycopgConnection
) -> PsycopgConnection:
    """A psycopg2 connection as libpq makes it from `url`. Raises psycopg2's errors, `OperatorError` as `address`."""
    connection: PsycopgConnection = psycopg2.connect(**_parameters(url, application_name), connection_factory=factory)
    return connection


def _parameters(url: str, application_name: str = "appview-pipeline") -> dict[str, Any]:
    """libpq's parameters for `url`; time-outs and keepalives in the URL itself override ours."""
    ours = connect_arguments(application_name)
    return {**ours, **address(url).parameters, "client_encoding": ours["client_encoding"]}


@dataclass(frozen=True)
class Role:
    """Limits of a connection: seconds that a statement, a wait for a lock and an idle transaction may take."""

    statement: float
    lock: float
    idle: float
    read_only: bool = False
    jit: bool = True


START = Role(statement=60, lock=10, idle=60)
"""The role in which a database is checked before it is used."""


@contextmanager
def transient(url: str, role: Role | None = None, application_name: str = "appview-pipeline") -> Iterator[Connection]:
    """One SQLAlchemy connection in `role` (default: `START`), opened for the block and closed after it.

    Raises errors that an operator can mend as `OperatorError`; a pooler that shares sessions is one of them.
    """

    def open_session() -> PsycopgConnection:
        connection = connect(url, application_name)
        try:
            refuse_shared_sessions(connection, url)
            begin_session(connection, application_name, role or START)
        except BaseException:
            connection.close()
            raise
        return connection

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg2://", poolclass=NullPool, creator=open_session, use_native_hstore=False
    )
    with in_words(url), engine.connect() as connection:
        yield connection


def begin_session(connection: PsycopgConnection, application_name: str, role: Role) -> None:
    """Sets what our statements rely on, whatever the defaults of the server, the database or the role are."""
    session = {
        "application_name": application_name,
        "statement_timeout": f"{round(role.statement * 1000)}ms",
        "lock_timeout": f"{round(role.lock * 1000)}ms",
        "idle_in_transaction_session_timeout": f"{round(role.idle * 1000)}ms",
        # A session of a pool, or one that holds a lock, may rest for long.
        "idle_session_timeout": "0",
        "default_transaction_read_only": "on" if role.read_only else "off",
        # The write path must read rows under its locks that are newer than its transaction.
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        "timezone": "UTC",
        "datestyle": "ISO",
        "intervalstyle": "postgres",
        "standard_conforming_strings": "on",
        "row_security": "on",
        "jit": "on" if role.jit else "off",
    }
    if connection.server_version >= 170_000:
        session["transaction_timeout"] = "0"
    connection.autocommit = True  # outside of a transaction: its rollback would undo the settings
    _execute_at_start(connection, "; ".join(f"SET {key} = '{value}'" for key, value in session.items()))
    connection.autocommit = False


def limit_transaction(connection: PsycopgConnection, role: Role, share: float) -> None:
    """Gives each statement of the transaction that begins now `share` of the role's time.

    Waits for locks end in half of that, so that waiting for another session does not look like a slow statement.
    """
    lock = min(role.lock, share * role.statement / 2)
    if share < 1.0 or lock < role.lock:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SET LOCAL statement_timeout = '{share * role.statement * 1000:.0f}ms'; "
                f"SET LOCAL lock_timeout = '{lock * 1000:.0f}ms'"
            )


def _execute_at_start(connection: PsycopgConnection, statement: str) -> tuple[Any, ...]:
    """Runs a quick statement under limits that are not ours and may be a millisecond; tries again when cancelled."""
    for tries_left in reversed(range(backoff.SESSION_TRIES)):
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchone() or () if cursor.description else ()
        except psycopg2.errors.QueryCanceled:
            if not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


# --- Poolers ---


def refuse_shared_sessions(connection: PsycopgConnection, url: str) -> None:
    """Raises `OperatorError` where a pooler gives each transaction, or each statement, another session.

    We keep advisory locks, prepared statements, temporary tables and time limits in a session. A pooler is recognized
    by the process id that it gives its client at the start, which is not the server process's. Behind one a second
    client opens a transaction: sessions are shared if it gets the first one's session, or the first then gets another.
    """
    connection.autocommit = True
    before = _backend_pid(connection)
    if connection.info.backend_pid == before:
        return
    for _ in range(backoff.POOLER_TRIES):
        with closing(psycopg2.connect(**_parameters(url), async_=True)) as other:
            try:
                _answered(other)
                cursor = other.cursor()
                cursor.execute("BEGIN; SELECT pg_backend_pid()")
                if not _answered(other):
                    return  # the pooler has one session only: the caller that needs a second one will fail in words
                shared = cursor.fetchone() == (before,) or _backend_pid(connection) != before
                cursor.execute("rollback")  # a pooler would end the server's session with the transaction
                _answered(other)
            except psycopg2.Error:
                shared = True  # pgbouncer pools statements: it has no transactions
        if shared:
            raise OperatorError(
                f"{describe(url)} is behind a pooler that gives each transaction another session, but the stream's "
                "lock, prepared statements and temporary tables live in one: use session pooling (pgbouncer: "
                "pool_mode = session), or connect to the server itself."
            )


def _backend_pid(connection: PsycopgConnection) -> int:
    return int(_execute_at_start(connection, "SELECT pg_backend_pid()")[0])


def _answered(connection: PsycopgConnection) -> bool:
    """Waits for the result of an asynchronous connection; False when that takes too long."""
    deadline = time.monotonic() + backoff.POOLER_SECONDS
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        reading, writing = ([connection], []) if state == psycopg2.extensions.POLL_READ else ([], [connection])
        ready = select.select(reading, writing, [], max(0.0, deadline - time.monotonic()))
        if not any(ready):
            return False
    return True


CREATE_DATABASE = "createdb --template=template0 --encoding=UTF8 --locale=C NAME"
"""The command that makes a database as it has to be."""


def check_server(connection: Connection) -> None:
    """Raises `OperatorError` where the server is too old, or the database is not UTF-8 or does not sort by byte."""
    version, encoding = connection.execute(
        text("SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding')")
    ).one()
    if version < OLDEST_SERVER:
        raise OperatorError(f"the server is PostgreSQL {version}: use {OLDEST_SERVER} or newer.")
    if encoding != "UTF8":
        raise OperatorError(f"the database's encoding is {encoding}: create it with UTF-8 (`{CREATE_DATABASE}`).")
    provider, collation, locale = connection.execute(
        text("""
            SELECT d.datlocprovider, d.datcollate,
                coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', d.datcollate)
            FROM pg_database d
            WHERE d.datname = current_database()
        """)
    ).one()
    if not sorts_by_byte(provider, collation):
        raise OperatorError(
            f"the database sorts text by the rules of a language ({locale}), while URIs and dates have to be compared "
            f"by byte, or account removals would miss records: make another database with `{CREATE_DATABASE}`, and "
            "move what is in this one there (`pg_dump | psql`)."
        )


def sorts_by_byte(provider: str, collation: str) -> bool:
    """Whether a database of this `pg_database.datlocprovider` and `datcollate` compares text by its bytes, here and
    wherever it is copied to. (docs/decisions/0009-sorted-by-byte.md)

    True for the built-in provider, whose locales all sort by code point, which in UTF-8 is by byte; of the C library's
    for the locales that say so by name. ICU's always follow a language.
    """
    if provider == "b":
        return True
    return provider == "c" and collation.lower().replace("-", "") in ("c", "posix", "c.utf8")
