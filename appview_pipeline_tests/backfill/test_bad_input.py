"""Everything that PDSes may send instead of a repository, all of it in the queue at once: it holds up nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from appview_pipeline.backfill.worker import work
from appview_pipeline.settings import Settings, load
from appview_pipeline.store.backfill_queue import DESYNCHRONIZED, enqueue
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.http_service import Answer
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.world import Author, World
from appview_pipeline_tests.support.hostile_exports import (
    ANSWERS,
    EXPORTS,
    HostileAnswer,
    HostileExport,
    answer_limits,
    with_big_record,
)
from appview_pipeline_tests.support.tables import rows

SMALL = [it for it in EXPORTS if not it.is_large]
NEEDED_REV = "an older rev"
"""An export that is refused only where something newer is known."""


def settings_for(network: SimulatedNetwork, database: Database) -> Settings:
    limits: dict[str, Any] = {**answer_limits, "repo_fetches": 16}
    return replace(load(network.environment()), database_url=database.url, **limits)


def outcomes(database: Database) -> dict[str, tuple[str, str | None]]:
    """State of each repository, and what its row of the queue says."""
    found = rows(
        database.url,
        "SELECT did, sync_state, error FROM pipeline.backfill_queue JOIN pipeline.repo USING (did) ORDER BY did",
    )
    return {did: (state, error) for did, state, error in found}


def move(network: SimulatedNetwork, author: Author, home: int) -> None:
    """Puts an account at a PDS from the beginning."""
    author.account.home = home
    author.account.settle_at(network.world.pds_urls[home])


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    """PDSes: the first has all hostile exports; each of the others has one account with a hostile answer, and a good
    neighbour of it."""
    world = World(4, len(SMALL) + 2 * len(ANSWERS), start=time.time() - 60, pasts=(), homes=1 + len(ANSWERS))
    with SimulatedNetwork(world) as made:
        for author in world.authors:
            move(made, author, 0)
            made.happen(world.write, author.did, 5)
        yield made


def test_all_of_it_at_once(network: SimulatedNetwork, database: Database) -> None:
    """Every reason stands in the queue, and every good repository is complete, in a matter of seconds."""
    authors = iter(network.world.authors)
    bad: dict[str, HostileExport | HostileAnswer] = {}
    good: list[str] = []
    behind_a_pause: set[str] = set()
    for export in SMALL:
        author = next(authors)
        network.pds.answers[author.did] = export.answer(author.repository)
        if export.name == NEEDED_REV:
            rows(
                database.url,
                "INSERT INTO pipeline.repo (did, rev, export_rev, sync_state) VALUES (%s, %s, %s, 'desynchronized')",
                *(author.did, author.repository.rev, author.repository.rev),
            )
        if export.kind is None:
            good.append(author.did)
        else:
            bad[author.did] = export
    for home, hostile in enumerate(ANSWERS, 1):
        author, neighbour = next(authors), next(authors)
        move(network, author, home)
        move(network, neighbour, home)
        network.pdses[home].answers[author.did] = hostile.make(author.repository.export())
        bad[author.did] = hostile
        good.append(neighbour.did)
        if hostile.kind == "parked":
            behind_a_pause.add(neighbour.did)
    with database.connect("writer") as connection:
        enqueue(connection, [*bad, *good], reason="requested", priority=DESYNCHRONIZED)

    began = time.monotonic()
    summary = work(settings_for(network, database), database, urgent=True, max_seconds=60)
    assert time.monotonic() - began < 45
    assert summary.ended == "nothing more may be fetched now"

    found = outcomes(database)
    waiting = {did: found.get(did) for did in good if found.get(did, ("",))[0] != "synchronized"}
    assert waiting.keys() <= behind_a_pause, waiting
    for did, it in bad.items():
        state, error = found[did]
        assert state in ("desynchronized", "error"), (it.name, state)
        assert error and it.says in error, (it.name, error)


def test_a_record_of_64_megabytes_is_a_dead_letter(database: Database) -> None:
    """The rest of the repository is indexed, and complete."""
    world = World(5, 1, start=time.time() - 60, pasts=())
    with SimulatedNetwork(world) as network:
        (author,) = world.authors
        network.happen(world.write, author.did, 8)
        car, path = with_big_record(author.repository)
        network.pds.answers[author.did] = Answer(car)
        with database.connect("writer") as connection:
            enqueue(connection, [author.did], reason="requested", priority=DESYNCHRONIZED)
        settings = replace(settings_for(network, database), repo_bytes=100_000_000, repo_memory_bytes=1_000_000)
        work(settings, database, urgent=True, max_seconds=60)
    assert outcomes(database) == {author.did: ("synchronized", None)}
    (letter,) = rows(database.url, "SELECT path, reason, length(bytes) FROM pipeline.dead_letter")
    assert letter[0] == path and "the limit is 1,000,000" in letter[1] and letter[2] < 1_100_000
    assert rows(database.url, "SELECT count(*) FROM bsky.record") == [(8,)]
