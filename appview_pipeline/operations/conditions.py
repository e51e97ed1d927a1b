"""The conditions of health that operators watch, and the one place that evaluates each of them.

Dagster's checks, `appview-pipeline check` and `status`, and the metrics are all made from these. What only Dagster's
storage knows (failed ticks and runs) is evaluated in `defs/health/`. Thresholds are settings (docs/settings.md);
docs/operations.md has a paragraph on each condition, under its name.
"""

from __future__ import annotations

from appview_pipeline.operations import (
    completeness_conditions,
    database_conditions,
    identity_conditions,
    label_conditions,
    stream_conditions,
)
from appview_pipeline.operations.verdict import Check, Condition, Severity, Verdict
from appview_pipeline.settings import Settings
from appview_pipeline.store.health_report import HealthReport

__all__ = ["CONDITIONS", "Check", "Condition", "Severity", "Verdict", "judge_all"]

CONDITIONS: tuple[Condition, ...] = (
    *stream_conditions.CONDITIONS,
    *identity_conditions.CONDITIONS,
    *completeness_conditions.CONDITIONS,
    *label_conditions.CONDITIONS,
    *database_conditions.CONDITIONS,
)


def judge_all(report: HealthReport, settings: Settings) -> list[Verdict]:
    """What every condition says of the report, in the order of `CONDITIONS`."""
    return [condition.judge(report, settings) for condition in CONDITIONS]
