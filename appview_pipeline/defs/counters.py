"""Counters against a recount: the rotating checks, and the job that repairs every counter."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

import time

import dagster as dg
from pydantic import Field

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.recount import RecountSummary, recount, recount_some
from appview_pipeline.operations.verdict import what_to_do
from appview_pipeline.store import counters

CHECK = "rotating_recount"
PROGRESS_SECONDS = 5.0
Metadata = dict[str, int | float | str | dg.MetadataValue]


class RecountConfig(dg.Config):
    """How much to recount."""

    everything: bool = Field(False, description="Recount every counter instead of the next few.")
    sample: int = Field(5_000, gt=0, description="How many counters to recount; the next run goes on behind them.")


def _check(
    context: dg.AssetCheckExecutionContext, index: IndexDatabase, table: str, config: RecountConfig
) -> dg.AssetCheckResult:
    try:
        if config.everything:
            found = recount(index.open(), table, rewrite=False, progress=_Progress(context, table))
        else:
            found = recount_some(index.open(), table, config.sample)
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    examples = f" Among them {', '.join(found.examples)}." if found.examples else ""
    remedy = " The job repair_counters sets them right." if found.differing else ""
    return dg.AssetCheckResult(
        passed=found.differing <= settings.load().drift_warning_counters,
        description=f"{found.differing:,} of {found.compared:,} counters differ from a recount.{examples}{remedy}",
        metadata={"compared": found.compared, "differing": found.differing, "seconds": round(found.seconds, 3)},
    )


class _Progress:
    """Says in the log of a run, every few seconds, how far a recount has come."""

    def __init__(self, context: dg.AssetCheckExecutionContext | dg.OpExecutionContext, table: str) -> None:
        self._log, self._table, self._said = context.log, table, time.monotonic()

    def __call__(self, so_far: RecountSummary) -> None:
        if time.monotonic() - self._said >= PROGRESS_SECONDS:
            self._said = time.monotonic()
            self._log.info(f"{self._table}: {so_far.compared:,} counters recounted, {so_far.differing:,} differ")


_DESCRIPTION = (
    "Counters equal a recount: the next 5,000 in rotation or, by the run's config, all of them. Threshold: "
    f"`APPVIEW_DRIFT_WARNING_COUNTERS`. What to do when it fails: {what_to_do(CHECK)}"
)


@dg.asset_check(asset="post_aggregates", name=CHECK, description=_DESCRIPTION)
def post_counters(
    context: dg.AssetCheckExecutionContext, index: IndexDatabase, config: RecountConfig
) -> dg.AssetCheckResult:
    """Likes, replies, reposts, quotes, bookmarks of posts."""
    return _check(context, index, "post_agg", config)


@dg.asset_check(asset="profile_aggregates", name=CHECK, description=_DESCRIPTION)
def profile_counters(
    context: dg.AssetCheckExecutionContext, index: IndexDatabase, config: RecountConfig
) -> dg.AssetCheckResult:
    """Followers, follows, posts of accounts."""
    return _check(context, index, "profile_agg", config)


check_counters = dg.define_asset_job(
    "check_counters",
    selection=dg.AssetSelection.checks(post_counters, profile_counters),
    description="Recounts a rotating sample of the counters; with `everything` in the config, all of them.",
    tags={"dagster/max_runtime": "86400"},
)

check_counters_schedule = dg.ScheduleDefinition(
    name="check_counters_schedule",
    job=check_counters,
    cron_schedule="41 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


@dg.op(description="Recounts every counter and rewrites those that differ.")
def rewrite_counters(context: dg.OpExecutionContext, index: IndexDatabase) -> None:
    """Sets all of `post_agg` and `profile_agg` right."""
    metadata: Metadata = {}
    lines = ["| row | counts | was | is |", "|---|---|---|---|"]
    for table, counts in counters.TABLES.items():
        try:
            found = recount(index.open(), table, rewrite=True, progress=_Progress(context, table))
        except OperatorError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        metadata[f"compared {table}"] = found.compared
        metadata[f"rewritten {table}"] = found.differing
        metadata[f"seconds {table}"] = round(found.seconds, 3)
        lines += [f"| `{it.key}` | {', '.join(counts)} | {it.had} | {it.has} |" for it in found.changes]
        context.log.info(f"{table}: {found.compared:,} counters recounted, {found.differing:,} rewritten")
    if len(lines) > 2:
        metadata["changes"] = dg.MetadataValue.md("\n".join(lines))
    context.add_output_metadata(metadata)


@dg.job(
    name="repair_counters",
    description="Recounts every counter of posts and accounts beside the live stream, and rewrites what differs.",
    tags={"dagster/max_runtime": "86400"},
)
def repair_counters() -> None:
    """Rewrites."""
    rewrite_counters()


defs = dg.Definitions(
    asset_checks=[post_counters, profile_counters],
    jobs=[check_counters, repair_counters],
    schedules=[check_counters_schedule],
)
