"""One PostgreSQL: its URL, a connection to it, what it must be like, and its errors in one sentence."""

from __future__ import annotations

import select
import shlex
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
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool

from appview_pipeline import backoff
from appview_pipeline.addresses import AddressError, DatabaseAddress, database_address
from appview_pipeline.errors import OperatorError

OLDEST_SERVER = 15
CONNECT_TIMEOUT = 10  # seconds
POOL_TIMEOUT = 30  # seconds that a caller waits for a connection of a pool

# ------------------------------------------------------------------------------------------------------------------
# URLs


def address(url: str) -> DatabaseAddress:
    """The database at `url` (any form that libpq reads). Raises `OperatorError`, which shows no part of it."""
    try:
        return database_address(url)
    except AddressError as error:
        sentence = OperatorError(f"the database URL {error}.")
    raise sentence


def parse_url(url: str) -> URL:
    """The URL of a database on one host or socket for SQLAlchemy. Raises `OperatorError` as `address`."""
    given = dict(address(url).parameters)
    host = given.get("host", "")
    in_query = host.startswith(("/", "@")) or "," in host
    return URL.create(
        "postgresql+psycopg2",
        username=given.pop("user", None),
        password=given.pop("password", None),
        host=None if in_query else given.pop("host", None),
        port=None if in_query or not given.get("port", "").isdecimal() else int(given.pop("port")),
        database=given.pop("dbname", None),
        query=given,
    )


def sqlalchemy_url(url: str) -> str:
    """The URL with SQLAlchemy's name for the driver, `postgresql+psycopg2://...`, password included."""
    return address(url).url("postgresql+psycopg2")


def libpq_url(url: str) -> str:
    """The URL as psql, pg_dump and `psycopg2.connect` want it: `postgresql://...`, password included."""
    return address(url).url()


def describe(url: str) -> str:
    """The database in words, without secrets: `database appview on db.example.com:5432`."""
    return address(url).describe()


# ------------------------------------------------------------------------------------------------------------------
# Errors


# What the server answers instead of a connection. What libpq itself has to say, it says by a plain OperationalError or,
# for a URL that it can't read, ProgrammingError.
_NO_CONNECTION = (
    psycopg2.errors.AdminShutdown,
    psycopg2.errors.CannotConnectNow,
    psycopg2.errors.TooManyConnections,
    psycopg2.errors.InvalidPassword,
    psycopg2.errors.InvalidAuthorizationSpecification,
    psycopg2.errors.InvalidCatalogName,
)


def operator_error(error: BaseException, url: str) -> OperatorError | None:
    """The sentence for an error that the operator can do something about; None for any other error."""
    if isinstance(error, PoolTimeout):
        return OperatorError(
            f"all database connections of this process have been in use for {POOL_TIMEOUT} s: "
            "raise APPVIEW_DB_POOL_SIZE."
        )
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    if not isinstance(error, psycopg2.Error):
        return None
    place = address(url)
    where, user = place.describe(), place.user
    message = place.without_secrets(first_line(error))
    if isinstance(error, psycopg2.errors.InsufficientPrivilege):
        return OperatorError(f"{user} lacks a privilege in {where} ({message}): grant it, or connect as its owner.")
    if type(error) is psycopg2.ProgrammingError and message.startswith("invalid"):
        return OperatorError(f"the database URL of {where} is not accepted by libpq: correct it.")
    if type(error) is not psycopg2.OperationalError and not isinstance(error, _NO_CONNECTION):
        return None
    lower = str(error).lower()
    if "password authentication failed" in lower or "no password supplied" in lower:
        return OperatorError(f"{where} refuses the password of {user}: correct it in APPVIEW_DATABASE_URL.")
    if "pg_hba.conf" in lower or "authentication failed" in lower:
        return OperatorError(f"{where} does not admit {user} from here ({message}): allow it in pg_hba.conf.")
    if "does not exist" in lower and 'role "' in lower:
        return OperatorError(f"{where} has no role {user}: create it, or correct APPVIEW_DATABASE_URL.")
    if "does not exist" in lower and 'database "' in lower:
        name = shlex.quote(place.database)
        return OperatorError(
            f"{where} does not exist: create it (`createdb --template=template0 --encoding=UTF8 --locale=C {name}`)."
        )
    if "too many clients" in lower or "remaining connection slots" in lower or "too many connections" in lower:
        return OperatorError(
            f"{where} has no free connections: raise max_connections there or lower APPVIEW_DB_POOL_SIZE."
        )
    if "starting up" in lower or "shutting down" in lower or "recovery mode" in lower:
        return OperatorError(f"{where} is starting up or shutting down: try again in a moment.")
    return OperatorError(f"{where} can't be reached ({message}): is it running, and is APPVIEW_DATABASE_URL right?")


def obstacle(error: BaseException, where: str) -> str:
    """What stopped a piece of work, with its remedy: the end of a sentence that says which work it was."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    message = first_line(error)
    for kinds, remedy in _REMEDIES:
        if isinstance(cause, kinds):
            return f"{message}: {remedy}"
    return f"{message}: see the log of the server of {where}"


_REMEDIES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (psycopg2.errors.LockNotAvailable, "end what uses the named table (see pg_locks) and try again"),
    (psycopg2.errors.QueryCanceled, "see what holds it up (pg_stat_activity) and try again"),
    (psycopg2.errors.DeadlockDetected, "try again"),
    (psycopg2.errors.ReadOnlySqlTransaction, "connect to the primary (target_session_attrs=read-write in the URL)"),
    (psycopg2.errors.InsufficientPrivilege, "grant it, or connect as the owner"),
    (psycopg2.errors.DiskFull, "free some disk space there and try again"),
    (psycopg2.errors.OutOfMemory, "give the server more memory, or lower maintenance_work_mem there"),
    (psycopg2.errors.ConfigurationLimitExceeded, "raise that limit"),
    ((psycopg2.errors.DuplicateObject, psycopg2.errors.DuplicateTable), "remove or rename what is in the way"),
    (psycopg2.errors.AdminShutdown, "the session was ended; try again"),
    ((psycopg2.OperationalError, psycopg2.InterfaceError), "is the server running? Try again"),
)


def first_line(error: BaseException) -> str:
    """The first line of an error's message: libpq puts one line a tried address, the first says it best."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    lines = str(error).strip().split("\n")
    return " ".join(lines[0].split()) or type(error).__name__


@contextmanager
def in_words(url: str) -> Iterator[None]:
    """Turns the errors of the block that an operator can mend into `OperatorError`; others pass."""
    try:
        yield
    except (psycopg2.Error, SQLAlchemyError) as error:
        sentence = operator_error(error, url)
        if sentence is None:
            raise
        raise sentence from error


# ------------------------------------------------------------------------------------------------------------------
# Connections


def connect_arguments(application_name: str = "appview-pipeline") -> dict[str, Any]:
    """libpq's parameters for every connection of ours: a dead peer is noticed within about half a minute."""
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
    """libpq's parameters for `url`; what it says itself about time-outs and keepalives counts."""
    ours = connect_arguments(application_name)
    return {**ours, **address(url).parameters, "client_encoding": ours["client_encoding"]}


@dataclass(frozen=True)
class Role:
    """What a connection may do: seconds that a statement, a wait for a lock and an idle transaction may take."""

    statement: float
    lock: float
    idle: float
    read_only: bool = False
    jit: bool = True


START = Role(statement=60, lock=10, idle=60)
"""The role of looking at a database before it is used."""


@contextmanager
def transient(url: str, role: Role = START, application_name: str = "appview-pipeline") -> Iterator[Connection]:
    """One SQLAlchemy connection in `role` (default: `START`), opened for the block and closed after it.

    Raises mendable errors as `OperatorError`, among them a pooler that shares sessions.
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
    """Sets what our statements rely on, whatever the server, the database or the role has for a default."""
    session = {
        "application_name": application_name,
        "statement_timeout": f"{round(role.statement * 1000)}ms",
        "lock_timeout": f"{round(role.lock * 1000)}ms",
        "idle_in_transaction_session_timeout": f"{round(role.idle * 1000)}ms",
        # A session of a pool, or one that holds a lock, may rest for long.
        "idle_session_timeout": "0",
        "default_transaction_read_only": "on" if role.read_only else "off",
        # What the write path looks at under its locks must be newer than its transaction.
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

    Waits for locks end in half of that: a wait for somebody else is then not taken for a statement that is slow.
    """
    lock = min(role.lock, share * role.statement / 2)
    if share < 1.0 or lock < role.lock:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SET LOCAL statement_timeout = '{share * role.statement * 1000:.0f}ms'; "
                f"SET LOCAL lock_timeout = '{lock * 1000:.0f}ms'"
            )


def _execute_at_start(connection: PsycopgConnection, statement: str) -> tuple[Any, ...]:
    """Runs a statement that takes no time under the time limits of somebody else, which may be a millisecond."""
    for tries_left in reversed(range(backoff.SESSION_TRIES)):
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchone() or () if cursor.description else ()
        except psycopg2.errors.QueryCanceled:
            if not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


# ------------------------------------------------------------------------------------------------------------------
# Poolers


def refuse_shared_sessions(connection: PsycopgConnection, url: str) -> None:
    """Raises `OperatorError` where a pooler gives each transaction, or each statement, another session.

    Ours live in their session: advisory locks, prepared statements, temporary tables, time limits. A pooler is known by
    the process id that it tells its client at the start, which is not the server process's. Behind one a second client
    opens a transaction: where it gets the session of the first, or the first then another, sessions are shared.
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
                    return  # one session at a time: whoever needs a second one says so
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
    """Waits for what an asynchronous connection is at work on; False when that takes too long."""
    deadline = time.monotonic() + backoff.POOLER_SECONDS
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        reading, writing = ([connection], []) if state == psycopg2.extensions.POLL_READ else ([], [connection])
        ready = select.select(reading, writing, [], max(0.0, deadline - time.monotonic()))
        if not any(ready):
            return False
    return True


def check_server(connection: Connection) -> None:
    """Raises `OperatorError` where the server is too old or the database is not UTF-8."""
    version, encoding = connection.execute(
        text("SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding')")
    ).one()
    if version < OLDEST_SERVER:
        raise OperatorError(f"the server is PostgreSQL {version}: use {OLDEST_SERVER} or newer.")
    if encoding != "UTF8":
        raise OperatorError(
            f"the database's encoding is {encoding}: create it with UTF-8 "
            "(`createdb --template=template0 --encoding=UTF8 --locale=C NAME`)."
        )


def sorts_by_byte(connection: Connection) -> bool:
    """Whether the database compares text by its bytes, as generated columns (`least`) of dates silently rely on."""
    return bool(
        connection.scalar(
            text("""
                SELECT array_agg(v ORDER BY v) = array_agg(v ORDER BY v COLLATE "C")
                FROM unnest(ARRAY['B', 'a', 'Z', 'é', '-1', '.0', '0', 'aa', 'a-b', '2024-01-01T', '2024']) v
            """)
        )
    )
