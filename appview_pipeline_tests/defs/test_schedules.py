"""What all schedules promise: never a second run of a job, and a reason in words where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

import dagster as dg
import pytest

from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.definitions import defs
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.tables import rows

ALWAYS = {"check_counters_schedule", "measure_schedule", "prune_history_schedule"}
"""Schedules that ask for a run each time: theirs are short."""
SCHEDULES = sorted({schedule.name for schedule in defs.get_repository_def().schedule_defs} - ALWAYS)
ON = {"APPVIEW_BACKFILL_DAYS": "-1", "APPVIEW_RETENTION_DAYS": "30", "APPVIEW_REFRESH_DIDS": "1"}
"""Settings with which no schedule is switched off."""
NO_SERVER = "postgresql://postgres@127.0.0.1:1/appview"


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in ON.items():
        monkeypatch.setenv(name, value)
    yield
    database_module.reopen()


def ask(instance: dg.DagsterInstance, schedule: str) -> list[dg.RunRequest] | str:
    """What the schedule asks for, or why it does not."""
    repository = defs.get_repository_def()
    now = datetime(2026, 11, 26, 12, 0, tzinfo=timezone.utc)
    context = dg.build_schedule_context(instance=instance, repository_def=repository, scheduled_execution_time=now)
    found = repository.get_schedule_def(schedule).evaluate_tick(context)
    return list(found.run_requests or ()) or str(found.skip_message)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_run_is_asked_for_beside_another(
    instance: dg.DagsterInstance, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is not asked then: it may be what the run waits for."""
    monkeypatch.setenv("APPVIEW_DATABASE_URL", NO_SERVER)
    database_module.reopen()
    job = defs.get_repository_def().get_schedule_def(schedule).job_name
    waiting = instance.create_run_for_job(defs.resolve_job_def(job))
    assert ask(instance, schedule) == f"A run of {job} is under way."
    instance.delete_run(waiting.run_id)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_setting_that_is_wrong_is_said(
    instance: dg.DagsterInstance, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPVIEW_BATCH_EVENTS", "many")
    database_module.reopen()
    assert "APPVIEW_BATCH_EVENTS" in str(ask(instance, schedule))


def test_a_database_that_does_not_answer_is_said(
    instance: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can't be connected to, or a statement fails."""
    schedule = "remove_accounts_schedule"
    monkeypatch.setenv("APPVIEW_DATABASE_URL", NO_SERVER)
    database_module.reopen()
    assert "127.0.0.1" in str(ask(instance, schedule))
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url)
    database_module.reopen()
    assert ask(instance, schedule) == "No account is to be removed."
    rows(database.url, "ALTER TABLE pipeline.removal RENAME TO elsewhere")
    try:
        assert str(ask(instance, schedule)).startswith("The database can't be asked: ")
    finally:
        rows(database.url, "ALTER TABLE pipeline.elsewhere RENAME TO removal")


def test_the_schedules_are_known() -> None:
    """The instrument: what is asked above."""
    assert len(SCHEDULES) >= 7 and {schedule.name for schedule in defs.get_repository_def().schedule_defs} > ALWAYS
