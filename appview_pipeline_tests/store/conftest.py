"""Databases without any table of ours, on the newest server supported and on the oldest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appview_pipeline.store import postgres
from appview_pipeline.store.embedded.ephemeral import ephemeral
from appview_pipeline_tests.conformance.reference import check

OLDEST = Path(f"/usr/lib/postgresql/{postgres.OLDEST_SERVER}/bin")


@pytest.fixture(scope="module", params=["default", "oldest"])
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database on the embedded server, the newest supported, and one on the oldest, where Debian's is installed."""
    if request.param == "default":
        yield request.getfixturevalue("server").url("postgres")
    elif not OLDEST.exists():
        pytest.skip(f"{OLDEST} is not there")
    else:
        with ephemeral(postgres_bin=OLDEST) as server:
            yield server.url("postgres")


@pytest.fixture
def empty_url(server_url: str) -> Iterator[str]:
    """The URL of a fresh database without any table of ours."""
    with check.scratch_database(server_url) as url:
        yield url
