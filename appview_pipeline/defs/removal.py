"""Removals in the UI: the job that removes accounts, and the schedule that begins it when there are any."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

import time

import dagster as dg

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.schedules import run_unless_under_way
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.removal import RemovalSummary
from appview_pipeline.ingest.removal import remove_accounts as remove
from appview_pipeline.store.database import Connection
from appview_pipeline.store.removal import open_removals
from appview_pipeline.store.session_lock import LockTaken

JOB = "remove_accounts"
PROGRESS_SECONDS = 15.0
"""Between two log lines about a removal that goes on."""


@dg.op(
    description=(
        "Removes everything by the accounts of `pipeline.removal`, in small batches beside the live stream. What was "
        "begun is taken up again."
    )
)
def remove_requested(context: dg.OpExecutionContext, index: IndexDatabase) -> None:
    """Does the removals that are open."""
    shown = time.monotonic()

    def progress(so_far: RemovalSummary) -> None:
        nonlocal shown
        if time.monotonic() - shown >= PROGRESS_SECONDS:
            shown = time.monotonic()
            context.log.info(f"{so_far.records:,} records deleted, {so_far.accounts:,} accounts removed")

    try:
        found = remove(settings.load(), index.open(), progress=progress)
    except LockTaken:
        context.log.info("Another run removes accounts already")
        return
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    failed = found.failed or {}
    metadata: dict[str, int | float | dg.MetadataValue] = {
        "accounts": found.accounts,
        "records": found.records,
        "rows_beside_records": found.rows,
        "taken_back": found.taken_back,
        "failed": len(failed),
        "batches": found.batches,
        "longest_lock_seconds": round(found.longest_lock, 3),
        "seconds": round(found.seconds, 1),
    }
    if failed:
        lines = ["| account | does not go on because |", "|---|---|"]
        lines += [f"| {did} | {why.replace('|', chr(92) + '|')} |" for did, why in list(failed.items())[:20]]
        metadata["failures"] = dg.MetadataValue.md("\n".join(lines))
    context.log.info(f"{found.accounts:,} accounts removed, with {found.records:,} records")
    context.add_output_metadata(metadata)
    if failed:
        raise dg.Failure(
            f"{len(failed):,} removals do not go on: pipeline.removal has the reasons. The next run tries them again.",
            metadata=metadata,
            allow_retries=False,
        )


@dg.job(
    name=JOB,
    description=(
        "Removes everything by accounts that were deleted (their PDS has confirmed it), or that opted out and asked "
        "for it: records, and what other accounts have of them. Counters stay right. docs/accounts.md"
    ),
    tags={"dagster/max_runtime": "86400"},
)
def remove_accounts() -> None:
    """Removes accounts."""
    remove_requested()


@dg.schedule(
    name="remove_accounts_schedule",
    job=remove_accounts,
    cron_schedule="*/5 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Begins remove_accounts when there is an account to be removed.",
)
def remove_accounts_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Asks for a run, except where there is nothing to do or one is under way."""

    def due(connection: Connection) -> dg.RunRequest | dg.SkipReason:
        return dg.RunRequest() if open_removals(connection) else dg.SkipReason("No account is to be removed.")

    return run_unless_under_way(context, JOB, due=due)


defs = dg.Definitions(jobs=[remove_accounts], schedules=[remove_accounts_schedule])
