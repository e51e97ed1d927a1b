"""What the label sensor reports: a labeler's partition, all labelers together, and a tick's summary line."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from appview_pipeline.defs.backfill.words import count_table
from appview_pipeline.defs.in_sync import in_sync_tags
from appview_pipeline.defs.labels.asset import LABELS, SOURCE
from appview_pipeline.operations.label_conditions import state_in_words
from appview_pipeline.operations.labeler_news import LabelerNews
from appview_pipeline.operations.words import duration
from appview_pipeline.store.label_reports import CONNECTED, PARKED, WAITING, LabelerReport, by_state

Metadata = dict[str, int | float | dg.MetadataValue]


def labeler_event(news: LabelerNews) -> dg.AssetMaterialization:
    """What came of one labeler's stream since its report before. Dagster plots every number, so there are few."""
    it = news.now
    metadata: Metadata = {
        "labels": news.labels,
        "changed": news.changed,
        "repeated": news.repeated,
        "rejected": news.rejected,
        "labels_in_effect": it.in_effect,
        "lag_seconds": round(it.lag_seconds, 1),
        "labels_per_second": round(news.labels / news.seconds, 2),
        "state": dg.MetadataValue.text(state_in_words(it)),
    }
    if it.handle is not None:
        metadata["handle"] = dg.MetadataValue.text(it.handle)
    if news.rejected_by_kind:
        metadata["rejected_by_kind"] = count_table("kind", "rejected", news.rejected_by_kind)
    metadata["details"] = dg.MetadataValue.json(
        {
            "seconds": round(news.seconds, 1),
            "frames": news.frames,
            "endpoint": it.endpoint,
            "cursor": it.cursor,
            "caught_up": it.is_caught_up,
            "seconds_since_last_frame": None if it.silent_seconds is None else round(it.silent_seconds, 1),
            "newest_label_is_seconds_old": None if it.newest_seconds is None else round(it.newest_seconds, 1),
            "labels_missing_for_seconds": None if it.gap_seconds is None else round(it.gap_seconds, 1),
            "totals": {
                "labels": it.labels,
                "changed": it.changed,
                "repeated": it.repeated,
                "rejected": it.rejected,
                "rejected_by_kind": it.rejected_by_kind,
            },
        }
    )
    return dg.AssetMaterialization(asset_key=LABELS, partition=it.did, metadata=metadata, tags=in_sync_tags((SOURCE,)))


def all_event(news: Sequence[LabelerNews], seconds: float) -> dg.AssetObservation:
    """What came of all labelers in the `seconds` since the report before, and how they are.

    An observation without a partition, which materializes none. Its numbers have names of their own, or Dagster would
    draw them into the plots of single labelers.
    """
    labelers = [it.now for it in news]
    read = [it for it in labelers if it.is_wanted]
    states = by_state(labelers)
    metadata: Metadata = {
        "all_labels": sum(it.labels for it in news),
        "all_changed": sum(it.changed for it in news),
        "all_rejected": sum(it.rejected for it in news),
        "all_in_effect": sum(it.in_effect for it in labelers),
        "all_labels_per_second": round(sum(it.labels for it in news) / max(seconds, 1.0), 2),
        "largest_lag_seconds": round(max((it.lag_seconds for it in read if it.state != PARKED), default=0.0), 1),
        "labelers_connected": states.get(CONNECTED, 0),
        "labelers_waiting": states.get(WAITING, 0),
        "labelers_parked": states.get(PARKED, 0),
    }
    if parked := [it for it in read if it.state == PARKED]:
        metadata["parked"] = parked_table(parked)
    return dg.AssetObservation(asset_key=LABELS, metadata=metadata)


def parked_table(parked: Sequence[LabelerReport]) -> dg.TableMetadataValue:
    """Labelers that are parked, with the reason."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord({"labeler": it.name, "reason": it.reason or "", "for": duration(it.state_seconds)})
            for it in parked
        ],
        dg.TableSchema([dg.TableColumn(name, "string") for name in ("labeler", "reason", "for")]),
    )


def summary(news: Sequence[LabelerNews], labelers: Sequence[LabelerReport], seconds: float) -> str:
    """One line about what came in `seconds`, of all labelers, and how these were at the last report."""
    line = f"nothing was reported in {seconds:.0f} s"
    if news:
        line = (
            f"{sum(it.labels for it in news):,} labels in {seconds:.0f} s, {sum(it.changed for it in news):,} took "
            f"effect, {sum(it.rejected for it in news):,} rejected"
        )
    if not labelers:
        return "no labelers are read yet"
    states = by_state(labelers)
    line += f"; labelers: {', '.join(f'{count:,} {state}' for state, count in states.items()) or 'none'}"
    lag = max((it.lag_seconds for it in labelers if it.is_wanted and it.state != PARKED), default=0.0)
    if lag >= 1.0:
        line += f"; lag {duration(lag)}"
    return line
