"""Labelers that opt out or are removed: nothing new of them is stored, what they said goes, and they may come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from appview_pipeline.ingest import removal as removal_module
from appview_pipeline.ingest.removal import RemovalSummary, remove_accounts
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Connection, Database
from appview_pipeline.store.labelers import want
from appview_pipeline.store.labels import LabelBatch, LabelerProgress, LabelRow, Rebuilt, apply_labels, rebuild_labels
from appview_pipeline_tests.support.frames import did_of
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.statement_hooks import HookedDatabase
from appview_pipeline_tests.support.tables import one, rows
from appview_pipeline_tests.support.traces import tables_of, traces

MOD, OTHER, ANN = did_of("mod"), did_of("other"), did_of("ann")
LATER = "2025-06-16T00:00:00.000Z"


def said(src: str, number: int = 5) -> list[LabelRow]:
    """Labels of posts of Ann's and of her account; some are taken back."""
    posts = [f"at://{ANN}/app.bsky.feed.post/{rkey}" for rkey in range(number)]
    return [
        *(label_row(src, uri, "spam", seq=seq) for seq, uri in enumerate(posts, 1)),
        *(label_row(src, uri, "spam", neg=True, cts=LATER, seq=100 + seq) for seq, uri in enumerate(posts[::2])),
        label_row(src, ANN, "rude", seq=200),
    ]


def known(database: Database, *dids: str) -> None:
    """Has them read: rows of `pipeline.labeler`, whose streams have come somewhere; and what their labels mean."""
    with database.connect("writer") as connection:
        want(connection, dids)
    for did in dids:
        rows(
            database.url,
            "UPDATE pipeline.labeler SET cursor = 250, endpoint = 'wss://mod.example', caught_up_at = now(), "
            "state = 'connected' WHERE did = %s",
            did,
        )
        rows(database.url, "INSERT INTO pipeline.label_swept VALUES (%s, 17)", did)
        rows(database.url, "INSERT INTO pipeline.label_definition (src, val) VALUES (%s, 'spam')", did)
        rows(database.url, "INSERT INTO pipeline.label_definition (src, val, is_local) VALUES (%s, 'x', true)", did)


def remove(database: Database) -> RemovalSummary:
    return remove_accounts(Settings(database_url=database.url), database)


def of_src(database: Database, src: str) -> tuple[int, int]:
    """Rows of label_event and of bsky.label."""
    return (
        one(database.url, "SELECT count(*) FROM pipeline.label_event WHERE src = %s", src),
        one(database.url, "SELECT count(*) FROM bsky.label WHERE src = %s", src),
    )


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal_module, "LEFT_OVER_CHUNK", 3)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("reason", ["deleted", "opt-out"])
def test_what_a_removed_labeler_said_goes(database: Database, reason: str) -> None:
    known(database, MOD, OTHER)
    apply_rows(database, [*said(MOD), *said(OTHER), label_row(OTHER, MOD, "about-it")])
    # A row that nobody has an event of: the operator's, from before there were any.
    rows(
        database.url,
        "INSERT INTO bsky.label (src, uri, cid, val, neg, cts) VALUES (%s, %s, '', 'by hand', false, %s)",
        *(MOD, ANN, LATER),
    )
    others = of_src(database, OTHER)
    assert of_src(database, MOD) == (9, 7)
    if reason == "deleted":
        rows(database.url, "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted')", MOD)
    else:
        rows(database.url, "SELECT pipeline.forbid_data_collection(%s, true)", MOD)
    summary = remove(database)
    assert (summary.accounts, summary.failed) == (1, None)
    assert of_src(database, MOD) == (0, 0)
    assert of_src(database, OTHER) == others
    # What is left of it: how it is kept out, what others said of it, and what the operator says of its labels.
    kept = {"pipeline.removal", "pipeline.repo", "pipeline.label_definition", "pipeline.label_event", "bsky.label"}
    assert tables_of(traces(database.url, MOD)) == kept | (
        {"pipeline.actor_setting"} if reason == "opt-out" else set[str]()
    )
    assert rows(database.url, "SELECT src, uri FROM bsky.label WHERE %s IN (src, uri)", MOD) == [(OTHER, MOD)]
    assert rows(database.url, "SELECT val FROM pipeline.label_definition WHERE src = %s", MOD) == [("x",)]


def test_nothing_new_of_a_labeler_that_opted_out_is_stored(database: Database) -> None:
    """Also not that it takes a label back; and one that is named in the settings is not read."""
    known(database, MOD)
    apply_rows(database, said(MOD))
    rows(database.url, "SELECT pipeline.forbid_data_collection(%s)", MOD)
    before = of_src(database, MOD)
    found = apply_rows(database, [label_row(MOD, ANN, "rude", neg=True, cts=LATER), *said(OTHER)])
    assert (found.withheld, found.added) == (1, 9)
    assert of_src(database, MOD) == before
    assert one(database.url, "SELECT neg FROM bsky.label WHERE src = %s AND val = 'rude'", MOD) is False
    with database.connect("writer") as connection:
        assert want(connection, [MOD, OTHER]) == [OTHER]


def test_a_labeler_that_is_allowed_again_is_read_from_the_beginning(database: Database) -> None:
    known(database, MOD, OTHER)
    state = "SELECT cursor, caught_up_at IS NULL FROM pipeline.labeler WHERE did = %s"
    rows(database.url, "SELECT pipeline.forbid_data_collection(%s)", MOD)
    assert rows(database.url, state, MOD) == [(250, False)]
    rows(database.url, "SELECT pipeline.allow_data_collection(%s)", MOD)
    assert rows(database.url, state, MOD) == [(0, True)]
    assert rows(database.url, state, OTHER) == [(250, False)]
    assert apply_rows(database, said(MOD)).added == 9


@pytest.mark.parametrize("cursor", [0, 7])
def test_a_labeler_that_is_allowed_again_while_a_batch_withholds_its_labels_loses_none(
    database: Database, cursor: int
) -> None:
    """The batch has found it excluded. Its cursor is set to 0 before the batch moves it: it has to stay there, also
    where the batch began at 0."""
    known(database, MOD)
    rows(database.url, "UPDATE pipeline.labeler SET cursor = %s", cursor)
    rows(database.url, "SELECT pipeline.forbid_data_collection(%s)", MOD)
    progress = LabelerProgress(MOD, "wss://mod.example", cursor, 250, frames=9, labels=9)

    @contextmanager
    def around(name: str, connection: Connection) -> Iterator[None]:
        if name == "label.lock_labelers":
            assert one(database.url, "SELECT pipeline.allow_data_collection(%s)", MOD)
        yield

    hooked = HookedDatabase(database.url, Settings(database_url=database.url), around)
    try:
        with hooked.connect("writer") as connection:
            report = apply_labels(connection, LabelBatch(said(MOD), [progress]))
    finally:
        hooked.close()
    assert (report.withheld, report.moved) == (9, frozenset({MOD}))
    assert one(database.url, "SELECT cursor FROM pipeline.labeler") == 0


@pytest.mark.usefixtures("small_chunks")
def test_a_removal_that_is_taken_back_stops(database: Database) -> None:
    """The labeler is allowed again between two chunks: what is left stays, and its stream brings the rest."""
    known(database, MOD)
    apply_rows(database, said(MOD))
    rows(database.url, "SELECT pipeline.forbid_data_collection(%s, true)", MOD)
    chunks = 0

    @contextmanager
    def around(name: str, connection: Connection) -> Iterator[None]:
        nonlocal chunks
        if name == "remove.lock":  # the transaction has no lock yet
            chunks += 1
            if chunks == 2:
                assert one(database.url, "SELECT pipeline.allow_data_collection(%s)", MOD)
        yield

    hooked = HookedDatabase(database.url, Settings(database_url=database.url), around)
    try:
        summary = remove(hooked)
    finally:
        hooked.close()
    assert (summary.accounts, summary.taken_back, summary.failed) == (0, 1, None)
    assert of_src(database, MOD) == (4, 3), "three subjects and values are gone, the others are whole"
    in_effect = "SELECT in_effect FROM pipeline.labeler WHERE did = %s"
    assert one(database.url, in_effect, MOD) == 2
    with database.connect("writer") as connection:
        assert rebuild_labels(connection, MOD) == Rebuilt(rows=3, added=0, removed=0, corrected=0)
    assert apply_rows(database, said(MOD)).added == 5
    assert of_src(database, MOD) == (9, 6)
    assert one(database.url, "SELECT count(*) FROM bsky.label WHERE src = %s AND neg", MOD) == 3
    assert one(database.url, in_effect, MOD) == 3
