"""Repositories and records fetched from simulated PDSes: whom is asked, with which key, and what is a failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appview_pipeline.backfill.fetch import Fetcher, FetchFailed
from appview_pipeline.network.xrpc import Client
from appview_pipeline.protocol.cbor import decode_record
from appview_pipeline.protocol.export import Export
from appview_pipeline.settings import load
from appview_pipeline.store.database import Database
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.world import Author, World

POST = "app.bsky.feed.post"


@pytest.fixture
def network() -> Iterator[SimulatedNetwork]:
    with SimulatedNetwork(World(9, 6, start=time.time() - 60, pasts=())) as made:
        for author in made.world.authors:
            made.happen(made.world.write, author.did, 5)
        yield made


MadeFetcher = Callable[..., Fetcher]


@pytest.fixture
def fetcher(network: SimulatedNetwork, database: Database) -> Iterator[MadeFetcher]:
    """Makes fetchers; arguments are settings."""
    clients: list[Client] = []

    def made(**options: Any) -> Fetcher:
        settings = replace(load(network.environment()), database_url=database.url, **options)
        clients.append(Client(settings))
        return Fetcher(settings, database, clients[-1])

    yield made
    for client in clients:
        client.close()


@contextmanager
def fails(kind: str) -> Iterator[list[FetchFailed]]:
    """The failure that comes within, of which everything that always holds is checked."""
    found: list[FetchFailed] = []
    with pytest.raises(FetchFailed) as caught:
        yield found
    error = caught.value
    found.append(error)
    assert error.kind == kind, error
    assert error.reason == str(error) and error.reason.isprintable() and len(error.reason) < 500


def listed(export: Export) -> dict[str, bytes]:
    """CIDs of records by path; closes the export."""
    with export:
        return {path: cid for path, cid in export.records() if export.block(cid)}


def contents(author: Author) -> dict[str, bytes]:
    repository = author.repository
    return {path: found[0] for path in repository.paths() if (found := repository.get(path))}


def first_post(author: Author) -> str:
    """The record key of a post of the account."""
    return min(path for path in author.repository.paths() if path.startswith(f"{POST}/")).partition("/")[2]


# ---- repositories


def test_a_repository(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    author = network.world.authors[0]
    asking = fetcher()
    assert asking.host_of(author.did) == network.pds_url
    export = asking.repository(author.did, newer_than=author.repository.rev)
    assert (export.did, export.rev, export.commit) == (author.did, author.repository.rev, author.repository.commit_cid)
    assert export.size == len(author.repository.export()) and export.data == author.repository.tree.cid
    assert listed(export) == contents(author) != {}


def test_a_large_one_goes_through_a_file(network: SimulatedNetwork, fetcher: MadeFetcher, tmp_path: Path) -> None:
    author = network.world.authors[0]
    export = fetcher(repo_memory_bytes=1_000, state_dir=tmp_path).repository(author.did)
    assert list(tmp_path.iterdir()) == []  # the file has no name
    assert listed(export) == contents(author)
    with pytest.raises(ValueError, match="closed"):
        list(export.records())


def test_many_threads_share_a_fetcher(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    asking, authors = fetcher(), network.world.authors * 5
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda author: listed(asking.repository(author.did)), authors))
    assert found == [contents(author) for author in authors]


# ---- single records


def test_a_record_and_the_proof_of_it(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    author = network.world.authors[1]
    rkey = first_post(author)
    found = fetcher().record(author.did, POST, rkey)
    stored = author.repository.get(f"{POST}/{rkey}")
    assert stored is not None and (found.cid, found.block) == stored
    assert (found.did, found.path, found.rev) == (author.did, f"{POST}/{rkey}", author.repository.rev)
    assert (found.commit, found.data) == (author.repository.commit_cid, author.repository.tree.cid)
    assert decode_record(stored[1])["$type"] == POST


def test_the_proof_that_there_is_no_record(network: SimulatedNetwork, fetcher: MadeFetcher) -> None:
    author = network.world.authors[1]
    found = fetcher().record(author.did, POST, "3aaaaaaaaaa2a")
    assert found.cid is None and found.block is None and found.rev == author.repository.rev
