"""One PostgreSQL: its URL, a connection to it, what it must be like, and its errors in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.errors
import sqlalchemy
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool

from appview_pipeline.errors import OperatorError

OLDEST_SERVER = 15
CONNECT_TIMEOUT = 10  # seconds
POOL_TIMEOUT = 30  # seconds that a caller waits for a connection of a pool

# ------------------------------------------------------------------------------------------------------------------
# URLs


def parse_url(url: str) -> URL:
    """A PostgreSQL URL for SQLAlchemy and Dagster, its scheme made `postgresql+psycopg2`.

    A plain `postgresql://` means another driver to each version of SQLAlchemy, and `postgres://` nothing at all.
    Raises `OperatorError` for anything that is not the URL of a PostgreSQL database.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise OperatorError(
            "the database URL can't be read: write it as postgresql://user:password@host:port/database, with special "
            "characters of the password percent-encoded."
        ) from None
    if parsed.drivername.partition("+")[0] not in ("postgres", "postgresql"):
        raise OperatorError(
            f"the database URL starts with {parsed.drivername}://, which is not PostgreSQL: use postgresql://."
        )
    return parsed.set(drivername="postgresql+psycopg2")


def sqlalchemy_url(url: str) -> str:
    """The URL as SQLAlchemy and Dagster want it: `postgresql+psycopg2://...`, password included."""
    return parse_url(url).render_as_string(hide_password=False)


def libpq_url(url: str) -> str:
    """The URL as psql, pg_dump and `psycopg2.connect` want it: `postgresql://...`, password included."""
    return parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def describe(url: str) -> str:
    """The database in words, without secrets: `database appview on db.example.com:5432`."""
    parsed = parse_url(url)
    host = parsed.host or parsed.query.get("host") or "the local socket"
    host = host if isinstance(host, str) else ",".join(host)
    return f"database {parsed.database or parsed.username or '(default)'} on {host}" + (
        f":{parsed.port}" if parsed.port else ""
    )


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
    where = describe(url)
    user = parse_url(url).username or "the default user"
    # libpq puts one line a tried address; the first says it best.
    message = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
    if isinstance(error, psycopg2.errors.InsufficientPrivilege):
        return OperatorError(f"{user} lacks a privilege in {where} ({message}): grant it, or connect as its owner.")
    if type(error) is psycopg2.ProgrammingError and message.startswith("invalid"):
        return OperatorError(f"the database URL is not accepted ({message}): correct it.")
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
        name = parse_url(url).database
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


@contextmanager
def transient(url: str, application_name: str = "appview-pipeline") -> Iterator[Connection]:
    """One SQLAlchemy connection, opened for the block and closed after it; mendable errors as `OperatorError`."""
    engine = sqlalchemy.create_engine(
        parse_url(url), poolclass=NullPool, connect_args=connect_arguments(application_name)
    )
    with in_words(url), engine.connect() as connection:
        yield connection


def check_server(connection: Connection) -> None:
    """Raises `OperatorError` where the server is too old or the database is not UTF-8."""
    version, encoding = connection.execute(
        text("select current_setting('server_version_num')::int / 10000, current_setting('server_encoding')")
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
                select array_agg(v order by v) = array_agg(v order by v collate "C")
                from unnest(array['B', 'a', 'Z', 'é', '-1', '.0', '0', 'aa', 'a-b', '2024-01-01T', '2024']) v
            """)
        )
    )
