"""Which labelers are read, and what follows for those that the settings name."""

from __future__ import annotations

from appview_pipeline.labels.choice import choose, queue_repositories
from appview_pipeline.settings import Settings
from appview_pipeline.store.backfill_queue import ASKED
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create
from appview_pipeline_tests.support.tables import rows


def chosen(database: Database, *labelers: str) -> list[str]:
    settings = Settings(database_url=database.url, labelers=labelers)
    with database.connect("writer") as connection:
        found = choose(connection, settings)
    with database.connect("writer") as connection:
        queue_repositories(connection, settings, found)
    return found


def test_repositories_of_labelers_that_are_named_are_fetched_once(database: Database) -> None:
    """For their records, which the relay may have sent long ago. Those of an index that has them are there."""
    stream = Stream()
    mod, other, gone = (Person(stream, name) for name in ("mod", "other", "gone"))
    rows(database.url, "SELECT pipeline.forbid_data_collection(%s)", gone.did)
    service = create("app.bsky.labeler.service/self", {"policies": {"labelValues": ["spam"]}, "createdAt": WHEN})
    index(database, other.commit(service))
    rows(database.url, "DELETE FROM pipeline.backfill_queue")
    queue = "SELECT did, reason, priority, finished_at IS NOT NULL FROM pipeline.backfill_queue"
    assert chosen(database, "all") == [other.did]
    assert rows(database.url, queue) == []
    assert chosen(database, mod.did, gone.did) == [mod.did]
    assert rows(database.url, queue) == [(mod.did, "requested", ASKED, False)]
    rows(database.url, "UPDATE pipeline.backfill_queue SET finished_at = now()")
    assert chosen(database, mod.did) == [mod.did]
    assert rows(database.url, queue) == [(mod.did, "requested", ASKED, True)]
