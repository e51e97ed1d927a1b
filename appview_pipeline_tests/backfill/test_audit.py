"""The audit: what it finds when the index lacks, has, or holds something else than the network; what is no fault."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from appview_pipeline import backoff
from appview_pipeline.backfill.audit import AuditSummary, audit, lines
from appview_pipeline.backfill.resync import resync
from appview_pipeline.settings import Settings
from appview_pipeline.store import repo_sample
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index, writer_for
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, did_of, post, update
from appview_pipeline_tests.support.memory_fetcher import MemoryFetcher
from appview_pipeline_tests.support.records import one_of_each
from appview_pipeline_tests.support.tables import rows

POST = "app.bsky.feed.post"


class Audited:
    """An index that is what its accounts' repositories are."""

    def __init__(self, database: Database, stream: Stream) -> None:
        self.database = database
        self.settings = Settings(database_url=database.url)
        self.ann, self.bob = Person(stream, "ann"), Person(stream, "bob")
        self.fetcher = MemoryFetcher(self.ann, self.bob)
        index(
            database,
            self.ann.commit(
                *one_of_each(self.ann), create(f"{POST}/refused", {"text": 1}), create("com.example.note/a", {})
            ),
            self.bob.commit(post("b", "of bob")),
        )

    def audit(self, **options: Any) -> AuditSummary:
        return audit(self.settings, self.database, self.fetcher, [self.ann.did, self.bob.did], **options)

    def spoil(self, statement: str) -> None:
        rows(self.database.url, statement)


@pytest.fixture
def audited(database: Database, stream: Stream) -> Audited:
    return Audited(database, stream)


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit waits for no stream."""
    monkeypatch.setattr(backoff, "AUDIT_STREAM", backoff.Poll(every=0.01, longest=0.02))


def test_an_index_that_is_right_has_no_differences(audited: Audited) -> None:
    seen = []
    found = audited.audit(deep=True, progress=lambda so_far: seen.append(so_far.repositories))
    assert (found.repositories, found.records, found.differences, found.failed) == (2, 20, 0, {})
    assert (found.refused, found.ignored, found.newer) == (1, 1, 0)
    assert sorted(it.same for it in found.audited) == [1, 18]
    assert {it.state for it in found.audited} == {"synchronized"}
    assert seen == [1, 2]


def test_whatever_is_wrong_is_found(audited: Audited) -> None:
    audited.spoil(f"DELETE FROM bsky.record WHERE uri LIKE '%/{POST}/b'")
    audited.spoil("UPDATE bsky.record SET cid = 'bafyreiaaaa' WHERE uri LIKE '%.repost/a'")
    audited.spoil("UPDATE bsky.record SET json = '{}' WHERE uri LIKE '%.like/a'")
    audited.spoil(
        f'INSERT INTO bsky.record (uri, cid, did, json, "indexedAt") '
        f"SELECT uri || 'x', cid, did, json, \"indexedAt\" FROM bsky.record WHERE uri LIKE '%/{POST}/a'"
    )
    found = audited.audit()
    assert (found.missing, found.extra, found.differing, found.differences) == (1, 1, 2, 4)
    assert sorted((it.kind, it.uri.rpartition("app.bsky.")[2]) for it in found.examples) == [
        ("differing", "feed.like/a"),
        ("differing", "feed.repost/a"),
        ("extra", "feed.post/ax"),
        ("missing", "feed.post/b"),
    ]
    shown = "\n".join(lines(found))
    assert "the stored JSON is not that of the record" in shown
    assert "bafyreiaaaa is indexed" in shown
    assert found.as_json()["differences"] == 4

    for account in (audited.ann, audited.bob):
        writer = writer_for(audited.database, source="backfill")
        resync(audited.settings, audited.database, audited.fetcher, writer, account.did)
    assert audited.audit().differing == 1  # the JSON, which has the right CID: nothing can have written it


def test_a_deep_audit_looks_at_derived_rows(audited: Audited) -> None:
    audited.spoil("UPDATE bsky.like SET subject = 'at://did:plc:x/app.bsky.feed.post/x'")
    assert audited.audit().differences == 0
    found = audited.audit(deep=True)
    assert (found.underived, found.differences) == (1, 1)
    assert found.examples[0].uri.endswith("app.bsky.feed.like/a")


def test_what_came_after_the_export_is_newer_and_no_difference(audited: Audited) -> None:
    ann = audited.ann
    audited.fetcher.taken[ann.did] = ann.repository.export()
    index(
        audited.database,
        ann.commit(
            delete("app.bsky.feed.like/a"), update(f"{POST}/a", {"text": "2", "createdAt": WHEN}), post("new", "x")
        ),
    )
    found = audited.audit()
    assert (found.newer, found.differences) == (3, 0)


def test_a_stream_that_is_behind_is_waited_for(audited: Audited) -> None:
    late = audited.ann.commit(post("late", "x"), delete("app.bsky.feed.like/a"))

    def arrive() -> None:
        time.sleep(0.3)
        index(audited.database, late)

    thread = threading.Thread(target=arrive)
    thread.start()
    found = audited.audit()
    thread.join()
    assert found.differences == 0


@pytest.mark.usefixtures("no_patience")
def test_a_stream_that_does_not_come_is_a_difference(audited: Audited) -> None:
    audited.ann.commit(post("late", "x"), delete("app.bsky.feed.like/a"))
    found = audited.audit()
    assert (found.missing, found.extra) == (1, 1)


def test_what_can_not_be_fetched_or_proved_has_a_reason(audited: Audited) -> None:
    audited.fetcher.taken[audited.ann.did] = audited.ann.repository.export()[:-10]
    nobody = did_of("nobody")
    found = audit(
        audited.settings, audited.database, audited.fetcher, [audited.ann.did, nobody, audited.bob.did, nobody]
    )
    assert found.repositories == 1
    assert found.failed.keys() == {audited.ann.did, nobody}
    assert found.failed[nobody] == "the PDS has no such repository"
    assert "cut short" in found.failed[audited.ann.did]


def test_a_repository_that_is_not_indexed_lacks_everything(
    database: Database, stream: Stream, no_patience: None
) -> None:
    ann = Person(stream, "ann")
    ann.commit(post("a", "x"))
    settings = replace(Settings(database_url=database.url), repo_fetches=1)
    found = audit(settings, database, MemoryFetcher(ann), [ann.did], stopped=lambda: False)
    assert (found.missing, found.audited[0].state, found.audited[0].index_rev) == (1, "unknown", None)


def test_of_a_partial_repository_it_says_so(audited: Audited) -> None:
    audited.spoil("UPDATE pipeline.repo SET is_partial = true")
    assert {it.state for it in audited.audit().audited} == {"synchronized, partial"}
    with audited.database.connect("reader") as connection:
        assert repo_sample.sample_repositories(connection, 10) == []


def test_when_it_is_stopped_no_further_repository_is_begun(audited: Audited) -> None:
    assert audited.audit(stopped=lambda: True).repositories == 0
    assert audited.fetcher.fetched == []


@pytest.mark.parametrize("few", [True, False])
def test_samples_are_of_complete_repositories(database: Database, few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(
        database.url,
        "INSERT INTO pipeline.repo (did, rev, sync_state, active, excluded) "
        "SELECT did, 'a', CASE WHEN n %% 3 = 0 THEN 'synchronized' ELSE 'unknown' END, n %% 5 <> 0, n %% 7 = 0 "
        "FROM unnest(%s) WITH ORDINALITY d (did, n)",
        [did_of(str(number)) for number in range(2_000)],
    )
    if not few:
        monkeypatch.setattr(repo_sample, "FEW", 1_000)
    complete = {
        did
        for (did,) in rows(
            database.url, "SELECT did FROM pipeline.repo WHERE sync_state = 'synchronized' AND active AND NOT excluded"
        )
    }
    with database.connect("reader") as connection:
        found = [repo_sample.sample_repositories(connection, 50) for _ in range(3)]
        assert len(repo_sample.sample_repositories(connection, 100_000)) <= len(complete)
    assert all(len(it) == len(set(it)) and len(it) >= 45 and set(it) <= complete for it in found)
    assert len({frozenset(it) for it in found}) == 3
