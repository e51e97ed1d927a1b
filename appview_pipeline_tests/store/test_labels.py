"""Label events and what follows from them: one case each. (Any order, batches, writers: properties/test_labels.py.)"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from appview_pipeline.indexing.changes import DeadLetter
from appview_pipeline.indexing.shared_rows import letter_rows
from appview_pipeline.store import labels as labels_module
from appview_pipeline.store.apply import prepare
from appview_pipeline.store.batch import DeadLetterLimits
from appview_pipeline.store.database import Database
from appview_pipeline.store.database_url import libpq_url
from appview_pipeline.store.labels import (
    CHANNEL,
    LabelBatch,
    LabelerProgress,
    LabelRow,
    Rebuilt,
    announce_expired,
    apply_labels,
    rebuild_labels,
    remove_labels,
)
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.tables import one, rows

SRC = "did:plc:" + "a" * 24
OTHER = "did:plc:" + "b" * 24
BOB = "did:plc:" + "c" * 24
POST = f"at://{BOB}/app.bsky.feed.post/a"


def at(second: int, fraction: str = "000") -> str:
    return f"2025-06-15T15:06:{second:02}.{fraction}Z"


def label(second: int, uri: str = POST, val: str = "spam", **more: Any) -> LabelRow:
    return label_row(more.pop("src", SRC), uri, val, cts=at(second), **more)


def stored(database: Database) -> list[tuple[Any, ...]]:
    """cid, neg, cts and exp of all rows."""
    return rows(database.url, "SELECT cid, neg, cts, exp FROM bsky.label ORDER BY src, uri, val, cid")


def feed(database: Database) -> list[tuple[str, bool]]:
    """cid and neg of the events that took effect, in order of their ids."""
    return rows(database.url, "SELECT cid, neg FROM pipeline.label_event WHERE took_effect ORDER BY id")


def signatures(database: Database) -> list[tuple[Any, ...]]:
    """seq, sig and signed of all label events."""
    found = rows(database.url, "SELECT seq, sig, signed FROM pipeline.label_event ORDER BY id")
    return [(seq, *(None if it is None else bytes(it) for it in both)) for seq, *both in found]


@contextmanager
def listening(database: Database) -> Iterator[Connection]:
    with closing(psycopg2.connect(libpq_url(database.url))) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"LISTEN {CHANNEL}")
        yield connection


def heard(connection: Connection) -> list[dict[str, Any]]:
    """The payloads that have come."""
    select.select([connection], [], [], 0.3)
    connection.poll()
    found = [json.loads(it.payload) for it in connection.notifies]
    assert all(len(it.payload.encode()) <= labels_module.MAX_PAYLOAD for it in connection.notifies)
    connection.notifies.clear()
    return found


# ---- what is in effect


def test_the_latest_cts_wins(database: Database) -> None:
    apply_rows(database, [label(5, exp=at(50))])
    apply_rows(database, [label(3), label(7, exp=at(59)), label(6)])
    assert stored(database) == [("", False, at(7), at(59))]


def test_a_negation_ends_every_cid(database: Database) -> None:
    apply_rows(database, [label(1), label(2, cid="bafyone"), label(3, cid="bafytwo", exp=at(50))])
    report = apply_rows(database, [label(3, cid="bafytwo", neg=True, seq=9)])
    # The rows keep the times of the labels that were ended.
    assert stored(database) == [("", True, at(1), None), ("bafyone", True, at(2), None), ("bafytwo", True, at(3), None)]
    assert (report.changed, report.added) == (1, 1)
    assert one(database.url, "SELECT in_effect FROM pipeline.labeler") == 0
    # Of another value, labeler and subject nothing is ended.
    apply_rows(database, [label(1, val="rude"), label(1, src=OTHER), label(1, uri=BOB)])
    apply_rows(database, [label(9, neg=True)])
    assert one(database.url, "SELECT count(*) FROM bsky.label WHERE NOT neg") == 3


def test_a_negation_ends_what_came_later_and_is_older(database: Database) -> None:
    apply_rows(database, [label(5, neg=True)])
    report = apply_rows(database, [label(4, cid="bafyone"), label(6, cid="bafytwo")])
    assert stored(database) == [
        ("", True, at(5), None),
        ("bafyone", True, at(4), None),
        ("bafytwo", False, at(6), None),
    ]
    assert (report.added, report.changed) == (2, 1)
    assert feed(database) == [("", True), ("bafytwo", False)]


def test_of_one_moment_the_higher_seq_wins_then_the_negation(database: Database) -> None:
    apply_rows(database, [label(5, seq=2), label(5, seq=1, neg=True)])
    assert stored(database) == [("", False, at(5), None)]
    apply_rows(database, [label(5, neg=True, seq=3)])
    assert stored(database) == [("", True, at(5), None)]
    apply_rows(database, [label(5, uri=BOB), label(5, uri=BOB, neg=True)])
    assert stored(database)[1] == ("", True, at(5), None)


def test_moments_within_one_millisecond_are_told_apart(database: Database) -> None:
    early, late = "2025-06-15T15:06:05.123400Z", "2025-06-15T15:06:05.123500Z"
    apply_rows(database, [label_row(SRC, POST, "spam", cid="bafyone", cts=late)])
    apply_rows(database, [label_row(SRC, POST, "spam", cid="bafytwo", cts=early, neg=True)])
    assert stored(database)[0] == ("bafyone", False, at(5, "123"), None)
    apply_rows(database, [label_row(SRC, POST, "spam", cid="bafytwo", cts=late, neg=True)])
    assert stored(database)[0] == ("bafyone", True, at(5, "123"), None)


def test_times_are_stored_in_one_form_and_as_signed(database: Database) -> None:
    odd = label_row(SRC, POST, "spam", cts="2025-06-15T17:06:05.5+02:00", exp="9999-12-31T23:59:59.999999Z")
    old = label_row(SRC, BOB, "spam", cts="1969-12-31T23:59:59.9995Z")
    apply_rows(database, [odd, old])
    assert rows(database.url, "SELECT cts, exp FROM bsky.label ORDER BY uri") == [
        (at(5, "500"), "9999-12-31T23:59:59.999Z"),
        ("1969-12-31T23:59:59.999Z", None),
    ]
    assert rows(database.url, "SELECT cts, exp FROM pipeline.label_event ORDER BY id") == [
        (odd.cts, odd.exp),
        (old.cts, None),
    ]


def test_20_000_labels_of_one_millisecond_are_all_there(database: Database) -> None:
    said = [label(5, uri=f"at://{BOB}/app.bsky.feed.post/{number}", seq=number) for number in range(20_000)]
    for first in range(0, len(said), 5_000):
        apply_rows(database, said[first : first + 5_000])
    assert one(database.url, "SELECT count(*) FROM bsky.label WHERE NOT neg") == 20_000
    assert one(database.url, "SELECT count(*) FROM pipeline.label_event WHERE took_effect") == 20_000


# ---- delivered again


def test_an_event_that_comes_again_is_no_other(database: Database) -> None:
    unsigned = label(5, seq=7)
    signed = unsigned._replace(seq=3, sig=b"first", signed=b"bytes")
    report = apply_rows(database, [unsigned, signed, unsigned])
    assert (report.events, report.added, report.repeated, report.changed) == (3, 1, 2, 1)
    assert signatures(database) == [(7, b"first", b"bytes")]
    again = apply_rows(database, [unsigned._replace(seq=9, sig=b"second")])
    assert (again.added, again.repeated, again.stale, again.changed, again.first_id) == (0, 1, 1, 0, None)
    assert signatures(database) == [(9, b"second", None)]
    apply_rows(database, [unsigned])
    assert signatures(database) == [(9, b"second", None)]
    assert rows(database.url, "SELECT changed, repeated, in_effect FROM pipeline.labeler") == [(1, 4, 1)]


def test_a_higher_seq_may_change_what_is_in_effect(database: Database) -> None:
    """The event is broadcast again then, because others have read past it."""
    apply_rows(database, [label(5, seq=2), label(5, neg=True, seq=1)])
    assert feed(database) == [("", False)]
    report = apply_rows(database, [label(5, neg=True, seq=3)])
    assert stored(database) == [("", True, at(5), None)]
    assert feed(database) == [("", False), ("", True)]
    assert (report.changed, report.first_id) == (1, report.last_id)


# ---- the feed


def test_only_what_takes_effect_is_broadcast(database: Database) -> None:
    apply_rows(database, [label(1), label(2, neg=True), label(3), label(2, exp=at(59)), label(4, uri=BOB, neg=True)])
    taken = rows(database.url, "SELECT cts, neg FROM pipeline.label_event WHERE took_effect ORDER BY id")
    assert taken == [(at(3), False), (at(4), True)]


def test_labels_that_a_late_negation_does_not_end_are_broadcast_after_it(database: Database) -> None:
    apply_rows(database, [label(9, cid="bafynew"), label(1, cid="bafyold")])
    report = apply_rows(database, [label(5, cid="bafyold", neg=True)])
    assert feed(database) == [("bafyold", False), ("bafyold", True), ("bafynew", False)]
    assert report.changed == 1  # the other one is in effect as before
    assert (report.last_id or 0) - (report.first_id or 0) == 1


def test_a_negation_that_ends_nothing_and_would_mislead_is_not_broadcast(database: Database) -> None:
    apply_rows(database, [label(9, cid="bafynew")])
    apply_rows(database, [label(5, cid="bafyold", neg=True)])
    assert feed(database) == [("bafynew", False)]
