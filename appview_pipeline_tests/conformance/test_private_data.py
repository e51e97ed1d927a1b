"""Private state of the AppView's users: written by the reference's own code, it survives our work and takes effect.

Each test has accounts of its own. What they do goes through the AppView's HTTP API, bsync and the subscription to it
(docs/serve.md, Private data); what the network does goes through our write path; answers are those of the HTTP API.
"""

from __future__ import annotations

import base64
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from appview_pipeline.ingest.recount import recount
from appview_pipeline.ingest.removal import remove_accounts
from appview_pipeline.ingest.rerun import DERIVED_COLLECTIONS, rerun_collections
from appview_pipeline.protocol.cid import to_text
from appview_pipeline.settings import Settings
from appview_pipeline.store.counters import TABLES
from appview_pipeline.store.database import Database
from appview_pipeline.store.embedded.attach import EmbeddedPostgres
from appview_pipeline_tests.conformance.reference.check import node_url, scratch_database
from appview_pipeline_tests.conformance.reference.oracle import oracle, reference_database, reference_template
from appview_pipeline_tests.conformance.reference.reader import BSYNC_KEY, Reader, serving
from appview_pipeline_tests.conformance.reference.rows import bsky_rows, differing, documents_of
from appview_pipeline_tests.support.batches import index
from appview_pipeline_tests.support.checkout import CHECKOUT
from appview_pipeline_tests.support.database import connect
from appview_pipeline_tests.support.frames import WHEN, Person, Stream, create, delete, post, update
from appview_pipeline_tests.support.private_state import Note, note
from appview_pipeline_tests.support.tables import fresh_database, one, rows
from appview_pipeline_tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

POST, LIST = "app.bsky.feed.post", "app.bsky.graph.list"
_names = itertools.count()


class Served:
    """An index, what it is filled from, and the reference AppView over it."""

    def __init__(self, database: Database, reader: Reader, stream: Stream) -> None:
        self.database, self.reader, self.stream = database, reader, stream

    @property
    def url(self) -> str:
        return self.database.url

    def people(self, *names: str) -> list[Person]:
        """New accounts, each with a profile."""
        found = [Person(self.stream, f"{name} {next(_names)}") for name in names]
        self.index(*(it.commit(create("app.bsky.actor.profile/self", {"displayName": "x"})) for it in found))
        return found

    def index(self, *frames: bytes) -> None:
        index(self.database, *frames)

    def get(self, viewer: Person, method: str, **parameters: Any) -> Any:
        answer = self.reader.get(f"app.bsky.{method}", viewer.did, **parameters)
        assert answer.status == 200, answer
        return answer.body

    def do(self, viewer: Person, method: str, **body: Any) -> Any:
        answer = self.reader.post(f"app.bsky.{method}", viewer.did, **body)
        assert answer.status == 200, answer
        return answer.body

    def moderate(self, subject: dict[str, Any], applied: bool) -> None:
        """A take-down of an account, record or blob, or its end, as a moderation service asks for it."""
        takedown = {"applied": applied, "ref": "42"}
        answer = self.reader.post(
            "com.atproto.admin.updateSubjectStatus", self_did(subject), subject=subject, takedown=takedown
        )
        assert answer.status == 200, answer

    def count(self, table: str, column: str, person: Person) -> int:
        return int(one(self.url, f'SELECT count(*) FROM bsky.{table} WHERE "{column}" = %s', person.did))

    def stored(self, table: str, column: str, person: Person, count: int = 1) -> None:
        """Waits until the subscription to bsync has stored so many rows of the account in the table."""
        wait_for(lambda: self.count(table, column, person) == count, explain=lambda: f"{table} of {person.did}")

    def reasons(self, viewer: Person) -> list[str]:
        """Why the account is notified, as the API lists it, sorted."""
        found = self.get(viewer, "notification.listNotifications", limit=100)["notifications"]
        return sorted(it["reason"] for it in found)

    def as_viewed(self, viewer: Person, subject: dict[str, str]) -> Any:
        """What the viewer has to do with the author of a post."""
        (shown,) = self.get(viewer, "feed.getPosts", uris=[subject["uri"]])["posts"]
        return shown["author"]["viewer"]

    def note(self) -> Note:
        with connect(self.url) as connection:
            return note(connection)

    def repair(self) -> None:
        """A rerun of every derived table and a recount: neither finds anything."""
        assert rerun_collections(self.database, DERIVED_COLLECTIONS, orphans=None).changed == {}
        assert [recount(self.database, table, rewrite=True).differing for table in TABLES] == [0, 0]

    def remove(self, person: Person) -> None:
        """The account is deleted on the network, and removed here."""
        self.index(self.stream.account(person.did, active=False, status="deleted"))
        rows(
            self.url,
            "INSERT INTO pipeline.removal (did, reason) VALUES (%s, 'deleted') ON CONFLICT DO NOTHING",
            person.did,
        )
        assert remove_accounts(Settings(database_url=self.url), self.database).failed is None


def self_did(subject: dict[str, Any]) -> str:
    return str(subject.get("did") or subject["uri"].split("/")[2])


def cid_of(person: Person, path: str) -> str:
    found = person.repository.get(path)
    assert found is not None
    return to_text(found[0])


def strong(person: Person, path: str) -> dict[str, str]:
    return {"uri": person.uri(path), "cid": cid_of(person, path)}


def reply(rkey: str, root: dict[str, str], parent: dict[str, str] | None = None) -> Any:
    return post(rkey, "reply", reply={"root": root, "parent": parent or root})


def quote(rkey: str, quoted: dict[str, str]) -> Any:
    return post(rkey, "quote", embed={"$type": "app.bsky.embed.record", "record": quoted})


def like(rkey: str, subject: dict[str, str]) -> Any:
    return create(f"app.bsky.feed.like/{rkey}", {"subject": subject, "createdAt": WHEN})


def follow(rkey: str, person: Person) -> Any:
    return create(f"app.bsky.graph.follow/{rkey}", {"subject": person.did, "createdAt": WHEN})


def mention(rkey: str, person: Person) -> Any:
    feature = {"$type": "app.bsky.richtext.facet#mention", "did": person.did}
    return post(rkey, "@x", facets=[{"index": {"byteStart": 0, "byteEnd": 2}, "features": [feature]}])


@pytest.fixture(scope="module")
def served(
    server: EmbeddedPostgres, template_database: str, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("served") / "log"
    with (
        fresh_database(server, template_database) as database,
        serving(packages, database.url, log, private_state=True) as reader,
    ):
        yield Served(database, reader, Stream())


# ---------------------------------------------------------------------------------------------------------------------
# It takes effect.


def test_a_muted_thread_does_not_notify_and_is_indexed(served: Served) -> None:
    ann, bob, eve = served.people("ann", "bob", "eve")
    served.index(ann.commit(post("root", "root")))
    root = strong(ann, f"{POST}/root")
    served.index(bob.commit(reply("before", root), like("before", root)))
    assert served.reasons(ann) == ["like", "reply"]

    served.do(ann, "graph.muteThread", root=root["uri"])
    served.stored("thread_mute", "mutedByDid", ann)
    before = strong(bob, f"{POST}/before")
    served.index(
        eve.commit(reply("in", root), reply("below", root, before), quote("quote", root), like("in", root)),
        eve.commit(mention("mention", ann), follow("follow", ann)),
        bob.commit(create("app.bsky.feed.repost/in", {"subject": root, "createdAt": WHEN})),
    )
    assert served.reasons(ann) == ["follow", "like", "mention", "reply"]
    assert served.reasons(bob) == ["reply"], "others have not muted it"
    (shown,) = served.get(ann, "feed.getPosts", uris=[root["uri"]])["posts"]
    assert shown["viewer"]["threadMuted"]
    # `before`, `in` and the one below: replies are counted by their parent.
    assert [shown[f"{it}Count"] for it in ("reply", "like", "repost", "quote")] == [2, 2, 1, 1]

    served.do(ann, "graph.unmuteThread", root=root["uri"])
    served.stored("thread_mute", "mutedByDid", ann, 0)
    assert not served.get(ann, "feed.getPosts", uris=[root["uri"]])["posts"][0]["viewer"]["threadMuted"]
    served.repair()
    assert served.reasons(ann) == ["follow", "like", "mention", "reply"], "what was held back stays so"
    served.index(eve.commit(reply("after", root)))
    assert served.reasons(ann) == ["follow", "like", "mention", "reply", "reply"]


def test_muted_threads_hold_back_what_they_do_in_the_reference(
    database: Database, server: EmbeddedPostgres, packages: Path, tmp_path: Path
) -> None:
    """Replies at any depth, under a false root, edited; likes and reposts with `via`; quotes and mentions. Each event
    notifies somebody beside those who muted the thread: otherwise the reference loses it (`muted-thread-like`).
    """
    stream = Stream()
    ann, bob, eve, joe = (Person(stream, name) for name in ("ann", "bob", "eve", "joe"))
    first = [ann.commit(post("root", "root"), post("other", "x")), joe.commit(post("j", "x"))]
    root, other, own = strong(ann, f"{POST}/root"), strong(ann, f"{POST}/other"), strong(joe, f"{POST}/j")
    first.append(bob.commit(reply("b1", root), reply("b2", root)))
    b1 = strong(bob, f"{POST}/b1")
    then = [eve.commit(reply("e1", root, b1))]
    feature = {"$type": "app.bsky.richtext.facet#mention", "did": joe.did}
    mentioned = [{"index": {"byteStart": 0, "byteEnd": 1}, "features": [feature]}]
    e1 = strong(eve, f"{POST}/e1")
    then.append(bob.commit(post("b3", "x", reply={"root": root, "parent": e1}, facets=mentioned)))
    embed = {"$type": "app.bsky.embed.record", "record": own}
    parent = strong(bob, f"{POST}/b3")
    then.append(eve.commit(post("e2", "x", reply={"root": root, "parent": parent}, embed=embed)))
    then.append(eve.commit(reply("e3", other, b1)))  # b1 is in another thread
    then.append(bob.commit(reply("b4", other, strong(eve, f"{POST}/e3"))))
    via = {}
    for name, subject in (("r1", b1), ("r2", other)):
        then.append(eve.commit(create(f"app.bsky.feed.repost/{name}", {"subject": subject, "createdAt": WHEN})))
        via[name] = strong(eve, f"app.bsky.feed.repost/{name}")
    for rkey, subject, through in (("l1", b1, "r1"), ("l2", root, "r2")):
        said = {"subject": subject, "via": via[through], "createdAt": WHEN}
        then.append(
            joe.commit(create(f"app.bsky.feed.like/{rkey}", said), create(f"app.bsky.feed.repost/{rkey}", said))
        )
    answer = {"text": "edited", "createdAt": WHEN, "reply": {"root": root, "parent": b1}}
    then += [eve.commit(update(f"{POST}/e1", answer)), joe.commit(quote("q", b1))]
    with (
        reference_database(server, reference_template(server, packages)) as theirs,
        oracle(packages, tmp_path / "log") as reference,
    ):
        reference.identities(documents_of([*first, *then]), {})
        reference.open("reference", theirs)
        assert reference.index("reference", first) == []
        index(database, *first)
        for url in (theirs, database.url):
            for who in (ann, joe):  # as the subscription to bsync does; the data plane has no method for it
                rows(url, "INSERT INTO bsky.thread_mute VALUES (%s, %s, %s)", root["uri"], who.did, WHEN)
        assert reference.index("reference", then) == []
        for frame in then:
            index(database, frame)
        assert differing(bsky_rows(database.url), bsky_rows(theirs)) == Counter()
    # Of five replies below ann's post, and of a like and a repost of it, she hears nothing.
    assert rows(database.url, "SELECT did, count(*) FROM pipeline.muted_notification GROUP BY 1") == [(ann.did, 7)]


def test_a_subscription_notifies_of_posts_that_come_after_it(served: Served) -> None:
    ann, bob, eve = served.people("ann", "bob", "eve")
    served.index(bob.commit(follow("f", ann)), ann.commit(post("before", "x")))
    subscribed = {"subject": ann.did, "activitySubscription": {"post": True, "reply": False}}
    for person in (bob, eve):
        assert served.do(person, "notification.putActivitySubscription", **subscribed)["activitySubscription"]["post"]
        served.stored("activity_subscription", "creator", person)
    served.index(ann.commit(post("first", "x")))
    own = strong(ann, f"{POST}/first")
    served.index(ann.commit(reply("reply", own)))
    assert served.reasons(bob) == ["subscribed-post"]
    assert served.reasons(eve) == [], "ann allows it to followers only, as everybody does by default"
    listed = served.get(bob, "notification.listActivitySubscriptions")["subscriptions"]
    assert [it["did"] for it in listed] == [ann.did]

    both = {"post": True, "reply": True}
    served.do(bob, "notification.putActivitySubscription", subject=ann.did, activitySubscription=both)
    wait_for(lambda: one(served.url, "SELECT reply FROM bsky.activity_subscription WHERE creator = %s", bob.did))
    served.index(ann.commit(reply("second", own)))
    assert served.reasons(bob) == ["subscribed-post"] * 2

    none = {"post": False, "reply": False}
    served.do(bob, "notification.putActivitySubscription", subject=ann.did, activitySubscription=none)
    served.stored("activity_subscription", "creator", bob, 0)
    served.index(ann.commit(post("third", "x")))
    served.repair()
    assert served.reasons(bob) == ["subscribed-post"] * 2


def test_bookmarks_are_counted_whatever_becomes_of_the_post(served: Served) -> None:
    ann, bob, eve = served.people("ann", "bob", "eve")
    served.index(ann.commit(post("p", "x")))
    subject = strong(ann, f"{POST}/p")
    for person in (bob, eve):
        served.do(person, "bookmark.createBookmark", **subject)
        served.stored("bookmark", "creator", person)

    def counted() -> tuple[int, bool]:
        (shown,) = served.get(bob, "feed.getPosts", uris=[subject["uri"]])["posts"]
        return shown["bookmarkCount"], shown["viewer"]["bookmarked"]

    wait_for(lambda: counted() == (2, True))
    served.index(eve.commit(like("l", subject)))
    served.repair()
    assert counted() == (2, True)
    served.index(ann.commit(delete(f"{POST}/p")))
    (bookmark,) = served.get(bob, "bookmark.getBookmarks")["bookmarks"]
    assert bookmark["item"]["notFound"]
    served.repair()
    served.index(ann.commit(post("p", "it is back")))
    assert counted() == (2, True)
    served.do(bob, "bookmark.deleteBookmark", uri=subject["uri"])
    served.stored("bookmark", "creator", bob, 0)
    wait_for(lambda: counted() == (1, False))
    served.repair()
    assert counted() == (1, False)
    assert served.get(bob, "bookmark.getBookmarks")["bookmarks"] == []


def posts_in_timeline(served: Served, viewer: Person) -> set[tuple[str, bool]]:
    """Author and whether it is a repost, of the viewer's timeline."""
    feed = served.get(viewer, "feed.getTimeline", limit=100)["feed"]
    return {((it.get("reason", {}).get("by") or it["post"]["author"])["did"], "reason" in it) for it in feed}


def test_mutes_hide_accounts(served: Served) -> None:
    ann, bob, eve = served.people("ann", "bob", "eve")
    served.index(eve.commit(post("e", "x")), ann.commit(follow("b", bob), post("a", "x")))
    at, other = strong(ann, f"{POST}/a"), strong(eve, f"{POST}/e")
    served.index(bob.commit(post("b", "x"), create("app.bsky.feed.repost/r", {"subject": other, "createdAt": WHEN})))
    served.index(bob.commit(like("l", at), reply("r", at)))
    every, posts = {(bob.did, False), (bob.did, True), (ann.did, False)}, {(bob.did, False), (ann.did, False)}
    assert posts_in_timeline(served, ann) == every
    assert served.reasons(ann) == ["like", "reply"]

    served.do(ann, "graph.muteActor", actor=bob.did, onlyReposts=True)
    served.stored("mute", "mutedByDid", ann)
    wait_for(lambda: posts_in_timeline(served, ann) == posts)
    assert served.reasons(ann) == ["like", "reply"], "a mute of reposts hides no notification"

    served.do(ann, "graph.muteActor", actor=bob.did)
    wait_for(lambda: posts_in_timeline(served, ann) == {(ann.did, False)})
    assert served.reasons(ann) == []
    assert [it["did"] for it in served.get(ann, "graph.getMutes")["mutes"]] == [bob.did]
    assert served.as_viewed(ann, strong(bob, f"{POST}/b"))["muted"]
    served.index(bob.commit(like("m", strong(bob, f"{POST}/b")), reply("s", at)))
    assert served.reasons(ann) == []

    served.do(ann, "graph.unmuteActor", actor=bob.did)
    served.stored("mute", "mutedByDid", ann, 0)
    assert posts_in_timeline(served, ann) == every
    assert served.reasons(ann) == ["like", "reply", "reply"], "a mute hides and holds nothing back"


def test_a_muted_list_hides_its_members_as_they_come_and_go(served: Served) -> None:
    ann, bob, eve = served.people("ann", "bob", "eve")
    members = {"list": eve.uri(f"{LIST}/l"), "subject": bob.did, "createdAt": WHEN}
    made = {"name": "l", "purpose": "app.bsky.graph.defs#modlist", "createdAt": WHEN}
    served.index(
        eve.commit(create(f"{LIST}/l", made)), ann.commit(post("a", "x"), follow("f", bob)), bob.commit(post("b", "x"))
    )
    served.index(bob.commit(like("l", strong(ann, f"{POST}/a"))))
    served.do(ann, "graph.muteActorList", list=eve.uri(f"{LIST}/l"))
    served.stored("list_mute", "mutedByDid", ann)
    assert served.reasons(ann) == ["like"]
    served.index(eve.commit(create("app.bsky.graph.listitem/i", members)))
    assert served.reasons(ann) == []
    viewer = served.as_viewed(ann, strong(bob, f"{POST}/b"))
    assert (viewer["muted"], viewer["mutedByList"]["uri"]) == (True, eve.uri(f"{LIST}/l"))
    assert [it["uri"] for it in served.get(ann, "graph.getListMutes")["lists"]] == [eve.uri(f"{LIST}/l")]
    # The list goes and returns: nothing of the mute is lost.
    served.index(eve.commit(delete(f"{LIST}/l")))
    assert served.reasons(ann) == ["like"]
    served.repair()
    served.index(eve.commit(create(f"{LIST}/l", {**made, "name": "again"})))
    assert served.reasons(ann) == []
    served.index(eve.commit(delete("app.bsky.graph.listitem/i")))
    assert served.reasons(ann) == ["like"]
    served.do(ann, "graph.unmuteActorList", list=eve.uri(f"{LIST}/l"))
    served.stored("list_mute", "mutedByDid", ann, 0)


def test_seen_notifications_are_not_unread(served: Served) -> None:
    ann, bob = served.people("ann", "bob")
    served.index(ann.commit(post("a", "x")))
    at = strong(ann, f"{POST}/a")
    dated = {"subject": at, "createdAt": "2025-01-01T00:00:00.000Z"}

    def unread() -> int:
        return int(served.get(ann, "notification.getUnreadCount")["count"])

    served.index(bob.commit(create("app.bsky.feed.like/l", dated), reply("r", at)))
    assert unread() == 2
    served.do(ann, "notification.updateSeen", seenAt="2025-02-01T00:00:00.000Z")
    wait_for(lambda: unread() == 1)
    read = [it["isRead"] for it in served.get(ann, "notification.listNotifications")["notifications"]]
    assert read == [False, True]
    served.do(ann, "notification.updateSeen", seenAt="2025-12-01T00:00:00.000Z")
    wait_for(lambda: unread() == 0)
    served.repair()
    assert unread() == 0
    served.do(ann, "notification.updateSeen", seenAt="2025-02-01T00:00:00.000Z")
    assert unread() == 0, "it never goes back"
    rows(
        served.url,
        "UPDATE bsky.actor_state SET \"lastSeenNotifs\" = '2025-02-01T00:00:00.000Z' WHERE did = %s",
        ann.did,
    )
    served.index(bob.commit(reply("s", at)))
    assert unread() == 2


def test_priority_shows_those_that_one_follows(served: Served) -> None:
    ann, bob, eve = served.people("ann", "bob", "eve")
    served.index(ann.commit(post("a", "x"), follow("f", bob)))
    at = strong(ann, f"{POST}/a")
    served.index(bob.commit(reply("r", at)), eve.commit(like("l", at)))
    assert served.reasons(ann) == ["like", "reply"]
    served.do(ann, "notification.putPreferences", priority=True)
    wait_for(lambda: served.reasons(ann) == ["reply"])
    served.index(ann.commit(delete("app.bsky.graph.follow/f")))
    assert served.reasons(ann) == []
    served.index(ann.commit(follow("g", eve)))
    assert served.reasons(ann) == ["like"]


def test_preferences_are_kept_and_filter_nothing_in_this_release(served: Served) -> None:
    """The published data plane stores them and does not look at them when it lists notifications."""
    ann, bob = served.people("ann", "bob")
    served.index(ann.commit(post("a", "x")))
    served.index(bob.commit(like("l", strong(ann, f"{POST}/a"))))
    wanted = {"list": False, "push": False, "include": "follows"}
    served.do(ann, "notification.putPreferencesV2", like=wanted)
    served.stored("private_data", "actorDid", ann)
    assert served.get(ann, "notification.getPreferences")["preferences"]["like"] == wanted
    assert served.reasons(ann) == ["like"]


def test_drafts(served: Served) -> None:
    (ann,) = served.people("ann")
    made = served.do(ann, "draft.createDraft", draft={"posts": [{"text": "first"}]})
    served.stored("draft", "creator", ann)
    served.do(ann, "draft.updateDraft", draft={"id": made["id"], "draft": {"posts": [{"text": "second"}]}})

    def texts() -> list[str]:
        return [it["draft"]["posts"][0]["text"] for it in served.get(ann, "draft.getDrafts")["drafts"]]

    wait_for(lambda: texts() == ["second"])
    served.index(ann.commit(post("a", "second")))
    served.repair()
    assert texts() == ["second"]
    served.do(ann, "draft.deleteDraft", id=made["id"])
    wait_for(lambda: texts() == [])


def test_users_act_while_batches_and_repairs_run(served: Served) -> None:
    """Nobody waits for the other until they fail: each call succeeds, each batch is applied, and all is counted."""
    ann, *others = served.people("ann", "bob", "eve", "joe")
    served.index(ann.commit(*(post(f"p{number}", "x") for number in range(6))))
    subjects = [strong(ann, f"{POST}/p{number}") for number in range(6)]
    frames = [
        frame
        for number in range(12)
        for person in others
        for frame in (person.commit(like(f"{number}", subjects[number % 6]), reply(f"{number}", subjects[number % 5])),)
    ]
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for number, frame in enumerate(frames):
                served.index(frame)
                if number % 9 == 0:
                    rerun_collections(served.database, DERIVED_COLLECTIONS, orphans=None)
                    recount(served.database, "post_agg", rewrite=True)
        except BaseException as error:
            failed.append(error)

    writing = threading.Thread(target=work)
    writing.start()
    rounds = 0
    while writing.is_alive() or rounds < 2:
        rounds += 1
        for person in others:
            for subject in subjects[:3]:
                served.do(person, "bookmark.createBookmark", **subject)
            served.do(person, "graph.muteActor", actor=ann.did)
            served.do(person, "notification.updateSeen", seenAt=WHEN)
            served.stored("bookmark", "creator", person, 3)
            served.do(person, "bookmark.deleteBookmark", uri=subjects[0]["uri"])
            served.stored("bookmark", "creator", person, 2)
    writing.join()
    assert failed == []
    wait_for(lambda: served.note().uncounted == [])
    served.repair()
    shown = served.get(ann, "feed.getPosts", uris=[it["uri"] for it in subjects])["posts"]
    assert {it["uri"]: it["bookmarkCount"] for it in shown} == {
        it["uri"]: 3 if number in (1, 2) else 0 for number, it in enumerate(subjects)
    }
    # Each has answered twelve times, and liked six posts twice.
    assert [sum(it[f"{what}Count"] for it in shown) for what in ("reply", "like")] == [36, 18]


# ---------------------------------------------------------------------------------------------------------------------
# It survives.


def put_operation(served: Served, person: Person, namespace: str, key: str, payload: dict[str, Any]) -> None:
    """What services beside the AppView (of age assurance, say) write through bsync."""
    body = {
        "actorDid": person.did,
        "namespace": namespace,
        "key": key,
        "method": "METHOD_CREATE",
        "payload": base64.b64encode(json.dumps({"$type": namespace, **payload}).encode()).decode(),
    }
    address = f"http://127.0.0.1:{served.reader.ports['bsync']}/bsync.Service/PutOperation"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {BSYNC_KEY}"}
    with urlopen(Request(address, json.dumps(body).encode(), headers), timeout=30) as response:
        assert response.status == 200


def everything_of(served: Served, who: Person, about: Person) -> None:
    """The account writes all the private state that there is, about another account and its post `p` and list `l`."""
    subject = strong(about, f"{POST}/p")
    served.do(who, "graph.muteActor", actor=about.did)
    served.do(who, "graph.muteActorList", list=about.uri(f"{LIST}/l"))
    served.do(who, "graph.muteThread", root=subject["uri"])
    served.do(who, "bookmark.createBookmark", **subject)
    served.do(who, "draft.createDraft", draft={"posts": [{"text": "x"}]})
    served.do(who, "notification.putPreferencesV2", follow={"list": True, "push": False, "include": "all"})
    subscription = {"post": True, "reply": True}
    served.do(who, "notification.putActivitySubscription", subject=about.did, activitySubscription=subscription)
    served.do(who, "notification.putPreferences", priority=True)
    served.do(who, "notification.updateSeen", seenAt="2025-02-01T00:00:00.000Z")
    assured = {"createdAt": WHEN, "attemptId": "a", "status": "assured", "access": "full", "countryCode": "GB"}
    put_operation(served, who, "app.bsky.ageassurance.defs#event", "3kaaaaaaaaa2a", assured)
    for table, column, count in (
        *(("mute", "mutedByDid", 1), ("list_mute", "mutedByDid", 1), ("thread_mute", "mutedByDid", 1)),
        *(("bookmark", "creator", 1), ("draft", "creator", 1), ("activity_subscription", "creator", 1)),
        *(("private_data", "actorDid", 5), ("actor_state", "did", 1)),
    ):
        served.stored(table, column, who, count)
    assured_now = "SELECT \"ageAssuranceStatus\" = 'assured' FROM bsky.actor WHERE did = %s"
    wait_for(lambda: one(served.url, assured_now, who.did))
    wait_for(lambda: served.note().uncounted == [])


def as_seen_by(served: Served, viewer: Person) -> dict[str, Any]:
    """The account's own private state as the API gives it, without views of others, which change with the network."""
    subscriptions = served.get(viewer, "notification.listActivitySubscriptions")["subscriptions"]
    bookmarks = served.get(viewer, "bookmark.getBookmarks")["bookmarks"]
    return {
        "mutes": [it["did"] for it in served.get(viewer, "graph.getMutes")["mutes"]],
        "lists": [it["uri"] for it in served.get(viewer, "graph.getListMutes")["lists"]],
        "bookmarks": [(it["subject"]["uri"], it["createdAt"]) for it in bookmarks],
        "drafts": served.get(viewer, "draft.getDrafts")["drafts"],
        "preferences": served.get(viewer, "notification.getPreferences")["preferences"],
        "subscriptions": [it["did"] for it in subscriptions],
    }


def edited(served: Served, who: Person, about: Person) -> None:
    served.index(about.commit(update(f"{POST}/p", {"text": "y", "createdAt": WHEN})))
    served.index(who.commit(update("app.bsky.actor.profile/self", {"displayName": "y"})))
    served.index(who.stream.account(who.did, active=False, status="deactivated"))
    served.index(who.stream.account(who.did, active=True))


def removed_and_returned(served: Served, who: Person, about: Person) -> None:
    for person in (who, about):
        served.remove(person)
        served.index(served.stream.account(person.did, active=True))
    # They return with what they had; the network's rows come again by a resync or by commits.
    profile = create("app.bsky.actor.profile/self", {"displayName": "z"})
    listed = create(f"{LIST}/l", {"name": "l", "purpose": "app.bsky.graph.defs#modlist", "createdAt": WHEN})
    gone = [delete("app.bsky.actor.profile/self")]
    served.index(who.commit(*gone), about.commit(*gone, delete(f"{POST}/p"), delete(f"{LIST}/l")))
    served.index(who.commit(profile), about.commit(profile, post("p", "z"), listed))


def purged_and_allowed(served: Served, who: Person, about: Person) -> None:
    for person in (who, about):
        rows(served.url, "SELECT pipeline.forbid_data_collection(%s, purge => true)", person.did)
        assert remove_accounts(Settings(database_url=served.url), served.database).failed is None
        rows(served.url, "SELECT pipeline.allow_data_collection(%s)", person.did)
    removed_and_returned(served, who, about)


@pytest.mark.parametrize("happens", [edited, removed_and_returned, purged_and_allowed])
def test_private_state_outlives(served: Served, happens: Callable[[Served, Person, Person], None]) -> None:
    """The account that wrote it, and the one that it is about, are edited, removed, purged, and return."""
    who, about = served.people("who", "about")
    listed = {"name": "l", "purpose": "app.bsky.graph.defs#modlist", "createdAt": WHEN}
    served.index(about.commit(post("p", "x"), create(f"{LIST}/l", listed)))
    everything_of(served, who, about)
    before, seen = served.note(), as_seen_by(served, who)
    assert all(seen.values())
    happens(served, who, about)
    served.repair()
    after = served.note()
    assert after.rows == before.rows, "rows were written anew"
    assert after.uncounted == []
    assert as_seen_by(served, who) == seen
    kept = happens is edited
    assert (who.did in after.marks["age assurance"]) == kept, "it goes with the account, as in the reference"


def test_take_downs_outlive_edits_returns_and_reruns(served: Served) -> None:
    """Of an account, a record and a blob, as the reference's moderation call writes them."""
    ann, bob, eve = served.people("ann", "bob", "eve")
    served.index(ann.commit(post("a", "x")), bob.commit(post("b", "x")))
    record = {"$type": "com.atproto.repo.strongRef", **strong(ann, f"{POST}/a")}
    account = {"$type": "com.atproto.admin.defs#repoRef", "did": bob.did}
    blob = {
        "$type": "com.atproto.admin.defs#repoBlobRef",
        "did": ann.did,
        "cid": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    }

    def shown(uri: str) -> bool:
        return bool(served.get(eve, "feed.getPosts", uris=[uri])["posts"])

    uris = [ann.uri(f"{POST}/a"), bob.uri(f"{POST}/b")]
    assert [shown(uri) for uri in uris] == [True, True]
    for subject in (record, account, blob):
        served.moderate(subject, True)
    assert [shown(uri) for uri in uris] == [False, False]
    before = served.note()
    served.index(ann.commit(update(f"{POST}/a", {"text": "y", "createdAt": WHEN})))
    served.index(ann.commit(delete(f"{POST}/a")))
    served.index(ann.commit(post("a", "again")), bob.commit(post("c", "more")))
    served.remove(bob)
    served.index(served.stream.account(bob.did, active=True))
    served.index(bob.commit(delete(f"{POST}/b"), delete(f"{POST}/c")))
    served.index(bob.commit(post("b", "again")))
    served.repair()
    assert [shown(uri) for uri in uris] == [False, False]
    assert served.note().marks == before.marks
    for subject in (record, account, blob):
        served.moderate(subject, False)
    assert [shown(uri) for uri in uris] == [True, True]


def test_a_restart_of_the_subscription_makes_the_tables_anew(
    server: EmbeddedPostgres, template_database: str, packages: Path, tmp_path: Path
) -> None:
    """It reads bsync from the first operation each time. So bsync's database is the copy that counts: all comes back
    but `actor_state`, which bsync does not keep, as far as `seen` goes."""
    private = ("mute", "list_mute", "thread_mute", "bookmark", "draft", "private_data", "activity_subscription")
    with fresh_database(server, template_database) as database, scratch_database(database.url) as bsync:
        start = partial(
            serving,
            packages,
            database.url,
            tmp_path / "log",
            SERVE_PARTS="bsync,dataplane,subscription,appview",
            BSYNC_DB_POSTGRES_URL=node_url(bsync),
            BSYNC_API_KEYS=BSYNC_KEY,
        )
        stream = Stream()
        with start() as reader:
            served = Served(database, reader, stream)
            who, about = served.people("who", "about")
            listed = {"name": "l", "purpose": "app.bsky.graph.defs#modlist", "createdAt": WHEN}
            served.index(about.commit(post("p", "x"), create(f"{LIST}/l", listed)))
            everything_of(served, who, about)
            seen = as_seen_by(served, who)
        rows(database.url, f"TRUNCATE {', '.join(f'bsky.{table}' for table in (*private, 'actor_state'))}")
        recount(database, "post_agg", rewrite=True)
        with start() as reader:
            served = Served(database, reader, stream)
            served.stored("private_data", "actorDid", who, 5)
            served.stored("draft", "creator", who)
            wait_for(lambda: served.note().uncounted == [])
            again = as_seen_by(served, who)
            times = ("bookmarks", "drafts")
            assert {key: again[key] for key in again if key not in times} == {
                key: seen[key] for key in seen if key not in times
            }
            assert [it["id"] for it in again["drafts"]] == [it["id"] for it in seen["drafts"]]
            assert [uri for uri, _ in again["bookmarks"]] == [uri for uri, _ in seen["bookmarks"]]
            assert one(database.url, 'SELECT "priorityNotifs" FROM bsky.actor_state WHERE did = %s', who.did)
        for url, statements in zip((database.url, bsync), documented_deletion(who), strict=True):
            with connect(url) as connection, connection.cursor() as cursor:
                cursor.execute(statements)
                connection.commit()
        assert served.note().uncounted == []
        assert not any(who.did in row for found in served.note().rows.values() for row in found)
        for table in ("operation", "mute_op", "mute_item", "notif_op", "notif_item"):
            assert one(bsync, f'SELECT count(*) FROM {table} WHERE "actorDid" = %s', who.did) == 0


def documented_deletion(person: Person) -> tuple[str, str]:
    """What docs/serve.md has to delete all that an account has written: from the index, and from bsync's database."""
    text = (CHECKOUT / "docs" / "serve.md").read_text(encoding="utf-8").partition("\n## Private data\n")[2]
    statements = text.partition("```sql\n")[2].partition("```")[0].replace("'DID'", f"'{person.did}'")
    in_index, _, in_bsync = statements.partition("-- In bsync's database")
    assert in_index.count("DELETE") == 9 and in_bsync.count("DELETE") == 5
    return in_index, "--" + in_bsync
