"""What Dagster's storage knows of the runs of a job."""

from __future__ import annotations

import dagster as dg

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def is_under_way(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether a run of the job waits, runs, or is about to end."""
    return bool(instance.get_run_records(dg.RunsFilter(job_name=job, statuses=_UNFINISHED), limit=1))
