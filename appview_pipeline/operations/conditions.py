"""The conditions of health that operators watch, and the one place that evaluates each of them.

Dagster's checks, `appview-pipeline check` and `status`, and the metrics are all made from these. What only Dagster's
storage knows (failed ticks and runs) is evaluated in `defs/health/`. Thresholds are settings (docs/settings.md);
docs/operations.md has a paragraph on each condition, under its name.
"""

from __future__ import annotations

from appview_pipeline.operations.verdict import Condition, Severity, Verdict
from appview_pipeline.settings import Settings
from appview_pipeline.store.health_report import HealthReport

__all__ = ["CONDITIONS", "Condition", "Severity", "Verdict", "judge_all"]

CONDITIONS: tuple[Condition, ...] = ()


def judge_all(report: HealthReport, settings: Settings) -> list[Verdict]:
    """What every condition says, in the order of `CONDITIONS`."""
    return [condition.judge(report, settings) for condition in CONDITIONS]
