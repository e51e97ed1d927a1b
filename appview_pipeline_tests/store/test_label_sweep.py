"""The sweep of past label events: what is in effect stays, whatever comes later, and readers of the feed know."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from appview_pipeline.store.database import Database
from appview_pipeline.store.label_feed import feed_bounds
from appview_pipeline.store.labels import LabelRow, rebuild_labels, remove_labels
from appview_pipeline.store.sweeps import sweep_to_its_end
from appview_pipeline_tests.support.database import run
from appview_pipeline_tests.support.label_follower import LabelFollower
from appview_pipeline_tests.support.label_model import LabelModel
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.tables import Fresh, one, rows

SOURCES = ["did:plc:" + letter * 24 for letter in "ab"]
NOW = datetime.now(timezone.utc)


def sweep(database: Database, before: datetime = NOW + timedelta(days=1), at_once: int = 2_000) -> int:
    with database.connect("maintenance") as connection:
        return sweep_to_its_end(connection, "label events", before, at_once)


def age(database: Database, days: float) -> None:
    """Makes everything that is there older."""
    run(database.url, f"UPDATE pipeline.label_event SET received_at = received_at - interval '{days} days'")


def labels_of(database: Database) -> dict[tuple[str, ...], tuple[object, ...]]:
    found = rows(database.url, "SELECT src, uri, cid, val, neg, cts, exp FROM bsky.label")
    return {tuple(row[:4]): tuple(row[4:]) for row in found}


def events(database: Database) -> int:
    return int(one(database.url, "SELECT count(*) FROM pipeline.label_event"))


@st.composite
def label_rows(draw: st.DrawFn) -> LabelRow:
    """Labels of few subjects, values and moments, so that they overtake one another in every way."""
    return label_row(
        draw(st.sampled_from(SOURCES)),
        draw(st.sampled_from(["at://did:plc:x/a/1", "did:plc:x"])),
        draw(st.sampled_from(["spam", "rude"])),
        cid=draw(st.sampled_from(["", "bafya", "bafyb"])),
        neg=draw(st.booleans()),
        cts=f"2025-01-01T00:00:00.00{draw(st.integers(0, 4))}Z",
        exp=draw(st.sampled_from([None, None, "2099-01-01T00:00:00Z", "2098-01-01T00:00:00Z"])),
        seq=draw(st.sampled_from([None, 1, 2, 3])),
    )


STEPS = st.one_of(
    st.lists(label_rows(), min_size=1, max_size=12),
    st.just("again"),
    st.just("sweep all"),
    st.just("sweep the older half"),
    st.just("follow"),
)


@pytest.fixture(scope="module")
def swept_database(fresh: Fresh) -> Iterator[Database]:
    with fresh() as database:
        yield database


@settings(max_examples=12)
@given(steps=st.lists(STEPS, min_size=3, max_size=12), at_once=st.sampled_from([1, 3, 1_000]))
def test_any_order_of_labels_sweeps_and_repetitions(
    swept_database: Database, steps: list[list[LabelRow] | str], at_once: int
) -> None:
    swept(swept_database, steps, at_once)


def swept(database: Database, steps: list[list[LabelRow] | str], at_once: int) -> None:
    run(database.url, "TRUNCATE bsky.label, pipeline.label_event, pipeline.label_swept, pipeline.labeler")
    run(database.url, "UPDATE pipeline.label_feed SET swept_to = 0")
    model, follower = LabelModel(), LabelFollower()
    said: list[LabelRow] = []
    follower.catch_up(database)
    for step in [*steps, "follow", "sweep all", "follow", "again", "follow"]:
        if isinstance(step, list):
            said += step
            model.add(step)
            apply_rows(database, step)
        elif step == "again" and said:
            apply_rows(database, said[:: 1 + len(said) % 3])
        elif step == "sweep all":
            sweep(database, at_once=at_once)
        elif step == "sweep the older half":
            age(database, 10)
            middle = said[len(said) // 2 :]
            apply_rows(database, middle)
            sweep(database, NOW - timedelta(days=5), at_once)
        elif step == "follow":
            follower.catch_up(database)
            assert follower.labels == {key for key, row in model.rows().items() if not row.neg}
            latecomer = LabelFollower()
            latecomer.catch_up(database)
            assert latecomer.labels == follower.labels
        assert labels_of(database) == {tuple(key): tuple(row) for key, row in model.rows().items()}
    sweep(database)
    # No more is left than the last of each key, the last negation of each (src, uri, val), and where labels in effect
    # are newer than it, the negation of a key that readers were told of.
    assert events(database) <= 2 * len(model.rows()) + len({(key[0], key[1], key[3]) for key in model.rows()})
    for source in SOURCES:
        with database.connect("maintenance") as connection:
            rebuilt = rebuild_labels(connection, source)
            assert (rebuilt.added, rebuilt.removed, rebuilt.corrected) == (0, 0, 0)


def test_what_decides_stays_and_readers_know_what_is_gone(database: Database) -> None:
    ann, bob = SOURCES
    apply_rows(database, [label_row(ann, "did:plc:x", "spam", seq=1, cts="2025-01-01T00:00:00Z")])
    apply_rows(database, [label_row(bob, "did:plc:x", "spam", seq=1, cts="2025-01-01T00:00:00Z")])
    apply_rows(
        database, [label_row(ann, "did:plc:x", "spam", cid="bafya", neg=True, seq=2, cts="2025-01-02T00:00:00Z")]
    )
    apply_rows(database, [label_row(ann, "did:plc:x", "spam", seq=3, cts="2025-01-03T00:00:00Z")])
    apply_rows(database, [label_row(ann, "did:plc:x", "rude", seq=4, cts="2025-01-03T00:00:00Z")])
    age(database, 91)
    apply_rows(database, [label_row(ann, "did:plc:x", "rude", seq=5, cts="2025-01-04T00:00:00Z")])
    before = labels_of(database)
    # Of `spam` the first one goes, and the negation stays, though a later label counts. Of `rude` the old one goes.
    assert sweep(database, NOW - timedelta(days=90)) == 2
    assert rows(database.url, "SELECT id FROM pipeline.label_event ORDER BY id") == [(2,), (3,), (4,), (6,)]
    assert sweep(database) == 0
    assert labels_of(database) == before
    assert rows(database.url, "SELECT * FROM pipeline.label_swept") == [(ann, 5)]
    with database.connect("reader") as connection:
        assert feed_bounds(connection).swept_to == feed_bounds(connection, [ann]).swept_to == 5
        assert feed_bounds(connection, [bob]).swept_to == 0


def test_a_reader_who_comes_back_is_told_what_has_ended(database: Database) -> None:
    """By a negation that a later one has overtaken, of which nobody was told: it would end a label in effect."""

    def said(second: int, cid: str, *, neg: bool = False) -> LabelRow:
        return label_row(SOURCES[0], "did:plc:x", "spam", cid=cid, neg=neg, cts=f"2025-01-01T00:00:0{second}Z")

    apply_rows(database, [said(1, "bafya")])
    follower = LabelFollower()
    follower.catch_up(database)
    for row in (said(2, "bafya", neg=True), said(6, "bafyc"), said(3, "bafya", neg=True)):
        apply_rows(database, [row])
    assert sweep(database) == 1
    follower.catch_up(database)
    assert {key[2] for key in follower.labels} == {"bafyc"}
    # Another negation that readers are told of takes its place, once there is more of its own key.
    apply_rows(database, [said(7, "bafyb", neg=True)])
    assert sweep(database) == 0
    apply_rows(database, [said(9, "bafya")])
    assert sweep(database) == 2
    assert rows(database.url, "SELECT cid, neg FROM pipeline.label_event ORDER BY cts_at") == [
        ("bafyc", False),
        ("bafyb", True),
        ("bafya", False),
    ]


def test_of_more_than_100_that_differ_in_their_exp_one_stays(database: Database) -> None:
    """Else those that were not looked at so far, since others had a later exp, would count afterwards."""
    for first in (0, 100):
        exps = [(number, f"2999-01-01T00:{number // 60:02}:{number % 60:02}Z") for number in range(first, first + 100)]
        apply_rows(
            database, [label_row(SOURCES[0], "did:plc:x", "spam", exp=exp, seq=500 - number) for number, exp in exps]
        )
    before = labels_of(database)
    assert sweep(database) == 199
    with database.connect("maintenance") as connection:
        assert rebuild_labels(connection, SOURCES[0]).corrected == 0
    assert labels_of(database) == before


def test_what_was_noted_of_a_labeler_goes_with_it(database: Database) -> None:
    for source in SOURCES:
        said = [label_row(source, "did:plc:x", "spam", seq=seq, cts=f"2025-01-0{seq}T00:00:00Z") for seq in (1, 2)]
        for row in said:
            apply_rows(database, [row])
    assert sweep(database) == 2
    with database.connect("writer") as connection:
        while remove_labels(connection, SOURCES[0], 100):
            pass
    assert rows(database.url, "SELECT src FROM pipeline.label_swept") == [(SOURCES[1],)]


def test_what_never_took_effect_does_not_outdate_cursors(database: Database) -> None:
    apply_rows(database, [label_row(SOURCES[0], "did:plc:x", "spam", seq=2, cts="2025-01-02T00:00:00Z")])
    apply_rows(database, [label_row(SOURCES[0], "did:plc:x", "spam", seq=1, cts="2025-01-01T00:00:00Z")])
    assert sweep(database) == 1
    assert rows(database.url, "SELECT * FROM pipeline.label_swept") == []


def test_each_event_is_looked_at_once(database: Database) -> None:
    """However many of them stay: a sweep begins where the last one ended."""
    apply_rows(database, [label_row(SOURCES[0], f"did:plc:x{number}", "spam", seq=number) for number in range(25)])
    assert sweep(database, at_once=10) == 0
    assert one(database.url, "SELECT swept_to FROM pipeline.label_feed") == 25
    age(database, 91)
    apply_rows(database, [label_row(SOURCES[0], "did:plc:x7", "spam", neg=True, seq=26)])
    assert sweep(database, NOW - timedelta(days=90)) == 0  # the negation is not old yet
    assert sweep(database) == 1
    assert one(database.url, "SELECT count(*) FROM pipeline.label_event WHERE uri = 'did:plc:x7' AND neg") == 1


def test_a_sweep_of_many_is_quick(database: Database) -> None:
    """10,000 labels of one subject with as many CIDs, and their negations: no page looks at more than its own."""
    run(
        database.url,
        "INSERT INTO pipeline.label_event (src, uri, cid, val, neg, cts, cts_at, seq, received_at) "
        "SELECT 'did:plc:a', 'did:plc:x', 'bafy' || n, 'spam', neg, '', "
        "'2025-01-01'::timestamptz + n * interval '1 s', "
        "n, '2025-01-01' FROM generate_series(1, 10000) n, (VALUES (false), (true)) v (neg)",
    )
    began = time.monotonic()
    assert sweep(database) == 10_000
    assert time.monotonic() - began < 10
