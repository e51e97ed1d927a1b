"""What was indexed, whatever way it came, and what could not be.

`origin`: `stream` (a relay's), `backfill`, `records` (fetched on demand), `replay`, `range`, `car`, `retry` (of dead
letters), `survey`, `signatures` or `removal`.
"""

from __future__ import annotations

from appview_pipeline.operations.metrics.family import Family, Values, gauge, total
from appview_pipeline.operations.reading import Reading


def _letters(reading: Reading) -> Values:
    if reading.report is not None:
        for kind, count in reading.report.dead_letters_last_hour.items():
            yield (kind,), count


FAMILIES: tuple[Family, ...] = (
    total(
        "appview_operations",
        "Operations on records that were applied: create, update, delete.",
        "origin collection action",
        "operations",
    ),
    total(
        "appview_ignored_operations",
        "Operations on records of collections that are not kept.",
        "origin",
        "ignored_operations",
    ),
    total(
        "appview_rows_written", "Rows of tables of `bsky` inserted, updated or deleted.", "origin table", "rows_written"
    ),
    total(
        "appview_rejected",
        "Frames, commits and records that became dead letters, those that were only counted among them.",
        "origin kind",
        "rejected",
    ),
    gauge(
        "appview_dead_letters_last_hour",
        "Dead letters of the last hour, of labels too; those that were only counted among them.",
        "kind",
        _letters,
    ),
)
