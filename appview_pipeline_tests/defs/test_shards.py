"""What Dagster shows of shards: one sensor for each, and what former layouts left."""

from __future__ import annotations

import os
import subprocess
import sys

from appview_pipeline.store import reports as reported
from appview_pipeline.store.cursors import cursor_of
from appview_pipeline.store.status import read_status
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.shards import layout
from appview_pipeline_tests.support.tables import Fresh, rows

RELAY = "wss://relay.example"


def test_every_batch_is_reported_by_one_sensor(fresh: Fresh) -> None:
    with fresh() as database, database.connect("writer") as connection:
        with connection.cursor() as sql:
            for source, shard in (
                *((RELAY, f"{number}/3") for number in range(3)),
                *((RELAY, it) for it in ("0/1", "1/2")),
                *((it, "0/1") for it in ("replay:file", "wss://other.example")),
            ):
                sql.execute("INSERT INTO pipeline.batch (source, shard, events) VALUES (%s, %s, 1)", (source, shard))
        found = [
            sum(it.events for it in reported.applied_after(connection, 0, RELAY, shard=str(shard)))
            for shard in layout(3)
        ]
        assert found == [5, 1, 1]
        assert sum(it.events for it in reported.applied_after(connection, 0, RELAY)) == 7


def test_a_code_location_of_another_shard_has_its_sensor_and_nothing_else() -> None:
    """Two locations with the same asset, job or schedule would be a muddle."""
    program = (
        "from appview_pipeline.defs.definitions import defs; repository = defs.get_repository_def(); "
        "print([it.name for it in repository.sensor_defs], len(list(repository.asset_graph.get_all_asset_keys())) > 1, "
        "len(repository.schedule_defs) > 0)"
    )
    found: dict[str, str] = {}
    for text in ("0/2", "1/2"):
        environment = {**os.environ, "APPVIEW_SHARD": text, "PYTHONPATH": str(CHECKOUT)}
        loaded = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        found[text] = loaded.stdout.strip()
    assert found == {
        "0/2": "['backfill_sensor', 'check_alerts', 'fetch_sensor', 'firehose_sensor_0_of_2', 'health_sensor', "
        "'identity_sensor', 'label_sensor', 'run_alerts'] True True",
        "1/2": "['firehose_sensor_1_of_2'] False False",
    }


def test_what_former_layouts_left_is_told_apart(fresh: Fresh) -> None:
    with fresh() as database:
        for shard, age in (("0/1", 9), ("0/2", 2), ("1/2", 1)):
            rows(
                database.url,
                "INSERT INTO pipeline.cursor VALUES (%s, %s, 5, now() - %s * interval '1 minute')", RELAY, shard, age,
            )  # fmt: skip
        with database.connect("reader") as connection:
            assert [it.shard for it in reported.stream_state(connection, RELAY)] == ["0/2", "1/2"]
            assert cursor_of(connection, RELAY, "0/1") == 5
            lines = read_status(connection, database.url).lines()
        told_of = [line for line in lines if line.startswith("Stream")]
        assert ["(0/2)" in told_of[0], "(1/2)" in told_of[1], "of a former layout" in told_of[2]] == [True] * 3
