"""How the statements that apply labels are run: by look-ups, whatever is stored of a subject or labeler."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg2.extensions import cursor as Cursor

from appview_pipeline.store import labels as labels_module
from appview_pipeline.store.database import Database
from appview_pipeline.store.labels import (
    LabelBatch,
    LabelerProgress,
    announce_expired,
    apply_labels,
    rebuild_labels,
    remove_labels,
)
from appview_pipeline.store.sql import sections
from appview_pipeline_tests.support.explain import ExplainingCursor
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.statement_hooks import statement_name
from appview_pipeline_tests.support.tables import rows

SRC = "did:plc:" + "a" * 24
OTHER = "did:plc:" + "b" * 24
SUBJECT = "at://did:plc:" + "s" * 24 + "/app.bsky.feed.post/a"


def fill(database: Database, labels: int) -> None:
    """So many labels of SRC on one subject, each with its own value and negated by every other labeler, and as many on
    other subjects."""
    for uri, val in ((f"'{SUBJECT}'", "'v' || n"), ("'did:plc:' || lpad(n::text, 24, 'x')", "'spam'")):
        rows(
            database.url,
            f"INSERT INTO pipeline.label_event (src, uri, val, cts, cts_at) "
            f"SELECT %s, {uri}, {val}, '', now() - interval '1 day' FROM generate_series(1, %s) n",
            SRC,
            labels,
        )
        rows(
            database.url,
            f"INSERT INTO bsky.label (src, uri, cid, val, neg, cts) "
            f"SELECT %s, {uri}, '', {val}, false, '2020-01-01T00:00:00.000Z' FROM generate_series(1, %s) n",
            SRC,
            labels,
        )


@pytest.fixture
def explaining(monkeypatch: pytest.MonkeyPatch) -> type[ExplainingCursor]:
    monkeypatch.setattr(ExplainingCursor, "found", set())
    monkeypatch.setattr(ExplainingCursor, "names", set())
    monkeypatch.setattr(
        labels_module,
        "preparing_cursor",
        lambda connection, events: connection.cursor(cursor_factory=ExplainingCursor),
    )
    return ExplainingCursor


def batch() -> list[Any]:
    """Labels and negations, new and known, some of which end others, take no effect, or move."""
    said = [label_row(SRC, SUBJECT, f"v{number}", neg=True, cts="2999-01-01T00:00:00Z") for number in range(40)]
    said += [label_row(SRC, SUBJECT, "many", cid=f"bafy{number}", seq=number) for number in range(40)]
    said += [label_row(OTHER, SUBJECT, "spam", exp="2999-01-01T00:00:00Z")]
    said += [label_row(SRC, SUBJECT, "many", cid="bafyold", cts="2020-01-01T00:00:00Z")]
    said += [label_row(SRC, SUBJECT, "many", cid="bafyold", cts="2021-01-01T00:00:00Z", neg=True)]
    return said


@pytest.mark.parametrize("stored", [0, 300, 5_000])
def test_no_statement_reads_a_whole_table(database: Database, explaining: type[ExplainingCursor], stored: int) -> None:
    """In a small database too: there the planner is tempted most, and what it does there it does for a while."""
    fill(database, stored)
    rows(database.url, "INSERT INTO pipeline.labeler (did, endpoint) VALUES (%s, 'wss://x')", SRC)
    if stored:
        rows(database.url, "ANALYZE pipeline.label_event, bsky.label, pipeline.labeler")
    same = [label_row(SRC, SUBJECT, "same", seq=2), label_row(SRC, SUBJECT, "same", neg=True, seq=1)]
    first, second = [*batch()[:-1], *same], [*batch(), same[1]._replace(seq=3)]
    for said in (first, second):
        with database.connect("writer") as connection:
            apply_labels(connection, LabelBatch(said, [LabelerProgress(SRC, "wss://x", 0, 0, frames=1)]))
    few = {"labeler", "label_feed", "dead_letter"}
    assert {it for it in explaining.found if it[1] not in few} == set()
    wanted = {"lock", "events", "derive", "effects", "without_effect", "known_again", "survivors_again", "sources"}
    wanted |= {"announced", "notify", "lock_labelers", "count", "advance", "make_labelers"}
    assert {f"label.{name}" for name in wanted} <= explaining.names


def test_nor_do_those_of_rebuilds_removals_and_expiry(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database, 2_000)
    apply_rows(database, batch())
    rows(database.url, "ANALYZE pipeline.label_event, bsky.label")
    monkeypatch.setattr(ExplainingCursor, "found", set())
    monkeypatch.setattr(ExplainingCursor, "names", set())
    monkeypatch.setattr(labels_module, "REBUILT_AT_ONCE", 500)

    with database.connect("maintenance") as connection:
        connection.cursor_factory = ExplainingCursor
        try:
            rebuild_labels(connection, SRC)
            announce_expired(connection)
            while remove_labels(connection, OTHER, 10):
                pass
        finally:
            connection.cursor_factory = Cursor
    few = {"labeler", "label_feed"}
    # All rows of a labeler are counted at the end, and there is no other labeler.
    assert {it for it in ExplainingCursor.found if it[1] not in few and it[0] != "label.drift"} == set()
    wanted = {"page_of_events", "derive", "page_of_rows", "drift", "expired", "remove_events", "remove_rows"}
    assert {f"label.{name}" for name in wanted} <= ExplainingCursor.names


class CountingCursor(Cursor):
    """Counts the rows that the plans of statements touch, in permanent tables."""

    touched = 0

    def execute(self, query: Any, vars: Any = None) -> None:
        if statement_name(query) in ("label.events", "label.derive", "label.effects", "label.survivors_again"):
            super().execute(f"EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) {query}", vars)
            found = self.fetchone()
            assert found is not None
            CountingCursor.touched += rows_touched(found[0][0]["Plan"])
        else:
            super().execute(query, vars)


def rows_touched(node: dict[str, Any]) -> int:
    """Rows that the nodes of a plan returned or threw away."""
    own = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck")
    total = sum(node.get(name, 0) for name in own) * node["Actual Loops"]
    return int(total + sum(rows_touched(child) for child in node.get("Plans", ())))


@pytest.mark.parametrize("said", ["values", "cids", "negations", "moments"])
def test_the_cost_does_not_depend_on_what_is_stored_of_a_subject(
    database: Database, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Batches of 100: the last ones touch as many rows as the first."""

    def events(first: int) -> list[Any]:
        made = []
        for number in range(first, first + 100):
            cts = f"2025-06-15T15:{number // 60_000:02}:{number // 1_000 % 60:02}.{number % 1_000:03}Z"
            match said:
                case "values":
                    made += [label_row(SRC, SUBJECT, f"v{number}"), label_row(SRC, SUBJECT, f"v{number}", neg=True)]
                case "cids":  # with a negation of one that no longer ends anything, since it is older
                    made += [label_row(SRC, SUBJECT, "x", cid=f"bafy{number}", cts=cts)]
                    made += [label_row(SRC, SUBJECT, "y", cid=f"bafy{number}", cts=cts)]
                case "negations":
                    made += [label_row(SRC, SUBJECT, "x", cid=f"bafy{number}", cts=cts, neg=number >= 1_000)]
                case "moments":
                    made += [label_row(SRC, SUBJECT, "x", cts=cts, neg=number % 2 == 0)]
        return made

    counts = []
    for first in range(0, 2_000, 100):
        with database.connect("writer") as connection:
            monkeypatch.setattr(CountingCursor, "touched", 0)
            monkeypatch.setattr(
                labels_module,
                "preparing_cursor",
                lambda connection, events: connection.cursor(cursor_factory=CountingCursor),
            )
            apply_labels(connection, LabelBatch(events(first)))
            counts.append(CountingCursor.touched)
    one_off = counts[10] if said == "negations" else 0  # the first negation ends all that was there
    rest = [count for count in counts if count != one_off]
    assert max(rest[-5:]) < 1.3 * max(rest[:5]), counts


def test_events_of_one_moment_that_differ_in_their_exp(database: Database) -> None:
    """Only so many of them are looked at; which, does not depend on the order in which they came."""
    assert "LIMIT 100" in sections("apply/label.sql")["derive"]
    said = [
        label_row(SRC, SUBJECT, "x", exp=f"2999-01-01T00:{number // 60:02}:{number % 60:02}Z", seq=500 - number)
        for number in range(300)
    ]
    for first in range(0, 300, 50):
        apply_rows(database, said[first : first + 50])
    apply_rows(database, [row._replace(uri=OTHER) for row in reversed(said)])
    found = rows(database.url, "SELECT exp FROM bsky.label")
    assert found == [("2999-01-01T00:03:20.000Z",)] * 2  # of the 100 latest the one with the highest seq
