"""Commits that get lost, repeated and shuffled, and exports of the repositories at any moment: once each repository has
been fetched a last time, the index is that of the whole stream in order.

An export says less than the commits: not what was there before, nor when it changed. So two things are compared: all
tables, for networks in which nothing is edited, deleted or gated; and for any network the records, the counts and the
tables that follow from nothing but what is there now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.writer import Writer
from appview_pipeline.settings import Settings
from appview_pipeline.store.counters import TABLES
from appview_pipeline.store.repo_states import read_repos
from appview_pipeline_tests.properties.arrivals import Arrival
from appview_pipeline_tests.properties.comparison import in_order
from appview_pipeline_tests.properties.delivery import Index, network_changes
from appview_pipeline_tests.properties.exported_networks import (
    WITHOUT_HISTORY,
    Story,
    TidNetwork,
    Underway,
    parts_of,
    repository_of,
    stories,
    tid_networks,
)
from appview_pipeline_tests.properties.networks import Move, Network
from appview_pipeline_tests.properties.random_networks import KINDS
from appview_pipeline_tests.support.commits import Commit
from appview_pipeline_tests.support.exports import compared
from appview_pipeline_tests.support.states import State, differences, dump
from appview_pipeline_tests.support.sweeping import sweep_tombstones
from appview_pipeline_tests.support.tables import rows

unshrunk = settings(max_examples=12, suppress_health_check=tuple(HealthCheck), phases=(Phase.explicit, Phase.generate))

OF_NOW = ("records", "like", "repost", "follow", "actor_block", "list", "list_item", "list_block", "profile")
"""Tables that follow from nothing but the records that there are."""


def tell(index: Index, network: Network, story: Story, *, sweeps: bool = False) -> None:
    """Writes a story to the empty index, and in the end what each repository holds. `sweeps`: after each batch the
    tombstones are deleted that are not needed any more."""
    index.clean()
    changes = network_changes(network)
    underway: list[Underway] = []

    def write(some: Sequence[Any]) -> None:
        # A writer of its own for each, as if its process had been started anew.
        Writer(index.database, Settings(database_url=index.database.url), "test").write(some, time.time())
        if sweeps:
            sweep_tombstones(index.database)

    def go_on(at: int) -> None:
        for it in [it for it in underway if it.due <= at]:
            part = next(it.parts, None)
            if part is None:
                underway.remove(it)
            else:
                write([part])
                it.due = at + (it.pauses.pop(0) if it.pauses else 0)

    for at, batch in enumerate([*story.arrival.batches, (), (), ()]):
        for export in story.exports:
            repository = repository_of(network, export.did, export.commits)
            if export.begins == at and repository is not None:
                underway.append(parts_of(export, compared(index.database, repository), at))
        for _ in range(8):
            go_on(at)
        if some := [changes[number] for number in batch if number not in story.lost]:
            write(some)
    fetch_all(index, network)


def fetch_all(index: Index, network: Network) -> None:
    """Writes what each repository holds in the end."""
    writer = Writer(index.database, Settings(database_url=index.database.url), "test")
    for did in sorted({commit.did for commit in network.commits}):
        repository = repository_of(network, did, len(network.commits))
        assert repository is not None
        writer.write(compared(index.database, repository).changes(3), time.time())


def check(
    index: Index,
    network: Network,
    story: Story,
    keep: Callable[[str, dict[str, Any]], bool],
    *,
    told: bool = False,
    sweeps: bool = False,
) -> None:
    """Fails where the tables are not those of the stream, or a repository is not complete. `told`: all has arrived but
    for the last export of each repository. `sweeps`: as of `tell`."""
    if told:
        fetch_all(index, network)
    else:
        tell(index, network, story, sweeps=sweeps)
    with index.database.connect("reader") as connection:
        states = read_repos(connection, [commit.did for commit in network.commits])
    open_gaps = rows(index.database.url, "SELECT kind, did FROM pipeline.gap WHERE resolved_at IS NULL")
    found = [f"{did} is {it.sync_state}: {it.sync_reason}" for did, it in states.items()]
    found = [line for line in found if not line.endswith("is synchronized: None")] + [repr(gap) for gap in open_gaps]
    waiting = rows(index.database.url, "SELECT did FROM pipeline.backfill_queue WHERE finished_at IS NULL")
    found += [f"{did} still waits" for (did,) in waiting]
    found += differences(dump(index.connection), without_times(in_order(network)), keep)
    for table in TABLES:
        counted = recount(index.database, table, rewrite=False)
        found += [f"{table}: {counted.examples} do not equal a recount"] if counted.differing else []
    if found:
        raise AssertionError("\n".join([repr(network), repr(story), *found[:12]]))


def without_times(state: State) -> State:
    """The tables without `indexedAt` and what follows from it, which an export can't know."""

    def timeless(table: Sequence[dict[str, Any]], *more: str) -> list[dict[str, Any]]:
        left_out = {"indexedAt", "sortAt", "sortedAt", *more}
        return [{name: it for name, it in row.items() if name not in left_out} for row in table]

    rows_of = {name: timeless(table) for name, table in state["rows"].items()}
    if "profile" in rows_of:  # one that does not say when it was created has the time at which it was indexed
        rows_of["profile"] = timeless(rows_of["profile"], "createdAt")
    lists = {name: timeless(state[name]) for name in ("notifications", "records", "duplicates")}
    return {**state, **lists, "rows": rows_of}


@unshrunk
@given(data=st.data())
def test_every_table_is_that_of_the_whole_stream(index: Index, data: st.DataObject) -> None:
    network = data.draw(tid_networks(WITHOUT_HISTORY))
    check(index, network, data.draw(stories(network)), lambda table, row: True)


@unshrunk
@given(data=st.data())
def test_what_is_there_now_is_that_of_the_whole_stream(index: Index, data: st.DataObject) -> None:
    network = data.draw(tid_networks())
    check(index, network, data.draw(stories(network)), lambda table, row: table in OF_NOW)


@unshrunk
@given(data=st.data())
def test_what_is_there_now_is_the_same_while_tombstones_are_swept(index: Index, data: st.DataObject) -> None:
    network = data.draw(tid_networks())
    check(index, network, data.draw(stories(network)), lambda table, row: table in OF_NOW, sweeps=True)


@unshrunk
@given(data=st.data())
def test_every_table_is_the_same_while_tombstones_are_swept(index: Index, data: st.DataObject) -> None:
    network = data.draw(tid_networks(WITHOUT_HISTORY))
    check(index, network, data.draw(stories(network)), lambda table, row: True, sweeps=True)


def test_a_live_writer_and_a_fetching_one_at_once(index: Index) -> None:
    """On the same repositories, again and again: nobody waits for ever, and nothing is lost or brought back."""
    for seed in range(3):
        rng = Random(seed)
        network = example_network(rng)
        index.clean()
        changes = network_changes(network)
        dids = sorted({commit.did for commit in network.commits})
        kept = [number for number in range(len(changes)) if rng.random() > 0.2]
        position = [0]
        settings_of = Settings(database_url=index.database.url)

        def live(kept: list[int] = kept, changes: Sequence[Any] = changes, position: list[int] = position) -> None:
            writer = Writer(index.database, Settings(database_url=index.database.url), "live")
            for start in range(0, len(kept), 2):
                writer.write([changes[number] for number in kept[start : start + 2]], time.time())
                position[0] = kept[min(start + 2, len(kept) - 1)]

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(live)
            writer = Writer(index.database, settings_of, "backfill")
            while not writing.done():
                # Their hosts may be ahead of the stream, or behind it.
                at = min(len(changes), max(1, position[0] + rng.randrange(-5, 15)))
                repository = repository_of(network, rng.choice(dids), at)
                if repository is not None:
                    for part in compared(index.database, repository).changes(2):
                        writer.write([part], time.time())
            writing.result()
        check(index, network, Story(Arrival(((),)), frozenset(), ()), lambda table, row: table in OF_NOW, told=True)


def example_network(rng: Random) -> Network:
    """A network of 60 operations."""
    builder = TidNetwork()
    for _ in range(60):
        who, pick, other, twist = (rng.randrange(count) for count in (3, 32, 32, 13))
        builder.make(Move(rng.choice(KINDS), who, pick, other, twist, joins=False))
    return Network(tuple(Commit(did, rev, moment, tuple(ops)) for did, rev, moment, ops, _ in builder.commits))
