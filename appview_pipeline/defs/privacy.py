"""The job that opts accounts out of the collection of their data, and in again."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

from enum import Enum

import dagster as dg
from pydantic import Field

from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.opting_out import switch_collection


class Action(Enum):
    """What the accounts ask for."""

    forbid = "forbid"
    allow = "allow"


class CollectionConfig(dg.Config):
    """Whose data may not be collected, or may be again."""

    dids: list[str] = Field(description="The accounts: DIDs, or handles that are verified here.")
    action: Action = Field(description="forbid: store nothing new of them; allow: store it again, and fetch the rest.")
    purge: bool = Field(False, description="With forbid: remove what is stored as well (job remove_accounts).")


@dg.op(description="Forbids or allows the collection of accounts' data, at once (docs/privacy.md).")
def switch_accounts(context: dg.OpExecutionContext, config: CollectionConfig, index: IndexDatabase) -> None:
    """Switches one account after the other; one that can't be switched does not keep the others from it."""
    if config.purge and config.action is Action.allow:
        raise dg.Failure("purge goes with forbid: leave it out.", allow_retries=False)
    changed, failed = 0, []
    for account in config.dids:
        try:
            switched = switch_collection(
                index.open(), account, forbid=config.action is Action.forbid, purge=config.purge
            )
        except OperatorError as error:
            context.log.error(str(error))
            failed.append(str(error))
            continue
        context.log.info(switched.sentence)
        changed += switched.changed
    context.add_output_metadata({"accounts": len(config.dids), "changed": changed, "failed": len(failed)})
    if failed:
        raise dg.Failure(" ".join(failed), allow_retries=False)


@dg.job(
    name="set_data_collection",
    description=(
        "Opts accounts out of the collection of their data, or in again: `dids`, `action` (forbid or allow), `purge`."
    ),
    tags={"dagster/max_runtime": "86400"},
)
def set_data_collection() -> None:
    """Switches accounts."""
    switch_accounts()


defs = dg.Definitions(jobs=[set_data_collection])
