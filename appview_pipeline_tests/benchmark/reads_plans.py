"""What PostgreSQL does for the statements of a read: which indexes it uses, which tables it reads from end to end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

_PLACEHOLDER = re.compile(r"\$(\d+)")
SETTINGS = {"random_page_cost": "1.1", "work_mem": "4MB", "hash_mem_multiplier": "1", "jit": "off"}
"""What docker/appview/ sets on each connection of the data plane, for its plans."""

SEARCH_PATH = "; ".join(
    [
        "SET search_path TO bsky, public",
        "SET pg_trgm.word_similarity_threshold TO .4",
        *(f"SET {name} TO '{value}'" for name, value in SETTINGS.items()),
    ]
)
"""What an explaining connection sets to get the plans of the data plane's connections."""


@dataclass(frozen=True)
class Access:
    """One access of a plan to a table. `index` is None where it reads the table from end to end; `condition` says
    whether the index is entered at a key, and not read in its order from one end."""

    table: str
    index: str | None
    condition: bool


@dataclass(frozen=True)
class Plan:
    """A statement's plan, and what the planner takes it to cost. With ANALYZE: rows that it returned, pages that it
    touched, rows that index-only scans looked up in their tables, milliseconds that it took."""

    accesses: tuple[Access, ...]
    cost: float
    rows: int
    pages: int
    heap_fetches: int
    ms: float

    @property
    def whole_tables(self) -> set[str]:
        """The tables that it reads from end to end."""
        return {access.table for access in self.accesses if access.index is None}

    @property
    def indexes(self) -> set[str]:
        """The indexes that it uses."""
        return {access.index for access in self.accesses if access.index is not None}


def rendered(text: str, values: Sequence[Any], cursor: Cursor) -> str:
    """The statement with its values in place, as the client's driver sends them: texts whose type PostgreSQL finds.

    The client names no statement, so PostgreSQL plans each anew for its values; literals get the same plan.
    """

    def literal(value: Any) -> str:
        if isinstance(value, bool):
            value = str(value).lower()
        if isinstance(value, (int, float)):
            value = str(value)
        return cursor.mogrify("%s", (value,)).decode()

    return _PLACEHOLDER.sub(lambda match: literal(values[int(match[1]) - 1]), text)


def explained(connection: Connection, statement: str, *, analyze: bool = False) -> Plan:
    """The plan of a rendered statement; with `analyze` it is run. The connection has `SEARCH_PATH`."""
    options = "ANALYZE, BUFFERS, " if analyze else ""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN ({options}FORMAT JSON) {statement}")
        found = cursor.fetchone()
    assert found is not None
    top, root = found[0][0], found[0][0]["Plan"]
    pages = root.get("Shared Hit Blocks", 0) + root.get("Shared Read Blocks", 0)
    return Plan(
        accesses=tuple(accesses(root)),
        cost=float(root["Total Cost"]),
        rows=round(root.get("Actual Rows", 0)),
        pages=pages,
        heap_fetches=_heap_fetches(root),
        ms=float(top.get("Execution Time", 0.0)),
    )


def _heap_fetches(node: dict[str, Any]) -> int:
    """Rows that the index-only scans of a node and those below it looked up in their tables, all loops together."""
    return int(node.get("Heap Fetches", 0)) + sum(_heap_fetches(child) for child in node.get("Plans", ()))


def drop_index(cursor: Cursor, index: str) -> None:
    """Drops an index of schema bsky, also one that is a constraint's, with the constraint."""
    cursor.execute(
        "SELECT conrelid::regclass::text FROM pg_constraint WHERE conindid = %s::regclass", (f'bsky."{index}"',)
    )
    found = cursor.fetchone()
    cursor.execute(f'ALTER TABLE {found[0]} DROP CONSTRAINT "{index}"' if found else f'DROP INDEX bsky."{index}"')


def accesses(node: dict[str, Any], table: str = "") -> Iterator[Access]:
    """Every access of a plan's node and those below it."""
    table = node.get("Relation Name", table)
    kind = node["Node Type"]
    if kind == "Seq Scan":
        yield Access(table, None, False)
    elif kind in ("Index Scan", "Index Only Scan", "Bitmap Index Scan"):
        yield Access(table, node["Index Name"], "Index Cond" in node)
    for child in node.get("Plans", ()):
        yield from accesses(child, table)
