"""Label events and what follows from them: one case each. (Any order, batches, writers: properties/test_labels.py.)"""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from appview_pipeline.indexing.changes import DeadLetter
from appview_pipeline.indexing.registry import EFFECTS
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


def test_an_event_that_readers_never_had_is_broadcast_once_it_counts(database: Database) -> None:
    """Also where no row changes: `exp` is stored in milliseconds."""
    soon, later = "2099-01-01T00:00:00.000100Z", "2099-01-01T00:00:00.000200Z"
    apply_rows(database, [label(5, exp=soon, seq=2)])
    assert apply_rows(database, [label(5, exp=later, seq=1)]).changed == 0
    report = apply_rows(database, [label(5, exp=later, seq=3)])
    assert (report.added, report.changed) == (0, 1)
    query = "SELECT exp FROM pipeline.label_event WHERE took_effect ORDER BY id"
    assert rows(database.url, query) == [(soon,), (later,)]
    assert apply_rows(database, [label(5, exp=later, seq=4)]).changed == 0


@pytest.mark.parametrize("neg", [False, True])
def test_an_event_that_is_signed_for_the_first_time_is_broadcast_again(database: Database, neg: bool) -> None:
    """For readers who take no others; but not one that counts no more, or that has another signature than before."""
    unsigned = label(5, neg=neg, seq=3)
    apply_rows(database, [unsigned, label(4, cid="bafyold", neg=neg), label(6, cid="bafyold", neg=neg)])
    signed = [unsigned._replace(sig=b"first"), label(4, cid="bafyold", neg=neg)._replace(sig=b"first")]
    report = apply_rows(database, signed)
    assert (report.added, report.changed, report.first_id) == (0, 1, 4)
    assert one(database.url, "SELECT sig IS NOT NULL FROM pipeline.label_event WHERE id = 4 AND took_effect")
    assert apply_rows(database, [unsigned._replace(sig=b"second")]).changed == 0


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


def test_what_comes_after_a_negation_anyway_is_broadcast_once(database: Database) -> None:
    apply_rows(database, [label(1, cid="bafyold")])
    report = apply_rows(database, [label(5, cid="bafyold", neg=True), label(9, cid="bafynew")])
    assert (report.first_id, report.last_id) == (2, 3)
    assert one(database.url, "SELECT max(id) FROM pipeline.label_event") == 3


def test_a_negation_that_ends_nothing_and_would_mislead_is_not_broadcast(database: Database) -> None:
    apply_rows(database, [label(9, cid="bafynew")])
    apply_rows(database, [label(5, cid="bafyold", neg=True)])
    assert feed(database) == [("bafynew", False)]


# ---- NOTIFY


def test_listeners_hear_of_each_transaction_that_changes_something(database: Database) -> None:
    with listening(database) as listener:
        report = apply_rows(database, [label(1), label(1, uri=BOB), label(1, val="rude")])
        assert heard(listener) == [
            {"first": report.first_id, "last": report.last_id, "count": 3, "subjects": [POST, BOB], "more": False}
        ]
        apply_rows(database, [label(1)])
        apply_rows(database, [])
        assert heard(listener) == []
        with pytest.raises(ZeroDivisionError), database.connect("writer") as connection:
            apply_labels(connection, LabelBatch([label(2)]))
            raise ZeroDivisionError
        assert heard(listener) == []


@pytest.mark.parametrize("length", [10, 1_900])
def test_a_payload_has_as_many_subjects_as_fit(database: Database, length: int) -> None:
    uris = [f"at://{BOB}/app.bsky.feed.post/{number:03}" + '"' * length for number in range(400)]
    with listening(database) as listener:
        apply_rows(database, [label(1, uri=uri) for uri in uris])
        (payload,) = heard(listener)
    assert payload["count"] == 400 and payload["more"]
    assert 1 <= len(payload["subjects"]) < 150
    assert payload["subjects"] == uris[: len(payload["subjects"])]


def test_of_any_number_of_labels_that_expire_the_first_are_named(database: Database) -> None:
    rows(
        database.url,
        "INSERT INTO bsky.label (src, uri, cid, val, neg, cts, exp) SELECT %s, 'did:plc:' || mod(n, 300), '', "
        "'v' || n, false, '', CASE WHEN n < 300 THEN '2025-01-01T00:00:00.000Z' ELSE '2025-01-02T00:00:00.000Z' END "
        "FROM generate_series(0, 599) n",
        SRC,
    )
    rows(database.url, "UPDATE pipeline.label_feed SET expired_to = '2024-12-31'")
    with listening(database) as listener:
        with database.connect("writer") as connection:
            assert announce_expired(connection) == 600
        (payload,) = heard(listener)
    assert (payload["count"], payload["more"]) == (600, True)
    assert len(payload["expired"]) == len(set(payload["expired"])) == 300


def test_expired_labels_are_announced_once(database: Database) -> None:
    now = one(database.url, "SELECT now() AT TIME ZONE 'UTC'")
    soon = now.isoformat(timespec="milliseconds") + "Z"
    apply_rows(database, [label(1, uri=f"did:plc:{number:024}", exp=soon) for number in range(3)])
    apply_rows(database, [label(1, exp="2999-01-01T00:00:00.000Z"), label(1, uri=BOB, exp=soon)])
    apply_rows(database, [label(2, uri=BOB, neg=True)])
    rows(database.url, "UPDATE pipeline.label_feed SET expired_to = now() - interval '1 minute'")
    found: list[int] = []

    def announce() -> None:
        with database.connect("writer") as connection:
            found.append(announce_expired(connection))

    with listening(database) as listener:
        threads = [threading.Thread(target=announce) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        announce()
        assert sorted(found) == [0, 0, 0, 0, 3]
        (payload,) = heard(listener)
    assert payload == {"count": 3, "expired": [f"did:plc:{number:024}" for number in range(3)], "more": False}


# ---- cursors, counts, dead letters


def stream(after: int, before: int = 0, **more: Any) -> LabelerProgress:
    return LabelerProgress(SRC, more.pop("endpoint", "wss://labels.example"), before, after, **more)


def test_the_cursor_moves_with_the_batch_by_compare_and_set(database: Database) -> None:
    rows(
        database.url,
        "INSERT INTO pipeline.labeler (did, endpoint) VALUES (%s, 'wss://labels.example'), (%s, 'wss://other.example')",
        SRC,
        OTHER,
    )
    first = stream(7, frames=2, labels=1, rejected_by_kind={"label-syntax": 2}, newest_cts_micros=1_750_000_000_123_456)
    with database.connect("writer") as connection:
        assert apply_labels(connection, LabelBatch([label(1)], [first])).moved == frozenset()
    second = stream(9, 7, frames=1, labels=1, rejected_by_kind={"label-syntax": 1, "label-future": 1}, caught_up=True)
    with database.connect("writer") as connection:
        assert apply_labels(connection, LabelBatch([label(2)], [second])).moved == frozenset()
    query = (
        "SELECT cursor, frames, labels, rejected, rejected_by_kind, changed, in_effect, caught_up_at IS NOT NULL, "
        "extract(microsecond FROM last_cts)::int FROM pipeline.labeler WHERE did = %s"
    )
    counted = (9, 3, 2, 4, {"label-syntax": 3, "label-future": 1}, 2, 1, True, 40_123_456)
    assert rows(database.url, query, SRC) == [counted]
    # Somebody else has moved it; or it is another server's; or there is no such labeler. The labels are applied.
    other = LabelerProgress(OTHER, "wss://other.example", 0, 3, frames=1)
    for stale in (stream(12, 7), stream(12, 9, endpoint="wss://elsewhere.example")):
        with database.connect("writer") as connection:
            report = apply_labels(connection, LabelBatch([label(3 + stale.before)], [stale, other]))
            assert SRC in report.moved and report.added == 1
    assert rows(database.url, query, SRC) == [(*counted[:5], 4, 1, True, 40_123_456)]
    assert one(database.url, "SELECT cursor FROM pipeline.labeler WHERE did = %s", OTHER) == 3
    with database.connect("writer") as connection:
        unknown = LabelerProgress(BOB, "wss://labels.example", 0, 1)
        assert apply_labels(connection, LabelBatch([], [unknown])).moved == {BOB}


def test_labels_that_are_made_here_are_counted_too(database: Database) -> None:
    apply_rows(database, [label(1), label(1, uri=BOB)])
    assert rows(database.url, "SELECT did, is_wanted, in_effect, frames FROM pipeline.labeler") == [(SRC, False, 2, 0)]


def test_dead_letters_are_stored_with_the_batch_up_to_the_limit(database: Database) -> None:
    letters = [
        DeadLetter("label-signature", "does not fit", number, SRC, None, b"bytes", form="label") for number in range(5)
    ]
    batch = LabelBatch([label(1)], dead_letters=letter_rows(letters, "wss://labels.example", 1_000))
    for _ in range(2):
        with database.connect("writer") as connection:
            apply_labels(connection, batch, limits=DeadLetterLimits(3, 1_000_000))
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 3
    assert one(database.url, "SELECT sum(count) FROM pipeline.dead_letter_overflow") == 4


def test_on_a_session_that_applies_other_batches_too(database: Database) -> None:
    """Its staging tables may be there before, or come after."""
    letter = letter_rows([DeadLetter("label-syntax", "no", 1, SRC, None, b"x", form="label")], "wss://x", 1_000)
    with database.connect("writer") as connection:
        prepare(connection, EFFECTS)
        apply_labels(connection, LabelBatch([label(1)], dead_letters=letter))
    database.engine.dispose()
    with database.connect("writer") as connection:
        apply_labels(connection, LabelBatch([label(2)], dead_letters=letter))
        prepare(connection, EFFECTS)
        apply_labels(connection, LabelBatch([label(3)], dead_letters=letter))
    assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 1
    assert one(database.url, "SELECT count(*) FROM pipeline.label_event") == 3


# ---- labelers that are excluded, or removed


def test_whoever_opts_a_labeler_out_waits_for_a_batch_and_nothing_comes_after(database: Database) -> None:
    done = threading.Event()

    def forbid() -> None:
        rows(database.url, "SELECT pipeline.forbid_data_collection(%s)", SRC)
        done.set()

    with database.connect("writer") as connection:
        apply_labels(connection, LabelBatch([label(1)]))
        thread = threading.Thread(target=forbid)
        thread.start()
        assert not done.wait(0.3)
    thread.join()
    report = apply_rows(database, [label(2), label(2, src=OTHER)])
    assert (report.withheld, report.added, report.events) == (1, 1, 2)


def removed_by_4(database: Database) -> list[int]:
    removed: list[int] = []
    while not removed or removed[-1]:
        with database.connect("writer") as connection:
            removed.append(remove_labels(connection, SRC, 4))
    assert rows(database.url, "SELECT src FROM bsky.label") == [(OTHER,)]
    assert rows(database.url, "SELECT src FROM pipeline.label_event") == [(OTHER,)]
    return removed


def test_removed_a_bounded_number_at_a_time(database: Database) -> None:
    """What was said of one subject and value goes together, so that nothing is half there."""
    apply_rows(database, [label(number, uri=f"{POST}{number}") for number in range(6)])
    apply_rows(database, [label(20, uri=f"{POST}1", cid="bafy1", neg=True), label(1, src=OTHER)])
    rows(
        database.url,
        "INSERT INTO bsky.label (src, uri, cid, val, neg, cts) VALUES (%s, 'x', '', 'by-hand', false, '')",
        SRC,
    )
    with listening(database) as listener:
        assert removed_by_4(database) == [10, 4, 1, 0], "events and rows"
        payloads = heard(listener)
    ended = [subject for payload in payloads for subject in payload["subjects"]]
    assert sorted(ended) == sorted([*(f"{POST}{number}" for number in (0, 2, 3, 4, 5)), "x"])
    assert one(database.url, "SELECT in_effect FROM pipeline.labeler WHERE did = %s", SRC) == -1, "of the one by hand"


def test_a_great_many_labels_of_one_subject_are_not_removed_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels_module, "MAX_EVENTS_REMOVED_TOGETHER", 1)
    apply_rows(database, [*(label(number, cid=f"bafy{number}") for number in range(10)), label(1, src=OTHER)])
    assert removed_by_4(database) == [8, 8, 4, 0]


# ---- rebuilding


def test_a_rebuild_says_what_it_does_and_listeners_hear_of_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels_module, "REBUILT_AT_ONCE", 2)
    apply_rows(database, [label(number, cid=f"bafy{number}") for number in range(5)])
    rows(database.url, "DELETE FROM bsky.label WHERE cid = 'bafy1'")
    rows(database.url, "UPDATE bsky.label SET neg = true WHERE cid = 'bafy3'")
    rows(
        database.url,
        "INSERT INTO bsky.label (src, uri, cid, val, neg, cts) VALUES (%s, 'x', '', 'by-hand', false, '')",
        SRC,
    )
    steps: list[Rebuilt] = []
    with listening(database) as listener, database.connect("maintenance") as connection:
        rebuilt = rebuild_labels(connection, SRC, progress=steps.append)
        payloads = heard(listener)
    assert rebuilt == steps[-1] == Rebuilt(rows=5, added=1, removed=1, corrected=1)
    assert len(steps) > 4
    assert [subject for payload in payloads for subject in payload["subjects"]] == [POST, POST, "x"]
    assert one(database.url, "SELECT in_effect FROM pipeline.labeler") == 5
