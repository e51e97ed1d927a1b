"""Accounts opt out and in at any moment of the stream: nothing of them is stored meanwhile, others are not affected.

What has to be equal: the tables are what the model says of the same commits without what was withheld. Of a commit
that arrived only while its account was excluded the deletions remain; of every other commit everything does. So the
records of all others are those of a run without the opt-outs, and their replies, counters and notifications are those
of a network in which the account never wrote what was withheld.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from appview_pipeline.ingest.writer import Writer
from appview_pipeline.settings import Settings
from appview_pipeline_tests.properties.arrivals import Arrival
from appview_pipeline_tests.properties.comparison import everything, in_order, quick
from appview_pipeline_tests.properties.delivery import Index, network_changes
from appview_pipeline_tests.properties.networks import NAMES, Network, did_of
from appview_pipeline_tests.properties.random_networks import networks
from appview_pipeline_tests.support.commits import Commit, Op
from appview_pipeline_tests.support.states import differences, dump
from appview_pipeline_tests.support.tables import rows


@dataclass(frozen=True)
class Step:
    """Before a batch of `size` commits some accounts opt out, or in again where they have; a restart goes back by so
    many commits, and the writer's memory is gone."""

    switched: tuple[int, ...]
    size: int
    back: int | None


STEPS = st.lists(
    st.builds(
        Step,
        st.lists(st.integers(0, len(NAMES) - 1), max_size=2, unique=True).map(tuple),
        st.integers(1, 9),
        st.none() | st.integers(0, 8),
    ),
    min_size=1,
    max_size=12,
)


def deliver(index: Index, network: Network, steps: Sequence[Step]) -> tuple[list[bool], set[str]]:
    """Writes the commits. Returns which of them should be stored whole, and who is excluded in the end."""
    index.feed(replace(network, commits=()), Arrival(()))
    settings = Settings(database_url=index.database.url)
    changes, forbidden = network_changes(network), set[str]()
    whole = [False] * len(changes)
    writer, at = Writer(index.database, settings, "test"), 0
    rest = Step((), len(changes), None)
    for step in [*steps, rest]:
        for number in step.switched:
            did = did_of(number)
            function = "allow" if did in forbidden else "forbid"
            rows(index.database.url, f"SELECT pipeline.{function}_data_collection(%s)", did)
            forbidden ^= {did}
        if step.back is not None:
            writer, at = Writer(index.database, settings, "test"), max(0, at - step.back)
        batch = range(at, min(at + step.size, len(changes)))
        if batch:
            writer.write([changes[number] for number in batch], time.time())
        for number in batch:
            whole[number] |= network.commits[number].did not in forbidden
        at = batch.stop
    return whole, forbidden


def only_deletions(commit: Commit) -> Commit:
    return replace(commit, ops=tuple(op for op in commit.ops if op.action == "delete"))


def uri_of(commit: Commit, op: Op) -> str:
    return f"at://{commit.did}/{op.collection}/{op.rkey}"


@quick
@given(network=networks(), steps=STEPS)
def test_opting_out_and_in_at_any_moment(index: Index, network: Network, steps: list[Step]) -> None:
    whole, forbidden = deliver(index, network, steps)
    stored = [it if is_whole else only_deletions(it) for it, is_whole in zip(network.commits, whole, strict=True)]
    silenced = {did_of(number) for step in steps for number in step.switched}

    def compared(table: str, row: dict[str, Any]) -> bool:
        """An account that is excluded notifies nobody anew: by deleting a verification, say, or where the post that its
        reply answers comes while it is excluded."""
        return not (table == "notifications" and row["author"] in silenced)

    wanted, got = in_order(replace(network, commits=tuple(stored))), dump(index.connection)
    found = differences(got, wanted, compared if silenced else everything)
    found += [line for line in differences(got, wanted) if line.startswith("notifications: too much")]
    if found:
        raise AssertionError("\n".join([repr(network), *map(repr, steps), *found[:12]]))
    url = index.database.url
    assert {did for (did,) in rows(url, "SELECT did FROM pipeline.repo WHERE excluded")} == forbidden
    # Nothing remembers a record of which nothing was ever stored, unless its deletion came while that was allowed.
    known = {uri_of(it, op) for it in stored for op in it.ops if op.action != "delete"}
    known |= {uri_of(it, op) for it, is_whole in zip(stored, whole, strict=True) for op in it.ops if is_whole}
    kept = {uri for (uri,) in rows(url, "SELECT uri FROM pipeline.version UNION SELECT uri FROM pipeline.tombstone")}
    assert kept <= known
    actors = {did for (did,) in rows(url, "SELECT did FROM bsky.actor")}
    seen = {commit.did for commit in network.commits}
    assert seen - silenced <= actors <= seen
