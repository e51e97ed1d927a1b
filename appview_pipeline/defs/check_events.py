"""Verdicts as results of Dagster's checks, and as events that a sensor reports outside of any run."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.operations.verdict import Severity, Verdict

SEVERITIES: dict[Severity, dg.AssetCheckSeverity] = {
    "warn": dg.AssetCheckSeverity.WARN,
    "error": dg.AssetCheckSeverity.ERROR,
}


def result(verdict: Verdict) -> dg.AssetCheckResult:
    """A verdict as the result of its check; that of a failure says where to read what to do."""
    metadata: dict[str, float | str] = dict(verdict.numbers)
    if not verdict.passed:
        metadata["what_to_do"] = verdict.link
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(verdict.asset),
        check_name=verdict.name,
        passed=verdict.passed,
        severity=SEVERITIES[verdict.severity],
        description=verdict.words,
        metadata=metadata,
    )


def evaluation(verdict: Verdict) -> dg.AssetCheckEvaluation:
    """A verdict as the event to report outside of a run."""
    of_check = result(verdict)
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(verdict.asset),
        check_name=verdict.name,
        passed=of_check.passed,
        metadata=of_check.metadata,
        severity=of_check.severity,
        description=of_check.description,
    )
