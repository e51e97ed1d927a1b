"""`bsky.label` is a function of the set of label events, however they arrive, whoever writes them and is killed."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appview_pipeline.store import labels as labels_module
from appview_pipeline.store.database import Database
from appview_pipeline.store.labels import LabelRow, rebuild_labels
from appview_pipeline_tests.properties.label_deliveries import Listener, delivery, of_sources, stored_rows
from appview_pipeline_tests.properties.label_writer import write_from_cursor
from appview_pipeline_tests.support.label_model import LabelModel
from appview_pipeline_tests.support.label_rows import apply_rows, label_row
from appview_pipeline_tests.support.tables import Fresh, one, rows

_numbers = itertools.count(1)
SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def shared(fresh: Fresh) -> Iterator[Database]:
    """A database whose examples have labelers of their own."""
    with fresh() as database:
        yield database


def check(database: Database, number: int, model: LabelModel) -> None:
    """The rows, the events and the counts are what the model says."""
    assert stored_rows(database, number) == model.rows()
    suffix = f"{number:023}"
    assert one(database.url, "SELECT count(*) FROM pipeline.label_event WHERE right(src, 23) = %s", suffix) == (
        model.events
    )
    counted = dict(rows(database.url, "SELECT did, in_effect FROM pipeline.labeler WHERE right(did, 23) = %s", suffix))
    assert counted == model.not_negated()


@settings(max_examples=40)
@given(SEEDS)
def test_any_order_batches_and_repetition(shared: Database, seed: int) -> None:
    number = next(_numbers)
    model, listener = LabelModel(), Listener(shared, number)
    for batch in delivery(seed).batches:
        own = of_sources(batch, number)
        report = apply_rows(shared, own)
        before = model.events
        model.add(own)
        assert (report.added, report.repeated) == (model.events - before, len(own) - (model.events - before))
        assert stored_rows(shared, number) == model.rows()
        listener.read()
        said = {key: (row.cts, row.exp) for key, row in model.rows().items() if not row.neg}
        assert listener.labels == said
    check(shared, number, model)


@settings(max_examples=15)
@given(SEEDS, st.integers(2, 3))
def test_several_writers_at_once_beside_a_rebuild(shared: Database, seed: int, writers: int) -> None:
    number = next(_numbers)
    own = [of_sources(batch, number) for batch in delivery(seed).batches]
    failures: list[BaseException] = []

    def write(batches: Sequence[list[LabelRow]]) -> None:
        try:
            for batch in batches:
                apply_rows(shared, batch)
        except BaseException as error:
            failures.append(error)

    def rebuild() -> None:
        try:
            for src in sorted({row.src for batch in own for row in batch}):
                with shared.connect("maintenance") as connection:
                    rebuild_labels(connection, src)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(own[first::writers],)) for first in range(writers)]
    threads.append(threading.Thread(target=rebuild))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    model = LabelModel()
    for batch in own:
        model.add(batch)
    check(shared, number, model)
    listener = Listener(shared, number)
    listener.read()
    assert listener.labels.keys() == {key for key, row in model.rows().items() if not row.neg}


DAMAGE = (
    "DELETE FROM bsky.label WHERE src = %(src)s AND random() < 0.5",
    "UPDATE bsky.label SET neg = NOT neg WHERE src = %(src)s AND random() < 0.5",
    "UPDATE bsky.label SET cts = '2000-01-01T00:00:00.000Z', exp = NULL WHERE src = %(src)s AND random() < 0.5",
    "INSERT INTO bsky.label (src, uri, cid, val, neg, cts) "
    "SELECT %(src)s, 'did:example:' || n, '', 'made-up', n = 1, '2000-01-01T00:00:00.000Z' "
    "FROM generate_series(1, 3) n",
    "UPDATE pipeline.labeler SET in_effect = in_effect + 7 WHERE did = %(src)s",
)


@settings(max_examples=20)
@given(SEEDS)
def test_rebuilt_after_any_damage(shared: Database, seed: int) -> None:
    number = next(_numbers)
    own = of_sources(delivery(seed).events, number)
    model = LabelModel()
    model.add(own)
    apply_rows(shared, own)
    rng = Random(seed)
    with shared.connect("maintenance") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT setseed(%s)", (rng.random(),))
        for src in {row.src for row in own}:
            for damage in rng.sample(DAMAGE, rng.randint(1, len(DAMAGE))):
                cursor.execute(damage, {"src": src})
    wrong = stored_rows(shared, number)
    right = model.rows()
    rebuilt = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(labels_module, "REBUILT_AT_ONCE", rng.choice((1, 3, 1_000)))
        for src in sorted({row.src for row in own}):
            with shared.connect("maintenance") as connection:
                rebuilt.append(rebuild_labels(connection, src))
    check(shared, number, model)
    assert sum(it.rows for it in rebuilt) == len(right)
    assert sum(it.added for it in rebuilt) == len(right.keys() - wrong.keys())
    assert sum(it.removed for it in rebuilt) == len(wrong.keys() - right.keys())
    assert sum(it.corrected for it in rebuilt) == sum(right[key] != wrong[key] for key in right.keys() & wrong.keys())


SRC = "did:plc:" + "k" * 24
SAID = 240


def test_a_writer_killed_at_any_statement(database: Database) -> None:
    """It reads its cursor and goes on. Nothing is lost or counted twice, and a listener misses nothing."""
    rng = Random(7)
    said = [
        label_row(
            SRC,
            f"did:plc:{rng.randrange(8):024}",
            "spam",
            cid=rng.choice(("", "bafyone")),
            neg=rng.random() < 0.4,
            cts=f"2025-06-15T15:06:{rng.randrange(60):02}.000Z",
            seq=seq,
        )
        for seq in range(1, SAID + 1)
    ]
    rows(database.url, "INSERT INTO pipeline.labeler (did, endpoint) VALUES (%s, 'wss://labels.example')", SRC)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["appview_pipeline_tests.properties.label_writer"])
    killed = 0
    for statement in itertools.count(1):
        process = processes.Process(target=write_from_cursor, args=(database.url, said, 8, statement))
        process.start()
        process.join(60)
        at = one(database.url, "SELECT cursor FROM pipeline.labeler")
        model = LabelModel()
        model.add(said[:at])
        found = rows(database.url, "SELECT src, uri, cid, val, neg FROM bsky.label ORDER BY 1, 2, 3, 4")
        assert found == sorted((*key, row.neg) for key, row in model.rows().items())
        if process.exitcode == 0:  # a batch has fewer statements
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
    assert killed > 12
    assert rows(database.url, "SELECT cursor, frames, labels, in_effect, changed, repeated FROM pipeline.labeler") == [
        (
            SAID,
            SAID,
            SAID,
            sum(not row.neg for row in model.rows().values()),
            one(database.url, "SELECT count(*) FROM pipeline.label_event WHERE took_effect"),
            SAID - model.events,
        )
    ]
