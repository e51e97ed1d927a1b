"""A cursor that explains each statement and notes the tables that its plan reads from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from psycopg2.extensions import cursor as Cursor

from appview_pipeline_tests.support.statement_hooks import statement_name


class ExplainingCursor(Cursor):
    """Notes, for each statement, the tables that its plan reads without an index condition; and all statements."""

    found: ClassVar[set[tuple[str, str]]] = set()
    names: ClassVar[set[str]] = set()

    def execute(self, query: Any, vars: Any = None) -> None:
        self.names.add(statement_name(query))
        if query.startswith(("INSERT", "UPDATE", "DELETE", "SELECT", "WITH")):
            super().execute(f"EXPLAIN (VERBOSE, FORMAT JSON) {query}", vars)
            found = self.fetchone()
            assert found is not None
            for table in whole_tables(found[0][0]["Plan"]):
                self.found.add((statement_name(query), table))
        super().execute(query, vars)


def whole_tables(node: dict[str, Any]) -> Iterator[str]:
    """The permanent tables that a plan reads from end to end."""
    scans = ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Index Scan")
    if node["Node Type"] in scans and "Index Cond" not in node and node.get("Schema") in ("bsky", "pipeline"):
        yield node.get("Relation Name") or node["Index Name"]
    for child in node.get("Plans", ()):
        yield from whole_tables(child)


def sequential_scans(node: dict[str, Any]) -> Iterator[str]:
    """The permanent tables that a plan reads without any index, however small the index would be."""
    if node["Node Type"] == "Seq Scan" and node.get("Schema") in ("bsky", "pipeline"):
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from sequential_scans(child)
