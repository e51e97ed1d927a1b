"""Short networks written by hand: each one went wrong once."""

from __future__ import annotations

from typing import Any

from appview_pipeline_tests.properties import model
from appview_pipeline_tests.properties.network_builder import network_of
from appview_pipeline_tests.properties.networks import Network
from appview_pipeline_tests.support import commits

POST = commits.POST


def post(**more: Any) -> dict[str, Any]:
    return {"text": "said", **more}


def reply(root: str, parent: str | None = None, **more: Any) -> dict[str, Any]:
    return post(reply={"root": {"ref": f"@{root}"}, "parent": {"ref": f"@{parent or root}"}}, **more)


def quote(uri: str) -> dict[str, Any]:
    return {"$type": "app.bsky.embed.record", "record": {"ref": f"@{uri}"}}


def mention(name: str) -> list[dict[str, Any]]:
    feature = {"$type": "app.bsky.richtext.facet#mention", "did": f"@{name}"}
    return [{"index": {"byteStart": 0, "byteEnd": 4}, "features": [feature]}]


A, B, C, D = (f"{name}/{POST}/post1" for name in ("alice", "bob", "carol", "dan"))
A2 = f"alice/{POST}/post2"
LIKE1, LIKE2 = (f"carol/{commits.LIKE}/like{number}" for number in (1, 2))
VERIFY1, VERIFY2 = (f"alice/{commits.VERIFICATION}/verify{number}" for number in (1, 2))
REPOST1 = f"carol/{commits.REPOST}/repost1"
L = f"alice/{commits.LIST}/list1"
LISTED = {"name": "a list", "purpose": "app.bsky.graph.defs#curatelist"}
LIKES_A = {"subject": {"ref": f"@{A}"}}
FORBIDDING = {"embeddingRules": [{"$type": "app.bsky.feed.postgate#disableRule"}]}
NO_QUOTES = {"post": f"@{A}", **FORBIDDING}
NO_POST = f"alice/{commits.GENERATOR}/post1"
VERIFIED = {"subject": "@bob", "handle": "bob.test", "displayName": "bob"}
FOLLOW = f"bob/{commits.FOLLOW}/follow1"
GATE = f"alice/{commits.THREADGATE}/post1"
PROFILE = f"bob/{commits.PROFILE}/self"
PACK = f"alice/{commits.STARTERPACK}/pack1"
JOINED = {"joinedViaStarterPack": {"ref": f"@{PACK}"}}
SUBSCRIBED = (model.Subscription("did:plc:bob", "did:plc:alice"),)


def muted(who: str, root: str) -> frozenset[tuple[str, str]]:
    return frozenset(((f"at://did:plc:{root}", f"did:plc:{who}"),))


STORIES: dict[str, tuple[Network, str]] = {
    "an edited reply notifies as it is now": (
        network_of((A, post()), (B, reply(A)), (B, reply(A, text="no"))),
        "0|1|2",
    ),
    "an edited reply, at once": (network_of((A, post()), (B, reply(A)), (B, reply(A, text="no"))), "0|1 2"),
    "an edited verification, at once": (network_of((VERIFY1, VERIFIED), (VERIFY1, VERIFIED)), "0 1"),
    "an edited verification is taken back": (
        network_of((VERIFY1, VERIFIED), (VERIFY1, VERIFIED), (VERIFY1, None)),
        "0|1|2",
    ),
    "another verification takes over": (
        network_of((VERIFY1, VERIFIED), (VERIFY2, VERIFIED), (VERIFY1, None), (VERIFY2, None)),
        "0|1|2|3",
    ),
    "another verification takes over, at once": (
        network_of((VERIFY1, VERIFIED), (VERIFY2, VERIFIED), (VERIFY1, None)),
        "0 1 2",
    ),
    "another verification takes over from one that is edited": (
        network_of((VERIFY1, VERIFIED), (VERIFY2, VERIFIED), (VERIFY1, VERIFIED)),
        "0|1|2",
    ),
    "a verification is edited and so no longer counts, and goes, at once": (
        network_of(*((it, VERIFIED) for it in (VERIFY1, VERIFY2, VERIFY1)), (VERIFY1, None)),
        "0 1 2 3",
    ),
    "another verification takes over and is edited, at once": (
        network_of((VERIFY1, VERIFIED), (VERIFY2, VERIFIED), (VERIFY1, None), (VERIFY2, VERIFIED)),
        "0|1 2 3",
    ),
    "a verification comes and goes": (network_of((VERIFY1, VERIFIED), (VERIFY1, None)), "0 1"),
    "a quoted post goes at once": (network_of((A, post()), (B, post(embed=quote(A))), (A, None)), "0 1 2"),
    "a quoted post goes before it is quoted": (network_of((A, post()), (B, post(embed=quote(A))), (A, None)), "0|2|1"),
    "a gate that forbids a quote arrives after the quoted post is gone": (
        network_of(
            (A, post()),
            (f"alice/{commits.POSTGATE}/post1", NO_QUOTES),
            (B, post(embed=quote(A))),
            (A, None),
        ),
        "0|2|3|1",
    ),
    "a quoted post goes, and the quote, a reply too, is delivered again": (
        network_of((A, post()), (B, reply(A, embed=quote(A))), (A, None)),
        "0|1|2|1",
    ),
    "a gate comes and goes": (
        network_of((A, post()), (GATE, {"post": f"@{A}", "allow": []}), (GATE, None)),
        "0|1 2",
    ),
    "a reply leaves its author's thread by an edit": (
        network_of((A, post()), (A2, reply(A)), (A2, post())),
        "0|1 2",
    ),
    "a post is deleted and comes back at once": (
        network_of((A, post()), (B, reply(A)), (A, None), (A, post())),
        "0|1|2 3",
    ),
    "an old commit comes again beside a new one": (
        network_of((A, post()), (A, None), (GATE, {"post": f"@{A}"})),
        "0|1|2 0",
    ),
    "a subscriber follows after the post": (
        network_of((A, post()), (FOLLOW, {"subject": "@alice"}), subscriptions=SUBSCRIBED),
        "0 1",
    ),
    "a subscriber's follow arrives after the post": (
        network_of((FOLLOW, {"subject": "@alice"}), (A, post()), subscriptions=SUBSCRIBED),
        "1|0",
    ),
    "a subscriber stops following, and that arrives before the post": (
        network_of((FOLLOW, {"subject": "@alice"}), (A, post()), (FOLLOW, None), subscriptions=SUBSCRIBED),
        "0|2|1",
    ),
    "a subscriber follows before the post is edited, at once": (
        network_of((A, post()), (FOLLOW, {"subject": "@alice"}), (A, post(text="no")), subscriptions=SUBSCRIBED),
        "0 1 2",
    ),
    "a post is edited to mention a subscriber": (
        network_of(
            (FOLLOW, {"subject": "@alice"}), (A, post()), (A, post(facets=mention("bob"))), subscriptions=SUBSCRIBED
        ),
        "0|1|2",
    ),
    "a post is edited to mention a subscriber, at once": (
        network_of(
            (FOLLOW, {"subject": "@alice"}), (A, post()), (A, post(facets=mention("bob"))), subscriptions=SUBSCRIBED
        ),
        "0|1 2",
    ),
    "a post mentions a subscriber and is edited, at once": (
        network_of(
            (FOLLOW, {"subject": "@alice"}), (A, post(facets=mention("bob"))), (A, post()), subscriptions=SUBSCRIBED
        ),
        "0|1 2",
    ),
    "a reply to a subscriber is turned into a post, at once": (
        network_of((FOLLOW, {"subject": "@alice"}), (B, post()), (A, reply(B)), (A, post()), subscriptions=SUBSCRIBED),
        "0|1|2 3",
    ),
    "a quote of a subscriber is edited away, at once": (
        network_of(
            (FOLLOW, {"subject": "@alice"}),
            (B, post()),
            (A, post(embed=quote(B))),
            (A, post()),
            subscriptions=SUBSCRIBED,
        ),
        "0|1|2 3",
    ),
    "a post comes, goes and comes back edited, at once": (
        network_of(
            (FOLLOW, {"subject": "@alice"}),
            *((A, it) for it in (post(), None, post(text="again"), post(text="no"))),
            subscriptions=SUBSCRIBED,
        ),
        "0|1 2 3 4",
    ),
    "two likes of one post are both edited, at once": (
        network_of((A, post()), *((like, LIKES_A) for like in (LIKE1, LIKE2, LIKE1, LIKE2))),
        "0|1|2|3 4",
    ),
    "a like in a muted thread comes before the liked reply": (
        network_of((A, post()), (B, reply(A)), (LIKE1, {"subject": {"ref": f"@{B}"}}), thread_mutes=muted("bob", A)),
        "0|2|1",
    ),
    "a like of a reply that is no root comes before it": (
        network_of((A, post()), (B, reply(A)), (LIKE1, {"subject": {"ref": f"@{B}"}}), thread_mutes=muted("bob", B)),
        "0|2|1",
    ),
    "a like of a reply that is written later, in a muted thread": (
        network_of((LIKE1, {"subject": {"ref": f"@{B}"}}), (A, post()), (B, reply(A)), thread_mutes=muted("bob", A)),
        "0|1|2|1",
    ),
    "a quoted reply in a muted thread goes, and then the quote is edited": (
        network_of(
            (A, post()),
            (B, reply(A)),
            (C, post(embed=quote(B))),
            (B, None),
            (C, post(embed=quote(B), text="no")),
            thread_mutes=muted("bob", A),
        ),
        "0|1|2|3|4",
    ),
    "a parent comes back before its deletion arrives": (
        network_of((A, post()), (B, reply(A)), (C, reply(A, B)), (B, None), (B, reply(A))),
        "0|1|2|4|3",
    ),
    "a parent comes back before its deletion and its reply arrive": (
        network_of((A, post()), (B, reply(A)), (C, reply(A, B)), (B, None), (B, reply(A))),
        "0|1|4|3|2",
    ),
    "a profile is deleted and comes back with a starter pack": (
        network_of(
            (PACK, {"name": "pack", "list": f"@alice/{commits.LIST}/list1"}),
            (PROFILE, {}),
            (PROFILE, None),
            (PROFILE, JOINED),
        ),
        "0|1 2 3",
    ),
    "a profile is edited to have joined by a starter pack": (
        network_of((PACK, {"name": "pack", "list": f"@alice/{commits.LIST}/list1"}), (PROFILE, {}), (PROFILE, JOINED)),
        "0|1 2",
    ),
    "the deletion of an ancestor arrives after a reply below its replies": (
        network_of(
            (A, post()),
            (B, reply(A)),
            (C, reply(A, B)),
            (B, None),
            (D, reply(A, C)),
        ),
        "0|1|2|4|3",
    ),
    "an ancestor that came back arrives after a reply below its replies": (
        network_of((A, post()), (B, reply(A)), (C, reply(A, B)), (B, None), (B, reply(A)), (D, reply(A, C))),
        "0|1|2|3|5|4",
    ),
    **{
        f"a reply to a list, arriving as {arriving}": (
            network_of((L, LISTED), (B, reply(L)), (C, reply(L, B))),
            arriving,
        )
        for arriving in ("0|1|2", "0 1 2", "1|0|2", "2|1|0", "1 2|0")
    },
    **{
        f"a list is edited, answered and deleted, arriving as {arriving}": (
            network_of((L, LISTED), (L, LISTED), (B, reply(L)), (L, None), (C, reply(L))),
            arriving,
        )
        for arriving in ("0|1|2|3|4", "0 1 2 3 4", "0|3|2|4|1", "3|4|2|1|0", "1|2|0|3|4")
    },
    **{
        f"a like is answered and taken back, arriving as {arriving}": (
            network_of((A, post()), (LIKE1, LIKES_A), (B, reply(LIKE1)), (LIKE1, None)),
            arriving,
        )
        for arriving in ("0 1 2 3", "0|1|3|2", "3|2|1|0")
    },
    **{
        f"a thread gate is answered that allows nobody, arriving as {arriving}": (
            network_of(
                (A, post()), (GATE, {"post": f"@{A}", "allow": []}), (B, reply(GATE)), (GATE, None), (C, reply(GATE))
            ),
            arriving,
        )
        for arriving in ("0|1|2|3|4", "0 1 2 3 4", "2|1|0|4|3", "0|3|2|1|4")
    },
    **{
        f"a thread gate with the key of a list, arriving as {arriving}": (
            network_of(
                (L, LISTED),
                (f"alice/{commits.THREADGATE}/list1", {"post": "@alice/app.bsky.feed.post/list1", "allow": []}),
                (B, reply(L)),
            ),
            arriving,
        )
        for arriving in ("0|1|2", "0 1 2", "2|1|0")
    },
    **{
        f"a {kind} names a feed generator of its post's key, arriving as {arriving}": (
            network_of((A, post()), (gate, {"post": f"@{NO_POST}", **rule}), (B, answer), *more),
            arriving,
        )
        for kind, gate, rule, answer in (
            ("post gate", f"alice/{commits.POSTGATE}/post1", FORBIDDING, post(embed=quote(A))),
            ("thread gate", GATE, {"allow": []}, reply(A)),
        )
        for more, arrivings in (
            ((), ("0 1 2", "0|1|2", "0|2|1", "2|1|0")),
            (
                ((gate, {"post": f"@{A}"}), (C, answer)),
                ("0|1|2|3|4", "0 2|4|1|3", "0 4|2|3|1"),
            ),
        )
        for arriving in arrivings
    },
    "a gate that was refused is deleted": (
        network_of((A, post()), (GATE, {"post": f"@{B}", "allow": []}), (GATE, None)),
        "0|1|2",
    ),
    "a gate that named no post is deleted before its post arrives": (
        network_of((GATE, {"post": "@alice/app.bsky.feed.generator/post1"}), (A, post()), (GATE, None)),
        "2|0|1",
    ),
    "a repost of a list that goes": (
        network_of((L, LISTED), (REPOST1, {"subject": {"ref": f"@{L}"}}), (L, None)),
        "0 1 2",
    ),
    "a like is taken back and comes back under its key at once": (
        network_of((A, post()), *((LIKE1, like) for like in (LIKES_A, None, LIKES_A))),
        "0|1|2 3",
    ),
    "a like is edited to be of a post in a muted thread": (
        network_of(
            (A, post()),
            (LIKE1, LIKES_A),
            (A2, post()),
            (LIKE1, {"subject": {"ref": f"@{A2}"}}),
            thread_mutes=muted("alice", A2),
        ),
        "0|1|2 3",
    ),
    "a second like, by way of a repost, takes over": (
        network_of(
            (A, post()),
            (f"bob/{commits.REPOST}/repost1", {"subject": {"ref": f"@{A}"}}),
            (LIKE1, {"subject": {"ref": f"@{A}"}}),
            (LIKE2, {"subject": {"ref": f"@{A}"}, "via": {"ref": f"@bob/{commits.REPOST}/repost1"}}),
            (LIKE1, None),
        ),
        "0|1|2|3|4",
    ),
}
