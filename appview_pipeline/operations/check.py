"""All checks at once, outside of Dagster: for `appview-pipeline check` and `status`."""

from __future__ import annotations

from collections.abc import Sequence

from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.conditions import judge_all
from appview_pipeline.operations.verdict import Verdict
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.health_report import read_health

MARKS = {"warn": "WARNING", "error": "FAILURE"}


def check_health(database: Database, settings: Settings) -> list[Verdict]:
    """What all conditions say now, those that fail first, the worst of them first.

    Raises `OperatorError` in one sentence where the database can't be asked, or does not answer in time.
    """
    try:
        with database.connect("health") as connection:
            report = read_health(connection, settings)
    except DatabaseError as error:
        raise OperatorError(
            f"The database does not answer ({error}): see docs/operations.md#database_answers."
        ) from error
    return sorted(judge_all(report, settings), key=lambda it: (it.passed, it.severity != "error"))


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Verdicts for people: a line each, and where to read what to do about a failure."""
    lines = []
    for it in verdicts:
        if it.passed:
            lines.append(f"ok        {it.name}: {it.words}")
        else:
            lines.append(f"{MARKS[it.severity]:<9} {it.name}: {it.words}")
            lines.append(f"          what to do: {it.link}")
    return lines
