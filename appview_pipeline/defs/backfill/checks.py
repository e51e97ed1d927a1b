"""The checks on completeness: are gaps closed in time, is a sample of the index what the network says.

The fetch sensor evaluates `gaps_close` as it goes; a person can run both from the UI.
"""

# No postponed annotations here: Dagster reads the types of its checks' parameters at definition.

import dagster as dg

from appview_pipeline.defs.backfill.repositories import REPOSITORIES
from appview_pipeline.defs.backfill.words import duration
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.store.sync_reports import OpenGaps, open_gaps

GAPS_CLOSE = "gaps_close"
GAP_WARNING_SECONDS = 86_400.0
"""A gap that is older should have been closed long ago, whatever its host did meanwhile."""


def gaps_result(gaps: OpenGaps) -> dg.AssetCheckResult:
    """Whether gaps are closed in time; those about which nothing can be done at the moment are only named."""
    metadata: dict[str, int | float] = {"open_gaps": gaps.count, "workable_gaps": gaps.workable}
    oldest = gaps.oldest_workable_seconds
    if oldest is not None:
        metadata["oldest_gap_seconds"] = round(oldest, 1)
    if not gaps.count:
        words = "No gap is open: nothing is known to be missing."
    elif oldest is None:
        words = "No gap is open about which anything can be done now."
    else:
        words = f"Open gaps: {gaps.workable:,}, the oldest for {duration(oldest)}. The job close_gaps closes them."
    if others := gaps.count - gaps.workable:
        words += (
            f" Others, of accounts that are not active or of repositories that are given up for now: {others:,}; "
            "`pipeline.repo.sync_reason` says why."
        )
    return dg.AssetCheckResult(
        passed=oldest is None or oldest <= GAP_WARNING_SECONDS,
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
        metadata=metadata,
        check_name=GAPS_CLOSE,
        asset_key=REPOSITORIES,
    )


@dg.asset_check(
    asset=REPOSITORIES,
    name=GAPS_CLOSE,
    description=(
        f"No gap about which something can be done has been open for more than {duration(GAP_WARNING_SECONDS)}."
    ),
)
def gaps_close(index: IndexDatabase) -> dg.AssetCheckResult:
    """The open gaps."""
    with index.open().connect("reader") as connection:
        return gaps_result(open_gaps(connection))
