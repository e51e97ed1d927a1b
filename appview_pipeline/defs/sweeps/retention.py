"""The job `retention` and its schedule: posts, likes and reposts that are too old are deleted, where that is set."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

import dagster as dg
from pydantic import Field

from appview_pipeline import settings
from appview_pipeline.defs.backfill.words import PROGRESS_SECONDS
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.progress import EverySeconds
from appview_pipeline.defs.schedules import cron_trouble, known_settings, run_unless_under_way, usable_cron
from appview_pipeline.errors import OperatorError
from appview_pipeline.indexing.collections import like, post, repost
from appview_pipeline.ingest.retention import RetentionSummary, apply_retention, count_retention
from appview_pipeline.settings import Settings
from appview_pipeline.store.retention import OUTCOMES
from appview_pipeline.store.session_lock import LockTaken

JOB = "retention"
VARIABLE = "APPVIEW_RETENTION_CRON"
ASSETS = {post.COLLECTION.nsid: "posts", like.COLLECTION.nsid: "likes", repost.COLLECTION.nsid: "reposts"}


class RetentionConfig(dg.Config):
    """What a run does, and for how long."""

    dry_run: bool = Field(False, description="Only count what would be deleted, and what is kept, and why.")
    max_minutes: float = Field(600.0, gt=0, description="Minutes after which the run ends; the next one goes on.")


@dg.op(
    description=(
        "Deletes posts, likes and reposts that are older than APPVIEW_RETENTION_DAYS, in small batches beside the live "
        "stream, but for those of protected accounts."
    )
)
def delete_old_records(context: dg.OpExecutionContext, config: RetentionConfig, index: IndexDatabase) -> None:
    """Deletes, or counts."""
    say = EverySeconds(PROGRESS_SECONDS)
    try:
        chosen = settings.load()
        if config.dry_run:
            before, counted = count_retention(chosen, index.open())
            lines = [f"Older than {before}:", "", "| table | rows | |", "|---|---|---|"]
            lines += [f"| {it.kind} | {it.rows:,} | {OUTCOMES[it.outcome]} |" for it in counted]
            context.add_output_metadata({"would be": dg.MetadataValue.md("\n".join(lines))})
            return
        found = apply_retention(
            chosen,
            index.open(),
            seconds=config.max_minutes * 60,
            progress=lambda so_far: say(lambda: context.log.info(f"{so_far.total:,} records deleted")),
        )
    except LockTaken as error:
        context.log.info(f"Nothing to do: {error}")
        return
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    for observation in observations(found):
        context.log_event(observation)
    context.log.info(
        f"{found.total:,} records of {found.accounts:,} accounts deleted that are older than {found.before}; the run "
        f"ends because {found.ended}"
    )
    context.add_output_metadata(
        {
            "records": found.total,
            **{f"records {name}": number for name, number in sorted(found.records.items())},
            "accounts": found.accounts,
            "batches": found.batches,
            "longest_lock_seconds": round(found.longest_lock, 3),
            "seconds": round(found.seconds, 1),
            "older_than": found.before,
            "ended": found.ended,
        }
    )


def observations(found: RetentionSummary) -> list[dg.AssetObservation]:
    """One for each asset of which records were deleted."""
    return [
        dg.AssetObservation(asset, metadata={"deleted by age": found.records[nsid]})
        for nsid, asset in ASSETS.items()
        if found.records[nsid]
    ]


@dg.job(
    name=JOB,
    description=(
        "Deletes posts, likes and reposts that are older than APPVIEW_RETENTION_DAYS, but for those of protected "
        "accounts and of whom they follow. Counters stay right. docs/sweeps.md"
    ),
    tags={"dagster/max_runtime": "86400"},
)
def retention() -> None:
    """Deletes old records."""
    delete_old_records()


@dg.schedule(
    name="retention_schedule",
    job=retention,
    cron_schedule=usable_cron(VARIABLE, known_settings().retention_cron, Settings.retention_cron),
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Begins the job retention where APPVIEW_RETENTION_DAYS is set.",
)
def retention_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """A run, or why there is none."""

    def switched_off(chosen: Settings) -> str | None:
        if not chosen.retention_days:
            return "APPVIEW_RETENTION_DAYS is 0: records are kept for ever."
        return cron_trouble(VARIABLE, chosen.retention_cron)

    return run_unless_under_way(context, JOB, switched_off=switched_off)
