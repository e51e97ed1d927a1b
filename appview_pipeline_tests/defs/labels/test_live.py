"""The label sensor with its real process, on simulated labelers."""

from __future__ import annotations

import re
import time
from pathlib import Path

import dagster as dg
import pytest

from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.labels import sensor as sensor_module
from appview_pipeline.defs.labels import tick as tick_module
from appview_pipeline.defs.labels.asset import labels
from appview_pipeline.defs.labels.sensor import label_sensor
from appview_pipeline.defs.labels.tick import State
from appview_pipeline.defs.leases import leased_tick
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.support.dagster_events import switch_off, values
from appview_pipeline_tests.support.tables import one, rows


@pytest.mark.slow  # about 25 s
def test_labels_are_read_reported_rebuilt_and_read_again(
    index: None, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SimulatedNetwork(accounts=10, labelers=2) as network, dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        for name, value in network.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("APPVIEW_DATABASE_URL", re.sub(r"^postgresql\+psycopg2", "postgresql", database_url))
        monkeypatch.setattr(leased_tick, "TICK_SECONDS", 1.0)
        monkeypatch.setattr(leased_tick, "REPORT_SECONDS", 0.5)
        monkeypatch.setattr(leased_tick, "SETTLED_SECONDS", 0.0)
        monkeypatch.setattr(tick_module, "EVENTS_SECONDS", 0.0)
        monkeypatch.setattr(sensor_module, "_state", State())
        process = sensor_module._state.process

        def tick(tick_id: str = "1") -> str:
            context = dg.build_sensor_context(instance, sensor_name="label_sensor")
            context._log_key = ["__repository__", "label_sensor", tick_id]
            result = label_sensor(context)
            assert isinstance(result, dg.SensorResult)
            return str(result.skip_reason)

        def until(condition: str) -> None:
            deadline = time.monotonic() + 60
            while not one(database_url, f"SELECT coalesce(({condition}), false)"):
                assert time.monotonic() < deadline, (condition, rows(database_url, "SELECT * FROM pipeline.labeler"))
                tick()
            tick()

        def reported(did: str, name: str) -> int:
            """The sum of a number in all reports of a labeler."""
            found = instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=labels.key, asset_partitions=[did]), limit=1_000
            ).records
            events = [values(it.asset_materialization.metadata) for it in found if it.asset_materialization]
            return sum(it.get(name, 0) for it in events)

        try:
            network.labelers.label(100)
            in_streams = sum(len(labeler.labels) for labeler in network.labelers)
            until(
                f"SELECT bool_and(caught_up_at >= last_frame_at) AND sum(labels) = {in_streams} FROM pipeline.labeler"
            )
            dids = [labeler.did for labeler in network.labelers]
            assert sorted(instance.get_dynamic_partitions("labelers")) == sorted(dids)
            assert sum(reported(did, "labels") for did in dids) == in_streams
            assert all(reported(did, "rejected") == 0 for did in dids)
            pid = process.pid

            done = dg.materialize(
                [labels],
                partition_key=dids[0],
                run_config={"ops": {"labels": {"config": {"from_start": True}}}},
                resources=dict(defs.resources or {}),
                instance=instance,
            )
            assert done.success and reported(dids[0], "rows") > 0
            until(
                f"SELECT repeated > 0 AND caught_up_at >= last_frame_at FROM pipeline.labeler WHERE did = '{dids[0]}'"
            )
            assert reported(dids[0], "repeated") > 0 and reported(dids[1], "repeated") == 0
            assert process.pid == pid, "beside the process, which goes on"

            switch_off(instance, "label_sensor")
            assert "switched off" in tick("2") and process.pid is None
        finally:
            process.stop(1.0)
