"""The published AppView over a database of ours, asked with the published Python SDK: what clients are shown.

Nothing that is expected comes from the database: it follows from what the accounts of a simulated network wrote
(served_world.py, expected_views.py). Accounts ask with tokens that their keys sign, as through a PDS. Needs `just
reference` (conformance/reference/README.md), and for the commands of docs/serve.md curl and jq.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pytest
from atproto_client.exceptions import BadRequestError, UnauthorizedError

from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.expected_views import (
    Counts,
    Item,
    Notified,
    Profile,
    Relation,
    Thread,
    Views,
)
from appview_pipeline_tests.conformance.reference.reader import SERVICE
from appview_pipeline_tests.conformance.reference.sdk import Account, client, service_token, to_the_end, unknown_parts
from appview_pipeline_tests.conformance.reference.served_world import ServedNetwork, views
from appview_pipeline_tests.conformance.reference.session import running, transcript
from appview_pipeline_tests.simulated_network.accounts import make_key
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.commits import host_of
from appview_pipeline_tests.support.console import commands, printed, section
from appview_pipeline_tests.support.tables import fresh_database

pytestmark = pytest.mark.slow

SERVE, SESSION = (CHECKOUT / "docs" / name for name in ("serve.md", "serve-session.md"))
FILTERS = ("posts_with_replies", "posts_no_replies", "posts_with_media", "posts_and_author_threads", "posts_with_video")


@dataclass
class Served:
    """The network, what clients must be shown of it, and the AppView at `port`."""

    network: ServedNetwork
    views: Views
    port: int
    clients: dict[tuple[str | None, str | None], Any] = field(default_factory=dict)

    def account(self, did: str) -> Account:
        return Account(did, self.network.world.by_did[did].account.key)

    def client(self, viewer: str | None, labelers: str | None) -> Any:
        """The SDK's client; one for each account, since they are slow to make."""
        if (viewer, labelers) not in self.clients:
            account = self.account(viewer) if viewer else None
            self.clients[viewer, labelers] = client(self.port, account, service=SERVICE, labelers=labelers)
        return self.clients[viewer, labelers]

    def ask(self, method: str, viewer: str | None = None, /, labelers: str | None = None, **parameters: Any) -> Any:
        """Calls a query (`app.bsky.feed.get_likes`) as the account `viewer` or as nobody. The answer is one of the
        SDK's models, and has no part that the SDK does not know."""
        answer = reduce(getattr, method.split("."), self.client(viewer, labelers))(parameters)
        assert not list(unknown_parts(answer))
        return answer

    def all(self, method: str, items: str, viewer: str | None = None, limit: int = 100, **parameters: Any) -> list[Any]:
        """All items of a list, page by page."""
        return to_the_end(lambda asked: self.ask(method, viewer, **asked), items, limit, **parameters)

    @property
    def shown(self) -> list[str]:
        """The accounts that are shown."""
        return [did for did in self.network.dids if self.views.exists(did)]

    @property
    def viewers(self) -> list[str | None]:
        """Nobody, and two accounts that block others and are blocked."""
        return [None, *self.busiest[:2]]

    @property
    def busiest(self) -> list[str]:
        """The accounts that are shown, those first that are in most blocks."""
        blocks = [(row["creator"], row["subjectDid"]) for row in self.views.rows("actor_block")]
        return sorted(self.shown, key=lambda did: -sum(did in pair for pair in blocks))

    @property
    def posts(self) -> list[str]:
        """The posts that are shown, oldest first."""
        found = sorted(self.views.posts.values(), key=lambda row: (row["sortAt"], row["cid"]))
        return [row["uri"] for row in found if self.views.exists(row["creator"])]


@pytest.fixture(scope="module")
def served(
    server: EmbeddedPostgres, template_database: str, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("served") / "reference.log"
    with fresh_database(server, template_database) as database, running(database, packages, log) as (network, reader):
        yield Served(network, views(network), reader.port)


def dids(found: Sequence[Any]) -> list[str]:
    return [it.did for it in found]


def uris(found: Sequence[Any]) -> list[str]:
    return [it.uri for it in found]


def seen_profile(found: Any) -> Profile:
    made = found.associated
    return Profile(
        found.did,
        found.handle,
        found.display_name,
        found.description,
        found.followers_count,
        found.follows_count,
        found.posts_count,
        made.lists,
        made.feedgens,
        made.starter_packs,
        made.labeler,
    )


def relation(viewer: Any) -> Relation:
    return Relation(viewer.following, viewer.followed_by, viewer.blocking, bool(viewer.blocked_by))


def items(feed: Sequence[Any]) -> list[Item]:
    """The items of a feed; `reason` is a repost, since nothing is pinned."""
    return [Item(it.post.uri, it.reason.uri if it.reason else None) for it in feed]


def counts(post: Any) -> Counts:
    return Counts(post.reply_count, post.repost_count, post.like_count, post.quote_count)


def thread(found: Any) -> Thread | None:
    """A thread of the first version of the API."""
    if found.py_type == "app.bsky.feed.defs#blockedPost":
        return None
    return Thread(found.post.uri, tuple(thread(it) for it in found.replies or ()))


def labels(found: Any) -> set[tuple[str, str]]:
    """(src, val) of a view's labels; each is there once."""
    said = [(label.src, label.val) for label in found.labels or ()]
    assert len(said) == len(set(said))
    return set(said)


def test_the_network_has_what_is_asked_about(served: Served) -> None:
    """The instrument: nothing below compares empty lists alone."""
    model, rows = served.views, served.views.rows
    assert len(served.posts) > 100 and len(rows("like")) > 100 and len(rows("follow")) > 30
    reasons = {it.reason for did in served.shown for it in model.notifications(did)}
    assert reasons >= {"like", "repost", "follow", "mention", "reply", "quote", "verified", "like-via-repost"}
    assert rows("quote") and rows("actor_block") and rows("reference_list_opt_out") and rows("post_embed_video")
    for rule in ("violatesThreadGate", "violatesEmbeddingRules"):
        assert any(row[rule] for row in rows("post"))
    assert any(None in model.thread(uri, viewer).replies for uri in served.posts for viewer in served.viewers)


def test_profiles(served: Served) -> None:
    for viewer in served.viewers:
        found = served.ask("app.bsky.actor.get_profiles", viewer, actors=served.network.dids).profiles
        assert [seen_profile(it) for it in found] == [served.views.profile(did) for did in served.shown]
        for it in found:
            assert viewer is None or relation(it.viewer) == served.views.relation(viewer, it.did)
        for did in served.shown[:4]:
            by_handle = served.ask("app.bsky.actor.get_profile", viewer, actor=served.network.handle(did))
            assert seen_profile(by_handle) == served.views.profile(did)


def test_accounts_that_left_or_were_taken_down_are_hidden(served: Served) -> None:
    assert len(served.network.hidden) == 2
    for did in served.network.hidden:
        active = served.network.world.by_did[did].account.status != "takendown"
        with pytest.raises(BadRequestError) as refused:
            served.ask("app.bsky.actor.get_profile", actor=did)
        assert refused.value.response.content.error == ("AccountDeactivated" if active else "AccountTakedown")
        with pytest.raises(BadRequestError):
            served.ask("app.bsky.feed.get_author_feed", actor=did)
        theirs = [uri for uri in served.views.posts if host_of(uri) == did]
        assert theirs and not served.ask("app.bsky.feed.get_posts", uris=theirs[:25]).posts


@pytest.mark.parametrize("chosen", FILTERS)
def test_author_feeds(served: Served, chosen: str) -> None:
    for did in served.shown:
        want = served.views.author_feed(did, chosen)
        found = served.ask("app.bsky.feed.get_author_feed", actor=did, filter=chosen, limit=100)
        assert items(found.feed) == want, (did, chosen)


def test_author_feeds_page_by_page(served: Served) -> None:
    for viewer in served.viewers[1:2]:
        for did in served.shown:
            feed = partial(served.all, "app.bsky.feed.get_author_feed", "feed", viewer, 7, actor=did)
            if served.views.apart(viewer, did):
                with pytest.raises(BadRequestError, match="Block"):
                    feed()
            else:
                assert items(feed()) == served.views.author_feed(did, viewer=viewer)


def test_timelines(served: Served) -> None:
    for viewer in served.shown:
        found = served.ask("app.bsky.feed.get_timeline", viewer, limit=60)
        assert items(found.feed) == served.views.timeline(viewer, 60)


def test_posts(served: Served) -> None:
    """Their counts, texts and embeds; what the viewer did with them."""
    for viewer in served.viewers:
        for start in range(0, len(served.posts), 25):
            asked = served.posts[start : start + 25]
            found = served.ask("app.bsky.feed.get_posts", viewer, uris=asked).posts
            assert uris(found) == [uri for uri in asked if not served.views.apart(viewer, host_of(uri))]
            for post in found:
                record = served.views.record(post.uri)
                assert (post.cid, post.record.text) == (record.cid, record.value["text"])
                assert counts(post) == served.views.counts(post.uri)
                if viewer is None:
                    assert embed(post) == served.views.embed(post.uri)
                else:
                    own = [served.views.own(table, viewer, post.uri) for table in ("like", "repost")]
                    assert [post.viewer.like, post.viewer.repost] == own


def embed(post: Any) -> tuple[str, str] | None:
    """The record that a post embeds: the kind of its view, and its URI."""
    shown = getattr(post.embed, "record", None)
    if shown is not None and shown.py_type in ("app.bsky.embed.record#view", "app.bsky.embed.record"):
        shown = shown.record
    if shown is None:
        return None
    kinds = {
        "app.bsky.embed.record#viewRecord": "post",
        "app.bsky.embed.record#viewBlocked": "blocked",
        "app.bsky.embed.record#viewDetached": "detached",
        "app.bsky.embed.record#viewNotFound": "not found",
        "app.bsky.graph.defs#listView": "list",
    }
    return kinds.get(shown.py_type, "record"), shown.uri


def test_threads(served: Served) -> None:
    """Of posts with replies, and of replies."""
    for viewer in served.viewers:
        for uri in served.posts:
            want = served.views.thread(uri, viewer)
            is_reply = served.views.posts[uri]["replyParent"] is not None
            if served.views.apart(viewer, host_of(uri)) or not (want.replies or (is_reply and viewer is None)):
                continue
            found = served.ask("app.bsky.feed.get_post_thread", viewer, uri=uri).thread
            assert thread(found) == want
            if viewer is None:
                assert above(found) == served.views.ancestors(uri)


def above(found: Any) -> list[str]:
    """The posts above a post."""
    parent = found.parent
    return [parent.post.uri, *above(parent)] if getattr(parent, "post", None) is not None else []


def test_threads_of_the_second_version(served: Served) -> None:
    viewer = served.busiest[0]
    for uri in served.posts:
        want = served.views.thread_uris(uri, viewer)
        if want and not served.views.apart(viewer, host_of(uri)):
            found = served.ask(
                "app.bsky.unspecced.get_post_thread_v2", viewer, anchor=uri, below=6, branching_factor=100
            )
            assert {it.uri for it in found.thread if it.depth > 0} == want


def test_likes_reposts_and_quotes(served: Served) -> None:
    """Of all posts for nobody; of those that have most, page by page, for an account."""
    most = sorted(served.posts, key=lambda uri: -sum(served.views.counts(uri)))
    for viewer, posts, limit in ((None, most, 100), (served.busiest[0], most[:20], 4)):
        for uri in posts:
            have = served.views.counts(uri)
            if have.likes:
                found = served.all("app.bsky.feed.get_likes", "likes", viewer, uri=uri, limit=limit)
                assert [it.actor.did for it in found] == served.views.likes(uri, viewer)
            if have.reposts:
                found = served.all("app.bsky.feed.get_reposted_by", "reposted_by", viewer, uri=uri, limit=limit)
                assert dids(found) == served.views.reposted_by(uri, viewer)
            if have.quotes:
                found = served.all("app.bsky.feed.get_quotes", "posts", viewer, uri=uri, limit=limit)
                assert uris(found) == served.views.quotes(uri, viewer)


def test_follows(served: Served) -> None:
    for viewer, limit in ((None, 5), (served.busiest[0], 100)):
        for did in served.shown:
            found = served.all("app.bsky.graph.get_followers", "followers", viewer, actor=did, limit=limit)
            assert dids(found) == served.views.followers(did, viewer)
            found = served.all("app.bsky.graph.get_follows", "follows", viewer, actor=did, limit=limit)
            assert dids(found) == served.views.follows(did, viewer)
            if viewer is not None:
                known = served.ask("app.bsky.graph.get_known_followers", viewer, actor=did, limit=100)
                assert set(dids(known.followers)) == served.views.known_followers(did, viewer)


def test_relationships(served: Served) -> None:
    for did in served.shown:
        others = [it for it in served.network.dids if it != did]
        found = served.ask("app.bsky.graph.get_relationships", actor=did, others=others)
        follows = {(row["creator"], row["subjectDid"]): row["uri"] for row in served.views.rows("follow")}
        blocks = {(row["creator"], row["subjectDid"]): row["uri"] for row in served.views.rows("actor_block")}
        got = [(it.did, it.following, it.followed_by, it.blocking, it.blocked_by) for it in found.relationships]
        assert got == [
            (it, follows.get((did, it)), follows.get((it, did)), blocks.get((did, it)), blocks.get((it, did)))
            for it in others
        ]


def test_lists(served: Served) -> None:
    for did in served.shown:
        found = served.all("app.bsky.graph.get_lists", "lists", actor=did, limit=3)
        assert uris(found) == served.views.lists(did)
        assert [it.list_item_count for it in found] == [served.views.list_size(it.uri) for it in found]
    lists = [row["uri"] for row in served.views.rows("list") if served.views.exists(row["creator"])]
    for viewer in served.viewers[:2]:
        for uri in lists:
            answer = served.ask("app.bsky.graph.get_list", viewer, list=uri, limit=100)
            assert answer.list.name == served.views.record(uri).value["name"]
            assert [it.subject.did for it in answer.items] == served.views.members(uri, viewer)
            if viewer is not None and answer.items:
                feed = served.ask("app.bsky.feed.get_list_feed", viewer, list=uri, limit=20)
                assert [it.post.uri for it in feed.feed] == served.views.list_feed(uri, viewer)[: len(feed.feed)]
                assert feed.cursor or len(feed.feed) == len(served.views.list_feed(uri, viewer))


def test_notifications(served: Served) -> None:
    for did in served.shown:
        found = served.all("app.bsky.notification.list_notifications", "notifications", did)
        got = [Notified(it.reason, it.uri, it.author.did, it.reason_subject, it.indexed_at) for it in found]
        assert [it.at for it in got] == sorted((it.at for it in got), reverse=True)
        assert sorted(got, key=str) == sorted(served.views.notifications(did), key=str)
        assert served.ask("app.bsky.notification.get_unread_count", did).count == served.views.unread(did)


def test_starter_packs(served: Served) -> None:
    for did in served.shown:
        want = served.views.made("starter_pack", did)
        found = served.all("app.bsky.graph.get_actor_starter_packs", "starter_packs", actor=did, limit=2)
        assert uris(found) == want
        assert [it.joined_all_time_count for it in found] == [served.views.joined(uri) for uri in want]
        if want:
            again = served.ask("app.bsky.graph.get_starter_packs", uris=want[:25]).starter_packs
            assert uris(again) == want[:25]
        for uri in want:
            value = served.views.record(uri).value
            pack = served.ask("app.bsky.graph.get_starter_pack", starter_pack=uri).starter_pack
            assert (pack.record.name, pack.list and pack.list.uri) == (value["name"], listed(served, value["list"]))
            assert {it.subject.did for it in pack.list_items_sample} == set(served.views.members(value["list"]))
            feeds = [it["uri"] for it in value["feeds"] if it["uri"] in served.views.model.records]
            assert uris(pack.feeds) == [it for it in feeds if served.views.exists(host_of(it))]


def listed(served: Served, uri: str) -> str | None:
    """The list, unless it is gone."""
    return uri if uri in served.views.model.records else None


def test_feed_generators(served: Served) -> None:
    for did in served.shown:
        want = served.views.made("feed_generator", did)
        found = served.all("app.bsky.feed.get_actor_feeds", "feeds", actor=did, limit=2)
        assert uris(found) == want
        for it in found:
            value = served.views.record(it.uri).value
            assert (it.display_name, it.like_count) == (value["displayName"], served.views.counts(it.uri).likes)
        if want:
            assert uris(served.ask("app.bsky.feed.get_feed_generators", feeds=want).feeds) == want


def test_labelers(served: Served) -> None:
    wanted = [it.did for it in served.network.labelers]
    found = served.ask("app.bsky.labeler.get_services", dids=[*wanted, served.shown[0]], detailed=True).views
    assert [it.creator.did for it in found] == wanted
    for it in found:
        policies = served.views.record(it.uri).value["policies"]
        assert it.policies.label_values == policies["labelValues"]
        assert [it.identifier for it in it.policies.label_value_definitions] == ["spider"]


@pytest.mark.parametrize("chosen", ["none", "first", "both"])
def test_labels(served: Served, chosen: str) -> None:
    """Those of the labelers that the request accepts, and those by authors."""
    both = [it.did for it in served.network.labelers]
    accepted = {"none": [], "first": both[:1], "both": both}[chosen]
    asked = partial(served.ask, labelers=", ".join(accepted) or "did:plc:nobody")
    said = 0
    for start in range(0, len(served.posts), 25):
        found = asked("app.bsky.feed.get_posts", None, uris=served.posts[start : start + 25]).posts
        for post in found:
            assert labels(post) == served.views.labels_of(post.uri, by=accepted)
            assert labels(post.author) == served.views.labels_of_account(post.author.did, accepted)
            said += len(labels(post))
    assert said >= 20 * len(accepted)


def test_searches(served: Served) -> None:
    for word in ("simnet", "na", served.network.handle(served.shown[2]), "nobody-has-this"):
        want = {did for did in served.shown if word in served.network.handle(did)}
        found = served.all("app.bsky.actor.search_actors", "actors", q=word, limit=4)
        assert set(dids(found)) == want and len(found) == len(want)
        typed = served.ask("app.bsky.actor.search_actors_typeahead", q=word, limit=100).actors
        assert set(dids(typed)) == want and len(typed) == len(want)
    for word in ("reading", "coffee", "明日", "nobody-writes-this"):
        found = served.all("app.bsky.feed.search_posts", "posts", q=word, limit=4)
        assert uris(found) == served.views.posts_with(word)
    assert served.views.posts_with("reading")


def test_the_appview_knows_who_asks(served: Served) -> None:
    """Tokens are checked with the key in the DID document, of either kind: no other key, service or method will do."""
    keys = {type(served.account(did).key): did for did in served.shown}
    assert len(keys) == 2
    for did in keys.values():
        assert served.ask("app.bsky.notification.get_unread_count", did).count == served.views.unread(did)
        account = served.account(did)
        method = "app.bsky.feed.getTimeline"
        for asker, service, name in (
            (Account(did, make_key("somebody else's")), SERVICE, method),
            (account, "did:example:another", method),
            (account, SERVICE, "app.bsky.notification.getUnreadCount"),
        ):
            token = service_token(asker.key, asker.did, service, name)
            with pytest.raises(UnauthorizedError):
                served.client(None, None).app.bsky.feed.get_timeline(headers={"Authorization": f"Bearer {token}"})
    with pytest.raises(UnauthorizedError):
        served.client(None, None).app.bsky.feed.get_timeline()


def test_what_the_operator_takes_down_is_hidden_until_it_is_given_back(served: Served) -> None:
    uri = next(it for it in served.posts if served.views.counts(it).replies)
    did = next(it for it in served.shown if it != host_of(uri) and served.views.author_feed(it))
    account = {"$type": "com.atproto.admin.defs#repoRef", "did": did}
    post = {"$type": "com.atproto.repo.strongRef", "uri": uri, "cid": served.views.record(uri).cid}
    for subject in (account, post):
        take_down(served, subject, True)
    hidden = Views(
        served.views.model, served.views.handles, {*served.network.hidden, did}, {uri}, labels=served.views.labels
    )
    try:
        with pytest.raises(BadRequestError):
            served.ask("app.bsky.actor.get_profile", actor=did)
        for author in (it for it in served.shown if it != did):
            feed = served.ask("app.bsky.feed.get_author_feed", actor=author, limit=100).feed
            assert items(feed) == hidden.author_feed(author)
            assert dids(served.all("app.bsky.graph.get_followers", "followers", actor=author)) == hidden.followers(
                author
            )
    finally:
        for subject in (account, post):
            take_down(served, subject, False)
    feed = served.ask("app.bsky.feed.get_author_feed", actor=did, limit=100).feed
    assert items(feed) == served.views.author_feed(did)


def take_down(served: Served, subject: dict[str, str], applied: bool) -> None:
    """As an operator does with the AppView's password."""
    password = "Basic " + base64.b64encode(b"admin:admin").decode()
    data = {"subject": subject, "takedown": {"applied": applied, "ref": "operator"}}
    admin = served.client(None, None).com.atproto.admin
    admin.update_subject_status(data, headers={"Authorization": password})


def test_the_session_of_the_sdk_is_as_documented(served: Served) -> None:
    """docs/serve-session.md."""
    (documented,) = re.findall(r"^```python\n(.*?)^```$", SESSION.read_text(), re.MULTILINE | re.DOTALL)
    assert transcript(served.network, served.port).splitlines() == documented.splitlines()


def test_the_commands_print_what_is_documented(served: Served) -> None:
    """docs/serve.md."""
    for tool in ("curl", "jq"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    session = commands(section(SERVE.read_text(), "A session"))
    assert len(session) >= 15
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "APPVIEW": f"http://127.0.0.1:{served.port}/xrpc",
        "PASSWORD": "admin",
    }
    for command, output in zip(session, printed(session, environment), strict=True):
        assert output == command.output, command.text
