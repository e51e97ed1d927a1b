"""docs/sql-examples.md: each statement runs and returns rows, and reads no large table from end to end unless it says
so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from appview_pipeline.indexing.changes import Change
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.batches import batches_of, feed
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import connect, run
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.tables import Fresh, one, rows

LABELER = "did:plc:" + "l" * 24
EXAMPLES = re.findall(
    r"^```sql\n-- (.*?)\n(.*?)^```", (CHECKOUT / "docs" / "sql-examples.md").read_text(encoding="utf-8"), re.M | re.S
)

SMALL = {"cursor", "labeler", "actor_setting"}
"""Tables with a row for each stream, labeler, or account that has opted out."""

SUBJECTS = {
    "Replies of a thread that a thread gate hides": 'SELECT "replyRoot" FROM bsky.post WHERE "violatesThreadGate"',
    "A thread as a tree": 'SELECT "replyParent" FROM bsky.post p WHERE EXISTS '
    '(SELECT FROM bsky.post r WHERE r.uri = p."replyParent") ORDER BY uri',
    "Who quoted a post": "SELECT subject FROM bsky.quote ORDER BY uri",
    "Who liked a post": 'SELECT l.subject FROM bsky."like" l JOIN bsky.post p ON p.uri = l.subject ORDER BY 1',
    "Posts with images": 'SELECT p.creator FROM bsky.post p JOIN bsky.post_embed_image i ON i."postUri" = p.uri '
    "WHERE i.alt = '' ORDER BY 1",
    "What an account would see": "SELECT f.creator FROM bsky.follow f JOIN bsky.feed_item i "
    'ON i."originatorDid" = f."subjectDid" ORDER BY i."sortAt" DESC',
    "Whom an account follows": 'SELECT f.creator FROM bsky.follow f JOIN bsky.follow b ON b.creator = f."subjectDid" '
    'AND b."subjectDid" = f.creator ORDER BY 1',
    "Who was notified": 'SELECT "recordUri" FROM bsky.notification ORDER BY 1',
    "The newest notifications": "SELECT did FROM bsky.notification ORDER BY 1",
    "Past states of a record": "SELECT uri FROM pipeline.version ORDER BY 1",
    "Records that say the same": 'SELECT "duplicateOf" FROM bsky.duplicate_record ORDER BY 1',
    "Labels in effect": "SELECT uri FROM bsky.label",
    "The history of labels": "SELECT uri FROM pipeline.label_event",
}
"""Where a URI or DID comes from for which there are rows; others take any record or account."""


@dataclass(frozen=True)
class Index:
    database: Database
    connection: Connection


@pytest.fixture(scope="module")
def index(fresh: Fresh, busy_changes: list[Change]) -> Iterator[Index]:
    with fresh() as database, connect(database.url) as connection:
        feed(database, batches_of(busy_changes, 50))
        subject = one(database.url, "SELECT uri FROM bsky.post ORDER BY uri LIMIT 1")
        apply_rows(database, [label_row(LABELER, subject, "spam")])
        for statement in (
            "INSERT INTO pipeline.labeler (did) VALUES ('did:plc:l')",
            "INSERT INTO pipeline.cursor (relay, seq) VALUES ('test', 1)",
            "UPDATE pipeline.batch SET source = 'test', relay_time = applied_at - interval '1 s'",
            "INSERT INTO pipeline.dead_letter (fingerprint, source, kind, reason) VALUES ('x', 'test', 'lexicon', 'x')",
            "INSERT INTO pipeline.gap (kind, did) VALUES ('chain', 'did:plc:x')",
            "INSERT INTO pipeline.pending (uri, kind, missing) VALUES ('at://a/b/1', 'reply', 'at://a/b/2')",
            "INSERT INTO pipeline.repo (did, sync_state) VALUES ('did:plc:incomplete', 'desynchronized')",
            "INSERT INTO pipeline.actor_setting (did, data_collection_forbidden) VALUES ('did:plc:out', true)",
            "UPDATE pipeline.identity SET claimed_handle = did, handle = NULL, pds = 'https://pds.example'",
            'UPDATE bsky.post SET "violatesThreadGate" = true WHERE uri = '
            '(SELECT max(uri) FROM bsky.post WHERE "replyRoot" IS NOT NULL)',
            "UPDATE bsky.post_embed_image SET alt = ''",
            'INSERT INTO bsky.follow (uri, cid, creator, "subjectDid", "createdAt", "indexedAt") '
            'SELECT uri || \'x\', cid, "subjectDid", creator, "createdAt", "indexedAt" FROM bsky.follow LIMIT 1',
            "ANALYZE",
        ):
            run(database.url, statement)
        yield Index(database, connection)


def prepared(index: Index, title: str, text: str) -> str:
    """The statement with values in the place of psql's variables, and with the time of the newest post as now."""
    query = next((query for begin, query in SUBJECTS.items() if title.startswith(begin)), None)
    subject = rows(index.database.url, f"{query} LIMIT 1") if query is not None else []
    assert query is None or subject, "the test has no rows for this"
    post = one(index.database.url, "SELECT max(uri) FROM bsky.post")
    given = subject[0][0] if subject else post
    did = given if given.startswith("did:") else post.split("/")[2]
    uri = post if given.startswith("did:") else given
    if '"sortAt" >' in text:
        moment = one(index.database.url, 'SELECT max("sortAt") FROM bsky.feed_item')
        text = text.replace("now()", f"timestamptz '{moment}'")
    for name, value in (("did", did), ("uri", uri), ("handle", "nobody.example")):
        text = text.replace(f":'{name}'", f"'{value}'")
    assert ":'" not in text, "an unknown variable"
    return text


def whole_tables(node: dict[str, Any], is_limited: bool = False) -> Iterator[str]:
    """The tables of both schemas that a plan reads from end to end; not those that it reads in the order of an index
    until a limit is reached."""
    kind = node["Node Type"]
    if "Scan" in kind and "Index Cond" not in node and not ("Recheck Cond" in node or is_limited):
        yield node.get("Relation Name", "")
    if kind == "Limit":
        is_limited = True
    elif kind in ("Sort", "Aggregate", "Hash", "Incremental Sort", "WindowAgg", "Materialize"):
        is_limited = False
    for child in node.get("Plans", ()):
        # The inner side of a join is read again for each row of the outer one.
        yield from whole_tables(child, is_limited and child.get("Parent Relationship") == "Outer")


@pytest.mark.parametrize(("title", "text"), EXAMPLES, ids=[title.rstrip(".")[:50] for title, _ in EXAMPLES])
def test_an_example_runs_returns_rows_and_reads_what_it_says(index: Index, title: str, text: str) -> None:
    statement = prepared(index, title, text)
    with index.connection.cursor() as cursor:
        cursor.execute(statement)
        assert cursor.description is not None
        assert cursor.fetchall(), "no rows"
        # Tables of a few hundred rows are always read whole, unless that is made dear.
        for way in ("seqscan", "hashjoin", "mergejoin", "material"):
            cursor.execute(f"SET LOCAL enable_{way} = off")
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}")
        ((plans,),) = cursor.fetchall()
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace IN ('bsky'::regnamespace, 'pipeline'::regnamespace)"
        )
        ours = {name for (name,) in cursor.fetchall()}
    index.connection.rollback()
    whole = {table for table in whole_tables(plans[0]["Plan"]) if table in ours} - SMALL
    said = set(re.findall(r"\(Reads the whole table (\w+)\.\)", title))
    if "(Reads the index of open gaps.)" in title:
        said.add("gap")
    assert whole == said


def test_there_are_enough_examples_and_each_says_what_it_is() -> None:
    assert len(EXAMPLES) >= 20
    for title, text in EXAMPLES:
        assert title.endswith((".", ".)")) and text.rstrip().endswith(";"), title
        assert max(map(len, text.splitlines())) <= 120
