"""A health report in which everything is well."""

from __future__ import annotations

from datetime import datetime, timezone

from appview_pipeline.store.backfill_queue import QueueState
from appview_pipeline.store.fetch_reports import LastFetchReport, Outcomes
from appview_pipeline.store.health_report import (
    BackfillHealth,
    DiskHealth,
    FetchQueueHealth,
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
from appview_pipeline.store.identity_reports import LastReport
from appview_pipeline.store.sync_reports import OpenGaps
from appview_pipeline.store.upstreams import LeftAlone
from appview_pipeline_tests.support.labelers import QUIET

STREAM = StreamHealth(
    relay="wss://bsky.network",
    shard="0/1",
    is_in_use=True,
    is_consumed=True,
    seq=1_000,
    idle_seconds=0.5,
    lag_seconds=1.0,
    events_per_second=500.0,
    usual_events_per_second=520.0,
    events_last_hour=1_800_000,
    rejected_last_hour=10,
)
DISK = DiskHealth(
    bytes=100_000_000_000,
    volume_bytes=1_000_000_000_000,
    free_bytes=600_000_000_000,
    growth=5_000_000_000.0,
    growth_seconds=86_400.0,
)
WELL = HealthReport(
    taken_at=datetime.now(timezone.utc),
    schema_version="0025",
    streams=[STREAM],
    dead_letters_last_hour={"lexicon": 10},
    gaps={},
    open_gaps=OpenGaps(),
    repositories=RepositoryHealth(total=1_000_000, by_state={"synchronized": 999_000}, incomplete=1_000),
    pending=PendingHealth(rows=5_000, due=10, oldest_due_seconds=20.0),
    identities={
        "event": QueueLength(2, 1.0),
        "new": QueueLength(5, 3.0),
        "retry": QueueLength(900, 50_000.0),
        "refresh": QueueLength(0, None),
    },
    identity_report=LastReport(4.0, 7, 3.0),
    fetch_report=LastFetchReport(4.0, 9, 20.0),
    outcomes=Outcomes(found=900, absent=90, invalid=10),
    queue=FetchQueueHealth(QueueState({2: 40}, 4, 3, 30, 900.0), 600.0, 600.0),
    backfill=BackfillHealth(seconds=21_600.0, repositories=400, records=90_000, last_seconds=4.0),
    hosts=HostHealth(hosts=100, accounts=40_000_000, paused=2, paused_accounts=100),
    left_alone=LeftAlone(1, 1),
    upstreams=[],
    is_reading_labels=True,
    labelers=[QUIET],
    disk=DISK,
    server=ServerHealth(
        version="17.2", connections=20, max_connections=97, oldest_transaction_seconds=5.0,
        oldest_transaction="process 7 (psql, active)", transaction_id_age=150_000_000,
    ),
    tables={"bsky.record": TableHealth(rows=10_000_000, dead_rows=1_000_000)},
    sweeps={"pending": SweepHealth(500.0), "tombstones": SweepHealth(80_000.0, "others held the rows")},
)  # fmt: skip
