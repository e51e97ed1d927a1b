"""The asset `labels`: what labelers say of accounts and records. Materialized by hand, a labeler is rebuilt."""

# No postponed annotations here: Dagster reads the types of its assets' parameters at definition.

import time

import dagster as dg
from pydantic import Field

from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.in_sync import IN_SYNC
from appview_pipeline.defs.labels.partitions import LABELERS
from appview_pipeline.defs.progress import EverySeconds
from appview_pipeline.defs.tables.columns import column_schema
from appview_pipeline.defs.tables.groups import BY_KEY
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.errors import DatabaseError
from appview_pipeline.store.labelers import reread
from appview_pipeline.store.labels import Rebuilt, rebuild_labels

LABELS = dg.AssetKey("labels")
SOURCE = BY_KEY["labelers"].key
"""The asset of the table with the labelers' records."""
PROGRESS_SECONDS = 10.0
LABELERS_A_RUN = 20
"""Partitions of a backfill that one run rebuilds: a run costs more than most labelers do."""


class LabelsConfig(dg.Config):
    """What a run does besides comparing."""

    from_start: bool = Field(
        False,
        description=(
            "Also begin the labeler's stream anew: the label process reads it from 0. What is repeated changes nothing."
        ),
    )


@dg.asset(
    key=LABELS,
    partitions_def=LABELERS,
    # Any labeler's record may have changed in any hour.
    deps=[dg.AssetDep(SOURCE, partition_mapping=dg.AllPartitionMapping())],
    # A group of its own: in that of the firehose it would close a circle, from the network over records to it.
    group_name="labels",
    owners=["team:appview"],
    kinds={"websocket", "postgres"},
    backfill_policy=dg.BackfillPolicy.multi_run(LABELERS_A_RUN),
    op_tags={"dagster/max_runtime": "86400"},
    metadata={"dagster/column_schema": column_schema(["label"]), "dagster/table_name": "bsky.label"},
    description=(
        "Labels that labelers put on accounts and records (`com.atproto.label.subscribeLabels`), each verified. For "
        "each (src, uri, cid, val) the newest is a row; a negation ends those of every cid. One partition is one "
        "labeler.\n\nThe label sensor reports the labelers of which there is something new. Materializing a partition "
        "by hand compares the labeler's rows with its label events (`pipeline.label_event`) and repairs what differs, "
        "beside the label process; with `from_start: true` its stream is read again from the beginning as well.\n\n"
        "Table of schema `bsky`: `label`.\n\nPlots: `Partitions` shows labelers side by side, `Events` the course of "
        "time: of several labelers together in the numbers that begin with `all_`. docs/labels.md"
    ),
)
def labels(context: dg.AssetExecutionContext, config: LabelsConfig, index: IndexDatabase) -> dg.MaterializeResult[None]:
    """Rebuilds the rows of the selected labelers."""
    failed = []
    for number, did in enumerate(context.partition_keys, 1):
        context.log.info(f"{did}: labeler {number:,} of {len(context.partition_keys):,}")
        try:
            context.add_asset_metadata(_rebuild(context, index, did, config.from_start), partition_key=did)
        except (OperatorError, DatabaseError) as error:
            context.log.error(f"{did}: {error}")
            failed.append(f"{did}: {error}")
    if failed:
        raise dg.Failure(" ".join(failed), allow_retries=False)
    return dg.MaterializeResult(data_version=IN_SYNC)


def _rebuild(
    context: dg.AssetExecutionContext, index: IndexDatabase, did: str, from_start: bool
) -> dict[str, int | float | str]:
    """Rebuilds one labeler's rows; returns what was done, as metadata."""
    say, began = EverySeconds(PROGRESS_SECONDS), time.monotonic()

    def progress(so_far: Rebuilt) -> None:
        say(lambda: context.log.info(f"{did}: {_in_words(so_far)}"))

    database = index.open()
    with database.connect("writer") as connection:
        done = rebuild_labels(connection, did, progress=progress)
    seconds = time.monotonic() - began
    differs = bool(done.added or done.removed or done.corrected)
    (context.log.warning if differs else context.log.info)(f"{did}: {_in_words(done)}, in {seconds:,.1f} s")
    metadata: dict[str, int | float | str] = {
        "rows": done.rows,
        "rows_added": done.added,
        "rows_removed": done.removed,
        "rows_corrected": done.corrected,
        "seconds": round(seconds, 1),
    }
    if from_start:
        with database.connect("writer") as connection:
            is_known = reread(connection, did)
        metadata["stream"] = (
            "is read again from 0 by the label process" if is_known else "was never read: it is not in APPVIEW_LABELERS"
        )
        context.log.info(f"{did}: its stream {metadata['stream']}")
    return metadata


def _in_words(done: Rebuilt) -> str:
    return f"{done.rows:,} rows compared; {done.added:,} added, {done.removed:,} removed, {done.corrected:,} corrected"
