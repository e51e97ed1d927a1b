"""The check `audit_sample` and its schedule: once a day some repositories are fetched and compared with the index."""

# No postponed annotations here: Dagster reads the types of its checks' parameters at definition.

import dagster as dg
from pydantic import Field

from appview_pipeline import settings
from appview_pipeline.defs.backfill.listing import NETWORK_LISTING
from appview_pipeline.defs.backfill.words import PROGRESS_SECONDS, reason_table
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.progress import EverySeconds
from appview_pipeline.defs.schedules import run_unless_under_way
from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.verdict import what_to_do
from appview_pipeline.store.database import Connection
from appview_pipeline.store.repo_sample import sample_repositories

CHECK = "audit_sample"
JOB = "audit_repositories"


class AuditConfig(dg.Config):
    """How much to audit."""

    sample: int = Field(20, gt=0, description="How many repositories that are said to be complete, at random.")
    deep: bool = Field(True, description="Compare the rows that are derived from their records as well.")


# Not on `repositories`, though it is about them: each run of a partition from its page would audit a sample.
@dg.asset_check(
    asset=NETWORK_LISTING,
    name=CHECK,
    description=(
        "Of a random sample of the repositories that are said to be complete, fetched from their PDSes and proved, the "
        "index has every record, no other one, and none that differs. `appview-pipeline audit` does the same from a "
        f"terminal. What to do when it fails: {what_to_do(CHECK)}"
    ),
)
def audit_sample(
    context: dg.AssetCheckExecutionContext, index: IndexDatabase, config: AuditConfig
) -> dg.AssetCheckResult:
    """Audits a sample. Repositories that can't be fetched say nothing about the index, and do not fail the check."""
    from appview_pipeline.backfill.audit import AuditSummary, audit
    from appview_pipeline.backfill.fetch import Fetcher
    from appview_pipeline.network.xrpc import Client

    say = EverySeconds(PROGRESS_SECONDS)

    def progress(so_far: AuditSummary) -> None:
        say(lambda: context.log.info(f"{so_far.repositories:,} of {len(dids):,} repositories audited"))

    chosen = settings.load()
    try:
        opened = index.open()
        with opened.connect("reader") as connection:
            dids = sample_repositories(connection, config.sample)
        with Client(chosen) as client:
            found = audit(chosen, opened, Fetcher(chosen, opened, client), dids, deep=config.deep, progress=progress)
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    metadata: dict[str, int | float | dg.MetadataValue] = {
        "repositories": found.repositories,
        "records": found.records,
        "missing": found.missing,
        "extra": found.extra,
        "differing": found.differing,
        "underived": found.underived,
        "refused": found.refused,
        "not_audited": len(found.failed),
        "seconds": round(found.seconds, 1),
    }
    if found.examples:
        columns = ("kind", "record", "why")
        metadata["differences"] = dg.MetadataValue.table(
            [dg.TableRecord(dict(zip(columns, example, strict=True))) for example in found.examples],
            dg.TableSchema([dg.TableColumn(name, "string") for name in columns]),
        )
    if found.failed:
        metadata["failures"] = reason_table(found.failed)
    return dg.AssetCheckResult(
        passed=found.differences == 0,
        description=_in_words(found.repositories, found.records, found.differences, len(found.failed), len(dids)),
        metadata=metadata,
    )


def _in_words(repositories: int, records: int, differences: int, failed: int, wanted: int) -> str:
    if not wanted:
        return "No repository is said to be complete yet, so there is nothing to audit."
    words = f"Of {records:,} records of {repositories:,} repositories, {differences:,} differ from the network."
    if differences:
        words += " To repair them, launch the job resync with their accounts."
    if failed:
        words += f" Not fetched: {failed:,}."
    return words


audit_job = dg.define_asset_job(
    JOB,
    selection=dg.AssetSelection.checks(audit_sample),
    description="Audits a random sample of the repositories: fetches them, and compares them with the index.",
    tags={"dagster/max_runtime": "86400"},
)


@dg.schedule(
    name="audit_schedule",
    job=audit_job,
    cron_schedule="23 4 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Begins an audit of a random sample once a day, where there are repositories to audit.",
)
def audit_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """A run, or why there is none."""

    def due(connection: Connection) -> dg.RunRequest | dg.SkipReason:
        known = sample_repositories(connection, 1)
        return dg.RunRequest() if known else dg.SkipReason("No repository is said to be complete yet.")

    return run_unless_under_way(context, JOB, due=due)
