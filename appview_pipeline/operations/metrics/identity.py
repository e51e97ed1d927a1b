"""Resolution of accounts: its queue, and what came of it."""

from __future__ import annotations

from appview_pipeline.operations.metrics.family import Family, Values, gauge, total
from appview_pipeline.operations.reading import Reading


def _lengths(reading: Reading) -> Values:
    if reading.report is not None:
        for queue, it in reading.report.identities.items():
            yield (queue,), it.length


def _waits(reading: Reading) -> Values:
    if reading.report is not None:
        for queue, it in reading.report.identities.items():
            yield (queue,), it.oldest_seconds


def _upstreams(reading: Reading) -> Values:
    if reading.report is not None:
        yield ("breaker",), reading.report.left_alone.open
        yield ("pause",), reading.report.left_alone.parked


FAMILIES: tuple[Family, ...] = (
    gauge("appview_identity_queue_accounts", "Accounts that wait to be resolved, up to 10,000.", "queue", _lengths),
    gauge(
        "appview_identity_queue_oldest_seconds",
        "For how long the first of them may be resolved.",
        "queue",
        _waits,
    ),
    total(
        "appview_identity_resolutions",
        "Attempts to resolve an account: answered, or failed and to be tried again.",
        "outcome",
        "identity_resolutions",
    ),
    total(
        "appview_identity_handles",
        "Handles looked up: verified in both directions, or not.",
        "outcome",
        "identity_handles",
    ),
    total("appview_identity_statuses", "Hosting statuses that a PDS was asked for.", "", "identity_statuses"),
    gauge(
        "appview_identity_upstreams_paused",
        "Servers that resolution leaves alone now: an open circuit breaker, or a pause that they asked for.",
        "reason",
        _upstreams,
    ),
)
