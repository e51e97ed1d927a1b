"""What was applied, as Dagster sees it: materializations and check results made of `Applied` numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import dagster as dg

from appview_pipeline.defs.tables.groups import FAMILIES, Family
from appview_pipeline.defs.tables.partitions import key_of
from appview_pipeline.store.reports import Applied, StreamState

FIREHOSE = dg.AssetKey("firehose")

# Beyond these the checks warn. A lag that grows without bound, or a relay gone bad, is far beyond them.
LAG_WARNING_SECONDS = 60.0
REJECTED_WARNING_RATIO = 0.001


def ops_by_collection(ops: dict[str, int]) -> Counter[str]:
    """`{"<collection> <action>": n}` summed by collection."""
    totals: Counter[str] = Counter()
    for name, count in ops.items():
        totals[name.partition(" ")[0]] += count
    return totals


def firehose_event(applied: Applied, seconds: float, shard: str = "0/1") -> dg.AssetMaterialization:
    """What the stream brought in `seconds`. Numbers only, so that all plots; of several shards each has its lag."""
    metadata: dict[str, int | float] = {
        "events": applied.events,
        "events_per_second": round(applied.events / seconds, 2) if seconds > 0 else 0.0,
        "frames": applied.frames,
        "bytes": applied.bytes,
        "rejected": applied.rejected,
        "stale": applied.stale,
        "skipped_numbers": applied.skipped,
        "doubtful_numbers": applied.doubtful,
        "ignored_ops": applied.ignored,
        "batches": applied.batches,
        "decode_ms_per_batch": round(applied.decode_ms / applied.batches, 2),
        "apply_ms_per_batch": round(applied.apply_ms / applied.batches, 2),
    }
    if applied.lag_seconds is not None:
        metadata["lag_seconds"] = round(applied.lag_seconds, 3)
        if shard != "0/1":
            metadata[f"lag_seconds {shard}"] = round(applied.lag_seconds, 3)
    if applied.first_seq is not None and applied.last_seq is not None:
        metadata["first_seq"] = applied.first_seq
        metadata["last_seq"] = applied.last_seq
    metadata |= sorted(ops_by_collection(applied.ops).items())
    metadata |= {f"rejected {kind}": count for kind, count in sorted(applied.rejected_by_kind.items())}
    return dg.AssetMaterialization(asset_key=FIREHOSE, metadata=metadata)


def family_event(family: Family, applied: Applied, in_hour: dict[str, int]) -> dg.AssetMaterialization | None:
    """What became of one family's tables; None when nothing did. `in_hour`: rows by table since the hour began."""
    rows = {table: applied.written[table] for table in family.tables if applied.written.get(table)}
    actions: Counter[str] = Counter()
    for name, count in applied.ops.items():
        collection, _, action = name.partition(" ")
        if family.collections is None or collection in family.collections:
            actions[action] += count
    if not rows and not actions:
        return None
    metadata: dict[str, int | float] = {}
    if rows:
        metadata["rows"] = sum(rows.values())
        metadata["rows_in_hour"] = sum(in_hour.get(table, 0) for table in family.tables)
    for action, count in sorted(actions.items()):
        metadata[f"records {action}d"] = count
    if len(family.tables) > 1:
        for table, count in rows.items():
            metadata[f"rows {table}"] = count
    return dg.AssetMaterialization(asset_key=dg.AssetKey(family.key), partition=key_of(applied.hour), metadata=metadata)


def family_events(applied: Applied, in_hour: dict[str, int]) -> Iterator[dg.AssetMaterialization]:
    """The materializations of all families that something became of."""
    for family in FAMILIES:
        event = family_event(family, applied, in_hour)
        if event is not None:
            yield event


def lag_result(lag_seconds: float | None, idle_seconds: float | None) -> dg.AssetCheckResult:
    """Whether the stream is being consumed, and how far behind the relay."""
    metadata: dict[str, float] = {}
    if lag_seconds is not None:
        metadata["lag_seconds"] = round(lag_seconds, 3)
    if idle_seconds is not None:
        metadata["seconds_since_last_event"] = round(idle_seconds, 1)
    behind = max(lag_seconds or 0.0, idle_seconds or 0.0)
    if lag_seconds is None and idle_seconds is None:
        words = "Nothing has been consumed from this relay yet."
    else:
        words = f"The newest event applied is {behind:,.0f} s behind the relay or the clock."
    return dg.AssetCheckResult(
        passed=bool(metadata) and behind <= LAG_WARNING_SECONDS,
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
        metadata=metadata,
        check_name="keeps_up",
        asset_key=FIREHOSE,
    )


def stream_result(shards: Sequence[StreamState]) -> dg.AssetCheckResult:
    """`lag_result` of the shard that is furthest behind."""
    return lag_result(
        max((shard.lag_seconds for shard in shards if shard.lag_seconds is not None), default=None),
        max((shard.idle_seconds for shard in shards), default=None),
    )


def rejected_result(events: int, rejected: int) -> dg.AssetCheckResult:
    """Whether more than a trickle of what the relay sends becomes dead letters."""
    ratio = rejected / events if events else 0.0
    return dg.AssetCheckResult(
        passed=ratio <= REJECTED_WARNING_RATIO,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{rejected:,} of {events:,} events have something in pipeline.dead_letter.",
        metadata={"events": events, "rejected": rejected, "rejected_ratio": ratio},
        check_name="few_dead_letters",
        asset_key=FIREHOSE,
    )


def evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """A check result as the event to report outside of a run."""
    assert result.asset_key is not None and result.check_name is not None
    return dg.AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )


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
