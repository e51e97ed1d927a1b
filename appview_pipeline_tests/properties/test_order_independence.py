"""The tables are a function of the events, not of how they arrive: networks that come batched, repeated and shuffled.

The tables must be what the model says of the commits in the stream's order, one at a time. What is not compared is in
comparison.py, with its reasons; the reference's own order is the subject of docs/differences.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appview_pipeline.indexing.changes import Change
from appview_pipeline.store.database import Database
from appview_pipeline_tests.properties.arrivals import Arrival, arrivals
from appview_pipeline_tests.properties.comparison import but_for_private_state, check, everything, in_any_order, quick
from appview_pipeline_tests.properties.delivery import Index
from appview_pipeline_tests.properties.networks import Network
from appview_pipeline_tests.properties.random_networks import networks
from appview_pipeline_tests.properties.stories import STORIES
from appview_pipeline_tests.support.batches import feed
from appview_pipeline_tests.support.sweeping import sweep_tombstones


@pytest.mark.parametrize("name", STORIES)
def test_story(index: Index, name: str) -> None:
    network, arriving = STORIES[name]
    arrival = Arrival(tuple(tuple(int(number) for number in batch.split()) for batch in arriving.split("|")))
    check(index, network, arrival, everything)


@quick
@given(network=networks())
def test_in_order_one_at_a_time(index: Index, network: Network) -> None:
    arrival = Arrival(tuple((number,) for number in range(len(network.commits))))
    check(index, network, arrival, everything)


@quick
@given(data=st.data())
def test_any_batches(index: Index, data: st.DataObject) -> None:
    network = data.draw(networks())
    arrival = data.draw(arrivals(network, "stream"))
    check(index, network, arrival, everything)


@quick
@given(data=st.data())
def test_any_interleaving_of_repositories(index: Index, data: st.DataObject) -> None:
    network = data.draw(networks())
    arrival = data.draw(arrivals(network, "repository"))
    check(index, network, arrival, but_for_private_state(network, everything))


def feed_and_sweep(database: Database, batches: Sequence[Sequence[Change]]) -> None:
    """All that has come is delivered once more in the end, when the tombstones are swept that are not needed."""
    for batch in batches:
        feed(database, [batch])
        sweep_tombstones(database)
    feed(database, [list(reversed(batch)) for batch in reversed(batches)])


@quick
@given(data=st.data())
def test_any_order_while_tombstones_are_swept(index: Index, data: st.DataObject) -> None:
    network = data.draw(networks())
    arrival = data.draw(arrivals(network, data.draw(st.sampled_from(["stream", "repository", "any"]))))
    check(index, network, arrival, but_for_private_state(network, in_any_order(network)), feed_and_sweep)


@quick
@given(data=st.data())
def test_any_order_at_all(index: Index, data: st.DataObject) -> None:
    network = data.draw(networks())
    arrival = data.draw(arrivals(network, "any"))
    check(index, network, arrival, but_for_private_state(network, in_any_order(network)))
