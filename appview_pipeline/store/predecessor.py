"""Reading the database of the predecessor (PublicAppView): accounts that opted out, label definitions, labels.

docs/migration.md says what moves and what does not. Only this module knows the predecessor's tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from psycopg2.extensions import connection as PsycopgConnection

from appview_pipeline.errors import OperatorError
from appview_pipeline.store import database_url, postgres
from appview_pipeline.store.sql import sections

ROLE = postgres.Role(statement=3_600, lock=10, idle=3_600, read_only=True)
"""The role in which it is read. Its transaction is idle while what was read is written here."""

OPT_OUTS, DEFINITIONS, LABELS = "user_settings", "label_definitions", "labels"
"""The tables that are read."""

_READ_AT_ONCE = 1_000


@dataclass(frozen=True)
class ForeignDefinition:
    """A row of `label_definitions`. `strings`: whatever JSON the column has."""

    val: str
    description: str | None
    severity: str
    strings: Any


@dataclass(frozen=True)
class LabelSource:
    """Who made labels there: `standing` values of subjects have a label by this source, `negated` ones had one."""

    src: str
    standing: int
    negated: int


class Predecessor:
    """The predecessor's database as it was when it was opened. All methods raise `OperatorError` where a table is not
    as the predecessor makes it."""

    def __init__(self, connection: PsycopgConnection, tables: dict[str, int]) -> None:
        self._connection = connection
        self.tables = tables
        """Its tables, with estimated rows."""

    def opt_outs(self) -> Iterator[str]:
        """The DIDs of accounts that forbid the collection of their data."""
        return (did for (did,) in self._read(OPT_OUTS, "opt_outs"))

    def definitions(self) -> Iterator[ForeignDefinition]:
        """What its labels mean."""
        return (ForeignDefinition(*row) for row in self._read(DEFINITIONS, "definitions"))

    def label_sources(self) -> list[LabelSource]:
        """Who made its labels."""
        return [LabelSource(*row) for row in self._read(LABELS, "sources")]

    def labels(self, sources: Collection[str]) -> Iterator[tuple[str, str]]:
        """Subject and value of each label of these sources that stands, ordered."""
        return cast(Iterator[tuple[str, str]], self._read(LABELS, "labels", sources=list(sources)))

    def _read(self, table: str, statement: str, **parameters: Any) -> Iterator[tuple[Any, ...]]:
        if table not in self.tables:
            return
        with self._connection.cursor(name=f"predecessor_{statement}") as cursor:
            cursor.itersize = _READ_AT_ONCE
            cursor.execute(sections("predecessor/read.sql")[statement], parameters)
            yield from cursor


@contextmanager
def open_predecessor(url: str, tables: Sequence[str]) -> Iterator[Predecessor]:
    """Opens the predecessor's database read-only, in one snapshot. `tables`: those whose rows are estimated.

    Raises `OperatorError` where it can't be reached, and where it has none of the tables that are read.
    """
    with postgres.transient(url, ROLE, application_name="appview-pipeline import-predecessor") as connection:
        driver = cast(PsycopgConnection, connection.connection.driver_connection)
        driver.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with driver.cursor() as cursor:
            cursor.execute(
                sections("predecessor/read.sql")["tables"],
                {"tables": [*tables, OPT_OUTS, DEFINITIONS, LABELS]},
            )
            found: dict[str, int] = dict(cursor.fetchall())
        if not found.keys() & {OPT_OUTS, DEFINITIONS, LABELS}:
            raise OperatorError(
                f"{database_url.describe(url)} has none of the predecessor's tables ({OPT_OUTS}, {DEFINITIONS}, "
                f"{LABELS}) in schema public: give the URL of its database."
            )
        yield Predecessor(driver, found)
