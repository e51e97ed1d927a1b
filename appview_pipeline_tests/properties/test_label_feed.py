"""Readers of the label feed who apply its events in order end with what is in effect, wherever they began, while
labels come in any order, event ids are given anew, and past events are swept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appview_pipeline.store.database import Database
from appview_pipeline.store.label_feed import feed_bounds, read_feed
from appview_pipeline.store.labels import rebuild_labels
from appview_pipeline.store.sweeps import sweep_to_its_end
from appview_pipeline_tests.properties.label_deliveries import delivery, of_sources, stored_rows
from appview_pipeline_tests.support.label_model import Key, LabelModel, ModelRow, iso_millis
from appview_pipeline_tests.support.label_rows import apply_rows
from appview_pipeline_tests.support.tables import Fresh

_numbers = itertools.count(1)
ALL_OLD = datetime.now(timezone.utc) + timedelta(days=1)


@pytest.fixture(scope="module")
def shared(fresh: Fresh) -> Iterator[Database]:
    """A database whose examples have labelers of their own."""
    with fresh() as database:
        yield database


@dataclass
class Reader:
    """A client with its own cursor, which knows nothing but the feed: a label sets its key, a negation ends every CID
    of (src, uri, val)."""

    cursor: int
    labels: dict[Key, tuple[str, str | None]] = field(default_factory=dict)

    def read_page(self, database: Database, sources: list[str], limit: int) -> bool:
        """Applies one page. Returns whether there may be more."""
        with database.connect("reader") as connection:
            page = read_feed(connection, self.cursor, limit=limit, sources=sources)
        for event in page.events:
            if event.neg:
                said = (event.src, event.uri, event.val)
                self.labels = {key: it for key, it in self.labels.items() if (key[0], key[1], key[3]) != said}
            else:
                times = (
                    iso_millis(event.cts_micros),
                    None if event.exp_micros is None else iso_millis(event.exp_micros),
                )
                self.labels[event.src, event.uri, event.cid, event.val] = times
        moved, self.cursor = page.cursor != self.cursor, page.cursor
        return moved


def in_effect(rows: dict[Key, ModelRow]) -> dict[Key, tuple[str, str | None]]:
    return {key: (row.cts, row.exp) for key, row in rows.items() if not row.neg}


@settings(max_examples=15)
@given(st.integers(0, 2**32))
def test_from_any_cursor_while_ids_are_given_anew_and_swept(shared: Database, seed: int) -> None:
    rng, number = Random(seed), next(_numbers)
    sources = [f"did:plc:{letter}{number:023}" for letter in "ab"]
    with shared.connect("reader") as connection:
        begin = feed_bounds(connection).newest
    model, readers = LabelModel(), [Reader(begin)]
    # One event at a time in every other example: more comes and goes that readers may have seen.
    batches = delivery(seed).batches if seed % 2 else [[row] for row in delivery(seed).events]
    for batch in batches:
        own = of_sources(batch, number)
        model.add(own)
        apply_rows(shared, own)
        for step in rng.sample(("sweep", "join", "read", "go back", "rebuild"), rng.randint(0, 3)):
            if step == "sweep":
                with shared.connect("maintenance") as connection:
                    sweep_to_its_end(connection, "label events", ALL_OLD, rng.choice((1, 3, 1_000)))
            elif step == "join":
                with shared.connect("reader") as connection:
                    newest = feed_bounds(connection).newest
                readers.append(Reader(newest, in_effect(stored_rows(shared, number))))
            elif step == "read":
                rng.choice(readers).read_page(shared, sources, rng.randint(1, 4))
            elif step == "go back":
                # It has lost its last cursors, and has what it had applied.
                reader = rng.choice(readers)
                reader.cursor = rng.randint(begin, reader.cursor)
            else:
                with shared.connect("maintenance") as connection:
                    rebuilt = rebuild_labels(connection, sources[0])
                assert (rebuilt.added, rebuilt.removed, rebuilt.corrected) == (0, 0, 0)
        assert stored_rows(shared, number) == model.rows()
    wanted = in_effect(model.rows())
    for reader in [*readers, Reader(begin)]:
        while reader.read_page(shared, sources, rng.randint(1, 4)):
            pass
        assert reader.labels == wanted
