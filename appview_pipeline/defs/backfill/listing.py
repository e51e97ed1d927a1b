"""The asset `network_listing`, the job that materializes it, its schedule, and the runs that follow it.

A backfill begins here: by its schedule the network's hosts and repositories are listed into the queue, and each time
that this was done for a while, the sensor asks for a run of the job `backfill` for every partition with work.
"""

# No postponed annotations here: Dagster reads the types of its assets' parameters at definition.

import dagster as dg
from pydantic import Field

from appview_pipeline import backoff, settings
from appview_pipeline.defs.backfill.partitions import key_of
from appview_pipeline.defs.backfill.repositories import backfill
from appview_pipeline.defs.backfill.words import PROGRESS_SECONDS
from appview_pipeline.defs.database import IndexDatabase, database
from appview_pipeline.defs.in_sync import IN_SYNC
from appview_pipeline.defs.progress import EverySeconds
from appview_pipeline.defs.runs import partitions_under_way
from appview_pipeline.defs.schedules import cron_trouble, known_settings, run_unless_under_way, usable_cron
from appview_pipeline.errors import OperatorError
from appview_pipeline.settings import Settings
from appview_pipeline.store.backfill_queue import REST
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.session_lock import LockLost, LockTaken
from appview_pipeline.store.sync_reports import buckets_with_work

NETWORK_LISTING = dg.AssetKey("network_listing")
JOB = "list_network"
VARIABLE = "APPVIEW_BACKFILL_CRON"
OFF = "APPVIEW_BACKFILL_DAYS is 0: only what gaps ask for is fetched (job close_gaps)."


class ListingConfig(dg.Config):
    """How long a run may take."""

    max_minutes: float = Field(5.0, gt=0, description="Minutes after which the run ends; the next one goes on.")


@dg.asset(
    key=NETWORK_LISTING,
    group_name="network",
    owners=["team:appview"],
    kinds={"atproto"},
    op_tags={"dagster/max_runtime": "86400"},
    description=(
        "Hosts that the relay lists (`com.atproto.sync.listHosts`) and the repositories that each of them lists "
        "(`com.atproto.sync.listRepos`), queued to be fetched. Pages are read where the run before stopped; once a day "
        "the network is listed anew."
    ),
)
def network_listing(
    context: dg.AssetExecutionContext, config: ListingConfig, index: IndexDatabase
) -> dg.MaterializeResult[None]:
    """Reads the next lists into the queue."""
    from appview_pipeline.backfill.listing import ListingSummary, list_network

    say = EverySeconds(PROGRESS_SECONDS)

    def progress(so_far: ListingSummary) -> None:
        say(lambda: context.log.info(_in_words(so_far.listed, so_far.repositories, so_far.queued)))

    try:
        found = list_network(settings.load(), index.open(), max_seconds=config.max_minutes * 60, progress=progress)
    except (OperatorError, LockTaken) as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except LockLost as error:
        raise dg.Failure(str(error)) from None
    words = _in_words(found.listed, found.repositories, found.queued)
    context.log.info(f"{words}; the run ends because {found.ended}")
    return dg.MaterializeResult(
        metadata={
            "hosts": found.hosts,
            "hosts_listed": found.listed,
            "hosts_left": found.left,
            "repositories_listed": found.repositories,
            "repositories_queued": found.queued,
            "failed": found.failed,
            "ended": found.ended,
        },
        data_version=IN_SYNC,
    )


def _in_words(hosts: int, repositories: int, queued: int) -> str:
    return f"{hosts:,} hosts listed to their end; {repositories:,} repositories listed, {queued:,} queued"


list_network_job = dg.define_asset_job(
    JOB,
    selection=dg.AssetSelection.assets(network_listing).without_checks(),
    description="Lists the hosts and repositories of the network into the queue. A run that ends early loses nothing.",
)


@dg.schedule(
    name="backfill_schedule",
    job=list_network_job,
    cron_schedule=usable_cron(VARIABLE, known_settings().backfill_cron, Settings.backfill_cron),
    default_status=dg.DefaultScheduleStatus.RUNNING
    if known_settings().backfill_days
    else dg.DefaultScheduleStatus.STOPPED,
    description=(
        "Begins a backfill, where APPVIEW_BACKFILL_DAYS asks for one: lists the network; the sensor backfill_sensor "
        "then asks for a run for each partition with work."
    ),
)
def backfill_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """A run, or why there is none."""
    return run_unless_under_way(
        context,
        JOB,
        switched_off=lambda chosen: (
            cron_trouble(VARIABLE, chosen.backfill_cron) or (None if chosen.backfill_days else OFF)
        ),
    )


@dg.asset_sensor(
    name="backfill_sensor",
    asset_key=NETWORK_LISTING,
    job=backfill,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "After each run of the job list_network: asks for a run of the job backfill for each partition that has "
        "something to be fetched now and has no run yet."
    ),
)
def backfill_sensor(
    context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry
) -> dg.SensorResult | dg.SkipReason:
    """Runs for the partitions with work."""
    try:
        if not settings.load().backfill_days:
            return dg.SkipReason(OFF)
        with database(backoff.SCHEDULE_SECONDS).connect("reader") as connection:
            buckets = buckets_with_work(connection, REST)
    except (OperatorError, DatabaseError) as error:
        return dg.SkipReason(str(error))
    busy = partitions_under_way(context.instance, backfill.name)
    wanted = [key for key in map(key_of, buckets) if key not in busy]
    if not wanted:
        return dg.SkipReason(f"{len(buckets)} partitions have work, and all of them have a run.")
    return dg.SensorResult(run_requests=[dg.RunRequest(partition_key=key) for key in wanted])
