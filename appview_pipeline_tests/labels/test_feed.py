"""The label feed: in order, resumed by a cursor, woken by NOTIFY, nothing missed beside writers."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest

from appview_pipeline.labels.feed import FeedPage, FutureCursor, feed_bounds, follow, listen, read_feed
from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import run
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.tables import one, rows
from appview_pipeline_tests.support.waiting import wait_for

ANN, BOB, EVE = ("did:plc:" + letter * 24 for letter in "abe")


def page(database: Database, after: int, limit: int = 100, **asked: object) -> FeedPage:
    with database.connect("reader") as connection:
        return read_feed(connection, after, limit=limit, **asked)  # type: ignore[arg-type]


@contextmanager
def followed(database: Database, after: int | None, **more: object) -> Iterator[list[FeedPage]]:
    """Pages of the feed, as they come, read by a thread."""
    pages: list[FeedPage] = []
    stopping = threading.Event()

    def read() -> None:
        # Extended page by page, as they come.
        pages.extend(follow(database, after=after, stopped=stopping.is_set, **more))  # type: ignore[arg-type]

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(read)
        try:
            yield pages
        finally:
            stopping.set()
            running.result(30)


def ids(pages: list[FeedPage]) -> list[int]:
    return [event.id for found in pages for event in found.events]


def test_pages_have_what_took_effect_and_move_past_the_rest(database: Database) -> None:
    apply_rows(
        database, [label_row(ANN, "did:plc:x", "spam", seq=9, cts="2025-01-02T00:00:00Z", exp="2099-01-01T00:00:00Z")]
    )
    apply_rows(database, [label_row(ANN, "did:plc:x", "spam", seq=1, cts="2025-01-01T00:00:00Z")])  # too late
    apply_rows(database, [label_row(BOB, "did:plc:x", "spam", cid="bafya", seq=1), label_row(BOB, "did:plc:y", "rude")])
    found = page(database, 0)
    assert [(event.id, event.src, event.uri, event.cid, event.val) for event in found.events] == [
        (1, ANN, "did:plc:x", "", "spam"),
        (3, BOB, "did:plc:x", "bafya", "spam"),
        (4, BOB, "did:plc:y", "", "rude"),
    ]
    first = found.events[0]
    assert (first.cts, first.exp, first.neg, first.sig) == ("2025-01-02T00:00:00Z", "2099-01-01T00:00:00Z", False, None)
    assert (first.cts_micros, first.exp_micros) == (1_735_776_000_000_000, 4_070_908_800_000_000)
    assert found.cursor == 4
    assert page(database, 0, limit=2) == FeedPage(found.events[:1], 2)
    assert page(database, 1, limit=1) == FeedPage([], 2)
    assert page(database, 4) == FeedPage([], 4)
    assert page(database, 0, until=3) == FeedPage(found.events[:2], 3)
    assert page(database, 0, until=2, limit=1) == FeedPage(found.events[:1], 1)
    assert page(database, 0, unsigned=False) == FeedPage([], 4)


def test_pages_of_some_sources(database: Database) -> None:
    for number in range(6):
        apply_rows(database, [label_row((ANN, BOB, EVE)[number % 3], f"did:plc:x{number}", "spam")])
    assert ids([page(database, 0, sources=[ANN, EVE])]) == [1, 3, 4, 6]
    assert page(database, 0, sources=[BOB]).cursor == 6
    assert page(database, 0, limit=2, sources=[ANN, EVE]).cursor == 3
    assert page(database, 5, sources=[BOB]) == FeedPage([], 6)
    assert page(database, 0, sources=[]) == FeedPage([], 6)
    assert (page(database, 0, until=5, sources=[EVE]).cursor, ids([page(database, 0, until=5, sources=[EVE])])) == (
        5,
        [3],
    )
    # As when a labeler was removed.
    run(database.url, "DELETE FROM pipeline.label_event WHERE id > 2")
    assert page(database, 2, until=6) == page(database, 2, until=6, sources=[EVE]) == FeedPage([], 6)


def test_cursors_outside_of_the_feed(database: Database) -> None:
    with pytest.raises(FutureCursor, match="The cursor 1 lies in the future: the newest label event is 0"):
        next(follow(database, after=1))
    apply_rows(database, [label_row(ANN, f"did:plc:x{number}", "spam") for number in range(5)])
    run(database.url, f"INSERT INTO pipeline.label_swept VALUES ('{ANN}', 3)")
    for after, outdated in ((0, False), (2, True), (3, False)):
        first = next(follow(database, after=after))
        assert (first.events[0].id, first.is_outdated) == (after + 1, outdated)
    assert not next(follow(database, after=2, sources=[BOB])).is_outdated
    # Ids that are gone are no future, as those of a labeler that was removed.
    run(database.url, "DELETE FROM pipeline.label_event WHERE id > 3")
    apply_rows(database, [label_row(BOB, "did:plc:x", "spam")])
    assert next(follow(database, after=5)).events[0].id == 6
    with pytest.raises(FutureCursor):
        next(follow(database, after=7))


def test_a_database_that_is_replaced_by_an_older_copy_ends_a_reader(database: Database) -> None:
    apply_rows(database, [label_row(ANN, f"did:plc:x{number}", "spam") for number in range(5)])
    pages = follow(database, after=0, poll_seconds=0.05)
    assert next(pages).cursor == 5
    run(database.url, "DELETE FROM pipeline.label_event WHERE id > 2")
    run(database.url, "SELECT setval('pipeline.label_event_id_seq', 2)")
    with pytest.raises(FutureCursor, match="The cursor 5 lies in the future: the newest label event is 2"):
        next(pages)


def test_only_the_first_page_after_an_old_cursor_is_outdated(database: Database) -> None:
    apply_rows(database, [label_row(ANN, f"did:plc:x{number}", "spam") for number in range(5)])
    run(database.url, f"INSERT INTO pipeline.label_swept VALUES ('{ANN}', 3)")
    assert [found.is_outdated for found in islice(follow(database, after=1, limit=2), 2)] == [True, False]


def test_a_notification_wakes_a_reader_at_once(database: Database) -> None:
    apply_rows(database, [label_row(ANN, "did:plc:x", "spam")])
    with followed(database, None, poll_seconds=600.0) as pages:
        listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        wait_for(lambda: one(database.url, listening))
        for number in range(3):
            before = time.monotonic()
            apply_rows(database, [label_row(ANN, f"did:plc:y{number}", "spam")])
            wait_for(lambda wanted=number + 2: ids(pages)[-1:] == [wanted])  # type: ignore[misc]
            assert time.monotonic() - before < 5
    assert ids(pages) == [2, 3, 4]


def test_without_notifications_a_reader_polls(database: Database) -> None:
    with followed(database, 0, poll_seconds=0.05) as pages:
        run(
            database.url,
            "INSERT INTO pipeline.label_event (src, uri, val, cts, cts_at) "
            "VALUES ('did:plc:a', 'did:plc:x', 'a', '', now())",
        )
        wait_for(lambda: ids(pages) == [1])


def test_a_reader_outlives_its_connections(database: Database) -> None:
    """As when the database restarts: the one that listens, and those of the pool."""
    with followed(database, 0, poll_seconds=600.0) as pages:
        apply_rows(database, [label_row(ANN, "did:plc:x", "spam")])
        wait_for(lambda: ids(pages) == [1])
        run(
            database.url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        apply_rows(database, [label_row(ANN, "did:plc:y", "spam")])
        wait_for(lambda: ids(pages) == [1, 2])


def test_listening_ends_when_it_should(database: Database) -> None:
    stopping = threading.Event()
    listening = listen(database, stopped=stopping.is_set, poll_seconds=600.0)
    next(listening)
    threading.Timer(0.1, stopping.set).start()
    began = time.monotonic()
    assert list(listening) == [None]
    assert time.monotonic() - began < 5


def test_readers_beside_writers_miss_nothing(database: Database) -> None:
    """Writers overlap; whoever reads up to an id while they work has everything up to it, once and in order."""
    writers, batches = 4, 25

    def write(writer: int) -> None:
        for batch in range(batches):
            labels = [label_row(ANN, f"did:plc:x{writer}-{batch}-{number}", "spam") for number in range(batch % 7 + 1)]
            apply_rows(database, labels)

    with followed(database, 0, limit=5) as small, followed(database, 0) as large:
        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(write, range(writers)))
        with database.connect("reader") as connection:
            newest = feed_bounds(connection).newest
        wait_for(lambda: all(pages and pages[-1].cursor == newest for pages in (small, large)))
    expected = [row[0] for row in rows(database.url, "SELECT id FROM pipeline.label_event ORDER BY id")]
    assert ids(small) == ids(large) == expected
    assert len(expected) == writers * sum(batch % 7 + 1 for batch in range(batches))


def test_the_documents_examples_run(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CHECKOUT / "docs" / "serving-labels.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for written, run_here in (
        ("None", "0"),
        ("        ...", "        seen.append(event)"),
        ("= page.cursor", "= page; break"),
    ):
        assert written in code
        code = code.replace(written, run_here, 1)
    apply_rows(database, [label_row(ANN, "did:plc:x", "spam"), label_row(ANN, "did:plc:y", "spam")])
    monkeypatch.setenv("DATABASE_URL", database.url)
    known: dict[str, Any] = {"seen": []}
    exec(compile(code, "docs/serving-labels.md", "exec"), known)
    known["database"].close()
    assert [event.uri for event in known["seen"]] == ["did:plc:x", "did:plc:y"]
    (query,) = re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [row[2] for row in rows(database.url, query.replace("$1", "0"))] == ["did:plc:x", "did:plc:y"]
