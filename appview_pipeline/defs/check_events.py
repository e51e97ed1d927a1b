"""Check results as events that a sensor reports, outside of any run."""

from __future__ import annotations

import dagster as dg


def evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """A check result as the event to report outside of a run."""
    assert result.asset_key is not None and result.check_name is not None
    return dg.AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )
