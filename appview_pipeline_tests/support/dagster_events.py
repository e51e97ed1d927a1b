"""Rows of `pipeline.batch`, and what Dagster has of them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, SensorInstigatorData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from appview_pipeline.defs.definitions import defs

RELAY = "ws://relay.invalid"


def add_batch(connection: Any, *, source: str = RELAY, at: datetime | None = None, seq: int = 1, **numbers: Any) -> int:
    at = at or datetime.now(timezone.utc)
    values = {
        "source": source,
        "first_seq": seq,
        "last_seq": seq + numbers.get("events", 1) - 1,
        "events": 1,
        "applied_at": at,
        "relay_time": at - timedelta(seconds=2),
        **{name: json.dumps(value) if isinstance(value, dict) else value for name, value in numbers.items()},
    }
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO pipeline.batch ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))}) RETURNING id",
            list(values.values()),
        )
        connection.commit()
        return int(cursor.fetchone()[0])


class Result:
    def __init__(self, result: dg.ExecuteInProcessResult) -> None:
        self._result = result

    def materializations(self) -> list[dg.AssetMaterialization]:
        return [
            event.event_specific_data.materialization  # type: ignore[union-attr]
            for event in self._result.get_asset_materialization_events()
        ]

    def evaluations(self) -> list[dg.AssetCheckEvaluation]:
        return list(self._result.get_asset_check_evaluations())


def materialize(*keys: str, partition: str | None = None) -> Result:
    assets = [*defs.assets, *defs.asset_checks]  # type: ignore[misc]
    with dg.DagsterInstance.ephemeral() as instance:
        return Result(
            dg.materialize(
                assets,
                selection=dg.AssetSelection.assets(*keys),
                partition_key=partition,
                resources=dict(defs.resources or {}),
                instance=instance,
            )
        )


def values(metadata: Any) -> dict[str, Any]:
    return {name: getattr(value, "value", value) for name, value in metadata.items()}


def reported(instance: dg.DagsterInstance, key: str) -> list[dict[str, Any]]:
    found = instance.fetch_materializations(dg.AssetKey(key), limit=1000).records
    return [values(record.asset_materialization.metadata) for record in reversed(found)]  # type: ignore[union-attr]


def switch_off(instance: dg.DagsterInstance, sensor: str = "firehose_sensor") -> None:
    repository = RemoteRepositoryOrigin(InProcessCodeLocationOrigin(LoadableTargetOrigin()), "__repository__")
    instance.add_instigator_state(
        InstigatorState(
            repository.get_instigator_origin(sensor),
            InstigatorType.SENSOR,
            InstigatorStatus.STOPPED,
            SensorInstigatorData(),
        )
    )


def execute(connection: Any, *statements: str) -> None:
    """Runs the statements and commits."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.commit()
