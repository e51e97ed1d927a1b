"""Compares the tables after any arrival of a network with what the model says; and what that comparison leaves out."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings

from appview_pipeline_tests.properties.arrivals import Arrival
from appview_pipeline_tests.properties.delivery import Deliver, Index
from appview_pipeline_tests.properties.model import Model
from appview_pipeline_tests.properties.model_tables import tables_of
from appview_pipeline_tests.properties.networks import Network
from appview_pipeline_tests.support import commits
from appview_pipeline_tests.support.batches import feed
from appview_pipeline_tests.support.commits import Record
from appview_pipeline_tests.support.states import Keep, State, differences

quick = settings(
    max_examples=30, suppress_health_check=tuple(HealthCheck), phases=(Phase.explicit, Phase.generate, Phase.shrink)
)
"""Settings of properties that write a network to a database in each example."""


def in_order(network: Network) -> State:
    """The tables of a network, by the model."""
    it = Model(network.thread_mutes, network.subscriptions)
    for commit in network.commits:
        it.apply(commit)
    return tables_of(it)


def check(index: Index, network: Network, arrival: Arrival, keep: Keep, deliver: Deliver = feed) -> None:
    """Fails when the tables after an arrival differ from the model in rows that `keep` keeps."""
    got = index.after(network, arrival, deliver)
    if found := differences(got, in_order(network), keep):
        raise AssertionError("\n".join([repr(network), f"arriving as {arrival}", *found[:12]]))


def states_of(network: Network) -> dict[str, list[Record]]:
    """Every state that each record ever had, by URI, in order of rev."""
    found: dict[str, list[Record]] = {}
    for commit in network.commits:
        for op in commit.ops:
            if op.record is not None:
                uri = f"at://{commit.did}/{op.collection}/{op.rkey}"
                state = Record(
                    uri, commit.did, op.collection, op.rkey, commit.rev, op.cid or "", op.record, commit.time
                )
                found.setdefault(uri, []).append(state)
    return found


def everything(table: str, row: dict[str, Any]) -> bool:
    return True


def but_for_private_state(network: Network, keep: Keep) -> Keep:
    """Leaves out what depends on mutes and subscriptions: they are applied by what is known when an event arrives.

    (The root of a muted thread is unknown until its post has arrived.)
    """
    muting = {who for _, who in network.thread_mutes}
    return lambda table, row: (
        keep(table, row)
        and not (table == "notifications" and (row["reason"] == "subscribed-post" or row["recipient"] in muting))
    )


def in_any_order(network: Network) -> Keep:
    """Leaves out notifications of profiles with several states: which state came first is not known.

    (For all other records it is: their history is kept.)
    """
    states = states_of(network)
    out = {uri for uri, its in states.items() if len(its) > 1 and its[0].collection == commits.PROFILE}
    return lambda table, row: not (table == "notifications" and row["recordUri"] in out)
