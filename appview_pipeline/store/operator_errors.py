"""Errors of PostgreSQL, of its driver and of SQLAlchemy as one sentence with a remedy, without secrets."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import psycopg2.errors
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from appview_pipeline import backoff
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.database_url import address

# The server's errors instead of a connection. libpq's own errors are a plain OperationalError or, for a URL that it
# can't read, ProgrammingError.
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
            f"all database connections of this process have been in use for {backoff.POOL_SECONDS} s: "
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
    """What stopped some work, and the remedy: the end of a sentence that names the work."""
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
    """The first line of an error's message. libpq writes a line for each address that it tried."""
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
