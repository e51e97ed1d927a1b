"""The health sensor: evaluates the checks once a minute, whatever else works or does not."""

from __future__ import annotations

import time
from collections.abc import Mapping

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from appview_pipeline import backoff, settings
from appview_pipeline.defs.check_events import evaluation
from appview_pipeline.defs.database import database
from appview_pipeline.defs.health.checks import CHECKS, SUPERVISED, evaluate_all
from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.verdict import Verdict
from appview_pipeline.store.database import Database

_began = time.monotonic()

Records = Mapping[dg.AssetCheckKey, AssetCheckExecutionRecord]


def key_of(verdict: Verdict) -> dg.AssetCheckKey:
    """The key of the check in Dagster."""
    return dg.AssetCheckKey(dg.AssetKey(verdict.asset), verdict.name)


def is_to_be_reported(verdict: Verdict, last: AssetCheckExecutionRecord | None, now: float, *, has_begun: bool) -> bool:
    """Whether the health sensor reports a verdict, given the last evaluation of its check. `now`: seconds since 1970.

    A supervised check is left to its own sensor while that evaluates it. A failure waits until the code server has
    `has_begun` long enough for the others to work; it may only say again what failed already.
    """
    known = None if last is None else last.evaluation
    age = None if last is None else now - last.create_timestamp
    if verdict.name in SUPERVISED and age is not None and age < backoff.HEALTH_SILENCE_SECONDS:
        return False
    if not verdict.passed:
        return has_begun or (known is not None and not known.passed)
    if known is None or age is None or not known.passed:
        return True
    return age >= backoff.HEALTH_REPEAT_SECONDS


@dg.sensor(
    name="health_sensor",
    target=dg.AssetSelection.assets("database", "dagster"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=backoff.HEALTH_SECONDS,
    description=(
        "Evaluates the checks once a minute: by one cheap read of the database, and by what Dagster's storage knows of "
        "ticks and runs. Those of a leased process it leaves to its sensor, unless that is silent. Its skip reason "
        "says what fails."
    ),
)
def health_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """One tick."""
    try:
        chosen = settings.load()
    except OperatorError as error:
        return dg.SkipReason(str(error))
    try:
        _open()
    except OperatorError as error:
        # A start of the embedded database is no failure, and may take a while.
        if time.monotonic() - _began < backoff.HEALTH_SILENCE_SECONDS:
            return dg.SkipReason(str(error))
    verdicts = evaluate_all(context.instance, _open, chosen)
    keys = [key_of(verdict) for verdict in verdicts]
    last: Records = context.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    has_begun = time.monotonic() - _began >= backoff.HEALTH_SILENCE_SECONDS
    now = time.time()
    reported = 0
    for verdict, key in zip(verdicts, keys, strict=True):
        if is_to_be_reported(verdict, last.get(key), now, has_begun=has_begun):
            context.instance.report_runless_asset_event(evaluation(verdict))
            reported += 1
    return dg.SkipReason(in_words(verdicts))


def _open() -> Database:
    """The database. Raises `OperatorError` where it can't be opened soon: a tick must not wait for a long start."""
    return database(patience=backoff.HEALTH_DATABASE_SECONDS)


def in_words(verdicts: list[Verdict]) -> str:
    """What fails, the worst first, in a line."""
    failed = sorted((it for it in verdicts if not it.passed), key=lambda it: it.severity != "error")
    if not failed:
        return f"All {len(verdicts):,} checks pass."
    named = "; ".join(f"{it.name} ({it.severity}): {it.words}" for it in failed)
    unknown = len(CHECKS) - len(verdicts)
    more = f" {unknown:,} others can't be evaluated." if unknown else ""
    return f"{len(failed):,} of {len(verdicts):,} checks fail: {named}{more}"
