"""The job `refresh_dids`: what is due is resolved again, once, within its time; and its schedule."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.identity import refresh as job_module
from appview_pipeline.defs.identity.refresh import refresh_dids_schedule
from appview_pipeline.defs.schedules import cron_trouble
from appview_pipeline.identity import refresh as refresh_module
from appview_pipeline.identity.refresh import LOCK, RefreshSummary, refresh
from appview_pipeline.network.xrpc import Client
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.session_lock import LockTaken, session_lock
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.resolution import Hanging, Script, did_of, no_answer, states
from appview_pipeline_tests.support.tables import one, rows

DUE = (
    "INSERT INTO pipeline.identity (did, state, source, resolved_at, next_check_at) "
    "SELECT did, 'found', 'plc', now() - interval '25 h', now() - interval '1 h' FROM unnest(%s) did"
)
LATER = "UPDATE pipeline.identity SET next_check_at = now() + interval '1 h' WHERE did = ANY (%s)"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """What upstream says to the refresh."""
    from contextlib import contextmanager

    found = Script()

    @contextmanager
    def questions(settings: Settings) -> Iterator[tuple[object, Client]]:
        with Client(settings) as client:
            yield found.questions, client

    monkeypatch.setattr(refresh_module, "questions", questions)
    return found


def due(database: Database, count: int, mark: str = "d") -> list[str]:
    dids = [did_of(f"{mark}{number}x") for number in range(count)]
    rows(database.url, DUE, dids)
    return dids


def test_what_is_due_is_resolved_and_nothing_else(
    database: Database, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh_module, "QUEUED_AT_ONCE", 40)
    dids = due(database, 150)
    later = due(database, 5, "later")
    rows(database.url, LATER, later)
    seen: list[RefreshSummary] = []
    found = refresh(Settings(), database, max_seconds=60, progress=seen.append)
    assert (found.due, found.resolved, found.failed, found.verified) == (150, 150, 0, 150)
    assert found.ended == "nothing more was due" and seen[-1].ended and not seen[0].ended
    assert sorted(script.asked) == sorted(dids)
    assert {(state, queue) for state, _, queue, _ in states(database.url, dids)} == {("found", None)}
    assert one(database.url, "SELECT count(*) FROM pipeline.identity WHERE next_check_at <= now()") == 0


def test_a_run_whose_time_is_over_is_continued_by_the_next(database: Database, script: Script) -> None:
    dids = due(database, 60)
    hanging = Hanging()
    script.resolutions = dict.fromkeys(dids, hanging)
    found = refresh(Settings(), database, max_seconds=0.5)
    assert found.ended == "its 0 s were over" and found.resolved == 0
    hanging.release()
    script.resolutions = {}
    assert refresh(Settings(), database, max_seconds=60).resolved == 60


def test_failures_are_left_to_the_identity_process(database: Database, script: Script) -> None:
    dids = due(database, 3)
    script.resolutions[dids[0]] = no_answer
    found = refresh(Settings(), database, max_seconds=60)
    assert (found.resolved, found.failed) == (2, 1)
    assert states(database.url, dids[:1]) == [("found", None, "retry", 1)]


def test_a_directory_that_is_left_alone_ends_the_run(database: Database, script: Script) -> None:
    dids = due(database, 1_000)
    script.resolutions = dict.fromkeys(
        dids, lambda did: no_answer(did, "parked", retry_after=900, blames_account=False)
    )
    found = refresh(Settings(), database, max_seconds=60)
    assert found.ended == "the servers that it asks are left alone for now" and found.failed == 0
    assert one(database.url, "SELECT max(attempts) FROM pipeline.identity") == 0
    assert one(database.url, "SELECT count(*) FROM pipeline.identity WHERE next_check_at IS NULL") == 0


def test_two_runs_are_never_under_way_at_once(database: Database, script: Script) -> None:
    with session_lock(database, LOCK, taken="taken"), pytest.raises(LockTaken, match="another refresh is at work"):
        refresh(Settings(), database, max_seconds=60)


def test_the_job_runs_by_hand_and_says_what_it_did(
    index: None, database: Database, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "PROGRESS_SECONDS", 0.0)
    due(database, 20)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        job = defs.resolve_job_def("refresh_dids")
        result = job.execute_in_process(instance=instance)
        assert result.success
        (output,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
        metadata = {name: value.value for name, value in output.event_specific_data.metadata.items()}  # type: ignore[union-attr]
        assert (metadata["due"], metadata["resolved"], metadata["success_rate"]) == (20, 20, 1.0)
        assert metadata["ended"] == "nothing more was due"
        with session_lock(database, LOCK, taken="taken"):
            assert job.execute_in_process(instance=instance).success, "another run is no failure"


def evaluated(instance: dg.DagsterInstance) -> object:
    return refresh_dids_schedule(dg.build_schedule_context(instance=instance))


def test_the_schedule_begins_a_run_when_something_is_due_and_none_is_under_way(
    index: None, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        skipped = evaluated(instance)
        assert isinstance(skipped, dg.SkipReason) and skipped.skip_message == "No account is due."
        due(database, 3)
        request = evaluated(instance)
        assert isinstance(request, dg.RunRequest) and request.tags["accounts_due"] == "3"
        run = dg.DagsterRun("refresh_dids", status=dg.DagsterRunStatus.STARTED)
        instance.add_run(run)
        skipped = evaluated(instance)
        assert isinstance(skipped, dg.SkipReason) and str(skipped.skip_message) == "A run of refresh_dids is under way."
        for variable, value, words in (
            ("APPVIEW_REFRESH_DIDS", "0", "APPVIEW_REFRESH_DIDS is off."),
            ("APPVIEW_REFRESH_CRON", "every day", "must be a cron expression"),
            ("APPVIEW_BATCH_EVENTS", "many", "APPVIEW_BATCH_EVENTS"),
        ):
            monkeypatch.setenv(variable, value)
            skipped = evaluated(instance)
            assert isinstance(skipped, dg.SkipReason) and words in str(skipped.skip_message)


def test_the_schedule_goes_by_the_settings() -> None:
    program = (
        "from appview_pipeline.defs.identity.refresh import refresh_dids_schedule as it; "
        "print(it.cron_schedule, it.default_status.value)"
    )
    found = []
    for cron, switch in (("", ""), ("5 4 * * 1", "0"), ("every day", "1")):
        environment = {"APPVIEW_REFRESH_CRON": cron, "APPVIEW_REFRESH_DIDS": switch, "PYTHONPATH": str(CHECKOUT)}
        loaded = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(loaded.stdout.strip())
    # One that is wrong keeps nothing from loading: the evaluation says so.
    assert found == ["*/20 * * * * RUNNING", "5 4 * * 1 STOPPED", "*/20 * * * * RUNNING"]


def test_a_cron_expression_is_checked() -> None:
    assert cron_trouble("X", "*/20 * * * *") is None and cron_trouble("X", "0 3 * * 1-5") is None
    assert "APPVIEW_REFRESH_CRON='1 2 3'" in str(cron_trouble("APPVIEW_REFRESH_CRON", "1 2 3"))
