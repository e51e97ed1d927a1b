"""Totals of what the pipeline has done since its database was made: `pipeline.total` and the reports not in it yet.

Reports of processes (rows of `pipeline.batch` and its like) are swept after some days. Whoever sweeps them counts them
before (`count_reports`), so that sums never go back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from psycopg2.extensions import connection as Connection

from appview_pipeline.store.placeholders import fill_placeholders
from appview_pipeline.store.sql import named, sections

_FILE = "report/totals.sql"
REPORTS = ("batch", "identity", "fetch", "backfill")
"""The kinds of reports, in the order in which they are counted."""
EDGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
"""Upper edges of the histograms' buckets, in seconds. Counted batches keep the edges with which they were counted."""
COUNTED_AT_ONCE = 20_000
"""Reports that one transaction counts."""
MAX_COLLECTIONS = 200
"""Collections whose operations are counted by name."""
MARGIN_SECONDS = 60.0
"""Reports that are no older are not counted yet: more may come from sessions that PostgreSQL does not show us."""

Totals = Mapping[str, Mapping[tuple[str, ...], float]]
"""Values by name and labels."""


@cache
def _statement(name: str, reports: Sequence[str]) -> str:
    """A statement about the uncounted ones among these reports."""
    parts = " UNION ALL ".join(f"SELECT name, labels, value FROM ({sections(_FILE)[it]}) of_{it}" for it in reports)
    return named(fill_placeholders(sections(_FILE)[name], {"{uncounted}": parts}), f"totals.{name}")


def _parameters(until: datetime | str) -> dict[str, Any]:
    """Those of the statements about uncounted reports."""
    return {"until": until, "edges": list(EDGES), "collections": MAX_COLLECTIONS}


def _value(connection: Connection, name: str, **parameters: Any) -> Any:
    """The first column of a statement's first row; None where there is no row."""
    with connection.cursor() as cursor:
        cursor.execute(sections(_FILE)[name], parameters)
        row = cursor.fetchone()
    return None if row is None else row[0]


def read_totals(connection: Connection) -> Totals:
    """All totals. Its time grows with the reports that were not counted yet: a millisecond for a hundred."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_statement("read", REPORTS), _parameters("infinity"))
        for name, labels, value in cursor:
            found.setdefault(name, {})[tuple(labels)] = float(value)
    return found


def seconds_behind(connection: Connection) -> float:
    """Seconds since the oldest report of a batch that is not counted; 0: there is none."""
    return float(_value(connection, "behind"))


def count_reports(connection: Connection) -> None:
    """Counts the reports that no transaction can add to any more, committing every `COUNTED_AT_ONCE` of a kind."""
    for report in REPORTS:
        while _count_some(connection, report):
            pass


def _count_some(connection: Connection, report: str) -> bool:
    """Counts the oldest reports of a kind. Returns whether there are more."""
    since: datetime = _value(connection, "lock", report=report)
    last: datetime = _value(connection, "end", margin=MARGIN_SECONDS)
    between: datetime | None = _value(connection, f"end_of_{report}", since=since, limit=COUNTED_AT_ONCE)
    until = last if between is None else min(last, between)
    if until > since:
        with connection.cursor() as cursor:
            cursor.execute(_statement("count", (report,)), _parameters(until))
            cursor.execute(sections(_FILE)["move"], {"report": report, "until": until})
    connection.commit()
    return since < until < last
