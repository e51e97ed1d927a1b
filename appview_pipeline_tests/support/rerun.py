"""An index for reruns: what a test damages, and whether a rerun changed anything."""

from __future__ import annotations

from typing import Any

from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, RerunSummary, rerun_collections
from appview_pipeline_tests.properties.delivery import Index


class Rerun(Index):
    """An index for reruns: what a test damages, and whether a rerun changed anything."""

    def run(self, *statements: str) -> None:
        with self.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        self.connection.commit()

    def rows(self, statement: str, *parameters: Any) -> list[Any]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            found = cursor.fetchall()
        self.connection.commit()
        return [row[0] if len(row) == 1 else row for row in found]

    def rerun(self, **arguments: Any) -> RerunSummary:
        return rerun_collections(self.database, DERIVED_COLLECTIONS, **arguments)

    def digest(self) -> dict[str, list[str]]:
        """Every row of schema bsky and of the history, each with its place and the transaction that wrote it."""
        tables = self.rows(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'bsky' "
            "OR tablename IN ('version', 'tombstone', 'pending', 'dependency', 'gap', "
            "'kept_notification', 'muted_notification')"
        )
        return {
            table: self.rows(f"SELECT t.ctid::text || t.xmin::text || t::text FROM {table} t ORDER BY 1")
            for table in tables
        }
