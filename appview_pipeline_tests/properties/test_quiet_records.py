"""Quiet records notify nobody: random networks, of which some records are as exports bring them.

What is notified must be what is notified of the same network without a quiet record, but for what the quiet records
cause themselves. What a notification was caused by is seen when it is written: later it may move to a duplicate, and
keeps its `id`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from appview_pipeline.indexing.changes import Change
from appview_pipeline.store.database import Database
from appview_pipeline_tests.properties.arrivals import Arrival, arrivals
from appview_pipeline_tests.properties.comparison import quick
from appview_pipeline_tests.properties.delivery import Index
from appview_pipeline_tests.properties.networks import Network
from appview_pipeline_tests.properties.random_networks import networks
from appview_pipeline_tests.support.batches import feed
from appview_pipeline_tests.support.rerun import Rerun
from appview_pipeline_tests.support.states import differences, dump
from appview_pipeline_tests.support.tables import rows

NOTIFICATIONS = 'SELECT id, did, "recordUri", "recordCid", reason, "reasonSubject", "sortAt" FROM bsky.notification'


def uris_of(network: Network) -> list[str]:
    """Every record that the network ever has."""
    return sorted({f"at://{it.did}/{op.collection}/{op.rkey}" for it in network.commits for op in it.ops})


def hushed(batches: Sequence[Sequence[Change]], quiet: frozenset[str]) -> list[list[Change]]:
    """The changes, with every state and deletion of these records as an export brings it."""
    for batch in batches:
        for change in batch:
            change.writes = [it._replace(is_quiet=it.uri in quiet) for it in change.writes]
            change.deletes = [it._replace(is_quiet=it.uri in quiet) for it in change.deletes]
    return [list(batch) for batch in batches]


def caused_by_others(index: Index, network: Network, quiet: frozenset[str]) -> set[tuple[Any, ...]]:
    """The notifications of the network, in order and without a quiet record, that no record of `quiet` has caused."""
    causes: dict[int, str] = {}
    now: list[tuple[Any, ...]] = []

    def watched(database: Database, batches: Sequence[Sequence[Change]]) -> None:
        nonlocal now
        for batch in batches:
            feed(database, [batch])
            now = rows(database.url, NOTIFICATIONS)
            for number, _, uri, *_ in now:
                causes.setdefault(number, uri)

    index.feed(network, Arrival(tuple((number,) for number in range(len(network.commits)))), watched)
    return {tuple(notification) for number, *notification in now if causes[number] not in quiet}


def found(index: Index, network: Network, arrival: Arrival, quiet: frozenset[str]) -> set[tuple[Any, ...]]:
    """The notifications of the network with quiet records."""
    index.feed(network, arrival, lambda database, batches: feed(database, hushed(batches, quiet)))
    return {tuple(notification) for _, *notification in rows(index.database.url, NOTIFICATIONS)}


@quick
@given(data=st.data())
def test_only_what_they_cause_is_missing(index: Index, data: st.DataObject) -> None:
    network = data.draw(networks())
    quiet = frozenset(data.draw(st.lists(st.sampled_from(uris_of(network)), unique=True)))
    arrival = data.draw(arrivals(network, "stream"))
    want = caused_by_others(index, network, quiet)
    got = found(index, network, arrival, quiet)
    said = "\n".join([repr(network), f"arriving as {arrival}", f"quiet: {sorted(quiet)}"])
    assert got == want, "\n".join(
        [said, *(f"missing {it}" for it in want - got), *(f"too much {it}" for it in got - want)]
    )
    stored = set(rows(index.database.url, "SELECT uri FROM bsky.record WHERE quiet"))
    assert {uri for (uri,) in stored} <= quiet


@quick
@given(data=st.data())
def test_a_rerun_changes_nothing(rerun_index: Rerun, data: st.DataObject) -> None:
    network = data.draw(networks())
    quiet = frozenset(data.draw(st.lists(st.sampled_from(uris_of(network)), unique=True)))
    arrival = data.draw(arrivals(network, data.draw(st.sampled_from(["stream", "repository", "any"]))))
    rerun_index.feed(network, arrival, lambda database, batches: feed(database, hushed(batches, quiet)))
    rerun_index.run("DELETE FROM bsky.thread_mute", "DELETE FROM bsky.activity_subscription")
    before, tables = rerun_index.digest(), dump(rerun_index.connection)
    changed = rerun_index.rerun(chunk=data.draw(st.sampled_from([1, 1_000]))).changed
    said = "\n".join([repr(network), str(arrival), f"quiet: {sorted(quiet)}"])
    assert changed == {}, "\n".join([said, *differences(dump(rerun_index.connection), tables)])
    assert rerun_index.digest() == before
