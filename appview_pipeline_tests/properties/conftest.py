"""A database for the examples of a module's properties."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.properties.delivery import Index, fresh_index


@pytest.fixture(scope="module")
def index(server: EmbeddedPostgres, template_database: str) -> Iterator[Index]:
    with fresh_index(server, template_database) as found:
        yield found
