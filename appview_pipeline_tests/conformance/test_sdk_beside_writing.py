"""The published AppView is asked with the SDK while the pipeline writes: every answer is of a state that there was.

The consumer reads the relay of a simulated network in small batches, as in production. What the network wrote is known
at each of its events: an answer may be of any state from the one that was applied when it was asked for to the one that
was sent when it came, and of no other. Needs `just reference` (conformance/reference/README.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from threading import Event
from typing import Any, TypeVar

import pytest
from atproto_client.exceptions import BadRequestError

from appview_pipeline.store.database import Database
from appview_pipeline_tests.conformance.reference.expected_views import Thread, Views
from appview_pipeline_tests.conformance.reference.reader import SERVICE, serving
from appview_pipeline_tests.conformance.reference.sdk import Account, Call, client, unknown_parts
from appview_pipeline_tests.conformance.reference.served_world import ServedNetwork, ServedWorld, resolve, views, write
from appview_pipeline_tests.simulated_network.repository import Write
from appview_pipeline_tests.simulated_network.world import Author
from appview_pipeline_tests.support.commits import host_of
from appview_pipeline_tests.support.consumers import Consumer, cursor, until
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

BEFORE, DURING = 200, 120
T = TypeVar("T")


class WritingWorld(ServedWorld):
    """A world in which records come and few go, about a handful of posts, by accounts that hide from nobody."""

    acts = (*("like",) * 8, *("post",) * 6, "repost", "repost", "follow", "follow", "delete", "unfollow")

    def _arrival(self) -> list[bytes]:
        return []

    def _identity_change(self) -> list[bytes]:
        return []

    def _delete(self, author: Author) -> list[Write] | None:
        """Only likes and posts go."""
        path = author.repository.some_path(self.rng, self.rng.choice(("app.bsky.feed.like", "app.bsky.feed.post")))
        return [Write("delete", path, None)] if path else None


@dataclass
class Sent:
    """All that the network has sent, event by event.

    `states`: what was true after each event; the first one after the event `first`, up to which everything is applied.
    """

    network: ServedNetwork
    first: int
    states: list[Views]

    def advance(self) -> None:
        """Lets the next thing happen. What is then true is known before the relay sends it."""
        frames = list(self.network.world.frames(1))
        self.states.append(as_it_is(self.network))
        self.network.happen(lambda: frames)

    def since(self, applied: int) -> list[Views]:
        """The states from the one after the event `applied` to the newest."""
        return self.states[max(applied - self.first, 0) :]


def as_it_is(network: ServedNetwork) -> Views:
    """What must be shown of the network now, whatever it writes later."""
    now = views(network)
    now.rows("post")  # the tables are made now
    now.model = replace(now.model, records=dict(now.model.records))
    return now


@dataclass
class Asking:
    """Somebody who asks the AppView, as one account after another.

    `answers`: how many there were, by method. `spans`: of how many states each may have been. `revs`: by account the
    newest rev that the AppView said it had (the header `atproto-repo-rev`).
    """

    database: Database
    sent: Sent
    port: int
    draws: Random
    answers: Counter[str] = field(default_factory=Counter)
    spans: Counter[int] = field(default_factory=Counter)
    revs: dict[str, str] = field(default_factory=dict)
    clients: dict[str, Any] = field(default_factory=dict)
    header: str | None = None

    def client(self, did: str) -> Any:
        """The SDK's client as an account."""
        if did not in self.clients:
            account = Account(did, self.sent.network.world.by_did[did].account.key)
            self.clients[did] = client(self.port, account, service=SERVICE, seen=self._see)
        return self.clients[did]

    def _see(self, call: Call) -> None:
        self.header = call.headers.get("atproto-repo-rev")

    def applied(self) -> int:
        """The event up to which everything is applied."""
        return cursor(self.database, self.sent.network.relay_url) or 0

    def ask(self, method: Any, **parameters: Any) -> tuple[Any, list[Views]]:
        """An answer, and the states that it may be of."""
        applied = self.applied()
        answer = method(parameters)
        assert not list(unknown_parts(answer))
        states = self.sent.since(applied)
        self.answers[method.__name__] += 1
        self.spans[len(states)] += 1
        return answer, states

    def check_something(self) -> None:
        """Asks about an account or a post, and compares the answer with what was true."""
        posts = self.sent.states[-1].rows("post")
        uri = self.draws.choice(posts)["uri"]
        did = self.draws.choice(self.sent.network.dids)
        if self.draws.random() < 0.5:  # the newest, which may not be applied yet
            uri = max(posts, key=lambda row: (row["sortAt"], row["cid"]))["uri"]
            did = host_of(uri)
        app = self.client(did).app.bsky
        checks: list[Callable[[], None]] = [
            lambda: self._check_post(app.feed.get_posts, uri),
            lambda: self._check_profile(app.actor.get_profile, did),
            lambda: self._check_likes(app.feed.get_likes, uri),
            lambda: self._check_thread(app.feed.get_post_thread, uri),
            lambda: self._check_own_feed(app.feed.get_author_feed, did),
            lambda: self._check_own_feed(app.feed.get_author_feed, did),
            lambda: self._check_notifications(app.notification.list_notifications, did),
            lambda: self._check_followers(app.graph.get_followers, did),
        ]
        self.draws.choice(checks)()

    def _check_post(self, method: Any, uri: str) -> None:
        answer, states = self.ask(method, uris=[uri])
        within([post.uri for post in answer.posts], [[uri] if uri in state.posts else [] for state in states])
        for post in answer.posts:
            got = (post.reply_count, post.repost_count, post.like_count, post.quote_count)
            for number, count in enumerate(got):
                assert count in {state.counts(uri)[number] for state in states}, (uri, number, count)

    def _check_profile(self, method: Any, did: str) -> None:
        answer, states = self.ask(method, actor=did)
        got = (answer.followers_count, answer.follows_count, answer.posts_count)
        profiles = [state.profile(did) for state in states]
        wanted = [(profile.followers, profile.follows, profile.posts) for profile in profiles]
        for number, count in enumerate(got):
            assert count in {it[number] for it in wanted}, (did, number, count)

    def _check_likes(self, method: Any, uri: str) -> None:
        answer, states = self.ask(method, uri=uri, limit=100)
        within([it.actor.did for it in answer.likes], [state.likes(uri) for state in states])

    def _check_followers(self, method: Any, did: str) -> None:
        answer, states = self.ask(method, actor=did, limit=100)
        within([it.did for it in answer.followers], [state.followers(did) for state in states])

    def _check_notifications(self, method: Any, did: str) -> None:
        answer, states = self.ask(method, limit=100)
        got = [(it.reason, it.uri) for it in answer.notifications]
        within(got, [[(it.reason, it.record) for it in state.notifications(did)] for state in states])

    def _check_thread(self, method: Any, uri: str) -> None:
        """No reply is shown without its record."""
        applied = self.applied()
        try:
            answer, states = self.ask(method, uri=uri, depth=6)
        except BadRequestError as refused:
            assert refused.response.content.error == "NotFound"
            states = self.sent.since(applied)
            assert not all(uri in state.posts for state in states), "it is deleted meanwhile, or not there yet"
            return
        got = list(replies(answer.thread))
        for post in got:
            record = next(it.model.records[post.uri] for it in states if post.uri in it.model.records)
            assert (record.cid, record.value["text"]) == (post.cid, post.record.text)
        within([post.uri for post in got], [[*walked(state, uri)] for state in states])

    def _check_own_feed(self, method: Any, did: str) -> None:
        """What an account sees of itself: a PDS adds what the AppView does not have yet, by the rev in the header.

        The AppView reads the rev after the feed. So the feed has nothing that is newer, and it has all that the rev of
        an earlier answer said.
        """
        known = self.revs.get(did, "")
        answer, states = self.ask(method, actor=did, limit=100)
        got = [it.post.uri for it in answer.feed if it.reason is None]
        wanted = [[it.post for it in state.author_feed(did) if it.repost is None] for state in states]
        within(got, wanted)
        assert self.header is not None
        revs = {uri: record.rev for state in states for uri, record in state.model.records.items() if record.did == did}
        assert all(revs[uri] <= self.header for uri in got)
        assert {uri for uri in set(wanted[0]).intersection(*wanted) if revs[uri] <= known} <= set(got)
        missing = [uri for uri in wanted[-1] if revs[uri] <= known and uri not in got]
        assert not missing, "the AppView said that it had them"
        self.revs[did] = max(known, self.header)


def replies(found: Any) -> Iterator[Any]:
    """The posts below a post; every one is whole."""
    for it in getattr(found, "replies", None) or ():
        assert it.py_type == "app.bsky.feed.defs#threadViewPost", it.py_type
        yield it.post
        yield from replies(it)


def walked(state: Views, uri: str) -> Iterator[str]:
    """The posts below a post in a state."""

    def below(thread: Thread) -> Iterator[str]:
        for reply in thread.replies:
            assert reply is not None
            yield reply.uri
            yield from below(reply)

    return below(state.thread(uri)) if uri in state.posts else iter(())


def within(got: Sequence[T], states: Sequence[Sequence[T]]) -> None:
    """What was shown was there in one of the states, and what was there in all of them was shown; once."""
    assert len(got) == len(set(got))
    ever = {it for state in states for it in state}
    always = set(states[0]).intersection(*states)
    assert always <= set(got) <= ever, (always - set(got), set(got) - ever)


def test_every_answer_is_of_a_state_that_there_was(database: Database, packages: Path, tmp_path: Path) -> None:
    with ServedNetwork(WritingWorld()) as network:
        network.advance(BEFORE)
        write(network, database, network.frames)
        resolve(network, database)
        sent = Sent(network, network.world.seq, [as_it_is(network)])
        small = {"APPVIEW_BATCH_EVENTS": "10", "APPVIEW_BATCH_SECONDS": "0.2"}
        consumer = Consumer(database.url, network.relay_url, **{**network.environment(), **small})
        try:
            log = tmp_path / "reference.log"
            with serving(packages, database.url, log, directory=network.plc_url) as reader:
                askers = [Asking(database, sent, reader.port, Random(number)) for number in range(2)]
                keep_asking(askers, sent)
                until(lambda: cursor(database, network.relay_url) == network.world.seq, consumer)
                for _ in range(20):
                    askers[0].check_something()
        finally:
            consumer.clean_up()
    answers = askers[0].answers + askers[1].answers
    assert len(answers) == 7 and answers.total() >= DURING
    spans = askers[0].spans + askers[1].spans
    assert spans[1] >= 20 and spans.total() - spans[1] > DURING / 5, "many were answered while something was written"


def goes_on(askers: Sequence[Asking], asks: Sequence[Future[None]], answers: int) -> bool:
    """Whether more than so many answers have come, or somebody has failed."""
    return sum(it.answers.total() for it in askers) > answers or any(it.done() for it in asks)


def keep_asking(askers: Sequence[Asking], sent: Sent) -> None:
    """Lets the network write while they ask: an event, an answer, an event, ..."""
    ended = Event()

    def ask(asking: Asking) -> None:
        while not ended.is_set():
            asking.check_something()

    with ThreadPoolExecutor(len(askers)) as pool:
        asks = [pool.submit(ask, asking) for asking in askers]
        try:
            for number in range(DURING):
                sent.advance()
                wait_for(partial(goes_on, askers, asks, number))
                if any(it.done() for it in asks):
                    break
        finally:
            ended.set()
        for it in asks:
            it.result()
