"""The job `resync`: repositories that a person names are fetched now."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

import dagster as dg
from pydantic import Field

from appview_pipeline import settings
from appview_pipeline.defs.backfill.words import ProgressLines, in_words, listed, metadata_of
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.errors import OperatorError

JOB = "resync"


class ResyncConfig(dg.Config):
    """Which repositories."""

    accounts: list[str] = Field(description="DIDs, or handles as the index has them.")
    max_minutes: float = Field(60.0, gt=0, description="Minutes after which the run ends; what is left stays queued.")


@dg.op(description="Queues the repositories with the highest priority, and fetches them.")
def resync_repositories(context: dg.OpExecutionContext, config: ResyncConfig, index: IndexDatabase) -> None:
    """Fetches the named repositories."""
    from appview_pipeline.backfill.worker import work
    from appview_pipeline.identity.show import dids_of

    if not config.accounts:
        raise dg.Failure("accounts is empty: name DIDs or handles in the run's config.", allow_retries=False)
    try:
        opened = index.open()
        chosen = settings.load()
        dids = dids_of(opened, chosen, config.accounts)
        done = work(chosen, opened, dids=dids, max_seconds=config.max_minutes * 60, progress=ProgressLines(context))
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    context.log.info(f"{in_words(done)}; the run ends because {done.ended}")
    context.add_output_metadata(metadata_of(done))
    if done.reasons:
        raise dg.Failure(
            f"Could not be fetched: {listed(list(done.reasons))}. The metadata say why; what is queued is tried again.",
            metadata=metadata_of(done),
            allow_retries=False,
        )


@dg.job(
    name=JOB,
    description=(
        "Fetches the repositories of the accounts in the run's config, and makes the index equal to them, whatever the "
        "index believes of them. `appview-pipeline backfill DID...` does the same from a terminal."
    ),
    tags={"dagster/max_runtime": "86400", "dagster/priority": "20"},
)
def resync() -> None:
    """Fetches."""
    resync_repositories()
