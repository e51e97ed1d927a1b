"""Queries of labels: what they find, page by page, and by which index."""

from __future__ import annotations

from appview_pipeline.store.database import Database
from appview_pipeline.store.label_query import query_page


def test_it_runs(database: Database) -> None:
    with database.connect("reader") as connection:
        for subjects in ((), ("at://did:plc:x/*", "did:plc:x")):
            for sources in ((), ("did:plc:a",)):
                for neg in (False, True):
                    for old in (False, True):
                        page = query_page(
                            connection, subjects=subjects, sources=sources, with_negated=neg, oldest_first=old
                        )
                        assert page.labels == [] and page.cursor is None
