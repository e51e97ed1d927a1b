"""The firehose, materialized by hand."""

from __future__ import annotations

from appview_pipeline.store.database import Database
from appview_pipeline.store.stream_lock import stream_lock
from appview_pipeline_tests.support.dagster_events import RELAY, add_batch, execute, materialize, values
from appview_pipeline_tests.support.database import connect


def test_the_stream_measured_by_hand(index: None, database: Database, database_url: str) -> None:
    empty = materialize("firehose")
    failed = {c.check_name: c.description or "" for c in empty.evaluations() if not c.passed}
    assert failed.keys() == {"connected", "keeps_up"}, "nothing consumed yet"
    assert "the ticks of the firehose sensor say why" in failed["connected"]
    with connect(database_url) as connection:
        execute(connection, f"INSERT INTO pipeline.cursor (relay, seq) VALUES ('{RELAY}', 17)")
        add_batch(connection, events=1000, rejected=2)
    with stream_lock(database, RELAY, "0/1"):
        result = materialize("firehose")
    (event,) = result.materializations()
    found = values(event.metadata)
    details = found["details"]
    assert details["last_seq"] == 17 and details["events_of_last_hour"] == 1000 and 1.9 < found["lag_seconds"] < 2.1
    assert {c.check_name: c.passed for c in result.evaluations()} == {
        "connected": True,
        "keeps_up": True,
        "throughput": True,
        "few_dead_letters": False,
    }
