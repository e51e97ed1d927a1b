"""Reruns and recounts from Dagster."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from appview_pipeline import settings as settings_module
from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.tables.groups import GROUPS
from appview_pipeline.defs.tables.partitions import HOURS, key_of
from appview_pipeline_tests.support.rerun import Rerun
from appview_pipeline_tests.support.states import differences, dump


@pytest.fixture
def instance(busy: Rerun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    load = settings_module.load
    monkeypatch.setattr(settings_module, "load", lambda: load({"APPVIEW_DATABASE_URL": busy.database.url}))
    database_module.reopen()
    with dg.instance_for_test(temp_dir=str(tmp_path)) as made:
        yield made
    database_module.reopen()


def materialized(instance: dg.DagsterInstance, *keys: str, partitions: tuple[str, str]) -> dict[str, dict[str, Any]]:
    """Metadata by asset of one run over a range of hours."""
    result = dg.materialize(
        [*(defs.assets or ())],  # type: ignore[list-item]
        selection=dg.AssetSelection.assets(*keys),
        tags={
            "dagster/asset_partition_range_start": partitions[0],
            "dagster/asset_partition_range_end": partitions[1],
        },
        resources=dict(defs.resources or {}),
        instance=instance,
    )
    return {
        event.materialization.asset_key.to_user_string(): {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
    }


def test_materializing_repairs_the_hours_selected(busy: Rerun, instance: dg.DagsterInstance) -> None:
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    hours = (key_of(HOURS.start), key_of(hour))
    want = dump(busy.connection)
    (like,) = busy.rows('SELECT uri FROM bsky."like" ORDER BY uri LIMIT 1')
    busy.run(
        f"DELETE FROM bsky.\"like\" WHERE uri = '{like}'",
        "DELETE FROM bsky.notification n WHERE reason = 'follow' "
        'AND NOT EXISTS (SELECT FROM pipeline.kept_notification o WHERE o.uri = n."recordUri")',
        'UPDATE bsky.profile_agg SET "postsCount" = 99',
        "DELETE FROM bsky.feed_item",
    )
    likes = materialized(instance, "likes", partitions=hours)["likes"]
    assert likes["rows_changed"] == 1 and "| `like` | 1 |" in likes["changed"]
    assert like in likes["changed"] and likes["records_compared"] > 20
    derived = ("notifications", "post_aggregates", "profile_aggregates", "feed_items")
    found = materialized(instance, *derived, partitions=hours)
    assert all(found[key]["rows_changed"] > 0 for key in ("notifications", "profile_aggregates", "feed_items"))
    assert found["post_aggregates"]["rows_changed"] == 0 and "`profile_agg`" in found["post_aggregates"]["changed"]
    assert differences(dump(busy.connection), want) == []
    everything = [group.key for group in GROUPS]
    again = materialized(instance, *everything, partitions=hours)
    assert {key: it["rows_changed"] for key, it in again.items() if it.get("rows_changed")} == {}
    assert again.keys() == set(everything) and "rows_changed" not in again["record"]


def test_an_hour_without_records_changes_nothing(busy: Rerun, instance: dg.DagsterInstance) -> None:
    hour = key_of(HOURS.start)
    busy.run("""UPDATE bsky.record SET "appliedAt" = "appliedAt" - interval '1 day'""")
    assert materialized(instance, "likes", partitions=(hour, hour))["likes"]["records_compared"] == 0


def test_the_counters_jobs(busy: Rerun, instance: dg.DagsterInstance) -> None:
    (uri,) = busy.rows('SELECT uri FROM bsky.post_agg WHERE "likeCount" > 0 ORDER BY uri LIMIT 1')
    busy.run(f"UPDATE bsky.post_agg SET \"likeCount\" = 99 WHERE uri = '{uri}'")
    everything = {
        "ops": {
            f"{asset}_rotating_recount": {"config": {"everything": True}}
            for asset in ("post_aggregates", "profile_aggregates")
        }
    }
    run = defs.resolve_job_def("check_counters").execute_in_process(run_config=everything, instance=instance)
    checks = {it.asset_key.to_user_string(): it for it in run.get_asset_check_evaluations()}
    assert not checks["post_aggregates"].passed and uri in (checks["post_aggregates"].description or "")
    assert checks["profile_aggregates"].passed
    run = defs.resolve_job_def("repair_counters").execute_in_process(instance=instance)
    (output,) = [it for it in run.all_events if it.event_type_value == "STEP_OUTPUT"]
    said = output.event_specific_data.metadata  # type: ignore[union-attr]
    assert (said["rewritten post_agg"].value, said["rewritten profile_agg"].value) == (1, 0)
    assert uri in str(said["changes"].value) and "99" in str(said["changes"].value)
    run = defs.resolve_job_def("check_counters").execute_in_process(instance=instance)
    assert all(it.passed for it in run.get_asset_check_evaluations())
