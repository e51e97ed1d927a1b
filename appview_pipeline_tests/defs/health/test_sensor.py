"""The health sensor: what it reports, what it leaves to others, and how it says what fails."""

# No postponed annotations here: Dagster reads the types of its ops' parameters at definition.

import dataclasses
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster_shared.error import SerializableErrorInfo

from appview_pipeline import backoff, settings
from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.check_events import evaluation
from appview_pipeline.defs.health import dagster_state
from appview_pipeline.defs.health import sensor as sensor_module
from appview_pipeline.defs.health.checks import CHECKS
from appview_pipeline.defs.health.sensor import health_sensor, is_to_be_reported, key_of
from appview_pipeline.operations.conditions import CONDITIONS
from appview_pipeline.operations.database_conditions import DISK_LASTS
from appview_pipeline.operations.stream_conditions import CONNECTED
from appview_pipeline.operations.verdict import Verdict
from appview_pipeline.settings import Settings
from appview_pipeline_tests.support.dagster_events import switch_off

NOW = 1_000_000.0
GOOD, BAD = DISK_LASTS.verdict(True, "much"), DISK_LASTS.verdict(False, "little")
UP, DOWN = CONNECTED.verdict(True, "up"), CONNECTED.verdict(False, "down")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def instance_with_ticks() -> Iterator[dg.DagsterInstance]:
    """One in memory has no ticks."""
    with dg.instance_for_test() as made:
        yield made


def last(verdict: Verdict, seconds: float) -> Any:
    """A check's last evaluation, so many seconds ago."""
    return SimpleNamespace(evaluation=evaluation(verdict), create_timestamp=NOW - seconds)


@pytest.mark.parametrize(
    ("verdict", "before", "has_begun", "expected"),
    [
        (GOOD, None, False, True),
        (GOOD, last(GOOD, 60), True, False),
        (GOOD, last(GOOD, backoff.HEALTH_REPEAT_SECONDS), True, True),
        (GOOD, last(BAD, 60), False, True),
        (BAD, last(GOOD, 60), True, True),
        (BAD, last(BAD, 60), True, True),
        (BAD, None, False, False),
        (BAD, last(GOOD, 60), False, False),
        (BAD, last(BAD, 60), False, True),
        (DOWN, last(UP, 60), True, False),
        (UP, last(DOWN, 60), True, False),
        (DOWN, last(UP, backoff.HEALTH_SILENCE_SECONDS), True, True),
        (DOWN, None, True, True),
    ],
)
def test_what_is_reported(verdict: Verdict, before: Any, has_begun: bool, expected: bool) -> None:
    assert is_to_be_reported(verdict, before, NOW, has_begun=has_begun) is expected


def tick(instance: dg.DagsterInstance) -> str:
    skip = health_sensor(dg.build_sensor_context(instance))
    assert isinstance(skip, dg.SkipReason) and skip.skip_message is not None
    return skip.skip_message


def evaluations(instance: dg.DagsterInstance) -> dict[str, bool]:
    keys = [key_of(check.verdict(True, "")) for check in CHECKS]
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    return {key.name: it.evaluation.passed for key, it in found.items() if it.evaluation is not None}


def test_a_tick_evaluates_all_and_says_what_fails(
    index: None, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensor_module, "_began", time.monotonic())
    line = tick(instance)
    assert f"of {len(CHECKS)} checks fail: connected (error): Nothing was applied from" in line
    assert "keeps_up (warn)" in line
    assert evaluations(instance) and all(evaluations(instance).values()), "others are given their time"
    monkeypatch.setattr(sensor_module, "_began", time.monotonic() - 1_000)
    tick(instance)
    found = evaluations(instance)
    assert found.keys() == {check.name for check in CHECKS} and not found["connected"] and not found["reading_labels"]


def test_without_a_database_it_says_so(
    index: None, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = dataclasses.replace(settings.load(), database_url="postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(settings, "load", lambda: nowhere)
    database_module.reopen()
    monkeypatch.setattr(sensor_module, "_began", time.monotonic() - 1_000)
    line = tick(instance)
    assert "database_answers (error): The database can't be asked" in line
    assert f"{len(CONDITIONS)} others can't be evaluated" in line
    assert evaluations(instance) == {"database_answers": False, "ticks_succeed": True, "runs_succeed": True}


# ---- what only Dagster knows


def add_ticks(instance: dg.DagsterInstance, count: int, status: TickStatus) -> None:
    """Ticks of the only sensor, that ended just now."""
    (state,) = instance.all_instigator_state()
    error = SerializableErrorInfo("dagster.SomeError: it broke\n", [], "SomeError")
    for _ in range(count):
        instance.create_tick(
            TickData(
                state.instigator_origin_id,
                state.name,
                InstigatorType.SENSOR,
                status,
                time.time(),
                error=error if status == TickStatus.FAILURE else None,
                run_ids=[],
                selector_id=state.selector_id,
            )
        )


def judged(instance: dg.DagsterInstance) -> dict[str, Verdict]:
    found = dagster_state.judge(dagster_state.read_failures(instance), Settings())
    return {verdict.name: verdict for verdict in found}


def test_a_few_failed_ticks_are_allowed_and_many_of_one_sensor_fail_the_check(
    instance_with_ticks: dg.DagsterInstance,
) -> None:
    instance = instance_with_ticks
    switch_off(instance)  # so that it is known
    add_ticks(instance, 2, TickStatus.FAILURE)
    found = judged(instance)["ticks_succeed"]
    assert found.passed and "2 ticks failed in the last hour" in found.words
    add_ticks(instance, 1, TickStatus.FAILURE)
    found = judged(instance)["ticks_succeed"]
    assert not found.passed and "firehose_sensor 3 (dagster.SomeError: it broke)" in found.words
    assert found.numbers == {"failed_ticks": 3.0}
    add_ticks(instance, 4, TickStatus.SKIPPED)
    add_ticks(instance, 1, TickStatus.FAILURE)
    add_ticks(instance, 4, TickStatus.SUCCESS)
    assert not judged(instance)["ticks_succeed"].passed, "some fail all the time"
    add_ticks(instance, 1, TickStatus.SKIPPED)
    found = judged(instance)["ticks_succeed"]
    assert found.passed and found.numbers == {"failed_ticks": 0.0}, "it is well again"


@dg.op(config_schema={"fails": bool})
def may_fail(context: dg.OpExecutionContext) -> None:
    if context.op_config["fails"]:
        raise RuntimeError("as asked")


@dg.job(executor_def=dg.in_process_executor)
def trial() -> None:
    may_fail()


def run(instance: dg.DagsterInstance, *, fails: bool, partition: str | None = None) -> None:
    tags = {} if partition is None else {"dagster/partition": partition}
    config = {"ops": {"may_fail": {"config": {"fails": fails}}}}
    trial.execute_in_process(config, instance=instance, raise_on_error=False, tags=tags)


def test_a_failed_run_fails_the_check_until_a_later_one_succeeds(instance: dg.DagsterInstance) -> None:
    assert judged(instance)["runs_succeed"].passed
    run(instance, fails=False)
    run(instance, fails=True)
    found = judged(instance)["runs_succeed"]
    assert not found.passed and found.severity == "warn"
    assert "not succeeded since (limit 0 of each): trial 1." in found.words
    run(instance, fails=True, partition="17")
    assert "trial (17) 1" in judged(instance)["runs_succeed"].words
    run(instance, fails=False, partition="17")
    assert judged(instance)["runs_succeed"].passed, "the same job"
