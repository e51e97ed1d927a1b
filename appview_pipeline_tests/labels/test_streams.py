"""Streams of labelers into the database: what is read, what is rejected, who is parked, and that nobody waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network import SimulatedNetwork
from appview_pipeline_tests.support.label_streams import quicken, reading

POST = "at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/app.bsky.feed.post/3kaaaaaaaaaaa"
SUBJECT = "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb"


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(seed=5, accounts=10, labelers=2) as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that a test can sit out."""
    quicken(monkeypatch)


def test_labels_of_all_labelers_are_verified_and_applied(database: Database, network: SimulatedNetwork) -> None:
    network.advance(200)
    network.labelers.label(300)
    with reading(database, network) as it:
        it.wait_for_cursor(*network.labelers)
        network.labelers.label(100)
        it.wait_for_cursor(*network.labelers)
        for labeler in network.labelers:
            it.wait_for_state(labeler, "connected")
            assert it.letters(labeler) == []
            assert len(it.labels(labeler)) > 50
    events = it.count("SELECT count(*) FROM pipeline.label_event WHERE sig IS NOT NULL")
    assert events == it.count("SELECT sum(labels) FROM pipeline.labeler") > 300
