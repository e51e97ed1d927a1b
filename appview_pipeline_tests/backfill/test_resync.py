"""One repository from its export into the index, also while the stream brings more of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import libipld
import pytest

from appview_pipeline.backfill.exported_changes import changes_of_export
from appview_pipeline.backfill.fetch import FetchedRecord, FetchFailed
from appview_pipeline.backfill.resync import Outcome, needed_rev, record_change, resync
from appview_pipeline.indexing.changes import Change
from appview_pipeline.ingest.dead_letters import retry_dead_letters
from appview_pipeline.ingest.opting_out import switch_collection
from appview_pipeline.protocol.cid import cid_for_cbor
from appview_pipeline.settings import Settings
from appview_pipeline.store.backfill_queue import ASKED
from appview_pipeline.store.database import Database
from appview_pipeline.store.repo_states import RepoState, read_repos
from appview_pipeline_tests.support.batches import index, writer_for
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, post, rev, update
from appview_pipeline_tests.support.memory_fetcher import MemoryFetcher
from appview_pipeline_tests.support.records import UNREADABLE_DIDS, block_of, like, one_of_each
from appview_pipeline_tests.support.tables import Dump, differences, dump, one, rows

POST = "app.bsky.feed.post"
FROM_EXPORT = {"indexedAt", "sortAt", "rev", "quiet"}
"""Columns that differ between a frame and an export by design. A profile's createdAt is when it was indexed, where the
record does not say."""


class Index:
    """An index of the account ann, and her PDS."""

    def __init__(self, database: Database, stream: Stream) -> None:
        self.database = database
        self.ann = Person(stream, "ann")
        self.fetcher = MemoryFetcher(self.ann)

    def resync(self, **settings: Any) -> Outcome:
        return resync(
            Settings(database_url=self.database.url, **settings),
            self.database,
            self.fetcher,
            writer_for(self.database, source="backfill", **settings),
            self.ann.did,
        )

    @property
    def state(self) -> RepoState:
        with self.database.connect("reader") as connection:
            return read_repos(connection, [self.ann.did])[self.ann.did]

    @property
    def posts(self) -> dict[str, str]:
        """Texts of the indexed posts by record key."""
        found = rows(self.database.url, "SELECT uri, text FROM bsky.post")
        return {uri.rpartition("/")[2]: text for uri, text in found}

    @property
    def wanted_posts(self) -> dict[str, str]:
        """Texts of the posts in the repository."""
        found = {path: self.ann.repository.get(path) for path in self.ann.repository.paths()}
        return {
            path.rpartition("/")[2]: libipld.decode_dag_cbor(stored[1])["text"]
            for path, stored in found.items()
            if stored is not None and path.startswith(f"{POST}/")
        }


@pytest.fixture
def index_of(database: Database, stream: Stream) -> Index:
    return Index(database, stream)


def test_a_repository_that_is_not_known_is_indexed_whole(index_of: Index) -> None:
    it = index_of
    it.ann.commit(*one_of_each(it.ann), create("com.example.note/a", {}))
    outcome = it.resync()
    assert (outcome.state, outcome.reason, outcome.rev) == ("synchronized", None, rev(1))
    assert (outcome.counts.records, outcome.counts.creates, outcome.counts.ignored) == (18, 18, 1)
    state = it.state
    assert (state.rev, state.chain_from, state.export_rev) == (rev(1),) * 3
    assert one(it.database.url, "SELECT count(*) FROM bsky.record") == 18
    assert rows(it.database.url, 'SELECT did, "repoRev" FROM bsky.actor_sync') == [(it.ann.did, rev(1))]


def test_again_it_changes_nothing(index_of: Index) -> None:
    it = index_of
    it.ann.commit(*one_of_each(it.ann))
    it.resync()
    before = dump(it.database.url)
    again = it.resync()
    assert (again.counts.creates, again.counts.updates, again.counts.deletes, again.counts.same) == (0, 0, 0, 18)
    assert differences(dump(it.database.url), before) == []


def test_the_tables_are_those_that_the_stream_makes(fresh: Callable[..., Any]) -> None:
    """The equality of docs: all but when it was indexed, and what follows from that."""
    found: list[Dump] = []
    for by_stream in (True, False):
        stream = Stream()
        with fresh() as database:
            it = Index(database, stream)
            bob = Person(stream, "bob")
            own = it.ann.uri(f"{POST}/a")
            frames = [
                it.ann.commit(*one_of_each(it.ann)),
                it.ann.commit(
                    post("b", "two"),
                    like("b", own),
                    create("app.bsky.graph.follow/b", {"subject": bob.did, "createdAt": WHEN}),
                ),
                it.ann.commit(
                    delete("app.bsky.feed.like/a"),
                    update(f"{POST}/b", {"text": "2", "createdAt": WHEN}),
                ),
            ]
            if by_stream:
                for frame in frames:
                    index(database, frame)
            else:
                it.resync()
            found.append(comparable(dump(database.url)))
    assert differences(found[1], found[0]) == []


def comparable(tables: Dump) -> Dump:
    """The tables without what an export can't say."""
    kept = {}
    for table, lines in tables.items():
        left_out = FROM_EXPORT | ({"createdAt"} if table == "bsky.profile" else set())
        if table.startswith("bsky.") and table not in ("bsky.notification", "bsky.actor"):
            kept[table] = sorted(
                json.dumps({key: value for key, value in json.loads(line).items() if key not in left_out})
                for line in lines
            )
    return kept


def test_what_the_stream_left_out_is_made_good(index_of: Index) -> None:
    it = index_of
    index(it.database, it.ann.commit(post("a", "1"), post("b", "1"), post("c", "1")))
    it.ann.commit(update(f"{POST}/a", {"text": "2", "createdAt": WHEN}), delete(f"{POST}/b"), post("d", "1"))
    index(it.database, it.ann.commit(post("e", "1")))
    assert it.state.sync_state == "desynchronized"
    outcome = it.resync()
    assert (outcome.counts.creates, outcome.counts.updates, outcome.counts.deletes) == (1, 1, 1)
    assert outcome.counts.same == 2
    assert outcome.state == "synchronized"
    assert it.posts == it.wanted_posts == {"a": "2", "c": "1", "d": "1", "e": "1"}
    assert one(it.database.url, "SELECT count(*) FROM pipeline.gap WHERE resolved_at IS NULL") == 0


def test_commits_after_the_export_stay(index_of: Index) -> None:
    """Between fetch and comparison the stream brings what the export can't know."""
    it = index_of
    it.ann.commit(post("a", "1"), post("b", "1"), post("c", "1"))
    it.fetcher.taken[it.ann.did] = it.ann.repository.export()
    later = it.ann.commit(update(f"{POST}/a", {"text": "2", "createdAt": WHEN}), delete(f"{POST}/b"), post("d", "1"))
    index(it.database, later)
    outcome = it.resync()
    assert outcome.counts.newer == 2 + 1  # changed, deleted, and created since
    assert it.posts == it.wanted_posts
    assert outcome.state == "synchronized"
    assert it.state.rev == rev(2)


@pytest.mark.parametrize(
    "moment", ["before the comparison", "while it is compared", "between parts", "before the last"]
)
@pytest.mark.parametrize("is_known", [True, False])
def test_nothing_that_the_stream_brings_meanwhile_is_lost(
    index_of: Index, moment: str, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lagging stream: a commit that is older than the export arrives in the middle of a resync, and others after it.
    `is_known`: the stream has brought the repository from its first commit on."""
    it = index_of
    when = {"createdAt": WHEN}
    first = it.ann.commit(*[post(f"k{number:02}", "1") for number in range(10)])
    second = it.ann.commit(post("gone", "1"), update(f"{POST}/k01", {"text": "2", **when}), delete(f"{POST}/k02"))
    third = it.ann.commit(
        delete(f"{POST}/gone"), update(f"{POST}/k01", {"text": "3", **when}), post("k02", "again"), post("k20", "1")
    )
    it.fetcher.taken[it.ann.did] = it.ann.repository.export()
    fourth = it.ann.commit(delete(f"{POST}/k05"), update(f"{POST}/k06", {"text": "4", **when}), post("k30", "1"))
    if is_known:
        index(it.database, first)

    arrived: list[bool] = []

    def arrive() -> None:
        if not arrived:
            arrived.append(True)
            index(it.database, second)

    def watched(*arguments: Any, **options: Any) -> Any:
        if moment == "before the comparison":
            arrive()
        parts = changes_of_export(*arguments, **options)
        for number, part in enumerate(parts):
            if moment == "while it is compared" or (moment == "between parts" and number == 1):
                arrive()
            if moment == "before the last" and part[-1].export is not None and part[-1].export.is_last:
                arrive()
            yield part

    monkeypatch.setattr(f"{resync.__module__}.changes_of_export", watched)
    outcome = it.resync(backfill_rows=2)
    assert arrived
    for frame in (third, fourth):
        index(it.database, frame)
    assert it.posts == it.wanted_posts
    assert (outcome.state, it.state.sync_state) == ("synchronized", "synchronized")
    assert it.state.rev == rev(4)
    assert it.resync().counts.same == len(it.wanted_posts)


def test_killed_between_two_parts_it_is_done_again(index_of: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    it = index_of
    it.ann.commit(*[post(f"k{number}", "1") for number in range(6)])

    class Killed(BaseException):
        pass

    def cut(*arguments: Any, **options: Any) -> Any:
        yield next(changes_of_export(*arguments, **options))
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(f"{resync.__module__}.changes_of_export", cut)
        with pytest.raises(Killed):
            it.resync(backfill_rows=2)
    assert it.state.sync_state == "resyncing"
    assert len(it.posts) == 2
    outcome = it.resync()
    assert (outcome.counts.same, outcome.counts.creates, outcome.state) == (2, 4, "synchronized")


def test_why_it_failed_is_noted_and_what_is_indexed_stays(index_of: Index) -> None:
    it = index_of
    index(it.database, it.ann.commit(post("a", "1")))
    it.ann.commit(post("b", "1"))
    index(it.database, it.ann.commit(post("c", "1")))  # a gap
    it.fetcher.taken[it.ann.did] = it.ann.repository.export()[:-40]
    with pytest.raises(FetchFailed) as failed:
        it.resync()
    assert failed.value.kind == "export: car"
    assert it.state.sync_state == "desynchronized"
    assert it.state.sync_reason == failed.value.reason
    assert it.posts.keys() == {"a", "c"}


def test_nothing_is_fetched_of_an_account_that_is_excluded(index_of: Index) -> None:
    it = index_of
    index(it.database, it.ann.commit(post("a", "1")))
    switch_collection(it.database, it.ann.did, forbid=True, purge=False)
    with pytest.raises(FetchFailed) as failed:
        it.resync()
    assert (failed.value.kind, failed.value.is_final) == ("excluded", True)
    assert it.fetcher.fetched == []


@pytest.mark.parametrize("did", UNREADABLE_DIDS)
def test_nothing_is_fetched_of_an_account_that_readers_can_not_show(index_of: Index, did: str) -> None:
    it = index_of
    settings = Settings(database_url=it.database.url)
    with pytest.raises(FetchFailed) as failed:
        resync(settings, it.database, it.fetcher, writer_for(it.database), did)
    assert (failed.value.kind, failed.value.is_final, it.fetcher.fetched) == ("did", True, [])
    record = replace(fetched(it.ann, f"{POST}/a", block_of(), rev(1)), did=did)
    assert record_change(it.database, settings, record) is None
    assert one(it.database.url, "SELECT count(*) FROM pipeline.repo") == 0


def test_records_that_may_not_be_indexed_are_dead_letters_once_and_no_gaps(index_of: Index) -> None:
    it = index_of
    it.ann.commit(create(f"{POST}/a", {"text": 1}), post("b", "1"))
    for _ in range(2):
        outcome = it.resync()
        assert (outcome.state, outcome.counts.refused) == ("synchronized", 1)
    assert rows(it.database.url, "SELECT kind, path FROM pipeline.dead_letter") == [("lexicon", f"{POST}/a")]
    assert one(it.database.url, "SELECT count(*) FROM pipeline.gap") == 0


def test_a_dead_letter_of_an_export_is_not_written_by_a_retry_but_fetched_again(index_of: Index) -> None:
    """The record may have been deleted since; the export that would say so was applied."""
    it = index_of
    it.ann.commit(create(f"{POST}/a", {"text": 1}), create(f"{POST}/b", {"text": 1}))
    it.resync()
    settings = Settings(database_url=it.database.url)
    assert retry_dead_letters(settings, it.database).failed == {"lexicon": 2}
    assert rows(it.database.url, "SELECT did FROM pipeline.backfill_queue WHERE finished_at IS NULL") == []

    rows(it.database.url, "UPDATE pipeline.dead_letter SET bytes = %s, byte_length = %s", block_of(), len(block_of()))
    retried = retry_dead_letters(settings, it.database)
    assert (retried.resolved, retried.failed) == (2, {})
    assert it.posts == {}
    assert rows(it.database.url, "SELECT did, priority FROM pipeline.backfill_queue") == [(it.ann.did, ASKED)]


def test_what_is_needed_of_an_export() -> None:
    state = RepoState("did:x:y", rev(9), None, rev(5), rev(3), rev(4), "unknown", None, False, True, False)
    assert needed_rev(state) == rev(4)
    assert needed_rev(replace(state, export_rev=None)) == rev(3)
    assert needed_rev(replace(state, export_rev=None, chain_since=None)) == rev(5)
    assert needed_rev(replace(state, export_rev=None, chain_since=None, chain_from=None)) is None


# ---------------------------------------------------------------------------------------------------------------------
# Single records.


def fetched(ann: Person, path: str, block: bytes | None, at: str) -> FetchedRecord:
    cid = None if block is None else cid_for_cbor(block)
    return FetchedRecord(ann.did, path, at, cid_for_cbor(b"commit"), cid_for_cbor(b"tree"), cid, block)


def test_a_single_record_is_written_and_proves_nothing_about_the_rest(index_of: Index) -> None:
    it = index_of
    index(
        it.database, it.ann.commit(post("a", "1"), post("b", "1"), post("c", "1")), it.ann.commit(delete(f"{POST}/c"))
    )
    settings = Settings(database_url=it.database.url)
    before = it.state

    def change(rkey: str, text: str, at: str, collection: str = POST) -> Change | None:
        path = f"{collection}/{rkey}"
        return record_change(it.database, settings, fetched(it.ann, path, block_of(text=text), at))

    assert change("a", "1", rev(9)) is None  # as it is
    assert change("a", "2", rev(0)) is None  # newer here
    assert change("c", "1", rev(1)) is None  # deleted since
    assert change("x", "1", rev(9), "com.example.note") is None
    assert record_change(it.database, settings, fetched(it.ann, f"{POST}/a", None, rev(9))) is None
    made = [it for it in (change("b", "2", rev(9)), change("d", "1", rev(9)), change("c", "again", rev(9))) if it]
    assert len(made) == 3
    writer_for(it.database, source="fetch").write(made, 0.0)
    assert it.posts == {"a": "1", "b": "2", "c": "again", "d": "1"}
    assert it.state == before
    refused = record_change(it.database, settings, fetched(it.ann, f"{POST}/e", block_of(text=None), rev(9)))
    assert refused is not None and [letter.kind for letter in refused.dead_letters] == ["lexicon"]
