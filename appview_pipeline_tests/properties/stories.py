"""Short networks written by hand: each one went wrong once."""

from __future__ import annotations

from typing import Any

from appview_pipeline_tests.properties import model
from appview_pipeline_tests.properties.networks import Network, told

POST = model.POST


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
LIKE1, LIKE2 = (f"carol/{model.LIKE}/like{number}" for number in (1, 2))
VERIFY1, VERIFY2 = (f"alice/{model.VERIFICATION}/verify{number}" for number in (1, 2))
REPOST1 = f"carol/{model.REPOST}/repost1"
L = f"alice/{model.LIST}/list1"
LISTED = {"name": "a list", "purpose": "app.bsky.graph.defs#curatelist"}
LIKES_A = {"subject": {"ref": f"@{A}"}}
FORBIDDING = {"embeddingRules": [{"$type": "app.bsky.feed.postgate#disableRule"}]}
NO_QUOTES = {"post": f"@{A}", **FORBIDDING}
NO_POST = f"alice/{model.GENERATOR}/post1"
VERIFIED = {"subject": "@bob", "handle": "bob.test", "displayName": "bob"}
FOLLOW = f"bob/{model.FOLLOW}/follow1"
GATE = f"alice/{model.THREADGATE}/post1"
PROFILE = f"bob/{model.PROFILE}/self"
PACK = f"alice/{model.STARTERPACK}/pack1"
JOINED = {"joinedViaStarterPack": {"ref": f"@{PACK}"}}
SUBSCRIBED = (model.Subscription("did:plc:bob", "did:plc:alice"),)


def muted(who: str, root: str) -> frozenset[tuple[str, str]]:
    return frozenset(((f"at://did:plc:{root}", f"did:plc:{who}"),))


STORIES: dict[str, tuple[Network, str]] = {
    "an edited reply is told of as it is now": (told((A, post()), (B, reply(A)), (B, reply(A, text="no"))), "0|1|2"),
    "an edited reply, at once": (told((A, post()), (B, reply(A)), (B, reply(A, text="no"))), "0|1 2"),
    "an edited verification, at once": (told((VERIFY1, VERIFIED), (VERIFY1, VERIFIED)), "0 1"),
    "an edited verification is taken back": (told((VERIFY1, VERIFIED), (VERIFY1, VERIFIED), (VERIFY1, None)), "0|1|2"),
    "another verification takes over": (
        told((VERIFY1, VERIFIED), (VERIFY2, VERIFIED), (VERIFY1, None), (VERIFY2, None)),
        "0|1|2|3",
    ),
    "another verification takes over, at once": (
        told((VERIFY1, VERIFIED), (VERIFY2, VERIFIED), (VERIFY1, None)),
        "0 1 2",
    ),
    "another verification takes over from one that is edited": (
        told((VERIFY1, VERIFIED), (VERIFY2, VERIFIED), (VERIFY1, VERIFIED)),
        "0|1|2",
    ),
    "a verification is edited and so no longer counts, and goes, at once": (
        told(*((it, VERIFIED) for it in (VERIFY1, VERIFY2, VERIFY1)), (VERIFY1, None)),
        "0 1 2 3",
    ),
    "another verification takes over and is edited, at once": (
        told((VERIFY1, VERIFIED), (VERIFY2, VERIFIED), (VERIFY1, None), (VERIFY2, VERIFIED)),
        "0|1 2 3",
    ),
    "a verification comes and goes": (told((VERIFY1, VERIFIED), (VERIFY1, None)), "0 1"),
    "a quoted post goes at once": (told((A, post()), (B, post(embed=quote(A))), (A, None)), "0 1 2"),
    "a quoted post goes before it is quoted": (told((A, post()), (B, post(embed=quote(A))), (A, None)), "0|2|1"),
    "a gate that forbids a quote arrives after the quoted post is gone": (
        told(
            (A, post()),
            (f"alice/{model.POSTGATE}/post1", NO_QUOTES),
            (B, post(embed=quote(A))),
            (A, None),
        ),
        "0|2|3|1",
    ),
    "a quoted post goes, and the quote, a reply too, is delivered again": (
        told((A, post()), (B, reply(A, embed=quote(A))), (A, None)),
        "0|1|2|1",
    ),
    "a gate comes and goes": (
        told((A, post()), (GATE, {"post": f"@{A}", "allow": []}), (GATE, None)),
        "0|1 2",
    ),
    "a reply leaves its author's thread by an edit": (
        told((A, post()), (A2, reply(A)), (A2, post())),
        "0|1 2",
    ),
    "a post is deleted and comes back at once": (told((A, post()), (B, reply(A)), (A, None), (A, post())), "0|1|2 3"),
    "an old commit comes again beside a new one": (told((A, post()), (A, None), (GATE, {"post": f"@{A}"})), "0|1|2 0"),
    "a subscriber follows after the post": (
        told((A, post()), (FOLLOW, {"subject": "@alice"}), subscriptions=SUBSCRIBED),
        "0 1",
    ),
    "a subscriber's follow arrives after the post": (
        told((FOLLOW, {"subject": "@alice"}), (A, post()), subscriptions=SUBSCRIBED),
        "1|0",
    ),
    "a subscriber stops following, and that arrives before the post": (
        told((FOLLOW, {"subject": "@alice"}), (A, post()), (FOLLOW, None), subscriptions=SUBSCRIBED),
        "0|2|1",
    ),
    "a subscriber follows before the post is edited, at once": (
        told((A, post()), (FOLLOW, {"subject": "@alice"}), (A, post(text="no")), subscriptions=SUBSCRIBED),
        "0 1 2",
    ),
    "a post is edited to mention a subscriber": (
        told((FOLLOW, {"subject": "@alice"}), (A, post()), (A, post(facets=mention("bob"))), subscriptions=SUBSCRIBED),
        "0|1|2",
    ),
    "a post is edited to mention a subscriber, at once": (
        told((FOLLOW, {"subject": "@alice"}), (A, post()), (A, post(facets=mention("bob"))), subscriptions=SUBSCRIBED),
        "0|1 2",
    ),
    "a post mentions a subscriber and is edited, at once": (
        told((FOLLOW, {"subject": "@alice"}), (A, post(facets=mention("bob"))), (A, post()), subscriptions=SUBSCRIBED),
        "0|1 2",
    ),
    "a reply to a subscriber is turned into a post, at once": (
        told((FOLLOW, {"subject": "@alice"}), (B, post()), (A, reply(B)), (A, post()), subscriptions=SUBSCRIBED),
        "0|1|2 3",
    ),
    "a quote of a subscriber is edited away, at once": (
        told(
            (FOLLOW, {"subject": "@alice"}),
            (B, post()),
            (A, post(embed=quote(B))),
            (A, post()),
            subscriptions=SUBSCRIBED,
        ),
        "0|1|2 3",
    ),
    "a post comes, goes and comes back edited, at once": (
        told(
            (FOLLOW, {"subject": "@alice"}),
            *((A, it) for it in (post(), None, post(text="again"), post(text="no"))),
            subscriptions=SUBSCRIBED,
        ),
        "0|1 2 3 4",
    ),
    "two likes of one post are both edited, at once": (
        told((A, post()), *((like, LIKES_A) for like in (LIKE1, LIKE2, LIKE1, LIKE2))),
        "0|1|2|3 4",
    ),
    "a like in a muted thread comes before the liked reply": (
        told((A, post()), (B, reply(A)), (LIKE1, {"subject": {"ref": f"@{B}"}}), thread_mutes=muted("bob", A)),
        "0|2|1",
    ),
    "a like of a reply that is no root comes before it": (
        told((A, post()), (B, reply(A)), (LIKE1, {"subject": {"ref": f"@{B}"}}), thread_mutes=muted("bob", B)),
        "0|2|1",
    ),
    "a like of a reply that is written later, in a muted thread": (
        told((LIKE1, {"subject": {"ref": f"@{B}"}}), (A, post()), (B, reply(A)), thread_mutes=muted("bob", A)),
        "0|1|2|1",
    ),
    "a quoted reply in a muted thread goes, and then the quote is edited": (
        told(
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
        told((A, post()), (B, reply(A)), (C, reply(A, B)), (B, None), (B, reply(A))),
        "0|1|2|4|3",
    ),
    "a parent comes back before its deletion and its reply arrive": (
        told((A, post()), (B, reply(A)), (C, reply(A, B)), (B, None), (B, reply(A))),
        "0|1|4|3|2",
    ),
    "a profile is deleted and comes back with a starter pack": (
        told(
            (PACK, {"name": "pack", "list": f"@alice/{model.LIST}/list1"}),
            (PROFILE, {}),
            (PROFILE, None),
            (PROFILE, JOINED),
        ),
        "0|1 2 3",
    ),
    "a profile is edited to have joined by a starter pack": (
        told((PACK, {"name": "pack", "list": f"@alice/{model.LIST}/list1"}), (PROFILE, {}), (PROFILE, JOINED)),
        "0|1 2",
    ),
    "the deletion of an ancestor arrives after a reply below its replies": (
        told(
            (A, post()),
            (B, reply(A)),
            (C, reply(A, B)),
            (B, None),
            (D, reply(A, C)),
        ),
        "0|1|2|4|3",
    ),
    "an ancestor that came back arrives after a reply below its replies": (
        told((A, post()), (B, reply(A)), (C, reply(A, B)), (B, None), (B, reply(A)), (D, reply(A, C))),
        "0|1|2|3|5|4",
    ),
    **{
        f"a reply to a list, arriving as {arriving}": (told((L, LISTED), (B, reply(L)), (C, reply(L, B))), arriving)
        for arriving in ("0|1|2", "0 1 2", "1|0|2", "2|1|0", "1 2|0")
    },
    **{
        f"a list is edited, answered and deleted, arriving as {arriving}": (
            told((L, LISTED), (L, LISTED), (B, reply(L)), (L, None), (C, reply(L))),
            arriving,
        )
        for arriving in ("0|1|2|3|4", "0 1 2 3 4", "0|3|2|4|1", "3|4|2|1|0", "1|2|0|3|4")
    },
    **{
        f"a like is answered and taken back, arriving as {arriving}": (
            told((A, post()), (LIKE1, LIKES_A), (B, reply(LIKE1)), (LIKE1, None)),
            arriving,
        )
        for arriving in ("0 1 2 3", "0|1|3|2", "3|2|1|0")
    },
    **{
        f"a thread gate is answered that allows nobody, arriving as {arriving}": (
            told((A, post()), (GATE, {"post": f"@{A}", "allow": []}), (B, reply(GATE)), (GATE, None), (C, reply(GATE))),
            arriving,
        )
        for arriving in ("0|1|2|3|4", "0 1 2 3 4", "2|1|0|4|3", "0|3|2|1|4")
    },
    **{
        f"a thread gate with the key of a list, arriving as {arriving}": (
            told(
                (L, LISTED),
                (f"alice/{model.THREADGATE}/list1", {"post": "@alice/app.bsky.feed.post/list1", "allow": []}),
                (B, reply(L)),
            ),
            arriving,
        )
        for arriving in ("0|1|2", "0 1 2", "2|1|0")
    },
    **{
        f"a {kind} names a feed generator of its post's key, arriving as {arriving}": (
            told((A, post()), (gate, {"post": f"@{NO_POST}", **rule}), (B, answer), *more),
            arriving,
        )
        for kind, gate, rule, answer in (
            ("post gate", f"alice/{model.POSTGATE}/post1", FORBIDDING, post(embed=quote(A))),
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
        told((A, post()), (GATE, {"post": f"@{B}", "allow": []}), (GATE, None)),
        "0|1|2",
    ),
    "a gate that named no post is deleted before its post arrives": (
        told((GATE, {"post": "@alice/app.bsky.feed.generator/post1"}), (A, post()), (GATE, None)),
        "2|0|1",
    ),
    "a repost of a list that goes": (
        told((L, LISTED), (REPOST1, {"subject": {"ref": f"@{L}"}}), (L, None)),
        "0 1 2",
    ),
    "a like is taken back and comes back under its key at once": (
        told((A, post()), *((LIKE1, like) for like in (LIKES_A, None, LIKES_A))),
        "0|1|2 3",
    ),
    "a like is edited to be of a post in a muted thread": (
        told(
            (A, post()),
            (LIKE1, LIKES_A),
            (A2, post()),
            (LIKE1, {"subject": {"ref": f"@{A2}"}}),
            thread_mutes=muted("alice", A2),
        ),
        "0|1|2 3",
    ),
    "a second like, by way of a repost, takes over": (
        told(
            (A, post()),
            (f"bob/{model.REPOST}/repost1", {"subject": {"ref": f"@{A}"}}),
            (LIKE1, {"subject": {"ref": f"@{A}"}}),
            (LIKE2, {"subject": {"ref": f"@{A}"}, "via": {"ref": f"@bob/{model.REPOST}/repost1"}}),
            (LIKE1, None),
        ),
        "0|1|2|3|4",
    ),
}
