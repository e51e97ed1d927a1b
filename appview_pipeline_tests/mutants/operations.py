"""Defects of what operators ask and are told."""

from __future__ import annotations

from appview_pipeline_tests.mutants.mutant import Mutant

OPERATIONS = (
    Mutant(
        name="a-trial-that-stays",
        file="appview_pipeline/store/trial.py",
        old="            if not connection.closed:\n                connection.rollback()\n",
        new="            if not connection.closed:\n                connection.commit()\n",
        promise="`explain` writes nothing, also where rows are wrong.",
        documented="docs/explain.md#how-it-finds-out",
        tests=("operations/test_explain.py::test_rows_that_others_hold_are_said_to_be_busy",),
    ),
    Mutant(
        name="explain-knows-no-muted-threads",
        file="sql/report/explain.sql",
        old="FROM pipeline.muted_notification m WHERE m.record_uri = %(uri)s ORDER BY",
        new="FROM pipeline.muted_notification m WHERE m.record_uri <> %(uri)s ORDER BY",
        promise="`explain` says of each account that a record names why it was not notified.",
        documented="docs/explain.md#why-a-notification-is-missing",
        tests=("operations/test_explain.py::test_duplicates_mutes_blocks_and_own_posts",),
    ),
)
