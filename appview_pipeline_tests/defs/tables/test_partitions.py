"""Partitions begin with the hour of the first batch."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from appview_pipeline.defs.tables.partitions import EARLIEST, first_hour, remember_first_hour
from appview_pipeline.settings import Settings
from appview_pipeline_tests.support.dagster_events import add_batch
from appview_pipeline_tests.support.database import connect


def this_hour() -> datetime:
    return datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)


def test_in_a_database_of_ones_own(database_url: str) -> None:
    settings = Settings(database_url=database_url)
    now = this_hour()
    assert now <= first_hour(settings) <= this_hour(), "nothing was applied yet"
    first = now - timedelta(hours=5, minutes=-7)
    with connect(database_url) as connection:
        add_batch(connection, at=first)
        add_batch(connection, at=now)
    assert first_hour(settings) == now - timedelta(hours=5)


def test_a_database_that_is_away_hides_no_hour() -> None:
    assert first_hour(Settings(database_url="postgresql://nobody@127.0.0.1:1/none")) == EARLIEST


def test_in_the_embedded_database_it_is_known_without_starting_it(database_url: str, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "new")
    now = this_hour()
    assert now <= first_hour(settings) <= this_hour() and not (tmp_path / "new").exists()
    settings = Settings(state_dir=tmp_path)
    with connect(database_url) as connection:
        remember_first_hour(settings, connection)
        assert not list(tmp_path.iterdir()), "nothing was applied yet"
        add_batch(connection, at=now - timedelta(hours=5, minutes=-7))
        remember_first_hour(settings, connection)
    assert first_hour(settings) == now - timedelta(hours=5)
    (tmp_path / "first_hour").write_text("yesterday")
    assert first_hour(settings) == EARLIEST
