"""The asset `repositories` and the job `backfill`: everything in the queue of a partition is fetched and indexed."""

# No postponed annotations here: Dagster reads the types of its assets' parameters at definition.

import dagster as dg
from pydantic import Field

from appview_pipeline import settings
from appview_pipeline.defs.backfill.partitions import BUCKETS, bucket_of
from appview_pipeline.defs.backfill.pool import POOL
from appview_pipeline.defs.backfill.words import ProgressLines, in_words, metadata_of
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.in_sync import IN_SYNC
from appview_pipeline.errors import OperatorError

REPOSITORIES = dg.AssetKey("repositories")
JOB = "backfill"


class WorkConfig(dg.Config):
    """What a run fetches, and how long it may take."""

    days: int | None = Field(
        None,
        ge=-1,
        description=(
            "Only records of the last so many days; -1: everything. Without it APPVIEW_BACKFILL_DAYS decides, and "
            "where that is 0 only what gaps ask for is fetched."
        ),
    )
    max_minutes: float = Field(
        25.0, gt=0, description="Minutes after which the run ends; what is left stays in the queue for the next one."
    )


@dg.asset(
    key=REPOSITORIES,
    partitions_def=BUCKETS,
    deps=["network_listing", "firehose"],
    group_name="network",
    owners=["team:appview"],
    kinds={"atproto", "postgres"},
    pool=POOL,
    op_tags={"dagster/max_runtime": "86400"},
    description=(
        "Repositories of the network, each fetched whole from its PDS (`com.atproto.sync.getRepo`), proved, compared "
        "with the index and made equal to it. What the queue (`pipeline.backfill_queue`) holds is divided into 64 "
        "partitions by hash of the DID; a run works off its partition until that is done or its time is over, and "
        "loses nothing when it is killed. Launch a backfill of all partitions to fill an empty index, with `days: -1` "
        "in its config unless APPVIEW_BACKFILL_DAYS says so: Dagster's run queue spreads it over whatever run launcher "
        "is configured.\n\n"
        "Plots: by partition what its runs did; without a partition how complete the index is (repositories by "
        "state, queue, gaps), reported by the fetch sensor. docs/backfill.md"
    ),
)
def repositories(
    context: dg.AssetExecutionContext, config: WorkConfig, index: IndexDatabase
) -> dg.MaterializeResult[None]:
    """Works one partition of the queue off."""
    # The network's libraries take longer to import than everything else that a code server loads.
    from appview_pipeline.backfill.worker import work

    bucket = bucket_of(context.partition_key)
    try:
        done = work(
            settings.load(),
            index.open(),
            bucket=bucket,
            days=config.days,
            max_seconds=config.max_minutes * 60,
            progress=ProgressLines(context),
        )
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    context.log.info(f"{in_words(done)}; the run ends because {done.ended}")
    return dg.MaterializeResult(metadata=metadata_of(done), data_version=IN_SYNC)


backfill = dg.define_asset_job(
    JOB,
    # Its check is evaluated each minute by the fetch sensor.
    selection=dg.AssetSelection.assets(repositories).without_checks(),
    description=(
        "Fetches everything in the queue of a partition. Started for each partition with work after the network was "
        "listed; launch it by hand for any or all partitions."
    ),
)
