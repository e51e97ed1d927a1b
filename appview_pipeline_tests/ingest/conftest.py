"""Consumers and replays for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.store.database import Database
from appview_pipeline_tests.support.consumers import Consumer, Start
from appview_pipeline_tests.support.replays import Replay
from appview_pipeline_tests.support.tables import replayed_frames


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(database_url: str, relay_url: str, **environment: str) -> Consumer:
            consumer = Consumer(database_url, relay_url, **environment)
            stack.callback(consumer.clean_up)
            return consumer

        yield begin


@pytest.fixture
def replay(database: Database, tmp_path: Path) -> Replay:
    """Replays frames into the test's database and gives it."""

    def run(*frames: bytes, **options: Any) -> Database:
        replayed_frames(database, tmp_path, frames, **options)
        return database

    return run
