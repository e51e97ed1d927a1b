"""The partitions of the asset `repositories`: 64 parts of the queue, by hash of the DID.

A partition is a part of the work, not of the data: a backfill launched from the UI spreads over whatever run launcher
is configured, a run a partition.
"""

from __future__ import annotations

import dagster as dg

from appview_pipeline.store.backfill_queue import BUCKETS as COUNT


def key_of(bucket: int) -> str:
    """The partition key of a bucket: "00" to "63"."""
    return f"{bucket:02}"


def bucket_of(key: str) -> int:
    """The bucket of a partition key."""
    return int(key)


BUCKETS = dg.StaticPartitionsDefinition([key_of(bucket) for bucket in range(COUNT)])
