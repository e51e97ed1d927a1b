"""What the sensor reports of the stream itself: the firehose's materializations, and a tick's summary line."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from appview_pipeline.defs.in_sync import in_sync_tags
from appview_pipeline.store.reports import Applied

FIREHOSE = dg.AssetKey("firehose")


def firehose_event(applied: Applied, seconds: float, shard: str = "0/1") -> dg.AssetMaterialization:
    """What the stream brought in `seconds`.

    Dagster plots every number, so the numbers are the eight by which a person sees how the stream does (and, of several
    shards, the lag of each); everything else is in `details`.
    """
    metadata: dict[str, int | float | dg.MetadataValue] = {
        "events_per_second": round(applied.events / seconds, 2) if seconds > 0 else 0.0,
        "events": applied.events,
        "rejected": applied.rejected,
        "stale": applied.stale,
        "skipped_numbers": applied.skipped,
        "decode_ms_per_batch": round(applied.decode_ms / applied.batches, 2),
        "apply_ms_per_batch": round(applied.apply_ms / applied.batches, 2),
    }
    if applied.lag_seconds is not None:
        metadata["lag_seconds"] = round(applied.lag_seconds, 3)
        if shard != "0/1":
            metadata[f"lag_seconds {shard}"] = round(applied.lag_seconds, 3)
    metadata["details"] = dg.MetadataValue.json(
        {
            "first_seq": applied.first_seq,
            "last_seq": applied.last_seq,
            "frames": applied.frames,
            "bytes": applied.bytes,
            "batches": applied.batches,
            "doubtful_numbers": applied.doubtful,
            "ignored_operations": applied.ignored,
            "withheld_events": applied.withheld,
            "rejected_by_kind": dict(sorted(applied.rejected_by_kind.items())),
        }
    )
    return dg.AssetMaterialization(asset_key=FIREHOSE, metadata=metadata, tags=in_sync_tags())


def summary(applied: Sequence[Applied], seconds: float, relay: str) -> str:
    """One line about what was applied in `seconds`."""
    if not applied:
        return f"nothing arrived from {relay} in {seconds:.0f} s"
    events = sum(one.events for one in applied)
    rejected = sum(one.rejected for one in applied)
    line = f"{events / seconds if seconds > 0 else 0:,.0f} events/s ({events:,} in {seconds:.0f} s)"
    last = applied[-1]
    if last.lag_seconds is not None:
        line += f", {last.lag_seconds:.1f} s behind {relay} at seq {last.last_seq}"
    return f"{line}, {rejected:,} rejected"
