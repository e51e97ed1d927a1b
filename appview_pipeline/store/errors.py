"""What can go wrong with a statement, as the few kinds that the rest of the program tells apart.

Only `store/` knows the driver's errors. A block of `Database.connect` or `Database.dedicated` that ends in one of them
raises the error of this module that it amounts to. Inside such a block the driver's errors come as they are, unless
`translated` is around the statement.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2 import errors
from sqlalchemy.exc import DBAPIError

from appview_pipeline.store.operator_errors import first_line
from appview_pipeline.store.prepared import shown_name


class DatabaseError(Exception):
    """PostgreSQL did not do what it was asked to do.

    The message is one line; the driver's error is the `__cause__`. `statement`: the name of the statement that failed,
    as `sql/` has it (`file.section`), or its first words where it has none.
    """

    def __init__(self, message: str, statement: str = "a statement") -> None:
        super().__init__(message)
        self.statement = statement


class RefusedData(DatabaseError):
    """PostgreSQL refuses the data itself (SQLSTATE classes 22, 23 and 54) and would refuse it again."""


class Transient(DatabaseError):
    """Worth another try: the connection is gone, the server restarts or is full, or it is one of `Busy`."""


class Busy(Transient):
    """Others were in the way: a serialization failure, a deadlock, or one of the two below."""


class LockWait(Busy):
    """Somebody else held a lock for longer than `lock_timeout` (SQLSTATE 55P03). It says nothing about the data."""


class Cancelled(Busy):
    """The statement took longer than `statement_timeout`, or somebody cancelled it (SQLSTATE 57014)."""


_KINDS: tuple[tuple[type[DatabaseError], tuple[type[psycopg2.Error], ...]], ...] = (
    (
        RefusedData,
        (psycopg2.DataError, psycopg2.IntegrityError, errors.ProgramLimitExceeded, errors.StatementTooComplex),
    ),
    (LockWait, (errors.LockNotAvailable,)),
    (Cancelled, (errors.QueryCanceled,)),
    (Busy, (errors.SerializationFailure, errors.DeadlockDetected)),
    (Transient, (psycopg2.OperationalError, psycopg2.InterfaceError)),
)
"""The first that fits counts."""


@contextmanager
def translated() -> Iterator[None]:
    """Raises the errors of the driver that end the block as `DatabaseError`; others pass."""
    try:
        yield
    except (psycopg2.Error, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        kind = next((kind for kind, classes in _KINDS if isinstance(cause, classes)), DatabaseError)
        raise kind(first_line(error), _statement(cause)) from error


def _statement(error: BaseException | None) -> str:
    query = getattr(getattr(error, "cursor", None), "query", None)
    return shown_name(query.decode("utf-8", "replace")) if query else "a statement"
