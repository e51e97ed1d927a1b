"""The pool of runs that fetch partitions of the asset `repositories`.

How many run at once is set in dagster.yaml (`concurrency`, `pools`, `default_limit`), or in the UI under Deployment,
Concurrency.
"""

from __future__ import annotations

import dagster as dg

POOL = "backfill"


def know_pool(instance: dg.DagsterInstance) -> None:
    """Gives the pool its default limit, where it has none.

    Dagster does so only when it first launches a run of the pool, and launches that one and all others that wait
    without a limit.
    """
    storage = instance.event_log_storage
    is_known = any(pool.name == POOL for pool in storage.get_pool_limits())
    if instance.global_op_concurrency_default_limit is not None and not is_known:
        storage.initialize_concurrency_limit_to_default(POOL)
