"""The job `sweep` in Dagster: what was deleted is on the run and on the assets whose rows it were."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.sweeps import sweep as module
from appview_pipeline.operations.sweeping import LOCK
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.session_lock import session_lock
from appview_pipeline_tests.support.dagster_events import values
from appview_pipeline_tests.support.database import run
from appview_pipeline_tests.support.tables import one

LETTER = (
    "INSERT INTO pipeline.dead_letter (fingerprint, source, kind, reason, first_seen) "
    "VALUES ('x', 's', 'k', 'r', now() - interval '31 days')"
)


def test_what_was_deleted_is_said(index: None, database_url: str, tmp_path: Path) -> None:
    run(database_url, LETTER)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        done = defs.resolve_job_def(module.JOB).execute_in_process(instance=instance)
        assert done.success and one(database_url, "SELECT count(*) FROM pipeline.dead_letter") == 0
        (output,) = [it for it in done.all_events if it.event_type_value == "STEP_OUTPUT"]
        said = values(output.event_specific_data.metadata)  # type: ignore[union-attr]
        assert said["rows"] == 1 and said["left_to_the_next_run"] == 0
        assert "| dead letters | pipeline.dead_letter | 1 |" in said["tables"]
        (seen,) = instance.fetch_observations(dg.AssetKey("dead_letters"), limit=10).records
        assert seen.asset_observation is not None
        assert values(seen.asset_observation.metadata) == {"swept: dead letters": 1}
        again = defs.resolve_job_def(module.JOB).execute_in_process(instance=instance)
        assert [it for it in again.all_events if it.event_type_value == "ASSET_OBSERVATION"] == []


def test_a_run_beside_another_one_ends_in_order(index: None, database_url: str, tmp_path: Path) -> None:
    run(database_url, LETTER)
    database = Database(database_url, Settings(database_url=database_url))
    try:
        with session_lock(database, LOCK, taken="taken"), dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
            config = {"ops": {"sweep_tables": {"config": {"only": ["dead letters"]}}}}
            done = defs.resolve_job_def(module.JOB).execute_in_process(config, instance=instance)
            assert done.success
        assert one(database_url, "SELECT count(*) FROM pipeline.dead_letter") == 1
    finally:
        database.close()


def test_an_unknown_sweep_is_said_in_one_sentence(index: None, tmp_path: Path) -> None:
    config = {"ops": {"sweep_tables": {"config": {"only": ["everything"]}}}}
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        done = defs.resolve_job_def(module.JOB).execute_in_process(config, instance=instance, raise_on_error=False)
        assert not done.success


def test_the_schedule_asks_for_a_run_unless_one_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        context = dg.build_schedule_context(instance)
        assert isinstance(module.sweep_schedule(context), dg.RunRequest)
        instance.create_run_for_job(module.sweep, status=dg.DagsterRunStatus.STARTED)
        assert isinstance(module.sweep_schedule(context), dg.SkipReason)
        monkeypatch.setenv("APPVIEW_SWEEP_CRON", "whenever")
        skipped = module.sweep_schedule(context)
        assert isinstance(skipped, dg.SkipReason) and "APPVIEW_SWEEP_CRON" in str(skipped.skip_message)
