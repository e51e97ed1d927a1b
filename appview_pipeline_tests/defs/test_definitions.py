"""What Dagster loads: lineage, descriptions, quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import dagster as dg
import pytest

from appview_pipeline.defs.backfill.partitions import BUCKETS
from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.labels.partitions import LABELERS
from appview_pipeline.defs.tables.groups import GROUPS
from appview_pipeline.defs.tables.partitions import HOURS
from appview_pipeline_tests.support.checkout import CHECKOUT


def test_lineage_runs_from_the_firehose_to_everything() -> None:
    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents["firehose"] == set()
    assert parents["record"] == parents["actors"] == {"firehose"}
    assert parents["network_listing"] == set() and parents["fetched_records"] == {"firehose"}
    assert parents["repositories"] == {"network_listing", "firehose"}
    for group in ("posts", "likes", "reposts", "follows", "blocks", "profiles", "lists", "feed_generators"):
        assert "record" in parents[group]
    for group in ("starter_packs", "labelers", "gates", "verifications"):
        assert parents[group] == {"record"}
    assert {"posts", "likes", "reposts", "follows", "verifications"} <= parents["notifications"]
    assert parents["post_aggregates"] == {"posts", "likes", "reposts"}
    assert parents["profile_aggregates"] == {"posts", "follows"}
    assert parents["feed_items"] == {"posts", "reposts"}
    assert parents["labels"] == {"labelers"}
    groups = {
        (graph.get(parent).group_name, graph.get(key).group_name)
        for key in graph.get_all_asset_keys()
        for parent in graph.get(key).parent_keys
    }
    # Folded up, the groups are read from left to right.
    order = TopologicalSorter[str]()
    for before, after in groups:
        if before != after:
            order.add(after or "", before or "")
    order.prepare()


def test_every_asset_says_what_it_is_and_can_be_run() -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.is_executable, key
        assert node.description and node.group_name and node.owners and node.kinds, key
        name = key.to_user_string()
        if name == "repositories":
            assert node.partitions_def == BUCKETS
        elif name == "labels":
            assert node.partitions_def == LABELERS
            assert {it.name for it in node.metadata["dagster/column_schema"].columns} >= {"src", "uri", "neg", "exp"}
        elif name not in (
            *("firehose", "dead_letters", "network_listing", "fetched_records"),
            *("database", "dagster"),
        ):
            assert node.partitions_def == HOURS
            assert node.metadata["dagster/column_schema"].columns


def test_loading_is_quick_and_needs_no_database() -> None:
    # Every run imports this; atproto alone would add 1.5 s.
    code = "import sys, appview_pipeline.defs.definitions; print('atproto' in sys.modules, 'requests' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split()[0] == "False"


DG = Path(sys.executable).parent / "dg"


@pytest.mark.skipif(not DG.exists(), reason="dagster-dg-cli is not installed (extra `dev`)")
def test_dg_lists_and_checks_the_definitions() -> None:
    environment = {**os.environ, "VIRTUAL_ENV": str(DG.parent.parent)}

    def dg_says(*arguments: str) -> str:
        done = subprocess.run(
            [DG, *arguments], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    listed = json.loads(dg_says("list", "defs", "--json"))
    assert {"firehose", "record", "likes"} <= {asset["asset_key"] for asset in listed["assets"]}
    assert {sensor["name"] for sensor in listed["sensors"]} >= {
        "firehose_sensor",
        "identity_sensor",
        "fetch_sensor",
        "label_sensor",
        "health_sensor",
        "check_alerts",
        "run_alerts",
    }
    assert "All definitions loaded successfully" in dg_says("check", "defs")


def test_every_group_is_reported_by_one_sensor_which_names_it() -> None:
    repository = defs.get_repository_def()
    targets = {
        sensor.name: repository.get_job(sensor.targets[0].job_name).asset_layer.executable_asset_keys
        for sensor in repository.sensor_defs
        if sensor.name in ("firehose_sensor", "identity_sensor")
    }
    actors = dg.AssetKey("actors")
    others = {dg.AssetKey(group.key) for group in GROUPS} - {actors}
    assert targets == {"firehose_sensor": {dg.AssetKey("firehose"), *others}, "identity_sensor": {actors}}
