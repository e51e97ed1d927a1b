"""What the identity sensor reports: materializations of the asset `actors`, and a tick's summary line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from appview_pipeline.defs.in_sync import in_sync_tags
from appview_pipeline.defs.tables.groups import ACTORS
from appview_pipeline.defs.tables.partitions import key_of
from appview_pipeline.store.identity_reports import ResolvedInHour
from appview_pipeline.store.upstreams import LeftAlone, StoredUpstream

SHOWN_UPSTREAMS = 50


def actors_event(
    resolved: ResolvedInHour, in_hour: Mapping[str, int], alone: LeftAlone, upstreams: Sequence[StoredUpstream]
) -> dg.AssetMaterialization:
    """What resolution did since the report before. `in_hour`: rows by table that the write path wrote in that hour.

    Dagster plots every number, so the numbers are those by which a person sees how resolution does; the rest, with the
    state of each server that is left alone, is in `details`.
    """
    attempts = resolved.resolved + resolved.failed
    metadata: dict[str, int | float | dg.MetadataValue] = {
        "resolved": resolved.resolved,
        "not_verified": resolved.not_verified,
        "queue_length": resolved.queued,
        "queue_age_seconds": round(resolved.oldest_seconds or 0.0, 1),
        "breakers_open": alone.open,
        "rows_in_hour": sum(in_hour.get(table, 0) for table in ACTORS.tables),
    }
    # A share of nothing is no number to plot.
    if attempts:
        metadata["success_rate"] = round(resolved.resolved / attempts, 4)
    if resolved.lookups:
        metadata["cache_hit_rate"] = round(resolved.hits / resolved.lookups, 4)
    metadata["details"] = dg.MetadataValue.json(
        {
            "failed": resolved.failed,
            "verified": resolved.verified,
            "statuses": resolved.statuses,
            "cache_lookups": resolved.lookups,
            "cache_hits": resolved.hits,
            "seconds": round(resolved.seconds, 1),
            "parked": alone.parked,
            "upstreams": {
                one.host: {
                    "breaker": one.breaker,
                    "failures": one.failures,
                    "opened": one.opened,
                    "open_until": one.open_until,
                    "parked_until": one.parked_until,
                    "reason": one.reason,
                }
                for one in upstreams[:SHOWN_UPSTREAMS]
            },
        }
    )
    return dg.AssetMaterialization(
        asset_key=dg.AssetKey(ACTORS.key),
        partition=key_of(resolved.hour),
        metadata=metadata,
        tags=in_sync_tags(ACTORS.upstream),
    )


def summary(resolved: Sequence[ResolvedInHour], seconds: float) -> str:
    """One line about what was resolved in `seconds`."""
    if not resolved:
        return f"nothing was reported in {seconds:.0f} s"
    last = resolved[-1]
    answered, failed = sum(one.resolved for one in resolved), sum(one.failed for one in resolved)
    line = f"{answered:,} accounts resolved in {seconds:.0f} s, {failed:,} attempts without an answer"
    waiting = f"{last.queued:,} in the queue"
    if last.oldest_seconds is not None:
        waiting += f", the oldest for {last.oldest_seconds:,.0f} s"
    return f"{line}, {waiting}"
