"""What comes of commits with a bad proof or signature, whichever way they come from the relay."""

from __future__ import annotations

import pytest

from appview_pipeline import backoff
from appview_pipeline.ingest.live.replay_range import replay_range
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.accounts import make_key
from appview_pipeline_tests.simulated_network.relay import Relay
from appview_pipeline_tests.support.consumers import Start, until
from appview_pipeline_tests.support.frames import Person, Stream, altered, post
from appview_pipeline_tests.support.keys import save_key
from appview_pipeline_tests.support.tables import one, record_keys, rows


@pytest.mark.parametrize("way", ["consumer", "shards", "range"])
def test_bad_commits_are_dead_letters_and_their_repositories_are_fetched(
    database: Database, start: Start, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(backoff, "RANGE_QUIET_SECONDS", 0.5)
    stream = Stream()
    people = [Person(stream, name) for name in ("ann", "bob", "cat")]
    ann, bob, cat = people
    for person in people:
        save_key(database, person.did, person.key)
    frames = [person.commit(post(f"{person.did[8:11]}1", "good")) for person in people]
    altered_one = altered(ann.commit(post("left", "out"), post("altered", "x")), ops=[])
    bob.repository.key = make_key("somebody else's")
    frames += [altered_one, bob.commit(post("forged", "x")), cat.commit(post("last", "good"))]
    with Relay(frames) as relay:
        if way == "range":
            replay_range(Settings(database_url=database.url, relay_url=relay.url), database, 1, len(frames))
        else:
            shards = ["0/1"] if way == "consumer" else ["0/2", "1/2"]
            consumers = [start(database.url, relay.url, APPVIEW_SHARD=shard) for shard in shards]
            reached = "SELECT count(*) FROM pipeline.cursor WHERE seq = %s"
            until(lambda: one(database.url, reached, len(frames)) == len(shards), consumers[0])
            for consumer in consumers:
                consumer.end()
    assert record_keys(database) == {*(f"{person.did[8:11]}1" for person in people), "last"}
    letters = rows(database.url, "SELECT did, kind, bytes FROM pipeline.dead_letter ORDER BY seq")
    assert [(did, kind, bytes(frame)) for did, kind, frame in letters] == [
        (ann.did, "commit-proof", altered_one),
        (bob.did, "commit-signature", frames[4]),
    ]
    states = dict(rows(database.url, "SELECT did, sync_state FROM pipeline.repo"))
    assert states == {ann.did: "desynchronized", bob.did: "desynchronized", cat.did: "synchronized"}
    queued = rows(database.url, "SELECT did, priority FROM pipeline.backfill_queue WHERE finished_at IS NULL")
    assert sorted(queued) == sorted([(ann.did, 2), (bob.did, 2)])
