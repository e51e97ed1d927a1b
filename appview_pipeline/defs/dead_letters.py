"""Dead letters in the UI: the asset that shows them, the job that tries them again, the sweep."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

import dagster as dg
from pydantic import Field

from appview_pipeline import settings
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.dead_letters import RetrySummary
from appview_pipeline.labels import dead_letters as retries
from appview_pipeline.store import dead_letters as letters

SHOWN = 50


@dg.asset(
    key="dead_letters",
    # Those of labelers come from their streams. By the asset of their labels, groups of assets would form a circle.
    deps=["firehose"],
    group_name="network",
    owners=["team:appview"],
    kinds={"postgres"},
    description=(
        "What upstream sent and could not be indexed (`pipeline.dead_letter`), with its bytes and the reason; its "
        "neighbours were indexed. Materialized, it lists the newest. After a fix the job `retry_dead_letters` tries "
        "them again; after `APPVIEW_DEAD_LETTER_DAYS` they are deleted."
    ),
)
def dead_letters(index: IndexDatabase) -> dg.MaterializeResult[None]:
    """Counts by kind, and the newest letters."""
    with index.open().connect("reader") as connection:
        kinds = letters.kinds_of_letters(connection)
        newest = letters.list_letters(connection, limit=SHOWN)
    metadata: dict[str, int | dg.MetadataValue] = {
        "open": sum(kind.open for kind in kinds),
        "resolved": sum(kind.resolved for kind in kinds),
        "only_counted": sum(kind.only_counted for kind in kinds),
    }
    metadata |= {f"open {kind.kind}": kind.open for kind in kinds}
    metadata["newest"] = dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "id": letter.id,
                    "first seen": f"{letter.first_seen:%Y-%m-%d %H:%M:%S}",
                    "kind": letter.kind,
                    "repository": letter.did or "",
                    "path": letter.path or "",
                    "reason": letter.reason,
                    "retried": f"{letter.retried_at:%Y-%m-%d %H:%M:%S}" if letter.retried_at else "",
                }
            )
            for letter in newest
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("id", "int"),
                *(
                    dg.TableColumn(name, "string")
                    for name in ("first seen", "kind", "repository", "path", "reason", "retried")
                ),
            ]
        ),
    )
    return dg.MaterializeResult(metadata=metadata)


class RetryConfig(dg.Config):
    """Which dead letters to try again; without anything, all that are not resolved."""

    ids: list[int] = Field([], description="Only these letters, by id.")
    kind: str = Field("", description="Only letters of this kind (lexicon, postgres, ...).")
    limit: int = Field(100_000, gt=0, description="No more than this many.")


@dg.op(description="Tries dead letters again, through the same write path, without moving a cursor.")
def retry_letters(context: dg.OpExecutionContext, config: RetryConfig, index: IndexDatabase) -> None:
    """Retries."""

    def progress(so_far: RetrySummary) -> None:
        context.log.info(f"{so_far.tried:,} tried, {so_far.resolved:,} resolved")

    try:
        found = retries.retry_dead_letters(
            settings.load(),
            index.open(),
            ids=config.ids or None,
            kind=config.kind or None,
            limit=config.limit,
            progress=progress,
        )
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    metadata: dict[str, int | dg.MetadataValue] = {"tried": found.tried, "resolved": found.resolved}
    metadata |= {f"failed {kind}": count for kind, count in sorted(found.failed.items())}
    metadata |= {f"not to be retried: {why}": count for why, count in sorted(found.impossible.items())}
    if found.examples:
        lines = ["| id | still dead because |", "|---|---|"]
        lines += [f"| {letter} | {_cell(why)} |" for letter, why in found.examples]
        metadata["still_dead"] = dg.MetadataValue.md("\n".join(lines))
    context.log.info(f"{found.resolved:,} of {found.tried:,} dead letters resolved")
    context.add_output_metadata(metadata)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


@dg.job(
    name="retry_dead_letters",
    description="Tries dead letters again after a fix: those of `ids`, of a `kind`, or all that are not resolved.",
    tags={"dagster/max_runtime": "86400"},
)
def retry_dead_letters() -> None:
    """Retries."""
    retry_letters()


defs = dg.Definitions(assets=[dead_letters], jobs=[retry_dead_letters])
