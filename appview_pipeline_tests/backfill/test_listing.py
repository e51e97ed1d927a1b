"""The network's repositories from lists, on the simulated network and on servers that lie, fail or do not end."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from appview_pipeline import backoff
from appview_pipeline.backfill import listing as listing_module
from appview_pipeline.backfill.listing import ListingSummary, list_network
from appview_pipeline.backfill.pages import LIST_HOSTS, LIST_REPOS, origin_of
from appview_pipeline.settings import Settings, load
from appview_pipeline.store import backfill_queue as queue
from appview_pipeline.store.database import Database
from appview_pipeline.store.session_lock import LockTaken
from appview_pipeline_tests.simulated_network.http_service import Answer, HttpService, Parameters, json_answer
from appview_pipeline_tests.simulated_network.network import SimulatedNetwork
from appview_pipeline_tests.simulated_network.world import World
from appview_pipeline_tests.support.tables import one, rows

A, B, C = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb", "did:plc:cccccccccccccccccccccccc"
REV = "3l2bqxkqbw222"

Reply = Callable[[str | None], Any]


class Lists(HttpService):
    """A relay or a host that lists what a test says. `hosts` and `repos` make the body for a cursor; None: 501."""

    name = "lists"

    def __init__(self, hosts: Reply | None = None, repos: Reply | None = None) -> None:
        super().__init__(0)
        self.hosts, self.repos = hosts, repos
        self.questions: Counter[str] = Counter()

    def get(self, path: str, parameters: Parameters, host: str) -> Answer:
        method = path.removeprefix("/xrpc/")
        self.questions[method] += 1
        reply = {LIST_HOSTS: self.hosts, LIST_REPOS: self.repos}.get(method)
        if reply is None:
            return json_answer({"error": "MethodNotImplemented", "message": "no"}, 501)
        body = reply(parameters.get("cursor", [None])[-1])
        if isinstance(body, bytes):
            return Answer(body, "application/json")
        return json_answer(body)

    @property
    def hostname(self) -> str:
        return self.url.partition("://")[2]


@pytest.fixture
def serve() -> Iterator[Callable[..., Lists]]:
    started: list[Lists] = []

    def start(**replies: Reply) -> Lists:
        lists = Lists(**replies)
        lists.start()
        started.append(lists)
        return lists

    yield start
    for lists in started:
        lists.stop()


def entry(did: str, **others: Any) -> dict[str, Any]:
    return {"did": did, "head": "bafy", "rev": REV, "active": True, **others}


def hosts_of(*hostnames: str, **others: Any) -> Reply:
    entries = [{"hostname": name, "accountCount": 3, "seq": 1, "status": "active", **others} for name in hostnames]
    return lambda cursor: {"hosts": entries}


def settings_for(database: Database, relay: Lists) -> Settings:
    url = relay.url.replace("http", "ws")
    return replace(Settings(), database_url=database.url, relay_url=url, allow_private_hosts=True, fetch_seconds=2.0)


def run(database: Database, relay: Lists, **others: Any) -> ListingSummary:
    return list_network(settings_for(database, relay), database, **others)


def queued(database: Database) -> list[tuple[str, str, int]]:
    return [
        tuple(row) for row in rows(database.url, "SELECT did, host, priority FROM pipeline.backfill_queue ORDER BY did")
    ]


def test_everything_that_the_network_lists_is_queued_with_its_host(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(3, 60, start=time.time() - 60, pasts=(), homes=3)
    monkeypatch.setattr("appview_pipeline.backfill.pages.PAGE", 7)
    with SimulatedNetwork(world) as network:
        for author in world.authors[:4]:
            network.happen(world.deactivate, author.did)
        settings = replace(load(network.environment()), database_url=database.url)
        found = list_network(settings, database)
        assert (found.hosts, found.listed, found.left, found.ended) == (3, 3, 0, "everything is listed")
        assert found.queued == found.repositories == 56
        hosts = {did: host for did, host, _ in queued(database)}
        assert hosts == {it.did: world.pds_urls[it.account.home] for it in world.authors[4:]}
        # Not again before its day is over.
        assert list_network(settings, database).hosts == 0
        rows(database.url, "UPDATE pipeline.relay_listing SET began_at = now() - interval '2 days'")
        assert list_network(settings, database).listed == 3
        assert len(queued(database)) == 56


def test_a_run_that_is_interrupted_is_gone_on_with(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(3, 100, start=time.time() - 60, pasts=(), homes=2)
    monkeypatch.setattr("appview_pipeline.backfill.pages.PAGE", 5)
    with SimulatedNetwork(world) as network:
        settings = replace(load(network.environment()), database_url=database.url)
        entries, runs = 0, 0
        while True:
            runs += 1
            left = iter(range(6))
            found = list_network(settings, database, stopped=lambda left=left: next(left, None) is None)  # type: ignore[misc]
            entries += found.repositories
            if found.ended == "everything is listed":
                break
            assert found.ended == "it was asked to end"
        assert runs > 3 and len(queued(database)) == 100
        assert entries <= 100 + 5 * 2 * runs, "no run begins at the beginning"


def test_a_relay_that_does_not_list_hosts(database: Database, serve: Callable[..., Lists]) -> None:
    pages = {None: {"repos": [entry(A), entry(B)], "cursor": "x"}, "x": {"repos": [entry(C), entry(A)]}}
    relay = serve(repos=lambda cursor: pages[cursor])
    found = run(database, relay)
    assert (found.queued, found.ended) == (3, "everything is listed")
    assert queued(database) == [(A, "", 0), (B, "", 0), (C, "", 0)]


def test_entries_that_are_none_are_left_out(database: Database, serve: Callable[..., Lists]) -> None:
    junk = [
        entry(A),
        entry(A),
        entry(B, active=False, status="deactivated"),
        entry("did:plc:\0"),
        entry("did:web:" + "x" * 1_000),
        entry("nobody"),
        entry(C, rev="not a rev"),
        {"did": 7},
        "text",
        None,
    ]
    host = serve(repos=lambda cursor: {"repos": junk})
    other = [{"hostname": name} for name in ("localhost/x", "a..b", "-", 7, "x" * 400, "user@host")]
    relay = serve(hosts=lambda cursor: {"hosts": [*other, {"hostname": host.hostname}, None]})
    assert run(database, relay).queued == 1
    assert queued(database) == [(A, host.url, 0)]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (lambda cursor: {"repos": [entry(A)], "cursor": "same"}, "leads to the same page"),
        (lambda cursor: {"repos": [], "cursor": str(int(cursor or 0) + 1)}, "pages are empty"),
        (lambda cursor: {"repos": [entry(A)] * 1_000, "cursor": str(int(cursor or 0) + 1)}, "far more entries"),
    ],
    ids=["cursor", "empty", "endless"],
)
def test_a_list_without_an_end_is_cut_off(
    database: Database, serve: Callable[..., Lists], monkeypatch: pytest.MonkeyPatch, reply: Reply, why: str
) -> None:
    monkeypatch.setattr(listing_module, "MIN_LISTED", 10_000)
    host = serve(repos=reply)
    relay = serve(hosts=hosts_of(host.hostname))
    found = run(database, relay)
    assert found.ended == "everything is listed"
    assert why in one(database.url, "SELECT list_error FROM pipeline.pds_host")
    assert host.questions[LIST_REPOS] <= 12


def test_hosts_that_fail_hold_up_no_other_and_are_tried_again(
    database: Database, serve: Callable[..., Lists], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "listing", lambda attempts: 0.05)
    monkeypatch.setattr(backoff, "LISTING_TRIES", 3)
    good = serve(repos=lambda cursor: {"repos": [entry(A)]})
    html = serve(repos=lambda cursor: b"<html>")
    other = serve(repos=lambda cursor: {"hosts": []})
    none = serve()
    relay = serve(hosts=hosts_of(good.hostname, html.hostname, other.hostname, none.hostname))
    found = run(database, relay)
    assert found.queued == 1 and found.listed == 1
    while run(database, relay).ended != "everything is listed":
        time.sleep(0.05)
    assert (html.questions[LIST_REPOS], none.questions[LIST_REPOS], good.questions[LIST_REPOS]) == (3, 1, 1)
    errors = dict(rows(database.url, "SELECT host, list_error FROM pipeline.pds_host"))
    assert errors[good.url] is None and "not JSON" in errors[html.url] and "no repos" in errors[other.url]
    assert "501" in errors[none.url]


def test_a_relay_that_fails_is_tried_again_later(database: Database, serve: Callable[..., Lists]) -> None:
    relay = serve(hosts=lambda cursor: json.dumps([1]).encode())
    found = run(database, relay)
    assert found.failed == 1 and "could not be read" in found.ended and "no object" in found.ended
    run(database, relay)
    assert relay.questions[LIST_HOSTS] == 1, "it has its pause"
    # A cursor that it does not take any more: the list is read from its beginning.
    rows(
        database.url,
        "UPDATE pipeline.relay_listing SET cursor = 'old', not_before = now(), attempts = %s",
        backoff.LISTING_TRIES - 1,
    )
    assert run(database, relay).failed == 1
    assert rows(database.url, "SELECT cursor, attempts, not_before > now() FROM pipeline.relay_listing") == [
        (None, 1, True)
    ]


def test_accounts_that_the_stream_brought_are_queued_as_new(database: Database, serve: Callable[..., Lists]) -> None:
    rows(database.url, "INSERT INTO pipeline.repo (did, rev) VALUES (%s, %s)", A, REV)
    rows(database.url, "INSERT INTO pipeline.repo (did, sync_state) VALUES (%s, 'desynchronized')", B)
    relay = serve(hosts=hosts_of())
    assert run(database, relay).queued == 2
    assert [(did, priority) for did, _, priority in queued(database)] == [(A, queue.NEW), (B, queue.DESYNCHRONIZED)]


def test_one_listing_at_a_time(database: Database, serve: Callable[..., Lists]) -> None:
    relay = serve(hosts=hosts_of())
    seen: list[int] = []

    def progress(_: ListingSummary) -> None:
        if not seen:
            seen.append(1)
            with pytest.raises(LockTaken, match="another process lists"):
                run(database, relay)

    run(database, relay, progress=progress)
    assert seen


def test_names_of_hosts_and_their_origins() -> None:
    closed, open_ = Settings(allow_private_hosts=True), Settings()
    assert origin_of("PDS.Example.com", open_) == "https://pds.example.com"
    assert origin_of("127.0.0.1:80", closed) == "http://127.0.0.1:80" and origin_of("127.0.0.1:80", open_) is None
    assert [origin_of(name, open_) for name in ("", "a b", "a/b", "a@b", "a..b", "[::1]", "x" * 300)] == [None] * 7
