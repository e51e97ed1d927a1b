"""The job `refresh_dids` and its schedule: documents and handles that are due are resolved again."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

import time

import dagster as dg
from pydantic import Field

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.schedules import cron_trouble, known_settings, run_unless_under_way, usable_cron
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Connection
from appview_pipeline.store.identity_reports import MAX_COUNTED, refresh_due
from appview_pipeline.store.session_lock import LockLost, LockTaken

JOB = "refresh_dids"
VARIABLE = "APPVIEW_REFRESH_CRON"
PROGRESS_SECONDS = 10.0


class RefreshConfig(dg.Config):
    """How long a run may take."""

    max_minutes: float = Field(50.0, gt=0, description="Minutes after which the run ends; the next one goes on.")


@dg.op(description="Resolves the accounts whose document or handle is due.")
def refresh_identities(context: dg.OpExecutionContext, config: RefreshConfig, index: IndexDatabase) -> None:
    """Refreshes."""
    # The network's libraries take longer to import than everything else that a code server loads.
    from appview_pipeline.identity.refresh import RefreshSummary, refresh

    said = time.monotonic()

    def progress(so_far: RefreshSummary) -> None:
        nonlocal said
        if time.monotonic() - said >= PROGRESS_SECONDS:
            said = time.monotonic()
            context.log.info(_in_words(so_far.resolved, so_far.failed, so_far.due))

    try:
        found = refresh(settings.load(), index.open(), max_seconds=config.max_minutes * 60, progress=progress)
    except LockTaken as error:
        context.log.info(f"Nothing to do: {error}")
        return
    except (OperatorError, LockLost) as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    context.log.info(f"{_in_words(found.resolved, found.failed, found.due)}; the run ends because {found.ended}")
    attempts = found.resolved + found.failed
    metadata: dict[str, int | float | str] = {
        "due": found.due,
        "resolved": found.resolved,
        "failed": found.failed,
        "verified": found.verified,
        "not_verified": found.not_verified,
        "seconds": round(found.seconds, 1),
        "ended": found.ended,
    }
    if attempts:
        metadata["success_rate"] = round(found.resolved / attempts, 4)
    context.add_output_metadata(metadata)


def _in_words(resolved: int, failed: int, due: int) -> str:
    of = f"{due:,}" if due < MAX_COUNTED else f"{MAX_COUNTED:,} or more"
    return f"{resolved:,} accounts resolved, {failed:,} attempts without an answer; {of} were due at the start"


@dg.job(
    name=JOB,
    description=(
        "Resolves accounts again: handles that are not verified hourly, all others daily. Beside the identity process, "
        "which goes on with new accounts and events. A run that ends early loses nothing: the next one goes on."
    ),
    tags={"dagster/max_runtime": "7200"},
)
def refresh_dids() -> None:
    """Refreshes."""
    refresh_identities()


@dg.schedule(
    name="refresh_dids_schedule",
    job=refresh_dids,
    cron_schedule=usable_cron(VARIABLE, known_settings().refresh_cron, Settings.refresh_cron),
    default_status=dg.DefaultScheduleStatus.RUNNING
    if known_settings().refresh_dids
    else dg.DefaultScheduleStatus.STOPPED,
    description="Begins a refresh when accounts are due and none is under way.",
)
def refresh_dids_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """A run, or why there is none."""

    def switched_off(chosen: Settings) -> str | None:
        trouble = cron_trouble(VARIABLE, chosen.refresh_cron)
        return trouble or (None if chosen.refresh_dids else "APPVIEW_REFRESH_DIDS is off.")

    def due(connection: Connection) -> dg.RunRequest | dg.SkipReason:
        accounts = refresh_due(connection)
        return dg.RunRequest(tags={"accounts_due": str(accounts)}) if accounts else dg.SkipReason("No account is due.")

    return run_unless_under_way(context, JOB, switched_off=switched_off, due=due)
