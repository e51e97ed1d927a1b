"""What the fetch sensor reports: records fetched on demand, how complete the index is, and a tick's summary line."""

from __future__ import annotations

import dagster as dg

from appview_pipeline.defs.backfill.repositories import REPOSITORIES
from appview_pipeline.defs.backfill.words import count_table
from appview_pipeline.defs.fetching.asset import FETCHED_RECORDS
from appview_pipeline.defs.in_sync import in_sync_tags
from appview_pipeline.operations.words import duration
from appview_pipeline.store.backfill_queue import ASKED, DESYNCHRONIZED, NEW, REST, QueueState
from appview_pipeline.store.backfill_reports import BackfillTotals
from appview_pipeline.store.fetch_reports import FetchReport, outcomes_of
from appview_pipeline.store.sync_reports import SYNC_STATES, OpenGaps, RepositoryStates

PRIORITIES = {ASKED: "asked_for", DESYNCHRONIZED: "desynchronized", NEW: "new_accounts", REST: "rest"}


def fetched_event(report: FetchReport) -> dg.AssetMaterialization:
    """What the fetch process did since the report before. Dagster plots every number, so there are few."""
    outcomes = outcomes_of(report)
    metadata: dict[str, int | float | dg.MetadataValue] = {
        "asked": report.asked,
        "found": report.found,
        "not_found": report.absent,
        "failed": report.invalid + report.unreachable,
        "queue_length": report.waiting,
        "queue_age_seconds": round(report.oldest_seconds or 0.0, 1),
        "signatures_checked": report.signatures_checked,
        "signatures_bad": report.signatures_bad,
    }
    if outcomes.success_rate is not None:
        metadata["success_rate"] = round(outcomes.success_rate, 4)
    metadata["details"] = dg.MetadataValue.json(
        {
            "seconds": round(report.seconds, 1),
            "records_refused": report.refused,
            "answers_without_a_valid_proof": report.invalid,
            "not_answered": report.unreachable,
            "repositories_queued_whole": report.queued_repositories,
            "no_longer_fetched": report.given_up,
        }
    )
    if report.asked_by_collection:
        metadata["collections"] = count_table("collection", "asked", report.asked_by_collection)
    return dg.AssetMaterialization(asset_key=FETCHED_RECORDS, metadata=metadata, tags=in_sync_tags(("firehose",)))


def completeness_event(
    states: RepositoryStates, queue: QueueState, gaps: OpenGaps, work: BackfillTotals, seconds: float
) -> dg.AssetObservation:
    """How complete the index is now, and what all processes fetched in the `seconds` since the report before.

    An observation without a partition: it materializes none of them.
    """
    metadata: dict[str, int | float | dg.MetadataValue] = {
        f"repositories_{state}": states.counts.get(state, 0) for state in SYNC_STATES
    }
    metadata |= {f"queue_{name}": queue.waiting.get(priority, 0) for priority, name in PRIORITIES.items()}
    metadata |= {
        "queue_parked": queue.parked,
        "open_gaps": gaps.count,
        "oldest_gap_seconds": round(gaps.oldest_workable_seconds or 0.0, 1),
    }
    if work.repositories or work.failed:
        metadata |= {
            "repositories_per_second": round(work.repositories / seconds, 2),
            "records_per_second": round(work.records / seconds, 1),
            "megabytes_per_second": round(work.bytes / 1e6 / seconds, 3),
        }
    metadata["details"] = dg.MetadataValue.json(
        {
            "states_are_estimates": states.is_estimate,
            "being_fetched": queue.fetching,
            "urgent_and_due": queue.due,
            "oldest_urgent_waits": None if queue.oldest_seconds is None else duration(queue.oldest_seconds),
            "gaps_of_inactive_or_given_up": gaps.count - gaps.workable,
            "fetched_since_last_report": {
                "repositories": work.repositories,
                "records": work.records,
                "created": work.created,
                "updated": work.updated,
                "deleted": work.deleted,
                "refused": work.refused,
                "bytes": work.bytes,
                "failed": work.failures,
            },
        }
    )
    return dg.AssetObservation(asset_key=REPOSITORIES, metadata=metadata)


def summary(reported: FetchReport | None, seconds: float, is_switched_off: bool) -> str:
    """One line about what was fetched in `seconds`."""
    off = "APPVIEW_SKIP_PDS_FETCHING is on, so no missing records are fetched" if is_switched_off else ""
    if reported is None:
        return off or f"nothing was reported in {seconds:.0f} s"
    line = off or (
        f"{reported.asked:,} missing records asked for in {seconds:.0f} s: {reported.found:,} found, "
        f"{reported.absent:,} not there, {reported.invalid + reported.unreachable:,} failed"
    )
    line += f"; {reported.waiting:,} missing"
    if reported.oldest_seconds is not None:
        line += f", the oldest for {duration(reported.oldest_seconds)}"
    if reported.signatures_checked:
        line += f"; {reported.signatures_checked:,} signatures checked, {reported.signatures_bad:,} bad"
    return line
