"""Queries of labels: what they find, page by page, and by which index."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.protocol.syntax import format_milliseconds
from appview_pipeline.store import label_query
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.label_query import InvalidCursor, QueriedLabel, query_page
from appview_pipeline.store.labels import LabelBatch, LabelRow, apply_labels
from appview_pipeline_tests.support.explain import ExplainingCursor
from appview_pipeline_tests.support.tables import rows

ANN, BOB, EVE = ("did:plc:" + letter * 24 for letter in "abe")
SOURCES = ["did:plc:" + letter * 24 for letter in "xyz"]
SUBJECTS = [
    *(ANN, BOB, EVE),
    *(f"at://{did}/app.bsky.feed.post/{rkey}" for did in (ANN, BOB, EVE) for rkey in ("3k", "3k2", "3l")),
]
VALUES = ["porn", "spam", "!hide"]
CIDS = ["", "bafyone", "bafytwo"]
NOW = 1_790_000_000_000_000
PAST, FUTURE = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00.000Z"
_MICROS = {PAST: 1_577_836_800_000_000, FUTURE: 32_472_144_000_000_000}


def said(
    number: int, src: str, uri: str, val: str, *, cid: str = "", neg: bool = False, exp: str | None = None
) -> LabelRow:
    """A label or negation, made `number` seconds after others."""
    micros = NOW + number * 1_000_000
    return LabelRow(
        src=src,
        uri=uri,
        cid=cid,
        val=val,
        neg=neg,
        cts=format_milliseconds(micros // 1_000),
        cts_micros=micros,
        exp=exp,
        exp_micros=None if exp is None else _MICROS[exp],
        seq=number,
        sig=f"signature {number}".encode(),
        signed=b"signed" if number % 5 == 0 else None,
    )


def drawn(rng: random.Random, count: int) -> list[LabelRow]:
    """Labels of few sources, subjects and values, many of them negated or expired."""
    return [
        said(
            number,
            rng.choice(SOURCES),
            rng.choice(SUBJECTS),
            rng.choice(VALUES),
            cid=rng.choice(CIDS),
            neg=(neg := rng.random() < 0.25),
            exp=None if neg else rng.choice([None, None, PAST, FUTURE]),
        )
        for number in range(count)
    ]


def store(database: Database, *batches: list[LabelRow]) -> None:
    with database.connect("writer") as connection:
        for batch in batches:
            apply_labels(connection, LabelBatch(batch))


def deciding(events: list[LabelRow]) -> list[LabelRow]:
    """The newest event of each key, and of each value the newest negation; later numbers are newer."""
    newest: dict[tuple[str, ...], LabelRow] = {}
    negation: dict[tuple[str, ...], LabelRow] = {}
    for event in sorted(events, key=lambda it: it.cts_micros):
        newest[event.uri, event.src, event.val, event.cid] = event
        if event.neg:
            negation[event.uri, event.src, event.val] = event
    return [
        event
        for key, event in sorted(newest.items())
        if (ended := negation.get(key[:3])) is None or ended.cts_micros <= event.cts_micros
    ]


def expected(events: list[LabelRow], asked: dict[str, Any]) -> list[LabelRow]:
    """What a query finds, in the order of subjects."""
    return [
        event
        for event in deciding(events)
        if any(
            event.uri.startswith(subject[:-1]) if subject.endswith("*") else event.uri == subject
            for subject in asked.get("subjects") or ["*"]
        )
        and event.src in (asked.get("sources") or SOURCES)
        and event.val in (asked.get("values") or VALUES)
        and (asked.get("with_negated") or not event.neg)
        and (asked.get("with_expired") or event.exp != PAST)
    ]


def pages(connection: Connection, limit: int, **asked: Any) -> Iterator[list[QueriedLabel]]:
    cursor = None
    while True:
        page = query_page(connection, limit=limit, cursor=cursor, **asked)
        assert len(page.labels) <= limit
        yield page.labels
        cursor = page.cursor
        if cursor is None:
            return


def numbers(labels: list[QueriedLabel]) -> list[int]:
    return [int(bytes(label.sig or b"").split()[1]) for label in labels]


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_asked_for_is_found_in_order_and_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    events = drawn(rng, 500)
    rng.shuffle(events)
    store(database, events[:200], events[200:])
    ids = dict(rows(database.url, "SELECT seq, id FROM pipeline.label_event"))
    every_kind: dict[str, list[Any]] = {
        "subjects": [
            *([], [ANN], [ANN, SUBJECTS[4], "did:plc:nobody"], [f"at://{BOB}/*"], ["at://*"], ["did:*", EVE]),
            *([f"at://{BOB}/*", SUBJECTS[6], f"at://{BOB}/app.bsky.feed.post/3k*", ANN], ["*", ANN], [SUBJECTS[3]]),
        ],
        "sources": [[], SOURCES[:1], SOURCES[1:]],
        "values": [[], ["spam"], ["spam", "!hide", "nothing"]],
        "with_negated": [False, True],
        "with_expired": [False, True],
        "oldest_first": [False, True],
    }
    questions = list(itertools.product(*every_kind.values()))
    found_any = 0
    with database.connect("reader") as connection:
        for answers in rng.sample(questions, 80):
            asked = dict(zip(every_kind, answers, strict=True))
            want = [event.seq for event in expected(events, asked)]
            if not asked["subjects"] or "*" in asked["subjects"]:
                want.sort(key=lambda number: ids[number], reverse=not asked["oldest_first"])
            limit = rng.choice([2, 10, 50, 1_000])
            monkeypatch.setattr(label_query, "MAX_EXAMINED", rng.choice([20, 100, 10_000]))
            found = list(pages(connection, limit, **asked))
            assert numbers([label for page in found for label in page]) == want, asked
            found_any += bool(want)
    assert found_any > 40


@pytest.mark.parametrize("text", ["\0", "a\0", "\udcff", "a\ud800"])
def test_what_no_label_can_have_is_not_found(database: Database, text: str) -> None:
    store(database, [said(1, SOURCES[0], ANN, "spam")])
    with database.connect("reader") as connection:
        questions: list[dict[str, Any]] = [{"subjects": [text]}, {"subjects": [text + "*"]}, {"values": [text]}]
        questions += [{"sources": [text]}, {"sources": [text], "subjects": [ANN]}]
        for asked in questions:
            assert query_page(connection, **asked).labels == [], asked
        assert len(query_page(connection, subjects=[text, ANN]).labels) == 1


def test_labels_come_as_they_were_signed(database: Database) -> None:
    store(database, [said(5, SOURCES[0], ANN, "spam", exp=FUTURE), said(6, SOURCES[0], BOB, "spam", cid="bafyone")])
    with database.connect("reader") as connection:
        second, first = query_page(connection).labels
    assert first[1:10] == (
        *(SOURCES[0], ANN, "", "spam", False),
        *(format_milliseconds(NOW // 1_000 + 5_000), FUTURE, b"signature 5", b"signed"),
    )
    assert second.cid == "bafyone" and second.signed is None
    assert second.as_json() == {
        "id": second.id,
        "src": SOURCES[0],
        "uri": BOB,
        "cid": "bafyone",
        "val": "spam",
        "neg": False,
        "cts": second.cts,
        "sig": "c2lnbmF0dXJlIDY=",
        "receivedAt": second.received_at,
    }


def test_of_labels_of_one_moment_the_one_that_counts_is_shown(database: Database) -> None:
    early, late = (said(1, SOURCES[0], ANN, "spam", exp=exp) for exp in (FUTURE, None))
    store(database, [late._replace(seq=2), early._replace(seq=3)])
    assert rows(database.url, "SELECT exp FROM bsky.label") == [(FUTURE,)]
    with database.connect("reader") as connection:
        for subjects in ([], [ANN]):
            assert [it.exp for it in query_page(connection, subjects=subjects).labels] == [FUTURE]


def test_a_negation_is_shown_for_what_it_has_ended(database: Database) -> None:
    src = SOURCES[0]
    store(database, [said(1, src, ANN, "spam", cid="bafyone"), said(2, src, ANN, "spam", neg=True)])
    store(database, [said(3, src, ANN, "spam", cid="bafytwo")])
    with database.connect("reader") as connection:
        for subjects in ([], [ANN]):
            assert numbers(query_page(connection, subjects=subjects).labels) == [3]
            found = query_page(connection, subjects=subjects, with_negated=True).labels
            assert sorted(numbers(found)) == [2, 3]


@pytest.mark.parametrize("subjects", [[], ["*"], ["at://*", "did:*"], SUBJECTS], ids=["all", "star", "prefix", "exact"])
@pytest.mark.parametrize("oldest_first", [False, True])
def test_while_labels_come_what_stays_appears_exactly_once(
    database: Database, subjects: list[str], oldest_first: bool
) -> None:
    rng = random.Random(1)
    events = drawn(rng, 300)
    store(database, events)
    coming = iter(range(1_000, 2_000))
    stays = {event.seq for event in expected(events, {}) if event.val != "spam"}
    seen: list[int] = []
    with database.connect("reader") as connection:
        for page in pages(connection, 10, subjects=subjects, oldest_first=oldest_first):
            seen += numbers(page)
            connection.commit()
            if len(seen) < 500:  # else the pages, oldest first, would never end
                more = [
                    said(next(coming), rng.choice(SOURCES), rng.choice(SUBJECTS), "spam", neg=rng.random() < 0.5)
                    for _ in range(3)
                ]
                store(database, more)
    assert len(stays) > 50 and stays <= set(seen) and len(seen) == len(set(seen))


@pytest.mark.parametrize(
    "cursor", ["", "x", "!!", "WzFd WzFd", "WyJhIl0", "WzEuNV0", "Wy0xXQ", "bnVsbA", "W3RydWVd", "é"]
)
def test_a_cursor_of_something_else_is_an_error(database: Database, cursor: str) -> None:
    with database.connect("reader") as connection, pytest.raises(InvalidCursor):
        query_page(connection, cursor=cursor)
    with database.connect("reader") as connection:
        store(database, [said(1, SOURCES[0], ANN, "spam"), said(2, SOURCES[0], ANN, "porn")])
        by_id = query_page(connection, limit=1).cursor
        by_subject = query_page(connection, limit=1, subjects=[ANN]).cursor
        assert by_id is not None and by_subject is not None
        for wrong, subjects in ((by_id, [ANN]), (by_subject, [])):
            with pytest.raises(InvalidCursor):
                query_page(connection, cursor=wrong, subjects=subjects)


# ---- the function for people


def test_the_function_finds_the_same(database: Database) -> None:
    """But for labels that a negation of another version has ended, which it shows as negated themselves."""
    events = drawn(random.Random(5), 400)
    store(database, events)
    found_any = 0
    call = "SELECT src, uri, val, cid FROM pipeline.query_labels(%s, %s, %s, max_rows => %s)"
    for subjects in ([ANN], [f"at://{BOB}/*", ANN, f"at://{BOB}/app.bsky.feed.post/3k*"], ["*"], ["at://*", "*"]):
        for sources in (None, SOURCES[1:]):
            for values in (None, ["spam"]):
                asked = {"subjects": subjects, "sources": sources, "values": values}
                if "*" in subjects:
                    asked["subjects"] = None
                want = {(it.src, it.uri, it.val, it.cid) for it in expected(events, asked)}
                found = rows(database.url, call, subjects, sources, values, 1_000)
                assert len(found) == len(want) and set(found) == want
                assert rows(database.url, call, subjects, sources, values, 3) == found[:3]
                found_any += bool(want)
    assert found_any > 12
    newest = rows(database.url, "SELECT cts FROM pipeline.query_labels()")
    assert newest == sorted(newest, reverse=True)
    everything = rows(database.url, "SELECT count(*) FROM pipeline.query_labels('{*}', NULL, NULL, true, true, 1000)")
    assert everything == rows(database.url, "SELECT count(*) FROM bsky.label")


def test_the_function_uses_indexes(filled: Database) -> None:
    with filled.connect("reader") as connection, connection.cursor() as cursor:
        for given in (
            "",
            "'{at://did:plc:hot/c/1}'",
            "'{at://did:plc:77/*,did:plc:none}'",
            "sources => '{did:plc:s1}'",
        ):
            cursor.execute(f"SELECT count(*) FROM pipeline.query_labels({given})")
        cursor.execute("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE schemaname = 'bsky' AND relname = 'label'")
        assert cursor.fetchall() == [(0,)]


# ---- plans


@pytest.fixture
def filled(database: Database) -> Database:
    """50,000 labels of 7 labelers, a third of them of one subject."""
    rows(
        database.url,
        """
        INSERT INTO pipeline.label_event (src, uri, val, cts, cts_at, seq)
        SELECT 'did:plc:s' || n % 7,
          'at://did:plc:' || CASE WHEN n % 3 = 0 THEN 'hot/c/1' ELSE n % 500 || '/c/' || n END,
          'v' || n, '', now() - n * interval '1 s', n
        FROM generate_series(1, 50000) n;
        INSERT INTO bsky.label
        SELECT src, uri, cid, val, false, '2026-01-01T00:00:00.000Z', NULL FROM pipeline.label_event;
        ANALYZE bsky.label, pipeline.label_event
        """,
    )
    return database


QUESTIONS: dict[str, dict[str, Any]] = {
    "all": {},
    "oldest first": {"oldest_first": True},
    "sources": {"sources": ["did:plc:s1", "did:plc:s2"]},
    "value": {"values": ["v777"]},
    "source and value": {"sources": ["did:plc:s1"], "values": ["v777"]},
    "subject": {"subjects": ["at://did:plc:hot/c/1"]},
    "subjects": {"subjects": [f"at://did:plc:{n % 500}/c/{n}" for n in range(1, 200)]},
    "subject and source": {"subjects": ["at://did:plc:hot/c/1"], "sources": ["did:plc:s1"]},
    "prefix": {"subjects": ["at://did:plc:77/*"]},
    "wide prefix, source and value": {"subjects": ["at://*"], "sources": ["did:plc:s1"], "values": ["v777"]},
}


@pytest.mark.parametrize("with_negated", [False, True], ids=["in effect", "with negated"])
def test_every_question_is_answered_by_an_index(filled: Database, with_negated: bool) -> None:
    """A page reads some thousands of rows, from where its cursor is, also of a subject with very many labels."""
    ExplainingCursor.found.clear()
    with filled.connect("reader") as connection:
        for asked in QUESTIONS.values():
            connection.cursor_factory = ExplainingCursor
            first = query_page(connection, with_negated=with_negated, **asked)
            second = query_page(connection, with_negated=with_negated, cursor=first.cursor, **asked)
            connection.cursor_factory = Cursor
            for read in (
                _read(connection, with_negated, None, asked),
                _read(connection, with_negated, first.cursor, asked),
            ):
                sources = len(asked.get("sources") or [1])
                assert read <= label_query.MAX_EXAMINED * sources * 1.5, asked
            assert first.cursor is None or first.cursor != second.cursor
    assert ExplainingCursor.found == set()


@pytest.mark.parametrize("many", ["moments", "exps", "cids"])
def test_however_often_a_labeler_says_one_thing(database: Database, monkeypatch: pytest.MonkeyPatch, many: str) -> None:
    """1,000 events of one subject and value, of which one counts, cost a page no more than its own rows."""
    cts = "'2025-06-15'::timestamptz + n * interval '1 ms'" if many == "moments" else "'2025-06-15'::timestamptz"
    exp = "'2999-01-01'::timestamptz + n * interval '1 ms'" if many == "exps" else "NULL"
    cid = "'bafy' || n" if many == "cids" else "''"
    rows(
        database.url,
        f"INSERT INTO pipeline.label_event (src, uri, cid, val, neg, cts, cts_at, exp_at, seq) "
        f"SELECT %s, %s, {cid}, 'spam', {many != 'exps'}, '', {cts}, {exp}, n FROM generate_series(1, 1000) n",
        SOURCES[0],
        ANN,
    )
    rows(
        database.url,
        "INSERT INTO bsky.label SELECT DISTINCT src, uri, cid, val, neg, '2025-06-15T00:00:00.000Z', "
        "CASE WHEN NOT neg THEN '2999-01-01T00:00:00.000Z' END FROM pipeline.label_event",
    )
    monkeypatch.setattr(label_query, "MAX_EXAMINED", 500)
    questions: list[dict[str, Any]] = [{}, {"sources": SOURCES}, {"subjects": [ANN]}]
    with database.connect("reader") as connection:
        for asked in questions:
            assert _read(connection, True, None, asked) < label_query.MAX_EXAMINED * 110, asked


def _read(connection: Connection, with_negated: bool, cursor: str | None, asked: dict[str, Any]) -> float:
    """Rows that one page reads from tables and indexes."""
    plans: list[dict[str, Any]] = []

    class Analyzing(ExplainingCursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            if query.startswith("WITH"):
                super(ExplainingCursor, self).execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}", vars)
                plans.append(self.fetchall()[0][0][0]["Plan"])
            super(ExplainingCursor, self).execute(query, vars)

    connection.cursor_factory = Analyzing
    query_page(connection, with_negated=with_negated, cursor=cursor, **asked)
    connection.cursor_factory = Cursor
    return _rows_of_scans(plans[0])


def _rows_of_scans(node: dict[str, Any]) -> float:
    own = 0.0
    if node["Node Type"] in ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Index Scan"):
        own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return own + sum(map(_rows_of_scans, node.get("Plans", ())))
