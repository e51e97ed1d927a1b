"""The job `close_gaps` and its schedule: what is known to be missing is fetched, without anybody asking for it."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

import time
from datetime import datetime, timezone

import dagster as dg
from pydantic import Field

from appview_pipeline import settings
from appview_pipeline.defs.backfill.words import PROGRESS_SECONDS, ProgressLines, in_words, metadata_of
from appview_pipeline.defs.database import IndexDatabase
from appview_pipeline.defs.progress import EverySeconds
from appview_pipeline.defs.schedules import run_unless_under_way
from appview_pipeline.errors import OperatorError
from appview_pipeline.store.backfill_queue import urgent_due
from appview_pipeline.store.database import Connection
from appview_pipeline.store.session_lock import LockLost, LockTaken
from appview_pipeline.store.sweeps import GAPS_FILLED, sweep_to_its_end
from appview_pipeline.store.sync_reports import has_stream_gaps

JOB = "close_gaps"
SURVEY_MINUTES = 5
"""How often an open gap of a stream is reason enough for a run."""
TAGS = {"dagster/max_runtime": "86400", "dagster/priority": "10"}
"""Priority: what is missing goes before a backfill of the network."""


class GapsConfig(dg.Config):
    """How long a run may take."""

    max_minutes: float = Field(15.0, gt=0, description="Minutes after which the run ends; the next one goes on.")


@dg.op(
    description=(
        "Closes gaps that later events have filled; finds the repositories that gaps of the stream may have touched; "
        "fetches everything urgent in the queue."
    )
)
def close_open_gaps(context: dg.OpExecutionContext, config: GapsConfig, index: IndexDatabase) -> None:
    """Sweeps, surveys and fetches, until nothing urgent is left or the time is over."""
    from appview_pipeline.backfill.survey import SurveySummary, close_stream_gaps
    from appview_pipeline.backfill.worker import work

    deadline = time.monotonic() + config.max_minutes * 60
    chosen = settings.load()
    say = EverySeconds(PROGRESS_SECONDS)

    def surveyed(so_far: SurveySummary) -> None:
        say(lambda: context.log.info(f"{so_far.compared:,} repositories compared with the relay's list"))

    try:
        opened = index.open()
        with opened.connect("maintenance") as connection:
            closed = sweep_to_its_end(connection, GAPS_FILLED, datetime.now(timezone.utc))
        survey = SurveySummary()
        try:
            survey = close_stream_gaps(chosen, opened, max_seconds=config.max_minutes * 30, progress=surveyed)
        except LockTaken as error:
            context.log.info(f"No survey: {error}")
        left = max(1.0, deadline - time.monotonic())
        done = work(chosen, opened, urgent=True, max_seconds=left, progress=ProgressLines(context))
    except LockLost as error:
        raise dg.Failure(str(error)) from None
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    context.log.info(f"{closed:,} gaps were filled already; of {survey.gaps:,} of the stream {survey.closed:,} closed")
    context.log.info(f"{in_words(done)}; the run ends because {done.ended}")
    context.add_output_metadata(
        {
            "gaps_filled_already": closed,
            "gaps_of_the_stream_closed": survey.closed,
            "repositories_compared": survey.compared,
            "repositories_queued": survey.missing,
            "accounts_changed": survey.accounts,
            **metadata_of(done),
        }
    )


@dg.job(
    name=JOB,
    description=(
        "Closes gaps: fetches every repository of which something is known to be missing, or that somebody asked for, "
        "and compares the index with the relay's list after a gap of the stream. Beside the live stream; a run that "
        "ends early loses nothing. docs/gaps.md"
    ),
    tags=TAGS,
)
def close_gaps() -> None:
    """Closes gaps."""
    close_open_gaps()


@dg.schedule(
    name="close_gaps_schedule",
    job=close_gaps,
    cron_schedule="* * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description=(
        "Begins close_gaps when something urgent is in the queue, and every five minutes while a gap of the stream is "
        "open."
    ),
)
def close_gaps_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """A run, or why there is none."""
    # A gap of the stream may have to wait until the stream has caught up: no run every minute for that.
    is_turn_of_surveys = context.scheduled_execution_time.minute % SURVEY_MINUTES == 0

    def due(connection: Connection) -> dg.RunRequest | dg.SkipReason:
        if urgent_due(connection) or (is_turn_of_surveys and has_stream_gaps(connection)):
            return dg.RunRequest()
        return dg.SkipReason("Nothing is known to be missing that could be fetched now.")

    return run_unless_under_way(context, JOB, due=due)
