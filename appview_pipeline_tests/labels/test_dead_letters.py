"""Dead letters of labelers are tried again: labels and whole frames, with the labeler's present key."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from coincurve import PrivateKey

from appview_pipeline.ingest.dead_letters import RetrySummary
from appview_pipeline.labels import dead_letters as dead_letters_module
from appview_pipeline.labels import decoding
from appview_pipeline.labels.dead_letters import retry_dead_letters
from appview_pipeline.labels.decoding import read_frames
from appview_pipeline.labels.label_frame import Position
from appview_pipeline.labels.verification import LabelerKeys
from appview_pipeline.labels.writer import LabelWriter
from appview_pipeline.protocol.event_stream import FrameError
from appview_pipeline.protocol.label import Label, as_wire, sign_label
from appview_pipeline.protocol.label_frames import labels_frame
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.errors import RefusedData
from appview_pipeline.store.labelers import open_labeler, want
from appview_pipeline.store.labels import LabelBatch, LabelReport, apply_labels
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, did_of, post
from appview_pipeline_tests.support.keys import did_key, save_key
from appview_pipeline_tests.support.tables import one, rows

MOD, ANN, ENDPOINT = did_of("mod"), did_of("ann"), "wss://mod.example"
OLD, NEW, ANOTHERS = (PrivateKey(bytes([number]) * 32) for number in (1, 2, 3))
HOUR = 3_600_000_000


def label(val: str, key: PrivateKey = NEW, **more: Any) -> Label:
    return sign_label(key.secret, **{"src": MOD, "uri": ANN, "val": val, "cts": WHEN, **more})


def now_micros() -> int:
    return time.time_ns() // 1_000


def receive(database: Database, *frames: Sequence[Label], known: PrivateKey = NEW, at: int | None = None) -> None:
    """Frames of the labeler's stream come, at a moment, while this key of it is known."""
    keys = LabelerKeys()
    keys.resolved(MOD, did_key(known))
    with database.connect("writer") as connection:
        want(connection, [MOD])
        cursor = open_labeler(connection, MOD, ENDPOINT)
    assert cursor is not None
    wire = [labels_frame(cursor + seq, [as_wire(it) for it in labels]) for seq, labels in enumerate(frames, 1)]
    read, count = read_frames(wire, Position(MOD, ENDPOINT, cursor), keys, at or now_micros())
    assert count == len(frames)
    LabelWriter(database, Settings(database_url=database.url)).write(read, time.time())


def try_again(database: Database, **arguments: Any) -> RetrySummary:
    settings = Settings(database_url=database.url, plc_url="http://127.0.0.1:9", allow_private_hosts=True)
    return retry_dead_letters(settings, database, **arguments)


def letters(database: Database) -> list[tuple[Any, ...]]:
    return rows(
        database.url,
        "SELECT kind, form, retried_at IS NOT NULL, resolved_at IS NOT NULL FROM pipeline.dead_letter ORDER BY id",
    )


def labels(database: Database) -> list[tuple[Any, ...]]:
    return rows(database.url, "SELECT val, neg FROM bsky.label ORDER BY val")


def test_a_label_of_the_future_is_applied_once_its_time_has_come(database: Database) -> None:
    save_key(database, MOD, None, label_key=NEW)
    receive(database, [label("spam"), label("fine", cts="2025-01-01T00:00:00Z")], at=now_micros() - 600 * 24 * HOUR)
    receive(database, [label("later", cts="2999-01-01T00:00:00Z")])
    assert letters(database) == [("label-future", "label", False, False)] * 2
    cursor = rows(database.url, "SELECT cursor FROM pipeline.labeler")
    found = try_again(database)
    assert (found.tried, found.resolved, found.failed, found.impossible) == (2, 1, {"label-future": 1}, {})
    assert labels(database) == [("fine", False), ("spam", False)]
    assert letters(database) == [("label-future", "label", True, True), ("label-future", "label", True, False)]
    assert rows(database.url, "SELECT cursor FROM pipeline.labeler") == cursor, "no cursor is moved"
    assert rows(database.url, "SELECT seq FROM pipeline.label_event WHERE val = 'spam'") == [(1,)]
    assert try_again(database).tried == 1


def test_a_label_is_applied_once_its_labelers_key_is_known(database: Database) -> None:
    """As of its own time: what came since stays."""
    save_key(database, MOD, None, label_key=OLD)
    receive(database, [label("spam"), label("rude"), label("other", key=ANOTHERS)], known=OLD)
    receive(database, [label("rude", OLD, cts="2025-07-01T00:00:00Z", neg=True)], known=OLD)
    found = try_again(database)
    assert (found.resolved, found.failed, found.impossible) == (0, {"label-signature": 3}, {})
    assert "not signed" in found.examples[0][1]
    save_key(database, MOD, None, label_key=NEW)
    found = try_again(database)
    assert (found.resolved, found.failed, found.impossible) == (2, {"label-signature": 1}, {})
    assert labels(database) == [("rude", True), ("spam", False)]
    assert letters(database) == [
        *[("label-signature", "label", True, True)] * 2,
        ("label-signature", "label", True, False),
    ]


def test_a_frame_goes_through_decoding_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its labels the bad ones get letters of their own."""
    save_key(database, MOD, None, label_key=NEW)

    def mistaken(frame: bytes) -> None:
        raise FrameError("frame-body", "a mistake", 1)

    with monkeypatch.context() as patched:
        patched.setattr(decoding, "read_labels_frame", mistaken)
        receive(database, [label("spam"), label("rude", OLD), label("!hide")])
    assert letters(database) == [("frame-body", "label-frame", False, False)]
    assert labels(database) == []
    found = try_again(database)
    assert (found.tried, found.resolved, found.failed) == (2, 1, {"label-signature": 1}), "its new letter at once"
    assert labels(database) == [("!hide", False), ("spam", False)]
    assert letters(database) == [("frame-body", "label-frame", True, True), ("label-signature", "label", True, False)]


def test_where_the_labeler_cant_be_resolved_the_letter_stays_as_it_is(database: Database) -> None:
    receive(database, [label("spam")], known=OLD)
    found = try_again(database)
    ((why, count),) = found.impossible.items()
    assert (found.resolved, found.failed, count) == (0, {}, 1) and "can't be resolved" in why
    assert letters(database) == [("label-signature", "label", False, False)]


def test_one_that_postgresql_refuses_keeps_no_other(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    save_key(database, MOD, None, label_key=NEW)
    receive(database, [label(val) for val in ("a", "b", "bad", "c")], known=OLD)

    def refusing(connection: Connection, batch: LabelBatch, **more: Any) -> LabelReport:
        if any(row.val == "bad" for row in batch.rows):
            raise RefusedData("not this one")
        return apply_labels(connection, batch, **more)

    monkeypatch.setattr(dead_letters_module, "apply_labels", refusing)
    found = try_again(database)
    assert (found.resolved, found.failed) == (3, {"postgres": 1})
    assert [val for val, _ in labels(database)] == ["a", "b", "c"]
    assert one(database.url, "SELECT reason FROM pipeline.dead_letter WHERE kind = 'postgres'") == (
        "PostgreSQL refuses it: not this one"
    )


def test_letters_of_a_labelers_stream_are_no_matter_of_its_repository(database: Database) -> None:
    """A gap of commits that were refused closes with the last of them, whatever became of the account's labels."""
    stream = Stream()
    mod = Person(stream, "mod")
    assert mod.did == MOD
    save_key(database, MOD, None, label_key=OLD)
    index(database, mod.commit(post("a", "first")))
    rows(database.url, "INSERT INTO pipeline.gap (kind, did) VALUES ('commit', %s)", MOD)
    receive(database, [label("spam")], [label("rude", ANOTHERS)], known=OLD)
    save_key(database, MOD, None, label_key=NEW)
    assert try_again(database).resolved == 1
    still_open = "SELECT count(*) FROM pipeline.gap WHERE resolved_at IS NULL"
    assert one(database.url, still_open) == 1
    frame = mod.commit(post("b", "second"))
    rows(
        database.url,
        "INSERT INTO pipeline.dead_letter (fingerprint, source, did, kind, reason, bytes, byte_length, form) "
        "VALUES ('x', 'wss://relay.example', %s, 'commit-car', 'a mistake', %s, %s, 'frame')",
        *(MOD, frame, len(frame)),
    )
    assert (try_again(database).resolved, one(database.url, still_open)) == (1, 0)
    assert letters(database)[1] == ("label-signature", "label", True, False), "which is still dead"


def test_letters_of_both_streams_are_tried_together(database: Database) -> None:
    stream = Stream()
    ann = Person(stream, "ann")
    save_key(database, MOD, None, label_key=NEW)
    receive(database, [label("spam")], known=OLD)
    index(database, ann.commit(post("a", "first")), ann.commit(post("b", "second", langs="none")))
    found = try_again(database)
    assert (found.tried, found.resolved, found.failed) == (2, 1, {"lexicon": 1})
    found = try_again(database, kind="label-signature")
    assert found.tried == 0
