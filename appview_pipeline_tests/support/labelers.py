"""Labelers as `pipeline.labeler` has them, and as they are reported."""

from __future__ import annotations

from typing import Any

from appview_pipeline.store.label_reports import LabelerReport
from appview_pipeline_tests.support.tables import rows

QUIET = LabelerReport(
    did="did:plc:quiet",
    handle=None,
    is_wanted=True,
    endpoint="wss://labeler.test",
    cursor=0,
    state="connected",
    reason=None,
    state_seconds=60.0,
    is_caught_up=True,
    silent_seconds=5.0,
    newest_seconds=6.0,
    frames=0,
    labels=0,
    changed=0,
    repeated=0,
    rejected=0,
    rejected_by_kind={},
    in_effect=0,
    gap_seconds=None,
)
"""A labeler that is connected and has caught up, and whose totals are 0."""


def add_labeler(url: str, did: str, **columns: Any) -> None:
    """Writes a row of `pipeline.labeler`; times are SQL expressions (`now() - interval '1 h'`)."""
    times = {name for name in columns if name.endswith("_at") or name == "last_cts"}
    values = [columns[name] if name in times else "%s" for name in columns]
    rows(
        url,
        f"INSERT INTO pipeline.labeler (did, {', '.join(columns)}) VALUES (%s, {', '.join(values)})",
        did,
        *(value for name, value in columns.items() if name not in times),
    )
