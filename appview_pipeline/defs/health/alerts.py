"""The sensors that say what fails: checks that change, and runs that fail.

Each alert is a log line of the tick (`ALERT` and a JSON object), and goes to APPVIEW_ALERT_WEBHOOK. What the webhook
did not take waits in the sensor's cursor for the next tick.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._core.storage.tags import PARTITION_NAME_TAG

from appview_pipeline import backoff, settings
from appview_pipeline.errors import OperatorError
from appview_pipeline.operations.alerts import FAILED, PASSED, STILL_FAILED, Alert, deliver, run_alert, short
from appview_pipeline.operations.verdict import Severity, what_to_do
from appview_pipeline.settings import Settings

MAX_WAITING = 50
"""Alerts that wait for the webhook; of more, the oldest are dropped: the log has them all."""


@dataclass
class Failing:
    """A check that fails: since when, when that was last said (None: not yet), and how bad it was then. Times are
    seconds since 1970."""

    since: float
    said: float | None
    severity: str


@dataclass
class Said:
    """What the alerts have said so far: the sensor's cursor. `checks`: those that fail, by key. `waiting`: alerts that
    the webhook has not taken yet."""

    checks: dict[str, Failing] = field(default_factory=dict)
    waiting: list[Alert] = field(default_factory=list)

    @classmethod
    def parse(cls, cursor: str | None) -> Said:
        """What a cursor says; nothing for none, or for what a person set it to."""
        try:
            value = json.loads(cursor or "{}")
            return cls(
                checks={key: Failing(**it) for key, it in value.get("checks", {}).items()},
                waiting=[Alert.parse(it) for it in value.get("waiting", [])],
            )
        except (ValueError, TypeError, AttributeError):
            return cls()

    def __str__(self) -> str:
        return json.dumps(
            {
                "checks": {key: asdict(it) for key, it in self.checks.items()},
                "waiting": [it.as_json() for it in self.waiting],
            }
        )


def new_alerts(
    said: Said, records: Mapping[dg.AssetCheckKey, AssetCheckExecutionRecord], now: float, chosen: Settings
) -> list[Alert]:
    """What is to be said of the checks now, which `said` then knows: checks that fail for APPVIEW_ALERT_AFTER_SECONDS,
    that fail worse, that still fail after APPVIEW_ALERT_REPEAT_HOURS (0: never), and that pass again."""
    repeat_seconds = chosen.alert_repeat_hours * 3_600.0
    alerts = []
    for key, record in records.items():
        evaluation = record.evaluation
        if record.status == AssetCheckExecutionRecordStatus.PLANNED or evaluation is None:
            continue  # a run evaluates it at this moment
        name = _name(key)
        before = said.checks.get(name)
        if evaluation.passed:
            if before is not None:
                del said.checks[name]
                if before.said is not None:
                    alerts.append(_alert(key, evaluation, PASSED, now - before.since))
            continue
        severity = _severity(evaluation)
        if before is None:
            before = said.checks[name] = Failing(since=record.create_timestamp, said=None, severity=severity)
        is_worse = before.said is not None and severity == "error" and before.severity != "error"
        if is_worse or (before.said is None and now - before.since >= chosen.alert_after_seconds):
            state = FAILED
        elif before.said is not None and repeat_seconds and now - before.said >= repeat_seconds:
            state = STILL_FAILED
        else:
            continue
        before.said, before.severity = now, severity
        alerts.append(_alert(key, evaluation, state, now - before.since))
    return alerts


def _name(key: dg.AssetCheckKey) -> str:
    return f"{key.asset_key.to_user_string()} {key.name}"


def _severity(evaluation: dg.AssetCheckEvaluation) -> Severity:
    return "error" if evaluation.severity == dg.AssetCheckSeverity.ERROR else "warn"


def _alert(key: dg.AssetCheckKey, evaluation: dg.AssetCheckEvaluation, state: str, seconds: float | None) -> Alert:
    return Alert(
        kind="check",
        name=key.name,
        asset=key.asset_key.to_user_string(),
        state=state,
        severity=_severity(evaluation),
        words=short(evaluation.description or ""),
        what_to_do=what_to_do(key.name),
        seconds=None if seconds is None else round(seconds, 1),
    )


def log_alerts(log: logging.Logger, alerts: Iterable[Alert]) -> None:
    """A line for each, for people and programs that read logs."""
    for alert in alerts:
        if alert.state == PASSED:
            level = logging.INFO
        else:
            level = logging.ERROR if alert.severity == "error" else logging.WARNING
        log.log(level, f"ALERT {json.dumps(alert.as_json() | {'text': alert.sentence})}")


def _in_words(alerts: Sequence[Alert], failing: int, trouble: str | None) -> str:
    said = "; ".join(alert.sentence for alert in alerts) if alerts else "Nothing has changed"
    line = f"{said.rstrip('.')}. Checks that fail: {failing:,}."
    return f"{line} {trouble}" if trouble else line


def say(said: Said, alerts: list[Alert], chosen: Settings) -> str | None:
    """Delivers the alerts, and those that wait; what is not taken waits in `said`. Returns the trouble."""
    said.waiting = [*said.waiting, *alerts][-MAX_WAITING:]
    trouble = deliver(chosen, said.waiting)
    if trouble is None:
        said.waiting = []
    return trouble


@dg.sensor(
    name="check_alerts",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=backoff.ALERT_POLL_SECONDS,
    description=(
        "Says when a check fails for APPVIEW_ALERT_AFTER_SECONDS, when it still fails after "
        "APPVIEW_ALERT_REPEAT_HOURS, and when it passes again: in its log, and to APPVIEW_ALERT_WEBHOOK if that is "
        "set. Its cursor is what it has said."
    ),
)
def check_alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One tick."""
    said = Said.parse(context.cursor)
    try:
        chosen = settings.load()
    except OperatorError as error:
        return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
    assert context.repository_def is not None, "a code location has a repository"
    keys = sorted(context.repository_def.asset_graph.asset_check_keys, key=lambda key: key.to_user_string())
    # A check that there is no longer, after an update, fails no more.
    names = set(map(_name, keys))
    said.checks = {name: it for name, it in said.checks.items() if name in names}
    records = context.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    alerts = new_alerts(said, records, time.time(), chosen)
    log_alerts(context.log, alerts)
    trouble = say(said, alerts, chosen)
    if trouble is not None:
        context.log.warning(f"{trouble} The next tick tries again.")
    return dg.SensorResult(skip_reason=_in_words(alerts, len(said.checks), trouble), cursor=str(said))


@dg.run_failure_sensor(
    name="run_alerts",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=backoff.ALERT_POLL_SECONDS,
    description=(
        "Says when a run fails: in its log, and to APPVIEW_ALERT_WEBHOOK if that is set. The check `runs_succeed` "
        "remembers what failed."
    ),
)
def run_alerts(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """One run that failed."""
    run = context.dagster_run
    event: Any = context.failure_event
    alert = run_alert(run.job_name, run.run_id, run.tags.get(PARTITION_NAME_TAG), _reason(event))
    log_alerts(context.log, [alert])
    try:
        trouble = deliver(settings.load(), [alert])
    except OperatorError as error:
        trouble = str(error)
    if trouble is None:
        return None
    context.log.warning(trouble)
    return dg.SkipReason(f"{alert.sentence} {trouble}")


def _reason(event: dg.DagsterEvent) -> str:
    """Why a run failed, in a line: its own error, else what Dagster says of it."""
    data = event.job_failure_data
    error = data.first_step_failure_event.step_failure_data.error if data.first_step_failure_event else data.error
    while error is not None and error.cause is not None:
        error = error.cause
    words = error.message.strip() if error is not None else ""
    return words or (event.message or "the run failed")
