"""Of several records of an account that say the same the first one counts, in any order of arrival and deletion."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appview_pipeline.protocol.syntax import tid_from_micros
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import changes_of, index, writer_for
from appview_pipeline_tests.support.frames import START, WHEN, Person, Stream, create, delete, did_of, rev, update
from appview_pipeline_tests.support.records import like, ref
from appview_pipeline_tests.support.tables import Fresh, one, rows

few = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Saying:
    """A collection in which one of several records about a subject counts."""

    collection: str
    table: str
    record: Callable[[str, str], dict[str, Any]]
    """From the author's DID and the subject's."""
    counter: str | None = None
    notifies: str | None = None


def post_by(did: str) -> str:
    return f"at://{did}/app.bsky.feed.post/3lrnqkotindky"


def list_by(did: str) -> str:
    return f"at://{did}/app.bsky.graph.list/3lrnqkotindky"


SAYINGS = (
    Saying("app.bsky.feed.like", "like", lambda me, it: {"subject": ref(post_by(it))}, "likeCount", "like"),
    Saying("app.bsky.feed.repost", "repost", lambda me, it: {"subject": ref(post_by(it))}, "repostCount", "repost"),
    Saying("app.bsky.graph.follow", "follow", lambda me, it: {"subject": it}, "followersCount", "follow"),
    Saying("app.bsky.graph.block", "actor_block", lambda me, it: {"subject": it}),
    Saying("app.bsky.graph.listitem", "list_item", lambda me, it: {"subject": it, "list": list_by(me)}),
    Saying("app.bsky.graph.listblock", "list_block", lambda me, it: {"subject": list_by(it)}),
    Saying("app.bsky.graph.referencelistoptout", "reference_list_opt_out", lambda me, it: {"subject": list_by(it)}),
    Saying(
        "app.bsky.graph.verification",
        "verification",
        lambda me, it: {"subject": it, "handle": "somebody.test", "displayName": "Somebody"},
    ),
)
MADE = st.tuples(st.sampled_from(("create", "create", "create", "delete", "update")), *[st.integers(0, 9)] * 2)


@dataclass
class Said:
    """The plain model: which records exist, each with the rev of its last commit."""

    frames: list[bytes] = field(default_factory=list)
    exists: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Author, subject and rev by URI."""

    def live(self) -> dict[tuple[str, str], str]:
        """The URI that counts, by author and subject: the first by rev, then record key."""
        found: dict[tuple[str, str], str] = {}
        for uri, (author, subject, _) in sorted(self.exists.items(), key=lambda item: (item[1][2], item[0])):
            found.setdefault((author, subject), uri)
        return found


def history(saying: Saying, moves: Sequence[tuple[str, int, int]]) -> Said:
    """A valid history of two accounts and two subjects: each move a commit, sometimes of two records at once."""
    stream, said = Stream(), Said()
    authors = [Person(stream, "ann"), Person(stream, "ben")]
    subjects = [did_of("cleo"), did_of("dora")]
    for number, (action, first, second) in enumerate(moves):
        author = authors[first % 2]
        own = sorted(uri for uri, (did, _, _) in said.exists.items() if did == author.did)
        now = rev(stream.moment + 1)
        writes = []
        if action == "create" or not own:
            for extra in range(1 + (second > 7)):
                # Record keys that run against time.
                rkey = tid_from_micros(START - number * 1_000_000 - extra)
                path = f"{saying.collection}/{rkey}"
                subject = subjects[second % 2]
                writes.append(create(path, {**saying.record(author.did, subject), "createdAt": WHEN}))
                said.exists[author.uri(path)] = (author.did, subject, now)
        else:
            uri = own[second % len(own)]
            path = uri.removeprefix(f"at://{author.did}/")
            if action == "delete":
                writes.append(delete(path))
                del said.exists[uri]
            else:
                subject = said.exists[uri][1]
                made = f"2025-06-15T15:06:41.{number:03}Z"
                writes.append(update(path, {**saying.record(author.did, subject), "createdAt": made}))
                said.exists[uri] = (author.did, subject, now)
        said.frames.append(author.commit(*writes))
    return said


@pytest.mark.parametrize("saying", SAYINGS, ids=lambda saying: saying.table)
@few
@given(moves=st.lists(MADE, min_size=1, max_size=12), seed=st.integers(0, 2**16), shuffle=st.booleans())
def test_of_several_records_that_say_the_same_the_first_counts(
    fresh: Fresh, saying: Saying, moves: list[tuple[str, int, int]], seed: int, shuffle: bool
) -> None:
    """In any order of arrival and deletion, in any batches."""
    rng = random.Random(seed)
    said = history(saying, moves)
    frames = said.frames
    if shuffle:
        frames = rng.sample(frames, len(frames)) + rng.choices(frames, k=2)
    with fresh() as database:
        writer = writer_for(database)
        changes = changes_of(*frames)
        while changes:
            size = rng.randint(1, len(changes))
            writer.write(changes[:size], time.time())
            changes = changes[size:]
        live = said.live()
        assert {uri for (uri,) in rows(database.url, f'SELECT uri FROM bsky."{saying.table}"')} == set(live.values())
        assert {uri for (uri,) in rows(database.url, "SELECT uri FROM bsky.record")} == set(said.exists)
        duplicates = dict(rows(database.url, 'SELECT uri, "duplicateOf" FROM bsky.duplicate_record'))
        assert duplicates == {
            uri: live[author, subject]
            for uri, (author, subject, _) in said.exists.items()
            if live[author, subject] != uri
        }
        if saying.counter is not None:
            key, table = ("did", "profile_agg") if saying.counter == "followersCount" else ("uri", "post_agg")
            counts = dict(rows(database.url, f'SELECT {key}, "{saying.counter}" FROM bsky.{table}'))
            for name in ("cleo", "dora"):
                subject = did_of(name)
                key = subject if table == "profile_agg" else post_by(subject)
                assert counts.get(key, 0) == sum(it == subject for _, it in live), (key, counts)
            notified = rows(database.url, 'SELECT did, author, "recordUri" FROM bsky.notification')
            assert sorted(notified) == sorted((it, author, uri) for (author, it), uri in live.items())
        if saying.table == "repost":
            items = rows(database.url, "SELECT uri FROM bsky.feed_item WHERE type = 'repost'")
            assert sorted(items) == sorted((uri,) for uri in live.values())


def test_the_notification_of_a_duplicate_keeps_its_place(database: Database, stream: Stream) -> None:
    ann, subject = Person(stream, "ann"), post_by(did_of("cleo"))
    index(database, ann.commit(like("3lrnqkotindky", subject)), ann.commit(like("3lrnqkotindkz", subject)))
    before = rows(database.url, 'SELECT id, "sortAt" FROM bsky.notification')
    index(database, ann.commit(delete("app.bsky.feed.like/3lrnqkotindky")))
    assert rows(database.url, 'SELECT id, "sortAt" FROM bsky.notification') == before
    assert one(database.url, 'SELECT "recordUri" FROM bsky.notification') == ann.uri("app.bsky.feed.like/3lrnqkotindkz")
    index(database, ann.commit(delete("app.bsky.feed.like/3lrnqkotindkz")))
    assert rows(database.url, "SELECT 1 FROM bsky.notification") == []
