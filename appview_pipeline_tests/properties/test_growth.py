"""The cost of a batch is linear in what it brings and changes: one account can't stop the stream."""

from __future__ import annotations

from collections.abc import Callable

import psycopg2
import pytest

from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.properties.growth import SHAPES, measure
from appview_pipeline_tests.properties.growth_stories import Story
from appview_pipeline_tests.support.tables import fresh_database, one

EVENTS = 60
MAX_FACTOR = 2.3
"""By how much twice the events may multiply the rows touched."""

assert len(SHAPES) > 50, "found by their modules"


@pytest.fixture(scope="module")
def explains(server: EmbeddedPostgres) -> None:
    """Skips where the server has no auto_explain, a module that comes with PostgreSQL but may be packaged apart."""
    with psycopg2.connect(server.url("postgres").replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
        try:
            cursor.execute("LOAD 'auto_explain'")
        except psycopg2.errors.UndefinedFile as error:
            pytest.skip(f"this PostgreSQL has no auto_explain: {error}")


def grows_with_its_events(server: EmbeddedPostgres, template: str, shape: Callable[[int], Story], events: int) -> None:
    """Fails where twice the events touch more than `MAX_FACTOR` times the rows."""
    costs = []
    for count in (events, 2 * events):
        with fresh_database(server, template) as database:
            costs.append(measure(database, shape, count))
            assert one(database.url, "SELECT count(*) FROM pipeline.dead_letter") == 0
    once, twice = costs
    worst = [f"{name}: {once.rows[name]:,} -> {rows:,}" for name, rows in twice.rows.most_common(5)]
    assert twice.total <= MAX_FACTOR * once.total, f"{once.total:,} -> {twice.total:,} rows; {worst}"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.usefixtures("explains")
def test_twice_the_events_touch_twice_the_rows(
    server: EmbeddedPostgres, template_database: str, shape: Callable[[int], Story]
) -> None:
    grows_with_its_events(server, template_database, shape, EVENTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chain", "late_parent_of_an_edited_reply", "late_gate_flips", "duplicates_that_go"])
@pytest.mark.usefixtures("explains")
def test_so_they_do_where_there_are_many(server: EmbeddedPostgres, template_database: str, name: str) -> None:
    """The planner chooses otherwise once a record has more past states than fit into a few pages."""
    grows_with_its_events(server, template_database, SHAPES[name], 1_200)
