"""Fixtures of the tests that ask the reference's own indexer and data plane (conformance/reference/README.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.oracle import Oracle, oracle, reference_template


@pytest.fixture(scope="module")
def reference_tables(server: EmbeddedPostgres, packages: Path) -> str:
    """The database that the reference's own migrator has made, to be cloned."""
    return reference_template(server, packages)


@pytest.fixture(scope="module")
def reference(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    """The reference's indexer and data plane, as a process."""
    with oracle(packages, tmp_path_factory.mktemp("oracle") / "log") as made:
        yield made
