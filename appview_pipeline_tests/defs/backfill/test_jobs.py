"""The jobs and schedules of the backfill: what they ask of the functions that do the work, and what they say of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from types import ModuleType, SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from appview_pipeline.backfill.progress import WorkSummary
from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.backfill import cursor_range as range_module
from appview_pipeline.defs.backfill.listing import backfill_sensor
from appview_pipeline.defs.backfill.partitions import BUCKETS, bucket_of, key_of
from appview_pipeline.defs.definitions import defs
from appview_pipeline.errors import OperatorError
from appview_pipeline.ingest.live.replay_range import RangeSummary
from appview_pipeline.store.backfill_queue import BUCKETS as COUNT
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.dagster_events import materialize, values
from appview_pipeline_tests.support.tables import rows

QUEUE = "INSERT INTO pipeline.backfill_queue (did, reason, priority, not_before) VALUES (%s, 'gap', %s, now() + %s)"


@pytest.fixture
def opened(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The test's database is the one that Dagster opens."""
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url)
    database_module.reopen()
    yield database
    database_module.reopen()


class Calls(list[dict[str, Any]]):
    """What was asked of the functions that do the work. `done`: what `work` answers; `error`: what it raises."""

    done: WorkSummary
    error: Exception | None = None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stand-ins for the functions that do the work."""
    made = Calls()
    made.done = WorkSummary(
        repositories=4,
        records=8_000,
        created=7_000,
        bytes=9_000_000,
        failed=3,
        seconds=4.0,
        left=10,
        failures={"timeout": 2, "gone": 1},
        reasons={"did:plc:x": "no answer within 15 s"},
        ended="its time is over",
    )

    def work(settings: object, database: object, **asked: Any) -> WorkSummary:
        asked.pop("progress")(made.done)
        made.append(asked)
        if made.error is not None:
            raise made.error
        return made.done

    def list_network(settings: object, database: object, **asked: Any) -> object:
        asked.pop("progress")
        made.append(asked)
        return SimpleNamespace(
            hosts=3, listed=2, left=1, failed=0, repositories=60, queued=50, ended="everything was listed"
        )

    def close_stream_gaps(settings: object, database: object, **asked: Any) -> object:
        made.append({"survey": True})
        return SimpleNamespace(gaps=1, closed=1, compared=60, missing=2, accounts=1)

    stand_ins: dict[str, dict[str, object]] = {
        "worker": {"work": work},
        "listing": {"list_network": list_network, "ListingSummary": object},
        "survey": {"close_stream_gaps": close_stream_gaps, "SurveySummary": SimpleNamespace},
    }
    for name, functions in stand_ins.items():
        module = ModuleType(f"appview_pipeline.backfill.{name}")
        module.__dict__.update(functions)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def run(job: str, op: str = "", **config: Any) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            run_config={"ops": {op: {"config": config}}} if op else None,
            raise_on_error=False,
        )


def output_of(done: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = [event for event in done.all_events if event.event_type_value == "STEP_OUTPUT"]
    return values(event.step_output_data.metadata)


def failure_of(done: dg.ExecuteInProcessResult) -> str:
    (failure,) = [event for event in done.all_events if event.event_type_value == "STEP_FAILURE"]
    data = failure.step_failure_data.user_failure_data
    assert data is not None
    return str(data.description)


def ask(instance: dg.DagsterInstance, schedule: str, minute: int = 1) -> list[dg.RunRequest] | str:
    """What a schedule asks for, or why it does not."""
    repository = defs.get_repository_def()
    time = datetime(2026, 11, 27, 12, minute, tzinfo=timezone.utc)
    context = dg.build_schedule_context(instance=instance, repository_def=repository, scheduled_execution_time=time)
    found = repository.get_schedule_def(schedule).evaluate_tick(context)
    return list(found.run_requests or ()) or str(found.skip_message)


def test_partitions_are_the_buckets_of_the_queue(database: Database) -> None:
    keys = BUCKETS.get_partition_keys()
    assert len(keys) == COUNT == 64 and [bucket_of(key) for key in keys] == list(range(64)) and key_of(7) == "07"
    insert = (
        "INSERT INTO pipeline.backfill_queue (did, reason) SELECT 'did:plc:' || n, '' FROM generate_series(1, 999) n"
    )
    rows(database.url, insert)
    found = {bucket for (bucket,) in rows(database.url, "SELECT DISTINCT bucket FROM pipeline.backfill_queue")}
    assert found == set(range(64))


def test_a_partition_is_worked_off_and_what_was_done_plots(opened: Database, calls: Calls) -> None:
    (event,) = materialize("repositories", partition="07").materializations()
    assert calls == [{"bucket": 7, "days": None, "max_seconds": 1_500.0}]
    assert event.partition == "07"
    found = values(event.metadata)
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
    assert numbers == {
        "repositories": 4, "records": 8_000, "records_created": 7_000, "records_updated": 0, "records_deleted": 0,
        "megabytes": 9.0, "records_per_second": 2_000.0, "left": 10, "failed": 3,
    }  # fmt: skip
    assert found["details"]["left_for"] == "10 s" and found["details"]["ended"] == "its time is over"
    assert [dict(row.data) for row in found["failures"].records] == [
        {"repository": "did:plc:x", "reason": "no answer within 15 s"}
    ]
    assert [row.data["failure"] for row in found["failures_by_kind"].records] == ["timeout", "gone"]


def test_a_mistake_of_a_person_fails_the_run_in_words(opened: Database, calls: Calls) -> None:
    calls.error = OperatorError("Nothing can be fetched: correct something.")
    assert failure_of(run("close_gaps")) == "Nothing can be fetched: correct something."


def test_gaps_are_closed_only_when_something_is_due(opened: Database, calls: Calls) -> None:
    schedule = "close_gaps_schedule"
    with dg.instance_for_test() as instance:
        nothing = "Nothing is known to be missing that could be fetched now."
        assert ask(instance, schedule) == nothing
        rows(opened.url, QUEUE, "did:plc:a", 1, "0 s")
        rows(opened.url, QUEUE, "did:plc:b", 2, "1 h")
        assert ask(instance, schedule) == nothing, "not urgent, and not yet due"
        rows(opened.url, QUEUE, "did:plc:c", 2, "0 s")
        assert len(ask(instance, schedule)) == 1
        rows(opened.url, "DELETE FROM pipeline.backfill_queue")
        rows(
            opened.url,
            "INSERT INTO pipeline.gap (kind, relay, shard, from_text, to_text) "
            "VALUES ('sequence', 'r', '0/1', '1', '9')",
        )
        assert ask(instance, schedule) == nothing, "not every minute, for it may have to wait for the stream"
        assert len(ask(instance, schedule, minute=5)) == 1
        waiting = instance.create_run_for_job(defs.resolve_job_def("close_gaps"))
        assert ask(instance, schedule) == "A run of close_gaps is under way."
        instance.delete_run(waiting.run_id)
    done = run("close_gaps", "close_open_gaps", max_minutes=2.0)
    assert done.success and calls[0] == {"survey": True}
    assert calls[1]["urgent"] is True and 0 < calls[1]["max_seconds"] <= 120
    found = output_of(done)
    assert (found["gaps_of_the_stream_closed"], found["repositories_queued"], found["records"]) == (1, 2, 8_000)


def test_a_backfill_begins_only_where_one_is_wanted(
    opened: Database, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.instance_for_test() as instance:
        assert "APPVIEW_BACKFILL_DAYS is 0" in str(ask(instance, "backfill_schedule"))
        monkeypatch.setenv("APPVIEW_BACKFILL_DAYS", "-1")
        assert len(ask(instance, "backfill_schedule")) == 1
        monkeypatch.setenv("APPVIEW_BACKFILL_CRON", "now and then")
        assert "APPVIEW_BACKFILL_CRON='now and then' must be a cron" in str(ask(instance, "backfill_schedule"))
        monkeypatch.delenv("APPVIEW_BACKFILL_CRON")
        instance.create_run_for_job(defs.resolve_job_def("list_network"))
        assert ask(instance, "backfill_schedule") == "A run of list_network is under way."
    (event,) = materialize("network_listing").materializations()
    assert values(event.metadata) == {
        "hosts": 3, "hosts_listed": 2, "hosts_left": 1, "repositories_listed": 60, "repositories_queued": 50,
        "failed": 0, "ended": "everything was listed",
    }  # fmt: skip


def test_after_a_listing_each_partition_with_work_gets_one_run(
    opened: Database, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPVIEW_BACKFILL_DAYS", "-1")
    for n in range(12):
        rows(opened.url, QUEUE, f"did:plc:{n}", n % 2, "0 s")
    rows(opened.url, QUEUE, "did:plc:later", 0, "1 h")
    due = "SELECT DISTINCT bucket FROM pipeline.backfill_queue WHERE not_before <= now() ORDER BY 1"
    keys = [key_of(bucket) for (bucket,) in rows(opened.url, due)]
    with dg.instance_for_test() as instance:

        def asked(cursor: str | None = None) -> tuple[list[str | None], str | None]:
            context = dg.build_sensor_context(
                instance, cursor, repository_def=defs.get_repository_def(), sensor_name="backfill_sensor"
            )
            found = backfill_sensor.evaluate_tick(context)
            return [request.partition_key for request in found.run_requests or ()], found.cursor

        assert asked() == ([], None)
        instance.report_runless_asset_event(dg.AssetMaterialization("network_listing"))
        found, cursor = asked()
        assert found == keys
        assert asked(cursor)[0] == [], "once for each listing"
        instance.report_runless_asset_event(dg.AssetMaterialization("network_listing"))
        tags = {"dagster/partition": keys[0]}
        instance.create_run_for_job(defs.resolve_job_def("backfill"), tags=tags)
        assert asked(cursor)[0] == keys[1:], "one has a run already"


def test_named_repositories_are_fetched(opened: Database, calls: Calls) -> None:
    did = "did:plc:" + "a" * 24
    assert "accounts is empty" in failure_of(run("resync", "resync_repositories", accounts=[]))
    assert "neither a DID nor a handle" in failure_of(run("resync", "resync_repositories", accounts=["?"]))
    assert calls == []
    assert "Could not be fetched: did:plc:x" in failure_of(run("resync", "resync_repositories", accounts=[did]))
    assert calls == [{"dids": [did], "max_seconds": 3_600.0}]
    calls.done.reasons = {}
    assert run("resync", "resync_repositories", accounts=[f"at://{did}/"]).success


def test_a_range_is_replayed_and_the_result_says_what_the_relay_had(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def replay(settings: object, database: object, from_seq: int, to_seq: int | None, **more: Any) -> RangeSummary:
        asked.append((from_seq, to_seq, more["max_seconds"]))
        return RangeSummary(
            from_seq,
            to_seq,
            first_seq=6,
            last_seq=9,
            events=4,
            stale=1,
            holes=[(0, 6)],
            ended="the range has been sent",
        )

    monkeypatch.setattr(range_module, "replay_range", replay)
    done = run("replay_cursor_range", "replay_numbers", from_seq=1, to_seq=9)
    found = output_of(done)
    assert asked == [(1, 9, 3_600.0)]
    assert (found["sent"], found["events"], found["applied_before"], found["sent_part"]) == ("6 to 9", 4, 1, 0.4444)
    assert "| 0 | 6 |" in found["not_sent"]
    assert not run("replay_cursor_range", "replay_numbers", from_seq=0).success
