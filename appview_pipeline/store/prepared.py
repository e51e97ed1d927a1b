"""Statements that are planned once for many batches.

A batch runs some eighty statements. Parsing and planning them takes 20 ms of PostgreSQL's CPU: half of the price of a
batch of a few dozen events, and still a twenty-fifth of one of thousands.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store.sql import name_by_beginning, name_of

LARGE_BATCH = 1_000
"""From so many events on a batch uses plans of its own: the best join depends on how much is staged."""

MAX_SECONDS = 60.0
MAX_EVENTS = 50_000
"""Plans are kept for so long, and for so many events. Tables grow: a plan that was made for an empty table, and may
read all of it, is soon wrong."""

_PLANNED = ("INSERT", "UPDATE", "DELETE", "SELECT", "WITH")


@dataclass
class _Plans:
    """What a connection has prepared for each size of batch: the names of statements, by their text."""

    names: dict[str, dict[str, str]] = field(default_factory=lambda: {"small": {}, "large": {}})
    since: float = field(default_factory=time.monotonic)
    events: int = 0  # of all batches since


_plans: WeakKeyDictionary[Connection, _Plans] = WeakKeyDictionary()


class PreparingCursor(Cursor):
    """A cursor that prepares each statement without parameters when its connection first runs it.

    The texts must be few and always the same: the session keeps each of them for a while.
    """

    size: str
    names: dict[str, str]

    def execute(self, query: Any, vars: Any = None) -> None:
        if vars is None and query.startswith(_PLANNED):
            name = self.names.get(query)
            if name is None:
                name = f'"{name_of(query) or "statement"}, {self.size} batches"'
                if name in self.names.values():
                    name = f'{name[:-1]} {len(self.names)}"'
                super().execute(f"PREPARE {name} AS {query}")
                self.names[query] = name
            query = f"EXECUTE {name}"
        super().execute(query, vars)


def shown_name(query: str) -> str:
    """The name of a statement that PostgreSQL was given, or shows as being at work: `file.section` where it is one of
    ours, else its first words."""
    if query.startswith('EXECUTE "'):
        return query[len('EXECUTE "') :].partition('"')[0].rpartition(", ")[0]
    if query.startswith("PREPARE "):
        return shown_name(query.replace("PREPARE", "EXECUTE", 1))
    return name_of(query) or name_by_beginning(query) or " ".join(query.split()[:4])


def preparing_cursor(connection: Connection, events: int) -> PreparingCursor:
    """A cursor for a batch of so many events."""
    cursor = connection.cursor(cursor_factory=PreparingCursor)
    plans = _plans.setdefault(connection, _Plans())
    if plans.events + events > MAX_EVENTS or time.monotonic() - plans.since > MAX_SECONDS:
        for names in plans.names.values():
            for name in names.values():
                cursor.execute(f"DEALLOCATE {name}")
        plans = _plans[connection] = _Plans()
    plans.events += events
    cursor.size = "large" if events >= LARGE_BATCH else "small"
    cursor.names = plans.names[cursor.size]
    return cursor
