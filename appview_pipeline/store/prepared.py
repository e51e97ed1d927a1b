"""Statements that are planned once for many small batches.

A batch runs some eighty statements. For a batch of a few hundred events parsing and planning them takes as long as a
quarter of their work; for one of thousands it does not matter, and there a plan should know how much is staged.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

MOST_EVENTS = 1_000
"""Batches up to this size use prepared statements. PostgreSQL plans for temporary tables of ten pages at least, a few
hundred rows, so that what it makes of an almost empty one serves these too."""

MOST_SECONDS = 60.0
"""How long a plan is kept: tables grow, and one made for an empty table would otherwise outlive the emptiness."""

_PLANNED = ("INSERT", "UPDATE", "DELETE", "SELECT", "WITH")


@dataclass
class _Prepared:
    names: dict[str, str] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)


_prepared: WeakKeyDictionary[Connection, _Prepared] = WeakKeyDictionary()


class PreparingCursor(Cursor):
    """A cursor that prepares each statement without parameters when its connection first runs it.

    The texts must be few and always the same: each is kept, by the session and here, for `MOST_SECONDS`.
    """

    def execute(self, query: Any, vars: Any = None) -> None:
        if vars is None and query.startswith(_PLANNED):
            query = f"EXECUTE {self._name_of(query)}"
        super().execute(query, vars)

    def _name_of(self, query: str) -> str:
        prepared = _prepared.setdefault(self.connection, _Prepared())
        if time.monotonic() - prepared.since > MOST_SECONDS:
            super().execute("DEALLOCATE ALL")
            prepared = _prepared[self.connection] = _Prepared()
        name = prepared.names.get(query)
        if name is None:
            name = f"of_batches_{len(prepared.names)}"
            super().execute(f"PREPARE {name} AS {query}")
            prepared.names[query] = name
        return name
