"""A reading in which everything that a database may have is there."""

from __future__ import annotations

from datetime import datetime, timezone

from appview_pipeline.operations.reading import Reading
from appview_pipeline.operations.verdict import Verdict
from appview_pipeline.store.backfill_queue import QueueState
from appview_pipeline.store.fetch_reports import Outcomes
from appview_pipeline.store.health_report import (
    BackfillHealth,
    DiskHealth,
    FetchQueueHealth,
    GapHealth,
    HealthReport,
    HostHealth,
    PendingHealth,
    RepositoryHealth,
    ServerHealth,
    StreamHealth,
    SweepHealth,
    TableHealth,
)
from appview_pipeline.store.identities import QueueLength
from appview_pipeline.store.label_reports import LabelerReport
from appview_pipeline.store.sync_reports import OpenGaps
from appview_pipeline.store.totals import EDGES, Totals
from appview_pipeline.store.upstreams import LeftAlone

RELAY = "wss://relay.example"
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def full_reading() -> Reading:
    report = HealthReport(
        taken_at=NOW,
        schema_version="0025",
        streams=[StreamHealth(RELAY, "0/1", True, True, 7, 1.0, lag_seconds=2.0)],
        dead_letters_last_hour={"lexicon": 3},
        gaps={"chain": GapHealth(2, 60.0)},
        open_gaps=OpenGaps(),
        repositories=RepositoryHealth(10, {"synchronized": 9, "desynchronized": 1}, 1),
        pending=PendingHealth(5, 4, 30.0),
        identities={"new": QueueLength(3, 2.0)},
        identity_report=None,
        fetch_report=None,
        outcomes=Outcomes(),
        queue=FetchQueueHealth(QueueState({3: 1, 2: 2}, 1, 1, 1, 5.0), 5.0),
        backfill=BackfillHealth(3_600.0),
        hosts=HostHealth(4, 100, 1, 25),
        left_alone=LeftAlone(1, 1),
        upstreams=[],
        is_reading_labels=True,
        labelers=[
            LabelerReport(
                did="did:plc:labeler",
                handle=None,
                is_wanted=True,
                endpoint="wss://labels.example",
                cursor=5,
                state="connected",
                reason=None,
                state_seconds=10.0,
                is_caught_up=True,
                silent_seconds=1.0,
                newest_seconds=1.0,
                frames=5,
                labels=6,
                changed=5,
                repeated=1,
                rejected=2,
                rejected_by_kind={"label-signature": 2},
                in_effect=4,
                gap_seconds=None,
            )
        ],
        disk=DiskHealth(bytes=1_000, volume_bytes=10_000, free_bytes=5_000, growth=100.0, growth_seconds=86_400.0),
        server=ServerHealth("17.2", NOW, 5, 100, 1.0, "appview-pipeline writer", 1_000),
        tables={"bsky.record": TableHealth(1_000, 10, 800)},
        sweeps={"pending": SweepHealth(600.0)},
    )
    verdicts = [
        Verdict("keeps_up", "firehose", False, "warn", "It is late.", {}),
        Verdict("connected", "firehose", True, "error", "It is connected.", {}),
    ]
    return Reading(0.05, report=report, verdicts=verdicts, totals=_totals())


def _totals() -> Totals:
    stream = (RELAY, "0/1")
    words = (
        *("batches", "frames", "events", "stale", "skipped", "doubtful", "withheld", "bytes", "accounts", "unresolved"),
        *("apply_seconds", "decode_seconds"),
    )
    found: dict[str, dict[tuple[str, ...], float]] = {f"stream_{word}": {stream: 5.0} for word in words}
    for name in ("apply", "decode"):
        found[f"stream_{name}_bucket"] = {(*stream, f"{edge:g}"): 5.0 for edge in EDGES}
    return {
        **found,
        "operations": {("stream", "a.b.c", "create"): 1.0},
        "ignored_operations": {("stream",): 1.0},
        "rows_written": {("stream", "like"): 1.0},
        "rejected": {("stream", "lexicon"): 1.0},
        "identity_resolutions": {("answered",): 1.0},
        "identity_handles": {("verified",): 1.0},
        "identity_statuses": {(): 1.0},
        "fetch_records": {("found",): 1.0},
        "fetch_queued_repositories": {(): 1.0},
        "fetch_signatures": {("good",): 1.0},
        "backfill_repositories": {(): 1.0},
        "backfill_records": {(): 1.0},
        "backfill_changes": {("created",): 1.0},
        "backfill_bytes": {(): 1.0},
        "backfill_failures": {("unreachable",): 1.0},
        "backfill_parked": {(): 1.0},
    }
