"""An export beside the index: which paths differ, and what is left alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from appview_pipeline.backfill.compare import Counts, compare, merged
from appview_pipeline.indexing.registry import IndexedCollections
from appview_pipeline.protocol.cid import cid_for_cbor, to_text
from appview_pipeline.store.database import Database
from appview_pipeline.store.indexed_records import IndexedState, indexed_state, indexed_states
from appview_pipeline.store.sql import sections
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import Person, Stream, create, delete, post, rev
from appview_pipeline_tests.support.tables import rows

A, B = cid_for_cbor(b"a"), cid_for_cbor(b"b")
POST, FOREIGN = "app.bsky.feed.post", "com.example.note"
E = rev(100)


def differences(
    exported: list[tuple[str, bytes]], indexed: list[IndexedState]
) -> tuple[list[tuple[str, bytes | None, IndexedState | None]], Counts]:
    counts = Counts()
    found = list(compare(exported, indexed, E, IndexedCollections(), counts))
    return [(it.path.rpartition("/")[2], it.cid, it.known) for it in found], counts


def state(rkey: str, cid: bytes | None, at: str | None, collection: str = POST) -> IndexedState:
    return IndexedState(f"{collection}/{rkey}", None if cid is None else to_text(cid), at)


def test_new_changed_and_lacking_records_differ() -> None:
    changed, lacking, gone = state("b", A, rev(1)), state("c", A, None), state("d", None, rev(2))
    found, counts = differences(
        [(f"{POST}/a", A), (f"{POST}/b", B), (f"{POST}/d", A)], [changed, lacking, gone, state("e", None, rev(3))]
    )
    assert found == [("a", A, None), ("b", B, changed), ("c", None, lacking), ("d", A, gone)]
    assert (counts.records, counts.same, counts.newer) == (3, 0, 0)


def test_what_the_index_has_of_a_later_rev_is_left_alone() -> None:
    later = rev(101)
    found, counts = differences(
        [(f"{POST}/a", A), (f"{POST}/b", A)], [state("a", B, later), state("b", None, later), state("c", A, later)]
    )
    assert found == []
    assert counts.newer == 3


def test_the_same_record_is_no_difference_whatever_its_rev() -> None:
    found, counts = differences([(f"{POST}/a", A), (f"{POST}/b", A)], [state("a", A, None), state("b", A, rev(101))])
    assert found == []
    assert counts.same == 2


def test_collections_that_are_not_indexed_are_ignored_on_both_sides() -> None:
    found, counts = differences(
        [(f"{FOREIGN}/a", A), (f"{FOREIGN}x/a", A)], [state("a", B, rev(1), FOREIGN), state("z", B, rev(1), FOREIGN)]
    )
    assert found == []
    assert (counts.records, counts.ignored) == (0, 2)


def test_a_collection_whose_name_another_one_begins_with_is_not_taken_for_it() -> None:
    found, counts = differences([(f"{POST}/a", A), (f"{POST}gate/b", A), (f"{POST}s/b", A)], [])
    assert [rkey for rkey, *_ in found] == ["a", "b"]
    assert counts.ignored == 1


def test_any_two_sequences_are_merged_by_path() -> None:
    rng = random.Random(7)
    for _ in range(200):
        one = {f"{POST}/{rng.randrange(30):02}": A for _ in range(rng.randrange(20))}
        other = {f"{POST}/{rng.randrange(30):02}": IndexedState("", None, None) for _ in range(rng.randrange(20))}
        exported = sorted(one.items())
        indexed = [it._replace(path=path) for path, it in sorted(other.items())]
        found = list(merged(exported, indexed))
        assert [path for path, *_ in found] == sorted(one.keys() | other.keys())
        assert all((cid is not None) == (path in one) for path, cid, _ in found)
        assert all((known is not None) == (path in other) for path, _, known in found)


def test_what_is_indexed_is_read_in_the_order_of_paths_in_pages_of_any_size(database: Database, stream: Stream) -> None:
    ann, bob = Person(stream, "ann"), Person(stream, "bob")
    index(
        database,
        ann.commit(*[post(f"k{number}", "x") for number in range(7)], create("app.bsky.actor.profile/self", {})),
        bob.commit(post("of-bob", "x")),
        ann.commit(delete(f"{POST}/k1"), delete(f"{POST}/k6")),
        ann.commit(post("k1", "again")),  # its tombstone stays
    )
    assert len(rows(database.url, "SELECT uri FROM pipeline.tombstone")) == 2
    whole = list(indexed_states(database, ann.did))
    assert [it.path for it in whole] == ["app.bsky.actor.profile/self", *(f"{POST}/k{number}" for number in range(7))]
    assert [it.path[-2:] for it in whole if it.cid is None] == ["k6"]
    assert {it.path[-2:]: it.rev for it in whole}["k1"] == rev(4)
    for size in (3, 4, 5, 8, 9, 10):
        assert list(indexed_states(database, ann.did, page_rows=size)) == whole
        with_json = list(indexed_states(database, ann.did, page_rows=size, with_json=True))
        assert [it._replace(json=None) for it in with_json] == whole
        assert all((it.json is None) == (it.cid is None) for it in with_json)
    with database.connect("reader") as connection:
        assert [indexed_state(connection, ann.did, it.path) for it in whole] == whole
        assert indexed_state(connection, ann.did, f"{POST}/k") is None


def test_a_page_costs_the_same_however_large_the_repository_is(database: Database) -> None:
    """It is read through the primary keys, no further than its end: a repository of n pages takes n, and not n * n."""
    rows(
        database.url,
        'INSERT INTO bsky.record (uri, cid, did, json, "indexedAt") '
        "SELECT 'at://did:plc:a/x/' || n, 'c', 'd', '{}', 'x' FROM generate_series(1, 20000) n",
    )
    rows(
        database.url,
        "INSERT INTO pipeline.tombstone (uri, rev, collection) "
        "SELECT 'at://did:plc:a/y/' || n, 'a', 'x' FROM generate_series(1, 20000) n",
    )
    rows(database.url, "ANALYZE bsky.record, pipeline.tombstone")
    page = {"first": "at://did:plc:a/", "end": "at://did:plc:a0", "limit": 100}
    for name in ("states", "states_with_json"):
        with database.connect("reader") as connection, connection.cursor() as cursor:
            cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + sections("backfill/compare.sql")[name], page)
            ((plan,),) = cursor.fetchall()
        scans = list(scans_of(plan[0]["Plan"]))
        assert {scan["Index Name"] for scan in scans} == {"record_pkey", "tombstone_pkey"}
        assert all(scan["Actual Rows"] <= 100 for scan in scans)


def scans_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a plan that read a table."""
    if "Relation Name" in plan:
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans_of(part)
