"""What is missing, and what is done about it: gaps, repositories, the queue of fetching, pending records, backfills.

Counts of queues end at 10,000: that many, or more.
"""

from __future__ import annotations

from appview_pipeline.operations.metrics.family import Family, Values, gauge, one, total
from appview_pipeline.operations.reading import Reading

PRIORITIES = {3: "asked", 2: "incomplete", 1: "new", 0: "rest"}
"""Why a repository is queued, by its priority: asked for, incomplete, new, or the rest of the network."""


def _gaps(reading: Reading) -> Values:
    if reading.report is not None:
        for kind, gap in reading.report.gaps.items():
            yield (kind,), gap.count


def _oldest_gaps(reading: Reading) -> Values:
    if reading.report is not None:
        for kind, gap in reading.report.gaps.items():
            yield (kind,), gap.oldest_seconds


def _states(reading: Reading) -> Values:
    if reading.report is not None:
        for state, count in reading.report.repositories.by_state.items():
            yield (state,), count


def _queue(reading: Reading) -> Values:
    if reading.report is not None:
        for priority, name in PRIORITIES.items():
            yield (name,), reading.report.queue.state.waiting.get(priority, 0)


FAMILIES: tuple[Family, ...] = (
    gauge("appview_gaps_open", "Open gaps.", "kind", _gaps),
    gauge("appview_gaps_oldest_seconds", "For how long the oldest open gap has been open.", "kind", _oldest_gaps),
    gauge(
        "appview_repositories",
        "Repositories of which something was received, by state; PostgreSQL's estimate where there are many.",
        "state",
        _states,
    ),
    gauge(
        "appview_repositories_incomplete",
        "Repositories that are not complete: desynchronized, resyncing or given up for now.",
        "",
        one(lambda report: report.repositories.incomplete),
    ),
    gauge("appview_fetch_queue_repositories", "Repositories that wait to be fetched, by why.", "reason", _queue),
    gauge(
        "appview_fetch_queue_fetching_repositories",
        "Repositories that are being fetched.",
        "",
        one(lambda report: report.queue.state.fetching),
    ),
    gauge(
        "appview_fetch_queue_parked_repositories",
        "Repositories that are given up for now.",
        "",
        one(lambda report: report.queue.state.parked),
    ),
    gauge(
        "appview_fetch_queue_oldest_seconds",
        "For how long the first repository may be fetched that something is missing of, or that was asked for.",
        "",
        one(lambda report: report.queue.oldest_urgent_seconds),
    ),
    total("appview_backfill_repositories", "Repositories fetched and applied.", "", "backfill_repositories"),
    total("appview_backfill_records", "Records that they had.", "", "backfill_records"),
    total(
        "appview_backfill_record_changes",
        "Those that were missing here (created), different (updated), only here (deleted), or can't be indexed "
        "(refused).",
        "change",
        "backfill_changes",
    ),
    total("appview_backfill_received_bytes", "Bytes of their exports.", "", "backfill_bytes"),
    total("appview_backfill_failures", "Attempts to fetch a repository that failed.", "kind", "backfill_failures"),
    total("appview_backfill_parked", "Repositories given up for a time.", "", "backfill_parked"),
    gauge("appview_hosts", "Hosts of repositories that are known.", "", one(lambda report: report.hosts.hosts)),
    gauge(
        "appview_hosts_paused",
        "Those that are left alone now: an open circuit breaker, or a pause that they asked for.",
        "",
        one(lambda report: report.hosts.paused),
    ),
    gauge(
        "appview_hosts_paused_accounts_ratio",
        "Share of the accounts that are on these, by what the relay says.",
        "",
        one(lambda report: report.hosts.paused_share),
    ),
    gauge(
        "appview_pending_rows",
        "Rows of `pipeline.pending`: records that wait for missing ones; PostgreSQL's estimate.",
        "",
        one(lambda report: report.pending.rows),
    ),
    gauge(
        "appview_pending_due",
        "Missing records that may be fetched now.",
        "",
        one(lambda report: report.pending.due),
    ),
    gauge(
        "appview_pending_oldest_seconds",
        "For how long the first of them may be fetched.",
        "",
        one(lambda report: report.pending.oldest_due_seconds),
    ),
    total(
        "appview_fetched_records",
        "Attempts to fetch a missing record, by outcome: found, absent, refused, invalid, unreachable.",
        "outcome",
        "fetch_records",
    ),
    total(
        "appview_fetch_queued_repositories",
        "Repositories of which so many records were missing that they are fetched whole.",
        "",
        "fetch_queued_repositories",
    ),
    total(
        "appview_signatures_checked",
        "Signatures of commits that were applied before the account's key was known: good or bad.",
        "outcome",
        "fetch_signatures",
    ),
)
