"""What Dagster's storage knows of the runs of a job."""

from __future__ import annotations

import dagster as dg
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.storage.tags import PARTITION_NAME_TAG

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


def partitions_under_way(instance: dg.DagsterInstance, job: str) -> set[str]:
    """The partitions of which a run of the job waits, runs, or is about to end; of runs of an asset's own job, too, as
    the asset's page launches them."""
    found = instance.get_run_records(dg.RunsFilter(statuses=_UNFINISHED))
    runs = [record.dagster_run for record in found]
    return {
        run.tags[PARTITION_NAME_TAG]
        for run in runs
        if run.job_name in (job, IMPLICIT_ASSET_JOB_NAME) and PARTITION_NAME_TAG in run.tags
    }
