"""What only Dagster's storage knows: ticks and runs that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorState, TickStatus
from dagster._core.storage.tags import PARTITION_NAME_TAG

from appview_pipeline.operations.verdict import Check, Verdict
from appview_pipeline.settings import Settings

ASSET = "dagster"
TICK_SECONDS = 3_600.0
RUN_SECONDS = 86_400.0
"""How far back failures count."""
WELL_AGAIN_TICKS = 5
"""So many ticks in a row that succeed show that what made others fail is over."""
MAX_TICKS = 100
MAX_RUNS = 200
"""Failures that are looked at, of one sensor or schedule, and of all jobs."""
NAMED = 3

TICKS_SUCCEED = Check(
    name="ticks_succeed",
    asset=ASSET,
    severity="error",
    setting="APPVIEW_TICKS_WARNING_COUNT",
    description=(
        "Ticks of sensors and schedules succeed. Failures of the last hour count, until five ticks in a row have "
        "succeeded since."
    ),
)
RUNS_SUCCEED = Check(
    name="runs_succeed",
    asset=ASSET,
    severity="warn",
    setting="APPVIEW_RUNS_WARNING_COUNT",
    description=(
        "Runs of jobs succeed. Those of the last day count, until a later run of the same job and partition succeeds."
    ),
)
CHECKS = (TICKS_SUCCEED, RUNS_SUCCEED)


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed ticks of the last hour by sensor or schedule, without those that are well again, failed runs of the last
    day by job (and partition), and the last error of each."""

    ticks: Mapping[str, int]
    tick_errors: Mapping[str, str]
    runs: Mapping[str, int]


def read_failures(instance: dg.DagsterInstance) -> Failures:
    """What failed, as Dagster's storage has it."""
    ticks, errors = _failed_ticks(instance)
    return Failures(ticks=ticks, tick_errors=errors, runs=_failed_runs(instance))


def judge(failures: Failures, settings: Settings) -> list[Verdict]:
    """The verdicts on ticks and runs."""
    return [_ticks(failures, settings), _runs(failures, settings)]


def _failed_ticks(instance: dg.DagsterInstance) -> tuple[dict[str, int], dict[str, str]]:
    since = datetime.now(timezone.utc).timestamp() - TICK_SECONDS
    counts: dict[str, int] = {}
    errors: dict[str, str] = {}
    if instance.schedule_storage is None:  # an instance in memory, which has no ticks
        return counts, errors
    for state in instance.all_instigator_state():
        found = instance.get_ticks(
            state.instigator_origin_id, state.selector_id, after=since, limit=MAX_TICKS, statuses=[TickStatus.FAILURE]
        )
        if found and not _is_well_again(instance, state, found[0].timestamp):
            counts[state.name] = counts.get(state.name, 0) + len(found)
            error = found[0].error
            errors[state.name] = "" if error is None else error.message.strip().splitlines()[-1][:200]
    return counts, errors


def _is_well_again(instance: dg.DagsterInstance, state: InstigatorState, failed_at: float) -> bool:
    """Whether enough ticks have succeeded since the newest failure."""
    since = instance.get_ticks(
        state.instigator_origin_id,
        state.selector_id,
        after=failed_at,
        limit=WELL_AGAIN_TICKS,
        statuses=[TickStatus.SUCCESS, TickStatus.SKIPPED],
    )
    return len(since) >= WELL_AGAIN_TICKS


def _failed_runs(instance: dg.DagsterInstance) -> dict[str, int]:
    """Failed runs by job and partition that nothing has made good since."""
    since = datetime.now(timezone.utc) - timedelta(seconds=RUN_SECONDS)
    failed = instance.get_run_records(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], created_after=since), limit=MAX_RUNS
    )
    counts: Counter[tuple[str, str | None]] = Counter()
    newest: dict[tuple[str, str | None], datetime] = {}
    for record in failed:
        key = (record.dagster_run.job_name, record.dagster_run.tags.get(PARTITION_NAME_TAG))
        counts[key] += 1
        newest[key] = max(newest.get(key, record.create_timestamp), record.create_timestamp)
    for (job, partition), at in newest.items():
        later = instance.get_run_records(
            dg.RunsFilter(
                job_name=job,
                statuses=[dg.DagsterRunStatus.SUCCESS],
                created_after=at,
                tags={} if partition is None else {PARTITION_NAME_TAG: partition},
            ),
            limit=1,
        )
        if later:
            del counts[(job, partition)]
    return {job if partition is None else f"{job} ({partition})": n for (job, partition), n in counts.items()}


def _ticks(failures: Failures, settings: Settings) -> Verdict:
    limit = settings.ticks_warning_count
    total = sum(failures.ticks.values())
    numbers = {"failed_ticks": total}
    bad = {name: count for name, count in failures.ticks.items() if count > limit}
    if not bad:
        words = f"{total:,} ticks failed in the last hour (limit {limit:,} of each)."
        return TICKS_SUCCEED.verdict(True, words, numbers)
    named = "; ".join(
        f"{name} {count:,}" + (f" ({failures.tick_errors[name]})" if failures.tick_errors.get(name) else "")
        for name, count in sorted(bad.items(), key=lambda it: -it[1])[:NAMED]
    )
    words = f"Ticks that failed in the last hour (limit {limit:,} of each): {named}."
    return TICKS_SUCCEED.verdict(False, words, numbers)


def _runs(failures: Failures, settings: Settings) -> Verdict:
    limit = settings.runs_warning_count
    total = sum(failures.runs.values())
    numbers = {"failed_runs": total}
    bad = {name: count for name, count in failures.runs.items() if count > limit}
    if not bad:
        words = f"{total:,} runs failed in the last day (limit {limit:,} of each job)."
        return RUNS_SUCCEED.verdict(True, words, numbers)
    named = ", ".join(f"{name} {count:,}" for name, count in sorted(bad.items(), key=lambda it: -it[1])[:NAMED])
    more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
    words = f"Jobs whose runs failed in the last day and not succeeded since (limit {limit:,} of each): {named}{more}."
    return RUNS_SUCCEED.verdict(False, words, numbers)
