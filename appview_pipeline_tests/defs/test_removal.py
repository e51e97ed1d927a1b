"""The job that removes accounts, and its schedule."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from appview_pipeline.defs import database as database_module
from appview_pipeline.defs.definitions import defs
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import Person, Stream, post
from appview_pipeline_tests.support.tables import one, rows

SCHEDULE = "remove_accounts_schedule"


@pytest.fixture
def opened(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The test's database is the one that Dagster opens."""
    monkeypatch.setenv("APPVIEW_DATABASE_URL", database.url)
    database_module.reopen()
    yield database
    database_module.reopen()


def ask(instance: dg.DagsterInstance) -> list[dg.RunRequest] | str:
    """What the schedule asks for, or why it does not."""
    repository = defs.get_repository_def()
    context = dg.build_schedule_context(instance=instance, repository_def=repository)
    found = repository.get_schedule_def(SCHEDULE).evaluate_tick(context)
    return list(found.run_requests or ()) or str(found.skip_message)


def test_a_run_is_asked_for_when_there_is_something_to_do(opened: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    index(opened, ann.commit(post("a", "x"), post("b", "x")))
    with dg.instance_for_test() as instance:
        assert ask(instance) == "No account is to be removed."
        rows(opened.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", ann.did)
        assert len(ask(instance)) == 1
        waiting = instance.create_run_for_job(defs.resolve_job_def("remove_accounts"))
        assert ask(instance) == "A run of remove_accounts is under way."
        instance.delete_run(waiting.run_id)
        done = defs.resolve_job_def("remove_accounts").execute_in_process(instance=instance)
        assert done.success
        (event,) = [event for event in done.all_events if event.event_type_value == "STEP_OUTPUT"]
        metadata = {name: value.value for name, value in event.step_output_data.metadata.items()}
        assert metadata["accounts"] == 1 and metadata["records"] == 2 and metadata["failed"] == 0
        assert one(opened.url, "SELECT count(*) FROM bsky.record") == 0
        assert ask(instance) == "No account is to be removed."


def test_a_removal_that_fails_fails_the_run_with_its_reason(opened: Database, stream: Stream) -> None:
    ann = Person(stream, "ann")
    index(opened, ann.commit(post("a", "x")))
    rows(opened.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", ann.did)
    rows(
        opened.url,
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not this one'; END$$;
        CREATE TRIGGER refuse BEFORE DELETE ON bsky.actor FOR EACH ROW EXECUTE FUNCTION refuse()""",
    )
    with dg.instance_for_test() as instance:
        done = defs.resolve_job_def("remove_accounts").execute_in_process(instance=instance, raise_on_error=False)
        assert not done.success
        (failure,) = [event for event in done.all_events if event.event_type_value == "STEP_FAILURE"]
        data = failure.step_failure_data.user_failure_data
        assert data is not None and "pipeline.removal has the reasons" in str(data.description)
        assert "not this one" in str(data.metadata["failures"].value)
        assert len(ask(instance)) == 1, "the next run tries it again"


def test_a_database_that_is_away_is_a_skip_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPVIEW_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    database_module.reopen()
    try:
        with dg.instance_for_test() as instance:
            assert str(ask(instance)).startswith("The database can't be asked: ")
    finally:
        database_module.reopen()
