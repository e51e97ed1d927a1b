"""The views of labels in effect: what is among them, and by which indexes it is found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import run
from appview_pipeline_tests.support.frames import Person, Stream, create, delete, post
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.tables import one, rows
from appview_pipeline_tests.support.waiting import wait_for

SRC = "did:plc:" + "a" * 24
PROFILE = "app.bsky.actor.profile/self"


def self_labels(*values: str) -> dict[str, Any]:
    return {"$type": "com.atproto.label.defs#selfLabels", "values": [{"val": value} for value in values]}


def in_effect(database: Database, where: str = "true", *parameters: Any) -> list[tuple[Any, ...]]:
    return rows(
        database.url,
        f"SELECT uri, src, val, kind FROM pipeline.label_in_effect WHERE {where} ORDER BY uri, src, val, cid",
        *parameters,
    )


def test_labels_of_labelers_that_are_not_negated_and_have_not_expired(database: Database) -> None:
    ann = Person(Stream(), "ann").did
    uri = f"at://{ann}/app.bsky.feed.post/a"
    apply_rows(
        database,
        [
            label_row(SRC, ann, "spam"),
            label_row(SRC, uri, "rude", cid="bafyone", exp="2999-01-01T00:00:00Z"),
            label_row(SRC, uri, "expired", exp="2025-06-16T00:00:00Z"),
            label_row(SRC, uri, "negated"),
            label_row(SRC, uri, "negated", cid="bafyone", neg=True, cts="2025-06-16T00:00:00Z"),
        ],
    )
    assert rows(database.url, "SELECT * FROM pipeline.label_in_effect ORDER BY uri") == [
        (uri, ann, SRC, "bafyone", "rude", "2025-06-15T15:06:40.000Z", "2999-01-01T00:00:00.000Z", "record"),
        (ann, ann, SRC, "", "spam", "2025-06-15T15:06:40.000Z", None, "account"),
    ]


def test_self_labels_of_records(database: Database) -> None:
    """As the reference hydrates them: by the author, of the record's version and creation time."""
    stream = Stream()
    ann = Person(stream, "ann")
    index(
        database,
        ann.commit(
            post("a", "x", labels=self_labels("porn", "nudity", "porn"), createdAt="2025-06-15T15:06:40.5+02:00"),
            post("b", "I am no com.atproto.label.defs#selfLabels"),
            post("c", "x", labels=self_labels()),
            create(PROFILE, {"displayName": "x", "labels": self_labels("!no-unauthenticated")}),
            create(
                "app.bsky.labeler.service/self",
                {
                    "policies": {"labelValues": []},
                    "labels": self_labels("rude"),
                    "createdAt": "2025-06-15T15:06:40.123Z",
                },
            ),
        ),
    )
    cid = one(database.url, "SELECT cid FROM bsky.record WHERE uri LIKE '%%.post/a'")
    found = rows(
        database.url, "SELECT uri, did, src, cid, val, cts, exp, kind FROM pipeline.label_in_effect ORDER BY 1, 5"
    )
    uri = f"at://{ann.did}/app.bsky.feed.post/a"
    assert found[1:3] == [
        (uri, ann.did, ann.did, cid, val, "2025-06-15T13:06:40.500Z", None, "self") for val in ("nudity", "porn")
    ]
    assert [(row[0].split("/", 3)[3], row[4], row[5]) for row in (found[0], found[3])] == [
        (PROFILE, "!no-unauthenticated", "1970-01-01T00:00:00.000Z"),
        ("app.bsky.labeler.service/self", "rude", "2025-06-15T15:06:40.123Z"),
    ]
    index(database, ann.commit(delete("app.bsky.feed.post/a"), delete(PROFILE)))
    assert [row[2] for row in in_effect(database)] == ["rude"]


@pytest.mark.parametrize(
    "record",
    [
        {"labels": {**self_labels("x"), "values": {"val": "x"}}},
        {"labels": {**self_labels("x"), "values": [1, "x", None, {"val": 5, "neg": True}, {"val": ""}, {}]}},
        {"labels": {"$type": "com.example.other", "values": [{"val": "com.atproto.label.defs#selfLabels"}]}},
        {"labels": ["com.atproto.label.defs#selfLabels"]},
        {"labels": self_labels("right"), "createdAt": 5},
        {"labels": self_labels("right"), "createdAt": "now"},
        {"labels": self_labels("right"), "createdAt": "2025-02-30T00:00:00.000Z"},
        {"labels": self_labels("right"), "createdAt": "0000-01-01T00:00:00.000Z"},
        {"labels": self_labels("right"), "createdAt": "2025-02-28T00:00:00.000+99:99"},
    ],
)
def test_no_record_makes_the_view_fail(database: Database, record: dict[str, Any]) -> None:
    """Collections that are kept as they are may hold anything."""
    rows(
        database.url,
        'INSERT INTO bsky.record (uri, cid, did, json, "indexedAt") VALUES (%s, %s, %s, %s, %s)',
        *("at://did:x:y/com.example.note/a", "bafy", "did:x:y", json.dumps(record), ""),
    )
    found = rows(database.url, "SELECT val, cts FROM pipeline.label_in_effect WHERE val <> '5'")
    assert found == ([("right", "1970-01-01T00:00:00.000Z")] if "right" in json.dumps(record) else [])


def test_what_applies_to_a_subject(database: Database) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    own = post("a", "x", labels=self_labels("porn"))
    index(database, ann.commit(own, post("b", "x"), create(PROFILE, {"labels": self_labels("bot")})))
    uri, profile = f"at://{ann.did}/app.bsky.feed.post/a", f"at://{ann.did}/{PROFILE}"
    other = uri[:-1] + "b"
    apply_rows(database, [label_row(SRC, it, "spam") for it in (ann.did, uri, profile, other, "did:plc:" + "z" * 24)])

    def on(subject: str) -> list[tuple[str, str]]:
        return rows(database.url, "SELECT uri, val FROM pipeline.labels_on(%s) ORDER BY 1, 2", subject)

    of_account = [(profile, "bot"), (profile, "spam"), (ann.did, "spam")]
    assert on(uri) == [of_account[0], of_account[1], (uri, "porn"), (uri, "spam"), of_account[2]]
    assert on(ann.did) == on(profile) == of_account
    assert on("did:plc:" + "q" * 24) == on("") == on("at://") == []


def test_the_documents_examples_run(filled: Database) -> None:
    text = (CHECKOUT / "docs" / "labels.md").read_text()
    (examples,) = [it for it in re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if "labels_on" in it]
    statements = [it for it in examples.split(";\n") if it.strip()]
    assert len(statements) == 5
    for statement in statements:
        rows(filled.url, statement.replace("%", "%%"))
    assert rows(filled.url, statements[2]) == []
    assert one(filled.url, "SELECT count(*) FROM pipeline.label_in_effect WHERE kind = 'record'") == 5_000
    assert one(filled.url, "SELECT count(*) FROM pipeline.label_in_effect WHERE kind = 'self'") == 50


# ---- plans


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from nodes(child)


def scans(database: Database, query: str, *parameters: Any) -> set[tuple[str, str]]:
    """How a plan reads permanent tables: (node, index)."""
    plan = one(database.url, f"EXPLAIN (VERBOSE, FORMAT JSON) {query}", *parameters)[0]["Plan"]
    return {
        (it["Node Type"] + ("" if "Index Cond" in it else ", whole"), it.get("Index Name", it["Relation Name"]))
        for it in nodes(plan)
        if "Relation Name" in it
    }


BY_SUBJECT = {("Index Only Scan", "label_in_effect_idx"), ("Index Scan", "record_self_labels_idx")}


def vacuumed(database: Database) -> bool:
    """Whether VACUUM finds all pages visible: index-only scans need that. A snapshot may be in the way for a moment."""
    run(database.url, "VACUUM ANALYZE bsky.record, bsky.label")
    counted = "SELECT bool_and(relallvisible = relpages) FROM pg_class WHERE oid IN (%s::regclass, %s::regclass)"
    return bool(one(database.url, counted, "bsky.record", "bsky.label"))


@pytest.fixture
def filled(database: Database) -> Database:
    """5,000 records, of which 50 have self-labels, and 5,000 labels."""
    uri = "'at://did:plc:' || lpad(n::text, 24, 'a') || '/app.bsky.feed.post/a'"
    rows(
        database.url,
        f"INSERT INTO bsky.record (uri, cid, did, json, \"indexedAt\") SELECT {uri}, 'bafy', 'did:plc:x', "
        "CASE WHEN n %% 100 = 0 THEN %s ELSE '{}' END, '' FROM generate_series(1, 5000) n",
        json.dumps({"labels": self_labels("x")}),
    )
    rows(
        database.url,
        f"INSERT INTO bsky.label (src, uri, cid, val, neg, cts) SELECT %s, {uri}, '', 'x', false, '' "
        "FROM generate_series(1, 5000) n",
        SRC,
    )
    wait_for(lambda: vacuumed(database))
    return database


def test_labels_of_a_subject_are_found_by_look_ups(filled: Database) -> None:
    some = ("at://did:plc:" + "5".rjust(24, "a") + "/app.bsky.feed.post/a", "did:plc:" + "x" * 24)
    query = "SELECT * FROM pipeline.label_in_effect WHERE uri = %s"
    assert scans(filled, query, some[0]) == BY_SUBJECT
    assert scans(filled, query.replace("= %s", "= ANY (%s)"), list(some)) == BY_SUBJECT
    # A function's plan is not shown by EXPLAIN where it is not inlined; this one is.
    assert scans(filled, "SELECT * FROM pipeline.labels_on(%s)", some[0]) == BY_SUBJECT
    joined = "SELECT * FROM pipeline.label_in_effect WHERE uri = s.uri OFFSET 0"
    assert scans(filled, f"SELECT * FROM unnest(%s) s (uri) CROSS JOIN LATERAL ({joined}) l", list(some)) == BY_SUBJECT


def test_all_self_labels_are_found_without_reading_other_records(filled: Database) -> None:
    found = scans(filled, "SELECT * FROM pipeline.label_in_effect WHERE kind = 'self'")
    assert {index for _, index in found} == {"record_self_labels_idx"}
