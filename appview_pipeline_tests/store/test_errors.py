"""Errors of the driver come out of a block as the few kinds that the program tells apart."""

from __future__ import annotations

import psycopg2
import pytest
from psycopg2 import errors

from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import (
    Busy,
    Cancelled,
    DatabaseError,
    LockWait,
    RefusedData,
    Transient,
    translated,
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.UniqueViolation, RefusedData),
        (errors.CheckViolation, RefusedData),
        (errors.NumericValueOutOfRange, RefusedData),
        (errors.ProgramLimitExceeded, RefusedData),
        (errors.StatementTooComplex, RefusedData),
        (errors.LockNotAvailable, LockWait),
        (errors.QueryCanceled, Cancelled),
        (errors.SerializationFailure, Busy),
        (errors.DeadlockDetected, Busy),
        (errors.AdminShutdown, Transient),
        (errors.DiskFull, Transient),
        (psycopg2.OperationalError, Transient),
        (psycopg2.InterfaceError, Transient),
        (errors.UndefinedTable, DatabaseError),
        (errors.InsufficientPrivilege, DatabaseError),
    ],
)
def test_kinds(error: type[psycopg2.Error], kind: type[DatabaseError]) -> None:
    with pytest.raises(DatabaseError) as caught, translated():
        raise error("what happened\nDETAIL: more")
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, error)
    assert (str(caught.value), caught.value.statement) == ("what happened", "a statement")


def test_all_that_is_busy_is_worth_another_try_and_refused_data_is_not() -> None:
    assert issubclass(LockWait, Busy) and issubclass(Cancelled, Busy) and issubclass(Busy, Transient)
    assert not issubclass(RefusedData, Transient)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), translated():
        raise KeyError


def test_an_error_names_its_statement(database: Database) -> None:
    with pytest.raises(DatabaseError, match="does not exist") as caught, database.connect("reader") as connection:
        connection.cursor().execute("SELECT nothing FROM nowhere")
    assert caught.value.statement == "SELECT nothing FROM nowhere"


def test_a_dedicated_connection_raises_them_too(database: Database) -> None:
    with pytest.raises(RefusedData), database.dedicated("writer") as connection:
        connection.cursor().execute("SELECT 1 / 0")
