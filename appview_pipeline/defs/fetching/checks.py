"""The checks on fetching: does its process work, and do hosts that answer give what is asked for.

The fetch sensor evaluates them as it goes; a person can run them from the UI.
"""

# No postponed annotations here: Dagster reads the types of its checks' parameters at definition.

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.fetching.asset import FETCHED_RECORDS
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.fetch_reports import Outcomes, last_fetch_report, recent_outcomes

FETCHING = "fetching"
FETCHES_SUCCEED = "fetches_succeed"

SILENCE_WARNING_SECONDS = 180.0
OUTCOME_SECONDS = 3_600.0
"""How far back attempts count."""
WANTED_SUCCESS_RATE = 0.95
FEW_ANSWERS = 20
"""Fewer answers say nothing about a rate."""


def fetching_result(trouble: str | None) -> dg.AssetCheckResult:
    """Whether the fetch process does its work. `trouble`: what keeps it from it, and what to do about that."""
    return dg.AssetCheckResult(
        passed=trouble is None,
        severity=dg.AssetCheckSeverity.ERROR,
        description=trouble or "The fetch process runs, and reaches the database.",
        check_name=FETCHING,
        asset_key=FETCHED_RECORDS,
    )


def succeed_result(outcomes: Outcomes, is_switched_off: bool) -> dg.AssetCheckResult:
    """Whether the hosts that answer give a record, or a proof that there is none."""
    rate = outcomes.success_rate
    metadata: dict[str, int | float] = {"asked": outcomes.asked, "answered": outcomes.answered}
    if rate is not None:
        metadata["success_rate"] = round(rate, 4)
    if is_switched_off:
        words = "APPVIEW_SKIP_PDS_FETCHING is on: no missing records are fetched."
    elif rate is None:
        words = "No host answered in the last hour." if outcomes.asked else "No record was asked for in the last hour."
    else:
        words = (
            f"Of {outcomes.answered:,} answers in the last hour {rate:.1%} settled whether there is the record: "
            f"{outcomes.found + outcomes.refused:,} had it, {outcomes.absent:,} had none, {outcomes.invalid:,} proved "
            f"nothing. {outcomes.unreachable:,} attempts were not answered."
        )
    few = outcomes.answered < FEW_ANSWERS
    return dg.AssetCheckResult(
        passed=is_switched_off or rate is None or few or rate >= WANTED_SUCCESS_RATE,
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
        metadata=metadata,
        check_name=FETCHES_SUCCEED,
        asset_key=FETCHED_RECORDS,
    )


@dg.asset_check(
    asset=FETCHED_RECORDS,
    name=FETCHING,
    description=(
        "The fetch process runs, and reaches the database. Where it does not, the result says what to do. The fetch "
        "sensor evaluates it every minute, and at once when something changes; run by hand it sees only whether the "
        "process has reported lately."
    ),
)
def fetching(index: IndexDatabase) -> dg.AssetCheckResult:
    """Whether reports come: a run can't see the process, which is a child of the code server."""
    try:
        with index.open().connect("reader") as connection:
            last = last_fetch_report(connection)
    except OperatorError as error:
        return fetching_result(str(error))
    if last is None or last.age_seconds > SILENCE_WARNING_SECONDS:
        since = "has reported nothing yet" if last is None else f"has reported nothing for {last.age_seconds:,.0f} s"
        return fetching_result(f"The fetch process {since}: the ticks of the fetch sensor say why.")
    return fetching_result(None)


@dg.asset_check(
    asset=FETCHED_RECORDS,
    name=FETCHES_SUCCEED,
    description=(
        f"At least {WANTED_SUCCESS_RATE:.0%} of the answers of the last hour settle whether there is the record, and "
        "have it if there is."
    ),
)
def fetches_succeed(index: IndexDatabase) -> dg.AssetCheckResult:
    """What the attempts of the last hour came to."""
    with index.open().connect("reader") as connection:
        outcomes = recent_outcomes(connection, OUTCOME_SECONDS)
    return succeed_result(outcomes, settings.load().skip_pds_fetching)
