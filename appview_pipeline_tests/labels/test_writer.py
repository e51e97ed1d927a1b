"""The writer of labels: parts of a batch, what PostgreSQL refuses or is too slow for, and positions that are lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from appview_pipeline import backoff
from appview_pipeline.indexing.changes import DeadLetter
from appview_pipeline.labels.label_frame import LabelFrame, Position
from appview_pipeline.labels.writer import LabelWriter, halves, in_parts
from appview_pipeline.protocol.label import decode_label, read_label
from appview_pipeline.settings import Settings
from appview_pipeline.store.database import Database
from appview_pipeline.store.errors import Cancelled
from appview_pipeline.store.labelers import open_labeler, reread, want
from appview_pipeline.store.labels import LabelReport, apply_labels
from appview_pipeline_tests.support.label_rows import label_row
from appview_pipeline_tests.support.refusing_table import refuse
from appview_pipeline_tests.support.tables import one, rows

LABELER = "did:plc:labelerrrrrrrrrrrrrrrrrr"
SUBJECT = "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb"
SERVER = "wss://labels.example"


@pytest.fixture
def position(database: Database) -> Position:
    with database.connect("writer") as connection:
        want(connection, [LABELER])
        assert open_labeler(connection, LABELER, SERVER) == 0
    return Position(LABELER, SERVER, 0)


@pytest.fixture
def writer(database: Database) -> Iterator[LabelWriter]:
    yield LabelWriter(database, Settings(database_url=database.url, batch_events=10))


def frame(position: Position, seq: int, *vals: str, rejected: int = 0) -> LabelFrame:
    letters = [
        DeadLetter("label-syntax", "because", seq, LABELER, None, f"{seq} {number}".encode(), form="label")
        for number in range(rejected)
    ]
    return LabelFrame(position, seq, [label_row(LABELER, SUBJECT, val, seq=seq) for val in vals], letters)


def write(writer: LabelWriter, frames: Sequence[LabelFrame]) -> int:
    """Writes frames as the pipeline does; returns the number of transactions."""
    return len(writer.write(frames, 0.0, 0.0, writer.build(frames)))


def stored(database: Database) -> tuple[int, list[str], list[str]]:
    """The cursor, the values of labels, and the kinds of dead letters."""
    return (
        one(database.url, "SELECT cursor FROM pipeline.labeler"),
        [val for (val,) in rows(database.url, "SELECT val FROM bsky.label ORDER BY val")],
        [kind for (kind,) in rows(database.url, "SELECT kind FROM pipeline.dead_letter ORDER BY id")],
    )


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([3, 3, 3], [[3, 3, 3]]),
        ([5, 5, 1], [[5, 5], [1]]),
        ([9, 9], [[9], [9]]),
        ([25, 2], [[10], [10], [5, 2]]),
        ([2, 30], [[2], [10], [10], [10]]),
        ([0, 0], [[0, 0]]),
    ],
)
def test_batches_in_parts(sizes: list[int], parts: list[list[int]]) -> None:
    position = Position(LABELER, SERVER, 0)
    frames = [frame(position, number + 1, *(f"v{at}" for at in range(size))) for number, size in enumerate(sizes)]
    found = in_parts(frames, 10)
    assert [[it.labels for it in part] for part in found] == parts
    assert [row for part in found for it in part for row in it.rows] == [row for it in frames for row in it.rows]
    seqs = [it.seq for part in found for it in part if not it.is_part]
    assert seqs == [it.seq for it in frames], "a number counts with the last part of its frame"


def test_halves_end_with_one_label() -> None:
    position = Position(LABELER, SERVER, 0)
    whole = [frame(position, 1, "a", "b", rejected=1), frame(position, 2, "c")]
    singles = []
    left = [whole]
    while left:
        part = left.pop()
        divided = halves(part)
        if divided is None:
            singles.append(part)
        else:
            left += [list(divided[1]), list(divided[0])]
    found = [(it.seq, [row.val for row in it.rows], len(it.rejected)) for part in singles for it in part]
    assert found == [(None, ["a"], 0), (None, ["b"], 0), (1, [], 1), (2, ["c"], 0)]


def test_a_frame_that_is_divided_counts_once(database: Database, writer: LabelWriter, position: Position) -> None:
    assert write(writer, [frame(position, 7, *(f"v{number:02}" for number in range(25)), rejected=3)]) == 3
    assert stored(database) == (7, [f"v{number:02}" for number in range(25)], ["label-syntax"] * 3)
    counted = "SELECT frames, labels, rejected, rejected_by_kind FROM pipeline.labeler"
    assert rows(database.url, counted) == [(1, 25, 3, {"label-syntax": 3})]
    assert position.seq == 7


def test_what_postgresql_refuses_is_found(database: Database, writer: LabelWriter, position: Position) -> None:
    """The label becomes a dead letter that can be tried again; its neighbours are applied, and the cursor goes on."""
    refuse(database, "NEW.val = 'bad'", on="label")
    write(writer, [frame(position, 1, "a", "bad", "b"), frame(position, 2, "c")])
    assert stored(database) == (2, ["a", "b", "c"], ["postgres"])
    ((content, seq, reason),) = rows(database.url, "SELECT bytes, seq, reason FROM pipeline.dead_letter")
    label = read_label(decode_label(bytes(content)), 2_000_000_000_000_000)
    assert (label.val, label.src, seq, reason) == ("bad", LABELER, 1, "refused by the test")
    assert position.seq == 2


def test_a_failure_that_passes_is_tried_again(
    database: Database, writer: LabelWriter, position: Position, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "batch", lambda: backoff.Backoff(first=0.01, longest=0.01))
    refuse(database, "true", code="40P01", once=True, on="label")
    write(writer, [frame(position, 1, "a")])
    assert stored(database) == (1, ["a"], []) and writer.retries == 1


def test_one_label_that_takes_too_long(database: Database, position: Position, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "batch", lambda: backoff.Backoff(first=0.01, longest=0.01))
    refuse(database, "NEW.val = 'slow' AND pg_sleep(20) IS NOT NULL", on="label")
    settings = Settings(database_url=database.url, statement_timeout=0.7)
    hasty = Database(database.url, settings)
    try:
        write(LabelWriter(hasty, settings), [frame(position, 1, "a", "slow"), frame(position, 2, "b")])
    finally:
        hasty.close()
    assert stored(database) == (2, ["a", "b"], ["time-out"])


def test_a_position_that_is_lost(database: Database, writer: LabelWriter, position: Position) -> None:
    """Somebody had the stream begun anew: the cursor stays where they have put it, and later frames are left out."""
    write(writer, [frame(position, 5, "a")])
    with database.connect("writer") as connection:
        assert reread(connection, LABELER)
    write(writer, [frame(position, 6, "b")])
    assert position.is_lost and stored(database)[0] == 0
    assert write(writer, [frame(position, 7, "c")]) == 0
    assert stored(database)[1] == ["a", "b"]


def test_a_labeler_that_is_allowed_again_between_two_parts_of_a_frame(
    database: Database, position: Position, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part was withheld. The cursor was 0 then, is 0 now, and has to stay there, so that all of it comes."""
    rows(database.url, "SELECT pipeline.forbid_data_collection(%s)", LABELER)

    def apply_then_allow(*arguments: Any, **named: Any) -> LabelReport:
        report = apply_labels(*arguments, **named)
        arguments[0].commit()
        rows(database.url, "SELECT pipeline.allow_data_collection(%s)", LABELER)
        return report

    monkeypatch.setattr("appview_pipeline.labels.writer.apply_labels", apply_then_allow)
    writer = LabelWriter(database, Settings(database_url=database.url, batch_events=10))
    assert write(writer, [frame(position, 7, *(f"v{number}" for number in range(20))), frame(position, 8, "x")]) == 1
    assert position.is_lost and stored(database) == (0, [], [])


def test_a_dead_letter_that_takes_too_long_is_written_in_the_end(
    database: Database, position: Position, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can take its place."""
    monkeypatch.setattr(backoff, "batch", lambda: backoff.Backoff(first=0.01, longest=0.01))
    slow = 2 * backoff.CANCELLATIONS_BY_OTHERS

    def apply_slowly(*arguments: Any, **named: Any) -> LabelReport:
        nonlocal slow
        if arguments[1].dead_letters and (slow := slow - 1) > 0:
            raise Cancelled("canceling statement due to statement timeout")
        return apply_labels(*arguments, **named)

    monkeypatch.setattr("appview_pipeline.labels.writer.apply_labels", apply_slowly)
    writer = LabelWriter(database, Settings(database_url=database.url))
    write(writer, [frame(position, 7, rejected=1)])
    assert stored(database) == (7, [], ["label-syntax"])


def test_lower_numbers_do_not_move_the_cursor_back(database: Database, writer: LabelWriter, position: Position) -> None:
    write(writer, [frame(position, 9, "a"), frame(position, 3, "b")])
    write(writer, [frame(position, 4, "c")])
    assert stored(database) == (9, ["a", "b", "c"], []) and position.seq == 9
