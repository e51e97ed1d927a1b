"""The job `replay_cursor_range`: events of the relay once more, by their sequence numbers."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

import dagster as dg
from pydantic import Field

from appview_pipeline import settings
from appview_pipeline.defs.backfill.words import PROGRESS_SECONDS
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.progress import EverySeconds
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.live.replay_range import RangeSummary, replay_range

JOB = "replay_cursor_range"
SHOWN = 20


class RangeConfig(dg.Config):
    """Which events."""

    from_seq: int = Field(gt=0, description="The first sequence number.")
    to_seq: int | None = Field(None, description="The last one; without it, where the consumer is now.")
    max_minutes: float = Field(60.0, gt=0, description="Minutes after which the run ends.")


@dg.op(description="Subscribes to the relay a second time, and applies the range through the one write path.")
def replay_numbers(context: dg.OpExecutionContext, config: RangeConfig, index: IndexDatabase) -> None:
    """Applies the range's events."""
    say = EverySeconds(PROGRESS_SECONDS)

    def progress(so_far: RangeSummary) -> None:
        say(lambda: context.log.info(_in_words(so_far)))

    try:
        found = replay_range(
            settings.load(),
            index.open(),
            config.from_seq,
            config.to_seq,
            max_seconds=config.max_minutes * 60,
            progress=progress,
        )
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    context.log.info(f"{_in_words(found)}; the run ends because {found.ended}")
    metadata: dict[str, int | float | str | dg.MetadataValue] = {
        "events": found.events,
        "applied_before": found.stale,
        "rejected": found.rejected,
        "sent_part": round(found.sent_part, 4),
        "gaps_closed": found.gaps_closed,
        "seconds": round(found.seconds, 1),
        "ended": found.ended,
    }
    if found.first_seq is not None:
        metadata["sent"] = f"{found.first_seq} to {found.last_seq}"
    if found.holes:
        context.log.warning(
            f"Parts of the range that the relay did not send: {len(found.holes):,}. What was in them is not replayed"
        )
        lines = ["| after | until |", "|---|---|", *(f"| {a} | {u} |" for a, u in found.holes[:SHOWN])]
        metadata["not_sent"] = dg.MetadataValue.md("\n".join(lines))
    context.add_output_metadata(metadata)


def _in_words(found: RangeSummary) -> str:
    return (
        f"{found.events:,} events up to {found.last_seq} in {found.seconds:,.0f} s, {found.stale:,} of them applied "
        f"before, {found.rejected:,} rejected"
    )


@dg.job(
    name=JOB,
    description=(
        "Applies a range of the relay's sequence numbers once more, without moving a cursor: after a fix, or for a "
        "gap of the stream that the relay still has. What was applied before changes nothing; the result says how much "
        "of the range the relay still had."
    ),
    tags={"dagster/max_runtime": "86400"},
)
def replay_cursor_range() -> None:
    """Replays."""
    replay_numbers()
