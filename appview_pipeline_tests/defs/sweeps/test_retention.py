"""The job `retention` in Dagster."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.sweeps import retention as module
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index as write
from appview_pipeline_tests.support.dagster_events import values
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.tables import one


def run_it(instance: dg.DagsterInstance, **config: object) -> tuple[bool, dict[str, object]]:
    done = defs.resolve_job_def(module.JOB).execute_in_process(
        {"ops": {"delete_old_records": {"config": config}}}, instance=instance, raise_on_error=False
    )
    outputs = [it for it in done.all_events if it.event_type_value == "STEP_OUTPUT"]
    found = values(outputs[0].event_specific_data.metadata) if outputs else {}  # type: ignore[union-attr]
    return done.success, found


def test_a_run_counts_or_deletes_and_says_what(
    index: None, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(database_url, Settings(database_url=database_url))
    try:
        ann = Person(Stream(), "ann")
        write(database, ann.commit(post("a", "one"), post("b", "two")))
    finally:
        database.close()
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        assert run_it(instance)[0] is False, "it is off"
        monkeypatch.setenv("APPVIEW_RETENTION_DAYS", "1")
        is_done, counted = run_it(instance, dry_run=True)
        assert is_done and "| post | 2 | deleted |" in str(counted["would be"])
        assert one(database_url, "SELECT count(*) FROM bsky.post") == 2
        is_done, said = run_it(instance)
        assert is_done and said["records"] == 2 and said["ended"] == "nothing more is left"
        assert one(database_url, "SELECT count(*) FROM bsky.post") == 0
        (seen,) = instance.fetch_observations(dg.AssetKey("posts"), limit=10).records
        assert seen.asset_observation is not None
        assert values(seen.asset_observation.metadata) == {"deleted by age": 2}


def test_the_schedule_skips_while_nothing_is_to_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        context = dg.build_schedule_context(instance)
        skipped = module.retention_schedule(context)
        assert isinstance(skipped, dg.SkipReason) and "kept for ever" in str(skipped.skip_message)
        monkeypatch.setenv("APPVIEW_RETENTION_DAYS", "30")
        assert isinstance(module.retention_schedule(context), dg.RunRequest)
        instance.create_run_for_job(module.retention, status=dg.DagsterRunStatus.STARTED)
        assert isinstance(module.retention_schedule(context), dg.SkipReason)
