"""The Dagster definitions: lineage, column schemas, the sensor's tick, measuring, housekeeping."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
import sqlalchemy
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, SensorInstigatorData
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from appview_pipeline import settings
from appview_pipeline.defs import database as database_module
from appview_pipeline.defs import housekeeping as history
from appview_pipeline.defs.definitions import defs
from appview_pipeline.defs.firehose import sensor as sensor_module
from appview_pipeline.defs.firehose import stopping as stopping_module
from appview_pipeline.defs.firehose.sensor import Position, firehose_sensor
from appview_pipeline.defs.firehose.stopping import Stopping
from appview_pipeline.defs.tables.groups import FAMILIES
from appview_pipeline.defs.tables.partitions import HOURS, key_of
from appview_pipeline.indexing.registry import COLLECTIONS
from appview_pipeline.ingest.live.consumer_process import consumer_process
from appview_pipeline.store import reports
from appview_pipeline.store.columns import tables

RELAY = "ws://relay.invalid"


@pytest.fixture
def connect(database_url: str) -> Callable[[], Any]:
    address = re.sub(r"^postgresql\+psycopg2", "postgresql", database_url)
    return lambda: psycopg2.connect(address)


@pytest.fixture
def index(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    load = settings.load
    monkeypatch.setattr(settings, "load", lambda: dataclasses.replace(load(), database_url=database_url))
    monkeypatch.setenv("APPVIEW_RELAY_URL", RELAY)
    database_module.reopen()
    yield
    database_module.reopen()


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


def run_sql(connection: Any, *statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.commit()


# Assets ---------------------------------------------------------------------------------------------------------------


def test_lineage_runs_from_the_firehose_to_everything() -> None:
    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents["firehose"] == set()
    assert parents["record"] == {"firehose"}
    for family in ("posts", "likes", "reposts", "follows", "blocks", "profiles", "lists", "feed_generators"):
        assert "record" in parents[family]
    for family in ("starter_packs", "labelers", "gates", "verifications"):
        assert parents[family] == {"record"}
    assert {"posts", "likes", "reposts", "follows", "verifications"} <= parents["notifications"]
    assert parents["post_aggregates"] == {"posts", "likes", "reposts"}
    assert parents["profile_aggregates"] == {"posts", "follows"}
    assert parents["feed_items"] == {"posts", "reposts"}


def test_every_asset_says_what_it_is_and_can_be_run() -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.is_executable, key
        assert node.description and node.group_name and node.owners and node.kinds, key
        if key.to_user_string() not in ("firehose", "dead_letters"):
            assert node.partitions_def == HOURS
            assert node.metadata["dagster/column_schema"].columns


def test_every_collection_of_the_index_is_in_a_family() -> None:
    named = [collection for family in FAMILIES for collection in family.collections or ()]
    assert len(named) == len(set(named))
    # A collection without rows of its own is in `record` alone.
    assert set(named) == {nsid for nsid, collection in COLLECTIONS.items() if collection.stages}


def test_declared_columns_are_the_databases(connect: Callable[[], Any]) -> None:
    with closing(connect()) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema || '.' || table_name, column_name, udt_name, is_nullable = 'YES' "
            "FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name) "
            "WHERE table_schema IN ('bsky', 'pipeline') AND table_type = 'BASE TABLE' ORDER BY 1, ordinal_position"
        )
        real: dict[str, list[tuple[str, str, bool]]] = {}
        for table, *column in cursor.fetchall():
            real.setdefault(table, []).append((column[0], column[1], column[2]))
    short = {
        "bigint": "int8",
        "bigserial": "int8",
        "integer": "int4",
        "serial": "int4",
        "smallint": "int2",
        "boolean": "bool",
        "real": "float4",
    }
    declared = {
        table: [(c.name, short.get(c.type, c.type.partition("(")[0]), c.nullable) for c in columns]
        for table, columns in tables().items()
    }
    for family in FAMILIES:
        for table in family.tables:
            assert declared[f"bsky.{table}"] == real[f"bsky.{table}"]
    assert {table: declared[table] for table in real if table in declared} == {
        table: columns for table, columns in real.items() if table in declared
    }


def test_loading_is_quick_and_needs_no_database() -> None:
    # Every run imports this; atproto alone would add 1.5 s.
    code = "import sys, appview_pipeline.defs.definitions; print('atproto' in sys.modules, 'requests' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split()[0] == "False"


def test_measuring_by_hand(index: None, connect: Callable[[], Any]) -> None:
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    with closing(connect()) as connection:
        add_batch(connection, at=hour + timedelta(minutes=1), written={"like": 3, "post_agg": 1})
        run_sql(
            connection,
            """INSERT INTO bsky.record (uri, cid, did, json, "indexedAt", "appliedAt")
               SELECT format('at://did:plc:a%s/app.bsky.feed.like/1', n), 'c', format('did:plc:a%s', n), '{}', 'now',
                 date_trunc('hour', now()) FROM generate_series(1, 3) n""",
            """INSERT INTO bsky."like" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt")
               SELECT uri, cid, did, 'at://did:plc:b/app.bsky.feed.post/1', 'c', 'now', 'now' FROM bsky.record""",
            """INSERT INTO bsky.post_agg (uri, "likeCount") VALUES ('at://did:plc:b/app.bsky.feed.post/1', 3)""",
        )
        result = materialize("likes", "post_aggregates", "record", partition=key_of(hour))
        by_asset = {
            m.asset_key.to_user_string(): values(m.metadata) for m in result.get_asset_materialization_events_()
        }
        assert by_asset["likes"]["records"] == by_asset["likes"]["repositories"] == 3
        assert by_asset["likes"]["rows_written"] == 3
        assert by_asset["likes"]["bytes_on_disk"] > 0
        assert by_asset["record"]["records"] == 3
        check, rotating = sorted(result.get_asset_check_evaluations(), key=lambda it: it.check_name)
        assert rotating.passed and rotating.check_name == "rotating_recount"
        assert check.passed and values(check.metadata) == {"compared": 1, "differing": 0}
        run_sql(connection, """UPDATE bsky.post_agg SET "likeCount" = 4""")
        for check in materialize("post_aggregates", partition=key_of(hour)).get_asset_check_evaluations():
            assert not check.passed and "at://did:plc:b/app.bsky.feed.post/1" in (check.description or "")


class _Result:
    def __init__(self, result: dg.ExecuteInProcessResult) -> None:
        self._result = result

    def get_asset_materialization_events_(self) -> list[dg.AssetMaterialization]:
        return [
            event.event_specific_data.materialization  # type: ignore[union-attr]
            for event in self._result.get_asset_materialization_events()
        ]

    def get_asset_check_evaluations(self) -> list[dg.AssetCheckEvaluation]:
        return list(self._result.get_asset_check_evaluations())


def materialize(*keys: str, partition: str | None = None) -> _Result:
    assets = [*defs.assets, *defs.asset_checks]  # type: ignore[misc]
    with dg.DagsterInstance.ephemeral() as instance:
        return _Result(
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


def test_the_stream_measured_by_hand(index: None, connect: Callable[[], Any]) -> None:
    empty = materialize("firehose")
    assert [c.passed for c in empty.get_asset_check_evaluations()].count(False) == 1, "nothing consumed yet"
    with closing(connect()) as connection:
        run_sql(connection, f"INSERT INTO pipeline.cursor (relay, seq) VALUES ('{RELAY}', 17)")
        add_batch(connection, events=1000, rejected=2)
    result = materialize("firehose")
    (event,) = result.get_asset_materialization_events_()
    found = values(event.metadata)
    assert found["last_seq"] == 17 and found["events_of_last_hour"] == 1000 and 1.9 < found["lag_seconds"] < 2.1
    assert {c.check_name: c.passed for c in result.get_asset_check_evaluations()} == {
        "keeps_up": True,
        "few_dead_letters": False,
    }


# Numbers --------------------------------------------------------------------------------------------------------------


def test_applied_after_sums_by_hour(connect: Callable[[], Any]) -> None:
    hour = datetime(2026, 11, 24, 13, tzinfo=timezone.utc)
    like, post = "app.bsky.feed.like", "app.bsky.feed.post"
    with closing(connect()) as connection:
        assert reports.applied_after(connection, 0, RELAY) == []
        assert reports.newest_batch(connection) == 0
        first = add_batch(connection, at=hour, seq=1, events=5)
        add_batch(
            connection,
            at=hour + timedelta(minutes=59, seconds=59),
            seq=6,
            events=7,
            ops={like: {"create": 3, "delete": 1}},
            written={"like": 4},
            rejected=2,
            rejected_by_kind={"cbor": 2},
            ignored={"com.example.a": 4, "com.example.b": 1},
            bytes=5_000_000_000,
        )
        add_batch(connection, at=hour + timedelta(hours=1), seq=13, ops={like: {"create": 1}, post: {"update": 2}})
        add_batch(
            connection, at=hour + timedelta(hours=1, seconds=1), seq=900, source="/tmp/a.zst", written={"like": 9}
        )
        last = add_batch(connection, at=hour + timedelta(hours=1, seconds=2), seq=14, ops={like: {"create": 1}})
        one, two = reports.applied_after(connection, first, RELAY)
        assert (one.hour, one.batches, one.events, one.first_seq, one.last_seq) == (hour, 1, 7, 6, 12)
        assert (one.rejected, one.rejected_by_kind, one.ignored, one.bytes) == (2, {"cbor": 2}, 5, 5_000_000_000)
        assert one.ops == {f"{like} create": 3, f"{like} delete": 1} and one.written == {"like": 4}
        assert (two.batches, two.last_id, two.first_seq, two.last_seq) == (3, last, 13, 14), (
            "the replay's seqs left out"
        )
        assert two.ops == {f"{like} create": 2, f"{post} update": 2} and two.written == {"like": 9}
        assert two.lag_seconds == 2.0
        assert reports.written_between(connection, hour, hour + timedelta(hours=1)) == {"like": 4}
        (bounded,) = reports.applied_after(connection, 0, RELAY, limit=1)
        assert bounded.last_id == first


def test_sweep_keeps_what_is_young(connect: Callable[[], Any]) -> None:
    now = datetime.now(timezone.utc)
    with closing(connect()) as connection:
        for days in range(10):
            add_batch(connection, at=now - timedelta(days=days, minutes=1))
        assert reports.sweep_batches(connection, now - timedelta(days=7)) == 3
        assert reports.sweep_batches(connection, now - timedelta(days=7)) == 0


# The sensor -----------------------------------------------------------------------------------------------------------

# Writes 10 batches of 7 events at once, then waits for its lease to be closed.
CONSUMER = """
import os, sys, psycopg2
connection = psycopg2.connect(sys.argv[1])
with connection.cursor() as cursor:
    for n in range(10):
        cursor.execute(
            "INSERT INTO pipeline.batch (source, first_seq, last_seq, events, ops, written, relay_time) "
            "VALUES ('ws://relay.invalid', %s, %s, 7, '{\\"app.bsky.feed.like\\": {\\"create\\": 7}}', "
            "'{\\"like\\": 7, \\"record\\": 7}', now())",
            (n * 7 + 1, n * 7 + 7),
        )
connection.commit()
print("consuming", flush=True)
while os.read(0, 100): pass
"""


@pytest.fixture
def ticks(
    index: None, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Runs one tick of 2 s after the other, each with the cursor that the one before left."""
    libpq = re.sub(r"^postgresql\+psycopg2", "postgresql", database_url)
    state = sensor_module._State(consumer_process(command=(sys.executable, "-c", CONSUMER, libpq)))
    monkeypatch.setattr(sensor_module, "_state", state)
    monkeypatch.setattr(sensor_module, "TICK_SECONDS", 2.0)
    monkeypatch.setattr(sensor_module, "REPORT_SECONDS", 1.0)
    monkeypatch.setattr(sensor_module, "FAMILIES_SECONDS", 0.0)
    monkeypatch.setattr(sensor_module, "POLL_SECONDS", 0.05)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:

        def tick(cursor: str | None = None, tick_id: str = "1") -> Any:
            context = dg.build_sensor_context(instance, cursor, sensor_name="firehose_sensor")
            context._log_key = ["__repository__", "firehose_sensor", tick_id]
            result = firehose_sensor(context)
            assert isinstance(result, dg.SensorResult)
            return result, instance

        yield tick
    state.consumer.stop(1.0)


def reported(instance: dg.DagsterInstance, key: str) -> list[dict[str, Any]]:
    found = instance.fetch_materializations(dg.AssetKey(key), limit=1000).records
    return [values(record.asset_materialization.metadata) for record in reversed(found)]  # type: ignore[union-attr]


def test_ticks_report_every_batch_once(ticks: Callable[..., Any], connect: Callable[[], Any]) -> None:
    with closing(connect()) as connection:
        add_batch(connection, events=1_000_000)  # before our time: not ours to report
        result, instance = ticks(str(Position(1, 1)))
        assert "(70 in" in str(result.skip_reason)
        add_batch(connection, seq=71, events=3, written={"like": 1})
        result, instance = ticks(result.cursor)
        result, instance = ticks(result.cursor)
    assert sum(report["events"] for report in reported(instance, "firehose")) == 73
    assert reported(instance, "firehose")[-1]["last_seq"] == 73
    assert [report["rows"] for report in reported(instance, "likes")] == [70, 1]
    assert reported(instance, "likes")[-1]["rows_in_hour"] == 71
    assert sum(report["rows"] for report in reported(instance, "record")) == 70
    assert reported(instance, "posts") == []
    assert Position.parse(result.cursor) == Position(12, 12, 73)
    assert instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey("firehose"), "keeps_up"), limit=1
    )
    assert sensor_module._state.consumer.starts == 1, "one consumer through all ticks"


def test_a_tick_whose_cursor_was_lost_is_not_reported_again(ticks: Callable[..., Any]) -> None:
    first, instance = ticks(str(Position(0, 0)))
    ticks(str(Position(0, 0)))
    assert sum(report["events"] for report in reported(instance, "firehose")) == 70
    assert Position.parse(first.cursor).batch == 10


def test_a_relay_gone_silent_fails_the_check(
    ticks: Callable[..., Any], connect: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = consumer_process(command=(sys.executable, "-c", "import os\nwhile os.read(0, 100): pass"))
    monkeypatch.setattr(sensor_module, "_state", sensor_module._State(silent))
    with closing(connect()) as connection:
        run_sql(
            connection,
            f"INSERT INTO pipeline.cursor (relay, seq, updated_at) VALUES ('{RELAY}', 1, now() - interval '1 hour')",
        )
    result, instance = ticks(None)
    silent.stop(1.0)
    assert "nothing arrived" in str(result.skip_reason)
    (last,) = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey("firehose"), "keeps_up"), limit=1
    )
    assert last.evaluation is not None and not last.evaluation.passed


def test_a_cursor_that_is_no_cursor_is_a_new_start() -> None:
    assert (
        Position.parse(None) == Position.parse("seq 17") == Position.parse("[1]") == Position.parse("17") == Position()
    )


def test_preview_and_second_tick_only_look(ticks: Callable[..., Any]) -> None:
    preview, _ = ticks("{}", tick_id="20261124_140000")
    assert preview.cursor == "{}" and sensor_module._state.consumer.starts == 0
    with sensor_module._state.working:
        second, _ = ticks("{}")
    assert "a tick is at work" in str(second.skip_reason) and second.cursor == "{}"
    assert sensor_module._state.consumer.starts == 0


def test_trouble_is_one_line_and_soon(ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_module, "TICK_SECONDS", 30.0)
    consumer = consumer_process(command=(sys.executable, "-c", "print('set APPVIEW_X'); raise SystemExit(4)"))
    monkeypatch.setattr(sensor_module, "_state", sensor_module._State(consumer))
    started = time.monotonic()
    result, _ = ticks(None)
    assert time.monotonic() - started < 10
    assert "set APPVIEW_X" in str(result.skip_reason)


def test_no_database_is_one_line_and_no_consumer(ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_module, "TICK_SECONDS", 30.0)
    nowhere = dataclasses.replace(settings.load(), database_url="postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(settings, "load", lambda: nowhere)
    database_module.reopen()
    started = time.monotonic()
    result, _ = ticks(None)
    assert time.monotonic() - started < 10
    assert "127.0.0.1" in str(result.skip_reason) and "Traceback" not in str(result.skip_reason)
    assert sensor_module._state.consumer.starts == 0


def test_a_setting_that_makes_no_sense_is_one_line(ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPVIEW_BATCH_EVENTS", "many")
    result, _ = ticks(None)
    assert "APPVIEW_BATCH_EVENTS" in str(result.skip_reason)


def test_a_stopping_code_server_ends_tick_and_consumer(
    ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensor_module, "TICK_SECONDS", 30.0)
    stop = threading.Event()
    service = threading.Thread(target=stop.wait, name="grpc-server-cleanup")
    service.start()
    threading.Timer(1.5, stop.set).start()
    started = time.monotonic()
    result, _ = ticks(None)
    assert time.monotonic() - started < 6
    assert "code server is stopping" in str(result.skip_reason)
    assert sensor_module._state.consumer.pid is None


def test_a_sensor_switched_off_is_noticed(tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        context = dg.build_sensor_context(instance, sensor_name="firehose_sensor")
        context._repository_name = "__repository__"
        stopping = Stopping(context)
        assert stopping.switched_off(instance) is None and stopping.shutdown() is None
        repository = RemoteRepositoryOrigin(InProcessCodeLocationOrigin(LoadableTargetOrigin()), "__repository__")
        for name, status, seen in (
            ("another_sensor", InstigatorStatus.STOPPED, False),
            ("firehose_sensor", InstigatorStatus.STOPPED, True),
        ):
            origin = repository.get_instigator_origin(name)
            instance.add_instigator_state(
                InstigatorState(origin, InstigatorType.SENSOR, status, SensorInstigatorData())
            )
            assert (stopping.switched_off(instance) is not None) == seen


def switch_off(instance: dg.DagsterInstance) -> None:
    repository = RemoteRepositoryOrigin(InProcessCodeLocationOrigin(LoadableTargetOrigin()), "__repository__")
    instance.add_instigator_state(
        InstigatorState(
            repository.get_instigator_origin("firehose_sensor"),
            InstigatorType.SENSOR,
            InstigatorStatus.STOPPED,
            SensorInstigatorData(),
        )
    )


def gone_within(seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while sensor_module._state.consumer.pid is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    return sensor_module._state.consumer.pid is None


def test_between_two_ticks_switching_off_ends_the_consumer(ticks: Callable[..., Any]) -> None:
    _, instance = ticks(None)
    assert not gone_within(2.5), "with the sensor on it goes on without a tick"
    switch_off(instance)
    assert gone_within(6)


def test_between_two_ticks_a_stopping_code_server_ends_the_consumer(ticks: Callable[..., Any]) -> None:
    stop = threading.Event()
    service = threading.Thread(target=stop.wait, name="grpc-server-cleanup")
    service.start()
    ticks(None)
    assert sensor_module._state.consumer.pid is not None
    stop.set()
    assert gone_within(6)


class Call:
    """A gRPC call as a tick sees it."""

    def __init__(self, active: bool, remaining: float | None, peer: str = "unix:") -> None:
        self.is_active = lambda: active
        self.time_remaining = lambda: remaining
        self.peer = lambda: peer


def ExternalSensorExecution(context: Any, _context: Any) -> Stopping:  # as Dagster's method is called
    return Stopping(context)


def test_a_tick_ends_before_the_daemon_gives_up_on_it(
    ticks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensor_module, "TICK_SECONDS", 30.0)

    def ExternalSensorExecution(_context: Any) -> Any:
        return ticks(None)

    started = time.monotonic()
    ExternalSensorExecution(_context=Call(True, 6.0))
    assert 4 < time.monotonic() - started < 8
    assert sensor_module._state.consumer.pid is not None, "it goes on"


def test_a_daemon_that_dies_is_told_from_one_that_has_waited_long_enough(tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        context = dg.build_sensor_context(instance, sensor_name="firehose_sensor")
        for active, remaining, ends in (
            (True, 30.0, False),
            (False, 30.0, True),
            (False, None, True),
            (False, 0.0, False),
        ):
            stopping = ExternalSensorExecution(context, _context=Call(active, remaining))
            assert (stopping.tick_abandoned() is not None) == ends
        assert Stopping(context).tick_abandoned() is None, "no code server, no call"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
@pytest.mark.parametrize(
    ("peer", "noticed"),
    [
        pytest.param(None, True, id="no call"),
        pytest.param("unix:", True, id="socket"),
        pytest.param("ipv4:127.0.0.1:40000", True, id="ipv4"),
        pytest.param("ipv6:%5B::1%5D:40000", True, id="ipv6"),
        pytest.param("ipv4:10.1.2.3:40000", False, id="another Dagster's"),
    ],
)
def test_the_death_of_the_daemon_on_this_machine_is_noticed(
    peer: str | None, noticed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "dagster._daemon", "run"])
    try:
        monkeypatch.setattr(stopping_module, "_processes", lambda: [os.getpid(), daemon.pid])
        with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
            context = dg.build_sensor_context(instance, sensor_name="firehose_sensor")
            if peer is None:
                stopping = Stopping(context)
            else:
                stopping = ExternalSensorExecution(context, _context=Call(True, 30.0, peer))
            assert stopping.shutdown() is None
            daemon.kill()
            daemon.wait()
            assert stopping.shutdown() == ("the daemon has ended" if noticed else None)
    finally:
        daemon.kill()
        daemon.wait()


# Housekeeping ---------------------------------------------------------------------------------------------------------


def postgres_storage(url: str) -> dict[str, Any]:
    return {"storage": {"postgres": {"postgres_url": url}}}


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
def test_pruning_keeps_the_newest_of_each_asset_and_partition(
    storage: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "AT_ONCE", 7)
    overrides = postgres_storage(database_url) if storage == "postgres" else {}
    with dg.instance_for_test(overrides=overrides, temp_dir=str(tmp_path)) as instance:
        for number in range(20):
            for partition in ("2026-11-24-00:00", "2026-11-24-01:00"):
                instance.report_runless_asset_event(
                    dg.AssetMaterialization("likes", partition=partition, metadata={"n": number}, tags={"a": "b"})
                )
            instance.report_runless_asset_event(dg.AssetMaterialization("firehose", metadata={"n": number}))
            instance.report_runless_asset_event(dg.AssetCheckEvaluation(dg.AssetKey("firehose"), "keeps_up", True))
        event_log = instance.event_log_storage
        assert isinstance(event_log, SqlEventLogStorage)
        now = datetime.now(timezone.utc)
        assert history.prune_events(instance, now - timedelta(hours=1)) == 0
        deleted = history.prune_events(instance, now + timedelta(hours=1))
        assert deleted >= 3 * 19
        assert [r["n"] for r in reported(instance, "firehose")] == [19]
        assert [r["n"] for r in reported(instance, "likes")] == [19, 19]
        assert instance.get_materialized_partitions(dg.AssetKey("likes")) == {"2026-11-24-00:00", "2026-11-24-01:00"}
        latest = instance.get_latest_materialization_event(dg.AssetKey("firehose"))
        assert latest is not None
        check = dg.AssetCheckKey(dg.AssetKey("firehose"), "keeps_up")
        assert len(event_log.get_asset_check_execution_history(check, limit=100)) == 1
        for connection in (event_log.index_connection(), event_log.run_connection(RUNLESS_RUN_ID)):
            with connection as one:
                count = sqlalchemy.select(sqlalchemy.func.count()).select_from(SqlEventLogStorageTable)
                assert one.execute(count).scalar() == 4
        # What is left is still a working history.
        instance.report_runless_asset_event(dg.AssetMaterialization("firehose", metadata={"n": 20}))
        assert [r["n"] for r in reported(instance, "firehose")] == [19, 20]


def test_the_housekeeping_job_runs(index: None, connect: Callable[[], Any], tmp_path: Path) -> None:
    with closing(connect()) as connection:
        add_batch(connection, at=datetime.now(timezone.utc) - timedelta(days=30))
        with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
            job = defs.resolve_job_def(history.JOB)
            for _ in range(2):
                assert job.execute_in_process(instance=instance).success
            assert history.prune_runs(instance, datetime.now(timezone.utc) + timedelta(hours=1)) == 2
        assert reports.newest_batch(connection) == 0
