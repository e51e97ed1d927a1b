"""Fixtures of the tests that start consumers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from appview_pipeline_tests.support.consumers import Consumer, Start


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(database_url: str, relay_url: str, **environment: str) -> Consumer:
            consumer = Consumer(database_url, relay_url, **environment)
            stack.callback(consumer.clean_up)
            return consumer

        yield begin
