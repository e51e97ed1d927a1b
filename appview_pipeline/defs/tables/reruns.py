"""Reruns from the UI: materializing a table group compares its rows with their records, and repairs them."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

import time
from collections.abc import Iterable, Sequence
from datetime import datetime

import dagster as dg
from pydantic import Field

from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.tables.groups import TableGroup
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.rerun import MAX_ORPHANS, RerunSummary, rerun_collections

PROGRESS_SECONDS = 5.0
Metadata = dict[str, int | float | str | dg.MetadataValue]


class RerunConfig(dg.Config):
    """What a rerun looks for besides records that are there."""

    orphans: int = Field(
        MAX_ORPHANS,
        ge=0,
        description="How many rows an account and table are searched for ones without a record, newest first; 0: all.",
    )


def collections_of(groups: Iterable[TableGroup]) -> list[str]:
    """The collections whose records a rerun of `groups` compares."""
    return list(dict.fromkeys(collection for group in groups for collection in group.compared))


def rerun(
    context: dg.AssetExecutionContext,
    index: IndexDatabase,
    groups: Sequence[TableGroup],
    since: datetime,
    until: datetime,
    config: RerunConfig,
) -> RerunSummary | None:
    """Compares and repairs what `groups` derive from the records applied in [since, until).

    None: nothing is derived.
    """
    collections = collections_of(groups)
    if not collections:
        return None
    said = time.monotonic()

    def progress(done: int, total: int, changed: int) -> None:
        nonlocal said
        if time.monotonic() - said >= PROGRESS_SECONDS:
            said = time.monotonic()
            context.log.info(f"{done:,} of {total:,} records compared, {changed:,} rows changed")

    try:
        found = rerun_collections(
            index.open(), collections, since=since, until=until, orphans=config.orphans or None, progress=progress
        )
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    changed = ", ".join(f"{table} {rows:,}" for table, rows in sorted(found.changed.items()))
    summary = f"{found.records:,} records compared in {found.seconds:.1f} s; rows changed: {changed or 'none'}"
    (context.log.warning if found.changed else context.log.info)(summary)
    if found.unreadable:
        context.log.error(f"{len(found.unreadable):,} records can't be read: {', '.join(found.unreadable[:10])}")
    return found


def rerun_metadata(group: TableGroup, found: RerunSummary) -> Metadata:
    """What a rerun did to a group's tables, as the numbers that are plotted, and in a table what it changed at all."""
    metadata: Metadata = {
        "records_compared": found.records,
        "rows_changed": sum(rows for table, rows in found.changed.items() if table in group.tables),
    }
    if found.unreadable:
        metadata["unreadable_records"] = len(found.unreadable)
    if found.changed:
        metadata["changed"] = dg.MetadataValue.md(_examples(found))
    return metadata


def _examples(found: RerunSummary) -> str:
    lines = ["| table | rows changed | for example |", "|---|---|---|"]
    for table, rows in sorted(found.changed.items()):
        named = "<br>".join(f"`{example}`" for example in found.examples[table])
        lines.append(f"| `{table}` | {rows:,} | {named} |")
    return "\n".join(lines)
