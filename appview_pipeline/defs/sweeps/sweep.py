"""The job `sweep` and its schedule: what nothing needs any more is deleted, beside the live stream."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

from collections import defaultdict

import dagster as dg
from pydantic import Field

from appview_pipeline import settings
from appview_pipeline.defs.backfill.words import PROGRESS_SECONDS
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.progress import EverySeconds
from appview_pipeline.defs.schedules import cron_trouble, known_settings, run_unless_under_way, usable_cron
from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.sweeping import SweepSummary, run_sweeps
from appview_pipeline.settings import Settings
from appview_pipeline.store.session_lock import LockTaken

JOB = "sweep"
VARIABLE = "APPVIEW_SWEEP_CRON"


class SweepConfig(dg.Config):
    """Which tables are swept, and for how long."""

    only: list[str] = Field([], description="Only these sweeps, by name; none: all.")
    max_minutes: float = Field(
        0.0, ge=0, description="Minutes after which the run ends; 0: APPVIEW_SWEEP_SECONDS. The next one goes on."
    )
    every_walk: bool = Field(
        False, description="Also tables that are read from beginning to end and were so a short while ago."
    )


@dg.op(description="Deletes what nothing needs any more, a limited number of rows in each transaction.")
def sweep_tables(context: dg.OpExecutionContext, config: SweepConfig, index: IndexDatabase) -> None:
    """Sweeps, and observes the assets whose rows were deleted."""
    say = EverySeconds(PROGRESS_SECONDS)
    try:
        found = run_sweeps(
            settings.load(),
            index.open(),
            config.only,
            seconds=config.max_minutes * 60 or None,
            every_walk=config.every_walk,
            progress=lambda so_far: say(lambda: context.log.info(f"{so_far.rows:,} rows deleted")),
        )
    except LockTaken as error:
        context.log.info(f"Nothing to do: {error}")
        return
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    for observation in observations(found):
        context.log_event(observation)
    context.log.info(f"{found.rows:,} rows deleted; the run ends because {found.ended}")
    metadata = _metadata(found)
    context.add_output_metadata(metadata)
    if found.failures:
        raise dg.Failure("; ".join(f"{name}: {why}" for name, why in found.failures.items()), metadata=metadata)


def observations(found: SweepSummary) -> list[dg.AssetObservation]:
    """One for each asset of which rows were deleted. (An observation changes the state of no partition.)"""
    by_asset: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, swept in found.swept.items():
        if swept.rows:
            by_asset[swept.sweep.asset][f"swept: {name}"] = swept.rows
    return [dg.AssetObservation(asset, metadata=rows) for asset, rows in by_asset.items()]


def _metadata(found: SweepSummary) -> dict[str, int | float | str | dg.MetadataValue]:
    lines = ["| sweep | table | rows | longest transaction | |", "|---|---|---|---|---|"]
    for name, it in found.swept.items():
        state = it.failure or ("not due" if it.waits else "" if it.is_over else "more is left")
        cell = state.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {name} | {it.sweep.table} | {it.rows:,} | {it.longest:.3f} s | {cell} |")
    return {
        "rows": found.rows,
        "longest_transaction_seconds": round(found.longest, 3),
        "seconds": round(found.seconds, 1),
        "left_to_the_next_run": sum(not (it.is_over or it.waits) for it in found.swept.values()),
        "ended": found.ended,
        "tables": dg.MetadataValue.md("\n".join(lines)),
    }


@dg.job(
    name=JOB,
    description=(
        "Deletes what nothing needs any more: missing records that are not fetched, tombstones, dead letters, past "
        "labels, closed gaps, reports, ... A few rows at a time, beside the live stream. docs/sweeps.md"
    ),
    tags={"dagster/max_runtime": "3600"},
)
def sweep() -> None:
    """Sweeps."""
    sweep_tables()


@dg.schedule(
    name="sweep_schedule",
    job=sweep,
    cron_schedule=usable_cron(VARIABLE, known_settings().sweep_cron, Settings.sweep_cron),
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Begins a sweep when none is under way.",
)
def sweep_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """A run, or why there is none."""
    return run_unless_under_way(context, JOB, switched_off=lambda chosen: cron_trouble(VARIABLE, chosen.sweep_cron))
